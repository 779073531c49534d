-- Languages: where does the bot get on, and where not?
--
-- One row per language tag, as the vendors write them; a conversation with several counts in each, one without in ''.
-- containment_rate is of closed bot conversations whose outcome can be seen.
-- Parameters: tenant, since, until
SELECT
    language,
    count() AS conversations,
    countIf(outcome IS NOT NULL) AS judged,
    round(countIf(outcome IN ('bot_resolved', 'contained_assumed')) / nullIf(judged, 0), 3) AS containment_rate,
    round(countIf(outcome = 'abandoned') / nullIf(judged, 0), 3) AS abandoned_share
FROM conversations
ARRAY JOIN if(empty(languages), [''], languages) AS language
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
GROUP BY language
ORDER BY conversations DESC, language
LIMIT 50;

-- Languages: where does the bot get on, and where not?
--
-- One row per language tag, as the vendors write them. Empty: none; (several): more than one in a conversation; (other):
-- beyond the 50 most frequent of a day. judged: closed bot conversations whose outcome can be seen.
-- Parameters: tenant, since, until
SELECT
    language,
    sumIf(numerator, metric = 'conversations') AS conversations,
    sumIf(denominator, metric = 'containment_rate') AS judged,
    round(sumIf(numerator, metric = 'containment_rate') / nullIf(judged, 0), 3) AS containment_rate,
    round(sumIf(numerator, metric = 'abandoned_share') / nullIf(judged, 0), 3) AS abandoned_share
FROM conversation_metrics_day_by_language
WHERE tenant = {tenant:String}
  AND day >= toDate({since:DateTime('UTC')}) AND day < {until:DateTime('UTC')}
GROUP BY language
ORDER BY conversations DESC, language
LIMIT 50;

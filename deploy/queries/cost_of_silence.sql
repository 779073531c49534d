-- Cost of silence: what becomes of visitors by how long they wait for the first answer?
--
-- One row per class of waiting time, for conversations in which a visitor wrote, of sources that show both the visitor's
-- messages and answers. abandoned_share is of those whose outcome can be judged. goal_share is NULL
-- where no source of the row shows goals.
-- Parameters: tenant, since, until
SELECT
    multiIf(
        c.first_response_any_ms IS NULL, '5 no answer',
        c.first_response_any_ms < 5000, '1 under 5 s',
        c.first_response_any_ms < 30000, '2 5 to 30 s',
        c.first_response_any_ms < 300000, '3 30 s to 5 min',
        '4 over 5 min') AS waited,
    count() AS conversations,
    round(conversations / sum(conversations) OVER (), 3) AS share,
    round(countIf(c.outcome = 'abandoned') / nullIf(countIf(c.outcome IS NOT NULL), 0), 3) AS abandoned_share,
    round(countIf(s.goals AND notEmpty(c.goals)) / nullIf(countIf(s.goals), 0), 3) AS goal_share
FROM conversations AS c
INNER JOIN sources AS s ON s.source = c.source
WHERE c.tenant = {tenant:String}
  AND c.started_at >= {since:DateTime('UTC')} AND c.started_at < {until:DateTime('UTC')}
  AND c.first_visitor_message_at IS NOT NULL
  AND s.visitor_messages AND (s.bot_messages OR s.agent_messages)
GROUP BY waited
ORDER BY waited;

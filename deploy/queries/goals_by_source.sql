-- Goals by source: what do conversations lead to?
--
-- One row per source and goal. conversations are those that reached it at least once, and share is of all conversations
-- of the source. Sources that show no goals are not listed.
-- Parameters: tenant, since, until
WITH of_source AS
(
    SELECT source, count() AS conversations
    FROM conversations
    WHERE tenant = {tenant:String}
      AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
    GROUP BY source
)
SELECT
    c.source AS source,
    goal,
    count() AS reached,
    uniqExact(c.conversation_id) AS conversations,
    round(conversations / any(s.conversations), 4) AS share
FROM conversations AS c
ARRAY JOIN c.goals AS goal
INNER JOIN of_source AS s ON s.source = c.source
WHERE c.tenant = {tenant:String}
  AND c.started_at >= {since:DateTime('UTC')} AND c.started_at < {until:DateTime('UTC')}
GROUP BY c.source, goal
ORDER BY source, conversations DESC, goal
LIMIT 100;

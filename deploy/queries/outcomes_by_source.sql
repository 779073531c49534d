-- Outcomes by source: what became of the closed bot conversations?
--
-- One row per source and outcome; the shares of a source sum to 1. Sources whose outcomes cannot be seen are not listed.
-- Parameters: tenant, since, until
SELECT
    source,
    outcome,
    count() AS conversations,
    round(conversations / sum(conversations) OVER (PARTITION BY source), 3) AS share
FROM conversations
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
  AND outcome IS NOT NULL
GROUP BY source, outcome
ORDER BY source, conversations DESC, outcome;

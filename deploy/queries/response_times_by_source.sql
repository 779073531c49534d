-- Response times by source: how long do visitors wait?
--
-- One row per source: first answer of anybody, first answer of a human, and from the request for a human to the human,
-- each with the number of conversations that it is made of. Seconds. NULL where the source cannot show it.
-- Parameters: tenant, since, until
SELECT
    source,
    count() AS conversations,
    count(first_response_any_ms) AS any_n,
    round(quantileExactInclusive(0.5)(first_response_any_ms) / 1000, 1) AS any_median_s,
    round(quantileExactInclusive(0.9)(first_response_any_ms) / 1000, 1) AS any_p90_s,
    round(quantileExactInclusive(0.95)(first_response_any_ms) / 1000, 1) AS any_p95_s,
    count(first_response_human_ms) AS human_n,
    round(quantileExactInclusive(0.5)(first_response_human_ms) / 1000, 1) AS human_median_s,
    round(quantileExactInclusive(0.95)(first_response_human_ms) / 1000, 1) AS human_p95_s,
    count(time_to_human_ms) AS to_human_n,
    round(quantileExactInclusive(0.5)(time_to_human_ms) / 1000, 1) AS to_human_median_s,
    round(quantileExactInclusive(0.95)(time_to_human_ms) / 1000, 1) AS to_human_p95_s
FROM conversations
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
GROUP BY source
ORDER BY source;

-- Satisfaction by month: how do visitors rate?
--
-- One row per source and month of start. csat: ratings of at least 4 of 5 stars, or thumbs up, of those given. nps: share
-- of scores 9 and 10 less that of 0 to 6. NULL where the source gives no values, or nobody rated.
-- Parameters: tenant, since, until
SELECT
    source,
    toStartOfMonth(day) AS month,
    sumIf(denominator, metric = 'csat') AS ratings,
    round(sumIf(numerator, metric = 'csat') / nullIf(ratings, 0), 3) AS csat,
    round(sumIf(numerator, metric = 'csat_response_rate')
        / nullIf(sumIf(denominator, metric = 'csat_response_rate'), 0), 3) AS response_rate,
    sumIf(denominator, metric = 'nps') AS nps_scores,
    round(sumIf(numerator, metric = 'nps') / nullIf(nps_scores, 0), 3) AS nps
FROM conversation_metrics_day
WHERE tenant = {tenant:String}
  AND day >= toDate({since:DateTime('UTC')}) AND day < {until:DateTime('UTC')}
GROUP BY source, month
HAVING ratings > 0 OR nps_scores > 0
ORDER BY source, month;

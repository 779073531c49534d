-- Silent event types: what came regularly and has stopped?
--
-- One row per source and event type that came on at least three of the seven days before since, and less than half as
-- often, by the day, in [since, until). Nothing at all comes first.
-- Parameters: tenant, since, until
WITH
    greatest(dateDiff('second', {since:DateTime('UTC')}, {until:DateTime('UTC')}), 1) / 86400 AS days
SELECT
    source,
    event_type,
    sumIf(received, hour >= {since:DateTime('UTC')}) AS received_now,
    round(sumIf(received, hour < {since:DateTime('UTC')}) / 7, 1) AS per_day_before,
    round(received_now / days, 1) AS per_day_now,
    maxIf(hour, received > 0) AS last_hour
FROM event_health_hour
WHERE tenant = {tenant:String}
  AND hour >= {since:DateTime('UTC')} - INTERVAL 7 DAY AND hour < {until:DateTime('UTC')}
  AND event_type != 'unknown'
GROUP BY source, event_type
HAVING uniqExactIf(toDate(hour), hour < {since:DateTime('UTC')} AND received > 0) >= 3
   AND per_day_now < per_day_before / 2
ORDER BY received_now = 0 DESC, per_day_before DESC, source, event_type
LIMIT 50;

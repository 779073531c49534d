-- Undocumented names: which events does no source definition know yet?
--
-- One row per source and name, the most frequent first: candidates for schemas/sources, or typing errors on a page.
-- Parameters: tenant, since, until
SELECT
    source,
    source_event,
    sum(received) AS received,
    min(day) AS first_day,
    max(day) AS last_day
FROM event_health_day
WHERE tenant = {tenant:String}
  AND day >= toDate({since:DateTime('UTC')}) AND day < {until:DateTime('UTC')}
  AND NOT documented AND source_event != ''
GROUP BY source, source_event
ORDER BY received DESC, source, source_event
LIMIT 50;

-- Waiting for a human: on which weekdays and hours do requests stay unanswered?
--
-- One row per weekday (1 is Monday) and hour of the first request, in the given time zone.
-- Parameters: tenant, since, until, timezone
SELECT
    toDayOfWeek(first_handoff_request_at, 0, {timezone:String}) AS weekday,
    toHour(first_handoff_request_at, {timezone:String}) AS hour,
    count() AS requests,
    countIf(is_request_unanswered) AS unanswered,
    round(unanswered / requests, 3) AS unanswered_share,
    round(quantileExactInclusive(0.5)(time_to_human_ms) / 1000, 1) AS median_wait_s
FROM conversations
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
  AND first_handoff_request_at IS NOT NULL AND is_request_unanswered IS NOT NULL
GROUP BY weekday, hour
ORDER BY weekday, hour;

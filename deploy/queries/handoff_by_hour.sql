-- Handoff by hour: when do visitors ask for a human, and does one come?
--
-- One row per hour of the day in which conversations with a bot started, in the given time zone. Only sources that show
-- requests for a human are counted. median_wait_s is the time from the request to the first human; it leaves out the
-- requests that nobody answered, which stand beside it.
-- Parameters: tenant, since, until, timezone
SELECT
    toHour(started_at, {timezone:String}) AS hour,
    count() AS bot_conversations,
    countIf(is_handoff_requested) AS requested,
    round(requested / bot_conversations, 3) AS handoff_request_rate,
    countIf(is_request_unanswered) AS unanswered,
    round(quantileExactInclusive(0.5)(time_to_human_ms) / 1000, 1) AS median_wait_s,
    round(quantileExactInclusive(0.95)(time_to_human_ms) / 1000, 1) AS p95_wait_s
FROM conversations
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
  AND is_bot_conversation AND is_handoff_requested IS NOT NULL
GROUP BY hour
ORDER BY hour;

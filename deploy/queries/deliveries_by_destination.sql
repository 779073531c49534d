-- Deliveries by destination: does what is sent arrive, and how soon?
--
-- One row per destination, by turns that began in the time asked for; those that lose most come first. What was given up
-- can be replayed; what was withheld had no consent. The p95 are NULL where nothing was delivered; the second counts from
-- receipt, retries included and replays not.
-- Parameters: tenant, since, until
SELECT
    destination,
    any(kind) AS kind,
    countIf(duration_ms IS NOT NULL) AS attempts,
    countIf(result = 'delivered') AS delivered,
    attempts - delivered AS failed,
    countIf(result = 'given_up') AS given_up,
    countIf(result = 'withheld') AS withheld,
    round(given_up / nullIf(delivered + given_up, 0), 4) AS given_up_share,
    round(quantileExactOrNullIf(0.95)(duration_ms, result = 'delivered')) AS request_p95_ms,
    round(quantileExactOrNullIf(0.95)(
        dateDiff('millisecond', received_at, at) + ifNull(duration_ms, 0),
        result = 'delivered' AND NOT replayed)) AS delivered_p95_ms
FROM delivery_attempts
WHERE tenant = {tenant:String} AND at >= {since:DateTime('UTC')} AND at < {until:DateTime('UTC')}
GROUP BY destination
ORDER BY given_up_share DESC NULLS LAST, failed DESC, destination;

-- Delivery failures: why did what was sent not arrive?
--
-- One row per destination and class of failure, by turns that began in the time asked for, most first. One delivery may
-- fail several times and arrive in the end: given_up counts those that never will, unless they are replayed.
-- Parameters: tenant, since, until
SELECT
    destination,
    failure,
    count() AS turns,
    uniqExact(delivery_id) AS deliveries,
    countIf(result = 'given_up') AS given_up,
    argMax((status, detail), at).1 AS last_status,
    argMax((status, detail), at).2 AS last_detail,
    max(at) AS last_at
FROM delivery_attempts
WHERE tenant = {tenant:String} AND at >= {since:DateTime('UTC')} AND at < {until:DateTime('UTC')}
  AND failure IS NOT NULL AND result != 'withheld'
GROUP BY destination, failure
ORDER BY turns DESC, destination, failure
LIMIT 100;

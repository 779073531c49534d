-- Waiting deliveries: what has not arrived yet and is tried again?
--
-- One row per destination and event type, of deliveries whose last turn began in the time asked for, the oldest first.
-- What a destination has not been handed yet, because it fails, waits in Kafka and is not in it.
-- Parameters: tenant, since, until
SELECT
    destination,
    event_type,
    count() AS waiting,
    min(received_at) AS oldest_received_at,
    min(due_at) AS next_turn_at
FROM
(
    SELECT destination, event_type, received_at, max(next_at) AS due_at
    FROM delivery_attempts
    WHERE tenant = {tenant:String} AND at >= {since:DateTime('UTC')} AND at < {until:DateTime('UTC')}
    GROUP BY destination, event_type, delivery_id, received_at
    HAVING argMax(result, (at, attempt)) = 'retrying' AND countIf(result = 'delivered') = 0
)
GROUP BY destination, event_type
ORDER BY oldest_received_at, destination, event_type;

-- Deliveries: what the tables of 0010_deliveries.sql come to.

-- delivery_health: per tenant, destination, event type and minute of the turn.
CREATE OR REPLACE VIEW delivery_health AS
SELECT
    d.tenant AS tenant,
    d.destination AS destination,
    d.event_type AS event_type,
    toStartOfMinute(d.at) AS minute,
    count() AS turns,
    countIf(d.duration_ms IS NOT NULL) AS attempts,
    countIf(d.result = 'delivered') AS delivered,
    countIf(d.result = 'retrying') AS retrying,
    countIf(d.result = 'given_up') AS given_up,
    countIf(d.result = 'withheld') AS withheld,
    countIf(d.duration_ms IS NOT NULL AND d.result != 'delivered') AS failed,
    sumMapIf(map(toString(assumeNotNull(d.failure)), toUInt64(1)), d.failure IS NOT NULL) AS failures,
    quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(assumeNotNull(d.duration_ms), d.result = 'delivered' AND d.duration_ms IS NOT NULL) AS request_latency,
    quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(
        toUnixTimestamp64Milli(d.at) + assumeNotNull(d.duration_ms) - toUnixTimestamp64Milli(d.received_at),
        d.result = 'delivered' AND d.duration_ms IS NOT NULL AND NOT d.replayed AND d.at >= d.received_at) AS delivery_delay
FROM deliveries AS d FINAL
GROUP BY tenant, destination, event_type, minute
COMMENT 'One row per tenant, destination, event type and minute in which turns began. Version 1';

-- destination_states: what was said last of each destination, and since when it has been configured without
-- a break: what came before it is not owed.
CREATE OR REPLACE VIEW destination_states AS
SELECT
    d.tenant AS tenant,
    d.destination AS destination,
    argMax((d.kind, d.event_types, d.is_configured, d.failing_since, d.disabled_at, d.reason), d.log_offset) AS last,
    last.1 AS kind,
    last.2 AS event_types,
    last.3 AS is_configured,
    last.4 AS failing_since,
    last.5 AS disabled_at,
    last.6 AS reason,
    maxIf(d.log_offset, NOT d.is_configured) AS left_at,
    countIf(NOT d.is_configured) > 0 AS has_left,
    arrayMin(arrayMap(s -> s.2, arrayFilter(s -> s.3 AND (NOT has_left OR s.1 > left_at),
        groupArray((d.log_offset, d.said_at, d.is_configured))))) AS configured_at,
    if(is_configured, configured_at, NULL) AS since
FROM destinations AS d FINAL
GROUP BY tenant, destination
COMMENT 'One row per destination: what was said of it last. Version 1';

-- delivery_states: what became of each delivery so far. One that was delivered once stays delivered, whatever
-- a repeated turn came to. Else the turn of the highest number tells, for a kill can leave two chains of turns, of
-- which one ends late in a turn that the other had long passed; after a replay the latest of the replay. An event that was accepted again long after is delivered again, under the same id.
CREATE OR REPLACE VIEW delivery_states AS
SELECT
    d.tenant AS tenant,
    d.destination AS destination,
    d.delivery_id AS delivery_id,
    d.received_at AS received_at,
    any(d.kind) AS kind,
    any(d.source) AS source,
    any(d.event_type) AS event_type,
    any(d.event_id) AS event_id,
    any(d.partition) AS partition,
    any(d.offset) AS offset,
    min(d.at) AS first_at,
    max(d.at) AS last_at,
    countIf(d.duration_ms IS NOT NULL) AS attempts,
    argMax((d.result, d.failure, d.detail, d.next_at),
           (d.replayed, if(d.replayed, 0, d.attempt), d.at, d.log_offset)) AS last,
    if(countIf(d.result = 'delivered') > 0, 'delivered', last.1) AS result,
    result IN ('delivered', 'given_up', 'withheld') AS is_final,
    if(result = 'delivered', NULL, last.2) AS failure,
    if(result = 'delivered', NULL, last.3) AS detail,
    if(result = 'retrying', last.4, NULL) AS next_at
FROM deliveries AS d FINAL
GROUP BY tenant, destination, delivery_id, received_at
COMMENT 'One row per delivery: what became of it so far. Version 1';

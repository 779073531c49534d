-- What the operator's overview reads: all tenants together, and each in a few sums, by time first, so
-- that a report reads its window and nothing else.
--
-- What was there before is filled in by statements that may be repeated. While they run no event may
-- come in: sinks of this version wait for the schema, older ones must be stopped.

-- pipeline_health: event_health without tenant and type, per minute, hour and day of receipt.
CREATE TABLE IF NOT EXISTS pipeline_health
(
    unit             Enum8('minute' = 1, 'hour' = 2, 'day' = 3),
    at               DateTime('UTC') COMMENT 'Start of the unit' CODEC(Delta, ZSTD(1)),
    received         SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted + duplicate + rejected',
    accepted         SimpleAggregateFunction(sum, UInt64),
    duplicate        SimpleAggregateFunction(sum, UInt64),
    rejected         SimpleAggregateFunction(sum, UInt64),
    receive_latency  AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                     COMMENT 'occurred to received, accepted events whose own time is known and not ahead; ms',
    queryable_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                     COMMENT 'received to queryable, accepted events; ms'
)
ENGINE = {engine:AggregatingMergeTree}
ORDER BY (unit, at)
SETTINGS index_granularity = 256,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Delivery health of all tenants together';

-- tenant_health: what each tenant sent, per minute, hour and day of receipt.
CREATE TABLE IF NOT EXISTS tenant_health
(
    unit        Enum8('minute' = 1, 'hour' = 2, 'day' = 3),
    at          DateTime('UTC') COMMENT 'Start of the unit' CODEC(Delta, ZSTD(1)),
    tenant      LowCardinality(String),
    received    SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted + duplicate + rejected',
    accepted    SimpleAggregateFunction(sum, UInt64),
    duplicate   SimpleAggregateFunction(sum, UInt64),
    rejected    SimpleAggregateFunction(sum, UInt64),
    late        SimpleAggregateFunction(sum, UInt64)
                COMMENT 'Accepted events that occurred more than 5 min before they were received',
    clock_ahead SimpleAggregateFunction(sum, UInt64)
                COMMENT 'Accepted events that occurred, by their own clock, after they were received'
)
ENGINE = {engine:AggregatingMergeTree}
ORDER BY (unit, at, tenant)
SETTINGS index_granularity = 1024,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Delivery health per tenant';

DROP VIEW IF EXISTS pipeline_health_fill;
DROP VIEW IF EXISTS tenant_health_fill;
TRUNCATE TABLE IF EXISTS pipeline_health;
TRUNCATE TABLE IF EXISTS tenant_health;

INSERT INTO pipeline_health
SELECT
    unit, at, sum(h.received), sum(h.accepted), sum(h.duplicate), sum(h.rejected),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency)
FROM event_health AS h
ARRAY JOIN ['minute', 'hour', 'day'] AS unit,
           [h.minute, toStartOfHour(h.minute), toStartOfDay(h.minute)] AS at
GROUP BY unit, at
SETTINGS insert_deduplicate = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS pipeline_health_fill TO pipeline_health AS
SELECT
    unit, at,
    sum(h.received) AS received, sum(h.accepted) AS accepted, sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive_latency,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable_latency
FROM event_health AS h
ARRAY JOIN ['minute', 'hour', 'day'] AS unit,
           [h.minute, toStartOfHour(h.minute), toStartOfDay(h.minute)] AS at
GROUP BY unit, at;

INSERT INTO tenant_health
SELECT
    unit, at, h.tenant AS tenant, sum(h.received), sum(h.accepted), sum(h.duplicate), sum(h.rejected),
    sum(h.late), sum(h.clock_ahead)
FROM event_health AS h
ARRAY JOIN ['minute', 'hour', 'day'] AS unit,
           [h.minute, toStartOfHour(h.minute), toStartOfDay(h.minute)] AS at
GROUP BY unit, at, tenant
SETTINGS insert_deduplicate = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_health_fill TO tenant_health AS
SELECT
    unit, at, h.tenant AS tenant,
    sum(h.received) AS received, sum(h.accepted) AS accepted, sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected, sum(h.late) AS late, sum(h.clock_ahead) AS clock_ahead
FROM event_health AS h
ARRAY JOIN ['minute', 'hour', 'day'] AS unit,
           [h.minute, toStartOfHour(h.minute), toStartOfDay(h.minute)] AS at
GROUP BY unit, at, tenant;

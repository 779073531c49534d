-- Roll-ups: what reports read instead of the events. Two kinds. Health per hour and per day is kept
-- by views, block by block, like event_health. Cohorts of conversations and of page sessions are
-- computed anew by a job (crates/store/src/rollup.rs) whenever something of them changed.
--
-- What was there before is filled in by statements that may be repeated. While they run no event
-- may come in: sinks of this version wait for the schema, older ones must be stopped.

-- event_health_hour, event_health_day: event_health by hour and day of receipt. Granules are small,
-- so that a report of one tenant reads little more than its rows.
CREATE TABLE IF NOT EXISTS event_health_hour
(
    tenant           LowCardinality(String),
    source           LowCardinality(String),
    hour             DateTime('UTC') COMMENT 'Hour of receipt' CODEC(Delta, ZSTD(1)),
    event_type       LowCardinality(String),
    source_event     LowCardinality(String),
    documented       Bool,
    received         SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted + duplicate + rejected',
    accepted         SimpleAggregateFunction(sum, UInt64),
    duplicate        SimpleAggregateFunction(sum, UInt64),
    rejected         SimpleAggregateFunction(sum, UInt64),
    late             SimpleAggregateFunction(sum, UInt64)
                     COMMENT 'Accepted events that occurred more than 5 min before they were received',
    clock_ahead      SimpleAggregateFunction(sum, UInt64)
                     COMMENT 'Accepted events that occurred, by their own clock, after they were received',
    receive_latency  AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                     COMMENT 'occurred to received, accepted events whose own time is known and not ahead; ms',
    queryable_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                     COMMENT 'received to queryable, accepted events; ms'
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, source, hour, event_type, source_event, documented)
SETTINGS index_granularity = 256,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Delivery health per tenant, source, type and hour';

CREATE TABLE IF NOT EXISTS event_health_day
(
    tenant           LowCardinality(String),
    source           LowCardinality(String),
    day              Date COMMENT 'Day of receipt, UTC' CODEC(Delta, ZSTD(1)),
    event_type       LowCardinality(String),
    source_event     LowCardinality(String),
    documented       Bool,
    received         SimpleAggregateFunction(sum, UInt64) COMMENT 'accepted + duplicate + rejected',
    accepted         SimpleAggregateFunction(sum, UInt64),
    duplicate        SimpleAggregateFunction(sum, UInt64),
    rejected         SimpleAggregateFunction(sum, UInt64),
    late             SimpleAggregateFunction(sum, UInt64)
                     COMMENT 'Accepted events that occurred more than 5 min before they were received',
    clock_ahead      SimpleAggregateFunction(sum, UInt64)
                     COMMENT 'Accepted events that occurred, by their own clock, after they were received',
    receive_latency  AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                     COMMENT 'occurred to received, accepted events whose own time is known and not ahead; ms',
    queryable_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                     COMMENT 'received to queryable, accepted events; ms'
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYear(day)
ORDER BY (tenant, source, day, event_type, source_event, documented)
SETTINGS index_granularity = 256,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Delivery health per tenant, source, type and day';

-- rejections_hour: rejections by reason.
CREATE TABLE IF NOT EXISTS rejections_hour
(
    tenant           LowCardinality(String),
    source           LowCardinality(String),
    hour             DateTime('UTC') COMMENT 'Hour of receipt' CODEC(Delta, ZSTD(1)),
    reason           LowCardinality(String),
    rejected         SimpleAggregateFunction(sum, UInt64),
    last_received_at SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, source, hour, reason)
SETTINGS index_granularity = 1024,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Rejections per tenant, source, hour and reason';

-- What is there already. From the bottom up, the views of a run that died taken away first: no
-- statement must count twice.
DROP VIEW IF EXISTS event_health_hour_fill;
DROP VIEW IF EXISTS event_health_day_fill;
DROP VIEW IF EXISTS rejections_hour_fill;
TRUNCATE TABLE IF EXISTS event_health_hour;
TRUNCATE TABLE IF EXISTS event_health_day;
TRUNCATE TABLE IF EXISTS rejections_hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_health_day_fill TO event_health_day AS
SELECT
    h.tenant AS tenant, h.source AS source, toDate(h.hour) AS day,
    h.event_type AS event_type, h.source_event AS source_event, h.documented AS documented,
    sum(h.received) AS received, sum(h.accepted) AS accepted, sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected, sum(h.late) AS late, sum(h.clock_ahead) AS clock_ahead,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive_latency,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable_latency
FROM event_health_hour AS h
GROUP BY tenant, source, day, event_type, source_event, documented;

INSERT INTO event_health_hour
SELECT
    h.tenant AS tenant, h.source AS source, toStartOfHour(h.minute) AS hour,
    h.event_type AS event_type, h.source_event AS source_event, h.documented AS documented,
    sum(h.received), sum(h.accepted), sum(h.duplicate), sum(h.rejected), sum(h.late), sum(h.clock_ahead),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency)
FROM event_health AS h
GROUP BY tenant, source, hour, event_type, source_event, documented
SETTINGS insert_deduplicate = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_health_hour_fill TO event_health_hour AS
SELECT
    h.tenant AS tenant, h.source AS source, toStartOfHour(h.minute) AS hour,
    h.event_type AS event_type, h.source_event AS source_event, h.documented AS documented,
    sum(h.received) AS received, sum(h.accepted) AS accepted, sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected, sum(h.late) AS late, sum(h.clock_ahead) AS clock_ahead,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive_latency,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable_latency
FROM event_health AS h
GROUP BY tenant, source, hour, event_type, source_event, documented;

INSERT INTO rejections_hour
SELECT tenant, source, toStartOfHour(received_at) AS hour, reason, count(), max(received_at)
FROM rejections GROUP BY tenant, source, hour, reason SETTINGS insert_deduplicate = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS rejections_hour_fill TO rejections_hour AS
SELECT
    r.tenant AS tenant, r.source AS source, toStartOfHour(r.received_at) AS hour, r.reason AS reason,
    count() AS rejected, max(r.received_at) AS last_received_at
FROM rejections AS r
GROUP BY tenant, source, hour, reason;

-- conversation_starts, session_starts: where a conversation or page session may start. One row per
-- conversation and hour of the first event that an insert brought of it, so the true start is among
-- them whatever the order of arrival. By hour, so that those that start in an hour are found without
-- reading others, and with the time of arrival, so that the job finds what changed.
CREATE TABLE IF NOT EXISTS conversation_starts
(
    tenant     LowCardinality(String),
    source     LowCardinality(String),
    hour       DateTime('UTC') COMMENT 'Hour of occurrence of the first event of an insert' CODEC(Delta, ZSTD(1)),
    id         String COMMENT 'Conversation' CODEC(ZSTD(1)),
    touched_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'When the last such insert came' CODEC(Delta, ZSTD(1)),
    INDEX touched touched_at TYPE minmax GRANULARITY 1
)
ENGINE = {engine:AggregatingMergeTree}
ORDER BY (tenant, source, hour, id)
SETTINGS index_granularity = 2048,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Hours in which conversations may start';

CREATE TABLE IF NOT EXISTS session_starts
(
    tenant     LowCardinality(String),
    source     LowCardinality(String),
    hour       DateTime('UTC') COMMENT 'Hour of receipt of the first event of an insert' CODEC(Delta, ZSTD(1)),
    id         String COMMENT 'Page session' CODEC(ZSTD(1)),
    touched_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'When the last such insert came' CODEC(Delta, ZSTD(1)),
    INDEX touched touched_at TYPE minmax GRANULARITY 1
)
ENGINE = {engine:AggregatingMergeTree}
ORDER BY (tenant, source, hour, id)
SETTINGS index_granularity = 2048,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Hours in which page sessions may start';

CREATE MATERIALIZED VIEW IF NOT EXISTS conversation_starts_fill TO conversation_starts AS
SELECT
    f.tenant AS tenant, f.source AS source, toStartOfHour(f.started_at) AS hour,
    f.conversation_id AS id, now64(3, 'UTC') AS touched_at
FROM conversation_facts AS f;

CREATE MATERIALIZED VIEW IF NOT EXISTS session_starts_fill TO session_starts AS
SELECT
    s.tenant AS tenant, s.source AS source, toStartOfHour(s.first_received_at) AS hour,
    s.session_id AS id, now64(3, 'UTC') AS touched_at
FROM session_sequences AS s;

INSERT INTO conversation_starts (tenant, source, hour, id)
SELECT tenant, source, toStartOfHour(started_at) AS hour, conversation_id FROM conversation_facts
GROUP BY tenant, source, hour, conversation_id SETTINGS insert_deduplicate = 0;

INSERT INTO session_starts (tenant, source, hour, id)
SELECT tenant, source, toStartOfHour(first_received_at) AS hour, session_id FROM session_sequences
GROUP BY tenant, source, hour, session_id SETTINGS insert_deduplicate = 0;

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
PARTITION BY toYear(hour)
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
PARTITION BY toYear(hour)
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
-- In the order of the table, some rows at a time: a state is large in memory.
SETTINGS insert_deduplicate = 0, optimize_aggregation_in_order = 1, max_threads = 1, max_block_size = 8192,
         max_insert_block_size = 32768, min_insert_block_size_rows = 32768, min_insert_block_size_bytes = 0;

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
-- reading others, and with the time of arrival, so that the job finds what changed. A repeated insert
-- brings the same rows again: they need no deduplication window.
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
SETTINGS index_granularity = 2048
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
SETTINGS index_granularity = 2048
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

-- conversation_rollup: what the conversations that started in an hour or a day come to, per source
-- and dimension: '' all of them, 'widget' and 'language' by that. One row is replaced as a whole, the
-- one computed last counting, so that nothing is left of a group that is no more; a cohort that lost
-- its last conversation has a row with none. Figures are those of conversation_metrics_as_of: sums,
-- and every single duration, since percentiles of percentiles there are none.
CREATE TABLE IF NOT EXISTS conversation_rollup
(
    tenant            LowCardinality(String),
    unit              Enum8('hour' = 1, 'day' = 2),
    dimension         LowCardinality(String) COMMENT 'widget, language, or empty: not taken apart',
    cohort            DateTime('UTC') COMMENT 'Start of the hour or day in which the conversations started',
    source            LowCardinality(String),
    as_of             DateTime64(3, 'UTC') COMMENT 'When they were judged; the same until next_change_at',
    read_at           DateTime64(3, 'UTC') COMMENT 'Events inserted before are counted; the clock of ClickHouse',
    computed_at       DateTime64(6, 'UTC') COMMENT 'The last row of a key counts; the clock of ClickHouse',
    conversations     UInt64,
    open              UInt64 COMMENT 'Conversations not closed',
    next_change_at    Nullable(DateTime64(3, 'UTC')) COMMENT 'When time alone changes a figure next',
    settles_at        Nullable(DateTime64(3, 'UTC')) COMMENT 'When the last open conversation closes if it stays silent',
    reopen_settles_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When the last close is 7 days old, where it is not',
    figures           Array(Tuple(
                          value         LowCardinality(String),
                          conversations UInt64,
                          metrics       Array(LowCardinality(String)),
                          kinds         Array(LowCardinality(String)),
                          observed      Array(UInt64),
                          numerators    Array(Nullable(Int64)),
                          denominators  Array(Nullable(Int64)),
                          durations     Array(Array(Int64))))
                      COMMENT 'Per widget or language; one element per metric. observed: conversations whose source can show it; durations: every one, ms',
    INDEX next_change next_change_at TYPE minmax GRANULARITY 1
)
ENGINE = {engine:ReplacingMergeTree}(computed_at)
PARTITION BY toYYYYMM(cohort)
ORDER BY (tenant, unit, dimension, cohort, source)
SETTINGS index_granularity = 128
COMMENT 'Conversation metrics by hour and day of the start';

-- session_rollup: page sessions by the hour in which their first event was received.
CREATE TABLE IF NOT EXISTS session_rollup
(
    tenant      LowCardinality(String),
    hour        DateTime('UTC'),
    source      LowCardinality(String),
    computed_at DateTime64(6, 'UTC') COMMENT 'The last row of a key counts; the clock of ClickHouse',
    sessions    UInt64,
    arrived     UInt64 COMMENT 'Distinct sequence numbers that arrived',
    lost        UInt64 COMMENT 'Sequence numbers missing below the highest of their session'
)
ENGINE = {engine:ReplacingMergeTree}(computed_at)
PARTITION BY toYear(hour)
ORDER BY (tenant, hour, source)
SETTINGS index_granularity = 1024
COMMENT 'Losses in the browser by hour';

-- restatements: figures of days that had settled (over, and nothing open) and are now others.
CREATE TABLE IF NOT EXISTS restatements
(
    tenant            LowCardinality(String),
    day               Date,
    source            LowCardinality(String),
    metric            LowCardinality(String),
    kind              LowCardinality(String),
    old_n             UInt64,
    new_n             UInt64,
    old_numerator     Nullable(Int64),
    new_numerator     Nullable(Int64),
    old_denominator   Nullable(Int64),
    new_denominator   Nullable(Int64),
    old_median_ms     Nullable(Float64),
    new_median_ms     Nullable(Float64),
    settled_as_of     DateTime64(3, 'UTC') COMMENT 'When the old figure was judged',
    restated_as_of    DateTime64(3, 'UTC') COMMENT 'When the new one was',
    late_events       UInt64 COMMENT 'Accepted events of conversations of that day inserted in between; 0: a definition or setting changed',
    first_occurred_at Nullable(DateTime64(3, 'UTC')),
    last_occurred_at  Nullable(DateTime64(3, 'UTC')),
    last_received_at  Nullable(DateTime64(3, 'UTC'))
)
ENGINE = {engine:ReplacingMergeTree}(restated_as_of)
-- A change that is found again, because a run died before it was done, is the same row.
ORDER BY (tenant, day, source, metric, settled_as_of)
SETTINGS index_granularity = 1024
COMMENT 'Figures of settled days that changed';

-- rollup_work: what the runs of the job have set themselves to do.
CREATE TABLE IF NOT EXISTS rollup_work
(
    run     String,
    of      Enum8('hour' = 1, 'day' = 2, 'session' = 3) COMMENT 'Conversations of an hour or a day, or page sessions of an hour',
    chunk   UInt32 COMMENT 'From 1; 0: found, and not yet cut into chunks',
    tenant  LowCardinality(String),
    source  LowCardinality(String),
    at      DateTime('UTC') COMMENT 'Start of the hour or day',
    made_at DateTime DEFAULT now()
)
ENGINE = {engine:MergeTree}
ORDER BY (run, of, chunk, tenant, source, at)
TTL made_at + INTERVAL 1 DAY
COMMENT 'Cohorts that runs of the roll-up job compute';

-- rollup_runs: runs that are done. What was inserted well before the start of the last one is counted.
CREATE TABLE IF NOT EXISTS rollup_runs
(
    read_at       DateTime64(3, 'UTC') COMMENT 'Start, by the clock of ClickHouse',
    as_of         DateTime64(3, 'UTC') COMMENT 'When conversations were judged',
    definitions   UInt64 COMMENT 'Hash of views, sources and settings: with others all is computed anew',
    hours         UInt64 COMMENT 'Hours of conversations computed, per tenant and source',
    days          UInt64 COMMENT 'Days of conversations',
    session_hours UInt64 COMMENT 'Hours of page sessions',
    restatements  UInt64 COMMENT 'Figures of settled days that changed',
    done_at       DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:MergeTree}
ORDER BY read_at
TTL toDateTime(read_at) + INTERVAL 30 DAY
COMMENT 'Runs of the roll-up job that are done';

-- deliveries: one row for every record of chat.deliveries, which is one attempt to deliver one event to one
-- destination, or its end without an attempt.
--
-- (log_partition, log_offset) is the position of the record in chat.deliveries and occurs once: the sink may
-- insert a record again after a crash, and the engine keeps one row of a key. Read it with FINAL, as the
-- views do, and every count is exact whatever was inserted twice. For the same reason no view may sum what
-- is inserted: the roll-up job computes hours and days anew.
CREATE TABLE IF NOT EXISTS deliveries
(
    tenant        LowCardinality(String)           COMMENT 'Tenant',
    destination   LowCardinality(String)           COMMENT 'The tenant''s own name for the destination',
    kind          LowCardinality(String)           COMMENT 'webhook, ga4 or meta',
    source        LowCardinality(String)           COMMENT 'Vendor of the event',
    event_type    LowCardinality(String)           COMMENT 'Neutral type of the event',
    event_id      String                           COMMENT 'Id of the event within tenant and source' CODEC(ZSTD(1)),
    delivery_id   String                           COMMENT 'Stable id of the delivery, which receivers drop repeats by' CODEC(ZSTD(1)),
    partition     Int32                            COMMENT 'Partition of the event''s raw record in chat.raw',
    offset        Int64                            COMMENT 'Offset of the raw record there' CODEC(Delta, ZSTD(1)),
    occurred_at   DateTime64(3, 'UTC')             COMMENT 'When the event happened' CODEC(Delta, ZSTD(1)),
    received_at   DateTime64(3, 'UTC')             COMMENT 'When the producer received it' CODEC(Delta, ZSTD(1)),
    attempt       Int32                            COMMENT 'Which turn of the delivery this is, from 1',
    at            DateTime64(3, 'UTC')             COMMENT 'When the turn began' CODEC(Delta, ZSTD(1)),
    duration_ms   Nullable(Int64)                  COMMENT 'Of the request; NULL where none was made',
    result        LowCardinality(String)           COMMENT 'delivered, retrying, given_up or withheld',
    failure       LowCardinality(Nullable(String)) COMMENT 'Class of the failure; NULL where delivered',
    status        Nullable(Int32)                  COMMENT 'HTTP status, where there was an answer',
    detail        Nullable(String)                 COMMENT 'What happened, without secrets and content' CODEC(ZSTD(1)),
    next_at       Nullable(DateTime64(3, 'UTC'))   COMMENT 'When the next turn is due, for retrying',
    replayed      Bool                             COMMENT 'Whether an operator asked for this delivery again',
    log_partition Int32                            COMMENT 'Partition of chat.deliveries',
    log_offset    Int64                            COMMENT 'Offset there' CODEC(Delta, ZSTD(1)),
    inserted_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When ClickHouse took it' CODEC(Delta, ZSTD(1)),
    INDEX inserted inserted_at TYPE minmax GRANULARITY 1,
    INDEX received received_at TYPE minmax GRANULARITY 1,
    INDEX delivery delivery_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = {engine:ReplacingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, destination, at, delivery_id, log_partition, log_offset)
COMMENT 'One row for every attempt to deliver an event';

-- delivery_rollup: deliveries by the hour and day in which their turns began, computed anew by the roll-up
-- job (crates/store/src/rollup/deliveries.rs) whenever a row of the hour came in. Granules are small, so that
-- a report of one tenant reads little more than its rows.
CREATE TABLE IF NOT EXISTS delivery_rollup
(
    tenant          LowCardinality(String),
    unit            Enum8('hour' = 1, 'day' = 2),
    at              DateTime('UTC') COMMENT 'Start of the hour or day' CODEC(Delta, ZSTD(1)),
    destination     LowCardinality(String),
    event_type      LowCardinality(String),
    computed_at     DateTime64(6, 'UTC') COMMENT 'The last row of a key counts; the clock of ClickHouse',
    turns           UInt64 COMMENT 'delivered + retrying + given_up + withheld',
    attempts        UInt64 COMMENT 'Turns with a request',
    delivered       UInt64,
    retrying        UInt64,
    given_up        UInt64,
    withheld        UInt64,
    failed          UInt64 COMMENT 'Requests that did not deliver',
    failures        Map(LowCardinality(String), UInt64) COMMENT 'Turns that did not deliver, by class',
    request_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                    COMMENT 'Duration of the requests that delivered; ms',
    delivery_delay  AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64)
                    COMMENT 'received to delivered, but for replays; ms'
)
ENGINE = {engine:ReplacingMergeTree}(computed_at)
PARTITION BY toYear(at)
ORDER BY (tenant, unit, at, destination, event_type)
SETTINGS index_granularity = 256
COMMENT 'Deliveries per tenant, destination, type, and hour or day';

-- destinations: what the deliverers said of destinations, from chat.destinations, every word of it: the last
-- record of a destination counts, and the first one since it is configured says since when.
CREATE TABLE IF NOT EXISTS destinations
(
    tenant        LowCardinality(String)         COMMENT 'Tenant',
    destination   LowCardinality(String)         COMMENT 'The tenant''s own name for it',
    kind          LowCardinality(String)         COMMENT 'webhook, ga4 or meta',
    event_types   Array(LowCardinality(String))  COMMENT 'Neutral types that it gets; empty: all',
    is_configured Bool                           COMMENT 'False where it has left the tenants file',
    failing_since Nullable(DateTime64(3, 'UTC')) COMMENT 'First failure after the last success, once it lasts',
    disabled_at   Nullable(DateTime64(3, 'UTC')) COMMENT 'When it was disabled',
    reason        LowCardinality(Nullable(String)) COMMENT 'Why it is disabled: gone or failing',
    said_at       DateTime64(3, 'UTC')           COMMENT 'When it was said',
    log_offset    Int64                          COMMENT 'Offset of the record in chat.destinations'
)
ENGINE = {engine:ReplacingMergeTree}
ORDER BY (tenant, destination, log_offset)
COMMENT 'What was said of destinations, in order';

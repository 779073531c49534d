-- deliveries: one row for every record of chat.deliveries, which is one attempt to deliver one event to one
-- destination, or its end without an attempt.
--
-- (log_partition, log_offset) is the position of the record in chat.deliveries and occurs once: the sink may
-- insert a record again after a crash, and the engine keeps one row of a key. Read it with FINAL, as the
-- views below do, and every count is exact whatever was inserted twice.
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
    inserted_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When ClickHouse took it' CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:ReplacingMergeTree}
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, destination, at, delivery_id, log_partition, log_offset)
COMMENT 'One row for every attempt to deliver an event';

-- delivery_health: per tenant, destination, event type and minute of the turn. Latencies are those of requests
-- that delivered. NULL is unknown, never zero.
CREATE OR REPLACE VIEW delivery_health AS
SELECT
    tenant,
    destination,
    event_type,
    toStartOfMinute(at) AS minute,
    count() AS turns,
    countIf(duration_ms IS NOT NULL) AS attempts,
    countIf(result = 'delivered') AS delivered,
    countIf(duration_ms IS NOT NULL AND result != 'delivered') AS failed,
    countIf(failure = 'dns') AS failed_dns,
    countIf(failure = 'connect') AS failed_connect,
    countIf(failure = 'tls') AS failed_tls,
    countIf(failure = 'timeout') AS failed_timeout,
    countIf(failure = 'protocol') AS failed_protocol,
    countIf(failure IN ('refused', 'http_4xx', 'gone')) AS failed_4xx,
    countIf(failure = 'rate_limited') AS failed_429,
    countIf(failure = 'http_5xx') AS failed_5xx,
    countIf(failure = 'blocked') AS failed_blocked,
    countIf(failure IN ('redirect', 'http_other')) AS failed_other,
    countIf(failure = 'circuit_open') AS skipped,
    countIf(result = 'retrying') AS retrying,
    countIf(result = 'given_up') AS given_up,
    countIf(result = 'withheld') AS withheld,
    quantileIf(0.5)(duration_ms, result = 'delivered') AS latency_p50_ms,
    quantileIf(0.95)(duration_ms, result = 'delivered') AS latency_p95_ms,
    quantileIf(0.99)(duration_ms, result = 'delivered') AS latency_p99_ms
FROM deliveries FINAL
GROUP BY tenant, destination, event_type, minute;

-- delivery_states: what became of each delivery so far. One that was delivered once stays delivered, whatever
-- a repeated turn came to.
CREATE OR REPLACE VIEW delivery_states AS
SELECT
    tenant,
    destination,
    delivery_id,
    any(d.kind) AS kind,
    any(d.source) AS source,
    any(d.event_type) AS event_type,
    any(d.event_id) AS event_id,
    any(d.partition) AS partition,
    any(d.offset) AS offset,
    min(d.received_at) AS received_at,
    min(d.at) AS first_at,
    max(d.at) AS last_at,
    countIf(d.duration_ms IS NOT NULL) AS attempts,
    if(countIf(d.result = 'delivered') > 0, 'delivered',
       argMax(d.result, (d.at, d.log_offset))) AS result,
    result IN ('delivered', 'given_up', 'withheld') AS is_final,
    if(result = 'delivered', NULL, argMax(d.failure, (d.at, d.log_offset))) AS failure,
    if(result = 'delivered', NULL, argMax(d.detail, (d.at, d.log_offset))) AS detail,
    if(result = 'retrying', argMax(d.next_at, (d.at, d.log_offset)), NULL) AS next_at
FROM deliveries AS d FINAL
GROUP BY tenant, destination, delivery_id;

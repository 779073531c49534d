-- twin_rollup: events that should come both ways, from the page and from the vendor's server, under the same
-- event id: what of them came only one way. By hour of occurrence; the roll-up job computes an hour when it
-- has been over for an hour, and again a day later (crates/store/src/rollup/twins.rs).
CREATE TABLE IF NOT EXISTS twin_rollup
(
    tenant       LowCardinality(String),
    source       LowCardinality(String),
    hour         DateTime('UTC') COMMENT 'Hour of occurrence' CODEC(Delta, ZSTD(1)),
    event_type   LowCardinality(String) COMMENT 'Neutral type; names differ between page and server',
    computed_at  DateTime64(6, 'UTC') COMMENT 'The last row of a key counts; the clock of ClickHouse',
    server       UInt64 COMMENT 'Event ids that came from a server and occurred in the hour',
    server_both  UInt64 COMMENT 'Of these, those that came from the page as well',
    page         UInt64 COMMENT 'Event ids that came from the page and occurred in the hour',
    page_both    UInt64 COMMENT 'Of these, those that came from a server as well'
)
ENGINE = {engine:ReplacingMergeTree}(computed_at)
PARTITION BY toYear(hour)
ORDER BY (tenant, source, hour, event_type)
SETTINGS index_granularity = 1024
COMMENT 'Events that came from page and server, or only one way, by hour';

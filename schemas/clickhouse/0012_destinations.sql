-- destinations: what the deliverers said of destinations, from chat.destinations, every word of it: the last
-- record of a destination counts, and the first one since it is configured says since when. Nothing was
-- delivered yet by a released program, so what 0010 made of it is empty.
DROP TABLE IF EXISTS destinations;

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

-- event_keys: how many accepted events of a type had which key, per day of receipt: a key that was
-- renamed on the page stops coming, while its event goes on.
-- What came before this migration is not counted: drift of keys is seen from the second day on.
CREATE TABLE IF NOT EXISTS event_keys
(
    tenant     LowCardinality(String),
    source     LowCardinality(String),
    day        Date COMMENT 'Day of receipt, UTC' CODEC(Delta, ZSTD(1)),
    event_type LowCardinality(String),
    key        LowCardinality(String) COMMENT 'Field of events, or properties.<name>; empty: all events of the type',
    events     SimpleAggregateFunction(sum, UInt64) COMMENT 'Accepted events that had the key'
)
ENGINE = {engine:AggregatingMergeTree}
PARTITION BY toYear(day)
ORDER BY (tenant, source, day, event_type, key)
SETTINGS index_granularity = 1024,
         non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Keys of accepted events per tenant, source, type and day';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_keys_fill TO event_keys AS
SELECT
    e.tenant AS tenant,
    e.source AS source,
    toDate(e.received_at) AS day,
    e.event_type AS event_type,
    key,
    count() AS events
FROM events AS e
ARRAY JOIN arrayConcat(
    [''],
    arrayFilter(name -> name != '', [
        if(e.time_basis != 'received', 'occurred_at', ''),
        if(e.conversation_id IS NOT NULL, 'conversation_id', ''),
        if(e.session_id IS NOT NULL, 'session_id', ''),
        if(e.sequence IS NOT NULL, 'sequence', ''),
        if(e.visitor IS NOT NULL, 'visitor', ''),
        if(e.widget_id IS NOT NULL, 'widget_id', ''),
        if(e.platform IS NOT NULL, 'platform', ''),
        if(e.language IS NOT NULL, 'language', ''),
        if(e.link IS NOT NULL, 'link', ''),
        if(e.page_url IS NOT NULL, 'page_url', ''),
        if(e.reported_total IS NOT NULL, 'reported_total', ''),
        if(e.score IS NOT NULL, 'score', ''),
        if(e.goal IS NOT NULL, 'goal', '')]),
    arrayMap(name -> concat('properties.', name), mapKeys(e.properties))) AS key
WHERE e.outcome = 'accepted'
GROUP BY tenant, source, day, event_type, key;

-- Tables that views fill from every block inserted into events. Each has the deduplication window
-- of events: a repeated insert completes what is missing and adds nothing that is there.

-- conversation_facts: what conversation metrics are derived from. Every column is a set, a minimum
-- or a maximum over the accepted events of a conversation, so that neither order nor repetition
-- nor lateness can change it. Times are times of occurrence. An id is sipHash64(event_id): two
-- events at the same millisecond stay two, one event counted again stays one.
CREATE TABLE IF NOT EXISTS conversation_facts
(
    tenant          LowCardinality(String),
    source          LowCardinality(String),
    conversation_id String CODEC(ZSTD(1)),
    started_at      SimpleAggregateFunction(min, DateTime64(3, 'UTC'))
                    COMMENT 'Time of the first event',
    last_event_at   SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
                    COMMENT 'Time of the last event',
    messages        SimpleAggregateFunction(groupUniqArrayArray,
                        Array(Tuple(actor String, at DateTime64(3, 'UTC'), id UInt64)))
                    COMMENT 'Messages of visitor, bot and agent' CODEC(ZSTD(1)),
    marks           SimpleAggregateFunction(groupUniqArrayArray,
                        Array(Tuple(type String, at DateTime64(3, 'UTC'), id UInt64)))
                    COMMENT 'Events of the types that a metric asks for, messages aside' CODEC(ZSTD(1)),
    goals           SimpleAggregateFunction(groupUniqArrayArray, Array(Tuple(goal String, id UInt64)))
                    COMMENT 'Goals reached' CODEC(ZSTD(1)),
    scores          SimpleAggregateFunction(groupUniqArrayArray,
                        Array(Tuple(kind String, value Float64, id UInt64)))
                    COMMENT 'Ratings that have a value' CODEC(ZSTD(1)),
    reported_total  SimpleAggregateFunction(max, Nullable(Int64))
                    COMMENT 'Highest count of messages that the vendor reported',
    widgets         SimpleAggregateFunction(groupUniqArrayArray, Array(String)) CODEC(ZSTD(1)),
    platforms       SimpleAggregateFunction(groupUniqArrayArray, Array(String)) CODEC(ZSTD(1)),
    languages       SimpleAggregateFunction(groupUniqArrayArray, Array(String)) CODEC(ZSTD(1))
)
ENGINE = {engine:AggregatingMergeTree}
ORDER BY (tenant, source, conversation_id)
SETTINGS non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Commutative facts per conversation; to be read through the view conversations';

CREATE MATERIALIZED VIEW IF NOT EXISTS conversation_facts_fill TO conversation_facts AS
SELECT
    tenant,
    source,
    assumeNotNull(e.conversation_id) AS conversation_id,
    min(occurred_at) AS started_at,
    max(occurred_at) AS last_event_at,
    groupUniqArrayIf(
        (toString(actor), occurred_at, sipHash64(event_id)),
        event_type = 'message.sent' AND actor IN ('visitor', 'bot', 'agent')) AS messages,
    groupUniqArrayIf(
        (toString(event_type), occurred_at, sipHash64(event_id)),
        event_type IN (
            'handoff.requested', 'agent.joined', 'agent.left', 'bot.resumed',
            'conversation.ended', 'conversation.deleted',
            'link.clicked', 'contact.submitted', 'survey.shown', 'feedback.shown',
            'survey.submitted', 'feedback.submitted', 'consent.accepted', 'consent.declined')) AS marks,
    groupUniqArrayIf((assumeNotNull(toString(goal)), sipHash64(event_id)), goal IS NOT NULL) AS goals,
    groupUniqArrayIf(
        (assumeNotNull(toString(score_kind)), assumeNotNull(score), sipHash64(event_id)),
        score IS NOT NULL AND score_kind IS NOT NULL) AS scores,
    max(reported_total) AS reported_total,
    groupUniqArrayIf(assumeNotNull(toString(widget_id)), widget_id IS NOT NULL) AS widgets,
    groupUniqArrayIf(assumeNotNull(toString(platform)), platform IS NOT NULL) AS platforms,
    groupUniqArrayIf(assumeNotNull(toString(language)), language IS NOT NULL) AS languages
FROM events AS e
-- Qualified: without, the name means the column of the SELECT, which is never NULL.
WHERE e.outcome = 'accepted' AND e.conversation_id IS NOT NULL
GROUP BY tenant, source, conversation_id;

-- event_health: delivery health per tenant, source, type and minute of receipt. Counts are sums,
-- so their exactness rests on the deduplication of inserts; the audit compares them with events.
-- Latencies are DDSketch states with a relative error of at most 1 %.
CREATE TABLE IF NOT EXISTS event_health
(
    tenant           LowCardinality(String),
    source           LowCardinality(String),
    minute           DateTime('UTC') COMMENT 'Minute of receipt' CODEC(Delta, ZSTD(1)),
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
PARTITION BY toYYYYMM(minute)
ORDER BY (tenant, source, minute, event_type, source_event, documented)
SETTINGS non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Delivery health per tenant, source, type and minute';

CREATE MATERIALIZED VIEW IF NOT EXISTS event_health_fill TO event_health AS
SELECT
    tenant,
    source,
    toStartOfMinute(received_at) AS minute,
    event_type,
    source_event,
    documented,
    count() AS received,
    countIf(outcome = 'accepted') AS accepted,
    countIf(outcome = 'duplicate') AS duplicate,
    countIf(outcome = 'rejected') AS rejected,
    countIf(outcome = 'accepted' AND time_basis != 'received'
            AND dateDiff('millisecond', occurred_at, received_at) > 300000) AS late,
    countIf(outcome = 'accepted' AND time_basis != 'received' AND occurred_at > received_at) AS clock_ahead,
    quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(
        dateDiff('millisecond', occurred_at, received_at),
        outcome = 'accepted' AND time_basis != 'received' AND occurred_at <= received_at) AS receive_latency,
    quantilesDDStateIf(0.01, 0.5, 0.95, 0.99)(
        dateDiff('millisecond', received_at, inserted_at),
        outcome = 'accepted' AND received_at <= inserted_at) AS queryable_latency
FROM events
GROUP BY tenant, source, minute, event_type, source_event, documented;

-- rejections: every rejected record, without its content.
CREATE TABLE IF NOT EXISTS rejections
(
    tenant       LowCardinality(String) COMMENT 'Empty where the raw record could not be decoded',
    source       LowCardinality(String),
    received_at  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    partition    Int32,
    offset       Int64 CODEC(Delta, ZSTD(1)),
    reason       LowCardinality(String),
    detail       String CODEC(ZSTD(1)),
    source_event LowCardinality(String) COMMENT 'Empty where the item has none',
    bytes        Nullable(Int64) COMMENT 'Size of the item as received',
    sha256       Nullable(String) COMMENT 'Hash of the item as received, lower-case hex' CODEC(ZSTD(1))
)
ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant, source, received_at, partition, offset)
SETTINGS non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Rejected records';

CREATE MATERIALIZED VIEW IF NOT EXISTS rejections_fill TO rejections AS
SELECT
    tenant,
    source,
    received_at,
    partition,
    offset,
    ifNull(toString(reason), '') AS reason,
    ifNull(detail, '') AS detail,
    source_event,
    rejected_bytes AS bytes,
    rejected_sha256 AS sha256
FROM events
WHERE outcome = 'rejected';

-- session_sequences: which numbers of a page session arrived, over all outcomes: a number that is
-- missing below the highest one was lost on the way from the browser. Numbers above a million are
-- no counter of a page session and are left out.
CREATE TABLE IF NOT EXISTS session_sequences
(
    tenant            LowCardinality(String),
    source            LowCardinality(String),
    session_id        String CODEC(ZSTD(1)),
    highest           SimpleAggregateFunction(max, UInt64) COMMENT 'Highest number seen',
    numbers           AggregateFunction(groupBitmap, UInt64) COMMENT 'Distinct numbers seen',
    first_received_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')),
    last_received_at  SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = {engine:AggregatingMergeTree}
ORDER BY (tenant, source, session_id)
SETTINGS non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'Sequence numbers per page session';

CREATE MATERIALIZED VIEW IF NOT EXISTS session_sequences_fill TO session_sequences AS
SELECT
    tenant,
    source,
    assumeNotNull(e.session_id) AS session_id,
    max(toUInt64(assumeNotNull(sequence))) AS highest,
    groupBitmapState(toUInt64(assumeNotNull(sequence))) AS numbers,
    min(received_at) AS first_received_at,
    max(received_at) AS last_received_at
FROM events AS e
WHERE e.session_id IS NOT NULL AND e.sequence BETWEEN 1 AND 1000000
GROUP BY tenant, source, session_id;

-- events: one row for every outcome that the enricher wrote, so one row for every raw record.
--
-- (partition, offset) is the position of the raw record in chat.raw and occurs once. The sink
-- inserts a recorded range of positions as one block with one deduplication token; a repeated
-- insert of a range changes nothing here and nothing in the tables that views fill. The window
-- below is how many inserts may lie between an insert and its repetition.
--
-- All times are UTC with milliseconds. NULL is unknown, never zero.
CREATE TABLE IF NOT EXISTS events
(
    partition        Int32                              COMMENT 'Partition of chat.raw that the raw record stands in' CODEC(Delta, ZSTD(1)),
    offset           Int64                              COMMENT 'Offset of the raw record in that partition' CODEC(Delta, ZSTD(1)),
    outcome          LowCardinality(String)             COMMENT 'accepted, duplicate or rejected',
    reason           LowCardinality(Nullable(String))   COMMENT 'Why it was rejected',
    detail           Nullable(String)                   COMMENT 'What was wrong with a rejected record, without its content' CODEC(ZSTD(1)),
    rejected_bytes   Nullable(Int64)                    COMMENT 'Size of a rejected item as received; bytes',
    rejected_sha256  Nullable(String)                   COMMENT 'SHA-256 of a rejected item, lower-case hex' CODEC(ZSTD(1)),
    tenant           LowCardinality(String)             COMMENT 'Tenant; empty only where the raw record could not be decoded',
    source           LowCardinality(String)             COMMENT 'Vendor; empty only where the raw record could not be decoded',
    write_key_id     LowCardinality(String)             COMMENT 'Identifier of the write key, never the key',
    source_event     LowCardinality(String)             COMMENT 'The vendor''s own event name',
    event_type       LowCardinality(String)             COMMENT 'Neutral type, noun.verb; unknown for rejected records',
    actor            LowCardinality(String)             COMMENT 'visitor, bot, agent or system',
    documented       Bool                               COMMENT 'False where the vendor''s event name is not in the source definition (drift)',
    event_id         String                             COMMENT 'Dedup key within tenant and source; empty for rejected records' CODEC(ZSTD(1)),
    occurred_at      DateTime64(3, 'UTC')               COMMENT 'When it happened; the time of receipt where time_basis is received' CODEC(Delta, ZSTD(1)),
    time_basis       LowCardinality(String)             COMMENT 'native, context or received',
    received_at      DateTime64(3, 'UTC')               COMMENT 'When the producer received it' CODEC(Delta, ZSTD(1)),
    conversation_id  Nullable(String)                   COMMENT 'Conversation, unique within tenant and source' CODEC(ZSTD(1)),
    session_id       Nullable(String)                   COMMENT 'Page session' CODEC(ZSTD(1)),
    sequence         Nullable(Int64)                    COMMENT 'Number in the page session, from 1',
    visitor          Nullable(String)                   COMMENT 'Pseudonym of the visitor' CODEC(ZSTD(1)),
    widget_id        LowCardinality(Nullable(String))   COMMENT 'The vendor''s widget or bot id',
    platform         LowCardinality(Nullable(String))   COMMENT 'Platform as the vendor names it',
    language         LowCardinality(Nullable(String))   COMMENT 'Language tag of the conversation or widget',
    link             Nullable(String)                   COMMENT 'Link clicked, without query and fragment' CODEC(ZSTD(1)),
    page_url         Nullable(String)                   COMMENT 'Page address without query and fragment' CODEC(ZSTD(1)),
    sdk              LowCardinality(Nullable(String))   COMMENT 'SDK name and version',
    reported_total   Nullable(Int64)                    COMMENT 'The vendor''s own count of messages in the conversation so far',
    score            Nullable(Float64)                  COMMENT 'A rating''s value, on the scale of score_kind',
    score_kind       LowCardinality(Nullable(String))   COMMENT 'nps (0 to 10), stars (1 to 5) or thumbs (0 or 1)',
    goal             LowCardinality(Nullable(String))   COMMENT 'Goal reached, by name',
    properties       Map(LowCardinality(String), String) COMMENT 'Remaining kept properties, as text' CODEC(ZSTD(1)),
    message_number   Nullable(Int64)                    COMMENT 'Number of this message in its conversation, from 1, in stream order',
    phase            LowCardinality(Nullable(String))   COMMENT 'bot, waiting, human or closed, after this event',
    response_time_ms Nullable(Int64)                    COMMENT 'On a bot''s or agent''s message: time since the first unanswered visitor message; milliseconds',
    message_gap      Nullable(Int64)                    COMMENT 'reported_total minus the messages seen in the stream so far',
    inserted_at      DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When ClickHouse took it: from here on it can be queried' CODEC(Delta, ZSTD(1))
)
ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant, source, event_type, occurred_at, partition, offset)
SETTINGS non_replicated_deduplication_window = 20000,
         replicated_deduplication_window = 20000,
         replicated_deduplication_window_seconds = 604800
COMMENT 'One row for every outcome, so for every raw record';

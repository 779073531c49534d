-- Views for analysts, in a database of their own. Names, types and meanings are a promise: a column
-- is added, never renamed, retyped or taken away. `chatpulse docs` prints what stands here, so every
-- view says what a row is, and every column what it holds.
--
-- The views run with the rights of the user who migrates (SQL SECURITY DEFINER): a reader needs no
-- right on the tables behind them. What a SELECT does not cast, the engine hands out in its own type,
-- whatever the column list says; a test compares the two.

CREATE OR REPLACE VIEW {bi}.events
(
    tenant           LowCardinality(String)              COMMENT 'Tenant',
    source           LowCardinality(String)              COMMENT 'Vendor of the widget',
    event_id         String                              COMMENT 'Identifier of the event within tenant and source',
    event_type       LowCardinality(String)              COMMENT 'Neutral type, noun.verb, e.g. message.sent; custom where the vendor''s name is not documented',
    source_event     LowCardinality(String)              COMMENT 'The vendor''s own event name',
    documented       Bool                                COMMENT 'False where the vendor''s name is not in the source definition (drift)',
    actor            LowCardinality(String)              COMMENT 'Who did it: visitor, bot, agent or system',
    occurred_at      DateTime64(3, 'UTC')                COMMENT 'When it happened; the time of receipt where time_basis is received',
    time_basis       LowCardinality(String)              COMMENT 'Where occurred_at comes from: native (the vendor''s event), context (the page), received (unknown)',
    received_at      DateTime64(3, 'UTC')                COMMENT 'When chatpulse received it',
    queryable_at     DateTime64(3, 'UTC')                COMMENT 'When it reached ClickHouse',
    conversation_id  Nullable(String)                    COMMENT 'Conversation, unique within tenant and source; NULL where the event belongs to none',
    session_id       Nullable(String)                    COMMENT 'Page session',
    session_sequence Nullable(Int64)                     COMMENT 'Number of the event in its page session, from 1',
    visitor          Nullable(String)                    COMMENT 'Pseudonym of the visitor, within the tenant',
    widget_id        LowCardinality(Nullable(String))    COMMENT 'The vendor''s widget or bot id',
    platform         LowCardinality(Nullable(String))    COMMENT 'Platform as the vendor names it',
    language         LowCardinality(Nullable(String))    COMMENT 'Language tag of conversation or widget',
    link             Nullable(String)                    COMMENT 'Link clicked, without query and fragment',
    page_url         Nullable(String)                    COMMENT 'Page, without query and fragment',
    sdk              LowCardinality(Nullable(String))    COMMENT 'SDK that sent it, name and version',
    reported_total   Nullable(Int64)                     COMMENT 'The vendor''s own count of messages in the conversation so far',
    score            Nullable(Float64)                   COMMENT 'Value of a rating, on the scale of score_kind',
    score_kind       LowCardinality(Nullable(String))    COMMENT 'nps (0 to 10), stars (1 to 5) or thumbs (0 or 1)',
    goal             LowCardinality(Nullable(String))    COMMENT 'Goal reached, by name',
    properties       Map(LowCardinality(String), String) COMMENT 'Other properties that the source definition keeps, as text',
    message_number   Nullable(Int64)                     COMMENT 'On a message: its number in the conversation, from 1, in order of arrival',
    phase            LowCardinality(Nullable(String))    COMMENT 'State of the conversation after the event: bot, waiting, human or closed, in order of arrival',
    response_time_ms Nullable(Int64)                     COMMENT 'On a message of bot or agent: milliseconds since the first visitor message without an answer',
    message_gap      Nullable(Int64)                     COMMENT 'Where the vendor reports a total: that total less the messages received so far'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant,
    source,
    event_id,
    event_type,
    source_event,
    documented,
    actor,
    occurred_at,
    time_basis,
    received_at,
    inserted_at AS queryable_at,
    conversation_id,
    session_id,
    sequence AS session_sequence,
    visitor,
    widget_id,
    platform,
    language,
    link,
    page_url,
    sdk,
    reported_total,
    score,
    score_kind,
    goal,
    properties,
    message_number,
    phase,
    response_time_ms,
    message_gap
FROM events
WHERE outcome = 'accepted'
COMMENT 'One row per accepted event. Copies are not here (see duplicate in event_health_hour), nor what was refused (see rejections). Filter by tenant and received_at: they are what the table is ordered and partitioned by.';

CREATE OR REPLACE VIEW {bi}.rejections
(
    tenant       LowCardinality(String) COMMENT 'Tenant; empty where the record could not be read',
    source       LowCardinality(String) COMMENT 'Vendor of the widget; empty where the record could not be read',
    received_at  DateTime64(3, 'UTC')   COMMENT 'When chatpulse received it',
    reason       LowCardinality(String) COMMENT 'Why it was refused, e.g. invalid_json, unknown_source',
    detail       String                 COMMENT 'What was wrong, without the content',
    source_event LowCardinality(String) COMMENT 'The vendor''s event name; empty where it could not be read',
    bytes        Nullable(Int64)        COMMENT 'Size as received; bytes'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT tenant, source, received_at, reason, detail, source_event, bytes
FROM rejections
COMMENT 'One row per refused record, without its content.';

CREATE OR REPLACE VIEW {bi}.sessions
(
    tenant            LowCardinality(String) COMMENT 'Tenant',
    source            LowCardinality(String) COMMENT 'Vendor of the widget',
    session_id        String                 COMMENT 'Page session',
    first_received_at DateTime64(3, 'UTC')   COMMENT 'Receipt of its first numbered event',
    last_received_at  DateTime64(3, 'UTC')   COMMENT 'Receipt of its last numbered event',
    highest_sequence  UInt64                 COMMENT 'Highest event number received',
    arrived           UInt64                 COMMENT 'Distinct event numbers received',
    lost_in_browser   UInt64                 COMMENT 'Numbers below the highest one that never arrived'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant,
    source,
    session_id,
    first_received_at::DateTime64(3, 'UTC') AS first_received_at,
    last_received_at::DateTime64(3, 'UTC') AS last_received_at,
    highest::UInt64 AS highest_sequence,
    arrived,
    lost_in_browser
FROM sessions
COMMENT 'One row per page session whose events are numbered (by the page snippet): what it lost between browser and chatpulse. Losses after the last event that arrived cannot be seen.';

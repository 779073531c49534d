-- conversation_lists: the conversations that started in an hour, judged, by the roll-up job: a page of
-- them is read as it stands, where judging them anew would take longer than reading. A row is replaced
-- as a whole together with the hour's rows in conversation_rollup, so the list and the figures agree.
CREATE TABLE IF NOT EXISTS conversation_lists
(
    tenant        LowCardinality(String),
    hour          DateTime('UTC') COMMENT 'Start of the hour in which the conversations started',
    source        LowCardinality(String),
    as_of         DateTime64(3, 'UTC') COMMENT 'When they were judged; the same until the hour is judged again',
    computed_at   DateTime64(6, 'UTC') COMMENT 'The last row of a key counts; the clock of ClickHouse',
    size          UInt32 COMMENT 'Number of conversations',
    conversations Array(Tuple(
                      conversation_id         String,
                      started_at              DateTime64(3, 'UTC'),
                      last_event_at           DateTime64(3, 'UTC'),
                      is_closed               Bool,
                      outcome                 LowCardinality(Nullable(String)),
                      visitor_messages        Nullable(UInt64),
                      bot_messages            Nullable(UInt64),
                      agent_messages          Nullable(UInt64),
                      total_messages          Nullable(UInt64),
                      reported_total          Nullable(Int64),
                      message_gap             Nullable(Int64),
                      handoff_requested_at    Nullable(DateTime64(3, 'UTC')),
                      human_joined_at         Nullable(DateTime64(3, 'UTC')),
                      first_response_any_ms   Nullable(Int64),
                      first_response_human_ms Nullable(Int64),
                      time_to_human_ms        Nullable(Int64),
                      handle_time_ms          Nullable(Int64),
                      resolution_time_ms      Nullable(Int64),
                      goals                   Array(String),
                      consent                 LowCardinality(Nullable(String)),
                      widgets                 Array(String),
                      languages               Array(String)))
                  COMMENT 'As in the view conversations; widgets and languages: at most 10 of each' CODEC(ZSTD(1))
)
ENGINE = {engine:ReplacingMergeTree}(computed_at)
PARTITION BY toYYYYMM(hour)
ORDER BY (tenant, hour, source)
-- The hours of a large tenant are large. Few rows are read, and all of their columns: from one file, not
-- from one for each.
SETTINGS index_granularity = 128, index_granularity_bytes = 262144,
         min_bytes_for_wide_part = 1000000000000, min_rows_for_wide_part = 1000000000000
COMMENT 'Conversations by the hour of their start, judged';

-- The next run of the job counts as the first, which makes the lists of all that is there.
TRUNCATE TABLE IF EXISTS rollup_runs;

-- The same of what other reports read. Parts that are there already stay as they are.
ALTER TABLE conversation_rollup MODIFY SETTING
    min_bytes_for_wide_part = 1000000000000, min_rows_for_wide_part = 1000000000000;
ALTER TABLE event_health_hour MODIFY SETTING
    min_bytes_for_wide_part = 1000000000000, min_rows_for_wide_part = 1000000000000;
ALTER TABLE event_health_day MODIFY SETTING
    min_bytes_for_wide_part = 1000000000000, min_rows_for_wide_part = 1000000000000;

-- The job looks for what it computed last.
ALTER TABLE conversation_rollup ADD INDEX IF NOT EXISTS computed computed_at TYPE minmax GRANULARITY 1;

-- What becomes of records that cannot be read or stored, and of rejected ones that are replayed.

-- The defaults are said, although NULL is the default anyway: a program that does not know the
-- columns yet goes on inserting only where a default is declared.
ALTER TABLE events
    ADD COLUMN IF NOT EXISTS replay_of_partition Nullable(Int32) DEFAULT NULL
        COMMENT 'Raw position of the rejected record that this one replays: its partition' AFTER message_gap,
    ADD COLUMN IF NOT EXISTS replay_of_offset Nullable(Int64) DEFAULT NULL
        COMMENT 'Raw position of the rejected record that this one replays: its offset' AFTER replay_of_partition;

-- undecodable_outcomes: records of chat.events that no reader understands, without their content,
-- which may be personal. What they stood for is in events as a rejection (outcome_lost) once the
-- next outcome of the partition shows the gap. A record that is read again is noted again.
CREATE TABLE IF NOT EXISTS undecodable_outcomes
(
    partition   Int32                 COMMENT 'Partition of chat.events',
    offset      Int64                 COMMENT 'Offset in chat.events, not in chat.raw' CODEC(Delta, ZSTD(1)),
    appended_at DateTime64(3, 'UTC')  COMMENT 'Kafka''s time of the record' CODEC(Delta, ZSTD(1)),
    bytes       Int64                 COMMENT 'Size of the record; 0 for a tombstone',
    sha256      String                COMMENT 'SHA-256 of the record, lower-case hex' CODEC(ZSTD(1)),
    detail      String                COMMENT 'What is wrong with it, without its content' CODEC(ZSTD(1)),
    noted_at    DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree}(noted_at)
-- Offsets start again when a topic is deleted and made again; the hash tells such records apart.
ORDER BY (partition, offset, sha256)
COMMENT 'Records of chat.events that cannot be decoded';

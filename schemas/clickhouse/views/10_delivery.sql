-- Delivery: what the tables of 0002_facts.sql come to.

-- sessions: what each page session lost in the browser.
CREATE OR REPLACE VIEW sessions AS
SELECT
    s.tenant AS tenant,
    s.source AS source,
    s.session_id AS session_id,
    max(s.highest) AS highest,
    groupBitmapMerge(s.numbers) AS arrived,
    toUInt64(highest - arrived) AS lost_in_browser,
    min(s.first_received_at) AS first_received_at,
    max(s.last_received_at) AS last_received_at
FROM session_sequences AS s
GROUP BY s.tenant, s.source, s.session_id
COMMENT 'One row per page session: which sequence numbers arrived, and how many were lost in the browser. Version 1';

-- rejections_by_minute: counts by reason.
CREATE OR REPLACE VIEW rejections_by_minute AS
SELECT tenant, source, toStartOfMinute(received_at) AS minute, reason, count() AS rejected
FROM rejections
GROUP BY tenant, source, minute, reason
COMMENT 'One row per tenant, source, minute of receipt and reason: rejected records. Version 1';

-- partition_books: what the audit asks of each raw partition. Offsets are complete and single when
-- rows = distinct_offsets = last_offset - first_offset + 1.
CREATE OR REPLACE VIEW partition_books AS
SELECT
    partition,
    count() AS rows,
    groupBitmap(toUInt64(offset)) AS distinct_offsets,
    min(offset) AS first_offset,
    max(offset) AS last_offset
FROM events
GROUP BY partition
COMMENT 'One row per raw partition: what the audit asks of it. Version 1';

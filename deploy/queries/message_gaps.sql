-- Message gaps: how many messages did the vendor count that never arrived?
--
-- One row per source and day of start, of vendors that report a total. missing counts only gaps in that direction;
-- counted_fewer are conversations in which the vendor counted fewer messages than arrived.
-- Parameters: tenant, since, until
SELECT
    source,
    toDate(started_at) AS day,
    count() AS conversations,
    countIf(message_gap > 0) AS with_gap,
    sumIf(assumeNotNull(message_gap), message_gap > 0) AS missing,
    sum(assumeNotNull(reported_total)) AS reported,
    round(missing / nullIf(reported, 0), 4) AS missing_share,
    countIf(message_gap < 0) AS counted_fewer
FROM conversations
WHERE tenant = {tenant:String}
  AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
  AND message_gap IS NOT NULL
GROUP BY source, day
ORDER BY source, day;

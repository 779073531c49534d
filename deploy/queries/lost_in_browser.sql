-- Lost in the browser: how many events never left the page?
--
-- One row per source and day, by the last receipt of a page session, of sessions whose events are numbered. Losses after
-- the last event that arrived cannot be seen, so the share is a lower bound.
-- Parameters: tenant, since, until
SELECT
    source,
    toDate(last_received_at) AS day,
    count() AS sessions,
    countIf(lost_in_browser > 0) AS sessions_with_loss,
    sum(arrived) AS arrived,
    sum(lost_in_browser) AS lost,
    round(lost / (arrived + lost), 4) AS lost_share
FROM sessions
WHERE tenant = {tenant:String}
  AND last_received_at >= {since:DateTime('UTC')} AND last_received_at < {until:DateTime('UTC')}
GROUP BY source, day
ORDER BY source, day;

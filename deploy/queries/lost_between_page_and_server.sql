-- Lost between page and server: which events came one way only?
--
-- One row per source and event type, of vendors that send the same event from the page and from their server, under one
-- id; the largest loss in the browser first. Of types that came both ways at least once, in the time asked for or in the
-- 30 days before it. A share is NULL where nothing came that way.
-- Parameters: tenant, since, until
WITH known AS
(
    SELECT source, event_type
    FROM twins_hour
    WHERE tenant = {tenant:String} AND has_twins
      AND hour >= {since:DateTime('UTC')} - INTERVAL 30 DAY AND hour < {until:DateTime('UTC')}
)
SELECT
    t.source AS source,
    t.event_type AS event_type,
    sum(t.server) AS from_server,
    sum(t.lost_in_browser) AS lost_in_browser,
    round(lost_in_browser / nullIf(from_server, 0), 4) AS browser_loss_rate,
    sum(t.page) AS from_page,
    sum(t.lost_by_server) AS lost_by_server,
    round(lost_by_server / nullIf(from_page, 0), 4) AS server_loss_rate
FROM twins_hour AS t
WHERE t.tenant = {tenant:String} AND t.hour >= {since:DateTime('UTC')} AND t.hour < {until:DateTime('UTC')}
  AND (t.source, t.event_type) IN known
GROUP BY t.source, t.event_type
ORDER BY browser_loss_rate DESC NULLS LAST, lost_in_browser DESC, source, event_type;

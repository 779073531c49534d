-- Containment by day: how much does the bot settle alone?
--
-- One row per source and day of start, of sources whose outcomes can be seen. A day changes while its conversations are
-- open: still_open says how many are.
-- Parameters: tenant, since, until
WITH still_open AS
(
    SELECT source, toDate(started_at) AS day, countIf(is_bot_conversation AND NOT is_closed) AS conversations
    FROM conversations
    WHERE tenant = {tenant:String}
      AND started_at >= {since:DateTime('UTC')} AND started_at < {until:DateTime('UTC')}
    GROUP BY source, day
)
SELECT
    m.source AS source,
    m.day AS day,
    anyIf(m.denominator, m.metric = 'containment_rate') AS closed_bot_conversations,
    round(anyIf(m.rate, m.metric = 'containment_rate'), 3) AS containment_rate,
    round(anyIf(m.rate, m.metric = 'handoff_rate'), 3) AS handoff_rate,
    round(anyIf(m.rate, m.metric = 'abandoned_share'), 3) AS abandoned_share,
    round(anyIf(m.rate, m.metric = 'requested_unserved_share'), 3) AS requested_unserved_share,
    any(o.conversations) AS still_open
FROM conversation_metrics_by_day AS m
LEFT ANY JOIN still_open AS o ON o.source = m.source AND o.day = m.day
WHERE m.tenant = {tenant:String}
  AND m.day >= toDate({since:DateTime('UTC')}) AND m.day < {until:DateTime('UTC')}
GROUP BY m.source, m.day
HAVING anyIf(m.observable, m.metric = 'containment_rate')
ORDER BY source, day;

-- Containment by day: how much does the bot settle alone?
--
-- One row per source and day of start, of sources whose outcomes can be seen. provisional: the day can still change, since
-- it is not over or conversations are open.
-- Parameters: tenant, since, until
SELECT
    source,
    day,
    anyIf(denominator, metric = 'containment_rate') AS closed_bot_conversations,
    round(anyIf(rate, metric = 'containment_rate'), 3) AS containment_rate,
    round(anyIf(rate, metric = 'handoff_rate'), 3) AS handoff_rate,
    round(anyIf(rate, metric = 'abandoned_share'), 3) AS abandoned_share,
    round(anyIf(rate, metric = 'requested_unserved_share'), 3) AS requested_unserved_share,
    anyIf(provisional, metric = 'containment_rate') AS provisional
FROM conversation_metrics_day
WHERE tenant = {tenant:String}
  AND day >= toDate({since:DateTime('UTC')}) AND day < {until:DateTime('UTC')}
GROUP BY source, day
HAVING anyIf(observable, metric = 'containment_rate')
ORDER BY source, day;

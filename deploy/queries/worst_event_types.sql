-- Worst event types: which events are refused, late or doubled most?
--
-- One row per source and event type, those with the largest share of refused and late records first. Copies are no loss,
-- they are shown because many of them point at a widget that sends twice. Latency is occurred to received; NULL where
-- the events carry no time of their own.
-- Parameters: tenant, since, until
WITH latency AS
(
    SELECT source, event_type, quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency) AS ms
    FROM event_latency_minute
    WHERE tenant = {tenant:String} AND minute >= {since:DateTime('UTC')} AND minute < {until:DateTime('UTC')}
    GROUP BY source, event_type
)
SELECT
    h.source AS source,
    h.event_type AS event_type,
    sum(h.received) AS received,
    sum(h.rejected) AS rejected,
    sum(h.late) AS late,
    sum(h.duplicate) AS duplicate,
    round((rejected + late) / received, 4) AS bad_share,
    round(duplicate / received, 4) AS duplicate_share,
    -- Without an accepted event there is no row of latencies, and without a time a percentile is nan.
    round(any(if(notEmpty(l.ms) AND isFinite(l.ms[2]), l.ms[2], NULL))) AS p95_receive_ms
FROM event_health_minute AS h
LEFT ANY JOIN latency AS l ON l.source = h.source AND l.event_type = h.event_type
WHERE h.tenant = {tenant:String} AND h.minute >= {since:DateTime('UTC')} AND h.minute < {until:DateTime('UTC')}
GROUP BY h.source, h.event_type
ORDER BY bad_share DESC, duplicate_share DESC, received DESC, source, event_type
LIMIT 50;

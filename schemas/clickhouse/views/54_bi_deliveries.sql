-- Deliveries of events to the tenants' own receivers: every attempt, and what they come to.

CREATE OR REPLACE VIEW {bi}.delivery_attempts
(
    tenant       LowCardinality(String)           COMMENT 'Tenant',
    destination  LowCardinality(String)           COMMENT 'The tenant''s own name for the destination',
    kind         LowCardinality(String)           COMMENT 'webhook, ga4 or meta',
    source       LowCardinality(String)           COMMENT 'Vendor of the event',
    event_type   LowCardinality(String)           COMMENT 'Neutral type of the event',
    event_id     String                           COMMENT 'Id of the event within tenant and source',
    delivery_id  String                           COMMENT 'Stable id of the delivery (header webhook-id), by which receivers drop repeats',
    received_at  DateTime64(3, 'UTC')             COMMENT 'When chatpulse received the event',
    attempt      Int32                            COMMENT 'Which turn of the delivery this is, from 1',
    at           DateTime64(3, 'UTC')             COMMENT 'When the turn began',
    duration_ms  Nullable(Int64)                  COMMENT 'Duration of the request; milliseconds. NULL where none was made',
    result       LowCardinality(String)           COMMENT 'delivered, retrying (another turn follows), given_up, or withheld (no consent)',
    failure      LowCardinality(Nullable(String)) COMMENT 'Class of the failure; NULL where delivered',
    status       Nullable(Int32)                  COMMENT 'HTTP status; NULL where there was no answer',
    detail       Nullable(String)                 COMMENT 'What happened, without secrets and content; NULL where delivered',
    next_at      Nullable(DateTime64(3, 'UTC'))   COMMENT 'When the next turn is due; NULL where none follows',
    replayed     Bool                             COMMENT 'Whether an operator asked for this delivery again'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant, destination, kind, source, event_type, event_id, delivery_id, received_at, attempt, at, duration_ms,
    result, failure, status, detail, next_at, replayed
FROM deliveries FINAL
COMMENT 'One row per turn of a delivery: an attempt to deliver one event to one destination, or its end without an attempt.';

CREATE OR REPLACE VIEW {bi}.destinations
(
    tenant        LowCardinality(String)           COMMENT 'Tenant',
    destination   LowCardinality(String)           COMMENT 'The tenant''s own name for it',
    kind          LowCardinality(String)           COMMENT 'webhook, ga4 or meta',
    event_types   Array(String)                    COMMENT 'Neutral types that it gets; empty: all',
    is_configured Bool                             COMMENT 'False where it has left the tenants file',
    since         Nullable(DateTime64(3, 'UTC'))   COMMENT 'Since when it has been configured: it is owed what came from then on; NULL where it is not',
    failing_since Nullable(DateTime64(3, 'UTC'))   COMMENT 'First failure after the last success, where that has lasted a minute; else NULL',
    disabled_at   Nullable(DateTime64(3, 'UTC'))   COMMENT 'When it was disabled; NULL where it is not',
    reason        LowCardinality(Nullable(String)) COMMENT 'Why: gone (the receiver answered 410) or failing (for days); NULL where it is not disabled'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant, destination, kind, CAST(event_types, 'Array(String)') AS event_types, is_configured, since, failing_since, disabled_at, reason
FROM destination_states
COMMENT 'One row per destination of events, as the deliverers told last.';

CREATE OR REPLACE VIEW {bi}.delivery_health_minute
(
    tenant           LowCardinality(String) COMMENT 'Tenant',
    destination      LowCardinality(String) COMMENT 'The tenant''s own name for the destination',
    minute           DateTime('UTC')        COMMENT 'Minute in which the turns began (UTC)',
    event_type       LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    turns            UInt64                 COMMENT 'Turns: delivered + retrying + given_up + withheld',
    attempts         UInt64                 COMMENT 'Turns in which a request was made',
    delivered        UInt64                 COMMENT 'Requests that the receiver answered with success',
    failed           UInt64                 COMMENT 'Requests that did not deliver',
    retrying         UInt64                 COMMENT 'Turns that did not deliver and are followed by another',
    given_up         UInt64                 COMMENT 'Deliveries given up; they can be replayed',
    withheld         UInt64                 COMMENT 'Not sent for want of consent: no failure',
    failures         Map(String, UInt64)    COMMENT 'Turns that did not deliver, by class: dns, connect, tls, timeout, protocol, blocked, redirect, gone, rate_limited, refused, http_4xx, http_5xx, http_other with a request; circuit_open, disabled, removed, invalid, consent_unknown, consent_declined without',
    request_p50_ms   Nullable(Float64)      COMMENT 'Median duration of the requests that delivered; milliseconds, at most 1 % off. NULL where none did',
    request_p95_ms   Nullable(Float64)      COMMENT '95th percentile of the same',
    request_p99_ms   Nullable(Float64)      COMMENT '99th percentile of the same',
    delivered_p50_ms Nullable(Float64)      COMMENT 'Median of received to delivered, but for replays; milliseconds, at most 1 % off. NULL where none was',
    delivered_p95_ms Nullable(Float64)      COMMENT '95th percentile of the same',
    delivered_p99_ms Nullable(Float64)      COMMENT '99th percentile of the same'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.request_latency) AS request,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.delivery_delay) AS delay
SELECT
    h.tenant AS tenant,
    h.destination AS destination,
    h.minute AS minute,
    h.event_type AS event_type,
    sum(h.turns) AS turns,
    sum(h.attempts) AS attempts,
    sum(h.delivered) AS delivered,
    sum(h.failed) AS failed,
    sum(h.retrying) AS retrying,
    sum(h.given_up) AS given_up,
    sum(h.withheld) AS withheld,
    CAST(sumMap(h.failures), 'Map(String, UInt64)') AS failures,
    -- Of nothing, a percentile is not a number.
    if(isFinite(request[1]), request[1], NULL) AS request_p50_ms,
    if(isFinite(request[2]), request[2], NULL) AS request_p95_ms,
    if(isFinite(request[3]), request[3], NULL) AS request_p99_ms,
    if(isFinite(delay[1]), delay[1], NULL) AS delivered_p50_ms,
    if(isFinite(delay[2]), delay[2], NULL) AS delivered_p95_ms,
    if(isFinite(delay[3]), delay[3], NULL) AS delivered_p99_ms
FROM delivery_health AS h
GROUP BY h.tenant, h.destination, minute, h.event_type
COMMENT 'One row per tenant, destination, minute in which turns began, and event type: deliveries to webhooks, GA4 and Meta. Counts add up; percentiles do not.';

CREATE OR REPLACE VIEW {bi}.delivery_health_hour
(
    tenant           LowCardinality(String) COMMENT 'Tenant',
    destination      LowCardinality(String) COMMENT 'The tenant''s own name for the destination',
    hour             DateTime('UTC')        COMMENT 'Hour in which the turns began (UTC)',
    event_type       LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    turns            UInt64                 COMMENT 'Turns: delivered + retrying + given_up + withheld',
    attempts         UInt64                 COMMENT 'Turns in which a request was made',
    delivered        UInt64                 COMMENT 'Requests that the receiver answered with success',
    failed           UInt64                 COMMENT 'Requests that did not deliver',
    retrying         UInt64                 COMMENT 'Turns that did not deliver and are followed by another',
    given_up         UInt64                 COMMENT 'Deliveries given up; they can be replayed',
    withheld         UInt64                 COMMENT 'Not sent for want of consent: no failure',
    failures         Map(String, UInt64)    COMMENT 'Turns that did not deliver, by class: dns, connect, tls, timeout, protocol, blocked, redirect, gone, rate_limited, refused, http_4xx, http_5xx, http_other with a request; circuit_open, disabled, removed, invalid, consent_unknown, consent_declined without',
    request_p50_ms   Nullable(Float64)      COMMENT 'Median duration of the requests that delivered; milliseconds, at most 1 % off. NULL where none did',
    request_p95_ms   Nullable(Float64)      COMMENT '95th percentile of the same',
    request_p99_ms   Nullable(Float64)      COMMENT '99th percentile of the same',
    delivered_p50_ms Nullable(Float64)      COMMENT 'Median of received to delivered, but for replays; milliseconds, at most 1 % off. NULL where none was',
    delivered_p95_ms Nullable(Float64)      COMMENT '95th percentile of the same',
    delivered_p99_ms Nullable(Float64)      COMMENT '99th percentile of the same'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.request_latency) AS request,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.delivery_delay) AS delay
SELECT
    h.tenant AS tenant,
    h.destination AS destination,
    h.at AS hour,
    h.event_type AS event_type,
    sum(h.turns) AS turns,
    sum(h.attempts) AS attempts,
    sum(h.delivered) AS delivered,
    sum(h.failed) AS failed,
    sum(h.retrying) AS retrying,
    sum(h.given_up) AS given_up,
    sum(h.withheld) AS withheld,
    CAST(sumMap(h.failures), 'Map(String, UInt64)') AS failures,
    -- Of nothing, a percentile is not a number.
    if(isFinite(request[1]), request[1], NULL) AS request_p50_ms,
    if(isFinite(request[2]), request[2], NULL) AS request_p95_ms,
    if(isFinite(request[3]), request[3], NULL) AS request_p99_ms,
    if(isFinite(delay[1]), delay[1], NULL) AS delivered_p50_ms,
    if(isFinite(delay[2]), delay[2], NULL) AS delivered_p95_ms,
    if(isFinite(delay[3]), delay[3], NULL) AS delivered_p99_ms
FROM delivery_rollup AS h FINAL
WHERE h.unit = 'hour'
GROUP BY h.tenant, h.destination, hour, h.event_type
COMMENT 'One row per tenant, destination, hour in which turns began, and event type: deliveries to webhooks, GA4 and Meta. Counts add up; percentiles do not. Computed by the roll-up job, some seconds behind.';

CREATE OR REPLACE VIEW {bi}.delivery_health_day
(
    tenant           LowCardinality(String) COMMENT 'Tenant',
    destination      LowCardinality(String) COMMENT 'The tenant''s own name for the destination',
    day              Date                   COMMENT 'Day in which the turns began (UTC)',
    event_type       LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    turns            UInt64                 COMMENT 'Turns: delivered + retrying + given_up + withheld',
    attempts         UInt64                 COMMENT 'Turns in which a request was made',
    delivered        UInt64                 COMMENT 'Requests that the receiver answered with success',
    failed           UInt64                 COMMENT 'Requests that did not deliver',
    retrying         UInt64                 COMMENT 'Turns that did not deliver and are followed by another',
    given_up         UInt64                 COMMENT 'Deliveries given up; they can be replayed',
    withheld         UInt64                 COMMENT 'Not sent for want of consent: no failure',
    failures         Map(String, UInt64)    COMMENT 'Turns that did not deliver, by class: dns, connect, tls, timeout, protocol, blocked, redirect, gone, rate_limited, refused, http_4xx, http_5xx, http_other with a request; circuit_open, disabled, removed, invalid, consent_unknown, consent_declined without',
    request_p50_ms   Nullable(Float64)      COMMENT 'Median duration of the requests that delivered; milliseconds, at most 1 % off. NULL where none did',
    request_p95_ms   Nullable(Float64)      COMMENT '95th percentile of the same',
    request_p99_ms   Nullable(Float64)      COMMENT '99th percentile of the same',
    delivered_p50_ms Nullable(Float64)      COMMENT 'Median of received to delivered, but for replays; milliseconds, at most 1 % off. NULL where none was',
    delivered_p95_ms Nullable(Float64)      COMMENT '95th percentile of the same',
    delivered_p99_ms Nullable(Float64)      COMMENT '99th percentile of the same'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.request_latency) AS request,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.delivery_delay) AS delay
SELECT
    h.tenant AS tenant,
    h.destination AS destination,
    toDate(h.at) AS day,
    h.event_type AS event_type,
    sum(h.turns) AS turns,
    sum(h.attempts) AS attempts,
    sum(h.delivered) AS delivered,
    sum(h.failed) AS failed,
    sum(h.retrying) AS retrying,
    sum(h.given_up) AS given_up,
    sum(h.withheld) AS withheld,
    CAST(sumMap(h.failures), 'Map(String, UInt64)') AS failures,
    -- Of nothing, a percentile is not a number.
    if(isFinite(request[1]), request[1], NULL) AS request_p50_ms,
    if(isFinite(request[2]), request[2], NULL) AS request_p95_ms,
    if(isFinite(request[3]), request[3], NULL) AS request_p99_ms,
    if(isFinite(delay[1]), delay[1], NULL) AS delivered_p50_ms,
    if(isFinite(delay[2]), delay[2], NULL) AS delivered_p95_ms,
    if(isFinite(delay[3]), delay[3], NULL) AS delivered_p99_ms
FROM delivery_rollup AS h FINAL
WHERE h.unit = 'day'
GROUP BY h.tenant, h.destination, day, h.event_type
COMMENT 'One row per tenant, destination, day in which turns began, and event type: deliveries to webhooks, GA4 and Meta. Counts add up; percentiles do not. Computed by the roll-up job, some seconds behind.';

CREATE OR REPLACE VIEW {bi}.twins_hour
(
    tenant          LowCardinality(String) COMMENT 'Tenant',
    source          LowCardinality(String) COMMENT 'Vendor',
    hour            DateTime('UTC')        COMMENT 'Hour in which the events occurred (UTC)',
    event_type      LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    server          UInt64                 COMMENT 'Event ids that came from a server',
    lost_in_browser UInt64                 COMMENT 'Of these, those that never came from the page',
    page            UInt64                 COMMENT 'Event ids that came from the page',
    lost_by_server  UInt64                 COMMENT 'Of these, those that never came from a server',
    has_twins       Bool                   COMMENT 'Whether any of these ids came both ways. Of a type of which none did, in the time asked for or in the 30 days before it, nothing is known to be lost: leave it out'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant, source, hour, event_type, server, server - server_both AS lost_in_browser, page,
    page - page_both AS lost_by_server, toBool(server_both + page_both > 0) AS has_twins
FROM twin_rollup FINAL
COMMENT 'One row per tenant, source, hour and event type, of sources that send events both from the page and from the vendor''s server, under the same id: what came only one way. Computed when an hour has been over for an hour, and again a day later.';

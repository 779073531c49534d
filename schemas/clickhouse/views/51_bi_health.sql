-- Delivery health at three grains. Counts add up; percentiles do not, so there are latencies to merge
-- beside them.

CREATE OR REPLACE VIEW {bi}.event_health_minute
(
    tenant           LowCardinality(String) COMMENT 'Tenant; empty where the record could not be read',
    source           LowCardinality(String) COMMENT 'Vendor of the widget; empty where the record could not be read',
    minute           DateTime('UTC')        COMMENT 'Minute of receipt (UTC)',
    event_type       LowCardinality(String) COMMENT 'Neutral type, noun.verb; unknown for refused records',
    source_event     LowCardinality(String) COMMENT 'The vendor''s own event name; empty where it could not be read',
    documented       Bool                   COMMENT 'False where the vendor''s name is not in the source definition (drift)',
    received         UInt64                 COMMENT 'Records received: accepted + duplicate + rejected',
    accepted         UInt64                 COMMENT 'Events accepted, each once',
    duplicate        UInt64                 COMMENT 'Further copies of accepted events',
    rejected         UInt64                 COMMENT 'Records refused',
    late             UInt64                 COMMENT 'Accepted events that occurred more than 5 minutes before they were received',
    clock_ahead      UInt64                 COMMENT 'Accepted events that, by the sender''s clock, occurred after they were received',
    receive_p50_ms   Nullable(Float64)      COMMENT 'Median of occurred to received; milliseconds, at most 1 % off. NULL where no time of the events is known',
    receive_p95_ms   Nullable(Float64)      COMMENT '95th percentile of the same',
    receive_p99_ms   Nullable(Float64)      COMMENT '99th percentile of the same',
    queryable_p50_ms Nullable(Float64)      COMMENT 'Median of received to queryable; milliseconds, at most 1 % off. NULL where nothing was accepted',
    queryable_p95_ms Nullable(Float64)      COMMENT '95th percentile of the same',
    queryable_p99_ms Nullable(Float64)      COMMENT '99th percentile of the same'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable
SELECT
    h.tenant AS tenant,
    h.source AS source,
    h.minute AS minute,
    h.event_type AS event_type,
    h.source_event AS source_event,
    h.documented AS documented,
    sum(h.received) AS received,
    sum(h.accepted) AS accepted,
    sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected,
    sum(h.late) AS late,
    sum(h.clock_ahead) AS clock_ahead,
    -- Of nothing, a percentile is not a number.
    if(isFinite(receive[1]), receive[1], NULL) AS receive_p50_ms,
    if(isFinite(receive[2]), receive[2], NULL) AS receive_p95_ms,
    if(isFinite(receive[3]), receive[3], NULL) AS receive_p99_ms,
    if(isFinite(queryable[1]), queryable[1], NULL) AS queryable_p50_ms,
    if(isFinite(queryable[2]), queryable[2], NULL) AS queryable_p95_ms,
    if(isFinite(queryable[3]), queryable[3], NULL) AS queryable_p99_ms
FROM event_health AS h
GROUP BY h.tenant, h.source, minute, h.event_type, h.source_event, h.documented
COMMENT 'One row per tenant, source, minute of receipt, event type, vendor''s event name and whether that is documented: delivery. Counts add up; percentiles do not: over several rows take event_latency_minute.';

CREATE OR REPLACE VIEW {bi}.event_health_hour
(
    tenant           LowCardinality(String) COMMENT 'Tenant; empty where the record could not be read',
    source           LowCardinality(String) COMMENT 'Vendor of the widget; empty where the record could not be read',
    hour             DateTime('UTC')        COMMENT 'Hour of receipt (UTC)',
    event_type       LowCardinality(String) COMMENT 'Neutral type, noun.verb; unknown for refused records',
    source_event     LowCardinality(String) COMMENT 'The vendor''s own event name; empty where it could not be read',
    documented       Bool                   COMMENT 'False where the vendor''s name is not in the source definition (drift)',
    received         UInt64                 COMMENT 'Records received: accepted + duplicate + rejected',
    accepted         UInt64                 COMMENT 'Events accepted, each once',
    duplicate        UInt64                 COMMENT 'Further copies of accepted events',
    rejected         UInt64                 COMMENT 'Records refused',
    late             UInt64                 COMMENT 'Accepted events that occurred more than 5 minutes before they were received',
    clock_ahead      UInt64                 COMMENT 'Accepted events that, by the sender''s clock, occurred after they were received',
    receive_p50_ms   Nullable(Float64)      COMMENT 'Median of occurred to received; milliseconds, at most 1 % off. NULL where no time of the events is known',
    receive_p95_ms   Nullable(Float64)      COMMENT '95th percentile of the same',
    receive_p99_ms   Nullable(Float64)      COMMENT '99th percentile of the same',
    queryable_p50_ms Nullable(Float64)      COMMENT 'Median of received to queryable; milliseconds, at most 1 % off. NULL where nothing was accepted',
    queryable_p95_ms Nullable(Float64)      COMMENT '95th percentile of the same',
    queryable_p99_ms Nullable(Float64)      COMMENT '99th percentile of the same'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable
SELECT
    h.tenant AS tenant,
    h.source AS source,
    h.hour AS hour,
    h.event_type AS event_type,
    h.source_event AS source_event,
    h.documented AS documented,
    sum(h.received) AS received,
    sum(h.accepted) AS accepted,
    sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected,
    sum(h.late) AS late,
    sum(h.clock_ahead) AS clock_ahead,
    -- Of nothing, a percentile is not a number.
    if(isFinite(receive[1]), receive[1], NULL) AS receive_p50_ms,
    if(isFinite(receive[2]), receive[2], NULL) AS receive_p95_ms,
    if(isFinite(receive[3]), receive[3], NULL) AS receive_p99_ms,
    if(isFinite(queryable[1]), queryable[1], NULL) AS queryable_p50_ms,
    if(isFinite(queryable[2]), queryable[2], NULL) AS queryable_p95_ms,
    if(isFinite(queryable[3]), queryable[3], NULL) AS queryable_p99_ms
FROM event_health_hour AS h
GROUP BY h.tenant, h.source, hour, h.event_type, h.source_event, h.documented
COMMENT 'One row per tenant, source, hour of receipt, event type, vendor''s event name and whether that is documented: delivery. Counts add up; percentiles do not: over several rows take event_latency_hour.';

CREATE OR REPLACE VIEW {bi}.event_health_day
(
    tenant           LowCardinality(String) COMMENT 'Tenant; empty where the record could not be read',
    source           LowCardinality(String) COMMENT 'Vendor of the widget; empty where the record could not be read',
    day              Date                   COMMENT 'Day of receipt (UTC)',
    event_type       LowCardinality(String) COMMENT 'Neutral type, noun.verb; unknown for refused records',
    source_event     LowCardinality(String) COMMENT 'The vendor''s own event name; empty where it could not be read',
    documented       Bool                   COMMENT 'False where the vendor''s name is not in the source definition (drift)',
    received         UInt64                 COMMENT 'Records received: accepted + duplicate + rejected',
    accepted         UInt64                 COMMENT 'Events accepted, each once',
    duplicate        UInt64                 COMMENT 'Further copies of accepted events',
    rejected         UInt64                 COMMENT 'Records refused',
    late             UInt64                 COMMENT 'Accepted events that occurred more than 5 minutes before they were received',
    clock_ahead      UInt64                 COMMENT 'Accepted events that, by the sender''s clock, occurred after they were received',
    receive_p50_ms   Nullable(Float64)      COMMENT 'Median of occurred to received; milliseconds, at most 1 % off. NULL where no time of the events is known',
    receive_p95_ms   Nullable(Float64)      COMMENT '95th percentile of the same',
    receive_p99_ms   Nullable(Float64)      COMMENT '99th percentile of the same',
    queryable_p50_ms Nullable(Float64)      COMMENT 'Median of received to queryable; milliseconds, at most 1 % off. NULL where nothing was accepted',
    queryable_p95_ms Nullable(Float64)      COMMENT '95th percentile of the same',
    queryable_p99_ms Nullable(Float64)      COMMENT '99th percentile of the same'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive,
    quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable
SELECT
    h.tenant AS tenant,
    h.source AS source,
    h.day AS day,
    h.event_type AS event_type,
    h.source_event AS source_event,
    h.documented AS documented,
    sum(h.received) AS received,
    sum(h.accepted) AS accepted,
    sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected,
    sum(h.late) AS late,
    sum(h.clock_ahead) AS clock_ahead,
    -- Of nothing, a percentile is not a number.
    if(isFinite(receive[1]), receive[1], NULL) AS receive_p50_ms,
    if(isFinite(receive[2]), receive[2], NULL) AS receive_p95_ms,
    if(isFinite(receive[3]), receive[3], NULL) AS receive_p99_ms,
    if(isFinite(queryable[1]), queryable[1], NULL) AS queryable_p50_ms,
    if(isFinite(queryable[2]), queryable[2], NULL) AS queryable_p95_ms,
    if(isFinite(queryable[3]), queryable[3], NULL) AS queryable_p99_ms
FROM event_health_day AS h
GROUP BY h.tenant, h.source, day, h.event_type, h.source_event, h.documented
COMMENT 'One row per tenant, source, day of receipt, event type, vendor''s event name and whether that is documented: delivery. Counts add up; percentiles do not: over several rows take event_latency_day.';

CREATE OR REPLACE VIEW {bi}.event_latency_minute
(
    tenant            LowCardinality(String) COMMENT 'Tenant',
    source            LowCardinality(String) COMMENT 'Vendor of the widget',
    minute            DateTime('UTC')        COMMENT 'Minute of receipt (UTC)',
    event_type        LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    receive_latency   AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64) COMMENT 'Occurred to received, to be merged: quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency) gives [p50, p95, p99] in milliseconds over any rows; nan where no time is known',
    queryable_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64) COMMENT 'Received to queryable, to be merged likewise'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    h.tenant AS tenant,
    h.source AS source,
    h.minute AS minute,
    h.event_type AS event_type,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive_latency,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable_latency
FROM event_health AS h
WHERE h.accepted > 0
GROUP BY h.tenant, h.source, minute, h.event_type
COMMENT 'One row per tenant, source, minute of receipt and event type with an accepted event: latencies that can be merged over any rows, with quantilesDDMerge. Not for SELECT *: the states are binary.';

CREATE OR REPLACE VIEW {bi}.event_latency_hour
(
    tenant            LowCardinality(String) COMMENT 'Tenant',
    source            LowCardinality(String) COMMENT 'Vendor of the widget',
    hour              DateTime('UTC')        COMMENT 'Hour of receipt (UTC)',
    event_type        LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    receive_latency   AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64) COMMENT 'Occurred to received, to be merged: quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency) gives [p50, p95, p99] in milliseconds over any rows; nan where no time is known',
    queryable_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64) COMMENT 'Received to queryable, to be merged likewise'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    h.tenant AS tenant,
    h.source AS source,
    h.hour AS hour,
    h.event_type AS event_type,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive_latency,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable_latency
FROM event_health_hour AS h
WHERE h.accepted > 0
GROUP BY h.tenant, h.source, hour, h.event_type
COMMENT 'One row per tenant, source, hour of receipt and event type with an accepted event: latencies that can be merged over any rows, with quantilesDDMerge. Not for SELECT *: the states are binary.';

CREATE OR REPLACE VIEW {bi}.event_latency_day
(
    tenant            LowCardinality(String) COMMENT 'Tenant',
    source            LowCardinality(String) COMMENT 'Vendor of the widget',
    day               Date                   COMMENT 'Day of receipt (UTC)',
    event_type        LowCardinality(String) COMMENT 'Neutral type, noun.verb',
    receive_latency   AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64) COMMENT 'Occurred to received, to be merged: quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency) gives [p50, p95, p99] in milliseconds over any rows; nan where no time is known',
    queryable_latency AggregateFunction(quantilesDD(0.01, 0.5, 0.95, 0.99), Int64) COMMENT 'Received to queryable, to be merged likewise'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    h.tenant AS tenant,
    h.source AS source,
    h.day AS day,
    h.event_type AS event_type,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive_latency,
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable_latency
FROM event_health_day AS h
WHERE h.accepted > 0
GROUP BY h.tenant, h.source, day, h.event_type
COMMENT 'One row per tenant, source, day of receipt and event type with an accepted event: latencies that can be merged over any rows, with quantilesDDMerge. Not for SELECT *: the states are binary.';

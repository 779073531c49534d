-- Conversations and their metrics. What each figure means is defined once, in the views that these
-- read.

CREATE OR REPLACE VIEW {bi}.conversations
(
    tenant                     LowCardinality(String)            COMMENT 'Tenant',
    source                     LowCardinality(String)            COMMENT 'Vendor of the widget',
    conversation_id            String                            COMMENT 'Conversation, unique within tenant and source; where the vendor gives none, the page session stands for it',
    started_at                 DateTime64(3, 'UTC')              COMMENT 'Time of the first event: the cohort of the conversation',
    last_event_at              DateTime64(3, 'UTC')              COMMENT 'Time of the last event',
    widgets                    Array(String)                     COMMENT 'The vendor''s widget or bot ids',
    platforms                  Array(String)                     COMMENT 'Platforms as the vendor names them',
    languages                  Array(String)                     COMMENT 'Language tags of conversation or widget',
    visitor_messages           Nullable(UInt64)                  COMMENT 'Distinct messages of the visitor; NULL where the source does not show them',
    bot_messages               Nullable(UInt64)                  COMMENT 'Distinct messages of bots; NULL where the source does not show them',
    agent_messages             Nullable(UInt64)                  COMMENT 'Distinct messages of human agents; NULL where the source does not show them',
    total_messages             Nullable(UInt64)                  COMMENT 'Distinct messages of visitor, bot and agents, as far as the source shows them',
    total_messages_partial     Bool                              COMMENT 'True where the source shows only some of the messages',
    reported_total             Nullable(Int64)                   COMMENT 'Highest message count that the vendor reported; NULL where it reports none',
    message_gap                Nullable(Int64)                   COMMENT 'reported_total less total_messages: messages that did not arrive; negative where the vendor counts fewer',
    first_visitor_message_at   Nullable(DateTime64(3, 'UTC'))    COMMENT 'First message of the visitor',
    last_visitor_message_at    Nullable(DateTime64(3, 'UTC'))    COMMENT 'Last message of the visitor',
    first_bot_message_at       Nullable(DateTime64(3, 'UTC'))    COMMENT 'First message of a bot',
    first_agent_message_at     Nullable(DateTime64(3, 'UTC'))    COMMENT 'First message of a human agent',
    first_handoff_request_at   Nullable(DateTime64(3, 'UTC'))    COMMENT 'First request for a human',
    first_human_join_at        Nullable(DateTime64(3, 'UTC'))    COMMENT 'First time a human agent joined',
    last_human_leave_at        Nullable(DateTime64(3, 'UTC'))    COMMENT 'Last time a human agent left',
    first_close_at             Nullable(DateTime64(3, 'UTC'))    COMMENT 'First explicit end (ended, archived or deleted)',
    is_deleted                 Nullable(Bool)                    COMMENT 'Whether the vendor deleted it; NULL where the source does not say',
    is_closed                  Bool                              COMMENT 'Ended explicitly, or silent for 24 h or the tenant''s own time; as of now',
    is_bot_conversation        Nullable(Bool)                    COMMENT 'B: a visitor message, and a bot message or a request for a human, not started by a human; NULL where the source cannot show it',
    is_closed_bot_conversation Nullable(Bool)                    COMMENT 'C: B and closed',
    is_handoff_requested       Nullable(Bool)                    COMMENT 'B with a request for a human',
    is_handled_by_human        Nullable(Bool)                    COMMENT 'C in which a human joined or wrote',
    outcome                    LowCardinality(Nullable(String))  COMMENT 'Of C, the first that holds: handed_off, requested_unserved, human_intervened, abandoned, bot_resolved, contained_assumed; NULL for others and where the source cannot show it',
    first_response_any_ms      Nullable(Int64)                   COMMENT 'First visitor message to first answer of bot or human; milliseconds; NULL where there is none or it cannot be seen',
    first_response_human_ms    Nullable(Int64)                   COMMENT 'First request for a human, else first visitor message, to the first message of a human; milliseconds',
    time_to_human_ms           Nullable(Int64)                   COMMENT 'First request for a human to the first human joining, else writing; milliseconds',
    is_request_unanswered      Nullable(Bool)                    COMMENT 'A human was requested and none came',
    handle_time_ms             Nullable(Int64)                   COMMENT 'Time with at least one human present; milliseconds',
    resolution_time_ms         Nullable(Int64)                   COMMENT 'Start to first explicit end; milliseconds',
    is_reopen_judged           Nullable(Bool)                    COMMENT 'First explicit end at least 7 days ago: whether it was reopened is settled',
    is_reopened                Nullable(Bool)                    COMMENT 'A visitor message within 7 days after the first explicit end, of those judged',
    surveys_shown              Nullable(UInt32)                  COMMENT 'Surveys and feedback forms shown',
    feedback_count             Nullable(UInt32)                  COMMENT 'Times that feedback was given',
    ratings                    Nullable(UInt64)                  COMMENT 'Ratings with a value, in stars or thumbs',
    positive_ratings           Nullable(UInt32)                  COMMENT 'Ratings of at least 4 of 5 stars, or thumbs up',
    nps_answers                Nullable(UInt64)                  COMMENT 'Scores from 0 to 10 given',
    nps_promoters              Nullable(UInt32)                  COMMENT 'Scores of 9 and 10',
    nps_detractors             Nullable(UInt32)                  COMMENT 'Scores from 0 to 6',
    links_clicked              Nullable(UInt32)                  COMMENT 'Links clicked',
    contacts_submitted         Nullable(UInt32)                  COMMENT 'Times that contact details were left',
    goals                      Array(String)                     COMMENT 'Goals reached, by name, as often as they were reached; empty also where the source shows none (see sources)',
    consent                    LowCardinality(Nullable(String))  COMMENT 'accepted or declined; NULL where neither was said'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant,
    source,
    conversation_id,
    started_at::DateTime64(3, 'UTC') AS started_at,
    last_event_at::DateTime64(3, 'UTC') AS last_event_at,
    widgets,
    platforms,
    languages,
    visitor_messages,
    bot_messages,
    agent_messages,
    total_messages,
    total_messages_partial,
    reported_total,
    message_gap,
    first_visitor_message_at,
    last_visitor_message_at,
    first_bot_message_at,
    first_agent_message_at,
    first_handoff_request_at,
    first_human_join_at,
    last_human_leave_at,
    first_close_at,
    deleted::Nullable(Bool) AS is_deleted,
    is_closed::Bool AS is_closed,
    is_bot_conversation::Nullable(Bool) AS is_bot_conversation,
    is_closed_bot_conversation::Nullable(Bool) AS is_closed_bot_conversation,
    is_handoff_requested::Nullable(Bool) AS is_handoff_requested,
    is_handled_by_human::Nullable(Bool) AS is_handled_by_human,
    outcome,
    first_response_any_ms,
    first_response_human_ms,
    time_to_human_ms,
    is_request_unanswered::Nullable(Bool) AS is_request_unanswered,
    handle_time_ms,
    resolution_time_ms,
    is_reopen_judged::Nullable(Bool) AS is_reopen_judged,
    is_reopened::Nullable(Bool) AS is_reopened,
    surveys_shown,
    feedback_count,
    ratings,
    positive_ratings,
    nps_answers,
    nps_promoters,
    nps_detractors,
    links_clicked,
    contacts_submitted,
    goals,
    consent
FROM {db}.conversations_as_of(as_of = now64(3, 'UTC'))
COMMENT 'One row per conversation, judged as of now. NULL is unknown, never zero. Medians over any grouping come from here, e.g. quantileExactInclusive(0.5)(first_response_any_ms). Filter by tenant.';

CREATE OR REPLACE VIEW {bi}.conversation_goals
(
    tenant          LowCardinality(String) COMMENT 'Tenant',
    source          LowCardinality(String) COMMENT 'Vendor of the widget',
    conversation_id String                 COMMENT 'Conversation, see conversations',
    started_at      DateTime64(3, 'UTC')   COMMENT 'Time of its first event',
    goal            String                 COMMENT 'Goal reached, by name',
    times           UInt64                 COMMENT 'How often it was reached'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT tenant, source, conversation_id, started_at::DateTime64(3, 'UTC') AS started_at, goal, times
FROM conversation_goals
COMMENT 'One row per conversation and goal that it reached.';

CREATE OR REPLACE VIEW {bi}.conversation_metrics_hour
(
    tenant       LowCardinality(String) COMMENT 'Tenant',
    source       LowCardinality(String) COMMENT 'Vendor of the widget',
    hour         DateTime('UTC')        COMMENT 'Hour in which the conversations started (UTC)',
    metric       LowCardinality(String) COMMENT 'Name, see metric_definitions',
    kind         LowCardinality(String) COMMENT 'count, rate (0 to 1), score (-1 to 1) or duration',
    observable   Bool                   COMMENT 'False where the source cannot show the metric: then it has no values',
    n            UInt64                 COMMENT 'Conversations, or durations, that the row is made of',
    numerator    Nullable(Int64)        COMMENT 'Of a rate or score; of a count, the count. Adds up over rows',
    denominator  Nullable(Int64)        COMMENT 'Of a rate or score. Adds up over rows',
    rate         Nullable(Float64)      COMMENT 'numerator / denominator; NULL where the denominator is 0. Over several rows: sum(numerator) / nullIf(sum(denominator), 0)',
    median_ms    Nullable(Float64)      COMMENT 'Median of a duration; milliseconds. Does not add up, see durations_ms',
    p90_ms       Nullable(Float64)      COMMENT '90th percentile of a duration; milliseconds',
    p95_ms       Nullable(Float64)      COMMENT '95th percentile of a duration; milliseconds',
    durations_ms Array(Int64)           COMMENT 'Every single duration; milliseconds. Over several rows: quantileExactInclusiveArray(0.5)(durations_ms), where any is there',
    provisional  Bool                   COMMENT 'True where the figure can still change without late events: the hour is not over for 5 minutes, a conversation is open, or a close is not 7 days old (reopen_rate)',
    as_of        DateTime64(3, 'UTC')   COMMENT 'When it was judged; nothing has changed since'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    (SELECT max(as_of) FROM rollup_runs) AS last_run
SELECT
    r.tenant AS tenant,
    r.source AS source,
    r.cohort AS hour,
    f.1 AS metric,
    f.2 AS kind,
    toBool(f.3 > 0) AS observable,
    if(kind = 'duration', length(f.6), f.3) AS n,
    if(kind = 'duration', NULL, f.4) AS numerator,
    f.5 AS denominator,
    if(kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.5)', f.6), NULL) AS median_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.9)', f.6), NULL) AS p90_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.95)', f.6), NULL) AS p95_ms,
    f.6 AS durations_ms,
    toBool(ifNull(r.open > 0
        OR (metric = 'reopen_rate' AND r.reopen_settles_at IS NOT NULL)
        OR r.cohort + INTERVAL 1 HOUR + INTERVAL 5 MINUTE > last_run, 1)) AS provisional,
    r.as_of AS as_of
FROM conversation_rollup AS r FINAL
ARRAY JOIN r.figures AS g
ARRAY JOIN arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations) AS f
WHERE r.unit = 'hour' AND r.dimension = ''
COMMENT 'One row per tenant, source, hour of start and metric, as of the last run of the roll-up job.';

CREATE OR REPLACE VIEW {bi}.conversation_metrics_day
(
    tenant       LowCardinality(String) COMMENT 'Tenant',
    source       LowCardinality(String) COMMENT 'Vendor of the widget',
    day          Date                   COMMENT 'Day on which the conversations started (UTC)',
    metric       LowCardinality(String) COMMENT 'Name, see metric_definitions',
    kind         LowCardinality(String) COMMENT 'count, rate (0 to 1), score (-1 to 1) or duration',
    observable   Bool                   COMMENT 'False where the source cannot show the metric: then it has no values',
    n            UInt64                 COMMENT 'Conversations, or durations, that the row is made of',
    numerator    Nullable(Int64)        COMMENT 'Of a rate or score; of a count, the count. Adds up over rows',
    denominator  Nullable(Int64)        COMMENT 'Of a rate or score. Adds up over rows',
    rate         Nullable(Float64)      COMMENT 'numerator / denominator; NULL where the denominator is 0. Over several rows: sum(numerator) / nullIf(sum(denominator), 0)',
    median_ms    Nullable(Float64)      COMMENT 'Median of a duration; milliseconds. Does not add up, see durations_ms',
    p90_ms       Nullable(Float64)      COMMENT '90th percentile of a duration; milliseconds',
    p95_ms       Nullable(Float64)      COMMENT '95th percentile of a duration; milliseconds',
    durations_ms Array(Int64)           COMMENT 'Every single duration; milliseconds. Over several rows: quantileExactInclusiveArray(0.5)(durations_ms), where any is there',
    provisional  Bool                   COMMENT 'True where the figure can still change without late events: the day is not over for 5 minutes, a conversation is open, or a close is not 7 days old (reopen_rate)',
    as_of        DateTime64(3, 'UTC')   COMMENT 'When it was judged; nothing has changed since'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    (SELECT max(as_of) FROM rollup_runs) AS last_run
SELECT
    r.tenant AS tenant,
    r.source AS source,
    toDate(r.cohort) AS day,
    f.1 AS metric,
    f.2 AS kind,
    toBool(f.3 > 0) AS observable,
    if(kind = 'duration', length(f.6), f.3) AS n,
    if(kind = 'duration', NULL, f.4) AS numerator,
    f.5 AS denominator,
    if(kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.5)', f.6), NULL) AS median_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.9)', f.6), NULL) AS p90_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.95)', f.6), NULL) AS p95_ms,
    f.6 AS durations_ms,
    toBool(ifNull(r.open > 0
        OR (metric = 'reopen_rate' AND r.reopen_settles_at IS NOT NULL)
        OR r.cohort + INTERVAL 1 DAY + INTERVAL 5 MINUTE > last_run, 1)) AS provisional,
    r.as_of AS as_of
FROM conversation_rollup AS r FINAL
ARRAY JOIN r.figures AS g
ARRAY JOIN arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations) AS f
WHERE r.unit = 'day' AND r.dimension = ''
COMMENT 'One row per tenant, source, day of start and metric, as of the last run of the roll-up job.';

CREATE OR REPLACE VIEW {bi}.conversation_metrics_day_by_widget
(
    tenant       LowCardinality(String) COMMENT 'Tenant',
    source       LowCardinality(String) COMMENT 'Vendor of the widget',
    day          Date                   COMMENT 'Day on which the conversations started (UTC)',
    widget_id    LowCardinality(String) COMMENT 'The vendor''s widget or bot id; empty: none, (several): more than one in a conversation, (other): beyond the 50 most frequent of the day',
    metric       LowCardinality(String) COMMENT 'Name, see metric_definitions',
    kind         LowCardinality(String) COMMENT 'count, rate (0 to 1), score (-1 to 1) or duration',
    observable   Bool                   COMMENT 'False where the source cannot show the metric: then it has no values',
    n            UInt64                 COMMENT 'Conversations, or durations, that the row is made of',
    numerator    Nullable(Int64)        COMMENT 'Of a rate or score; of a count, the count. Adds up over rows',
    denominator  Nullable(Int64)        COMMENT 'Of a rate or score. Adds up over rows',
    rate         Nullable(Float64)      COMMENT 'numerator / denominator; NULL where the denominator is 0. Over several rows: sum(numerator) / nullIf(sum(denominator), 0)',
    median_ms    Nullable(Float64)      COMMENT 'Median of a duration; milliseconds. Does not add up, see durations_ms',
    p90_ms       Nullable(Float64)      COMMENT '90th percentile of a duration; milliseconds',
    p95_ms       Nullable(Float64)      COMMENT '95th percentile of a duration; milliseconds',
    durations_ms Array(Int64)           COMMENT 'Every single duration; milliseconds. Over several rows: quantileExactInclusiveArray(0.5)(durations_ms), where any is there',
    provisional  Bool                   COMMENT 'True where the figure can still change without late events: the day is not over for 5 minutes, a conversation is open, or a close is not 7 days old (reopen_rate)',
    as_of        DateTime64(3, 'UTC')   COMMENT 'When it was judged; nothing has changed since'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    (SELECT max(as_of) FROM rollup_runs) AS last_run
SELECT
    r.tenant AS tenant,
    r.source AS source,
    toDate(r.cohort) AS day,
    g.value AS widget_id,
    f.1 AS metric,
    f.2 AS kind,
    toBool(f.3 > 0) AS observable,
    if(kind = 'duration', length(f.6), f.3) AS n,
    if(kind = 'duration', NULL, f.4) AS numerator,
    f.5 AS denominator,
    if(kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.5)', f.6), NULL) AS median_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.9)', f.6), NULL) AS p90_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.95)', f.6), NULL) AS p95_ms,
    f.6 AS durations_ms,
    toBool(ifNull(r.open > 0
        OR (metric = 'reopen_rate' AND r.reopen_settles_at IS NOT NULL)
        OR r.cohort + INTERVAL 1 DAY + INTERVAL 5 MINUTE > last_run, 1)) AS provisional,
    r.as_of AS as_of
FROM conversation_rollup AS r FINAL
ARRAY JOIN r.figures AS g
ARRAY JOIN arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations) AS f
WHERE r.unit = 'day' AND r.dimension = 'widget'
COMMENT 'One row per tenant, source, day of start, widget and metric, as of the last run of the roll-up job.';

CREATE OR REPLACE VIEW {bi}.conversation_metrics_day_by_language
(
    tenant       LowCardinality(String) COMMENT 'Tenant',
    source       LowCardinality(String) COMMENT 'Vendor of the widget',
    day          Date                   COMMENT 'Day on which the conversations started (UTC)',
    language     LowCardinality(String) COMMENT 'Language tag; empty: none, (several): more than one in a conversation, (other): beyond the 50 most frequent of the day',
    metric       LowCardinality(String) COMMENT 'Name, see metric_definitions',
    kind         LowCardinality(String) COMMENT 'count, rate (0 to 1), score (-1 to 1) or duration',
    observable   Bool                   COMMENT 'False where the source cannot show the metric: then it has no values',
    n            UInt64                 COMMENT 'Conversations, or durations, that the row is made of',
    numerator    Nullable(Int64)        COMMENT 'Of a rate or score; of a count, the count. Adds up over rows',
    denominator  Nullable(Int64)        COMMENT 'Of a rate or score. Adds up over rows',
    rate         Nullable(Float64)      COMMENT 'numerator / denominator; NULL where the denominator is 0. Over several rows: sum(numerator) / nullIf(sum(denominator), 0)',
    median_ms    Nullable(Float64)      COMMENT 'Median of a duration; milliseconds. Does not add up, see durations_ms',
    p90_ms       Nullable(Float64)      COMMENT '90th percentile of a duration; milliseconds',
    p95_ms       Nullable(Float64)      COMMENT '95th percentile of a duration; milliseconds',
    durations_ms Array(Int64)           COMMENT 'Every single duration; milliseconds. Over several rows: quantileExactInclusiveArray(0.5)(durations_ms), where any is there',
    provisional  Bool                   COMMENT 'True where the figure can still change without late events: the day is not over for 5 minutes, a conversation is open, or a close is not 7 days old (reopen_rate)',
    as_of        DateTime64(3, 'UTC')   COMMENT 'When it was judged; nothing has changed since'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    (SELECT max(as_of) FROM rollup_runs) AS last_run
SELECT
    r.tenant AS tenant,
    r.source AS source,
    toDate(r.cohort) AS day,
    g.value AS language,
    f.1 AS metric,
    f.2 AS kind,
    toBool(f.3 > 0) AS observable,
    if(kind = 'duration', length(f.6), f.3) AS n,
    if(kind = 'duration', NULL, f.4) AS numerator,
    f.5 AS denominator,
    if(kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.5)', f.6), NULL) AS median_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.9)', f.6), NULL) AS p90_ms,
    if(notEmpty(f.6), arrayReduce('quantileExactInclusive(0.95)', f.6), NULL) AS p95_ms,
    f.6 AS durations_ms,
    toBool(ifNull(r.open > 0
        OR (metric = 'reopen_rate' AND r.reopen_settles_at IS NOT NULL)
        OR r.cohort + INTERVAL 1 DAY + INTERVAL 5 MINUTE > last_run, 1)) AS provisional,
    r.as_of AS as_of
FROM conversation_rollup AS r FINAL
ARRAY JOIN r.figures AS g
ARRAY JOIN arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations) AS f
WHERE r.unit = 'day' AND r.dimension = 'language'
COMMENT 'One row per tenant, source, day of start, language and metric, as of the last run of the roll-up job.';

CREATE OR REPLACE VIEW {bi}.restatements
(
    tenant            LowCardinality(String)           COMMENT 'Tenant',
    source            LowCardinality(String)           COMMENT 'Vendor of the widget',
    day               Date                             COMMENT 'Day on which the conversations started (UTC)',
    metric            LowCardinality(String)           COMMENT 'Name, see metric_definitions',
    kind              LowCardinality(String)           COMMENT 'count, rate, score or duration',
    old_n             UInt64                           COMMENT 'Conversations, or durations, that the old figure was made of',
    new_n             UInt64                           COMMENT 'The same of the new figure',
    old_numerator     Nullable(Int64)                  COMMENT 'Old count, or numerator of a rate or score',
    new_numerator     Nullable(Int64)                  COMMENT 'The new one',
    old_denominator   Nullable(Int64)                  COMMENT 'Old denominator of a rate or score',
    new_denominator   Nullable(Int64)                  COMMENT 'The new one',
    old_median_ms     Nullable(Float64)                COMMENT 'Old median of a duration; milliseconds',
    new_median_ms     Nullable(Float64)                COMMENT 'The new one',
    settled_at        DateTime64(3, 'UTC')             COMMENT 'When the old figure was judged',
    restated_at       DateTime64(3, 'UTC')             COMMENT 'When the new figure was judged',
    late_events       UInt64                           COMMENT 'Accepted events of conversations of that day that came in between; 0: a definition or a setting changed',
    first_occurred_at Nullable(DateTime64(3, 'UTC'))   COMMENT 'When the first of them occurred',
    last_occurred_at  Nullable(DateTime64(3, 'UTC'))   COMMENT 'When the last of them occurred',
    last_received_at  Nullable(DateTime64(3, 'UTC'))   COMMENT 'When the last of them was received'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    tenant,
    source,
    day,
    metric,
    kind,
    old_n,
    new_n,
    old_numerator,
    new_numerator,
    old_denominator,
    new_denominator,
    old_median_ms,
    new_median_ms,
    settled_as_of AS settled_at,
    restated_as_of AS restated_at,
    late_events,
    first_occurred_at,
    last_occurred_at,
    last_received_at
FROM restatements FINAL
COMMENT 'One row per figure of a settled day that changed afterwards, with the reason.';

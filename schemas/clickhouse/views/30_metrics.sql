-- conversation_metrics_as_of(as_of): what each conversation adds to each metric. The kinds are
--   count     sum of numerators
--   rate      sum of numerators / sum of denominators, from 0 to 1
--   score     the same, from -1 to 1
--   duration  distribution of duration_ms; numerator is 1 where there is one, else 0
-- The numerator is NULL where the source cannot show the metric.
CREATE OR REPLACE VIEW conversation_metrics_as_of AS
SELECT
    c.tenant AS tenant,
    c.source AS source,
    c.conversation_id AS conversation_id,
    c.started_at AS started_at,
    m.metric AS metric,
    m.kind AS kind,
    m.numerator AS numerator,
    if(m.numerator IS NULL, NULL, m.denominator) AS denominator,
    m.duration_ms AS duration_ms,
    c.widgets AS widgets,
    c.languages AS languages,
    c.is_closed AS is_closed,
    c.closes_by_silence_at AS closes_by_silence_at,
    c.reopen_judged_at AS reopen_judged_at,
    c.changes_at AS changes_at
FROM {db}.conversations_as_of(as_of = {as_of:DateTime64(3, 'UTC')}) AS c
ARRAY JOIN CAST(
    [
        ('conversations', 'count', 1, NULL, NULL),
        ('visitor_messages', 'count', visitor_messages, NULL, NULL),
        ('bot_messages', 'count', bot_messages, NULL, NULL),
        ('agent_messages', 'count', agent_messages, NULL, NULL),
        ('total_messages', 'count', total_messages, NULL, NULL),
        ('reported_total', 'count', reported_total, NULL, NULL),
        ('message_gap', 'count', message_gap, NULL, NULL),
        -- Of the conversations whose total was reported. Too much in one makes up for nothing in another.
        ('messages_missing', 'count', if(message_gap IS NULL, NULL, greatest(message_gap, 0)), NULL, NULL),
        ('conversations_with_gap', 'count', message_gap > 0, NULL, NULL),
        ('bot_conversations', 'count', is_bot_conversation, NULL, NULL),
        ('closed_bot_conversations', 'count', is_closed_bot_conversation, NULL, NULL),

        ('handoff_request_rate', 'rate', is_handoff_requested, is_bot_conversation, NULL),
        ('handoff_rate', 'rate', is_handled_by_human, is_closed_bot_conversation, NULL),
        ('containment_rate', 'rate',
            if(is_outcome_observable, ifNull(outcome IN ('bot_resolved', 'contained_assumed'), 0), NULL),
            is_closed_bot_conversation, NULL),
        ('bot_resolution_rate', 'rate',
            if(is_bot_resolution_observable, ifNull(outcome = 'bot_resolved', 0), NULL),
            is_closed_bot_conversation, NULL),
        ('handed_off_share', 'rate',
            if(is_outcome_observable, ifNull(outcome = 'handed_off', 0), NULL), is_closed_bot_conversation, NULL),
        ('requested_unserved_share', 'rate',
            if(is_outcome_observable, ifNull(outcome = 'requested_unserved', 0), NULL), is_closed_bot_conversation, NULL),
        ('human_intervened_share', 'rate',
            if(is_outcome_observable, ifNull(outcome = 'human_intervened', 0), NULL), is_closed_bot_conversation, NULL),
        ('abandoned_share', 'rate',
            if(is_outcome_observable, ifNull(outcome = 'abandoned', 0), NULL), is_closed_bot_conversation, NULL),
        ('bot_resolved_share', 'rate',
            if(is_outcome_observable, ifNull(outcome = 'bot_resolved', 0), NULL), is_closed_bot_conversation, NULL),
        ('contained_assumed_share', 'rate',
            if(is_outcome_observable, ifNull(outcome = 'contained_assumed', 0), NULL), is_closed_bot_conversation, NULL),

        ('first_response_any', 'duration', if(is_first_response_any_observable, first_response_any_ms IS NOT NULL, NULL), NULL, first_response_any_ms),
        ('first_response_human', 'duration', if(is_first_response_human_observable, first_response_human_ms IS NOT NULL, NULL), NULL, first_response_human_ms),
        ('time_to_human', 'duration', if(is_time_to_human_observable, time_to_human_ms IS NOT NULL, NULL), NULL, time_to_human_ms),
        ('unanswered_requests', 'rate', is_request_unanswered, first_handoff_request_at IS NOT NULL, NULL),
        ('handle_time', 'duration', if(is_handle_time_observable, handle_time_ms IS NOT NULL, NULL), NULL, handle_time_ms),
        ('resolution_time', 'duration', if(is_resolution_time_observable, resolution_time_ms IS NOT NULL, NULL), NULL, resolution_time_ms),
        ('reopen_rate', 'rate', is_reopened, is_reopen_judged, NULL),

        ('csat', 'rate', positive_ratings, ratings, NULL),
        -- A rating without a survey seen, or the second for one, answers none of those shown.
        ('csat_response_rate', 'rate', if(ratings IS NULL OR surveys_shown IS NULL, NULL, least(ratings, surveys_shown)), surveys_shown, NULL),
        ('nps', 'score', toInt64(nps_promoters) - toInt64(nps_detractors), nps_answers, NULL),

        ('surveys_shown', 'count', surveys_shown, NULL, NULL),
        ('feedback_count', 'count', feedback_count, NULL, NULL),
        ('links_clicked', 'count', links_clicked, NULL, NULL),
        ('contacts_submitted', 'count', contacts_submitted, NULL, NULL),
        ('conversations_with_goal', 'count', if(is_goal_observable, notEmpty(goals), NULL), NULL, NULL),
        ('consents_accepted', 'count', if(is_acceptance_observable, ifNull(consent = 'accepted', 0), NULL), NULL, NULL),
        ('consents_declined', 'count', if(is_refusal_observable, ifNull(consent = 'declined', 0), NULL), NULL, NULL),
        ('deleted_conversations', 'count', deleted, NULL, NULL)
    ],
    'Array(Tuple(metric String, kind String, numerator Nullable(Int64), denominator Nullable(Int64), duration_ms Nullable(Int64)))') AS m
COMMENT 'One row per conversation and metric (metric_definitions): what it adds to numerator and denominator, or its duration; numerator is NULL where the source cannot show the metric. Version 2';

-- metrics_as_of(as_of, since, until, conversation_prefix): the metrics of the conversations that
-- started in [since, until) and whose id has the prefix ('' for all), at four levels: overall,
-- source, day, and source and day. A row over several sources is made of those that can show the
-- metric; observable is false, and all values are NULL, where none can. n counts the conversations,
-- or durations, that a row is made of. Days are UTC days of the start.
CREATE OR REPLACE VIEW metrics_as_of AS
SELECT
    m.tenant AS tenant,
    place.1 AS level,
    place.2 AS source,
    place.3 AS day,
    m.metric AS metric,
    m.kind AS kind,
    countIf(m.numerator IS NOT NULL) > 0 AS observable,
    if(m.kind = 'duration', countIf(m.duration_ms IS NOT NULL), countIf(m.numerator IS NOT NULL)) AS n,
    if(m.kind = 'duration', NULL, sum(m.numerator)) AS numerator,
    sum(m.denominator) AS denominator,
    if(m.kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
    quantilesExactInclusiveIf(0.5, 0.9, 0.95)(assumeNotNull(m.duration_ms), m.duration_ms IS NOT NULL) AS quantiles,
    if(m.kind = 'duration' AND n > 0, quantiles[1], NULL) AS median_ms,
    if(m.kind = 'duration' AND n > 0, quantiles[2], NULL) AS p90_ms,
    if(m.kind = 'duration' AND n > 0, quantiles[3], NULL) AS p95_ms
FROM
(
    SELECT
        tenant, metric, kind, numerator, denominator, duration_ms,
        CAST(
            [
                ('overall', NULL, NULL),
                ('source', source, NULL),
                ('day', NULL, toDate(started_at)),
                ('source_day', source, toDate(started_at))
            ],
            'Array(Tuple(String, Nullable(String), Nullable(Date)))') AS places
    FROM {db}.conversation_metrics_as_of(as_of = {as_of:DateTime64(3, 'UTC')})
    WHERE started_at >= {since:DateTime64(3, 'UTC')}
      AND started_at < {until:DateTime64(3, 'UTC')}
      AND startsWith(conversation_id, {conversation_prefix:String})
) AS m
ARRAY JOIN m.places AS place
GROUP BY m.tenant, place, m.metric, m.kind
COMMENT 'One row per metric, level and group of the conversations that started in [since, until). Version 2';

-- The same over all time as of now, by level.
CREATE OR REPLACE VIEW metrics_overall AS
SELECT tenant, metric, kind, observable, n, numerator, denominator, rate, median_ms, p90_ms, p95_ms
FROM {db}.metrics_as_of(as_of = now64(3, 'UTC'), since = toDateTime64(0, 3, 'UTC'), until = toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), conversation_prefix = '')
WHERE level = 'overall'
COMMENT 'One row per tenant and metric, over all time, as of now. Version 2';

CREATE OR REPLACE VIEW metrics_by_source AS
SELECT tenant, source, metric, kind, observable, n, numerator, denominator, rate, median_ms, p90_ms, p95_ms
FROM {db}.metrics_as_of(as_of = now64(3, 'UTC'), since = toDateTime64(0, 3, 'UTC'), until = toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), conversation_prefix = '')
WHERE level = 'source'
COMMENT 'One row per tenant, source and metric, over all time, as of now. Version 2';

CREATE OR REPLACE VIEW metrics_by_day AS
SELECT tenant, source, day, metric, kind, observable, n, numerator, denominator, rate, median_ms, p90_ms, p95_ms
FROM {db}.metrics_as_of(as_of = now64(3, 'UTC'), since = toDateTime64(0, 3, 'UTC'), until = toDateTime64('2200-01-01 00:00:00', 3, 'UTC'), conversation_prefix = '')
WHERE level = 'source_day'
COMMENT 'One row per tenant, source, day of the start (UTC) and metric, over all time, as of now. Version 2';

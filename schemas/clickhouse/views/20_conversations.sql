-- conversations_as_of(as_of): one row for every conversation, judged at the time as_of. NULL where
-- the source cannot show it. B is is_bot_conversation, C is the closed ones of B; outcome is set for
-- C alone and takes the first of the six that holds.
CREATE OR REPLACE VIEW conversations_as_of AS
WITH
    facts AS
    (
        SELECT
            f.tenant AS tenant,
            f.source AS source,
            f.conversation_id AS conversation_id,
            min(f.started_at) AS started_at,
            max(f.last_event_at) AS last_event_at,
            groupUniqArrayArray(f.messages) AS messages,
            groupUniqArrayArray(f.marks) AS marks,
            groupUniqArrayArray(f.goals) AS goal_set,
            groupUniqArrayArray(f.scores) AS scores,
            max(f.reported_total) AS reported_total,
            groupUniqArrayArray(f.widgets) AS widgets,
            groupUniqArrayArray(f.platforms) AS platforms,
            groupUniqArrayArray(f.languages) AS languages
        FROM conversation_facts AS f
        GROUP BY f.tenant, f.source, f.conversation_id
    ),
    -- Times in milliseconds, sorted.
    times AS
    (
        SELECT
            *,
            toUnixTimestamp64Milli({as_of:DateTime64(3, 'UTC')}) AS as_of_ms,
            toUnixTimestamp64Milli(started_at) AS start_ms,
            toUnixTimestamp64Milli(last_event_at) AS last_ms,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.actor = 'visitor', messages))) AS visitor,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.actor = 'bot', messages))) AS bot,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.actor = 'agent', messages))) AS agent,
            arraySort(arrayConcat(bot, agent)) AS answers,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.type = 'handoff.requested', marks))) AS requests,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.type = 'agent.joined', marks))) AS joins,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.type = 'agent.left', marks))) AS leaves,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at), arrayFilter(m -> m.type = 'bot.resumed', marks))) AS returns,
            arraySort(arrayMap(m -> toUnixTimestamp64Milli(m.at),
                arrayFilter(m -> m.type IN ('conversation.ended', 'conversation.deleted'), marks))) AS all_closes,
            arrayFilter(at -> at <= as_of_ms, all_closes) AS closes,
            arraySort(arrayConcat(agent, joins)) AS humans,
            arrayFilter(s -> s.kind IN ('stars', 'thumbs'), scores) AS rating_set,
            arrayMap(s -> s.value, arrayFilter(s -> s.kind = 'nps', scores)) AS nps_scores
        FROM facts
    ),
    -- What the source can show, by the metric that needs it.
    sight AS
    (
        SELECT
            source AS seen_source,
            groupArrayIf(metric, empty(missing)) AS shown,
            has(shown, 'visitor_messages') AS sees_visitor,
            has(shown, 'bot_messages') AS sees_bot,
            has(shown, 'agent_messages') AS sees_agent,
            has(shown, 'total_messages') AS sees_messages,
            countIf(metric = 'total_messages' AND notEmpty(unmet)) > 0 AND sees_messages AS misses_messages,
            has(shown, 'reported_total') AS sees_total,
            has(shown, 'message_gap') AS sees_gap,
            has(shown, 'bot_conversations') AS sees_b,
            has(shown, 'handoff_request_rate') AS sees_requested,
            has(shown, 'handoff_rate') AS sees_handled,
            has(shown, 'containment_rate') AS sees_outcome,
            has(shown, 'bot_resolution_rate') AS sees_resolution,
            has(shown, 'first_response_any') AS sees_response_any,
            has(shown, 'first_response_human') AS sees_response_human,
            has(shown, 'time_to_human') AS sees_time_to_human,
            has(shown, 'unanswered_requests') AS sees_unanswered,
            has(shown, 'handle_time') AS sees_handle_time,
            has(shown, 'resolution_time') AS sees_closes,
            has(shown, 'reopen_rate') AS sees_reopening,
            has(shown, 'csat') AS sees_csat,
            has(shown, 'nps') AS sees_nps,
            has(shown, 'surveys_shown') AS sees_surveys,
            has(shown, 'feedback_count') AS sees_feedback,
            has(shown, 'links_clicked') AS sees_links,
            has(shown, 'contacts_submitted') AS sees_contacts,
            has(shown, 'conversations_with_goal') AS sees_goals,
            has(shown, 'consents_accepted') AS sees_accepted,
            has(shown, 'consents_declined') AS sees_declined,
            has(shown, 'deleted_conversations') AS sees_deletion
        FROM source_metrics
        GROUP BY source
    ),
    timeouts AS
    (
        SELECT tenant AS set_tenant, conversation_timeout_seconds AS timeout_seconds
        FROM tenant_settings FINAL
    ),
    judged AS
    (
        SELECT
            t.*,
            o.*,
            notEmpty(requests) AS requested,
            notEmpty(humans) AS human,
            if(requested, requests[1], visitor[1]) AS waiting,
            -- A human began where the first join or agent's message is before all that visitor and bot did.
            human AND arrayAll(at -> humans[1] < at, arrayConcat(visitor, bot, requests)) AS started_by_human,
            notEmpty(visitor) AND (notEmpty(bot) OR requested) AND NOT started_by_human AS in_b,
            last_ms + 1000 * if(ifNull(timeout_seconds, 0) = 0, 86400, timeout_seconds) AS silent_ms,
            notEmpty(closes) OR silent_ms <= as_of_ms AS closed,
            in_b AND closed AS in_c,
            -- "Not before": an answer at the very millisecond of the last question is one.
            notEmpty(visitor) AND NOT arrayExists(at -> at >= visitor[-1], answers) AS unanswered,
            sees_resolution AND arrayExists(r -> r.value >= if(r.kind = 'stars', 4, 1), rating_set) AS positive,
            -- Humans present over time: a join adds one, a leave takes one, a return to the bot or a
            -- close takes all. At the same millisecond in this order, so nothing is negative.
            arrayFold(
                (present, point) -> multiIf(
                    point.2 = 0 AND present.1 = 0, (toInt64(1), point.1, present.3, present.4),
                    point.2 = 0, (present.1 + 1, present.2, present.3, present.4),
                    present.1 = 0, present,
                    point.2 = 1 AND present.1 > 1, (present.1 - 1, present.2, present.3, present.4),
                    (toInt64(0), toInt64(0), present.3 + point.1 - present.2, present.4 + 1)),
                arraySort(arrayConcat(
                    arrayMap(at -> (at, toInt64(0)), joins),
                    arrayMap(at -> (at, toInt64(1)), leaves),
                    arrayMap(at -> (at, toInt64(2)), arrayConcat(returns, closes)))),
                -- humans present, since when, milliseconds of ended presence, ended intervals
                (toInt64(0), toInt64(0), toInt64(0), toInt64(0))) AS presence
        FROM times AS t
        LEFT ANY JOIN sight AS o ON o.seen_source = t.source
        LEFT ANY JOIN timeouts AS s ON s.set_tenant = t.tenant
    )
SELECT
    j.tenant AS tenant,
    j.source AS source,
    j.conversation_id AS conversation_id,
    j.started_at AS started_at,
    j.last_event_at AS last_event_at,
    j.widgets AS widgets,
    j.platforms AS platforms,
    j.languages AS languages,

    -- Messages. total_messages: distinct visitor, bot and agent messages; partial where the source
    -- does not show all of them. message_gap: reported_total - total_messages; positive is lost.
    if(sees_visitor, length(visitor), NULL) AS visitor_messages,
    if(sees_bot, length(bot), NULL) AS bot_messages,
    if(sees_agent, length(agent), NULL) AS agent_messages,
    if(sees_messages, length(messages), NULL) AS total_messages,
    toBool(misses_messages) AS total_messages_partial,
    if(sees_total, j.reported_total, NULL) AS reported_total,
    if(sees_gap, j.reported_total - toInt64(length(messages)), NULL) AS message_gap,
    fromUnixTimestamp64Milli(arrayElementOrNull(visitor, 1), 'UTC') AS first_visitor_message_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(visitor, -1), 'UTC') AS last_visitor_message_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(bot, 1), 'UTC') AS first_bot_message_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(bot, -1), 'UTC') AS last_bot_message_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(agent, 1), 'UTC') AS first_agent_message_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(agent, -1), 'UTC') AS last_agent_message_at,

    -- Handoff and close.
    fromUnixTimestamp64Milli(arrayElementOrNull(requests, 1), 'UTC') AS first_handoff_request_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(joins, 1), 'UTC') AS first_human_join_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(joins, -1), 'UTC') AS last_human_join_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(leaves, -1), 'UTC') AS last_human_leave_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(returns, -1), 'UTC') AS last_bot_return_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(closes, 1), 'UTC') AS first_close_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(closes, -1), 'UTC') AS last_close_at,
    if(sees_deletion, arrayExists(m -> m.type = 'conversation.deleted', marks), NULL) AS deleted,
    closed AS is_closed,

    -- What time alone will change: an open conversation closes by silence, a close becomes old enough
    -- for reopen_rate, a close that is ahead of as_of comes. NULL where that is past. changes_at is the
    -- first of them: until then the row is the same for every later as_of.
    if(closed, NULL, fromUnixTimestamp64Milli(silent_ms, 'UTC')) AS closes_by_silence_at,
    fromUnixTimestamp64Milli(arrayFirstOrNull(at -> at > as_of_ms,
        arrayMap(at -> at + 604800000, arraySlice(closes, 1, 1))), 'UTC') AS reopen_judged_at,
    fromUnixTimestamp64Milli(arrayElementOrNull(arraySort(arrayFilter(at -> at > as_of_ms,
        arrayConcat(if(closed, [], [silent_ms]), arrayMap(at -> at + 604800000, arraySlice(closes, 1, 1)), all_closes))), 1),
        'UTC') AS changes_at,

    -- B, C and the exclusive outcomes of C.
    if(sees_b, in_b, NULL) AS is_bot_conversation,
    if(sees_b, in_c, NULL) AS is_closed_bot_conversation,
    if(sees_requested, in_b AND requested, NULL) AS is_handoff_requested,
    if(sees_handled, in_c AND human, NULL) AS is_handled_by_human,
    if(sees_outcome AND in_c, multiIf(
        requested AND human, 'handed_off',
        requested, 'requested_unserved',
        human, 'human_intervened',
        unanswered, 'abandoned',
        positive, 'bot_resolved',
        'contained_assumed'), NULL) AS outcome,

    -- Durations in milliseconds, never negative; NULL where an end is missing.
    if(sees_response_any AND notEmpty(visitor),
        arrayFirstOrNull(at -> at >= visitor[1], answers) - visitor[1], NULL) AS first_response_any_ms,
    if(sees_response_human AND (requested OR notEmpty(visitor)),
        arrayFirstOrNull(at -> at >= waiting, agent) - waiting, NULL) AS first_response_human_ms,
    if(sees_time_to_human AND requested,
        coalesce(arrayFirstOrNull(at -> at >= requests[1], joins),
                 arrayFirstOrNull(at -> at >= requests[1], agent)) - requests[1], NULL) AS time_to_human_ms,
    if(sees_unanswered, requested AND time_to_human_ms IS NULL, NULL) AS is_request_unanswered,
    if(sees_handle_time AND presence.4 > 0, presence.3, NULL) AS handle_time_ms,
    if(sees_closes AND notEmpty(closes), closes[1] - start_ms, NULL) AS resolution_time_ms,

    -- Reopening: an explicit close at least 7 days old, and a visitor's message after it within 7 days.
    if(sees_reopening, notEmpty(closes) AND as_of_ms - closes[1] >= 604800000, NULL) AS is_reopen_judged,
    if(sees_reopening,
        notEmpty(closes) AND as_of_ms - closes[1] >= 604800000
            AND arrayExists(at -> at > closes[1] AND at - closes[1] <= 604800000, visitor), NULL) AS is_reopened,

    -- What visitors think and do.
    if(sees_surveys, arrayCount(m -> m.type IN ('survey.shown', 'feedback.shown'), marks), NULL) AS surveys_shown,
    if(sees_feedback, arrayCount(m -> m.type = 'feedback.submitted', marks), NULL) AS feedback_count,
    if(sees_csat, length(rating_set), NULL) AS ratings,
    if(sees_csat, arraySum(r -> r.value, rating_set), NULL) AS rating_sum,
    if(sees_csat, arrayCount(r -> r.value >= if(r.kind = 'stars', 4, 1), rating_set), NULL) AS positive_ratings,
    if(sees_nps, length(nps_scores), NULL) AS nps_answers,
    if(sees_nps, arrayCount(v -> v >= 9, nps_scores), NULL) AS nps_promoters,
    if(sees_nps, arrayCount(v -> v <= 6, nps_scores), NULL) AS nps_detractors,
    if(sees_links, arrayCount(m -> m.type = 'link.clicked', marks), NULL) AS links_clicked,
    if(sees_contacts, arrayCount(m -> m.type = 'contact.submitted', marks), NULL) AS contacts_submitted,
    arraySort(arrayMap(g -> g.goal, goal_set)) AS goals,
    -- The last word; at the same millisecond, no.
    transform(
        arraySort(m -> (m.at, m.type = 'consent.declined'),
            arrayFilter(m -> m.type IN ('consent.accepted', 'consent.declined'), marks))[-1].type,
        ['consent.accepted', 'consent.declined'], ['accepted', 'declined'], NULL) AS consent,

    -- Whether the source can show it, for the metrics below.
    sees_outcome AS is_outcome_observable,
    sees_resolution AS is_bot_resolution_observable,
    sees_response_any AS is_first_response_any_observable,
    sees_response_human AS is_first_response_human_observable,
    sees_time_to_human AS is_time_to_human_observable,
    sees_handle_time AS is_handle_time_observable,
    sees_closes AS is_resolution_time_observable,
    sees_goals AS is_goal_observable,
    sees_accepted AS is_acceptance_observable,
    sees_declined AS is_refusal_observable
FROM judged AS j
COMMENT 'One row per conversation, judged at the time as_of. NULL is what its source cannot show, or what did not happen. Version 2';

-- conversations: as of now.
CREATE OR REPLACE VIEW conversations AS
SELECT * FROM {db}.conversations_as_of(as_of = now64(3, 'UTC'))
COMMENT 'One row per conversation, judged as of now. NULL is what its source cannot show, or what did not happen. Version 2';

-- conversation_goals: which goals were reached, and how often.
CREATE OR REPLACE VIEW conversation_goals AS
SELECT
    f.tenant AS tenant,
    f.source AS source,
    f.conversation_id AS conversation_id,
    min(f.started_at) AS started_at,
    reached.goal AS goal,
    toUInt64(count()) AS times
FROM
(
    SELECT tenant, source, conversation_id, min(c.started_at) AS started_at, groupUniqArrayArray(c.goals) AS goals
    FROM conversation_facts AS c
    GROUP BY tenant, source, conversation_id
) AS f
ARRAY JOIN f.goals AS reached
GROUP BY f.tenant, f.source, f.conversation_id, goal
COMMENT 'One row per conversation and goal that it reached, with how often. Version 1';

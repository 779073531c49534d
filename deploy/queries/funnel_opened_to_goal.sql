-- Funnel from widget opened to goal: where do visitors drop out?
--
-- One row per source: page sessions in which the widget was opened, of these those in which the visitor then wrote, was
-- then answered, and reached a goal or left contact details. A step that the source does not show is NULL and is passed
-- over for the next one. Sources whose opening shows no event are not listed.
-- Parameters: tenant, since, until
WITH
    visits AS
    (
        SELECT
            e.source AS source,
            e.session_id AS session_id,
            minIf(e.occurred_at, e.event_type = 'widget.opened') AS opened_at,
            groupArrayIf(e.occurred_at, e.event_type = 'message.sent' AND e.actor = 'visitor') AS wrote,
            maxIf(e.occurred_at, e.event_type = 'message.sent' AND e.actor IN ('bot', 'agent')) AS last_answer,
            maxIf(e.occurred_at, e.goal IS NOT NULL OR e.event_type = 'contact.submitted') AS last_goal
        FROM events AS e
        WHERE e.tenant = {tenant:String}
          AND e.received_at >= {since:DateTime('UTC')} AND e.received_at < {until:DateTime('UTC')}
          AND e.session_id IS NOT NULL
        GROUP BY e.source, e.session_id
        HAVING countIf(e.event_type = 'widget.opened') > 0
    ),
    steps AS
    (
        SELECT
            v.source AS source,
            s.visitor_messages AS sees_wrote,
            s.visitor_messages AND (s.bot_messages OR s.agent_messages) AS sees_answered,
            s.goals OR s.contacts AS sees_goal,
            arrayMin(arrayFilter(at -> at >= v.opened_at, v.wrote)) AS first_wrote,
            arrayExists(at -> at >= v.opened_at, v.wrote) AS has_written,
            has_written AND v.last_answer >= first_wrote AS is_answered,
            v.last_goal >= v.opened_at AND (has_written OR NOT sees_wrote) AND (is_answered OR NOT sees_answered) AS has_goal
        FROM visits AS v
        INNER JOIN sources AS s ON s.source = v.source
    )
SELECT
    source,
    count() AS opened,
    if(any(sees_wrote), countIf(has_written), NULL) AS wrote,
    if(any(sees_answered), countIf(is_answered), NULL) AS answered,
    if(any(sees_goal), countIf(has_goal), NULL) AS reached_goal,
    round(wrote / opened, 3) AS wrote_share,
    round(answered / opened, 3) AS answered_share,
    round(reached_goal / opened, 3) AS goal_share
FROM steps
GROUP BY source
ORDER BY source;

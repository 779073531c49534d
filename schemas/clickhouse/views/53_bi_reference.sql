-- What the rows of the other views stand for.

CREATE OR REPLACE VIEW {bi}.tenants
(
    tenant                       LowCardinality(String)                COMMENT 'Tenant',
    sources                      Array(LowCardinality(String))         COMMENT 'Vendors whose widgets sent something',
    first_received_at            DateTime('UTC')                       COMMENT 'Hour of the first receipt',
    last_received_at             DateTime('UTC')                       COMMENT 'Hour of the last receipt',
    received                     UInt64                                COMMENT 'Records received: accepted + duplicate + rejected',
    accepted                     UInt64                                COMMENT 'Events accepted, each once',
    duplicate                    UInt64                                COMMENT 'Further copies of accepted events',
    rejected                     UInt64                                COMMENT 'Records refused',
    conversation_timeout_seconds UInt32                                COMMENT 'Silence after which a conversation counts as closed'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    h.tenant AS tenant,
    arraySort(groupUniqArrayIf(h.source, h.source != '')) AS sources,
    min(h.hour) AS first_received_at,
    max(h.hour) AS last_received_at,
    sum(h.received) AS received,
    sum(h.accepted) AS accepted,
    sum(h.duplicate) AS duplicate,
    sum(h.rejected) AS rejected,
    any(if(s.conversation_timeout_seconds = 0, 86400, s.conversation_timeout_seconds)) AS conversation_timeout_seconds
FROM event_health_hour AS h
LEFT ANY JOIN (SELECT tenant, conversation_timeout_seconds FROM tenant_settings FINAL) AS s ON s.tenant = h.tenant
WHERE h.tenant != ''
GROUP BY h.tenant
COMMENT 'One row per tenant that has sent something.';

CREATE OR REPLACE VIEW {bi}.sources
(
    source                       LowCardinality(String) COMMENT 'Vendor of the widget',
    conversation_id              Bool COMMENT 'Events name their conversation; where false, the page session stands for it',
    visitor_messages             Bool COMMENT 'Messages of visitors can be seen',
    bot_messages                 Bool COMMENT 'Messages of bots can be seen',
    agent_messages               Bool COMMENT 'Messages of human agents can be seen',
    messages_partial             Bool COMMENT 'Some messages have no event',
    reported_total               Bool COMMENT 'The vendor reports how many messages a conversation has',
    handoff_request              Bool COMMENT 'Requests for a human can be seen',
    human_join                   Bool COMMENT 'A human joining can be seen',
    human_leave                  Bool COMMENT 'A human leaving can be seen',
    bot_return                   Bool COMMENT 'The return to the bot can be seen',
    close                        Bool COMMENT 'The end of a conversation can be seen (ended, archived or deleted)',
    resolve_or_positive_feedback Bool COMMENT 'That a bot solved it can be seen, by an explicit resolve or positive feedback',
    csat                         Bool COMMENT 'Ratings in stars or thumbs come with their value',
    nps                          Bool COMMENT 'Scores from 0 to 10 come with their value',
    feedback                     Bool COMMENT 'That feedback was given can be seen',
    surveys                      Bool COMMENT 'That a survey was shown can be seen',
    goals                        Bool COMMENT 'Goals can be seen',
    contacts                     Bool COMMENT 'That contact details were left can be seen, never the details',
    links                        Bool COMMENT 'Clicks on links can be seen',
    consent                      Bool COMMENT 'Consent can be seen',
    partly                       Array(String) COMMENT 'Of these, what its events show only in part',
    without_conversation         Array(String) COMMENT 'Of these, what its events show without saying of which conversation: seen in events, NULL in conversations and metrics'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT
    source,
    conversation_id,
    visitor_messages,
    bot_messages,
    agent_messages,
    messages_partial,
    reported_total,
    handoff_request,
    human_join,
    human_leave,
    bot_return,
    close,
    resolve_or_positive_feedback,
    csat,
    nps,
    feedback,
    surveys,
    goals,
    contacts,
    links,
    consent,
    partly,
    without_conversation
FROM source_observes FINAL
COMMENT 'One row per source: what its events let be seen. A figure that needs what is false here is NULL.';

CREATE OR REPLACE VIEW {bi}.metric_definitions
(
    metric   LowCardinality(String) COMMENT 'Name, as in conversation_metrics_day',
    position UInt16                 COMMENT 'Place in reports',
    version  UInt16                 COMMENT 'Raised where the meaning of the figure changes',
    kind     LowCardinality(String) COMMENT 'count, rate (0 to 1), score (-1 to 1) or duration',
    unit     LowCardinality(String) COMMENT 'What is counted or measured; ms: milliseconds',
    cohort   String                 COMMENT 'The denominator of a rate, or what a duration is taken of; empty for counts over all conversations',
    title    String                 COMMENT 'Name for people',
    formula  String                 COMMENT 'Definition',
    needs    Array(String)          COMMENT 'What a source must show; without one of them the metric is NULL',
    wants    Array(String)          COMMENT 'What a source should show; without one of them the metric is partial'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT metric, position, version, kind, unit, cohort, title, formula, needs, wants
FROM metric_definitions
COMMENT 'One row per metric: what it means.';

CREATE OR REPLACE VIEW {bi}.source_metrics
(
    source LowCardinality(String) COMMENT 'Vendor of the widget',
    metric LowCardinality(String) COMMENT 'Name, see metric_definitions',
    shown  LowCardinality(String) COMMENT 'yes, partial (the figure may miss some) or no (it is NULL)',
    why    String                 COMMENT 'What the source does not show; empty where all is shown'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT source, metric, observable AS shown, why
FROM source_metrics
COMMENT 'One row per source and metric: whether the source can show it.';

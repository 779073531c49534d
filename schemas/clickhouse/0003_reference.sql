-- What the program knows and the views need. Rows are written again at each start; the newest of a
-- key counts.

-- source_observes: what each source lets be seen, from its definition
-- (schemas/sources): where it happens, an event says so. A metric that needs what is false is NULL.
CREATE TABLE IF NOT EXISTS source_observes
(
    source                       LowCardinality(String),
    conversation_id              Bool COMMENT 'False: the page session stands for the conversation',
    visitor_messages             Bool,
    bot_messages                 Bool,
    agent_messages               Bool,
    messages_partial             Bool COMMENT 'Some messages have no event',
    reported_total               Bool COMMENT 'The vendor''s own count of messages',
    handoff_request              Bool,
    human_join                   Bool,
    human_leave                  Bool,
    bot_return                   Bool,
    close                        Bool COMMENT 'Ended, archived or deleted',
    resolve_or_positive_feedback Bool,
    csat                         Bool COMMENT 'Stars or thumbs with their value',
    nps                          Bool COMMENT 'Scores from 0 to 10',
    feedback                     Bool COMMENT 'That feedback was given, whatever its value',
    surveys                      Bool,
    goals                        Bool,
    contacts                     Bool,
    links                        Bool,
    consent                      Bool,
    written_at                   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree}(written_at)
ORDER BY source
COMMENT 'What each source lets be seen, from its definition';

-- tenant_settings: what a tenant has set otherwise.
CREATE TABLE IF NOT EXISTS tenant_settings
(
    tenant                       LowCardinality(String),
    conversation_timeout_seconds UInt32 COMMENT 'Silence after which a conversation counts as closed',
    written_at                   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:ReplacingMergeTree}(written_at)
ORDER BY tenant
COMMENT 'Settings of tenants that metrics depend on; 24 h of silence where there is no row';

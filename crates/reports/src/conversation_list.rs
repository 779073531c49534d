//! Conversations one by one, newest first: facts and durations, no texts and nobody's name.

use chatpulse_store::{ConversationCursor, ConversationRow, StoreError};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;
use crate::period::{Period, timestamp};

/// A conversation. What its source cannot show, or what did not happen, is null.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Conversation {
    /// Source.
    pub source: String,
    /// Id, unique within tenant and source; the page session where the source has none.
    pub conversation_id: String,
    /// First event.
    pub started_at: Timestamp,
    /// Last event.
    pub last_event_at: Timestamp,
    /// Ended, or silent for the tenant's time.
    pub closed: bool,
    /// `handed_off`, `requested_unserved`, `human_intervened`, `abandoned`, `bot_resolved` or
    /// `contained_assumed`; null but for closed conversations with a bot.
    pub outcome: Option<String>,
    /// Messages of the visitor.
    pub visitor_messages: Option<u64>,
    /// Messages of the bot.
    pub bot_messages: Option<u64>,
    /// Messages of human agents.
    pub agent_messages: Option<u64>,
    /// Messages that were seen; of the actors that the source shows.
    pub total_messages: Option<u64>,
    /// Highest count that the vendor reported.
    pub reported_total: Option<i64>,
    /// reported_total less total_messages: positive ones were lost on the way.
    pub message_gap: Option<i64>,
    /// First handoff request.
    pub handoff_requested_at: Option<Timestamp>,
    /// First human join.
    pub human_joined_at: Option<Timestamp>,
    /// First visitor message to the first answer; milliseconds.
    pub first_response_any_ms: Option<i64>,
    /// Start of waiting to the first agent message; milliseconds.
    pub first_response_human_ms: Option<i64>,
    /// First handoff request to the first human; milliseconds.
    pub time_to_human_ms: Option<i64>,
    /// Time with a human; milliseconds.
    pub handle_time_ms: Option<i64>,
    /// Start to first close; milliseconds.
    pub resolution_time_ms: Option<i64>,
    /// Goals that were met.
    pub goals: Vec<String>,
    /// `accepted` or `declined`.
    pub consent: Option<String>,
    /// Widgets, at most 10.
    pub widgets: Vec<String>,
    /// Languages, at most 10.
    pub languages: Vec<String>,
}

impl Conversation {
    /// Its place in the list of conversations.
    pub fn cursor(&self) -> ConversationCursor {
        ConversationCursor {
            started_ms: self.started_at.as_millisecond(),
            source: self.source.clone(),
            conversation_id: self.conversation_id.clone(),
        }
    }
}

impl From<ConversationRow> for Conversation {
    fn from(row: ConversationRow) -> Self {
        Conversation {
            source: row.source,
            conversation_id: row.conversation_id,
            started_at: timestamp(row.started_ms),
            last_event_at: timestamp(row.last_event_ms),
            closed: row.is_closed,
            outcome: row.outcome,
            visitor_messages: row.visitor_messages,
            bot_messages: row.bot_messages,
            agent_messages: row.agent_messages,
            total_messages: row.total_messages,
            reported_total: row.reported_total,
            message_gap: row.message_gap,
            handoff_requested_at: row.handoff_requested_ms.map(timestamp),
            human_joined_at: row.human_joined_ms.map(timestamp),
            first_response_any_ms: row.first_response_any_ms,
            first_response_human_ms: row.first_response_human_ms,
            time_to_human_ms: row.time_to_human_ms,
            handle_time_ms: row.handle_time_ms,
            resolution_time_ms: row.resolution_time_ms,
            goals: row.goals,
            consent: row.consent,
            widgets: row.widgets,
            languages: row.languages,
        }
    }
}

impl Reports {
    /// Conversations of the tenant that started in the period, as of the last roll-up, newest first,
    /// after a place in that list, at most so many.
    pub async fn conversation_list(
        &self,
        tenant: &str,
        period: Period,
        part: (Option<&ConversationCursor>, u32),
    ) -> Result<Vec<Conversation>, StoreError> {
        let window = period.cohorts().window;
        let found = self.store.conversations(tenant, window, part).await?;
        Ok(found.into_iter().map(Conversation::from).collect())
    }
}

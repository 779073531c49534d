//! The row of table `events`, borrowed from the record that it stands for.

use chatpulse_model::{Actor, Event, Outcome, Phase, ScoreKind, TimeBasis};
use clickhouse::Row;
use serde::Serialize;

/// One row of `events`: the fields of [`Event`] under their own names. Times are milliseconds
/// since the Unix epoch, UTC.
#[derive(Debug, Clone, PartialEq, Row, Serialize)]
#[allow(missing_docs)] // each field is documented at its namesake in `Event`
pub struct EventRow<'a> {
    pub partition: i32,
    pub offset: i64,
    pub outcome: &'a str,
    pub reason: Option<&'a str>,
    pub detail: Option<&'a str>,
    pub rejected_bytes: Option<i64>,
    pub rejected_sha256: Option<&'a str>,
    pub tenant: &'a str,
    pub source: &'a str,
    pub write_key_id: &'a str,
    pub source_event: &'a str,
    pub event_type: &'a str,
    pub actor: &'a str,
    pub documented: bool,
    pub event_id: &'a str,
    pub occurred_at: i64,
    pub time_basis: &'a str,
    pub received_at: i64,
    pub conversation_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub sequence: Option<i64>,
    pub visitor: Option<&'a str>,
    pub widget_id: Option<&'a str>,
    pub platform: Option<&'a str>,
    pub language: Option<&'a str>,
    pub link: Option<&'a str>,
    pub page_url: Option<&'a str>,
    pub sdk: Option<&'a str>,
    pub reported_total: Option<i64>,
    pub score: Option<f64>,
    pub score_kind: Option<&'a str>,
    pub goal: Option<&'a str>,
    pub properties: Vec<(&'a str, &'a str)>,
    pub message_number: Option<i64>,
    pub phase: Option<&'a str>,
    pub response_time_ms: Option<i64>,
    pub message_gap: Option<i64>,
}

impl<'a> From<&'a Event> for EventRow<'a> {
    fn from(event: &'a Event) -> Self {
        EventRow {
            partition: event.partition,
            offset: event.offset,
            outcome: outcome(event.outcome),
            reason: event.reason.map(|reason| reason.as_str()),
            detail: event.detail.as_deref(),
            rejected_bytes: event.rejected_bytes,
            rejected_sha256: event.rejected_sha256.as_deref(),
            tenant: &event.tenant,
            source: &event.source,
            write_key_id: &event.write_key_id,
            source_event: &event.source_event,
            event_type: event.event_type.as_str(),
            actor: actor(event.actor),
            documented: event.documented,
            event_id: &event.event_id,
            occurred_at: event.occurred_at,
            time_basis: time_basis(event.time_basis),
            received_at: event.received_at,
            conversation_id: event.conversation_id.as_deref(),
            session_id: event.session_id.as_deref(),
            sequence: event.sequence,
            visitor: event.visitor.as_deref(),
            widget_id: event.widget_id.as_deref(),
            platform: event.platform.as_deref(),
            language: event.language.as_deref(),
            link: event.link.as_deref(),
            page_url: event.page_url.as_deref(),
            sdk: event.sdk.as_deref(),
            reported_total: event.reported_total,
            score: event.score,
            score_kind: event.score_kind.map(score_kind),
            goal: event.goal.as_deref(),
            properties: event
                .properties
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect(),
            message_number: event.message_number,
            phase: event.phase.map(phase),
            response_time_ms: event.response_time_ms,
            message_gap: event.message_gap,
        }
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Duplicate => "duplicate",
        Outcome::Rejected => "rejected",
    }
}

fn actor(actor: Actor) -> &'static str {
    match actor {
        Actor::Visitor => "visitor",
        Actor::Bot => "bot",
        Actor::Agent => "agent",
        Actor::System => "system",
    }
}

fn time_basis(basis: TimeBasis) -> &'static str {
    match basis {
        TimeBasis::Native => "native",
        TimeBasis::Context => "context",
        TimeBasis::Received => "received",
    }
}

fn score_kind(kind: ScoreKind) -> &'static str {
    match kind {
        ScoreKind::Nps => "nps",
        ScoreKind::Stars => "stars",
        ScoreKind::Thumbs => "thumbs",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Bot => "bot",
        Phase::Waiting => "waiting",
        Phase::Human => "human",
        Phase::Closed => "closed",
    }
}

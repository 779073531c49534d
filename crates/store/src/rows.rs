//! The row of table `events`, borrowed from the record that it stands for.

use chatpulse_model::{Actor, Event, EventType, Outcome, Phase, ScoreKind, TimeBasis};
use clickhouse::Row;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
    pub replay_of_partition: Option<i32>,
    pub replay_of_offset: Option<i64>,
}

/// Reason of the row that stands for a raw record whose outcome cannot be read in chat.events.
pub const OUTCOME_LOST: &str = "outcome_lost";
/// Reason of the row that stands for an outcome that ClickHouse does not take.
pub const REFUSED_BY_STORE: &str = "refused_by_store";

impl<'a> EventRow<'a> {
    /// A rejected row with nothing in it but the position of the raw record and a time; its tenant
    /// is empty, as for raw records that cannot be decoded.
    fn bare(partition: i32, offset: i64, at_ms: i64) -> Self {
        EventRow {
            partition,
            offset,
            outcome: outcome(Outcome::Rejected),
            reason: None,
            detail: None,
            rejected_bytes: None,
            rejected_sha256: None,
            tenant: "",
            source: "",
            write_key_id: "",
            source_event: "",
            event_type: EventType::Unknown.as_str(),
            actor: actor(Actor::System),
            documented: true,
            event_id: "",
            occurred_at: at_ms,
            time_basis: time_basis(TimeBasis::Received),
            received_at: at_ms,
            conversation_id: None,
            session_id: None,
            sequence: None,
            visitor: None,
            widget_id: None,
            platform: None,
            language: None,
            link: None,
            page_url: None,
            sdk: None,
            reported_total: None,
            score: None,
            score_kind: None,
            goal: None,
            properties: Vec::new(),
            message_number: None,
            phase: None,
            response_time_ms: None,
            message_gap: None,
            replay_of_partition: None,
            replay_of_offset: None,
        }
    }

    /// Stands for the raw record at `offset`, whose outcome is lost; `at_ms` is the time of receipt
    /// of the next one.
    pub fn lost(partition: i32, offset: i64, at_ms: i64) -> Self {
        EventRow {
            reason: Some(OUTCOME_LOST),
            detail: Some("its outcome cannot be read in chat.events; replay the raw record"),
            ..Self::bare(partition, offset, at_ms)
        }
    }

    /// Stands for this row, which ClickHouse refused with `refusal`: what tells whose it is and
    /// where it belongs stays, the rest goes.
    pub fn refused(&self, refusal: &'a str) -> Self {
        EventRow {
            tenant: self.tenant,
            source: self.source,
            write_key_id: self.write_key_id,
            conversation_id: self.conversation_id,
            session_id: self.session_id,
            sequence: self.sequence,
            replay_of_partition: self.replay_of_partition,
            replay_of_offset: self.replay_of_offset,
            ..self.refused_altogether(refusal)
        }
    }

    /// Stands for this row where [`EventRow::refused`] is refused as well: its position alone.
    pub fn refused_altogether(&self, refusal: &'a str) -> Self {
        EventRow {
            reason: Some(REFUSED_BY_STORE),
            detail: Some(refusal),
            ..Self::bare(self.partition, self.offset, self.received_at)
        }
    }
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
            replay_of_partition: event.replay_of.map(|of| of.partition),
            replay_of_offset: event.replay_of.map(|of| of.offset),
        }
    }
}

/// A record of chat.events that cannot be decoded: where it stands and how to know it again. Its
/// content is not kept, since it may be personal.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct UndecodableOutcome {
    /// Partition of chat.events.
    pub partition: i32,
    /// Offset in chat.events.
    pub offset: i64,
    /// Kafka's time of the record; milliseconds since the Unix epoch.
    pub appended_at: i64,
    /// Size of the record; 0 for a tombstone.
    pub bytes: i64,
    /// SHA-256 of the record, lower-case hex.
    pub sha256: String,
    /// What is wrong with it, without its content.
    pub detail: String,
}

impl UndecodableOutcome {
    /// The record at `offset` of `partition` with this payload; `None` is a tombstone.
    pub fn new(
        (partition, offset): (i32, i64),
        appended_at: i64,
        payload: Option<&[u8]>,
        detail: String,
    ) -> Self {
        let payload = payload.unwrap_or_default();
        Self {
            partition,
            offset,
            appended_at: appended_at.max(0),
            bytes: i64::try_from(payload.len()).unwrap_or(i64::MAX),
            sha256: format!("{:x}", Sha256::digest(payload)),
            detail,
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

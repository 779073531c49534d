//! Source definitions: vendors as data. See `schemas/sources/*.toml`.
//!
//! ```text
//! item bytes ─ Definition::admit ─► Admitted (redacted, keyed)      producer
//! RawEvent   ─ Definition::map   ─► Mapped   (neutral)              enricher
//! ```

use std::collections::BTreeMap;

use crate::event::{Actor, EventType, Phase, ScoreKind, TimeBasis};

/// An event in neutral terms, before dedup and fold: a pure function of its raw record.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each field is documented at its namesake in `Event`
pub struct Mapped {
    pub source_event: String,
    pub event_type: EventType,
    pub actor: Actor,
    pub documented: bool,
    pub event_id: String,
    pub occurred_at: i64,
    pub time_basis: TimeBasis,
    pub conversation_id: Option<String>,
    pub session_id: Option<String>,
    pub sequence: Option<i64>,
    pub visitor: Option<String>,
    pub widget_id: Option<String>,
    pub platform: Option<String>,
    pub language: Option<String>,
    pub link: Option<String>,
    pub reported_total: Option<i64>,
    pub score: Option<f64>,
    pub score_kind: Option<ScoreKind>,
    pub goal: Option<String>,
    pub properties: BTreeMap<String, String>,
    /// Phase in which a conversation of this source begins; `None` where phases cannot be seen.
    pub initial_phase: Option<Phase>,
}

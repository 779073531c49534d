//! What the enricher writes to `chat.events`: exactly one outcome for every raw record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::raw::{RejectReason, ReplayOf};

/// One record of `chat.events` (Avro: `schemas/avro/event.v2.avsc`).
///
/// All times are milliseconds since the Unix epoch, UTC. `None` means unknown, never zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Partition of `chat.raw` that the raw record stands in.
    pub partition: i32,
    /// Offset of the raw record in that partition.
    pub offset: i64,
    /// What became of the raw record.
    pub outcome: Outcome,
    /// Why it was rejected; `None` for the other outcomes.
    pub reason: Option<RejectReason>,
    /// What was wrong with a rejected record, without its content.
    pub detail: Option<String>,
    /// Size of a rejected item as received; bytes.
    pub rejected_bytes: Option<i64>,
    /// SHA-256 of a rejected item, lower-case hex.
    pub rejected_sha256: Option<String>,
    /// Tenant; empty only where the raw record could not be decoded.
    pub tenant: String,
    /// Source, e.g. `loyjoy`; empty only where the raw record could not be decoded.
    pub source: String,
    /// The write key's identifier.
    pub write_key_id: String,
    /// The vendor's own event name; empty where a rejected item has none.
    pub source_event: String,
    /// Neutral type by the source definition; [`EventType::Unknown`] for rejected records.
    pub event_type: EventType,
    /// Who acted.
    pub actor: Actor,
    /// False where the vendor's event name is not in the source definition (drift).
    pub documented: bool,
    /// Dedup key within tenant and source; empty for rejected records.
    pub event_id: String,
    /// When it happened; for [`TimeBasis::Received`] the time of receipt, the earliest proof of it.
    pub occurred_at: i64,
    /// Where `occurred_at` comes from.
    pub time_basis: TimeBasis,
    /// When the producer received it.
    pub received_at: i64,
    /// Conversation, unique within tenant and source.
    pub conversation_id: Option<String>,
    /// Page session.
    pub session_id: Option<String>,
    /// Number in the page session, from 1.
    pub sequence: Option<i64>,
    /// Pseudonym of the visitor: a keyed hash, never the vendor's own id.
    pub visitor: Option<String>,
    /// The vendor's widget or bot id.
    pub widget_id: Option<String>,
    /// Platform as the vendor names it, e.g. `web`, `whatsapp`.
    pub platform: Option<String>,
    /// Language tag of the conversation or widget.
    pub language: Option<String>,
    /// Link clicked, without query and fragment.
    pub link: Option<String>,
    /// Page address without query and fragment.
    pub page_url: Option<String>,
    /// SDK name and version.
    pub sdk: Option<String>,
    /// The vendor's own count of messages in the conversation so far.
    pub reported_total: Option<i64>,
    /// A rating's value, on the scale of `score_kind`.
    pub score: Option<f64>,
    /// The scale of `score`.
    pub score_kind: Option<ScoreKind>,
    /// Goal reached, by name.
    pub goal: Option<String>,
    /// Remaining kept properties, as text.
    pub properties: BTreeMap<String, String>,
    /// Number of this message in its conversation, from 1, in stream order; messages only.
    pub message_number: Option<i64>,
    /// Phase of the conversation after this event; `None` where the source cannot show it.
    pub phase: Option<Phase>,
    /// On a bot's or agent's message: time since the first visitor message that was still
    /// unanswered; milliseconds, never negative.
    pub response_time_ms: Option<i64>,
    /// `reported_total` minus the messages seen in the stream so far.
    pub message_gap: Option<i64>,
    /// The rejected record that the raw record replays. Since version 2.
    #[serde(default)]
    pub replay_of: Option<ReplayOf>,
}

/// What became of a raw record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// First of its event id.
    Accepted,
    /// Another record with its event id came before.
    Duplicate,
    /// Refused, with a reason.
    Rejected,
}

/// Who acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The person on the website.
    Visitor,
    /// The automatic agent.
    Bot,
    /// The human agent.
    Agent,
    /// The widget or the vendor's system, or not known.
    System,
}

/// Where an event's time comes from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeBasis {
    /// The vendor's payload.
    Native,
    /// The snippet's context.
    Context,
    /// Neither gave one: the time of receipt stands in, and latency is unknown.
    Received,
}

/// Phase of a conversation, as a stream reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The bot leads.
    Bot,
    /// A human was asked for and has not come.
    Waiting,
    /// A human leads.
    Human,
    /// Ended, archived or deleted.
    Closed,
}

/// The scale of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// 0 to 10, "would you recommend".
    Nps,
    /// 1 to 5 stars.
    Stars,
    /// 0 (down) or 1 (up).
    Thumbs,
}

macro_rules! event_types {
    ($($variant:ident = $name:literal,)*) => {
        /// Neutral event types, `noun.verb` (metrics.md, "Event types").
        #[allow(missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventType {
            $(#[serde(rename = $name)] $variant,)*
        }

        impl EventType {
            /// Every type.
            pub const ALL: &[EventType] = &[$(EventType::$variant,)*];

            /// The name used in definitions, records, tables and reports.
            pub fn as_str(self) -> &'static str {
                match self { $(EventType::$variant => $name,)* }
            }

            pub(crate) fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(EventType::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    WidgetDisplayed = "widget.displayed",
    WidgetHidden = "widget.hidden",
    WidgetLoaded = "widget.loaded",
    WidgetOpened = "widget.opened",
    WidgetClosed = "widget.closed",
    ConversationRequested = "conversation.requested",
    ConversationStarted = "conversation.started",
    ConversationResumed = "conversation.resumed",
    ConversationEnded = "conversation.ended",
    ConversationDeleted = "conversation.deleted",
    MessageSent = "message.sent",
    AgentTyping = "agent.typing",
    HandoffRequested = "handoff.requested",
    AgentJoined = "agent.joined",
    AgentLeft = "agent.left",
    BotResumed = "bot.resumed",
    LinkClicked = "link.clicked",
    ConsentAsked = "consent.asked",
    ConsentAccepted = "consent.accepted",
    ConsentDeclined = "consent.declined",
    ContactSubmitted = "contact.submitted",
    SurveyShown = "survey.shown",
    SurveySubmitted = "survey.submitted",
    FeedbackShown = "feedback.shown",
    FeedbackSubmitted = "feedback.submitted",
    FeedbackCancelled = "feedback.cancelled",
    LeadQualified = "lead.qualified",
    FollowupScheduled = "followup.scheduled",
    FollowupInferred = "followup.inferred",
    AppointmentScheduled = "appointment.scheduled",
    GoalMet = "goal.met",
    ProactiveOffered = "proactive.offered",
    TranscriptOffered = "transcript.offered",
    TranscriptAccepted = "transcript.accepted",
    TranscriptDeclined = "transcript.declined",
    OptinAsked = "optin.asked",
    OptinSingle = "optin.single",
    OptinDouble = "optin.double",
    OptinOut = "optin.out",
    OptinRejected = "optin.rejected",
    AuthRequested = "auth.requested",
    AuthChallenged = "auth.challenged",
    AuthSucceeded = "auth.succeeded",
    AuthFailed = "auth.failed",
    AuthSignedUp = "auth.signed_up",
    AuthSignedIn = "auth.signed_in",
    AuthSignedOut = "auth.signed_out",
    ErrorShown = "error.shown",
    Custom = "custom",
    Unknown = "unknown",
}

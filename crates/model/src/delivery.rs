//! What the deliverer writes: attempts, waiting retries, how far it has come, and what it remembers of
//! destinations.

use serde::{Deserialize, Serialize};

/// One record of `chat.deliveries` (Avro: `schemas/avro/delivery.v1.avsc`): an attempt, or an end
/// without one.
///
/// Every delivery that was begun ends with exactly one result that [is final](DeliveryResult::is_final);
/// after a crash or a replay a delivery may be tried again, and then its records repeat under the same
/// id. All times are milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Stable: a hash of tenant, destination, source and event id. Receivers drop repeats by it.
    pub delivery_id: String,
    /// Tenant.
    pub tenant: String,
    /// The tenant's own name for the destination.
    pub destination: String,
    /// What kind of receiver it is.
    pub kind: DestinationKind,
    /// Source of the event.
    pub source: String,
    /// Neutral type of the event.
    pub event_type: String,
    /// Its id.
    pub event_id: String,
    /// Partition of the event's raw record in `chat.raw`.
    pub partition: i32,
    /// Offset of the raw record there.
    pub offset: i64,
    /// When the event happened.
    pub occurred_at: i64,
    /// When the producer received it.
    pub received_at: i64,
    /// Which turn of the delivery this is, from 1.
    pub attempt: i32,
    /// When the attempt began.
    pub at: i64,
    /// From the resolving of the name to the end of the answer; milliseconds. `None` where no request was made.
    pub duration_ms: Option<i64>,
    /// What came of it.
    pub result: DeliveryResult,
    /// Class of the failure; `None` where delivered.
    pub failure: Option<FailureClass>,
    /// HTTP status, where there was an answer.
    pub status: Option<i32>,
    /// What happened, without secrets and without content.
    pub detail: Option<String>,
    /// When the next attempt is due, at the earliest; for [`DeliveryResult::Retrying`] only.
    pub next_at: Option<i64>,
    /// Whether an operator asked for this delivery again.
    pub replayed: bool,
}

/// Kinds of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationKind {
    /// Standard Webhooks.
    Webhook,
    /// Google Analytics 4, Measurement Protocol.
    Ga4,
    /// Meta Conversions API.
    Meta,
}

impl DestinationKind {
    /// The name in configuration, records and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Ga4 => "ga4",
            Self::Meta => "meta",
        }
    }
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryResult {
    /// The receiver said that it has it.
    Delivered,
    /// Not yet; another turn is scheduled.
    Retrying,
    /// Never, unless it is replayed.
    GivenUp,
    /// Not sent for want of consent. No failure.
    Withheld,
}

impl DeliveryResult {
    /// Whether no further turn follows.
    pub fn is_final(self) -> bool {
        match self {
            Self::Delivered | Self::GivenUp | Self::Withheld => true,
            Self::Retrying => false,
        }
    }

    /// The name in records and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retrying => "retrying",
            Self::GivenUp => "given_up",
            Self::Withheld => "withheld",
        }
    }
}

macro_rules! failure_classes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why an attempt did not deliver: a closed list, so that a report can name each of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum FailureClass {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl FailureClass {
            /// Every class.
            pub const ALL: &[FailureClass] = &[$(FailureClass::$variant,)*];

            /// The name used in records, tables and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(FailureClass::$variant => $name,)* }
            }
        }
    };
}

failure_classes! {
    /// The host's name could not be resolved.
    Dns = "dns",
    /// No TCP connection to any of the host's addresses.
    Connect = "connect",
    /// TLS failed: certificate, name, or protocol.
    Tls = "tls",
    /// The attempt took too long, at whichever step.
    Timeout = "timeout",
    /// The connection broke, or the answer was no HTTP.
    Protocol = "protocol",
    /// Every address of the host is one that requests must not go to.
    Blocked = "blocked",
    /// A redirect; none is followed.
    Redirect = "redirect",
    /// 410: the receiver wants no more. The destination is disabled.
    Gone = "gone",
    /// 429.
    RateLimited = "rate_limited",
    /// 4xx that speaks of the request: sent again it would be refused again.
    Refused = "refused",
    /// Any other 4xx: credentials, rights, path.
    Http4xx = "http_4xx",
    /// 5xx.
    Http5xx = "http_5xx",
    /// Any other status.
    HttpOther = "http_other",
    /// No request was made, because the destination's circuit breaker is open.
    CircuitOpen = "circuit_open",
    /// No request was made, because the destination is disabled.
    Disabled = "disabled",
    /// No request was made, because the destination is not in the configuration any more.
    Removed = "removed",
    /// No request was made, because the event does not fit what the receiver documents.
    Invalid = "invalid",
    /// No request was made, because consent is not proven.
    ConsentUnknown = "consent_unknown",
    /// No request was made, because consent was declined.
    ConsentDeclined = "consent_declined",
}

/// A delivery that waits for its next turn (Avro: `schemas/avro/retry.v2.avsc`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Tenant.
    pub tenant: String,
    /// Destination.
    pub destination: String,
    /// Its kind.
    pub kind: DestinationKind,
    /// How many turns it has had; 0 for a replay.
    pub attempts: i32,
    /// Not to be tried before; milliseconds since the epoch.
    pub due_at: i64,
    /// Class of the last failure.
    pub last: Option<FailureClass>,
    /// Whether an operator asked for it.
    pub replayed: bool,
    /// The event as it stands in `chat.events`, framing included.
    #[serde(with = "serde_bytes")]
    pub event: Vec<u8>,
    /// What was known of consent in the event's conversation when its last turn began, where the
    /// destination needs it: accepted or declined. Whoever has the next turn may not have read that part of
    /// `chat.events`.
    #[serde(default)]
    pub consent: Option<bool>,
}

/// How far the deliveries of one partition of `chat.events` have come (Avro:
/// `schemas/avro/cursors.v1.avsc`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursors {
    /// For every destination that is not in `behind`: every event below is delivered, given up,
    /// withheld, or durably scheduled.
    pub next: Cursor,
    /// Destinations with open deliveries below `next`.
    pub behind: Vec<Behind>,
    /// Every destination, as `tenant/destination`: one that is not among them is new, and begins at the
    /// end of the log.
    pub known: Vec<String>,
}

/// A place in one partition of `chat.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// Offset in `chat.events`.
    pub offset: i64,
    /// First raw offset whose outcome was not seen before it ([`crate::watermark`]).
    pub raw: i64,
}

/// A destination that has open deliveries below the common cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Tenant.
    pub tenant: String,
    /// Destination.
    pub destination: String,
    /// Its own cursor.
    pub next: Cursor,
}

/// What a destination is and has come to; remembered over restarts (Avro:
/// `schemas/avro/destination.v1.avsc`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationState {
    /// Tenant.
    pub tenant: String,
    /// Destination.
    pub destination: String,
    /// Its kind.
    pub kind: DestinationKind,
    /// Hash of where it points: the state of another address is void.
    pub address: String,
    /// Neutral types that it gets; empty for all.
    pub event_types: Vec<String>,
    /// False once it has left the configuration.
    pub is_configured: bool,
    /// First failure after the last success; milliseconds since the epoch.
    pub failing_since: Option<i64>,
    /// When it was disabled; milliseconds since the epoch.
    pub disabled_at: Option<i64>,
    /// Why: `gone` or `failing`.
    pub reason: Option<String>,
}

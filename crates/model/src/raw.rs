//! What the producer writes to `chat.raw`: one record for every item of a known tenant,
//! whether it was taken or refused. Nothing in it is personal: redaction comes before it.

use serde::{Deserialize, Serialize};

/// One record of `chat.raw` (Avro: `schemas/avro/raw_event.v2.avsc`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RawEvent {
    /// Tenant that the write key belongs to.
    pub tenant: String,
    /// Source named in the request path, e.g. `watermelon`.
    pub source: String,
    /// Identifier of the write key, never the key itself.
    pub write_key_id: String,
    /// When the producer received the item; milliseconds since the Unix epoch, UTC.
    pub received_at: i64,
    /// What the page snippet or SDK says about the item.
    pub context: Context,
    /// The item itself, or why it was refused.
    pub body: RawBody,
    /// The rejected record that this one replays (`chatpulse rejected replay`); `None` for all that
    /// comes in over HTTP. Since version 2.
    #[serde(default)]
    pub replay_of: Option<ReplayOf>,
}

/// A rejected record, by its position, that is given to the pipeline again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayOf {
    /// Partition of `chat.raw`.
    pub partition: i32,
    /// Offset in that partition.
    pub offset: i64,
}

/// What the page snippet adds to a vendor's event; every part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Identifier minted by the snippet, stable over retries.
    pub event_id: Option<String>,
    /// Page session.
    pub session_id: Option<String>,
    /// Number of the event in its session, from 1, without holes when nothing is lost.
    pub sequence: Option<i64>,
    /// When the event happened by the browser's clock; milliseconds since the Unix epoch.
    pub occurred_at: Option<i64>,
    /// When the batch was sent by the browser's clock; milliseconds since the Unix epoch.
    pub sent_at: Option<i64>,
    /// Page address without query and fragment.
    pub page_url: Option<String>,
    /// SDK name and version, e.g. `chatpulse.js/1.0`.
    pub sdk: Option<String>,
}

/// The two kinds of raw record; an Avro union tells them apart by the full name of its branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RawBody {
    /// An item that passed validation, redacted.
    #[serde(rename = "chatpulse.Native")]
    Native(NativePayload),
    /// An item that did not; its content is not kept.
    #[serde(rename = "chatpulse.Rejection")]
    Rejection(Rejection),
}

/// A redacted vendor payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativePayload {
    /// The payload as one JSON object, personal fields dropped, pseudonymised or masked.
    pub json: String,
    /// What redaction did, as `treatment:path` (for example `drop:userEmail`), bounded and sorted.
    pub redactions: Vec<String>,
}

/// Why an item was refused. Size and hash let a sender find the item in its own logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The class of the fault.
    pub reason: RejectReason,
    /// What was wrong and what to do, without content of the item.
    pub detail: String,
    /// Size of the item as received; bytes.
    pub bytes: i64,
    /// SHA-256 of the item as received, lower-case hex; empty where the bytes were not to be had.
    pub sha256: String,
}

macro_rules! reject_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Classes of refusal: a closed list, so that a report can name each of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum RejectReason {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl RejectReason {
            /// Every reason.
            pub const ALL: &[RejectReason] = &[$(RejectReason::$variant,)*];

            /// The name used in answers, tables and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(RejectReason::$variant => $name,)* }
            }

            pub(crate) fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(RejectReason::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

reject_reasons! {
    /// The item is no valid JSON text.
    InvalidJson = "invalid_json",
    /// The item is JSON, but no object.
    NotAnObject = "not_an_object",
    /// The item is larger than the tenant's limit.
    TooLarge = "too_large",
    /// The item is nested too deeply or has too many keys.
    TooComplex = "too_complex",
    /// The place where the source keeps the event's name is empty or absent.
    MissingEventName = "missing_event_name",
    /// The event's name is no string, is empty, or is too long.
    InvalidEventName = "invalid_event_name",
    /// A time is there and cannot be read.
    InvalidTime = "invalid_time",
    /// A time can be read and cannot be true: before 2010, or over 24 h after receipt.
    TimeOutOfRange = "time_out_of_range",
    /// The context is there and is not what it must be.
    InvalidContext = "invalid_context",
    /// A field of the payload has a type or value that its source does not allow.
    InvalidField = "invalid_field",
    /// The raw record cannot be decoded (enricher).
    Undecodable = "undecodable",
    /// The raw record names a source that the enricher does not know.
    UnknownSource = "unknown_source",
}

//! The pure core of chatpulse: no I/O, no clock, no randomness.
//!
//! ```text
//! item bytes ─ source::admit ─► RawEvent ─ avro ─► chat.raw
//!   (parse, validate, redact)
//! chat.raw ─ avro ─► RawEvent ─ source::map ─► Mapped ─ fold ─► Event ─ avro ─► chat.events
//! ```
//!
//! [`raw`] and [`event`] hold the two record types, [`delivery`] those of the deliverer, [`avro`] their wire form,
//! [`source`] the vendor definitions with redaction and mapping, [`fold`] the deterministic conversation fold,
//! [`watermark`] the readers' rule.

pub mod avro;
pub mod delivery;
pub mod event;
pub mod fold;
pub mod raw;
pub mod source;
pub mod watermark;

pub use delivery::{Delivery, DeliveryResult, DestinationKind, FailureClass};
pub use event::{Actor, Event, EventType, Outcome, Phase, ScoreKind, TimeBasis};
pub use raw::{Context, NativePayload, RawBody, RawEvent, RejectReason, Rejection, ReplayOf};

//! Source definitions: vendors as data. See `schemas/sources/*.toml`.
//!
//! ```text
//! item bytes ─ Definition::admit ─► Admitted (redacted, keyed)      producer
//! RawEvent   ─ Definition::map   ─► Mapped   (neutral)              enricher
//! ```
//!
//! `admit`: `json` parses within bounds ─► the envelope is taken off ─► `redact` validates and
//! redacts in one walk ─► the rest is the raw record, as canonical JSON (sorted keys, ids as text,
//! times as milliseconds), and its Kafka key. `view` reads a redacted payload: `admit` for the key,
//! `map` for everything.

mod catalog;
mod definition;
mod json;
mod mask;
mod page;
mod pseudonym;
mod redact;
mod time;
mod url;
mod view;

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    event::{Actor, EventType, Phase, ScoreKind, TimeBasis},
    raw::{Context, NativePayload, RawBody, RawEvent, RejectReason, Rejection},
};

pub use catalog::Catalog;
pub use definition::{
    Definition, DefinitionError, EventDefinition, MAX_NAME_CHARS, MAX_PROPERTIES, Observes,
    Treatment,
};
pub use json::{MAX_DEPTH, MAX_KEYS};
pub use page::{Callback, Listener, Page, PageRules};
pub use pseudonym::{MIN_SALT_BYTES, PSEUDONYM_CHARS, Pseudonyms, SaltTooShort};
pub use redact::{MAX_ID_CHARS, MAX_REDACTIONS, MAX_TEXT_CHARS};
pub use time::{EARLIEST_MS, MAX_AHEAD_MS};

use json::{Json, Object};
use redact::Redactor;
use view::{View, first};

/// Largest item taken where the tenant has no limit of its own; bytes.
pub const DEFAULT_MAX_ITEM_BYTES: usize = 64 * 1024;

/// An event in neutral terms, before dedup and fold: a pure function of its raw record.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// What the producer knows of an item besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Receipt<'a> {
    /// Tenant that the write key belongs to; without NUL.
    pub tenant: &'a str,
    /// Identifier of the write key, never the key itself.
    pub write_key_id: &'a str,
    /// When the item was received; milliseconds since the Unix epoch, UTC.
    pub received_at: i64,
    /// The tenant's pseudonym key.
    pub pseudonyms: &'a Pseudonyms,
    /// The tenant's limit; bytes.
    pub max_item_bytes: usize,
}

/// An item's raw record, taken or refused, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// The record; its body is a [`Rejection`] where the item was refused.
    pub record: RawEvent,
    /// The record's Kafka key: tenant, source, and the conversation, else the session, else the
    /// event, or of a refused item its hash. Every copy of an event has the same key.
    pub key: Vec<u8>,
}

/// Why an item cannot be taken, before its size and hash are added.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    reason: RejectReason,
    /// Says what to do and holds nothing of the item.
    detail: Cow<'static, str>,
}

impl Fault {
    fn new(reason: RejectReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    fn of(self, item: &[u8]) -> Rejection {
        Rejection {
            reason: self.reason,
            detail: self.detail.into_owned(),
            bytes: item.len() as i64,
            sha256: hex::encode(Sha256::digest(item)),
        }
    }
}

/// An item with its envelope, if it has one, taken off.
struct Item<'a> {
    native: Object<'a>,
    context: Json<'a>,
}

impl<'a> Item<'a> {
    /// An envelope has a `native` object and at most a `context` beside it; everything else is a
    /// native payload.
    fn parse(item: &'a [u8]) -> Result<Self, Fault> {
        let Json::Object(mut object) = json::parse(item)? else {
            return Err(Fault::new(
                RejectReason::NotAnObject,
                "the item is JSON but no object: send one object per event",
            ));
        };
        let members = 1 + usize::from(object.get("context").is_some());
        let enveloped = matches!(object.get("native"), Some(Json::Object(_)));
        if enveloped && object.len() == members {
            let context = object.remove("context").unwrap_or(Json::Null);
            if let Some(Json::Object(native)) = object.remove("native") {
                return Ok(Item { native, context });
            }
        }
        Ok(Item {
            native: object,
            context: Json::Null,
        })
    }
}

impl Definition {
    /// Validates and redacts one item (a native payload, or `{"native": …, "context": …}`).
    ///
    /// Never fails: a refused item is a record too. Of several faults the first counts, in the
    /// order size, JSON, complexity, object, context, name, time, fields.
    pub fn admit(&self, item: &[u8], receipt: &Receipt) -> Admitted {
        let mut context = Context::default();
        let (body, key) = match self.take(item, receipt, &mut context) {
            Ok((native, key)) => (RawBody::Native(native), key),
            Err(fault) => {
                let rejection = fault.of(item);
                let key = self.key(receipt.tenant, "r", &rejection.sha256);
                (RawBody::Rejection(rejection), key)
            }
        };
        let record = RawEvent {
            tenant: receipt.tenant.to_owned(),
            source: self.name().to_owned(),
            write_key_id: receipt.write_key_id.to_owned(),
            received_at: receipt.received_at,
            context,
            body,
            replay_of: None,
        };
        Admitted { record, key }
    }

    /// The redacted payload and its key. What is valid of the context is kept whatever happens.
    fn take(
        &self,
        item: &[u8],
        receipt: &Receipt,
        context: &mut Context,
    ) -> Result<(NativePayload, Vec<u8>), Fault> {
        if item.len() > receipt.max_item_bytes {
            return Err(Fault::new(
                RejectReason::TooLarge,
                format!(
                    "the item has {} bytes and the limit is {}: send less",
                    item.len(),
                    receipt.max_item_bytes
                ),
            ));
        }
        let item = Item::parse(item)?;
        let mut redactor = Redactor::new(self, receipt);
        *context = redactor.context(&item.context);
        let payload = Json::Object(redactor.native(item.native));
        let redactions = redactor.finish(&payload)?;
        let json = payload.to_string();
        let view = View {
            definition: self,
            tenant: receipt.tenant,
            context,
            payload: &payload,
            json: &json,
        };
        let key = if let Some(id) = view.conversation_id() {
            self.key(receipt.tenant, "c", id)
        } else if let Some(id) = view.session_id() {
            self.key(receipt.tenant, "s", id)
        } else {
            self.key(receipt.tenant, "e", &view.event_id())
        };
        Ok((NativePayload { json, redactions }, key))
    }

    /// No part can hold the separator: control characters are refused in ids.
    fn key(&self, tenant: &str, kind: &str, id: &str) -> Vec<u8> {
        [tenant, self.name(), kind, id].join("\0").into_bytes()
    }

    /// Reads a raw record in neutral terms. Fails with the record's own rejection, or where its
    /// payload is not what [`Definition::admit`] writes.
    pub fn map(&self, raw: &RawEvent) -> Result<Mapped, Rejection> {
        let native = match &raw.body {
            RawBody::Native(native) => native,
            RawBody::Rejection(rejection) => return Err(rejection.clone()),
        };
        let refuse = |fault: Fault| fault.of(native.json.as_bytes());
        let payload = json::parse(native.json.as_bytes())
            .map_err(|fault| refuse(Fault::new(RejectReason::Undecodable, fault.detail)))?;
        let view = View {
            definition: self,
            tenant: &raw.tenant,
            context: &raw.context,
            payload: &payload,
            json: &native.json,
        };
        view.map(raw.received_at).ok_or_else(|| {
            refuse(Fault::new(
                RejectReason::Undecodable,
                "the raw record has no event name: it was not written by this source's definition",
            ))
        })
    }

    /// Whether a native payload looks like this vendor's.
    fn recognises(&self, payload: &Json) -> bool {
        let recognise = &self.document.recognise;
        let name = first(&self.document.paths.name, payload).and_then(Json::text);
        recognise
            .present
            .iter()
            .all(|path| path.of(payload).is_some())
            && name.is_some_and(|name| {
                name.starts_with(&recognise.name_prefix) && name.ends_with(&recognise.name_suffix)
            })
    }
}

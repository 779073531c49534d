//! From an event to the request that a receiver documents. Pure: the time is given.

pub(crate) mod ga4;
pub(crate) mod meta;
pub(crate) mod webhook;

use std::fmt;

use chatpulse_model::Event;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::destination::{Destination, Receiver};

/// A POST, ready to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to; may hold secrets.
    pub(crate) url: Url,
    /// Beside `host`, `content-length`, `content-type: application/json` and `user-agent`.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// JSON.
    pub(crate) body: Vec<u8>,
}

/// The address may hold secrets, and the body is the visitor's.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("host", &self.url.host_str())
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why an event does not fit what the receiver documents. Without content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub(crate) String);

impl Unfit {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The request that delivers `event` at `at`.
///
/// # Errors
/// [`Unfit`] where the receiver would not take it, or would make something else of it.
pub fn build(destination: &Destination, event: &Event, at: Timestamp) -> Result<Request, Unfit> {
    match &destination.receiver {
        Receiver::Webhook { url, keys } => {
            let id = destination.delivery_id(&event.source, &event.event_id);
            let body = webhook::payload(event)?;
            Ok(webhook::signed((url, keys), &id, body, at))
        }
        Receiver::Ga4 { .. } => ga4::build(destination, event, at),
        Receiver::Meta { .. } => meta::build(destination, event, at),
    }
}

/// Who the visitor is to a third party: a hash under the tenant's name of what the source shows of them, so
/// that neither vendor ids nor our pseudonyms leave, and no two tenants share one.
fn visitor_id(event: &Event) -> Option<[u8; 32]> {
    let known = [
        ("visitor", &event.visitor),
        ("session", &event.session_id),
        ("conversation", &event.conversation_id),
    ];
    let (kind, id) = known
        .into_iter()
        .find_map(|(kind, id)| id.as_ref().map(|id| (kind, id)))?;
    let parts = format!("{}\n{}\n{kind}\n{id}", event.tenant, event.source);
    Some(Sha256::digest(parts).into())
}

/// When it happened, as far as third parties are told: a visitor's clock may be ahead, and both take no time
/// to come.
fn happened_at(event: &Event) -> i64 {
    event.occurred_at.min(event.received_at)
}

/// `autochat` → `Autochat`.
fn capitalised(source: &str) -> String {
    let mut chars = source.chars();
    chars
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(chars)
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use chatpulse_model::{
        RawEvent,
        avro::{Codec, Framing},
        fold::{Horizon, PartitionFold, Position, read},
        source::{Catalog, DEFAULT_MAX_ITEM_BYTES, Pseudonyms, Receipt},
    };
    use serde_json::json;

    use super::*;
    use crate::destination::tests::{GA4, META, WEBHOOK, one};

    /// 2026-01-15 10:30 UTC, half an hour after the goldens.
    pub(crate) const AT: &str = "2026-01-15T10:30:00Z";

    pub(crate) fn event() -> Event {
        serde_json::from_value(json!({
            "partition": 3, "offset": 42, "outcome": "accepted", "tenant": "acme",
            "source": "autochat", "write_key_id": "web",
            "source_event": "autochat.lead_qualified.v1", "event_type": "lead.qualified",
            "actor": "system", "documented": true, "event_id": "7d0c1c9e-5b1f-4a64-9d2e-6f0b8a1c3e01",
            "occurred_at": 1_768_471_290_250i64, "time_basis": "native",
            "received_at": 1_768_471_291_000i64, "conversation_id": "c-1", "session_id": "ws_6Yb2",
            "page_url": "https://acme.example/prices", "goal": "lead_qualified",
            "properties": {"scope": "chat_widget_tracking", "trigger_source": "ai_evaluation"}
        }))
        .unwrap()
    }

    /// The accepted golden events of a source.
    pub(crate) fn goldens(source: &str) -> Vec<Event> {
        let path = format!(
            "{}/../../schemas/sources/{source}.golden.ndjson",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(path).unwrap();
        let definition = Catalog::builtin().get(source).unwrap();
        let raw = Codec::<RawEvent>::new(Framing::SingleObject).unwrap();
        let mut fold = PartitionFold::new(0, Horizon::default());
        let received_at = 1_768_471_800_000; // 2026-01-15 10:10 UTC
        (0..)
            .zip(text.lines())
            .map(|(offset, native)| {
                let item = format!(
                    r#"{{"native":{native},"context":{{"event_id":"e{offset}","session_id":"s1","page_url":"https://acme.example/p"}}}}"#
                );
                let pseudonyms = Pseudonyms::new(b"a salt for tests only").unwrap();
                let receipt = Receipt {
                    tenant: "acme",
                    write_key_id: "web",
                    received_at,
                    pseudonyms: &pseudonyms,
                    max_item_bytes: DEFAULT_MAX_ITEM_BYTES,
                };
                let record = definition.admit(item.as_bytes(), &receipt).record;
                let bytes = raw.encode(&record).unwrap();
                let position = Position {
                    offset,
                    timestamp_ms: received_at + offset,
                };
                fold.apply(position, read(&bytes, &raw, Catalog::builtin()))
            })
            .filter(|event| event.outcome == chatpulse_model::Outcome::Accepted)
            .collect()
    }

    /// What is sent of each golden of each source, without the signature.
    fn shown(entry: &str, source: &str) -> String {
        let destination = one(entry);
        goldens(source)
            .iter()
            .map(
                |event| match build(&destination, event, AT.parse().unwrap()) {
                    Ok(request) => {
                        let body: serde_json::Value =
                            serde_json::from_slice(&request.body).unwrap();
                        format!("{}\n    {body}\n", event.source_event)
                    }
                    Err(unfit) => format!("{}\n    not sent: {unfit}\n", event.source_event),
                },
            )
            .collect()
    }

    #[test]
    fn goldens_of_every_source_become_the_requests_that_were_reviewed() {
        for (kind, entry) in [("webhook", WEBHOOK), ("ga4", GA4), ("meta", META)] {
            for source in ["algomo", "autochat", "loyjoy", "userlike", "watermelon"] {
                insta::assert_snapshot!(format!("{kind}_{source}"), shown(entry, source));
            }
        }
    }

    #[test]
    fn a_request_shows_neither_address_nor_body() {
        for entry in [WEBHOOK, GA4, META] {
            let request = build(&one(entry), &event(), AT.parse().unwrap()).unwrap();
            let shown = format!("{request:?}");
            for secret in ["hunter2", "ws_6Yb2", "c-1", "token"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn no_third_party_is_told_of_a_time_to_come() {
        let mut event = event();
        event.occurred_at = event.received_at + 24 * 60 * 60 * 1_000;
        let sent = |entry| {
            let request = build(&one(entry), &event, AT.parse().unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&request.body).unwrap()
        };
        assert_eq!(sent(GA4)["timestamp_micros"], event.received_at * 1_000);
        assert_eq!(
            sent(META)["data"][0]["event_time"],
            event.received_at / 1_000
        );
    }

    #[test]
    fn what_a_third_party_learns_of_the_visitor_is_a_hash_of_the_tenants_own() {
        let mut event = event();
        let acme = visitor_id(&event).unwrap();
        event.tenant = "other".to_owned();
        assert_ne!(visitor_id(&event).unwrap(), acme);
        for entry in [GA4, META] {
            let request = build(&one(entry), &event, AT.parse().unwrap()).unwrap();
            let body = String::from_utf8(request.body).unwrap();
            assert!(!body.contains("ws_6Yb2"), "{body}");
        }
    }
}

//! Standard Webhooks (standardwebhooks.com, specification 1.0).
//!
//! `webhook-id` stays the same over all attempts; `webhook-timestamp` is that of the attempt;
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, once per valid
//! key, separated by a space, so that receivers can change over to a new key at their leisure.
//! The payload follows `schemas/webhook/event.v1.schema.json`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chatpulse_model::{Event, Phase, ScoreKind, TimeBasis};
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use serde::Serialize;
use sha2::Sha256;
use url::Url;

use super::{Request, Unfit};
use crate::destination::SigningKey;

/// What the specification calls the envelope.
#[derive(Serialize)]
struct Payload<'a> {
    /// The neutral event type.
    r#type: &'a str,
    /// When it happened.
    timestamp: Timestamp,
    data: Data<'a>,
}

/// The event. What is unknown is left out.
#[derive(Serialize)]
struct Data<'a> {
    event_id: &'a str,
    tenant: &'a str,
    source: &'a str,
    source_event: &'a str,
    actor: chatpulse_model::Actor,
    documented: bool,
    time_basis: TimeBasis,
    received_at: Timestamp,
    #[serde(flatten)]
    known: Known<'a>,
    properties: &'a std::collections::BTreeMap<String, String>,
}

macro_rules! known {
    ($($field:ident: $type:ty = $value:expr;)*) => {
        #[derive(Serialize)]
        struct Known<'a> { $(#[serde(skip_serializing_if = "Option::is_none")] $field: Option<$type>,)* }

        impl<'a> Known<'a> {
            fn of(event: &'a Event) -> Self {
                Self { $($field: $value(event),)* }
            }
        }
    };
}

known! {
    conversation_id: &'a str = |event: &'a Event| event.conversation_id.as_deref();
    session_id: &'a str = |event: &'a Event| event.session_id.as_deref();
    sequence: i64 = |event: &'a Event| event.sequence;
    visitor: &'a str = |event: &'a Event| event.visitor.as_deref();
    widget_id: &'a str = |event: &'a Event| event.widget_id.as_deref();
    platform: &'a str = |event: &'a Event| event.platform.as_deref();
    language: &'a str = |event: &'a Event| event.language.as_deref();
    link: &'a str = |event: &'a Event| event.link.as_deref();
    page_url: &'a str = |event: &'a Event| event.page_url.as_deref();
    reported_total: i64 = |event: &'a Event| event.reported_total;
    score: f64 = |event: &'a Event| event.score;
    score_kind: ScoreKind = |event: &'a Event| event.score_kind;
    goal: &'a str = |event: &'a Event| event.goal.as_deref();
    message_number: i64 = |event: &'a Event| event.message_number;
    phase: Phase = |event: &'a Event| event.phase;
    response_time_ms: i64 = |event: &'a Event| event.response_time_ms;
    message_gap: i64 = |event: &'a Event| event.message_gap;
}

/// The payload of an event.
pub(crate) fn payload(event: &Event) -> Result<Vec<u8>, Unfit> {
    let time = |ms| {
        Timestamp::from_millisecond(ms).map_err(|_| Unfit::new("a time is out of every calendar"))
    };
    let payload = Payload {
        r#type: event.event_type.as_str(),
        timestamp: time(event.occurred_at)?,
        data: Data {
            event_id: &event.event_id,
            tenant: &event.tenant,
            source: &event.source,
            source_event: &event.source_event,
            actor: event.actor,
            documented: event.documented,
            time_basis: event.time_basis,
            received_at: time(event.received_at)?,
            known: Known::of(event),
            properties: &event.properties,
        },
    };
    serde_json::to_vec(&payload).map_err(|error| Unfit::new(error.to_string()))
}

/// Type of the payload that tests a destination.
pub(crate) const TEST_TYPE: &str = "chatpulse.test";

/// A payload that is no event, to see whether a destination takes what is sent to it.
pub(crate) fn test_payload(tenant: &str, at: Timestamp) -> Vec<u8> {
    serde_json::json!({
        "type": TEST_TYPE,
        "timestamp": at,
        "data": { "tenant": tenant },
    })
    .to_string()
    .into_bytes()
}

/// The signed request.
pub(crate) fn signed(
    (url, keys): (&Url, &[SigningKey]),
    id: &str,
    body: Vec<u8>,
    at: Timestamp,
) -> Request {
    let timestamp = at.as_second().to_string();
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| signature(key, (id, &timestamp), &body))
        .collect();
    Request {
        url: url.clone(),
        headers: vec![
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signatures.join(" ")),
        ],
        body,
    }
}

fn signature(key: &SigningKey, (id, timestamp): (&str, &str), body: &[u8]) -> String {
    let mut mac: Hmac<Sha256> = match Hmac::new_from_slice(&key.0) {
        Ok(mac) => mac,
        // HMAC takes keys of every length (RFC 2104).
        Err(_) => unreachable!("HMAC takes keys of every length"),
    };
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        destination::{
            Receiver,
            tests::{WEBHOOK, one},
        },
        request::{
            build,
            tests::{AT, event, goldens},
        },
    };

    /// The specification's own example.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let Receiver::Webhook { url, keys } = one(WEBHOOK).receiver else {
            panic!("a webhook")
        };
        let request = signed(
            (&url, &keys),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            br#"{"test": 2432232314}"#.to_vec(),
            Timestamp::from_second(1_614_265_330).unwrap(),
        );
        assert_eq!(
            request.headers[2],
            (
                "webhook-signature",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()
            )
        );
    }

    #[test]
    fn two_valid_secrets_give_two_signatures_and_the_id_stays_over_attempts() {
        let entry = WEBHOOK.replace("[{", "[{ env = \"NEW_KEY\" }, {");
        let destination = one(&entry);
        let first = build(&destination, &event(), AT.parse().unwrap()).unwrap();
        let later = build(
            &destination,
            &event(),
            "2026-01-15T12:00:00Z".parse().unwrap(),
        )
        .unwrap();
        let Receiver::Webhook { url, keys } = &destination.receiver else {
            panic!("a webhook")
        };
        // One of each key, over what is sent with it.
        let of_each = keys.iter().map(|key| {
            let id = &first.headers[0].1;
            let only = std::slice::from_ref(key);
            let one = signed((url, only), id, first.body.clone(), AT.parse().unwrap());
            one.headers[2].1.clone()
        });
        let of_each: Vec<_> = of_each.collect();
        assert_eq!(first.headers[2].1, of_each.join(" "));
        assert_ne!(of_each[0], of_each[1]);
        let at: Timestamp = AT.parse().unwrap();
        assert_eq!(first.headers[1].1, at.as_second().to_string());
        assert_eq!(first.headers[0], later.headers[0]);
        assert_ne!(first.headers[1], later.headers[1]);
        assert_ne!(first.headers[2], later.headers[2]);
        assert_eq!(first.body, later.body);
    }

    #[test]
    fn every_payload_follows_its_schema() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../schemas/webhook/event.v1.schema.json"
        );
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut payloads: Vec<Vec<u8>> = vec![
            test_payload("acme", AT.parse().unwrap()),
            payload(&event()).unwrap(),
        ];
        for source in ["algomo", "autochat", "loyjoy", "userlike", "watermelon"] {
            payloads.extend(goldens(source).iter().map(|event| payload(event).unwrap()));
        }
        assert!(payloads.len() > 150);
        for payload in payloads {
            let payload: Value = serde_json::from_slice(&payload).unwrap();
            let faults: Vec<String> = validator
                .iter_errors(&payload)
                .map(|fault| fault.to_string())
                .collect();
            assert!(faults.is_empty(), "{payload}: {faults:?}");
        }
        let unknown = serde_json::json!({"type": "no.such", "timestamp": AT, "data": {}});
        assert!(!validator.is_valid(&unknown));
    }
}

//! apache-avro is the oracle: both codecs must read each other's records.

use std::path::PathBuf;

use apache_avro::{
    Schema as Oracle, reader::datum::GenericDatumReader, schema_compatibility::SchemaCompatibility,
    writer::datum::GenericDatumWriter,
};
use serde_json::{Value, json};

use super::*;
use crate::delivery::{Behind, Cursor, DeliveryResult, DestinationKind, FailureClass};
use crate::raw::{Context, NativePayload, RawBody, RejectReason, Rejection, ReplayOf};

fn raw_events() -> Vec<RawEvent> {
    let native = RawEvent {
        tenant: "acme".into(),
        source: "watermelon".into(),
        write_key_id: "web".into(),
        received_at: 1_700_000_000_123,
        context: Context {
            event_id: Some("e-1".into()),
            session_id: Some("s-1".into()),
            sequence: Some(7),
            occurred_at: Some(1_700_000_000_000),
            sent_at: None,
            page_url: Some("https://acme.example/prices".into()),
            sdk: Some("chatpulse.js/1.0".into()),
        },
        body: RawBody::Native(NativePayload {
            json: r#"{"event":"widget_opened","label":"größer 🙂"}"#.into(),
            redactions: vec!["drop:userEmail".into()],
        }),
        replay_of: Some(ReplayOf {
            partition: 3,
            offset: 41,
        }),
    };
    let rejected = RawEvent {
        context: Context::default(),
        body: RawBody::Rejection(Rejection {
            reason: RejectReason::NotAnObject,
            detail: "send one JSON object per item".into(),
            bytes: 4,
            sha256: "ab".repeat(32),
        }),
        replay_of: None,
        ..native.clone()
    };
    vec![native, rejected]
}

fn events() -> Vec<Event> {
    let full = json!({
        "partition": 3, "offset": 42, "outcome": "accepted", "tenant": "acme",
        "source": "loyjoy", "write_key_id": "web", "source_event": "nps_survey_score_9",
        "event_type": "feedback.submitted", "actor": "visitor", "documented": true,
        "event_id": "e-1", "occurred_at": 1_700_000_000_000i64, "time_basis": "native",
        "received_at": 1_700_000_000_123i64, "conversation_id": "c-1", "session_id": "s-1",
        "sequence": 7, "visitor": "9f", "widget_id": "w", "platform": "web", "language": "de",
        "link": "https://acme.example/", "page_url": "https://acme.example/p", "sdk": "x/1",
        "reported_total": 4, "score": 9.0, "score_kind": "nps", "goal": "rated",
        "properties": {"bot_id": "b"}, "message_number": 2, "phase": "waiting",
        "response_time_ms": 1500, "message_gap": 2,
        "replay_of": {"partition": 3, "offset": 41}
    });
    let rejected = json!({
        "partition": 0, "offset": 0, "outcome": "rejected", "reason": "invalid_time",
        "detail": "…", "rejected_bytes": 12, "rejected_sha256": "ab", "tenant": "acme",
        "source": "loyjoy", "write_key_id": "web", "source_event": "", "event_type": "unknown",
        "actor": "system", "documented": true, "event_id": "", "occurred_at": 0,
        "time_basis": "received", "received_at": 0, "properties": {}
    });
    [full, rejected]
        .map(|value| serde_json::from_value(value).unwrap())
        .into()
}

fn deliveries() -> Vec<Delivery> {
    let delivered = Delivery {
        delivery_id: "msg_00112233445566778899aabbccddeeff".into(),
        tenant: "acme".into(),
        destination: "crm".into(),
        kind: DestinationKind::Webhook,
        source: "autochat".into(),
        event_type: "lead.qualified".into(),
        event_id: "e-1".into(),
        partition: 3,
        offset: 42,
        occurred_at: 1_700_000_000_000,
        received_at: 1_700_000_000_123,
        attempt: 2,
        at: 1_700_000_005_000,
        duration_ms: Some(31),
        result: DeliveryResult::Delivered,
        failure: None,
        status: Some(204),
        detail: None,
        next_at: None,
        replayed: false,
    };
    let failed = FailureClass::ALL.iter().map(|&class| Delivery {
        kind: DestinationKind::Meta,
        result: DeliveryResult::Retrying,
        failure: Some(class),
        status: None,
        detail: Some("…".into()),
        next_at: Some(1_700_000_305_000),
        replayed: true,
        ..delivered.clone()
    });
    std::iter::once(delivered.clone()).chain(failed).collect()
}

fn retries() -> Vec<Retry> {
    vec![Retry {
        tenant: "acme".into(),
        destination: "crm".into(),
        kind: DestinationKind::Ga4,
        attempts: 1,
        due_at: 1_700_000_005_000,
        last: Some(FailureClass::Http5xx),
        replayed: false,
        event: vec![0xC3, 0x01, 0],
        consent: Some(true),
    }]
}

fn cursors() -> Vec<Cursors> {
    let next = Cursor {
        offset: 70,
        raw: 68,
    };
    let behind = Behind {
        tenant: "acme".into(),
        destination: "crm".into(),
        next: Cursor { offset: 3, raw: 3 },
    };
    vec![Cursors {
        next,
        behind: vec![behind],
        known: vec!["acme/crm".into()],
    }]
}

fn destinations() -> Vec<DestinationState> {
    vec![DestinationState {
        tenant: "acme".into(),
        destination: "crm".into(),
        kind: DestinationKind::Webhook,
        address: "ab".into(),
        event_types: vec!["lead.qualified".into()],
        is_configured: true,
        failing_since: Some(1_700_000_000_000),
        disabled_at: None,
        reason: Some("gone".into()),
    }]
}

/// Framed bytes are written by us, then read by the oracle and by us.
fn agrees_with_the_oracle<T: Versioned + PartialEq + std::fmt::Debug>(records: Vec<T>) {
    let codec = Codec::<T>::new(Framing::SingleObject).unwrap();
    let schema = Oracle::parse_str(T::SCHEMAS.last().unwrap()).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    for record in records {
        let bytes = codec.encode(&record).unwrap();
        let mut datum = &bytes[10..];
        let value = reader.read_value(&mut datum).unwrap();
        assert!(datum.is_empty(), "the oracle left bytes");
        let again = writer.write_value_to_vec(value).unwrap();
        assert_eq!(again, bytes[10..], "the oracle writes other bytes");
        assert_eq!(codec.decode(&bytes).unwrap(), record);
    }
}

#[test]
fn raw_events_agree_with_the_oracle() {
    agrees_with_the_oracle(raw_events());
}

#[test]
fn events_agree_with_the_oracle() {
    agrees_with_the_oracle(events());
}

#[test]
fn records_of_the_deliverer_agree_with_the_oracle() {
    agrees_with_the_oracle(deliveries());
    agrees_with_the_oracle(retries());
    agrees_with_the_oracle(cursors());
    agrees_with_the_oracle(destinations());
}

/// Calculated with fastavro (Python): `fingerprint(to_parsing_canonical_form(schema),
/// "CRC-64-AVRO")`. apache-avro 0.21 is no oracle here: its canonical form leaves
/// `{"type":"long"}` where the specification has `"long"` (it only drops the logical type).
#[test]
fn fingerprints_are_those_of_another_implementation() {
    let raw = Codec::<RawEvent>::new(Framing::SingleObject).unwrap();
    assert_eq!(
        hex(&raw.encode(&raw_events()[0]).unwrap()[..10]),
        "c3016e51990ca3adf4ab"
    );
    let event = Codec::<Event>::new(Framing::SingleObject).unwrap();
    assert_eq!(
        hex(&event.encode(&events()[0]).unwrap()[..10]),
        "c301a88939b140bf55ab"
    );
}

#[test]
fn both_framings_are_read_whatever_is_written() {
    let single = Codec::<RawEvent>::new(Framing::SingleObject).unwrap();
    let confluent = Codec::<RawEvent>::new(Framing::Confluent { schema_id: 258 }).unwrap();
    let record = &raw_events()[0];
    let framed = confluent.encode(record).unwrap();
    assert_eq!(framed[..5], [0, 0, 0, 1, 2]);
    assert_eq!(&confluent.decode(&framed).unwrap(), record);
    assert_eq!(
        &confluent.decode(&single.encode(record).unwrap()).unwrap(),
        record
    );
    assert!(matches!(
        single.decode(&framed),
        Err(AvroError::UnknownSchemaId(258))
    ));
}

/// Each later version must read what every earlier one wrote.
#[test]
fn versions_are_backward_compatible() {
    fn check<T: Versioned>() {
        let all: Vec<_> = T::SCHEMAS
            .iter()
            .map(|text| Oracle::parse_str(text).unwrap())
            .collect();
        for (index, reader) in all.iter().enumerate() {
            for writer in &all[..=index] {
                SchemaCompatibility::can_read(writer, reader).unwrap();
            }
        }
    }
    check::<RawEvent>();
    check::<Event>();
    check::<Delivery>();
    check::<Retry>();
    check::<Cursors>();
    check::<DestinationState>();
}

/// `schemas/avro/<name>.v<N>.golden.json`: records and the bytes that version N gave them. The
/// files of old versions are never rewritten; with `CHATPULSE_BLESS=1` a missing one is made.
fn golden_records_are_read<T: Versioned + PartialEq + std::fmt::Debug>(newest: Vec<T>) {
    let codec = Codec::<T>::new(Framing::SingleObject).unwrap();
    for version in 1..=T::SCHEMAS.len() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../schemas/avro")
            .join(format!("{}.v{version}.golden.json", T::NAME));
        if !path.exists() && std::env::var_os("CHATPULSE_BLESS").is_some() {
            let lines: Vec<_> = newest
                .iter()
                .map(|r| json!({"bytes": hex(&codec.encode(r).unwrap()), "record": r}))
                .collect();
            std::fs::write(&path, serde_json::to_string_pretty(&lines).unwrap() + "\n").unwrap();
        }
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let golden: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert!(!golden.is_empty());
        for entry in golden {
            let record: T = serde_json::from_value(entry["record"].clone()).unwrap();
            let bytes = unhex(entry["bytes"].as_str().unwrap());
            assert_eq!(codec.decode(&bytes).unwrap(), record);
        }
    }
}

#[test]
fn golden_raw_events_of_every_version_are_read() {
    golden_records_are_read(raw_events());
}

#[test]
fn golden_events_of_every_version_are_read() {
    golden_records_are_read(events());
}

#[test]
fn golden_records_of_the_deliverer_are_read() {
    golden_records_are_read(deliveries());
    golden_records_are_read(retries());
    golden_records_are_read(cursors());
    golden_records_are_read(destinations());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let codec = Codec::<RawEvent>::new(Framing::SingleObject).unwrap();
        let mut bytes = codec.encode(&raw_events()[0]).unwrap();
        bytes.push(0);
        assert!(matches!(codec.decode(&bytes), Err(AvroError::Trailing)));
    }

    #[test]
    fn an_array_of_2_to_the_62_empty_items_is_refused() {
        let codec = Codec::<Event>::new(Framing::SingleObject).unwrap();
        let bytes = codec.encode(&events()[0]).unwrap();
        let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        for at in 10..bytes.len() {
            let mutated = [&bytes[..at], &huge[..], &bytes[at + 1..]].concat();
            let _ = codec.decode(&mutated); // an error or a record, soon, and no panic
        }
    }

    proptest! {
        #[test]
        fn flipped_cut_and_foreign_bytes_never_panic(
            index in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(),
            foreign in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let codec = Codec::<Event>::new(Framing::SingleObject).unwrap();
            let mut bytes = codec.encode(&events()[0]).unwrap();
            let at = index.index(bytes.len());
            bytes[at] = byte;
            let _ = codec.decode(&bytes);
            let _ = codec.decode(&bytes[..cut.index(bytes.len())]);
            let _ = codec.decode(&foreign);
            let _ = codec.decode(&[&bytes[..10], &foreign[..]].concat());
        }
    }
}

/// The short way against the long one, which looks at the schema.
mod direct {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Actor, EventType, Outcome, Phase, ScoreKind, TimeBasis};

    fn texts(count: usize) -> impl Strategy<Value = Vec<Option<String>>> {
        prop::collection::vec(prop::option::of(".{0,20}"), count)
    }

    fn numbers(count: usize) -> impl Strategy<Value = Vec<Option<i64>>> {
        prop::collection::vec(prop::option::of(any::<i64>()), count)
    }

    fn replay_of() -> impl Strategy<Value = Option<ReplayOf>> {
        prop::option::of(
            any::<(i32, i64)>().prop_map(|(partition, offset)| ReplayOf { partition, offset }),
        )
    }

    prop_compose! {
        fn any_event()(
            (partition, offset, occurred_at, received_at) in any::<(i32, i64, i64, i64)>(),
            (documented, score) in any::<(bool, Option<f64>)>(),
            mut texts in texts(18), mut numbers in numbers(6),
            properties in prop::collection::btree_map(".{0,9}", ".{0,200}", 0..5),
            outcome in prop::sample::select(vec![Outcome::Accepted, Outcome::Duplicate, Outcome::Rejected]),
            actor in prop::sample::select(vec![Actor::Visitor, Actor::Bot, Actor::Agent, Actor::System]),
            time_basis in prop::sample::select(vec![TimeBasis::Native, TimeBasis::Context, TimeBasis::Received]),
            phase in prop::option::of(prop::sample::select(vec![Phase::Bot, Phase::Waiting, Phase::Human, Phase::Closed])),
            score_kind in prop::option::of(prop::sample::select(vec![ScoreKind::Nps, ScoreKind::Stars, ScoreKind::Thumbs])),
            reason in prop::option::of(prop::sample::select(RejectReason::ALL)),
            event_type in prop::sample::select(EventType::ALL),
            replay_of in replay_of(),
        ) -> Event {
            let mut text = || texts.pop().flatten();
            let mut number = || numbers.pop().flatten();
            Event {
                partition, offset, outcome, reason, detail: text(), rejected_bytes: number(),
                rejected_sha256: text(), tenant: text().unwrap_or_default(), source: text().unwrap_or_default(),
                write_key_id: text().unwrap_or_default(), source_event: text().unwrap_or_default(), event_type,
                actor, documented, event_id: text().unwrap_or_default(), occurred_at, time_basis, received_at,
                conversation_id: text(), session_id: text(), sequence: number(), visitor: text(),
                widget_id: text(), platform: text(), language: text(), link: text(), page_url: text(),
                sdk: text(), reported_total: number(), score, score_kind, goal: text(), properties,
                message_number: number(), phase, response_time_ms: number(), message_gap: number(), replay_of,
            }
        }
    }

    prop_compose! {
        fn any_raw_event()(
            mut texts in texts(9), mut numbers in numbers(3), received_at: i64, bytes: i64, native: bool,
            redactions in prop::collection::vec(".{0,20}", 0..4),
            reason in prop::sample::select(RejectReason::ALL), replay_of in replay_of(),
        ) -> RawEvent {
            let mut text = || texts.pop().flatten();
            let mut number = || numbers.pop().flatten();
            RawEvent {
                tenant: text().unwrap_or_default(), source: text().unwrap_or_default(),
                write_key_id: text().unwrap_or_default(), received_at,
                context: Context {
                    event_id: text(), session_id: text(), sequence: number(), occurred_at: number(),
                    sent_at: number(), page_url: text(), sdk: text(),
                },
                body: match native {
                    true => RawBody::Native(NativePayload { json: text().unwrap_or_default(), redactions }),
                    false => RawBody::Rejection(Rejection {
                        reason, detail: text().unwrap_or_default(), bytes, sha256: text().unwrap_or_default(),
                    }),
                },
                replay_of,
            }
        }
    }

    /// Both write the same bytes, and read them alike, also where they are broken.
    fn agree<T: Versioned + std::fmt::Debug>(record: &T, (at, byte): (prop::sample::Index, u8)) {
        let codec = Codec::<T>::new(Framing::SingleObject).unwrap();
        let bytes = codec.encode(record).unwrap();
        let by_schema = codec
            .encode_by_schema(record, codec.header.clone())
            .unwrap();
        assert_eq!(bytes, by_schema);
        // NaN is equal to nothing.
        let shown = |read: Result<T, AvroError>| read.ok().map(|record| format!("{record:?}"));
        let mut broken = bytes.clone();
        let at = codec.header.len() + at.index(bytes.len() - codec.header.len());
        broken[at] = byte;
        for bytes in [&bytes[..], &broken, &bytes[..at]] {
            let (schema, datum) = codec.unframe(bytes).unwrap();
            let by_schema = Codec::<T>::decode_by_schema(schema, datum);
            assert_eq!(shown(codec.decode(bytes)), shown(by_schema));
        }
        assert!(codec.decode(&bytes).is_ok());
    }

    proptest! {
        #[test]
        fn events_are_written_and_read_as_by_their_schema(
            event in any_event(), at: prop::sample::Index, byte: u8,
        ) {
            agree(&event, (at, byte));
        }

        #[test]
        fn raw_events_are_written_and_read_as_by_their_schema(
            raw in any_raw_event(), at: prop::sample::Index, byte: u8,
        ) {
            agree(&raw, (at, byte));
        }
    }

    #[test]
    fn another_schema_of_a_registry_goes_the_long_way() {
        let event = Event {
            replay_of: None,
            ..events()[0].clone()
        };
        let mut codec = Codec::<Event>::new(Framing::Confluent { schema_id: 7 }).unwrap();
        codec.learn(6, Event::SCHEMAS[0]).unwrap();
        let newest = codec.encode(&event).unwrap();
        assert_eq!(codec.decode(&newest).unwrap(), event);
        // Version 1 ends before the null that stands for `replay_of`.
        let (last, datum) = newest[5..].split_last().unwrap();
        assert_eq!(*last, 0);
        let first = [&[CONFLUENT, 0, 0, 0, 6], datum].concat();
        assert_eq!(codec.decode(&first).unwrap(), event);
    }
}

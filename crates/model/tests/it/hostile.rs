//! Bad input: each item ends as exactly one of a record that maps or a typed rejection.

use std::time::{Duration, Instant};

use chatpulse_model::{
    Context, Event, NativePayload, Outcome, RawBody, RawEvent, RejectReason,
    avro::{AvroError, Codec, Framing, Versioned as _},
    fold::{Horizon, PartitionFold, Position, Reading, read},
    source::{Admitted, Catalog, DEFAULT_MAX_ITEM_BYTES},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::goldens;

fn refused(source: &str, item: &str) -> RejectReason {
    match goldens::admit(source, item.as_bytes()).record.body {
        RawBody::Rejection(rejection) => rejection.reason,
        RawBody::Native(native) => panic!("{item} was taken as {}", native.json),
    }
}

fn watermelon(change: impl Fn(&mut Value)) -> String {
    let mut item = json!({
        "event": "widget_message_sent",
        "widget_platform": "web",
        "widet_conversation_id": "c-1",
        "timestamp": 1_768_471_200_000_i64,
        "total_messages": 3,
    });
    change(&mut item);
    item.to_string()
}

fn with(field: &str, value: Value) -> String {
    watermelon(|item| item[field] = value.clone())
}

fn context(change: &Value) -> String {
    json!({"native": {"event": "widget_opened"}, "context": change}).to_string()
}

#[test]
fn each_fault_has_its_reason() {
    use RejectReason::*;

    for (item, reason) in [
        ("[]".to_owned(), NotAnObject),
        ("null".to_owned(), NotAnObject),
        ("\"widget_opened\"".to_owned(), NotAnObject),
        ("{}".to_owned(), MissingEventName),
        (with("event", Value::Null), MissingEventName),
        (r#"{"Event":"widget_opened"}"#.to_owned(), MissingEventName),
        (
            r#"{"native":{"event":"widget_opened"},"context":{},"more":1}"#.to_owned(),
            MissingEventName,
        ),
        (with("event", json!(7)), InvalidEventName),
        (with("event", json!(["widget_opened"])), InvalidEventName),
        (with("event", json!("")), InvalidEventName),
        (with("event", json!(" \t ")), InvalidEventName),
        (with("event", json!("x".repeat(129))), InvalidEventName),
        (with("event", json!("a\u{0}b")), InvalidEventName),
        (with("timestamp", json!("yesterday")), InvalidTime),
        (with("timestamp", json!("")), InvalidTime),
        (with("timestamp", json!({"at": 1})), InvalidTime),
        (with("timestamp", json!(true)), InvalidTime),
        (with("timestamp", json!(0)), TimeOutOfRange),
        (
            with("timestamp", json!("1900-01-01T00:00:00Z")),
            TimeOutOfRange,
        ),
        (
            with("timestamp", json!("2262-04-11T23:47:16Z")),
            TimeOutOfRange,
        ),
        (
            with("timestamp", json!(goldens::RECEIVED_AT + 86_400_001)),
            TimeOutOfRange,
        ),
        (
            with("widet_conversation_id", json!({"id": 1})),
            InvalidField,
        ),
        (with("widet_conversation_id", json!(1.5)), InvalidField),
        (
            with("widet_conversation_id", json!("x".repeat(129))),
            InvalidField,
        ),
        (with("widet_conversation_id", json!("a\nb")), InvalidField),
        (with("total_messages", json!(-1)), InvalidField),
        (with("total_messages", json!("many")), InvalidField),
        (with("total_messages", json!(1e300)), InvalidField),
        (with("total_messages", json!(i64::MAX)), InvalidField),
        (context(&json!([])), InvalidContext),
        (context(&json!("x")), InvalidContext),
        (context(&json!({"sequence": 0})), InvalidContext),
        (context(&json!({"sequence": -1})), InvalidContext),
        (context(&json!({"sequence": 1.5})), InvalidContext),
        (context(&json!({"sequence": "1"})), InvalidContext),
        (context(&json!({"session_id": 5})), InvalidContext),
        (context(&json!({"session_id": ""})), InvalidContext),
        (
            context(&json!({"session_id": "x".repeat(129)})),
            InvalidContext,
        ),
        (context(&json!({"event_id": "a\u{7}"})), InvalidContext),
        (context(&json!({"page_url": 1})), InvalidContext),
        (context(&json!({"sdk": {}})), InvalidContext),
        (context(&json!({"occurred_at": "soon"})), InvalidTime),
        (context(&json!({"sent_at": []})), InvalidTime),
        (context(&json!({"occurred_at": 1000})), TimeOutOfRange),
        (
            format!("{{\"event\":{}1{}}}", "[".repeat(40), "]".repeat(40)),
            TooComplex,
        ),
        (
            format!("{{\"event\":\"{}\"}}", "x".repeat(DEFAULT_MAX_ITEM_BYTES)),
            TooLarge,
        ),
        (
            r#"{"event":"widget_opened","event":"widget_closed"}"#.to_owned(),
            InvalidJson,
        ),
        (r#"{"event":"widget_opened"#.to_owned(), InvalidJson),
    ] {
        let shown: String = item.chars().take(100).collect();
        assert_eq!(refused("watermelon", &item), reason, "{shown}");
    }
}

#[test]
fn of_several_faults_the_first_in_the_order_of_the_checks_counts() {
    use RejectReason::*;

    let item = |context: Value, event: Value, timestamp: Value, total: Value| {
        json!({
            "native": {"event": event, "timestamp": timestamp, "total_messages": total},
            "context": context,
        })
        .to_string()
    };
    let bad = json!({"sequence": -1});
    let good = json!({"sequence": 1});
    let name = json!("widget_opened");
    for (item, reason) in [
        (item(bad, json!(1), json!("x"), json!(-1)), InvalidContext),
        (
            item(good.clone(), json!(1), json!("x"), json!(-1)),
            InvalidEventName,
        ),
        (
            item(good.clone(), json!(null), json!("x"), json!(-1)),
            MissingEventName,
        ),
        (
            item(good.clone(), name.clone(), json!("x"), json!(-1)),
            InvalidTime,
        ),
        (item(good, name, json!(0), json!(-1)), TimeOutOfRange),
    ] {
        assert_eq!(refused("watermelon", &item), reason, "{item}");
    }
}

#[test]
fn absent_is_not_invalid() {
    for item in [
        with("timestamp", Value::Null),
        with("total_messages", Value::Null),
        with("total_messages", json!("12")),
        with("total_messages", json!(1_000_000_000_000_i64)),
        with("widet_conversation_id", json!("")),
        with("widget_platform", json!(["web"])),
        with("timestamp", json!(1_768_471_200)),
        context(&Value::Null),
        context(&json!({"session_id": null, "sequence": null, "unheard_of": 1})),
        format!("\u{feff}{}", with("event", json!(" widget_message_sent "))),
    ] {
        let admitted = goldens::admit("watermelon", item.as_bytes());
        let mapped = goldens::definition("watermelon").map(&admitted.record);
        assert!(mapped.is_ok_and(|mapped| mapped.documented), "{item}");
    }
}

#[test]
fn a_refused_item_keeps_its_place_in_the_session_and_no_content() {
    let item = json!({
        "native": {"event": "widget_opened", "timestamp": "jane@example.com"},
        "context": {"session_id": "ps-9", "sequence": 4, "event_id": {"jane": 1}},
    })
    .to_string();
    let Admitted { record, key } = goldens::admit("watermelon", item.as_bytes());
    assert_eq!(
        record.context,
        Context {
            session_id: Some("ps-9".into()),
            sequence: Some(4),
            ..Context::default()
        }
    );
    let RawBody::Rejection(rejection) = &record.body else {
        panic!("refused");
    };
    assert_eq!(rejection.reason, RejectReason::InvalidContext);
    assert_eq!(rejection.bytes, item.len() as i64);
    assert_eq!(rejection.sha256.len(), 64);
    assert!(!format!("{record:?}").contains("jane"));
    assert_eq!(
        key,
        format!("acme\0watermelon\0r\0{}", rejection.sha256).into_bytes()
    );
    assert_eq!(
        goldens::definition("watermelon").map(&record).unwrap_err(),
        *rejection
    );
}

#[test]
fn equal_events_without_an_id_are_two_only_where_the_session_numbers_them() {
    let id = |sequence: Option<i64>, session: &str| {
        let item = json!({
            "native": {"evt": "link_clicked", "bot_id": "b"},
            "context": {"session_id": session, "sequence": sequence},
        });
        let raw = goldens::admit("loyjoy", item.to_string().as_bytes()).record;
        goldens::definition("loyjoy").map(&raw).unwrap().event_id
    };
    assert_eq!(id(None, "s"), id(None, "s"));
    assert_eq!(id(Some(1), "s"), id(Some(1), "s"));
    assert_ne!(id(Some(1), "s"), id(Some(2), "s"));
    assert_ne!(id(None, "s"), id(None, "t"));
    assert!(id(None, "s").starts_with("h-"));
}

#[test]
fn a_number_beyond_the_integers_is_refused_where_an_integer_is_meant() {
    use RejectReason::*;

    for number in [
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "1e19",
    ] {
        let item = |field: &str| format!(r#"{{"event":"widget_message_sent","{field}":{number}}}"#);
        assert_eq!(refused("watermelon", &item("total_messages")), InvalidField);
        let reason = refused("watermelon", &item("timestamp"));
        assert!(matches!(reason, TimeOutOfRange | InvalidTime), "{number}");
        let item = format!(
            r#"{{"native":{{"event":"widget_opened"}},"context":{{"sequence":{number}}}}}"#
        );
        assert_eq!(refused("watermelon", &item), InvalidContext);
    }
    let item = r#"{"event":"widget_message_sent","total_messages":1e999}"#;
    assert_eq!(refused("watermelon", item), InvalidJson);
}

#[test]
fn keys_by_the_thousand_are_refused_and_a_giant_or_special_one_is_dropped() {
    let keys: Vec<String> = (0..10_000).map(|key| format!(r#""k{key}":1"#)).collect();
    let many = format!(r#"{{"event":"widget_opened",{}}}"#, keys.join(","));
    assert!(many.len() > DEFAULT_MAX_ITEM_BYTES);
    assert_eq!(refused("watermelon", &many), RejectReason::TooLarge);
    let some = format!(r#"{{"event":"widget_opened",{}}}"#, keys[..2_000].join(","));
    assert_eq!(refused("watermelon", &some), RejectReason::TooComplex);

    let giant = "k".repeat(DEFAULT_MAX_ITEM_BYTES - 100);
    for key in [
        giant.as_str(),
        "__proto__",
        "constructor",
        "EVENT",
        "Event",
        "",
    ] {
        let item = json!({"event": "widget_opened", key: {"event": "widget_closed"}});
        let record = goldens::admit("watermelon", item.to_string().as_bytes()).record;
        let RawBody::Native(native) = &record.body else {
            panic!("taken");
        };
        assert_eq!(native.json, r#"{"event":"widget_opened"}"#);
        assert_eq!(native.redactions.len(), 1, "{:?}", native.redactions);
        assert!(native.redactions[0].len() < 100);
    }
}

#[test]
fn formula_script_and_sql_text_is_data() {
    for text in [
        "=HYPERLINK(\"http://x\")",
        "+cmd|' /C calc'!A0",
        "'; DROP TABLE events; --",
        "\\'); SELECT 1; --",
        "<script>alert(1)</script>",
        "{{constructor.constructor('alert(1)')()}}",
        "🧑‍🚀 𝕏 العربية",
    ] {
        let item = json!({"event": text, "widet_conversation_id": text, "link_text": text});
        let record = goldens::admit("watermelon", item.to_string().as_bytes()).record;
        let mapped = goldens::definition("watermelon").map(&record).unwrap();
        assert_eq!(mapped.source_event, text);
        assert!(!mapped.documented);
        assert_eq!(mapped.conversation_id.as_deref(), Some(text));
        assert!(mapped.properties.values().any(|value| value == text));
    }
}

#[test]
fn marks_that_reorder_or_hide_text_hide_nothing_in_names_and_ids() {
    for mark in [
        '\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{ad}', '\u{200d}', '\u{200c}',
    ] {
        let address = format!("jane{mark}@{mark}example.com");
        let number = format!("0171{mark}2345{mark}678");
        let item = json!({
            "native": {
                "event": format!("clicked {address} {number}"),
                "widet_conversation_id": address,
                "link_text": format!("{address} {number}"),
            },
            "context": {"session_id": address, "event_id": format!("id {number}")},
        });
        let record = goldens::admit("watermelon", item.to_string().as_bytes()).record;
        let kept = format!("{record:?}");
        assert!(matches!(record.body, RawBody::Native(_)), "{kept}");
        for personal in ["jane", "example.com", "0171", "2345"] {
            assert!(!kept.contains(personal), "{mark:?}: {kept}");
        }
    }
    let item = with(
        "event",
        json!("\u{feff}widget_\u{202e}message\u{200b}_sent"),
    );
    let item = item.replace("c-1", "c\u{2066}-1");
    let record = goldens::admit("watermelon", item.as_bytes()).record;
    let mapped = goldens::definition("watermelon").map(&record).unwrap();
    assert_eq!(mapped.source_event, "widget_message_sent");
    assert!(mapped.documented);
    assert_eq!(mapped.conversation_id.as_deref(), Some("c-1"));
}

/// The outcomes of items of Autochat, which has event ids, as records of one partition.
fn outcomes(items: &[Value]) -> Vec<Event> {
    let mut fold = PartitionFold::new(0, Horizon::default());
    let outcome = |(offset, item): (usize, &Value)| {
        let raw = goldens::admit("autochat", item.to_string().as_bytes()).record;
        let mapped = goldens::definition("autochat").map(&raw).unwrap();
        let position = Position {
            offset: offset as i64,
            timestamp_ms: goldens::RECEIVED_AT,
        };
        fold.apply(position, Reading::Mapped(raw, Box::new(mapped)))
    };
    items.iter().enumerate().map(outcome).collect()
}

#[test]
fn an_id_that_is_replayed_or_used_for_another_event_makes_a_duplicate_and_no_gap() {
    let line = goldens::all().find(|(source, _)| *source == "autochat");
    let first: Value = serde_json::from_str(line.unwrap().1).unwrap();
    let mut other = first.clone();
    other["detail"]["event_type"] = json!("autochat.goal_met.v1");
    let mut fresh = first.clone();
    fresh["detail"]["event_id"] = json!("one-of-its-own");
    let events = outcomes(&[first.clone(), first, other, fresh]);
    let kinds: Vec<Outcome> = events.iter().map(|event| event.outcome).collect();
    use Outcome::*;
    assert_eq!(kinds, [Accepted, Duplicate, Duplicate, Accepted]);
    let offsets: Vec<i64> = events.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
}

/// The producer refuses such times and numbers; a record of a foreign writer can hold them.
#[test]
fn times_and_numbers_at_the_ends_of_their_range_overflow_nothing_in_the_fold() {
    let ends = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
    let mut fold = PartitionFold::new(0, Horizon::default());
    let mut offset = 0;
    let before = goldens::admit("watermelon", br#"{"event":"widget_opened"}"#).record;
    for event in ["widget_message_sent", "widget_agent_message_sent"] {
        for (at, total) in ends.iter().flat_map(|at| ends.map(|total| (*at, total))) {
            let json = json!({"event": event, "widget_conversation_id": "c", "timestamp": at, "total_messages": total});
            let raw = RawEvent {
                body: RawBody::Native(NativePayload {
                    json: json.to_string(),
                    redactions: vec![],
                }),
                received_at: at,
                ..before.clone()
            };
            let mapped = goldens::definition("watermelon").map(&raw).unwrap();
            let position = Position {
                offset,
                timestamp_ms: at,
            };
            let event = fold.apply(position, Reading::Mapped(raw, Box::new(mapped)));
            assert_eq!((event.outcome, event.offset), (Outcome::Accepted, offset));
            assert!(event.response_time_ms.is_none_or(|ms| ms >= 0), "{event:?}");
            offset += 1;
        }
    }
}

/// Avro by hand, for bytes that no writer makes.
mod bytes {
    /// A long: zig-zag, then seven bits to a byte.
    pub(super) fn long(number: i64) -> Vec<u8> {
        let mut rest = ((number << 1) ^ (number >> 63)) as u64;
        let mut bytes = Vec::new();
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    pub(super) fn string(text: &str) -> Vec<u8> {
        [long(text.len() as i64), text.as_bytes().to_vec()].concat()
    }

    /// The fields of a raw record of version 2, in order.
    pub(super) fn fields() -> [(&'static str, Vec<u8>); 14] {
        [
            ("tenant", string("acme")),
            ("source", string("watermelon")),
            ("write_key_id", string("web")),
            ("received_at", long(1_768_471_200_000)),
            ("event_id", long(0)),
            ("session_id", long(0)),
            ("sequence", long(0)),
            ("occurred_at", long(0)),
            ("sent_at", long(0)),
            ("page_url", long(0)),
            ("sdk", long(0)),
            (
                "body",
                [long(0), string(r#"{"event":"widget_opened"}"#)].concat(),
            ),
            ("redactions", long(0)),
            ("replay_of", long(0)),
        ]
    }

    /// The fields, some of them with other bytes.
    pub(super) fn datum(changes: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut fields = fields();
        for (name, bytes) in changes {
            let field = fields.iter_mut().find(|(known, _)| known == name);
            field.unwrap().1.clone_from(bytes);
        }
        fields.map(|(_, bytes)| bytes).concat()
    }
}

fn codec() -> Codec<RawEvent> {
    Codec::new(Framing::SingleObject).unwrap()
}

/// Framed as a raw record of the newest version.
fn framed(datum: &[u8]) -> Vec<u8> {
    let record = goldens::admit("watermelon", br#"{"event":"widget_opened"}"#).record;
    let header = codec().encode(&record).unwrap()[..10].to_vec();
    [header, datum.to_vec()].concat()
}

/// A rejection that says how long the record was, and nothing of what was in it.
fn assert_undecodable(payload: &[u8], what: &str) {
    let started = Instant::now();
    match read(payload, &codec(), Catalog::builtin()) {
        Reading::Undecodable(rejection) => {
            assert_eq!(rejection.reason, RejectReason::Undecodable, "{what}");
            assert_eq!(rejection.bytes, payload.len() as i64, "{what}");
            assert!(!rejection.detail.contains("jane"), "{}", rejection.detail);
            assert!(rejection.detail.len() < 300, "{}", rejection.detail);
        }
        other => panic!("{what}: {other:?}"),
    }
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{what} is slow"
    );
}

#[test]
fn bytes_in_no_framing_of_ours_and_tombstones_are_undecodable() {
    let good = framed(&bytes::datum(&[]));
    let reading = read(&good, &codec(), Catalog::builtin());
    assert!(matches!(reading, Reading::Mapped(..)), "{reading:?}");
    let datum = &good[10..];
    for (what, payload) in [
        ("a tombstone", vec![]),
        ("text", b"{\"event\":\"jane\"}".to_vec()),
        ("a container file", b"Obj\x01jane".to_vec()),
        ("half a magic", vec![0xC3]),
        ("another magic", [&[0xC3, 0x02], &good[2..]].concat()),
        ("a short fingerprint", good[..6].to_vec()),
        ("a fingerprint alone", good[..10].to_vec()),
        (
            "an unknown fingerprint",
            [&[0xC3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8], datum].concat(),
        ),
        ("a short schema id", vec![0, 0, 0]),
        ("an unknown schema id", [&[0, 0, 0, 1, 2], datum].concat()),
    ] {
        assert_undecodable(&payload, what);
    }
}

#[test]
fn every_cut_and_every_tail_of_a_record_is_undecodable() {
    let good = framed(&bytes::datum(&[(
        "session_id",
        [bytes::long(1), bytes::string("jane")].concat(),
    )]));
    for end in 0..good.len() {
        assert_undecodable(&good[..end], &format!("cut to {end} bytes"));
    }
    for tail in [&[0][..], b"jane", &good] {
        assert_undecodable(&[&good, tail].concat(), "a tail");
    }
}

#[test]
fn lengths_counts_and_indexes_that_lie_are_undecodable_and_cost_nothing() {
    use bytes::{long, string};

    let overlong = [[0x88; 10].as_slice(), b"\x00jane"].concat();
    let huge =
        |bytes: &mut Vec<(String, &'static str, Vec<u8>)>, field: &'static str, before: &[u8]| {
            for length in [-1, i64::MIN, i64::MAX, 1 << 62, 1 << 40, 70_000_000] {
                let wrong = [before, &long(length)].concat();
                bytes.push((format!("{field} of length {length}"), field, wrong));
            }
        };
    let mut cases = Vec::new();
    huge(&mut cases, "tenant", &[]);
    huge(&mut cases, "session_id", &long(1));
    huge(&mut cases, "body", &long(0));
    huge(&mut cases, "redactions", &[]);
    for (what, field, wrong) in [
        ("an overlong length", "tenant", overlong.clone()),
        ("an overlong number", "received_at", overlong.clone()),
        ("an overlong index", "body", overlong),
        ("text that is no UTF-8", "tenant", b"\x08ja\xffe".to_vec()),
        ("an index after the last", "session_id", long(2)),
        ("an index before the first", "session_id", long(-1)),
        ("a huge index", "body", long(1 << 40)),
        ("the least index", "replay_of", long(i64::MIN)),
        (
            "an unknown reason",
            "body",
            [
                long(1),
                string("jane"),
                string("jane"),
                long(4),
                string("ab"),
            ]
            .concat(),
        ),
        (
            "a number beyond an int",
            "replay_of",
            [long(1), long(1 << 40), long(1), vec![1]].concat(),
        ),
        (
            "neither true nor false",
            "replay_of",
            [long(1), long(1), long(1), vec![2]].concat(),
        ),
        (
            "a block of so many bytes that is none",
            "redactions",
            [long(-2), long(1 << 62), string("a")].concat(),
        ),
        (
            "blocks without end",
            "redactions",
            [long(1), string("")].concat().repeat(20_000),
        ),
    ] {
        cases.push((what.to_owned(), field, wrong));
    }
    for (what, field, wrong) in cases {
        assert_undecodable(&framed(&bytes::datum(&[(field, wrong)])), &what);
    }
}

/// The golden outcome of the newest version, with other bytes in one place.
#[test]
fn an_outcome_with_enums_or_counts_that_lie_is_an_error() {
    use bytes::long;

    let goldens = include_str!("../../../../schemas/avro/event.v2.golden.json");
    let goldens: Value = serde_json::from_str(goldens).unwrap();
    let hex = goldens[0]["bytes"].as_str().unwrap();
    let good: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let codec = Codec::<Event>::new(Framing::SingleObject).unwrap();
    codec.decode(&good).unwrap();
    let properties = [&long(1)[..], &bytes::string("bot_id"), &bytes::string("b")].concat();
    let map = good
        .windows(properties.len())
        .position(|at| at == properties);
    // Behind the framing stand the partition, the offset and the outcome, a byte each.
    let started = Instant::now();
    for (what, at) in [
        ("the partition", 10),
        ("the outcome", 12),
        ("the properties", map.unwrap()),
    ] {
        for number in [i64::MIN, -1, 40, 1 << 40, 1 << 62, i64::MAX] {
            if what == "the partition" && i32::try_from(number).is_ok() {
                continue;
            }
            let wrong = [&good[..at], &long(number), &good[at + 1..]].concat();
            let error = codec.decode(&wrong).expect_err(what);
            assert!(
                matches!(error, AvroError::Decode(_)),
                "{what} {number}: {error}"
            );
        }
    }
    assert!(started.elapsed() < Duration::from_secs(60));
}

/// What a registry hands out is foreign too: a writer's schema that does not fit, or that makes a
/// few bytes stand for very much, costs an error.
#[test]
fn a_writers_schema_that_does_not_fit_or_explodes_is_an_error() {
    let newest = RawEvent::SCHEMAS.last().unwrap();
    let with_field =
        |field: &str| newest.replacen("\"fields\": [", &format!("\"fields\": [{field},"), 1);
    let datum = bytes::datum(&[]);
    let framed = |before: &[u8]| [&[0, 0, 0, 0, 7], before, &datum].concat();
    let decode = |schema: &str, payload: &[u8]| {
        let mut codec = codec();
        codec.learn(7, schema).unwrap();
        codec.decode(payload)
    };
    assert!(decode(newest, &framed(&[])).is_ok());

    let nulls = with_field(r#"{"name":"more","type":{"type":"array","items":"null"}}"#);
    assert!(decode(&nulls, &framed(&bytes::long(0))).is_ok());
    let started = Instant::now();
    for count in [1 << 62, 1 << 40, i64::MAX, i64::MIN] {
        let exploding = [bytes::long(count), bytes::long(0)].concat();
        let error = decode(&nulls, &framed(&exploding)).unwrap_err();
        assert!(matches!(error, AvroError::Decode(_)), "{count}: {error}");
    }
    assert!(started.elapsed() < Duration::from_secs(60));

    let list = with_field(
        r#"{"name":"more","type":{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]}]}}"#,
    );
    assert!(decode(&list, &framed(&bytes::long(0))).is_ok());
    let deep = [vec![2; 500_000], vec![0]].concat();
    assert!(decode(&list, &framed(&deep)).is_err());

    let other_type = newest.replacen(
        r#"{"name": "tenant", "type": "string"}"#,
        r#"{"name": "tenant", "type": "long"}"#,
        1,
    );
    let without = newest.replacen(r#"{"name": "tenant", "type": "string"},"#, "", 1);
    for schema in [other_type, without, r#""string""#.to_owned()] {
        assert_ne!(schema, **newest);
        let error = decode(&schema, &framed(&[])).unwrap_err();
        assert!(
            matches!(error, AvroError::Decode(_) | AvroError::Trailing),
            "{error}"
        );
    }
    for schema in [
        "",
        "{",
        r#"{"type":"record"}"#,
        r#"{"type":"no such type"}"#,
    ] {
        assert!(matches!(
            codec().learn(7, schema),
            Err(AvroError::Schema(_))
        ));
    }
}

/// Whatever it is: one record, and it maps exactly where it was taken.
fn check(source: &str, item: &[u8]) -> Result<(), TestCaseError> {
    let definition = goldens::definition(source);
    let admitted = goldens::admit(source, item);
    prop_assert_eq!(&admitted, &goldens::admit(source, item));
    match &admitted.record.body {
        RawBody::Native(native) => {
            let mapped = definition.map(&admitted.record);
            prop_assert!(mapped.is_ok(), "{:?} of {}", mapped, native.json);
            let mapped = mapped.expect("checked");
            prop_assert!(mapped.properties.len() <= 32);
            prop_assert!(!mapped.event_id.is_empty());
            prop_assert!(
                serde_json::from_str::<Value>(&native.json).is_ok_and(|it| it.is_object())
            );
        }
        RawBody::Rejection(rejection) => {
            let mapped = definition.map(&admitted.record);
            prop_assert_eq!(mapped.as_ref(), Err(rejection));
            prop_assert!(!rejection.detail.is_empty());
        }
    }
    Ok(())
}

fn source() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "algomo",
        "autochat",
        "loyjoy",
        "userlike",
        "watermelon",
    ])
}

fn golden() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(goldens::all().collect::<Vec<_>>())
}

/// Values that a field is not made for.
fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            Value::Null,
            json!(true),
            json!(0),
            json!(-1),
            json!(1.5),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(1e308),
            json!([]),
            json!({}),
            json!([{"a": [1]}]),
            json!({"event": "widget_opened"}),
            json!("x".repeat(5000)),
            json!("\u{0}"),
            json!("\u{202e}evil"),
            json!("🧑‍🚀𝕏"),
            json!("=HYPERLINK(\"http://x\")"),
            json!("'; DROP TABLE events; --"),
            json!("<script>alert(1)</script>"),
            json!("javascript:alert(1)"),
        ]),
        any::<f64>().prop_filter_map("finite", |float| serde_json::Number::from_f64(float)
            .map(Value::Number)),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

/// Every value below the top, objects too.
fn places(value: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(members) = value {
        for (key, value) in members {
            let path = format!("{path}/{key}");
            places(value, &path, found);
            found.push(path);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_end_as_one_record(source in source(), item in prop::collection::vec(any::<u8>(), 0..300)) {
        check(source, &item)?;
    }

    #[test]
    fn a_golden_with_broken_bytes_ends_as_one_record(
        (source, line) in golden(),
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..4),
        removed in 0..4_usize,
    ) {
        let mut item = line.as_bytes().to_vec();
        let at = at.index(item.len());
        let end = item.len().min(at + removed);
        item.splice(at..end, bytes);
        check(source, &item)?;
    }

    #[test]
    fn a_golden_with_a_flipped_type_ends_as_one_record(
        (source, line) in golden(),
        at in any::<prop::sample::Index>(),
        value in hostile(),
        enveloped in any::<bool>(),
    ) {
        let item = if enveloped { goldens::enveloped(line, 1) } else { line.to_owned() };
        let mut item: Value = serde_json::from_str(&item).unwrap();
        let mut found = Vec::new();
        places(&item, "", &mut found);
        if let Some(place) = item.pointer_mut(&found[at.index(found.len())]) {
            *place = value;
        }
        check(source, item.to_string().as_bytes())?;
    }
}

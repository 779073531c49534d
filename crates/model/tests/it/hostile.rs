//! Bad input: each item ends as exactly one of a record that maps or a typed rejection.

use chatpulse_model::{
    Context, RawBody, RejectReason,
    source::{Admitted, DEFAULT_MAX_ITEM_BYTES},
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

//! What redaction promises: nothing personal survives, and nothing else depends on when.

use chatpulse_model::{RawBody, source::Admitted};
use proptest::prelude::*;
use serde_json::Value;

use crate::goldens;

/// The fake personal values of the goldens and of their envelope.
const PERSONAL: &[&str] = &[
    "Jane", "jane", "Doe", "23456789", "K-4711", "hunter2", "0815", "Agentson", "Firefox", "Linux",
    "Vienna", "de-AT", "en-GB",
];

/// Everything that is written down of an item.
fn written(admitted: &Admitted) -> String {
    let context = &admitted.record.context;
    let key = String::from_utf8_lossy(&admitted.key);
    format!("{context:?} {:?} {key}", admitted.record.body)
}

#[test]
fn no_personal_value_of_the_goldens_survives() {
    let mut seen = vec![false; PERSONAL.len()];
    for (source, line) in goldens::all() {
        let item = goldens::enveloped(line, 1);
        let written = written(&goldens::admit(source, item.as_bytes()));
        for (value, seen) in PERSONAL.iter().zip(&mut seen) {
            *seen |= item.contains(value);
            assert!(!written.contains(value), "{value} survived: {written}");
        }
    }
    assert!(
        seen.iter().all(|seen| *seen),
        "a value is in no golden: {seen:?}"
    );
}

#[test]
fn one_visitor_has_one_pseudonym_and_it_is_not_the_vendors_id() {
    let visitors: std::collections::BTreeSet<_> = goldens::of("userlike")
        .map(|line| {
            let admitted = goldens::admit("userlike", line.as_bytes());
            let mapped = goldens::definition("userlike").map(&admitted.record);
            mapped.unwrap().visitor.unwrap()
        })
        .collect();
    assert_eq!(visitors.len(), 1);
    assert!(visitors.iter().all(|visitor| visitor.len() == 32));
}

#[test]
fn an_id_that_holds_an_address_or_number_is_pseudonymised_and_stays_one_id() {
    let map = |id: &str| {
        let item = format!(r#"{{"event":"widget_message_sent","widet_conversation_id":"{id}"}}"#);
        let admitted = goldens::admit("watermelon", item.as_bytes());
        goldens::definition("watermelon")
            .map(&admitted.record)
            .unwrap()
    };
    for id in [
        "jane@example.com",
        "+4915123456789",
        "4915123456789@s.whatsapp.net",
    ] {
        let first = map(id).conversation_id.unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(map(id).conversation_id.unwrap(), first);
    }
    assert_eq!(
        map("4915123456789").conversation_id.unwrap(),
        "4915123456789"
    );
}

#[test]
fn notes_name_unlisted_keys_only_where_they_look_like_identifiers() {
    let item = br#"{"event":"widget_opened","renamed_key":1,"jane@example.com":1,"k15123456789":1,"a b":1,"__proto__":{}}"#;
    let RawBody::Native(native) = goldens::admit("watermelon", item).record.body else {
        panic!("taken");
    };
    assert_eq!(
        native.redactions,
        ["unlisted:*", "unlisted:__proto__", "unlisted:renamed_key"]
    );
}

#[test]
fn long_text_is_cut_and_hidden_marks_are_removed() {
    let long = "ä".repeat(5000);
    let item = format!(
        r#"{{"event":"widget_chat_clicked","link_text":"{long}","link_type":"jane\u200b@example.com\u0000"}}"#
    );
    let RawBody::Native(native) = goldens::admit("watermelon", item.as_bytes()).record.body else {
        panic!("taken");
    };
    let kept: Value = serde_json::from_str(&native.json).unwrap();
    assert_eq!(kept["link_text"].as_str().unwrap().chars().count(), 1024);
    assert_eq!(kept["link_type"], "[email] ");
    assert_eq!(
        native.redactions,
        ["clean:link_type", "cut:link_text", "mask:link_type"]
    );
}

#[test]
fn notes_are_bounded() {
    let keys: Vec<String> = (0..900).map(|key| format!(r#""key_{key}":1"#)).collect();
    let item = format!(r#"{{"event":"widget_opened",{}}}"#, keys.join(","));
    let RawBody::Native(native) = goldens::admit("watermelon", item.as_bytes()).record.body else {
        panic!("taken");
    };
    assert_eq!(native.redactions.len(), 20);
}

/// Every string leaf of a value, in order.
fn leaves<'v>(value: &'v mut Value, found: &mut Vec<&'v mut Value>) {
    match value {
        Value::Object(members) => members.values_mut().for_each(|value| leaves(value, found)),
        Value::Array(elements) => elements.iter_mut().for_each(|value| leaves(value, found)),
        Value::String(_) => found.push(value),
        _ => {}
    }
}

fn golden() -> impl Strategy<Value = (&'static str, &'static str)> {
    let all: Vec<_> = goldens::all().collect();
    prop::sample::select(all)
}

proptest! {
    #[test]
    fn an_address_or_number_put_into_any_string_does_not_survive(
        (source, line) in golden(),
        leaf in any::<prop::sample::Index>(),
        personal in prop::sample::select(vec![
            "erika.m@mail.example", "ERIKA.M%40MAIL.EXAMPLE", "+43 664 55512348", "(0664) 55512348",
            "+4366455512348", "664-555-1234", "0664/55512348",
        ]),
        before in prop::sample::select(vec!["", "call ", "https://x.example/u/", "é "]),
        after in prop::sample::select(vec!["", " now", "?x=1", "\n"]),
    ) {
        let item = goldens::enveloped(line, 1);
        let mut item: Value = serde_json::from_str(&item).unwrap();
        let mut found = Vec::new();
        leaves(&mut item, &mut found);
        **leaf.get_mut(&mut found) = Value::String(format!("{before}{personal}{after}"));
        let written = written(&goldens::admit(source, item.to_string().as_bytes()));
        for trace in ["erika", "ERIKA", "55512348", "555-1234"] {
            prop_assert!(!written.contains(trace), "{written}");
        }
    }

    #[test]
    fn redacting_what_is_redacted_changes_nothing(
        (source, line) in golden(),
        leaf in any::<prop::sample::Index>(),
        text in "\\PC{0,40}|[a-z0-9@.+ /:?-]{0,40}",
    ) {
        let mut item: Value = serde_json::from_str(line).unwrap();
        let mut found = Vec::new();
        leaves(&mut item, &mut found);
        **leaf.get_mut(&mut found) = Value::String(text);
        let first = goldens::admit(source, item.to_string().as_bytes());
        if let RawBody::Native(once) = &first.record.body {
            let again = goldens::admit(source, once.json.as_bytes());
            let RawBody::Native(twice) = &again.record.body else {
                panic!("refused on the second way: {:?}", again.record.body);
            };
            // A pseudonym is hashed again: nothing in it says that it is one, and nothing may,
            // or a sender could choose its own.
            let stable = |json: &str| {
                let mut kept: Value = serde_json::from_str(json).unwrap();
                for note in once.redactions.iter().filter(|note| note.starts_with("pseudonymise")) {
                    let pointer = note.replace("pseudonymise:", "/").replace('.', "/");
                    if let Some(value) = kept.pointer_mut(&pointer) {
                        *value = Value::Null;
                    }
                }
                kept
            };
            prop_assert_eq!(stable(&once.json), stable(&twice.json));
        }
    }

    #[test]
    fn what_an_event_is_does_not_depend_on_when_it_is_received(
        (source, line) in golden(),
        later in 1..10_000_000_i64,
        sequence in prop::option::of(1..100_usize),
    ) {
        let item = sequence.map_or_else(|| line.to_owned(), |n| goldens::enveloped(line, n));
        let definition = goldens::definition(source);
        let one = goldens::admit_at(definition, item.as_bytes(), goldens::RECEIVED_AT);
        let two = goldens::admit_at(definition, item.as_bytes(), goldens::RECEIVED_AT + later);
        prop_assert_eq!(&one.key, &two.key);
        prop_assert_eq!(&one.record.body, &two.record.body);
        let id = |admitted: &Admitted| definition.map(&admitted.record).unwrap().event_id;
        prop_assert_eq!(id(&one), id(&two));
    }
}

//! Definitions against the vendors' documents, and every golden through admit and map.

use std::{collections::BTreeSet, fmt::Write};

use chatpulse_model::{
    RawBody,
    source::{Catalog, Definition},
};

use crate::goldens;

/// The names that the vendors document, and how many they are.
const DOCUMENTED: &[(&str, usize, &str)] = &[
    ("algomo", 4, include_str!("documented/algomo.txt")),
    ("autochat", 7, include_str!("documented/autochat.txt")),
    ("loyjoy", 145, include_str!("documented/loyjoy.txt")),
    ("userlike", 35, include_str!("documented/userlike.txt")),
    ("watermelon", 25, include_str!("documented/watermelon.txt")),
];

#[test]
fn every_documented_name_is_defined_and_no_other() {
    for (source, count, names) in DOCUMENTED {
        let documented: BTreeSet<&str> = names.lines().collect();
        let defined: BTreeSet<&str> = goldens::definition(source)
            .events()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(documented.len(), *count, "{source}");
        assert_eq!(defined, documented, "{source}");
    }
    let sources: Vec<&str> = Catalog::builtin().iter().map(Definition::name).collect();
    assert_eq!(
        sources,
        ["algomo", "autochat", "loyjoy", "userlike", "watermelon"]
    );
}

#[test]
fn every_documented_name_has_a_golden_and_every_golden_is_documented() {
    for (source, count, names) in DOCUMENTED {
        let documented: BTreeSet<String> = names.lines().map(str::to_owned).collect();
        let mut shown = BTreeSet::new();
        let mut goldens = 0;
        for line in goldens::of(source) {
            let mapped = goldens::definition(source)
                .map(&goldens::admit(source, line.as_bytes()).record)
                .unwrap();
            assert!(mapped.documented, "{}", mapped.source_event);
            shown.insert(mapped.source_event);
            goldens += 1;
        }
        assert_eq!(shown, documented, "{source}");
        // Autochat dispatches each outcome under its stable name and under its alias.
        let copies = if *source == "autochat" { 2 } else { 1 };
        assert_eq!(goldens, count * copies, "{source}");
    }
}

#[test]
fn every_golden_is_recognised_as_its_own_vendors() {
    for (source, line) in goldens::all() {
        for item in [line.to_owned(), goldens::enveloped(line, 1)] {
            let found = Catalog::builtin().recognise(item.as_bytes());
            assert_eq!(found.map(Definition::name), Some(source), "{line}");
        }
    }
    assert!(
        Catalog::builtin()
            .recognise(br#"{"event":"gtm.js"}"#)
            .is_none()
    );
}

/// What admit and map make of a source's goldens: bare as the vendor hands them over, except for
/// the last, which is shown in the snippet's envelope too.
fn outcomes(source: &str) -> String {
    let mut text = String::new();
    let mut show = |item: &str| {
        let admitted = goldens::admit(source, item.as_bytes());
        let mapped = goldens::definition(source).map(&admitted.record).unwrap();
        let RawBody::Native(native) = &admitted.record.body else {
            panic!("{item} was refused: {:?}", admitted.record.body);
        };
        let mut neutral = serde_json::to_value(&mapped).unwrap();
        let fields = neutral.as_object_mut().unwrap();
        fields.remove("source_event");
        fields.retain(|_, value| !value.is_null() && *value != serde_json::json!({}));
        let key = String::from_utf8(admitted.key)
            .unwrap()
            .replace('\0', " / ");
        writeln!(text, "{}", mapped.source_event).unwrap();
        writeln!(text, "    key      {key}").unwrap();
        writeln!(text, "    kept     {}", native.json).unwrap();
        writeln!(text, "    redacted {}", native.redactions.join(" ")).unwrap();
        writeln!(text, "    neutral  {neutral}").unwrap();
    };
    goldens::of(source).for_each(&mut show);
    let last = goldens::of(source).last().unwrap();
    show(&goldens::enveloped(last, 1));
    text
}

#[test]
fn goldens_of_algomo_map_as_reviewed() {
    insta::assert_snapshot!(outcomes("algomo"));
}

#[test]
fn goldens_of_autochat_map_as_reviewed() {
    insta::assert_snapshot!(outcomes("autochat"));
}

#[test]
fn goldens_of_loyjoy_map_as_reviewed() {
    insta::assert_snapshot!(outcomes("loyjoy"));
}

#[test]
fn goldens_of_userlike_map_as_reviewed() {
    insta::assert_snapshot!(outcomes("userlike"));
}

#[test]
fn goldens_of_watermelon_map_as_reviewed() {
    insta::assert_snapshot!(outcomes("watermelon"));
}

#[test]
fn both_dispatches_of_an_autochat_outcome_have_one_event_id_and_one_key() {
    let admitted: Vec<_> = goldens::of("autochat")
        .enumerate()
        .map(|(index, line)| {
            goldens::admit("autochat", goldens::enveloped(line, index + 1).as_bytes())
        })
        .collect();
    let mut ids = BTreeSet::new();
    for pair in admitted.chunks(2) {
        let id = |index: usize| {
            let mapped = goldens::definition("autochat").map(&pair[index].record);
            mapped.unwrap().event_id
        };
        assert_eq!(id(0), id(1));
        assert_eq!(pair[0].key, pair[1].key);
        ids.insert(id(0));
    }
    assert_eq!(ids.len(), 7);
}

#[test]
fn the_right_spelling_of_watermelons_conversation_id_counts_like_the_vendors() {
    let key = |field: &str| {
        let item = format!(
            r#"{{"event":"widget_message_sent","{field}":"c-1","timestamp":1768471200000}}"#
        );
        let admitted = goldens::admit("watermelon", item.as_bytes());
        let mapped = goldens::definition("watermelon")
            .map(&admitted.record)
            .unwrap();
        assert_eq!(mapped.conversation_id.as_deref(), Some("c-1"));
        admitted.key
    };
    assert_eq!(key("widet_conversation_id"), key("widget_conversation_id"));
}

#[test]
fn a_number_and_its_text_are_the_same_id() {
    let map = |id: &str| {
        let item = format!(
            r#"{{"event_name":"chat_started","global_ctx":{{"widget_id":{id},"client_uuid":{id}}},"session_ctx":{{"chat_id":{id}}}}}"#
        );
        goldens::definition("userlike")
            .map(&goldens::admit("userlike", item.as_bytes()).record)
            .unwrap()
    };
    assert_eq!(map("4711"), map("\"4711\""));
    assert_eq!(map("4711").conversation_id.as_deref(), Some("4711"));
}

#[test]
fn a_page_session_stands_for_loyjoys_conversation() {
    let line = goldens::of("loyjoy").last().unwrap();
    let map = |item: &str| {
        goldens::definition("loyjoy")
            .map(&goldens::admit("loyjoy", item.as_bytes()).record)
            .unwrap()
    };
    assert_eq!(map(line).conversation_id, None);
    let enveloped = map(&goldens::enveloped(line, 1));
    assert_eq!(enveloped.conversation_id.as_deref(), Some("ps-1"));
}

#[test]
fn an_unknown_name_is_custom_undocumented_and_redacted_like_the_rest() {
    let item = br#"{"event":" widget_rated by jane@example.com ","userEmail":"jane@example.com","newKey":1}"#;
    let admitted = goldens::admit("algomo", item);
    let mapped = goldens::definition("algomo").map(&admitted.record).unwrap();
    assert_eq!(mapped.source_event, "widget_rated by [email]");
    assert_eq!(mapped.event_type.as_str(), "custom");
    assert!(!mapped.documented);
    let RawBody::Native(native) = admitted.record.body else {
        panic!("taken");
    };
    assert_eq!(native.json, r#"{"event":"widget_rated by [email]"}"#);
    assert_eq!(
        native.redactions,
        ["drop:userEmail", "mask:event", "unlisted:newKey"]
    );
}

#[test]
fn what_each_source_lets_be_seen_is_as_reviewed() {
    // That it agrees with the events table is checked whenever a definition is loaded.
    let shown: Vec<String> = Catalog::builtin()
        .iter()
        .map(|definition| {
            let observes = serde_json::to_value(definition.observes()).unwrap();
            let flags = observes.as_object().unwrap().iter();
            let seen: Vec<&str> = flags
                .filter(|(_, value)| value.as_bool() == Some(true))
                .map(|(flag, _)| flag.as_str())
                .collect();
            let [phase, partly, without] =
                ["initial_phase", "partly", "without_conversation"].map(|key| &observes[key]);
            format!(
                "{}: {}; begins {phase}; partly {partly}; without conversation {without}",
                definition.name(),
                seen.join(" ")
            )
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

const MINIMAL: &str = r#"
name = "tiny"
version = 1
title = "Tiny"
[recognise]
present = ["n"]
[paths]
name = ["n"]
score = ["stars"]
[fields]
n = "name"
stars = "number"
[events]
rated = { type = "feedback.submitted", actor = "visitor", score_kind = "stars", proves = "A rating." }
[observes]
conversation_id = false
visitor_messages = false
bot_messages = false
agent_messages = false
messages_partial = false
reported_total = false
handoff_request = false
human_join = false
human_leave = false
bot_return = false
close = false
resolve_or_positive_feedback = true
csat = true
nps = false
feedback = true
surveys = false
goals = false
contacts = false
links = false
consent = false
"#;

#[test]
fn a_source_can_be_added_and_replaced_by_a_higher_version_only() {
    let catalog = Catalog::builtin().extend([("tiny.toml", MINIMAL)]).unwrap();
    assert_eq!(catalog.iter().count(), 6);
    assert_eq!(catalog.get("tiny").map(Definition::version), Some(1));

    let error = catalog.extend([("again.toml", MINIMAL)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "source definition again.toml: source tiny is known in version 1: raise the version to replace it"
    );
    let newer = MINIMAL.replace("version = 1", "version = 2");
    let catalog = catalog.extend([("newer.toml", newer.as_str())]).unwrap();
    assert_eq!(catalog.get("tiny").map(Definition::version), Some(2));
}

#[test]
fn a_payloads_own_score_is_read_on_the_scale_of_its_event() {
    let catalog = Catalog::builtin().extend([("tiny.toml", MINIMAL)]).unwrap();
    let definition = catalog.get("tiny").unwrap();
    let raw = goldens::admit_at(
        definition,
        br#"{"n":"rated","stars":4}"#,
        goldens::RECEIVED_AT,
    )
    .record;
    let mapped = definition.map(&raw).unwrap();
    assert_eq!(mapped.score, Some(4.0));
    assert!(mapped.properties.is_empty());
}

#[test]
fn a_definition_that_contradicts_itself_is_refused_with_the_place() {
    for (from, to, problem) in [
        (
            "name = \"tiny\"",
            "name = \"Ti/ny\"",
            "name: 1 to 32 of a-z",
        ),
        ("version = 1", "version = 0", "version: count from 1"),
        ("name = [\"n\"]", "name = []", "paths.name"),
        (
            "name = [\"n\"]",
            "name = [\"m\"]",
            "list m in [fields] as name",
        ),
        (
            "stars = \"number\"",
            "stars = \"keep\"",
            "list stars in [fields] as number",
        ),
        (
            "stars = \"number\"",
            "stars = \"number\"\n\"stars.x\" = \"keep\"",
            "both listed",
        ),
        (
            "stars = \"number\"",
            "stars = \"number\"\n\"a.stars\" = \"keep\"",
            "one property",
        ),
        (
            "stars = \"number\"",
            "stars = \"number\"\n\"a..b\" = \"keep\"",
            "empty key",
        ),
        (
            "score = [\"stars\"]",
            "score = [\"context.session_id\"]",
            "can only stand for",
        ),
        ("csat = true", "csat = false", "observes.csat: says false"),
        ("links = false", "links = true", "observes.links: says true"),
        (
            "csat = true",
            "csat = true\npartly = [\"links\"]",
            "observes.partly: links is no flag",
        ),
        (
            "csat = true",
            "csat = true\nwithout_conversation = [\"star\"]",
            "observes.without_conversation: star is no flag",
        ),
        (
            "proves = \"A rating.\"",
            "proves = \" \"",
            "say what the event proves",
        ),
        (
            "rated = ",
            "\" rated\" = ",
            "no payload can carry this name",
        ),
        ("feedback.submitted", "unknown", "use custom"),
        (
            "score_kind = \"stars\"",
            "score = 1.0",
            "needs its score_kind",
        ),
        (
            "score_kind = \"stars\"",
            "properties = { stars = \"x\" }",
            "would hide field stars",
        ),
        ("title = \"Tiny\"", "titel = \"Tiny\"", "titel"),
    ] {
        let text = MINIMAL.replacen(from, to, 1);
        assert_ne!(text, MINIMAL, "{from}");
        let error = Definition::from_toml("tiny.toml", &text)
            .unwrap_err()
            .to_string();
        assert!(error.contains(problem), "{error}\nshould say: {problem}");
    }
}

//! Items that a producer must refuse: otherwise sound, each with exactly one fault.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::json::{Object, rfc3339};
use crate::vendors::Source;

const DOCUMENTED: [(Source, &str); 5] = [
    (Source::Algomo, "Message sent (Algomo Widget)"),
    (Source::Autochat, "autochat.goal_met.v1"),
    (Source::LoyJoy, "intent_evaluated"),
    (Source::Userlike, "message_operator_terminating"),
    (Source::Watermelon, "widget_opened"),
];

/// Levels of nesting that nobody takes, and that JSON parsers with a bound of their own still read.
const DEPTH: usize = 64;

/// A malformed item: its source, its text, and the reason for which it is refused. None is too large
/// where the limit is not known.
pub(crate) fn item(
    id: &str,
    now: i64,
    max_item_bytes: Option<usize>,
    rng: &mut ChaCha8Rng,
) -> (Source, String, &'static str) {
    let (source, documented) = DOCUMENTED[rng.random_range(0..DOCUMENTED.len())];
    let sound = Parts {
        id: id.to_owned(),
        name: Some(json!(documented)),
        time: json!(rfc3339(now)),
        session_id: json!(format!("{id}-s")),
        sequence: json!(1),
        note: None,
    };
    let kinds = if max_item_bytes.is_some() { 8 } else { 7 };
    let (parts, reason) = match rng.random_range(0..kinds) {
        0 => {
            let garbage = ["42", "null", "true", "\"widget_opened\"", "-0.5"];
            let text = garbage[rng.random_range(0..garbage.len())].to_owned();
            return (source, text, "not_an_object");
        }
        1 => (
            Parts {
                name: None,
                ..sound
            },
            "missing_event_name",
        ),
        2 => (
            Parts {
                name: Some(json!("")),
                ..sound
            },
            "invalid_event_name",
        ),
        3 => {
            let times = ["yesterday", "2024-13-45T99:00:00Z", "", "12:30"];
            let time = json!(times[rng.random_range(0..times.len())]);
            (Parts { time, ..sound }, "invalid_time")
        }
        4 => {
            let times = [
                json!("1900-01-01T00:00:00Z"),
                json!("2262-04-01T00:00:00Z"),
                json!(-2208988800000_i64),
                json!(9223372036000_i64),
            ];
            let time = times[rng.random_range(0..times.len())].clone();
            (Parts { time, ..sound }, "time_out_of_range")
        }
        5 => {
            let note = Some("[".repeat(DEPTH) + &"]".repeat(DEPTH));
            (Parts { note, ..sound }, "too_complex")
        }
        7 => {
            let note = max_item_bytes.map(|bytes| format!("\"{}\"", "x".repeat(bytes)));
            (Parts { note, ..sound }, "too_large")
        }
        _ if rng.random_bool(0.5) => (
            Parts {
                sequence: json!(-1),
                ..sound
            },
            "invalid_context",
        ),
        _ => (
            Parts {
                session_id: json!(12),
                ..sound
            },
            "invalid_context",
        ),
    };
    (source, parts.wrapped(source), reason)
}

struct Parts {
    id: String,
    name: Option<Value>,
    /// The time of the event: in the vendor's own object where that has one, else in the context.
    time: Value,
    session_id: Value,
    sequence: Value,
    /// JSON text of a field that no vendor has.
    note: Option<String>,
}

impl Parts {
    fn wrapped(self, source: Source) -> String {
        let native = Object::new();
        let native = match source {
            Source::Algomo => native
                .with_some("event", self.name)
                .with("widgetId", "widget-0"),
            Source::LoyJoy => native.with_some("evt", self.name).with("bot_id", "bot-0"),
            Source::Userlike => native
                .with_some("event_name", self.name)
                .with_json("global_ctx", "{}")
                .with_json("session_ctx", "{}"),
            Source::Watermelon => native
                .with_some("event", self.name)
                .with("widget_platform", "website")
                .with("timestamp", self.time.clone()),
            Source::Autochat => {
                let detail = Object::new()
                    .with("scope", "chat_widget_tracking")
                    .with("event_id", format!("{}-e", self.id))
                    .with_some("event_type", self.name.clone())
                    .with("occurred_at", self.time.clone())
                    .with("conversation_id", format!("{}-c", self.id))
                    .with("trigger_source", "ai_agent")
                    .with_json("data", "{}")
                    .with("dispatch_version", 1)
                    .finish();
                // The stable name is the type of every event; without a name it goes too.
                native
                    .with_some("type", self.name)
                    .with_json("detail", &detail)
            }
        };
        let native = match self.note {
            Some(note) => native.with_json("note", &note),
            None => native,
        };
        let context = Object::new()
            .with("event_id", format!("{}-x", self.id))
            .with("session_id", self.session_id)
            .with("sequence", self.sequence);
        let context = if matches!(source, Source::Autochat | Source::Watermelon) {
            context
        } else {
            context.with("occurred_at", self.time)
        };
        Object::new()
            .with_json("native", &native.finish())
            .with_json("context", &context.with("sdk", "chatpulse.js/1.0").finish())
            .finish()
    }
}

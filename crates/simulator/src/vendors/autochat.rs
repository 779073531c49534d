//! Autochat: seven kinds of outcome, each dispatched under the stable name and under its alias with
//! one event id; no messages.

use super::Call;
use crate::json::{Object, rfc3339};
use crate::script::{HOUR, Kind, MINUTE, SECOND, Script, Step};
use crate::visit::Visit;

const STABLE_NAME: &str = "autochat.widget_tracking.v1";

const OUTCOMES: [&str; 8] = [
    "autochat.contact_info_obtained.v1",
    "autochat.contact_info_obtained.v1",
    "autochat.lead_qualified.v1",
    "autochat.escalation_triggered.v1",
    "autochat.followup_scheduled.v1",
    "autochat.followup_inferred.v1",
    "autochat.appointment_scheduled.v1",
    "autochat.goal_met.v1",
];

pub(super) fn script(s: &mut Script<'_>) {
    for _ in 0..s.number(1..6) {
        let name = s.pick(&OUTCOMES);
        let escalation = name == "autochat.escalation_triggered.v1";
        s.say(
            name,
            if escalation {
                Kind::HandoffRequested
            } else {
                Kind::Other
            },
        );
        let pause = if s.chance(0.1) {
            HOUR..30 * HOUR
        } else {
            5 * SECOND..20 * MINUTE
        };
        s.wait(pause);
    }
}

pub(super) fn native(visit: &Visit, step: &Step, call: Call<'_>) -> String {
    let session = match visit.steps.len() % 3 {
        // The document lets the session be absent or null.
        0 => None,
        1 => Some(serde_json::Value::Null),
        _ => Some(visit.session(step.session).into()),
    };
    let data = Object::new()
        .with("score", call.step as u64)
        .with("summary", visit.note())
        .with("email", "[redacted]")
        .finish();
    let detail = Object::new()
        .with("scope", "chat_widget_tracking")
        .with("event_id", format!("{}-e{}", visit.id, call.step))
        .with("event_type", step.name)
        .with("occurred_at", rfc3339(step.at))
        .with("conversation_id", visit.conversation.as_str())
        .with_some("session_id", session)
        .with(
            "trigger_source",
            if visit.steps.len().is_multiple_of(2) {
                "ai_agent"
            } else {
                "operator"
            },
        )
        .with_json("data", &data)
        .with("dispatch_version", 1)
        .finish();
    let dispatched_as = if call.dispatch == 0 {
        STABLE_NAME
    } else {
        step.name
    };
    Object::new()
        .with("type", dispatched_as)
        .with_json("detail", &detail)
        .finish()
}

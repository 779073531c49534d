//! Userlike: a contact and an operator, with surveys, a rating without a value, and a transcript.
//!
//! `contact_first_message` and `chat_started` tell that the first message was sent; the message itself
//! is the `message_operator_terminating` that fires with them. They are not counted as messages.

use super::Call;
use crate::json::Object;
use crate::script::{DAY, HOUR, Kind, MINUTE, SECOND, Script, Step};
use crate::visit::Visit;

pub(super) fn script(s: &mut Script<'_>) {
    s.page("button_displayed");
    s.wait(SECOND..2 * SECOND);
    s.page("slot_check");
    s.wait(10..SECOND);
    if s.chance(0.1) {
        s.page("slot_unavailable");
        return;
    }
    s.page("slot_available");
    let proactive = s.chance(0.15);
    if proactive {
        s.wait(SECOND..10 * SECOND);
        s.page("proactive_timer");
        s.wait(SECOND..5 * SECOND);
        s.page("proactive_offer");
    }
    s.wait(2 * SECOND..MINUTE);
    s.page("chat_requested");
    preliminaries(s);
    s.wait(100..2 * SECOND);
    s.say(
        if proactive {
            "chat_connected_proactive"
        } else {
            "chat_connected"
        },
        Kind::Other,
    );
    if s.chance(0.1) {
        return;
    }
    s.wait(3 * SECOND..MINUTE);
    s.say("contact_first_message", Kind::Other);
    s.say(
        if proactive {
            "chat_started_proactive"
        } else {
            "chat_started"
        },
        Kind::Other,
    );
    s.wait(1..20);
    contact(s);
    talk(s);
    if s.chance(0.1) && s.come_back(HOUR..4 * DAY, true) {
        s.say("conversation_resume", Kind::Other);
        s.wait(3 * SECOND..MINUTE);
        contact(s);
        talk(s);
    }
    aftermath(s);
}

fn preliminaries(s: &mut Script<'_>) {
    let views = [
        ("group_select_show", "group_select_submit"),
        ("disclaimer_ok", "chat_window_maximized"),
        ("pre_survey_show", "pre_survey_submit"),
        ("register_show", "register_submit"),
        ("register_show", "register_cancel"),
    ];
    for (show, submit) in views {
        if s.chance(0.25) {
            s.wait(SECOND..3 * SECOND);
            s.page(show);
            s.wait(3 * SECOND..MINUTE);
            s.page(submit);
        }
    }
}

fn talk(s: &mut Script<'_>) {
    if s.chance(0.12) {
        // No operator answers.
        return;
    }
    for turn in 0..s.number(1..7) {
        if turn > 0 {
            s.wait(5 * SECOND..4 * MINUTE);
            contact(s);
        }
        if s.chance(0.1) {
            s.wait(SECOND..5 * SECOND);
            s.say("chat_window_minimized", Kind::Other);
        }
        s.wait(4 * SECOND..6 * MINUTE);
        s.say("message_client_terminating", Kind::AgentMessage);
    }
}

fn contact(s: &mut Script<'_>) {
    s.say("message_operator_terminating", Kind::VisitorMessage);
}

fn aftermath(s: &mut Script<'_>) {
    let views = [
        (
            0.5,
            "feedback_rating_show",
            ["rating_submit", "feedback_rating_cancel"],
        ),
        (
            0.2,
            "feedback_rating_show",
            ["feedback_submit", "feedback_rating_cancel"],
        ),
        (
            0.2,
            "post_survey_show",
            ["post_survey_submit", "chat_window_minimized"],
        ),
        (
            0.3,
            "transcript_show",
            ["transcript_submit", "transcript_cancel"],
        ),
        (
            0.02,
            "error_message",
            ["chat_window_minimized", "chat_window_maximized"],
        ),
    ];
    for (probability, show, answers) in views {
        if s.chance(probability) {
            s.wait(2 * SECOND..MINUTE);
            s.say(show, Kind::Other);
            s.wait(2 * SECOND..MINUTE);
            let answer = s.pick(&answers);
            s.say(answer, Kind::Other);
        }
    }
}

pub(super) fn native(visit: &Visit, step: &Step, call: Call<'_>) -> String {
    let global = Object::new()
        .with("client_uuid", format!("{}-uuid", visit.id))
        .with("operator_group_id", 41)
        .with("widget_id", 7 + visit.tenant as u64)
        .with("widget_lang", visit.language)
        .finish();
    // Undefined until there is a chat.
    let chat = step.in_conversation;
    let mut session = Object::new()
        .with("session_id", visit.session(step.session))
        .with_some("chat_id", chat.then_some(visit.conversation.as_str()))
        .with_some("client_name", chat.then_some(visit.name))
        .with_some("client_email", chat.then(|| visit.email()))
        .with_some("operator_id", chat.then_some(9_001))
        .with_some("operator_name", chat.then_some(visit.agent));
    if call.step.is_multiple_of(3) {
        let custom = Object::new()
            .with("phone", visit.phone())
            .with("note", visit.note())
            .finish();
        session = session.with_json("custom_data", &custom);
    }
    Object::new()
        .with("event_name", step.name)
        .with_json("global_ctx", &global)
        .with_json("session_ctx", &session.finish())
        .finish()
}

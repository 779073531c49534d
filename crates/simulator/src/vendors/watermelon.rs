//! Watermelon: bot, visitor and human messages, handoffs, joins, archives and deletions, with the
//! browser's own count of messages on every event of a conversation.

use rand::Rng as _;

use super::Call;
use crate::json::{Object, rfc3339};
use crate::script::{DAY, HOUR, Kind, MINUTE, SECOND, Script, Step};
use crate::visit::Visit;

const LINKS: [(&str, &str, &str); 7] = [
    (
        "widget_whatsapp_clicked",
        "https://wa.example/4915550100",
        "WhatsApp",
    ),
    (
        "widget_facebook_clicked",
        "https://social.example/shop?ref=widget",
        "Facebook",
    ),
    (
        "widget_instagram_clicked",
        "https://photos.example/shop#top",
        "Instagram",
    ),
    ("widget_chat_clicked", "https://shop.example/chat", "Chat"),
    (
        "widget_email_clicked",
        "mailto:service@post.example",
        "Write to service@post.example",
    ),
    (
        "widget_phone_clicked",
        "tel:+4915550199",
        "Call +49 1555 0199",
    ),
    (
        "widget_custom_link_clicked",
        "https://shop.example/returns?order=77#form",
        "Returns",
    ),
];

pub(super) fn script(s: &mut Script<'_>) {
    s.page("widget_loaded");
    s.wait(SECOND..20 * SECOND);
    s.page("widget_opened");
    if s.chance(0.15) {
        s.wait(SECOND..10 * SECOND);
        let (name, _, _) = s.pick(&LINKS);
        s.page(name);
    }
    if s.chance(0.5) {
        s.wait(SECOND..10 * SECOND);
        let accepted = s.chance(0.9);
        s.page(if accepted {
            "widget_gdpr_accepted"
        } else {
            "widget_gdpr_declined"
        });
    }
    if s.chance(0.1) {
        s.wait(SECOND..30 * SECOND);
        s.page("widget_closed");
        return;
    }
    s.wait(SECOND..30 * SECOND);
    if s.chance(0.05) {
        outbound(s);
    } else {
        inbound(s);
    }
    close(s);
    s.wait(SECOND..MINUTE);
    s.page("widget_closed");
}

/// The visitor writes first.
fn inbound(s: &mut Script<'_>) {
    if s.chance(0.5) {
        s.say("widget_start_conversation_clicked", Kind::Other);
        s.wait(SECOND..10 * SECOND);
    }
    if s.chance(0.25) {
        bot(s);
        s.wait(2 * SECOND..30 * SECOND);
    }
    s.page("widget_conversation_started");
    s.wait(1..50);
    visitor(s);
    if s.chance(0.04) {
        return;
    }
    reply(s);
    for _ in 0..s.number(0..5) {
        question_and_answer(s);
    }
    match s.number(0..100) {
        // Contained: the bot has answered everything.
        0..45 => feedback(s),
        // Abandoned: the last question stays unanswered.
        45..57 => {
            s.wait(5 * SECOND..2 * MINUTE);
            visitor(s);
        }
        // Requested and unserved.
        57..68 => {
            request(s);
            if s.chance(0.5) {
                s.wait(MINUTE..10 * MINUTE);
                visitor(s);
            }
            if s.chance(0.5) {
                reply(s);
            }
        }
        // Requested and served, sometimes by a human who writes without joining.
        68..86 => {
            request(s);
            s.wait(5 * SECOND..25 * MINUTE);
            if s.chance(0.9) {
                s.say("widget_user_joined", Kind::HumanJoined);
            }
            human_talk(s);
            human_end(s);
        }
        // A human steps in unasked.
        86..93 => {
            s.wait(5 * SECOND..5 * MINUTE);
            s.say("widget_user_joined", Kind::HumanJoined);
            human_talk(s);
            human_end(s);
        }
        // Steps in unasked, leaves, and is then asked for.
        93..97 => {
            s.wait(5 * SECOND..5 * MINUTE);
            s.say("widget_user_joined", Kind::HumanJoined);
            human_talk(s);
            s.wait(SECOND..MINUTE);
            s.say("widget_user_left", Kind::HumanLeft);
            s.wait(SECOND..MINUTE);
            question_and_answer(s);
            request(s);
            s.wait(5 * SECOND..25 * MINUTE);
            s.say("widget_user_joined", Kind::HumanJoined);
            human_talk(s);
            human_end(s);
        }
        // Two humans at once, whom one event ends: their times overlap and count once.
        _ => {
            request(s);
            s.wait(5 * SECOND..10 * MINUTE);
            s.say("widget_user_joined", Kind::HumanJoined);
            human_talk(s);
            s.wait(SECOND..5 * MINUTE);
            s.say("widget_user_joined", Kind::HumanJoined);
            human_talk(s);
            s.wait(SECOND..5 * MINUTE);
            s.say("widget_handover_agent", Kind::BotResumed);
        }
    }
}

/// A human writes first.
fn outbound(s: &mut Script<'_>) {
    s.say("widget_user_joined", Kind::HumanJoined);
    s.wait(SECOND..20 * SECOND);
    agent(s);
    if s.chance(0.8) {
        s.wait(5 * SECOND..5 * MINUTE);
        visitor(s);
        human_talk(s);
    }
    human_end(s);
    if s.chance(0.3) {
        question_and_answer(s);
    }
}

fn close(s: &mut Script<'_>) {
    s.wait(10 * SECOND..30 * MINUTE);
    match s.number(0..100) {
        0..3 => {
            s.say("widget_conversation_archived", Kind::Closed);
            s.wait(MINUTE..HOUR);
            s.say("widget_conversation_deleted", Kind::Closed);
        }
        3..7 => s.say("widget_conversation_deleted", Kind::Closed),
        7..65 => {
            s.say("widget_conversation_archived", Kind::Closed);
            if s.chance(0.3) {
                reopen(s);
            }
        }
        _ => {}
    }
}

/// The visitor comes back after the close: within seven days, or later.
fn reopen(s: &mut Script<'_>) {
    let after = if s.chance(0.75) {
        HOUR..6 * DAY
    } else {
        7 * DAY + HOUR..9 * DAY
    };
    if !s.come_back(after, true) {
        return;
    }
    s.page("widget_loaded");
    s.wait(SECOND..30 * SECOND);
    s.page("widget_opened");
    question_and_answer(s);
    if s.chance(0.6) {
        s.wait(MINUTE..10 * MINUTE);
        s.say("widget_conversation_archived", Kind::Closed);
    }
}

fn question_and_answer(s: &mut Script<'_>) {
    s.wait(5 * SECOND..3 * MINUTE);
    visitor(s);
    reply(s);
}

fn visitor(s: &mut Script<'_>) {
    s.say("widget_message_sent", Kind::VisitorMessage);
}

/// The bot answers, rarely within the same millisecond.
fn reply(s: &mut Script<'_>) {
    if s.chance(0.98) {
        s.wait(300..8 * SECOND);
    }
    bot(s);
}

fn bot(s: &mut Script<'_>) {
    s.say("widget_agent_message_sent", Kind::BotMessage);
}

fn request(s: &mut Script<'_>) {
    s.wait(5 * SECOND..MINUTE);
    s.say("widget_handoff_requested", Kind::HandoffRequested);
    if s.chance(0.1) {
        s.wait(30 * SECOND..3 * MINUTE);
        s.say("widget_handoff_requested", Kind::HandoffRequested);
    }
}

fn agent(s: &mut Script<'_>) {
    if s.chance(0.4) {
        s.say("widget_user_typing", Kind::Other);
        s.wait(SECOND..15 * SECOND);
    }
    s.say("widget_message_user_sent", Kind::AgentMessage);
}

fn human_talk(s: &mut Script<'_>) {
    for turn in 0..s.number(1..5) {
        if turn > 0 {
            s.wait(5 * SECOND..3 * MINUTE);
            visitor(s);
        }
        s.wait(3 * SECOND..4 * MINUTE);
        agent(s);
    }
}

/// The human leaves, hands back to the bot, or stays until the close.
fn human_end(s: &mut Script<'_>) {
    s.wait(SECOND..5 * MINUTE);
    match s.number(0..10) {
        0..5 => s.say("widget_user_left", Kind::HumanLeft),
        5..7 => {
            s.say("widget_handover_agent", Kind::BotResumed);
            question_and_answer(s);
        }
        _ => {}
    }
}

fn feedback(s: &mut Script<'_>) {
    if s.chance(0.25) {
        s.wait(SECOND..MINUTE);
        s.say("widget_feedback_submitted", Kind::Other);
    }
}

/// Whether the event reports the browser's count of messages.
pub(super) fn reports_total(step: &Step) -> bool {
    step.in_conversation && !step.drift && step.name != "widget_feedback_submitted"
}

pub(super) fn native(visit: &Visit, step: &Step, call: Call<'_>) -> String {
    let mut object = Object::new()
        .with("event", step.name)
        .with("widget_platform", "website");
    if step.name == "widget_loaded" {
        object = object.with("widget_id", visit.widget.as_str());
    }
    if step.in_conversation {
        // Watermelon's documents misspell the key; the right spelling turns up too.
        let misspelt = call.rng.random_bool(0.85);
        let key = if misspelt {
            "widet_conversation_id"
        } else {
            "widget_conversation_id"
        };
        object = object.with(key, visit.conversation.as_str());
    }
    object = if call.rng.random_bool(0.85) {
        object.with("timestamp", step.at)
    } else {
        object.with("timestamp", rfc3339(step.at))
    };
    if reports_total(step) {
        object = object.with("total_messages", step.total);
    }
    if step.name == "widget_feedback_submitted" {
        object = object.with("agent_name", visit.agent);
    }
    if let Some((_, url, text)) = LINKS.iter().find(|(name, _, _)| *name == step.name) {
        object = object
            .with("link_url", *url)
            .with("link_type", "sitelink")
            .with("link_text", *text);
    }
    if step.drift {
        object = object.with("caller_note", visit.note());
    }
    object.finish()
}

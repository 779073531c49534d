//! Algomo: the visitor's messages, contact details and links; nothing of the bot or of humans.

use super::Call;
use crate::json::Object;
use crate::script::{DAY, HOUR, Kind, MINUTE, SECOND, Script, Step};
use crate::visit::Visit;

pub(super) fn script(s: &mut Script<'_>) {
    s.say("Conversation started (Algomo Widget)", Kind::Other);
    for turn in 0..s.number(1..8) {
        if turn > 0 && s.chance(0.1) && !s.come_back(HOUR..5 * DAY, true) {
            break;
        }
        s.wait(SECOND..3 * MINUTE);
        s.say("Message sent (Algomo Widget)", Kind::VisitorMessage);
        if s.chance(0.15) {
            s.wait(2 * SECOND..MINUTE);
            s.page("Link clicked (Algomo Widget)");
        }
        if s.chance(0.1) {
            s.wait(5 * SECOND..2 * MINUTE);
            s.page("Contact details submitted (Algomo Widget)");
        }
    }
}

pub(super) fn native(visit: &Visit, step: &Step, call: Call<'_>) -> String {
    let mut object = Object::new().with("event", step.name);
    if step.in_conversation {
        object = object.with("conversationId", visit.conversation.as_str());
    }
    object = match step.name {
        "Message sent (Algomo Widget)" => object
            .with("messageId", format!("{}-msg{}", visit.id, call.step))
            .with("messageLanguage", visit.language),
        "Conversation started (Algomo Widget)" => {
            object.with("conversationLanguage", visit.language)
        }
        "Link clicked (Algomo Widget)" => object
            .with(
                "href",
                "https://shop.example/guide?for=oye@post.example#step-2",
            )
            .with("label", format!("Mail to {}", visit.email())),
        _ => object,
    };
    if step.drift {
        object = object.with("comment", visit.note());
    }
    object
        .with("widgetId", visit.widget.as_str())
        .with("userName", visit.name)
        .with("userEmail", visit.email())
        .with(
            "userPhone",
            if visit.steps.len().is_multiple_of(2) {
                visit.phone()
            } else {
                String::new()
            },
        )
        .with("userCompanyName", "")
        .with("userBrowser", "Firefox")
        .with("userMainLanguage", visit.language)
        .with("userLanguages", vec![visit.language, "en"])
        .with("userPlatform", "Linux")
        .with("userTimeZone", "Europe/Amsterdam")
        .finish()
}

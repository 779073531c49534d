//! The five vendors: what happens in a visit to their widget, and the object that their own page
//! hands over for each event.

mod algomo;
mod autochat;
mod loyjoy;
mod userlike;
mod watermelon;

use rand_chacha::ChaCha8Rng;

use crate::script::{Script, Step};
use crate::visit::Visit;

/// A vendor of chat widgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Algomo,
    Autochat,
    LoyJoy,
    Userlike,
    Watermelon,
}

impl Source {
    /// Whether the vendor's payload says when it happened.
    pub(crate) fn dates_its_events(self) -> bool {
        matches!(self, Source::Autochat | Source::Watermelon)
    }

    /// All vendors, each as often as its share of the visits is.
    pub(crate) const MIX: [Source; 10] = [
        Source::Watermelon,
        Source::Watermelon,
        Source::Watermelon,
        Source::Watermelon,
        Source::Userlike,
        Source::Userlike,
        Source::LoyJoy,
        Source::LoyJoy,
        Source::Algomo,
        Source::Autochat,
    ];

    /// The name in `POST /v1/events/{source}`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::Algomo => "algomo",
            Source::Autochat => "autochat",
            Source::LoyJoy => "loyjoy",
            Source::Userlike => "userlike",
            Source::Watermelon => "watermelon",
        }
    }

    /// How often the widget hands one event over: Autochat dispatches each under two names.
    pub(crate) fn dispatches(self) -> u64 {
        match self {
            Source::Autochat => 2,
            _ => 1,
        }
    }

    /// Whether the native object alone says which event it is, when it happened and in which
    /// conversation: given as an id (Autochat), or so that a conversation's events all differ
    /// (Watermelon). Such an item can be sent without the page snippet's context.
    pub(crate) fn stands_alone(self) -> bool {
        matches!(self, Source::Autochat | Source::Watermelon)
    }

    /// Writes what happens in one visit.
    pub(crate) fn script(self, script: &mut Script<'_>) {
        match self {
            Source::Algomo => algomo::script(script),
            Source::Autochat => autochat::script(script),
            Source::LoyJoy => loyjoy::script(script),
            Source::Userlike => userlike::script(script),
            Source::Watermelon => watermelon::script(script),
        }
    }

    /// The browser's count of messages, where an event reports it.
    pub(crate) fn reported(self, step: &Step) -> Option<u32> {
        (self == Source::Watermelon && watermelon::reports_total(step)).then_some(step.total)
    }

    /// An event name that the vendor's document does not have.
    pub(crate) fn undocumented(self) -> &'static str {
        match self {
            Source::Algomo => "Message rated (Algomo Widget)",
            Source::Autochat => "autochat.sentiment_shifted.v1",
            Source::LoyJoy => "avatar_changed",
            Source::Userlike => "chat_transferred",
            Source::Watermelon => "widget_voice_note_sent",
        }
    }
}

/// The object that the page hands over for a step.
pub(crate) fn native(visit: &Visit, step: &Step, call: Call<'_>) -> String {
    match visit.source {
        Source::Algomo => algomo::native(visit, step, call),
        Source::Autochat => autochat::native(visit, step, call),
        Source::LoyJoy => loyjoy::native(visit, step, call),
        Source::Userlike => userlike::native(visit, step, call),
        Source::Watermelon => watermelon::native(visit, step, call),
    }
}

/// What differs from one hand-over to the next.
pub(crate) struct Call<'a> {
    /// The number of the step in its visit.
    pub(crate) step: usize,
    /// 0, or 1 for the second dispatch of the same event.
    pub(crate) dispatch: u64,
    pub(crate) rng: &'a mut ChaCha8Rng,
}

//! One visitor's visit: who it is, what happens, what of it has been sent, and what was received.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::metrics::Fact;
use crate::script::{DAY, HOUR, MINUTE, Script, Step};
use crate::vendors::Source;

/// Texts that stand for visitors' personal data in what the simulator sends: parts of names, e-mail
/// addresses and telephone numbers. None of them may be found behind the producer's redaction.
pub const PERSONAL_MARKERS: [&str; 6] = [
    "Hedwiga",
    "Oyelaranx",
    "Zsófika",
    "Featherstonehaughx",
    "@post.example",
    "1555 0",
];

const NAMES: [&str; 4] = ["Hedwiga", "Oyelaranx", "Zsófika", "Featherstonehaughx"];
const AGENTS: [&str; 3] = ["Sam", "Robin", "Kim"];
const LANGUAGES: [&str; 5] = ["en", "de", "nl", "fr", "pt"];
const PAGES: [&str; 5] = [
    "https://shop.example/",
    "https://shop.example/cart?customer=Hedwiga&coupon=SPRING#items",
    "https://shop.example/help/returns?mail=oye@post.example",
    "https://shop.example/products/lamp#reviews",
    "https://shop.example/account?token=0f9a8b7c&phone=+49 1555 0123",
];

/// What of a step reached the producer in one item.
#[derive(Debug)]
pub(crate) struct Received {
    /// The step; items of the same step are copies of one event.
    pub(crate) step: usize,
    /// Session and sequence number, where the item came with a context.
    pub(crate) position: Option<(usize, u32)>,
}

/// Which visit it is.
pub(crate) struct Place<'a> {
    pub(crate) run: &'a str,
    /// Counts the visits of the run.
    pub(crate) number: u64,
    pub(crate) tenant: usize,
    pub(crate) source: Source,
    /// When a live visit begins; a historic one begins some time before `as_of`.
    pub(crate) now: i64,
    /// Only what has happened by then is sent; none in a live visit.
    pub(crate) as_of: Option<i64>,
    /// Probability that one of its events bears an undocumented name.
    pub(crate) drift: f64,
}

/// A visit under way.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) tenant: usize,
    pub(crate) source: Source,
    /// Prefix of the ids of this visit's sessions and events.
    pub(crate) id: String,
    pub(crate) conversation: String,
    pub(crate) widget: String,
    pub(crate) name: &'static str,
    pub(crate) agent: &'static str,
    pub(crate) language: &'static str,
    pub(crate) page: &'static str,
    pub(crate) steps: Vec<Step>,
    /// The step whose turn is next.
    pub(crate) next: usize,
    /// Items produced and not yet sent.
    pub(crate) outstanding: usize,
    pub(crate) received: Vec<Received>,
    /// The last sequence number given out, per page session.
    sequences: Vec<u32>,
}

impl Visit {
    pub(crate) fn new(place: &Place<'_>, rng: &mut ChaCha8Rng) -> Self {
        let start = match place.as_of {
            Some(as_of) => as_of - age(rng),
            None => place.now,
        };
        let mut script = Script::new(rng, start, place.as_of);
        place.source.script(&mut script);
        if script.chance(place.drift) {
            script.drift(place.source.undocumented());
        }
        let steps = script.finish();
        let sessions = steps.iter().map(|step| step.session + 1).max().unwrap_or(0);
        let id = format!("{}-v{}", place.run, place.number);
        let mut visit = Visit {
            tenant: place.tenant,
            source: place.source,
            conversation: format!("{id}-c"),
            widget: format!("widget-{}", place.tenant),
            id,
            name: pick(rng, &NAMES),
            agent: pick(rng, &AGENTS),
            language: pick(rng, &LANGUAGES),
            page: pick(rng, &PAGES),
            steps,
            next: 0,
            outstanding: 0,
            received: Vec::new(),
            sequences: vec![0; sessions],
        };
        if visit.source == Source::LoyJoy {
            // LoyJoy has no conversation id: the page session stands for it.
            visit.conversation = visit.session(0);
        }
        visit
    }

    /// The id of one of the visit's page sessions.
    pub(crate) fn session(&self, session: usize) -> String {
        format!("{}-s{session}", self.id)
    }

    /// Gives out the next sequence number of a page session, from 1.
    pub(crate) fn number_in(&mut self, session: usize) -> u32 {
        self.sequences[session] += 1;
        self.sequences[session]
    }

    /// The visitor's e-mail address.
    pub(crate) fn email(&self) -> String {
        format!("{}.{}@post.example", self.name, self.steps.len())
    }

    /// The visitor's telephone number.
    pub(crate) fn phone(&self) -> String {
        format!("+49 1555 0{:03}", self.steps.len())
    }

    /// Free text with an e-mail address and a telephone number in it.
    pub(crate) fn note(&self) -> String {
        format!(
            "Please write to {} or call {} 🙏",
            self.email(),
            self.phone()
        )
    }

    /// Numbers that the session lacks: the highest received less the distinct received, summed over
    /// the page sessions.
    pub(crate) fn sequence_gap(&self) -> u64 {
        let mut gap = 0;
        for session in 0..self.sequences.len() {
            let mut numbers: Vec<u32> = self
                .received
                .iter()
                .filter_map(|item| item.position)
                .filter(|(of, _)| *of == session)
                .map(|(_, number)| number)
                .collect();
            numbers.sort_unstable();
            numbers.dedup();
            gap += u64::from(numbers.last().copied().unwrap_or(0)) - numbers.len() as u64;
        }
        gap
    }

    /// What was received of the conversation, every event once.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        let mut steps: Vec<usize> = self.received.iter().map(|item| item.step).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
            .into_iter()
            .map(|index| &self.steps[index])
            .filter(|step| step.in_conversation)
            .map(|step| Fact {
                at: step.at,
                kind: step.kind,
                total: self.source.reported(step),
            })
            .collect()
    }
}

/// How long before the base time a historic visit begins: up to three days mostly, some minutes or weeks.
///
/// None begins between 7 and 8½ days before: "closed at least 7 days old" then means the same set
/// whether the age is taken from the start or from the close, and those that come back later than
/// 7 days after their close have the time to.
fn age(rng: &mut ChaCha8Rng) -> i64 {
    match rng.random_range(0..100) {
        0..5 => rng.random_range(MINUTE..30 * MINUTE),
        5..55 => rng.random_range(MINUTE..3 * DAY),
        55..70 => rng.random_range(3 * DAY..7 * DAY - 2 * HOUR),
        _ => rng.random_range(8 * DAY + 12 * HOUR..12 * DAY),
    }
}

fn pick(rng: &mut ChaCha8Rng, of: &[&'static str]) -> &'static str {
    of[rng.random_range(0..of.len())]
}

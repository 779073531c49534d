//! What happens in one visit: the steps that a vendor's widget reports, in the order in which they
//! happen, before any of them is sent, lost, delayed or doubled.

use std::ops::Range;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::pace::shortened;

pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// What a step proves about its conversation; only what a metric needs is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    VisitorMessage,
    BotMessage,
    AgentMessage,
    HandoffRequested,
    HumanJoined,
    HumanLeft,
    BotResumed,
    /// Ended, archived or deleted.
    Closed,
    /// A score of a 0 to 10 survey.
    Nps(u8),
    /// Anything that no metric counts.
    Other,
}

/// One thing that the widget reports.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// When it happens, milliseconds since the Unix epoch.
    pub(crate) at: i64,
    /// The vendor's event name.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Which of the visit's page sessions it happens in, from 0.
    pub(crate) session: usize,
    /// Whether the event carries the conversation's id.
    pub(crate) in_conversation: bool,
    /// Messages of the conversation up to and with this step, as the browser counts them.
    pub(crate) total: u32,
    /// Whether the name is one that the vendor's document does not know.
    pub(crate) drift: bool,
    /// Whether the step must reach the producer, see [`Script::finish`].
    pub(crate) kept: bool,
}

/// A visit being written.
pub(crate) struct Script<'r> {
    rng: &'r mut ChaCha8Rng,
    now: i64,
    as_of: Option<i64>,
    session: usize,
    total: u32,
    steps: Vec<Step>,
}

impl<'r> Script<'r> {
    /// A visit that begins at `start`. What would happen after `as_of` has not happened yet; without
    /// it the visit is a live one, and its pauses are shortened.
    pub(crate) fn new(rng: &'r mut ChaCha8Rng, start: i64, as_of: Option<i64>) -> Self {
        Script {
            rng,
            now: start,
            as_of,
            session: 0,
            total: 0,
            steps: Vec::new(),
        }
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.random_range(0..of.len())]
    }

    /// A whole number of the range.
    pub(crate) fn number(&mut self, range: Range<u32>) -> u32 {
        self.rng.random_range(range)
    }

    /// Lets a time of the range pass, in milliseconds; of the shortened range in a live visit.
    pub(crate) fn wait(&mut self, range: Range<i64>) {
        let range = match self.as_of {
            Some(_) => range,
            None => shortened(range),
        };
        self.now += self.rng.random_range(range);
    }

    /// Something that carries no conversation id.
    pub(crate) fn page(&mut self, name: &'static str) {
        self.push(name, Kind::Other, false);
    }

    /// Something that happens in the conversation.
    pub(crate) fn say(&mut self, name: &'static str, kind: Kind) {
        self.push(name, kind, true);
    }

    fn push(&mut self, name: &'static str, kind: Kind, in_conversation: bool) {
        if matches!(
            kind,
            Kind::VisitorMessage | Kind::BotMessage | Kind::AgentMessage
        ) {
            self.total += 1;
        }
        self.steps.push(Step {
            at: self.now,
            name,
            kind,
            session: self.session,
            in_conversation,
            total: self.total,
            drift: false,
            kept: false,
        });
    }

    /// Lets days pass before the visitor comes back in the given page session; false, and nothing
    /// passes, where that would not leave a day without events before `as_of`: a conversation that
    /// was closed, taken up again and is still moving is closed in one reading of "closed, judged at
    /// the as-of time" and open in another, and the truth of a run must not hang on that.
    pub(crate) fn come_back(&mut self, after: Range<i64>, new_session: bool) -> bool {
        let before = self.now;
        self.wait(after);
        if self
            .as_of
            .is_some_and(|as_of| self.now > as_of - DAY - 3 * HOUR)
        {
            self.now = before;
            return false;
        }
        self.session += usize::from(new_session);
        true
    }

    /// Puts an event of an undocumented name into the visit, a moment after one of its steps.
    pub(crate) fn drift(&mut self, name: &'static str) {
        if self.steps.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.steps.len());
        let mut step = self.steps[index].clone();
        step.at += 1;
        step.name = name;
        step.kind = Kind::Other;
        step.drift = true;
        self.steps.insert(index + 1, step);
    }

    /// The steps that have happened by `as_of`, in order of time.
    ///
    /// Some are marked as never lost, so that what is left of a conversation has one meaning only:
    /// where a human takes part, the first visitor message, the first agent message and the first
    /// join (who started it); where humans join twice, all joins and ends (which end belongs to
    /// which join); where the visitor writes after a close, that close (when it was closed).
    pub(crate) fn finish(self) -> Vec<Step> {
        let mut steps = self.steps;
        steps.sort_by_key(|step| step.at);
        steps.retain(|step| self.as_of.is_none_or(|as_of| step.at <= as_of));

        let first = |kind: Kind| steps.iter().position(|step| step.kind == kind);
        let joins = steps
            .iter()
            .filter(|step| step.kind == Kind::HumanJoined)
            .count();
        let mut kept = Vec::new();
        if joins > 0 || first(Kind::AgentMessage).is_some() {
            kept.extend(first(Kind::VisitorMessage));
            kept.extend(first(Kind::AgentMessage));
            kept.extend(first(Kind::HumanJoined));
        }
        if joins > 1 {
            let ends = [
                Kind::HumanJoined,
                Kind::HumanLeft,
                Kind::BotResumed,
                Kind::Closed,
            ];
            kept.extend((0..steps.len()).filter(|&index| ends.contains(&steps[index].kind)));
        }
        let close = first(Kind::Closed);
        let last_message = steps
            .iter()
            .rposition(|step| step.kind == Kind::VisitorMessage);
        if close < last_message {
            kept.extend(close);
        }
        for index in kept {
            steps[index].kept = true;
        }
        steps
    }
}

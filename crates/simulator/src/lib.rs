//! Simulated traffic of chat widgets, and the ground truth about it.
//!
//! visits (a vendor's script each) → an active window of them, one step at a time → faults (lost,
//! delayed, doubled, malformed) → items in the order of sending → books and metrics of what was sent.
//!
//! Pure: no I/O, no clock; everything follows from the [`Options`]. The truth is computed here by
//! code of its own, sharing nothing with the pipeline, so that the pipeline's answers can be judged.
//! It is a function of the set of items sent: senders may reorder and interleave them freely.
//!
//! Memory is bounded by the window of visits and a queue of a few thousand items held back, plus
//! 8 bytes for each duration of each conversation: the exact quantiles need them at the end.

mod json;
mod malformed;
mod metrics;
mod script;
mod truth;
mod vendors;
mod visit;

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

pub use metrics::{Durations, MessageGap, Messages, Nps, Outcomes, Ratio, SourceMetrics};
pub use truth::{Books, TenantTruth, Truth};
pub use visit::PERSONAL_MARKERS;

use json::{Object, rfc3339};
use script::{HOUR, MINUTE, SECOND};
use truth::Ledger;
use vendors::{Call, Source};
use visit::{Place, Received, Visit};

/// 2010-02-01: visits lie up to 12 days before the base time, and all after the start of 2010.
const EARLIEST_BASE_MS: i64 = 1_264_982_400_000;
/// 2200-01-01: the years of the times that must be refused begin later.
const LATEST_BASE_MS: i64 = 7_258_118_400_000;

/// Most items that are held back at a time.
const QUEUE_LIMIT: u64 = 4_096;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Same options, same items.
    pub seed: u64,
    /// Exact number of items, with duplicates, double dispatches and malformed ones.
    pub events: u64,
    /// Names of the tenants; at least one. Each visit goes to one of them.
    pub tenants: Vec<String>,
    /// The as-of time of the truth, milliseconds since the Unix epoch. All events lie in the 12 days
    /// before it; it must not be later than the real time of sending.
    pub base_time_ms: i64,
    /// Prefix of every conversation, session and event id: two runs never collide.
    pub run_id: String,
    /// How much goes wrong.
    pub faults: FaultRates,
}

/// Probabilities of faults, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRates {
    /// Per item: it is sent a second time, at once or later.
    pub retry: f64,
    /// Per item: it is overtaken by up to 64 others.
    pub out_of_order: f64,
    /// Per item: it is overtaken by up to 2,000 others, and its page sends it 5 minutes to 6 hours
    /// after it happened.
    pub late: f64,
    /// Per item: the browser never sends it. Less than 1.
    pub lost: f64,
    /// Per visit: one event bears an undocumented name.
    pub drift: f64,
    /// Per item: a malformed one is sent before it.
    pub malformed: f64,
    /// Per event that needs no context (see the vendors): it is sent without.
    pub bare: f64,
}

impl Default for FaultRates {
    fn default() -> Self {
        FaultRates {
            retry: 0.03,
            out_of_order: 0.05,
            late: 0.02,
            lost: 0.02,
            drift: 0.05,
            malformed: 0.01,
            bare: 0.2,
        }
    }
}

impl FaultRates {
    /// Nothing goes wrong; Autochat still dispatches everything twice.
    pub const NONE: FaultRates = FaultRates {
        retry: 0.0,
        out_of_order: 0.0,
        late: 0.0,
        lost: 0.0,
        drift: 0.0,
        malformed: 0.0,
        bare: 0.0,
    };
}

/// One item for `POST /v1/events/{source}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Index into [`Options::tenants`].
    pub tenant: usize,
    /// Name of the source in the path.
    pub source: &'static str,
    /// JSON text on one line: an element of an array body, or a line of an NDJSON body. Malformed
    /// items too are JSON, so that they cannot spoil their neighbours' framing.
    pub body: String,
    /// What must become of it.
    pub expect: Expect,
}

/// What must become of an item. Which of two copies arrives first, and is accepted, is open where
/// requests run concurrently; how many of each there are is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A new event.
    Accepted,
    /// A copy of an event sent before.
    Duplicate,
    /// Refused for this reason: `not_an_object`, `missing_event_name`, `invalid_event_name`,
    /// `invalid_time` (present, not readable), `time_out_of_range` (before 2010 or more than 24 h
    /// after receipt) or `invalid_context`.
    Rejected(&'static str),
}

/// The items of a run, in the order of sending.
#[derive(Debug)]
pub struct Simulator {
    options: Options,
    rng: ChaCha8Rng,
    /// Visits with steps or items to come.
    visits: BTreeMap<u64, Visit>,
    /// Those with steps to come.
    active: Vec<u64>,
    window: usize,
    /// Visits and malformed items so far.
    numbers: u64,
    /// Items produced and not yet sent, by the count of sent items at which they are due.
    queue: BTreeMap<(u64, u64), Queued>,
    queued: u64,
    sent: u64,
    ledgers: Vec<Ledger>,
}

#[derive(Debug, Clone)]
struct Queued {
    tenant: usize,
    source: Source,
    body: String,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum Origin {
    Step {
        visit: u64,
        step: usize,
        position: Option<(usize, u32)>,
    },
    Malformed(&'static str),
}

impl Simulator {
    /// A run that has sent nothing yet.
    ///
    /// # Panics
    /// Without a tenant, with a base time before February 2010 or after 2199, with a rate outside 0
    /// to 1, or where everything is lost.
    pub fn new(options: Options) -> Simulator {
        let faults = &options.faults;
        assert!(
            !options.tenants.is_empty(),
            "the simulator needs at least one tenant"
        );
        assert!(
            (EARLIEST_BASE_MS..LATEST_BASE_MS).contains(&options.base_time_ms),
            "base_time_ms {} is not between February 2010 and 2200",
            options.base_time_ms
        );
        let rates = [
            ("retry", faults.retry),
            ("out_of_order", faults.out_of_order),
            ("late", faults.late),
            ("lost", faults.lost),
            ("drift", faults.drift),
            ("malformed", faults.malformed),
            ("bare", faults.bare),
        ];
        for (name, rate) in rates {
            assert!(
                (0.0..=1.0).contains(&rate),
                "fault rate {name} = {rate} is not from 0 to 1"
            );
        }
        assert!(
            faults.lost < 1.0,
            "fault rate lost must be below 1: nothing would be sent"
        );
        Simulator {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            visits: BTreeMap::new(),
            active: Vec::new(),
            window: (options.events / 100).clamp(4, 256) as usize,
            numbers: 0,
            queue: BTreeMap::new(),
            queued: 0,
            sent: 0,
            ledgers: options.tenants.iter().map(|_| Ledger::default()).collect(),
            options,
        }
    }

    /// The truth about what has been sent; of the whole run once the iterator is exhausted.
    pub fn truth(mut self) -> Truth {
        for visit in self.visits.values() {
            self.ledgers[visit.tenant].enter(visit, self.options.base_time_ms);
        }
        truth::finish(self.options.tenants, self.ledgers)
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn begin_visit(&mut self, source: Source) {
        let number = self.next_number();
        let place = Place {
            run: &self.options.run_id,
            number,
            tenant: self.rng.random_range(0..self.options.tenants.len()),
            source,
            base: self.options.base_time_ms,
            drift: self.options.faults.drift,
        };
        let visit = Visit::new(&place, &mut self.rng);
        self.visits.insert(number, visit);
        self.active.push(number);
    }

    /// Produces what comes next; `room` items can still be sent.
    fn produce(&mut self, room: u64) {
        if self.rng.random_bool(self.options.faults.malformed) {
            self.produce_malformed();
            return;
        }
        while self.active.len() < self.window {
            let source = Source::MIX[self.rng.random_range(0..Source::MIX.len())];
            self.begin_visit(source);
        }
        let fits = |number: &u64| {
            self.visits
                .get(number)
                .is_some_and(|visit| visit.source.dispatches() <= room)
        };
        let mut slot = self.rng.random_range(0..self.active.len());
        if !fits(&self.active[slot]) {
            slot = self
                .active
                .iter()
                .position(fits)
                .unwrap_or(self.active.len());
        }
        if slot == self.active.len() {
            self.begin_visit(Source::Watermelon);
        }
        self.produce_step(slot, room);
    }

    fn produce_malformed(&mut self) {
        let tenant = self.rng.random_range(0..self.options.tenants.len());
        let number = self.next_number();
        let id = format!("{}-m{number}", self.options.run_id);
        let now = self.options.base_time_ms - self.rng.random_range(SECOND..HOUR);
        let (source, body, reason) = malformed::item(&id, now, &mut self.rng);
        self.enqueue(
            self.sent,
            Queued {
                tenant,
                source,
                body,
                origin: Origin::Malformed(reason),
            },
        );
    }

    /// Hands over the next step of an active visit, as often as the vendor and the faults will.
    fn produce_step(&mut self, slot: usize, mut room: u64) {
        let number = self.active[slot];
        let Some(visit) = self.visits.get_mut(&number) else {
            return;
        };
        let faults = self.options.faults;
        let rng = &mut self.rng;
        let index = visit.next;
        let step = visit.steps[index].clone();
        let (tenant, source) = (visit.tenant, visit.source);
        let bare = source.stands_alone() && step.in_conversation && rng.random_bool(faults.bare);

        let mut due = Vec::new();
        for dispatch in 0..source.dispatches() {
            let position = (!bare).then(|| (step.session, visit.number_in(step.session)));
            if !step.kept && rng.random_bool(faults.lost) {
                self.ledgers[tenant].books.lost_in_browser += 1;
                continue;
            }
            let late = rng.random_bool(faults.late);
            let native = vendors::native(
                visit,
                &step,
                Call {
                    step: index,
                    dispatch,
                    rng,
                },
            );
            let body = match position {
                None => native,
                Some((_, sequence)) => {
                    let occurred_at = step.at + rng.random_range(0..40);
                    let delay = if late {
                        5 * MINUTE..6 * HOUR
                    } else {
                        50..2 * SECOND
                    };
                    let sent_at = occurred_at + rng.random_range(delay);
                    let base = self.options.base_time_ms;
                    let context = Object::new()
                        .with("event_id", format!("{}-{index}-{dispatch}", visit.id))
                        .with("session_id", visit.session(step.session))
                        .with("sequence", sequence)
                        .with("occurred_at", rfc3339(occurred_at.min(base)))
                        .with("sent_at", rfc3339(sent_at.min(base)))
                        .with("page_url", visit.page)
                        .with("sdk", "chatpulse.js/1.0")
                        .finish();
                    Object::new()
                        .with_json("native", &native)
                        .with_json("context", &context)
                        .finish()
                }
            };
            let origin = Origin::Step {
                visit: number,
                step: index,
                position,
            };
            let item = Queued {
                tenant,
                source,
                body,
                origin,
            };
            let overtaken_by = match late {
                true => rng.random_range(50..2_000),
                false if rng.random_bool(faults.out_of_order) => rng.random_range(1..64),
                false => 0,
            };
            due.push((self.sent + overtaken_by, item));
            room -= 1;
        }
        // Copies come after the originals: at once, as in the same request, or later.
        for original in 0..due.len() {
            if room > 0 && rng.random_bool(faults.retry) {
                let wait = if rng.random_bool(0.5) {
                    0
                } else {
                    rng.random_range(10..1_500)
                };
                let (at, item) = due[original].clone();
                due.push((at + wait, item));
                room -= 1;
            }
        }

        visit.next += 1;
        visit.outstanding += due.len();
        let done = visit.next == visit.steps.len();
        for (at, item) in due {
            self.enqueue(at, item);
        }
        if done {
            self.active.swap_remove(slot);
            self.retire(number);
        }
    }

    fn enqueue(&mut self, due: u64, item: Queued) {
        self.queued += 1;
        self.queue.insert((due, self.queued), item);
    }

    /// Lets go of a visit of which nothing is to come.
    fn retire(&mut self, number: u64) {
        let over = |visit: &Visit| visit.outstanding == 0 && visit.next == visit.steps.len();
        if self.visits.get(&number).is_some_and(over)
            && let Some(visit) = self.visits.remove(&number)
        {
            self.ledgers[visit.tenant].enter(&visit, self.options.base_time_ms);
        }
    }

    /// Enters an item into the books at the moment of its sending.
    fn send(&mut self, queued: Queued) -> Item {
        self.sent += 1;
        let books = &mut self.ledgers[queued.tenant].books;
        books.sent += 1;
        let expect = match queued.origin {
            Origin::Malformed(reason) => {
                *books.rejected.entry(reason).or_default() += 1;
                Expect::Rejected(reason)
            }
            Origin::Step {
                visit: number,
                step,
                position,
            } => {
                let mut known = false;
                if let Some(visit) = self.visits.get_mut(&number) {
                    known = visit.received.iter().any(|item| item.step == step);
                    books.drift += u64::from(!known && visit.steps[step].drift);
                    visit.received.push(Received { step, position });
                    visit.outstanding -= 1;
                }
                self.retire(number);
                let books = &mut self.ledgers[queued.tenant].books;
                if known {
                    books.duplicate += 1;
                    Expect::Duplicate
                } else {
                    books.accepted += 1;
                    Expect::Accepted
                }
            }
        };
        Item {
            tenant: queued.tenant,
            source: queued.source.name(),
            body: queued.body,
            expect,
        }
    }
}

impl Iterator for Simulator {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.sent == self.options.events {
            return None;
        }
        loop {
            let waiting = self.queue.len() as u64;
            let room = self.options.events - self.sent - waiting;
            let due = self
                .queue
                .first_key_value()
                .is_some_and(|((due, _), _)| *due <= self.sent);
            if (due || room == 0 || waiting >= QUEUE_LIMIT)
                && let Some((_, queued)) = self.queue.pop_first()
            {
                return Some(self.send(queued));
            }
            self.produce(room);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.options.events - self.sent).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(events: u64, faults: FaultRates) -> Options {
        Options {
            seed: 1,
            events,
            tenants: vec!["acme".into()],
            base_time_ms: 1_760_000_000_000,
            run_id: "run".into(),
            faults,
        }
    }

    #[test]
    fn what_is_held_at_a_time_does_not_grow_with_the_run() {
        for late in [FaultRates::default().late, 1.0] {
            let faults = FaultRates {
                late,
                ..FaultRates::default()
            };
            let mut simulator = Simulator::new(options(60_000, faults));
            while simulator.next().is_some() {
                let queued = simulator.queue.len() as u64;
                assert!(queued <= QUEUE_LIMIT + 4, "{queued} items queued");
                let visits = simulator.visits.len();
                assert!(
                    visits <= simulator.queue.len() + simulator.window,
                    "{visits} visits held"
                );
            }
            assert_eq!(simulator.sent, 60_000);
            assert!(simulator.queue.is_empty());
        }
    }

    #[test]
    fn a_simulator_can_move_to_another_thread() {
        fn send<T: Send>(_: &T) {}
        send(&Simulator::new(options(0, FaultRates::NONE)));
    }

    #[test]
    #[should_panic(expected = "at least one tenant")]
    fn a_run_without_tenants_is_refused() {
        Simulator::new(Options {
            tenants: Vec::new(),
            ..options(1, FaultRates::NONE)
        });
    }
}

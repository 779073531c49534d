//! Simulated traffic of chat widgets, and the ground truth about it.
//!
//! visits (a vendor's script each) → an active window of them (historic) or their agenda (live), one
//! step at a time → faults (lost, delayed, doubled, malformed) → items in the order of sending →
//! books and metrics of what was sent.
//!
//! Pure: no I/O, no clock; everything follows from the [`Options`]. The truth is computed here by
//! code of its own, sharing nothing with the pipeline, so that the pipeline's answers can be judged.
//! It is a function of the set of items sent: senders may reorder and interleave them freely.
//!
//! Memory of a historic run is bounded by the window of visits and a queue of a few thousand items
//! held back, plus 8 bytes for each duration of each conversation: the exact quantiles need them at
//! the end. A live run may be endless: it holds the visits and late items of some minutes, as many
//! as its rate makes, and keeps books but no metrics.

mod json;
mod malformed;
mod metrics;
mod pace;
mod script;
mod truth;
mod vendors;
mod visit;

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

pub use metrics::{Durations, MessageGap, Messages, Nps, Outcomes, Ratio, SourceMetrics};
pub use pace::Pace;
pub use truth::{Books, TenantTruth, Truth};
pub use visit::PERSONAL_MARKERS;

use json::{Object, rfc3339};
use pace::draw;
use script::{HOUR, SECOND};
use truth::Ledger;
use vendors::{Call, Source};
use visit::{Place, Received, Visit};

/// 2010-02-01: visits lie up to 12 days before the base time, and all after the start of 2010.
const EARLIEST_BASE_MS: i64 = 1_264_982_400_000;
/// 2200-01-01: the years of the times that must be refused begin later.
const LATEST_BASE_MS: i64 = 7_258_118_400_000;

/// Most items that a historic run holds back at a time.
const QUEUE_LIMIT: u64 = 4_096;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Same options, same items.
    pub seed: u64,
    /// Exact number of items, with duplicates, double dispatches and malformed ones. A live run of
    /// `u64::MAX` is endless.
    pub events: u64,
    /// Names of the tenants; at least one. Each visit goes to one of them.
    pub tenants: Vec<String>,
    /// Milliseconds since the Unix epoch. Of a historic run the as-of time of the truth: all events
    /// lie in the 12 days before it, and it must not be later than the real time of sending. Of a
    /// live run the beginning.
    pub base_time_ms: i64,
    /// Whether all has happened or happens now.
    pub pace: Pace,
    /// Prefix of every conversation, session and event id: two runs never collide.
    pub run_id: String,
    /// How much goes wrong.
    pub faults: FaultRates,
}

/// Faults; the numbers are probabilities, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultRates {
    /// Per item: it is sent a second time; at once or later (historic), 1 to 15 seconds later (live).
    pub retry: f64,
    /// Per item: it is overtaken by up to 64 others (historic), or 1 to 10 seconds on the way (live).
    pub out_of_order: f64,
    /// Per item: it is overtaken by up to 2,000 others, and its page sends it 5 minutes to 6 hours
    /// after it happened (historic); or it is sent over 5 and up to 8 minutes after (live), so that
    /// there is none in the first 5 minutes of a live run.
    pub late: f64,
    /// Per item: the browser never sends it. Less than 1.
    pub lost: f64,
    /// Per visit: one event bears an undocumented name.
    pub drift: f64,
    /// Per item: a malformed one is sent before it.
    pub malformed: f64,
    /// The receiver's limit, bytes: where it is given, some of the malformed items are larger.
    pub max_item_bytes: Option<usize>,
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
            max_item_bytes: None,
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
        max_item_bytes: None,
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
    /// When it is to be sent, milliseconds since the Unix epoch; never less than that of the item
    /// before. The base time for all items of a historic run.
    pub due_ms: i64,
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
    /// after receipt), `invalid_context`, `too_complex` (nested more than 32 levels deep) or
    /// `too_large` (more than [`FaultRates::max_item_bytes`]).
    Rejected(&'static str),
}

/// The items of a run, in the order of sending.
#[derive(Debug)]
pub struct Simulator {
    options: Options,
    rng: ChaCha8Rng,
    /// Visits with steps or items to come.
    visits: BTreeMap<u64, Visit>,
    /// Those with steps to come, of a historic run.
    active: Vec<u64>,
    window: usize,
    /// Those with steps to come, of a live run, by the time of the next step.
    agenda: BTreeSet<(i64, u64)>,
    /// Visits and malformed items so far.
    numbers: u64,
    /// Items produced and not yet sent, by when they are due: the count of sent items (historic), or
    /// the time (live).
    queue: BTreeMap<(i64, u64), Queued>,
    /// Items produced so far.
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
    /// Without a tenant, with a base time before February 2010 or after 2199, with a fault rate
    /// outside 0 to 1, where everything is lost, or with a live rate outside its bounds.
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
        if let Pace::Live { events_per_second } = options.pace {
            assert!(
                Pace::EVENTS_PER_SECOND.contains(&events_per_second),
                "events_per_second {events_per_second} is not in {:?}",
                Pace::EVENTS_PER_SECOND
            );
        }
        Simulator {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            visits: BTreeMap::new(),
            active: Vec::new(),
            window: (options.events / 100).clamp(4, 256) as usize,
            agenda: BTreeSet::new(),
            numbers: 0,
            queue: BTreeMap::new(),
            queued: 0,
            sent: 0,
            ledgers: options.tenants.iter().map(|_| Ledger::default()).collect(),
            options,
        }
    }

    /// The truth about what has been sent; of the whole run once the iterator is exhausted. Of a
    /// live run the books only: no source has metrics, and the sequence gap counts what is under way.
    pub fn truth(mut self) -> Truth {
        let as_of = self.as_of();
        for visit in self.visits.values() {
            self.ledgers[visit.tenant].enter(visit, as_of);
        }
        truth::finish(self.options.tenants, self.ledgers)
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The time by which all has happened, of a historic run.
    fn as_of(&self) -> Option<i64> {
        (self.options.pace == Pace::Historic).then_some(self.options.base_time_ms)
    }

    /// Begins a visit, now if the run is a live one.
    fn begin_visit(&mut self, source: Source, now: i64) -> u64 {
        let number = self.next_number();
        let place = Place {
            run: &self.options.run_id,
            number,
            tenant: self.rng.random_range(0..self.options.tenants.len()),
            source,
            now,
            as_of: self.as_of(),
            drift: self.options.faults.drift,
        };
        let visit = Visit::new(&place, &mut self.rng);
        self.visits.insert(number, visit);
        number
    }

    fn any_source(&mut self) -> Source {
        Source::MIX[self.rng.random_range(0..Source::MIX.len())]
    }

    /// Produces the step of which it is the time now: of a visit under way, else of a new one.
    fn produce_live(&mut self, now: i64) {
        let number = match self.agenda.first() {
            Some(&(at, number)) if at <= now => {
                self.agenda.pop_first();
                number
            }
            _ => {
                let source = self.any_source();
                self.begin_visit(source, now)
            }
        };
        if let Some(at) = self.produce_step(number, u64::MAX) {
            self.agenda.insert((at, number));
        }
    }

    /// When a live run goes on: at the next step of a visit, or with a new visitor where no step
    /// would come in time to keep up the rate.
    fn next_live(&self, events_per_second: f64) -> i64 {
        let elapsed = self.queued as f64 * 1_000.0 / events_per_second;
        let needed = self.options.base_time_ms + elapsed as i64;
        self.agenda
            .first()
            .map_or(needed, |&(at, _)| at.min(needed))
    }

    /// Produces a step of any active visit; `room` items can still be sent.
    fn produce_historic(&mut self, room: u64) {
        let now = self.options.base_time_ms;
        while self.active.len() < self.window {
            let source = self.any_source();
            let number = self.begin_visit(source, now);
            self.active.push(number);
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
            let number = self.begin_visit(Source::Watermelon, now);
            self.active.push(number);
        }
        if self.produce_step(self.active[slot], room).is_none() {
            self.active.swap_remove(slot);
        }
    }

    /// Produces an item that must be refused; `now` is the time of a live run.
    fn produce_malformed(&mut self, now: i64) {
        let tenant = self.rng.random_range(0..self.options.tenants.len());
        let number = self.next_number();
        let id = format!("{}-m{number}", self.options.run_id);
        let (at, due) = match self.options.pace {
            Pace::Historic => (
                self.options.base_time_ms - self.rng.random_range(SECOND..HOUR),
                self.sent as i64,
            ),
            Pace::Live { .. } => (
                now,
                now + draw(&self.options.pace.delays().way, &mut self.rng),
            ),
        };
        let (source, body, reason) =
            malformed::item(&id, at, self.options.faults.max_item_bytes, &mut self.rng);
        self.enqueue(
            due,
            Queued {
                tenant,
                source,
                body,
                origin: Origin::Malformed(reason),
            },
        );
    }

    /// Hands over a visit's next step, as often as the vendor and the faults will. The time of the
    /// step after it, if there is one.
    fn produce_step(&mut self, number: u64, mut room: u64) -> Option<i64> {
        let as_of = self.as_of();
        let visit = self.visits.get_mut(&number)?;
        let faults = self.options.faults;
        let delays = self.options.pace.delays();
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
            let mut occurred_at = step.at;
            let mut sent_at = step.at;
            // In a historic run, only the context tells when the page sent the item.
            if position.is_some() || as_of.is_none() {
                let delay = if late { &delays.late } else { &delays.prompt };
                // The snippet sees an event a little after the vendor has dated it. Where the
                // vendor gives no time, the snippet's is all that can be known.
                let seen_after = rng.random_range(0..40);
                if source.dates_its_events() {
                    occurred_at += seen_after;
                }
                sent_at = occurred_at + draw(delay, rng);
            }
            let body = match position {
                None => native,
                Some((_, sequence)) => {
                    let latest = as_of.unwrap_or(i64::MAX);
                    let context = Object::new()
                        .with("event_id", format!("{}-{index}-{dispatch}", visit.id))
                        .with("session_id", visit.session(step.session))
                        .with("sequence", sequence)
                        .with("occurred_at", rfc3339(occurred_at.min(latest)))
                        .with("sent_at", rfc3339(sent_at.min(latest)))
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
            let way = match late {
                true => &delays.late_way,
                false if rng.random_bool(faults.out_of_order) => &delays.overtaken,
                false => &delays.way,
            };
            let from = match self.options.pace {
                Pace::Historic => self.sent as i64,
                Pace::Live { .. } => sent_at,
            };
            due.push((from + draw(way, rng), item));
            room -= 1;
        }
        // Copies come after the originals.
        for original in 0..due.len() {
            if room > 0 && rng.random_bool(faults.retry) {
                let wait = if rng.random_bool(delays.copied_at_once) {
                    0
                } else {
                    draw(&delays.copied, rng)
                };
                let (at, item) = due[original].clone();
                due.push((at + wait, item));
                room -= 1;
            }
        }

        visit.next += 1;
        visit.outstanding += due.len();
        let next = visit.steps.get(visit.next).map(|step| step.at);
        for (at, item) in due {
            self.enqueue(at, item);
        }
        if next.is_none() {
            self.retire(number);
        }
        next
    }

    fn enqueue(&mut self, due: i64, item: Queued) {
        self.queued += 1;
        self.queue.insert((due, self.queued), item);
    }

    /// Lets go of a visit of which nothing is to come.
    fn retire(&mut self, number: u64) {
        let over = |visit: &Visit| visit.outstanding == 0 && visit.next == visit.steps.len();
        if self.visits.get(&number).is_some_and(over)
            && let Some(visit) = self.visits.remove(&number)
        {
            let as_of = self.as_of();
            self.ledgers[visit.tenant].enter(&visit, as_of);
        }
    }

    /// Enters an item into the books at the moment of its sending.
    fn send(&mut self, due: i64, queued: Queued) -> Item {
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
            due_ms: self.as_of().unwrap_or(due),
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
            let room = (self.options.events - self.sent).saturating_sub(waiting);
            // What is due by now is sent: in a live run, nothing produced from now on is due before.
            let now = match self.options.pace {
                Pace::Historic if room == 0 || waiting >= QUEUE_LIMIT => i64::MAX,
                Pace::Historic => self.sent as i64,
                Pace::Live { events_per_second } => self.next_live(events_per_second),
            };
            if let Some(first) = self.queue.first_entry()
                && first.key().0 <= now
            {
                let ((due, _), queued) = first.remove_entry();
                return Some(self.send(due, queued));
            }
            if self.rng.random_bool(self.options.faults.malformed) {
                self.produce_malformed(now);
            } else if self.options.pace == Pace::Historic {
                self.produce_historic(room);
            } else {
                self.produce_live(now);
            }
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
            pace: Pace::Historic,
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
    fn what_a_live_run_holds_depends_on_its_rate_and_not_on_its_length() {
        let events_per_second = 100.0;
        let mut simulator = Simulator::new(Options {
            pace: Pace::Live { events_per_second },
            ..options(u64::MAX, FaultRates::default())
        });
        let mut peak = |items: u64| {
            let mut peak = (0, 0);
            for _ in 0..items {
                assert!(simulator.next().is_some(), "the run is endless");
                assert!(simulator.agenda.len() <= simulator.visits.len());
                let now = (simulator.queue.len(), simulator.visits.len());
                peak = (now.0.max(peak.0), now.1.max(peak.1));
            }
            peak
        };
        // In the first 13 minutes the longest delay, 8 minutes, comes to its full effect.
        let (queued, visits) = peak(80_000);
        let (queued_later, visits_later) = peak(120_000);
        // Two in a hundred wait for up to 8 minutes, the others for a second in the mean.
        assert!(queued_later < 100 * 12, "{queued_later} items queued");
        assert!(queued_later * 10 < queued * 12, "{queued} {queued_later}");
        assert!(visits_later < 100 * 20, "{visits_later} visits held");
        assert!(visits_later * 10 < visits * 12, "{visits} {visits_later}");
        let truth = simulator.truth();
        assert_eq!(truth.sent, 200_000);
        let tallied = |tenant: &TenantTruth| !tenant.metrics.is_empty();
        assert!(!truth.per_tenant.iter().any(tallied), "durations pile up");
    }

    #[test]
    #[should_panic(expected = "events_per_second")]
    fn a_live_run_without_a_rate_is_refused() {
        Simulator::new(Options {
            pace: Pace::Live {
                events_per_second: f64::NAN,
            },
            ..options(1, FaultRates::NONE)
        });
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

//! Requests ahead of time, made by the simulator on a thread of its own: what sending costs is the sending alone.
//!
//! The simulator runs many visits at once, some minutes of them before the present, and at its own pace: its time
//! passes as quickly as events are wanted. So the load has conversations at every stage, duplicates, late and
//! malformed items, and times that lie close together, as those of live traffic do.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use chatpulse_simulator::{FaultRates, Options, Pace, Simulator};
use tokio::sync::mpsc;

use crate::{
    error::CapacityError,
    mix::{Mix, Mixer},
};

/// Requests that are ready, at most; and events in them.
const AHEAD_REQUESTS: usize = 4_096;
const AHEAD_EVENTS: usize = 100_000;
/// Simulated time of a run; seconds.
const SPAN: f64 = 30.0 * 60.0;
/// Simulated time before it that is left out: at first there are only beginnings. Seconds.
const WARM_UP: f64 = 3.0 * 60.0;
/// Simulated time that the end keeps from the present; seconds.
const MARGIN: f64 = 30.0 * 60.0;
/// Events that wait for company, at most, as a multiple of the batch size.
const WAITING_BATCHES: usize = 64;

/// What to send.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// Same options, same items.
    pub seed: u64,
    /// Prefix of all ids: no two runs have the same.
    pub run_id: String,
    /// Number of tenants.
    pub tenants: usize,
    /// Most events in one request.
    pub batch: u32,
    /// Events of the run, about.
    pub expected: f64,
    /// The present; milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// A recorded mix to send instead of simulated visits.
    pub mix: Option<Arc<Mix>>,
}

/// One item to come: number of the tenant, name of the source, text.
pub(crate) type Item = (usize, Arc<str>, String);

/// One request to come.
#[derive(Debug, Clone)]
pub struct Request {
    /// Number of the tenant.
    pub tenant: usize,
    /// Name of the source in the path.
    pub source: Arc<str>,
    /// One item per line.
    pub body: Bytes,
    /// How many.
    pub events: u32,
}

/// Requests as they are ready. Ends its thread when dropped.
#[derive(Debug)]
pub struct Feed {
    ready: mpsc::Receiver<Request>,
}

impl Feed {
    /// Begins to make requests.
    pub fn start(options: FeedOptions) -> Self {
        let batch = options.batch.max(1) as usize;
        let capacity = (AHEAD_EVENTS / batch).clamp(16, AHEAD_REQUESTS);
        let (sender, ready) = mpsc::channel(capacity);
        std::thread::spawn(move || {
            let mut items = items(options);
            let mut open = Open::new(batch);
            // Ends when nobody wants more.
            while let Some(request) = open.next(&mut items)
                && sender.blocking_send(request).is_ok()
            {}
        });
        Self { ready }
    }

    /// The next request; waits until it is ready.
    pub async fn next(&mut self) -> Result<Request, CapacityError> {
        self.ready.recv().await.ok_or(CapacityError::FeedEnded)
    }
}

fn items(options: FeedOptions) -> Box<dyn Iterator<Item = Item>> {
    if options.mix.is_some() {
        return Box::new(Mixer::new(options));
    }
    let mut names: BTreeMap<&'static str, Arc<str>> = BTreeMap::new();
    let items = simulator(&options).map(move |item| {
        let name = names.entry(item.source);
        let name = Arc::clone(name.or_insert_with(|| item.source.into()));
        (item.tenant, name, item.body)
    });
    Box::new(items)
}

fn simulator(options: &FeedOptions) -> Simulator {
    let events_per_second = (options.expected / SPAN).clamp(20.0, *Pace::EVENTS_PER_SECOND.end());
    // Where the rate is held at its least or most, the span is another.
    let span = WARM_UP + options.expected / events_per_second + MARGIN;
    let mut simulator = Simulator::new(Options {
        seed: options.seed,
        events: u64::MAX,
        tenants: (0..options.tenants.max(1))
            .map(|number| number.to_string())
            .collect(),
        base_time_ms: options.now_ms - (span * 1e3) as i64,
        run_id: options.run_id.clone(),
        pace: Pace::Live { events_per_second },
        faults: FaultRates::default(),
    });
    // These are never sent.
    let skipped = (WARM_UP * events_per_second) as usize;
    if skipped > 0 {
        simulator.nth(skipped - 1);
    }
    simulator
}

/// Items that wait for others of their tenant and source.
struct Open {
    batch: usize,
    waiting: usize,
    /// By tenant and source, with the number of its first item.
    batches: BTreeMap<(usize, Arc<str>), Vec<String>>,
    /// Those keys in the order of their first item.
    order: VecDeque<(usize, Arc<str>)>,
}

impl Open {
    fn new(batch: usize) -> Self {
        Self {
            batch,
            waiting: 0,
            batches: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The next batch that is full, or the oldest where too many events wait.
    fn next(&mut self, items: &mut impl Iterator<Item = Item>) -> Option<Request> {
        loop {
            let (tenant, source, body) = items.next()?;
            let key = (tenant, source);
            let batch = self.batches.entry(key.clone()).or_default();
            if batch.is_empty() {
                self.order.push_back(key.clone());
            }
            batch.push(body);
            self.waiting += 1;
            let full = (batch.len() >= self.batch).then_some(key);
            let crowded = self.waiting > self.batch * WAITING_BATCHES;
            let chosen = full.or_else(|| crowded.then(|| self.order.front().cloned()).flatten());
            if let Some(key) = chosen {
                return self.take(key);
            }
        }
    }

    fn take(&mut self, key: (usize, Arc<str>)) -> Option<Request> {
        let items = self.batches.remove(&key)?;
        if let Some(place) = self.order.iter().position(|other| *other == key) {
            self.order.remove(place);
        }
        self.waiting -= items.len();
        Some(Request {
            tenant: key.0,
            source: key.1,
            events: u32::try_from(items.len()).unwrap_or(u32::MAX),
            body: items.join("\n").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn options(tenants: usize, batch: u32) -> FeedOptions {
        FeedOptions {
            seed: 1,
            run_id: "r".into(),
            tenants,
            batch,
            expected: 20_000.0,
            now_ms: 1_795_000_000_000,
            mix: None,
        }
    }

    #[tokio::test]
    async fn requests_are_full_of_one_source_and_have_every_vendor() {
        let mut feed = Feed::start(options(3, 10));
        let mut sources = BTreeSet::new();
        for _ in 0..500 {
            let request = feed.next().await.unwrap();
            assert_eq!(request.events, 10);
            assert_eq!(request.body.split(|byte| *byte == b'\n').count(), 10);
            sources.insert(request.source);
        }
        assert_eq!(sources.len(), 5, "{sources:?}");
    }

    #[tokio::test]
    async fn with_many_tenants_requests_go_out_before_they_are_full() {
        let mut feed = Feed::start(options(10_000, 10));
        for _ in 0..200 {
            let request = feed.next().await.unwrap();
            assert!((1..=10).contains(&request.events));
        }
    }

    #[test]
    fn simulated_times_end_before_the_present() {
        let options = options(1, 1);
        let last = simulator(&options).nth(options.expected as usize).unwrap();
        assert!(last.due_ms < options.now_ms);
        assert!(last.due_ms > options.now_ms - 3 * 3_600_000);
    }
}

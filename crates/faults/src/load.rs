//! A known set of events, sent over HTTP until each request is acknowledged.
//!
//! ```text
//! senders ─ batch: fresh ids · repetitions · malformed items ─► producers
//!    ▲                                                            │
//!    └── no answer, 429, 503: the same again, elsewhere ◄─────────┤
//!                                    202: noted in the ledger ◄───┘
//! ```
//!
//! The body of an event follows from its number, so that a repetition is the same to the byte.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::ensure;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task::JoinSet};

/// Senders at a time.
const SENDERS: usize = 8;
/// Most items in a request.
const MAX_ITEMS: usize = 30;
/// Share of repetitions and of malformed items, in percent.
const REPETITIONS: u32 = 10;
const MALFORMED: u32 = 3;
/// Conversations of each tenant.
const CONVERSATIONS: usize = 97;
/// Names of the tenants.
pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Longer than a producer waits for the broker.
const ANSWER: Duration = Duration::from_secs(20);

/// How often something was sent, and how often that was acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Index into [`TENANTS`].
    pub(crate) tenant: usize,
    pub(crate) sends: u32,
    pub(crate) acknowledged: u32,
}

/// What was sent and what was acknowledged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// Events by number.
    pub(crate) events: Vec<Sent>,
    /// Malformed items by the SHA-256 of their text, hex.
    pub(crate) malformed: BTreeMap<String, Sent>,
    /// Requests that got no answer.
    pub(crate) unanswered: u64,
    /// Requests that were answered 429 or 503, and how many of those answers had a Retry-After.
    pub(crate) refused: u64,
    pub(crate) refused_with_time: u64,
    /// Number of the first event that may be repeated.
    first_repeated: usize,
    /// Answers that nothing explains.
    pub(crate) wrong: Vec<String>,
}

impl Ledger {
    /// Event ids that were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        let acknowledged = self.events.iter().filter(|sent| sent.acknowledged > 0);
        acknowledged.count() as u64
    }

    /// Acknowledged items, repetitions and malformed ones included: so many outcomes there must be.
    pub(crate) fn outcomes(&self) -> u64 {
        let all = self.events.iter().chain(self.malformed.values());
        all.map(|sent| u64::from(sent.acknowledged)).sum()
    }

    /// Requests that were not acknowledged.
    pub(crate) fn failed(&self) -> u64 {
        self.refused + self.unanswered
    }

    /// The number in an event id, where it is one of ours.
    pub(crate) fn number(&self, event_id: &str) -> Option<usize> {
        let number = event_id.strip_prefix('e')?.parse().ok()?;
        (number < self.events.len()).then_some(number)
    }
}

/// The conversation of an event, unique in its tenant.
pub(crate) fn conversation(number: usize) -> String {
    format!("c{}", number % CONVERSATIONS)
}

fn event(number: usize, started_ms: i64) -> String {
    // Numbers of one tenant are not in a row, which a page session's numbers need not be.
    format!(
        r#"{{"native":{{"event":"widget_message_sent","widget_platform":"web","widet_conversation_id":"{conversation}","timestamp":{at},"total_messages":1}},"context":{{"event_id":"e{number}","session_id":"s{conversation}","sequence":{sequence}}}}}"#,
        conversation = conversation(number),
        at = started_ms + number as i64,
        sequence = number + 1,
    )
}

fn malformed(number: u64) -> String {
    format!(r#"{{"widget_platform":"web","malformed":"m{number}"}}"#)
}

/// One entry of a request.
#[derive(Debug, Clone)]
enum Item {
    Event(usize),
    Malformed(u64),
}

/// Where to send, as whom, how fast.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// URLs of the producers.
    pub(crate) producers: Vec<String>,
    /// Write keys, as [`TENANTS`].
    pub(crate) keys: Vec<String>,
    /// Items in a second, about.
    pub(crate) rate: u32,
}

/// The senders.
pub(crate) struct Load {
    shared: Arc<Shared>,
    /// They end with it.
    _senders: JoinSet<()>,
}

struct Shared {
    target: Target,
    client: reqwest::Client,
    started_ms: i64,
    ledger: Mutex<Ledger>,
    is_on: watch::Sender<bool>,
    busy: AtomicUsize,
}

impl Load {
    /// Makes the senders; they wait for [`Load::resume`].
    pub(crate) fn new(target: Target, seed: u64) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(ANSWER)
            .connect_timeout(Duration::from_secs(1))
            .build()?;
        let shared = Arc::new(Shared {
            target,
            client,
            started_ms: jiff::Timestamp::now().as_millisecond() - 600_000,
            ledger: Mutex::default(),
            is_on: watch::channel(false).0,
            busy: AtomicUsize::new(0),
        });
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            let rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number as u64));
            senders.spawn(send(Arc::clone(&shared), rng));
        }
        Ok(Self {
            shared,
            _senders: senders,
        })
    }

    /// Lets events flow.
    pub(crate) fn resume(&self) {
        self.shared.is_on.send_replace(true);
    }

    /// Sends nothing new, and waits until all that was sent is acknowledged.
    pub(crate) async fn pause(&self, deadline: Duration) -> anyhow::Result<()> {
        self.shared.is_on.send_replace(false);
        let deadline = Instant::now() + deadline;
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            ensure!(
                Instant::now() < deadline,
                "requests are still not acknowledged; the last answer: {:?}",
                self.ledger().wrong.last()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until `more` further events are acknowledged.
    pub(crate) async fn flow(&self, more: u64, deadline: Duration) -> anyhow::Result<()> {
        let before = self.ledger().acknowledged();
        let deadline = Instant::now() + deadline;
        while self.ledger().acknowledged() < before + more {
            ensure!(Instant::now() < deadline, "no events are acknowledged");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Repeats nothing until [`Load::repeat_again`].
    pub(crate) fn repeat_nothing(&self) {
        self.ledger().first_repeated = usize::MAX;
    }

    /// Repeats from now on what is sent from now on.
    pub(crate) fn repeat_again(&self) {
        let mut ledger = self.ledger();
        ledger.first_repeated = ledger.events.len();
    }

    /// What is known now.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batch(&self, rng: &mut ChaCha8Rng) -> (usize, Vec<Item>) {
        let tenant = rng.random_range(0..TENANTS.len());
        let count = rng.random_range(1..=MAX_ITEMS);
        let mut ledger = self.ledger();
        let items = (0..count).map(|_| {
            let dice = rng.random_range(0..100);
            if dice < MALFORMED {
                return Item::Malformed(rng.random());
            }
            let repeatable = ledger.first_repeated..ledger.events.len();
            if dice < MALFORMED + REPETITIONS && !repeatable.is_empty() {
                let earlier = rng.random_range(repeatable);
                if ledger.events[earlier].tenant == tenant {
                    return Item::Event(earlier);
                }
            }
            ledger.events.push(Sent {
                tenant,
                ..Sent::default()
            });
            Item::Event(ledger.events.len() - 1)
        });
        let items = items.collect();
        (tenant, items)
    }

    fn note(&self, tenant: usize, items: &[Item], change: impl Fn(&mut Sent)) {
        let mut ledger = self.ledger();
        for item in items {
            match item {
                Item::Event(number) => change(&mut ledger.events[*number]),
                Item::Malformed(number) => {
                    let hash = hex::encode(Sha256::digest(malformed(*number)));
                    let sent = ledger.malformed.entry(hash).or_insert(Sent {
                        tenant,
                        ..Sent::default()
                    });
                    change(sent);
                }
            }
        }
    }

    /// Sends a batch once; true when it was acknowledged.
    async fn post(&self, producer: usize, tenant: usize, items: &[Item]) -> bool {
        let lines: Vec<String> = items
            .iter()
            .map(|item| match item {
                Item::Event(number) => event(*number, self.started_ms),
                Item::Malformed(number) => malformed(*number),
            })
            .collect();
        self.note(tenant, items, |sent| sent.sends += 1);
        let answer = self
            .client
            .post(format!(
                "{}/v1/events/watermelon",
                self.target.producers[producer]
            ))
            .bearer_auth(&self.target.keys[tenant])
            .header("content-type", "application/x-ndjson")
            .body(lines.join("\n"))
            .send()
            .await;
        let Ok(answer) = answer else {
            self.ledger().unanswered += 1;
            return false;
        };
        match answer.status().as_u16() {
            202 => {
                // The answer counts when all of it is there.
                let Ok(text) = answer.text().await else {
                    self.ledger().unanswered += 1;
                    return false;
                };
                self.note(tenant, items, |sent| sent.acknowledged += 1);
                self.check(items, &text);
                true
            }
            429 | 503 => {
                let has_time = answer.headers().contains_key("retry-after");
                let mut ledger = self.ledger();
                ledger.refused += 1;
                ledger.refused_with_time += u64::from(has_time);
                false
            }
            status => {
                let text = answer.text().await.unwrap_or_default();
                self.ledger().wrong.push(format!("{status}: {text}"));
                false
            }
        }
    }

    fn check(&self, items: &[Item], text: &str) {
        let malformed = items
            .iter()
            .filter(|item| matches!(item, Item::Malformed(_)))
            .count();
        let answer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let rejected = answer["rejected"].as_array().map_or(0, Vec::len);
        if rejected != malformed || answer["accepted"] != items.len() - malformed {
            self.ledger().wrong.push(format!(
                "{} items, {malformed} malformed: {text}",
                items.len()
            ));
        }
    }
}

async fn send(shared: Arc<Shared>, mut rng: ChaCha8Rng) {
    let mut is_on = shared.is_on.subscribe();
    let mean = MAX_ITEMS as f64 / 2.0 * SENDERS as f64 / f64::from(shared.target.rate);
    while is_on.wait_for(|on| *on).await.is_ok() {
        shared.busy.fetch_add(1, Ordering::SeqCst);
        let (tenant, items) = shared.batch(&mut rng);
        let mut producer = rng.random_range(0..shared.target.producers.len());
        while !shared.post(producer, tenant, &items).await {
            producer = (producer + 1) % shared.target.producers.len();
            tokio::time::sleep(Duration::from_millis(rng.random_range(50..200))).await;
        }
        shared.busy.fetch_sub(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs_f64(mean * rng.random_range(0.5..1.5))).await;
    }
}

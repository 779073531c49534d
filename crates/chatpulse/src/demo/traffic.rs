//! Sends simulated items through the real endpoint, as pages would: in batches, several at a time,
//! again when told to.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use chatpulse_simulator::{Item, Simulator};
use futures::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use reqwest::StatusCode;
use serde::Deserialize;

/// Items in one request.
const BATCH: usize = 100;
/// Requests on their way at once.
const CONCURRENCY: usize = 12;
/// How often a refused batch is offered again.
const ATTEMPTS: u32 = 60;
/// Live traffic waits so long for a batch to fill.
const LIVE_TICK: Duration = Duration::from_millis(100);

/// What the producer answered for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    /// Items, each counted once.
    pub(crate) items: u64,
    /// Items that were offered again because an answer was missing or a refusal; some of them may
    /// have been taken twice.
    pub(crate) resent: u64,
    /// Items that the producer refused, by reason.
    pub(crate) rejected: BTreeMap<String, u64>,
}

/// An HTTP client of the producer.
#[derive(Clone)]
pub(crate) struct Sender {
    http: reqwest::Client,
    base: String,
    write_keys: Arc<[String]>,
    sent: Arc<AtomicU64>,
}

/// One request to come.
struct Batch {
    tenant: usize,
    source: &'static str,
    items: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    rejected: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    reason: String,
}

impl Sender {
    pub(crate) fn new(producer: SocketAddr, write_keys: Vec<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(Self {
            http,
            base: format!("http://{producer}/v1/events"),
            write_keys: write_keys.into(),
            sent: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Items acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends everything as fast as it is taken.
    pub(crate) async fn send_all(&self, simulator: &mut Simulator) -> anyhow::Result<Sent> {
        let mut total = Sent::default();
        let mut requests = FuturesUnordered::new();
        let mut open = Batches::default();
        loop {
            while requests.len() < CONCURRENCY
                && let Some(batch) = open.fill(simulator)
            {
                requests.push(self.post(batch));
            }
            match requests.next().await {
                Some(sent) => total.add(sent?),
                None => return Ok(total),
            }
        }
    }

    /// Sends each item when its time has come, for ever.
    pub(crate) async fn send_when_due(&self, simulator: &mut Simulator) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(LIVE_TICK);
        let mut next = simulator.next();
        loop {
            tick.tick().await;
            let now_ms = Timestamp::now().as_millisecond();
            let mut open = Batches::default();
            let mut ready = Vec::new();
            while let Some(item) = next.take_if(|item| item.due_ms <= now_ms) {
                ready.extend(open.add(item));
                next = simulator.next();
            }
            ready.extend(std::iter::from_fn(|| open.take_any()));
            let mut requests = ready
                .into_iter()
                .map(|batch| self.post(batch))
                .collect::<FuturesUnordered<_>>();
            while let Some(sent) = requests.next().await {
                sent?;
            }
        }
    }

    /// Posts one batch until it is acknowledged. A batch that may have been taken before is
    /// harmless: its events are recognised by their ids.
    async fn post(&self, batch: Batch) -> anyhow::Result<Sent> {
        let url = format!("{}/{}", self.base, batch.source);
        let items = batch.items.len() as u64;
        let mut sent = Sent {
            items,
            ..Sent::default()
        };
        let body = format!("[{}]", batch.items.join(","));
        for attempt in 1.. {
            let answer = self
                .http
                .post(&url)
                .bearer_auth(&self.write_keys[batch.tenant])
                .header("content-type", "application/json")
                .body(body.clone())
                .send()
                .await;
            let problem = match answer {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                    let answer = answer.text().await?;
                    let answer: Answer = serde_json::from_str(&answer)
                        .with_context(|| format!("the producer's answer: {answer}"))?;
                    for refusal in answer.rejected {
                        *sent.rejected.entry(refusal.reason).or_default() += 1;
                    }
                    self.sent.fetch_add(items, Ordering::Relaxed);
                    return Ok(sent);
                }
                Ok(answer) => {
                    let status = answer.status();
                    let text = answer.text().await.unwrap_or_default();
                    let passing = [
                        StatusCode::TOO_MANY_REQUESTS,
                        StatusCode::SERVICE_UNAVAILABLE,
                    ];
                    if !passing.contains(&status) {
                        bail!(
                            "the producer refused a batch for {}: {status} {text}",
                            batch.source
                        );
                    }
                    format!("{status} {text}")
                }
                Err(error) => error.to_string(),
            };
            if attempt == ATTEMPTS {
                bail!("the producer did not take a batch in {ATTEMPTS} attempts: {problem}");
            }
            sent.resent += items;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(sent)
    }
}

impl Sent {
    fn add(&mut self, other: Sent) {
        self.items += other.items;
        self.resent += other.resent;
        for (reason, count) in other.rejected {
            *self.rejected.entry(reason).or_default() += count;
        }
    }
}

/// Items that wait for company, by tenant and source.
#[derive(Default)]
struct Batches(HashMap<(usize, &'static str), Vec<String>>);

impl Batches {
    fn add(&mut self, item: Item) -> Option<Batch> {
        let (tenant, source) = (item.tenant, item.source);
        let items = self.0.entry((tenant, source)).or_default();
        items.push(item.body);
        (items.len() >= BATCH).then(|| Batch {
            tenant,
            source,
            items: std::mem::take(items),
        })
    }

    /// The next full batch; after the last item, the rest.
    fn fill(&mut self, simulator: &mut Simulator) -> Option<Batch> {
        for item in simulator.by_ref() {
            let batch = self.add(item);
            if batch.is_some() {
                return batch;
            }
        }
        self.take_any()
    }

    fn take_any(&mut self) -> Option<Batch> {
        let (tenant, source) = *self
            .0
            .iter()
            .find(|(_, items)| !items.is_empty())
            .map(|(key, _)| key)?;
        let items = self.0.remove(&(tenant, source))?;
        Some(Batch {
            tenant,
            source,
            items,
        })
    }
}

//! `chatpulse deliveries`: what became of deliveries, giving up's undoing, and destinations on and off.
//!
//! ```text
//! delivery_states (ClickHouse) ──► event (chat.events) ──► chat.retries.1, due at once ──► deliverer
//! ```
//!
//! A replay keeps the delivery's id, so a receiver that had the event after all drops it as a repeat.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use chatpulse_deliverer::{destination::Destination, failure::Ending, send_test};
use chatpulse_kafka::{
    Admin, BatchLimit, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition,
};
use chatpulse_model::{
    Delivery, DestinationKind, Outcome,
    avro::{Codec, Framing},
    delivery::{DestinationState, Retry},
};
use chatpulse_reports::Period;
use chatpulse_store::{ConversationKey, DeliveryCursor, DeliveryFilter, DeliveryState, Store};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use crate::{output, stages::Stages};

/// `chatpulse deliveries …`
#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    /// Lists deliveries with what became of them, the latest first.
    #[command(after_help = "Examples:
  chatpulse deliveries list --tenant acme --since 24h
  chatpulse deliveries list --result retrying --destination crm --json")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Delivers again what was given up. Events are chosen by when they were received. May be repeated:
    /// what was delivered meanwhile is left, and receivers drop repeats by the delivery's id.
    #[command(after_help = "Example:
  chatpulse deliveries replay --tenant acme --destination crm \\
    --from 2026-11-01T00:00:00Z --to 2026-11-02T00:00:00Z --dry-run")]
    Replay {
        #[command(flatten)]
        filter: FilterArgs,
        /// Only say what would be replayed.
        #[arg(long)]
        dry_run: bool,
        /// Print the summary as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Switches a destination on again that was disabled after 410 or days of failure.
    #[command(after_help = "Example:\n  chatpulse deliveries enable acme crm")]
    Enable {
        /// Tenant.
        tenant: String,
        /// Its destination.
        destination: String,
    },
    /// Sends a test event to a webhook, and says what came of it. Exit code 1 where it was not taken.
    #[command(after_help = "Example:\n  chatpulse deliveries test acme crm")]
    Test {
        /// Tenant.
        tenant: String,
        /// Its destination.
        destination: String,
    },
}

/// Which deliveries.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// To this destination.
    #[arg(long)]
    destination: Option<String>,
    /// With this result: delivered, retrying, given_up or withheld.
    #[arg(long, default_value = "given_up")]
    result: String,
    /// How far back: 90m, 24h, 7d.
    #[arg(long, default_value = "7d", conflicts_with = "from")]
    since: String,
    /// First moment instead, e.g. 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME", requires = "to")]
    from: Option<Timestamp>,
    /// First moment after it.
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<Timestamp>,
}

const RESULTS: [&str; 4] = ["delivered", "retrying", "given_up", "withheld"];

impl FilterArgs {
    fn to_filter(&self) -> anyhow::Result<DeliveryFilter> {
        if !RESULTS.contains(&self.result.as_str()) {
            bail!("--result must be one of {}", RESULTS.join(", "));
        }
        let (from_ms, to_ms) = match (self.from, self.to) {
            (Some(from), Some(to)) if from < to => (from.as_millisecond(), to.as_millisecond()),
            (Some(_), Some(_)) => bail!("--from must be before --to"),
            _ => {
                let window = Period::before(Timestamp::now(), &self.since)?.window();
                (window.since_ms, i64::MAX / 4)
            }
        };
        Ok(DeliveryFilter {
            tenant: self.tenant.clone(),
            destination: self.destination.clone(),
            result: Some(self.result.clone()),
            from_ms,
            // ClickHouse's times with milliseconds end in 2299.
            to_ms: to_ms.min(Timestamp::now().as_millisecond() + 86_400_000),
        })
    }
}

/// Deliveries read from the store at once.
const PAGE: u32 = 10_000;
/// How chat.events is looked through.
const SCAN: BatchLimit = BatchLimit {
    max_records: 5_000,
    max_bytes: 16 << 20,
    wait: Duration::from_secs(5),
    linger: Duration::ZERO,
};

/// How long may be read what was said of destinations.
const READ: Duration = Duration::from_secs(30);

/// False where a test event was not taken.
pub(crate) async fn run(stages: &Stages, command: DeliveriesCommand) -> anyhow::Result<bool> {
    match command {
        DeliveriesCommand::List {
            filter,
            limit,
            json,
        } => list(stages, &filter.to_filter()?, limit, json).await?,
        DeliveriesCommand::Replay {
            filter,
            dry_run,
            json,
        } => {
            let filter = filter.to_filter()?;
            if filter.result.as_deref() == Some("retrying") {
                bail!("what is retrying has its next turn already");
            }
            let summary = replay(stages, &filter, dry_run).await?;
            if json {
                output::result(&serde_json::to_string_pretty(&summary)?);
            } else {
                output::result(&summary.to_string());
            }
        }
        DeliveriesCommand::Enable {
            tenant,
            destination,
        } => enable(stages, &find(stages, &tenant, &destination)?).await?,
        DeliveriesCommand::Test {
            tenant,
            destination,
        } => {
            let destination = find(stages, &tenant, &destination)?;
            return match send_test(&stages.http_client()?, &destination).await? {
                Ending::Delivered { status } => {
                    output::result(&format!("taken: the receiver answered {status}"));
                    Ok(true)
                }
                Ending::Failed(failure) => {
                    let class = failure.class.as_str();
                    output::result(&format!("not taken ({class}): {}", failure.detail));
                    Ok(false)
                }
            };
        }
    }
    Ok(true)
}

fn find(stages: &Stages, tenant: &str, destination: &str) -> anyhow::Result<Destination> {
    let all = stages.destinations()?;
    let of_tenant = || all.iter().filter(|known| *known.tenant == *tenant);
    let names: Vec<_> = of_tenant().map(|known| known.id.to_string()).collect();
    let found = of_tenant().find(|known| *known.id == *destination).cloned();
    found.with_context(|| {
        format!(
            "{tenant} has no destination {destination} that is enabled in {}; enabled are: {}",
            stages.config.producer.tenants_file.display(),
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        )
    })
}

async fn list(
    stages: &Stages,
    filter: &DeliveryFilter,
    limit: u32,
    json: bool,
) -> anyhow::Result<()> {
    let deliveries = stages.store().latest_deliveries(filter, limit).await?;
    if json {
        output::result(&serde_json::to_string_pretty(&deliveries)?);
        return Ok(());
    }
    for delivery in &deliveries {
        output::result(&line(delivery));
    }
    if deliveries.is_empty() {
        output::note("no such deliveries in this span");
    } else if deliveries.len() == limit as usize {
        output::note(&format!("the {limit} latest; more with --limit"));
    }
    Ok(())
}

fn line(delivery: &DeliveryState) -> String {
    let at = Timestamp::from_millisecond(delivery.last_at_ms).unwrap_or_default();
    let why = match (&delivery.failure, &delivery.detail) {
        (Some(class), Some(detail)) => format!("  {class}: {detail}"),
        (Some(class), None) => format!("  {class}"),
        (None, _) => String::new(),
    };
    let requests = match delivery.attempts {
        1 => "request",
        _ => "requests",
    };
    format!(
        "{at}  {}/{}  {}  {}  {} after {} {requests}{why}",
        delivery.tenant,
        delivery.destination,
        delivery.event_type,
        delivery.delivery_id,
        delivery.result,
        delivery.attempts,
    )
}

/// What came of a replay.
#[derive(Debug, Default, Serialize)]
struct Summary {
    dry_run: bool,
    /// Deliveries looked at.
    found: u64,
    /// Given to the deliverer again, and confirmed by the broker.
    replayed: u64,
    /// Not replayed, by reason.
    left: BTreeMap<&'static str, u64>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let replayed = match self.dry_run {
            true => "could be replayed",
            false => "replayed",
        };
        write!(f, "{} deliveries, {} {replayed}", self.found, self.replayed)?;
        for (why, count) in &self.left {
            write!(f, "\n{count} left: {why}")?;
        }
        Ok(())
    }
}

async fn replay(
    stages: &Stages,
    filter: &DeliveryFilter,
    dry_run: bool,
) -> anyhow::Result<Summary> {
    let store = stages.store();
    let configured: Vec<_> = stages
        .destinations()?
        .into_iter()
        .map(|known| (known.tenant.to_string(), known.id.to_string()))
        .collect();
    let disabled = disabled(stages).await?;
    let mut handover = Handover::start(stages).await?;
    let mut summary = Summary {
        dry_run,
        ..Summary::default()
    };
    let mut after = DeliveryCursor::default();
    loop {
        let page = store.deliveries(filter, &after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.cursor();
        summary.found += page.len() as u64;
        let mut wanted: BTreeMap<i32, HashMap<i64, Vec<DeliveryState>>> = BTreeMap::new();
        for state in page {
            let name = (state.tenant.clone(), state.destination.clone());
            let why = match () {
                () if !configured.contains(&name) => {
                    Some("the destination is not in the tenants file, or is switched off there")
                }
                () if disabled.contains(&name) => Some(
                    "the destination is disabled: switch it on first, with `chatpulse deliveries enable`",
                ),
                () => None,
            };
            if let Some(why) = why {
                *summary.left.entry(why).or_default() += 1;
                continue;
            }
            let of_partition = wanted.entry(state.partition).or_default();
            of_partition.entry(state.offset).or_default().push(state);
        }
        for (partition, wanted) in wanted {
            let topic = TopicPartition::new(stages.topics.events.clone(), partition);
            let reader = PartitionReader::new(&stages.kafka("deliveries"), topic)?;
            let codec = stages.event_codec();
            let scan = move || scan(reader, &codec, wanted);
            let (mut found, missing) = tokio::task::spawn_blocking(scan).await??;
            if missing > 0 {
                let why = "the event is not in chat.events any more";
                *summary.left.entry(why).or_default() += missing;
            }
            if dry_run {
                summary.replayed += found.len() as u64;
                continue;
            }
            for portion in found.chunks_mut(PORTION) {
                recall_consent(&store, portion).await?;
                handover.give(portion).await.with_context(|| {
                    format!(
                        "{} deliveries were replayed; run it again for the others",
                        summary.replayed
                    )
                })?;
                summary.replayed += portion.len() as u64;
            }
        }
    }
    Ok(summary)
}

/// A delivery to be made again.
struct Again {
    delivery_id: String,
    retry: Retry,
    conversation: Option<ConversationKey>,
}

/// Tells the deliverer what was said of consent before: it may not have read that part of `chat.events`.
async fn recall_consent(store: &Store, portion: &mut [Again]) -> anyhow::Result<()> {
    let of_third_parties = portion
        .iter()
        .filter(|again| again.retry.kind != DestinationKind::Webhook);
    let conversations: HashSet<_> = of_third_parties
        .filter_map(|again| again.conversation.clone())
        .collect();
    let conversations: Vec<_> = conversations.into_iter().collect();
    let words = store.consents(&conversations).await?;
    for again in portion {
        let conversation = again.conversation.as_ref();
        again.retry.consent = conversation.and_then(|key| words.get(key).copied());
    }
    Ok(())
}

/// Gives deliveries to the deliverer, no more at once than it takes at once: what finds no room there is
/// written to its topic again and again.
struct Handover {
    publisher: Publisher,
    topic: Arc<str>,
    codec: Codec<Retry>,
    turns: Turns,
}

/// Deliveries given to the deliverer at once.
const PORTION: usize = 250;
/// Of these so many may not have had their turn yet when the next ones are given.
const OPEN: usize = 250;
/// Longer than a breaker's pause.
const STALL: Duration = Duration::from_secs(6 * 60);
/// How the records of turns are followed.
const FOLLOW: BatchLimit = BatchLimit {
    max_records: 5_000,
    max_bytes: 16 << 20,
    wait: Duration::from_millis(100),
    linger: Duration::ZERO,
};

impl Handover {
    async fn start(stages: &Stages) -> anyhow::Result<Self> {
        let kafka = stages.kafka("deliveries");
        let topic = stages.topics.deliveries.clone();
        let partitions = Admin::new(&kafka)?.partition_count(&topic).await?;
        let follow = move || -> anyhow::Result<Vec<PartitionReader>> {
            (0..partitions.unwrap_or(0))
                .map(|partition| {
                    let partition = TopicPartition::new(topic.clone(), partition);
                    let mut reader = PartitionReader::new(&kafka, partition)?;
                    let end = reader.watermarks()?.high;
                    reader.seek(end)?;
                    Ok(reader)
                })
                .collect()
        };
        Ok(Self {
            publisher: Publisher::new(&stages.kafka("deliveries"), &PublisherSettings::default())?,
            topic: stages.topics.retries(1),
            codec: Codec::new(Framing::SingleObject)?,
            turns: Turns {
                readers: tokio::task::spawn_blocking(follow).await??,
                codec: Codec::new(Framing::SingleObject)?,
                open: HashSet::new(),
            },
        })
    }

    async fn give(&mut self, portion: &[Again]) -> anyhow::Result<()> {
        let is_taken = tokio::task::block_in_place(|| self.turns.wait(OPEN))?;
        if !is_taken {
            bail!(
                "none of the last {} had its turn within {STALL:?}: is `chatpulse deliverer` running, and its \
                 destination well?",
                self.turns.open.len()
            );
        }
        let mut records = Vec::with_capacity(portion.len());
        for Again {
            delivery_id, retry, ..
        } in portion
        {
            self.turns.open.insert(delivery_id.clone());
            records.push(Record {
                key: format!("{}/{}", retry.tenant, retry.destination).into_bytes(),
                payload: self.codec.encode(retry)?,
                ..Record::default()
            });
        }
        for outcome in self.publisher.publish(&self.topic, records).await {
            outcome.context("the broker did not take a replay; is it well?")?;
        }
        Ok(())
    }
}

/// The turns of replays, as they are recorded.
struct Turns {
    readers: Vec<PartitionReader>,
    codec: Codec<Delivery>,
    /// Given to the deliverer, and without a turn so far.
    open: HashSet<String>,
}

impl Turns {
    /// Waits until at most so many are open; false where none had its turn for long. Blocking.
    fn wait(&mut self, most: usize) -> anyhow::Result<bool> {
        let mut since = Instant::now();
        while self.open.len() > most {
            let before = self.open.len();
            for reader in &mut self.readers {
                for record in reader.next_batch(&FOLLOW, &|| false)?.iter() {
                    let delivery = record.payload.map(|payload| self.codec.decode(payload));
                    if let Some(Ok(delivery)) = delivery
                        && delivery.replayed
                    {
                        self.open.remove(&delivery.delivery_id);
                    }
                }
            }
            if self.open.len() < before {
                since = Instant::now();
            } else if since.elapsed() > STALL {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Tenants and destinations that deliverers have disabled, as the last word on each has it.
async fn disabled(stages: &Stages) -> anyhow::Result<HashSet<(String, String)>> {
    let topic = TopicPartition::new(stages.topics.destinations.clone(), 0);
    let kafka = stages.kafka("deliveries");
    let read = move || -> anyhow::Result<_> {
        let codec = Codec::<DestinationState>::new(Framing::SingleObject)?;
        let mut reader = PartitionReader::new(&kafka, topic)?;
        let ends = reader.watermarks()?;
        let mut disabled = HashSet::new();
        for record in reader.read_range(ends.low..ends.high, READ)?.iter() {
            let Some(Ok(said)) = record.payload.map(|payload| codec.decode(payload)) else {
                continue;
            };
            let name = (said.tenant, said.destination);
            match said.disabled_at {
                Some(_) => disabled.insert(name),
                None => disabled.remove(&name),
            };
        }
        Ok(disabled)
    };
    tokio::task::spawn_blocking(read)
        .await?
        .context("cannot read which destinations are disabled")
}

type Wanted = HashMap<i64, Vec<DeliveryState>>;

/// The waiting deliveries of the events that stand for raw offsets, and how many were not found. Blocking.
fn scan(
    mut reader: PartitionReader,
    events: &Codec<chatpulse_model::Event>,
    mut wanted: Wanted,
) -> anyhow::Result<(Vec<Again>, u64)> {
    let ends = reader.watermarks()?;
    let partition = reader.partition().partition;
    let now = Timestamp::now().as_millisecond();
    let mut found = Vec::new();
    // Every raw record has an outcome, so that of a raw offset mostly stands there or later; all is
    // looked through where chat.events was made again.
    let likely = wanted.keys().min().copied().unwrap_or(ends.low);
    for start in [likely.clamp(ends.low, ends.high), ends.low] {
        if wanted.is_empty() || start >= ends.high {
            continue;
        }
        reader.seek(start)?;
        let mut at = start;
        while at < ends.high && !wanted.is_empty() {
            let batch = reader.next_batch(&SCAN, &|| false)?;
            let Some(end) = batch.end_offset() else {
                bail!("chat.events[{partition}] is not handed out by the broker; try again");
            };
            at = end;
            for record in batch.iter() {
                let payload = record.payload.unwrap_or_default();
                let Ok(event) = events.decode(payload) else {
                    continue;
                };
                if event.partition != partition || event.outcome != Outcome::Accepted {
                    continue;
                }
                for state in wanted.remove(&event.offset).into_iter().flatten() {
                    let retry = Retry {
                        tenant: state.tenant.clone(),
                        destination: state.destination.clone(),
                        kind: kind(&state.kind)?,
                        attempts: 0,
                        due_at: now,
                        last: None,
                        replayed: true,
                        event: payload.to_vec(),
                        consent: None,
                    };
                    found.push(Again {
                        delivery_id: state.delivery_id,
                        retry,
                        conversation: event.conversation_id.clone().map(|conversation| {
                            (event.tenant.clone(), event.source.clone(), conversation)
                        }),
                    });
                }
            }
        }
    }
    let missing = wanted.values().map(|states| states.len() as u64).sum();
    Ok((found, missing))
}

fn kind(name: &str) -> anyhow::Result<DestinationKind> {
    [
        DestinationKind::Webhook,
        DestinationKind::Ga4,
        DestinationKind::Meta,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == name)
    .with_context(|| format!("the store has a delivery of an unknown kind, {name:?}"))
}

async fn enable(stages: &Stages, destination: &Destination) -> anyhow::Result<()> {
    let state = destination.healthy();
    let record = Record {
        partition: Some(0),
        key: format!("{}/{}", state.tenant, state.destination).into_bytes(),
        payload: Codec::new(Framing::SingleObject)?.encode(&state)?,
        timestamp_ms: None,
    };
    let publisher = Publisher::new(&stages.kafka("deliveries"), &PublisherSettings::default())?;
    for outcome in publisher
        .publish(&stages.topics.destinations, vec![record])
        .await
    {
        outcome.context("the broker did not take it; try again when it is well")?;
    }
    output::note(&format!(
        "switched on; what was given up meanwhile is delivered with `chatpulse deliveries replay --tenant {} \
         --destination {}`",
        state.tenant, state.destination
    ));
    Ok(())
}

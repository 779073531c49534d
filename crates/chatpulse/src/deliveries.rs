//! `chatpulse deliveries`: what became of deliveries, giving up's undoing, and destinations on and off.
//!
//! ```text
//! delivery_states (ClickHouse) ──► event (chat.events) ──► chat.retries.1, due at once ──► deliverer
//! ```
//!
//! A replay keeps the delivery's id, so a receiver that had the event after all drops it as a repeat.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context as _, bail};
use chatpulse_deliverer::{destination::Destination, failure::Ending, send_test};
use chatpulse_kafka::{
    BatchLimit, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition,
};
use chatpulse_model::{
    DestinationKind, Outcome,
    avro::{Codec, Framing},
    delivery::{DestinationState, Retry},
};
use chatpulse_reports::Period;
use chatpulse_store::{DeliveryCursor, DeliveryFilter, DeliveryState};
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
    wait: std::time::Duration::from_secs(5),
    linger: std::time::Duration::ZERO,
};

/// How long may be read what was said of destinations.
const READ: std::time::Duration = std::time::Duration::from_secs(30);

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
    let publisher = Publisher::new(&stages.kafka("deliveries"), &PublisherSettings::default())?;
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
            let (records, missing) = tokio::task::spawn_blocking(scan).await??;
            if missing > 0 {
                let why = "the event is not in chat.events any more";
                *summary.left.entry(why).or_default() += missing;
            }
            summary.replayed += records.len() as u64;
            if dry_run {
                continue;
            }
            for outcome in publisher.publish(&stages.topics.retries(1), records).await {
                outcome.context(
                    "the broker did not take a replay; run it again when the broker is well",
                )?;
            }
        }
    }
    Ok(summary)
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
) -> anyhow::Result<(Vec<Record>, u64)> {
    let retries = Codec::<Retry>::new(Framing::SingleObject)?;
    let ends = reader.watermarks()?;
    let partition = reader.partition().partition;
    let now = Timestamp::now().as_millisecond();
    let mut records = Vec::new();
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
                    records.push(Record {
                        key: format!("{}/{}", state.tenant, state.destination).into_bytes(),
                        payload: retries.encode(&retry)?,
                        ..Record::default()
                    });
                }
            }
        }
    }
    let missing = wanted.values().map(|states| states.len() as u64).sum();
    Ok((records, missing))
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

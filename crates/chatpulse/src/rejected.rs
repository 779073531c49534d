//! `chatpulse rejected`: what was refused, and giving it to the pipeline again after a fix.
//!
//! ```text
//! rejections (ClickHouse) ──► raw record (chat.raw) ──► read with today's definitions ──► chat.raw, as a replay of its position
//!                                                            │ still refused, or accepted in the meantime
//!                                                            └──► counted, and left alone
//! ```
//!
//! A replay names the position that it replays, and the fold takes each position once, and none whose
//! event came by another way ([`chatpulse_model::ReplayOf`]). So a replay that was interrupted can
//! simply be run again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use anyhow::Context as _;
use chatpulse_kafka::{
    KafkaConfig, KafkaError, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition,
};
use chatpulse_model::{
    RawBody, RawEvent, ReplayOf,
    fold::{Reading, read},
};
use chatpulse_reports::Period;
use chatpulse_store::{OUTCOME_LOST, RejectionFilter, RejectionRecord, Store};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::Serialize;

use crate::{output, stages::Stages};

/// `chatpulse rejected …`
#[derive(Debug, Subcommand)]
pub(crate) enum RejectedCommand {
    /// Lists rejected records, oldest first, and outcomes that could not be read.
    #[command(after_help = "Examples:
  chatpulse rejected list --tenant acme --since 24h
  chatpulse rejected list --reason unknown_source --json")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Those too that were replayed already.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Gives rejected records to the pipeline again, after the reason was mended. May be repeated:
    /// nothing is taken twice.
    #[command(after_help = "Examples:
  chatpulse rejected replay --reason unknown_source --since 7d --dry-run
  chatpulse rejected replay --reason unknown_source --since 7d

What the producer refused cannot be replayed, since its content was not kept: send it again.")]
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
}

/// Which rejections.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Of this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// Of this source.
    #[arg(long)]
    source: Option<String>,
    /// With this reason, as the list shows it.
    #[arg(long)]
    reason: Option<String>,
    /// How far back: 90m, 24h, 7d.
    #[arg(long, default_value = "7d")]
    since: String,
}

impl FilterArgs {
    fn to_filter(&self, pending_only: bool) -> anyhow::Result<RejectionFilter> {
        let window = Period::before(Timestamp::now(), &self.since)?.window();
        Ok(RejectionFilter {
            tenant: self.tenant.clone(),
            source: self.source.clone(),
            reason: self.reason.clone(),
            since_ms: Some(window.since_ms),
            pending_only,
        })
    }
}

/// Rejections read from the store at once.
const PAGE: u32 = 1_000;

pub(crate) async fn run(stages: &Stages, command: RejectedCommand) -> anyhow::Result<()> {
    match command {
        RejectedCommand::List {
            filter,
            all,
            limit,
            json,
        } => list(stages, &filter.to_filter(!all)?, limit, json).await,
        RejectedCommand::Replay {
            filter,
            dry_run,
            json,
        } => {
            let summary = replay(stages, &filter.to_filter(true)?, dry_run).await?;
            if json {
                output::result(&serde_json::to_string_pretty(&summary)?);
            } else {
                output::result(&summary.to_string());
            }
            Ok(())
        }
    }
}

async fn list(
    stages: &Stages,
    filter: &RejectionFilter,
    limit: u32,
    json: bool,
) -> anyhow::Result<()> {
    let store = stages.store();
    let rejections = store.rejections(filter, None, limit).await?;
    let undecodable = store.undecodable_outcomes(limit).await?;
    if json {
        let report = serde_json::json!({
            "rejections": rejections,
            "undecodable_outcomes": undecodable,
        });
        output::result(&serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    for rejection in &rejections {
        output::result(&line(rejection));
    }
    for record in &undecodable {
        output::result(&format!(
            "{} at {}:{} is no outcome: {} ({} bytes)",
            stages.topics.events, record.partition, record.offset, record.detail, record.bytes,
        ));
    }
    if rejections.is_empty() {
        output::note("no rejections in this span");
    } else if rejections.len() == limit as usize {
        output::note(&format!("only the first {limit}: see --limit"));
    }
    Ok(())
}

fn line(rejection: &RejectionRecord) -> String {
    let at = Timestamp::from_millisecond(rejection.received_at_ms).unwrap_or_default();
    let fate = match &rejection.replayed {
        Some(replayed) => format!(
            "  replayed: {} at {}:{}",
            replayed.outcome, replayed.partition, replayed.offset
        ),
        None => String::new(),
    };
    format!(
        "{at}  {}  {}  {}  {}:{}  {}{fate}",
        name(&rejection.tenant),
        name(&rejection.source),
        rejection.reason,
        rejection.partition,
        rejection.offset,
        rejection.detail
    )
}

fn name(text: &str) -> &str {
    if text.is_empty() { "(unknown)" } else { text }
}

/// What came of a replay.
#[derive(Debug, Default, Serialize)]
struct Summary {
    dry_run: bool,
    /// Rejections looked at.
    found: u64,
    /// Given to the pipeline again, and confirmed by the broker.
    replayed: u64,
    /// Not replayed, by reason.
    left: BTreeMap<String, u64>,
}

impl Summary {
    fn leave(&mut self, why: impl Into<String>) {
        *self.left.entry(why.into()).or_default() += 1;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let replayed = if self.dry_run {
            "could be replayed"
        } else {
            "replayed"
        };
        write!(f, "{} rejections, {} {replayed}", self.found, self.replayed)?;
        for (why, count) in &self.left {
            write!(f, "\n{count} left: {why}")?;
        }
        Ok(())
    }
}

/// A raw record that can be taken today.
struct Candidate {
    event_id: String,
    key: Vec<u8>,
    partition: i32,
    record: RawEvent,
}

async fn replay(
    stages: &Stages,
    filter: &RejectionFilter,
    dry_run: bool,
) -> anyhow::Result<Summary> {
    let store = stages.store();
    let publisher = Publisher::new(&stages.kafka("rejected"), &PublisherSettings::default())?;
    let mut summary = Summary {
        dry_run,
        ..Summary::default()
    };
    let progress = ProgressBar::new_spinner();
    let mut after = None;
    loop {
        let page = store.rejections(filter, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
        summary.found += page.len() as u64;
        let mut candidates = candidates(stages, page, &mut summary).await?;
        leave_accepted(&store, &mut candidates, &mut summary).await?;
        let records = candidates
            .iter()
            .map(|candidate| {
                Ok(Record {
                    // A record without a key stays where a second replay of it would be recognised.
                    partition: candidate.key.is_empty().then_some(candidate.partition),
                    key: candidate.key.clone(),
                    payload: stages.raw_codec().encode(&candidate.record)?,
                    timestamp_ms: None,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        if !dry_run {
            for outcome in publisher.publish(&stages.topics.raw, records).await {
                outcome.context(
                    "the broker did not take a replayed record; run the replay again when it is well",
                )?;
            }
        }
        summary.replayed += candidates.len() as u64;
        progress.set_message(format!("{} replayed", summary.replayed));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(summary)
}

/// Leaves the events that came by another way since. The fold sees to that too, but only as far back as
/// it remembers, and in the partition that it folds.
async fn leave_accepted(
    store: &Store,
    candidates: &mut Vec<Candidate>,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let mut ids: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for Candidate {
        event_id, record, ..
    } in &*candidates
    {
        let place = (record.tenant.clone(), record.source.clone());
        ids.entry(place).or_default().push(event_id.clone());
    }
    for ((tenant, source), ids) in ids {
        let accepted = store.accepted_ids(&tenant, &source, &ids).await?;
        candidates.retain(
            |Candidate {
                 event_id, record, ..
             }| {
                let leave = record.tenant == tenant
                    && record.source == source
                    && accepted.contains(event_id);
                if leave {
                    summary.leave("the event was accepted in the meantime");
                }
                !leave
            },
        );
    }
    Ok(())
}

/// Reads the raw records of `page`, and sorts out those that cannot be taken today either.
async fn candidates(
    stages: &Stages,
    page: Vec<RejectionRecord>,
    summary: &mut Summary,
) -> anyhow::Result<Vec<Candidate>> {
    let positions: BTreeSet<(i32, i64)> = page.iter().map(|r| (r.partition, r.offset)).collect();
    let (kafka, topic) = (stages.kafka("rejected"), stages.topics.raw.clone());
    let mut kept = tokio::task::spawn_blocking(move || raw_records(&kafka, &topic, &positions))
        .await
        .context("the thread that reads raw records ended")??;
    let mut candidates = Vec::new();
    for rejection in page {
        let Some(raw) = kept.remove(&(rejection.partition, rejection.offset)) else {
            summary.leave("the raw record is no longer kept");
            continue;
        };
        match read(&raw.payload, stages.raw_codec(), stages.catalog) {
            Reading::Mapped(record, _) | Reading::Rejected(record, _)
                if ![record.received_at, raw.timestamp_ms].contains(&rejection.received_at_ms)
                    && rejection.reason != OUTCOME_LOST =>
            {
                summary.leave("another record stands there now: chat.raw was made again");
            }
            Reading::Mapped(mut record, mapped) => {
                record.replay_of = Some(ReplayOf {
                    partition: rejection.partition,
                    offset: rejection.offset,
                });
                candidates.push(Candidate {
                    event_id: mapped.event_id,
                    key: raw.key,
                    partition: rejection.partition,
                    record,
                });
            }
            Reading::Rejected(record, _) if matches!(record.body, RawBody::Rejection(_)) => {
                summary
                    .leave("refused by the producer, so its content was not kept: send it again");
            }
            Reading::Rejected(_, why) | Reading::Undecodable(why) => {
                summary.leave(format!("still rejected: {}", why.reason.as_str()));
            }
        }
    }
    Ok(candidates)
}

/// A raw record as it stands in the log.
struct Kept {
    timestamp_ms: i64,
    key: Vec<u8>,
    payload: Vec<u8>,
}

/// How long the broker may take to hand out one span of records.
const READ: Duration = Duration::from_secs(60);
/// Offsets read in one go, at most: positions near each other cost one request.
const SPAN: i64 = 5_000;

/// The records at `positions` that the log still holds.
fn raw_records(
    kafka: &KafkaConfig,
    topic: &std::sync::Arc<str>,
    positions: &BTreeSet<(i32, i64)>,
) -> Result<HashMap<(i32, i64), Kept>, KafkaError> {
    let mut kept = HashMap::new();
    let mut rest = positions.iter().copied().peekable();
    let mut reader: Option<PartitionReader> = None;
    while let Some((partition, first)) = rest.next() {
        let mut end = first + 1;
        while let Some((_, offset)) =
            rest.next_if(|&(other, offset)| other == partition && offset < first + SPAN)
        {
            end = offset + 1;
        }
        let reader = match &mut reader {
            Some(open) if open.partition().partition == partition => open,
            other => other.insert(PartitionReader::new(
                kafka,
                TopicPartition::new(topic.clone(), partition),
            )?),
        };
        let ends = reader.watermarks()?;
        let range = first.max(ends.low)..end.min(ends.high);
        if range.is_empty() {
            continue;
        }
        for record in reader.read_range(range, READ)?.iter() {
            if positions.contains(&(partition, record.offset)) {
                let raw = Kept {
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.unwrap_or_default().to_vec(),
                    payload: record.payload.unwrap_or_default().to_vec(),
                };
                kept.insert((partition, record.offset), raw);
            }
        }
    }
    Ok(kept)
}

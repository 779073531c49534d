//! `chatpulse bench`: measures how much this pipeline carries on these machines.
//!
//! ```text
//! bench capacity ── starts ──► bench part broker, clickhouse (or those of the configuration)
//!        │           starts ──► bench part producer, enricher, sink: stages as processes of their own
//!        └─ crates/capacity ──► load, verdicts, search ──► report: text, JSON, HTML
//! ```

mod growth;
mod mix;
mod options;
mod part;
mod site;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use chatpulse_capacity::{
    Bench, Bytes, Demand, DrainReport, Found, Machine, Measured, Mix, PartCost, Plan, Report, Run,
    Sustainable, Verdict, confirmed, drain_of, html, project, summary,
};
use clap::{Args, Subcommand};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, output};
use growth::GrowthArgs;
use mix::RecordMixArgs;
use options::{CapacityArgs, StageName};
use part::PartArgs;
use site::Site;

/// `chatpulse bench`
#[derive(Debug, Args)]
#[command(
    about = "Measures how much this pipeline carries, and what an event costs",
    after_help = "Example:\n  chatpulse bench capacity --html capacity.html"
)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Capacity(Box<CapacityArgs>),
    RecordMix(RecordMixArgs),
    Growth(GrowthArgs),
    #[command(hide = true)]
    Part(PartArgs),
}

/// Records that are read to learn what a record takes in Kafka.
const WEIGHED: u64 = 200_000;

/// Events before the first run.
const PRIMED: u64 = 200;

/// Runs a benchmark until its end or `stop`; `file` is the configuration file that was given. False where
/// no rate was sustained, or the result is partial.
pub(crate) async fn run(
    config: Config,
    file: Option<PathBuf>,
    args: BenchArgs,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    match args.command {
        BenchCommand::Part(args) => part::run(config, args, stop).await,
        BenchCommand::RecordMix(args) => mix::run(config, args).await,
        BenchCommand::Growth(args) => growth::run(config, file.as_deref(), args, stop).await,
        BenchCommand::Capacity(args) => capacity(config, file.as_deref(), *args, stop).await,
    }
}

async fn capacity(
    config: Config,
    file: Option<&Path>,
    args: CapacityArgs,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let mut site = Site::prepare(config, file, &args)?;
    let report = measure(&mut site, &args, &stop).await;
    let removed = site.remove(report.is_ok()).await;
    let report = report?;
    removed?;
    if let Some(path) = &args.html {
        std::fs::write(path, html(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
        output::note(&format!(
            "the report with its plots is in {}",
            path.display()
        ));
    }
    output::result(&match args.json {
        true => serde_json::to_string_pretty(&report)?,
        false => summary(&report),
    });
    let has_result = report.drain.is_some()
        || (report.sustainable).is_some_and(|found| found.events_per_second.is_some());
    Ok(has_result && report.partial.is_none())
}

/// What ended a measurement before its end.
enum End {
    Done,
    Stopped(&'static str),
}

async fn measure(
    site: &mut Site,
    args: &CapacityArgs,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let started_at = jiff::Timestamp::now().to_string();
    let interrupted = End::Stopped("it was interrupted");
    let mut drain = None;
    let mix = args.mix()?.map(Arc::new);
    let started = tokio::select! {
        started = site.start() => started.map(|()| true)?,
        () = stop.cancelled() => false,
    };
    anyhow::ensure!(started, "interrupted before anything was measured");
    let mut bench = Bench::new(site.target(), plan(args, site.id(), mix), output::note)?;
    let end = tokio::select! {
        end = steps(site, &mut bench, (args, &mut drain)) => end?,
        () = stop.cancelled() => interrupted,
    };
    let mut notes = Vec::new();
    let bytes = match site.bytes(&bench, WEIGHED).await {
        Ok(bytes) => bytes,
        Err(error) => {
            notes.push(format!("bytes per event are not known: {error:#}"));
            Bytes::default()
        }
    };
    notes.extend(site.notes());
    let cost = cost(&bench, drain.as_ref());
    let sustainable = bench.found.map(|found| sustainable(found, &bench));
    let rate = sustainable.and_then(|found| found.events_per_second);
    let rate = rate.or(drain.as_ref().map(|drain| drain.events_per_second));
    let projection = args.project.zip(rate).map(|(wanted, rate)| {
        let demand = Demand {
            events_per_second: wanted,
            retention_seconds: args.retention.as_secs_f64(),
            kafka_copies: site.copies(),
        };
        project(demand, &measured(rate, &cost, &bytes))
    });
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").into(),
        started_at,
        partial: match end {
            End::Done => None,
            End::Stopped(why) => Some(why.into()),
        },
        measured: args
            .stage
            .map_or("whole pipeline", StageName::name)
            .to_owned(),
        machine: Machine::this(),
        engines: site.engines(),
        load: args.load_report(site.partitions()),
        rule: args.rule(),
        sustainable,
        drain,
        levels: bench.levels,
        cost,
        bytes,
        projection,
        runs: bench.runs,
        notes,
    })
}

/// What is measured, step by step; what was measured stays in `bench` and `drain` when this is dropped.
async fn steps(
    site: &mut Site,
    bench: &mut Bench,
    (args, drain): (&CapacityArgs, &mut Option<DrainReport>),
) -> anyhow::Result<End> {
    if let Some(stage @ (StageName::Enricher | StageName::Sink)) = args.stage {
        output::note(&format!("filling the topics with {} events", args.events));
        let total = bench.fill(args.events).await?;
        *drain = Some(drained(site, (stage, total)).await?);
        return Ok(End::Done);
    }
    bench.prime(PRIMED).await?;
    let deadline = Instant::now() + args.max_time;
    let rate = match args.rate {
        Some(rate) => {
            let run = bench.run(rate).await?;
            bench.found = Some(single(rate, &run.verdict));
            bench.runs.push(run);
            bench.found.and_then(|found| found.rate)
        }
        None => {
            let precision = f64::from(args.precision) / 100.0;
            bench.search(args.start, precision, deadline).await?.rate
        }
    };
    if let Some(rate) = rate {
        bench.measure_levels(rate, args.levels()).await?;
    }
    Ok(match Instant::now() < deadline || args.rate.is_some() {
        true => End::Done,
        false => End::Stopped("--max-time came before the rate was known to --precision"),
    })
}

/// Fills what the stage reads, and watches it drain.
async fn drained(site: &mut Site, (stage, total): (StageName, u64)) -> anyhow::Result<DrainReport> {
    const ENRICHED: &str = "chatpulse_enricher_outcomes_total";
    const STORED: &str = "chatpulse_sink_stored_total";
    site.end("producer").await?;
    let enricher = site.start_stage("enricher").await?;
    let parts = site.parts();
    let store = site.store_address();
    output::note("the enricher drains chat.raw");
    let enriched = drain_of((&enricher, ENRICHED), total, &parts, store.clone()).await?;
    if stage == StageName::Enricher {
        return Ok(enriched);
    }
    site.end("enricher").await?;
    let sink = site.start_stage("sink").await?;
    output::note("the sink drains chat.events");
    Ok(drain_of((&sink, STORED), total, &site.parts(), store).await?)
}

fn plan(args: &CapacityArgs, id: &str, mix: Option<Arc<Mix>>) -> Plan {
    Plan {
        warm_up: args.warm_up,
        duration: args.run,
        arrivals: args.arrivals.into(),
        batch: args.batch.get(),
        connections: args.connections.get(),
        markers_per_second: options::MARKERS_PER_SECOND,
        poll: args.poll,
        seed: args.seed,
        run_id: format!("b{id}"),
        rule: args.rule(),
        mix,
    }
}

/// The result of a run at one rate alone.
fn single(rate: f64, verdict: &Verdict) -> Found {
    let mut search = chatpulse_capacity::Search::new(rate, 1.0);
    search.record(verdict);
    if matches!(verdict, Verdict::Void(_)) {
        search.record(verdict);
    }
    search.found()
}

fn sustainable(found: Found, bench: &Bench) -> Sustainable {
    Sustainable {
        events_per_second: found.rate,
        not_sustained: found.above,
        ceiling: found.ceiling,
        confirmed: confirmed(bench.levels.iter().map(|level| &level.run.verdict)),
    }
}

/// What each part used at the highest sustained rate, or while a stage drained.
fn cost(bench: &Bench, drain: Option<&DrainReport>) -> Vec<PartCost> {
    let sustained = |run: &&Run| run.verdict == Verdict::Sustained;
    let highest = bench
        .runs
        .iter()
        .filter(sustained)
        .max_by(|a, b| a.offered.total_cmp(&b.offered));
    match (drain, highest) {
        (Some(drain), _) => drain.cost.clone(),
        (None, Some(run)) => run.cost.clone(),
        (None, None) => Vec::new(),
    }
}

fn measured(rate: f64, cost: &[PartCost], bytes: &Bytes) -> Measured {
    let of = |part: &PartCost| {
        let cpu = part.events_per_cpu_second.map(|events| 1.0 / events);
        (part.part.clone(), cpu)
    };
    Measured {
        events_per_second: rate,
        // What sends the load is no part of an installation.
        cpu_seconds: cost
            .iter()
            .filter(|part| part.part != site::GENERATOR)
            .map(of)
            .collect(),
        kafka_bytes: bytes
            .kafka_raw
            .zip(bytes.kafka_events)
            .map(|(raw, events)| raw + events),
        clickhouse_bytes: bytes.clickhouse,
    }
}

/// How long a child may take to end by itself.
const END: Duration = Duration::from_secs(40);

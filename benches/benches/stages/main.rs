//! Each stage on real Apache Kafka and the embedded ClickHouse, beside its ceiling in the same run.
//!
//! ```text
//!            ours                                          ceiling
//! producer   sender ─► producer ─► chat.raw                sender ─► hyper that reads the body and answers
//! enricher   chat.raw ─► enricher ─► chat.events           chat.raw ─► librdkafka's loop ─► the same outcomes
//! sink       chat.events ─► sink ─► ClickHouse             the sink's own requests, encoded before, posted again
//! pipeline   sender ─► producer ─► enricher ─► sink ─► ClickHouse: what each costs
//! ```
//!
//! `cargo bench -p chatpulse-benches --bench stages [-- STAGE…] [--events N] [--rounds N]
//! [--compression CODEC]`. Every part is a
//! process of its own, started anew for each round; the rounds of ours and of the ceiling alternate, and what is
//! shown are medians. CPU time is the process's own (`/proc`), of broker and store as well. Without `--bench`, as
//! in tests, one small round of everything.
//!
//! Needs what `deploy/kafka` needs: Java and, at first, Maven.

mod load;
mod machine;
mod roles;

use std::{collections::BTreeMap, io::Write as _};

use anyhow::{Context as _, Result, ensure};
use chatpulse_kafka::Topics;
use chatpulse_store::{Store, StoreConfig};
use machine::{Ground, Measured, Pids, StoreProcess};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much is measured.
#[derive(Debug, Clone)]
struct Extent {
    /// Events in a round.
    events: u64,
    rounds: usize,
    stages: Vec<String>,
    /// Of what goes to the broker, as librdkafka calls it.
    compression: String,
}

const STAGES: [&str; 4] = ["producer", "enricher", "sink", "pipeline"];

impl Extent {
    fn of_arguments() -> Result<Self> {
        let mut extent = Self {
            events: 8_000,
            rounds: 1,
            stages: Vec::new(),
            compression: "none".to_owned(),
        };
        let mut arguments = std::env::args().skip(1).peekable();
        if std::env::args().any(|argument| argument == "--bench") {
            (extent.events, extent.rounds) = (400_000, 3);
        }
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<u64> {
                let text = arguments.next().context("a number is missing")?;
                Ok(text.parse()?)
            };
            match argument.as_str() {
                "--events" => extent.events = number()?,
                "--rounds" => extent.rounds = number()? as usize,
                "--compression" => {
                    extent.compression = arguments.next().context("a codec is missing")?;
                }
                stage if STAGES.contains(&stage) => extent.stages.push(argument),
                // Of cargo.
                _ => {}
            }
        }
        Ok(extent)
    }

    fn has(&self, stage: &str) -> bool {
        self.stages.is_empty() || self.stages.iter().any(|wanted| wanted == stage)
    }
}

fn main() -> Result<()> {
    // The HTTP client wants one, though it speaks to loopback alone. An error says that there is one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some((role, parameters)) = roles::of_arguments() {
        return roles::play(&role, &parameters);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(bench(Extent::of_arguments()?))
}

async fn bench(extent: Extent) -> Result<()> {
    let ground = Ground::start(&extent.compression).await?;
    let store = ground.store().await?;
    say(&format!(
        "{} events, {} rounds of each, Kafka compression {}",
        extent.events, extent.rounds, extent.compression
    ))?;
    if extent.has("producer") {
        producer(&ground, &extent).await?;
    }
    if extent.has("enricher") || extent.has("sink") {
        let topics = Topics::with_prefix("fill.");
        ground.make(&topics).await?;
        load::fill(&ground, &topics, extent.events).await?;
        let checked = enrich(&ground, &topics, extent.events).await?;
        ensure!(
            checked.records == extent.events,
            "every raw record has an outcome"
        );
        if extent.has("enricher") {
            enricher(&ground, &topics, &extent).await?;
        }
        if extent.has("sink") {
            sink((&ground, &store), &topics, &extent).await?;
        }
    }
    if extent.has("pipeline") {
        pipeline((&ground, &store), &extent).await?;
    }
    Ok(())
}

/// Requests of one event, and of fifty.
async fn producer(ground: &Ground, extent: &Extent) -> Result<()> {
    for (batch, events, connections) in [(1, extent.events / 4, 512), (50, extent.events, 128)] {
        let mut ours = Vec::new();
        let mut ceiling = Vec::new();
        for round in 0..extent.rounds {
            let topics = Topics::with_prefix(&format!("http{batch}.{round}."));
            ground.make(&topics).await?;
            let parameters = ground
                .parameters()
                .with("topic", &topics.raw)
                .with("tenants", load::tenants_file(ground)?);
            for (role, results) in [("produce", &mut ours), ("hyper", &mut ceiling)] {
                let mut server = ground.start_role(role, &parameters, 1).await?;
                let port = server.line().await?;
                let pids = ground.pids().with("server", server.pid());
                let sender = parameters
                    .with("port", port)
                    .with("batch", batch)
                    .with("events", events)
                    .with("connections", connections);
                results.push(ground.measure("send", &sender, &pids).await?);
            }
        }
        let title = format!("producer, {batch} event(s) per request, one core for HTTP");
        compare(
            &title,
            ("producer", &ours),
            ("bare hyper", &ceiling),
            &["server", "broker", "self"],
        )?;
    }
    Ok(())
}

/// One run of the enricher over `raw`, into topics of its own.
async fn enrich_into(
    ground: &Ground,
    raw: &Topics,
    into: &Topics,
    events: u64,
) -> Result<Measured> {
    let parameters = ground
        .parameters()
        .with("raw", &raw.raw)
        .with("prefix", into.events.trim_end_matches("chat.events"))
        .with("events", events);
    ground.measure("enrich", &parameters, &ground.pids()).await
}

async fn enrich(ground: &Ground, topics: &Topics, events: u64) -> Result<Measured> {
    enrich_into(ground, topics, topics, events).await
}

async fn enricher(ground: &Ground, filled: &Topics, extent: &Extent) -> Result<()> {
    let mut ours = Vec::new();
    let mut ceiling = Vec::new();
    for round in 0..extent.rounds {
        let topics = Topics::with_prefix(&format!("enrich.{round}."));
        ground.make(&topics).await?;
        ours.push(enrich_into(ground, filled, &topics, extent.events).await?);
        let topics = Topics::with_prefix(&format!("relay.{round}."));
        ground.make(&topics).await?;
        let parameters = ground
            .parameters()
            .with("raw", &filled.raw)
            .with("outcomes", &filled.events)
            .with("into", &topics.events)
            .with("events", extent.events);
        ceiling.push(ground.measure("relay", &parameters, &ground.pids()).await?);
    }
    compare(
        "enricher",
        ("enricher", &ours),
        ("librdkafka's loop", &ceiling),
        &["self", "broker"],
    )
}

async fn sink(
    (ground, store): (&Ground, &StoreProcess),
    filled: &Topics,
    extent: &Extent,
) -> Result<()> {
    let mut ours = Vec::new();
    let mut ceiling = Vec::new();
    let mut reading = Vec::new();
    let prefix = filled.events.trim_end_matches("chat.events");
    let parameters = ground
        .parameters()
        .with("prefix", prefix)
        .with("events", extent.events);
    let pids = ground.pids().with("store", store.pid());
    // Not measured: what is posted is written down here.
    let recorder = machine::Recorder::start(store.url()).await?;
    let database = fresh(store.url(), "recorded").await?;
    let recorded = parameters
        .with("url", recorder.url())
        .with("database", database)
        .with("group", "recorded");
    ground.measure("sink", &recorded, &pids).await?;
    let requests = recorder.save(&ground.path("requests"))?;
    for round in 0..extent.rounds {
        let database = fresh(store.url(), &format!("ours{round}")).await?;
        let run = parameters
            .with("url", store.url())
            .with("database", &database)
            .with("group", &database);
        ours.push(ground.measure("sink", &run, &pids).await?);
        machine::query(store.url(), &format!("DROP DATABASE {database} SYNC")).await?;
        let database = fresh(store.url(), &format!("bare{round}")).await?;
        let run = run
            .with("database", &database)
            .with("requests", requests.display());
        ceiling.push(ground.measure("insert", &run, &pids).await?);
        machine::query(store.url(), &format!("DROP DATABASE {database} SYNC")).await?;
        let topic = parameters.with("topic", &filled.events);
        reading.push(ground.measure("consume", &topic, &pids).await?);
    }
    compare(
        "sink",
        ("sink", &ours),
        ("its blocks, posted again", &ceiling),
        &["self", "broker", "store"],
    )?;
    compare(
        "sink, reading alone",
        ("sink", &ours),
        ("librdkafka's loop", &reading),
        &["self", "broker"],
    )
}

/// An empty database with all tables and views.
async fn fresh(url: &str, name: &str) -> Result<String> {
    let store = Store::new(&StoreConfig {
        url: url.to_owned(),
        database: name.to_owned(),
        ..StoreConfig::default()
    });
    store.migrate().await?;
    store
        .sync_sources(chatpulse_model::source::Catalog::builtin().iter())
        .await?;
    Ok(name.to_owned())
}

/// All stages at once, from the first request to the last row.
async fn pipeline((ground, store): (&Ground, &StoreProcess), extent: &Extent) -> Result<()> {
    let mut rounds = Vec::new();
    for round in 0..extent.rounds {
        let prefix = format!("all{round}.");
        let topics = Topics::with_prefix(&prefix);
        ground.make(&topics).await?;
        let database = fresh(store.url(), &format!("all{round}")).await?;
        let parameters = ground
            .parameters()
            .with("prefix", &prefix)
            .with("raw", &topics.raw)
            .with("topic", &topics.raw)
            .with("tenants", load::tenants_file(ground)?)
            .with("url", store.url())
            .with("database", &database)
            .with("group", &database)
            .with("events", extent.events)
            .with("batch", 50)
            .with("connections", 128);
        let mut producer = ground.start_role("produce", &parameters, 0).await?;
        let mut enricher = ground.start_role("enrich", &parameters, 0).await?;
        let mut sink = ground.start_role("sink", &parameters, 0).await?;
        let sender = parameters.with("port", producer.line().await?);
        let mut sender = ground.start_role("send", &sender, 0).await?;
        enricher.go(&Pids::default()).await?;
        sink.go(&Pids::default()).await?;
        let pids = ground
            .pids()
            .with("store", store.pid())
            .with("producer", producer.pid())
            .with("enricher", enricher.pid())
            .with("sink", sink.pid())
            .with("sender", sender.pid());
        let begin = machine::Mark::now(&pids)?;
        sender.go(&Pids::default()).await?;
        let sent: Measured = sender.report().await?;
        let sent_after = begin.until_now(sent.records)?;
        let stored: Measured = sink.report().await?;
        // The sink's own window begins with its first rows.
        rounds.push((sent_after, begin.until_now(extent.events)?, stored));
        drop((producer, enricher, sink));
        machine::query(store.url(), &format!("DROP DATABASE {database} SYNC")).await?;
    }
    let all: Vec<Measured> = rounds.iter().map(|(_, all, _)| all.clone()).collect();
    let sent: Vec<Measured> = rounds.iter().map(|(sent, ..)| sent.clone()).collect();
    say("\n## whole pipeline, 50 events per request\n")?;
    say(&format!(
        "acknowledged {:.0} events/s, stored {:.0} events/s (median of {})",
        machine::median(sent.iter().map(Measured::rate)),
        machine::median(all.iter().map(Measured::rate)),
        all.len(),
    ))?;
    for who in ["producer", "enricher", "sink", "broker", "store", "sender"] {
        let cost = machine::median(all.iter().map(|round| round.micros(who)));
        say(&format!("{who:<10}{cost:>8.2} µs of CPU per event"))?;
    }
    Ok(())
}

type Side<'a> = (&'a str, &'a [Measured]);

/// Medians of both, and what ours is of the ceiling.
fn compare(title: &str, ours: Side<'_>, ceiling: Side<'_>, who: &[&str]) -> Result<()> {
    say(&format!("\n## {title}\n"))?;
    let mut head = "| | events/s |".to_owned();
    for name in who {
        head += &format!(" {name}, µs CPU per event |");
    }
    say(&head)?;
    say(&format!("|---|{}", "---:|".repeat(who.len() + 1)))?;
    let rate = |rounds: &[Measured]| machine::median(rounds.iter().map(Measured::rate));
    let micros =
        |rounds: &[Measured], name| machine::median(rounds.iter().map(|round| round.micros(name)));
    for (name, rounds) in [ours, ceiling] {
        let mut row = format!("| {name} | {:.0} |", rate(rounds));
        for name in who {
            row += &format!(" {:.2} |", micros(rounds, name));
        }
        say(&row)?;
    }
    let ratios: Vec<String> = ours
        .1
        .iter()
        .zip(ceiling.1)
        .map(|(ours, ceiling)| format!("{:.2}", ours.rate() / ceiling.rate()))
        .collect();
    let pairs = ours.1.iter().zip(ceiling.1);
    let ratio = machine::median(pairs.map(|(ours, ceiling)| ours.rate() / ceiling.rate()));
    say(&format!(
        "\nthroughput, ours / ceiling: {ratio:.2} (rounds: {})",
        ratios.join(", ")
    ))?;
    let names: BTreeMap<_, _> = who
        .iter()
        .map(|name| (name, (micros(ours.1, name), micros(ceiling.1, name))))
        .collect();
    for (name, (ours, ceiling)) in names {
        if ceiling > 0.0 {
            say(&format!(
                "CPU of {name}, ceiling / ours: {:.2}",
                ceiling / ours
            ))?;
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

//! `chatpulse bench growth`: how the cost of an event grows with what is kept beside it.
//!
//! ```text
//! item ─ admit, encode ─► record            producer, timed
//! record ─ read, apply, encode ─► outcome   enricher, timed, on a state of a given size
//! --pipeline: bench capacity at one rate, with ever more partitions, and ever larger requests
//! ```
//!
//! CPU time, not the clock on the wall. The state grows in one process from the smallest size to the largest; memory is
//! what the process holds more than before.

use std::{
    fmt::Write as _,
    hint::black_box,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::Path,
};

use anyhow::{Context as _, ensure};
use chatpulse_capacity::{Bench, Run, Verdict};
use chatpulse_model::{
    Event, RawEvent,
    avro::{Codec, Framing},
    fold::{Horizon, PartitionFold, Position, Reading, read},
    source::{Catalog, Definition, Pseudonyms, Receipt},
};
use chatpulse_producer::{
    Tenants,
    tenants::{TenantsFile, new_tenant},
};
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    PRIMED,
    options::{self, CapacityArgs},
    plan,
    site::{GENERATOR, Site},
};
use crate::{config::Config, output};

/// `chatpulse bench growth`
#[derive(Debug, Args)]
#[command(
    about = "Measures how the cost of an event grows with tenants, open conversations and its size",
    after_help = "Examples:
  chatpulse bench growth --conversations 10000000 > growth.md
  chatpulse bench growth --pipeline --rate 2000/s --partitions 1,4,16 --batches 1,50"
)]
pub(super) struct GrowthArgs {
    /// Most open conversations; ten million take about 2 GB.
    #[arg(long, default_value = "1000000")]
    conversations: NonZeroU64,
    /// Most tenants.
    #[arg(long, default_value = "100000")]
    tenants: NonZeroUsize,
    /// Measures the whole pipeline too, on the embedded engines, with each of --partitions and of --batches: half a minute
    /// for each.
    #[arg(long)]
    pipeline: bool,
    /// Load of the pipeline; events per second. The same for all, as what an idle pipeline costs is in every figure.
    #[arg(long, value_name = "RATE", default_value = "2000/s", value_parser = options::rate)]
    rate: f64,
    /// Partitions of each topic.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    partitions: Vec<NonZeroU32>,
    /// Most events in a request.
    #[arg(long, value_delimiter = ',', default_value = "1,10,50,200")]
    batches: Vec<NonZeroU32>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Events for which a cost is measured at a time.
const MEASURED: u64 = 100_000;
/// Records that are made before they are timed: few, so that their memory is not counted.
const PORTION: u64 = 1_000;
/// Beginning of all times.
const NOW_MS: i64 = 1_795_000_000_000;
const SOURCE: &str = "watermelon";
/// Largest item that is tried: what a producer takes by default.
const MAX_ITEM_BYTES: usize = 64 * 1024;

#[derive(Debug, Serialize)]
struct Growth {
    conversations: Vec<OfConversations>,
    tenants: Vec<OfTenants>,
    sizes: Vec<OfSize>,
    /// Of the whole pipeline; empty without --pipeline.
    partitions: Vec<OfPipeline>,
    /// Likewise.
    batches: Vec<OfPipeline>,
}

#[derive(Debug, Serialize)]
struct OfConversations {
    open: u64,
    event_ids: u64,
    /// Of an event of a new conversation, in the mean since the size before; µs of CPU.
    opening_us: f64,
    /// Of an event of any of them; µs of CPU.
    event_us: f64,
    /// Memory for each open conversation, which had one event; bytes. None where the system does not tell, or the
    /// process did not grow.
    bytes_per_conversation: Option<f64>,
}

#[derive(Debug, Serialize)]
struct OfTenants {
    tenants: usize,
    /// Finding the tenant of a write key; µs of CPU.
    authenticate_us: f64,
    /// Enricher: read, fold, encode; µs of CPU.
    enrich_us: f64,
    /// Reading the tenants file when it changed; ms of CPU.
    load_ms: f64,
}

#[derive(Debug, Serialize)]
struct OfSize {
    /// Bytes of the item.
    bytes: usize,
    /// Producer: parse, redact, encode; µs of CPU.
    produce_us: f64,
    /// Enricher: read, fold, encode; µs of CPU.
    enrich_us: f64,
}

#[derive(Debug, Serialize)]
struct OfPipeline {
    /// Partitions, or events in a request.
    value: u32,
    /// Whether the load was sustained.
    sustained: bool,
    /// CPU of each part; µs per event. None where it was too little to tell.
    cpu_us: Vec<(String, Option<f64>)>,
    /// p99 send → queryable.
    queryable_p99_ms: Option<f64>,
}

/// Measures and prints; `file` is the configuration file that was given.
pub(super) async fn run(
    config: Config,
    file: Option<&Path>,
    args: GrowthArgs,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let (tenants, conversations) = (args.tenants.get(), args.conversations.get());
    let measured = tokio::task::spawn_blocking(move || -> anyhow::Result<Growth> {
        let core = Core::new()?;
        Ok(Growth {
            sizes: core.sizes()?,
            tenants: core.tenants(tenants)?,
            conversations: core.conversations(conversations)?,
            partitions: Vec::new(),
            batches: Vec::new(),
        })
    });
    let mut growth = measured.await??;
    if args.pipeline {
        for (option, values, rows) in [
            ("--partitions", &args.partitions, &mut growth.partitions),
            ("--batch", &args.batches, &mut growth.batches),
        ] {
            for &value in values {
                let load = ((option, value), args.rate);
                rows.push(pipeline(config.clone(), file, load, &stop).await?);
            }
        }
    }
    output::result(&match args.json {
        true => serde_json::to_string_pretty(&growth)?,
        false => markdown(&growth),
    });
    Ok(true)
}

/// A pipeline of its own with this option of `bench capacity`, at one rate.
async fn pipeline(
    config: Config,
    file: Option<&Path>,
    ((option, value), rate): ((&str, NonZeroU32), f64),
    stop: &CancellationToken,
) -> anyhow::Result<OfPipeline> {
    output::note(&format!("bench capacity {option} {value} --rate {rate}"));
    let args = CapacityArgs::of([option, &value.to_string()])?;
    let mut site = Site::prepare(config, file, &args)?;
    let run = tokio::select! {
        run = one_run(&mut site, &args, rate) => run,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    let removed = site.remove(run.is_ok()).await;
    let run = run?;
    removed?;
    let cost = run.cost.iter().filter(|part| part.part != GENERATOR);
    Ok(OfPipeline {
        value: value.get(),
        sustained: run.verdict == Verdict::Sustained,
        cpu_us: cost
            .map(|part| {
                (
                    part.part.clone(),
                    part.events_per_cpu_second.map(|events| 1e6 / events),
                )
            })
            .collect(),
        queryable_p99_ms: run.send_to_queryable.and_then(|latency| latency.p99_ms),
    })
}

async fn one_run(site: &mut Site, args: &CapacityArgs, rate: f64) -> anyhow::Result<Run> {
    site.start().await?;
    let mut bench = Bench::new(site.target(), plan(args, site.id(), None), output::note)?;
    bench.prime(PRIMED).await?;
    Ok(bench.run(rate).await?)
}

/// The pure parts of producer and enricher.
struct Core {
    catalog: &'static Catalog,
    definition: &'static Definition,
    pseudonyms: Pseudonyms,
    raw: Codec<RawEvent>,
    events: Codec<Event>,
}

/// What an event is of.
#[derive(Clone, Copy)]
struct Subject {
    tenant: u64,
    conversation: u64,
    event: u64,
    /// Characters of its text.
    text: usize,
}

impl Core {
    fn new() -> anyhow::Result<Self> {
        let catalog = Catalog::builtin();
        Ok(Self {
            catalog,
            definition: catalog.get(SOURCE).context("a built-in source")?,
            pseudonyms: Pseudonyms::new(&[7; 32])?,
            raw: Codec::new(Framing::SingleObject)?,
            events: Codec::new(Framing::SingleObject)?,
        })
    }

    fn item(subject: Subject) -> String {
        let Subject {
            conversation,
            event,
            text,
            ..
        } = subject;
        let words: String = "lorem ipsum dolor ".chars().cycle().take(text).collect();
        format!(
            r#"{{"native":{{"event":"widget_message_sent","widget_platform":"web","widget_conversation_id":"c{conversation}","timestamp":{NOW_MS},"total_messages":1,"link_text":"{words}"}},"context":{{"event_id":"e{event}","session_id":"s{conversation}","sequence":1}}}}"#
        )
    }

    fn record(&self, tenant: &str, item: &str) -> anyhow::Result<Vec<u8>> {
        let receipt = Receipt {
            tenant,
            write_key_id: "web",
            received_at: NOW_MS,
            pseudonyms: &self.pseudonyms,
            max_item_bytes: MAX_ITEM_BYTES,
        };
        let admitted = self.definition.admit(item.as_bytes(), &receipt);
        Ok(self.raw.encode(&admitted.record)?)
    }

    /// Folds `count` events into a state; gives µs of CPU for each.
    fn enrich(
        &self,
        fold: &mut PartitionFold,
        count: u64,
        mut subject: impl FnMut(u64) -> Subject,
    ) -> anyhow::Result<f64> {
        let mut used = 0.0;
        let mut offset = fold.event_ids() as i64;
        let mut done = 0;
        while done < count {
            let portion = PORTION.min(count - done);
            let records = (done..done + portion).map(|number| {
                let subject = subject(number);
                self.record(&format!("t{}", subject.tenant), &Self::item(subject))
            });
            let records: Vec<Vec<u8>> = records.collect::<Result<_, _>>()?;
            let before = cpu_us()?;
            for record in &records {
                let reading = read(record, &self.raw, self.catalog);
                debug_assert!(matches!(reading, Reading::Mapped(..)));
                let position = Position {
                    offset,
                    timestamp_ms: NOW_MS,
                };
                offset += 1;
                black_box(self.events.encode(&fold.apply(position, reading))?);
            }
            used += cpu_us()? - before;
            done += portion;
        }
        Ok(used / count as f64)
    }

    fn conversations(&self, most: u64) -> anyhow::Result<Vec<OfConversations>> {
        let mut fold = PartitionFold::new(0, Horizon::default());
        let mut found = Vec::new();
        // Once through, so that what is made once is not counted.
        self.enrich(
            &mut PartitionFold::new(1, Horizon::default()),
            PORTION,
            |n| subject(n, n),
        )?;
        let mut held = resident_bytes();
        let (mut open, mut events) = (0, 0);
        for size in powers(1_000, most) {
            output::note(&format!("{size} open conversations"));
            let opening_us =
                self.enrich(&mut fold, size - open, |n| subject(open + n, events + n))?;
            events += size - open;
            let grown = resident_bytes().zip(held).map(|(now, before)| now - before);
            // Memory that was there before and free may have been enough.
            let grown = grown.filter(|grown| *grown > 0.0);
            let bytes_per_conversation = grown.map(|grown| grown / (size - open) as f64);
            open = size;
            // Far apart in memory: a step that has no divisor in common with a power of ten.
            let measured = MEASURED.min(size);
            let event_us = self.enrich(&mut fold, measured, |n| {
                subject(n.wrapping_mul(7_919_333) % size, events + n)
            })?;
            events += measured;
            ensure!(
                fold.conversations() as u64 == size,
                "conversations were lost"
            );
            held = resident_bytes();
            found.push(OfConversations {
                open: size,
                event_ids: fold.event_ids() as u64,
                opening_us,
                event_us,
                bytes_per_conversation,
            });
        }
        Ok(found)
    }

    fn tenants(&self, most: usize) -> anyhow::Result<Vec<OfTenants>> {
        let folder = std::env::temp_dir().join(format!("chatpulse-growth-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let measured = powers(10, most as u64).map(|size| self.of_tenants(size as usize, &folder));
        let measured = measured.collect();
        std::fs::remove_dir_all(&folder)?;
        measured
    }

    fn of_tenants(&self, size: usize, folder: &Path) -> anyhow::Result<OfTenants> {
        output::note(&format!("{size} tenants"));
        let mut file = TenantsFile { tenant: Vec::new() };
        let mut keys = Vec::with_capacity(size);
        for number in 0..size {
            let (entry, key) = new_tenant(&format!("t{number}"))?;
            file.tenant.push(entry);
            keys.push(key.expose().to_owned());
        }
        let path = folder.join("tenants.toml");
        std::fs::write(&path, toml::to_string(&file)?)?;
        drop(file);
        let before = cpu_us()?;
        let tenants = Tenants::load(&path)?;
        let load_ms = (cpu_us()? - before) / 1e3;
        let snapshot = tenants.snapshot();
        let before = cpu_us()?;
        for number in 0..MEASURED {
            let key = &keys[(number.wrapping_mul(7_919_333) % size as u64) as usize];
            let grant = snapshot.authenticate(key);
            ensure!(grant.is_ok(), "a write key is not known");
            black_box(grant.ok());
        }
        let authenticate_us = (cpu_us()? - before) / MEASURED as f64;
        let mut fold = PartitionFold::new(0, Horizon::default());
        let enrich_us = self.enrich(&mut fold, MEASURED, |n| Subject {
            tenant: n % size as u64,
            ..subject(n % 10_000, n)
        })?;
        Ok(OfTenants {
            tenants: size,
            authenticate_us,
            enrich_us,
            load_ms,
        })
    }

    fn sizes(&self) -> anyhow::Result<Vec<OfSize>> {
        let mut found = Vec::new();
        for text in [0, 1_000, 4_000, 16_000, 60_000] {
            let count = 20_000;
            let subject = |n| Subject {
                text,
                ..subject(n % 1_000, n)
            };
            let items: Vec<String> = (0..PORTION).map(|n| Self::item(subject(n))).collect();
            let bytes = items.iter().map(String::len).sum::<usize>() / items.len();
            let before = cpu_us()?;
            for number in 0..count {
                let item = &items[(number % PORTION) as usize];
                black_box(self.record("t0", item)?);
            }
            let used = cpu_us()? - before;
            let mut fold = PartitionFold::new(0, Horizon::default());
            found.push(OfSize {
                bytes,
                produce_us: used / count as f64,
                enrich_us: self.enrich(&mut fold, count, subject)?,
            });
        }
        Ok(found)
    }
}

fn subject(conversation: u64, event: u64) -> Subject {
    Subject {
        tenant: 0,
        conversation,
        event,
        text: 20,
    }
}

/// `first`, ten times that and so on, and `last`.
fn powers(first: u64, last: u64) -> impl Iterator<Item = u64> {
    let tens = std::iter::successors(Some(first), |size| size.checked_mul(10));
    tens.take_while(move |size| *size < last).chain([last])
}

/// CPU time of this thread, µs; on Linux only.
fn cpu_us() -> anyhow::Result<f64> {
    let file = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("CPU time cannot be told: {file}"))?;
    let nanos = text.split_ascii_whitespace().next();
    let nanos: f64 = nanos.context("no CPU time")?.parse()?;
    Ok(nanos / 1e3)
}

/// Memory that this process holds now; bytes.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1_024.0)
}

fn markdown(growth: &Growth) -> String {
    let mut text = String::from(
        "| open conversations | event ids | opening one, µs | an event of one, µs | bytes each |\n|---:|---:|---:|---:|---:|\n",
    );
    for row in &growth.conversations {
        let bytes = row
            .bytes_per_conversation
            .map_or_else(|| "n/a".into(), |bytes| format!("{bytes:.0}"));
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {bytes} |",
            row.open, row.event_ids, row.opening_us, row.event_us
        );
    }
    text.push_str(
        "\n| tenants | write key found, µs | enriched, µs | tenants file read, ms |\n|---:|---:|---:|---:|\n",
    );
    for row in &growth.tenants {
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.1} |",
            row.tenants, row.authenticate_us, row.enrich_us, row.load_ms
        );
    }
    text.push_str(
        "\n| bytes of an item | produced, µs | µs per KB | enriched, µs | µs per KB |\n|---:|---:|---:|---:|---:|\n",
    );
    for row in &growth.sizes {
        let per_kb = |us: f64| us / row.bytes as f64 * 1e3;
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            row.bytes,
            row.produce_us,
            per_kb(row.produce_us),
            row.enrich_us,
            per_kb(row.enrich_us)
        );
    }
    of_pipelines(&mut text, "partitions", &growth.partitions);
    of_pipelines(&mut text, "events in a request", &growth.batches);
    text
}

fn of_pipelines(text: &mut String, what: &str, rows: &[OfPipeline]) {
    let Some(first) = rows.first() else { return };
    let parts: String = (first.cpu_us.iter())
        .map(|(part, _)| format!(" {part}, µs |"))
        .collect();
    let _ = writeln!(
        text,
        "\n| {what} |{parts} all, µs | send → queryable, p99 |\n|---:|{}---:|---:|",
        "---:|".repeat(first.cpu_us.len())
    );
    let or_not = |figure: Option<String>| figure.unwrap_or_else(|| "n/a".into());
    for row in rows {
        let costs: String = (row.cpu_us.iter())
            .map(|(_, us)| format!(" {} |", or_not(us.map(|us| format!("{us:.1}")))))
            .collect();
        let all: Option<f64> = row.cpu_us.iter().map(|(_, us)| *us).sum();
        let _ = writeln!(
            text,
            "| {}{} |{costs} {} | {} |",
            row.value,
            if row.sustained {
                ""
            } else {
                " (not sustained)"
            },
            or_not(all.map(|us| format!("{us:.1}"))),
            or_not(row.queryable_p99_ms.map(|ms| format!("{:.1} s", ms / 1e3))),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_growth_has_a_row_for_every_size_and_a_cost_in_each() {
        let core = Core::new().unwrap();
        let rows = core.conversations(3_000).unwrap();
        let open: Vec<u64> = rows.iter().map(|row| row.open).collect();
        assert_eq!(open, [1_000, 3_000]);
        assert!(
            rows.iter()
                .all(|row| row.opening_us > 0.0 && row.event_us > 0.0)
        );
        assert_eq!(rows[1].event_ids, 3_000 + 1_000 + 3_000);
    }

    #[test]
    fn sizes_grow_tenfold_and_end_with_the_last() {
        let of = |first, last| powers(first, last).collect::<Vec<_>>();
        assert_eq!(of(10, 1_000), [10, 100, 1_000]);
        assert_eq!(of(10, 250), [10, 100, 250]);
        assert_eq!(of(10, 5), [5]);
    }
}

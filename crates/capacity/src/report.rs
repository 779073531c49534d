//! What a benchmark found, as data. What is not known is null, never 0.

use std::fs::read_to_string;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    projection::Projection,
    schedule::Arrivals,
    search::Ceiling,
    trend::Trend,
    verdict::{Rule, Verdict},
};

/// A benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of chatpulse.
    pub version: String,
    /// When it began, UTC.
    pub started_at: String,
    /// Why it ended before its end; none where it did not.
    pub partial: Option<String>,
    /// What was measured: `pipeline`, or one stage.
    pub measured: String,
    /// On what.
    pub machine: Machine,
    /// Broker and ClickHouse: embedded, or where they are.
    pub engines: String,
    /// What was sent.
    pub load: LoadReport,
    /// The bounds of the verdicts.
    pub rule: Rule,
    /// The result; none of a stage that drained a topic.
    pub sustainable: Option<Sustainable>,
    /// The result of a stage that drained a topic.
    pub drain: Option<DrainReport>,
    /// Latencies below the sustainable rate.
    pub levels: Vec<Level>,
    /// What an event costs, at the highest sustained rate.
    pub cost: Vec<PartCost>,
    /// Bytes per event.
    pub bytes: Bytes,
    /// What a given load needs, where it was asked.
    pub projection: Option<Projection>,
    /// All runs of the search, in order.
    pub runs: Vec<Run>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// The machine that everything ran on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub processor: Option<String>,
    /// Threads that it runs at a time.
    pub cores: Option<usize>,
    /// Memory; bytes.
    pub memory_bytes: Option<u64>,
    /// Operating system and its version.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_ascii_whitespace().next()?.parse::<u64>().ok());
        let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().ok().map(Into::into),
            memory_bytes: memory_kib.map(|kib| kib * 1_024),
            system: format!("{} {}", std::env::consts::OS, release.trim()),
        }
    }
}

/// What was sent.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// Where the events come from: the simulator, or a recorded mix.
    pub mix: String,
    /// Events in a request, at most.
    pub batch: u32,
    /// Tenants.
    pub tenants: usize,
    /// How requests are spread over time.
    pub arrivals: Arrivals,
    /// Most connections at a time.
    pub connections: usize,
    /// Partitions of the topics.
    pub partitions: u32,
    /// What chance begins with.
    pub seed: u64,
    /// Length of the measured part of a run; seconds.
    pub run_seconds: f64,
    /// Length of what is discarded before it; seconds.
    pub warm_up_seconds: f64,
    /// Interval of the polls that look for markers: the resolution of send → queryable; milliseconds.
    pub poll_ms: f64,
}

/// The highest sustainable rate.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sustainable {
    /// Highest rate that was sustained; events per second. None where none was.
    pub events_per_second: Option<f64>,
    /// Lowest rate above it that was not, events per second; none where none was tried.
    pub not_sustained: Option<f64>,
    /// What ended the search upwards. Where it is the generator, the system may carry more.
    pub ceiling: Ceiling,
    /// Whether the runs at parts of it were sustained too; none where none was made.
    pub confirmed: Option<bool>,
}

/// One run at one rate. Figures are of the time after the warm-up.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Events per second offered.
    pub offered: f64,
    /// Events per second acknowledged.
    pub acknowledged: f64,
    /// Events per second through the last stage; none where that is the producer.
    pub stored: Option<f64>,
    /// What it shows.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The generator's own lag.
    pub generator_lag: Latency,
    /// Requests that ended, and those not acknowledged by what came instead.
    pub requests: u64,
    /// See above.
    pub refused: std::collections::BTreeMap<String, u64>,
    /// Intended send time → acknowledged.
    pub send_to_acknowledged: Latency,
    /// Intended send time → seen by a query to ClickHouse.
    pub send_to_queryable: Option<Latency>,
    /// Markers that were not seen in time; they are in no percentile.
    pub markers_not_seen: u64,
    /// Lag and its trend.
    pub lag: Lag,
    /// Bytes of a body for each acknowledged event.
    pub body_bytes_per_event: Option<f64>,
    /// What each part used.
    pub cost: Vec<PartCost>,
    /// The run in parts of equal length.
    pub windows: Vec<Window>,
}

/// How far the last stage was behind the schedule, in seconds of the offered load.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lag {
    /// Mean over the run.
    pub mean_seconds: Option<f64>,
    /// Its growth.
    pub trend: Option<Trend>,
    /// Growth of the p99 latency.
    pub latency_trend: Option<Trend>,
}

/// A window of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Window {
    /// Mean lag; seconds of load.
    pub lag_seconds: Option<f64>,
    /// p99 of send → queryable, or → acknowledged where that is all; milliseconds.
    pub p99_ms: Option<f64>,
}

/// Percentiles of a latency; milliseconds. A percentile of too few values is none: p99 needs 100, p99.9 needs 1,000.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// Number of values.
    pub n: u64,
    /// Half are lower.
    pub p50_ms: Option<f64>,
    /// 99 % are lower.
    pub p99_ms: Option<f64>,
    /// 99.9 % are lower.
    pub p999_ms: Option<f64>,
    /// Highest.
    pub max_ms: Option<f64>,
}

impl Latency {
    /// Of a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let n = histogram.len();
        let at = |least: u64, quantile: f64| {
            (n >= least).then(|| histogram.value_at_quantile(quantile) as f64 / 1e3)
        };
        Self {
            n,
            p50_ms: at(1, 0.5),
            p99_ms: at(100, 0.99),
            p999_ms: at(1_000, 0.999),
            max_ms: at(1, 1.0),
        }
    }
}

/// Latencies at a share of the sustainable rate.
#[derive(Debug, Clone, Serialize)]
pub struct Level {
    /// Percent of the sustainable rate.
    pub percent: u32,
    /// What was seen.
    pub run: Run,
}

/// What a part used.
#[derive(Debug, Clone, Serialize)]
pub struct PartCost {
    /// The part.
    pub part: String,
    /// User and system time; seconds.
    pub cpu_seconds: Option<f64>,
    /// Events that it handled for each of them.
    pub events_per_cpu_second: Option<f64>,
    /// Share of one core.
    pub cores: Option<f64>,
    /// Most memory that it held at a time since its start; bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// A stage that drained a topic which was filled before.
#[derive(Debug, Clone, Serialize)]
pub struct DrainReport {
    /// Events between the first and the last look.
    pub events: u64,
    /// Time between them; seconds.
    pub seconds: f64,
    /// The ratio.
    pub events_per_second: f64,
    /// What each part used between them.
    pub cost: Vec<PartCost>,
}

/// Bytes per event, of all that was sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Bytes {
    /// Bodies of the HTTP requests, without headers.
    pub wire: Option<f64>,
    /// Records of chat.raw as a reader fetches them: compressed batches, one copy.
    pub kafka_raw: Option<f64>,
    /// The same of chat.events.
    pub kafka_events: Option<f64>,
    /// The embedded broker's files; none of another broker.
    pub kafka_disk: Option<f64>,
    /// All tables, compressed, one copy. Merges go on after the benchmark and lower it.
    pub clickhouse: Option<f64>,
    /// Each table.
    pub tables: Vec<TableBytes>,
}

/// A table on disk.
#[derive(Debug, Clone, Serialize)]
pub struct TableBytes {
    /// Its name.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Bytes, compressed.
    pub bytes: u64,
}

//! How long reports take, and how much they read.
//!
//! ```text
//! numbers() ─ INSERT SELECT ─► events ─ the real views ─► facts, health ─ roll_up ─► roll-ups
//! tenants and windows at random ─► every report and every question to the store ─► percentiles, rows, bytes
//! ```
//!
//! `cargo bench -p chatpulse-benches --bench reports -- --events 100000000 --tenants 1000 --data-dir DIR`.
//! The events lie in the 30 days before the first run, ten to a conversation; a tenth of the tenants has
//! almost half of them. The clock of the reports stands at their end. The folder is made and removed;
//! `--keep FOLDER` takes up what an earlier run left in it. Needs about 100 bytes of disk for an event.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Display,
    future::Future,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_model::source::Catalog;
use chatpulse_reports::{Period, Reports};
use chatpulse_store::{Breakdown, Store, StoreConfig};
use clickhouse::Client;
use jiff::Timestamp;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Without `--bench` (as `cargo test --benches` runs it) it only has to work.
const SMOKE: Load = Load {
    events: 20_000,
    tenants: 20,
    rounds: 1,
};
const BENCH: Load = Load {
    events: 2_000_000,
    tenants: 1_000,
    rounds: 100,
};
/// Events of one statement.
const CHUNK: u64 = 1_000_000;
const WINDOWS: [&str; 4] = ["1h", "24h", "7d", "30d"];
/// Time that the events cover; milliseconds.
const SPAN_MS: i64 = 30 * 24 * 60 * 60 * 1000;
const LIMIT: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Load {
    events: u64,
    tenants: u64,
    /// Tenants asked for in each window.
    rounds: u64,
}

/// Ten events make a conversation: number `number` of `total`, from `start` (milliseconds) on.
const EVENTS: &str = "
INSERT INTO events (partition, offset, outcome, reason, tenant, source, write_key_id, source_event, event_type, actor,
    documented, event_id, occurred_at, time_basis, received_at, conversation_id, session_id, sequence, widget_id, language,
    reported_total, score, score_kind, properties, inserted_at)
WITH
    number AS n, intDiv(n, 10) AS conversation, n % 10 AS step, sipHash64(conversation) AS h,
    toUInt32(pow((h % 1000003) / 1000003, 3) * {tenants}) AS tenant_number,
    ['algomo', 'watermelon', 'autochat', 'userlike', 'loyjoy'][1 + bitShiftRight(h, 20) % 5] AS vendor,
    fromUnixTimestamp64Milli(toInt64({start} + conversation / {conversations} * {span}), 'UTC') AS started,
    started + toIntervalMillisecond(step * (5000 + bitShiftRight(h, 30) % 30000)) AS at,
    at + toIntervalMillisecond(200 + sipHash64(n) % 3000) AS received
SELECT n % 8, intDiv(n, 8),
    multiIf(n % 97 = 0, 'duplicate', n % 199 = 0, 'rejected', 'accepted'),
    if(n % 97 != 0 AND n % 199 = 0, 'invalid_json', NULL),
    'tenant' || toString(tenant_number), vendor, 'web',
    ['widget_opened', 'conversation_started', 'message', 'reply', 'message', 'reply', 'handoff', 'joined', 'message', 'ended'][step + 1],
    ['widget.opened', 'conversation.started', 'message.sent', 'message.sent', 'message.sent', 'message.sent',
     'handoff.requested', 'agent.joined', 'message.sent', 'conversation.ended'][step + 1],
    ['visitor', 'visitor', 'visitor', 'bot', 'visitor', 'bot', 'visitor', 'agent', 'agent', 'system'][step + 1],
    true, 'e' || toString(n), at, 'native', received,
    lower(hex(sipHash128(conversation))), lower(hex(sipHash128(conversation, 's'))), step + 1,
    'w' || toString(bitShiftRight(h, 12) % 3), ['de', 'en', 'nl'][1 + bitShiftRight(h, 16) % 3],
    if(step = 9, 4, NULL), NULL, NULL, map(), received + toIntervalMillisecond(400)
FROM numbers({from}, {count})
SETTINGS insert_deduplicate = 0, optimize_on_insert = 0, max_insert_block_size = 200000,
         min_insert_block_size_rows = 200000, min_insert_block_size_bytes = 0,
         parallel_view_processing = 1, max_insert_threads = 3";

/// Answers of one kind.
#[derive(Default)]
struct Answers {
    took: Vec<Duration>,
    rows: Vec<u64>,
    bytes: Vec<u64>,
}

struct Bench {
    reports: Reports,
    store: Store,
    client: Client,
    /// Where the events end, and the clock stands; milliseconds.
    end_ms: i64,
    answers: BTreeMap<&'static str, Answers>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let mut load = if is_bench { BENCH } else { SMOKE };
    for (name, value) in [
        ("--events", &mut load.events),
        ("--tenants", &mut load.tenants),
        ("--rounds", &mut load.rounds),
    ] {
        if let Some(given) = option(name) {
            *value = given.parse()?;
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(folder) = option("--keep") {
        return runtime.block_on(run(&load, PathBuf::from(folder)));
    }
    let parent = option("--data-dir").map_or_else(std::env::temp_dir, PathBuf::from);
    // Removed with all that is in it, also after an error.
    let folder = tempfile::Builder::new()
        .prefix("chatpulse-reports-")
        .tempdir_in(parent)?;
    runtime.block_on(run(&load, folder.path().to_owned()))
}

async fn run(load: &Load, data_dir: PathBuf) -> Result<()> {
    let server = ClickHouse::start(ClickHouseConfig {
        data_dir,
        listen: "127.0.0.1:0".parse()?,
        password: None,
        library: None,
        memory_limit_bytes: Some(6 << 30),
    })
    .await?;
    let config = StoreConfig {
        url: server.url(),
        query_timeout: Duration::from_secs(600),
        ..StoreConfig::default()
    };
    let store = Store::new(&config);
    store.migrate().await?;
    store.sync_sources(Catalog::builtin().iter()).await?;
    let client = Client::default()
        .with_url(server.url())
        .with_database(&config.database);
    let mut bench = Bench {
        reports: Reports::new(store.clone(), Catalog::builtin()),
        store,
        client,
        end_ms: Timestamp::now().as_millisecond(),
        answers: BTreeMap::new(),
    };
    let measured = bench.measure(load).await;
    server.shutdown().await?;
    measured
}

impl Bench {
    async fn measure(&mut self, load: &Load) -> Result<()> {
        self.fill(load).await?;
        let started = Instant::now();
        let first = self.store.roll_up(self.end_ms).await?;
        say(
            "first roll-up",
            format_args!("{:.1?} {first:?}", started.elapsed()),
        )?;
        self.answer(load).await?;
        self.print("roll-up at rest")?;

        // In life all that came in long ago: the job looks back ten minutes.
        for table in ["conversation_starts", "session_starts"] {
            let sql = format!(
                "ALTER TABLE {table} UPDATE touched_at = toDateTime64(0, 3, 'UTC') WHERE 1
                 SETTINGS mutations_sync = 2"
            );
            self.client.query_raw(&sql).execute().await?;
        }

        // New data as of a minute of traffic, at the end of the time: that much is new.
        let new = (load.events / (30 * 24 * 60)).max(100);
        self.insert(load, load.events - new.min(load.events)..load.events)
            .await?;
        let started = Instant::now();
        let next = self.store.roll_up(self.end_ms).await?;
        say(
            "roll-up after a minute's events",
            format_args!("{new} events: {:.1?} {next:?}", started.elapsed()),
        )?;
        let started = Instant::now();
        self.store.roll_up(self.end_ms).await?;
        say(
            "the next roll-up",
            format_args!("{:.1?}", started.elapsed()),
        )?;

        self.answers.clear();
        let (store, end_ms) = (self.store.clone(), self.end_ms);
        let rolling = tokio::spawn(async move {
            loop {
                if let Err(error) = store.roll_up(end_ms).await {
                    return error;
                }
            }
        });
        self.answer(&Load {
            rounds: load.rounds.div_ceil(4),
            ..load.clone()
        })
        .await?;
        rolling.abort();
        self.print("while the roll-up runs without a pause")
    }

    async fn fill(&mut self, load: &Load) -> Result<()> {
        let (mut next, first_ms): (u64, i64) = self
            .client
            .query("SELECT count(), toUnixTimestamp64Milli(min(occurred_at)) FROM events")
            .fetch_one()
            .await?;
        if next > 0 {
            self.end_ms = first_ms + SPAN_MS;
        }
        let started = Instant::now();
        let there = next;
        while next < load.events {
            let end = (next + CHUNK).min(load.events);
            self.insert(load, next..end).await?;
            next = end;
            let rate = (next - there) as f64 / started.elapsed().as_secs_f64();
            say("events", format_args!("{next} ({rate:.0}/s)"))?;
        }
        let tables: Vec<(String, u64, u64)> = self
            .client
            .query(
                "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts
                 WHERE active AND database = currentDatabase() GROUP BY table ORDER BY table",
            )
            .fetch_all()
            .await?;
        for (table, rows, bytes) in tables {
            say(&table, format_args!("{rows} rows, {} MiB", bytes >> 20))?;
        }
        Ok(())
    }

    async fn insert(&self, load: &Load, events: std::ops::Range<u64>) -> Result<()> {
        let sql = [
            ("{tenants}", load.tenants.to_string()),
            ("{start}", (self.end_ms - SPAN_MS).to_string()),
            ("{span}", SPAN_MS.to_string()),
            ("{conversations}", load.events.div_ceil(10).to_string()),
            ("{from}", events.start.to_string()),
            ("{count}", (events.end - events.start).to_string()),
        ]
        .iter()
        .fold(EVENTS.to_owned(), |sql, (name, value)| {
            sql.replace(name, value)
        });
        Ok(self.client.query_raw(&sql).execute().await?)
    }

    /// Every report and every question of the store, one after the other.
    async fn answer(&mut self, load: &Load) -> Result<()> {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..load.rounds {
            for window in WINDOWS {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                // The first round asks for the largest tenant.
                let tenant = if round == 0 {
                    0
                } else {
                    (random >> 33) % load.tenants
                };
                self.ask(&format!("tenant{tenant}"), window).await?;
            }
        }
        Ok(())
    }

    async fn ask(&mut self, tenant: &str, window: &str) -> Result<()> {
        let period = Period::before(Timestamp::from_millisecond(self.end_ms)?, window)?;
        let (reports, store) = (self.reports.clone(), self.store.clone());
        let (health, cohorts) = (period.delivery(), period.cohorts());
        macro_rules! time {
            ($($name:literal: $answer:expr,)*) => { $(self.time($name, $answer).await?;)* };
        }
        time! {
            "report tenant_health": reports.tenant_health(tenant, period),
            "report conversations": reports.conversations(tenant, period),
            "report delivery_series": reports.delivery_series(tenant, period),
            "report overview": reports.overview(period),
            "report conversation_list": reports.conversation_list(tenant, period, (None, 50)),
            "report rejections": reports.rejections(tenant, period, (None, 50)),
            "report restatements": reports.restatements(tenant, period, (0, 50)),
            "store health": store.health(tenant, health),
            "store expected": store.expected(tenant, health, health),
            "store key_health": store.key_health(tenant, health, health),
            "store health_series": store.health_series(tenant, health),
            "store type_series": store.type_series(tenant, health),
            "store browser_loss": store.browser_loss(tenant, health.window),
            "store message_gaps": store.message_gaps(tenant, cohorts),
            "store rejections_by_reason": store.rejections_by_reason(tenant, health),
            "store figures by source": store.figures(tenant, cohorts, &[Breakdown::Source]),
            "store figures by time": store.figures(tenant, cohorts, &[Breakdown::Time]),
            "store figures by widget": store.figures(tenant, cohorts, &[Breakdown::Widget]),
            "store figures by all": store.figures(tenant, cohorts, &Breakdown::ALL),
            "store conversations": store.conversations(tenant, cohorts.window, (None, 50)),
            "store tenants": store.tenants(health, health),
            "store pipeline_series": store.pipeline_series(health),
            "store books": store.books(),
        }
        Ok(())
    }

    async fn time<T, E: Into<Box<dyn Error + Send + Sync>>>(
        &mut self,
        name: &'static str,
        answer: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<()> {
        let before = self.read().await?;
        let started = Instant::now();
        answer.await.map_err(Into::into)?;
        let took = started.elapsed();
        let after = self.read().await?;
        let answers = self.answers.entry(name).or_default();
        answers.took.push(took);
        answers.rows.push(after.0.saturating_sub(before.0));
        answers.bytes.push(after.1.saturating_sub(before.1));
        Ok(())
    }

    /// Rows and bytes that all statements so far have read; those in the background as well.
    async fn read(&self) -> Result<(u64, u64)> {
        let read = self
            .client
            .query(
                "SELECT sumIf(value, event = 'SelectedRows'), sumIf(value, event = 'SelectedBytes')
                 FROM system.events",
            )
            .fetch_one()
            .await?;
        Ok(read)
    }

    fn print(&mut self, title: &str) -> Result<()> {
        say("", "")?;
        say(
            title,
            "    p50 ms    p95 ms    p99 ms    max ms    rows p50    KiB p50    KiB p95",
        )?;
        let mut slow = 0;
        for (name, answers) in &mut self.answers {
            let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0]
                .map(|p| percentile(&mut answers.took, p).as_secs_f64() * 1000.0);
            slow += u32::from(p95 > LIMIT.as_secs_f64() * 1000.0);
            let rows = percentile(&mut answers.rows, 0.5);
            let [kib50, kib95] = [0.5, 0.95].map(|p| percentile(&mut answers.bytes, p) >> 10);
            say(
                name,
                format_args!(
                    "{p50:>10.1}{p95:>10.1}{p99:>10.1}{max:>10.1}{rows:>12}{kib50:>11}{kib95:>11}"
                ),
            )?;
        }
        say("above 50 ms at p95", slow)
    }
}

fn percentile<T: Ord + Copy + Default>(values: &mut [T], p: f64) -> T {
    values.sort_unstable();
    let at = (values.len() as f64 * p).ceil() as usize;
    values
        .get(at.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

fn say(what: &str, figure: impl Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{what:<38} {figure}")?;
    Ok(())
}

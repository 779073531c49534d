//! What a restart of the enricher costs, from a checkpoint and from the start.
//!
//! ```text
//! raw records ─ decode, map, fold ─► state of all partitions         replay of everything
//! state ─ encode ─► bytes ─ store ─► folder                          what a checkpoint costs while running
//! folder ─ load ─► bytes ─ decode ─► state ─ fold an interval ─►     restart from a checkpoint
//! ```
//!
//! `cargo bench -p chatpulse-benches --bench restart [-- CONVERSATIONS]`, 10 million by default, all of
//! them open at the end, in four partitions with a thread each, as in an enricher. Both ways read the
//! records from memory: what a broker adds is added per record, so the ratio holds for it too.

use std::{
    error::Error,
    fmt::Display,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use chatpulse_model::{
    Context, NativePayload, RawBody, RawEvent,
    avro::{Codec, Framing},
    fold::{
        Horizon, PartitionFold, Position, read,
        snapshot::{Anchor, Identity},
    },
    source::Catalog,
};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PARTITIONS: u64 = 4;
const CONVERSATIONS: u64 = 10_000_000;
/// Without `--bench` (as `cargo test --benches` runs it) it only has to work.
const SMOKE: u64 = 20_000;
/// Messages of each conversation: visitor and bot in turn.
const MESSAGES: u64 = 4;
/// All records come within this time, so that the fold forgets nothing and sweeps as often as in life.
const SPAN_MS: u64 = 6 * 24 * 60 * 60 * 1000;
/// Load and checkpoint interval that decide how much is folded again after a restart.
const RECORDS_PER_SECOND: u64 = 10_000;
const INTERVAL: Duration = Duration::from_secs(60);
const TOPIC: &str = "chat.raw";
const START: u64 = 1_768_471_800_000;
/// Records made at once, outside of what is timed.
const CHUNK: u64 = 2_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = arguments.iter().find_map(|argument| argument.parse().ok());
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let all = asked.unwrap_or(if is_bench { CONVERSATIONS } else { SMOKE });
    let load = Load::new(all.div_ceil(PARTITIONS).max(1));
    let folder = tempfile::tempdir()?;
    let store: Arc<dyn ObjectStore> =
        Arc::new(LocalFileSystem::new_with_prefix(folder.path())?.with_fsync(true));
    let runtime = tokio::runtime::Runtime::new()?;
    let records = PARTITIONS * load.records();
    say("open conversations", PARTITIONS * load.conversations)?;
    say("raw records", records)?;

    let before = resident_bytes();
    let (folds, everything) = in_parallel(|partition| {
        let mut fold = PartitionFold::new(partition, Horizon::default());
        let took = load.replay(&mut fold, 0..load.records())?;
        Ok((fold, took))
    })?;
    let open: usize = folds.iter().map(PartitionFold::conversations).sum();
    assert_eq!(open as u64, PARTITIONS * load.conversations, "all are open");
    let rate = records as f64 / everything.as_secs_f64();
    say(
        "replay of everything",
        format_args!("{everything:.2?} ({rate:.0}/s)"),
    )?;
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let used = (after - before) as f64;
        let each = used / open as f64;
        let mib = used / f64::from(1 << 20);
        say(
            "memory of the state",
            format_args!("{mib:.0} MiB, {each:.0} bytes per conversation"),
        )?;
    }

    // One after the other, as the enricher does it.
    let (mut encoding, mut storing) = (Duration::ZERO, Duration::ZERO);
    let mut bytes = 0;
    let mut states = Vec::new();
    for (partition, fold) in (0..).zip(folds) {
        let started = Instant::now();
        let state = encoded(&fold, load.anchor())?;
        encoding = encoding.max(started.elapsed());
        drop(fold);
        bytes += state.len();
        let started = Instant::now();
        runtime.block_on(store.put(&name(partition), state.clone().into()))?;
        storing = storing.max(started.elapsed());
        states.push(blake3::hash(&state));
        if partition == 0 {
            let started = Instant::now();
            let compressed = zstd::bulk::compress(&state, 1)?.len();
            let (took, saved) = (
                started.elapsed(),
                100.0 - 100.0 * compressed as f64 / state.len() as f64,
            );
            say(
                "zstd level 1 would save",
                format_args!("{saved:.1} % in {took:.2?} more per partition"),
            )?;
        }
    }
    let each = bytes as f64 / open as f64;
    let mib = bytes as f64 / f64::from(1 << 20);
    say(
        "checkpoints",
        format_args!("{mib:.0} MiB, {each:.0} bytes per conversation"),
    )?;
    say(
        "encode, longest pause of a partition",
        format_args!("{encoding:.2?}"),
    )?;
    say(
        "store with fsync, longest",
        format_args!("{storing:.2?} (in the background)"),
    )?;

    let started = Instant::now();
    let (mut folds, _) = in_parallel(|partition| {
        let identity = Identity {
            topic: TOPIC,
            partition,
            horizon: Horizon::default(),
        };
        let started = Instant::now();
        let stored =
            runtime.block_on(async { store.get(&name(partition)).await?.bytes().await })?;
        let (fold, _) = PartitionFold::decode(&stored, &identity)?;
        Ok((fold, started.elapsed()))
    })?;
    let loading = started.elapsed();
    for (fold, state) in folds.iter().zip(states) {
        assert_eq!(
            blake3::hash(&encoded(fold, load.anchor())?),
            state,
            "restored exactly"
        );
    }
    let share = RECORDS_PER_SECOND * INTERVAL.as_secs() / PARTITIONS;
    let since = load.records()..load.records() + share;
    let waiting = std::sync::Mutex::new(folds.drain(..).map(Some).collect::<Vec<_>>());
    let (_, catching_up) = in_parallel(|partition| {
        let taken = waiting
            .lock()
            .map(|mut folds| folds[partition as usize].take());
        let mut fold = taken.ok().flatten().ok_or("one fold per partition")?;
        let took = load.replay(&mut fold, since.clone())?;
        Ok((fold, took))
    })?;
    say("load and decode", format_args!("{loading:.2?}"))?;
    let interval = format_args!("{catching_up:.2?} ({INTERVAL:?} at {RECORDS_PER_SECOND}/s)");
    say("fold one interval again", interval)?;
    let restart = loading + catching_up;
    let times = everything.as_secs_f64() / restart.as_secs_f64();
    say(
        "restart from checkpoints",
        format_args!("{restart:.2?}, {times:.1} times as fast"),
    )?;
    Ok(())
}

/// What one partition is sent.
struct Load {
    conversations: u64,
    codec: Codec<RawEvent>,
}

impl Load {
    fn new(conversations: u64) -> Self {
        Self {
            conversations,
            codec: Codec::new(Framing::SingleObject).expect("our schemas are valid"),
        }
    }

    fn records(&self) -> u64 {
        self.conversations * MESSAGES
    }

    fn anchor(&self) -> Anchor {
        let offset = self.records();
        Anchor {
            offset: offset as i64,
            timestamp_ms: self.time(offset - 1) as i64,
        }
    }

    fn time(&self, offset: u64) -> u64 {
        START + (u128::from(offset) * u128::from(SPAN_MS) / u128::from(self.records())) as u64
    }

    /// Record `offset`: the next message of the conversation that was silent longest.
    fn record(&self, offset: u64) -> Result<Vec<u8>> {
        let (round, conversation) = (offset / self.conversations, offset % self.conversations);
        let event = match round % 2 {
            0 => "widget_message_sent",
            _ => "widget_agent_message_sent",
        };
        let received_at = self.time(offset) as i64;
        let json = format!(
            r#"{{"event":"{event}","widget_platform":"web","widget_conversation_id":"5f1c9a7e-{conversation:012x}","timestamp":{},"total_messages":{round}}}"#,
            received_at - 250,
        );
        let raw = RawEvent {
            tenant: "acme".into(),
            source: "watermelon".into(),
            write_key_id: "web".into(),
            received_at,
            context: Context {
                event_id: Some(format!("1f0c4c2e-7d0b-4f0e-9a55-{offset:012x}")),
                session_id: Some(format!("5b0d8f3a-91c4-4a55-8d4e-{conversation:012x}")),
                sequence: Some(round as i64 + 1),
                page_url: Some("https://shop.example.com/cart".into()),
                sdk: Some("chatpulse.js/1.0".into()),
                ..Context::default()
            },
            body: RawBody::Native(NativePayload {
                json,
                redactions: vec![],
            }),
            replay_of: None,
        };
        Ok(self.codec.encode(&raw)?)
    }

    /// Folds records as the enricher does; gives the time that reading and folding took.
    fn replay(&self, fold: &mut PartitionFold, offsets: std::ops::Range<u64>) -> Result<Duration> {
        let mut took = Duration::ZERO;
        for first in offsets.clone().step_by(CHUNK as usize) {
            let chunk = first..(first + CHUNK).min(offsets.end);
            let records: Vec<_> = chunk
                .clone()
                .map(|offset| self.record(offset))
                .collect::<Result<_>>()?;
            let started = Instant::now();
            for (offset, record) in chunk.zip(&records) {
                let position = Position {
                    offset: offset as i64,
                    timestamp_ms: self.time(offset) as i64,
                };
                fold.apply(position, read(record, &self.codec, Catalog::builtin()));
            }
            took += started.elapsed();
        }
        Ok(took)
    }
}

/// Does `work` for every partition on a thread of its own; gives the results, and the longest time.
fn in_parallel<T: Send>(
    work: impl Fn(i32) -> Result<(T, Duration)> + Sync,
) -> Result<(Vec<T>, Duration)> {
    let work = &work;
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PARTITIONS as i32)
            .map(|partition| scope.spawn(move || work(partition)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let longest = results
        .iter()
        .map(|(_, took)| *took)
        .max()
        .unwrap_or_default();
    Ok((
        results.into_iter().map(|(result, _)| result).collect(),
        longest,
    ))
}

fn encoded(fold: &PartitionFold, anchor: Anchor) -> Result<Vec<u8>> {
    let mut state = Vec::new();
    fold.encode(TOPIC, anchor, &mut state)?;
    Ok(state)
}

fn name(partition: i32) -> Path {
    Path::from(format!("{TOPIC}/{partition}.checkpoint"))
}

/// What of this process is in memory, where the system tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn say(what: &str, figure: impl Display) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{what:<38} {figure}")?;
    Ok(())
}

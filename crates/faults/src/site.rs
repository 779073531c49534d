//! One installation under test: its topics, its database, its stages, its senders.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    judge::{Books, Receipts, Verdict},
    kafka::{Kafka, PARTITIONS},
    load::{Ledger, Load, TENANTS, Target},
    output::note,
    receiver::{self, CONCURRENCY, Receiver, SECRET},
    stage::{Kind, Program, Stage},
    store::Store,
};

/// How long everything acknowledged may take to be queryable after a fault.
const RECOVERY: Duration = Duration::from_secs(150);
/// A block is in the table before the views have it: what is wrong stays wrong for so long.
const SETTLE: Duration = Duration::from_secs(10);
/// Instances of each stage.
const INSTANCES: usize = 2;

/// Longest silence of a member before its group gives its partitions to others.
pub(crate) const SESSION: Duration = Duration::from_millis(1_200);
/// Folder of the enrichers' checkpoints.
const CHECKPOINTS: &str = "checkpoints";
const TENANTS_FILE: &str = "tenants.toml";
/// File system of the small disk, MiB.
const SMALL_DISK_MIB: u32 = 192;

/// On what an installation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ground {
    /// One broker, for the kills, which take longest.
    Kills,
    OneBroker,
    ThreeBrokers,
    /// One broker, and the store on a file system that can be filled.
    SmallDisk,
}

/// What installations share.
pub(crate) struct Grounds {
    pub(crate) kafka: Kafka,
    pub(crate) store: Store,
    /// The binary under test.
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
    small_disk: Option<SmallDisk>,
}

impl Grounds {
    /// Starts Kafka and the store with their data in `folder`.
    pub(crate) async fn start(
        ground: Ground,
        folder: PathBuf,
        binary: PathBuf,
    ) -> anyhow::Result<Self> {
        let brokers = if ground == Ground::ThreeBrokers { 3 } else { 1 };
        let store = folder.join("store");
        std::fs::create_dir_all(&store)?;
        let small_disk = match ground {
            Ground::SmallDisk => Some(SmallDisk::mount(&store)?),
            Ground::Kills | Ground::OneBroker | Ground::ThreeBrokers => None,
        };
        Ok(Self {
            kafka: Kafka::start(&folder.join("kafka"), brokers).await?,
            store: Store::start(&store).await?,
            binary,
            folder,
            small_disk,
        })
    }

    /// Leaves no room on the small disk; gives the file that takes it.
    pub(crate) fn fill_disk(&self) -> anyhow::Result<PathBuf> {
        let disk = self.small_disk.as_ref().context("the disk is not small")?;
        let path = disk.0.join("ballast");
        let mut file = std::fs::File::create(&path)?;
        // Until there is no room: that is the point.
        while file.write_all(&[0; 1 << 16]).is_ok() {}
        Ok(path)
    }
}

/// A file system in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> anyhow::Result<Self> {
        let mounted = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={SMALL_DISK_MIB}m"),
                "tmpfs",
            ])
            .arg(folder)
            .output()?;
        ensure!(
            mounted.status.success(),
            "a small file system cannot be mounted, which needs root: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store's process may still be on its way out.
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        if !unmounted.is_ok_and(|status| status.success()) {
            note(&format!("cannot unmount {}", self.0.display()));
        }
    }
}

/// An installation, running.
pub(crate) struct Site<'g> {
    pub(crate) grounds: &'g Grounds,
    pub(crate) name: String,
    program: Program,
    stages: Mutex<Vec<Arc<Stage>>>,
    pub(crate) load: Load,
    /// Records put into chat.raw and into chat.events past the producer.
    poison: [AtomicU64; 2],
    partitions: AtomicI32,
    memory: Mutex<Vec<String>>,
    /// Where the deliverers deliver to, where there are any.
    receiver: Option<Receiver>,
}

impl<'g> Site<'g> {
    /// Makes topics, database and tenants, and starts two instances of each stage; deliverers only where
    /// there is a receiver.
    pub(crate) async fn start(
        (grounds, receiver): (&'g Grounds, Option<Receiver>),
        name: &str,
        (rate, rng): (u32, &mut ChaCha8Rng),
    ) -> anyhow::Result<Self> {
        let folder = grounds.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let program = Program {
            binary: grounds.binary.clone(),
            folder,
        };
        configure(grounds, (name, PARTITIONS), &program.folder)?;
        let mut keys = Vec::new();
        for tenant in TENANTS {
            let key = tool(&program, &["tenant", "add", tenant]).await?;
            keys.push(key.trim().to_owned());
            if let Some(receiver) = &receiver {
                // They belong to the tenant that stands last in the file.
                let mut file = OpenOptions::new()
                    .append(true)
                    .open(program.folder.join(TENANTS_FILE))?;
                file.write_all(receiver.destinations(tenant).as_bytes())?;
            }
        }
        std::fs::write(program.folder.join("webhook-secret"), SECRET)?;
        tool(&program, &["migrate"]).await?;
        let kinds: &[Kind] = match receiver {
            Some(_) => &Kind::ALL,
            None => &Kind::STORING,
        };
        let mut stages = Vec::new();
        for &kind in kinds {
            let start = |number| Arc::new(Stage::start(&program, kind, number));
            stages.extend((1..=INSTANCES).map(start));
        }
        if receiver.is_some() {
            // What comes before the first cursors is nobody's.
            let topic = format!("{name}.chat.deliveries.cursors");
            grounds.kafka.filled(topic).await?;
        }
        let producers = stages.iter().filter(|stage| stage.kind == Kind::Producer);
        let target = Target {
            producers: producers.map(|stage| stage.url()).collect(),
            keys,
            rate,
        };
        Ok(Self {
            grounds,
            name: name.to_owned(),
            program,
            stages: Mutex::new(stages),
            load: Load::new(target, rng.random())?,
            poison: Default::default(),
            partitions: AtomicI32::new(PARTITIONS),
            memory: Mutex::default(),
            receiver,
        })
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Arc<Stage>>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instances of one stage.
    pub(crate) fn of(&self, kind: Kind) -> Vec<Arc<Stage>> {
        let stages = self.stages();
        let of_kind = stages.iter().filter(|stage| stage.kind == kind);
        of_kind.cloned().collect()
    }

    /// Starts one more instance. Further producers get no events: nobody knows their address.
    pub(crate) fn grow(&self, kind: Kind) {
        let number = self.of(kind).len() + 1;
        let stage = Stage::start(&self.program, kind, number);
        self.stages().push(Arc::new(stage));
    }

    /// Stops the last instance that was started.
    pub(crate) async fn shrink(&self, kind: Kind) -> anyhow::Result<()> {
        let stage = {
            let mut stages = self.stages();
            let last = stages.iter().rposition(|stage| stage.kind == kind);
            stages.remove(last.context("no instance is left")?)
        };
        stage.stop().await
    }

    /// How often stages ended by themselves.
    pub(crate) fn failures(&self) -> usize {
        self.stages().iter().map(|stage| stage.failures()).sum()
    }

    /// Rows of `events`.
    pub(crate) async fn stored(&self) -> anyhow::Result<u64> {
        Ok(self.books().progress().await?.1)
    }

    /// Keeps the highest memory of every stage so far for the report.
    pub(crate) fn note_memory(&self, when: &str) {
        let peak = |kind| {
            let stages = self.of(kind);
            let peaks = stages.iter().filter_map(|stage| stage.peak_kib());
            peaks.max().unwrap_or(0) / 1024
        };
        let [producer, enricher, sink] = Kind::STORING.map(peak);
        let line =
            format!("{when}: producer {producer} MiB, enricher {enricher} MiB, sink {sink} MiB");
        note(&line);
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    /// What [`Site::note_memory`] kept.
    pub(crate) fn memory(&self) -> Vec<String> {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Tears, alters or removes every checkpoint that there is; gives how many.
    pub(crate) fn break_checkpoints(&self, rng: &mut ChaCha8Rng) -> anyhow::Result<usize> {
        let files = files_below(&self.program.folder.join(CHECKPOINTS))?;
        for file in &files {
            // An enricher that removes old ones may be faster than we.
            let Ok(mut bytes) = std::fs::read(file) else {
                continue;
            };
            match rng.random_range(0..4) {
                0 => bytes.truncate(rng.random_range(0..=bytes.len())),
                1 if !bytes.is_empty() => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
                2 => rng.fill(bytes.as_mut_slice()),
                _ => {
                    let _ = std::fs::remove_file(file);
                    continue;
                }
            }
            std::fs::write(file, bytes)?;
        }
        Ok(files.len())
    }

    /// Raises the number of partitions by configuration and `chatpulse migrate`.
    pub(crate) async fn raise_partitions(&self, partitions: i32) -> anyhow::Result<()> {
        self.partitions.store(partitions, Ordering::SeqCst);
        configure(self.grounds, (&self.name, partitions), &self.program.folder)?;
        self.migrate().await
    }

    /// Partitions of each topic.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions.load(Ordering::SeqCst)
    }

    /// `chatpulse migrate`, which makes topics that are absent.
    pub(crate) async fn migrate(&self) -> anyhow::Result<()> {
        tool(&self.program, &["migrate"]).await.map(drop)
    }

    /// The name of a topic of this installation.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// Waits until a stage has logged `text`.
    pub(crate) async fn says(&self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            for file in files_below(&self.program.folder)? {
                let is_log = file.extension().is_some_and(|extension| extension == "log");
                if is_log && std::fs::read_to_string(&file)?.contains(text) {
                    return Ok(());
                }
            }
            ensure!(
                Instant::now() < deadline,
                "no stage says {text:?} in its log"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until stages have ended by themselves a few times more, while events go on to come.
    pub(crate) async fn stops_again(&self) -> anyhow::Result<()> {
        self.load.resume();
        self.load.flow(600, RECOVERY).await?;
        let before = self.failures();
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.failures() < before + 2 {
            ensure!(
                Instant::now() < deadline,
                "a stage that had stopped goes on when it is started again"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Puts records that are none of ours into chat.raw.
    pub(crate) async fn poison_raw(&self, count: u64, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
        self.poison[0].fetch_add(count, Ordering::SeqCst);
        let topic = self.topic("chat.raw");
        self.grounds
            .kafka
            .publish(&topic, foreign(count, rng))
            .await
    }

    /// Puts records that are none of ours into chat.events.
    pub(crate) async fn poison_events(
        &self,
        count: u64,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<()> {
        self.poison[1].fetch_add(count, Ordering::SeqCst);
        let topic = self.topic("chat.events");
        self.grounds
            .kafka
            .publish(&topic, foreign(count, rng))
            .await
    }

    /// Waits until everything that was acknowledged can be queried; nothing new is sent.
    pub(crate) async fn recover(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RECOVERY;
        self.load.pause(RECOVERY).await?;
        let (accepted, outcomes) = {
            let ledger = self.load.ledger();
            (
                ledger.acknowledged(),
                ledger.outcomes() + self.poison[0].load(Ordering::SeqCst),
            )
        };
        // Every event goes to so many destinations.
        let wanted = match self.receiver {
            Some(_) => receiver::that_take().count() as u64,
            None => 0,
        };
        loop {
            let progress = self.books().progress().await;
            if let Ok((found, all, ended)) = &progress
                && *found >= accepted
                && *all >= outcomes
                && *ended >= found * wanted
            {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not everything is queryable after {RECOVERY:?}: {accepted} events and {outcomes} outcomes \
                 were acknowledged, each event has {wanted} destinations; there are {progress:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Judges until all is well or it cannot become so any more.
    pub(crate) async fn judge(&self, ledger: &Ledger) -> anyhow::Result<Verdict> {
        ensure!(
            ledger.refused == ledger.refused_with_time,
            "of {} answers 429 and 503 only {} have a Retry-After",
            ledger.refused,
            ledger.refused_with_time
        );
        ensure!(
            ledger.wrong.is_empty(),
            "answers that nothing explains: {:?}",
            ledger.wrong
        );
        let deadline = Instant::now() + SETTLE;
        loop {
            let mut verdict = self.books().judge(ledger).await?;
            if let Some(receiver) = &self.receiver {
                let arrivals = receiver.arrivals();
                let receipts = Receipts {
                    arrivals: &arrivals,
                    cut_off: self.cut_off(),
                };
                self.books().deliveries(receipts, &mut verdict).await?;
            }
            if verdict.is_clean() || Instant::now() >= deadline {
                return Ok(verdict);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Most requests that can have been under way when deliverers were killed: what came of those nobody
    /// but the receiver knows.
    fn cut_off(&self) -> u64 {
        let deliverers = self.of(Kind::Deliverer);
        let ends: u32 = deliverers.iter().map(|stage| stage.kills()).sum();
        let ends = u64::from(ends) + self.failures() as u64;
        let destinations = (TENANTS.len() * receiver::that_take().count()) as u64;
        ends * destinations * u64::from(CONCURRENCY)
    }

    /// What the receiver saw of requests and deliveries, for the log.
    pub(crate) fn received(&self) -> Option<(u64, usize)> {
        let arrivals = self.receiver.as_ref()?.arrivals();
        let requests = arrivals.seen.values().map(|seen| seen.requests).sum();
        Some((requests, arrivals.seen.len()))
    }

    /// `chatpulse audit`: the books balance, and Kafka has nothing that the store has not.
    pub(crate) async fn audit(&self) -> anyhow::Result<()> {
        let report = tool(&self.program, &["audit", "--json"]).await?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        ensure!(
            report["balanced"] == true && report["raw_records_under_way"] == 0,
            "chatpulse audit: {report:#}"
        );
        Ok(())
    }

    fn books(&self) -> Books<'_> {
        Books {
            store: &self.grounds.store,
            database: &self.name,
            poison: self
                .poison
                .each_ref()
                .map(|count| count.load(Ordering::SeqCst)),
        }
    }

    /// Stops everything in order; each stage must end cleanly.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        let stages = self.stages().clone();
        let ends = stages.iter().map(|stage| stage.stop());
        for end in futures::future::join_all(ends).await {
            end?;
        }
        Ok(())
    }
}

fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Bytes of all kinds: noise, text, nothing, frames that promise more than they hold.
fn foreign(count: u64, rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let one = |_| {
        let mut noise = vec![0; rng.random_range(0..200)];
        rng.fill(noise.as_mut_slice());
        match rng.random_range(0..4) {
            0 => noise,
            1 => br#"{"event": "widget_message_sent"}"#.to_vec(),
            // Avro's single-object encoding, and the Confluent wire format, of no known schema.
            2 => [&[0xc3, 0x01], noise.as_slice()].concat(),
            _ => [&[0x00, 0x00, 0x00, 0x00, 0x07], noise.as_slice()].concat(),
        }
    };
    (0..count).map(one).collect()
}

/// A tool of the binary; its standard output.
pub(crate) async fn tool(program: &Program, arguments: &[&str]) -> anyhow::Result<String> {
    let output = program.command().args(arguments).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "chatpulse {}: {said}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// Short times, so that a fault is over soon; small ranges, so that there are many.
fn configure(
    grounds: &Grounds,
    (name, partitions): (&str, i32),
    folder: &Path,
) -> anyhow::Result<()> {
    let checkpoints = match &grounds.small_disk {
        Some(disk) => disk.0.join(format!("checkpoints-{name}")),
        None => folder.join(CHECKPOINTS),
    };
    let text = format!(
        r#"[kafka]
bootstrap = "{bootstrap}"
partitions = {partitions}
replication = {replication}
prefix = "{name}."

[kafka.overrides]
"session.timeout.ms" = "{session}"
"heartbeat.interval.ms" = "300"
"socket.timeout.ms" = "5000"
"reconnect.backoff.max.ms" = "500"
"topic.metadata.refresh.interval.ms" = "1000"

[clickhouse]
url = "{url}"
database = "{name}"

[producer]
tenants_file = "{TENANTS_FILE}"
confirm_timeout = "5s"

[enricher]
checkpoints = "{checkpoints}"
checkpoint_interval = "1s"

[sink]
batch_rows = 150
batch_wait = "30ms"

[deliverer]
allow_networks = ["127.0.0.1/32"]
pauses = ["300ms", "1s", "2s"]
breaker_pause = "200ms"
breaker_max_pause = "1s"
"#,
        bootstrap = grounds.kafka.bootstrap(),
        checkpoints = checkpoints.display(),
        session = SESSION.as_millis(),
        replication = grounds.kafka.brokers(),
        url = grounds.store.url(),
    );
    std::fs::write(folder.join("chatpulse.toml"), text)?;
    Ok(())
}

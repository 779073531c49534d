//! One installation under test: its topics, its database, its stages, its senders.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::{
    judge::{Books, Verdict},
    kafka::Kafka,
    load::{Ledger, Load, TENANTS, Target},
    stage::{Kind, Program, Stage},
    store::Store,
};

/// How long everything acknowledged may take to be queryable after a fault.
const RECOVERY: Duration = Duration::from_secs(150);
/// A block is in the table before the views have it: what is wrong stays wrong for so long.
const SETTLE: Duration = Duration::from_secs(10);
/// Instances of each stage.
const INSTANCES: usize = 2;
const PARTITIONS: u16 = 4;

/// What installations share.
pub(crate) struct Grounds {
    pub(crate) kafka: Kafka,
    pub(crate) store: Store,
    /// The binary under test.
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
}

/// An installation, running.
pub(crate) struct Site<'g> {
    pub(crate) grounds: &'g Grounds,
    pub(crate) name: String,
    pub(crate) program: Program,
    pub(crate) stages: Vec<Stage>,
    pub(crate) load: Load,
    /// Records that were put into the topics past the producer.
    pub(crate) poison: u64,
}

impl<'g> Site<'g> {
    /// Makes topics, database and tenants, and starts two instances of each stage.
    pub(crate) async fn start(
        grounds: &'g Grounds,
        name: &str,
        (rate, rng): (u32, &mut ChaCha8Rng),
    ) -> anyhow::Result<Self> {
        let folder = grounds.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let program = Program {
            binary: grounds.binary.clone(),
            folder,
        };
        configure(grounds, name, &program.folder)?;
        let mut keys = Vec::new();
        for tenant in TENANTS {
            keys.push(
                tool(&program, &["tenant", "add", tenant])
                    .await?
                    .trim()
                    .to_owned(),
            );
        }
        tool(&program, &["migrate"]).await?;
        let mut stages = Vec::new();
        for kind in Kind::ALL {
            stages.extend((1..=INSTANCES).map(|number| Stage::start(&program, kind, number)));
        }
        let producers = stages.iter().filter(|stage| stage.kind == Kind::Producer);
        let target = Target {
            producers: producers.map(Stage::url).collect(),
            keys,
            rate,
        };
        Ok(Self {
            grounds,
            name: name.to_owned(),
            program,
            stages,
            load: Load::new(target, rng.random())?,
            poison: 0,
        })
    }

    /// The instances of one stage.
    pub(crate) fn of(&self, kind: Kind) -> Vec<&Stage> {
        self.stages
            .iter()
            .filter(|stage| stage.kind == kind)
            .collect()
    }

    /// Starts one more instance.
    pub(crate) fn grow(&mut self, kind: Kind) {
        let number = self.of(kind).len() + 1;
        self.stages.push(Stage::start(&self.program, kind, number));
    }

    /// Stops the last instance that was started.
    pub(crate) async fn shrink(&mut self, kind: Kind) -> anyhow::Result<()> {
        let last = self.stages.iter().rposition(|stage| stage.kind == kind);
        let last = last.context("no instance is left")?;
        self.stages.remove(last).stop().await
    }

    /// Waits until everything that was acknowledged can be queried; nothing new is sent.
    pub(crate) async fn recover(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RECOVERY;
        self.load.pause(RECOVERY).await?;
        let (accepted, outcomes) = {
            let ledger = self.load.ledger();
            (ledger.acknowledged(), ledger.outcomes() + self.poison)
        };
        loop {
            let progress = self.books().progress().await;
            if let Ok((found, all)) = &progress
                && *found >= accepted
                && *all >= outcomes
            {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not everything is queryable after {RECOVERY:?}: {accepted} events and {outcomes} outcomes \
                 were acknowledged, there are {progress:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Judges until all is well or it cannot become so any more.
    pub(crate) async fn judge(&self) -> anyhow::Result<Verdict> {
        let ledger: Ledger = self.load.ledger().clone();
        ensure!(
            ledger.wrong.is_empty(),
            "answers that nothing explains: {:?}",
            ledger.wrong
        );
        let deadline = Instant::now() + SETTLE;
        loop {
            let verdict = self.books().judge(&ledger).await?;
            if verdict.is_clean() || Instant::now() >= deadline {
                return Ok(verdict);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// `chatpulse audit`: the books balance, and Kafka has nothing that the store has not.
    pub(crate) async fn audit(&self) -> anyhow::Result<()> {
        let report = tool(&self.program, &["audit", "--json"]).await?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        ensure!(
            report["balanced"] == true && report["outcomes_not_stored_yet"] == 0,
            "chatpulse audit: {report:#}"
        );
        Ok(())
    }

    fn books(&self) -> Books<'_> {
        Books {
            store: &self.grounds.store,
            database: &self.name,
            poison: self.poison,
        }
    }

    /// Stops everything in order; each stage must end cleanly.
    pub(crate) async fn stop(self) -> anyhow::Result<Ledger> {
        let ledger = self.load.stop().await;
        let ends = self.stages.into_iter().map(Stage::stop);
        for end in futures::future::join_all(ends).await {
            end?;
        }
        Ok(ledger)
    }
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
fn configure(grounds: &Grounds, name: &str, folder: &Path) -> anyhow::Result<()> {
    let text = format!(
        r#"[kafka]
bootstrap = "{bootstrap}"
partitions = {PARTITIONS}
replication = {replication}
prefix = "{name}."

[kafka.overrides]
"session.timeout.ms" = "2000"
"heartbeat.interval.ms" = "300"
"socket.timeout.ms" = "5000"
"reconnect.backoff.max.ms" = "500"

[clickhouse]
url = "{url}"
database = "{name}"

[producer]
tenants_file = "tenants.toml"
confirm_timeout = "5s"

[sink]
batch_rows = 150
batch_wait = "30ms"
"#,
        bootstrap = grounds.kafka.bootstrap(),
        replication = grounds.kafka.brokers(),
        url = grounds.store.url(),
    );
    std::fs::write(folder.join("chatpulse.toml"), text)?;
    Ok(())
}

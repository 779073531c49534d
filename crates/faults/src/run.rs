//! Runs scenarios one after the other on the same Kafka and store, each in an installation of its own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

use crate::{
    RunArgs,
    kafka::Kafka,
    output::note,
    scenarios::{Fault, KILLS_PER_ROUND, SCENARIOS, Scenario},
    site::{Grounds, Site},
    store::Store,
};

/// Events that flow before a fault is made.
const BEFORE: u64 = 200;
const FLOW: Duration = Duration::from_secs(60);

/// What came of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Faults made.
    pub(crate) runs: u32,
    pub(crate) acknowledged: u64,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    /// From the end of each fault until everything acknowledged was queryable.
    pub(crate) recoveries: Vec<Duration>,
    /// What went wrong otherwise.
    pub(crate) failure: Option<String>,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.failure.is_none() && self.lost + self.doubled == 0
    }
}

/// True where nothing was lost or doubled, and nothing else failed.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<bool> {
    let chosen = choose(&args.only)?;
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let folder = match &args.keep {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("chatpulse-faults-{seed:x}")),
    };
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    note(&format!(
        "seed {seed}; logs and data in {}",
        folder.display()
    ));

    let grounds = Grounds {
        kafka: Kafka::start(&folder.join("kafka"), 1).await?,
        store: Store::start(beside("faults-store")?, &folder.join("store")).await?,
        binary: binary_under_test(&args, &folder)?,
        folder: folder.clone(),
    };
    note("Kafka and the store answer");
    let mut is_good = true;
    for scenario in chosen {
        let outcome = scene(&grounds, scenario, (&args, seed)).await;
        if !outcome.is_good() {
            is_good = false;
            note(&format!(
                "FAILED: {}; repeat it with `run --only {} --seed {seed}`",
                scenario.title, scenario.name
            ));
        }
    }
    drop(grounds);
    if is_good && args.keep.is_none() {
        std::fs::remove_dir_all(&folder)?;
    } else {
        note(&format!("logs and data are in {}", folder.display()));
    }
    Ok(is_good)
}

fn choose(only: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    for name in only {
        ensure!(
            SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name:?}; `list` names them"
        );
    }
    let is_chosen =
        |scenario: &&Scenario| only.is_empty() || only.iter().any(|n| n == scenario.name);
    Ok(SCENARIOS.iter().filter(is_chosen).collect())
}

/// One scenario, in rounds, in an installation of its own.
async fn scene(grounds: &Grounds, scenario: &Scenario, (args, seed): (&RunArgs, u64)) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(error) = rounds(grounds, scenario, (args, seed), &mut outcome).await {
        outcome.failure = Some(format!("{error:#}"));
        note(&format!("{}: {error:#}", scenario.name));
    }
    outcome
}

async fn rounds(
    grounds: &Grounds,
    scenario: &Scenario,
    (args, seed): (&RunArgs, u64),
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    // Each scenario has a schedule of its own, whichever others run.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let stream = Sha256::digest(scenario.name);
    rng.set_stream(u64::from_le_bytes(std::array::from_fn(|i| stream[i])));
    let name = scenario.name.replace('-', "_");
    let mut site = Site::start(grounds, &name, (args.rate, &mut rng)).await?;
    let rounds = match scenario.fault {
        Fault::Kill(_) => args.kills.div_ceil(4).div_ceil(KILLS_PER_ROUND),
    };
    for round in 1..=rounds {
        site.load.resume();
        site.load.flow(BEFORE, FLOW).await?;
        outcome.runs += scenario.fault.make(&mut site, &mut rng).await?;
        let ended = Instant::now();
        site.recover().await?;
        let recovery = ended.elapsed();
        outcome.recoveries.push(recovery);
        let verdict = site.judge().await?;
        outcome.acknowledged = site.load.ledger().acknowledged();
        outcome.lost += verdict.lost.len() + verdict.foreign.len();
        outcome.doubled += verdict.doubled.len();
        note(&format!(
            "{} {round}/{rounds}: {} faults, {} events acknowledged, recovered in {:.1} s, lost {}, doubled {}",
            scenario.name,
            outcome.runs,
            outcome.acknowledged,
            recovery.as_secs_f64(),
            verdict.lost.len(),
            verdict.doubled.len(),
        ));
        ensure!(verdict.is_clean(), "{verdict}");
        site.audit().await?;
    }
    let failures: usize = site.stages.iter().map(|stage| stage.failures()).sum();
    if failures > 0 {
        note(&format!(
            "{}: stages ended by themselves {failures} times",
            scenario.name
        ));
    }
    site.stop().await?;
    Ok(())
}

/// A copy, so that a build that goes on meanwhile changes nothing.
fn binary_under_test(args: &RunArgs, folder: &Path) -> anyhow::Result<PathBuf> {
    let binary = match &args.chatpulse {
        Some(binary) => binary.clone(),
        None => beside("chatpulse")?,
    };
    let copy = folder.join("chatpulse");
    std::fs::copy(&binary, &copy).with_context(|| {
        format!(
            "cannot copy {}: build it with cargo build -p chatpulse",
            binary.display()
        )
    })?;
    Ok(copy)
}

/// Another program of the same build.
fn beside(program: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(program))
}

/// Another one for each run, short enough to be typed.
fn fresh_seed() -> u64 {
    u64::from(jiff::Timestamp::now().subsec_nanosecond().unsigned_abs()) % 1_000_000
}

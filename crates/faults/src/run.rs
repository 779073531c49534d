//! Runs scenarios one after the other on the same Kafka and store, each in an installation of its own.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chatpulse_faults::proxy::tcp::Mode;
use futures::StreamExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

use crate::{
    RunArgs,
    output::{self, note},
    receiver::Receiver,
    report::{Outcome, Report},
    scenarios::{Fault, KILLS_PER_ROUND, SCENARIOS, Scenario},
    site::{Grounds, Site},
};

/// Events that flow before a fault is made.
const BEFORE: u64 = 200;
const FLOW: Duration = Duration::from_secs(60);
/// Free disk without which nothing is started: about what the full suite writes.
const DISK: u64 = 3 << 30;

/// True where nothing was lost or doubled, and nothing else failed.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let folder = match &args.keep {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("chatpulse-faults-{seed}")),
    };
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    note(&format!(
        "seed {seed}; logs and data in {}",
        folder.display()
    ));
    ensure_disk(&folder)?;
    let binary = binary_under_test(&args, &folder)?;
    let started = Instant::now();
    let mut report = Report::default();
    let chosen = choose(&args)?;
    let groups = chosen.chunk_by(|one, other| one.ground == other.ground);
    let played = groups.map(|group| play(group, (&args, seed), (&folder, &binary)));
    let mut played = futures::stream::iter(played).buffered(args.jobs.into());
    while let Some(group) = played.next().await {
        for (scenario, outcome) in group? {
            report.add(&scenario, outcome);
        }
    }
    report.took = started.elapsed();
    output::result(&report.table());
    if let Some(path) = &args.report {
        std::fs::write(path, report.page(&args, seed))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if report.is_good() && args.keep.is_none() {
        std::fs::remove_dir_all(&folder)?;
    } else {
        note(&format!("logs and data are in {}", folder.display()));
    }
    Ok(report.is_good())
}

/// Scenarios that stand on the same ground, one after the other on one Kafka and one store.
async fn play(
    group: &[Scenario],
    (args, seed): (&RunArgs, u64),
    (folder, binary): (&Path, &Path),
) -> anyhow::Result<Vec<(Scenario, Outcome)>> {
    let ground = group[0].ground;
    let folder = folder.join(format!("{ground:?}"));
    let grounds = Grounds::start(ground, folder, binary.to_owned()).await?;
    note(&format!("{ground:?}: Kafka and the store answer"));
    let mut played = Vec::new();
    for scenario in group {
        let mut outcome = Outcome::default();
        let mut ended = scene(&grounds, scenario, (args, seed), &mut outcome).await;
        if ended.is_ok() {
            // Tables of forty installations would take all the memory that the store may use.
            ended = grounds.store.forget(&database(scenario)).await;
        }
        if let Err(error) = ended {
            note(&format!(
                "FAILED {}: {error:#}\nrepeat it with `run --suite {} --only {} --seed {seed}`; its logs are in {}",
                scenario.name,
                args.suite.name(),
                scenario.name,
                grounds.folder.join(database(scenario)).display()
            ));
            outcome.failure = Some(format!("{error:#}"));
            ensure_disk(&grounds.folder)?;
            // What it left broken must not fail those after it.
            grounds.kafka.traffic(Mode::Pass);
            grounds.kafka.restart(None).await?;
            grounds.store.kill().await?;
            grounds.store.restart().await?;
        }
        played.push((*scenario, outcome));
    }
    Ok(played)
}

/// Without room Kafka ends, and everything then looks lost.
fn ensure_disk(folder: &Path) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    ensure!(
        free >= DISK,
        "{} has {} MiB of free disk, and the scenarios need {}: free some, or name another folder with --keep",
        folder.display(),
        free >> 20,
        DISK >> 20
    );
    Ok(())
}

fn choose(args: &RunArgs) -> anyhow::Result<Vec<Scenario>> {
    let only = &args.only;
    for name in only {
        ensure!(
            SCENARIOS.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name:?}; `list` names them"
        );
    }
    let is_chosen = |scenario: &&Scenario| match only.is_empty() {
        true => scenario.is_in(args.suite),
        false => only.iter().any(|name| name == scenario.name),
    };
    let mut chosen: Vec<Scenario> = SCENARIOS.iter().filter(is_chosen).copied().collect();
    chosen.sort_by_key(|scenario| scenario.ground);
    Ok(chosen)
}

/// Name of a scenario's database, and of its folder.
fn database(scenario: &Scenario) -> String {
    scenario.name.replace('-', "_")
}

/// One scenario, in rounds, in an installation of its own.
async fn scene(
    grounds: &Grounds,
    scenario: &Scenario,
    (args, seed): (&RunArgs, u64),
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    // Each scenario has a schedule of its own, whichever others run.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let stream = Sha256::digest(scenario.name);
    rng.set_stream(u64::from_le_bytes(std::array::from_fn(|i| stream[i])));
    let receiver = match scenario.delivers() {
        true => Some(Receiver::start().await?),
        false => None,
    };
    let site = Site::start(
        (grounds, receiver),
        &database(scenario),
        (args.rate, &mut rng),
    )
    .await?;
    let rounds = match (scenario.fault, args.suite) {
        (Fault::Kill(_), _) => args
            .kills
            .div_ceil(Scenario::that_kill(args.suite))
            .div_ceil(KILLS_PER_ROUND),
        _ => 1,
    };
    for round in 1..=rounds {
        site.load.resume();
        site.load.flow(BEFORE, FLOW).await?;
        if let Some(text) = scenario.fault.stops_with() {
            return stop(&site, (scenario, text), &mut rng, outcome).await;
        }
        let (faults, kills) = scenario.fault.make(&site, args.suite, &mut rng).await?;
        outcome.runs += faults;
        outcome.kills += kills;
        let ended = Instant::now();
        // What does not come at all is lost, and is judged as such.
        let recovered = site.recover().await;
        let recovery = ended.elapsed();
        let ledger = site.load.ledger().clone();
        let verdict = site.judge(&ledger).await?;
        outcome.acknowledged = ledger.acknowledged();
        outcome.lost += verdict.lost.len() + verdict.foreign.len();
        outcome.doubled += verdict.doubled.len();
        note(&format!(
            "{} {round}/{rounds}: {faults} faults, {kills} kills, {} events acknowledged in all, recovered in {:.1} s, lost {}, doubled {}",
            scenario.name,
            outcome.acknowledged,
            recovery.as_secs_f64(),
            verdict.lost.len(),
            verdict.doubled.len(),
        ));
        if let Some((requests, deliveries)) = site.received() {
            note(&format!(
                "{}: {requests} requests for {deliveries} deliveries came to the receiver",
                scenario.name
            ));
        }
        ensure!(verdict.is_clean(), "{verdict}");
        recovered?;
        outcome.recoveries.push(recovery);
        site.audit().await?;
    }
    outcome.failures = site.failures();
    outcome.memory = site.memory();
    site.stop().await
}

/// A fault after which a stage must stop and say why, and what was stored before stays as it was.
async fn stop(
    site: &Site<'_>,
    (scenario, text): (&Scenario, &str),
    rng: &mut ChaCha8Rng,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    site.recover().await?;
    let ledger = site.load.ledger().clone();
    let faults = scenario.fault.break_off(site, rng).await?;
    site.says(text).await?;
    // An init system starts it again, and it must not go on as if nothing had been.
    site.stops_again().await?;
    let verdict = site.judge(&ledger).await?;
    outcome.runs += faults;
    outcome.acknowledged = ledger.acknowledged();
    outcome.lost += verdict.lost.len() + verdict.foreign.len();
    outcome.doubled += verdict.doubled.len();
    note(&format!(
        "{}: a stage stopped and said {text:?}",
        scenario.name
    ));
    ensure!(verdict.is_clean(), "{verdict}");
    Ok(())
}

/// A copy, so that a build that goes on meanwhile changes nothing.
fn binary_under_test(args: &RunArgs, folder: &Path) -> anyhow::Result<PathBuf> {
    let binary = match &args.chatpulse {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("chatpulse"),
    };
    let copy = folder.join("chatpulse");
    std::fs::copy(&binary, &copy).with_context(|| {
        format!(
            "cannot copy {}: build it with `cargo build -p chatpulse`",
            binary.display()
        )
    })?;
    Ok(copy)
}

/// Another one for each run, short enough to be typed.
fn fresh_seed() -> u64 {
    u64::from(jiff::Timestamp::now().subsec_nanosecond().unsigned_abs()) % 1_000_000
}

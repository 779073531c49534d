//! Guards the hot paths against growing dearer: instructions per event, which are the same on a busy machine.
//!
//! ```text
//! for each path: valgrind --tool=callgrind ─ this program, one path ─► instructions ─ against ─► baseline.toml
//! ```
//!
//! `cargo run --release -p chatpulse-instructions` compares and fails where a path costs more than 5 % over its
//! baseline; with `-- --pin` it writes the baseline anew. Counted is what callgrind sees: a processor of Haswell's
//! kind, so that newer instructions (AVX-512, SHA) do not make machines differ. Times are criterion's business
//! (`--bench model`).

mod paths;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, ExitCode},
    sync::Mutex,
};

use anyhow::{Context as _, Result, ensure};

/// What a path may cost over its baseline: the compiler's whims, and hash tables that are seeded anew.
const TOLERANCE: f64 = 0.05;
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.toml");
const PIN: &str = "cargo run --release -p chatpulse-instructions -- --pin";
/// Valgrind's pattern for `paths::counted_by_callgrind`, however its name is mangled.
const TOGGLE: &str = "--toggle-collect=*counted_by_callgrind*";

/// Instructions per event of each path.
type Costs = BTreeMap<String, u64>;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["path", name] => {
            say(&paths::run(name)?.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        ["--pin"] => {
            std::fs::write(BASELINE, toml::to_string(&count()?)?)?;
            say(&format!("written: {BASELINE}"))?;
            Ok(ExitCode::SUCCESS)
        }
        [] => compare(&baseline(Path::new(BASELINE))?, &count()?),
        _ => anyhow::bail!("no arguments, or --pin"),
    }
}

fn baseline(path: &Path) -> Result<Costs> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("no {}: make it with `{PIN}`", path.display()))?;
    Ok(toml::from_str(&text)?)
}

fn compare(baseline: &Costs, now: &Costs) -> Result<ExitCode> {
    say(&format!(
        "{:<14}{:>12}{:>12}{:>9}",
        "instructions", "baseline", "now", ""
    ))?;
    let mut is_dearer = false;
    for (name, now) in now {
        let before = baseline.get(name).copied();
        let before =
            before.with_context(|| format!("{name} has no baseline: give it one with `{PIN}`"))?;
        let change = *now as f64 / before as f64 - 1.0;
        let verdict = match change {
            change if change > TOLERANCE => "  TOO DEAR",
            change if change < -TOLERANCE => "  cheaper: pin it",
            _ => "",
        };
        is_dearer |= change > TOLERANCE;
        say(&format!(
            "{name:<14}{before:>12}{now:>12}{:>+8.1}%{verdict}",
            100.0 * change
        ))?;
    }
    if !is_dearer {
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "\nA hot path costs over {:.0} % more instructions per event than its baseline. Find out why\n\
         (valgrind --tool=callgrind {TOGGLE} PROGRAM path NAME; callgrind_annotate) and mend it; or, where\n\
         what it buys is worth it, say so in the commit and pin the new figures: {PIN}",
        100.0 * TOLERANCE
    ))?;
    Ok(ExitCode::FAILURE)
}

/// Counts all paths, a few at a time.
fn count() -> Result<Costs> {
    let costs = Mutex::new(Costs::new());
    let waiting = Mutex::new(paths::PATHS.iter());
    let lock = || {
        waiting
            .lock()
            .map_err(|_| anyhow::anyhow!("another path failed"))
    };
    let work = || -> Result<()> {
        loop {
            // Not in the condition: the lock would be held all along.
            let next = lock()?.next();
            let Some((name, _)) = next else { return Ok(()) };
            let cost = count_one(name)?;
            if let Ok(mut costs) = costs.lock() {
                costs.insert((*name).to_owned(), cost);
            }
        }
    };
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            let ended = worker.join();
            ended.map_err(|_| anyhow::anyhow!("a worker panicked"))?
        })
    })?;
    costs
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a worker panicked"))
}

fn count_one(name: &str) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", TOGGLE])
        .arg(std::env::current_exe()?)
        .args(["path", name])
        .output()
        .context("cannot run valgrind: install it (Debian's package valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {said}");
    let events: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let instructions: u64 = collected
        .with_context(|| format!("{name}: valgrind has counted nothing: {said}"))?
        .1
        .trim()
        .parse()?;
    ensure!(
        instructions > events,
        "{name}: valgrind has not found what to count"
    );
    Ok(instructions / events)
}

fn say(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

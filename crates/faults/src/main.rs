//! The fault harness: chatpulse as processes on Apache Kafka, broken on purpose, and judged.
//!
//! ```text
//! load ──► producers ──► Kafka ──► enrichers ──► Kafka ──► sinks ──► store
//!   │                      ▲ proxies, kill -9, SIGSTOP, … │ ▲          │
//!   │                                                     └──► deliverers ──► receiver
//!   └── acknowledged ──────────────► judge ◄───────────────────────────┴────────┘
//! ```

mod judge;
mod kafka;
mod load;
mod output;
mod process;
mod receiver;
mod report;
mod run;
mod scenarios;
mod site;
mod stage;
mod store;

use std::{future::Future, path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Breaks chatpulse on Apache Kafka and proves that nothing acknowledged is lost or doubled.
#[derive(Debug, Parser)]
#[command(arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the faults and judges. Exit code 1 where something was lost or doubled.
    #[command(after_help = "Examples:
  cargo run -p chatpulse-faults -- run --kills 200
  cargo run -p chatpulse-faults -- run --suite full --kills 1000 --report docs/faults.md
  cargo run -p chatpulse-faults -- run --only kill-sink --seed 7")]
    Run(RunArgs),
    /// Lists the faults.
    List,
}

/// `run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// How long to go on.
    #[arg(long, default_value = "ci")]
    suite: scenarios::Suite,
    /// kill -9 in the scenarios that do nothing else.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Repeats the schedule of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this scenario; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Writes the table of runs to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Items sent in a second, about.
    #[arg(long, default_value_t = 600)]
    rate: u32,
    /// Grounds (a Kafka and a store each) that are used at a time; there are four.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    jobs: u8,
    /// The binary under test (default: the one beside this program).
    #[arg(long, value_name = "PATH")]
    chatpulse: Option<PathBuf>,
    /// Where logs and data are kept; kept after the run (default: a temporary folder, kept only
    /// where something failed).
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// On Ctrl-C or SIGTERM all processes that were started end with this one.
async fn stopped_by_signal<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => bail!("stopped by a signal"),
        _ = tokio::signal::ctrl_c() => bail!("stopped by a signal"),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Parts of the embedded engines bring rustls without a provider, and then every HTTP client
    // wants one. Nobody else installs one in this process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match cli.command {
        Command::List => {
            for scenario in scenarios::SCENARIOS {
                output::result(&format!("{:<24} {}", scenario.name, scenario.title));
            }
            Ok(true)
        }
        Command::Run(args) => tokio::runtime::Runtime::new()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(stopped_by_signal(run::run(args)))),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

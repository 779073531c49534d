//! chatpulse: chat-widget events in, conversation metrics and delivery health out.
//!
//! One binary with a subcommand for each stage; `serve` and `demo` run all of them in one process on
//! the embedded broker and ClickHouse. Configuration, logging and signals live here and nowhere else.

mod bench;
mod commands;
mod config;
mod deliveries;
#[cfg(feature = "embedded")]
mod demo;
mod destinations;
mod docs;
mod lag;
#[cfg(feature = "embedded")]
mod local;
mod output;
mod rejected;
mod snippet;
mod stages;
mod status;
mod tokens;
mod wire;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Every event is some small allocations on several threads, which this one is quickest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Chat-widget analytics: events of five vendors in, conversation metrics and delivery health out.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// Configuration file (default: chatpulse.toml, where it exists). Variables such as
    /// CHATPULSE__KAFKA__BOOTSTRAP override it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines look, on standard error. RUST_LOG sets what is logged.
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "embedded")]
    Demo(demo::DemoArgs),
    #[cfg(feature = "embedded")]
    Serve(commands::ServeArgs),
    Docs(docs::DocsArgs),
    Bench(bench::BenchArgs),
    #[command(flatten)]
    Other(commands::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.log, &cli.command);
    choose_tls_provider();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start the async runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // The whole chain, once.
            output::note(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// False where a check was made and failed.
async fn run(cli: Cli) -> anyhow::Result<bool> {
    let config = config::load(cli.config.as_deref())?;
    let stop = stop_on_signal()?;
    match cli.command {
        Command::Bench(args) => bench::run(config, cli.config, args, stop).await,
        Command::Docs(args) => docs::run(&config, &args).map(|()| true),
        #[cfg(feature = "embedded")]
        Command::Demo(args) => demo::run(config, args, stop).await,
        #[cfg(feature = "embedded")]
        Command::Serve(args) => commands::serve(config, args, stop).await.map(|()| true),
        Command::Other(command) => commands::run(config, command, stop).await,
    }
}

/// Parts that are only heard from warnings up, unless they are named.
const QUIET: &str = "tansu_sans_io=warn,tansu_storage=warn,tansu_service=warn,tansu_broker=warn,\
                     tansu_auth=warn,tansu_schema=warn,rama=warn";

/// Log lines go to standard error; RUST_LOG decides which. The own lines of demo and benchmark are enough
/// for their viewer, so they log from warnings up.
fn start_logging(format: LogFormat, command: &Command) {
    let default = match command {
        #[cfg(feature = "embedded")]
        Command::Demo(_) => "warn",
        Command::Bench(_) => "warn",
        _ => "warn,chatpulse=info",
    };
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| default.to_owned());
    // The embedded broker's library tells of every number it writes, at INFO. What comes later in
    // the list wins, so that it can still be asked for by name.
    let filter =
        EnvFilter::try_new(format!("{QUIET},{asked}")).unwrap_or_else(|_| EnvFilter::new(default));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Parts of the embedded broker bring rustls without a provider of cryptography, and then every HTTP
/// client of the process wants one, TLS or not.
fn choose_tls_provider() {
    #[cfg(feature = "embedded")]
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider was installed before");
    }
}

/// Cancelled by Ctrl-C or SIGTERM. The second one ends the process at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let mut wait = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        wait().await;
        stopped.cancel();
        wait().await;
        output::note("stopped at once; what was acknowledged is on disk");
        std::process::exit(130);
    });
    Ok(stop)
}

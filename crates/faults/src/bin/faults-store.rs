//! The embedded ClickHouse as a process of its own, to be killed, stopped and started again.
//!
//! ```text
//! faults-store --listen 127.0.0.1:0 --data DIR   ─► prints its URL when it answers, runs until SIGTERM
//! ```

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// A ClickHouse server for fault tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to serve HTTP; port 0 takes any free one.
    #[arg(long)]
    listen: SocketAddr,
    /// Where tables are kept; one process at a time.
    #[arg(long)]
    data: PathBuf,
    /// The engine's limit of memory, in MiB.
    #[arg(long, default_value_t = 1_024)]
    memory_mib: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Before the start, so that a signal during it is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = ClickHouse::start(ClickHouseConfig {
        data_dir: arguments.data,
        listen: arguments.listen,
        password: None,
        library: None,
        memory_limit_bytes: Some(arguments.memory_mib.saturating_mul(1024 * 1024)),
    })
    .await
    .context("starting ClickHouse")?;
    {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", server.url())?;
        output.flush()?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.shutdown().await.context("stopping ClickHouse")
}

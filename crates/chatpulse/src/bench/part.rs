//! One part of the system under test, as a process of its own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::{commands, config::Config};

/// `chatpulse bench part`
#[derive(Debug, Args)]
pub(super) struct PartArgs {
    /// Which.
    name: PartName,
    /// Where an engine keeps its data.
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PartName {
    Producer,
    Enricher,
    Sink,
    Broker,
    Clickhouse,
}

/// Runs until `stop`, or until the benchmark that started it is gone, however that ended.
pub(super) async fn run(
    config: Config,
    args: PartArgs,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    end_with_parent();
    let stage = match args.name {
        PartName::Producer => commands::Command::Producer,
        PartName::Enricher => commands::Command::Enricher,
        PartName::Sink => commands::Command::Sink,
        PartName::Broker => return broker(args.data, stop).await,
        PartName::Clickhouse => return clickhouse(args.data, stop).await,
    };
    commands::run(config, stage, stop).await
}

/// Nothing is left running when the benchmark is killed.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        let told = set_parent_process_death_signal(Some(Signal::TERM));
        if told.is_err() || getppid().is_none_or(|parent| parent.is_init()) {
            tracing::warn!("this process may outlive the benchmark that started it");
        }
    }
}

#[cfg(feature = "embedded")]
const ANY_PORT: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Prints where clients connect, then serves.
#[cfg(feature = "embedded")]
async fn broker(data_dir: PathBuf, stop: CancellationToken) -> anyhow::Result<bool> {
    use chatpulse_embedded::broker::{Broker, BrokerConfig};
    let broker = Broker::start(BrokerConfig {
        data_dir,
        listen: ANY_PORT,
    })
    .await?;
    crate::output::result(&broker.bootstrap());
    tokio::select! {
        () = stop.cancelled() => {}
        () = broker.died() => anyhow::bail!("the embedded broker has died"),
    }
    broker.shutdown().await?;
    Ok(true)
}

/// Prints its URL, then serves.
#[cfg(feature = "embedded")]
async fn clickhouse(data_dir: PathBuf, stop: CancellationToken) -> anyhow::Result<bool> {
    use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
    let server = ClickHouse::start(ClickHouseConfig {
        data_dir,
        listen: ANY_PORT,
        password: None,
        library: None,
        memory_limit_bytes: None,
    })
    .await?;
    crate::output::result(&server.url());
    stop.cancelled().await;
    server.shutdown().await?;
    Ok(true)
}

#[cfg(not(feature = "embedded"))]
async fn broker(_: PathBuf, _: CancellationToken) -> anyhow::Result<bool> {
    anyhow::bail!("this binary has no embedded broker: use --external")
}

#[cfg(not(feature = "embedded"))]
async fn clickhouse(_: PathBuf, _: CancellationToken) -> anyhow::Result<bool> {
    anyhow::bail!("this binary has no embedded ClickHouse: use --external")
}

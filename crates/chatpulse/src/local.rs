//! All stages in one process on the embedded broker and ClickHouse: what `serve` and `demo` run.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use chatpulse_embedded::{
    broker::{Broker, BrokerConfig},
    clickhouse::{ClickHouse, ClickHouseConfig},
};
use chatpulse_kafka::Admin;
use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, stages::Stages, status};

/// Where the parts of a single machine listen and keep their data.
#[derive(Debug, Clone, Args)]
pub(crate) struct LocalArgs {
    /// Folder of all data: broker, ClickHouse, checkpoints, tenants.
    #[arg(long, value_name = "DIR", default_value = "chatpulse-data")]
    pub(crate) data_dir: PathBuf,
    /// Address of the producer (events come in here).
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub(crate) producer: SocketAddr,
    /// Address of reports and JSON API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) dashboard: SocketAddr,
    /// Address of ClickHouse's HTTP interface.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8123")]
    pub(crate) clickhouse: SocketAddr,
    /// Address of the Kafka broker.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9092")]
    pub(crate) kafka: SocketAddr,
}

/// The embedded broker takes tens of milliseconds for a batch (see the producer's `linger`).
const LINGER: Duration = Duration::from_millis(25);
/// Whoever runs all on one machine wants to see what they sent.
const ROLL_UP_INTERVAL: Duration = Duration::from_secs(2);
/// As many inserts as one partition brings are few (see [`Kafka::for_embedded`](crate::config::Kafka::for_embedded)).
pub(crate) const BATCH_WAIT: Duration = Duration::from_millis(200);
/// How long each part may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The folder of all data, in the hands of this process alone.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held as long as this process owns the folder.
    _lock: File,
}

impl DataDir {
    /// Makes the folder where it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot create the data folder {}", path.display()))?;
        let file = path.join("lock");
        let lock =
            File::create(&file).with_context(|| format!("cannot open {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "another chatpulse works in {}: stop it, or give another folder with --data-dir",
                path.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", file.display()))
            }
        }
    }

    /// The tenants of this machine.
    pub(crate) fn tenants_file(&self) -> PathBuf {
        self.path.join("tenants.toml")
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Everything, running.
pub(crate) struct Local {
    pub(crate) stages: Stages,
    pub(crate) producer: SocketAddr,
    dashboard: SocketAddr,
    pub(crate) enricher_metrics: chatpulse_enricher::Metrics,
    pub(crate) sink_metrics: chatpulse_sink::Metrics,
    broker: Broker,
    clickhouse: ClickHouse,
    intake: JoinSet<anyhow::Result<()>>,
    stop_intake: CancellationToken,
    rest: JoinSet<anyhow::Result<()>>,
    stop_rest: CancellationToken,
    _folder: DataDir,
}

impl Local {
    /// Starts broker, ClickHouse and all stages. The tenants file is made where it is missing.
    pub(crate) async fn start(
        mut config: Config,
        args: &LocalArgs,
        folder: DataDir,
    ) -> anyhow::Result<Self> {
        let producer = status::listen("--producer", args.producer).await?;
        let dashboard = status::listen("--dashboard", args.dashboard).await?;
        let broker = Broker::start(BrokerConfig {
            data_dir: folder.file("kafka"),
            listen: args.kafka,
        })
        .await
        .context("cannot start the embedded Kafka broker (--kafka moves it)")?;
        let clickhouse = ClickHouse::start(ClickHouseConfig {
            data_dir: folder.file("clickhouse"),
            listen: args.clickhouse,
            password: None,
            library: None,
            memory_limit_bytes: None,
        })
        .await
        .context("cannot start the embedded ClickHouse (--clickhouse moves it)")?;

        config.kafka.bootstrap = broker.bootstrap();
        config.kafka.for_embedded();
        config.sink.batch_wait = BATCH_WAIT;
        config.clickhouse.url = clickhouse.url();
        config.clickhouse.password = None;
        config.producer.linger = LINGER;
        config.enricher.linger = LINGER;
        config.deliverer.linger = LINGER;
        config.enricher.checkpoints = folder.file("checkpoints").to_string_lossy().into_owned();
        config.reports.rollup_interval = ROLL_UP_INTERVAL;
        config.producer.tenants_file = folder.tenants_file();
        if !config.producer.tenants_file.exists() {
            std::fs::write(&config.producer.tenants_file, "")?;
        }
        let stages = Stages::new(config).await?;
        tokio::try_join!(stages.ensure_topics(), stages.migrate())?;

        let enricher_metrics = chatpulse_enricher::Metrics::new(&stages.registry)?;
        let sink_metrics = chatpulse_sink::Metrics::new(&stages.registry)?;
        let (stop_intake, stop_rest) = (CancellationToken::new(), CancellationToken::new());
        let (mut intake, mut rest) = (JoinSet::new(), JoinSet::new());
        let addresses = (producer.local_addr()?, dashboard.local_addr()?);
        intake.spawn(stages.clone().produce(Some(producer), stop_intake.clone()));
        rest.spawn(
            stages
                .clone()
                .enrich(enricher_metrics.clone(), stop_rest.clone()),
        );
        rest.spawn(stages.clone().sink(sink_metrics.clone(), stop_rest.clone()));
        let mut lag = vec![stages.enricher_lag()?, stages.sink_lag_watch()?];
        for watch in lag.clone() {
            let (admin, stop) = (Admin::new(&stages.kafka("lag"))?, stop_rest.clone());
            rest.spawn(async move { watch.run(&admin, &stop).await });
        }
        let deliverer = stages.deliverer_lag()?;
        lag.push(deliverer.clone());
        rest.spawn(
            stages
                .clone()
                .deliver_once_needed((sink_metrics.clone(), deliverer), stop_rest.clone()),
        );
        rest.spawn(stages.clone().report(dashboard, lag, stop_rest.clone()));
        Ok(Self {
            stages,
            producer: addresses.0,
            dashboard: addresses.1,
            enricher_metrics,
            sink_metrics,
            broker,
            clickhouse,
            intake,
            stop_intake,
            rest,
            stop_rest,
            _folder: folder,
        })
    }

    /// Where to look.
    pub(crate) fn banner(&self) -> String {
        format!(
            "chatpulse is running\n\
             \x20 events in    http://{}/v1/events/{{source}}\n\
             \x20 reports      http://{}/\n\
             \x20 ClickHouse   {}/   (database {})\n\
             \x20 Kafka        {}\n\
             \x20 tenants      {}\n\
             Ctrl-C stops; the next start goes on with the same data.",
            self.producer,
            self.dashboard,
            self.clickhouse.url(),
            self.stages.config.clickhouse.database,
            self.broker.bootstrap(),
            self.stages.config.producer.tenants_file.display(),
        )
    }

    /// Resolves when a stage ends by itself, which none should.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.intake.join_next() => ended,
            Some(ended) = self.rest.join_next() => ended,
            () = self.broker.died() => {
                return anyhow!("the embedded Kafka broker has died, see the log; nothing that was confirmed is lost: start chatpulse again");
            }
            else => return anyhow!("no stage is running"),
        };
        match ended {
            Ok(Ok(())) => anyhow!("a stage ended although nobody stopped it"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error).context("a stage panicked"),
        }
    }

    /// Stops all parts in the order of the data, so that what came in is carried as far as it goes.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_intake.cancel();
        let intake = drain("producer", &mut self.intake).await;
        self.stop_rest.cancel();
        let rest = drain("stages", &mut self.rest).await;
        let clickhouse = self.clickhouse.shutdown().await.context("ClickHouse");
        let broker = self.broker.shutdown().await.context("Kafka broker");
        intake.and(rest).and(clickhouse).and(broker)
    }
}

async fn drain(what: &str, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let all = async {
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            result = result.and(ended.context("a stage panicked").and_then(|ended| ended));
        }
        result
    };
    tokio::time::timeout(STOP_DEADLINE, all)
        .await
        .with_context(|| format!("the {what} did not stop within {STOP_DEADLINE:?}"))?
}

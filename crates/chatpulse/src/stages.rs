//! From the configuration to each stage. The same stage code runs alone and all in one process.

use std::{num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use chatpulse_deliverer::{
    breaker::BreakerSettings, destination::Destination, guard::Guard, schedule::Schedule,
};
use chatpulse_enricher::Checkpoints;
use chatpulse_kafka::{
    Admin, KafkaConfig, KafkaError, PartitionLag, PartitionReader, TopicPartition, TopicSpec,
    Topics,
};
use chatpulse_model::{
    Event, RawEvent,
    avro::{Codec, Framing},
    fold::Horizon,
    source::Catalog,
};
use chatpulse_producer::Tenants;
use chatpulse_reports::{Access, AccessConfig, Reports, RollUpMetrics, StageLag, keep_rolled_up};
use chatpulse_store::{Store, StoreConfig};
use prometheus::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    destinations::{self, DestinationWatch},
    lag::LagWatch,
    status::{self, Status},
    tokens::TokenWatch,
    wire::Wire,
};

/// What every stage of this process shares.
#[derive(Clone)]
pub(crate) struct Stages {
    pub(crate) config: Arc<Config>,
    pub(crate) catalog: &'static Catalog,
    pub(crate) topics: Topics,
    wire: Arc<Wire>,
    pub(crate) registry: Registry,
    /// What the lag watches of this process have seen, for the dashboard.
    lag: watch::Sender<Vec<StageLag>>,
}

impl Stages {
    /// Checks the configuration, reads what it names, and agrees with the schema registry, if one
    /// is configured.
    pub(crate) async fn new(config: Config) -> anyhow::Result<Self> {
        let catalog = catalog(config.sources.directory.as_deref())?;
        let topics = Topics::with_prefix(&config.kafka.prefix);
        let wire = Wire::agree(config.kafka.schema_registry.as_deref(), &topics).await?;
        let stages = Self {
            config: Arc::new(config),
            catalog,
            topics,
            wire: Arc::new(wire),
            registry: Registry::new(),
            lag: watch::Sender::default(),
        };
        stages.kafka("check").validate()?;
        Ok(stages)
    }

    /// Connection to the brokers under a name that their logs show.
    pub(crate) fn kafka(&self, client: &str) -> KafkaConfig {
        KafkaConfig {
            bootstrap: self.config.kafka.bootstrap.clone(),
            client_id: format!("chatpulse-{client}"),
            overrides: (self.config.kafka.overrides.iter())
                .map(|(key, value)| (key.clone(), value.reveal().to_owned()))
                .collect(),
        }
    }

    /// The store's handle.
    pub(crate) fn store(&self) -> Store {
        Store::new(&self.config.clickhouse.store())
    }

    /// The same for reports, whose readers do not wait as long.
    fn store_of_reports(&self) -> Store {
        Store::new(&StoreConfig {
            query_timeout: self.config.reports.query_timeout,
            ..self.config.clickhouse.store()
        })
    }

    /// Creates the topics that are absent.
    pub(crate) async fn ensure_topics(&self) -> anyhow::Result<()> {
        let admin = Admin::new(&self.kafka("admin"))?;
        let ensured = async { admin.ensure_topics(&self.topic_specs(&admin).await?).await };
        ensured.await.with_context(|| self.preparing_topics())
    }

    /// The same, and adds partitions where `kafka.partitions` was raised. That of the raw records
    /// comes last: an outcome always finds its partition.
    pub(crate) async fn raise_partitions(&self) -> anyhow::Result<()> {
        let admin = Admin::new(&self.kafka("admin"))?;
        let raised = async {
            let mut specs = self.topic_specs(&admin).await?;
            specs.reverse();
            admin.raise_partitions(&specs).await
        };
        raised.await.with_context(|| self.preparing_topics())?;
        self.ensure_topics().await
    }

    fn preparing_topics(&self) -> String {
        let bootstrap = &self.config.kafka.bootstrap;
        format!("cannot prepare the topics on the Kafka brokers {bootstrap}")
    }

    /// The topics as they should be: with as many partitions as configured, or as any of them has.
    async fn topic_specs(&self, admin: &Admin) -> Result<Vec<TopicSpec>, KafkaError> {
        let kafka = &self.config.kafka;
        let mut specs = self.topics.specs(kafka.partitions(), kafka.replication);
        let mut most = 0;
        for spec in &specs {
            most = most.max(admin.partition_count(&spec.name).await?.unwrap_or(0));
        }
        for spec in &mut specs {
            spec.partitions = spec.partitions.max(most);
        }
        let partitions = kafka
            .partitions()
            .max(NonZeroU32::new(most.unsigned_abs()).unwrap_or(NonZeroU32::MIN));
        let steps = self.config.deliverer.pauses.len();
        let mut deliveries = self
            .topics
            .delivery_specs(partitions, kafka.replication, steps);
        // Topics that are there keep what they have; those of waiting deliveries have few.
        for spec in &mut deliveries {
            let there = admin.partition_count(&spec.name).await?.unwrap_or(0);
            spec.partitions = spec.partitions.max(there);
        }
        specs.extend(deliveries);
        Ok(specs)
    }

    /// Brings the store's schema and its tables of sources and tenants up to date.
    pub(crate) async fn migrate(&self) -> anyhow::Result<()> {
        let store = self.store();
        store.migrate().await.context("cannot migrate ClickHouse")?;
        store.sync_sources(self.catalog.iter()).await?;
        if self.config.producer.tenants_file.exists() {
            let tenants = Tenants::load(&self.config.producer.tenants_file)?.snapshot();
            let timeouts: Vec<_> = tenants
                .tenants()
                .map(|tenant| (tenant.id.as_str(), tenant.conversation_timeout))
                .collect();
            store.sync_tenants(&timeouts).await?;
        }
        Ok(())
    }

    /// Where events are delivered, by the tenants file.
    pub(crate) fn destinations(&self) -> anyhow::Result<Vec<Destination>> {
        Ok(destinations::destinations(
            &self.config.producer.tenants_file,
        )?)
    }

    /// Whether a deliverer has anything to do: a destination, or what is left of former ones.
    pub(crate) async fn has_deliveries(&self) -> anyhow::Result<bool> {
        if !self.destinations()?.is_empty() {
            return Ok(true);
        }
        let said = TopicPartition::new(self.topics.destinations.clone(), 0);
        let reader = (self.kafka("deliverer"), said);
        let ends = tokio::task::spawn_blocking(move || {
            PartitionReader::new(&reader.0, reader.1)?.watermarks()
        });
        Ok(ends.await??.high > 0)
    }

    /// Makes requests within the networks that the operator allows.
    pub(crate) fn http_client(&self) -> anyhow::Result<chatpulse_deliverer::http::Client> {
        let settings = &self.config.deliverer;
        let guard = Guard::new(settings.allow_networks.clone());
        Ok(chatpulse_deliverer::http::Client::new(
            guard,
            &settings.ca_files,
        )?)
    }

    /// chat.events → destinations → chat.deliveries, until `stop`.
    pub(crate) async fn deliver(
        self,
        metrics: chatpulse_deliverer::Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let watch = DestinationWatch::open(&self.config.producer.tenants_file)?;
        let settings = &self.config.deliverer;
        let pauses = settings.pauses.iter().map(|pause| pause.0).collect();
        let config = chatpulse_deliverer::Config {
            kafka: self.kafka("deliverer"),
            topics: self.topics.clone(),
            group: self.deliverer_group(),
            destinations: watch.destinations(),
            client: self.http_client()?,
            schedule: Schedule::new(pauses)
                .context("deliverer.pauses must be 1 to 12, each longer than the one before")?,
            breaker: BreakerSettings {
                failures: settings.breaker_failures.get(),
                pause: settings.breaker_pause,
                max_pause: settings.breaker_max_pause,
            },
            disable_after: settings.disable_after,
            linger: settings.linger,
            events: Arc::clone(&self.wire.events),
            framing: self.wire.deliveries_framing,
        };
        tokio::select! {
            ended = chatpulse_deliverer::run(config, metrics, stop) => ended.context("deliverer"),
            never = watch.run(self.config.producer.tenants_poll) => match never {},
        }
    }

    /// The same, and what it writes to the store, from when there is something to deliver: two groups of
    /// consumers that have nothing to do would cost half as much as all others at rest.
    pub(crate) async fn deliver_once_needed(
        self,
        (sink_metrics, lag): (chatpulse_sink::Metrics, LagWatch),
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let metrics = chatpulse_deliverer::Metrics::new(&self.registry)?;
        let mut is_needed = self.has_deliveries().await?;
        let mut told = String::new();
        while !is_needed {
            tokio::select! {
                () = tokio::time::sleep(self.config.producer.tenants_poll) => {}
                () = stop.cancelled() => return Ok(()),
            }
            is_needed = match self.destinations() {
                Ok(destinations) => !destinations.is_empty(),
                Err(error) => {
                    let text = error.to_string();
                    if told != text {
                        tracing::error!(%error, "destinations are refused, and nothing is delivered");
                        told = text;
                    }
                    false
                }
            };
        }
        let admin = Admin::new(&self.kafka("lag"))?;
        let attempts = self.clone().sink_deliveries(sink_metrics, stop.clone());
        let deliver = self.clone().deliver(metrics, stop.clone());
        tokio::try_join!(deliver, attempts, lag.run(&admin, &stop)).map(drop)
    }

    fn deliverer_group(&self) -> String {
        format!("{}chatpulse-deliverer", self.config.kafka.prefix)
    }

    /// How far the deliverers are behind the enrichers.
    pub(crate) fn deliverer_lag(&self) -> anyhow::Result<LagWatch> {
        let reads = (self.deliverer_group(), self.topics.events.clone());
        let board = self.lag.clone();
        Ok(LagWatch::new(&self.registry, "deliverer", reads, board)?.optional())
    }

    fn sink_group(&self) -> String {
        format!("{}chatpulse-sink", self.config.kafka.prefix)
    }

    fn enricher_group(&self) -> String {
        format!("{}chatpulse-enricher", self.config.kafka.prefix)
    }

    /// How far the enrichers are behind the producers.
    pub(crate) fn enricher_lag(&self) -> anyhow::Result<LagWatch> {
        let reads = (self.enricher_group(), self.topics.raw.clone());
        let board = self.lag.clone();
        Ok(LagWatch::new(&self.registry, "enricher", reads, board)?)
    }

    /// How far the sinks are behind the enrichers.
    pub(crate) fn sink_lag_watch(&self) -> anyhow::Result<LagWatch> {
        let reads = (self.sink_group(), self.topics.events.clone());
        let board = self.lag.clone();
        Ok(LagWatch::new(&self.registry, "sink", reads, board)?)
    }

    /// What the brokers say of the raw partitions: how far they reach, and how far the sinks have
    /// committed that everything is stored.
    pub(crate) async fn raw_partitions(&self) -> anyhow::Result<Vec<PartitionLag>> {
        let admin = Admin::new(&self.kafka("audit"))?;
        let group = self.sink_group();
        // The sinks' word first: what they say is stored must be there whatever comes in meanwhile.
        let stored = admin.lag(&group, &self.topics.watermark).await?;
        let mut raw = admin.lag(&group, &self.topics.raw).await?;
        for partition in &mut raw {
            let of_partition = |other: &&PartitionLag| other.partition == partition.partition;
            partition.committed = stored.iter().find(of_partition).and_then(|p| p.committed);
        }
        Ok(raw)
    }

    /// Raw records whose outcomes are not in the store with all its views yet.
    pub(crate) async fn under_way(&self) -> anyhow::Result<u64> {
        let partitions = self.raw_partitions().await?;
        Ok(partitions.iter().map(PartitionLag::records).sum())
    }

    /// Reads and writes raw records.
    pub(crate) fn raw_codec(&self) -> &Codec<RawEvent> {
        &self.wire.raw
    }

    /// Reads outcomes.
    pub(crate) fn event_codec(&self) -> Arc<Codec<Event>> {
        Arc::clone(&self.wire.events)
    }

    /// What the producer and the file replay need beside their own settings.
    pub(crate) fn producer_environment(&self) -> chatpulse_producer::Environment {
        chatpulse_producer::Environment {
            kafka: self.kafka("producer"),
            framing: self.wire.raw_framing,
            catalog: self.catalog,
            registry: self.registry.clone(),
        }
    }

    /// Settings of the producer, with the topic of this installation.
    pub(crate) fn producer_config(&self) -> chatpulse_producer::ProducerConfig {
        chatpulse_producer::ProducerConfig {
            topic: self.topics.raw.to_string(),
            ..self.config.producer.clone()
        }
    }

    /// HTTP → chat.raw, until `stop`.
    pub(crate) async fn produce(
        self,
        listener: Option<TcpListener>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let environment = self.producer_environment();
        let shutdown = async move { stop.cancelled().await };
        chatpulse_producer::run(self.producer_config(), environment, listener, shutdown)
            .await
            .context("producer")
    }

    /// chat.raw → chat.events, until `stop`.
    pub(crate) async fn enrich(
        self,
        metrics: chatpulse_enricher::Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let settings = &self.config.enricher;
        let checkpoints = Checkpoints::open(&settings.checkpoints, settings.checkpoint_interval)
            .context("enricher.checkpoints")?;
        let config = chatpulse_enricher::Config {
            kafka: self.kafka("enricher"),
            topics: self.topics.clone(),
            group: self.enricher_group(),
            horizon: Horizon {
                dedup_ms: millis(settings.dedup_window),
                idle_ms: millis(settings.conversation_window),
            },
            catalog: self.catalog,
            linger: settings.linger,
            checkpoints,
            raw: Arc::clone(&self.wire.raw),
            events: Arc::clone(&self.wire.events),
        };
        chatpulse_enricher::run(config, metrics, stop)
            .await
            .context("enricher")
    }

    /// chat.events → ClickHouse, until `stop`.
    pub(crate) async fn sink(
        self,
        metrics: chatpulse_sink::Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let config = chatpulse_sink::Config {
            kafka: self.kafka("sink"),
            topics: self.topics.clone(),
            group: self.sink_group(),
            store: self.store(),
            events: Arc::clone(&self.wire.events),
            raw: Arc::clone(&self.wire.raw),
            batch_rows: self.config.sink.batch_rows,
            batch_wait: self.config.sink.batch_wait,
        };
        chatpulse_sink::run(config, metrics, stop)
            .await
            .context("sink")
    }

    /// chat.deliveries and chat.destinations → ClickHouse, until `stop`.
    pub(crate) async fn sink_deliveries(
        self,
        metrics: chatpulse_sink::Metrics,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let config = chatpulse_sink::DeliveriesConfig {
            kafka: self.kafka("sink"),
            topics: self.topics.clone(),
            group: format!("{}chatpulse-sink-deliveries", self.config.kafka.prefix),
            store: self.store(),
            deliveries: Arc::clone(&self.wire.deliveries),
            // What is ours alone is in no registry.
            destinations: Arc::new(Codec::new(Framing::SingleObject)?),
            batch_rows: self.config.sink.batch_rows,
            batch_wait: self.config.sink.batch_wait,
        };
        chatpulse_sink::run_deliveries(config, metrics, stop)
            .await
            .context("sink of deliveries")
    }

    /// What reports are made of.
    pub(crate) fn reports(&self) -> Reports {
        Reports::new(self.store_of_reports(), self.catalog).with_lag(self.lag.subscribe())
    }

    /// Reports over HTTP, until `stop`, with the lag of the stages that run in this process.
    pub(crate) async fn report(
        self,
        listener: TcpListener,
        lag: Vec<LagWatch>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let status = Status {
            registry: self.registry.clone(),
            kafka: None,
            store: Some(self.store()),
            lag,
        };
        let settings = &self.config.reports;
        let loopback = listener.local_addr()?.ip().is_loopback();
        let tokens = TokenWatch::open(&self.config.producer.tenants_file)?;
        let access = Access::new(AccessConfig {
            tokens: tokens.tokens(),
            operator_token: (settings.operator_token.as_ref())
                .map(|secret| secret.reveal().to_owned()),
            loopback,
            requests_per_second: settings.requests_per_second,
        })
        .context("reports.operator_token")?;
        if !loopback && settings.operator_token.is_none() && tokens.tokens().borrow().is_empty() {
            tracing::warn!(
                "nobody can read the reports: no read token is in {}; make one with `chatpulse tenant token add`, or set reports.operator_token",
                self.config.producer.tenants_file.display()
            );
        }
        let router =
            chatpulse_reports::router(self.reports(), access).merge(status::router(status));
        let metrics = RollUpMetrics::new(&self.registry)?;
        tokio::select! {
            served = status::serve(router, listener, stop) => served,
            never = tokens.run(self.config.producer.tenants_poll) => match never {},
            never = keep_rolled_up(self.store(), settings.rollup_interval, metrics) => match never {},
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// The built-in sources and those of `directory`. Lives as long as the process, as every stage does.
fn catalog(directory: Option<&Path>) -> anyhow::Result<&'static Catalog> {
    let Some(directory) = directory else {
        return Ok(Catalog::builtin());
    };
    let mut texts = Vec::new();
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("sources.directory: cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            texts.push((path.display().to_string(), text));
        }
    }
    let texts = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()));
    Ok(Box::leak(Box::new(Catalog::builtin().extend(texts)?)))
}

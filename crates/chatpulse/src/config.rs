//! Configuration: one TOML file, then environment overrides, typed and checked once at start.
//!
//! A variable `CHATPULSE__KAFKA__BOOTSTRAP` overrides `bootstrap` in the section `[kafka]`. Unknown
//! keys are refused by name, so that a slip of the pen is not a silent default. Durations are written
//! `24h`, `1m 30s`, `200ms`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use chatpulse_producer::ProducerConfig;
use chatpulse_store::StoreConfig;
use serde::Deserialize;

/// Everything that can be set. Every section and key has a default; `deploy/chatpulse.toml` shows them all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The brokers and the topics.
    pub(crate) kafka: Kafka,
    /// The store.
    pub(crate) clickhouse: ClickHouse,
    /// The HTTP collector.
    pub(crate) producer: ProducerConfig,
    /// chat.raw → chat.events.
    pub(crate) enricher: Enricher,
    /// chat.events → ClickHouse.
    pub(crate) sink: Sink,
    /// chat.events → webhooks, GA4, Meta.
    pub(crate) deliverer: Deliverer,
    /// Reports over HTTP.
    pub(crate) reports: Reports,
    /// Vendors beside the five that are built in.
    pub(crate) sources: Sources,
}

/// `[kafka]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Kafka {
    /// Brokers to ask first, `host:port[,host:port…]`.
    pub(crate) bootstrap: String,
    /// Partitions of each topic, at least: 4 where none is given, and 1 on the embedded broker. `chatpulse migrate`
    /// raises the number.
    pub(crate) partitions: Option<NonZeroU32>,
    /// Copies of each partition, where chatpulse creates the topics.
    pub(crate) replication: NonZeroU32,
    /// Prefix of topics and consumer groups, so that several installations can share brokers.
    pub(crate) prefix: String,
    /// Schema registry; with it records are framed in the Confluent wire format.
    pub(crate) schema_registry: Option<String>,
    /// Further librdkafka settings by their own names, e.g. `"security.protocol" = "ssl"`.
    pub(crate) overrides: BTreeMap<String, Secret>,
}

/// `[clickhouse]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClickHouse {
    /// Address of the HTTP interface.
    pub(crate) url: String,
    /// Database; created by `chatpulse migrate`.
    pub(crate) database: String,
    /// Database of the views for analysts, created likewise. Default: `database` with `_bi` behind it.
    pub(crate) bi_database: Option<String>,
    /// User.
    pub(crate) user: String,
    /// Password; better given as `CHATPULSE__CLICKHOUSE__PASSWORD`.
    pub(crate) password: Option<Secret>,
    /// Password of the user that `chatpulse migrate --bi-user` makes; given as
    /// `CHATPULSE__CLICKHOUSE__BI_PASSWORD`.
    pub(crate) bi_password: Option<Secret>,
}

impl ClickHouse {
    /// What the store needs of it.
    pub(crate) fn store(&self) -> StoreConfig {
        let password = self.password.as_ref();
        StoreConfig {
            url: self.url.clone(),
            database: self.database.clone(),
            bi_database: self.bi_database.clone(),
            user: self.user.clone(),
            password: password
                .map(|secret| secret.reveal().to_owned())
                .unwrap_or_default(),
            ..StoreConfig::default()
        }
    }
}

/// `[enricher]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Enricher {
    /// Address of /healthz, /readyz and /metrics.
    pub(crate) listen: SocketAddr,
    /// How long outcomes wait for company on their way to the broker.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) linger: Duration,
    /// A copy of an event that comes later than this after the first is not seen as a duplicate.
    /// The same on every enricher.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) dedup_window: Duration,
    /// A conversation that is silent for longer is forgotten by the stream (not by the store).
    /// The same on every enricher.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) conversation_window: Duration,
    /// Where the state is kept over a restart: a folder, or `s3://bucket/prefix` in a binary built with
    /// the feature `s3`. All enrichers of an installation are best given the same place.
    pub(crate) checkpoints: String,
    /// How often the state of a partition is kept: a restart folds at most so much again.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) checkpoint_interval: Duration,
}

/// `[sink]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sink {
    /// Address of /healthz, /readyz and /metrics.
    pub(crate) listen: SocketAddr,
    /// Most outcomes in one insert.
    pub(crate) batch_rows: NonZeroU32,
    /// Longest wait for a batch to fill.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) batch_wait: Duration,
}

/// `[deliverer]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Deliverer {
    /// Address of /healthz, /readyz and /metrics.
    pub(crate) listen: SocketAddr,
    /// Networks that requests may go to beside the public internet, e.g. `10.1.0.0/16`.
    pub(crate) allow_networks: Vec<ipnet::IpNet>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub(crate) ca_files: Vec<PathBuf>,
    /// Pauses between the turns of a delivery, each longer than the one before. The same on every
    /// deliverer; each is a topic.
    pub(crate) pauses: Vec<Pause>,
    /// Failures in a row after which a destination is left alone for a while.
    pub(crate) breaker_failures: NonZeroU32,
    /// For how long at first; doubled while it goes on failing.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) breaker_pause: Duration,
    /// For how long at most.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) breaker_max_pause: Duration,
    /// How long a destination may fail before it is disabled.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) disable_after: Duration,
    /// How long records wait for company on their way to the broker.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) linger: Duration,
}

/// One pause.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(crate) struct Pause(
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate)  Duration,
);

/// `[reports]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Reports {
    /// Address of the pages and the JSON API. On loopback, who is on this machine sees the pages as the
    /// operator; elsewhere they ask for a token.
    pub(crate) listen: SocketAddr,
    /// Token that reads every tenant, of at least 32 characters; better given as
    /// `CHATPULSE__REPORTS__OPERATOR_TOKEN`. Tenants' tokens are made by `chatpulse tenant token add`.
    pub(crate) operator_token: Option<Secret>,
    /// What one token may ask of the JSON API in the long run; twice as much at once after a pause.
    pub(crate) requests_per_second: NonZeroU32,
    /// Longest wait for ClickHouse's answer to a question of a report. Beyond it: 503.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) query_timeout: Duration,
    /// How often the roll-ups that reports are made of are brought up to date.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub(crate) rollup_interval: Duration,
}

/// `[sources]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sources {
    /// Folder with further definitions (`*.toml`), as in `schemas/sources`.
    pub(crate) directory: Option<PathBuf>,
}

/// A value that is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// The value itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
}

const fn non_zero(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Kafka {
    /// Partitions of each topic, at least.
    pub(crate) fn partitions(&self) -> NonZeroU32 {
        self.partitions.unwrap_or(non_zero(4))
    }

    /// As the embedded broker has it where nothing else is configured: it writes one record after the other, whatever
    /// their partitions, and ClickHouse spends as much on an insert of ten rows as on one of a thousand.
    pub(crate) fn for_embedded(&mut self) {
        self.partitions.get_or_insert(NonZeroU32::MIN);
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".into(),
            partitions: None,
            replication: non_zero(1),
            prefix: String::new(),
            schema_registry: None,
            overrides: BTreeMap::new(),
        }
    }
}

impl Default for ClickHouse {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8123".into(),
            database: "chatpulse".into(),
            bi_database: None,
            user: "default".into(),
            password: None,
            bi_password: None,
        }
    }
}

impl Default for Enricher {
    fn default() -> Self {
        Self {
            listen: loopback(7071),
            linger: Duration::from_millis(5),
            dedup_window: 7 * DAY,
            conversation_window: 7 * DAY,
            checkpoints: "chatpulse-checkpoints".into(),
            checkpoint_interval: Duration::from_secs(60),
        }
    }
}

impl Default for Sink {
    fn default() -> Self {
        Self {
            listen: loopback(7072),
            batch_rows: non_zero(20_000),
            batch_wait: Duration::from_millis(400),
        }
    }
}

impl Default for Deliverer {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let pauses = [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR];
        Self {
            listen: loopback(7073),
            allow_networks: Vec::new(),
            ca_files: Vec::new(),
            pauses: pauses.map(|secs| Pause(Duration::from_secs(secs))).into(),
            breaker_failures: non_zero(10),
            breaker_pause: Duration::from_secs(5),
            breaker_max_pause: Duration::from_secs(300),
            disable_after: 5 * DAY,
            linger: Duration::from_millis(5),
        }
    }
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            operator_token: None,
            requests_per_second: non_zero(50),
            query_timeout: Duration::from_secs(15),
            rollup_interval: Duration::from_secs(10),
        }
    }
}

/// Prefix of the environment variables.
const ENVIRONMENT: &str = "CHATPULSE";

/// Reads the file, where one is given or `chatpulse.toml` exists, then the environment.
pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let mut layers = config::Config::builder();
    layers = match file {
        Some(path) => layers.add_source(config::File::from(path).format(config::FileFormat::Toml)),
        None => layers.add_source(
            config::File::with_name("chatpulse.toml")
                .format(config::FileFormat::Toml)
                .required(false),
        ),
    };
    let environment = config::Environment::with_prefix(ENVIRONMENT)
        .prefix_separator("__")
        .separator("__");
    layers
        .add_source(environment)
        .build()
        .and_then(config::Config::try_deserialize)
        .context("configuration is not valid (file chatpulse.toml or --config, then CHATPULSE__… variables)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.producer.listen.port(), 7070);
        assert_eq!(config.sink.batch_wait, Duration::from_millis(400));
    }

    #[test]
    fn the_reference_file_gives_the_defaults() {
        let reference = parse(include_str!("../../../deploy/chatpulse.toml")).unwrap();
        assert_eq!(format!("{reference:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parse("[kafka]\nbootsrap = \"x\"").unwrap_err();
        assert!(error.contains("bootsrap"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_key() {
        let error = parse("[sink]\nbatch_rows = 0").unwrap_err();
        assert!(error.contains("batch_rows"), "{error}");
        let error = parse("[enricher]\ndedup_window = \"soon\"").unwrap_err();
        assert!(error.contains("dedup_window"), "{error}");
    }

    #[test]
    fn a_password_is_never_printed() {
        let config = parse("[clickhouse]\npassword = \"hunter2\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let config = parse("[reports]\noperator_token = \"hunter2\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let config = parse("[kafka.overrides]\n\"sasl.password\" = \"hunter2\"").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

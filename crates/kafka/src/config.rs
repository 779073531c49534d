//! Connection settings, checked once, and the librdkafka configuration that each kind of client gets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use serde::Deserialize;

use crate::error::KafkaError;

const METADATA_REFRESH: &str = "topic.metadata.refresh.interval.ms";

/// How to reach the brokers; shared by every client of a process.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to ask first, as `host:port[,host:port…]`.
    pub bootstrap: String,
    /// Name under which the brokers log this process.
    pub client_id: String,
    /// Further librdkafka settings by their own names (`security.protocol`, `sasl.password`, `fetch.wait.max.ms` …).
    /// Settings on which a guarantee rests are refused, see [`KafkaConfig::validate`].
    #[serde(default)]
    pub overrides: BTreeMap<String, String>,
}

/// Settings on which a guarantee rests, or that belong to another field: not to be overridden.
const RESERVED: [&str; 22] = [
    "acks",
    "request.required.acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "metadata.broker.list",
    "client.id",
    "delivery.timeout.ms",
    "message.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "group.remote.assignor",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "partition.assignment.strategy",
    "partitioner",
    "transactional.id",
];

impl KafkaConfig {
    /// Settings for plain brokers at `bootstrap`.
    pub fn new(bootstrap: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            client_id: client_id.into(),
            overrides: BTreeMap::new(),
        }
    }

    /// Checks the settings without connecting. Every client does this when it is made; call it at start for an early
    /// answer.
    ///
    /// # Errors
    /// [`KafkaError::Config`] naming the key that is empty, reserved, or not accepted by librdkafka.
    pub fn validate(&self) -> Result<(), KafkaError> {
        let refuse = |key: &str, reason: &str| {
            Err(KafkaError::Config {
                key: key.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if self.bootstrap.trim().is_empty() {
            return refuse("bootstrap", "names no broker; give host:port");
        }
        if self.client_id.trim().is_empty() {
            return refuse("client_id", "is empty; give this process a name");
        }
        if let Some(key) = self
            .overrides
            .keys()
            .find(|key| RESERVED.contains(&key.as_str()))
        {
            return refuse(
                key,
                "is set by chatpulse, because a guarantee rests on it; remove the override",
            );
        }
        self.common()
            .create_native_config()
            .map(drop)
            .map_err(KafkaError::from_create)
    }

    fn common(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        // The first reconnects come quickly, so that a broker restart costs little, and the later ones spare it.
        client
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true");
        for (key, value) in &self.overrides {
            client.set(key, value);
        }
        client
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", &self.client_id);
        client
    }

    pub(crate) fn admin(&self) -> Result<ClientConfig, KafkaError> {
        self.validate()?;
        Ok(self.common())
    }

    /// Reads one partition; commits nothing, joins nothing. librdkafka wants a group's name even so.
    pub(crate) fn reader(&self, group: &str) -> Result<ClientConfig, KafkaError> {
        self.validate()?;
        let mut client = self.with_defaults(&[
            ("fetch.wait.max.ms", "250"),
            // Read ahead per partition: bounded by bytes, not by the default of 64 MB.
            ("queued.max.messages.kbytes", "8192"),
            ("queued.min.messages", "20000"),
            ("fetch.queue.backoff.ms", "20"),
            ("fetch.error.backoff.ms", "100"),
        ]);
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // An offset that is gone is an error for the task to judge: silently skipping would lose records.
            .set("auto.offset.reset", "error");
        Ok(client)
    }

    /// Joins a group and commits; fetches nothing.
    pub(crate) fn member(&self, group: &str) -> Result<ClientConfig, KafkaError> {
        self.validate()?;
        let mut client = self.with_defaults(&[
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            ("max.poll.interval.ms", "120000"),
            // A commit that the broker does not answer fails within this time and two retries; in librdkafka's minute
            // and two more, the group would have given the partition to another long before.
            ("socket.timeout.ms", "10000"),
        ]);
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Never, see the group: what the operator set is how often it looks itself.
            .set(METADATA_REFRESH, "-1")
            .set("partition.assignment.strategy", "range");
        Ok(client)
    }

    pub(crate) fn producer(&self) -> Result<ClientConfig, KafkaError> {
        self.validate()?;
        let mut client = self.with_defaults(&[(METADATA_REFRESH, "30000")]);
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random");
        Ok(client)
    }

    /// How often it is looked whether partitions were added: as often as librdkafka is told to, else every 30 s and not
    /// every five minutes as by its default.
    pub(crate) fn metadata_refresh_interval(&self) -> Duration {
        let overridden = self.overrides.get(METADATA_REFRESH);
        let positive = overridden
            .and_then(|text| text.parse().ok())
            .filter(|ms| *ms > 0);
        Duration::from_millis(positive.unwrap_or(30_000))
    }

    /// The common settings over `defaults`: what the operator overrides wins.
    fn with_defaults(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut client = self.common();
        for (key, value) in defaults {
            if !self.overrides.contains_key(*key) {
                client.set(*key, *value);
            }
        }
        client
    }
}

impl fmt::Debug for KafkaConfig {
    /// Values of overrides are not shown where their name speaks of a secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overrides: BTreeMap<&str, &str> = self
            .overrides
            .iter()
            .map(|(key, value)| {
                (
                    key.as_str(),
                    if is_secret(key) {
                        "***"
                    } else {
                        value.as_str()
                    },
                )
            })
            .collect();
        formatter
            .debug_struct("KafkaConfig")
            .field("bootstrap", &self.bootstrap)
            .field("client_id", &self.client_id)
            .field("overrides", &overrides)
            .finish()
    }
}

fn is_secret(key: &str) -> bool {
    [
        "password",
        "secret",
        "token",
        "key",
        "pem",
        "jaas",
        "oauthbearer.config",
    ]
    .iter()
    .any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> KafkaConfig {
        let mut config = KafkaConfig::new("127.0.0.1:9092", "test");
        config.overrides.insert(key.to_owned(), value.to_owned());
        config
    }

    fn refused_key(config: &KafkaConfig) -> String {
        match config.validate() {
            Err(KafkaError::Config { key, .. }) => key,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn every_reserved_setting_is_refused_by_its_name() {
        for key in RESERVED {
            assert_eq!(refused_key(&with(key, "1")), key);
        }
    }

    #[test]
    fn an_unknown_or_malformed_setting_is_refused_by_its_name() {
        assert_eq!(
            refused_key(&with("no.such.setting", "1")),
            "no.such.setting"
        );
        assert_eq!(
            refused_key(&with("fetch.wait.max.ms", "soon")),
            "fetch.wait.max.ms"
        );
    }

    #[test]
    fn an_empty_bootstrap_or_client_id_is_refused() {
        assert_eq!(refused_key(&KafkaConfig::new(" ", "test")), "bootstrap");
        assert_eq!(
            refused_key(&KafkaConfig::new("127.0.0.1:9092", "")),
            "client_id"
        );
    }

    #[test]
    fn an_override_wins_over_a_default() {
        let reader = with("fetch.wait.max.ms", "7")
            .reader("group")
            .expect("valid");
        assert_eq!(reader.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(reader.get("queued.max.messages.kbytes"), Some("8192"));
    }

    #[test]
    fn a_member_never_looks_at_its_topics_and_the_operators_interval_is_that_of_the_group() {
        for (set, interval) in [("1000", 1_000), ("-1", 30_000)] {
            let config = with(METADATA_REFRESH, set);
            let member = config.member("group").expect("valid");
            assert_eq!(member.get(METADATA_REFRESH), Some("-1"));
            let expected = Duration::from_millis(interval);
            assert_eq!(config.metadata_refresh_interval(), expected);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", with("sasl.password", "hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("sasl.password"), "{shown}");
    }
}

//! Settings of the producer. Every one has a default but the tenants file.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;

/// Settings of the producer, as they stand in the `[producer]` table of the configuration file.
/// Durations are written `10s`, `1m 30s`, `500ms`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProducerConfig {
    /// Where to listen, unless a listener is handed in.
    pub listen: SocketAddr,
    /// Topic of the raw records; follows from the installation's prefix, not from the file.
    #[serde(skip)]
    pub topic: String,
    /// The tenants file.
    pub tenants_file: PathBuf,
    /// How often to look whether the tenants file changed.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub tenants_poll: Duration,
    /// Largest request body as it comes over the wire; bytes.
    pub max_body_bytes: NonZeroUsize,
    /// Largest request body after decompression; bytes.
    pub max_decoded_bytes: NonZeroUsize,
    /// Most items in one request.
    pub max_items: NonZeroUsize,
    /// Memory for the bodies of all requests together; bytes. Beyond it requests get 503.
    pub max_inflight_bytes: NonZeroUsize,
    /// Records that may wait for the broker's confirmation. Beyond it requests get 503.
    pub queue_records: NonZeroUsize,
    /// Event requests served at once. Beyond it requests get 503.
    pub max_requests: NonZeroUsize,
    /// How much of `max_requests`, `max_inflight_bytes` and `queue_records` one tenant may hold, in
    /// percent of what the other tenants leave of each; 1 to 100. Beyond it its requests get 429.
    /// One largest request is always served. Without a meaning where there is one tenant only; 100
    /// lets every tenant take all.
    pub tenant_share_percent: u8,
    /// Open connections, at least `max_requests`. Beyond it the one that has been without a request
    /// being served for longest makes room for a new one.
    pub max_connections: NonZeroUsize,
    /// Largest request line and headers together; bytes, at least 8192.
    pub max_header_bytes: NonZeroUsize,
    /// How long a client may take to send its headers, and a connection may idle.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub header_timeout: Duration,
    /// How long a client may take to send a body, and to take an answer that did not go out at once.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub body_timeout: Duration,
    /// How long records wait for company on their way to the broker. Best a little longer than the
    /// broker takes for a batch: librdkafka spins while a batch is ready and another is unanswered.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub linger: Duration,
    /// How long to wait for the broker's confirmation before the client is told to try again.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub confirm_timeout: Duration,
    /// How long requests in flight may take to finish at shutdown.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub drain_timeout: Duration,
    /// How long a browser may keep the answer to a preflight.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub preflight_max_age: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        let size = |n: usize| NonZeroUsize::MIN.saturating_add(n - 1);
        const MIB: usize = 1024 * 1024;
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            topic: "chat.raw".to_owned(),
            tenants_file: PathBuf::from("tenants.toml"),
            tenants_poll: Duration::from_secs(1),
            max_body_bytes: size(MIB),
            max_decoded_bytes: size(8 * MIB),
            max_items: size(10_000),
            max_inflight_bytes: size(256 * MIB),
            queue_records: size(100_000),
            max_requests: size(1_024),
            tenant_share_percent: 25,
            max_connections: size(4_096),
            max_header_bytes: size(16 * 1024),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(15),
            linger: Duration::from_millis(5),
            confirm_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(15),
            preflight_max_age: Duration::from_secs(600),
        }
    }
}

/// A setting that is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("producer.{key}: {fault}")]
pub struct ConfigError {
    key: &'static str,
    fault: &'static str,
}

impl ProducerConfig {
    /// Checks what types cannot; the error names the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let timeouts = [
            ("tenants_poll", self.tenants_poll),
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("confirm_timeout", self.confirm_timeout),
        ];
        for (key, timeout) in timeouts {
            if timeout < Duration::from_millis(10) {
                return Err(ConfigError {
                    key,
                    fault: "must be at least 10ms",
                });
            }
        }
        if self.topic.is_empty() {
            return Err(ConfigError {
                key: "topic",
                fault: "must not be empty",
            });
        }
        if self.max_header_bytes.get() < 8192 {
            return Err(ConfigError {
                key: "max_header_bytes",
                fault: "must be at least 8192",
            });
        }
        if self.queue_records < self.max_items {
            let fault = "must be at least max_items";
            return Err(ConfigError {
                key: "queue_records",
                fault,
            });
        }
        if !(1..=100).contains(&self.tenant_share_percent) {
            let fault = "must be from 1 to 100";
            return Err(ConfigError {
                key: "tenant_share_percent",
                fault,
            });
        }
        if self.max_connections < self.max_requests {
            let fault = "must be at least max_requests";
            return Err(ConfigError {
                key: "max_connections",
                fault,
            });
        }
        if self.max_inflight_bytes < self.max_decoded_bytes {
            let fault = "must be at least max_decoded_bytes";
            return Err(ConfigError {
                key: "max_inflight_bytes",
                fault,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_stand_for_what_is_left_out() {
        let config: ProducerConfig = toml::from_str("confirm_timeout = \"2s 500ms\"").unwrap();
        config.validate().unwrap();
        let expected = ProducerConfig {
            confirm_timeout: Duration::from_millis(2500),
            ..Default::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn errors_name_the_key() {
        for (text, key) in [
            ("confirm_timeouts = \"2s\"", "confirm_timeouts"),
            ("max_items = 0", "max_items"),
            ("body_timeout = \"soon\"", "body_timeout"),
        ] {
            let error = toml::from_str::<ProducerConfig>(text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(key), "{error}");
        }
        for (text, key) in [
            ("tenants_poll = \"0s\"", "producer.tenants_poll"),
            ("max_header_bytes = 100", "producer.max_header_bytes"),
            ("queue_records = 100", "producer.queue_records"),
            ("max_inflight_bytes = 100", "producer.max_inflight_bytes"),
            ("tenant_share_percent = 0", "producer.tenant_share_percent"),
            (
                "tenant_share_percent = 101",
                "producer.tenant_share_percent",
            ),
            ("max_connections = 100", "producer.max_connections"),
        ] {
            let config: ProducerConfig = toml::from_str(text).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}

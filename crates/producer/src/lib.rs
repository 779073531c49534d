//! Takes events in and makes them durable.
//!
//! ```text
//! POST /v1/events/{source}                NDJSON files
//!   access  write key, origin                 │
//!   body    bounds, decompression             │
//!   split   body ─► items                  replay
//!   intake  item ─► redacted raw record ◄─────┘     accepted or refused: every item is a record
//!   writer  records ─► chat.raw, confirmed          acks = all
//! 202 only now
//! ```
//!
//! `GET /v1/chatpulse.js` gives pages the script that sends (`snippet`).
//!
//! A client that gets no 202 sends the whole batch again. That is harmless: an event id, given or
//! derived from the item, lets the enricher recognise what was stored already. (A refused item has
//! no identity: sent twice, it counts as refused twice.)

mod access;
mod body;
mod config;
mod http;
mod intake;
mod metrics;
mod origin;
mod problem;
mod replay;
mod server;
mod share;
mod snippet;
mod split;
pub mod tenants;
mod writer;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use chatpulse_kafka::{Admin, KafkaConfig, KafkaError};
use chatpulse_model::{
    avro::{AvroError, Codec, Framing},
    source::Catalog,
};
use prometheus::Registry;
use tokio::net::TcpListener;

pub use config::{ConfigError, ProducerConfig};
pub use intake::Refused;
pub use replay::{Progress, ReplayError, ReplayJob, ReplaySummary, replay};
use share::{Pool, Shared};
pub use snippet::Snippet;
pub use tenants::Tenants;
pub use writer::WriteError;
use writer::Writer;

/// What the producer shares with the rest of its process.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// How raw records are framed.
    pub framing: Framing,
    /// The sources that are known.
    pub catalog: &'static Catalog,
    /// Where the producer's metrics go; `/metrics` shows all of it.
    pub registry: Registry,
}

/// Collects events on `listener`, or else on the configured address, until `shutdown`; then takes
/// no more, finishes what is in flight under a deadline, and returns.
pub async fn run(
    config: ProducerConfig,
    environment: Environment,
    listener: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ProducerError> {
    config.validate()?;
    let tenants = Arc::new(Tenants::load(&config.tenants_file)?);
    let writer = Arc::new(Writer::new(&environment.kafka, &config)?);
    let metrics = Arc::new(metrics::Metrics::register(&environment.registry)?);
    let listener = match listener {
        Some(listener) => listener,
        None => bind(&config).await?,
    };
    let watch = watch(
        Arc::clone(&tenants),
        Arc::clone(&metrics),
        config.tenants_poll,
    );

    let displaced = metrics.displaced.clone();
    let collector = http::Collector {
        catalog: environment.catalog,
        codec: Codec::new(environment.framing)?,
        tenants,
        writer: Arc::clone(&writer),
        metrics,
        registry: environment.registry,
        budget: body::budget(&config),
        turns: Pool::new(Shared::Requests, config.max_requests.get(), 1),
        readiness: http::Readiness::new(Admin::new(&environment.kafka)?),
        snippets: snippet::Snippets::new(environment.catalog),
        config: config.clone(),
    };
    let server = server::Server {
        router: http::router(Arc::new(collector)),
        config: &config,
        displaced,
    };
    let serve = server.serve(listener, shutdown);
    tokio::select! {
        () = serve => {}
        never = watch => match never {},
    }

    // Every answered request was confirmed; what is left here belongs to clients that went away.
    let flushed = tokio::task::spawn_blocking(move || writer.flush(config.confirm_timeout)).await;
    if let Ok(Err(error)) = flushed {
        tracing::warn!(%error, "unconfirmed records are left behind; their senders got no 202");
    }
    Ok(())
}

async fn bind(config: &ProducerConfig) -> Result<TcpListener, ProducerError> {
    TcpListener::bind(config.listen)
        .await
        .map_err(|error| ProducerError::Listen {
            address: config.listen,
            error,
        })
}

/// Keeps the tenants as the file has them, and says what became of each change.
async fn watch(
    tenants: Arc<Tenants>,
    metrics: Arc<metrics::Metrics>,
    interval: Duration,
) -> Infallible {
    let count = |tenants: &Tenants| tenants.snapshot().tenants().count();
    metrics.tenants.set(count(&tenants) as i64);
    let report = |result| match result {
        Ok(()) => {
            let tenants = count(&tenants);
            metrics.tenants.set(tenants as i64);
            metrics.reloads.with_label_values(&["applied"]).inc();
            tracing::info!(tenants, "the tenants file changed and is in force");
        }
        Err(error) => {
            metrics.reloads.with_label_values(&["refused"]).inc();
            tracing::error!(%error, "the tenants file changed and is refused; the old one stays");
        }
    };
    tenants.watch(interval, report).await
}

/// Why the producer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tenants cannot be read.
    #[error(transparent)]
    Tenants(#[from] tenants::TenantsError),
    /// The Kafka client cannot be made.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The schema of raw records cannot be used.
    #[error(transparent)]
    Avro(#[from] AvroError),
    /// A metric is registered twice: one registry takes one producer.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}; set producer.listen to a free address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
}

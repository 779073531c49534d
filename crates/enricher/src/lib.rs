//! The enricher: `chat.raw` → `chat.events`, exactly one outcome for every raw record.
//!
//! ```text
//! chat.events[p] tail ──► resume point
//! chat.raw[p] from its start ──► read ──► fold ──► (silent below the resume point) ──► chat.events[p]
//! ```
//!
//! There is no state but the two topics: whoever gets a partition replays it through the
//! deterministic fold, stays silent until past what is already written, and goes on. An owner that
//! was deposed and still writes, writes the same outcomes again, and readers drop them
//! ([`chatpulse_model::watermark`]).

mod error;
mod metrics;
mod partition;

use std::{sync::Arc, time::Duration};

use chatpulse_kafka::{
    Delivery, GroupConfig, KafkaConfig, Publisher, PublisherSettings, Topics, run_group, supervise,
};
use chatpulse_model::{Event, RawEvent, avro::Codec, fold::Horizon, source::Catalog};
use tokio_util::sync::CancellationToken;

pub use error::EnricherError;
pub use metrics::Metrics;

/// What an enricher needs to know.
#[derive(Clone)]
pub struct Config {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The topics.
    pub topics: Topics,
    /// Consumer group; all enrichers of an installation share it.
    pub group: String,
    /// How long the fold remembers; the same on every enricher.
    pub horizon: Horizon,
    /// The source definitions; the same on every enricher.
    pub catalog: &'static Catalog,
    /// How long outcomes wait for company on their way to the broker.
    pub linger: Duration,
    /// Reads raw records.
    pub raw: Arc<Codec<RawEvent>>,
    /// Reads and writes outcomes.
    pub events: Arc<Codec<Event>>,
}

/// How long a deposed or stopping partition may take to let go.
const PATIENCE: Duration = Duration::from_secs(20);

/// Enriches until `shutdown`; passing failures are retried.
///
/// # Errors
/// A failure that does not pass by itself: wrong settings, a topic that lost records, a record too
/// large for the topic.
pub async fn run(
    config: Config,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), EnricherError> {
    let stage = Arc::new(partition::Stage { config, metrics });
    let group = || async {
        // Without gaps: an outcome that is missing would be taken for written by the next owner.
        let settings = PublisherSettings {
            linger: stage.config.linger,
            delivery: Delivery::Gapless,
            ..Default::default()
        };
        let publisher = Publisher::new(&stage.config.kafka, &settings)?;
        let group = GroupConfig {
            kafka: stage.config.kafka.clone(),
            group: stage.config.group.clone(),
            topics: vec![stage.config.topics.raw.to_string()],
            patience: PATIENCE,
        };
        let stage = Arc::clone(&stage);
        let task = move |input| partition::enrich(input, &stage, &publisher);
        run_group(group, task, shutdown.clone()).await
    };
    supervise(group, &shutdown)
        .await
        .map_err(EnricherError::from)
}

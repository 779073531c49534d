//! The enricher: `chat.raw` → `chat.events`, exactly one outcome for every raw record.
//!
//! ```text
//! chat.events[p] tail ──► resume point
//! newest true checkpoint, else an empty state ──► fold
//! chat.raw[p] from there ──► read ──► fold ──► (silent below the resume point) ──► chat.events[p]
//!                                        └──► a checkpoint in every interval
//! ```
//!
//! There is no state that counts but the two topics: whoever gets a partition folds its raw records,
//! all or those since a checkpoint, stays silent until past what is already written, and goes on. An
//! owner that was deposed and still writes, writes the same outcomes and checkpoints again; readers
//! drop the outcomes ([`chatpulse_model::watermark`]).

mod checkpoint;
mod error;
mod metrics;
mod partition;

use std::{sync::Arc, time::Duration};

use chatpulse_kafka::{
    Delivery, GroupConfig, KafkaConfig, Publisher, PublisherSettings, Topics, run_group, supervise,
};
use chatpulse_model::{Event, RawEvent, avro::Codec, fold::Horizon, source::Catalog};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use checkpoint::{Checkpoints, CheckpointsError};
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
    /// Where states are kept over a restart.
    pub checkpoints: Checkpoints,
    /// Reads raw records.
    pub raw: Arc<Codec<RawEvent>>,
    /// Reads and writes outcomes.
    pub events: Arc<Codec<Event>>,
}

/// How long a deposed or stopping partition may take to let go: longer than it waits for outcomes
/// and its last checkpoint.
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
    let stage = Arc::new(partition::Stage {
        config,
        metrics,
        runtime: Handle::current(),
    });
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

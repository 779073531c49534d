//! The sink: `chat.events` → ClickHouse, every outcome once, in the table and in every view.
//!
//! ```text
//! outcomes ──► raw offsets [start, end) ──► commit the range ──► insert as one block, one token ──► commit its end
//!                                                 │ crash
//!                                                 └──► the same range again, with the same token
//! ```
//!
//! The range is committed before it is inserted ([`ledger`]), fenced by the group's generation, so
//! whoever comes next inserts exactly the same rows under the same token, and ClickHouse drops what
//! it already has. A record that is no outcome is noted and passed over; raw offsets whose outcomes
//! are missing, and rows that ClickHouse refuses, are stored as rejections ([`partition`]).
//! Attempts to deliver events are carried beside them ([`deliveries`]).

mod carry;
mod deliveries;
mod error;
mod ledger;
mod metrics;
mod partition;
mod unstored;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use chatpulse_kafka::{GroupConfig, KafkaConfig, Partition, Topics, run_group, supervise};
use chatpulse_model::{Event, RawEvent, avro::Codec};
use chatpulse_store::Store;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::error::PartitionError;

pub use deliveries::{DeliveriesConfig, run_deliveries};
pub use error::SinkError;
pub use metrics::Metrics;

/// What a sink needs to know.
#[derive(Clone)]
pub struct Config {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The topics.
    pub topics: Topics,
    /// Consumer group; all sinks of an installation share it. The ranges are committed under it.
    pub group: String,
    /// The store; its schema must be migrated.
    pub store: Store,
    /// Reads outcomes.
    pub events: Arc<Codec<Event>>,
    /// Reads raw records, to know the log again.
    pub raw: Arc<Codec<RawEvent>>,
    /// Most outcomes in one insert.
    pub batch_rows: NonZeroU32,
    /// Longest wait for a batch to fill once its first outcome is there.
    pub batch_wait: Duration,
}

/// How long a partition that is taken away may take to let go; an insert under way may go on that
/// long. It is harmless afterwards: the next owner inserts the same range.
const PATIENCE: Duration = Duration::from_secs(20);

/// Carries outcomes until `shutdown`; passing failures are retried.
///
/// # Errors
/// A failure that does not pass by itself: wrong settings, a topic that was cut or made again. What
/// an operator mends in the store is waited for.
pub async fn run(
    config: Config,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    let group = GroupConfig {
        kafka: config.kafka.clone(),
        group: config.group.clone(),
        topics: vec![config.topics.events.to_string()],
        patience: PATIENCE,
    };
    let stage = Arc::new(partition::Stage {
        config,
        metrics,
        runtime: Handle::current(),
    });
    let task = move |input| partition::drain(input, &stage);
    keep_up(group, task, shutdown).await
}

/// Runs `task` on every partition that the group gives to this member, until `shutdown`.
async fn keep_up(
    group: GroupConfig,
    task: impl Fn(Partition) -> Result<(), PartitionError> + Clone + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    let run = || run_group(group.clone(), task.clone(), shutdown.clone());
    supervise(run, &shutdown).await.map_err(SinkError::from)
}

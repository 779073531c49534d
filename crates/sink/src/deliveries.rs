//! `chat.deliveries` → ClickHouse, every attempt once.
//!
//! ```text
//! records ──► rows with their positions ──► insert ──► commit
//!                         └── the same rows again after a crash: one row of a position is kept
//! ```
//!
//! No range has to be recorded here as it has for outcomes: no view sums what is inserted, and a row carries
//! the position of its record, by which the table keeps one of equal rows.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use chatpulse_kafka::{
    Batch, BatchLimit, GroupConfig, KafkaConfig, Next, Partition, Topics, run_group, supervise,
};
use chatpulse_model::{Delivery, avro::Codec};
use chatpulse_store::{DeliveryRow, Disposition, Store, StoreError};
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, SinkError, error::PartitionError, metrics::Metrics};

/// What the sink of deliveries needs to know.
#[derive(Clone)]
pub struct DeliveriesConfig {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The topics.
    pub topics: Topics,
    /// Consumer group; all sinks of an installation share it.
    pub group: String,
    /// The store; its schema must be migrated.
    pub store: Store,
    /// Reads attempts.
    pub deliveries: Arc<Codec<Delivery>>,
    /// Most attempts in one insert.
    pub batch_rows: NonZeroU32,
    /// Longest wait for a batch to fill once its first attempt is there.
    pub batch_wait: Duration,
}

/// Bytes of records in one insert, at most.
const MAX_BYTES: usize = 32 << 20;
/// Longest wait for a first record, before looking whether the partition was taken away.
const WAIT: Duration = Duration::from_millis(200);
/// How often a store that does not take a block is told of.
const TELL: Duration = Duration::from_secs(30);

/// Carries attempts until `shutdown`; passing failures are retried, also those that an operator mends.
///
/// # Errors
/// A failure that does not pass by itself: wrong settings.
pub async fn run_deliveries(
    config: DeliveriesConfig,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    let runtime = tokio::runtime::Handle::current();
    let stage = Arc::new(Stage {
        config,
        metrics,
        runtime,
    });
    let group = || {
        let group = GroupConfig {
            kafka: stage.config.kafka.clone(),
            group: stage.config.group.clone(),
            topics: vec![stage.config.topics.deliveries.to_string()],
            patience: PATIENCE,
        };
        let stage = Arc::clone(&stage);
        let task = move |input| stage.drain(input);
        run_group(group, task, shutdown.clone())
    };
    supervise(group, &shutdown).await.map_err(SinkError::from)
}

struct Stage {
    config: DeliveriesConfig,
    metrics: Metrics,
    runtime: tokio::runtime::Handle,
}

/// The partition was taken away before a block was in the store.
struct Revoked;

impl Stage {
    fn drain(&self, mut input: Partition) -> Result<(), PartitionError> {
        let ends = input.watermarks()?;
        let committed = input.committed(std::slice::from_ref(input.id()))?;
        let from = committed.first().copied().flatten().unwrap_or(ends.low);
        let from = match (ends.low..=ends.high).contains(&from) {
            true => from,
            false => {
                tracing::warn!(
                    partition = %input.id(),
                    committed = from,
                    low = ends.low,
                    high = ends.high,
                    "the committed offset is not in the log: reading from its beginning"
                );
                ends.low
            }
        };
        input.seek(from)?;
        let limit = BatchLimit {
            max_records: self.config.batch_rows.get() as usize,
            max_bytes: MAX_BYTES,
            wait: WAIT,
            linger: self.config.batch_wait,
        };
        loop {
            match input.next_batch(&limit)? {
                Next::Batch(batch) => {
                    let Ok(()) = self.store(&input, &batch) else {
                        return Ok(());
                    };
                    if let Some(end) = batch.end_offset() {
                        input.commit(&[(input.id().clone(), end)])?;
                    }
                }
                Next::Idle => {}
                Next::Revoked => return Ok(()),
            }
        }
    }

    fn store(&self, input: &Partition, batch: &Batch) -> Result<(), Revoked> {
        let mut read: Vec<(i64, Delivery)> = Vec::with_capacity(batch.len());
        for record in batch.iter() {
            let payload = record.payload.unwrap_or_default();
            match self.config.deliveries.decode(payload) {
                Ok(delivery) => read.push((record.offset, delivery)),
                Err(_) => {
                    // The error's text may quote the record.
                    tracing::error!(
                        partition = %input.id(),
                        offset = record.offset,
                        bytes = payload.len(),
                        "a record is no delivery that this version reads, and is passed over"
                    );
                    self.metrics.undecodable(1);
                }
            }
        }
        let partition = input.id().partition;
        let rows: Vec<_> = read
            .iter()
            .map(|(offset, delivery)| DeliveryRow::new((partition, *offset), delivery))
            .collect();
        self.insert(input, &rows)
    }

    /// Inserts rows until they are in; one that the store refuses for its content is passed over.
    fn insert(&self, input: &Partition, rows: &[DeliveryRow<'_>]) -> Result<(), Revoked> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times()
            .build();
        let mut told: Option<Instant> = None;
        loop {
            let Err(error) = self
                .runtime
                .block_on(self.config.store.insert_deliveries(rows))
            else {
                return Ok(());
            };
            match (error.disposition(), rows) {
                (Disposition::Poison, [row]) => {
                    tracing::error!(
                        partition = row.log_partition,
                        offset = row.log_offset,
                        refusal = error.refusal(),
                        "the store refuses an attempt, which is passed over"
                    );
                    self.metrics.refused();
                    return Ok(());
                }
                // Half by half, to find it.
                (Disposition::Poison, rows) => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    self.metrics.cut();
                    self.insert(input, first)?;
                    return self.insert(input, second);
                }
                (Disposition::Retry | Disposition::Operator, _) => {
                    self.tell(input, &error, &mut told);
                    let pause = pauses.next().unwrap_or(Duration::from_secs(5));
                    let until = Instant::now() + pause;
                    while Instant::now() < until {
                        if input.is_revoked() {
                            return Err(Revoked);
                        }
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    }

    fn tell(&self, input: &Partition, error: &StoreError, told: &mut Option<Instant>) {
        if told.is_none_or(|at| at.elapsed() >= TELL) {
            *told = Some(Instant::now());
            let partition = input.id();
            tracing::warn!(
                %partition,
                error = error as &dyn std::error::Error,
                "the store does not take attempts; they wait in the log"
            );
        }
    }
}

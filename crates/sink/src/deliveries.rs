//! `chat.deliveries`, `chat.destinations` → ClickHouse, every attempt once.
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
use chatpulse_kafka::{Batch, BatchLimit, GroupConfig, KafkaConfig, Next, Partition, Topics};
use chatpulse_model::{Delivery, avro::Codec, delivery::DestinationState};
use chatpulse_store::{DeliveryRow, DestinationRow, Disposition, Store, StoreError};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, SinkError, error::PartitionError, keep_up, metrics::Metrics};

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
    /// Reads what is said of destinations.
    pub destinations: Arc<Codec<DestinationState>>,
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
    let topics = [&config.topics.deliveries, &config.topics.destinations];
    let group = GroupConfig {
        kafka: config.kafka.clone(),
        group: config.group.clone(),
        topics: topics.map(|topic| topic.to_string()).into(),
        patience: PATIENCE,
    };
    let stage = Arc::new(Stage {
        config,
        metrics,
        runtime: Handle::current(),
    });
    let task = move |input| stage.drain(input);
    keep_up(group, task, shutdown).await
}

struct Stage {
    config: DeliveriesConfig,
    metrics: Metrics,
    runtime: Handle,
}

/// The partition was taken away before a block was in the store.
struct Revoked;

/// A row on its way to the store.
trait Stored: Sized {
    /// Offset of its record.
    fn log_offset(&self) -> i64;

    async fn insert(store: &Store, rows: &[Self]) -> Result<(), StoreError>;
}

impl Stored for DeliveryRow<'_> {
    fn log_offset(&self) -> i64 {
        self.log_offset
    }

    async fn insert(store: &Store, rows: &[Self]) -> Result<(), StoreError> {
        store.insert_deliveries(rows).await
    }
}

impl Stored for DestinationRow<'_> {
    fn log_offset(&self) -> i64 {
        self.log_offset
    }

    async fn insert(store: &Store, rows: &[Self]) -> Result<(), StoreError> {
        store.insert_destinations(rows).await
    }
}

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
                    let stored = match input.id().topic == self.config.topics.deliveries {
                        true => self.store_deliveries(&input, &batch),
                        false => self.store_destinations(&input, &batch),
                    };
                    let Ok(()) = stored else {
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

    fn store_deliveries(&self, input: &Partition, batch: &Batch) -> Result<(), Revoked> {
        let read = self.read(input, batch, |bytes| {
            self.config.deliveries.decode(bytes).ok()
        });
        let partition = input.id().partition;
        let rows: Vec<_> = read
            .iter()
            .map(|((offset, _), delivery)| DeliveryRow::new((partition, *offset), delivery))
            .collect();
        self.insert(input, &rows)
    }

    fn store_destinations(&self, input: &Partition, batch: &Batch) -> Result<(), Revoked> {
        let read = self.read(input, batch, |bytes| {
            self.config.destinations.decode(bytes).ok()
        });
        let rows: Vec<_> = read
            .iter()
            .map(|((offset, said_at), state)| DestinationRow::new((*offset, *said_at), state))
            .collect();
        self.insert(input, &rows)
    }

    /// The records of a batch with their offsets and times, but for those that cannot be read.
    fn read<T>(
        &self,
        input: &Partition,
        batch: &Batch,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Vec<((i64, i64), T)> {
        let mut read = Vec::with_capacity(batch.len());
        for record in batch.iter() {
            let payload = record.payload.unwrap_or_default();
            match decode(payload) {
                Some(decoded) => read.push(((record.offset, record.timestamp_ms), decoded)),
                None => {
                    // The error's text may quote the record.
                    tracing::error!(
                        partition = %input.id(),
                        offset = record.offset,
                        bytes = payload.len(),
                        "a record is not one that this version reads, and is passed over"
                    );
                    self.metrics.undecodable(1);
                }
            }
        }
        read
    }

    /// Inserts rows until they are in; one that the store refuses for its content is passed over.
    fn insert<R: Stored>(&self, input: &Partition, rows: &[R]) -> Result<(), Revoked> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times()
            .build();
        let mut told: Option<Instant> = None;
        loop {
            let inserted = R::insert(&self.config.store, rows);
            let Err(error) = self.runtime.block_on(inserted) else {
                return Ok(());
            };
            match (error.disposition(), rows) {
                (Disposition::Poison, [row]) => {
                    tracing::error!(
                        partition = %input.id(),
                        offset = row.log_offset(),
                        refusal = error.refusal(),
                        "the store refuses a row, which is passed over"
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
                "the store does not take rows; they wait in the log"
            );
        }
    }
}

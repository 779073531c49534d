//! One partition of outcomes, from its assignment to its release. Blocking; runs on a thread of
//! its own.

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use chatpulse_kafka::{Batch, BatchLimit, Next, Partition};
use chatpulse_model::{
    Event,
    watermark::{Admission, Watermark},
};
use chatpulse_store::{Disposition, EventRow, StoreError};

use crate::{
    Config,
    error::PartitionError,
    ledger::{self, Ledger},
    metrics::Metrics,
};

/// Bytes of records in one insert, at most.
const MAX_BYTES: usize = 32 << 20;
/// Longest wait for a first outcome, before looking whether the partition was taken away.
const WAIT: Duration = Duration::from_millis(200);
/// How long a pending range may take to be read again.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// What all partitions of a sink share.
pub(crate) struct Stage {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// Carries one partition to the store until it is taken away.
pub(crate) fn drain(mut input: Partition, stage: &Stage) -> Result<(), PartitionError> {
    let keys = ledger::keys(&stage.config.topics, input.id().partition);
    let commit = |input: &Partition, ledger: &Ledger| {
        input.commit(&std::array::from_fn::<_, 3, _>(|i| {
            (keys[i].clone(), ledger.offsets()[i])
        }))
    };
    let mut ledger = Ledger::load(&input.committed(&keys)?, input.watermarks()?.low);
    tracing::info!(partition = %input.id(), next = ledger.next(), pending = ?ledger.pending(), "storing");
    if let Some(range) = ledger.pending() {
        let batch = input.read_range(range, READ_AGAIN)?;
        let Some(watermark) = insert(&input, stage, &ledger, &batch)? else {
            return Ok(());
        };
        ledger.done(watermark);
        commit(&input, &ledger)?;
    }
    input.seek(ledger.next())?;
    let limit = BatchLimit {
        max_records: stage.config.batch_rows.get() as usize,
        max_bytes: MAX_BYTES,
        wait: WAIT,
        linger: stage.config.batch_wait,
    };
    loop {
        let batch = match input.next_batch(&limit)? {
            Next::Batch(batch) => batch,
            Next::Idle => continue,
            Next::Revoked => return Ok(()),
        };
        ledger.decide(batch.end_offset().unwrap_or(ledger.next()));
        commit(&input, &ledger)?;
        let Some(watermark) = insert(&input, stage, &ledger, &batch)? else {
            return Ok(());
        };
        ledger.done(watermark);
        commit(&input, &ledger)?;
    }
}

/// Inserts the ledger's range, again and again while the store has a passing fault. Gives the
/// watermark after it, or `None` when the partition was taken away first.
fn insert(
    input: &Partition,
    stage: &Stage,
    ledger: &Ledger,
    batch: &Batch,
) -> Result<Option<Watermark>, PartitionError> {
    let (events, watermark) = admit(input, stage, ledger.watermark(), batch)?;
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    let token = ledger.token(input.id());
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        let started = Instant::now();
        let error = match stage
            .runtime
            .block_on(stage.config.store.insert_events(&token, &rows))
        {
            Ok(inserted) => {
                stage.metrics.inserted(inserted.rows, started.elapsed());
                return Ok(Some(watermark));
            }
            Err(error) => error,
        };
        match error.disposition() {
            Disposition::Retry => {}
            Disposition::Poison | Disposition::Fatal => {
                return Err(PartitionError::Store {
                    token,
                    source: error,
                });
            }
        }
        stage.metrics.retried();
        warn(&token, &error);
        let until = Instant::now() + pauses.next().unwrap_or(Duration::from_secs(5));
        while Instant::now() < until {
            if input.is_revoked() {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn warn(token: &str, error: &StoreError) {
    let source = error.source().map(tracing::field::display);
    tracing::warn!(token, %error, source, "insert failed and is tried again");
}

/// The outcomes of a batch that were not seen before, and the watermark after them.
fn admit(
    input: &Partition,
    stage: &Stage,
    mut watermark: Watermark,
    batch: &Batch,
) -> Result<(Vec<Event>, Watermark), PartitionError> {
    let mut events = Vec::with_capacity(batch.len());
    for record in batch.iter() {
        let payload = record.payload.unwrap_or_default();
        let event =
            stage
                .config
                .events
                .decode(payload)
                .map_err(|source| PartitionError::Decode {
                    partition: input.id().to_string(),
                    offset: record.offset,
                    source,
                })?;
        match watermark.admit(event.offset) {
            Admission::New => events.push(event),
            Admission::Repeated => stage.metrics.repeated(),
            Admission::Gap { expected } => {
                stage.metrics.gap();
                tracing::error!(
                    partition = %input.id(),
                    from = expected,
                    to = event.offset,
                    "outcomes of these raw offsets are missing: run `chatpulse audit`"
                );
                events.push(event);
            }
        }
    }
    Ok((events, watermark))
}

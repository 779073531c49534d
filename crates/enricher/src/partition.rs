//! One raw partition, from its assignment to its release. Blocking; runs on a thread of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use chatpulse_kafka::{
    Batch, BatchLimit, Next, Partition, Publication, Publisher, Record, TopicPartition,
};
use chatpulse_model::fold::{PartitionFold, Position, read};

use crate::{
    Config,
    error::PartitionError,
    metrics::{Metrics, Tally},
};

const LIMIT: BatchLimit = BatchLimit {
    max_records: 2_000,
    max_bytes: 4 << 20,
    wait: Duration::from_millis(200),
    linger: Duration::ZERO,
};
/// Batches of outcomes on their way to the broker, at most; a bound on memory.
const MAX_UNCONFIRMED: usize = 8;
/// Longest wait in one step for the broker, before looking whether the partition was taken away.
const STEP: Duration = Duration::from_millis(200);
/// How long a release waits for outcomes that are on their way. Those not confirmed by then may be
/// written twice, which readers undo.
const DRAIN: Duration = Duration::from_secs(10);
/// The committed raw offset only shows lag, so it is written seldom.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Progress of a long replay is told this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What all partitions of an enricher share.
pub(crate) struct Stage {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
}

/// Enriches one partition until it is taken away.
pub(crate) fn enrich(
    mut input: Partition,
    stage: &Stage,
    publisher: &Publisher,
) -> Result<(), PartitionError> {
    let mut work = Work::resume(&mut input, stage, publisher)?;
    loop {
        match input.next_batch(&LIMIT)? {
            Next::Batch(batch) => work.enrich(&batch)?,
            Next::Idle => {}
            Next::Revoked => break,
        }
        while work.unconfirmed.len() >= MAX_UNCONFIRMED && !input.is_revoked() {
            work.confirm(STEP)?;
        }
        work.confirm(Duration::ZERO)?;
        work.commit(&input, COMMIT_INTERVAL)?;
    }
    let deadline = Instant::now() + DRAIN;
    while !work.unconfirmed.is_empty() && Instant::now() < deadline {
        work.confirm(STEP)?;
    }
    work.commit(&input, Duration::ZERO)
}

struct Work<'a> {
    stage: &'a Stage,
    publisher: &'a Publisher,
    label: String,
    partition: i32,
    fold: PartitionFold,
    /// First raw offset whose outcome is not yet written.
    resume: i64,
    unconfirmed: VecDeque<Unconfirmed>,
    /// Raw offset up to which outcomes are confirmed, and what the group has been told of it.
    confirmed: i64,
    committed: i64,
    committed_at: Instant,
    told_at: Instant,
}

/// Outcomes on their way to the broker.
struct Unconfirmed {
    end: i64,
    tally: Tally,
    publication: Publication,
}

impl<'a> Work<'a> {
    /// Finds where the outcomes end, and starts reading where the raw partition begins.
    fn resume(
        input: &mut Partition,
        stage: &'a Stage,
        publisher: &'a Publisher,
    ) -> Result<Self, PartitionError> {
        let partition = input.id().partition;
        let resume = resume_point(input, stage)?;
        let ends = input.watermarks()?;
        if resume > ends.high {
            return Err(PartitionError::AheadOfRaw {
                partition,
                written: resume,
                high: ends.high,
            });
        }
        if resume < ends.low {
            return Err(PartitionError::RawDeleted {
                partition,
                missing_from: resume,
                low: ends.low,
            });
        }
        tracing::info!(
            partition,
            from = ends.low,
            resume,
            end = ends.high,
            "enriching"
        );
        input.seek(ends.low)?;
        Ok(Self {
            stage,
            publisher,
            label: partition.to_string(),
            partition,
            fold: PartitionFold::new(partition, stage.config.horizon),
            resume,
            unconfirmed: VecDeque::new(),
            confirmed: resume,
            committed: -1,
            committed_at: Instant::now(),
            told_at: Instant::now(),
        })
    }

    /// Folds a batch and sends what is not yet written.
    fn enrich(&mut self, batch: &Batch) -> Result<(), PartitionError> {
        let mut records = Vec::with_capacity(batch.len());
        let mut tally = Tally::default();
        let mut replayed = 0;
        for raw in batch.iter() {
            let position = Position {
                offset: raw.offset,
                timestamp_ms: raw.timestamp_ms,
            };
            let reading = read(
                raw.payload.unwrap_or_default(),
                &self.stage.config.raw,
                self.stage.config.catalog,
            );
            let event = self.fold.apply(position, reading);
            if raw.offset < self.resume {
                replayed += 1;
                continue;
            }
            tally.add(&event);
            records.push(Record {
                partition: Some(self.partition),
                key: raw.key.unwrap_or_default().to_vec(),
                payload: self
                    .stage
                    .config
                    .events
                    .encode(&event)
                    .map_err(PartitionError::Encode)?,
                timestamp_ms: Some(raw.timestamp_ms),
            });
        }
        self.stage.metrics.state(
            &self.label,
            self.fold.conversations(),
            self.fold.event_ids(),
        );
        if replayed > 0 {
            self.stage.metrics.replayed(&self.label, replayed);
            self.tell_progress(batch);
        }
        let end = batch.end_offset().unwrap_or(self.resume);
        if !records.is_empty() {
            let topic = &self.stage.config.topics.events;
            let publication = self.publisher.publish_waiting(topic, records, DRAIN);
            // Nothing may be sent after an outcome that was not.
            let has_failed = publication.has_failed();
            self.unconfirmed.push_back(Unconfirmed {
                end,
                tally,
                publication,
            });
            self.resume = end;
            while has_failed && !self.unconfirmed.is_empty() {
                self.confirm(STEP)?;
            }
        }
        Ok(())
    }

    fn tell_progress(&mut self, batch: &Batch) {
        if self.told_at.elapsed() >= PROGRESS_INTERVAL {
            self.told_at = Instant::now();
            let at = batch.end_offset().unwrap_or_default();
            tracing::info!(
                partition = self.partition,
                at,
                resume = self.resume,
                "rebuilding state from raw records"
            );
        }
    }

    /// Takes note of outcomes that are confirmed, in order; waits up to `wait` for the oldest.
    fn confirm(&mut self, wait: Duration) -> Result<(), PartitionError> {
        while let Some(oldest) = self.unconfirmed.pop_front() {
            match oldest.publication.wait(wait) {
                Ok(outcomes) => {
                    for outcome in outcomes {
                        outcome?;
                    }
                    self.confirmed = oldest.end;
                    self.stage.metrics.tally(oldest.tally);
                }
                Err(publication) => {
                    self.unconfirmed.push_front(Unconfirmed {
                        publication,
                        ..oldest
                    });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Commits the raw offset for those who look at lag. Nothing else rests on it.
    fn commit(&mut self, input: &Partition, interval: Duration) -> Result<(), PartitionError> {
        if self.confirmed > self.committed && self.committed_at.elapsed() >= interval {
            input.commit(&[(input.id().clone(), self.confirmed)])?;
            self.committed = self.confirmed;
            self.committed_at = Instant::now();
        }
        Ok(())
    }
}

/// First raw offset without an outcome: after the one that the last outcome in the log carries.
///
/// Outcomes are appended in order and without holes by every writer, so all before the last one's
/// are there, whoever wrote it. A record that is no outcome (another program wrote it, or it was
/// damaged) is passed over: what it may have stood for is written again.
fn resume_point(input: &Partition, stage: &Stage) -> Result<i64, PartitionError> {
    let partition = input.id().partition;
    let output = TopicPartition::new(stage.config.topics.events.clone(), partition);
    let last = input.open_reader(output)?.find_last(DRAIN, |record| {
        let event = stage.config.events.decode(record.payload?).ok()?;
        (event.partition == partition).then_some(event)
    })?;
    Ok(last.map_or(0, |event| event.offset + 1))
}

//! One raw partition, from its assignment to its release. Blocking; runs on a thread of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use chatpulse_kafka::{
    Batch, BatchLimit, KafkaError, Next, Partition, Publication, Publisher, Record, RecordRef,
    TopicPartition,
};
use chatpulse_model::{
    Event,
    fold::{PartitionFold, Position, Reading, read, snapshot::Anchor},
};
use tokio::runtime::Handle;

use crate::{
    Config,
    checkpoint::Keeper,
    error::PartitionError,
    metrics::{Metrics, Tally},
};

const LIMIT: BatchLimit = BatchLimit {
    max_records: 2_000,
    max_bytes: 4 << 20,
    wait: Duration::from_millis(200),
    linger: Duration::ZERO,
};
/// Outcomes on their way to the broker, at most, but for the last batch. Counted in records: batches are as small as
/// what has just come in, and few of those on their way leave a partition waiting for the broker's answers. Bytes are
/// bounded by the publisher's queue.
const MAX_UNCONFIRMED: usize = 16_000;
/// Longest wait in one step for the broker, before looking whether the partition was taken away.
const STEP: Duration = Duration::from_millis(200);
/// How long a release waits for outcomes that are on their way. Those not confirmed by then may be
/// written twice, which readers undo.
const DRAIN: Duration = Duration::from_secs(10);
/// When a release gives its last checkpoint up, counted from its beginning.
const LAST_CHECKPOINT: Duration = Duration::from_secs(15);
/// The committed raw offset shows lag, and how far outcomes went that were deleted since; nothing that
/// is urgent, so it is written seldom.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Progress of a long replay is told this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What all partitions of an enricher share.
pub(crate) struct Stage {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    /// Where checkpoints are uploaded.
    pub(crate) runtime: Handle,
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
        let most = work.most_unconfirmed();
        while work.on_their_way > most && !input.is_revoked() {
            work.confirm(STEP)?;
        }
        work.confirm(Duration::ZERO)?;
        work.checkpoint();
        work.commit(&input, COMMIT_INTERVAL);
    }
    let released = Instant::now();
    while !work.unconfirmed.is_empty() && released.elapsed() < DRAIN {
        work.confirm(STEP)?;
    }
    work.commit(&input, Duration::ZERO);
    work.last_checkpoint(released + LAST_CHECKPOINT);
    Ok(())
}

struct Work<'a> {
    stage: &'a Stage,
    publisher: &'a Publisher,
    label: String,
    partition: i32,
    fold: PartitionFold,
    /// How far the fold has come; `None` before its first record.
    folded: Option<Anchor>,
    keeper: Keeper<'a>,
    /// First raw offset whose outcome is not yet written.
    resume: i64,
    unconfirmed: VecDeque<Unconfirmed>,
    /// Records in these.
    on_their_way: usize,
    /// Raw offset up to which outcomes are confirmed, and what the group has been told of it.
    confirmed: i64,
    committed: i64,
    committed_at: Instant,
    told_at: Instant,
}

/// Outcomes on their way to the broker.
struct Unconfirmed {
    end: i64,
    records: usize,
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
        let tail = tail(input, stage)?;
        let ends = input.watermarks()?;
        let resume = match &tail {
            Some(tail) => tail.event.offset + 1,
            None => confirmed_before_deletion(input, stage, ends.low)?,
        };
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
        if let Some(tail) = tail {
            let record = raw_record(input, tail.event.offset)?;
            if !record.iter().all(|raw| tail.was_made_of(raw, stage)) {
                return Err(PartitionError::OtherRaw {
                    partition,
                    offset: tail.event.offset,
                });
            }
        }
        let mut keeper = Keeper::new(stage, input);
        let (fold, folded) = match keeper.restore(input, (ends.low, resume))? {
            Some((fold, anchor)) => (fold, Some(anchor)),
            None => (PartitionFold::new(partition, stage.config.horizon), None),
        };
        if folded.is_none() && ends.low > 0 && resume > ends.low {
            tracing::warn!(
                partition,
                low = ends.low,
                "no checkpoint, and the oldest raw records are deleted: their conversations and event \
                 ids count as new"
            );
        }
        let from = folded.map_or(ends.low, |anchor| anchor.offset);
        tracing::info!(partition, from, resume, end = ends.high, "enriching");
        input.seek(from)?;
        Ok(Self {
            stage,
            publisher,
            label: partition.to_string(),
            partition,
            fold,
            folded,
            keeper,
            resume,
            unconfirmed: VecDeque::new(),
            on_their_way: 0,
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
            self.folded = Some(Anchor {
                offset: raw.offset + 1,
                timestamp_ms: raw.timestamp_ms,
            });
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
                timestamp_ms: broker_takes(raw.timestamp_ms).then_some(raw.timestamp_ms),
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
            let sent = records.len();
            let publication = self.publisher.publish_waiting(topic, records, DRAIN);
            // Nothing may be sent after an outcome that was not.
            let has_failed = publication.has_failed();
            self.on_their_way += sent;
            self.unconfirmed.push_back(Unconfirmed {
                end,
                records: sent,
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

    /// How many outcomes may be on their way: none when a checkpoint is due, because it must
    /// not be ahead of what is written.
    fn most_unconfirmed(&self) -> usize {
        let is_due = |anchor| self.keeper.is_due(anchor);
        match self.folded.as_ref().is_some_and(is_due) {
            true => 0,
            false => MAX_UNCONFIRMED,
        }
    }

    fn checkpoint(&mut self) {
        self.keeper.poll();
        if let Some(anchor) = self.folded.filter(|anchor| self.keeper.is_due(anchor))
            && self.unconfirmed.is_empty()
        {
            self.keeper.begin(&self.fold, anchor);
        }
    }

    fn last_checkpoint(&mut self, deadline: Instant) {
        if let Some(anchor) = self.folded
            && self.unconfirmed.is_empty()
        {
            self.keeper.finish(&self.fold, anchor, deadline);
        }
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
                    self.on_their_way -= oldest.records;
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

    /// Commits the raw offset up to which outcomes are written.
    fn commit(&mut self, input: &Partition, interval: Duration) {
        if self.confirmed > self.committed && self.committed_at.elapsed() >= interval {
            match input.commit(&[(input.id().clone(), self.confirmed)]) {
                Ok(()) => self.committed = self.confirmed,
                // The next one tells the same, and more.
                Err(error) => tracing::warn!(partition = self.partition, %error, "lag is not told"),
            }
            self.committed_at = Instant::now();
        }
    }
}

/// The last outcome written.
struct Tail {
    event: Event,
    timestamp_ms: i64,
}

impl Tail {
    /// Whether `raw` is the record that this outcome was made of, and not one of another topic of the
    /// same name.
    fn was_made_of(&self, raw: RecordRef<'_>, stage: &Stage) -> bool {
        // An outcome has the time of its record, unless its topic was set to give it another.
        if raw.timestamp_ms == self.timestamp_ms {
            return true;
        }
        let payload = raw.payload.unwrap_or_default();
        let Event {
            tenant,
            source,
            received_at,
            ..
        } = &self.event;
        match read(payload, &stage.config.raw, stage.config.catalog) {
            Reading::Mapped(raw, _) | Reading::Rejected(raw, _) => {
                (&raw.tenant, &raw.source, &raw.received_at) == (tenant, source, received_at)
            }
            Reading::Undecodable(rejection) => self.event.rejected_sha256 == Some(rejection.sha256),
        }
    }
}

/// The last outcome in the log; the raw record after its own is the first without one.
///
/// Outcomes are appended in order and without holes by every writer, so all before the last one's
/// are there, whoever wrote it. A record that is no outcome (another program wrote it, or it was
/// damaged) is passed over: what it may have stood for is written again.
fn tail(input: &Partition, stage: &Stage) -> Result<Option<Tail>, PartitionError> {
    let partition = input.id().partition;
    let output = TopicPartition::new(stage.config.topics.events.clone(), partition);
    let last = input.open_reader(output)?.find_last(DRAIN, |record| {
        let event = stage.config.events.decode(record.payload?).ok()?;
        (event.partition == partition).then_some(Tail {
            event,
            timestamp_ms: record.timestamp_ms,
        })
    })?;
    Ok(last)
}

/// Where to go on when chat.events holds no outcome, and chat.raw begins at `low`.
///
/// A log that begins at 0 has lost nothing, and all is to be written. One that begins later had
/// outcomes, which were deleted since; what the group has committed of chat.raw says how far they went,
/// unless its owner was killed before it could. What lies below `low` is gone in any case; the sink
/// knows whether its outcomes were stored, and notes them as lost where not.
fn confirmed_before_deletion(
    input: &Partition,
    stage: &Stage,
    low: i64,
) -> Result<i64, PartitionError> {
    let raw = input.id();
    let output = TopicPartition::new(stage.config.topics.events.clone(), raw.partition);
    if input.open_reader(output)?.watermarks()?.low == 0 {
        return Ok(0);
    }
    let committed = input.committed(std::slice::from_ref(raw))?;
    let committed = committed.first().copied().flatten().unwrap_or(0);
    if committed < low {
        tracing::warn!(
            partition = raw.partition,
            committed,
            low,
            "raw records and their outcomes were deleted: going on with what is left"
        );
    }
    Ok(committed.max(low))
}

/// How far ahead of our clock a record's time may be.
const MAX_AHEAD: Duration = Duration::from_secs(10 * 60);

/// Whether a broker takes a record of this time: Kafka 4 refuses those that are an hour ahead, and a
/// broker's clock that was ahead must not stop its partition. The time is only a help in knowing a log
/// again.
fn broker_takes(timestamp_ms: i64) -> bool {
    let latest = SystemTime::now() + MAX_AHEAD;
    let latest_ms = latest
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    u128::try_from(timestamp_ms).is_ok_and(|at| at <= latest_ms)
}

/// The raw record at `offset`, or none where the log does not have it any more.
pub(crate) fn raw_record(input: &mut Partition, offset: i64) -> Result<Batch, PartitionError> {
    match input.read_range(offset..offset + 1, DRAIN) {
        Err(KafkaError::OffsetOutOfRange { .. }) => Ok(Batch::default()),
        record => Ok(record?),
    }
}

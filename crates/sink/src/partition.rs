//! One partition of outcomes, from its assignment to its release. Blocking; runs on a thread of
//! its own.
//!
//! ```text
//!           ┌── not decodable ──► undecodable_outcomes
//!  records ─┤
//!           └── Carry: what to commit, what to insert ──► store; a single row that it refuses: its stand-in
//! ```

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use chatpulse_kafka::{Batch, BatchLimit, Next, Partition, RecordRef, TopicPartition};
use chatpulse_model::{Event, avro::AvroError, watermark::Admission};
use chatpulse_store::{Disposition, EventRow, StoreError, UndecodableOutcome};

use crate::{
    Config,
    carry::{Carry, Step},
    error::PartitionError,
    ledger::{self, Found, Ledger},
    metrics::Metrics,
    unstored::{Position, Row},
};

/// Bytes of records in one insert, at most.
const MAX_BYTES: usize = 32 << 20;
/// Longest wait for a first outcome, before looking whether the partition was taken away.
const WAIT: Duration = Duration::from_millis(200);
/// An insert that is tried for so long may have come in without an answer, and its token be forgotten
/// over those of others.
const FORGETTING: Duration = Duration::from_secs(60);
/// How long a single record may take to be read.
const READ: Duration = Duration::from_secs(30);
/// How often a wait looks whether the partition was taken away.
const LOOK: Duration = Duration::from_millis(20);
/// Longest pause before the store is asked again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The same where an operator must do something first.
const MAX_OPERATOR_PAUSE: Duration = Duration::from_secs(30);

/// What all partitions of a sink share.
pub(crate) struct Stage {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// Carries one partition to the store until it is taken away.
pub(crate) fn drain(input: Partition, stage: &Stage) -> Result<(), PartitionError> {
    match Drain::load(input, stage).and_then(Drain::run) {
        Err(Stop::Revoked) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
        Ok(never) => match never {},
    }
}

/// Why a partition is not carried any further.
enum Stop {
    /// It was taken away.
    Revoked,
    Failed(PartitionError),
}

impl<E: Into<PartitionError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

enum Answer {
    Stored,
    StandInStored,
    Refused,
}

/// Whether the last raw record that is stored is still the one that it was. The offsets alone do not
/// tell a chat.raw that was made again and has outgrown the store: its records would be dropped as
/// stored.
fn check_log(input: &Partition, stage: &Stage, last: &Batch) -> Result<(), Stop> {
    let partition = input.id().partition;
    for record in last.iter() {
        let decoded = stage.config.raw.decode(record.payload.unwrap_or_default());
        // The outcome of a record that could not be read has the broker's time.
        let of_record = decoded.map_or(record.timestamp_ms, |raw| raw.received_at);
        let received_at = [of_record, record.timestamp_ms];
        let known = patiently(input, stage, "the last row of the partition", || {
            stage
                .config
                .store
                .was_received_at(partition, record.offset, received_at)
        })?;
        match known {
            Some(true) => {}
            Some(false) => {
                return Err(Stop::Failed(PartitionError::OtherRaw {
                    raw: format!("{}[{partition}]", stage.config.topics.raw),
                    offset: record.offset,
                }));
            }
            None => tracing::warn!(
                partition,
                offset = record.offset,
                "the group has committed that this raw offset is stored, and the store has no row of it: \
                 is it another database? run `chatpulse audit`"
            ),
        }
    }
    Ok(())
}

/// Asks the store until it answers, for as long as the partition is ours. A question that is on its way when the
/// partition is taken away is given up: nothing follows from its answer, and the successor waits for us.
fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    input: &Partition,
    stage: &Stage,
    what: &str,
    ask: impl Fn() -> F,
) -> Result<T, Stop> {
    let mut patience = Patience::new(input, stage);
    loop {
        let answer = stage.runtime.block_on(async {
            tokio::select! {
                answer = ask() => Some(answer),
                () = revoked(input) => None,
            }
        });
        match answer.ok_or(Stop::Revoked)? {
            Ok(answer) => return Ok(answer),
            Err(error) => patience.pause(what, &error)?,
        }
    }
}

async fn revoked(input: &Partition) {
    while !input.is_revoked() {
        tokio::time::sleep(LOOK).await;
    }
}

struct Drain<'a> {
    input: Partition,
    stage: &'a Stage,
    /// The partition of chat.raw whose outcomes these are.
    raw: TopicPartition,
    keys: [TopicPartition; 3],
    carry: Carry<Event>,
    /// The range was decided by a predecessor, who may have inserted it, and may have done so long ago.
    is_left_behind: bool,
}

impl<'a> Drain<'a> {
    fn load(mut input: Partition, stage: &'a Stage) -> Result<Self, Stop> {
        let Config { topics, .. } = &stage.config;
        let partition = input.id().partition;
        let keys = ledger::keys(topics, partition);
        let raw = TopicPartition::new(topics.raw.clone(), partition);
        let committed = input.committed(&keys)?;
        let stored = match committed.last() {
            Some(Some(_)) => None,
            _ => patiently(&input, stage, "what the store holds", || {
                stage.config.store.stored_until(partition)
            })?,
        };
        let mut raw_log = input.open_reader(raw.clone())?;
        let found = Found {
            committed: &committed,
            events: input.watermarks()?,
            raw: raw_log.watermarks()?,
            stored,
        };
        let ledger = Ledger::load(&found).map_err(|shorter| PartitionError::RawIsShorter {
            raw: raw.to_string(),
            high: found.raw.high,
            stored: shorter.stored,
        })?;
        let last = ledger.watermark() - 1;
        if last >= found.raw.low {
            let record = raw_log.read_range(last..last + 1, READ)?;
            check_log(&input, stage, &record)?;
        }
        tracing::info!(
            partition = %input.id(),
            from = ledger.read_from(),
            watermark = ledger.watermark(),
            pending = ledger.pending(),
            "storing"
        );
        if committed.first() != Some(&None) && committed.first() != Some(&Some(ledger.read_from()))
        {
            tracing::warn!(
                partition = %input.id(),
                ?committed,
                log = ?found.events,
                "the committed offset is not in the log: reading from its beginning, and dropping what is stored"
            );
        }
        input.seek(ledger.read_from())?;
        Ok(Self {
            is_left_behind: ledger.pending() > 0,
            carry: Carry::new(ledger, stage.config.batch_rows.get() as usize),
            input,
            stage,
            raw,
            keys,
        })
    }

    fn run(mut self) -> Result<std::convert::Infallible, Stop> {
        let limit = BatchLimit {
            max_records: self.stage.config.batch_rows.get() as usize,
            max_bytes: MAX_BYTES,
            wait: WAIT,
            linger: self.stage.config.batch_wait,
        };
        loop {
            match self.carry.step() {
                Step::Read => match self.input.next_batch(&limit)? {
                    Next::Batch(batch) => self.read(&batch)?,
                    Next::Idle => {}
                    Next::Revoked => return Err(Stop::Revoked),
                },
                Step::Commit => {
                    let offsets = self.carry.ledger().offsets();
                    let ledger: [_; 3] =
                        std::array::from_fn(|i| (self.keys[i].clone(), offsets[i]));
                    self.input.commit(&ledger)?;
                    self.carry.committed();
                }
                // Its successor inserts what was decided.
                Step::Insert(_) if self.input.is_revoked() => return Err(Stop::Revoked),
                Step::Insert(rows) => {
                    let answer = self.insert(rows)?;
                    self.is_left_behind = false;
                    match answer {
                        Answer::Stored => self.carry.stored(),
                        Answer::StandInStored => {
                            self.stage.metrics.refused();
                            self.carry.stand_in_stored();
                        }
                        Answer::Refused => {
                            self.stage.metrics.cut();
                            self.carry.refused();
                        }
                    }
                }
            }
        }
    }

    /// Takes in what was not seen before; notes what is no outcome.
    fn read(&mut self, batch: &Batch) -> Result<(), Stop> {
        let mut undecodable = Vec::new();
        for record in batch.iter() {
            let event = match self.decode(&record) {
                Ok(event) => event,
                Err(detail) => {
                    self.carry.skip(record.offset);
                    let at = (self.raw.partition, record.offset);
                    undecodable.push(UndecodableOutcome::new(
                        at,
                        record.timestamp_ms,
                        record.payload,
                        detail,
                    ));
                    continue;
                }
            };
            self.admit(record.offset, event)?;
        }
        self.note(&undecodable)
    }

    /// The outcome in a record, or what is wrong with it, without its content.
    fn decode(&self, record: &RecordRef<'_>) -> Result<Event, String> {
        let payload = record.payload.ok_or("no payload (a tombstone)")?;
        let decoded = self.stage.config.events.decode(payload);
        let event = decoded.map_err(|error| match error {
            AvroError::Framing
            | AvroError::UnknownFingerprint(_)
            | AvroError::UnknownSchemaId(_)
            | AvroError::Trailing => error.to_string(),
            // The text may quote the record.
            AvroError::Decode(_) | AvroError::Encode(_) | AvroError::Schema(_) => {
                "record does not follow its schema".to_owned()
            }
        })?;
        if event.partition != self.raw.partition || event.offset < 0 {
            return Err(format!(
                "stands for offset {} of raw partition {}, which cannot be here",
                event.offset, event.partition
            ));
        }
        Ok(event)
    }

    fn admit(&mut self, offset: i64, event: Event) -> Result<(), Stop> {
        let at = Position {
            raw: event.offset,
            received_at: event.received_at,
            offset,
        };
        let partition = self.input.id();
        match self.carry.admit(at, event) {
            Ok(Admission::New) => {}
            Ok(Admission::Repeated) => self.stage.metrics.repeated(),
            Ok(Admission::Gap { expected }) => {
                self.stage.metrics.lost(at.raw - expected);
                tracing::error!(
                    %partition,
                    from = expected,
                    to = at.raw,
                    "outcomes of these raw offsets are missing and are stored as rejections"
                );
            }
            Err(gap) => {
                return Err(Stop::Failed(PartitionError::Gap {
                    partition: partition.to_string(),
                    expected: gap.expected,
                    found: at.raw,
                }));
            }
        }
        Ok(())
    }

    fn note(&self, records: &[UndecodableOutcome]) -> Result<(), Stop> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        tracing::error!(
            partition = %self.input.id(),
            records = records.len(),
            first = first.offset,
            last = last.offset,
            detail = first.detail,
            "records are no outcomes that this version reads, and are noted in undecodable_outcomes"
        );
        patiently(&self.input, self.stage, "undecodable records", || {
            self.stage.config.store.note_undecodable(records)
        })?;
        self.stage.metrics.undecodable(records.len());
        Ok(())
    }

    /// Inserts the ledger's range, which is the first `rows` rows, again and again while the store
    /// cannot take it for another reason than its content. A single row always ends up in the store:
    /// itself or what may stand for it, all under one token, so one of them.
    fn insert(&self, rows: usize) -> Result<Answer, Stop> {
        let token = self.carry.ledger().token(&self.raw);
        let block = self.rows(rows);
        let mut patience = Patience::new(&self.input, self.stage);
        let began = Instant::now();
        loop {
            let may_be_forgotten = self.is_left_behind || began.elapsed() > FORGETTING;
            if may_be_forgotten && !self.may_repeat(&block)? {
                tracing::warn!(
                    token,
                    "the block is in the store, and so long that its token may be forgotten: it is not \
                     inserted again; `chatpulse audit` proves whether the views have it"
                );
                return Ok(Answer::Stored);
            }
            let error = match self.try_insert(&token, &block) {
                Ok(()) => return Ok(Answer::Stored),
                Err(error) => error,
            };
            let (Some(refusal), [row]) = (error.refusal(), block.as_slice()) else {
                match error.disposition() {
                    Disposition::Poison => return Ok(Answer::Refused),
                    Disposition::Retry | Disposition::Operator => patience.pause(&token, &error)?,
                }
                continue;
            };
            tracing::error!(
                token,
                refusal,
                "the store refuses a row, which is stored as a rejection"
            );
            let stand_ins = [row.refused(&refusal), row.refused_altogether(&refusal)];
            let mut refused = Err(error);
            for stand_in in &stand_ins {
                refused = self.try_insert(&token, std::slice::from_ref(stand_in));
                match &refused {
                    Err(error) if error.disposition() == Disposition::Poison => {}
                    Err(_) | Ok(()) => break,
                }
            }
            match refused {
                Ok(()) => return Ok(Answer::StandInStored),
                // Not even its position, or another fault: from the beginning.
                Err(error) => patience.pause(&token, &error)?,
            }
        }
    }

    fn rows(&self, count: usize) -> Vec<EventRow<'_>> {
        self.carry
            .rows(count)
            .map(|(offset, row)| match row {
                Row::Read(event) => EventRow::from(event),
                Row::Lost(at_ms) => EventRow::lost(self.raw.partition, offset, *at_ms),
            })
            .collect()
    }

    fn may_repeat(&self, block: &[EventRow<'_>]) -> Result<bool, Stop> {
        patiently(&self.input, self.stage, "whether a block is stored", || {
            self.stage.config.store.may_repeat(block)
        })
    }

    fn try_insert(&self, token: &str, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
        let started = Instant::now();
        let insert = self.stage.config.store.insert_events(token, rows);
        let inserted = self.stage.runtime.block_on(insert)?;
        self.stage
            .metrics
            .inserted(inserted.rows, started.elapsed());
        Ok(())
    }
}

/// Growing pauses between attempts at the store, for as long as the partition is ours.
struct Patience<'a> {
    input: &'a Partition,
    metrics: &'a Metrics,
    pauses: ExponentialBackoff,
    waits_for_operator: bool,
}

impl<'a> Patience<'a> {
    fn new(input: &'a Partition, stage: &'a Stage) -> Self {
        Self {
            input,
            metrics: &stage.metrics,
            pauses: ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_delay(MAX_OPERATOR_PAUSE)
                .with_jitter()
                .without_max_times()
                .build(),
            waits_for_operator: false,
        }
    }

    fn pause(&mut self, what: &str, error: &StoreError) -> Result<(), Stop> {
        self.metrics.retried();
        let source = error.source().map(tracing::field::display);
        let mut pause = self.pauses.next().unwrap_or(MAX_OPERATOR_PAUSE);
        match error.disposition() {
            Disposition::Retry => {
                pause = pause.min(MAX_PAUSE);
                self.wait_for_operator(false);
                tracing::warn!(what, %error, source, "the store failed and is tried again");
            }
            Disposition::Poison | Disposition::Operator => {
                self.wait_for_operator(true);
                tracing::error!(
                    what, %error, source,
                    "an operator must mend the store; it is tried again until then, and nothing is lost"
                );
            }
        }
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if self.input.is_revoked() {
                return Err(Stop::Revoked);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn wait_for_operator(&mut self, waits: bool) {
        if waits != self.waits_for_operator {
            self.waits_for_operator = waits;
            self.metrics.waits_for_operator(waits);
        }
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.wait_for_operator(false);
    }
}

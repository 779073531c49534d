//! One partition of `chat.events`, from its assignment to its release. Blocking; runs on a thread of its own.
//!
//! ```text
//! chat.events[p] ── common reader ──► every destination that has room
//!        └───────── second reader ──► destinations that had none, each from where it stands
//! cursors of both ──► chat.deliveries.cursors[p], every second ──► the group's offset
//! ```
//!
//! A destination without room costs nothing but its cursor: what it misses stays in the log, and is read
//! again when it has room. So no destination is waited for, and memory does not grow.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chatpulse_kafka::{
    BatchLimit, KafkaError, Next, Partition, PartitionReader, Publication, Record, RecordRef,
    TopicPartition,
};
use chatpulse_model::{
    Event, Outcome,
    delivery::{Behind, Cursor, Cursors},
    watermark::{Admission, Watermark},
};

use crate::{
    error::PartitionError,
    lane::{Source, Ticket},
    progress::{LaneId, Progress},
    run::Run,
    turn::Turn,
};

const LIMIT: BatchLimit = BatchLimit {
    max_records: 500,
    max_bytes: 4 << 20,
    wait: Duration::from_millis(100),
    linger: Duration::ZERO,
};
/// The same for destinations that are behind. What they read is there, and a broker that is slow to find it is
/// waited for: asked anew each time, it would never be done.
const BEHIND: BatchLimit = BatchLimit {
    wait: Duration::from_secs(3),
    ..LIMIT
};
/// Records that one destination reads by itself before it is another's turn.
const TURN: usize = 5_000;
/// How often cursors are written.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the broker.
const WAIT: Duration = Duration::from_secs(10);
/// How long turns under way may take to end when the partition is taken away.
const DRAIN: Duration = Duration::from_secs(12);
/// How often the second reader looks whether it has something to do.
const LOOK: Duration = Duration::from_millis(20);
/// So many of the records before the start are looked through for consent.
const CONSENT_RECORDS: i64 = 100_000;

/// Delivers one partition until it is taken away.
pub(crate) fn deliver(input: Partition, run: &Arc<Run>) -> Result<(), PartitionError> {
    let feed = Feed::load(input, run)?;
    let Feed {
        input,
        shared,
        cursors,
    } = feed;
    let is_over = AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        let reader = input.open_reader(input.id().clone())?;
        let shared = &shared;
        let is_over = &is_over;
        let second = scope.spawn(move || {
            let caught = catch_up(reader, shared, is_over);
            if let Err(error) = &caught {
                tracing::warn!(partition = shared.partition, %error, "the second reader ended");
            }
            caught
        });
        let first = Common {
            input,
            shared,
            cursors,
        }
        .run(&second);
        is_over.store(true, Ordering::SeqCst);
        let second = second
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        first.and(second)
    });
    shared.run.metrics.behind(&shared.partition.to_string(), 0);
    done
}

/// An event that is handed to destinations. Its bytes are copied for the first that takes it.
struct Handed<'a> {
    at: Cursor,
    event: Arc<Event>,
    payload: &'a [u8],
    framed: Option<Arc<[u8]>>,
}

impl<'a> Handed<'a> {
    fn of(record: &RecordRef<'a>, event: Event) -> Self {
        Self {
            at: Cursor {
                offset: record.offset,
                raw: event.offset,
            },
            event: Arc::new(event),
            payload: record.payload.unwrap_or_default(),
            framed: None,
        }
    }

    fn framed(&mut self) -> Arc<[u8]> {
        Arc::clone(self.framed.get_or_insert_with(|| self.payload.into()))
    }
}

/// What both readers share.
struct FeedShared {
    run: Arc<Run>,
    partition: i32,
    progress: Arc<Mutex<Progress>>,
    source: Arc<Source>,
    /// Destinations that no cursors knew: what stood in the log when we came, up to `end`, is not theirs.
    new: BTreeSet<LaneId>,
    end: i64,
    /// What had a turn shortly before we came, by destination and raw offset: cursors may lie below it.
    recorded: HashSet<(LaneId, i64)>,
}

struct Feed {
    input: Partition,
    shared: FeedShared,
    cursors: Keeper,
}

impl Feed {
    fn load(mut input: Partition, run: &Arc<Run>) -> Result<Self, PartitionError> {
        let partition = input.id().partition;
        let topic = TopicPartition::new(run.config.topics.cursors.clone(), partition);
        let last = input
            .open_reader(topic)?
            .find_last(WAIT, |record| run.cursors.decode(record.payload?).ok())?;
        let ends = input.watermarks()?;
        let is_first = last.is_none();
        let Cursors {
            next,
            behind,
            known,
        } = last.unwrap_or_else(|| {
            // Whoever sets up a destination wants what comes, and not the history of years.
            tracing::info!(partition, from = ends.high, "delivering from here on");
            let next = Cursor {
                offset: ends.high,
                raw: 0,
            };
            Cursors {
                next,
                behind: Vec::new(),
                known: Vec::new(),
            }
        });
        let new = run.names().into_iter();
        let new = new.filter(|(name, _)| !known.contains(name));
        let new = new.map(|(_, lane)| lane).collect();
        let within = |cursor: Cursor| {
            if (ends.low..=ends.high).contains(&cursor.offset) {
                return cursor;
            }
            tracing::error!(
                partition,
                cursor = cursor.offset,
                low = ends.low,
                high = ends.high,
                "the log does not have where deliveries go on: it was cut or made again; going on \
                 with what it has, and repeating what was delivered where that cannot be told"
            );
            Cursor {
                offset: ends.low,
                raw: 0,
            }
        };
        let next = within(next);
        let behind = behind.into_iter().filter_map(|behind| {
            let lane = run.lane_of(&behind.tenant, &behind.destination)?;
            Some((lane, within(behind.next)))
        });
        let progress = Progress::at(next, behind);
        tracing::info!(
            partition,
            from = next.offset,
            end = ends.high,
            behind = progress.laggards().len(),
            "delivering"
        );
        let shared = FeedShared {
            run: Arc::clone(run),
            partition,
            progress: Arc::new(Mutex::new(progress)),
            source: Arc::default(),
            new,
            end: ends.high,
            recorded: run
                .recorded(partition)?
                .map(|turn| (turn.lane, turn.offset))
                .collect(),
        };
        if run.asks_for_consent() {
            shared.recall_consent(&mut input, (ends.low, next.offset))?;
        }
        input.seek(next.offset)?;
        let mut cursors = Keeper::default();
        if is_first {
            // From now on nothing is passed over.
            cursors.write(&shared)?;
            cursors.wait(&input, WAIT)?;
        }
        Ok(Self {
            input,
            shared,
            cursors,
        })
    }
}

/// Cursors on their way to the broker.
#[derive(Default)]
struct Keeper {
    written: Option<Cursors>,
    under_way: Option<(Publication, i64)>,
    at: Option<Instant>,
}

impl Keeper {
    /// Writes the cursors where they changed and none are under way.
    fn write(&mut self, shared: &FeedShared) -> Result<(), PartitionError> {
        self.at = Some(Instant::now());
        let cursors = shared.cursors();
        if self.under_way.is_some() || self.written.as_ref() == Some(&cursors) {
            return Ok(());
        }
        let record = Record {
            partition: Some(shared.partition),
            key: b"cursors".to_vec(),
            payload: shared
                .run
                .cursors
                .encode(&cursors)
                .map_err(PartitionError::Encode)?,
            timestamp_ms: None,
        };
        let publisher = shared.run.shared.recorder.publisher();
        let publication = publisher.publish(&shared.run.config.topics.cursors, vec![record]);
        self.under_way = Some((publication, cursors.next.offset));
        self.written = Some(cursors);
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.at.is_none_or(|at| at.elapsed() >= INTERVAL)
    }

    /// Takes note of their confirmation, and then commits the group's offset: everything below it is
    /// delivered, given up, withheld, or durably known to be open.
    fn wait(&mut self, input: &Partition, limit: Duration) -> Result<(), PartitionError> {
        let Some((publication, next)) = self.under_way.take() else {
            return Ok(());
        };
        match publication.wait(limit) {
            Ok(outcomes) => {
                for outcome in outcomes {
                    outcome?;
                }
                if let Err(error) = input.commit(&[(input.id().clone(), next)]) {
                    // It only shows lag; the cursors are what counts.
                    tracing::debug!(%error, "lag is not told");
                }
            }
            Err(publication) => self.under_way = Some((publication, next)),
        }
        Ok(())
    }
}

type Second<'scope> = std::thread::ScopedJoinHandle<'scope, Result<(), PartitionError>>;

/// The common reader.
struct Common<'a> {
    input: Partition,
    shared: &'a FeedShared,
    cursors: Keeper,
}

impl Common<'_> {
    fn run(mut self, second: &Second<'_>) -> Result<(), PartitionError> {
        let outcome = self.read(second);
        self.shared.source.is_revoked.store(true, Ordering::SeqCst);
        let released = Instant::now();
        // What is under way is finished, so that the next owner does not repeat it.
        while self.shared.source.under_way.load(Ordering::SeqCst) > 0 && released.elapsed() < DRAIN
        {
            std::thread::sleep(LOOK);
        }
        outcome?;
        self.cursors.wait(&self.input, WAIT)?;
        self.cursors.write(self.shared)?;
        self.cursors.wait(&self.input, WAIT)
    }

    fn read(&mut self, second: &Second<'_>) -> Result<(), PartitionError> {
        let label = self.shared.partition.to_string();
        while !second.is_finished() {
            self.shared.run.check()?;
            match self.input.next_batch(&LIMIT)? {
                Next::Batch(batch) => {
                    for record in batch.iter() {
                        self.shared.take(&record);
                    }
                }
                Next::Idle => {}
                Next::Revoked => break,
            }
            if self.cursors.is_due() {
                self.cursors.wait(&self.input, Duration::ZERO)?;
                self.cursors.write(self.shared)?;
                let behind = self.shared.progress().laggards().len();
                self.shared.run.metrics.behind(&label, behind);
            }
        }
        Ok(())
    }
}

impl FeedShared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursors(&self) -> Cursors {
        let (next, behind) = self.progress().cursors();
        let behind = behind
            .into_iter()
            .map(|(lane, next)| {
                let destination = self.run.lane(lane).destination();
                Behind {
                    tenant: destination.tenant.to_string(),
                    destination: destination.id.to_string(),
                    next,
                }
            })
            .collect();
        let names = self.run.names().into_iter();
        let known = names.map(|(name, _)| name).collect();
        Cursors {
            next,
            behind,
            known,
        }
    }

    /// The accepted event in a record that was not seen before it; and where reading goes on.
    fn admit(&self, record: &RecordRef<'_>, before: Cursor) -> (Option<Event>, Cursor) {
        let skip = Cursor {
            offset: record.offset + 1,
            raw: before.raw,
        };
        let decoded = record
            .payload
            .and_then(|payload| self.run.events.decode(payload).ok())
            .filter(|event| event.partition == self.partition && event.offset >= 0);
        let Some(event) = decoded else {
            // The sink notes what it is.
            self.run.metrics.undecodable();
            return (None, skip);
        };
        let mut watermark = Watermark::at(before.raw);
        match watermark.admit(event.offset) {
            Admission::New | Admission::Gap { .. } => {}
            Admission::Repeated => return (None, skip),
        }
        let after = Cursor {
            offset: record.offset + 1,
            raw: watermark.next(),
        };
        let accepted = event.outcome == Outcome::Accepted;
        (accepted.then_some(event), after)
    }

    /// Hands a record to every destination that wants it and is not behind.
    fn take(&self, record: &RecordRef<'_>) {
        let before = self.progress().next();
        let (event, after) = self.admit(record, before);
        // Under one lock: one that catches up joins before this record or after it.
        let mut progress = self.progress();
        if let Some(event) = event {
            {
                let consents = self.run.shared.consents.lock();
                consents
                    .unwrap_or_else(PoisonError::into_inner)
                    .note(&event);
            }
            let mut handed = Handed::of(record, event);
            for lane in self.run.wanting(&handed.event) {
                if handed.at.offset < self.end && self.new.contains(&lane) {
                    continue;
                }
                if progress.behind(lane).is_none() && !self.offer(lane, &mut handed, &mut progress)
                {
                    progress.fall_behind(lane, handed.at);
                }
            }
        }
        progress.advance(after);
    }

    /// Hands an event to a destination; false where it has no room.
    fn offer(&self, id: LaneId, handed: &mut Handed<'_>, progress: &mut Progress) -> bool {
        let lane = self.run.lane(id);
        if self.recorded.contains(&(id, handed.at.raw)) {
            return true;
        }
        if !lane.has_room() {
            return false;
        }
        let destination = lane.destination();
        let turn = Turn {
            event: Arc::clone(&handed.event),
            framed: handed.framed(),
            destination: Arc::clone(&destination.id),
            kind: destination.receiver.kind(),
            attempts: 0,
            replayed: false,
            consent: None,
        };
        let offset = handed.at.offset;
        progress.begin(id, handed.at);
        let shared = Arc::clone(&self.progress);
        let ticket = Ticket::new(&self.source, move || {
            let mut progress = shared.lock().unwrap_or_else(PoisonError::into_inner);
            progress.settle(id, offset);
        });
        match lane.offer_fresh(turn, ticket) {
            Ok(()) => true,
            Err(_) => {
                progress.settle(id, offset);
                false
            }
        }
    }

    /// Looks through the records before the start for what was said of consent.
    fn recall_consent(
        &self,
        input: &mut Partition,
        (low, next): (i64, i64),
    ) -> Result<(), PartitionError> {
        let mut from = low.max(next - CONSENT_RECORDS);
        while from < next && !input.is_revoked() {
            let to = next.min(from + LIMIT.max_records as i64);
            let batch = match input.read_range(from..to, WAIT) {
                Err(KafkaError::OffsetOutOfRange { .. }) => return Ok(()),
                batch => batch?,
            };
            let consents = self.run.shared.consents.lock();
            let mut consents = consents.unwrap_or_else(PoisonError::into_inner);
            for record in batch.iter() {
                let payload = record.payload.unwrap_or_default();
                if let Ok(event) = self.run.events.decode(payload)
                    && event.outcome == Outcome::Accepted
                {
                    consents.note(&event);
                }
            }
            from = to;
        }
        Ok(())
    }
}

/// The second reader: lets destinations that fell behind read by themselves, one after the other.
fn catch_up(
    mut reader: PartitionReader,
    shared: &FeedShared,
    is_over: &AtomicBool,
) -> Result<(), PartitionError> {
    let is_over = || is_over.load(Ordering::SeqCst);
    let mut last: LaneId = 0;
    while !is_over() {
        let laggards = shared.progress().laggards();
        for (lane, _) in &laggards {
            if shared.run.lane(*lane).is_removed() {
                // Nothing more is owed to it.
                let mut progress = shared.progress();
                let next = progress.next();
                progress.catch_up(*lane, next);
            }
        }
        let is_ready = |lane: LaneId| {
            let lane = shared.run.lane(lane);
            lane.has_much_room() && !lane.is_removed()
        };
        let ready: Vec<_> = laggards
            .into_iter()
            .filter(|(lane, _)| is_ready(*lane))
            .collect();
        // In turns: one with much to read does not hold up the others.
        let after = ready.iter().find(|(lane, _)| *lane > last);
        let Some(&(lane, from)) = after.or(ready.first()) else {
            std::thread::sleep(LOOK);
            continue;
        };
        last = lane;
        reader.seek(from.offset)?;
        let mut at = from;
        let mut read = 0;
        'turn: while read < TURN && !is_over() {
            let batch = reader.next_batch(&BEHIND, &is_over)?;
            if batch.is_empty() {
                break;
            }
            for record in batch.iter() {
                let (event, after) = shared.admit(&record, at);
                let destination = shared.run.lane(lane).destination();
                let event = event.filter(|event| {
                    destination.tenant.as_ref() == event.tenant
                        && destination.wants(event.event_type)
                });
                let mut progress = shared.progress();
                let next = progress.next();
                if record.offset >= next.offset {
                    // From here on it goes with the others.
                    progress.catch_up(lane, next);
                    break 'turn;
                }
                if let Some(event) = event
                    && !shared.offer(lane, &mut Handed::of(&record, event), &mut progress)
                {
                    break 'turn;
                }
                at = after;
                read += 1;
                progress.catch_up(lane, at);
                if progress.behind(lane).is_none() {
                    break 'turn;
                }
            }
        }
    }
    Ok(())
}

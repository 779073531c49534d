//! One partition of waiting deliveries, `chat.retries.N`: each gets its turn when it is due. Blocking; runs
//! on a thread of its own.
//!
//! ```text
//! chat.retries.N[p] ── read ahead, bounded ──► due? ──► lane: its turn ──► recorded, or waiting again
//!                                                 └──► no room: waiting a little longer, not counted
//! ```
//!
//! What stands here is due in about the order in which it stands, since all of it waits for about as long.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chatpulse_kafka::{BatchLimit, KafkaError, Next, Partition};
use chatpulse_model::delivery::Retry;
use jiff::Timestamp;

use crate::{
    error::PartitionError,
    failure::Ending,
    lane::{Lane, Refusal, Source, Ticket},
    progress::OpenOffsets,
    run::{RecordedTurn, Run},
    turn::{Span, Turn},
};

/// Deliveries read before they are due, at most; a bound on memory.
const AHEAD: usize = 1_000;
/// Deliveries handed on and not done, at most.
const OPEN: usize = 2_000;
/// How often what is due is looked for.
const LOOK: Duration = Duration::from_millis(20);
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(12);

/// Gives waiting deliveries their turns until the partition is taken away.
pub(crate) fn deliver(mut input: Partition, run: &Arc<Run>) -> Result<(), PartitionError> {
    let ends = input.watermarks()?;
    let committed = input.committed(std::slice::from_ref(input.id()))?;
    let committed = committed.first().copied().flatten().unwrap_or(ends.low);
    let from = committed.clamp(ends.low, ends.high);
    if from != committed {
        tracing::error!(
            partition = %input.id(),
            committed,
            low = ends.low,
            high = ends.high,
            "waiting deliveries are gone from the log: it was cut or made again"
        );
    }
    input.seek(from)?;
    let mut waiting = Waiting {
        run: Arc::clone(run),
        ahead: BTreeMap::new(),
        open: Arc::new(Mutex::new(OpenOffsets::at(from))),
        handed: Arc::default(),
        source: Arc::default(),
    };
    let mut commits = Commits {
        committed: from,
        at: Instant::now(),
    };
    let read = waiting.read(&mut input, &mut commits);
    waiting.source.is_revoked.store(true, Ordering::SeqCst);
    let released = Instant::now();
    while waiting.source.under_way.load(Ordering::SeqCst) > 0 && released.elapsed() < DRAIN {
        std::thread::sleep(LOOK);
    }
    read?;
    commits.commit(&input, waiting.open().done(), Duration::ZERO);
    Ok(())
}

struct Commits {
    committed: i64,
    at: Instant,
}

impl Commits {
    fn commit(&mut self, input: &Partition, done: i64, interval: Duration) {
        if done > self.committed && self.at.elapsed() >= interval {
            match input.commit(&[(input.id().clone(), done)]) {
                Ok(()) => self.committed = done,
                // The next one tells the same, and more.
                Err(error) => tracing::warn!(partition = %input.id(), %error, "not committed"),
            }
            self.at = Instant::now();
        }
    }
}

struct Waiting {
    run: Arc<Run>,
    /// Read and not due: by time, then offset.
    ahead: BTreeMap<(i64, i64), Retry>,
    open: Arc<Mutex<OpenOffsets>>,
    /// Handed on and not done.
    handed: Arc<AtomicUsize>,
    source: Arc<Source>,
}

impl Waiting {
    fn open(&self) -> MutexGuard<'_, OpenOffsets> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&mut self, input: &mut Partition, commits: &mut Commits) -> Result<(), PartitionError> {
        loop {
            self.run.check()?;
            let room = AHEAD.saturating_sub(self.ahead.len());
            if room == 0 {
                if input.is_revoked() {
                    return Ok(());
                }
                std::thread::sleep(LOOK);
            } else {
                let limit = BatchLimit {
                    max_records: room,
                    max_bytes: 4 << 20,
                    // What is due is not kept waiting by what is not yet there.
                    wait: self
                        .next_due()
                        .map_or(Duration::from_millis(100), |due| due.min(LOOK)),
                    linger: Duration::ZERO,
                };
                match input.next_batch(&limit) {
                    Ok(Next::Batch(batch)) => {
                        for record in batch.iter() {
                            self.open().begin(record.offset);
                            match record.payload.map(|bytes| self.run.retries.decode(bytes)) {
                                Some(Ok(retry)) => {
                                    self.ahead.insert((retry.due_at, record.offset), retry);
                                }
                                Some(Err(_)) | None => {
                                    tracing::error!(partition = %input.id(), offset = record.offset,
                                        "a record is no waiting delivery, and is passed over");
                                    self.run.metrics.undecodable();
                                    self.open().settle(record.offset);
                                }
                            }
                        }
                    }
                    Ok(Next::Idle) => {}
                    Ok(Next::Revoked) => return Ok(()),
                    Err(error @ KafkaError::OffsetOutOfRange { .. }) => {
                        tracing::error!(%error, "waiting deliveries were deleted before their turn");
                        return Err(error.into());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.hand_on();
            let done = self.open().done();
            commits.commit(input, done, COMMIT_INTERVAL);
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let (&(due_at, _), _) = self.ahead.first_key_value()?;
        let left = due_at.saturating_sub(Timestamp::now().as_millisecond());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// Hands on what is due.
    fn hand_on(&mut self) {
        let now = Timestamp::now().as_millisecond();
        while self.handed.load(Ordering::SeqCst) < OPEN {
            let Some(entry) = self.ahead.first_entry() else {
                break;
            };
            let (due_at, offset) = *entry.key();
            if due_at > now {
                break;
            }
            let retry = entry.remove();
            self.give_turn(offset, retry, now);
        }
    }

    fn give_turn(&self, offset: i64, retry: Retry, now: i64) {
        let ticket = self.ticket(offset);
        let Ok(event) = self.run.events.decode(&retry.event) else {
            tracing::error!(
                offset,
                "a waiting delivery holds no event, and is passed over"
            );
            self.run.metrics.undecodable();
            return ticket.settle();
        };
        let turn = Turn {
            event: Arc::new(event),
            framed: retry.event.into(),
            destination: retry.destination.as_str().into(),
            kind: retry.kind,
            attempts: retry.attempts,
            replayed: retry.replayed,
            consent: retry.consent,
        };
        let Some(lane) = self.run.lane_of(&retry.tenant, &retry.destination) else {
            return self.end(turn, Lane::gone_from_configuration(), (ticket, now));
        };
        let recorded = RecordedTurn {
            lane,
            partition: turn.event.partition,
            offset: turn.event.offset,
            attempt: turn.attempts.saturating_add(1),
        };
        // A predecessor gave it this turn, and had no time to commit.
        if !turn.replayed && self.run.is_recorded(recorded) {
            return ticket.settle();
        }
        match self.run.lane(lane).offer_retry(turn, ticket) {
            Ok(()) => {}
            // A turn without a request, so that a receiver that fails for ever ends its deliveries too.
            Err((Refusal::CircuitOpen, turn, ticket)) => {
                self.end(turn, Lane::skipped(), (ticket, now));
            }
            Err((refusal @ (Refusal::Full | Refusal::Paused(_)), turn, ticket)) => {
                let wait = match refusal {
                    Refusal::Paused(left) => left,
                    Refusal::Full | Refusal::CircuitOpen => Duration::ZERO,
                };
                let jitter = (&self.run.shared.schedule, rand::random());
                let waiting = turn.postponed((now, wait, retry.last), jitter);
                let shared = Arc::clone(&self.run.shared);
                self.run.metrics.postponed();
                self.run.runtime.spawn(async move {
                    if shared.recorder.wait(&waiting).await {
                        ticket.settle();
                    }
                });
            }
        }
    }

    /// Ends a turn in which no request is made.
    fn end(&self, turn: Turn, ending: Ending, (ticket, now): (Ticket, i64)) {
        let span = Span {
            at: now,
            took: None,
        };
        let shared = Arc::clone(&self.run.shared);
        self.run.runtime.spawn(async move {
            let jitter = (&shared.schedule, rand::random());
            let (delivery, waiting) = turn.end(&ending, span, jitter);
            if shared.recorder.record(&delivery, waiting.as_ref()).await {
                ticket.settle();
            }
        });
    }

    fn ticket(&self, offset: i64) -> Ticket {
        let open = Arc::clone(&self.open);
        let handed = Arc::clone(&self.handed);
        handed.fetch_add(1, Ordering::SeqCst);
        Ticket::new(&self.source, move || {
            handed.fetch_sub(1, Ordering::SeqCst);
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.settle(offset);
        })
    }
}

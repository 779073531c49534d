//! Publishing with confirmation: every record ends as delivered at an offset, or as an error. Nothing is forgotten.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as Native;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer,
};

use crate::batch::Record;
use crate::config::KafkaConfig;
use crate::error::{KafkaError, PublishError};
use crate::reader::{log_error, log_line};

/// A full queue is tried again at least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How a publisher waits and how much it holds.
#[derive(Clone, Copy, Debug)]
pub struct PublisherSettings {
    /// Wait so long for more records to send together. Default 5 ms.
    pub linger: Duration,
    /// Records held at most until confirmed, over all partitions. Default 100,000.
    pub queue_records: usize,
    /// Bytes held at most, in whole KiB. Default 64 MiB.
    pub queue_bytes: usize,
    /// What happens when the broker does not answer. Default: [`Delivery::Within`] 30 s.
    pub delivery: Delivery,
}

/// What happens when the broker does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Give a record up after so long: its outcome is [`PublishError::Unconfirmed`], and records after it may still
    /// be written.
    Within(Duration),
    /// Never give up: a partition's records are written in order without a gap, or the publisher dies
    /// ([`PublishError::Dead`]). For streams whose readers rely on every record.
    Gapless,
}

impl Default for PublisherSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            queue_records: 100_000,
            queue_bytes: 64 << 20,
            delivery: Delivery::Within(Duration::from_secs(30)),
        }
    }
}

/// Where a confirmed record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

/// An idempotent producer (acks=all). Clones share one queue, one connection and one thread that serves
/// confirmations.
#[derive(Clone)]
pub struct Publisher {
    producer: Arc<ThreadedProducer<Reports>>,
    space: Arc<Space>,
}

impl Publisher {
    /// Makes a publisher; does not wait for the broker.
    ///
    /// # Errors
    /// [`KafkaError::Config`] or [`KafkaError::Client`].
    pub fn new(config: &KafkaConfig, settings: &PublisherSettings) -> Result<Self, KafkaError> {
        let mut client = config.producer()?;
        client
            .set(
                "queue.buffering.max.ms",
                settings.linger.as_millis().to_string(),
            )
            .set(
                "queue.buffering.max.messages",
                settings.queue_records.to_string(),
            )
            .set(
                "queue.buffering.max.kbytes",
                (settings.queue_bytes >> 10).max(1).to_string(),
            );
        match settings.delivery {
            Delivery::Within(deadline) => {
                client.set(
                    "message.timeout.ms",
                    deadline.as_millis().max(1).to_string(),
                );
            }
            Delivery::Gapless => {
                client
                    .set("message.timeout.ms", "0")
                    .set("enable.gapless.guarantee", "true");
            }
        }
        let space = Arc::new(Space::default());
        let producer = client
            .create_with_context(Reports {
                space: Arc::clone(&space),
            })
            .map_err(KafkaError::from_create)?;
        Ok(Self {
            producer: Arc::new(producer),
            space,
        })
    }

    /// Hands `records` to the queue, in order, without waiting. When one does not fit, it and all after it fail with
    /// the same error and are not sent, so what is written is always a beginning of `records`.
    ///
    /// The outcomes are in the returned [`Publication`]: await it, or wait for it on a thread.
    pub fn publish(&self, topic: &str, records: Vec<Record>) -> Publication {
        self.enqueue(topic, records, Instant::now())
    }

    /// The same, but waits up to `timeout` for room in the queue. For threads; do not call it from async code.
    pub fn publish_waiting(
        &self,
        topic: &str,
        records: Vec<Record>,
        timeout: Duration,
    ) -> Publication {
        self.enqueue(topic, records, Instant::now() + timeout)
    }

    fn enqueue(&self, topic: &str, records: Vec<Record>, deadline: Instant) -> Publication {
        let shared = Arc::new(Shared::new(records.len()));
        for (index, record) in records.iter().enumerate() {
            let slot = Box::new(Slot {
                shared: Arc::clone(&shared),
                index,
            });
            if let Err((error, slot)) = self.send(topic, record, (slot, deadline)) {
                // The slot of the failed record settles the rest of the batch with it.
                slot.shared.settle_from(slot.index, &error);
                break;
            }
        }
        Publication { shared }
    }

    fn send(
        &self,
        topic: &str,
        record: &Record,
        (mut slot, deadline): (Box<Slot>, Instant),
    ) -> Result<(), (PublishError, Box<Slot>)> {
        loop {
            let mut native = BaseRecord::with_opaque_to(topic, slot).payload(&record.payload);
            native.partition = record.partition;
            native.timestamp = record.timestamp_ms;
            if !record.key.is_empty() {
                native = native.key(&record.key);
            }
            let seen = self.space.seen();
            match self.producer.send(native) {
                Ok(()) => return Ok(()),
                Err((error, refused)) => {
                    slot = refused.delivery_opaque;
                    let error = PublishError::from_native(&error);
                    if error != PublishError::QueueFull || !self.space.wait(seen, deadline) {
                        return Err((error, slot));
                    }
                }
            }
        }
    }

    /// About how many records are neither confirmed nor failed yet, for metrics. librdkafka adds its own events that
    /// wait to be served, so it can be a few too high, and is 0 only when nothing is open.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// Sends what is queued and waits until everything is confirmed or has failed. Blocks the thread.
    ///
    /// # Errors
    /// [`KafkaError::Timeout`] when records are still open after `timeout`.
    pub fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.producer
            .flush(timeout)
            .map_err(|_| KafkaError::Timeout {
                action: "flushing the publisher",
                after: timeout,
            })
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Publisher")
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

/// The outcomes of one [`Publisher::publish`], in the order of its records. Dropping it does not call records back.
#[derive(Debug)]
#[must_use = "a record is only safe when its outcome says so"]
pub struct Publication {
    shared: Arc<Shared>,
}

/// One outcome per record, in order.
pub type Outcomes = Vec<Result<Delivered, PublishError>>;

impl Publication {
    /// Whether every outcome is known.
    pub fn is_done(&self) -> bool {
        self.shared.lock().open == 0
    }

    /// Whether a record is known to have failed. A writer that must leave no gap asks before it
    /// publishes what comes after.
    pub fn has_failed(&self) -> bool {
        let state = self.shared.lock();
        state
            .outcomes
            .iter()
            .any(|outcome| matches!(outcome, Some(Err(_))))
    }

    /// Waits on this thread until every outcome is known.
    ///
    /// # Errors
    /// The publication itself, to go on waiting, when `timeout` passes first.
    pub fn wait(self, timeout: Duration) -> Result<Outcomes, Self> {
        let mut state = self.shared.lock();
        // Of a task that has polled before, and does no more.
        state.waker = None;
        let (mut state, _) = self
            .shared
            .done
            .wait_timeout_while(state, timeout, |state| state.open > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if state.open == 0 {
            return Ok(state.take());
        }
        drop(state);
        Err(self)
    }
}

impl Future for Publication {
    type Output = Outcomes;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcomes> {
        let mut state = self.shared.lock();
        if state.open == 0 {
            return Poll::Ready(state.take());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// What the delivery reports of one publication fill in.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug)]
struct State {
    outcomes: Vec<Option<Result<Delivered, PublishError>>>,
    open: usize,
    waker: Option<Waker>,
}

impl State {
    fn take(&mut self) -> Outcomes {
        std::mem::take(&mut self.outcomes)
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Shared {
    fn new(records: usize) -> Self {
        let state = State {
            outcomes: vec![None; records],
            open: records,
            waker: None,
        };
        Self {
            state: Mutex::new(state),
            done: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, index: usize, outcome: Result<Delivered, PublishError>) {
        let mut state = self.lock();
        if let Some(slot @ None) = state.outcomes.get_mut(index) {
            *slot = Some(outcome);
            state.open -= 1;
        }
        self.notify(state);
    }

    fn settle_from(&self, index: usize, error: &PublishError) {
        let mut state = self.lock();
        let mut settled = 0;
        for slot in state
            .outcomes
            .iter_mut()
            .skip(index)
            .filter(|slot| slot.is_none())
        {
            *slot = Some(Err(error.clone()));
            settled += 1;
        }
        state.open -= settled;
        self.notify(state);
    }

    fn notify(&self, mut state: MutexGuard<'_, State>) {
        if state.open > 0 {
            return;
        }
        let waker = state.waker.take();
        drop(state);
        // One of the two waits, never both.
        match waker {
            Some(waker) => waker.wake(),
            None => self.done.notify_all(),
        }
    }
}

/// Travels through librdkafka with a record.
struct Slot {
    shared: Arc<Shared>,
    index: usize,
}

/// Tells waiting publishers that room was made in the queue. Every confirmed record passes here, so nothing is locked
/// or woken unless somebody waits.
#[derive(Default)]
struct Space {
    /// How many records have left the queue.
    freed: AtomicU64,
    waiting: AtomicUsize,
    turn: Mutex<()>,
    changed: Condvar,
}

impl Space {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> u64 {
        self.freed.load(Ordering::SeqCst)
    }

    /// Waits until a record's outcome is known that was not at `seen`, or a little while; false when the deadline has
    /// passed. librdkafka makes room only after it has handed all outcomes of a batch over, so the news alone is no
    /// promise of room, and the wait is kept short.
    fn wait(&self, seen: u64, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let turn = self.lock();
        // Before `freed` is looked at, as `free` counts before it looks here: one of the two sees the other.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waited = self
            .changed
            .wait_timeout_while(turn, left.min(LOOK_AGAIN), |()| self.seen() == seen);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        true
    }

    fn free(&self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Whoever has looked and not yet slept holds it.
            drop(self.lock());
            self.changed.notify_all();
        }
    }
}

/// Receives delivery reports on the publisher's thread.
struct Reports {
    space: Arc<Space>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        log_error(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, report: &DeliveryResult<'_>, slot: Box<Slot>) {
        let outcome = match report {
            Ok(message) => Ok(Delivered {
                partition: message.partition(),
                offset: message.offset(),
            }),
            Err((error, _)) => Err(PublishError::from_native(error)),
        };
        slot.shared.settle(slot.index, outcome);
        self.space.free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delivered(offset: i64) -> Result<Delivered, PublishError> {
        Ok(Delivered {
            partition: 0,
            offset,
        })
    }

    proptest! {
        #[test]
        fn outcomes_keep_the_order_of_the_records_whatever_the_order_of_the_reports(
            order in (1..40_usize).prop_flat_map(|len| Just((0..len).collect::<Vec<_>>()).prop_shuffle())
        ) {
            let shared = Arc::new(Shared::new(order.len()));
            let publication = Publication { shared: Arc::clone(&shared) };
            for (reported, index) in order.iter().enumerate() {
                prop_assert!(!publication.is_done(), "done after {} of {}", reported, order.len());
                shared.settle(*index, delivered(*index as i64));
            }
            let outcomes = publication.wait(Duration::ZERO).expect("done");
            let expected: Outcomes = (0..order.len() as i64).map(delivered).collect();
            prop_assert_eq!(outcomes, expected);
        }
    }

    #[test]
    fn a_refused_record_settles_all_after_it_with_the_same_error() {
        let shared = Arc::new(Shared::new(3));
        shared.settle_from(1, &PublishError::QueueFull);
        shared.settle(0, delivered(9));
        let outcomes = Publication { shared }.wait(Duration::ZERO).expect("done");
        assert_eq!(
            outcomes,
            [
                delivered(9),
                Err(PublishError::QueueFull),
                Err(PublishError::QueueFull)
            ]
        );
    }

    #[test]
    fn a_publication_of_nothing_is_done_at_once() {
        let publication = Publication {
            shared: Arc::new(Shared::new(0)),
        };
        assert!(publication.wait(Duration::ZERO).expect("done").is_empty());
    }
}

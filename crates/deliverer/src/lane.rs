//! One destination at work: its queue, its requests, its breaker, and whether it is disabled.
//!
//! ```text
//!  offer_fresh, offer_retry ──► two bounded queues ──► pump ── breaker, concurrency ──► turn: consent,
//!        │ no room                    retries first                  request, record ──► ticket settled
//!        └──► the caller keeps it in its log
//! ```
//!
//! Nothing here is shared with other destinations but threads and the way to the broker, so one that hangs
//! holds up itself alone.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chatpulse_model::{FailureClass, delivery::DestinationState};
use jiff::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    breaker::{Breaker, BreakerSettings, Permit},
    consent::{Consents, objection},
    destination::{ConsentRule, Destination},
    failure::{Ending, Failure, Sign, Verdict, sign, verdict},
    http::{Client, Pool},
    recorder::Recorder,
    request,
    schedule::Schedule,
    trial::judge,
    turn::{Span, Turn},
};

/// Deliveries from `chat.events` that one destination may have open in a process.
pub(crate) const FRESH_ROOM: usize = 256;
/// And from the retry topics.
const RETRY_ROOM: usize = 128;
/// A failure that lasts so long is remembered over a restart.
const WORTH_REMEMBERING: Duration = Duration::from_secs(60);

/// What all lanes of a run share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) schedule: Schedule,
    pub(crate) breaker: BreakerSettings,
    pub(crate) disable_after: Duration,
    pub(crate) consents: Mutex<Consents>,
    /// No new turn begins after this.
    pub(crate) stop: CancellationToken,
}

/// Tells the log that a delivery came from that it is done.
pub(crate) struct Ticket {
    done: Box<dyn FnOnce() + Send>,
    /// The log's partition was taken away: a turn that has not begun is not begun any more.
    source: Arc<Source>,
}

/// The partition that deliveries come from.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) is_revoked: AtomicBool,
    /// Turns under way.
    pub(crate) under_way: AtomicUsize,
}

impl Ticket {
    pub(crate) fn new(source: &Arc<Source>, done: impl FnOnce() + Send + 'static) -> Self {
        Self {
            done: Box::new(done),
            source: Arc::clone(source),
        }
    }

    pub(crate) fn settle(self) {
        (self.done)();
    }
}

struct Job {
    turn: Turn,
    ticket: Ticket,
    /// Held until the turn is recorded, so that what is open is bounded.
    _room: OwnedSemaphorePermit,
}

/// Why a lane takes no turn now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No room.
    Full,
    /// The receiver has a pause, or is being probed; for at least so long.
    Paused(Duration),
    /// The breaker is open, because the receiver fails.
    CircuitOpen,
}

/// A destination at work.
pub(crate) struct Lane {
    /// As it is configured now.
    destination: ArcSwap<Destination>,
    /// Whether it has left the configuration: what it was handed is given up.
    is_removed: AtomicBool,
    /// Requests that may be under way at once.
    slots: Arc<Semaphore>,
    fresh: (mpsc::UnboundedSender<Job>, Arc<Semaphore>),
    retries: (mpsc::UnboundedSender<Job>, Arc<Semaphore>),
    pool: Pool,
    health: Mutex<Health>,
    /// The breaker or the destination's state changed.
    changed: Notify,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Health {
    breaker: Breaker,
    failing_since: Option<i64>,
    is_remembered: bool,
    /// When, and why: `gone` or `failing`.
    disabled: Option<(i64, String)>,
}

impl Lane {
    /// Starts the pump of a destination.
    pub(crate) fn start(destination: Destination, shared: &Arc<Shared>) -> Arc<Self> {
        let (fresh, fresh_jobs) = mpsc::unbounded_channel();
        let (retries, retry_jobs) = mpsc::unbounded_channel();
        let lane = Arc::new(Self {
            fresh: (fresh, Arc::new(Semaphore::new(FRESH_ROOM))),
            retries: (retries, Arc::new(Semaphore::new(RETRY_ROOM))),
            pool: Pool::default(),
            health: Mutex::new(Health::unknown(shared.breaker)),
            changed: Notify::new(),
            shared: Arc::clone(shared),
            slots: Arc::new(Semaphore::new(destination.concurrency)),
            is_removed: AtomicBool::new(false),
            destination: ArcSwap::from_pointee(destination),
        });
        tokio::spawn(Arc::clone(&lane).pump(retry_jobs, fresh_jobs));
        lane
    }

    pub(crate) fn destination(&self) -> Arc<Destination> {
        self.destination.load_full()
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::SeqCst)
    }

    /// Takes over other settings; from the next request on they count. Another address is another receiver,
    /// of which nothing is known.
    pub(crate) fn configure(&self, destination: Destination) {
        let before = self.destination();
        let (had, has) = (before.concurrency, destination.concurrency);
        {
            let mut health = self.health();
            if before.receiver.address() != destination.receiver.address() {
                *health = Health::unknown(self.shared.breaker);
            }
            // Under the lock, so that no answer of the receiver before counts for this one.
            self.destination.store(Arc::new(destination));
        }
        if has > had {
            self.slots.add_permits(has - had);
        } else {
            let left = had - has - self.slots.forget_permits(had - has);
            let slots = Arc::clone(&self.slots);
            // Those under way are taken away when they come back.
            if let Some(left) = u32::try_from(left).ok().filter(|left| *left > 0) {
                tokio::spawn(async move {
                    if let Ok(permits) = slots.acquire_many_owned(left).await {
                        permits.forget();
                    }
                });
            }
        }
        self.is_removed.store(false, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// It has left the configuration.
    pub(crate) fn remove(&self) {
        self.is_removed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a fresh delivery would be taken now.
    pub(crate) fn has_room(&self) -> bool {
        self.fresh.1.available_permits() > 0 && self.refusal().is_none()
    }

    /// Whether much of the room is free, so that it is worth reading a log again.
    pub(crate) fn has_much_room(&self) -> bool {
        self.fresh.1.available_permits() >= FRESH_ROOM / 2 && self.refusal().is_none()
    }

    fn refusal(&self) -> Option<Refusal> {
        let health = self.health();
        // A disabled one has everything given up, whatever its breaker says.
        if health.disabled.is_some() || self.is_removed() {
            return None;
        }
        let now = Instant::now();
        match health.breaker.peek(now) {
            Permit::Granted | Permit::Probe => None,
            Permit::Denied(_) => Some(Refusal::CircuitOpen),
            Permit::Paused(until) => Some(Refusal::Paused(until - now)),
            Permit::Probing => Some(Refusal::Paused(Duration::ZERO)),
        }
    }

    /// Takes the first turn of a delivery.
    pub(crate) fn offer_fresh(&self, turn: Turn, ticket: Ticket) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        Self::offer(&self.fresh, turn, ticket).map_err(|_| Refusal::Full)
    }

    /// Takes a later turn; gives both back where it cannot.
    pub(crate) fn offer_retry(
        &self,
        turn: Turn,
        ticket: Ticket,
    ) -> Result<(), (Refusal, Turn, Ticket)> {
        // While the receiver has a pause, retries queue up: they come before what is fresh.
        if let Some(refusal @ Refusal::CircuitOpen) = self.refusal() {
            return Err((refusal, turn, ticket));
        }
        Self::offer(&self.retries, turn, ticket).map_err(|(turn, ticket)| {
            let refusal = self.refusal().unwrap_or(Refusal::Full);
            (refusal, turn, ticket)
        })
    }

    fn offer(
        (queue, room): &(mpsc::UnboundedSender<Job>, Arc<Semaphore>),
        turn: Turn,
        ticket: Ticket,
    ) -> Result<(), (Turn, Ticket)> {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            return Err((turn, ticket));
        };
        let job = Job {
            turn,
            ticket,
            _room: permit,
        };
        queue
            .send(job)
            .map_err(|refused| (refused.0.turn, refused.0.ticket))
    }

    async fn pump(
        self: Arc<Self>,
        mut retries: mpsc::UnboundedReceiver<Job>,
        mut fresh: mpsc::UnboundedReceiver<Job>,
    ) {
        let slots = Arc::clone(&self.slots);
        let stop = self.shared.stop.clone();
        // A fresh one that was taken out, and then went after a retry.
        let mut held = None;
        loop {
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
                let job = tokio::select! {
                    biased;
                    Some(job) = retries.recv() => job,
                    Some(job) = async {
                        match held.take() {
                            Some(job) => Some(job),
                            None => fresh.recv().await,
                        }
                    } => job,
                    else => return None,
                };
                self.permit().await;
                // What came while we waited, and has waited longer.
                match job.turn.attempts == 0 && !job.turn.replayed {
                    true => match retries.try_recv() {
                        Ok(retry) => {
                            held = Some(job);
                            Some((slot, retry))
                        }
                        Err(_) => Some((slot, job)),
                    },
                    false => Some((slot, job)),
                }
            };
            let (slot, job) = tokio::select! {
                next = next => match next {
                    Some(next) => next,
                    None => return,
                },
                () = stop.cancelled() => return,
            };
            let lane = Arc::clone(&self);
            job.ticket.source.under_way.fetch_add(1, Ordering::SeqCst);
            if job.ticket.source.is_revoked.load(Ordering::SeqCst) {
                job.ticket.source.under_way.fetch_sub(1, Ordering::SeqCst);
                lane.health().breaker.probe_returned(Instant::now());
                continue;
            }
            tokio::spawn(async move {
                let source = Arc::clone(&job.ticket.source);
                lane.take_turn(job).await;
                source.under_way.fetch_sub(1, Ordering::SeqCst);
                drop(slot);
            });
        }
    }

    /// Waits until a turn may begin.
    async fn permit(&self) {
        loop {
            let changed = self.changed.notified();
            let permit = {
                let mut health = self.health();
                if health.disabled.is_some() || self.is_removed() {
                    return;
                }
                health.breaker.acquire(Instant::now())
            };
            match permit {
                Permit::Granted | Permit::Probe => return,
                Permit::Denied(until) | Permit::Paused(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        () = changed => {}
                    }
                }
                // The probe that is under way ends within the attempt's own limit.
                Permit::Probing => {
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(50)) => {}
                        () = changed => {}
                    }
                }
            }
        }
    }

    async fn take_turn(&self, mut job: Job) {
        let at = Timestamp::now();
        let began = Instant::now();
        let destination = self.destination();
        if destination.consent != ConsentRule::NotNeeded {
            let consents = self.shared.consents.lock();
            let consents = consents.unwrap_or_else(PoisonError::into_inner);
            job.turn.consent = consents.word(&job.turn.event).or(job.turn.consent);
        }
        let (ending, was_sent) = self.attempt(&destination, &job.turn, at).await;
        let span = Span {
            at: at.as_millisecond(),
            took: was_sent.then(|| began.elapsed()),
        };
        self.note(&destination, &ending, at.as_millisecond()).await;
        let jitter = (&self.shared.schedule, rand::random());
        let (delivery, waiting) = job.turn.end(&ending, span, jitter);
        if self
            .shared
            .recorder
            .record(&delivery, waiting.as_ref())
            .await
        {
            job.ticket.settle();
        }
    }

    /// How the turn ended, and whether a request was made.
    async fn attempt(
        &self,
        destination: &Destination,
        turn: &Turn,
        at: Timestamp,
    ) -> (Ending, bool) {
        if self.is_removed() {
            return (Self::gone_from_configuration(), false);
        }
        if let Some((_, reason)) = &self.health().disabled {
            let detail = format!("the destination is disabled ({reason})");
            let failure = Failure::new(FailureClass::Disabled, detail);
            return (Ending::Failed(failure), false);
        }
        if let Some(class) = objection(destination.consent, turn.consent) {
            let failure = Failure::new(class, "no request is made without consent");
            return (Ending::Failed(failure), false);
        }
        let request = match request::build(destination, &turn.event, at) {
            Ok(request) => request,
            Err(unfit) => {
                let failure = Failure::new(FailureClass::Invalid, unfit.to_string());
                return (Ending::Failed(failure), false);
            }
        };
        let limits = (destination.timeout, judge(destination));
        let client = &self.shared.client;
        (client.send(&self.pool, &request, limits).await, true)
    }

    /// What an attempt says about the receiver; nothing where the destination points elsewhere by now.
    async fn note(&self, asked: &Destination, ending: &Ending, now: i64) {
        let state = {
            let mut health = self.health();
            let destination = self.destination();
            if destination.receiver.address() != asked.receiver.address() {
                return;
            }
            match ending {
                Ending::Delivered { .. } => health.succeeded(),
                Ending::Failed(failure) => match sign(failure.class) {
                    Sign::Healthy => health.succeeded(),
                    Sign::Failing => health.failed(failure, now, self.shared.disable_after),
                    Sign::None => {
                        health.breaker.probe_returned(Instant::now());
                        false
                    }
                },
            }
            .then(|| health.state(&destination))
        };
        self.changed.notify_waiters();
        if let Some(state) = state {
            if let Some(reason) = &state.reason {
                tracing::warn!(
                    tenant = state.tenant,
                    destination = state.destination,
                    reason,
                    "destination is disabled; `chatpulse deliveries enable` switches it on again"
                );
            }
            self.shared.recorder.remember(&state).await;
        }
    }

    /// Takes over what was remembered, or what an operator has said since.
    pub(crate) fn remembered(&self, state: &DestinationState, is_new: bool) {
        if state.address != self.destination().receiver.address() {
            return;
        }
        let mut health = self.health();
        let disabled = state
            .disabled_at
            .map(|at| (at, state.reason.clone().unwrap_or_default()));
        if is_new || health.disabled.is_some() != disabled.is_some() {
            health.failing_since = state.failing_since;
            health.is_remembered = state.failing_since.is_some();
            if health.disabled.is_some() {
                // Switched on: it gets its chance at once.
                health.breaker = Breaker::new(self.shared.breaker);
            }
        }
        health.disabled = disabled;
        drop(health);
        self.changed.notify_waiters();
    }

    /// Whether it is disabled.
    pub(crate) fn is_disabled(&self) -> bool {
        self.health().disabled.is_some()
    }

    /// What becomes of a delivery to a destination that is not there any more.
    pub(crate) fn gone_from_configuration() -> Ending {
        Ending::Failed(Failure::new(
            FailureClass::Removed,
            "the destination is not in the configuration, or is switched off there",
        ))
    }

    /// The record of a turn that is skipped because the breaker is open.
    pub(crate) fn skipped() -> Ending {
        Ending::Failed(Failure::new(
            FailureClass::CircuitOpen,
            "the destination fails, and is asked again after a pause",
        ))
    }
}

impl Health {
    fn unknown(breaker: BreakerSettings) -> Self {
        Self {
            breaker: Breaker::new(breaker),
            failing_since: None,
            is_remembered: false,
            disabled: None,
        }
    }

    /// True where that is to be remembered.
    fn succeeded(&mut self) -> bool {
        self.breaker.succeeded();
        self.failing_since = None;
        std::mem::take(&mut self.is_remembered)
    }

    /// True where that is to be remembered.
    fn failed(&mut self, failure: &Failure, now: i64, disable_after: Duration) -> bool {
        match failure.retry_after {
            Some(wait) if !wait.is_zero() => self.breaker.asked_to_wait(Instant::now(), wait),
            Some(_) | None => self.breaker.failed(Instant::now()),
        }
        let since = *self.failing_since.get_or_insert(now);
        let lasted = Duration::from_millis(u64::try_from(now - since).unwrap_or(0));
        let reason = match verdict(failure.class) {
            Verdict::Disable => Some("gone"),
            Verdict::Retry if lasted >= disable_after => Some("failing"),
            Verdict::Retry | Verdict::GiveUp | Verdict::Withhold => None,
        };
        if let (Some(reason), None) = (reason, &self.disabled) {
            self.disabled = Some((now, reason.to_owned()));
            self.is_remembered = true;
            return true;
        }
        let is_worth = lasted >= WORTH_REMEMBERING && !self.is_remembered;
        self.is_remembered |= is_worth;
        is_worth
    }

    fn state(&self, destination: &Destination) -> DestinationState {
        DestinationState {
            failing_since: self.failing_since,
            disabled_at: self.disabled.as_ref().map(|(at, _)| *at),
            reason: self.disabled.as_ref().map(|(_, reason)| reason.clone()),
            ..destination.healthy()
        }
    }
}

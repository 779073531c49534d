//! Membership of a consumer group, with one thread per assigned partition.
//!
//! ```text
//!  coordinator ──► member's consumer ──► Member (state.rs) ──► Start: thread(Partition) ──► closure of the stage
//!                        ▲                     ▲                            │
//!                        └── Accept, Release ──┴──────── Ended ◄────────────┘
//! ```
//!
//! The member's client never looks at its topics by itself: librdkafka that sees them change (partitions were added, a
//! topic was made or deleted) joins again at once, also while it waits for a revocation to be answered. Then tasks of
//! the old generation commit with the new one's number, and an assignment comes in the middle of a release. So the
//! topics are watched beside it ([`watch`]), and a member whose topics have changed leaves in good order and joins anew.
//! So does one whose client was told that a topic is not there, when it is there: a topic that is deleted and made again.

mod lease;
mod state;
mod watch;

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::lease::Lease;
use self::state::{Effect, Event, Member};
use self::watch::Watch;
use crate::batch::{Batch, BatchLimit};
use crate::config::KafkaConfig;
use crate::error::{Disposition, GroupError, KafkaError};
use crate::reader::{PartitionReader, TopicPartition, Watermarks, committed, log_error, log_line};

/// How often the member looks for ended tasks and for its deadline.
const POLL: Duration = Duration::from_millis(50);

/// How long a release waits for a commit's answer. By then its request has long been queued, before the release is;
/// librdkafka keeps that order, and joins again only when all commits are answered.
const COMMIT_QUEUED: Duration = Duration::from_secs(5);

/// Which group to join, for what.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The brokers.
    pub kafka: KafkaConfig,
    /// The group's name.
    pub group: String,
    /// Topics whose partitions are shared out among the members (range assignor). Partitions added later are shared
    /// out too, within two `topic.metadata.refresh.interval.ms` (30 s unless overridden).
    pub topics: Vec<String>,
    /// How long a task may take to return after its partition was revoked or the shutdown began. After that it is
    /// abandoned: it can no longer commit, and the partition is released without it. Keep it below
    /// `max.poll.interval.ms` (120 s here unless overridden).
    pub patience: Duration,
}

/// Joins the group and runs `task` on a thread of its own for every partition assigned, until `shutdown`.
///
/// A task is to return `Ok` soon after [`Partition::is_revoked`] turns true, or [`Next::Revoked`] comes. When a task
/// fails, or returns while its partition is still assigned, the others are stopped, the group is left, and the error
/// is returned. An error of a task that was asked to stop is logged and goes no further.
///
/// Dropping the future stops the member too, in the background.
///
/// # Errors
/// [`GroupError::Task`], [`GroupError::Ended`], [`GroupError::Panicked`] for a task; [`GroupError::Kafka`] when the
/// client cannot be made or has failed for good.
pub async fn run_group<E, F>(
    config: GroupConfig,
    task: F,
    shutdown: CancellationToken,
) -> Result<(), GroupError<E>>
where
    E: Error + Send + Sync + 'static,
    F: Fn(Partition) -> Result<(), E> + Send + Sync + 'static,
{
    let task = Arc::new(task);
    let watch = Watch::new(&config)?;
    loop {
        // Before joining: what is added afterwards is seen as a change.
        let Some(topics) = shutdown.run_until_cancelled(watch.look()).await else {
            return Ok(());
        };
        let topics = topics?;
        let stop = shutdown.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let missed = Arc::new(Notify::new());
        let signals = (stop.clone(), Arc::clone(&missed));
        let mut member = std::pin::pin!(join(config.clone(), Arc::clone(&task), signals)?);
        let left = tokio::select! {
            left = &mut member => left,
            () = watch.change(&topics, &missed) => {
                tracing::info!(group = config.group, "topics have changed: joining the group anew");
                stop.cancel();
                member.await
            }
        };
        left?;
        if shutdown.is_cancelled() {
            return Ok(());
        }
    }
}

/// Joins the group on a thread of its own; the future is how the member left it.
fn join<E, F>(
    config: GroupConfig,
    task: Arc<F>,
    (stop, missed): (CancellationToken, Arc<Notify>),
) -> Result<impl Future<Output = Result<(), GroupError<E>>>, KafkaError>
where
    E: Error + Send + Sync + 'static,
    F: Fn(Partition) -> Result<(), E> + Send + Sync + 'static,
{
    let (done, outcome) = tokio::sync::oneshot::channel();
    spawn(format!("group {}", config.group), move || {
        let outcome = Driver::new(config, task, missed).and_then(|driver| driver.run(&stop));
        // Nobody listens any more when the future was dropped.
        let _ = done.send(outcome);
    })?;
    Ok(async {
        outcome.await.unwrap_or_else(|_| {
            Err(KafkaError::Client {
                reason: "the group's thread panicked".to_owned(),
            }
            .into())
        })
    })
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), KafkaError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map(drop)
        .map_err(|error| KafkaError::Client {
            reason: format!("cannot start a thread: {error}"),
        })
}

/// What [`Partition::next_batch`] found.
#[derive(Debug)]
pub enum Next {
    /// At least one record.
    Batch(Batch),
    /// Nothing came in the time allowed.
    Idle,
    /// The partition was taken away, or the member shuts down: finish what can be finished soon, commit it, return.
    Revoked,
}

/// An assigned partition in the hands of its task: reading it, and committing for its group.
///
/// All calls block the calling thread.
pub struct Partition {
    reader: PartitionReader,
    lease: Arc<Lease>,
    /// The driver's alone to keep: a task that was abandoned must not hold the membership.
    consumer: Weak<MemberConsumer>,
    config: KafkaConfig,
    group: String,
}

impl Partition {
    /// Which partition this is.
    pub fn id(&self) -> &TopicPartition {
        self.reader.partition()
    }

    /// Whether the task should return: the partition was taken away, or the member shuts down.
    pub fn is_revoked(&self) -> bool {
        self.lease.is_revoked()
    }

    /// Goes on reading at `offset`. Reading starts nowhere before the first call.
    ///
    /// # Errors
    /// As [`PartitionReader::seek`].
    pub fn seek(&mut self, offset: i64) -> Result<(), KafkaError> {
        self.reader.seek(offset)
    }

    /// Reads the next records.
    ///
    /// # Errors
    /// As [`PartitionReader::next_batch`].
    pub fn next_batch(&mut self, limit: &BatchLimit) -> Result<Next, KafkaError> {
        let lease = &self.lease;
        let batch = self.reader.next_batch(limit, &|| lease.is_revoked())?;
        Ok(match batch.is_empty() {
            false => Next::Batch(batch),
            true if self.is_revoked() => Next::Revoked,
            true => Next::Idle,
        })
    }

    /// Reads exactly `[start, end)` and stays positioned at its end.
    ///
    /// # Errors
    /// As [`PartitionReader::read_range`].
    pub fn read_range(
        &mut self,
        range: std::ops::Range<i64>,
        timeout: Duration,
    ) -> Result<Batch, KafkaError> {
        self.reader.read_range(range, timeout)
    }

    /// The ends of this partition's log.
    ///
    /// # Errors
    /// As [`PartitionReader::watermarks`].
    pub fn watermarks(&self) -> Result<Watermarks, KafkaError> {
        self.reader.watermarks()
    }

    /// A reader of another partition with the same settings, for example of the output to find its tail.
    ///
    /// # Errors
    /// As [`PartitionReader::new`].
    pub fn open_reader(&self, partition: TopicPartition) -> Result<PartitionReader, KafkaError> {
        PartitionReader::in_group(&self.config, &self.group, partition)
    }

    /// Offsets committed by the group, of any topics, in the order asked for; `None` where it has committed none.
    ///
    /// # Errors
    /// [`KafkaError::Broker`].
    pub fn committed(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, KafkaError> {
        let consumer = self.consumer.upgrade().ok_or_else(|| self.released())?;
        committed(&consumer, partitions)
    }

    /// Commits the offsets, of any topics, in one request, and waits for the broker's answer: with brokers that do not
    /// answer for about seven times `socket.timeout.ms` (10 s unless overridden), then it has failed. All are stored or
    /// an error is returned. The commit carries the group's generation, and none is sent after the partition was
    /// released: an owner of the past cannot overwrite a newer one.
    ///
    /// # Errors
    /// [`KafkaError::Fenced`] when the partition is no longer ours; [`KafkaError::Broker`] otherwise, after which the
    /// offsets may or may not be stored.
    pub fn commit(&self, offsets: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            list.add_partition_offset(
                &partition.topic,
                partition.partition,
                Offset::Offset(*offset),
            )
            .map_err(|error| KafkaError::from_native("committing offsets", &error))?;
        }
        let consumer = self.consumer.upgrade().ok_or_else(|| self.released())?;
        let committed = self.lease.while_held(|| {
            // The generation may be reset behind our back once the assignment is lost.
            if consumer.assignment_lost() {
                return Err(Native::ConsumerCommit(Code::AssignmentLost));
            }
            consumer.commit(&list, CommitMode::Sync)
        });
        match committed {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(KafkaError::from_commit(self.id(), &error)),
            None => Err(self.released()),
        }
    }

    fn released(&self) -> KafkaError {
        KafkaError::Fenced {
            partition: self.id().clone(),
            reason: "it was released before".to_owned(),
        }
    }
}

type MemberConsumer = BaseConsumer<MemberContext>;

/// Queues what the client library reports, for the driver to act on.
#[derive(Default)]
struct MemberContext {
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    events: Vec<Event>,
    /// The driver has gone: rebalances are answered on the spot, or closing would wait for ever.
    closing: bool,
}

impl MemberContext {
    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let mut inbox = self.inbox();
        if inbox.closing {
            drop(inbox);
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "cannot give the assignment back while closing");
            }
            return;
        }
        inbox.events.push(match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Event::Assigned(
                partitions
                    .elements()
                    .iter()
                    .map(|element| TopicPartition::new(element.topic(), element.partition()))
                    .collect(),
            ),
            // A revocation, or an error that the client library wants answered like one.
            _ => Event::Revoked {
                lost: consumer.assignment_lost(),
            },
        });
    }
}

/// How a task's thread ended.
struct Ended<E> {
    partition: TopicPartition,
    result: std::thread::Result<Result<(), E>>,
}

/// Performs what [`Member`] decides.
struct Driver<E: Error + Send + Sync + 'static, F> {
    config: GroupConfig,
    task: Arc<F>,
    /// Told when a topic is not there for the client.
    missed: Arc<Notify>,
    consumer: Arc<MemberConsumer>,
    member: Member,
    leases: BTreeMap<TopicPartition, Arc<Lease>>,
    /// Leases that ended while a commit was under way.
    ending: Vec<Arc<Lease>>,
    /// Since when the assignment is to be given back, and waits for those.
    release: Option<Instant>,
    /// Since when the group is to give this member an assignment.
    joining: Option<Instant>,
    join_limit: Duration,
    ended: (mpsc::Sender<Ended<E>>, mpsc::Receiver<Ended<E>>),
    failure: Option<GroupError<E>>,
}

impl<E, F> Driver<E, F>
where
    E: Error + Send + Sync + 'static,
    F: Fn(Partition) -> Result<(), E> + Send + Sync + 'static,
{
    fn new(config: GroupConfig, task: Arc<F>, missed: Arc<Notify>) -> Result<Self, GroupError<E>> {
        let client = config.kafka.member(&config.group)?;
        let join_limit = join_limit(&client);
        let consumer: MemberConsumer = client
            .create_with_context(MemberContext::default())
            .map_err(KafkaError::from_create)?;
        let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
        consumer
            .subscribe(&topics)
            .map_err(|error| KafkaError::from_native("subscribing", &error))?;
        Ok(Self {
            member: Member::new(config.patience),
            config,
            task,
            missed,
            consumer: Arc::new(consumer),
            leases: BTreeMap::new(),
            ending: Vec::new(),
            release: None,
            joining: Some(Instant::now()),
            join_limit,
            ended: mpsc::channel(),
            failure: None,
        })
    }

    fn run(mut self, stop: &CancellationToken) -> Result<(), GroupError<E>> {
        while !self.member.has_left() || self.release.is_some() {
            self.poll();
            let events = std::mem::take(&mut self.consumer.context().inbox().events);
            for event in events {
                self.step(event);
            }
            while let Ok(ended) = self.ended.1.try_recv() {
                self.task_ended(ended);
            }
            if stop.is_cancelled() || self.failure.is_some() {
                self.step(Event::Stop);
            }
            self.step(Event::Tick);
            self.give_back();
            self.check_joining();
        }
        self.failure.map_or(Ok(()), Err)
    }

    fn poll(&mut self) {
        match self.consumer.poll(POLL) {
            // The member fetches nothing; a record can slip in between assignment and pause, and is not used.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => {
                if error.rdkafka_error_code() == Some(Code::UnknownTopicOrPartition) {
                    self.missed.notify_one();
                }
                let error = KafkaError::from_native("consuming as a group member", &error);
                match error.disposition() {
                    Disposition::Retry | Disposition::Fenced => {
                        tracing::debug!(%error, group = self.config.group, "passing error of the group's client");
                    }
                    Disposition::Fatal => self.fail(error.into()),
                }
            }
        }
    }

    fn fail(&mut self, error: GroupError<E>) {
        // The first failure is the cause; those after it follow from stopping.
        self.failure.get_or_insert(error);
    }

    fn task_ended(&mut self, Ended { partition, result }: Ended<E>) {
        // A task can learn of the loss, by a refused commit, before the member has read of it.
        let expected = self.member.may_end(&partition) || self.consumer.assignment_lost();
        match result {
            Ok(Ok(())) if expected => {}
            Ok(Err(error)) if expected => {
                let error: &dyn Error = &error;
                tracing::warn!(error, %partition, "a task that was asked to stop ended with an error");
            }
            Ok(Ok(())) => self.fail(GroupError::Ended {
                partition: partition.clone(),
            }),
            Ok(Err(source)) => self.fail(GroupError::Task {
                partition: partition.clone(),
                source,
            }),
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                self.fail(GroupError::Panicked {
                    partition: partition.clone(),
                    message,
                });
            }
        }
        self.step(Event::Ended(partition));
    }

    fn step(&mut self, event: Event) {
        for effect in self.member.on(Instant::now(), event) {
            tracing::debug!(group = self.config.group, ?effect);
            if let Err(error) = self.perform(effect) {
                self.fail(error.into());
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Result<(), KafkaError> {
        match effect {
            Effect::Accept(partitions) => self.accept(&partitions),
            Effect::Start(partition) => self.start(partition),
            Effect::Stop(partition) => {
                if let Some(lease) = self.leases.get(&partition) {
                    lease.revoke();
                }
                Ok(())
            }
            Effect::Abandon(partition) => {
                tracing::warn!(%partition, group = self.config.group, "the task is not waited for any longer");
                self.end_lease(&partition);
                Ok(())
            }
            Effect::Release => {
                for partition in self.leases.keys().cloned().collect::<Vec<_>>() {
                    self.end_lease(&partition);
                }
                self.release = Some(Instant::now());
                self.give_back();
                Ok(())
            }
            Effect::Leave => {
                // The driver ends next, and closing its client leaves the group. Nothing may be given
                // back here: librdkafka never answers a second unassign of a client that closes.
                self.consumer.context().inbox().closing = true;
                Ok(())
            }
        }
    }

    /// Gives the assignment back when it is to be, and no commit can come after it.
    fn give_back(&mut self) {
        let Some(since) = self.release else {
            return;
        };
        self.ending.retain(|lease| lease.is_committing());
        if !self.ending.is_empty() && since.elapsed() < COMMIT_QUEUED {
            return;
        }
        self.release = None;
        self.joining = Some(Instant::now());
        if let Err(error) = self.consumer.unassign() {
            self.fail(KafkaError::from_native("giving partitions back", &error).into());
        }
    }

    /// A member that is given nothing for longer than any group takes to come together is made anew.
    fn check_joining(&mut self) {
        if self
            .joining
            .is_some_and(|since| since.elapsed() > self.join_limit)
        {
            self.fail(GroupError::Kafka(KafkaError::Timeout {
                action: "joining the consumer group",
                after: self.join_limit,
            }));
        }
    }

    fn accept(&mut self, partitions: &[TopicPartition]) -> Result<(), KafkaError> {
        // It takes the place of the one before.
        self.release = None;
        self.joining = None;
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let failed = |error: Native| KafkaError::from_native("accepting partitions", &error);
        for partition in partitions {
            // The end, and paused: this client only holds the membership.
            list.add_partition_offset(&partition.topic, partition.partition, Offset::End)
                .map_err(failed)?;
        }
        self.consumer.assign(&list).map_err(failed)?;
        self.consumer.pause(&list).map_err(failed)
    }

    fn start(&mut self, partition: TopicPartition) -> Result<(), KafkaError> {
        let GroupConfig { kafka, group, .. } = &self.config;
        let lease = Arc::new(Lease::default());
        self.leases.insert(partition.clone(), Arc::clone(&lease));
        let input = Partition {
            reader: PartitionReader::in_group(kafka, group, partition.clone())?,
            lease,
            consumer: Arc::downgrade(&self.consumer),
            config: kafka.clone(),
            group: group.clone(),
        };
        let (task, ended) = (Arc::clone(&self.task), self.ended.0.clone());
        spawn(format!("{partition} {group}"), move || {
            let result = catch_unwind(AssertUnwindSafe(|| task(input)));
            // The driver is gone when this task was abandoned and the member has left.
            let _ = ended.send(Ended { partition, result });
        })
    }

    fn end_lease(&mut self, partition: &TopicPartition) {
        if let Some(lease) = self.leases.remove(partition) {
            lease.end();
            if lease.is_committing() {
                self.ending.push(lease);
            }
        }
    }
}

/// A group comes together when its slowest member has answered, or is left out, after `max.poll.interval.ms`.
fn join_limit(client: &ClientConfig) -> Duration {
    let longest = client.get("max.poll.interval.ms");
    let longest = longest.and_then(|text| text.parse().ok());
    2 * Duration::from_millis(longest.unwrap_or(300_000))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

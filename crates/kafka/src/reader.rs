//! Reads one partition from a named offset: a plain consumer with a manual assignment, no group membership.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::batch::{Batch, BatchLimit, RecordRef};
use crate::config::KafkaConfig;
use crate::error::KafkaError;

/// How long one request to the broker may take, including finding the broker.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a wait looks whether it should end early.
const SLICE: Duration = Duration::from_millis(50);

/// A partition of a topic. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}[{}]", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The ends of a partition's log: it holds offsets in `[low, high)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset still in the log.
    pub low: i64,
    /// Offset that the next record will get.
    pub high: i64,
}

/// Hands librdkafka's log lines to `tracing`.
pub(crate) struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        log_error(&error, reason);
    }
}

impl ConsumerContext for LogContext {}

pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(facility, "{message}"),
        // The gapless guarantee is asked for on purpose, and what it does not cover (message timeouts)
        // is switched off with it.
        RDKafkaLogLevel::Warning
            if message.contains("enable.gapless.guarantee is experimental") =>
        {
            tracing::debug!(facility, "{message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            tracing::warn!(facility, "{message}");
        }
        RDKafkaLogLevel::Info => tracing::info!(facility, "{message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "{message}"),
    }
}

pub(crate) fn log_error(error: &Native, reason: &str) {
    // The end of a partition is told here too; it is no error.
    if error.rdkafka_error_code() == Some(Code::PartitionEOF) {
        return;
    }
    // Connection losses come here; librdkafka reconnects by itself and the waiting call reports what matters.
    tracing::warn!(%error, "{reason}");
}

/// A consumer of one partition that starts where it is told.
///
/// All calls block the calling thread. An offset that is not in the log is an error, never skipped.
pub struct PartitionReader {
    consumer: BaseConsumer<LogContext>,
    partition: TopicPartition,
    /// Offset of the next record, once [`PartitionReader::seek`] was called.
    position: Option<i64>,
    /// Whether librdkafka said that the end of the log was reached since the last record.
    at_end: bool,
}

impl PartitionReader {
    /// A reader of `partition`; call [`PartitionReader::seek`] before reading. Does not wait for the broker.
    ///
    /// # Errors
    /// [`KafkaError::Config`] or [`KafkaError::Client`].
    pub fn new(config: &KafkaConfig, partition: TopicPartition) -> Result<Self, KafkaError> {
        Self::in_group(config, &config.client_id, partition)
    }

    /// The same under the name of a group, which the brokers' access rules may ask for.
    pub(crate) fn in_group(
        config: &KafkaConfig,
        group: &str,
        partition: TopicPartition,
    ) -> Result<Self, KafkaError> {
        let consumer = config
            .reader(group)?
            .create_with_context(LogContext)
            .map_err(KafkaError::from_create)?;
        Ok(Self {
            consumer,
            partition,
            position: None,
            at_end: false,
        })
    }

    /// The partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// Offset of the next record to be read, once a start was set.
    pub fn position(&self) -> Option<i64> {
        self.position
    }

    /// Goes on reading at `offset`, which is at least 0. Whether it is in the log shows at the next read.
    ///
    /// # Errors
    /// [`KafkaError::Broker`] when librdkafka refuses the offset.
    pub fn seek(&mut self, offset: i64) -> Result<(), KafkaError> {
        let failed = |error: Native| KafkaError::from_native("seeking", &error);
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(
                &self.partition.topic,
                self.partition.partition,
                Offset::Offset(offset),
            )
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(failed)?;
        self.position = Some(offset);
        self.at_end = false;
        Ok(())
    }

    /// Reads up to `limit`, or until `stop` says so, looked at every 50 ms. An empty batch means that nothing came
    /// in time.
    ///
    /// # Errors
    /// [`KafkaError::OffsetOutOfRange`] when the position is no longer in the log; [`KafkaError::UnknownTopic`];
    /// [`KafkaError::Broker`] for what librdkafka does not retry by itself.
    pub fn next_batch(
        &mut self,
        limit: &BatchLimit,
        stop: &dyn Fn() -> bool,
    ) -> Result<Batch, KafkaError> {
        let mut batch = Batch::default();
        let mut deadline = Instant::now() + limit.wait;
        while !batch.is_full(limit) && !stop() {
            let left = deadline.saturating_duration_since(Instant::now());
            let was_empty = batch.is_empty();
            if self.poll_into(&mut batch, left.min(SLICE))? {
                if was_empty {
                    deadline = Instant::now() + limit.linger;
                }
            } else if left.is_zero() {
                break;
            }
        }
        Ok(batch)
    }

    /// Reads exactly the records in `[first, end)` and stays positioned at `end`.
    ///
    /// # Errors
    /// [`KafkaError::OffsetOutOfRange`] when part of the range is gone or not yet written;
    /// [`KafkaError::Timeout`] when it is not there within `timeout`; else as [`PartitionReader::next_batch`].
    pub fn read_range(
        &mut self,
        range: std::ops::Range<i64>,
        timeout: Duration,
    ) -> Result<Batch, KafkaError> {
        let mut batch = Batch::default();
        if range.is_empty() {
            self.seek(range.end)?;
            return Ok(batch);
        }
        let Watermarks { low, high } = self.watermarks()?;
        if range.start < low || range.end > high {
            let offset = if range.start < low {
                range.start
            } else {
                range.end - 1
            };
            return Err(KafkaError::OffsetOutOfRange {
                partition: self.partition.clone(),
                offset,
                low,
                high,
            });
        }
        self.seek(range.start)?;
        let deadline = Instant::now() + timeout;
        while self.position.is_some_and(|position| position < range.end) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KafkaError::Timeout {
                    action: "reading a range again",
                    after: timeout,
                });
            }
            self.poll_until(&mut batch, range.end, left.min(SLICE))?;
            if self.at_end {
                break;
            }
        }
        if self.position != Some(range.end) {
            // The last offsets of the range hold no record (a transaction marker): go on after them.
            self.seek(range.end)?;
        }
        Ok(batch)
    }

    /// The last record of the partition that `accept` makes something of, or `None` when there is none. Leaves the
    /// reader at the end of the log.
    ///
    /// # Errors
    /// [`KafkaError::Timeout`] when the broker hands nothing out for `timeout`; else as
    /// [`PartitionReader::next_batch`].
    pub fn find_last<T>(
        &mut self,
        timeout: Duration,
        accept: impl Fn(RecordRef<'_>) -> Option<T>,
    ) -> Result<Option<T>, KafkaError> {
        let mut deadline = Instant::now() + timeout;
        let Watermarks { low, high } = self.watermarks()?;
        // The last offset may hold no record (transaction marker, compaction), or not the one that is looked for: look
        // back further until one is found.
        let mut back = 1;
        loop {
            let start = (high - back).max(low);
            self.seek(start)?;
            let mut last = None;
            while !self.at_end && self.position.is_some_and(|position| position < high) {
                if Instant::now() >= deadline {
                    return Err(KafkaError::Timeout {
                        action: "reading the last record",
                        after: timeout,
                    });
                }
                let mut record = Batch::default();
                if self.poll_into(&mut record, SLICE)? {
                    deadline = Instant::now() + timeout;
                }
                last = record.iter().next_back().and_then(&accept).or(last);
            }
            if last.is_some() || start == low {
                return Ok(last);
            }
            back *= 16;
        }
    }

    /// Asks the broker for the ends of the log.
    ///
    /// # Errors
    /// [`KafkaError::UnknownTopic`], [`KafkaError::Broker`].
    pub fn watermarks(&self) -> Result<Watermarks, KafkaError> {
        watermarks(&self.consumer, &self.partition)
    }

    /// Waits up to `wait` for one record and adds it; false when none came.
    fn poll_into(&mut self, batch: &mut Batch, wait: Duration) -> Result<bool, KafkaError> {
        self.poll_until(batch, i64::MAX, wait)
    }

    /// The same, but a record at `end` or above only moves the position.
    fn poll_until(
        &mut self,
        batch: &mut Batch,
        end: i64,
        wait: Duration,
    ) -> Result<bool, KafkaError> {
        match self.consumer.poll(wait) {
            None => Ok(false),
            Some(Ok(message)) => {
                if message.offset() < end {
                    batch.push(record_of(&message));
                }
                self.position = Some(message.offset() + 1);
                self.at_end = false;
                Ok(true)
            }
            Some(Err(error)) => self.judge(&error).map(|()| false),
        }
    }

    fn judge(&mut self, error: &Native) -> Result<(), KafkaError> {
        if matches!(error, Native::PartitionEOF(_)) {
            self.at_end = true;
            return Ok(());
        }
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                let Watermarks { low, high } = self.watermarks()?;
                Err(KafkaError::OffsetOutOfRange {
                    partition: self.partition.clone(),
                    offset: self.position.unwrap_or(-1),
                    low,
                    high,
                })
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Err(KafkaError::UnknownTopic {
                    topic: self.partition.topic.to_string(),
                })
            }
            // librdkafka reconnects by itself; the caller sees an empty batch meanwhile.
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator,
            ) => Ok(()),
            Some(_) | None => Err(KafkaError::from_native("reading", error)),
        }
    }
}

fn record_of<'a>(message: &'a BorrowedMessage<'_>) -> RecordRef<'a> {
    RecordRef {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key(),
        payload: message.payload(),
    }
}

pub(crate) fn watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partition: &TopicPartition,
) -> Result<Watermarks, KafkaError> {
    consumer
        .fetch_watermarks(&partition.topic, partition.partition, CALL_TIMEOUT)
        .map(|(low, high)| Watermarks { low, high })
        .map_err(|error| match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                KafkaError::UnknownTopic {
                    topic: partition.topic.to_string(),
                }
            }
            Some(_) | None => KafkaError::from_native("asking for the ends of the log", &error),
        })
}

/// Offsets that `consumer`'s group committed, in the order asked for; `None` where it has committed none.
pub(crate) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<i64>>, KafkaError> {
    let action = "asking for committed offsets";
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for asked in partitions {
        list.add_partition(&asked.topic, asked.partition);
    }
    let answer = consumer
        .committed_offsets(list, CALL_TIMEOUT)
        .map_err(|error| KafkaError::from_native(action, &error))?;
    partitions
        .iter()
        .map(|asked| {
            let Some(found) = answer.find_partition(&asked.topic, asked.partition) else {
                return Ok(None);
            };
            found
                .error()
                .map_err(|error| KafkaError::from_native(action, &error))?;
            match found.offset() {
                Offset::Offset(offset) => Ok(Some(offset)),
                Offset::Invalid
                | Offset::Beginning
                | Offset::End
                | Offset::Stored
                | Offset::OffsetTail(_) => Ok(None),
            }
        })
        .collect()
}

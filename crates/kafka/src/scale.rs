//! How many bytes records take in the log: read some, and see what librdkafka says it received.
//!
//! The broker sends batches as it stores them. Bytes and records are taken from the same statistics, so records that
//! were fetched and not handed over yet count on both sides.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::error::KafkaError;
use crate::reader::{CALL_TIMEOUT, log_error, log_line};

/// How long reading may take in all.
const LONGEST: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// What was received so far, by the newest statistics.
#[derive(Clone, Copy, Default)]
struct Received {
    reports: u64,
    records: u64,
    bytes: u64,
}

#[derive(Default)]
struct Scale(Mutex<Received>);

impl Scale {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Scale {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        log_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let partitions = statistics
            .topics
            .values()
            .flat_map(|topic| topic.partitions.values());
        let mut received = self.received();
        received.reports += 1;
        received.records = partitions.map(|partition| partition.rxmsgs).sum();
        received.bytes = statistics
            .brokers
            .values()
            .map(|broker| broker.rxbytes)
            .sum();
    }
}

impl ConsumerContext for Scale {}

/// Records and bytes received of `topic`, which has so many partitions, of about the newest `records` records.
pub(crate) fn weigh(
    client: &ClientConfig,
    (topic, count): (&str, i32),
    records: u64,
) -> Result<(u64, u64), KafkaError> {
    let consumer: BaseConsumer<Scale> = client
        .create_with_context(Scale::default())
        .map_err(KafkaError::from_create)?;
    let deadline = Instant::now() + LONGEST;
    // Asking for the topic first, so that what that takes is not counted.
    consumer
        .fetch_metadata(Some(topic), CALL_TIMEOUT)
        .map_err(|error| KafkaError::from_native("asking for a topic", &error))?;
    let before = next_report(&consumer, deadline);
    let mut all = TopicPartitionList::with_capacity(usize::try_from(count).unwrap_or(0));
    // The newest: the embedded broker reads old ones slowly.
    let each = records.div_ceil(u64::from(count.unsigned_abs()).max(1));
    for partition in 0..count {
        all.add_partition_offset(topic, partition, Offset::OffsetTail(each as i64))
            .map_err(|error| KafkaError::from_native("weighing a topic", &error))?;
    }
    consumer
        .assign(&all)
        .map_err(|error| KafkaError::from_native("weighing a topic", &error))?;
    let (mut read, mut ended) = (0, 0);
    while read < records && ended < count && Instant::now() < deadline {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(_)) => read += 1,
            Some(Err(Native::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) if error.rdkafka_error_code() == Some(Code::PartitionEOF) => {
                ended += 1
            }
            Some(Err(error)) => return Err(KafkaError::from_native("weighing a topic", &error)),
        }
    }
    let after = next_report(&consumer, Instant::now() + CALL_TIMEOUT);
    Ok((after.records, after.bytes.saturating_sub(before.bytes)))
}

/// The statistics after those that are there now.
fn next_report(consumer: &BaseConsumer<Scale>, deadline: Instant) -> Received {
    let now = consumer.context().received().reports;
    loop {
        let received = *consumer.context().received();
        if received.reports > now || Instant::now() >= deadline {
            return received;
        }
        // Statistics come while polling; a record that comes too is in them.
        consumer.poll(POLL);
    }
}

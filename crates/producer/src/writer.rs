//! The way to the broker: a batch counts as written only when every record of it is confirmed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use chatpulse_kafka::{
    Delivery, KafkaConfig, KafkaError, PublishError, Publisher, PublisherSettings, Record,
};
use tokio::time::timeout;

use crate::{
    config::ProducerConfig,
    problem::Problem,
    share::{Claim, Pool, Shared, Taken},
};

/// Publishes to one topic, with one deadline.
pub(crate) struct Writer {
    publisher: ArcSwap<Publisher>,
    kafka: KafkaConfig,
    settings: PublisherSettings,
    /// Places in the publisher's queue.
    room: Pool,
    topic: String,
    deadline: Duration,
    /// Whether the last batch failed: an outage is logged when it begins and when it ends.
    failing: AtomicBool,
}

/// Places in the queue for the records of one batch.
#[derive(Debug)]
pub(crate) struct Room(Taken);

/// Why a batch does not count as written. Some of its records may be in the topic all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no room for the batch in the queue to the broker.
    #[error("the queue to the broker is full")]
    QueueFull,
    /// The broker has not confirmed every record in time.
    #[error("the broker did not confirm in time")]
    NotConfirmed,
    /// The broker takes no record of this size, now or later.
    #[error(
        "the broker refuses a record as too large; raise max.message.bytes of the topic above the \
         largest max_item_bytes of the tenants file"
    )]
    TooLarge,
}

impl Writer {
    pub(crate) fn new(kafka: &KafkaConfig, config: &ProducerConfig) -> Result<Self, KafkaError> {
        let settings = PublisherSettings {
            linger: config.linger,
            delivery: Delivery::Within(config.confirm_timeout),
            queue_records: config.queue_records.get(),
            ..PublisherSettings::default()
        };
        Ok(Self {
            publisher: ArcSwap::from_pointee(Publisher::new(kafka, &settings)?),
            kafka: kafka.clone(),
            settings,
            room: Pool::new(
                Shared::Records,
                settings.queue_records,
                config.max_items.get(),
            ),
            topic: config.topic.clone(),
            deadline: config.confirm_timeout,
            failing: AtomicBool::new(false),
        })
    }

    /// Takes places for so many records, before they are made: that bounds their memory, and the
    /// queue itself would take the beginning of a batch that it has no room for.
    pub(crate) fn room(&self, records: usize, claim: Claim<'_>) -> Result<Room, Problem> {
        self.room.take(records, claim).map(Room)
    }

    /// Publishes the batch that `room` was taken for and waits until the broker has confirmed every
    /// record of it.
    pub(crate) async fn write(
        &self,
        Room(_places): Room,
        records: Vec<Record>,
    ) -> Result<(), WriteError> {
        let publisher = self.publisher.load_full();
        let failure = self.publish(&publisher, records).await.err();
        let was_failing = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        let Some(error) = failure else {
            if was_failing {
                tracing::info!(topic = self.topic, "the broker confirms records again");
            }
            return Ok(());
        };
        if !was_failing {
            tracing::warn!(
                topic = self.topic,
                %error,
                "a batch was not confirmed; clients are told to send again"
            );
        }
        Err(match error {
            PublishError::QueueFull => WriteError::QueueFull,
            PublishError::TooLarge => WriteError::TooLarge,
            PublishError::Unconfirmed | PublishError::Refused { .. } => WriteError::NotConfirmed,
            PublishError::Dead { .. } => {
                self.revive(&publisher);
                WriteError::NotConfirmed
            }
        })
    }

    async fn publish(
        &self,
        publisher: &Publisher,
        records: Vec<Record>,
    ) -> Result<(), PublishError> {
        match timeout(self.deadline, publisher.publish(&self.topic, records)).await {
            Ok(outcomes) => outcomes
                .into_iter()
                .try_for_each(|outcome| outcome.map(drop)),
            Err(_) => Err(PublishError::Unconfirmed),
        }
    }

    /// Puts a new publisher in the place of one that failed for good.
    fn revive(&self, dead: &Arc<Publisher>) {
        match Publisher::new(&self.kafka, &self.settings) {
            Ok(fresh) => {
                // Of several requests that saw it die, the first replaces it.
                self.publisher.compare_and_swap(dead, Arc::new(fresh));
            }
            Err(error) => tracing::error!(%error, "cannot make a new publisher"),
        }
    }

    /// Waits for what is still on its way. Blocks the thread.
    pub(crate) fn flush(&self, within: Duration) -> Result<(), KafkaError> {
        self.publisher.load().flush(within)
    }
}

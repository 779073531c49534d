//! Writes what became of turns, and forgets them only when the broker has it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use chatpulse_kafka::{PublishError, Publisher, Record, Topics};
use chatpulse_model::{
    Delivery,
    avro::Codec,
    delivery::{DestinationState, Retry},
};

use crate::{metrics::Metrics, turn::Waiting};

/// The codecs of what the deliverer writes.
#[derive(Debug)]
pub(crate) struct Codecs {
    pub(crate) deliveries: Codec<Delivery>,
    pub(crate) retries: Codec<Retry>,
    pub(crate) destinations: Codec<DestinationState>,
}

/// The way to the broker for everything but cursors.
pub(crate) struct Recorder {
    publisher: Publisher,
    topics: Topics,
    codecs: Codecs,
    metrics: Metrics,
    /// The publisher is dead, or a record can never be written: the stage must start again.
    failure: Mutex<Option<PublishError>>,
    has_failed: AtomicBool,
}

impl Recorder {
    pub(crate) fn new(
        publisher: Publisher,
        topics: Topics,
        (codecs, metrics): (Codecs, Metrics),
    ) -> Self {
        Self {
            publisher,
            topics,
            codecs,
            metrics,
            failure: Mutex::new(None),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Writes the record of a turn, and its next turn; true when both are in the log. After a failure
    /// nothing is written any more, and what was not written is done again by whoever starts next.
    pub(crate) async fn record(&self, delivery: &Delivery, waiting: Option<&Waiting>) -> bool {
        let payload = match self.codecs.deliveries.encode(delivery) {
            Ok(payload) => payload,
            Err(error) => return self.fail_encoding(&error),
        };
        let record = Record {
            partition: Some(delivery.partition),
            key: delivery.delivery_id.clone().into_bytes(),
            payload,
            timestamp_ms: None,
        };
        // The next turn first: where the record of a turn is in the log, what follows from it is too, and
        // whoever starts next need not repeat it.
        let is_scheduled = match waiting {
            Some(waiting) => self.wait(waiting).await,
            None => true,
        };
        let written = is_scheduled && self.write(&self.topics.deliveries, record).await;
        if written {
            self.metrics.turn(delivery.result, delivery.failure);
        }
        written
    }

    /// Lets a delivery wait for its turn; true when it is in the log.
    pub(crate) async fn wait(&self, waiting: &Waiting) -> bool {
        let payload = match self.codecs.retries.encode(&waiting.retry) {
            Ok(payload) => payload,
            Err(error) => return self.fail_encoding(&error),
        };
        let record = Record {
            partition: None,
            key: format!("{}/{}", waiting.retry.tenant, waiting.retry.destination).into_bytes(),
            payload,
            timestamp_ms: None,
        };
        self.write(&self.topics.retries(waiting.step), record).await
    }

    /// Remembers what a destination has come to.
    pub(crate) async fn remember(&self, state: &DestinationState) -> bool {
        let payload = match self.codecs.destinations.encode(state) {
            Ok(payload) => payload,
            Err(error) => return self.fail_encoding(&error),
        };
        let record = Record {
            partition: Some(0),
            key: format!("{}/{}", state.tenant, state.destination).into_bytes(),
            payload,
            timestamp_ms: None,
        };
        self.write(&self.topics.destinations, record).await
    }

    async fn write(&self, topic: &str, record: Record) -> bool {
        loop {
            let outcomes = self.publisher.publish(topic, vec![record.clone()]).await;
            match outcomes.into_iter().next() {
                Some(Ok(_)) => return true,
                Some(Err(PublishError::QueueFull)) => {
                    // The queue holds more than all destinations together may have open.
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Some(Err(error)) => return self.fail(error),
                None => return false,
            }
        }
    }

    fn fail(&self, error: PublishError) -> bool {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = Some(error);
        }
        self.has_failed.store(true, Ordering::Release);
        false
    }

    fn fail_encoding(&self, error: &chatpulse_model::avro::AvroError) -> bool {
        // Every record that we make follows its schema.
        tracing::error!(%error, "a record cannot be encoded");
        self.fail(PublishError::TooLarge)
    }

    /// What made it fail, once.
    pub(crate) fn failure(&self) -> Option<PublishError> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    pub(crate) fn codecs(&self) -> &Codecs {
        &self.codecs
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

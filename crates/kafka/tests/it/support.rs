//! A mock cluster with one topic, and waiting with a deadline.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use chatpulse_kafka::{
    BatchLimit, Delivered, KafkaConfig, Outcomes, Publisher, PublisherSettings, Record,
};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// No step of a test takes longer on a healthy machine, however loaded.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) mock: MockCluster<'static, DefaultProducerContext>,
    pub(crate) config: KafkaConfig,
}

impl Cluster {
    /// One broker with the topics named, each of `partitions`.
    pub(crate) fn with_topics(topics: &[&str], partitions: i32) -> Self {
        let mock = MockCluster::new(1).expect("mock cluster");
        for topic in topics {
            mock.create_topic(topic, partitions, 1).expect("topic");
        }
        let config = KafkaConfig::new(mock.bootstrap_servers(), "test");
        Self { mock, config }
    }

    pub(crate) fn publisher(&self, settings: &PublisherSettings) -> Publisher {
        Publisher::new(&self.config, settings).expect("publisher")
    }

    /// Publishes one record per payload to `partition` and waits for the confirmations.
    pub(crate) fn fill(&self, topic: &str, partition: i32, payloads: &[&str]) {
        let publisher = self.publisher(&PublisherSettings::default());
        let outcomes = publisher
            .publish(topic, records(partition, payloads))
            .wait(DEADLINE)
            .expect("confirmed");
        delivered(&outcomes);
    }
}

pub(crate) fn records(partition: i32, payloads: &[&str]) -> Vec<Record> {
    payloads
        .iter()
        .map(|payload| Record {
            partition: Some(partition),
            payload: payload.as_bytes().to_vec(),
            ..Record::default()
        })
        .collect()
}

pub(crate) fn delivered(outcomes: &Outcomes) -> Vec<Delivered> {
    outcomes
        .iter()
        .map(|outcome| outcome.clone().expect("delivered"))
        .collect()
}

pub(crate) fn texts(batch: &chatpulse_kafka::Batch) -> Vec<String> {
    batch
        .iter()
        .map(|record| String::from_utf8(record.payload.expect("payload").to_vec()).expect("text"))
        .collect()
}

pub(crate) fn limit(max_records: usize) -> BatchLimit {
    BatchLimit {
        max_records,
        max_bytes: 1 << 20,
        wait: Duration::from_millis(100),
        linger: Duration::from_millis(100),
    }
}

/// The next message of `channel`, within the deadline.
pub(crate) fn next<T>(channel: &Receiver<T>) -> T {
    channel
        .recv_timeout(DEADLINE)
        .expect("nothing came before the deadline")
}

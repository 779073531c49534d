//! Topics, readiness and lag: what is asked of the cluster beside records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::Client;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::config::KafkaConfig;
use crate::error::KafkaError;
use crate::reader::{CALL_TIMEOUT, LogContext, TopicPartition, committed, watermarks};
use crate::scale;

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// Copies of each partition; `None` leaves it to the broker.
    pub replication: Option<i32>,
    /// Topic settings by Kafka's names, given when the topic is made and not changed later.
    pub config: BTreeMap<String, String>,
}

/// How far a group has come in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    /// The partition.
    pub partition: i32,
    /// First offset in the log.
    pub low: i64,
    /// Offset after the last record.
    pub high: i64,
    /// What the group has committed, if anything.
    pub committed: Option<i64>,
}

impl PartitionLag {
    /// Records that the group has not committed yet.
    pub fn records(&self) -> u64 {
        let done = self.committed.unwrap_or(self.low).max(self.low);
        u64::try_from(self.high - done).unwrap_or(0)
    }
}

/// Asks and changes the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    client: Arc<AdminClient<LogContext>>,
    config: KafkaConfig,
}

impl Admin {
    /// Makes the client; does not wait for the broker.
    ///
    /// # Errors
    /// [`KafkaError::Config`] or [`KafkaError::Client`].
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let client = config
            .admin()?
            .create_with_context(LogContext)
            .map_err(KafkaError::from_create)?;
        Ok(Self {
            client: Arc::new(client),
            config: config.clone(),
        })
    }

    /// Whether a broker answers within `timeout`. For readiness.
    ///
    /// # Errors
    /// [`KafkaError::Broker`], with its disposition.
    pub async fn ping(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.topics(timeout).await.map(drop)
    }

    /// How many partitions `topic` has, or `None` when it does not exist. Never creates it.
    ///
    /// # Errors
    /// [`KafkaError::Broker`] when no broker answers.
    pub async fn partition_count(&self, topic: &str) -> Result<Option<i32>, KafkaError> {
        Ok(self.topics(CALL_TIMEOUT).await?.get(topic).copied())
    }

    /// The numbers of partitions of those of `topics` that exist. Never creates one.
    pub(crate) async fn partition_counts(
        &self,
        topics: &[String],
    ) -> Result<BTreeMap<String, i32>, KafkaError> {
        let mut existing = self.topics(CALL_TIMEOUT).await?;
        existing.retain(|name, _| topics.contains(name));
        Ok(existing)
    }

    /// Adds partitions to the existing topics that have fewer than their spec says, one topic after the other in the
    /// order given, and waits until they are there. Members of groups notice within
    /// `topic.metadata.refresh.interval.ms`.
    ///
    /// # Errors
    /// As [`Admin::ensure_topics`].
    pub async fn raise_partitions(&self, specs: &[TopicSpec]) -> Result<(), KafkaError> {
        let action = "adding partitions";
        let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
        for spec in specs {
            let existing = self.topics(CALL_TIMEOUT).await?;
            if existing
                .get(&spec.name)
                .is_none_or(|&count| count >= spec.partitions)
            {
                continue;
            }
            let count = usize::try_from(spec.partitions).unwrap_or_default();
            let results = self
                .client
                .create_partitions(&[NewPartitions::new(&spec.name, count)], &options)
                .await
                .map_err(|error| KafkaError::from_native(action, &error))?;
            for result in results {
                result.map_err(|(topic, code)| KafkaError::Broker {
                    action,
                    code,
                    detail: format!("topic {topic}"),
                })?;
            }
            self.await_topics(std::slice::from_ref(spec)).await?;
        }
        Ok(())
    }

    /// Creates the topics that are absent and waits until all are there. An existing topic is left as it is.
    ///
    /// # Errors
    /// [`KafkaError::PartitionCount`] when a topic exists with more partitions, or with fewer and nobody raises them;
    /// [`KafkaError::Timeout`] when they do not appear; [`KafkaError::Broker`] when the broker refuses.
    pub async fn ensure_topics(&self, specs: &[TopicSpec]) -> Result<(), KafkaError> {
        let existing = self.topics(CALL_TIMEOUT).await?;
        let absent: Vec<&TopicSpec> = specs
            .iter()
            .filter(|spec| !existing.contains_key(&spec.name))
            .collect();
        if !absent.is_empty() {
            self.create(&absent).await?;
        }
        self.await_topics(specs).await
    }

    /// Removes topics with all their records; those that are not there are no error.
    ///
    /// # Errors
    /// [`KafkaError::Broker`] when the broker refuses.
    pub async fn delete_topics(&self, names: &[&str]) -> Result<(), KafkaError> {
        let action = "removing topics";
        let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
        let results = self
            .client
            .delete_topics(names, &options)
            .await
            .map_err(|error| KafkaError::from_native(action, &error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {}
                Err((topic, code)) => {
                    return Err(KafkaError::Broker {
                        action,
                        code,
                        detail: format!("topic {topic}"),
                    });
                }
            }
        }
        Ok(())
    }

    /// What the first records of `topic` take in the log, by what a reader of about `records` of them receives:
    /// batches as they are stored, compressed, with their headers. Gives records and bytes; both 0 of an empty topic.
    ///
    /// # Errors
    /// [`KafkaError::UnknownTopic`], [`KafkaError::Broker`].
    pub async fn weigh(&self, topic: &str, records: u64) -> Result<(u64, u64), KafkaError> {
        let Some(count) = self.partition_count(topic).await? else {
            return Err(KafkaError::UnknownTopic {
                topic: topic.to_owned(),
            });
        };
        let mut client = self.config.reader("chatpulse-weigh")?;
        client
            .set("statistics.interval.ms", "100")
            .set("queued.max.messages.kbytes", "1024");
        let topic = topic.to_owned();
        blocking(move || scale::weigh(&client, (&topic, count), records)).await
    }

    async fn create(&self, specs: &[&TopicSpec]) -> Result<(), KafkaError> {
        let action = "creating topics";
        let new: Vec<NewTopic<'_>> = specs
            .iter()
            .map(|spec| {
                let replication = TopicReplication::Fixed(spec.replication.unwrap_or(-1));
                let topic = NewTopic::new(&spec.name, spec.partitions, replication);
                spec.config
                    .iter()
                    .fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
        let results = self
            .client
            .create_topics(&new, &options)
            .await
            .map_err(|error| KafkaError::from_native(action, &error))?;
        for result in results {
            match result {
                // Another process was faster; whether its topic fits is checked with all others.
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(KafkaError::Broker {
                        action,
                        code,
                        detail: format!("topic {topic}"),
                    });
                }
            }
        }
        Ok(())
    }

    async fn await_topics(&self, specs: &[TopicSpec]) -> Result<(), KafkaError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        loop {
            let existing = self.topics(CALL_TIMEOUT).await?;
            let wrong = |spec: &&TopicSpec| existing.get(&spec.name) != Some(&spec.partitions);
            let Some(spec) = specs.iter().find(wrong) else {
                return Ok(());
            };
            let actual = existing.get(&spec.name).copied();
            // Fewer may be on the way to more: another process may be raising them.
            let may_come = actual.is_none_or(|count| count < spec.partitions);
            if !may_come || Instant::now() >= deadline {
                return Err(match actual {
                    Some(actual) => KafkaError::PartitionCount {
                        topic: spec.name.clone(),
                        expected: spec.partitions,
                        actual,
                    },
                    None => KafkaError::Timeout {
                        action: "waiting for new topics",
                        after: CALL_TIMEOUT,
                    },
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How far `group` has come in each partition of `topic`. Opens a connection of its own for each call: for
    /// metrics every few seconds, not more.
    ///
    /// # Errors
    /// [`KafkaError::UnknownTopic`], [`KafkaError::Broker`].
    pub async fn lag(&self, group: &str, topic: &str) -> Result<Vec<PartitionLag>, KafkaError> {
        let Some(count) = self.partition_count(topic).await? else {
            return Err(KafkaError::UnknownTopic {
                topic: topic.to_owned(),
            });
        };
        let client = self.config.reader(group)?;
        let topic: Arc<str> = topic.into();
        blocking(move || {
            let consumer: BaseConsumer<LogContext> = client
                .create_with_context(LogContext)
                .map_err(KafkaError::from_create)?;
            let partitions: Vec<TopicPartition> = (0..count)
                .map(|number| TopicPartition::new(Arc::clone(&topic), number))
                .collect();
            let committed = committed(&consumer, &partitions)?;
            partitions
                .iter()
                .zip(committed)
                .map(|(partition, committed)| {
                    let ends = watermarks(&consumer, partition)?;
                    Ok(PartitionLag {
                        partition: partition.partition,
                        low: ends.low,
                        high: ends.high,
                        committed,
                    })
                })
                .collect()
        })
        .await
    }

    /// All topics with their numbers of partitions. Asks for all and not by name, because asking by name can create
    /// a topic.
    async fn topics(&self, timeout: Duration) -> Result<BTreeMap<String, i32>, KafkaError> {
        let client = Arc::clone(&self.client);
        blocking(move || {
            let native: &Client<LogContext> = client.inner();
            let metadata = native
                .fetch_metadata(None, timeout)
                .map_err(|error| KafkaError::from_native("asking for topics", &error))?;
            Ok(metadata
                .topics()
                .iter()
                .filter(|topic| topic.error().is_none())
                .map(|topic| {
                    // A topic has far fewer partitions than an i32 holds.
                    (topic.name().to_owned(), topic.partitions().len() as i32)
                })
                .collect())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(KafkaError::Client {
                reason: format!("the thread asking the broker ended: {error}"),
            })
        })
}

//! Whether a group's topics change: their being there, and their numbers of partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::Notify;

use super::GroupConfig;
use crate::admin::Admin;
use crate::error::KafkaError;

/// Longest wait for brokers to agree, when the member has missed a topic.
const SETTLE: Duration = Duration::from_secs(5);

/// Looks at a group's topics with a client of its own.
pub(super) struct Watch {
    admin: Admin,
    topics: Vec<String>,
    interval: Duration,
}

/// The numbers of partitions of the topics that are there.
pub(super) type Counts = BTreeMap<String, i32>;

impl Watch {
    pub(super) fn new(config: &GroupConfig) -> Result<Self, KafkaError> {
        Ok(Self {
            admin: Admin::new(&config.kafka)?,
            topics: config.topics.clone(),
            interval: config.kafka.metadata_refresh_interval(),
        })
    }

    /// The topics as they are now.
    pub(super) async fn look(&self) -> Result<Counts, KafkaError> {
        self.admin.partition_counts(&self.topics).await
    }

    /// Waits until the topics are other than `before`, two times in a row and the same: brokers hear of a change one
    /// after the other, and the group is to come together when all have. A topic that went and came back is a change
    /// too, also where only the member has `missed` it: its client looks for it no more.
    pub(super) async fn change(&self, before: &Counts, missed: &Notify) {
        let mut seen = None;
        loop {
            let was_missed = tokio::select! {
                () = tokio::time::sleep(self.interval) => false,
                () = missed.notified() => {
                    tokio::time::sleep(self.interval.min(SETTLE)).await;
                    // One that was not there before may be the one.
                    before.len() == self.topics.len()
                }
            };
            match self.look().await {
                Ok(now) if now == *before => {
                    if was_missed || seen.is_some() {
                        return;
                    }
                }
                Ok(now) if seen.as_ref() == Some(&now) => return,
                Ok(now) => seen = Some(now),
                // The readers say what matters while no broker answers.
                Err(error) => {
                    tracing::debug!(%error, "cannot see whether topics have changed");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config::KafkaConfig;

    /// As when it is deleted and made again between two looks.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_only_the_member_has_missed_has_changed() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("t", 2, 1).unwrap();
        let mut kafka = KafkaConfig::new(mock.bootstrap_servers(), "test");
        let watched = |topics: &[&str], kafka: &KafkaConfig| {
            Watch::new(&GroupConfig {
                kafka: kafka.clone(),
                group: "g".to_owned(),
                topics: topics.iter().map(ToString::to_string).collect(),
                patience: Duration::ZERO,
            })
            .unwrap()
        };
        let interval = "topic.metadata.refresh.interval.ms".to_owned();
        kafka.overrides.insert(interval, "20".to_owned());
        let watch = watched(&["t"], &kafka);
        let before = watch.look().await.unwrap();
        let missed = Notify::new();
        let waited = async |watch: &Watch| {
            let limit = Duration::from_secs(1);
            let changed = tokio::time::timeout(limit, watch.change(&before, &missed));
            changed.await.is_err()
        };
        assert!(waited(&watch).await, "nothing has changed");
        missed.notify_one();
        watch.change(&before, &missed).await;
        // A topic that was never there is missed by every member.
        missed.notify_one();
        assert!(waited(&watched(&["t", "absent"], &kafka)).await);
    }
}

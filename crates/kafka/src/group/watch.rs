//! Whether a group's topics change: their being there, and their numbers of partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::GroupConfig;
use crate::admin::Admin;
use crate::error::KafkaError;

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
    /// after the other, and the group is to come together when all have.
    pub(super) async fn change(&self, before: &Counts) {
        let mut seen = None;
        loop {
            tokio::time::sleep(self.interval).await;
            match self.look().await {
                Ok(now) if now == *before => seen = None,
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

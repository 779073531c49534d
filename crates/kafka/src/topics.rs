//! The topics of one installation.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::admin::TopicSpec;

/// Names of the topics; those of events have the same number of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// What the producer received.
    pub raw: Arc<str>,
    /// One outcome per raw record, in the partition of the raw record.
    pub events: Arc<str>,
    /// Always empty: the sink's group commits here the raw offset at which the range that it is
    /// inserting ends.
    pub pending: Arc<str>,
    /// Always empty: the sink's group commits here the raw offset at which that range starts; the
    /// outcomes of all raw offsets below are in the store.
    pub watermark: Arc<str>,
    /// One record per attempt to deliver an event, in the partition of the event.
    pub deliveries: Arc<str>,
    /// How far the deliveries of each partition have come; the last record counts.
    pub cursors: Arc<str>,
    /// What is remembered of destinations; one partition, the last record of a key counts.
    pub destinations: Arc<str>,
    /// Beginning of the names of topics of deliveries that wait, see [`Topics::retries`].
    pub retries: Arc<str>,
}

/// A retry topic has no more partitions than this: each is read by a thread of its own.
const MAX_RETRY_PARTITIONS: u32 = 4;
/// How long waiting deliveries are kept: a deliverer that stands still for longer loses them.
const RETRY_RETENTION_MS: &str = "2592000000"; // 30 days

impl Topics {
    /// The names with `prefix` before each, so that several installations can share brokers.
    pub fn with_prefix(prefix: &str) -> Self {
        let name = |topic: &str| format!("{prefix}{topic}").into();
        Self {
            raw: name("chat.raw"),
            events: name("chat.events"),
            pending: name("chat.events.pending"),
            watermark: name("chat.events.watermark"),
            deliveries: name("chat.deliveries"),
            cursors: name("chat.deliveries.cursors"),
            destinations: name("chat.destinations"),
            retries: name("chat.retries"),
        }
    }

    /// Where deliveries wait that are at this step of the schedule, from 1.
    pub fn retries(&self, step: usize) -> Arc<str> {
        format!("{}.{step}", self.retries).into()
    }

    /// How to create what deliveries need, for a schedule of so many steps.
    pub fn delivery_specs(
        &self,
        partitions: NonZeroU32,
        replication: NonZeroU32,
        steps: usize,
    ) -> Vec<TopicSpec> {
        let keep = [("cleanup.policy", "delete"), ("retention.ms", "-1")];
        let wait = [
            ("cleanup.policy", "delete"),
            ("retention.ms", RETRY_RETENTION_MS),
        ];
        let newest = [("cleanup.policy", "compact")];
        let few = partitions.min(NonZeroU32::MIN.saturating_add(MAX_RETRY_PARTITIONS - 1));
        let retries = (1..=steps).map(|step| spec(&self.retries(step), (few, replication), &wait));
        [
            spec(&self.deliveries, (partitions, replication), &keep),
            spec(&self.cursors, (partitions, replication), &newest),
            spec(&self.destinations, (NonZeroU32::MIN, replication), &newest),
        ]
        .into_iter()
        .chain(retries)
        .collect()
    }

    /// How to create them. Records are kept for ever unless the operator changes the topics: the
    /// enricher's state is rebuilt from them.
    pub fn specs(&self, partitions: NonZeroU32, replication: NonZeroU32) -> Vec<TopicSpec> {
        let keep = [("cleanup.policy", "delete"), ("retention.ms", "-1")];
        let broker_time = [("message.timestamp.type", "LogAppendTime")];
        // An outcome carries the time of its raw record, by which a log that was made again is told.
        let given_time = [("message.timestamp.type", "CreateTime")];
        let sizes = (partitions, replication);
        vec![
            spec(&self.raw, sizes, &[keep.as_slice(), &broker_time].concat()),
            spec(
                &self.events,
                sizes,
                &[keep.as_slice(), &given_time].concat(),
            ),
            spec(&self.pending, sizes, &keep),
            spec(&self.watermark, sizes, &keep),
        ]
    }
}

fn spec(
    name: &Arc<str>,
    (partitions, replication): (NonZeroU32, NonZeroU32),
    config: &[(&str, &str)],
) -> TopicSpec {
    TopicSpec {
        name: name.to_string(),
        partitions: i32::try_from(partitions.get()).unwrap_or(i32::MAX),
        replication: Some(i32::try_from(replication.get()).unwrap_or(i32::MAX)),
        config: config
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<BTreeMap<_, _>>(),
    }
}

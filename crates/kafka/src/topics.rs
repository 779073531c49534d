//! The topics of one installation.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::admin::TopicSpec;

/// Names of the topics; all have the same number of partitions.
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
}

impl Topics {
    /// The names with `prefix` before each, so that several installations can share brokers.
    pub fn with_prefix(prefix: &str) -> Self {
        let name = |topic: &str| format!("{prefix}{topic}").into();
        Self {
            raw: name("chat.raw"),
            events: name("chat.events"),
            pending: name("chat.events.pending"),
            watermark: name("chat.events.watermark"),
        }
    }

    /// How to create them. Records are kept for ever unless the operator changes the topics: the
    /// enricher's state is rebuilt from them.
    pub fn specs(&self, partitions: NonZeroU32, replication: NonZeroU32) -> Vec<TopicSpec> {
        let keep = [("cleanup.policy", "delete"), ("retention.ms", "-1")];
        let broker_time = [("message.timestamp.type", "LogAppendTime")];
        // An outcome carries the time of its raw record, by which a log that was made again is told.
        let given_time = [("message.timestamp.type", "CreateTime")];
        let spec = |name: &Arc<str>, config: &[(&str, &str)]| TopicSpec {
            name: name.to_string(),
            partitions: i32::try_from(partitions.get()).unwrap_or(i32::MAX),
            replication: Some(i32::try_from(replication.get()).unwrap_or(i32::MAX)),
            config: config
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<BTreeMap<_, _>>(),
        };
        vec![
            spec(&self.raw, &[keep.as_slice(), &broker_time].concat()),
            spec(&self.events, &[keep.as_slice(), &given_time].concat()),
            spec(&self.pending, &keep),
            spec(&self.watermark, &keep),
        ]
    }
}

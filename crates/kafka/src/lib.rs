//! Kafka for the stages: the only user of librdkafka in the workspace.
//!
//! ```text
//!  records ──► Publisher ──► librdkafka queue ──► broker        (idempotent, acks=all)
//!                  ▲                                │
//!                  └──── Publication ◄── delivery reports
//!
//!  group membership ──► run_group ──► one thread per assigned partition ──► the stage's closure
//!                                          │ Partition: next_batch, commit, seek
//!                                          └── PartitionReader: a plain consumer of one partition
//! ```
//!
//! Membership and reading are apart: the group's consumer joins, heartbeats and commits, and fetches nothing; each
//! assigned partition has a consumer of its own that starts at the offset its task names. So a start position needs
//! no seek on a live assignment, a slow partition holds back no other, and a commit passes one gate, the lease.
#![warn(missing_docs)]

mod admin;
mod batch;
mod config;
mod error;
mod group;
mod partitioner;
mod publisher;
mod reader;
mod scale;
mod supervise;
mod topics;

pub use admin::{Admin, PartitionLag, TopicSpec};
pub use batch::{Batch, BatchLimit, Record, RecordRef};
pub use config::KafkaConfig;
pub use error::{Disposition, GroupError, KafkaError, PublishError};
pub use group::{GroupConfig, Next, Partition, run_group};
pub use partitioner::partition_for;
pub use publisher::{Delivered, Delivery, Outcomes, Publication, Publisher, PublisherSettings};
pub use reader::{PartitionReader, TopicPartition, Watermarks};
pub use supervise::{Classified, supervise};
pub use topics::Topics;

//! Errors, each with its disposition. Our own enums are matched without `_`: a new error does not compile until
//! someone says what is to be done about it.

use std::error::Error;
use std::time::Duration;

use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};

use crate::reader::TopicPartition;

/// What the caller is to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Passing: the same call may succeed later. Back off and try again.
    Retry,
    /// Will not pass by itself: stop and tell the operator.
    Fatal,
    /// The partition belongs to someone else now: drop its state, write nothing more for it.
    Fenced,
}

/// What can go wrong in reading, committing and administration.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A setting is missing, reserved or not understood.
    #[error("Kafka setting {key}: {reason}")]
    Config {
        /// The setting's name.
        key: String,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The client could not be made (threads, memory, files named in the settings).
    #[error("cannot create the Kafka client: {reason}")]
    Client {
        /// librdkafka's own words.
        reason: String,
    },
    /// The topic does not exist, or not this partition of it.
    #[error(
        "topic {topic} does not exist on the broker or lacks the partition asked for; create it, or check its name"
    )]
    UnknownTopic {
        /// The topic's name.
        topic: String,
    },
    /// The topic exists with another number of partitions. Partitions bind raw records to outcomes, so it is not
    /// changed behind the operator's back.
    #[error(
        "topic {topic} has {actual} partitions and should have {expected}; `chatpulse migrate` raises the number, and \
         nothing lowers it"
    )]
    PartitionCount {
        /// The topic's name.
        topic: String,
        /// The number configured.
        expected: i32,
        /// The number that the broker reports.
        actual: i32,
    },
    /// The partition was revoked, or another member owns it: the commit was not made.
    #[error("{partition} is no longer ours: {reason}")]
    Fenced {
        /// The partition whose task asked.
        partition: TopicPartition,
        /// Who refused: the lease of this process, or the group coordinator.
        reason: String,
    },
    /// The offset asked for has been deleted, or was never written.
    #[error("offset {offset} of {partition} is not in the log, which holds [{low}, {high})")]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset asked for.
        offset: i64,
        /// First offset in the log.
        low: i64,
        /// Offset after the last.
        high: i64,
    },
    /// The broker did not answer in time.
    #[error("{action}: no answer from the broker within {after:?}")]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// Any other answer of the broker or of librdkafka.
    #[error("{action}: {code} ({detail})")]
    Broker {
        /// What was being done.
        action: &'static str,
        /// librdkafka's error code.
        code: Code,
        /// librdkafka's own words.
        detail: String,
    },
}

impl KafkaError {
    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Config { .. }
            | Self::Client { .. }
            | Self::PartitionCount { .. }
            | Self::OffsetOutOfRange { .. } => Disposition::Fatal,
            // Metadata may lag behind a topic that has just been made.
            Self::UnknownTopic { .. } | Self::Timeout { .. } => Disposition::Retry,
            Self::Fenced { .. } => Disposition::Fenced,
            Self::Broker { code, .. } => disposition_of(*code),
        }
    }

    pub(crate) fn from_create(error: Native) -> Self {
        match error {
            Native::ClientConfig(_, reason, key, _) => Self::Config { key, reason },
            other => Self::Client {
                reason: other.to_string(),
            },
        }
    }

    pub(crate) fn from_native(action: &'static str, error: &Native) -> Self {
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        Self::Broker {
            action,
            code,
            detail: error.to_string(),
        }
    }

    /// The same for a call about `partition`: a refusal for want of membership becomes [`KafkaError::Fenced`].
    pub(crate) fn from_commit(partition: &TopicPartition, error: &Native) -> Self {
        let other = Self::from_native("committing offsets", error);
        if other.disposition() == Disposition::Fenced {
            return Self::Fenced {
                partition: partition.clone(),
                reason: error.to_string(),
            };
        }
        other
    }
}

/// Codes of the broker and of librdkafka. Theirs is an open set, hence the `_`: what is not known to be final is
/// tried again.
fn disposition_of(code: Code) -> Disposition {
    match code {
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::RebalanceInProgress
        | Code::FencedInstanceId
        | Code::AssignmentLost
        | Code::Fenced => Disposition::Fenced,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TopicAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::Fatal
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::InvalidArgument
        | Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::PolicyViolation
        | Code::SSL
        | Code::UnsupportedFeature
        | Code::UnsupportedSASLMechanism
        | Code::UnsupportedVersion
        | Code::UnsupportedCompressionType
        | Code::UnsupportedForMessageFormat => Disposition::Fatal,
        _ => Disposition::Retry,
    }
}

/// Why a record was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The queue to the broker is full, or an earlier record of the same call found it full. Nothing was sent.
    #[error("the queue to the Kafka broker is full; slow down and send again")]
    QueueFull,
    /// The record is larger than `message.max.bytes`, or than the topic takes. It will never go through.
    #[error(
        "the record is larger than the Kafka topic takes; raise message.max.bytes and max.message.bytes, or send less"
    )]
    TooLarge,
    /// The broker did not confirm before the deadline. The record may be in the log or not.
    #[error("the Kafka broker did not confirm in time; the record may or may not be in the log")]
    Unconfirmed,
    /// The broker refused it, or the client gave up.
    #[error("the record was not delivered: {code}")]
    Refused {
        /// librdkafka's error code.
        code: Code,
    },
    /// The publisher has failed for good (its sequence is broken): make a new one.
    #[error("the Kafka publisher has failed and must be made anew: {reason}")]
    Dead {
        /// librdkafka's own words.
        reason: String,
    },
}

impl PublishError {
    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::QueueFull | Self::Unconfirmed => Disposition::Retry,
            Self::TooLarge | Self::Dead { .. } => Disposition::Fatal,
            Self::Refused { code } => disposition_of(*code),
        }
    }

    pub(crate) fn from_native(error: &Native) -> Self {
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => Self::QueueFull,
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => Self::TooLarge,
            Some(Code::MessageTimedOut | Code::PurgeQueue | Code::PurgeInflight) => {
                Self::Unconfirmed
            }
            Some(Code::Fatal | Code::GaplessGuarantee) => Self::Dead {
                reason: error.to_string(),
            },
            Some(code) => Self::Refused { code },
            None => Self::Dead {
                reason: error.to_string(),
            },
        }
    }
}

/// Why [`run_group`](crate::run_group) ended other than by its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum GroupError<E: Error + Send + Sync + 'static> {
    /// The group's own client failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A partition's task failed; the others were stopped in an orderly way.
    #[error("the task of {partition} failed")]
    Task {
        /// Whose task.
        partition: TopicPartition,
        /// The task's error.
        source: E,
    },
    /// A partition's task returned although its partition was still assigned, so nobody would read it.
    #[error("the task of {partition} ended although the partition is still assigned")]
    Ended {
        /// Whose task.
        partition: TopicPartition,
    },
    /// A partition's task panicked.
    #[error("the task of {partition} panicked: {message}")]
    Panicked {
        /// Whose task.
        partition: TopicPartition,
        /// The panic's message.
        message: String,
    },
}

use chatpulse_kafka::{Classified, Disposition, GroupError, KafkaError};
use chatpulse_model::avro::AvroError;
use chatpulse_store::StoreError;

/// Why a partition could not be carried further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Reading or committing failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The store refused a range for good.
    #[error("the store does not take range {token}")]
    Store {
        /// The range.
        token: String,
        /// The store's answer.
        source: StoreError,
    },
    /// A record is no outcome.
    #[error(
        "offset {offset} of {partition} is no outcome that this version reads: {source}. Is another \
         program writing to this topic, or a newer version?"
    )]
    Decode {
        /// The partition.
        partition: String,
        /// The record's offset.
        offset: i64,
        /// What is wrong with it.
        source: AvroError,
    },
}

impl Classified for PartitionError {
    fn disposition(&self) -> Disposition {
        match self {
            Self::Kafka(error) => error.disposition(),
            // What passes by itself is retried where it happens.
            Self::Store { .. } | Self::Decode { .. } => Disposition::Fatal,
        }
    }
}

/// Why the sink stopped: a failure that does not pass by itself.
#[derive(Debug, thiserror::Error)]
#[error("sink stopped")]
pub struct SinkError(#[from] GroupError<PartitionError>);

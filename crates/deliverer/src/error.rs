use chatpulse_kafka::{Classified, Disposition, GroupError, KafkaError, PublishError};
use chatpulse_model::avro::AvroError;

use crate::http::ClientError;

/// Why a partition could not be delivered further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Reading or committing failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A record was not confirmed.
    #[error("what became of a delivery was not written: {0}")]
    Publish(#[from] PublishError),
    /// Cursors could not be encoded.
    #[error("cursors could not be encoded: {0}")]
    Encode(AvroError),
}

impl Classified for PartitionError {
    fn disposition(&self) -> Disposition {
        match self {
            // The log was cut or made again under the reader: the next start looks at what there is.
            Self::Kafka(KafkaError::OffsetOutOfRange { .. }) => Disposition::Retry,
            Self::Kafka(error) => error.disposition(),
            // A dead publisher is made anew with the group.
            Self::Publish(PublishError::Dead { .. }) => Disposition::Retry,
            Self::Publish(error) => error.disposition(),
            Self::Encode(_) => Disposition::Fatal,
        }
    }
}

/// Why the deliverer stopped: a failure that does not pass by itself.
#[derive(Debug, thiserror::Error)]
pub enum DelivererError {
    /// A partition, or the group.
    #[error("deliverer stopped")]
    Group(#[from] GroupError<PartitionError>),
    /// Requests cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A codec cannot be made.
    #[error(transparent)]
    Codec(#[from] AvroError),
}

use chatpulse_kafka::{Classified, Disposition, GroupError, KafkaError, PublishError};
use chatpulse_model::avro::AvroError;

/// Why a partition could not be enriched further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Reading or committing failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// An outcome was not confirmed.
    #[error("an outcome was not written: {0}")]
    Publish(#[from] PublishError),
    /// An outcome could not be encoded.
    #[error("an outcome could not be encoded: {0}")]
    Encode(AvroError),
    /// There are outcomes of raw records that do not exist.
    #[error(
        "partition {partition}: outcomes are written up to raw offset {written}, but the raw topic \
         ends before {high}: was it deleted and made again? Give the new one another topic prefix"
    )]
    AheadOfRaw {
        /// The partition.
        partition: i32,
        /// First raw offset without an outcome.
        written: i64,
        /// End of the raw partition.
        high: i64,
    },
    /// The raw record before the resume point is not the one that the last outcome was made of.
    #[error(
        "partition {partition}: the last outcome was made of another record than the one at raw offset \
         {offset}, so the raw topic was deleted and made again. Give the new one another topic prefix"
    )]
    OtherRaw {
        /// The partition.
        partition: i32,
        /// The raw offset that the last outcome names.
        offset: i64,
    },
    /// Raw records were deleted before they were enriched.
    #[error(
        "partition {partition}: raw records {missing_from} to {low} (exclusive) were deleted before \
         they were enriched: raise the retention of the raw topic"
    )]
    RawDeleted {
        /// The partition.
        partition: i32,
        /// First raw offset without an outcome.
        missing_from: i64,
        /// First raw offset still there.
        low: i64,
    },
}

impl Classified for PartitionError {
    fn disposition(&self) -> Disposition {
        match self {
            Self::Kafka(error) => error.disposition(),
            // A dead publisher is made anew with the group.
            Self::Publish(PublishError::Dead { .. }) => Disposition::Retry,
            Self::Publish(error) => error.disposition(),
            Self::Encode(_) => Disposition::Fatal,
            Self::AheadOfRaw { .. } | Self::OtherRaw { .. } | Self::RawDeleted { .. } => {
                Disposition::Fatal
            }
        }
    }
}

/// Why the enricher stopped: a failure that does not pass by itself.
#[derive(Debug, thiserror::Error)]
#[error("enricher stopped")]
pub struct EnricherError(#[from] GroupError<PartitionError>);

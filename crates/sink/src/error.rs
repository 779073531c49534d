use chatpulse_kafka::{Classified, Disposition, GroupError, KafkaError};

/// Why a partition could not be carried further.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Reading or committing failed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// So many outcomes are missing that it is no damage of single records.
    #[error(
        "{partition}: raw offsets {expected} to {} have no outcome, which is too many to note each \
         as lost: find out what became of the topic, and only then let the sink's group go on",
        .found - 1
    )]
    Gap {
        /// The partition of chat.events.
        partition: String,
        /// First raw offset without an outcome.
        expected: i64,
        /// First raw offset with one.
        found: i64,
    },
    /// The store holds rows of raw offsets that chat.raw has not reached: it was made again.
    #[error(
        "{raw} ends before offset {high}, and the store holds its outcomes up to offset {stored}: the \
         topic was deleted and made again, and its new records cannot be told from the stored ones. \
         Give the installation another topic prefix and another database"
    )]
    RawIsShorter {
        /// The partition of chat.raw.
        raw: String,
        /// Offset that its next record will get.
        high: i64,
        /// Raw offset that the store has reached.
        stored: i64,
    },
    /// The last raw record that is stored is another one in chat.raw: it was made again, and has
    /// grown past what is stored.
    #[error(
        "offset {offset} of {raw} is not the record that the store has a row of: the topic was deleted \
         and made again, and its new records cannot be told from the stored ones. Give the installation \
         another topic prefix and another database"
    )]
    OtherRaw {
        /// The partition of chat.raw.
        raw: String,
        /// Raw offset below which all is stored, less one.
        offset: i64,
    },
}

impl Classified for PartitionError {
    fn disposition(&self) -> Disposition {
        match self {
            // The log was cut or made again under the reader: the next start looks at what there is.
            Self::Kafka(KafkaError::OffsetOutOfRange { .. }) => Disposition::Retry,
            Self::Kafka(error) => error.disposition(),
            Self::Gap { .. } | Self::RawIsShorter { .. } | Self::OtherRaw { .. } => {
                Disposition::Fatal
            }
        }
    }
}

/// Why the sink stopped: a failure that does not pass by itself.
#[derive(Debug, thiserror::Error)]
#[error("sink stopped")]
pub struct SinkError(#[from] GroupError<PartitionError>);

#[cfg(test)]
mod tests {
    use chatpulse_kafka::TopicPartition;

    use super::*;

    #[test]
    fn a_log_that_was_cut_under_the_reader_is_looked_at_anew_and_one_that_is_not_ours_stops_it() {
        let cut = PartitionError::Kafka(KafkaError::OffsetOutOfRange {
            partition: TopicPartition::new("chat.events", 0),
            offset: 7,
            low: 9,
            high: 12,
        });
        assert_eq!(cut.disposition(), Disposition::Retry);
        let other = PartitionError::RawIsShorter {
            raw: "chat.raw[0]".to_owned(),
            high: 3,
            stored: 10,
        };
        assert_eq!(other.disposition(), Disposition::Fatal);
    }
}

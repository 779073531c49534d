//! Records on their way in and out. A batch that was read keeps all its bytes in one buffer: two allocations per
//! batch instead of two per record.

use std::ops::Range;
use std::time::Duration;

/// A record to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The partition, or `None` to let the key decide ([`partition_for`](crate::partition_for)).
    pub partition: Option<i32>,
    /// The key; empty means none, and then the partition is random unless given.
    pub key: Vec<u8>,
    /// The value.
    pub payload: Vec<u8>,
    /// Milliseconds since the epoch; `None` is the time of the call.
    pub timestamp_ms: Option<i64>,
}

/// How much to read at once.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimit {
    /// At most so many records; at least 1 is read.
    pub max_records: usize,
    /// Stop after the record that reaches so many bytes of keys and payloads.
    pub max_bytes: usize,
    /// Wait so long for the first record.
    pub wait: Duration,
    /// After the first record wait so long for more; zero takes what is there.
    pub linger: Duration,
}

/// Records of one partition, in the order of their offsets.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
}

/// A record of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its position in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch, as the topic is configured: the producer's time or the broker's append time.
    pub timestamp_ms: i64,
    /// The key; `None` where the record has none.
    pub key: Option<&'a [u8]>,
    /// The value; `None` for a tombstone.
    pub payload: Option<&'a [u8]>,
}

impl Batch {
    /// Adds a record after the last.
    pub fn push(&mut self, record: RecordRef<'_>) {
        let key = record.key.map(|bytes| self.append(bytes));
        let payload = record.payload.map(|bytes| self.append(bytes));
        self.entries.push(Entry {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key,
            payload,
        });
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// The records in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = RecordRef<'_>> + ExactSizeIterator {
        self.entries.iter().map(|entry| RecordRef {
            offset: entry.offset,
            timestamp_ms: entry.timestamp_ms,
            key: entry.key.clone().map(|range| &self.bytes[range]),
            payload: entry.payload.clone().map(|range| &self.bytes[range]),
        })
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys and payloads.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Offset of the first record.
    pub fn first_offset(&self) -> Option<i64> {
        self.entries.first().map(|entry| entry.offset)
    }

    /// Offset after the last record: where reading goes on.
    pub fn end_offset(&self) -> Option<i64> {
        self.entries.last().map(|entry| entry.offset + 1)
    }

    /// Whether one more record would be too much.
    pub(crate) fn is_full(&self, limit: &BatchLimit) -> bool {
        !self.is_empty() && (self.len() >= limit.max_records || self.byte_len() >= limit.max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_batch_gives_back_what_was_put_in(
            records in prop::collection::vec((any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(), any::<i64>()), 0..20)
        ) {
            let mut batch = Batch::default();
            for (offset, (key, payload, timestamp_ms)) in (7..).zip(&records) {
                batch.push(RecordRef { offset, timestamp_ms: *timestamp_ms, key: key.as_deref(), payload: payload.as_deref() });
            }
            prop_assert_eq!(batch.len(), records.len());
            prop_assert_eq!(batch.end_offset(), (!records.is_empty()).then_some(7 + records.len() as i64));
            for ((read, (key, payload, timestamp_ms)), offset) in batch.iter().zip(&records).zip(7..) {
                let expected = RecordRef { offset, timestamp_ms: *timestamp_ms, key: key.as_deref(), payload: payload.as_deref() };
                prop_assert_eq!(read, expected);
            }
        }
    }

    #[test]
    fn a_limit_of_nothing_still_lets_one_record_through() {
        let limit = BatchLimit {
            max_records: 0,
            max_bytes: 0,
            wait: Duration::ZERO,
            linger: Duration::ZERO,
        };
        let mut batch = Batch::default();
        assert!(!batch.is_full(&limit));
        batch.push(RecordRef {
            offset: 0,
            timestamp_ms: 0,
            key: None,
            payload: None,
        });
        assert!(batch.is_full(&limit));
    }
}

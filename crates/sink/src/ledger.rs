//! Which range of a partition is being inserted: decided first, inserted after. Pure.
//!
//! Three offsets of the sink's group, committed in one request, are all there is to it:
//!
//! | committed under | is |
//! |---|---|
//! | `chat.events` p | `first`: everything before it is in the store |
//! | `chat.events.pending` p | `end`: `[first, end)` may be in the store; equal to `first` when nothing is under way |
//! | `chat.events.watermark` p | first raw offset whose outcome had not been seen before `first` |
//!
//! The watermark is committed with the range because the rows of the range depend on it: outcomes
//! that a second writer repeated are not rows. It cannot be read off the record before `first`,
//! which may itself be a repetition. Plain offsets, since some brokers return no commit metadata.

use std::ops::Range;

use chatpulse_kafka::{TopicPartition, Topics};
use chatpulse_model::watermark::Watermark;

/// What is known of one partition's inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ledger {
    range: Range<i64>,
    watermark: Watermark,
}

impl Ledger {
    /// What the group has committed, in the order of [`keys`]; `low` is where a partition begins
    /// for which it has committed nothing.
    pub(crate) fn load(committed: &[Option<i64>], low: i64) -> Self {
        let at = |index: usize| committed.get(index).copied().flatten();
        let first = at(0).unwrap_or(low);
        // An end below its start stands for no range: commits are atomic, but a partition may have
        // been reset by hand with Kafka's own tools, which know nothing of the pending topic.
        let end = at(1).unwrap_or(first).max(first);
        Self {
            range: first..end,
            watermark: Watermark::at(at(2).unwrap_or(0)),
        }
    }

    /// The range that a predecessor decided on and may not have inserted.
    pub(crate) fn pending(&self) -> Option<Range<i64>> {
        (!self.range.is_empty()).then(|| self.range.clone())
    }

    /// Where reading goes on.
    pub(crate) fn next(&self) -> i64 {
        self.range.end
    }

    /// The watermark before the range.
    pub(crate) fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Decides on the next range, up to `end`.
    pub(crate) fn decide(&mut self, end: i64) {
        self.range.end = end;
    }

    /// The range is in the store, and its rows moved the watermark.
    pub(crate) fn done(&mut self, watermark: Watermark) {
        self.range.start = self.range.end;
        self.watermark = watermark;
    }

    /// What is to be committed, in the order of [`keys`].
    pub(crate) fn offsets(&self) -> [i64; 3] {
        [self.range.start, self.range.end, self.watermark.next()]
    }

    /// The name of the range in the store.
    pub(crate) fn token(&self, partition: &TopicPartition) -> String {
        let Range { start, end } = self.range;
        format!("{}:{}:{start}-{end}", partition.topic, partition.partition)
    }
}

/// The three places of a partition's ledger.
pub(crate) fn keys(topics: &Topics, partition: i32) -> [TopicPartition; 3] {
    [&topics.events, &topics.pending, &topics.watermark]
        .map(|topic| TopicPartition::new(topic.clone(), partition))
}

#[cfg(test)]
mod tests;

//! Which outcomes of a partition are being inserted: decided first, inserted after. Pure.
//!
//! A range is a range of raw offsets, since what is stored are outcomes of raw records, one each.
//! Three offsets of the sink's group, committed in one request, are all there is to it:
//!
//! | committed under | is |
//! |---|---|
//! | `chat.events.watermark` p | `start`: the outcomes of all raw offsets below are in the store |
//! | `chat.events.pending` p | `end`: those of `[start, end)` may be in the store; equal to `start` when nothing is under way |
//! | `chat.events` p | where in chat.events the outcomes from `start` on are found |
//!
//! The rows of `[start, end)` are a function of the log from that place on, and their token names
//! the raw offsets alone. So a successor makes the same block again, also when chat.events was
//! deleted and made again in between and its outcomes stand elsewhere. Plain offsets, since some
//! brokers return no commit metadata.

use std::ops::Range;

use chatpulse_kafka::{TopicPartition, Topics, Watermarks};

/// What is known of one partition's inserts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    read_from: i64,
    range: Range<i64>,
    /// Whether `range.start` is more than the guess for a partition that was never stored.
    begun: bool,
}

/// What a ledger is loaded from.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    /// What the group has committed, in the order of [`keys`].
    pub(crate) committed: &'a [Option<i64>],
    /// The log of chat.events.
    pub(crate) events: Watermarks,
    /// The log of chat.raw.
    pub(crate) raw: Watermarks,
    /// Raw offset above all that the store holds, asked for where no watermark is committed.
    pub(crate) stored: Option<i64>,
}

/// chat.raw is shorter than what the store holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawIsShorter {
    /// Raw offset that the store has reached.
    pub(crate) stored: i64,
}

impl Ledger {
    /// Where a predecessor left off.
    ///
    /// Brokers forget what a group commits: with a topic that is deleted, after a time without
    /// members, and for topics that no member subscribes to (KIP-211), as those of the watermark
    /// and the pending end. The store itself then says how far it has come.
    pub(crate) fn load(found: &Found<'_>) -> Result<Self, RawIsShorter> {
        let committed = |index: usize| found.committed.get(index).copied().flatten();
        let Watermarks { low, high } = found.events;
        // Elsewhere is a log that was made again, or has lost its beginning. To begin too early is
        // harmless: what the watermark has passed is dropped.
        let read_from = committed(0)
            .filter(|offset| (low..=high).contains(offset))
            .unwrap_or(low);
        let (start, end) = match (committed(2), found.stored) {
            (Some(start), _) => (start, committed(1).unwrap_or(start).max(start)),
            (None, Some(stored)) => (stored, stored),
            (None, None) => {
                return Ok(Self {
                    read_from,
                    range: found.raw.low..found.raw.low,
                    begun: false,
                });
            }
        };
        if end > found.raw.high {
            return Err(RawIsShorter { stored: end });
        }
        Ok(Self {
            read_from,
            range: start..end,
            begun: true,
        })
    }

    /// The first outcome of the partition is that of raw offset `raw`. Before it nothing is known
    /// of where a partition that was never stored begins: with what chat.raw still has, unless it
    /// was deleted only after it was read.
    pub(crate) fn begin(&mut self, raw: i64) {
        if !self.begun {
            let start = self.range.start.min(raw);
            self.range = start..start;
            self.begun = true;
        }
    }

    /// Whether there is something to commit.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Where in chat.events to read from.
    pub(crate) fn read_from(&self) -> i64 {
        self.read_from
    }

    /// First raw offset whose outcome is not known to be in the store.
    pub(crate) fn watermark(&self) -> i64 {
        self.range.start
    }

    /// How many outcomes are being inserted; 0 when nothing is under way.
    pub(crate) fn pending(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(0)
    }

    /// Decides to insert the next `rows` outcomes, or no more than these of those decided before,
    /// of which the store has refused some and holds none.
    pub(crate) fn decide(&mut self, rows: usize) {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.range.end = self.range.start.saturating_add(rows);
    }

    /// The range is in the store; the outcomes after it are found from `read_from` on.
    pub(crate) fn done(&mut self, read_from: i64) {
        self.range.start = self.range.end;
        self.read_from = read_from;
    }

    /// What is to be committed, in the order of [`keys`].
    pub(crate) fn offsets(&self) -> [i64; 3] {
        [self.read_from, self.range.end, self.range.start]
    }

    /// The name of the range in the store, of partition `raw` of chat.raw.
    pub(crate) fn token(&self, raw: &TopicPartition) -> String {
        let Range { start, end } = self.range;
        format!("{}:{}:{start}-{end}", raw.topic, raw.partition)
    }
}

/// The three places of a partition's ledger.
pub(crate) fn keys(topics: &Topics, partition: i32) -> [TopicPartition; 3] {
    [&topics.events, &topics.pending, &topics.watermark]
        .map(|topic| TopicPartition::new(topic.clone(), partition))
}

#[cfg(test)]
mod tests;

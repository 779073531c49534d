//! The outcomes of a partition that were read and are not in the store yet. Pure.
//!
//! ```text
//! record of chat.events ──► seen before? drop ──► raw offsets skipped? a lost row for each ──► one row per raw offset
//! ```
//!
//! Rows stand in the order of raw offsets, without holes, from the watermark on. So the rows of a
//! range of raw offsets are its length, and the books of a partition are complete at every row.

use chatpulse_model::watermark::{Admission, Watermark};

/// Most raw offsets that may be without an outcome in one place. More is no damaged record, but a
/// log that was cut or is not ours, and nothing to write rejections about.
pub(crate) const MAX_GAP: i64 = 100_000;

/// What became of the raw record at a row's offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Row<E> {
    /// Its outcome.
    Read(E),
    /// Its outcome is lost; the next one's raw record was received at this time, in milliseconds.
    Lost(i64),
}

/// Where a record stands, and what it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// Offset of its raw record.
    pub(crate) raw: i64,
    /// When that was received; milliseconds since the Unix epoch.
    pub(crate) received_at: i64,
    /// Offset in chat.events.
    pub(crate) offset: i64,
}

/// Outcomes of more than [`MAX_GAP`] raw offsets are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GapTooWide {
    /// First raw offset without an outcome.
    pub(crate) expected: i64,
}

/// Rows on their way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Unstored<E> {
    /// Each with the offset in chat.events from which on the rows after it are found.
    rows: Vec<(Row<E>, i64)>,
    /// Next raw offset.
    next: i64,
    /// Next offset of chat.events.
    position: i64,
}

impl<E> Unstored<E> {
    /// Nothing yet: rows from raw offset `next` on are to come, from `position` of chat.events on.
    pub(crate) fn new(next: i64, position: i64) -> Self {
        Self {
            rows: Vec::new(),
            next,
            position,
        }
    }

    /// Takes in an outcome; says what it was.
    pub(crate) fn admit(&mut self, at: Position, outcome: E) -> Result<Admission, GapTooWide> {
        let expected = self.next;
        if at.raw.saturating_sub(expected) > MAX_GAP {
            return Err(GapTooWide { expected });
        }
        let mut watermark = Watermark::at(expected);
        let admission = watermark.admit(at.raw);
        if let Admission::Gap { expected } = admission {
            // Found again from the record that showed the gap.
            let lost = (expected..at.raw).map(|_| (Row::Lost(at.received_at), at.offset));
            self.rows.extend(lost);
        }
        self.position = at.offset + 1;
        if admission != Admission::Repeated {
            self.rows.push((Row::Read(outcome), self.position));
            self.next = watermark.next();
        }
        Ok(admission)
    }

    /// Passes over a record of chat.events that is no outcome.
    pub(crate) fn skip(&mut self, offset: i64) {
        self.position = offset + 1;
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The first `count` rows.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = &Row<E>> {
        self.rows.iter().take(count).map(|(row, _)| row)
    }

    /// Lets go of the first `count` rows, which are in the store. Gives the offset in chat.events
    /// from which on the others are found.
    pub(crate) fn stored(&mut self, count: usize) -> i64 {
        let last = self.rows.drain(..count).next_back();
        match last {
            Some((_, after)) if !self.rows.is_empty() => after,
            Some(_) | None => self.position,
        }
    }

    /// Next offset of chat.events: everything before it is here, or needs no row.
    pub(crate) fn position(&self) -> i64 {
        self.position
    }
}

#[cfg(test)]
mod tests;

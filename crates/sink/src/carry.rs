//! What is to be done next for a partition: outcomes in, steps out. Pure; [`crate::partition`]
//! performs the steps, and the model in `protocol.rs` tries them in every order with every fault.
//!
//! ```text
//!  Read ──► admit … ──► decide ──► Commit ──► Insert ──► stored ──► done ──► Commit ──► next block, twice the size
//!                         ▲                     │
//!                         └──── half of it ─────┴──► refused
//! ```

use chatpulse_model::watermark::Admission;

use crate::{
    ledger::Ledger,
    unstored::{GapTooWide, Position, Row, Unstored},
};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Commit the ledger, then tell [`Carry::committed`].
    Commit,
    /// Insert the first so many rows under the ledger's token, then tell [`Carry::stored`],
    /// [`Carry::stand_in_stored`] or [`Carry::refused`].
    Insert(usize),
    /// Read on, then tell [`Carry::admit`] or [`Carry::skip`] of each record.
    Read,
}

/// One partition on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Carry<E> {
    ledger: Ledger,
    unstored: Unstored<E>,
    is_committed: bool,
    /// Rows of the next block, at most, and of any block.
    block: usize,
    largest: usize,
}

impl<E> Carry<E> {
    /// Goes on where `ledger` says, with at most `largest` rows in a block.
    pub(crate) fn new(ledger: Ledger, largest: usize) -> Self {
        Self {
            unstored: Unstored::new(ledger.watermark(), ledger.read_from()),
            ledger,
            is_committed: true,
            block: largest,
            largest,
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The next step; the same until it is told what became of it.
    pub(crate) fn step(&mut self) -> Step {
        if self.ledger.pending() == 0 {
            if self.unstored.len() > 0 {
                self.ledger.decide(self.unstored.len().min(self.block));
                self.is_committed = false;
            } else if self.ledger.has_begun() && self.unstored.position() > self.ledger.read_from()
            {
                // Repeated and undecodable records behind the last row.
                self.ledger.done(self.unstored.position());
                self.is_committed = false;
            }
        }
        match self.ledger.pending() {
            _ if !self.is_committed => Step::Commit,
            // A range of a predecessor is inserted when all of it was read.
            rows if rows > 0 && rows <= self.unstored.len() => Step::Insert(rows),
            _ => Step::Read,
        }
    }

    /// Takes in an outcome; says what it was.
    pub(crate) fn admit(&mut self, at: Position, outcome: E) -> Result<Admission, GapTooWide> {
        if !self.ledger.has_begun() {
            self.ledger.begin(at.raw);
            self.unstored = Unstored::new(self.ledger.watermark(), at.offset);
        }
        self.unstored.admit(at, outcome)
    }

    /// Passes over a record of chat.events that is no outcome.
    pub(crate) fn skip(&mut self, offset: i64) {
        self.unstored.skip(offset);
    }

    /// The first `count` rows, each with its raw offset.
    pub(crate) fn rows(&self, count: usize) -> impl Iterator<Item = (i64, &Row<E>)> {
        (self.ledger.watermark()..).zip(self.unstored.first(count))
    }

    /// The ledger is committed.
    pub(crate) fn committed(&mut self) {
        self.is_committed = true;
    }

    /// The ledger's range is in the store.
    pub(crate) fn stored(&mut self) {
        let rows = self.ledger.pending();
        self.stand_in_stored();
        self.block = rows.saturating_mul(2).min(self.largest);
    }

    /// The ledger's range, a single row that the store refuses, is in the store as a rejection. The
    /// next row may well be refused too, so the next block is no larger.
    pub(crate) fn stand_in_stored(&mut self) {
        let read_from = self.unstored.stored(self.ledger.pending());
        self.ledger.done(read_from);
        self.is_committed = false;
    }

    /// The store refuses a row of the ledger's range, which has more than one, and holds none.
    pub(crate) fn refused(&mut self) {
        self.block = (self.ledger.pending() / 2).max(1);
        self.ledger.decide(self.block);
        self.is_committed = false;
    }
}

#[cfg(test)]
mod protocol;

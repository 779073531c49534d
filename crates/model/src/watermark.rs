//! The rule that makes repeated outcomes harmless (design: guarantees 3 to 5).
//!
//! An enricher writes the outcomes of a raw partition in offset order, without holes. A restart or
//! a second owner writes some of them again, byte for byte. A reader that keeps the highest raw
//! offset seen, and drops what is not above it, therefore reads every outcome once and in order.

/// The highest raw offset seen in one partition of `chat.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermark {
    next: i64,
}

/// What a reader does with an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The next outcome: read it.
    New,
    /// Seen before: drop it.
    Repeated,
    /// Raw offsets were skipped: the writer lost outcomes, or raw records were deleted before they
    /// were read. Read it, and say so; `chatpulse audit` names the offsets.
    Gap {
        /// First raw offset without an outcome.
        expected: i64,
    },
}

impl Watermark {
    /// A watermark from which `next` is the first offset not yet seen; 0 for a new partition.
    pub fn at(next: i64) -> Self {
        Self { next: next.max(0) }
    }

    /// First raw offset that has not been seen.
    pub fn next(self) -> i64 {
        self.next
    }

    /// Judges the outcome of raw offset `offset` and moves up.
    pub fn admit(&mut self, offset: i64) -> Admission {
        let expected = self.next;
        if offset < expected {
            return Admission::Repeated;
        }
        self.next = offset + 1;
        if offset == expected {
            Admission::New
        } else {
            Admission::Gap { expected }
        }
    }
}

//! When simulated traffic happens, and what lies between an event and its receipt.

use std::ops::{Range, RangeInclusive};

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use crate::script::{HOUR, MINUTE, SECOND};

/// When simulated traffic happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// It has happened in the 12 days before the base time; all of it can be sent at once.
    Historic,
    /// It happens from the base time on, at this mean rate of sending. Visits are shortened to some
    /// minutes, and begin whenever those under way fall short of the rate. Items come in the order
    /// of [`crate::Item::due_ms`], none before its event has happened.
    Live {
        /// Items per second, one of [`Pace::EVENTS_PER_SECOND`].
        events_per_second: f64,
    },
}

impl Pace {
    /// The rates that a live run can have: what it holds in memory grows with the rate.
    pub const EVENTS_PER_SECOND: RangeInclusive<f64> = 0.01..=10_000.0;

    pub(crate) fn delays(self) -> &'static Delays {
        match self {
            Pace::Historic => &HISTORIC,
            Pace::Live { .. } => &LIVE,
        }
    }
}

/// How long items take: up to the page's sending in milliseconds, after it in milliseconds (live)
/// or in items that are sent meanwhile (historic).
pub(crate) struct Delays {
    /// From the event to the page's sending.
    pub(crate) prompt: Range<i64>,
    /// The same where the page is late.
    pub(crate) late: Range<i64>,
    /// From the page's sending to the receipt.
    pub(crate) way: Range<i64>,
    /// The same where others overtake.
    pub(crate) overtaken: Range<i64>,
    /// The same where the page is late.
    pub(crate) late_way: Range<i64>,
    /// Share of the copies that come with the original, as in the same request.
    pub(crate) copied_at_once: f64,
    /// From the original's receipt to that of other copies.
    pub(crate) copied: Range<i64>,
}

const HISTORIC: Delays = Delays {
    prompt: 50..2 * SECOND,
    late: 5 * MINUTE..6 * HOUR,
    way: 0..0,
    overtaken: 1..64,
    late_way: 50..2_000,
    copied_at_once: 0.5,
    copied: 10..1_500,
};

const LIVE: Delays = Delays {
    prompt: 0..0,
    // Beyond 5 minutes, where lateness begins for the pipeline, even by a clock some seconds off.
    late: 5 * MINUTE + 5 * SECOND..8 * MINUTE,
    way: 20..460,
    overtaken: SECOND..10 * SECOND,
    late_way: 20..460,
    copied_at_once: 0.0,
    copied: SECOND..15 * SECOND,
};

/// A delay of the range; none, and no draw, where the range is empty.
pub(crate) fn draw(range: &Range<i64>, rng: &mut ChaCha8Rng) -> i64 {
    if range.is_empty() {
        0
    } else {
        rng.random_range(range.clone())
    }
}

/// What a viewer can wait for, in place of a pause as people really make it: the page's own work
/// stays as it is, the bot answers within 3 seconds, people within 30.
pub(crate) fn shortened(pause: Range<i64>) -> Range<i64> {
    if pause.end <= SECOND {
        pause
    } else if pause.end <= 10 * SECOND {
        SECOND..3 * SECOND
    } else if pause.end <= MINUTE {
        2 * SECOND..8 * SECOND
    } else {
        10 * SECOND..30 * SECOND
    }
}

//! The span of time that a report is about, and the units in which it is looked at.

use std::time::Duration;

use chatpulse_store::{Span as StoreSpan, Unit, Window};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

const DAY_MS: i64 = 86_400_000;
/// How much longer than the window the baseline is that it is compared with, at least a day.
const BASELINE_WINDOWS: i64 = 7;
/// Longest window that is looked at by minutes.
const MINUTES_UNTIL_MS: i64 = 2 * 3_600_000;
/// Longest window that is looked at by hours.
const HOURS_UNTIL_MS: i64 = 3 * DAY_MS;
/// Longest window.
const LONGEST_MS: i64 = 366 * DAY_MS;

/// `[since, until)`, asked for at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    since_ms: i64,
    until_ms: i64,
    asked_ms: i64,
}

/// What is wrong with a span given as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// No span of time.
    #[error(
        "{0:?} is no span of time: give a whole number and m, h or d, from 1m to 366d, for example 24h"
    )]
    Text(String),
    /// Ends before it begins, or lasts too long.
    #[error("a report is about at least a moment and at most 366 days: let `to` be after `from`")]
    Bounds,
}

/// A window as reports show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Window)]
pub struct Span {
    /// First moment.
    pub since: Timestamp,
    /// First moment after it.
    pub until: Timestamp,
}

impl Period {
    /// The time before `now`, given as `90m`, `24h` or `7d`.
    ///
    /// # Errors
    /// Any other text.
    pub fn before(now: Timestamp, span: &str) -> Result<Period, PeriodError> {
        let length =
            parse(span).ok_or_else(|| PeriodError::Text(span.chars().take(40).collect()))?;
        let until_ms = now.as_millisecond();
        Ok(Period {
            since_ms: until_ms - i64::try_from(length.as_millis()).unwrap_or(DAY_MS),
            until_ms,
            asked_ms: until_ms,
        })
    }

    /// From `since` until before `until`, asked for at `now`.
    ///
    /// # Errors
    /// Where that is no time at all, or more than 366 days.
    pub fn between(
        since: Timestamp,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Period, PeriodError> {
        let (since_ms, until_ms) = (since.as_millisecond(), until.as_millisecond());
        if since_ms >= until_ms || until_ms - since_ms > LONGEST_MS {
            return Err(PeriodError::Bounds);
        }
        Ok(Period {
            since_ms,
            until_ms,
            asked_ms: now.as_millisecond(),
        })
    }

    /// When it was asked for; milliseconds since 1970.
    pub(crate) fn asked_ms(self) -> i64 {
        self.asked_ms
    }

    /// The period itself.
    pub fn window(self) -> Window {
        Window {
            since_ms: self.since_ms,
            until_ms: self.until_ms,
        }
    }

    /// How delivery is looked at: by minutes up to 2 h, by hours up to 3 days, else by days.
    pub fn delivery(self) -> StoreSpan {
        let length = self.until_ms - self.since_ms;
        self.by(if length <= MINUTES_UNTIL_MS {
            Unit::Minute
        } else if length <= HOURS_UNTIL_MS {
            Unit::Hour
        } else {
            Unit::Day
        })
    }

    /// How the keys of events are looked at: by days, against the seven times as many days before.
    pub(crate) fn keys(self) -> (StoreSpan, StoreSpan) {
        let span = self.by(Unit::Day);
        let until_ms = span.window.since_ms;
        let days = (span.window.until_ms - until_ms + Unit::Day.ms() - 1) / Unit::Day.ms();
        let before = Window {
            since_ms: until_ms - days * BASELINE_WINDOWS * Unit::Day.ms(),
            until_ms,
        };
        let baseline = StoreSpan {
            window: before,
            unit: Unit::Day,
        };
        (span, baseline)
    }

    /// How conversations are looked at, by their start: by hours up to 3 days, else by days.
    pub fn cohorts(self) -> StoreSpan {
        match self.delivery().unit {
            Unit::Minute | Unit::Hour => self.by(Unit::Hour),
            Unit::Day => self.by(Unit::Day),
        }
    }

    /// The time before the delivery's span that says what was to be expected: seven times as long,
    /// at least a day, by the next longer unit.
    pub(crate) fn baseline(self) -> StoreSpan {
        let span = self.delivery();
        let unit = match span.unit {
            Unit::Minute => Unit::Hour,
            Unit::Hour | Unit::Day => Unit::Day,
        };
        let until_ms = floor(span.window.since_ms, unit);
        let length = ((span.window.until_ms - span.window.since_ms) * BASELINE_WINDOWS).max(DAY_MS);
        StoreSpan {
            window: Window {
                since_ms: floor(until_ms - length, unit),
                until_ms,
            },
            unit,
        }
    }

    /// From the start of the unit that `since` lies in to the end of the one that `until` lies in: figures
    /// are those of whole units. One that was under way ends when it was asked for.
    fn by(self, unit: Unit) -> StoreSpan {
        let end_ms = -floor(-self.until_ms, unit);
        StoreSpan {
            window: Window {
                since_ms: floor(self.since_ms, unit),
                until_ms: end_ms.min(self.until_ms.max(self.asked_ms)),
            },
            unit,
        }
    }
}

fn floor(ms: i64, unit: Unit) -> i64 {
    ms - ms.rem_euclid(unit.ms())
}

impl From<Window> for Span {
    fn from(window: Window) -> Span {
        Span {
            since: timestamp(window.since_ms),
            until: timestamp(window.until_ms),
        }
    }
}

/// The schema of a [`Unit`], which is the store's and knows of no documents.
pub(crate) fn unit_schema() -> utoipa::openapi::Object {
    let names = [Unit::Minute, Unit::Hour, Unit::Day].map(|unit| serde_json::to_value(unit).ok());
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::Type::String)
        .description(Some(
            "The unit of time in which figures are kept and shown, of UTC.",
        ))
        .enum_values(Some(names.into_iter().flatten()))
        .build()
}

/// The moment, or the nearest that a timestamp can hold.
pub(crate) fn timestamp(ms: i64) -> Timestamp {
    let nearest = if ms < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_millisecond(ms).unwrap_or(nearest)
}

fn parse(span: &str) -> Option<Duration> {
    let digits = span.strip_suffix(['m', 'h', 'd'])?;
    let unit = match span.as_bytes().last()? {
        b'm' => 60,
        b'h' => 3_600,
        _ => 86_400,
    };
    if digits.len() > 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse::<u64>().ok()? * unit;
    (60..=366 * 86_400)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_minutes_hours_or_days() {
        for (text, seconds) in [
            ("1m", 60),
            ("90m", 5_400),
            ("24h", 86_400),
            ("366d", 366 * 86_400),
        ] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "", "h", "0h", "24", "1s", "-1h", "1.5h", "367d", "9999999m", "24h ", "٣h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_window_begins_with_a_unit_that_fits_its_length_and_its_baseline_ends_there() {
        let now = Timestamp::from_millisecond(1_000 * DAY_MS + 5 * 3_600_000 + 61_001).unwrap();
        for (text, unit, since, before) in [
            (
                "1h",
                Unit::Minute,
                1_000 * DAY_MS + 4 * 3_600_000 + 60_000,
                DAY_MS,
            ),
            ("24h", Unit::Hour, 999 * DAY_MS + 5 * 3_600_000, 8 * DAY_MS),
            ("7d", Unit::Day, 993 * DAY_MS, 51 * DAY_MS),
        ] {
            let period = Period::before(now, text).unwrap();
            let span = period.delivery();
            assert_eq!((span.unit, span.window.since_ms), (unit, since), "{text}");
            assert_eq!(span.window.until_ms, now.as_millisecond());
            let baseline = period.baseline();
            assert_eq!(baseline.window.until_ms, floor(since, baseline.unit));
            let length = baseline.window.until_ms - baseline.window.since_ms;
            assert!(
                length >= before && length <= before + DAY_MS,
                "{text}: {length}"
            );
        }
        let cohorts = Period::before(now, "1h").unwrap().cohorts();
        assert_eq!(cohorts.unit, Unit::Hour);
        assert_eq!(cohorts.window.since_ms, 1_000 * DAY_MS + 4 * 3_600_000);
    }

    #[test]
    fn a_period_ends_after_it_begins() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let between = |since, until| Period::between(at(since), at(until), at(until));
        assert_eq!(between(5, 5), Err(PeriodError::Bounds));
        assert_eq!(between(0, LONGEST_MS + 1), Err(PeriodError::Bounds));
        assert!(between(5, 6).is_ok());
    }

    #[test]
    fn a_window_says_all_that_its_units_hold_and_nothing_that_is_to_come() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let hour = Unit::Hour.ms();
        let (since, until) = (100 * DAY_MS + 9 * hour + 1, 106 * DAY_MS + 13 * hour + 1);
        let ends = |until, now| {
            let period = Period::between(at(since), at(until), at(now)).unwrap();
            period.cohorts().window.until_ms
        };
        assert_eq!(ends(until, 200 * DAY_MS), 107 * DAY_MS);
        assert_eq!(ends(106 * DAY_MS, 200 * DAY_MS), 106 * DAY_MS);
        assert_eq!(ends(until, until), until);
        assert_eq!(
            ends(until, until + hour),
            until + hour,
            "the day is under way"
        );
        assert_eq!(
            ends(until, until - hour),
            until,
            "asked for what is to come"
        );
        let short = Period::between(at(since), at(since + 2 * hour), at(until)).unwrap();
        assert_eq!(short.cohorts().window.until_ms, 100 * DAY_MS + 12 * hour);
        assert_eq!(short.window().until_ms, since + 2 * hour);
    }
}

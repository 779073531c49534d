//! The span of time that a report is about.

use std::time::Duration;

use chatpulse_store::Window;
use jiff::Timestamp;
use serde::Serialize;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// How much longer than the window the baseline is that it is compared with, at least a day.
const BASELINE_WINDOWS: i64 = 7;

/// `[since, until)`, beginning on a whole minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    since_ms: i64,
    until_ms: i64,
}

/// What is wrong with a span given as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no span of time: give a whole number and m, h or d, from 1m to 366d, for example 24h"
)]
pub struct PeriodError(String);

/// A window as reports show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
        let length = parse(span).ok_or_else(|| PeriodError(span.chars().take(40).collect()))?;
        let until_ms = now.as_millisecond();
        let since_ms = until_ms - i64::try_from(length.as_millis()).unwrap_or(DAY_MS);
        Ok(Period {
            since_ms: since_ms - since_ms.rem_euclid(MINUTE_MS),
            until_ms,
        })
    }

    /// As the store takes it.
    pub fn window(self) -> Window {
        Window {
            since_ms: self.since_ms,
            until_ms: self.until_ms,
        }
    }

    /// The time before it that says what was to be expected.
    pub(crate) fn baseline(self) -> Window {
        let length = ((self.until_ms - self.since_ms) * BASELINE_WINDOWS).max(DAY_MS);
        Window {
            since_ms: self.since_ms - length,
            until_ms: self.since_ms,
        }
    }
}

impl From<Window> for Span {
    fn from(window: Window) -> Span {
        Span {
            since: timestamp(window.since_ms),
            until: timestamp(window.until_ms),
        }
    }
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
    fn a_period_begins_on_a_whole_minute_and_its_baseline_is_longer() {
        let now = Timestamp::from_millisecond(1_000 * DAY_MS + 61_001).unwrap();
        let period = Period::before(now, "1h").unwrap();
        let window = period.window();
        assert_eq!(window.since_ms, 1_000 * DAY_MS + MINUTE_MS - 60 * MINUTE_MS);
        assert_eq!(window.until_ms, now.as_millisecond());
        let baseline = period.baseline();
        assert_eq!(baseline.until_ms, window.since_ms);
        assert_eq!(baseline.until_ms - baseline.since_ms, DAY_MS);
    }
}

//! Times as vendors write them ─► milliseconds since the Unix epoch, UTC.

use super::json::Json;

/// 2010-01-01T00:00:00Z: no chat widget that sends here is older. Milliseconds.
pub const EARLIEST_MS: i64 = 1_262_304_000_000;
/// How far a time may lie ahead of its receipt: a day, for clocks set to the wrong zone.
/// Milliseconds.
pub const MAX_AHEAD_MS: i64 = 24 * 60 * 60 * 1000;

/// Below this a number counts seconds, from it on milliseconds. As seconds it is the year 5138, as
/// milliseconds March 1973, so that no time in range can be read both ways.
const SECONDS_BELOW: f64 = 1e11;

/// Milliseconds since the epoch from a number (milliseconds or seconds, by magnitude), its decimal
/// text, or RFC 3339 text with an offset; `None` where the value is none of these. A text without
/// an offset is refused, because its zone would have to be guessed.
pub(super) fn parse(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => from_number(number.as_f64()?),
        Json::Text(text) => {
            let text = text.trim();
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
                return from_number(text.parse().ok()?);
            }
            let at: jiff::Timestamp = text.parse().ok()?;
            Some(at.as_millisecond())
        }
        _ => None,
    }
}

/// Doubles hold every millisecond until the year 287396, so nothing is lost on the way.
fn from_number(number: f64) -> Option<i64> {
    let ms = if number.abs() < SECONDS_BELOW {
        number * 1000.0
    } else {
        number
    };
    (ms.abs() < i64::MAX as f64).then_some(ms.floor() as i64)
}

/// Whether a time can be true for something received at `received_at`; all milliseconds.
pub(super) fn in_range(at: i64, received_at: i64) -> bool {
    at >= EARLIEST_MS && at <= received_at.saturating_add(MAX_AHEAD_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<i64> {
        parse(&super::super::json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn numbers_are_milliseconds_or_seconds_by_magnitude() {
        let at = Some(1_768_471_200_000);
        assert_eq!(read("1768471200000"), at);
        assert_eq!(read("1768471200"), at);
        assert_eq!(read("1768471200.0"), at);
        assert_eq!(read("\"1768471200000\""), at);
        assert_eq!(read("1768471200000.9"), at);
        assert_eq!(read("0"), Some(0));
    }

    #[test]
    fn rfc_3339_needs_an_offset() {
        let at = Some(1_768_471_200_000);
        assert_eq!(read("\"2026-01-15T10:00:00Z\""), at);
        assert_eq!(read("\"2026-01-15T10:00:00.000Z\""), at);
        assert_eq!(read("\"2026-01-15T11:00:00+01:00\""), at);
        assert_eq!(read("\"2026-01-15T10:00:00\""), None);
        assert_eq!(read("\"15.01.2026\""), None);
        assert_eq!(read("\"\""), None);
        assert_eq!(read("true"), None);
        assert_eq!(read("{}"), None);
    }

    #[test]
    fn wild_times_are_read_and_out_of_range_or_not_read_at_all() {
        for text in [
            "0",
            "-1",
            "\"1900-01-01T00:00:00Z\"",
            "\"2262-04-12T00:00:00Z\"",
            "1e15",
            "18446744073709551615",
            "1e300",
            "\"999999999999999999999999999999\"",
        ] {
            assert!(
                read(text).is_none_or(|at| !in_range(at, 1_768_471_200_000)),
                "{text}"
            );
        }
    }

    #[test]
    fn the_range_is_closed_at_both_ends() {
        let received = 1_768_471_200_000;
        assert!(in_range(EARLIEST_MS, received));
        assert!(!in_range(EARLIEST_MS - 1, received));
        assert!(in_range(received + MAX_AHEAD_MS, received));
        assert!(!in_range(received + MAX_AHEAD_MS + 1, received));
    }
}

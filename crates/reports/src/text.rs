//! Values for people.

/// What a source cannot show.
pub(crate) const NOT_AVAILABLE: &str = "n/a";

/// `850 ms`, `12.3 s`, `4.5 min`, `3.2 h`, `2.1 d`.
pub(crate) fn duration(ms: f64) -> String {
    let seconds = ms / 1_000.0;
    match seconds {
        _ if ms < 1_000.0 => format!("{ms:.0} ms"),
        _ if seconds < 120.0 => format!("{seconds:.1} s"),
        _ if seconds < 7_200.0 => format!("{:.1} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} d", seconds / 86_400.0),
    }
}

/// Text of unknown origin on one line: control characters and those that turn the direction of
/// writing are shown as `�`, and at most `limit` characters remain.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
    };
    let mut line: String = text
        .chars()
        .take(limit)
        .map(|c| if harmful(c) { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(limit).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_the_unit_that_can_be_read() {
        for (ms, text) in [
            (0.0, "0 ms"),
            (999.0, "999 ms"),
            (1_000.0, "1.0 s"),
            (150_000.0, "2.5 min"),
            (9_000_000.0, "2.5 h"),
            (259_200_000.0, "3.0 d"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn a_line_stays_a_line_of_bounded_length() {
        assert_eq!(one_line("a\nb\u{202e}c", 10), "a\u{fffd}b\u{fffd}c");
        assert_eq!(one_line("🙂🙂🙂", 2), "🙂🙂…");
    }
}

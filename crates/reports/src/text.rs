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

/// `12,345`.
pub(crate) fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "−" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number in little room: `0.05`, `7.5`, `1,500`, `12k`, `3.4M`; three figures at most from ten
/// thousand on.
pub(crate) fn compact(number: f64) -> String {
    let (scaled, unit) = match number.abs() {
        size if size >= 999_500_000.0 => (number / 1e9, "G"),
        size if size >= 999_500.0 => (number / 1e6, "M"),
        size if size >= 9_999.5 => (number / 1e3, "k"),
        size if size >= 999.5 => return grouped(number.round() as i128),
        _ => (number, ""),
    };
    let places = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.995 || size == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.places$}");
    let text = if places > 0 {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{}{unit}", text.replace('-', "−"))
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
    fn numbers_are_grouped_or_made_short() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(-1_234_567), "−1,234,567");
        assert_eq!(grouped(999), "999");
        for (number, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (7.5, "7.5"),
            (12.34, "12.3"),
            (999.4, "999"),
            (1_500.0, "1,500"),
            (12_000.0, "12k"),
            (12_345.0, "12.3k"),
            (999_499.0, "999k"),
            (999_500.0, "1M"),
            (3_400_000.0, "3.4M"),
            (-20_000.0, "−20k"),
        ] {
            assert_eq!(compact(number), text);
        }
    }

    #[test]
    fn a_line_stays_a_line_of_bounded_length() {
        assert_eq!(one_line("a\nb\u{202e}c", 10), "a\u{fffd}b\u{fffd}c");
        assert_eq!(one_line("🙂🙂🙂", 2), "🙂🙂…");
    }
}

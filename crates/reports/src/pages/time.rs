//! Points of reports to slots of charts, and times as text.

use chatpulse_store::Unit;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use crate::chart::{self, Slots};
use crate::period::Span;

/// Most slots of a chart; the longest span has 366 days.
const MOST: i64 = 400;

/// The units of the window.
pub(super) fn slots(window: Span, unit: Unit) -> Slots {
    let step_ms = unit.ms();
    let (since, until_ms) = (window.since.as_millisecond(), window.until.as_millisecond());
    let start_ms = since - since.rem_euclid(step_ms);
    let count = (until_ms - start_ms).div_euclid(step_ms)
        + i64::from((until_ms - start_ms).rem_euclid(step_ms) > 0);
    Slots {
        start_ms,
        step_ms,
        count: usize::try_from(count.clamp(1, MOST)).unwrap_or(1),
        until_ms,
    }
}

/// Sums by slot: a unit without a point had nothing, which is known.
pub(super) fn sums(
    slots: &Slots,
    points: impl Iterator<Item = (Timestamp, f64)>,
) -> Vec<Option<f64>> {
    let mut sums = vec![Some(0.0); slots.count];
    for (at, value) in points {
        if let Some(Some(sum)) = slot(slots, at).and_then(|slot| sums.get_mut(slot)) {
            *sum += value;
        }
    }
    sums
}

/// Values by slot: a unit without a point has none, which is not 0.
pub(super) fn values(
    slots: &Slots,
    points: impl Iterator<Item = (Timestamp, Option<f64>)>,
) -> Vec<Option<f64>> {
    let mut values = vec![None; slots.count];
    for (at, value) in points {
        if let Some(place) = slot(slots, at).and_then(|slot| values.get_mut(slot)) {
            *place = value;
        }
    }
    values
}

fn slot(slots: &Slots, at: Timestamp) -> Option<usize> {
    usize::try_from((at.as_millisecond() - slots.start_ms).div_euclid(slots.step_ms)).ok()
}

/// `minute`, `hour`, `day`.
pub(super) fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Minute => "minute",
        Unit::Hour => "hour",
        Unit::Day => "day",
    }
}

/// `20 Nov 14:05`, and the exact time for programs and on hover.
pub(super) fn time(at: Timestamp) -> Markup {
    html! { time.time datetime=(at) title={ (at) } { (text(at)) } }
}

/// The unit in which something was last: days are kept as a whole, so of midnight the date alone is said.
pub(super) fn unit(at: Timestamp) -> Markup {
    if at.as_millisecond().rem_euclid(Unit::Day.ms()) == 0 {
        let day = at.to_zoned(TimeZone::UTC).strftime("%-d %b");
        html! { time.time datetime=(at) title="Figures of this time are kept by the day." { (day) } }
    } else {
        time(at)
    }
}

/// The same as plain text.
pub(super) fn text(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC)
        .strftime("%-d %b %H:%M")
        .to_string()
}

/// `20 Nov 14:05 to 21 Nov 14:05`. To the minute: a page that is made again within it is the same.
pub(super) fn window(span: Span) -> String {
    format!("{} to {}", text(span.since), text(span.until))
}

/// A chart's series of one name.
pub(super) fn series<'a>(
    name: &'a str,
    tone: &'a str,
    values: Vec<Option<f64>>,
) -> chart::Series<'a> {
    chart::Series { name, tone, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_has_a_slot_for_each_unit_that_it_touches() {
        let window = Span {
            since: at("2026-11-20T00:00:00Z"),
            until: at("2026-11-20T02:30:00Z"),
        };
        let slots = slots(window, Unit::Hour);
        assert_eq!(slots.count, 3);
        let points = [
            (at("2026-11-20T01:00:00Z"), 2.0),
            (at("2026-11-20T01:00:00Z"), 3.0),
        ];
        assert_eq!(
            sums(&slots, points.into_iter()),
            [Some(0.0), Some(5.0), Some(0.0)]
        );
        let known = [(at("2026-11-20T02:00:00Z"), Some(7.0))];
        assert_eq!(values(&slots, known.into_iter()), [None, None, Some(7.0)]);
        let beyond = [
            (at("2026-11-21T00:00:00Z"), 1.0),
            (at("2026-11-19T00:00:00Z"), 1.0),
        ];
        assert_eq!(sums(&slots, beyond.into_iter()), [Some(0.0); 3]);
    }
}

//! Where the axis has its ticks, and what they say.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Slots, Unit};
use crate::text::compact;

const SECOND: f64 = 1_000.0;
const MINUTE: f64 = 60.0 * SECOND;
const HOUR: f64 = 60.0 * MINUTE;
const DAY: f64 = 24.0 * HOUR;

/// Steps of an axis of durations above a second, where 1, 2, 5 times a power of ten are odd.
const DURATIONS: [f64; 17] = [
    SECOND,
    2.0 * SECOND,
    5.0 * SECOND,
    10.0 * SECOND,
    30.0 * SECOND,
    MINUTE,
    2.0 * MINUTE,
    5.0 * MINUTE,
    10.0 * MINUTE,
    30.0 * MINUTE,
    HOUR,
    2.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    7.0 * DAY,
];
/// Steps of the time axis; milliseconds.
const TIMES: [f64; 17] = [
    MINUTE,
    2.0 * MINUTE,
    5.0 * MINUTE,
    10.0 * MINUTE,
    15.0 * MINUTE,
    30.0 * MINUTE,
    HOUR,
    2.0 * HOUR,
    3.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    7.0 * DAY,
    14.0 * DAY,
    30.0 * DAY,
    90.0 * DAY,
];
/// Most intervals of the value axis, and most ticks of the time axis: more do not fit on a phone.
const MOST_INTERVALS: f64 = 4.0;
const MOST_TIMES: i64 = 6;

/// The values of the ticks from 0 up; the last is not below `highest`.
pub(super) fn ticks(highest: f64, unit: Unit) -> Vec<f64> {
    let step = step(highest / MOST_INTERVALS, unit);
    let count = (highest / step).ceil().clamp(1.0, MOST_INTERVALS) as u32;
    (0..=count).map(|tick| f64::from(tick) * step).collect()
}

/// The least step that is easy to read and not below `least`.
fn step(least: f64, unit: Unit) -> f64 {
    if unit == Unit::Milliseconds && least > 500.0 {
        let longest = DURATIONS[DURATIONS.len() - 1];
        return DURATIONS
            .into_iter()
            .find(|step| *step >= least)
            .unwrap_or_else(|| (least / longest).ceil() * longest);
    }
    let smallest = match unit {
        Unit::Count | Unit::Milliseconds => 1.0,
        Unit::PerSecond | Unit::PerMinute => 0.001,
    };
    if least <= smallest {
        return smallest;
    }
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        // Powers of ten below one are not exact.
        .find(|step| *step >= least * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

/// What a tick says; the unit stands in the title of the chart.
pub(super) fn tick_label(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count | Unit::PerSecond | Unit::PerMinute => compact(value),
        Unit::Milliseconds if value == 0.0 => "0".to_owned(),
        Unit::Milliseconds => {
            // The longest unit in which it is whole, or and a half.
            let (unit, name) = [(DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s")]
                .into_iter()
                .find(|(unit, _)| value >= *unit && (value * 2.0 / unit).fract() == 0.0)
                .unwrap_or((1.0, "ms"));
            format!("{} {name}", compact(value / unit))
        }
    }
}

/// Slots with a tick, and what each says, in UTC: times of the day, and the date where a day begins.
pub(super) fn time_ticks(slots: &Slots) -> Vec<(usize, String)> {
    let end = slots.start_ms + slots.step_ms * slots.count as i64;
    let length = end - slots.start_ms;
    let step = TIMES
        .into_iter()
        .map(|step| step as i64)
        .find(|step| *step >= slots.step_ms && length / step <= MOST_TIMES)
        .unwrap_or(length.max(1));
    let first = slots.start_ms + (step - slots.start_ms.rem_euclid(step)) % step;
    (0..)
        .map(|tick| first + tick * step)
        .take_while(|time| *time < end)
        .map(|time| {
            let slot = (time - slots.start_ms) / slots.step_ms;
            let form = if step >= DAY as i64 || time.rem_euclid(DAY as i64) == 0 {
                "%-d %b"
            } else {
                "%H:%M"
            };
            (usize::try_from(slot).unwrap_or(0), moment(time, form))
        })
        .collect()
}

/// The slot as text: `20 Nov 14:00–15:00` or `20 Nov`.
pub(super) fn slot_label(slots: &Slots, slot: usize) -> String {
    let from = slots.start_ms + slots.step_ms * slot as i64;
    if slots.step_ms >= DAY as i64 {
        return moment(from, "%-d %b %Y");
    }
    let until = from + slots.step_ms;
    format!(
        "{}–{}",
        moment(from, "%-d %b %H:%M"),
        moment(until, "%H:%M")
    )
}

fn moment(ms: i64, form: &str) -> String {
    Timestamp::from_millisecond(ms)
        .map(|time| time.to_zoned(TimeZone::UTC).strftime(form).to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(highest: f64, unit: Unit) -> Vec<String> {
        ticks(highest, unit)
            .into_iter()
            .map(|tick| tick_label(tick, unit))
            .collect()
    }

    #[test]
    fn ticks_are_numbers_that_can_be_read_and_reach_the_highest_value() {
        assert_eq!(labels(0.0, Unit::Count), ["0", "1"]);
        assert_eq!(labels(3.0, Unit::Count), ["0", "1", "2", "3"]);
        assert_eq!(labels(7.0, Unit::Count), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(1_450.0, Unit::Count), ["0", "500", "1,000", "1,500"]);
        assert_eq!(labels(90_000.0, Unit::Count), ["0", "50k", "100k"]);
        assert_eq!(labels(0.9, Unit::PerSecond), ["0", "0.5", "1"]);
    }

    #[test]
    fn ticks_of_durations_are_whole_seconds_minutes_and_hours() {
        assert_eq!(
            labels(42.0, Unit::Milliseconds),
            ["0", "20 ms", "40 ms", "60 ms"]
        );
        assert_eq!(
            labels(7_000.0, Unit::Milliseconds),
            ["0", "2 s", "4 s", "6 s", "8 s"]
        );
        assert_eq!(
            labels(100_000.0, Unit::Milliseconds),
            ["0", "30 s", "1 min", "1.5 min", "2 min"]
        );
        assert_eq!(
            labels(3.0 * HOUR, Unit::Milliseconds),
            ["0", "1 h", "2 h", "3 h"]
        );
        assert_eq!(
            labels(1_700.0, Unit::Milliseconds),
            ["0", "500 ms", "1 s", "1.5 s", "2 s"]
        );
        assert_eq!(ticks(1e12, Unit::Milliseconds).len(), 5);
    }

    #[test]
    fn every_axis_has_at_most_five_ticks_and_holds_its_highest_value() {
        for exponent in -30..120 {
            let highest = 1.37f64.powi(exponent);
            for unit in [Unit::Count, Unit::Milliseconds, Unit::PerSecond] {
                let ticks = ticks(highest, unit);
                assert!((2..=5).contains(&ticks.len()), "{highest} {unit:?}");
                assert!(
                    ticks[ticks.len() - 1] >= highest * (1.0 - 1e-9),
                    "{highest} {unit:?} {ticks:?}"
                );
            }
        }
    }

    fn times(start: &str, step: f64, count: usize) -> Vec<(usize, String)> {
        let start: Timestamp = start.parse().unwrap();
        time_ticks(&Slots {
            start_ms: start.as_millisecond(),
            step_ms: step as i64,
            count,
            until_ms: i64::MAX,
        })
    }

    #[test]
    fn times_stand_at_whole_hours_and_a_new_day_says_its_date() {
        let day = times("2026-11-20T15:00:00Z", HOUR, 24);
        let expected = [(3, "18:00"), (9, "21 Nov"), (15, "06:00"), (21, "12:00")];
        assert_eq!(day, expected.map(|(slot, label)| (slot, label.to_owned())));
        let hour = times("2026-11-20T15:07:00Z", MINUTE, 60);
        assert_eq!(hour[0], (3, "15:10".to_owned()));
        assert_eq!(hour.len(), 6);
        let days = times("2026-08-23T00:00:00Z", DAY, 90);
        assert!(days.len() <= 7 && days.iter().all(|(_, label)| label.contains(' ')));
    }

    #[test]
    fn a_slot_says_from_when_to_when_it_is() {
        let start: Timestamp = "2026-11-20T23:00:00Z".parse().unwrap();
        let slots = Slots {
            start_ms: start.as_millisecond(),
            step_ms: HOUR as i64,
            count: 2,
            until_ms: i64::MAX,
        };
        assert_eq!(slot_label(&slots, 0), "20 Nov 23:00–00:00");
        let days = Slots {
            step_ms: DAY as i64,
            ..slots
        };
        assert_eq!(slot_label(&days, 1), "21 Nov 2026");
    }
}

//! Whether a series grows: by how much (Theil and Sen) and whether that is more than chance (Mann and Kendall).
//!
//! Both look at pairs of values only, so that a single slow window (a merge, a checkpoint) neither makes a trend nor
//! hides one. Sources: H. Theil, 1950, and P. K. Sen, 1968: the slope is the median of the slopes of all pairs;
//! H. B. Mann, 1945, and M. G. Kendall, 1975: the test statistic S and its normal approximation.

use serde::Serialize;

/// The growth of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trend {
    /// Growth in the unit of the values per second.
    pub slope_per_second: f64,
    /// How far that is from chance, in standard deviations; positive where the series rises.
    pub z: f64,
}

/// The trend of `values`, each `step_seconds` after the one before. None of fewer than four: nothing can be said.
pub fn trend(values: &[f64], step_seconds: f64) -> Option<Trend> {
    let n = values.len();
    if n < 4 || !values.iter().all(|value| value.is_finite()) {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    let mut s = 0_i64;
    for (i, first) in values.iter().enumerate() {
        for (j, later) in values.iter().enumerate().skip(i + 1) {
            slopes.push((later - first) / ((j - i) as f64 * step_seconds));
            s += i64::from(later > first) - i64::from(later < first);
        }
    }
    slopes.sort_by(f64::total_cmp);
    let middle = slopes.len() / 2;
    let slope_per_second = match slopes.len() % 2 {
        1 => slopes[middle],
        _ => (slopes[middle - 1] + slopes[middle]) / 2.0,
    };
    let count = n as f64;
    let deviation = (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
    let z = (s - s.signum()) as f64 / deviation;
    Some(Trend {
        slope_per_second,
        z,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_straight_line_has_its_own_slope(slope in -5.0..5.0_f64, start in -100.0..100.0_f64, n in 4..40_usize) {
            let values: Vec<f64> = (0..n).map(|i| start + slope * 2.0 * i as f64).collect();
            let found = trend(&values, 2.0).unwrap();
            prop_assert!((found.slope_per_second - slope).abs() < 1e-6);
        }

        #[test]
        fn one_wild_value_changes_the_slope_of_a_line_little(slope in 0.1..5.0_f64, at in 0..10_usize, wild in -1e6..1e6_f64) {
            let mut values: Vec<f64> = (0..10).map(|i| slope * f64::from(i)).collect();
            values[at] = wild;
            let found = trend(&values, 1.0).unwrap();
            prop_assert!((found.slope_per_second - slope).abs() <= slope * 0.5 + 1e-9);
        }

        #[test]
        fn a_series_turned_round_falls_as_it_rose(values in prop::collection::vec(-100.0..100.0_f64, 4..30)) {
            let mut back = values.clone();
            back.reverse();
            let (there, back) = (trend(&values, 1.0).unwrap(), trend(&back, 1.0).unwrap());
            prop_assert!((there.slope_per_second + back.slope_per_second).abs() < 1e-9);
            prop_assert!((there.z + back.z).abs() < 1e-9);
        }
    }

    #[test]
    fn a_rising_line_of_ten_is_more_than_chance_and_a_flat_one_is_not() {
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        assert!(trend(&rising, 1.0).unwrap().z > 3.5);
        let flat = trend(&[1.0; 10], 1.0).unwrap();
        assert_eq!((flat.slope_per_second, flat.z), (0.0, 0.0));
    }

    #[test]
    fn of_three_values_or_of_none_that_is_a_number_nothing_is_said() {
        assert_eq!(trend(&[1.0, 2.0, 3.0], 1.0), None);
        assert_eq!(trend(&[1.0, 2.0, 3.0, f64::NAN], 1.0), None);
    }
}

//! Whether a run shows that the system carries the load.
//!
//! The rule, in this order:
//!
//! 1. The generator fell behind its own schedule (p99 of its lag above the bound): the run is void.
//! 2. More than one request in a thousand was not acknowledged: not sustained.
//! 3. The lag had come to the bound and the run was cut short: not sustained.
//! 4. Over the windows of the run after the warm-up, the lag (in seconds of load), or the p99 of send → queryable,
//!    grows faster than the bound *and* more than chance allows (Mann and Kendall, one-sided, 5 %): not sustained.
//! 5. Else: sustained.
//!
//! At an offered rate of x times what the system carries, the lag grows by 1 − 1/x seconds per second: the bound of
//! 0.02 tells rates apart that are 2 % above.

use std::time::Duration;

use serde::Serialize;

use crate::trend::{Trend, trend};

/// One-sided 5 % of the normal distribution.
const SIGNIFICANT: f64 = 1.645;

/// The bounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rule {
    /// Growth of lag and latency, seconds per second.
    pub growth: f64,
    /// Share of requests that may go unacknowledged.
    pub refused: f64,
    /// p99 of the generator's own lag; seconds.
    pub generator_lag_seconds: f64,
    /// Lag at which a run is cut short; seconds of load.
    pub hopeless_lag_seconds: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            growth: 0.02,
            refused: 0.001,
            generator_lag_seconds: 0.02,
            hopeless_lag_seconds: 8.0,
        }
    }
}

/// What was seen in a run, after its warm-up.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// p99 of the generator's own lag.
    pub generator_lag: Duration,
    /// Requests that ended.
    pub requests: u64,
    /// Those that were not acknowledged.
    pub refused: u64,
    /// Whether the lag came to the bound.
    pub hopeless: bool,
    /// Length of a window; seconds.
    pub window_seconds: f64,
    /// Mean lag of each window; seconds of load.
    pub lag: Vec<f64>,
    /// p99 of send → queryable (or → acknowledged, where that is all) of the events intended in each window; seconds.
    /// Empty where not all windows have events that were followed.
    pub latency: Vec<f64>,
}

/// What a run shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// The system carries the load.
    Sustained,
    /// It does not, for these reasons.
    NotSustained(Vec<String>),
    /// The run says nothing of the system.
    Void(String),
}

/// Whether runs at parts of a sustained rate bear it out: all of them were sustained; none where none was made.
pub fn confirmed<'a>(parts: impl IntoIterator<Item = &'a Verdict>) -> Option<bool> {
    parts
        .into_iter()
        .map(|verdict| *verdict == Verdict::Sustained)
        .reduce(|all, one| all && one)
}

/// Applies the rule.
pub fn judge(rule: &Rule, observed: &Observed) -> Verdict {
    let lag = observed.generator_lag.as_secs_f64();
    if lag > rule.generator_lag_seconds {
        return Verdict::Void(format!(
            "the generator fell behind its schedule: p99 of its lag is {:.1} ms, the bound {:.1} ms",
            lag * 1e3,
            rule.generator_lag_seconds * 1e3
        ));
    }
    let mut why = Vec::new();
    if observed.refused as f64 > observed.requests as f64 * rule.refused {
        why.push(format!(
            "{} of {} requests were not acknowledged",
            observed.refused, observed.requests
        ));
    }
    if observed.hopeless {
        why.push(format!(
            "the lag came to {} s of load, and the run was cut short",
            rule.hopeless_lag_seconds
        ));
    }
    let grows = |name: &str, values: &[f64]| {
        let Trend {
            slope_per_second,
            z,
        } = trend(values, observed.window_seconds)?;
        (slope_per_second > rule.growth && z >= SIGNIFICANT)
            .then(|| format!("{name} grew by {slope_per_second:.3} s per second (z = {z:.1})"))
    };
    why.extend(grows("the lag", &observed.lag));
    why.extend(grows("the p99 latency", &observed.latency));
    match why.is_empty() {
        true => Verdict::Sustained,
        false => Verdict::NotSustained(why),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ten windows of 2 s; the sink inserts in steps, so the mean lag of a window is off by up to `noise`.
    fn observed(slope: f64, noise: &[f64]) -> Observed {
        let lag = |i: usize| 1.0 + slope * 2.0 * i as f64 + noise[i];
        Observed {
            requests: 1_000,
            window_seconds: 2.0,
            lag: (0..10).map(lag).collect(),
            ..Observed::default()
        }
    }

    #[test]
    fn a_rate_is_confirmed_where_every_part_of_it_was_sustained() {
        let void = Verdict::Void("the generator fell behind".into());
        assert_eq!(confirmed([]), None);
        assert_eq!(
            confirmed([&Verdict::Sustained, &Verdict::Sustained]),
            Some(true)
        );
        assert_eq!(confirmed([&void, &Verdict::Sustained]), Some(false));
    }

    proptest! {
        /// The lag of a system at x times its capacity grows by 1 − 1/x; 5 % above is seen through noise of 0.1 s.
        #[test]
        fn a_rate_five_percent_above_the_capacity_is_not_sustained(
            above in 0.05..3.0_f64,
            noise in prop::collection::vec(-0.05..0.05_f64, 10),
        ) {
            let slope = 1.0 - 1.0 / (1.0 + above);
            prop_assert!(matches!(judge(&Rule::default(), &observed(slope, &noise)), Verdict::NotSustained(_)));
        }

        #[test]
        fn a_lag_that_stays_or_falls_is_sustained_at_any_height(
            slope in -1.0..0.0_f64,
            noise in prop::collection::vec(-0.05..0.05_f64, 10),
            height in 0.0..100.0_f64,
        ) {
            let mut flat = observed(slope, &noise);
            flat.lag.iter_mut().for_each(|lag| *lag += height);
            prop_assert_eq!(judge(&Rule::default(), &flat), Verdict::Sustained);
        }

        #[test]
        fn a_generator_that_fell_behind_voids_whatever_else_was_seen(
            slope in -1.0..1.0_f64,
            refused in 0..1_000_u64,
            late_ms in 21..10_000_u64,
        ) {
            let late = Observed {
                refused,
                hopeless: slope > 0.5,
                generator_lag: Duration::from_millis(late_ms),
                ..observed(slope, &[0.0; 10])
            };
            prop_assert!(matches!(judge(&Rule::default(), &late), Verdict::Void(_)));
        }
    }

    #[test]
    fn a_growing_latency_is_seen_where_the_lag_stands() {
        let growing = Observed {
            latency: (0..10).map(|i| 0.5 + 0.1 * f64::from(i)).collect(),
            ..observed(0.0, &[0.0; 10])
        };
        let Verdict::NotSustained(why) = judge(&Rule::default(), &growing) else {
            panic!("sustained")
        };
        assert!(why[0].contains("p99 latency"), "{why:?}");
    }

    #[test]
    fn one_request_in_a_thousand_may_fail_and_two_may_not() {
        let with = |refused| Observed {
            refused,
            ..observed(0.0, &[0.0; 10])
        };
        assert_eq!(judge(&Rule::default(), &with(1)), Verdict::Sustained);
        assert!(matches!(
            judge(&Rule::default(), &with(2)),
            Verdict::NotSustained(_)
        ));
    }
}

//! When requests are to be sent.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How the gaps between requests are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independently of each other, as those of many visitors: exponential gaps.
    Poisson,
    /// All gaps the same.
    Even,
}

/// Gives every request its time. The same seed, the same times.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    /// Seconds for each event; 0 where all are due at once.
    per_event: f64,
    /// Seconds since the start.
    now: f64,
    rng: ChaCha8Rng,
}

impl Schedule {
    /// A schedule of `events_per_second` in the mean; of infinitely many, all requests are due at once.
    pub fn new(arrivals: Arrivals, events_per_second: f64, seed: u64) -> Self {
        Self {
            arrivals,
            per_event: 1.0 / events_per_second.max(f64::MIN_POSITIVE),
            now: 0.0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// When the next request is due, after the start; the gap before it is in proportion to the events that
    /// it carries, so that the rate of events does not depend on how full requests are.
    pub fn next_due(&mut self, events: u32) -> Duration {
        let mean = f64::from(events) * self.per_event;
        let gap = match self.arrivals {
            Arrivals::Even => mean,
            // Of a uniform number from (0, 1]: the logarithm is finite.
            Arrivals::Poisson => -mean * (1.0 - self.rng.random::<f64>()).ln(),
        };
        self.now += gap;
        Duration::from_secs_f64(self.now.min(1e9))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(arrivals: Arrivals, rate: f64, seed: u64, sizes: &[u32]) -> Vec<Duration> {
        let mut schedule = Schedule::new(arrivals, rate, seed);
        sizes.iter().map(|&size| schedule.next_due(size)).collect()
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_follow_from_the_seed(
            seed: u64,
            rate in 0.5..1e6_f64,
            sizes in prop::collection::vec(1..100_u32, 1..200),
            poisson: bool,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Even };
            let first = times(arrivals, rate, seed, &sizes);
            prop_assert!(first.is_sorted());
            prop_assert_eq!(&first, &times(arrivals, rate, seed, &sizes));
        }

        #[test]
        fn even_arrivals_carry_exactly_the_rate_whatever_the_sizes(
            rate in 0.5..1e5_f64,
            sizes in prop::collection::vec(1..100_u32, 1..200),
        ) {
            let last = *times(Arrivals::Even, rate, 0, &sizes).last().unwrap();
            let events: u32 = sizes.iter().sum();
            prop_assert!((last.as_secs_f64() - f64::from(events) / rate).abs() < 1e-6);
        }

        /// The mean of n exponential gaps is within 5 standard errors of its expectation.
        #[test]
        fn poisson_arrivals_carry_the_rate_in_the_mean(seed: u64, rate in 1.0..1e5_f64, size in 1..100_u32) {
            let n = 20_000;
            let last = *times(Arrivals::Poisson, rate, seed, &vec![size; n]).last().unwrap();
            let expected = n as f64 * f64::from(size) / rate;
            let off = last.as_secs_f64() / expected - 1.0;
            prop_assert!(off.abs() < 5.0 / (n as f64).sqrt(), "{off}");
        }
    }

    #[test]
    fn poisson_gaps_vary_as_much_as_their_mean() {
        let mut schedule = Schedule::new(Arrivals::Poisson, 10.0, 7);
        let mut before = 0.0;
        let gaps: Vec<f64> = std::iter::repeat_with(|| {
            let now = schedule.next_due(1).as_secs_f64();
            std::mem::replace(&mut before, now) - now
        })
        .take(50_000)
        .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean.abs() - 1.0).abs() < 0.03);
    }

    #[test]
    fn at_an_infinite_rate_all_is_due_at_once() {
        assert_eq!(
            times(Arrivals::Even, f64::INFINITY, 0, &[5, 5]),
            [Duration::ZERO; 2]
        );
    }
}

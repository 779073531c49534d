//! The highest sustainable rate: doubling until a run is not sustained, then bisection.
//!
//! A void run is made once more; void again, its rate is a ceiling of the generator and never a result.

use serde::Serialize;

use crate::verdict::Verdict;

/// A rate below this is not looked for; events per second.
const LEAST: f64 = 1.0;
/// How often a run at one rate may be void before that rate counts as out of reach.
const VOID_RUNS: u32 = 2;

/// What ended the search upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ceiling {
    /// The system did not carry more.
    System,
    /// The generator could not send more: the system may carry more.
    Generator,
    /// No higher rate was tried.
    None,
}

/// The result so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Found {
    /// Highest rate that was sustained, events per second; none where none was.
    pub rate: Option<f64>,
    /// Lowest rate above it that was not; none where none was tried.
    pub above: Option<f64>,
    /// What stands above.
    pub ceiling: Ceiling,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Make a run at this rate, events per second.
    Try(f64),
    /// The rate is known well enough.
    Done,
}

/// The state of a search. Feed it the verdict of each rate that it asks for.
#[derive(Debug, Clone)]
pub struct Search {
    next: f64,
    precision: f64,
    low: Option<f64>,
    high: Option<(f64, Ceiling)>,
    void_runs: u32,
}

impl Search {
    /// A search that begins at `start` events per second, and ends when the lowest rate not sustained is at most
    /// `precision` (a share, e.g. 0.05) above the highest sustained.
    pub fn new(start: f64, precision: f64) -> Self {
        Self {
            next: start.max(LEAST),
            precision: precision.max(0.001),
            low: None,
            high: None,
            void_runs: 0,
        }
    }

    /// The next step.
    pub fn step(&self) -> Step {
        match (self.low, self.high) {
            (Some(low), Some((high, _))) if high <= low * (1.0 + self.precision) => Step::Done,
            (None, Some((high, _))) if high <= LEAST => Step::Done,
            _ => Step::Try(self.next),
        }
    }

    /// Takes the verdict of the rate that [`Search::step`] gave.
    pub fn record(&mut self, verdict: &Verdict) {
        let rate = self.next;
        match verdict {
            Verdict::Sustained => self.low = Some(rate),
            Verdict::NotSustained(_) => self.high = Some((rate, Ceiling::System)),
            Verdict::Void(_) => {
                self.void_runs += 1;
                if self.void_runs < VOID_RUNS {
                    return;
                }
                self.high = Some((rate, Ceiling::Generator));
            }
        }
        self.void_runs = 0;
        self.next = match (self.low, self.high) {
            (Some(low), None) => low * 2.0,
            (None, Some((high, _))) => (high / 2.0).max(LEAST),
            // The middle of what is left, as ratios are what the precision is about.
            (Some(low), Some((high, _))) => (low * high).sqrt(),
            (None, None) => rate,
        };
    }

    /// What is known now.
    pub fn found(&self) -> Found {
        Found {
            rate: self.low,
            above: self.high.map(|(rate, _)| rate),
            ceiling: self.high.map_or(Ceiling::None, |(_, ceiling)| ceiling),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn not_sustained() -> Verdict {
        Verdict::NotSustained(vec!["the lag grew".into()])
    }

    /// A system that carries up to `capacity`, and a generator that can send up to `reach`.
    fn run(mut search: Search, capacity: f64, reach: f64) -> (Found, u32) {
        let mut runs = 0;
        while let Step::Try(rate) = search.step() {
            runs += 1;
            assert!(runs < 100, "the search does not end");
            search.record(&if rate > reach {
                Verdict::Void("late".into())
            } else if rate > capacity {
                not_sustained()
            } else {
                Verdict::Sustained
            });
        }
        (search.found(), runs)
    }

    proptest! {
        #[test]
        fn the_capacity_of_a_synthetic_system_is_found_within_the_precision(
            capacity in 2.0..1e6_f64,
            start in 1.0..1e5_f64,
            precision in 0.01..0.3_f64,
        ) {
            let (found, runs) = run(Search::new(start, precision), capacity, f64::INFINITY);
            let rate = found.rate.unwrap();
            prop_assert!(rate <= capacity && capacity < rate * (1.0 + precision) * (1.0 + 1e-9));
            prop_assert_eq!(found.ceiling, Ceiling::System);
            prop_assert!(runs < 60);
        }

        #[test]
        fn a_rate_that_the_generator_could_not_send_is_never_the_result(
            capacity in 2.0..1e5_f64,
            reach in 2.0..1e5_f64,
            start in 1.0..1e5_f64,
        ) {
            let (found, _) = run(Search::new(start, 0.05), capacity, reach);
            let rate = found.rate.unwrap();
            prop_assert!(rate <= reach && rate <= capacity);
            if reach < capacity / 1.2 {
                prop_assert_eq!(found.ceiling, Ceiling::Generator);
            }
        }
    }

    #[test]
    fn a_run_that_was_void_by_chance_is_made_again() {
        let mut search = Search::new(100.0, 0.05);
        search.record(&Verdict::Void("late".into()));
        assert_eq!(search.step(), Step::Try(100.0));
        search.record(&Verdict::Sustained);
        assert_eq!(search.step(), Step::Try(200.0));
    }

    #[test]
    fn a_system_that_carries_nothing_has_no_rate() {
        let (found, _) = run(Search::new(100.0, 0.05), 0.5, f64::INFINITY);
        assert_eq!(found.rate, None);
        assert_eq!(found.above, Some(LEAST));
    }
}

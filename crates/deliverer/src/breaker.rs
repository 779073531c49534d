//! The circuit breaker of a destination. Pure: it is told the time.
//!
//! ```text
//!           failures in a row            pause over               probe succeeded
//!  closed ────────────────────► open ────────────────► probing ──────────────────► closed
//!                                ▲                        │ probe failed
//!                                └── a longer pause ──────┘
//! ```

use std::time::{Duration, Instant};

/// When it opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// First pause; each further one is twice as long.
    pub pause: Duration,
    /// Longest pause.
    pub max_pause: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 10,
            pause: Duration::from_secs(5),
            max_pause: Duration::from_secs(300),
        }
    }
}

/// Whether requests may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Granted,
    /// One, to see whether the receiver is back.
    Probe,
    /// Not before this time, because it fails.
    Denied(Instant),
    /// Not before this time, because the receiver asked for it.
    Paused(Instant),
    /// Not before the probe that is under way has ended.
    Probing,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    /// How often it opened since it was last closed.
    opened: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, is_asked: bool },
    Probing,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: State::Closed { failures: 0 },
            opened: 0,
        }
    }

    /// What `acquire` would say, without taking the probe.
    pub fn peek(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed { .. } => Permit::Granted,
            State::Open { until, is_asked } if now < until => match is_asked {
                true => Permit::Paused(until),
                false => Permit::Denied(until),
            },
            State::Open { .. } => Permit::Probe,
            State::Probing => Permit::Probing,
        }
    }

    /// Asks to make a request; whoever is granted one reports how it ended.
    pub fn acquire(&mut self, now: Instant) -> Permit {
        let permit = self.peek(now);
        if permit == Permit::Probe {
            self.state = State::Probing;
        }
        permit
    }

    /// A request ended with an answer that shows the receiver at work. One that was under way when it
    /// opened changes nothing: the receiver may have asked for a pause since.
    pub fn succeeded(&mut self) {
        match self.state {
            State::Closed { .. } | State::Probing => {
                self.state = State::Closed { failures: 0 };
                self.opened = 0;
            }
            State::Open { .. } => {}
        }
    }

    /// A request failed. The answers to requests that were under way when it opened change nothing.
    pub fn failed(&mut self, now: Instant) {
        match self.state {
            State::Closed { failures } if failures + 1 < self.settings.failures => {
                self.state = State::Closed {
                    failures: failures + 1,
                };
            }
            State::Closed { .. } | State::Probing => self.open(now),
            State::Open { .. } => {}
        }
    }

    /// The receiver asked for a pause (429 or 503 with Retry-After): nothing is sent before it is over. It
    /// lasts no longer than the longest pause.
    pub fn asked_to_wait(&mut self, now: Instant, wait: Duration) {
        let until = now + wait.min(self.settings.max_pause);
        match self.state {
            State::Open { until: other, .. } if other >= until => {}
            State::Open { .. } | State::Closed { .. } | State::Probing => {
                let is_asked = true;
                self.state = State::Open { until, is_asked };
            }
        }
    }

    /// A probe that was granted was not made after all.
    pub fn probe_returned(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open {
                until: now,
                is_asked: false,
            };
        }
    }

    /// Whether requests flow freely.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn open(&mut self, now: Instant) {
        let doublings = self.opened.min(16);
        let pause = self.settings.pause.saturating_mul(1 << doublings);
        self.opened = self.opened.saturating_add(1);
        self.state = State::Open {
            until: now + pause.min(self.settings.max_pause),
            is_asked: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        pause: Duration::from_secs(5),
        max_pause: Duration::from_secs(60),
    };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..3 {
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_not_before() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..10 {
            breaker.failed(now);
            breaker.failed(now);
            breaker.succeeded();
        }
        assert!(breaker.is_closed());
        let mut breaker = opened(now);
        let until = now + SETTINGS.pause;
        assert_eq!(breaker.acquire(now), Permit::Denied(until));
    }

    #[test]
    fn what_was_under_way_when_it_opened_changes_nothing() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.succeeded();
        breaker.failed(now + Duration::from_secs(1));
        let until = now + SETTINGS.pause;
        assert_eq!(breaker.acquire(now), Permit::Denied(until));
        let mut breaker = Breaker::new(SETTINGS);
        breaker.asked_to_wait(now, Duration::from_secs(30));
        breaker.succeeded();
        breaker.asked_to_wait(now, Duration::from_secs(10));
        let until = now + Duration::from_secs(30);
        assert_eq!(breaker.acquire(now), Permit::Paused(until));
    }

    #[test]
    fn one_probe_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + SETTINGS.pause;
        assert_eq!(breaker.peek(later), Permit::Probe);
        assert_eq!(breaker.acquire(later), Permit::Probe);
        assert_eq!(breaker.acquire(later), Permit::Probing);
        breaker.succeeded();
        assert_eq!(breaker.acquire(later), Permit::Granted);
        // And the next pause is a short one again.
        for _ in 0..3 {
            breaker.failed(later);
        }
        assert_eq!(breaker.peek(later), Permit::Denied(later + SETTINGS.pause));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let Permit::Denied(until) = breaker.peek(now) else {
                panic!("open")
            };
            pauses.push((until - now).as_secs());
            now = until;
            assert_eq!(breaker.acquire(now), Permit::Probe);
            breaker.failed(now);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn a_receiver_that_asks_for_a_pause_gets_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        breaker.asked_to_wait(now, Duration::from_secs(30));
        assert_eq!(
            breaker.acquire(now),
            Permit::Paused(now + Duration::from_secs(30))
        );
        breaker.asked_to_wait(now, Duration::from_secs(100_000));
        assert_eq!(
            breaker.acquire(now),
            Permit::Paused(now + SETTINGS.max_pause)
        );
    }

    proptest! {
        /// However requests end: never two probes at once, and the receiver is always asked again.
        #[test]
        fn it_never_stays_open_for_ever(ends in prop::collection::vec(0..4_u8, 0..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(SETTINGS);
            for end in ends {
                match breaker.acquire(now) {
                    Permit::Denied(until) | Permit::Paused(until) => {
                        prop_assert!(until <= now + SETTINGS.max_pause);
                        now = until;
                        continue;
                    }
                    Permit::Probe => prop_assert_eq!(breaker.acquire(now), Permit::Probing),
                    Permit::Granted => {}
                    Permit::Probing => prop_assert!(false, "a probe that ended is still counted"),
                }
                match end {
                    0 => breaker.succeeded(),
                    1 => breaker.failed(now),
                    2 => breaker.asked_to_wait(now, Duration::from_secs(7)),
                    _ => breaker.probe_returned(now),
                }
            }
        }
    }
}

//! When a delivery is tried again. Pure: randomness and time are given.

use std::time::Duration;

/// The pauses between the turns of a delivery: after the first turn the first pause, and so on; after the
/// turn that follows the last pause it is given up.
///
/// Each pause is a topic of its own, `chat.retries.1` to `chat.retries.N`, so that what waits there is due
/// in about the order in which it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    steps: Vec<Duration>,
}

/// A pause is lengthened by up to this share, so that what failed together does not come back together.
const JITTER: f64 = 0.1;
/// And by no more than this.
const MAX_JITTER: Duration = Duration::from_secs(300);

impl Default for Schedule {
    /// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h: the example schedule of the Standard Webhooks specification.
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        Self {
            steps: [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR]
                .map(Duration::from_secs)
                .into(),
        }
    }
}

/// When and where a delivery waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Number of the step, from 1: the topic.
    pub step: usize,
    /// How long.
    pub wait: Duration,
}

impl Schedule {
    /// A schedule of other pauses; `None` unless there are 1 to 12, each longer than the one before.
    pub fn new(steps: Vec<Duration>) -> Option<Self> {
        let grows = steps.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = (1..=12).contains(&steps.len()) && !steps[0].is_zero();
        (grows && fits).then_some(Self { steps })
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// How many turns a delivery has at most.
    pub fn turns(&self) -> usize {
        self.steps.len() + 1
    }

    /// The pause after turn number `attempts`, from 1; `None` when that was the last. A receiver that asks
    /// for more time (`retry_after`) gets it, up to the longest pause. `random` is from 0 to 1.
    pub fn after(
        &self,
        attempts: usize,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Option<Pause> {
        let own = *self.steps.get(attempts.checked_sub(1)?)?;
        let longest = self.steps.last().copied().unwrap_or(own);
        let asked = own.max(retry_after.unwrap_or_default().min(longest));
        // The shortest step that is not too early; a delivery keeps its place in its topic's order.
        let step = self.steps.iter().position(|step| *step >= asked)?;
        let jitter = self.steps[step].mul_f64(JITTER * random.clamp(0.0, 1.0));
        Some(Pause {
            step: step + 1,
            wait: self.steps[step] + jitter.min(MAX_JITTER),
        })
    }

    /// A wait of at least `wait` that is no turn: for a delivery whose destination takes none right now.
    pub fn postponed(&self, wait: Duration, random: f64) -> Pause {
        let longest = self.steps.len() - 1;
        let step = self.steps.iter().position(|step| *step >= wait);
        let step = step.unwrap_or(longest);
        let jitter = self.steps[step].mul_f64(JITTER * random.clamp(0.0, 1.0));
        Pause {
            step: step + 1,
            wait: self.steps[step] + jitter.min(MAX_JITTER),
        }
    }
}

/// What `Retry-After` asks for: seconds, or an HTTP date (RFC 9110, 10.2.3). `None` where it says neither.
pub fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(value)
        .ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pauses_are_those_of_the_specification_and_then_it_is_given_up() {
        let schedule = Schedule::default();
        let pauses: Vec<_> = (1..=7)
            .map(|turn| {
                schedule
                    .after(turn, None, 0.0)
                    .map(|pause| pause.wait.as_secs())
            })
            .collect();
        let seconds = [5, 300, 1_800, 7_200, 18_000, 36_000].map(Some);
        assert_eq!(pauses[..6], seconds);
        assert_eq!(pauses[6], None);
        assert_eq!(schedule.turns(), 7);
    }

    #[test]
    fn pauses_are_lengthened_by_a_tenth_and_by_five_minutes_at_most() {
        let schedule = Schedule::default();
        let pause = |turn| schedule.after(turn, None, 1.0).unwrap().wait.as_millis();
        let pauses: Vec<_> = (1..=6).map(pause).collect();
        let milliseconds = [5_500, 330_000, 1_980_000, 7_500_000, 18_300_000, 36_300_000];
        assert_eq!(pauses, milliseconds);
        let minute = Duration::from_secs(60);
        assert_eq!(schedule.postponed(minute, 1.0).wait.as_secs(), 330);
    }

    #[test]
    fn a_receiver_that_asks_for_time_gets_it_within_bounds() {
        let schedule = Schedule::default();
        let wait = |seconds| {
            let asked = Some(Duration::from_secs(seconds));
            schedule.after(1, asked, 0.0).unwrap().wait.as_secs()
        };
        assert_eq!(wait(0), 5);
        assert_eq!(wait(60), 300);
        // What is asked for exactly is not exceeded.
        assert_eq!(wait(300), 300);
        assert_eq!(wait(3_600), 7_200);
        assert_eq!(wait(1_000_000), 36_000);
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = "2026-01-15T10:00:00Z".parse().unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        let date = retry_after("Thu, 15 Jan 2026 10:01:00 GMT", now);
        assert_eq!(date, Some(Duration::from_secs(60)));
        let past = retry_after("Thu, 15 Jan 2026 09:00:00 GMT", now);
        assert_eq!(past, Some(Duration::ZERO));
        for nonsense in ["", "soon", "-5", "1e9", "99999999999999"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }

    #[test]
    fn a_schedule_that_does_not_grow_is_refused() {
        let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect();
        assert!(Schedule::new(seconds(&[])).is_none());
        assert!(Schedule::new(seconds(&[5, 5])).is_none());
        assert!(Schedule::new(seconds(&[0, 5])).is_none());
        assert!(Schedule::new(seconds(&[1, 5])).is_some());
    }

    proptest! {
        #[test]
        fn no_turn_comes_early_and_jitter_is_bounded(
            turn in 1..7_usize, asked in prop::option::of(0..100_000_u64), random in 0.0..=1.0_f64,
        ) {
            let schedule = Schedule::default();
            let asked = asked.map(Duration::from_secs);
            let pause = schedule.after(turn, asked, random).unwrap();
            let step = schedule.steps[pause.step - 1];
            prop_assert!(pause.wait >= schedule.steps[turn - 1]);
            prop_assert!(pause.wait >= asked.unwrap_or_default().min(Duration::from_secs(36_000)));
            prop_assert!(pause.wait >= step && pause.wait <= step.mul_f64(1.1) + Duration::from_nanos(1));
        }
    }
}

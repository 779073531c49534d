//! How an attempt ended, and what follows from it. Every match names every case: a new class does not
//! compile until someone says what it means.

use std::time::Duration;

use chatpulse_model::FailureClass;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// 2xx.
    Delivered {
        /// The status.
        status: u16,
    },
    /// Anything else.
    Failed(Failure),
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub class: FailureClass,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// What happened, without secrets.
    pub detail: String,
    /// What the receiver asked for.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without an answer.
    pub fn new(class: FailureClass, detail: impl Into<String>) -> Self {
        Self {
            class,
            status: None,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// Of an answer.
    pub fn of_status(status: u16, retry_after: Option<Duration>) -> Self {
        Self {
            class: class_of(status),
            status: Some(status),
            detail: format!("the receiver answered {status}"),
            retry_after,
        }
    }
}

/// What becomes of a delivery after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It gets its next turn, if one is left.
    Retry,
    /// It is given up at once.
    GiveUp,
    /// It is given up, and the destination is disabled.
    Disable,
    /// It is not sent, which is no failure.
    Withhold,
}

/// What follows from a failure for its delivery.
pub fn verdict(class: FailureClass) -> Verdict {
    use FailureClass as F;
    match class {
        F::Dns | F::Connect | F::Tls | F::Timeout | F::Protocol => Verdict::Retry,
        // The name may point elsewhere tomorrow, and the operator may allow the network.
        F::Blocked | F::Redirect => Verdict::Retry,
        F::RateLimited | F::Http4xx | F::Http5xx | F::HttpOther => Verdict::Retry,
        F::CircuitOpen => Verdict::Retry,
        F::Gone => Verdict::Disable,
        F::Refused | F::Disabled | F::Removed | F::Invalid => Verdict::GiveUp,
        F::ConsentUnknown | F::ConsentDeclined => Verdict::Withhold,
    }
}

/// What an attempt says about the receiver, beyond this delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It works.
    Healthy,
    /// It does not.
    Failing,
    /// No request was made.
    None,
}

/// What a failure says about the receiver.
pub fn sign(class: FailureClass) -> Sign {
    use FailureClass as F;
    match class {
        F::Dns | F::Connect | F::Tls | F::Timeout | F::Protocol | F::Blocked | F::Redirect => {
            Sign::Failing
        }
        F::RateLimited | F::Http4xx | F::Http5xx | F::HttpOther | F::Gone => Sign::Failing,
        // It read the request and judged it.
        F::Refused => Sign::Healthy,
        F::CircuitOpen | F::Disabled | F::Removed | F::Invalid => Sign::None,
        F::ConsentUnknown | F::ConsentDeclined => Sign::None,
    }
}

/// The class of a status that is not 2xx.
fn class_of(status: u16) -> FailureClass {
    match status {
        300..=399 => FailureClass::Redirect,
        410 => FailureClass::Gone,
        429 => FailureClass::RateLimited,
        // Bad request, not acceptable, length, size, address, type, range, content, header fields.
        400 | 406 | 411 | 413..=416 | 422 | 431 => FailureClass::Refused,
        400..=499 => FailureClass::Http4xx,
        500..=599 => FailureClass::Http5xx,
        _ => FailureClass::HttpOther,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_class() {
        use FailureClass as F;
        for (status, class) in [
            (101, F::HttpOther),
            (302, F::Redirect),
            (304, F::Redirect),
            (400, F::Refused),
            (401, F::Http4xx),
            (404, F::Http4xx),
            (408, F::Http4xx),
            (410, F::Gone),
            (413, F::Refused),
            (422, F::Refused),
            (429, F::RateLimited),
            (500, F::Http5xx),
            (503, F::Http5xx),
            (599, F::Http5xx),
            (700, F::HttpOther),
        ] {
            assert_eq!(Failure::of_status(status, None).class, class, "{status}");
        }
    }

    #[test]
    fn a_class_without_a_request_says_nothing_about_the_receiver() {
        for &class in FailureClass::ALL {
            if sign(class) == Sign::None {
                let no_request = verdict(class) != Verdict::Retry;
                assert!(
                    no_request || class == FailureClass::CircuitOpen,
                    "{class:?}"
                );
            }
        }
    }
}

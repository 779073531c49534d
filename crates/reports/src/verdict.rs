//! Whether events really arrive: counts in, a verdict with its reason and threshold out. Pure.

use serde::Serialize;
use utoipa::ToSchema;

use crate::text::duration;

/// From how many rejected of those received on delivery is failing.
const FAILING_REJECTED: f64 = 0.20;
/// From how many rejected of those received on delivery is degraded.
const DEGRADED_REJECTED: f64 = 0.01;
/// From how many late of those accepted on delivery is degraded.
const DEGRADED_LATE: f64 = 0.10;
/// From how many accepted ahead of our clock on delivery is degraded.
const DEGRADED_AHEAD: f64 = 0.10;
/// Degraded from this p95 of received to queryable on; milliseconds.
const DEGRADED_QUERYABLE_MS: f64 = 60_000.0;
/// From how much more of those received than before were duplicates on delivery is degraded.
const DEGRADED_DUPLICATES: f64 = 0.20;
/// So many must have come before for that.
const DUPLICATES_BASELINE: u64 = 20;
/// From how many numbers lost in the browser of all numbers on delivery is degraded.
const DEGRADED_LOST: f64 = 0.05;
/// Silent where at least this many were to be expected and none came.
const SILENT_EXPECTED: f64 = 5.0;

/// From how many failed of the requests to a destination on delivery to it is failing.
const FAILING_REQUESTS: f64 = 0.50;
/// From how many failed of the requests on it is degraded.
const DEGRADED_REQUESTS: f64 = 0.05;
/// From how many given up of the deliveries that ended on it is failing.
const FAILING_GIVEN_UP: f64 = 0.20;
/// From how many given up of the deliveries that ended on it is degraded.
const DEGRADED_GIVEN_UP: f64 = 0.01;
/// Degraded from this p95 of received to delivered on; milliseconds.
const DEGRADED_DELIVERED_MS: f64 = 300_000.0;
/// Degraded where a delivery has waited for so long; milliseconds.
const DEGRADED_WAITING_MS: i64 = 3_600_000;

/// How delivery does, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// It arrives, with losses or delay.
    Degraded,
    /// Nothing comes, though it was to be expected.
    Silent,
    /// Much of what comes is refused.
    Failing,
}

impl Verdict {
    /// The name used in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Degraded => "degraded",
            Verdict::Silent => "silent",
            Verdict::Failing => "failing",
        }
    }
}

/// A verdict, why, and from when on it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What was found.
    pub reason: String,
    /// The limit that decided; none where nothing is wrong.
    pub threshold: Option<String>,
}

/// What is judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) accepted: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
    pub(crate) late: u64,
    pub(crate) clock_ahead: u64,
    /// p95 of received to queryable; milliseconds.
    pub(crate) queryable_p95_ms: Option<f64>,
    /// Distinct numbers that arrived from page sessions, and those lost.
    pub(crate) numbers: Option<(u64, u64)>,
    /// How many were to be expected by the baseline.
    pub(crate) expected: f64,
    /// Received in the baseline, and duplicates of these. Some vendors send everything twice, so only a
    /// change tells.
    pub(crate) before: (u64, u64),
}

/// The worst that holds; of equals, the first.
pub(crate) fn judge(counts: &Counts) -> Judgement {
    if counts.received == 0 {
        return if counts.expected >= SILENT_EXPECTED {
            Judgement {
                verdict: Verdict::Silent,
                reason: format!("none received, about {:.0} expected", counts.expected),
                threshold: Some(format!(
                    "at least {SILENT_EXPECTED:.0} expected by what came before"
                )),
            }
        } else {
            healthy("none received, and hardly any expected")
        };
    }
    let (arrived, lost) = counts.numbers.unwrap_or_default();
    let rejected = (counts.rejected, counts.received);
    let checks = [
        (Verdict::Failing, "rejected", rejected, FAILING_REJECTED),
        (Verdict::Degraded, "rejected", rejected, DEGRADED_REJECTED),
        (
            Verdict::Degraded,
            "late by more than 5 min",
            (counts.late, counts.accepted),
            DEGRADED_LATE,
        ),
        (
            Verdict::Degraded,
            "ahead of our clock",
            (counts.clock_ahead, counts.accepted),
            DEGRADED_AHEAD,
        ),
        (
            Verdict::Degraded,
            "lost in the browser",
            (lost, arrived + lost),
            DEGRADED_LOST,
        ),
    ];
    for (verdict, what, (part, whole), limit) in checks {
        let share = share(part, whole);
        if share >= limit {
            return Judgement {
                verdict,
                reason: format!("{} {what} ({part} of {whole})", percent(share)),
                threshold: Some(format!("{} or more", percent(limit))),
            };
        }
    }
    let (before, duplicates_before) = counts.before;
    let (now, usual) = (
        share(counts.duplicate, counts.received),
        share(duplicates_before, before),
    );
    if before >= DUPLICATES_BASELINE && now >= usual + DEGRADED_DUPLICATES {
        return Judgement {
            verdict: Verdict::Degraded,
            reason: format!("{} duplicates, {} before", percent(now), percent(usual)),
            threshold: Some(format!(
                "{:.0} percentage points more than before",
                DEGRADED_DUPLICATES * 100.0
            )),
        };
    }
    match counts.queryable_p95_ms {
        Some(ms) if ms >= DEGRADED_QUERYABLE_MS => Judgement {
            verdict: Verdict::Degraded,
            reason: format!("queryable after {:.0} s at p95", ms / 1_000.0),
            threshold: Some(format!("{:.0} s or more", DEGRADED_QUERYABLE_MS / 1_000.0)),
        },
        _ => healthy("arriving"),
    }
}

/// What is judged of deliveries to a destination.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent<'a> {
    pub(crate) turns: u64,
    pub(crate) attempts: u64,
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    pub(crate) given_up: u64,
    pub(crate) withheld: u64,
    pub(crate) pending: u64,
    /// Since how long the oldest waits; milliseconds.
    pub(crate) waiting_ms: Option<i64>,
    /// p95 of received to delivered; milliseconds.
    pub(crate) delivered_p95_ms: Option<f64>,
    /// Events that it was owed.
    pub(crate) expected: u64,
    /// Since when it is disabled, and why.
    pub(crate) disabled: Option<&'a str>,
}

/// The worst that holds; of equals, the first.
pub(crate) fn judge_sent(sent: &Sent<'_>) -> Judgement {
    if let Some(disabled) = sent.disabled {
        return Judgement {
            verdict: Verdict::Failing,
            reason: disabled.to_owned(),
            threshold: Some("410, or failing for days".to_owned()),
        };
    }
    let requests = (sent.failed, sent.attempts);
    let ended = (sent.given_up, sent.given_up + sent.delivered);
    let given_up = "given up of those that ended";
    for (verdict, what, (part, whole), limit) in [
        (
            Verdict::Failing,
            "of the requests failed",
            requests,
            FAILING_REQUESTS,
        ),
        (Verdict::Failing, given_up, ended, FAILING_GIVEN_UP),
    ] {
        if let Some(judgement) = reached(verdict, what, (part, whole), limit) {
            return judgement;
        }
    }
    let at_least = |count: f64, what: &str| Some(format!("at least {count:.0} {what}"));
    if sent.turns == 0 && sent.expected as f64 >= SILENT_EXPECTED {
        return Judgement {
            verdict: Verdict::Silent,
            reason: format!("none sent, {} events came for it", sent.expected),
            threshold: at_least(SILENT_EXPECTED, "events came for it"),
        };
    }
    if sent.turns == sent.withheld && sent.withheld as f64 >= SILENT_EXPECTED {
        return Judgement {
            verdict: Verdict::Silent,
            reason: format!(
                "none sent: all {} withheld for want of consent",
                sent.withheld
            ),
            threshold: at_least(SILENT_EXPECTED, "withheld, and nothing sent"),
        };
    }
    for (what, (part, whole), limit) in [
        ("of the requests failed", requests, DEGRADED_REQUESTS),
        (given_up, ended, DEGRADED_GIVEN_UP),
    ] {
        if let Some(judgement) = reached(Verdict::Degraded, what, (part, whole), limit) {
            return judgement;
        }
    }
    match (sent.waiting_ms, sent.delivered_p95_ms) {
        (Some(ms), _) if ms >= DEGRADED_WAITING_MS => Judgement {
            verdict: Verdict::Degraded,
            reason: format!(
                "{} wait, the oldest for {}",
                sent.pending,
                duration(ms as f64)
            ),
            threshold: Some(format!("{} or more", duration(DEGRADED_WAITING_MS as f64))),
        },
        (_, Some(ms)) if ms >= DEGRADED_DELIVERED_MS => Judgement {
            verdict: Verdict::Degraded,
            reason: format!("delivered after {} at p95", duration(ms)),
            threshold: Some(format!("{} or more", duration(DEGRADED_DELIVERED_MS))),
        },
        _ if sent.turns == 0 => healthy("nothing to deliver"),
        _ => healthy("delivering"),
    }
}

fn reached(
    verdict: Verdict,
    what: &str,
    (part, whole): (u64, u64),
    limit: f64,
) -> Option<Judgement> {
    let share = share(part, whole);
    (share >= limit).then(|| Judgement {
        verdict,
        reason: format!("{} {what} ({part} of {whole})", percent(share)),
        threshold: Some(format!("{} or more", percent(limit))),
    })
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn healthy(reason: &str) -> Judgement {
    Judgement {
        verdict: Verdict::Healthy,
        reason: reason.to_owned(),
        threshold: None,
    }
}

/// `12.3 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Counts {
        Counts {
            received: 100,
            accepted: 100,
            expected: 100.0,
            ..Counts::default()
        }
    }

    #[test]
    fn each_limit_decides_from_its_value_on() {
        let verdict = |counts: Counts| judge(&counts).verdict;
        use Verdict::{Degraded, Failing, Healthy, Silent};
        assert_eq!(verdict(counts()), Healthy);
        assert_eq!(
            verdict(Counts {
                rejected: 1,
                ..counts()
            }),
            Degraded
        );
        assert_eq!(
            verdict(Counts {
                rejected: 19,
                ..counts()
            }),
            Degraded
        );
        assert_eq!(
            verdict(Counts {
                rejected: 20,
                ..counts()
            }),
            Failing
        );
        assert_eq!(
            verdict(Counts {
                late: 9,
                ..counts()
            }),
            Healthy
        );
        assert_eq!(
            verdict(Counts {
                late: 10,
                ..counts()
            }),
            Degraded
        );
        assert_eq!(
            verdict(Counts {
                clock_ahead: 10,
                ..counts()
            }),
            Degraded
        );
        assert_eq!(
            verdict(Counts {
                numbers: Some((96, 4)),
                ..counts()
            }),
            Healthy
        );
        assert_eq!(
            verdict(Counts {
                numbers: Some((95, 5)),
                ..counts()
            }),
            Degraded
        );
        assert_eq!(
            verdict(Counts {
                queryable_p95_ms: Some(59_999.0),
                ..counts()
            }),
            Healthy
        );
        assert_eq!(
            verdict(Counts {
                queryable_p95_ms: Some(60_000.0),
                ..counts()
            }),
            Degraded
        );
        assert_eq!(
            verdict(Counts {
                received: 0,
                expected: 5.0,
                ..counts()
            }),
            Silent
        );
        assert_eq!(
            verdict(Counts {
                received: 0,
                expected: 4.9,
                ..counts()
            }),
            Healthy
        );
    }

    #[test]
    fn duplicates_are_judged_by_what_is_usual_for_the_sender() {
        let judged = |duplicate, before| {
            judge(&Counts {
                duplicate,
                before,
                ..counts()
            })
        };
        assert_eq!(judged(50, (100, 50)).verdict, Verdict::Healthy);
        assert_eq!(judged(50, (19, 0)).verdict, Verdict::Healthy);
        assert_eq!(judged(19, (100, 0)).verdict, Verdict::Healthy);
        let more = judged(20, (100, 0));
        assert_eq!(
            (more.verdict, more.reason.as_str()),
            (Verdict::Degraded, "20.0 % duplicates, 0.0 % before")
        );
    }

    #[test]
    fn each_limit_of_deliveries_decides_from_its_value_on() {
        use Verdict::{Degraded, Failing, Healthy, Silent};
        let fine = Sent {
            turns: 100,
            attempts: 100,
            delivered: 100,
            expected: 100,
            ..Sent::default()
        };
        let given_up = |given_up| Sent {
            given_up,
            delivered: 100 - given_up,
            ..fine
        };
        let none = Sent {
            expected: 4,
            ..Sent::default()
        };
        let withheld = |withheld| Sent {
            turns: withheld,
            withheld,
            ..none
        };
        for (sent, verdict) in [
            (fine, Healthy),
            (Sent { failed: 4, ..fine }, Healthy),
            (Sent { failed: 5, ..fine }, Degraded),
            (Sent { failed: 49, ..fine }, Degraded),
            (Sent { failed: 50, ..fine }, Failing),
            (given_up(1), Degraded),
            (given_up(19), Degraded),
            (given_up(20), Failing),
            (none, Healthy),
            (
                Sent {
                    expected: 5,
                    ..none
                },
                Silent,
            ),
            (withheld(4), Healthy),
            (withheld(5), Silent),
            (
                Sent {
                    withheld: 50,
                    ..fine
                },
                Healthy,
            ),
            (
                Sent {
                    waiting_ms: Some(3_599_999),
                    ..fine
                },
                Healthy,
            ),
            (
                Sent {
                    waiting_ms: Some(3_600_000),
                    ..fine
                },
                Degraded,
            ),
            (
                Sent {
                    delivered_p95_ms: Some(299_999.0),
                    ..fine
                },
                Healthy,
            ),
            (
                Sent {
                    delivered_p95_ms: Some(300_000.0),
                    ..fine
                },
                Degraded,
            ),
            (
                Sent {
                    disabled: Some("disabled"),
                    ..fine
                },
                Failing,
            ),
        ] {
            assert_eq!(judge_sent(&sent).verdict, verdict, "{sent:?}");
        }
        let judged = judge_sent(&Sent { failed: 50, ..fine });
        assert_eq!(judged.reason, "50.0 % of the requests failed (50 of 100)");
        assert_eq!(judged.threshold.as_deref(), Some("50.0 % or more"));
    }

    #[test]
    fn a_verdict_names_what_it_found_and_its_limit() {
        let judged = judge(&Counts {
            rejected: 25,
            ..counts()
        });
        assert_eq!(judged.reason, "25.0 % rejected (25 of 100)");
        assert_eq!(judged.threshold.as_deref(), Some("20.0 % or more"));
    }
}

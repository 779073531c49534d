//! Tenant health: is what this tenant sends really arriving?

use chatpulse_store::{
    BrowserLoss, GapCount, NameHealth, Rejected, RejectionCount, Store, StoreError,
    TypeHealth as TypeRow, Window,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::period::{Period, Span, timestamp};
use crate::verdict::{Counts, Judgement, Verdict, judge};

/// How many rejections are listed.
const RECENT_REJECTIONS: u32 = 20;
/// A name counts as vanished where the baseline had at least this many.
const VANISHED_FROM: u64 = 5;

/// The health report of one tenant.
#[derive(Debug, Clone, Serialize)]
pub struct TenantHealth {
    /// Tenant.
    pub tenant: String,
    /// Events received in it are counted.
    pub window: Span,
    /// Events received in it say what was to be expected.
    pub baseline: Span,
    /// The worst of the sources.
    pub judgement: Judgement,
    /// Per source, by name.
    pub sources: Vec<SourceHealth>,
    /// Per source and neutral type, by name. Rejected records have the type `unknown`.
    pub types: Vec<TypeHealth>,
    /// Event names that came, went, or are not documented.
    pub drift: Drift,
    /// Rejections by source and reason, most first.
    pub rejections: Vec<RejectionCount>,
    /// The newest rejections, newest first.
    pub recent_rejections: Vec<Rejected>,
}

/// Delivery of one source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceHealth {
    /// Source.
    pub source: String,
    /// accepted + duplicate + rejected.
    pub received: u64,
    /// First of its event id.
    pub accepted: u64,
    /// Further copies.
    pub duplicate: u64,
    /// Refused.
    pub rejected: u64,
    /// Numbers lost in page sessions; none where no page numbers its events.
    pub lost_in_browser: Option<u64>,
    /// Messages that the vendor counted and we did not see; none where it does not count them.
    pub missing_messages: Option<i64>,
    /// The verdict.
    pub judgement: Judgement,
}

/// Delivery of one event type of one source.
#[derive(Debug, Clone, Serialize)]
pub struct TypeHealth {
    /// Source.
    pub source: String,
    /// Neutral type.
    pub event_type: String,
    /// accepted + duplicate + rejected.
    pub received: u64,
    /// First of its event id.
    pub accepted: u64,
    /// Further copies.
    pub duplicate: u64,
    /// Refused.
    pub rejected: u64,
    /// Accepted ones that occurred more than 5 min before they were received.
    pub late: u64,
    /// Minute of the last receipt, in window or baseline.
    pub last_received: Timestamp,
    /// Occurred to received; none where no event tells its own time.
    pub receive_ms: Option<Percentiles>,
    /// Received to queryable; none without an accepted event.
    pub queryable_ms: Option<Percentiles>,
    /// The verdict.
    pub judgement: Judgement,
}

/// Milliseconds, at most 1 % off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Event names whose coming or going deserves a look.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Drift {
    /// Received, and not in the source definition.
    pub undocumented: Vec<NameHealth>,
    /// Documented, received in the window, and not in the baseline, though the source was.
    pub appeared: Vec<NameHealth>,
    /// Received in the baseline and not in the window, though the source was.
    pub vanished: Vec<NameHealth>,
}

/// Asks the store and judges.
pub async fn tenant_health(
    store: &Store,
    tenant: &str,
    period: Period,
) -> Result<TenantHealth, StoreError> {
    let (window, baseline) = (period.window(), period.baseline());
    let (types, names, losses, gaps, rejections, recent_rejections) = tokio::try_join!(
        store.type_health(tenant, window, baseline),
        store.name_health(tenant, window, baseline),
        store.browser_loss(tenant, window),
        store.message_gaps(tenant, window),
        store.rejections_by_reason(tenant, window),
        store.recent_rejections(tenant, window, RECENT_REJECTIONS),
    )?;
    let scale = length(window) / length(baseline);
    let sources = sources(&types, &losses, &gaps, scale);
    Ok(TenantHealth {
        tenant: tenant.to_owned(),
        window: window.into(),
        baseline: baseline.into(),
        judgement: overall(&sources),
        drift: drift(names, &sources),
        sources,
        types: types
            .into_iter()
            .map(|row| type_health(row, scale))
            .collect(),
        rejections,
        recent_rejections,
    })
}

fn length(window: Window) -> f64 {
    (window.until_ms - window.since_ms) as f64
}

fn overall(sources: &[SourceHealth]) -> Judgement {
    match sources.iter().max_by_key(|source| source.judgement.verdict) {
        None => Judgement {
            verdict: Verdict::Silent,
            reason: "nothing received, now or before: is the snippet on the page, with this tenant's write key?"
                .to_owned(),
            threshold: Some("at least one event".to_owned()),
        },
        Some(worst) => Judgement {
            reason: format!("{}: {}", worst.source, worst.judgement.reason),
            ..worst.judgement.clone()
        },
    }
}

fn sources(
    types: &[TypeRow],
    losses: &[BrowserLoss],
    gaps: &[GapCount],
    scale: f64,
) -> Vec<SourceHealth> {
    types
        .chunk_by(|a, b| a.source == b.source)
        .map(|rows| {
            let source = &rows[0].source;
            let sum = |count: fn(&TypeRow) -> u64| rows.iter().map(count).sum::<u64>();
            let loss = losses.iter().find(|loss| loss.source == *source);
            let gap = gaps.iter().find(|gap| gap.source == *source);
            let counts = Counts {
                received: sum(|row| row.received),
                accepted: sum(|row| row.accepted),
                rejected: sum(|row| row.rejected),
                late: sum(|row| row.late),
                clock_ahead: sum(|row| row.clock_ahead),
                // The slowest type stands for the source: percentiles of percentiles there are none.
                queryable_p95_ms: rows
                    .iter()
                    .filter_map(|row| percentiles(&row.queryable_ms))
                    .map(|p| p.p95)
                    .reduce(f64::max),
                numbers: loss.map(|loss| (loss.arrived, loss.lost)),
                expected: sum(|row| row.baseline_received) as f64 * scale,
            };
            SourceHealth {
                source: source.clone(),
                received: counts.received,
                accepted: counts.accepted,
                duplicate: sum(|row| row.duplicate),
                rejected: counts.rejected,
                lost_in_browser: loss.map(|loss| loss.lost),
                missing_messages: gap.map(|gap| gap.missing),
                judgement: judge(&counts),
            }
        })
        .collect()
}

fn type_health(row: TypeRow, scale: f64) -> TypeHealth {
    let queryable = percentiles(&row.queryable_ms);
    let judgement = judge(&Counts {
        received: row.received,
        accepted: row.accepted,
        rejected: row.rejected,
        late: row.late,
        clock_ahead: row.clock_ahead,
        queryable_p95_ms: queryable.map(|p| p.p95),
        numbers: None,
        // That rejections stop is no silence.
        expected: if row.event_type == "unknown" {
            0.0
        } else {
            row.baseline_received as f64 * scale
        },
    });
    TypeHealth {
        source: row.source,
        event_type: row.event_type,
        received: row.received,
        accepted: row.accepted,
        duplicate: row.duplicate,
        rejected: row.rejected,
        late: row.late,
        last_received: timestamp(row.last_received_ms),
        receive_ms: percentiles(&row.receive_ms),
        queryable_ms: queryable,
        judgement,
    }
}

fn percentiles(values: &[f64]) -> Option<Percentiles> {
    match *values {
        [p50, p95, p99] => Some(Percentiles { p50, p95, p99 }),
        _ => None,
    }
}

fn drift(names: Vec<NameHealth>, sources: &[SourceHealth]) -> Drift {
    let mut drift = Drift::default();
    let known_before: Vec<String> = names
        .iter()
        .filter(|name| name.baseline_received > 0)
        .map(|name| name.source.clone())
        .collect();
    for name in names {
        let source_came = sources
            .iter()
            .any(|source| source.source == name.source && source.received > 0);
        let source_was = known_before.contains(&name.source);
        if name.received > 0 && !name.documented {
            drift.undocumented.push(name);
        } else if name.received > 0 && name.baseline_received == 0 && source_was {
            drift.appeared.push(name);
        } else if name.received == 0 && name.baseline_received >= VANISHED_FROM && source_came {
            drift.vanished.push(name);
        }
    }
    drift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, event_type: &str, received: u64) -> TypeRow {
        TypeRow {
            source: source.into(),
            event_type: event_type.into(),
            received,
            accepted: received,
            duplicate: 0,
            rejected: 0,
            late: 0,
            clock_ahead: 0,
            receive_ms: vec![],
            queryable_ms: vec![10.0, 20.0, 30.0],
            last_received_ms: 0,
            baseline_received: 700,
        }
    }

    #[test]
    fn a_source_is_judged_over_its_types_and_the_tenant_by_its_worst_source() {
        let rejected = TypeRow {
            accepted: 0,
            rejected: 30,
            ..row("b", "unknown", 30)
        };
        let types = [
            row("a", "widget.opened", 5),
            row("b", "widget.opened", 70),
            rejected,
        ];
        let judged = sources(&types, &[], &[], 1.0 / 7.0);
        assert_eq!(judged[0].judgement.verdict, Verdict::Healthy);
        assert_eq!((judged[1].received, judged[1].rejected), (100, 30));
        let overall = overall(&judged);
        assert_eq!(
            (overall.verdict, overall.reason.as_str()),
            (Verdict::Failing, "b: 30.0 % rejected")
        );
    }

    #[test]
    fn a_tenant_of_which_nothing_is_known_is_silent() {
        assert_eq!(overall(&[]).verdict, Verdict::Silent);
    }

    #[test]
    fn a_type_that_stopped_is_silent_and_rejections_that_stopped_are_not() {
        assert_eq!(
            type_health(row("a", "widget.opened", 0), 0.1)
                .judgement
                .verdict,
            Verdict::Silent
        );
        assert_eq!(
            type_health(row("a", "unknown", 0), 0.1).judgement.verdict,
            Verdict::Healthy
        );
    }

    #[test]
    fn losses_that_cannot_be_seen_are_none_and_not_zero() {
        let [judged] = &sources(&[row("a", "widget.opened", 5)], &[], &[], 1.0)[..] else {
            panic!()
        };
        assert_eq!(
            (judged.lost_in_browser, judged.missing_messages),
            (None, None)
        );
    }

    #[test]
    fn drift_needs_a_source_that_is_there_before_and_after() {
        let name = |source: &str, name: &str, received, baseline_received| NameHealth {
            source: source.into(),
            source_event: name.into(),
            documented: !name.starts_with("odd"),
            received,
            baseline_received,
            last_received_ms: 0,
        };
        let names = vec![
            name("a", "kept", 1, 9),
            name("a", "new", 1, 0),
            name("a", "odd one", 1, 0),
            name("a", "gone", 0, 5),
            name("a", "rare and gone", 0, 4),
            name("fresh", "new", 1, 0),
            name("stopped", "gone", 0, 9),
        ];
        let sources = sources(
            &[
                row("a", "x", 3),
                row("fresh", "x", 1),
                row("stopped", "x", 0),
            ],
            &[],
            &[],
            1.0,
        );
        let drift = drift(names, &sources);
        let names = |of: &[NameHealth]| {
            of.iter()
                .map(|n| format!("{} {}", n.source, n.source_event))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&drift.undocumented), ["a odd one"]);
        assert_eq!(names(&drift.appeared), ["a new"]);
        assert_eq!(names(&drift.vanished), ["a gone"]);
    }
}

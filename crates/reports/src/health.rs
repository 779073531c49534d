//! Tenant health: is what this tenant sends really arriving?

use chatpulse_model::EventType;
use chatpulse_model::source::Catalog;
use chatpulse_store::{
    BrowserLoss, GapCount, HealthPoint, HealthRow, KeyHealth, NameHealth, StoreError, TypeBaseline,
    Unit, Window,
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;
use crate::deliveries::Outgoing;
use crate::failures::{Failure, Reason};
use crate::period::{Period, Span, timestamp, unit_schema};
use crate::twins::{Twins, twins};
use crate::verdict::{Counts, Judgement, Verdict, judge};

/// How many rejections are listed.
const RECENT_REJECTIONS: u32 = 20;
/// A name counts as vanished where the baseline had at least this many.
const VANISHED_FROM: u64 = 5;
/// A key is judged where so many events of its type came, now and before.
const KEY_FROM: u64 = 20;
/// Most events have a key from this share on.
const KEY_USUAL: f64 = 0.5;
/// Hardly an event has a key up to this share.
const KEY_RARE: f64 = 0.02;

/// The health report of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TenantHealth {
    /// Tenant.
    pub tenant: String,
    /// Events received in it are counted.
    pub window: Span,
    /// The unit of the series, at whose start the window begins.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// Events received in it say what was to be expected.
    pub baseline: Span,
    /// The worst of the sources.
    pub judgement: Judgement,
    /// All sources together.
    pub total: Delivery,
    /// Per source, by name.
    pub sources: Vec<SourceHealth>,
    /// Per source and neutral type, by name. A rejected record counts with the type that its name
    /// stands for in the source's definition; those without such a name have the type `unknown`.
    pub types: Vec<TypeHealth>,
    /// Delivery over time per source; a unit in which nothing came has no point.
    pub series: Vec<Point>,
    /// Event names that came, went, or are not documented.
    pub drift: Drift,
    /// Rejections by source and reason, most first.
    pub rejections: Vec<Reason>,
    /// The newest rejections, newest first, without their content.
    pub recent_rejections: Vec<Failure>,
    /// Events that come both from the page and from the vendor's server, reconciled; null where no event type
    /// is known to come both ways.
    pub twins: Option<Twins>,
    /// Deliveries of the tenant's events to its own receivers; null where it has none. Judged apart.
    pub deliveries: Option<Outgoing>,
}

/// What was received, and how fast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Delivery {
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
    /// Accepted ones that occurred, by their own clock, after they were received.
    pub clock_ahead: u64,
    /// Start of the unit of the last receipt, in window or baseline; null where nothing ever came.
    pub last_received: Option<Timestamp>,
    /// Occurred to received; null where no event tells its own time.
    pub receive_ms: Option<Percentiles>,
    /// Received to queryable; null without an accepted event.
    pub queryable_ms: Option<Percentiles>,
}

/// Delivery of one source.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SourceHealth {
    /// Source.
    pub source: String,
    /// All its types together.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Page sessions that number their events; null where none does.
    pub sessions: Option<u64>,
    /// Numbers lost in page sessions (sequence gaps); null where no page numbers its events.
    pub lost_in_browser: Option<u64>,
    /// Messages that the vendor counted and we did not see (message gap), of the conversations that
    /// started in the window; null where it does not count them.
    pub missing_messages: Option<i64>,
    /// The verdict.
    pub judgement: Judgement,
}

/// Delivery of one event type of one source.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TypeHealth {
    /// Source.
    pub source: String,
    /// Neutral type.
    pub event_type: String,
    /// What came.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Received in the baseline.
    pub baseline_received: u64,
    /// The verdict.
    pub judgement: Judgement,
}

/// One unit of time of one source.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = SourcePoint)]
pub struct Point {
    /// Start of the unit.
    pub at: Timestamp,
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
    /// Accepted ones that occurred more than 5 min before they were received.
    pub late: u64,
    /// Occurred to received; null where no event tells its own time.
    pub receive_ms: Option<Percentiles>,
    /// Received to queryable; null without an accepted event.
    pub queryable_ms: Option<Percentiles>,
}

/// Milliseconds, at most 1 % off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Percentiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Event names whose coming or going deserves a look, of the documented and the most frequent 1,000
/// names: whoever has a page's write key can invent names without end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Drift {
    /// Received, and not in the source definition.
    pub undocumented: Vec<Name>,
    /// Documented, received in the window, and not in the baseline, though the source was.
    pub appeared: Vec<Name>,
    /// Received in the baseline and not in the window, though the source was.
    pub vanished: Vec<Name>,
    /// Keys that most events of a type had, by days, and now hardly one has: most often the page calls
    /// them something else now. Names that no definition knows are dropped unread, so the new one is not
    /// told.
    pub vanished_keys: Vec<Key>,
    /// Keys that hardly an event of a type had and most have now.
    pub appeared_keys: Vec<Key>,
}

/// A key of the events of a type.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Key {
    /// Source.
    pub source: String,
    /// Neutral type.
    pub event_type: String,
    /// Field of an event, or `properties.<name>`.
    pub key: String,
    /// Share of the accepted events of the type that had it, from 0 to 1.
    pub share: f64,
    /// Its share in the baseline.
    pub baseline_share: f64,
}

/// A vendor's event name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EventName)]
pub struct Name {
    /// Source.
    pub source: String,
    /// The vendor's event name.
    pub source_event: String,
    /// Whether the source definition has it.
    pub documented: bool,
    /// Received in the window.
    pub received: u64,
    /// Of these rejected.
    pub rejected: u64,
    /// Received in the baseline.
    pub baseline_received: u64,
    /// Start of the unit of the last receipt.
    pub last_received: Timestamp,
}

impl From<NameHealth> for Name {
    fn from(name: NameHealth) -> Name {
        Name {
            source: name.source,
            source_event: name.source_event,
            documented: name.documented,
            received: name.received,
            rejected: name.rejected,
            baseline_received: name.baseline_received,
            last_received: timestamp(name.last_received_ms),
        }
    }
}

impl Reports {
    /// Asks the store how delivery of the tenant does in the period, and judges.
    pub async fn tenant_health(
        &self,
        tenant: &str,
        period: Period,
    ) -> Result<TenantHealth, StoreError> {
        let (store, span, baseline) = (&self.store, period.delivery(), period.baseline());
        let window = span.window;
        let (key_span, key_baseline) = period.keys();
        let (
            health,
            (before, names),
            keys,
            losses,
            gaps,
            rejections,
            recent_rejections,
            twin_counts,
            deliveries,
        ) = tokio::try_join!(
            store.health(tenant, span),
            store.expected(tenant, span, baseline),
            store.key_health(tenant, key_span, key_baseline),
            store.browser_loss(tenant, window),
            store.message_gaps(tenant, period.cohorts()),
            store.rejections_by_reason(tenant, span),
            store.recent_rejections(tenant, window, (None, RECENT_REJECTIONS)),
            store.twins(tenant, window),
            self.outgoing(tenant, period),
        )?;
        let found = Found {
            rows: health.rows,
            before,
            losses,
            gaps,
            scale: length(window) / length(baseline.window),
        };
        let sources = sources(&found);
        Ok(TenantHealth {
            tenant: tenant.to_owned(),
            window: window.into(),
            unit: span.unit,
            baseline: baseline.window.into(),
            judgement: overall(&sources),
            total: total(&found),
            types: types(&found, &rejected_types(&names, self.catalog)),
            drift: Drift {
                vanished_keys: changed(&keys, Change::Vanished),
                appeared_keys: changed(&keys, Change::Appeared),
                ..drift(names, &sources)
            },
            sources,
            series: health.points.into_iter().map(Point::from).collect(),
            rejections: rejections.into_iter().map(Reason::from).collect(),
            recent_rejections: recent_rejections.into_iter().map(Failure::from).collect(),
            twins: twins(&twin_counts),
            deliveries,
        })
    }
}

/// What the store says, to be judged.
struct Found {
    rows: Vec<HealthRow>,
    before: Vec<TypeBaseline>,
    losses: Vec<BrowserLoss>,
    gaps: Vec<GapCount>,
    /// Length of the window ÷ length of the baseline.
    scale: f64,
}

/// Rejected records by the type that their name stands for.
struct RejectedType {
    source: String,
    event_type: EventType,
    rejected: u64,
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

fn total(found: &Found) -> Delivery {
    let last = found.before.iter().map(|row| row.last_received_ms).max();
    let row = found.rows.iter().find(|row| row.source.is_none());
    delivery(row, last)
}

/// Names of `a` and `b`, sorted, each once.
fn merged<'a, K: Ord + 'a>(a: impl Iterator<Item = K>, b: impl Iterator<Item = K>) -> Vec<K> {
    let mut keys: Vec<K> = a.chain(b).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn sources(found: &Found) -> Vec<SourceHealth> {
    let now = found.rows.iter().filter_map(|row| row.source.as_deref());
    let before = found.before.iter().map(|row| row.source.as_str());
    merged(now, before)
        .into_iter()
        .map(|source| {
            let row = found
                .rows
                .iter()
                .find(|row| row.source.as_deref() == Some(source) && row.event_type.is_none());
            let before = || found.before.iter().filter(|row| row.source == source);
            let loss = found.losses.iter().find(|loss| loss.source == source);
            let gap = found.gaps.iter().find(|gap| gap.source == source);
            let delivery = delivery(row, before().map(|row| row.last_received_ms).max());
            let counts = Counts {
                numbers: loss.map(|loss| (loss.arrived, loss.lost)),
                ..counts(&delivery, before(), found.scale)
            };
            SourceHealth {
                source: source.to_owned(),
                sessions: loss.map(|loss| loss.sessions),
                lost_in_browser: loss.map(|loss| loss.lost),
                missing_messages: gap.map(|gap| gap.missing),
                judgement: judge(&counts),
                delivery,
            }
        })
        .collect()
}

fn types(found: &Found, rejected: &[RejectedType]) -> Vec<TypeHealth> {
    let unknown = EventType::Unknown.as_str();
    let now = found
        .rows
        .iter()
        .filter_map(|row| Some((row.source.as_deref()?, row.event_type.as_deref()?)));
    let before = found
        .before
        .iter()
        .map(|row| (row.source.as_str(), row.event_type.as_str()));
    let named = rejected
        .iter()
        .map(|of| (of.source.as_str(), of.event_type.as_str()));
    merged(now.chain(named), before)
        .into_iter()
        .filter_map(|(source, event_type)| {
            let is_unknown = event_type == unknown;
            let row = found.rows.iter().find(|row| {
                row.source.as_deref() == Some(source)
                    && row.event_type.as_deref() == Some(event_type)
            });
            let before = || {
                found
                    .before
                    .iter()
                    .filter(|row| row.source == source && row.event_type == event_type)
            };
            let mut delivery = delivery(row, before().map(|row| row.last_received_ms).max());
            let known: u64 = rejected
                .iter()
                .filter(|of| of.source == source)
                .filter(|of| is_unknown || of.event_type.as_str() == event_type)
                .map(|of| of.rejected)
                .sum();
            let counts = if is_unknown {
                delivery.received = delivery.received.saturating_sub(known);
                delivery.rejected = delivery.rejected.saturating_sub(known);
                // What tells no type is judged by its share of all that the source sent, and that it
                // stops is no silence.
                let of_source = found
                    .rows
                    .iter()
                    .find(|row| row.source.as_deref() == Some(source) && row.event_type.is_none());
                Counts {
                    received: of_source.map_or(0, |row| row.received),
                    rejected: delivery.rejected,
                    ..Counts::default()
                }
            } else {
                delivery.received += known;
                delivery.rejected += known;
                counts(&delivery, before(), found.scale)
            };
            if is_unknown && delivery.received == 0 {
                return None;
            }
            let mut judgement = judge(&counts);
            if is_unknown && judgement.verdict == Verdict::Healthy {
                judgement.reason = format!(
                    "{} of {} that the source sent were refused and name no known type",
                    delivery.rejected, counts.received
                );
            }
            Some(TypeHealth {
                source: source.to_owned(),
                event_type: event_type.to_owned(),
                baseline_received: before().map(|row| row.received).sum(),
                judgement,
                delivery,
            })
        })
        .collect()
}

fn delivery(row: Option<&HealthRow>, before_ms: Option<i64>) -> Delivery {
    let last = row.map(|row| row.last_received_ms).or(before_ms);
    let mut delivery = row.map_or_else(Delivery::default, |row| Delivery {
        received: row.received,
        accepted: row.accepted,
        duplicate: row.duplicate,
        rejected: row.rejected,
        late: row.late,
        clock_ahead: row.clock_ahead,
        last_received: None,
        receive_ms: percentiles(&row.receive_ms),
        queryable_ms: percentiles(&row.queryable_ms),
    });
    delivery.last_received = last.map(timestamp);
    delivery
}

fn counts<'a>(
    delivery: &Delivery,
    before: impl Iterator<Item = &'a TypeBaseline>,
    scale: f64,
) -> Counts {
    let before = before.fold((0, 0), |(received, duplicate), row| {
        (received + row.received, duplicate + row.duplicate)
    });
    Counts {
        received: delivery.received,
        accepted: delivery.accepted,
        duplicate: delivery.duplicate,
        rejected: delivery.rejected,
        late: delivery.late,
        clock_ahead: delivery.clock_ahead,
        queryable_p95_ms: delivery.queryable_ms.map(|ms| ms.p95),
        numbers: None,
        expected: before.0 as f64 * scale,
        before,
    }
}

pub(crate) fn percentiles(values: &[f64]) -> Option<Percentiles> {
    match *values {
        [p50, p95, p99] => Some(Percentiles { p50, p95, p99 }),
        _ => None,
    }
}

impl From<HealthPoint> for Point {
    fn from(point: HealthPoint) -> Point {
        Point {
            at: timestamp(point.at_ms),
            received: point.received,
            accepted: point.accepted,
            duplicate: point.duplicate,
            rejected: point.rejected,
            late: point.late,
            receive_ms: percentiles(&point.receive_ms),
            queryable_ms: percentiles(&point.queryable_ms),
            source: point.source,
        }
    }
}

/// Which types the rejected names stand for, where the source's definition knows them.
fn rejected_types(names: &[NameHealth], catalog: &Catalog) -> Vec<RejectedType> {
    let mut types: Vec<RejectedType> = Vec::new();
    for name in names.iter().filter(|name| name.rejected > 0) {
        let Some(event_type) = catalog
            .get(&name.source)
            .and_then(|definition| definition.events().get(&name.source_event))
            .map(|event| event.event_type)
        else {
            continue;
        };
        match types
            .iter_mut()
            .find(|of| of.source == name.source && of.event_type == event_type)
        {
            Some(of) => of.rejected += name.rejected,
            None => types.push(RejectedType {
                source: name.source.clone(),
                event_type,
                rejected: name.rejected,
            }),
        }
    }
    types
}

pub(crate) fn drift(names: Vec<NameHealth>, sources: &[SourceHealth]) -> Drift {
    let mut drift = Drift::default();
    let known_before: Vec<String> = names
        .iter()
        .filter(|name| name.baseline_received > 0)
        .map(|name| name.source.clone())
        .collect();
    for name in names {
        let source_came = sources
            .iter()
            .any(|source| source.source == name.source && source.delivery.received > 0);
        let source_was = known_before.contains(&name.source);
        if name.received > 0 && !name.documented {
            drift.undocumented.push(name.into());
        } else if name.received > 0 && name.baseline_received == 0 && source_was {
            drift.appeared.push(name.into());
        } else if name.received == 0 && name.baseline_received >= VANISHED_FROM && source_came {
            drift.vanished.push(name.into());
        }
    }
    drift
}

/// What became of a key.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    Vanished,
    Appeared,
}

fn changed(keys: &[KeyHealth], change: Change) -> Vec<Key> {
    keys.iter()
        .filter(|key| key.events.min(key.baseline_events) >= KEY_FROM)
        .map(|key| Key {
            source: key.source.clone(),
            event_type: key.event_type.clone(),
            key: key.key.clone(),
            share: key.with_key as f64 / key.events as f64,
            baseline_share: key.baseline_with_key as f64 / key.baseline_events as f64,
        })
        .filter(|key| match change {
            Change::Vanished => key.share <= KEY_RARE && key.baseline_share >= KEY_USUAL,
            Change::Appeared => key.share >= KEY_USUAL && key.baseline_share <= KEY_RARE,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, event_type: Option<&str>, received: u64) -> HealthRow {
        HealthRow {
            source: Some(source.into()),
            event_type: event_type.map(str::to_owned),
            received,
            accepted: received,
            duplicate: 0,
            rejected: 0,
            late: 0,
            clock_ahead: 0,
            receive_ms: vec![],
            queryable_ms: vec![10.0, 20.0, 30.0],
            last_received_ms: 0,
        }
    }

    fn refused(source: &str, event_type: Option<&str>, received: u64, rejected: u64) -> HealthRow {
        HealthRow {
            accepted: received - rejected,
            rejected,
            ..row(source, event_type, received)
        }
    }

    fn before(source: &str, event_type: &str, received: u64) -> TypeBaseline {
        TypeBaseline {
            source: source.into(),
            event_type: event_type.into(),
            received,
            duplicate: 0,
            last_received_ms: 0,
        }
    }

    fn found(rows: Vec<HealthRow>, before: Vec<TypeBaseline>) -> Found {
        Found {
            rows,
            before,
            losses: vec![],
            gaps: vec![],
            scale: 1.0 / 7.0,
        }
    }

    #[test]
    fn the_tenant_is_judged_by_its_worst_source() {
        let judged = sources(&found(
            vec![row("a", None, 5), refused("b", None, 100, 30)],
            vec![before("a", "widget.opened", 7)],
        ));
        assert_eq!(judged[0].judgement.verdict, Verdict::Healthy);
        let overall = overall(&judged);
        assert_eq!(
            (overall.verdict, overall.reason.as_str()),
            (Verdict::Failing, "b: 30.0 % rejected (30 of 100)")
        );
    }

    #[test]
    fn a_tenant_of_which_nothing_is_known_is_silent() {
        assert_eq!(overall(&[]).verdict, Verdict::Silent);
    }

    #[test]
    fn a_type_that_stopped_is_silent_and_rejections_that_stopped_are_not() {
        let judged = types(
            &found(
                vec![row("a", None, 9), row("a", Some("widget.closed"), 9)],
                vec![
                    before("a", "unknown", 700),
                    before("a", "widget.closed", 63),
                    before("a", "widget.opened", 700),
                ],
            ),
            &[],
        );
        let verdicts: Vec<_> = judged
            .iter()
            .map(|t| (t.event_type.as_str(), t.judgement.verdict))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("widget.closed", Verdict::Healthy),
                ("widget.opened", Verdict::Silent)
            ]
        );
    }

    #[test]
    fn a_rejection_counts_with_the_type_of_its_name_and_the_rest_by_its_share_of_the_source() {
        let found = found(
            vec![
                refused("a", None, 1_000, 10),
                refused("a", Some("unknown"), 10, 10),
                row("a", Some("widget.opened"), 12),
                row("a", Some("widget.closed"), 978),
            ],
            vec![],
        );
        let rejected = [RejectedType {
            source: "a".into(),
            event_type: EventType::WidgetOpened,
            rejected: 4,
        }];
        let judged = types(&found, &rejected);
        let of = |name: &str| judged.iter().find(|t| t.event_type == name).unwrap();
        assert_eq!(of("widget.opened").delivery.received, 16);
        assert_eq!(
            of("widget.opened").judgement.reason,
            "25.0 % rejected (4 of 16)"
        );
        assert_eq!(of("unknown").delivery.received, 6);
        assert_eq!(of("unknown").judgement.verdict, Verdict::Healthy);
        assert_eq!(
            of("unknown").judgement.reason,
            "6 of 1000 that the source sent were refused and name no known type"
        );
        assert_eq!(of("widget.closed").judgement.verdict, Verdict::Healthy);
        let received: u64 = judged.iter().map(|t| t.delivery.received).sum();
        assert_eq!(received, 1_000);
    }

    #[test]
    fn losses_that_cannot_be_seen_are_none_and_not_zero() {
        let [judged] = &sources(&found(vec![row("a", None, 5)], vec![]))[..] else {
            panic!()
        };
        assert_eq!(
            (judged.lost_in_browser, judged.missing_messages),
            (None, None)
        );
    }

    #[test]
    fn a_key_that_most_events_had_and_hardly_one_has_now_has_vanished() {
        let key = |key: &str, (events, with_key), (baseline_events, baseline_with_key)| KeyHealth {
            source: "a".into(),
            event_type: "message.sent".into(),
            key: key.into(),
            events,
            with_key,
            baseline_events,
            baseline_with_key,
        };
        let keys = [
            key("kept", (50, 50), (50, 50)),
            key("gone", (50, 1), (100, 50)),
            key("rarer", (50, 2), (100, 50)),
            key("of few", (19, 0), (100, 100)),
            key("came", (50, 25), (100, 2)),
        ];
        let names = |change| {
            let keys = changed(&keys, change);
            keys.iter().map(|key| key.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(Change::Vanished), ["gone"]);
        assert_eq!(names(Change::Appeared), ["came"]);
        assert_eq!(changed(&keys, Change::Vanished)[0].share, 0.02);
    }

    #[test]
    fn drift_needs_a_source_that_is_there_before_and_after() {
        let name = |source: &str, name: &str, received, baseline_received| NameHealth {
            source: source.into(),
            source_event: name.into(),
            documented: !name.starts_with("odd"),
            received,
            rejected: 0,
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
        let sources = sources(&found(
            vec![row("a", None, 3), row("fresh", None, 1)],
            vec![before("stopped", "x", 9)],
        ));
        let drift = drift(names, &sources);
        let names = |of: &[Name]| {
            of.iter()
                .map(|n| format!("{} {}", n.source, n.source_event))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&drift.undocumented), ["a odd one"]);
        assert_eq!(names(&drift.appeared), ["a new"]);
        assert_eq!(names(&drift.vanished), ["a gone"]);
    }
}

//! Delivery health of one tenant: what was received, per source, event type and vendor's name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{LATENCIES, Span, Unit, Window, brief, figures};
use crate::Store;
use crate::error::StoreError;

/// Delivery of a tenant in a span.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Health {
    /// Of the tenant, of each source, and of each type of each source; none where nothing came.
    pub rows: Vec<HealthRow>,
    /// Over time per source, as of [`Store::health_series`].
    pub points: Vec<HealthPoint>,
}

/// Delivery of one event type of one source, of one source (`event_type` is none), or of the tenant
/// (both are none).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthRow {
    /// Source; none for all together.
    pub source: Option<String>,
    /// Neutral type, `unknown` for rejected records; none for all together.
    pub event_type: Option<String>,
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
    /// Accepted ones whose clock was ahead of ours.
    pub clock_ahead: u64,
    /// Occurred to received, p50, p95 and p99; milliseconds, at most 1 % off; empty where no time
    /// is known.
    pub receive_ms: Vec<f64>,
    /// Received to queryable, p50, p95 and p99; milliseconds, at most 1 % off; empty without an
    /// accepted one.
    pub queryable_ms: Vec<f64>,
    /// Start of the last unit in which something was received.
    pub last_received_ms: i64,
}

/// What came of an event type in a baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeBaseline {
    /// Source.
    pub source: String,
    /// Neutral type.
    pub event_type: String,
    /// accepted + duplicate + rejected.
    pub received: u64,
    /// Further copies.
    pub duplicate: u64,
    /// Start of the last unit in which something was received.
    pub last_received_ms: i64,
}

/// A vendor's event name and how often it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NameHealth {
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
    /// Start of the last unit in which it was received.
    pub last_received_ms: i64,
}

/// One unit of time of one source.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct HealthPoint {
    /// Start of the unit.
    pub at_ms: i64,
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
    /// As in [`HealthRow`].
    pub receive_ms: Vec<f64>,
    /// As in [`HealthRow`].
    pub queryable_ms: Vec<f64>,
}

/// One unit of time of one event type.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct TypePoint {
    /// Start of the unit.
    pub at_ms: i64,
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
    /// As in [`HealthRow`].
    pub receive_ms: Vec<f64>,
    /// As in [`HealthRow`].
    pub queryable_ms: Vec<f64>,
}

/// Losses of one source that show only in numbering: in the browser.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct BrowserLoss {
    /// Source.
    pub source: String,
    /// Page sessions that numbered their events.
    pub sessions: u64,
    /// Distinct numbers that arrived.
    pub arrived: u64,
    /// Numbers missing below the highest of their session.
    pub lost: u64,
}

/// Reported less received messages of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GapCount {
    /// Source.
    pub source: String,
    /// Conversations whose total was reported.
    pub conversations: u64,
    /// Those with more reported than received.
    pub with_gap: u64,
    /// Messages reported and not received, over those.
    pub missing: i64,
}

/// Most event names that a report is told of.
const MAX_NAMES: usize = 1_000;
/// Most types and names of a span that are read, the types first, then the documented names.
const MAX_COUNTED: usize = 5 * MAX_NAMES;
/// Most points of a series.
const MAX_POINTS: u32 = 50_000;

/// A [`HealthRow`], or a [`HealthPoint`] where it has a time.
#[derive(Debug, Row, Deserialize)]
struct HealthSetRow {
    source: Option<String>,
    event_type: Option<String>,
    at_ms: Option<i64>,
    received: u64,
    accepted: u64,
    duplicate: u64,
    rejected: u64,
    late: u64,
    clock_ahead: u64,
    receive_ms: Vec<f64>,
    queryable_ms: Vec<f64>,
    last_received_ms: i64,
}

/// What came of an event type (`source_event` is none), or under a vendor's name.
#[derive(Debug, Row, Deserialize)]
struct CountedRow {
    /// Never none, though its type says so.
    source: Option<String>,
    event_type: Option<String>,
    source_event: Option<String>,
    documented: Option<bool>,
    received: u64,
    rejected: u64,
    duplicate: u64,
    last_received_ms: i64,
}

/// What came in a span.
struct Counted {
    types: Vec<TypeBaseline>,
    names: Names,
}

/// Vendor's names by source, name, and whether it is documented.
struct Names {
    counts: BTreeMap<(String, String, bool), NameCount>,
    /// More names came than are counted here: of the undocumented, an absent one may have come.
    cut: bool,
}

#[derive(Clone, Copy, Default)]
struct NameCount {
    received: u64,
    rejected: u64,
    last_received_ms: i64,
}

impl From<Vec<CountedRow>> for Counted {
    fn from(rows: Vec<CountedRow>) -> Counted {
        let mut counted = Counted {
            types: Vec::new(),
            names: Names {
                counts: BTreeMap::new(),
                cut: rows.len() >= MAX_COUNTED,
            },
        };
        for row in rows {
            let source = row.source.unwrap_or_default();
            match (row.event_type, row.source_event) {
                (Some(event_type), _) => counted.types.push(TypeBaseline {
                    source,
                    event_type,
                    received: row.received,
                    duplicate: row.duplicate,
                    last_received_ms: row.last_received_ms,
                }),
                (None, Some(name)) if !name.is_empty() => {
                    let count = NameCount {
                        received: row.received,
                        rejected: row.rejected,
                        last_received_ms: row.last_received_ms,
                    };
                    let documented = row.documented.unwrap_or_default();
                    let key = (source, name, documented);
                    counted.names.counts.insert(key, count);
                }
                (None, _) => {}
            }
        }
        counted
            .types
            .sort_by(|a, b| (&a.source, &a.event_type).cmp(&(&b.source, &b.event_type)));
        counted
    }
}

/// The names of both, by source and name.
fn names(now: Names, before: Names) -> Vec<NameHealth> {
    let known = |side: &Names, key: &(String, String, bool)| {
        key.2 || !side.cut || side.counts.contains_key(key)
    };
    let keys: BTreeSet<_> = now.counts.keys().chain(before.counts.keys()).collect();
    let mut names: Vec<NameHealth> = keys
        .into_iter()
        .filter(|key| known(&now, key) && known(&before, key))
        .map(|key| {
            let of = |side: &Names| side.counts.get(key).copied().unwrap_or_default();
            let (now, before) = (of(&now), of(&before));
            NameHealth {
                source: key.0.clone(),
                source_event: key.1.clone(),
                documented: key.2,
                received: now.received,
                rejected: now.rejected,
                baseline_received: before.received,
                last_received_ms: now.last_received_ms.max(before.last_received_ms),
            }
        })
        .collect();
    names.sort_by_key(|name| {
        (
            !name.documented,
            Reverse(name.received + name.baseline_received),
        )
    });
    names.truncate(MAX_NAMES);
    names.sort_by(|a, b| {
        let key = |name: &NameHealth| {
            (
                name.source.clone(),
                name.source_event.clone(),
                name.documented,
            )
        };
        key(a).cmp(&key(b))
    });
    names
}

impl Store {
    /// Delivery in the span, altogether and over time: the sketches of latencies are read once for both.
    pub async fn health(&self, tenant: &str, span: Span) -> Result<Health, StoreError> {
        let (table, column, inside) = span.health();
        let sql = format!(
            "WITH toInt64(toUnixTimestamp(h.{column})) * 1000 AS at
             SELECT h.source AS source, h.event_type AS event_type, at AS at_ms,
                    sum(h.received) AS received, sum(h.accepted) AS accepted, sum(h.duplicate) AS duplicate,
                    sum(h.rejected) AS rejected, sum(h.late) AS late, sum(h.clock_ahead) AS clock_ahead,
                    {LATENCIES},
                    toInt64(toUnixTimestamp(max(h.{column}))) * 1000 AS last_received_ms
             FROM {table} AS h
             WHERE h.tenant = ? AND {inside}
             GROUP BY GROUPING SETS ((source, event_type), (source), (), (source, at))
             HAVING received > 0
             ORDER BY at NULLS FIRST, source NULLS FIRST, event_type NULLS FIRST
             LIMIT {MAX_POINTS}
             SETTINGS group_by_use_nulls = 1"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        let rows: Vec<HealthSetRow> = self
            .within("reading delivery health", query.fetch_all())
            .await?;
        let mut health = Health::default();
        for row in rows {
            match row {
                HealthSetRow {
                    at_ms: Some(at_ms),
                    source: Some(source),
                    ..
                } => health.points.push(HealthPoint {
                    at_ms,
                    source,
                    received: row.received,
                    accepted: row.accepted,
                    duplicate: row.duplicate,
                    rejected: row.rejected,
                    late: row.late,
                    receive_ms: row.receive_ms,
                    queryable_ms: row.queryable_ms,
                }),
                row => health.rows.push(HealthRow {
                    source: row.source,
                    event_type: row.event_type,
                    received: row.received,
                    accepted: row.accepted,
                    duplicate: row.duplicate,
                    rejected: row.rejected,
                    late: row.late,
                    clock_ahead: row.clock_ahead,
                    receive_ms: row.receive_ms,
                    queryable_ms: row.queryable_ms,
                    last_received_ms: row.last_received_ms,
                }),
            }
        }
        Ok(health)
    }

    /// What came of each type in the baseline, which is what is to be expected, and the vendor's event names
    /// of span and baseline, at most 1,000: whoever has a page's write key can invent names without end. The
    /// documented and the most frequent are kept, and only those whose numbers are known on both sides.
    pub async fn expected(
        &self,
        tenant: &str,
        span: Span,
        baseline: Span,
    ) -> Result<(Vec<TypeBaseline>, Vec<NameHealth>), StoreError> {
        let (now, before) =
            tokio::try_join!(self.counted(tenant, span), self.counted(tenant, baseline))?;
        Ok((before.types, names(now.names, before.names)))
    }

    /// What came in the span by type and by name.
    async fn counted(&self, tenant: &str, span: Span) -> Result<Counted, StoreError> {
        let (table, column, inside) = span.health();
        let sql = format!(
            "SELECT h.source AS source, h.event_type AS event_type, h.source_event AS source_event,
                    h.documented AS documented,
                    sum(h.received) AS received, sum(h.rejected) AS rejected, sum(h.duplicate) AS duplicate,
                    toInt64(toUnixTimestamp(max({column}))) * 1000 AS last_received_ms
             FROM {table} AS h
             WHERE h.tenant = ? AND {inside}
             GROUP BY GROUPING SETS ((source, event_type), (source, source_event, documented))
             ORDER BY source_event IS NULL DESC, documented DESC, received DESC, source, event_type, source_event
             LIMIT {MAX_COUNTED}
             SETTINGS group_by_use_nulls = 1"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        let rows = self
            .within("reading the names of events", query.fetch_all())
            .await?;
        Ok(Counted::from(rows))
    }

    /// Delivery over time per source, at most 50,000 points; units in which nothing came have none.
    pub async fn health_series(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<HealthPoint>, StoreError> {
        let sql = series(span, ("h.source AS source", "at, source"));
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading delivery over time", query.fetch_all())
            .await
    }

    /// Delivery over time per source and type, at most 50,000 points; units in which nothing came
    /// have none.
    pub async fn type_series(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<TypePoint>, StoreError> {
        let keys = "h.source AS source, h.event_type AS event_type";
        let sql = series(span, (keys, "source, event_type, at"));
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading delivery over time", query.fetch_all())
            .await
    }

    /// Losses in the browser, of page sessions whose first event was received in the window, which
    /// begins with the hour that it begins in, as of the last roll-up.
    pub async fn browser_loss(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<BrowserLoss>, StoreError> {
        let span = Span {
            window,
            unit: Unit::Hour,
        }
        .whole();
        let sql = format!(
            "SELECT r.source AS source, sum(r.sessions) AS sessions, sum(r.arrived) AS arrived, sum(r.lost) AS lost
             FROM session_rollup AS r FINAL
             WHERE r.tenant = ? AND {}
             GROUP BY source HAVING sessions > 0 ORDER BY source",
            span.on("hour")
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading page sessions", query.fetch_all())
            .await
    }

    /// Message gaps of conversations that started in the span (hours or days), of the sources that report
    /// a total, as of the last roll-up.
    pub async fn message_gaps(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<GapCount>, StoreError> {
        let sql = format!(
            "SELECT source, figures.metrics, figures.observed, figures.numerators
             FROM conversation_rollup FINAL
             WHERE tenant = ? AND unit = '{}' AND dimension = '' AND {}",
            span.unit.cohorts(),
            span.on("cohort"),
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        let rows: Vec<figures::Gap> = self
            .within("reading message gaps", query.fetch_all())
            .await?;
        Ok(figures::gaps(&rows))
    }
}

/// Delivery over time of a tenant (to be bound) by further keys: the columns, and the order of the points.
fn series(span: Span, (keys, order): (&str, &str)) -> String {
    let (table, column, inside) = span.health();
    format!(
        "WITH toInt64(toUnixTimestamp({column})) * 1000 AS at
         SELECT at AS at_ms, {keys},
                sum(h.received) AS received, sum(h.accepted) AS accepted,
                sum(h.duplicate) AS duplicate, sum(h.rejected) AS rejected, sum(h.late) AS late,
                {LATENCIES}
         FROM {table} AS h
         WHERE h.tenant = ? AND {inside}
         GROUP BY {order} ORDER BY {order} LIMIT {MAX_POINTS}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_list_lacks_is_not_taken_for_gone() {
        let row = |name: &str, documented: bool| CountedRow {
            source: Some("watermelon".into()),
            event_type: None,
            source_event: Some(name.into()),
            documented: Some(documented),
            received: 9,
            rejected: 0,
            duplicate: 0,
            last_received_ms: 0,
        };
        let flood = || (0..MAX_COUNTED).map(|n| row(&format!("invented {n}"), false));
        let one = |name: &str, documented| Counted::from(vec![row(name, documented)]).names;
        let cut = || Counted::from(flood().collect::<Vec<_>>()).names;
        let whole = || Counted::from(flood().skip(1).collect::<Vec<_>>()).names;
        let has = |names: &[NameHealth], name: &str| names.iter().any(|n| n.source_event == name);
        assert!(!has(&names(cut(), one("odd", false)), "odd"));
        assert!(has(&names(cut(), one("told", true)), "told"));
        assert!(has(&names(cut(), one("invented 7", false)), "invented 7"));
        let both = names(whole(), one("invented 0", false));
        assert_eq!(both.len(), MAX_NAMES);
        assert!(!has(&names(one("odd", false), cut()), "odd"));
    }
}

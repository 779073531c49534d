//! Delivery health of one tenant: what was received, per source, event type and vendor's name.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Window};
use crate::Store;
use crate::error::StoreError;

/// Delivery of one event type of one source, of one source (`event_type` is none), or of the tenant
/// (both are none).
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
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
const MAX_NAMES: u32 = 1_000;
/// Most points of a series.
const MAX_POINTS: u32 = 50_000;

impl Store {
    /// Delivery in the span: of the tenant, of each source, and of each type of each source.
    pub async fn health(&self, tenant: &str, span: Span) -> Result<Vec<HealthRow>, StoreError> {
        let query = self
            .client
            .query(
                "WITH
                     toInt64(toUnixTimestamp(minute)) * 1000 AS at,
                     quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive,
                     quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable
                 SELECT
                     toNullable(toString(h.source)) AS source,
                     toNullable(toString(h.event_type)) AS event_type,
                     sum(h.received) AS received,
                     sum(h.accepted) AS accepted,
                     sum(h.duplicate) AS duplicate,
                     sum(h.rejected) AS rejected,
                     sum(h.late) AS late,
                     sum(h.clock_ahead) AS clock_ahead,
                     arrayFilter(ms -> isFinite(ms), receive) AS receive_ms,
                     arrayFilter(ms -> isFinite(ms), queryable) AS queryable_ms,
                     max(at) AS last_received_ms
                 FROM event_health AS h
                 WHERE h.tenant = ? AND at >= ? AND at < ?
                 GROUP BY GROUPING SETS ((source, event_type), (source), ())
                 HAVING received > 0
                 ORDER BY source NULLS FIRST, event_type NULLS FIRST
                 SETTINGS group_by_use_nulls = 1",
            )
            .bind(tenant)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms);
        self.within("reading delivery health", query.fetch_all())
            .await
    }

    /// What came of each type in the span: what is to be expected later.
    pub async fn baseline(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<TypeBaseline>, StoreError> {
        let query = self
            .client
            .query(
                "WITH toInt64(toUnixTimestamp(minute)) * 1000 AS at
                 SELECT h.source AS source, h.event_type AS event_type,
                        sum(h.received) AS received, sum(h.duplicate) AS duplicate,
                        max(at) AS last_received_ms
                 FROM event_health AS h
                 WHERE h.tenant = ? AND at >= ? AND at < ?
                 GROUP BY source, event_type ORDER BY source, event_type",
            )
            .bind(tenant)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms);
        self.within("reading the baseline", query.fetch_all()).await
    }

    /// The vendor's event names of span and baseline, at most 1,000: whoever has a page's write
    /// key can invent names without end. The documented and the most frequent are kept.
    pub async fn name_health(
        &self,
        tenant: &str,
        span: Span,
        baseline: Span,
    ) -> Result<Vec<NameHealth>, StoreError> {
        let query = self
            .client
            .query(
                "WITH
                     toInt64(toUnixTimestamp(minute)) * 1000 AS at,
                     at >= ? AND at < ? AS inside,
                     at >= ? AND at < ? AS before
                 SELECT * FROM (SELECT
                     h.source AS source,
                     h.source_event AS source_event,
                     h.documented AS documented,
                     sumIf(h.received, inside) AS received,
                     sumIf(h.rejected, inside) AS rejected,
                     sumIf(h.received, before) AS baseline_received,
                     max(at) AS last_received_ms
                 FROM event_health AS h
                 WHERE h.tenant = ? AND (inside OR before) AND h.source_event != ''
                 GROUP BY h.source, h.source_event, h.documented
                 ORDER BY documented DESC, received + baseline_received DESC, source, source_event
                 LIMIT ?)
                 ORDER BY source, source_event, documented",
            )
            .bind(span.window.since_ms)
            .bind(span.window.until_ms)
            .bind(baseline.window.since_ms)
            .bind(baseline.window.until_ms)
            .bind(tenant)
            .bind(MAX_NAMES);
        self.within("reading event names", query.fetch_all()).await
    }

    /// Delivery over time per source, at most 50,000 points; units in which nothing came have none.
    pub async fn health_series(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<HealthPoint>, StoreError> {
        let sql = format!(
            "WITH
                 toInt64(toUnixTimestamp({}(minute))) * 1000 AS at,
                 quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive,
                 quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable
             SELECT at AS at_ms, h.source AS source,
                    sum(h.received) AS received, sum(h.accepted) AS accepted,
                    sum(h.duplicate) AS duplicate, sum(h.rejected) AS rejected, sum(h.late) AS late,
                    arrayFilter(ms -> isFinite(ms), receive) AS receive_ms,
                    arrayFilter(ms -> isFinite(ms), queryable) AS queryable_ms
             FROM event_health AS h
             WHERE h.tenant = ? AND at >= ? AND at < ?
             GROUP BY at, source ORDER BY at, source LIMIT {MAX_POINTS}",
            span.unit.start_of()
        );
        let query = self
            .client
            .query(&sql)
            .bind(tenant)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms);
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
        let sql = format!(
            "WITH toInt64(toUnixTimestamp({}(minute))) * 1000 AS at
             SELECT at AS at_ms, h.source AS source, h.event_type AS event_type,
                    sum(h.received) AS received, sum(h.accepted) AS accepted,
                    sum(h.duplicate) AS duplicate, sum(h.rejected) AS rejected, sum(h.late) AS late
             FROM event_health AS h
             WHERE h.tenant = ? AND at >= ? AND at < ?
             GROUP BY at, source, event_type ORDER BY source, event_type, at LIMIT {MAX_POINTS}",
            span.unit.start_of()
        );
        let query = self
            .client
            .query(&sql)
            .bind(tenant)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms);
        self.within("reading delivery over time", query.fetch_all())
            .await
    }

    /// Losses in the browser, of page sessions whose first event was received in the window.
    pub async fn browser_loss(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<BrowserLoss>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT s.source AS source, count() AS sessions, sum(s.arrived) AS arrived,
                        sum(s.lost_in_browser) AS lost
                 FROM sessions AS s
                 WHERE s.tenant = ?
                   AND s.first_received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND s.first_received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 GROUP BY s.source ORDER BY source",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        self.within("reading page sessions", query.fetch_all())
            .await
    }

    /// Message gaps of conversations that started in the window, of the sources that report a total.
    pub async fn message_gaps(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<GapCount>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT c.source AS source, count() AS conversations,
                        countIf(c.message_gap > 0) AS with_gap,
                        sumIf(assumeNotNull(c.message_gap), c.message_gap > 0) AS missing
                 FROM conversations AS c
                 WHERE c.tenant = ? AND c.message_gap IS NOT NULL
                   AND c.started_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND c.started_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 GROUP BY c.source ORDER BY source",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        self.within("reading message gaps", query.fetch_all()).await
    }
}

//! Typed questions to the tables and views, each for one tenant. Times are milliseconds since the
//! Unix epoch, UTC; windows are half open, `[since, until)`.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;
use crate::rows::UndecodableOutcome;

/// A span of time, `[since_ms, until_ms)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// First millisecond.
    pub since_ms: i64,
    /// First millisecond after it.
    pub until_ms: i64,
}

/// Which conversations to measure, and when to judge them.
#[derive(Debug, Clone, Copy)]
pub struct Cohort<'a> {
    /// Tenant.
    pub tenant: &'a str,
    /// The conversations that started in it.
    pub started: Window,
    /// When to judge what is closed.
    pub as_of_ms: i64,
    /// Only conversations whose id begins so; empty for all.
    pub conversation_prefix: &'a str,
}

/// One metric of one source, or of all sources together that can show it.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct MetricRow {
    /// Source; none for all sources together.
    pub source: Option<String>,
    /// Name, as in schemas/clickhouse/README.md.
    pub metric: String,
    /// `count`, `rate` (0 to 1), `score` (-1 to 1) or `duration`.
    pub kind: String,
    /// False where no source of the row can show the metric: then it has no values.
    pub observable: bool,
    /// Conversations, or durations, that the row is made of.
    pub n: u64,
    /// Of a rate or score, or the count.
    pub numerator: Option<i64>,
    /// Of a rate or score.
    pub denominator: Option<i64>,
    /// Numerator ÷ denominator; none where the denominator is 0.
    pub rate: Option<f64>,
    /// Median; milliseconds.
    pub median_ms: Option<f64>,
    /// 90th percentile; milliseconds.
    pub p90_ms: Option<f64>,
    /// 95th percentile; milliseconds.
    pub p95_ms: Option<f64>,
}

/// Delivery of one event type of one source in a window.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct TypeHealth {
    /// Source.
    pub source: String,
    /// Neutral type; `unknown` for rejected records.
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
    /// Accepted ones whose clock was ahead of ours.
    pub clock_ahead: u64,
    /// Occurred to received, p50, p95 and p99; milliseconds, at most 1 % off; empty where no time
    /// is known.
    pub receive_ms: Vec<f64>,
    /// Received to queryable, p50, p95 and p99; milliseconds, at most 1 % off; empty without an
    /// accepted one.
    pub queryable_ms: Vec<f64>,
    /// Minute of the last receipt in window and baseline.
    pub last_received_ms: i64,
    /// Received in the baseline.
    pub baseline_received: u64,
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
    /// Received in the baseline.
    pub baseline_received: u64,
    /// Minute of the last receipt.
    pub last_received_ms: i64,
}

/// Rejections of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct RejectionCount {
    /// Source.
    pub source: String,
    /// Reason.
    pub reason: String,
    /// How many.
    pub rejected: u64,
    /// The last one.
    pub last_received_ms: i64,
}

/// One rejected record.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Rejected {
    /// Partition of chat.raw.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// Source.
    pub source: String,
    /// When it was received.
    pub received_ms: i64,
    /// Reason.
    pub reason: String,
    /// What was wrong, without content.
    pub detail: String,
    /// The vendor's event name, or empty.
    pub source_event: String,
    /// Size as received; bytes.
    pub bytes: Option<i64>,
    /// Hash as received; lower-case hex.
    pub sha256: Option<String>,
}

/// Losses of one source that show only in numbering: in the browser, and between vendor and us.
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

/// Outcomes of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Books {
    /// Tenant; empty for records that could not be decoded.
    pub tenant: String,
    /// All outcomes.
    pub received: u64,
    /// First of its event id.
    pub accepted: u64,
    /// Further copies.
    pub duplicate: u64,
    /// Refused.
    pub rejected: u64,
}

/// Most event names that a report is told of.
const MAX_NAMES: u32 = 1_000;

impl Store {
    /// Outcomes per tenant, counted from `events`.
    pub async fn books(&self) -> Result<Vec<Books>, StoreError> {
        let query = self.client.query(
            "SELECT tenant, count() AS received, countIf(outcome = 'accepted') AS accepted,
                    countIf(outcome = 'duplicate') AS duplicate, countIf(outcome = 'rejected') AS rejected
             FROM events GROUP BY tenant ORDER BY tenant",
        );
        self.within("counting outcomes", query.fetch_all()).await
    }

    /// Every metric of the cohort, for all sources together and for each.
    pub async fn metrics(&self, cohort: &Cohort<'_>) -> Result<Vec<MetricRow>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT ?fields FROM metrics_as_of(
                     as_of = fromUnixTimestamp64Milli(toInt64(?), 'UTC'),
                     since = fromUnixTimestamp64Milli(toInt64(?), 'UTC'),
                     until = fromUnixTimestamp64Milli(toInt64(?), 'UTC'),
                     conversation_prefix = ?)
                 WHERE tenant = ? AND level IN ('overall', 'source')
                 ORDER BY source NULLS FIRST, metric",
            )
            .bind(cohort.as_of_ms)
            .bind(cohort.started.since_ms)
            .bind(cohort.started.until_ms)
            .bind(cohort.conversation_prefix)
            .bind(cohort.tenant);
        self.within("reading metrics", query.fetch_all()).await
    }

    /// Delivery per source and type: counts and latencies of the window, and what came in the
    /// baseline. Both are taken by whole minutes of receipt.
    pub async fn type_health(
        &self,
        tenant: &str,
        window: Window,
        baseline: Window,
    ) -> Result<Vec<TypeHealth>, StoreError> {
        let query = self
            .client
            .query(
                "WITH
                     toInt64(toUnixTimestamp(minute)) * 1000 AS at,
                     at >= ? AND at < ? AS inside,
                     at >= ? AND at < ? AS before,
                     quantilesDDMergeIf(0.01, 0.5, 0.95, 0.99)(h.receive_latency, inside) AS receive,
                     quantilesDDMergeIf(0.01, 0.5, 0.95, 0.99)(h.queryable_latency, inside) AS queryable
                 SELECT
                     h.source AS source,
                     h.event_type AS event_type,
                     sumIf(h.received, inside) AS received,
                     sumIf(h.accepted, inside) AS accepted,
                     sumIf(h.duplicate, inside) AS duplicate,
                     sumIf(h.rejected, inside) AS rejected,
                     sumIf(h.late, inside) AS late,
                     sumIf(h.clock_ahead, inside) AS clock_ahead,
                     arrayFilter(ms -> isFinite(ms), receive) AS receive_ms,
                     arrayFilter(ms -> isFinite(ms), queryable) AS queryable_ms,
                     max(at) AS last_received_ms,
                     sumIf(h.received, before) AS baseline_received
                 FROM event_health AS h
                 WHERE h.tenant = ? AND (inside OR before)
                 GROUP BY h.source, h.event_type
                 ORDER BY source, event_type",
            )
            .bind(window.since_ms)
            .bind(window.until_ms)
            .bind(baseline.since_ms)
            .bind(baseline.until_ms)
            .bind(tenant);
        self.within("reading delivery health", query.fetch_all())
            .await
    }

    /// The vendor's event names of window and baseline, at most 1,000: whoever has a page's write
    /// key can invent names without end. The documented and the most frequent are kept.
    pub async fn name_health(
        &self,
        tenant: &str,
        window: Window,
        baseline: Window,
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
                     sumIf(h.received, before) AS baseline_received,
                     max(at) AS last_received_ms
                 FROM event_health AS h
                 WHERE h.tenant = ? AND (inside OR before) AND h.source_event != ''
                 GROUP BY h.source, h.source_event, h.documented
                 ORDER BY documented DESC, received + baseline_received DESC, source, source_event
                 LIMIT ?)
                 ORDER BY source, source_event, documented",
            )
            .bind(window.since_ms)
            .bind(window.until_ms)
            .bind(baseline.since_ms)
            .bind(baseline.until_ms)
            .bind(tenant)
            .bind(MAX_NAMES);
        self.within("reading event names", query.fetch_all()).await
    }

    /// Rejections of the window by source and reason.
    pub async fn rejections_by_reason(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<RejectionCount>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT source, reason, count() AS rejected,
                        toUnixTimestamp64Milli(max(received_at)) AS last_received_ms
                 FROM rejections
                 WHERE tenant = ? AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 GROUP BY source, reason ORDER BY rejected DESC, source, reason",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        self.within("reading rejections", query.fetch_all()).await
    }

    /// The newest rejections of the window, newest first.
    pub async fn recent_rejections(
        &self,
        tenant: &str,
        window: Window,
        limit: u32,
    ) -> Result<Vec<Rejected>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT partition, offset, source, toUnixTimestamp64Milli(received_at) AS received_ms,
                        reason, detail, source_event, bytes, sha256
                 FROM rejections
                 WHERE tenant = ? AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 ORDER BY received_at DESC, partition, offset LIMIT ?",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms)
            .bind(limit);
        self.within("reading rejections", query.fetch_all()).await
    }

    /// Records of chat.events that could not be decoded, at most `limit`, by position.
    pub async fn undecodable_outcomes(
        &self,
        limit: u32,
    ) -> Result<Vec<UndecodableOutcome>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT partition, offset, toUnixTimestamp64Milli(u.appended_at) AS appended_at,
                        bytes, sha256, detail
                 FROM undecodable_outcomes AS u FINAL ORDER BY partition, offset, sha256 LIMIT ?",
            )
            .bind(limit);
        self.within("reading undecodable records", query.fetch_all())
            .await
    }

    /// Losses in the browser, of page sessions whose last event was received in the window.
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
                   AND s.last_received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND s.last_received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 GROUP BY s.source ORDER BY source",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        self.within("reading page sessions", query.fetch_all())
            .await
    }

    /// Message gaps of conversations whose last event lies in the window, of the sources that
    /// report a total.
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
                   AND c.last_event_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND c.last_event_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 GROUP BY c.source ORDER BY source",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        self.within("reading message gaps", query.fetch_all()).await
    }
}

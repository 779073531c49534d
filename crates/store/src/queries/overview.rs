//! All tenants together: for the operator.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Span;
use crate::Store;
use crate::error::StoreError;
use crate::rows::UndecodableOutcome;

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

/// What one tenant sent in a span.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct TenantRow {
    /// Tenant; empty for records that could not be decoded.
    pub tenant: String,
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
    /// Received in the baseline.
    pub baseline_received: u64,
    /// Start of the last unit in which something was received.
    pub last_received_ms: i64,
}

/// One unit of time of the whole installation.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct PipelinePoint {
    /// Start of the unit.
    pub at_ms: i64,
    /// accepted + duplicate + rejected.
    pub received: u64,
    /// First of its event id.
    pub accepted: u64,
    /// Further copies.
    pub duplicate: u64,
    /// Refused.
    pub rejected: u64,
    /// Occurred to received, p50, p95 and p99; milliseconds; empty where no time is known.
    pub receive_ms: Vec<f64>,
    /// Received to queryable, p50, p95 and p99; milliseconds; empty without an accepted one.
    pub queryable_ms: Vec<f64>,
}

/// Most tenants that a report is told of.
const MAX_TENANTS: u32 = 10_000;

impl Store {
    /// Outcomes per tenant, counted from `events`: for the proof that the books balance, not for
    /// reports.
    pub async fn books(&self) -> Result<Vec<Books>, StoreError> {
        let query = self.client.query(
            "SELECT tenant, count() AS received, countIf(outcome = 'accepted') AS accepted,
                    countIf(outcome = 'duplicate') AS duplicate, countIf(outcome = 'rejected') AS rejected
             FROM events GROUP BY tenant ORDER BY tenant",
        );
        self.within("counting outcomes", query.fetch_all()).await
    }

    /// What each tenant sent in the span, and in the baseline; at most 10,000 tenants, those with
    /// most first.
    pub async fn tenants(&self, span: Span, baseline: Span) -> Result<Vec<TenantRow>, StoreError> {
        let query = self
            .client
            .query(
                "WITH
                     toInt64(toUnixTimestamp(minute)) * 1000 AS at,
                     at >= ? AND at < ? AS inside,
                     at >= ? AND at < ? AS before
                 SELECT h.tenant AS tenant,
                        sumIf(h.received, inside) AS received,
                        sumIf(h.accepted, inside) AS accepted,
                        sumIf(h.duplicate, inside) AS duplicate,
                        sumIf(h.rejected, inside) AS rejected,
                        sumIf(h.late, inside) AS late,
                        sumIf(h.clock_ahead, inside) AS clock_ahead,
                        sumIf(h.received, before) AS baseline_received,
                        max(at) AS last_received_ms
                 FROM event_health AS h
                 WHERE inside OR before
                 GROUP BY tenant
                 ORDER BY received DESC, baseline_received DESC, tenant
                 LIMIT ?",
            )
            .bind(span.window.since_ms)
            .bind(span.window.until_ms)
            .bind(baseline.window.since_ms)
            .bind(baseline.window.until_ms)
            .bind(MAX_TENANTS);
        self.within("reading what tenants sent", query.fetch_all())
            .await
    }

    /// All tenants together over time; units in which nothing came have no point.
    pub async fn pipeline_series(&self, span: Span) -> Result<Vec<PipelinePoint>, StoreError> {
        let sql = format!(
            "WITH
                 toInt64(toUnixTimestamp({}(minute))) * 1000 AS at,
                 quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency) AS receive,
                 quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency) AS queryable
             SELECT at AS at_ms, sum(h.received) AS received, sum(h.accepted) AS accepted,
                    sum(h.duplicate) AS duplicate, sum(h.rejected) AS rejected,
                    arrayFilter(ms -> isFinite(ms), receive) AS receive_ms,
                    arrayFilter(ms -> isFinite(ms), queryable) AS queryable_ms
             FROM event_health AS h
             WHERE at >= ? AND at < ?
             GROUP BY at ORDER BY at",
            span.unit.start_of()
        );
        let query = self
            .client
            .query(&sql)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms);
        self.within("reading the pipeline over time", query.fetch_all())
            .await
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
}

//! All tenants together: for the operator.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{LATENCIES, Span, brief};
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
    /// Outcomes per tenant, over all time, from the roll-up; the audit holds it against `events`.
    pub async fn books(&self) -> Result<Vec<Books>, StoreError> {
        let query = self.client.query(
            "SELECT h.tenant AS tenant, sum(h.received) AS received, sum(h.accepted) AS accepted,
                    sum(h.duplicate) AS duplicate, sum(h.rejected) AS rejected
             FROM tenant_health AS h WHERE unit = 'day' GROUP BY tenant ORDER BY tenant",
        );
        self.within("counting outcomes", query.fetch_all()).await
    }

    /// What each tenant sent in the span, and in the baseline; at most 10,000 tenants, those with
    /// most first.
    pub async fn tenants(&self, span: Span, baseline: Span) -> Result<Vec<TenantRow>, StoreError> {
        let part = |span: Span, counts: &str| {
            let inside = span.at();
            format!(
                "SELECT tenant, {counts}, toInt64(toUnixTimestamp(max(at))) * 1000 AS last_ms
                 FROM tenant_health WHERE {inside} GROUP BY tenant"
            )
        };
        let now = part(
            span,
            "sum(received) AS a, sum(accepted) AS b, sum(duplicate) AS c, sum(rejected) AS d,
             sum(late) AS e, sum(clock_ahead) AS f, 0 AS g",
        );
        let before = part(
            baseline,
            "0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e, 0 AS f, sum(received) AS g",
        );
        let sql = format!(
            "SELECT tenant, sum(a) AS received, sum(b) AS accepted, sum(c) AS duplicate, sum(d) AS rejected,
                    sum(e) AS late, sum(f) AS clock_ahead, sum(g) AS baseline_received,
                    max(last_ms) AS last_received_ms
             FROM ({now} UNION ALL {before})
             GROUP BY tenant
             ORDER BY received DESC, baseline_received DESC, tenant
             LIMIT {MAX_TENANTS}"
        );
        let query = brief(self.client.query(&sql));
        self.within("reading what tenants sent", query.fetch_all())
            .await
    }

    /// All tenants together over time; units in which nothing came have no point.
    pub async fn pipeline_series(&self, span: Span) -> Result<Vec<PipelinePoint>, StoreError> {
        let inside = span.at();
        let sql = format!(
            "SELECT toInt64(toUnixTimestamp(h.at)) * 1000 AS at_ms,
                    sum(h.received) AS received, sum(h.accepted) AS accepted,
                    sum(h.duplicate) AS duplicate, sum(h.rejected) AS rejected,
                    {LATENCIES}
             FROM pipeline_health AS h
             WHERE {inside}
             GROUP BY h.at ORDER BY at_ms"
        );
        let query = brief(self.client.query(&sql));
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

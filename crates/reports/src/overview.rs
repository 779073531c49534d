//! The whole installation, for its operator: what tenants send, and how the pipeline keeps up.

use chatpulse_store::{PipelinePoint, StoreError, TenantRow, Unit};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;
use crate::health::{Percentiles, percentiles};
use crate::period::{Period, Span, timestamp, unit_schema};
use crate::verdict::{Counts, Judgement, judge};

/// The state of the installation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Overview {
    /// Events received in it are counted.
    pub window: Span,
    /// The unit of the series.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// The tenants that sent something in the window or before, those with most first; at most 10,000.
    pub tenants: Vec<TenantOverview>,
    /// All tenants together over time; a unit in which nothing came has no point.
    pub series: Vec<PipelinePointReport>,
    /// How far each stage is behind; null where the broker is not known or has not answered yet.
    pub stages: Option<Vec<StageLag>>,
}

/// What one tenant sent.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TenantOverview {
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
    /// Start of the unit of the last receipt, in window or baseline.
    pub last_received: Timestamp,
    /// The verdict over all its events together; its own page judges per event type.
    pub judgement: Judgement,
}

/// One unit of time of the whole installation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = PipelinePoint)]
pub struct PipelinePointReport {
    /// Start of the unit.
    pub at: Timestamp,
    /// Seconds of the unit that have passed: what a rate is over.
    pub seconds: f64,
    /// accepted + duplicate + rejected.
    pub received: u64,
    /// First of its event id.
    pub accepted: u64,
    /// Further copies.
    pub duplicate: u64,
    /// Refused.
    pub rejected: u64,
    /// Occurred to received; null where no event tells its own time.
    pub receive_ms: Option<Percentiles>,
    /// Received to queryable; null without an accepted event.
    pub queryable_ms: Option<Percentiles>,
}

/// How far a stage is behind, of all its instances together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StageLag {
    /// `enricher` or `sink`.
    pub stage: String,
    /// The topic that it reads.
    pub topic: String,
    /// When the broker was asked.
    pub as_of: Timestamp,
    /// By partition.
    pub partitions: Vec<PartitionLag>,
}

/// How far a stage is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartitionLag {
    /// Partition.
    pub partition: i32,
    /// Records that wait.
    pub records: u64,
    /// Since when records wait and none is finished; seconds; null where it moves, or has nothing to do.
    pub still_seconds: Option<u64>,
}

impl Reports {
    /// The whole installation in the period.
    pub async fn overview(&self, period: Period) -> Result<Overview, StoreError> {
        let (span, baseline) = (period.delivery(), period.baseline());
        let (tenants, series) = tokio::try_join!(
            self.store.tenants(span, baseline),
            self.store.pipeline_series(span),
        )?;
        let length =
            |span: chatpulse_store::Span| (span.window.until_ms - span.window.since_ms) as f64;
        let scale = length(span) / length(baseline);
        Ok(Overview {
            window: span.window.into(),
            unit: span.unit,
            tenants: tenants.into_iter().map(|row| tenant(row, scale)).collect(),
            series: series
                .into_iter()
                .map(|point| pipeline(point, span))
                .collect(),
            stages: self.stages(),
        })
    }
}

fn tenant(row: TenantRow, scale: f64) -> TenantOverview {
    let judgement = judge(&Counts {
        received: row.received,
        accepted: row.accepted,
        duplicate: row.duplicate,
        rejected: row.rejected,
        late: row.late,
        clock_ahead: row.clock_ahead,
        expected: row.baseline_received as f64 * scale,
        ..Counts::default()
    });
    TenantOverview {
        tenant: row.tenant,
        received: row.received,
        accepted: row.accepted,
        duplicate: row.duplicate,
        rejected: row.rejected,
        late: row.late,
        last_received: timestamp(row.last_received_ms),
        judgement,
    }
}

fn pipeline(point: PipelinePoint, span: chatpulse_store::Span) -> PipelinePointReport {
    let passed = (span.window.until_ms - point.at_ms).clamp(1, span.unit.ms());
    PipelinePointReport {
        at: timestamp(point.at_ms),
        seconds: passed as f64 / 1_000.0,
        received: point.received,
        accepted: point.accepted,
        duplicate: point.duplicate,
        rejected: point.rejected,
        receive_ms: percentiles(&point.receive_ms),
        queryable_ms: percentiles(&point.queryable_ms),
    }
}

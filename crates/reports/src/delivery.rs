//! Delivery of one tenant over time, per event type.

use chatpulse_store::{StoreError, Unit};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;
use crate::health::{Percentiles, Point, percentiles};
use crate::period::{Period, Span, timestamp, unit_schema};

/// Delivery over time. A unit in which nothing came has no point.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeliverySeries {
    /// Tenant.
    pub tenant: String,
    /// Events received in it are counted.
    pub window: Span,
    /// The unit of time of each point.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// Per source, with latencies.
    pub sources: Vec<Point>,
    /// Per source and neutral type, with latencies; `unknown` for rejected records.
    pub types: Vec<TypeSeries>,
}

/// One event type over time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TypeSeries {
    /// Source.
    pub source: String,
    /// Neutral type.
    pub event_type: String,
    /// By time.
    pub points: Vec<Counted>,
}

/// One unit of time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = TypePoint)]
pub struct Counted {
    /// Start of the unit.
    pub at: Timestamp,
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

impl Reports {
    /// Delivery of the tenant over time.
    pub async fn delivery_series(
        &self,
        tenant: &str,
        period: Period,
    ) -> Result<DeliverySeries, StoreError> {
        let span = period.delivery();
        let (sources, types) = tokio::try_join!(
            self.store.health_series(tenant, span),
            self.store.type_series(tenant, span),
        )?;
        let types = types
            .chunk_by(|a, b| (&a.source, &a.event_type) == (&b.source, &b.event_type))
            .map(|points| TypeSeries {
                source: points[0].source.clone(),
                event_type: points[0].event_type.clone(),
                points: points
                    .iter()
                    .map(|point| Counted {
                        at: timestamp(point.at_ms),
                        received: point.received,
                        accepted: point.accepted,
                        duplicate: point.duplicate,
                        rejected: point.rejected,
                        late: point.late,
                        receive_ms: percentiles(&point.receive_ms),
                        queryable_ms: percentiles(&point.queryable_ms),
                    })
                    .collect(),
            })
            .collect();
        Ok(DeliverySeries {
            tenant: tenant.to_owned(),
            window: span.window.into(),
            unit: span.unit,
            sources: sources.into_iter().map(Point::from).collect(),
            types,
        })
    }
}

//! Reports for people and programs, from ClickHouse alone.
//!
//! ```text
//! Store ─ typed queries ─► Reports: tenant_health, delivery_series,  ─┬─► serde ─► JSON
//!          (I/O)           deliveries, conversations, overview         ├─► to_markdown, to_csv
//!                                                                     └─► HTML pages    router
//! ```
//!
//! What a source cannot show is `null` in JSON and `n/a` for people, never 0.

mod access;
mod api;
mod arrivals;
mod chart;
mod conversation_list;
mod conversations;
mod csv;
mod deliveries;
mod delivery;
mod failures;
mod health;
mod http;
mod markdown;
mod matrix;
mod overview;
mod pages;
mod period;
mod rollups;
mod text;
mod twins;
mod verdict;

pub use access::{
    Access, AccessConfig, ReadToken, ReadTokens, SHORTEST_OPERATOR_TOKEN, Viewer, WeakOperatorToken,
};
pub use api::openapi;
pub use conversation_list::Conversation;
pub use conversations::{
    Conversations, Group, KeyedGroup, Metric, MetricGroups, MetricsBy, Restatement, State,
    TimeGroup, Value,
};
pub use deliveries::{
    Deliveries, DestinationHealth, DestinationSeries, DestinationTypeHealth, DestinationTypeSeries,
    FailedDelivery, FailureCount, Notice, Outgoing, OutgoingSeries, Sending, SentPoint,
};
pub use delivery::{Counted, DeliverySeries, TypeSeries};
pub use failures::{Failure, Reason};
pub use health::{
    Delivery, Drift, Key, Name, Percentiles, Point, SourceHealth, TenantHealth, TypeHealth,
};
pub use http::router;
pub use matrix::{Matrix, MatrixCell, MatrixMetric, MatrixSource};
pub use overview::{Overview, PartitionLag, PipelinePointReport, StageLag, TenantOverview};
pub use period::{Period, PeriodError, Span};
pub use rollups::{RollUpMetrics, keep_rolled_up};
pub use twins::{Reconciled, TwinSource, Twins};
pub use verdict::{Judgement, Verdict};

use std::sync::Arc;

use chatpulse_model::source::Catalog;
use chatpulse_store::{MetricDefinition, Store, StoreError};
use tokio::sync::{OnceCell, watch};

/// Makes every report. Clones share what they read from.
#[derive(Clone)]
pub struct Reports {
    store: Store,
    catalog: &'static Catalog,
    lag: Option<watch::Receiver<Vec<StageLag>>>,
    /// They are part of the views, which change with the program only.
    definitions: Arc<OnceCell<Vec<MetricDefinition>>>,
}

impl Reports {
    /// Reports from `store`, on the sources of `catalog`.
    pub fn new(store: Store, catalog: &'static Catalog) -> Reports {
        Reports {
            store,
            catalog,
            lag: None,
            definitions: Arc::default(),
        }
    }

    /// Shows how far the stages are behind as `lag` tells; an empty list means that nobody knows yet.
    pub fn with_lag(self, lag: watch::Receiver<Vec<StageLag>>) -> Reports {
        Reports {
            lag: Some(lag),
            ..self
        }
    }

    /// Every metric, in the order of reports.
    async fn definitions(&self) -> Result<&[MetricDefinition], StoreError> {
        let read = || self.store.metric_definitions();
        Ok(self.definitions.get_or_try_init(read).await?)
    }

    fn stages(&self) -> Option<Vec<StageLag>> {
        let stages = self.lag.as_ref()?.borrow().clone();
        (!stages.is_empty()).then_some(stages)
    }
}

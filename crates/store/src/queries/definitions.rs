//! What every metric is, and which source can show it.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;

/// A metric as it is defined.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct MetricDefinition {
    /// Name.
    pub metric: String,
    /// Raised where the meaning of a figure changes.
    pub version: u16,
    /// `count`, `rate` (0 to 1), `score` (-1 to 1) or `duration`.
    pub kind: String,
    /// What it counts; `share`, `score` or `ms`.
    pub unit: String,
    /// The denominator, or what a duration is taken of; empty for counts over all conversations.
    pub cohort: String,
    /// Name for people.
    pub title: String,
    /// How it is computed, in words.
    pub formula: String,
    /// What a source must let be seen; of several with ` or ` between them one will do.
    pub needs: Vec<String>,
}

/// Whether a source can show a metric.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct SourceMetric {
    /// Source.
    pub source: String,
    /// Metric.
    pub metric: String,
    /// `yes`; `partial`, a figure that may miss some; `no`, the metric is n/a.
    pub observable: String,
    /// Needs that the source does not meet.
    pub missing: Vec<String>,
    /// Why it is not `yes`, for people.
    pub why: String,
}

impl Store {
    /// Every metric, in the order of reports.
    pub async fn metric_definitions(&self) -> Result<Vec<MetricDefinition>, StoreError> {
        let query = self
            .client
            .query("SELECT ?fields FROM metric_definitions ORDER BY position");
        self.within("reading the definitions of metrics", query.fetch_all())
            .await
    }

    /// Every known source and metric: sources by name, metrics in the order of reports.
    pub async fn source_metrics(&self) -> Result<Vec<SourceMetric>, StoreError> {
        let query = self.client.query(
            "SELECT toString(source) AS source, metric, observable, missing, why
             FROM source_metrics ORDER BY source, position",
        );
        self.within("reading what sources can show", query.fetch_all())
            .await
    }
}

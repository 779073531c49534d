//! Which source can show which metric, from the source definitions: why a figure is n/a.

use std::collections::BTreeMap;

use chatpulse_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;

/// Every metric, held against every source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Matrix {
    /// Sources, by name.
    pub sources: Vec<MatrixSource>,
    /// Metrics, in the order of reports.
    pub metrics: Vec<MatrixMetric>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MatrixSource {
    /// Its name.
    pub source: String,
    /// Its name for people; the same where this program has no definition of it.
    pub title: String,
}

/// A metric: what it is, and which source can show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MatrixMetric {
    /// Name, as in the views.
    pub metric: String,
    /// Raised where the meaning of a figure changes.
    pub version: u16,
    /// Name for people.
    pub title: String,
    /// `count`, `rate` (0 to 1), `score` (-1 to 1) or `duration`.
    pub kind: String,
    /// What it counts; `share`, `score` or `ms`.
    pub unit: String,
    /// The denominator, or what a duration is taken of; empty for counts over all conversations.
    pub cohort: String,
    /// How it is computed, in words.
    pub formula: String,
    /// What a source must let be seen; of several with ` or ` between them one will do.
    pub needs: Vec<String>,
    /// Per source.
    pub by_source: BTreeMap<String, MatrixCell>,
}

/// Whether a source can show a metric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MatrixCell {
    /// `yes`; `partial`, a figure that may miss some; `no`, the metric is n/a.
    pub observable: String,
    /// Needs that the source does not meet.
    pub missing: Vec<String>,
    /// Why it is not `yes`; empty where it is.
    pub why: String,
}

impl Reports {
    /// Every metric, held against every source that the store knows.
    pub async fn matrix(&self) -> Result<Matrix, StoreError> {
        let (definitions, cells) =
            tokio::try_join!(self.definitions(), self.store.source_metrics())?;
        let mut by_metric: BTreeMap<String, BTreeMap<String, MatrixCell>> = BTreeMap::new();
        let mut sources: Vec<MatrixSource> = Vec::new();
        for cell in cells {
            if sources.last().is_none_or(|last| last.source != cell.source) {
                let known = self.catalog.get(&cell.source);
                sources.push(MatrixSource {
                    title: known
                        .map_or(cell.source.as_str(), |of| of.title())
                        .to_owned(),
                    source: cell.source.clone(),
                });
            }
            by_metric.entry(cell.metric).or_default().insert(
                cell.source,
                MatrixCell {
                    observable: cell.observable,
                    missing: cell.missing,
                    why: cell.why,
                },
            );
        }
        let metrics = definitions
            .iter()
            .cloned()
            .map(|of| MatrixMetric {
                by_source: by_metric.remove(&of.metric).unwrap_or_default(),
                metric: of.metric,
                version: of.version,
                title: of.title,
                kind: of.kind,
                unit: of.unit,
                cohort: of.cohort,
                formula: of.formula,
                needs: of.needs,
            })
            .collect();
        Ok(Matrix { sources, metrics })
    }
}

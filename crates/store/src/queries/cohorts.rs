//! Conversation metrics, by cohorts: the conversations that started in a span.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::figures::{self, Cohort as CohortRow, ELEMENTS};
use super::{Span, Unit, Window, brief};
use crate::Store;
use crate::error::StoreError;

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

/// How a report takes the conversations of a span apart. Each is a breakdown of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Breakdown {
    /// All together, and each source.
    Source,
    /// By the unit of time in which they started.
    Time,
    /// By widget: the largest; what was not among the 50 most frequent of its source and unit, or is
    /// not among the largest of the span, is `(other)`; empty where none is told, `(several)`
    /// where one conversation had more than one.
    Widget,
    /// By language, in the same way.
    Language,
}

impl Breakdown {
    /// All of them.
    pub const ALL: [Breakdown; 4] = [
        Breakdown::Source,
        Breakdown::Time,
        Breakdown::Widget,
        Breakdown::Language,
    ];

    /// Of `conversation_rollup`.
    pub(super) fn dimension(self) -> &'static str {
        match self {
            Breakdown::Source | Breakdown::Time => "",
            Breakdown::Widget => "widget",
            Breakdown::Language => "language",
        }
    }
}

/// A metric of a group of conversations, by the cohort of their start.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// How the conversations are taken apart.
    pub breakdown: Breakdown,
    /// Source, in [`Breakdown::Source`]; none for all sources together.
    pub source: Option<String>,
    /// Start of the unit, in [`Breakdown::Time`].
    pub at_ms: Option<i64>,
    /// Widget or language, in those breakdowns.
    pub value: Option<String>,
    /// Name, as in schemas/clickhouse/README.md.
    pub metric: String,
    /// `count`, `rate` (0 to 1), `score` (-1 to 1) or `duration`.
    pub kind: String,
    /// False where no source of the group can show the metric: then it has no values.
    pub observable: bool,
    /// Conversations, or durations, that the figure is made of.
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
    /// True where time or open conversations can still change it: its window is not over, or a
    /// conversation is open, or (`reopen_rate`) a close is less than 7 days old. Late events can change
    /// every figure; a change of one that was not provisional is a [`Restatement`].
    pub provisional: bool,
}

/// Every metric of the cohorts of a span, and how far they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// How far they are.
    pub state: CohortState,
    /// In the order of breakdowns, groups and metrics.
    pub figures: Vec<Figure>,
}

/// How far the cohorts of a span are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CohortState {
    /// When conversations were judged by the last roll-up; none before the first.
    pub as_of_ms: Option<i64>,
    /// Conversations.
    pub conversations: u64,
    /// Of these not closed.
    pub open: u64,
    /// When the last open conversation closes if it stays silent; none without an open one.
    pub settles_at_ms: Option<i64>,
    /// When the last close is 7 days old; none where that has passed for all.
    pub reopen_settles_at_ms: Option<i64>,
}

/// A figure of a past day that was settled and is now another, and why.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct Restatement {
    /// Start of the day.
    pub day_ms: i64,
    /// Source.
    pub source: String,
    /// Metric.
    pub metric: String,
    /// `count`, `rate`, `score` or `duration`.
    pub kind: String,
    /// Conversations, or durations, that the old figure was made of.
    pub old_n: u64,
    /// The same of the new one.
    pub new_n: u64,
    /// Old count, or numerator of a rate or score.
    pub old_numerator: Option<i64>,
    /// The new one.
    pub new_numerator: Option<i64>,
    /// Old denominator of a rate or score.
    pub old_denominator: Option<i64>,
    /// The new one.
    pub new_denominator: Option<i64>,
    /// Old median of a duration; milliseconds.
    pub old_median_ms: Option<f64>,
    /// The new one.
    pub new_median_ms: Option<f64>,
    /// As of when the old figure was judged.
    pub settled_as_of_ms: i64,
    /// As of when the new one was.
    pub restated_as_of_ms: i64,
    /// Why: accepted events of the day's conversations that became queryable in between.
    pub late_events: u64,
    /// The first of them occurred then.
    pub first_occurred_ms: Option<i64>,
    /// The last of them occurred then.
    pub last_occurred_ms: Option<i64>,
    /// The last of them was received then.
    pub last_received_ms: Option<i64>,
}

impl Store {
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

    /// Every metric of the conversations of the tenant that started in the span (hours or days), as of
    /// the last roll-up, in each of the breakdowns; and how far these cohorts are.
    pub async fn figures(
        &self,
        tenant: &str,
        span: Span,
        breakdowns: &[Breakdown],
    ) -> Result<Figures, StoreError> {
        // How far they are is told by those that are not taken apart.
        let mut dimensions: Vec<&str> = breakdowns.iter().map(|of| of.dimension()).collect();
        dimensions.push("");
        dimensions.sort_unstable();
        dimensions.dedup();
        let (as_of_ms, cohorts) = tokio::try_join!(
            self.rolled_up_as_of(),
            self.cohorts(tenant, span, dimensions),
        )?;
        Ok(Figures {
            figures: figures::merge(&cohorts, breakdowns, (span, as_of_ms)),
            state: figures::state(&cohorts, as_of_ms),
        })
    }

    /// When conversations were judged by the last roll-up that was done; none before the first.
    async fn rolled_up_as_of(&self) -> Result<Option<i64>, StoreError> {
        let query = brief(self.client.query(
            "SELECT toUnixTimestamp64Milli(as_of) FROM rollup_runs ORDER BY read_at DESC LIMIT 1",
        ));
        self.within("reading the last roll-up", query.fetch_optional())
            .await
    }

    /// The cohorts of a tenant in a span by these dimensions, as they stand in their table: ClickHouse takes
    /// longer to plan an expression than to read the rows.
    async fn cohorts(
        &self,
        tenant: &str,
        span: Span,
        dimensions: Vec<&str>,
    ) -> Result<Vec<CohortRow>, StoreError> {
        let sql = format!(
            "SELECT dimension, source, cohort, open, settles_at, reopen_settles_at,
                    CAST(figures, '{ELEMENTS}') AS figures
             FROM conversation_rollup FINAL
             WHERE tenant = ? AND unit = '{}' AND dimension IN ? AND {}",
            span.unit.cohorts(),
            span.on("cohort"),
        );
        let query = brief(self.client.query(&sql).bind(tenant).bind(dimensions));
        self.within("reading metrics", query.fetch_all()).await
    }

    /// Restated figures of the days in the window, the newest restatement first, from `skip` on.
    pub async fn restatements(
        &self,
        tenant: &str,
        window: Window,
        (skip, limit): (u64, u32),
    ) -> Result<Vec<Restatement>, StoreError> {
        let days = Span {
            window,
            unit: Unit::Day,
        };
        let sql = format!(
            "SELECT toInt64(toUnixTimestamp(r.day)) * 1000 AS day_ms, r.source AS source, r.metric AS metric,
                    r.kind AS kind, old_n, new_n, old_numerator, new_numerator, old_denominator, new_denominator,
                    old_median_ms, new_median_ms,
                    toUnixTimestamp64Milli(r.settled_as_of) AS settled_as_of_ms,
                    toUnixTimestamp64Milli(r.restated_as_of) AS restated_as_of_ms,
                    late_events,
                    toUnixTimestamp64Milli(r.first_occurred_at) AS first_occurred_ms,
                    toUnixTimestamp64Milli(r.last_occurred_at) AS last_occurred_ms,
                    toUnixTimestamp64Milli(r.last_received_at) AS last_received_ms
             FROM restatements AS r FINAL
             WHERE r.tenant = ? AND {}
             ORDER BY restated_as_of_ms DESC, day_ms DESC, source, metric, settled_as_of_ms DESC
             LIMIT ? OFFSET ?",
            days.on_days("r.day"),
        );
        let query = brief(self.client.query(&sql).bind(tenant).bind(limit).bind(skip));
        self.within("reading restatements", query.fetch_all()).await
    }
}

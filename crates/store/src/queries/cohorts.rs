//! Conversation metrics, by cohorts: the conversations that started in a span.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Unit, Window, brief};
use crate::Store;
use crate::error::StoreError;
use crate::rollup::SETTLING_MS;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A metric of a group of conversations, by the cohort of their start.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct Figure {
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

/// How far the cohorts of a span are.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct CohortState {
    /// As of when the oldest of its figures was judged; none where there is no cohort.
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

/// Most groups of a breakdown by widget or language, `(other)` among them.
const MAX_GROUPS: u32 = 100;

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
    /// the last roll-up.
    pub async fn figures(
        &self,
        tenant: &str,
        span: Span,
        breakdown: Breakdown,
    ) -> Result<Vec<Figure>, StoreError> {
        let by_value = |dimension| (dimension, by_value(span, dimension), "value, metric, kind");
        let (dimension, keys, groups) = match breakdown {
            Breakdown::Source => (
                "",
                "toNullable(toString(r.source)) AS source, NULL AS at_ms, NULL AS value".to_owned(),
                "GROUPING SETS ((source, metric, kind), (metric, kind))",
            ),
            Breakdown::Time => (
                "",
                "NULL AS source, toNullable(toInt64(toUnixTimestamp(r.cohort)) * 1000) AS at_ms, NULL AS value"
                    .to_owned(),
                "at_ms, metric, kind",
            ),
            Breakdown::Widget => by_value("widget"),
            Breakdown::Language => by_value("language"),
        };
        let rows = cohorts(span, dimension);
        let unit_ms = span.unit.ms();
        let until_ms = span.window.until_ms;
        // Of a unit of time its own end counts, else that of the window.
        let until_ms = if breakdown == Breakdown::Time {
            0
        } else {
            until_ms
        };
        let sql = format!(
            "WITH (SELECT toUnixTimestamp64Milli(as_of) FROM rollup_runs ORDER BY read_at DESC LIMIT 1) AS as_of_ms
             SELECT CAST(source AS Nullable(String)) AS source, CAST(at_ms AS Nullable(Int64)) AS at_ms,
                    CAST(value AS Nullable(String)) AS value, metric, kind,
                    toBool(observed > 0) AS observable,
                    if(kind = 'duration', durations, observed) AS n,
                    if(kind = 'duration', NULL, numerator) AS numerator,
                    denominator,
                    if(kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
                    if(durations > 0, quantiles[1], NULL) AS median_ms,
                    if(durations > 0, quantiles[2], NULL) AS p90_ms,
                    if(durations > 0, quantiles[3], NULL) AS p95_ms,
                    toBool(ifNull(changing, 1)) AS provisional
             FROM (
                 SELECT {keys}, toString(r.f.1) AS metric, toString(r.f.2) AS kind,
                        sum(r.f.3) AS observed, sum(r.f.4) AS numerator, sum(r.f.5) AS denominator,
                        sum(length(r.f.6)) AS durations,
                        quantilesExactInclusiveArray(0.5, 0.9, 0.95)(r.f.6) AS quantiles,
                        max(r.open > 0 OR (metric = 'reopen_rate' AND r.reopen_settles_at IS NOT NULL)
                            OR greatest(toInt64(toUnixTimestamp(r.cohort)) * 1000 + {unit_ms}, {until_ms}) + {SETTLING_MS}
                               > as_of_ms) AS changing
                 FROM ({rows}) AS r
                 GROUP BY {groups})",
        );
        let sql =
            format!("SELECT * FROM ({sql}) ORDER BY source NULLS FIRST, at_ms, value, metric");
        let mut query = brief(self.client.query(&sql).bind(tenant));
        if matches!(breakdown, Breakdown::Widget | Breakdown::Language) {
            query = query.bind(tenant);
        }
        self.within("reading metrics", query.fetch_all()).await
    }

    /// How far the cohorts of the span are.
    pub async fn cohort_state(&self, tenant: &str, span: Span) -> Result<CohortState, StoreError> {
        let sql = format!(
            "SELECT (SELECT toNullable(toUnixTimestamp64Milli(as_of)) FROM rollup_runs ORDER BY read_at DESC LIMIT 1)
                        AS as_of_ms,
                    sum(r.conversations) AS conversations, sum(r.open) AS open,
                    toUnixTimestamp64Milli(max(r.settles_at)) AS settles_at_ms,
                    toUnixTimestamp64Milli(max(r.reopen_settles_at)) AS reopen_settles_at_ms
             FROM conversation_rollup AS r FINAL
             WHERE r.tenant = ? AND r.unit = '{}' AND r.dimension = '' AND {}",
            span.unit.cohorts(),
            span.on("r.cohort"),
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading the state of cohorts", query.fetch_one())
            .await
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
        let query = self.client.query(&sql).bind(tenant).bind(limit).bind(skip);
        self.within("reading restatements", query.fetch_all()).await
    }
}

/// The columns of a figure by widget or language: the largest groups, and `(other)` for the rest, so
/// that together they are all. Of a tenant, to be bound.
fn by_value(span: Span, dimension: &str) -> String {
    let (unit, inside) = (span.unit.cohorts(), span.on("cohort"));
    let apart = MAX_GROUPS - 1;
    format!(
        "NULL AS source, NULL AS at_ms,
         toNullable(if(has((
             SELECT groupArray(name) FROM (
                 SELECT toString(figures.value) AS name, sum(figures.conversations) AS size
                 FROM conversation_rollup FINAL ARRAY JOIN figures
                 WHERE tenant = ? AND unit = '{unit}' AND dimension = '{dimension}' AND {inside}
                   AND name != '(other)'
                 GROUP BY name ORDER BY size DESC, name LIMIT {apart})), r.name), r.name, '(other)')) AS value"
    )
}

/// Rows of `conversation_rollup` of a tenant (to be bound) in a span, one per figure: `f` is metric,
/// kind, observed, numerator, denominator and durations, `name` the group that it is of.
pub(super) fn cohorts(span: Span, dimension: &str) -> String {
    let (unit, inside) = (span.unit.cohorts(), span.on("cohort"));
    format!(
        "SELECT source, cohort, open, reopen_settles_at, toString(g.value) AS name, f
         FROM conversation_rollup FINAL
         ARRAY JOIN figures AS g
         ARRAY JOIN arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations) AS f
         WHERE tenant = ? AND unit = '{unit}' AND dimension = '{dimension}' AND {inside}"
    )
}

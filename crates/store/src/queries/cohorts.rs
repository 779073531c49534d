//! Conversation metrics, by cohorts: the conversations that started in a span.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Window};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breakdown {
    /// All together, and each source.
    Source,
    /// By the unit of time in which they started.
    Time,
    /// By widget: at most 50 per source, the rest is `(other)`; empty where none is told, `(several)`
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

/// Most groups of a breakdown by widget or language.
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

    /// Every metric of the conversations of the tenant that started in the span (hours or days).
    pub async fn figures(
        &self,
        tenant: &str,
        span: Span,
        breakdown: Breakdown,
    ) -> Result<Vec<Figure>, StoreError> {
        let unit = span.unit.start_of();
        let (source, at, value) = match breakdown {
            Breakdown::Source => ("toNullable(toString(m.source))", "NULL", "NULL"),
            Breakdown::Time => (
                "NULL",
                "toNullable(toInt64(toUnixTimestamp(UNIT(m.started_at))) * 1000)",
                "NULL",
            ),
            Breakdown::Widget => ("NULL", "NULL", "toNullable(v.widget)"),
            Breakdown::Language => ("NULL", "NULL", "toNullable(v.language)"),
        };
        let at = at.replace("UNIT", unit);
        let groups = if breakdown == Breakdown::Source {
            "GROUPING SETS ((source, metric, kind), (metric, kind))"
        } else {
            "source, at_ms, value, metric, kind"
        };
        let sql = format!(
            "WITH fromUnixTimestamp64Milli(toInt64(?), 'UTC') AS since,
                  fromUnixTimestamp64Milli(toInt64(?), 'UTC') AS until
             SELECT
                 CAST({source} AS Nullable(String)) AS source,
                 CAST({at} AS Nullable(Int64)) AS at_ms,
                 CAST({value} AS Nullable(String)) AS value,
                 m.metric AS metric,
                 m.kind AS kind,
                 countIf(m.numerator IS NOT NULL) > 0 AS observable,
                 if(m.kind = 'duration', countIf(m.duration_ms IS NOT NULL), countIf(m.numerator IS NOT NULL)) AS n,
                 if(m.kind = 'duration', NULL, sum(m.numerator)) AS numerator,
                 sum(m.denominator) AS denominator,
                 if(m.kind IN ('rate', 'score'), numerator / nullIf(denominator, 0), NULL) AS rate,
                 quantilesExactInclusiveIf(0.5, 0.9, 0.95)(assumeNotNull(m.duration_ms), m.duration_ms IS NOT NULL) AS quantiles,
                 if(m.kind = 'duration' AND n > 0, quantiles[1], NULL) AS median_ms,
                 if(m.kind = 'duration' AND n > 0, quantiles[2], NULL) AS p90_ms,
                 if(m.kind = 'duration' AND n > 0, quantiles[3], NULL) AS p95_ms,
                 until + INTERVAL 7 DAY > now64(3) AS provisional
             FROM conversation_metrics_as_of(as_of = now64(3, 'UTC')) AS m
             LEFT JOIN (
                 SELECT tenant, source, conversation_id,
                        multiIf(empty(widgets), '', length(widgets) > 1, '(several)', widgets[1]) AS widget,
                        multiIf(empty(languages), '', length(languages) > 1, '(several)', languages[1]) AS language
                 FROM conversations WHERE tenant = ?
             ) AS v ON v.tenant = m.tenant AND v.source = m.source AND v.conversation_id = m.conversation_id
             WHERE m.tenant = ? AND m.started_at >= since AND m.started_at < until
             GROUP BY {groups}
             ORDER BY source NULLS FIRST, at_ms, value, metric
             LIMIT {MAX_GROUPS} BY metric
             SETTINGS group_by_use_nulls = 1"
        );
        let sql = format!(
            "SELECT source, at_ms, value, assumeNotNull(metric) AS metric, assumeNotNull(kind) AS kind, observable, n, numerator, denominator, rate,
                    median_ms, p90_ms, p95_ms, provisional FROM ({sql})"
        );
        let query = self
            .client
            .query(&sql)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms)
            .bind(tenant)
            .bind(tenant);
        self.within("reading metrics", query.fetch_all()).await
    }

    /// How far the cohorts of the span are.
    pub async fn cohort_state(&self, tenant: &str, span: Span) -> Result<CohortState, StoreError> {
        let query = self
            .client
            .query(
                "SELECT if(count() > 0, toUnixTimestamp64Milli(now64(3)), NULL) AS as_of_ms,
                        count() AS conversations,
                        countIf(NOT is_closed) AS open,
                        CAST(NULL AS Nullable(Int64)) AS settles_at_ms,
                        CAST(NULL AS Nullable(Int64)) AS reopen_settles_at_ms
                 FROM conversations AS c
                 WHERE c.tenant = ? AND c.started_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND c.started_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')",
            )
            .bind(tenant)
            .bind(span.window.since_ms)
            .bind(span.window.until_ms);
        self.within("reading the state of cohorts", query.fetch_one())
            .await
    }

    /// Restated figures of the days in the window, the newest restatement first, from `skip` on.
    pub async fn restatements(
        &self,
        _tenant: &str,
        _window: Window,
        (_skip, _limit): (u64, u32),
    ) -> Result<Vec<Restatement>, StoreError> {
        // Filled with the roll-ups (0006).
        Ok(Vec::new())
    }
}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

    fn name(self) -> &'static str {
        match self {
            Breakdown::Source => "source",
            Breakdown::Time => "time",
            Breakdown::Widget => "widget",
            Breakdown::Language => "language",
        }
    }

    /// Of `conversation_rollup`.
    fn dimension(self) -> &'static str {
        match self {
            Breakdown::Source | Breakdown::Time => "",
            Breakdown::Widget => "widget",
            Breakdown::Language => "language",
        }
    }

    /// The groups that a row `r` which is not taken apart counts in: breakdown, name, time.
    fn places(self) -> Option<&'static str> {
        match self {
            Breakdown::Source => {
                Some("('source', '', toInt64(0)), ('source', r.source, toInt64(0))")
            }
            Breakdown::Time => Some("('time', '', toInt64(toUnixTimestamp(r.cohort)) * 1000)"),
            Breakdown::Widget | Breakdown::Language => None,
        }
    }
}

impl From<Breakdown> for String {
    fn from(breakdown: Breakdown) -> String {
        breakdown.name().to_owned()
    }
}

impl TryFrom<String> for Breakdown {
    type Error = String;

    fn try_from(name: String) -> Result<Breakdown, String> {
        let found = Breakdown::ALL.into_iter().find(|one| one.name() == name);
        found.ok_or_else(|| format!("there is no breakdown {name:?}"))
    }
}

/// A metric of a group of conversations, by the cohort of their start.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
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
    /// the last roll-up, in each of the breakdowns.
    pub async fn figures(
        &self,
        tenant: &str,
        span: Span,
        breakdowns: &[Breakdown],
    ) -> Result<Vec<Figure>, StoreError> {
        let dimensions: Vec<String> = breakdowns
            .iter()
            .map(|breakdown| format!("'{}'", breakdown.dimension()))
            .collect();
        let dimensions = dimensions.join(", ");
        let places: Vec<&str> = breakdowns
            .iter()
            .filter_map(|breakdown| breakdown.places())
            .collect();
        let rows = cohorts(span, &dimensions);
        let (unit, inside) = (span.unit.cohorts(), span.on("cohort"));
        let (unit_ms, until_ms) = (span.unit.ms(), span.window.until_ms);
        let apart = MAX_GROUPS - 1;
        // All questions in one: to plan it takes longer than to answer it.
        let sql = format!(
            "WITH
                 (SELECT toUnixTimestamp64Milli(as_of) FROM rollup_runs ORDER BY read_at DESC LIMIT 1) AS as_of_ms,
                 (SELECT groupArray((dimension, name)) FROM (
                      SELECT toString(dimension) AS dimension, toString(figures.value) AS name,
                             sum(figures.conversations) AS size
                      FROM conversation_rollup FINAL ARRAY JOIN figures
                      WHERE tenant = ? AND unit = '{unit}' AND dimension IN ({dimensions}) AND dimension != '' AND {inside}
                        AND name != '(other)'
                      GROUP BY dimension, name ORDER BY size DESC, name LIMIT {apart} BY dimension)) AS largest
             SELECT breakdown,
                    if(breakdown = 'source', nullIf(name, ''), NULL) AS source,
                    if(breakdown = 'time', toNullable(at), NULL) AS at_ms,
                    if(breakdown IN ('widget', 'language'), toNullable(name), NULL) AS value,
                    metric, kind,
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
                 SELECT place.1 AS breakdown, place.2 AS name, place.3 AS at,
                        toString(r.f.1) AS metric, toString(r.f.2) AS kind,
                        sum(r.f.3) AS observed, sum(r.f.4) AS numerator, sum(r.f.5) AS denominator,
                        sum(length(r.f.6)) AS durations,
                        quantilesExactInclusiveArray(0.5, 0.9, 0.95)(r.f.6) AS quantiles,
                        -- Of a unit of time its own end counts, else that of the window.
                        max(r.open > 0 OR (metric = 'reopen_rate' AND r.reopen_settles_at IS NOT NULL)
                            OR greatest(toInt64(toUnixTimestamp(r.cohort)) * 1000 + {unit_ms},
                                        if(breakdown = 'time', 0, {until_ms})) + {SETTLING_MS} > as_of_ms) AS changing
                 FROM ({rows}) AS r
                 ARRAY JOIN if(r.dimension = '', [{places}], [(r.dimension,
                     if(has(largest, (r.dimension, r.name)), r.name, '(other)'), toInt64(0))]) AS place
                 GROUP BY breakdown, name, at, metric, kind)
             ORDER BY breakdown, source NULLS FIRST, at_ms, value, metric",
            places = places.join(", "),
        );
        let query = brief(self.client.query(&sql).bind(tenant).bind(tenant));
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

/// Rows of `conversation_rollup` of a tenant (to be bound) in a span, one per figure: `f` is metric,
/// kind, observed, numerator, denominator and durations, `name` the group that it is of. Dimensions as
/// a list in SQL.
pub(super) fn cohorts(span: Span, dimensions: &str) -> String {
    let (unit, inside) = (span.unit.cohorts(), span.on("cohort"));
    format!(
        "SELECT toString(dimension) AS dimension, toString(source) AS source, cohort, open, reopen_settles_at,
                toString(g.value) AS name, f
         FROM conversation_rollup FINAL
         ARRAY JOIN figures AS g
         ARRAY JOIN arrayZip(g.metrics, g.kinds, g.observed, g.numerators, g.denominators, g.durations) AS f
         WHERE tenant = ? AND unit = '{unit}' AND dimension IN ({dimensions}) AND {inside}"
    )
}

//! Conversation metrics of one tenant: overall and by source, time, widget and language, each of the
//! conversations that started in the window.

use std::collections::BTreeMap;

use chatpulse_store::{
    Breakdown, CohortState, Figure, Figures, MetricDefinition, REOPEN_RATE,
    Restatement as RestatedRow, StoreError, Unit,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::{Object, ObjectBuilder, OneOfBuilder, Ref, Schema, Type};

use crate::Reports;
use crate::period::{Period, Span, timestamp, unit_schema};

/// The conversation report of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Conversations {
    /// Tenant.
    pub tenant: String,
    /// The conversations that started in it.
    pub window: Span,
    /// The unit of `by_time`, at whose start the window begins.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// How far the figures are.
    pub state: State,
    /// Sources that have a conversation, by name.
    pub sources: Vec<String>,
    /// Every metric.
    pub metrics: Vec<Metric>,
    /// By the unit of time in which conversations started, all sources together; a unit in which none
    /// did has no group.
    pub by_time: Vec<TimeGroup>,
    /// By widget, most conversations first.
    pub by_widget: Vec<Group>,
    /// By language, most conversations first.
    pub by_language: Vec<Group>,
    /// Figures of past days that were settled and are now others, newest first, at most 50.
    pub restatements: Vec<Restatement>,
}

/// How far the figures are: those of past days settle when their conversations have closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CohortState)]
pub struct State {
    /// As of when the oldest figure was judged; null where there is no conversation.
    pub as_of: Option<Timestamp>,
    /// Conversations.
    pub conversations: u64,
    /// Of these not closed.
    pub open: u64,
    /// When the last open conversation closes if it stays silent; null without an open one.
    pub settles_at: Option<Timestamp>,
    /// When the last close is 7 days old, so that the reopen rate is settled; null where it is.
    pub reopen_settles_at: Option<Timestamp>,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Metric {
    /// Name, as in the views.
    pub metric: String,
    /// Name for people.
    pub title: String,
    /// How it is computed, in words.
    pub formula: String,
    /// True where the window is not over, or conversations that count can still change the figure.
    pub provisional: bool,
    /// Over the sources that can show it; null where none can.
    #[schema(value_type = Option<MetricValue>)]
    pub overall: Option<Value>,
    /// Per source; null where it cannot show it.
    #[schema(schema_with = values_by_source_schema)]
    pub by_source: BTreeMap<String, Option<Value>>,
}

/// The conversations that started in a unit of time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = MetricTimeGroup)]
pub struct TimeGroup {
    /// Start of the unit.
    pub at: Timestamp,
    /// True where a figure of it but `reopen_rate` is provisional; that one settles 7 days after the last
    /// close.
    pub provisional: bool,
    /// Every metric by name; null where no source can show it.
    #[schema(schema_with = values_by_metric_schema)]
    pub metrics: BTreeMap<String, Option<Value>>,
}

/// The conversations of a widget or language.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = MetricGroup)]
pub struct Group {
    /// Widget or language; empty where none is told, `(several)` where one conversation had more than
    /// one, `(other)` for what was not among the 50 most frequent of its source and unit, or is not among
    /// the 99 largest here. So where a source has more than 50 in a unit, a group may lack conversations
    /// that are in `(other)`.
    pub value: String,
    /// True where a figure of it but `reopen_rate` is provisional; that one settles 7 days after the last
    /// close.
    pub provisional: bool,
    /// Every metric by name; null where no source can show it.
    #[schema(schema_with = values_by_metric_schema)]
    pub metrics: BTreeMap<String, Option<Value>>,
}

/// A figure of a past day that was settled and is now another, and why.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Restatement {
    /// Start of the day, UTC.
    pub day: Timestamp,
    /// Source.
    pub source: String,
    /// Metric.
    pub metric: String,
    /// What it was; of a duration, the median alone.
    #[schema(value_type = Option<MetricValue>)]
    pub was: Option<Value>,
    /// What it is now.
    #[schema(value_type = Option<MetricValue>)]
    pub is: Option<Value>,
    /// As of when the old figure was judged.
    pub settled_as_of: Timestamp,
    /// As of when the new one was.
    pub restated_as_of: Timestamp,
    /// Why: accepted events of the day's conversations that became queryable in between.
    pub late_events: u64,
    /// When the first of them occurred.
    pub first_occurred: Option<Timestamp>,
    /// When the last of them occurred.
    pub last_occurred: Option<Timestamp>,
    /// When the last of them was received.
    pub last_received: Option<Timestamp>,
}

/// utoipa takes any type of the name `Value` for one that can be anything.
use self::Value as MetricValue;

fn values_by_source_schema() -> Object {
    values_schema("By source; null where it cannot show the metric.")
}

fn values_by_metric_schema() -> Object {
    values_schema("By the metric's name; null where no source of the group can show it.")
}

/// The schema of a map of values that may be null, which utoipa cannot derive.
fn values_schema(description: &str) -> Object {
    let null = ObjectBuilder::new().schema_type(Type::Null);
    let value = Ref::from_schema_name(MetricValue::name());
    let either = Schema::OneOf(OneOfBuilder::new().item(null).item(value).build());
    ObjectBuilder::new()
        .description(Some(description))
        .additional_properties(Some(either))
        .build()
}

/// What a metric comes to.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = MetricValue)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Value {
    /// A sum.
    Count {
        /// The sum.
        count: i64,
    },
    /// A share of something.
    Rate {
        /// Those that have the property.
        numerator: i64,
        /// Those that could have it.
        denominator: i64,
        /// Their quotient, from 0 to 1; null where nothing could have it.
        rate: Option<f64>,
    },
    /// Promoters less detractors.
    Score {
        /// Promoters less detractors.
        numerator: i64,
        /// Scores.
        denominator: i64,
        /// Their quotient, from -1 to 1; null without a score.
        score: Option<f64>,
    },
    /// A distribution; its values are null where `n` is 0.
    Duration {
        /// How many durations.
        n: u64,
        /// Median; milliseconds.
        median_ms: Option<f64>,
        /// 90th percentile; milliseconds.
        p90_ms: Option<f64>,
        /// 95th percentile; milliseconds.
        p95_ms: Option<f64>,
    },
}

/// How many restatements a report shows.
const RESTATEMENTS: u32 = 50;

impl Reports {
    /// Every metric of the conversations of the tenant that started in the period.
    pub async fn conversations(
        &self,
        tenant: &str,
        period: Period,
    ) -> Result<Conversations, StoreError> {
        let (store, span) = (&self.store, period.cohorts());
        let (definitions, Figures { state, mut figures }, restated) = tokio::try_join!(
            self.definitions(),
            store.figures(tenant, span, &Breakdown::ALL),
            store.restatements(tenant, span.window, (0, RESTATEMENTS)),
        )?;
        let mut by = |breakdown| -> Vec<Figure> {
            figures
                .extract_if(.., |figure| figure.breakdown == breakdown)
                .collect()
        };
        let (sources, metrics) = metrics(definitions, &by(Breakdown::Source));
        Ok(Conversations {
            tenant: tenant.to_owned(),
            window: span.window.into(),
            unit: span.unit,
            state: state.into(),
            sources,
            metrics,
            by_time: grouped(&by(Breakdown::Time), |figure| figure.at_ms)
                .into_iter()
                .map(|(at_ms, provisional, metrics)| TimeGroup {
                    at: timestamp(at_ms),
                    provisional,
                    metrics,
                })
                .collect(),
            by_widget: groups(&by(Breakdown::Widget)),
            by_language: groups(&by(Breakdown::Language)),
            restatements: restated.into_iter().map(Restatement::from).collect(),
        })
    }
}

/// What to group conversations by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricsBy {
    /// All together.
    Overall,
    /// The source.
    Source,
    /// The unit of time in which they started.
    Time,
    /// The widget.
    Widget,
    /// The language.
    Language,
}

/// Every metric of conversations, in groups.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MetricGroups {
    /// Tenant.
    pub tenant: String,
    /// The conversations that started in it.
    pub window: Span,
    /// The unit of groups by time.
    #[schema(schema_with = unit_schema)]
    pub unit: Unit,
    /// How far the figures are.
    pub state: State,
    /// What the groups are by.
    pub by: MetricsBy,
    /// By source and time in their order; by widget and language most conversations first.
    pub groups: Vec<KeyedGroup>,
}

/// The metrics of one group.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = MetricKeyedGroup)]
pub struct KeyedGroup {
    /// Source, start of the unit of time (RFC 3339), widget or language (empty where none is told,
    /// `(several)` where one conversation had more than one, `(other)` for what was not among the 50 most
    /// frequent of its source and unit, or is not among the 99 largest here); null for all together.
    pub key: Option<String>,
    /// True where a figure of it but `reopen_rate` is provisional; that one settles 7 days after the last
    /// close.
    pub provisional: bool,
    /// Every metric by name; null where no source of the group can show it.
    #[schema(schema_with = values_by_metric_schema)]
    pub metrics: BTreeMap<String, Option<Value>>,
}

impl Reports {
    /// Every metric of the conversations of the tenant that started in the period, in groups.
    pub async fn metrics_by(
        &self,
        tenant: &str,
        period: Period,
        by: MetricsBy,
    ) -> Result<MetricGroups, StoreError> {
        let (store, span) = (&self.store, period.cohorts());
        let breakdown = match by {
            MetricsBy::Overall | MetricsBy::Source => [Breakdown::Source],
            MetricsBy::Time => [Breakdown::Time],
            MetricsBy::Widget => [Breakdown::Widget],
            MetricsBy::Language => [Breakdown::Language],
        };
        let Figures { state, figures } = store.figures(tenant, span, &breakdown).await?;
        let keyed = |(key, provisional, metrics)| KeyedGroup {
            key,
            provisional,
            metrics,
        };
        let groups = match by {
            MetricsBy::Overall => grouped(&figures, |f| f.source.is_none().then_some(None))
                .into_iter()
                .map(keyed)
                .collect(),
            MetricsBy::Source => grouped(&figures, |f| f.source.clone().map(Some))
                .into_iter()
                .map(keyed)
                .collect(),
            MetricsBy::Time => grouped(&figures, |f| f.at_ms)
                .into_iter()
                .map(|(at, p, metrics)| keyed((Some(timestamp(at).to_string()), p, metrics)))
                .collect(),
            MetricsBy::Widget | MetricsBy::Language => groups(&figures)
                .into_iter()
                .map(|group| keyed((Some(group.value), group.provisional, group.metrics)))
                .collect(),
        };
        Ok(MetricGroups {
            tenant: tenant.to_owned(),
            window: span.window.into(),
            unit: span.unit,
            state: state.into(),
            by,
            groups,
        })
    }

    /// Restated figures of the tenant's days in the period, newest first: so many are skipped, and at
    /// most so many given.
    pub async fn restatements(
        &self,
        tenant: &str,
        period: Period,
        part: (u64, u32),
    ) -> Result<Vec<Restatement>, StoreError> {
        let window = period.cohorts().window;
        let found = self.store.restatements(tenant, window, part).await?;
        Ok(found.into_iter().map(Restatement::from).collect())
    }
}

impl From<CohortState> for State {
    fn from(state: CohortState) -> State {
        State {
            as_of: state.as_of_ms.map(timestamp),
            conversations: state.conversations,
            open: state.open,
            settles_at: state.settles_at_ms.map(timestamp),
            reopen_settles_at: state.reopen_settles_at_ms.map(timestamp),
        }
    }
}

impl Conversations {
    /// Whether there may be more restatements than are shown.
    pub(crate) fn shows_newest_restatements(&self) -> bool {
        self.restatements.len() >= RESTATEMENTS as usize
    }
}

/// The sources, and every metric over all of them and of each.
fn metrics(definitions: &[MetricDefinition], figures: &[Figure]) -> (Vec<String>, Vec<Metric>) {
    let mut sources: Vec<String> = figures
        .iter()
        .filter_map(|row| row.source.clone())
        .collect();
    sources.sort();
    sources.dedup();
    let find = |metric: &str, source: Option<&str>| {
        figures
            .iter()
            .find(|row| row.metric == metric && row.source.as_deref() == source)
    };
    let metrics = definitions
        .iter()
        .map(|definition| {
            let metric = definition.metric.clone();
            let overall = find(&metric, None);
            Metric {
                title: definition.title.clone(),
                formula: definition.formula.clone(),
                provisional: overall.is_some_and(|figure| figure.provisional),
                overall: overall.and_then(value),
                by_source: sources
                    .iter()
                    .map(|source| (source.clone(), find(&metric, Some(source)).and_then(value)))
                    .collect(),
                metric,
            }
        })
        .collect();
    (sources, metrics)
}

/// Figures by a key, in its order: whether one of them but the reopen rate is provisional, and all by
/// the metric's name.
type Keyed<K> = Vec<(K, bool, BTreeMap<String, Option<Value>>)>;

fn grouped<K: Ord>(figures: &[Figure], key: impl Fn(&Figure) -> Option<K>) -> Keyed<K> {
    let mut groups = BTreeMap::new();
    for figure in figures {
        if let Some(key) = key(figure) {
            let (provisional, metrics) = groups.entry(key).or_insert((false, BTreeMap::new()));
            // It settles a week later than the others, which are final meanwhile.
            *provisional |= figure.provisional && figure.metric != REOPEN_RATE;
            metrics.insert(figure.metric.clone(), value(figure));
        }
    }
    groups
        .into_iter()
        .map(|(key, (provisional, metrics))| (key, provisional, metrics))
        .collect()
}

fn groups(figures: &[Figure]) -> Vec<Group> {
    let mut groups: Vec<Group> = grouped(figures, |figure| figure.value.clone())
        .into_iter()
        .map(|(value, provisional, metrics)| Group {
            value,
            provisional,
            metrics,
        })
        .collect();
    let conversations = |group: &Group| match group.metrics.get("conversations") {
        Some(Some(Value::Count { count })) => *count,
        _ => 0,
    };
    groups.sort_by_key(|group| std::cmp::Reverse(conversations(group)));
    groups
}

fn value(figure: &Figure) -> Option<Value> {
    if !figure.observable {
        return None;
    }
    let numerator = figure.numerator.unwrap_or(0);
    let denominator = figure.denominator.unwrap_or(0);
    Some(match figure.kind.as_str() {
        "duration" => Value::Duration {
            n: figure.n,
            median_ms: figure.median_ms,
            p90_ms: figure.p90_ms,
            p95_ms: figure.p95_ms,
        },
        "rate" => Value::Rate {
            numerator,
            denominator,
            rate: figure.rate,
        },
        "score" => Value::Score {
            numerator,
            denominator,
            score: figure.rate,
        },
        _ => Value::Count { count: numerator },
    })
}

impl From<RestatedRow> for Restatement {
    fn from(row: RestatedRow) -> Restatement {
        let figure = |n, numerator: Option<i64>, denominator: Option<i64>, median_ms| Figure {
            breakdown: Breakdown::Source,
            source: None,
            at_ms: None,
            value: None,
            metric: String::new(),
            kind: row.kind.clone(),
            // A duration that changed can be shown, also where there was none to measure before.
            observable: row.kind == "duration" || n > 0 || numerator.is_some(),
            n,
            numerator,
            denominator,
            rate: numerator
                .zip(denominator)
                .filter(|(_, denominator)| *denominator != 0)
                .map(|(numerator, denominator)| numerator as f64 / denominator as f64),
            median_ms,
            p90_ms: None,
            p95_ms: None,
            provisional: false,
        };
        Restatement {
            was: value(&figure(
                row.old_n,
                row.old_numerator,
                row.old_denominator,
                row.old_median_ms,
            )),
            is: value(&figure(
                row.new_n,
                row.new_numerator,
                row.new_denominator,
                row.new_median_ms,
            )),
            day: timestamp(row.day_ms),
            source: row.source,
            metric: row.metric,
            settled_as_of: timestamp(row.settled_as_of_ms),
            restated_as_of: timestamp(row.restated_as_of_ms),
            late_events: row.late_events,
            first_occurred: row.first_occurred_ms.map(timestamp),
            last_occurred: row.last_occurred_ms.map(timestamp),
            last_received: row.last_received_ms.map(timestamp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(source: Option<&str>, metric: &str, kind: &str) -> Figure {
        Figure {
            breakdown: Breakdown::Source,
            source: source.map(str::to_owned),
            at_ms: None,
            value: None,
            metric: metric.into(),
            kind: kind.into(),
            observable: true,
            n: 4,
            numerator: Some(1),
            denominator: Some(4),
            rate: Some(0.25),
            median_ms: None,
            p90_ms: None,
            p95_ms: None,
            provisional: false,
        }
    }

    #[test]
    fn what_a_source_cannot_show_is_null_and_not_zero() {
        let figures = [
            figure(None, "containment_rate", "rate"),
            Figure {
                observable: false,
                numerator: None,
                denominator: None,
                rate: None,
                n: 0,
                ..figure(Some("a"), "containment_rate", "rate")
            },
            figure(Some("b"), "containment_rate", "rate"),
        ];
        let definitions = ["conversations", "containment_rate"].map(|metric| MetricDefinition {
            metric: metric.into(),
            version: 1,
            kind: String::new(),
            unit: String::new(),
            cohort: String::new(),
            title: format!("title of {metric}"),
            formula: String::new(),
            needs: Vec::new(),
        });
        let (sources, metrics) = metrics(&definitions, &figures);
        assert_eq!(sources, ["a", "b"]);
        let containment = metrics
            .iter()
            .find(|m| m.metric == "containment_rate")
            .unwrap();
        assert_eq!(containment.by_source["a"], None);
        let quarter = Value::Rate {
            numerator: 1,
            denominator: 4,
            rate: Some(0.25),
        };
        assert_eq!(containment.by_source["b"], Some(quarter.clone()));
        assert_eq!(containment.overall, Some(quarter));
        let json = serde_json::to_value(&metrics).unwrap();
        assert!(json[1]["by_source"]["a"].is_null());
    }

    #[test]
    fn groups_come_by_their_size_and_are_provisional_where_one_figure_is() {
        let of = |value: &str, count, provisional| Figure {
            value: Some(value.into()),
            numerator: Some(count),
            provisional,
            ..figure(None, "conversations", "count")
        };
        let groups = groups(&[of("small", 1, true), of("large", 9, false)]);
        let seen: Vec<_> = groups
            .iter()
            .map(|g| (g.value.as_str(), g.provisional))
            .collect();
        assert_eq!(seen, [("large", false), ("small", true)]);
    }

    #[test]
    fn a_restated_duration_of_which_there_was_none_was_not_unknown() {
        let row = RestatedRow {
            day_ms: 0,
            source: "a".into(),
            metric: "handle_time".into(),
            kind: "duration".into(),
            old_n: 0,
            new_n: 2,
            old_numerator: None,
            new_numerator: None,
            old_denominator: None,
            new_denominator: None,
            old_median_ms: None,
            new_median_ms: Some(7.0),
            settled_as_of_ms: 1,
            restated_as_of_ms: 2,
            late_events: 1,
            first_occurred_ms: None,
            last_occurred_ms: None,
            last_received_ms: None,
        };
        let of = |n, median_ms| {
            Some(Value::Duration {
                n,
                median_ms,
                p90_ms: None,
                p95_ms: None,
            })
        };
        let restated = Restatement::from(row);
        assert_eq!((restated.was, restated.is), (of(0, None), of(2, Some(7.0))));
    }

    #[test]
    fn a_group_is_not_provisional_for_its_reopen_rate() {
        let mut reopened = figure(None, REOPEN_RATE, "rate");
        reopened.value = Some("a".into());
        reopened.provisional = true;
        assert!(!groups(std::slice::from_ref(&reopened))[0].provisional);
        reopened.metric = "csat".into();
        assert!(groups(&[reopened])[0].provisional);
    }
}

//! Figures of cohorts, put together: pure.
//!
//! ```text
//! cohorts (hour or day, source, widget or language) ─► groups of a breakdown ─► one figure per metric
//! ```
//!
//! Sums are summed and durations gathered, so every percentile is exact. ClickHouse could do it, but to
//! plan that takes it longer than to read the rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use clickhouse::Row;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Span;
use super::cohorts::{Breakdown, CohortState, Figure};
use super::health::GapCount;
use crate::rollup::SETTLING_MS;

/// Most groups of a breakdown by widget or language, `(other)` among them.
const MAX_GROUPS: usize = 100;
/// The group of what is not told apart.
const OTHER: &str = "(other)";
/// The metric that time changes also where no conversation is open.
pub const REOPEN_RATE: &str = "reopen_rate";

/// A row of `conversation_rollup`, as it stands there.
#[derive(Debug, Clone, Default, Row, Deserialize)]
pub(super) struct Cohort {
    /// `widget`, `language`, or empty.
    pub dimension: String,
    pub source: String,
    /// Start of the hour or day; seconds.
    #[serde(rename = "cohort")]
    pub start: u32,
    /// Conversations not closed.
    pub open: u64,
    /// When the last of them closes if it stays silent; milliseconds.
    pub settles_at: Option<i64>,
    /// When the last close is old enough for the reopen rate, where it is not yet; milliseconds.
    pub reopen_settles_at: Option<i64>,
    /// One for each widget or language, or just one.
    pub figures: Vec<Element>,
}

impl Cohort {
    fn start_ms(&self) -> i64 {
        i64::from(self.start) * 1000
    }
}

/// Figures of one widget or language of a cohort. The vectors have an element for each metric.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Columns")]
pub(super) struct Element {
    pub value: String,
    pub conversations: u64,
    pub metrics: Joined,
    pub kinds: Joined,
    pub observed: Vec<u64>,
    pub numerators: Vec<Option<i64>>,
    pub denominators: Vec<Option<i64>>,
    pub durations: Vec<Vec<i64>>,
}

/// Their type, without names, which the client cannot read.
pub(super) const ELEMENTS: &str = "Array(Tuple(LowCardinality(String), UInt64,
    Array(LowCardinality(String)), Array(LowCardinality(String)), Array(UInt64),
    Array(Nullable(Int64)), Array(Nullable(Int64)), Array(Array(Int64))))";

type Columns = (
    String,
    u64,
    Joined,
    Joined,
    Vec<u64>,
    Vec<Option<i64>>,
    Vec<Option<i64>>,
    Vec<Vec<i64>>,
);

impl From<Columns> for Element {
    fn from(columns: Columns) -> Element {
        let (value, conversations, metrics, kinds, observed, numerators, denominators, durations) =
            columns;
        Element {
            value,
            conversations,
            metrics,
            kinds,
            observed,
            numerators,
            denominators,
            durations,
        }
    }
}

/// Names, joined with commas: all rows of one version have the same, so they are compared as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Joined(pub String);

impl<'de> Deserialize<'de> for Joined {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Joined;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Joined, A::Error> {
                let mut joined = String::new();
                while let Some(name) = names.next_element::<&str>()? {
                    if !joined.is_empty() {
                        joined.push(',');
                    }
                    joined.push_str(name);
                }
                Ok(Joined(joined))
            }
        }
        deserializer.deserialize_seq(Names)
    }
}

/// What a group is of, in the order of figures.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    breakdown: Breakdown,
    source: Option<String>,
    at_ms: Option<i64>,
    value: Option<String>,
}

/// A group on its way: sums by the number of the metric.
#[derive(Debug, Default)]
struct Group {
    sums: Vec<Option<Sum>>,
    is_open: bool,
    is_reopening: bool,
    last_start_ms: i64,
}

#[derive(Debug, Default)]
struct Sum {
    observed: u64,
    numerator: Option<i64>,
    denominator: Option<i64>,
    durations: Vec<i64>,
}

/// Names and kinds of metrics, numbered as they are met.
#[derive(Debug, Default)]
struct Metrics {
    all: Vec<(String, String)>,
    numbers: HashMap<(String, String), usize>,
    /// By the joined names, then the joined kinds.
    shapes: HashMap<String, HashMap<String, Vec<usize>>>,
}

impl Metrics {
    /// Numbers of the metrics of a row's element.
    fn of(&mut self, names: &str, kinds: &str) -> &[usize] {
        let known = |shapes: &HashMap<String, HashMap<String, _>>| {
            (shapes.get(names)).is_some_and(|shapes| shapes.contains_key(kinds))
        };
        if !known(&self.shapes) {
            let numbers = (names.split(',').zip(kinds.split(',')))
                .map(|(name, kind)| self.number(name, kind))
                .collect();
            let of_names = self.shapes.entry(names.to_owned()).or_default();
            of_names.insert(kinds.to_owned(), numbers);
        }
        &self.shapes[names][kinds]
    }

    fn number(&mut self, name: &str, kind: &str) -> usize {
        let metric = (name.to_owned(), kind.to_owned());
        *self.numbers.entry(metric.clone()).or_insert_with(|| {
            self.all.push(metric);
            self.all.len() - 1
        })
    }
}

/// Every metric of every group of the breakdowns, in the order of groups and metrics. `as_of_ms`: the
/// last roll-up, if there was one.
pub(super) fn merge(
    cohorts: &[Cohort],
    breakdowns: &[Breakdown],
    (span, as_of_ms): (Span, Option<i64>),
) -> Vec<Figure> {
    let largest = largest(cohorts);
    let mut metrics = Metrics::default();
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for cohort in cohorts {
        for element in &cohort.figures {
            let numbers = metrics.of(&element.metrics.0, &element.kinds.0);
            let value = element.value.as_str();
            let is_apart = largest.contains(&(cohort.dimension.as_str(), value));
            let value = if is_apart { value } else { OTHER };
            for key in keys(cohort, value, breakdowns) {
                groups.entry(key).or_default().add(cohort, element, numbers);
            }
        }
    }
    let mut figures = Vec::new();
    for (key, group) in groups {
        let unit_end_ms = group.last_start_ms + span.unit.ms();
        // Of a unit of time its own end counts, else that of the window.
        let end_ms = match key.breakdown {
            Breakdown::Time => unit_end_ms,
            Breakdown::Source | Breakdown::Widget | Breakdown::Language => {
                unit_end_ms.max(span.window.until_ms)
            }
        };
        let is_settled = as_of_ms.is_some_and(|as_of_ms| end_ms + SETTLING_MS <= as_of_ms);
        let begin = figures.len();
        for (number, sum) in group.sums.into_iter().enumerate() {
            let Some(sum) = sum else { continue };
            let (metric, kind) = &metrics.all[number];
            let is_reopening = group.is_reopening && metric == REOPEN_RATE;
            let provisional = group.is_open || is_reopening || !is_settled;
            figures.push(sum.figure(&key, (metric, kind), provisional));
        }
        figures[begin..].sort_by(|a, b| a.metric.cmp(&b.metric));
    }
    figures
}

/// How far cohorts are: those of them that are not taken apart.
pub(super) fn state(cohorts: &[Cohort], as_of_ms: Option<i64>) -> CohortState {
    let begin = CohortState {
        as_of_ms,
        ..CohortState::default()
    };
    let whole = cohorts.iter().filter(|cohort| cohort.dimension.is_empty());
    whole.fold(begin, |state, cohort| CohortState {
        conversations: state.conversations
            + (cohort.figures.iter().map(|element| element.conversations)).sum::<u64>(),
        open: state.open + cohort.open,
        settles_at_ms: state.settles_at_ms.max(cohort.settles_at),
        reopen_settles_at_ms: state.reopen_settles_at_ms.max(cohort.reopen_settles_at),
        ..state
    })
}

/// What of a row of `conversation_rollup` that is not taken apart tells of message gaps.
#[derive(Debug, Row, Deserialize)]
pub(super) struct Gap {
    pub source: String,
    #[serde(rename = "figures.metrics")]
    pub metrics: Vec<Joined>,
    #[serde(rename = "figures.observed")]
    pub observed: Vec<Vec<u64>>,
    #[serde(rename = "figures.numerators")]
    pub numerators: Vec<Vec<Option<i64>>>,
}

/// Message gaps by source, of the sources that report a total.
pub(super) fn gaps(rows: &[Gap]) -> Vec<GapCount> {
    let mut gaps: BTreeMap<&str, GapCount> = BTreeMap::new();
    for row in rows {
        for (names, (observed, numerators)) in
            (row.metrics.iter()).zip(row.observed.iter().zip(&row.numerators))
        {
            let place = |metric| names.0.split(',').position(|name| name == metric);
            let (Some(missing), Some(with_gap)) =
                (place("messages_missing"), place("conversations_with_gap"))
            else {
                continue;
            };
            let of_source = gaps.entry(&row.source).or_default();
            of_source.conversations += observed[missing];
            of_source.missing += numerators[missing].unwrap_or_default();
            let with_gap = numerators[with_gap].unwrap_or_default();
            of_source.with_gap += u64::try_from(with_gap).unwrap_or_default();
        }
    }
    (gaps.into_iter())
        .filter(|(_, gap)| gap.conversations > 0)
        .map(|(source, gap)| GapCount {
            source: source.to_owned(),
            ..gap
        })
        .collect()
}

/// The widgets and languages that are told apart: those of most conversations.
fn largest(cohorts: &[Cohort]) -> HashSet<(&str, &str)> {
    let mut sizes: HashMap<(&str, &str), u64> = HashMap::new();
    for cohort in cohorts {
        for element in &cohort.figures {
            if element.value != OTHER {
                let name = (cohort.dimension.as_str(), element.value.as_str());
                *sizes.entry(name).or_default() += element.conversations;
            }
        }
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|&((dimension, value), size)| (dimension, std::cmp::Reverse(size), value));
    sizes
        .chunk_by(|((one, _), _), ((other, _), _)| one == other)
        .flat_map(|of_dimension| of_dimension.iter().take(MAX_GROUPS - 1))
        .map(|&(name, _)| name)
        .collect()
}

/// The groups that an element of a row counts in.
fn keys(cohort: &Cohort, value: &str, breakdowns: &[Breakdown]) -> Vec<Key> {
    let key = |breakdown| Key {
        breakdown,
        source: None,
        at_ms: None,
        value: None,
    };
    let mut keys = Vec::new();
    for &breakdown in breakdowns {
        if breakdown.dimension() != cohort.dimension {
            continue;
        }
        match breakdown {
            Breakdown::Source => {
                keys.push(key(breakdown));
                keys.push(Key {
                    source: Some(cohort.source.clone()),
                    ..key(breakdown)
                });
            }
            Breakdown::Time => keys.push(Key {
                at_ms: Some(cohort.start_ms()),
                ..key(breakdown)
            }),
            Breakdown::Widget | Breakdown::Language => keys.push(Key {
                value: Some(value.to_owned()),
                ..key(breakdown)
            }),
        }
    }
    keys
}

impl Group {
    fn add(&mut self, cohort: &Cohort, element: &Element, metrics: &[usize]) {
        self.is_open |= cohort.open > 0;
        self.is_reopening |= cohort.reopen_settles_at.is_some();
        self.last_start_ms = self.last_start_ms.max(cohort.start_ms());
        let last = metrics.iter().copied().max().unwrap_or_default();
        if self.sums.len() <= last {
            self.sums.resize_with(last + 1, || None);
        }
        for (place, &metric) in metrics.iter().enumerate() {
            let sum = self.sums[metric].get_or_insert_default();
            sum.observed += element.observed[place];
            add(&mut sum.numerator, element.numerators[place]);
            add(&mut sum.denominator, element.denominators[place]);
            sum.durations.extend_from_slice(&element.durations[place]);
        }
    }
}

/// As in SQL: nothing and something is something.
fn add(sum: &mut Option<i64>, more: Option<i64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or_default() + more);
    }
}

impl Sum {
    fn figure(mut self, key: &Key, (metric, kind): (&str, &str), provisional: bool) -> Figure {
        self.durations.sort_unstable();
        let percentile = |p| percentile(&self.durations, p);
        let is_duration = kind == "duration";
        let is_share = matches!(kind, "rate" | "score");
        let parts = self.numerator.zip(self.denominator);
        Figure {
            breakdown: key.breakdown,
            source: key.source.clone(),
            at_ms: key.at_ms,
            value: key.value.clone(),
            metric: metric.to_owned(),
            kind: kind.to_owned(),
            observable: self.observed > 0,
            n: if is_duration {
                self.durations.len() as u64
            } else {
                self.observed
            },
            numerator: self.numerator.filter(|_| !is_duration),
            denominator: self.denominator,
            rate: parts
                .filter(|&(_, denominator)| is_share && denominator != 0)
                .map(|(numerator, denominator)| numerator as f64 / denominator as f64),
            median_ms: percentile(0.5),
            p90_ms: percentile(0.9),
            p95_ms: percentile(0.95),
            provisional,
        }
    }
}

/// Of sorted values, between two of them in proportion, as quantileExactInclusive of the views has it,
/// to the last bit; none of none.
fn percentile(sorted: &[i64], p: f64) -> Option<f64> {
    let place = p * (sorted.len().checked_sub(1)?) as f64 + 1.0;
    let below = place.floor();
    let low = *sorted.get(below as usize - 1)? as f64;
    match sorted.get(below as usize) {
        Some(&high) => Some(low + (place - below) * (high as f64 - low)),
        None => Some(low),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Unit, Window};
    use super::*;

    const HOUR: i64 = 3_600_000;
    const SPAN: Span = Span {
        window: Window {
            since_ms: 0,
            until_ms: 2 * HOUR,
        },
        unit: Unit::Hour,
    };

    fn of(dimension: &str, start_ms: i64, values: &[(&str, u64)]) -> Cohort {
        let element = |&(value, size): &(&str, u64)| Element {
            value: value.into(),
            conversations: size,
            metrics: Joined("conversations,handle_time".into()),
            kinds: Joined("count,duration".into()),
            observed: vec![size, size],
            numerators: vec![Some(size as i64), None],
            denominators: vec![None, None],
            durations: vec![vec![], vec![size as i64 * 10]],
        };
        Cohort {
            dimension: dimension.into(),
            source: "loyjoy".into(),
            start: (start_ms / 1000) as u32,
            figures: values.iter().map(element).collect(),
            ..Cohort::default()
        }
    }

    fn counts(figures: &[Figure]) -> Vec<(Option<&str>, Option<i64>)> {
        figures
            .iter()
            .filter(|figure| figure.metric == "conversations")
            .map(|figure| (figure.value.as_deref(), figure.numerator))
            .collect()
    }

    #[test]
    fn beyond_the_largest_groups_all_is_other() {
        let names: Vec<String> = (0..150).map(|number| format!("w{number:03}")).collect();
        let mut values: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        values[149].1 = 7;
        values.push((OTHER, 1_000));
        let cohorts = [of("widget", 0, &values), of("", 0, &[("", 5)])];
        let figures = merge(&cohorts, &[Breakdown::Widget], (SPAN, Some(0)));
        let counts = counts(&figures);
        assert_eq!(counts.len(), MAX_GROUPS);
        assert_eq!(counts[0], (Some(OTHER), Some(1_000 + 2 * 51)));
        assert_eq!(
            counts[99],
            (Some("w149"), Some(7)),
            "the largest has its own"
        );
        assert!(
            !counts.contains(&(Some("w098"), Some(2))),
            "98 of the equal ones by name"
        );
    }

    #[test]
    fn rows_of_two_versions_are_one_group() {
        let mut newer = of("", HOUR, &[("", 4)]);
        newer.figures = vec![Element {
            metrics: Joined("new,handle_time,conversations".into()),
            kinds: Joined("count,duration,count".into()),
            observed: vec![9, 4, 4],
            numerators: vec![Some(9), None, Some(4)],
            denominators: vec![None; 3],
            durations: vec![vec![], vec![30], vec![]],
            ..Element::default()
        }];
        let cohorts = [of("", 0, &[("", 1)]), newer];
        let figures = merge(&cohorts, &[Breakdown::Source], (SPAN, None));
        let all = |metric: &str| {
            let mut of_all = figures.iter().filter(|figure| figure.source.is_none());
            of_all
                .find(|figure| figure.metric == metric)
                .unwrap()
                .clone()
        };
        assert_eq!(all("conversations").numerator, Some(5));
        assert_eq!(all("new").numerator, Some(9));
        assert_eq!(
            (all("handle_time").n, all("handle_time").median_ms),
            (2, Some(20.0))
        );
        assert_eq!(figures.len(), 6);
    }

    #[test]
    fn percentiles_lie_between_values_in_proportion() {
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[7], 0.95), Some(7.0));
        assert_eq!(percentile(&[10, 20], 0.5), Some(15.0));
        assert_eq!(percentile(&[0, 10, 20, 30, 40], 0.9), Some(36.0));
        assert_eq!(percentile(&[0, 10, 20, 30, 40], 1.0), Some(40.0));
    }

    #[test]
    fn a_unit_of_time_settles_by_its_own_end_and_the_whole_with_the_window() {
        let cohorts = [of("", 0, &[("", 1)]), of("", HOUR, &[("", 1)])];
        let as_of = HOUR + SETTLING_MS;
        let provisional = |breakdown| -> Vec<bool> {
            merge(&cohorts, &[breakdown], (SPAN, Some(as_of)))
                .iter()
                .filter(|figure| figure.metric == "conversations")
                .map(|figure| figure.provisional)
                .collect()
        };
        assert_eq!(provisional(Breakdown::Time), [false, true]);
        assert_eq!(provisional(Breakdown::Source), [true, true]);
    }
}

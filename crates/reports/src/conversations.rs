//! Conversation metrics of one tenant, for all sources together and for each.

use std::collections::BTreeMap;

use chatpulse_store::{Cohort, MetricRow, Store, StoreError, Window};
use jiff::Timestamp;
use serde::Serialize;

use crate::period::{Period, Span, timestamp};

/// Every metric, in the order in which reports show them, and what it is called.
pub(crate) const TITLES: [(&str, &str); 28] = [
    ("conversations", "Conversations"),
    ("total_messages", "Messages"),
    ("visitor_messages", "… of visitors"),
    ("bot_messages", "… of the bot"),
    ("agent_messages", "… of human agents"),
    ("reported_total", "Messages by the vendor's count"),
    ("message_gap", "Message gap (vendor's count − seen)"),
    ("bot_conversations", "Conversations with the bot (B)"),
    ("closed_bot_conversations", "… of these closed (C)"),
    ("handoff_request_rate", "Handoff request rate (of B)"),
    ("handoff_rate", "Handoff rate (of C)"),
    ("containment_rate", "Containment rate (of C)"),
    ("handed_off_share", "Outcome: handed off (of C)"),
    (
        "requested_unserved_share",
        "Outcome: requested, unserved (of C)",
    ),
    ("human_intervened_share", "Outcome: human intervened (of C)"),
    ("abandoned_share", "Outcome: abandoned (of C)"),
    ("bot_resolution_rate", "Outcome: resolved by the bot (of C)"),
    (
        "contained_assumed_share",
        "Outcome: contained, assumed (of C)",
    ),
    ("first_response_any", "First response"),
    ("first_response_human", "First human response"),
    ("time_to_human", "Time to human"),
    ("unanswered_requests", "Requests unanswered"),
    ("handle_time", "Handle time"),
    ("resolution_time", "Resolution time"),
    ("reopen_rate", "Reopen rate (7 d)"),
    ("csat", "CSAT"),
    ("csat_response_rate", "CSAT response rate"),
    ("nps", "NPS"),
];

/// The conversation report of one tenant.
#[derive(Debug, Clone, Serialize)]
pub struct Conversations {
    /// Tenant.
    pub tenant: String,
    /// The conversations that started in it.
    pub window: Span,
    /// When closure was judged.
    pub as_of: Timestamp,
    /// Sources that have a conversation, by name.
    pub sources: Vec<String>,
    /// Every metric.
    pub metrics: Vec<Metric>,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Name, as in the views.
    pub metric: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Over the sources that can show it; null where none can.
    pub overall: Option<Value>,
    /// Per source; null where it cannot show it.
    pub by_source: BTreeMap<String, Option<Value>>,
}

/// What a metric comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// Asks the store for the conversations that started in the period, judged at its end.
pub async fn conversations(
    store: &Store,
    tenant: &str,
    period: Period,
) -> Result<Conversations, StoreError> {
    let window = period.window();
    let cohort = Cohort {
        tenant,
        started: window,
        as_of_ms: window.until_ms,
        conversation_prefix: "",
    };
    let rows = store.metrics(&cohort).await?;
    Ok(report(tenant, window, &rows))
}

fn report(tenant: &str, window: Window, rows: &[MetricRow]) -> Conversations {
    let mut sources: Vec<String> = rows.iter().filter_map(|row| row.source.clone()).collect();
    sources.dedup();
    let find = |metric: &str, source: Option<&str>| {
        rows.iter()
            .find(|row| row.metric == metric && row.source.as_deref() == source)
            .and_then(value)
    };
    let metrics = TITLES
        .into_iter()
        .map(|(metric, title)| Metric {
            metric,
            title,
            overall: find(metric, None),
            by_source: sources
                .iter()
                .map(|source| (source.clone(), find(metric, Some(source))))
                .collect(),
        })
        .collect();
    Conversations {
        tenant: tenant.to_owned(),
        window: window.into(),
        as_of: timestamp(window.until_ms),
        sources,
        metrics,
    }
}

fn value(row: &MetricRow) -> Option<Value> {
    if !row.observable {
        return None;
    }
    let numerator = row.numerator.unwrap_or(0);
    let denominator = row.denominator.unwrap_or(0);
    Some(match row.kind.as_str() {
        "duration" => Value::Duration {
            n: row.n,
            median_ms: row.median_ms,
            p90_ms: row.p90_ms,
            p95_ms: row.p95_ms,
        },
        "rate" => Value::Rate {
            numerator,
            denominator,
            rate: row.rate,
        },
        "score" => Value::Score {
            numerator,
            denominator,
            score: row.rate,
        },
        _ => Value::Count { count: numerator },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: Option<&str>, metric: &str, kind: &str) -> MetricRow {
        MetricRow {
            source: source.map(str::to_owned),
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
        }
    }

    #[test]
    fn what_a_source_cannot_show_is_null_and_not_zero() {
        let rows = [
            row(None, "containment_rate", "rate"),
            MetricRow {
                observable: false,
                numerator: None,
                denominator: None,
                rate: None,
                n: 0,
                ..row(Some("a"), "containment_rate", "rate")
            },
            row(Some("b"), "containment_rate", "rate"),
        ];
        let report = report(
            "acme",
            Window {
                since_ms: 0,
                until_ms: 1,
            },
            &rows,
        );
        assert_eq!(report.sources, ["a", "b"]);
        let containment = report
            .metrics
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
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["metrics"][11]["by_source"]["a"].is_null());
    }
}

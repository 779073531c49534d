//! Reports as Markdown, for terminals, tickets and mail.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chatpulse_store::Unit;

use crate::conversations::{Conversations, Metric, Restatement, State, Value};
use crate::deliveries::{Deliveries, Outgoing, Sending};
use crate::health::{Percentiles, TenantHealth};
use crate::matrix::{Matrix, MatrixCell, MatrixSource};
use crate::text::{NOT_AVAILABLE, duration, one_line};
use crate::verdict::percent;

/// Longest text of unknown origin in a cell; characters.
const CELL: usize = 120;
/// What marks a figure that can still change without a late event.
const PROVISIONAL: &str = " \\*";
const LEGEND: &str = "Durations are median / p90 / p95. n/a: the source cannot show it. none: nothing to \
    measure. \\*: can still change: conversations are open, closes are less than 7 days old (reopen rate), or the \
    time is not over.";
/// The metrics that a group shows.
pub(crate) const GROUP_METRICS: [&str; 7] = [
    "conversations",
    "total_messages",
    "handoff_rate",
    "containment_rate",
    "first_response_any",
    "first_response_human",
    "csat",
];

impl TenantHealth {
    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out = format!(
            "# Tenant health: {}\n\n**{}**: {}\n\nReceived from {} to {} (UTC), compared with {} to {}.\n",
            cell(&self.tenant),
            self.judgement.verdict.as_str(),
            cell(&self.judgement.reason),
            self.window.since,
            self.window.until,
            self.baseline.since,
            self.baseline.until,
        );
        table(
            &mut out,
            "Sources",
            &[
                "source",
                "verdict",
                "reason",
                "threshold",
                "received",
                "accepted",
                "duplicate",
                "rejected",
                "lost in browser",
                "messages missing",
            ],
            self.sources.iter().map(|s| {
                vec![
                    cell(&s.source),
                    s.judgement.verdict.as_str().to_owned(),
                    cell(&s.judgement.reason),
                    threshold(s.judgement.threshold.as_deref()),
                    s.delivery.received.to_string(),
                    s.delivery.accepted.to_string(),
                    s.delivery.duplicate.to_string(),
                    s.delivery.rejected.to_string(),
                    or_not_available(s.lost_in_browser),
                    or_not_available(s.missing_messages),
                ]
            }),
        );
        let rate = |rate: Option<f64>| rate.map_or(NOT_AVAILABLE.to_owned(), percent);
        table(
            &mut out,
            "Page and server, reconciled",
            &[
                "source",
                "from a server",
                "lost in browser",
                "share lost in browser",
                "from the page",
                "lost by server",
                "share lost by server",
            ],
            self.twins
                .iter()
                .flat_map(|twins| &twins.sources)
                .map(|of| {
                    vec![
                        cell(&of.source),
                        of.reconciled.server.to_string(),
                        of.reconciled.lost_in_browser.to_string(),
                        rate(of.reconciled.browser_loss_rate),
                        of.reconciled.page.to_string(),
                        of.reconciled.lost_by_server.to_string(),
                        rate(of.reconciled.server_loss_rate),
                    ]
                }),
        );
        table(
            &mut out,
            "Event types",
            &[
                "source",
                "type",
                "verdict",
                "reason",
                "received",
                "accepted",
                "duplicate",
                "rejected",
                "late",
                "occurred → received (p50 / p95 / p99)",
                "received → queryable (p50 / p95 / p99)",
            ],
            self.types.iter().map(|t| {
                vec![
                    cell(&t.source),
                    cell(&t.event_type),
                    t.judgement.verdict.as_str().to_owned(),
                    cell(&t.judgement.reason),
                    t.delivery.received.to_string(),
                    t.delivery.accepted.to_string(),
                    t.delivery.duplicate.to_string(),
                    t.delivery.rejected.to_string(),
                    t.delivery.late.to_string(),
                    latency(t.delivery.receive_ms),
                    latency(t.delivery.queryable_ms),
                ]
            }),
        );
        let drift = [
            ("not documented", &self.drift.undocumented),
            ("new", &self.drift.appeared),
            ("vanished", &self.drift.vanished),
        ];
        table(
            &mut out,
            "Drift of event names",
            &[
                "source",
                "name",
                "what",
                "received",
                "before",
                "last received",
            ],
            drift.into_iter().flat_map(|(what, names)| {
                names.iter().map(move |n| {
                    vec![
                        cell(&n.source),
                        cell(&n.source_event),
                        what.to_owned(),
                        n.received.to_string(),
                        n.baseline_received.to_string(),
                        n.last_received.to_string(),
                    ]
                })
            }),
        );
        let keys = [
            ("vanished, perhaps renamed", &self.drift.vanished_keys),
            ("new", &self.drift.appeared_keys),
        ];
        table(
            &mut out,
            "Drift of keys",
            &["source", "type", "key", "what", "share now", "share before"],
            keys.into_iter().flat_map(|(what, keys)| {
                keys.iter().map(move |k| {
                    vec![
                        cell(&k.source),
                        cell(&k.event_type),
                        cell(&k.key),
                        what.to_owned(),
                        percent(k.share),
                        percent(k.baseline_share),
                    ]
                })
            }),
        );
        table(
            &mut out,
            "Rejected by reason",
            &["source", "reason", "rejected", "last"],
            self.rejections.iter().map(|r| {
                vec![
                    cell(&r.source),
                    cell(&r.reason),
                    r.rejected.to_string(),
                    r.last_received.to_string(),
                ]
            }),
        );
        table(
            &mut out,
            "Recent rejections",
            &[
                "received",
                "source",
                "reason",
                "detail",
                "bytes",
                "SHA-256",
                "raw position",
            ],
            self.recent_rejections.iter().map(|r| {
                vec![
                    r.received_at.to_string(),
                    cell(&r.source),
                    cell(&r.reason),
                    cell(&r.detail),
                    or_not_available(r.bytes),
                    cell(r.sha256.as_deref().unwrap_or(NOT_AVAILABLE)),
                    format!("{}:{}", r.partition, r.offset),
                ]
            }),
        );
        if let Some(deliveries) = &self.deliveries {
            sections(&mut out, deliveries);
        }
        out
    }
}

impl Deliveries {
    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out = format!(
            "# Deliveries: {}\n\nTurns that began from {} to {} (UTC).\n",
            cell(&self.tenant),
            self.window.since,
            self.window.until,
        );
        sections(&mut out, &self.outgoing);
        out
    }
}

/// What went out to the tenant's own receivers.
fn sections(out: &mut String, outgoing: &Outgoing) {
    let _ = write!(
        out,
        "\n## Deliveries to your receivers\n\n**{}**: {}\n",
        outgoing.judgement.verdict.as_str(),
        cell(&outgoing.judgement.reason),
    );
    for notice in &outgoing.notices {
        let destination = cell(&notice.destination);
        let _ = write!(
            out,
            "\n- **{destination}**: {}",
            one_line(&notice.text, 400)
        );
    }
    if !outgoing.notices.is_empty() {
        out.push('\n');
    }
    let counts = |expected: Option<u64>, of: &Sending| {
        let mut cells = vec![or_not_available(expected)];
        cells.extend(
            [
                of.attempts,
                of.delivered,
                of.failed,
                of.pending,
                of.given_up,
                of.withheld,
            ]
            .map(|count| count.to_string()),
        );
        cells.push(cell(&crate::pages::classes(of)));
        cells.extend([latency(of.request_ms), latency(of.delivered_ms)]);
        cells
    };
    const COUNTS: [&str; 10] = [
        "accepted for it",
        "requests",
        "delivered",
        "failed",
        "waiting",
        "given up",
        "withheld",
        "failures by class",
        "request (p50 / p95 / p99)",
        "received → delivered (p50 / p95 / p99)",
    ];
    let heads = |first: &[&'static str]| [first, COUNTS.as_slice()].concat();
    table(
        out,
        "Destinations",
        &heads(&["destination", "kind", "verdict", "reason", "threshold"]),
        outgoing.destinations.iter().map(|of| {
            let mut cells = vec![
                cell(&of.destination),
                cell(&of.kind),
                of.judgement.verdict.as_str().to_owned(),
                cell(&of.judgement.reason),
                threshold(of.judgement.threshold.as_deref()),
            ];
            cells.extend(counts(of.expected, &of.sending));
            cells
        }),
    );
    table(
        out,
        "Destinations and event types",
        &heads(&["destination", "type", "verdict", "reason"]),
        outgoing.types.iter().map(|of| {
            let mut cells = vec![
                cell(&of.destination),
                cell(&of.event_type),
                of.judgement.verdict.as_str().to_owned(),
                cell(&of.judgement.reason),
            ];
            cells.extend(counts(of.expected, &of.sending));
            cells
        }),
    );
    table(
        out,
        "Recent failed deliveries",
        &[
            "began",
            "destination",
            "type",
            "class",
            "what happened",
            "result",
            "turn",
            "delivery",
        ],
        outgoing.recent_failures.iter().map(|of| {
            vec![
                of.at.to_string(),
                cell(&of.destination),
                cell(&of.event_type),
                cell(&of.failure),
                cell(of.detail.as_deref().unwrap_or_default()),
                cell(&of.result),
                of.attempt.to_string(),
                cell(&of.delivery_id),
            ]
        }),
    );
}

impl Conversations {
    /// The report as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out = format!(
            "# Conversations: {}\n\nStarted from {} to {} (UTC). {}\n\n{LEGEND}\n",
            cell(&self.tenant),
            self.window.since,
            self.window.until,
            self.state_line(),
        );
        let mut heads = vec!["metric".to_owned(), "all".to_owned()];
        heads.extend(self.sources.iter().map(|source| cell(source)));
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        table(
            &mut out,
            "Metrics",
            &heads,
            self.metrics.iter().map(|metric| {
                let of_sources = self
                    .sources
                    .iter()
                    .map(|source| metric.by_source.get(source));
                let known = metric.overall.is_some();
                let mark = if known && metric.provisional {
                    PROVISIONAL
                } else {
                    ""
                };
                let mut cells = vec![
                    metric.title.clone(),
                    format!("{}{mark}", value(metric.overall.as_ref())),
                ];
                cells.extend(of_sources.map(|found| value(found.and_then(Option::as_ref))));
                cells
            }),
        );
        let unit = match self.unit {
            Unit::Minute => "minute",
            Unit::Hour => "hour",
            Unit::Day => "day",
        };
        let times = self.by_time.iter().map(|group| {
            let at = match self.unit {
                Unit::Day => group.at.strftime("%Y-%m-%d").to_string(),
                Unit::Minute | Unit::Hour => group.at.to_string(),
            };
            (at, group.provisional, &group.metrics)
        });
        self.groups(&mut out, ("By ", unit), times);
        for (name, groups) in [("widget", &self.by_widget), ("language", &self.by_language)] {
            let rows = groups.iter().map(|group| {
                let name = if group.value.is_empty() {
                    "(not told)"
                } else {
                    &group.value
                };
                (cell(name), group.provisional, &group.metrics)
            });
            self.groups(&mut out, ("By ", name), rows);
        }
        table(
            &mut out,
            "Restated figures",
            &[
                "day",
                "source",
                "metric",
                "was",
                "is now",
                "why",
                "settled as of",
                "restated as of",
            ],
            self.restatements.iter().map(|r| {
                vec![
                    r.day.strftime("%Y-%m-%d").to_string(),
                    cell(&r.source),
                    cell(&r.metric),
                    value(r.was.as_ref()),
                    value(r.is.as_ref()),
                    r.why(),
                    r.settled_as_of.to_string(),
                    r.restated_as_of.to_string(),
                ]
            }),
        );
        if self.shows_newest_restatements() {
            out.push_str("\nThe newest are shown; /v1/restatements has all.\n");
        }
        out
    }

    /// How many conversations, and what can still change.
    pub(crate) fn state_line(&self) -> String {
        let State {
            as_of: Some(as_of),
            conversations,
            open,
            ..
        } = &self.state
        else {
            return "No conversation started then.".to_owned();
        };
        let settles = match self.state.settles_at {
            Some(at) => format!(", the last of them until {at} if it stays silent"),
            None => String::new(),
        };
        format!(
            "{conversations} conversations, {open} of them open{settles}; judged as of {as_of}."
        )
    }

    fn groups<'g>(
        &self,
        out: &mut String,
        (title, name): (&str, &str),
        groups: impl Iterator<Item = (String, bool, &'g BTreeMap<String, Option<Value>>)>,
    ) {
        let shown: Vec<&Metric> = GROUP_METRICS
            .iter()
            .filter_map(|name| self.metrics.iter().find(|metric| metric.metric == *name))
            .collect();
        let mut heads = vec![name];
        heads.extend(shown.iter().map(|metric| metric.title.as_str()));
        table(
            out,
            &format!("{title}{name}"),
            &heads,
            groups.map(|(key, provisional, metrics)| {
                let mark = if provisional { PROVISIONAL } else { "" };
                let mut cells = vec![format!("{key}{mark}")];
                cells.extend(
                    shown
                        .iter()
                        .map(|metric| value(metrics.get(&metric.metric).and_then(Option::as_ref))),
                );
                cells
            }),
        );
    }
}

impl Matrix {
    /// The matrix as Markdown, with what is missing below it.
    pub fn to_markdown(&self) -> String {
        let mut out =
            "# What each source can show\n\nyes: the metric counts all of it. partial: it may \
            miss some. n/a: the source cannot show it.\n"
                .to_owned();
        let mut heads = vec!["metric".to_owned(), "name".to_owned()];
        heads.extend(self.sources.iter().map(|of| cell(&of.title)));
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        let observable = |found: Option<&MatrixCell>| match found.map(|of| of.observable.as_str()) {
            Some("no") | None => NOT_AVAILABLE.to_owned(),
            Some(yes_or_partial) => yes_or_partial.to_owned(),
        };
        table(
            &mut out,
            "Metrics and sources",
            &heads,
            self.metrics.iter().map(|metric| {
                let of = |source: &MatrixSource| metric.by_source.get(&source.source);
                let mut cells = vec![metric.title.clone(), format!("`{}`", metric.metric)];
                cells.extend(self.sources.iter().map(|source| observable(of(source))));
                cells
            }),
        );
        let whys = self.metrics.iter().flat_map(|metric| {
            self.sources.iter().filter_map(|source| {
                let found = metric.by_source.get(&source.source)?;
                let why = (!found.why.is_empty()).then(|| cell(&found.why))?;
                let can = observable(Some(found));
                Some(vec![metric.title.clone(), cell(&source.title), can, why])
            })
        });
        table(
            &mut out,
            "Why not",
            &["metric", "source", "shown", "why"],
            whys,
        );
        let definitions = self.metrics.iter().map(|metric| {
            let version = metric.version.to_string();
            let cells = [
                &metric.title,
                &metric.kind,
                &metric.unit,
                &metric.cohort,
                &metric.formula,
            ];
            cells
                .into_iter()
                .map(|text| text.replace('|', "\\|"))
                .chain([version])
                .collect()
        });
        let heads = ["metric", "kind", "unit", "of", "definition", "version"];
        table(&mut out, "Definitions", &heads, definitions);
        out
    }
}

/// Why a settled figure changed without late events.
pub(crate) const JUDGED_ANEW: &str = "no late events: a definition or setting changed";

impl Restatement {
    /// Why the figure changed.
    pub(crate) fn why(&self) -> String {
        match (self.late_events, self.first_occurred, self.last_occurred) {
            (0, ..) => JUDGED_ANEW.to_owned(),
            (n, Some(first), Some(last)) => {
                format!("{n} late events, occurred from {first} to {last}")
            }
            (n, ..) => format!("{n} late events"),
        }
    }
}

/// A metric's value for people.
pub(crate) fn value(value: Option<&Value>) -> String {
    match value {
        None => NOT_AVAILABLE.to_owned(),
        Some(Value::Count { count }) => count.to_string(),
        Some(Value::Rate {
            numerator,
            denominator,
            rate: Some(rate),
        }) => {
            format!("{} ({numerator}/{denominator})", percent(*rate))
        }
        Some(Value::Score {
            denominator,
            score: Some(score),
            ..
        }) => {
            format!("{:+.0} (n = {denominator})", score * 100.0)
        }
        Some(Value::Duration {
            n,
            median_ms: Some(median),
            p90_ms: Some(p90),
            p95_ms: Some(p95),
        }) => {
            format!(
                "{} / {} / {} (n = {n})",
                duration(*median),
                duration(*p90),
                duration(*p95)
            )
        }
        // Of a restated figure the median alone is kept.
        Some(Value::Duration {
            n,
            median_ms: Some(median),
            ..
        }) => format!("{} (n = {n})", duration(*median)),
        Some(Value::Rate { .. } | Value::Score { .. } | Value::Duration { .. }) => {
            "none".to_owned()
        }
    }
}

/// Latencies for people.
pub(crate) fn latency(of: Option<Percentiles>) -> String {
    of.map_or_else(
        || NOT_AVAILABLE.to_owned(),
        |p| {
            format!(
                "{} / {} / {}",
                duration(p.p50),
                duration(p.p95),
                duration(p.p99)
            )
        },
    )
}

/// A number, or that there is none.
pub(crate) fn or_not_available(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NOT_AVAILABLE.to_owned(), |value| value.to_string())
}

fn threshold(threshold: Option<&str>) -> String {
    threshold.map(cell).unwrap_or_default()
}

fn table(out: &mut String, title: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = write!(out, "\n## {title}\n\n");
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        out.push_str("None.\n");
        return;
    }
    let _ = writeln!(out, "| {} |", heads.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(heads.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
}

/// Text of unknown origin in a cell: one line, nothing of it read as Markdown or HTML.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text, CELL).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '!' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_in_its_cell() {
        assert_eq!(
            cell("a|b\n<script>[x](y)"),
            "a\\|b\u{fffd}&lt;script&gt;\\[x\\](y)"
        );
    }

    #[test]
    fn values_name_their_size_and_what_is_missing() {
        assert_eq!(value(None), "n/a");
        let rate = Value::Rate {
            numerator: 1,
            denominator: 8,
            rate: Some(0.125),
        };
        assert_eq!(value(Some(&rate)), "12.5 % (1/8)");
        let none = Value::Rate {
            numerator: 0,
            denominator: 0,
            rate: None,
        };
        assert_eq!(value(Some(&none)), "none");
        let score = Value::Score {
            numerator: -1,
            denominator: 4,
            score: Some(-0.25),
        };
        assert_eq!(value(Some(&score)), "-25 (n = 4)");
        let median_alone = Value::Duration {
            n: 3,
            median_ms: Some(2_200.0),
            p90_ms: None,
            p95_ms: None,
        };
        assert_eq!(value(Some(&median_alone)), "2.2 s (n = 3)");
    }
}

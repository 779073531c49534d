//! Reports as CSV, for spreadsheets: one table each, with a head. What is not known is an empty field.

use csv::Writer;

use chatpulse_store::REOPEN_RATE;

use crate::conversations::{Conversations, Value};
use crate::deliveries::Deliveries;
use crate::health::{Delivery, Percentiles, TenantHealth};
use crate::matrix::Matrix;
use crate::twins::Reconciled;
use crate::verdict::Judgement;

impl TenantHealth {
    /// One row per source (its `event_type` is empty) and per event type.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn to_csv(&self) -> Result<String, csv::Error> {
        let mut out = Writer::from_writer(Vec::new());
        out.write_record([
            "tenant",
            "since",
            "until",
            "source",
            "event_type",
            "verdict",
            "reason",
            "threshold",
            "received",
            "accepted",
            "duplicate",
            "rejected",
            "late",
            "clock_ahead",
            "occurred_to_received_p50_ms",
            "occurred_to_received_p95_ms",
            "occurred_to_received_p99_ms",
            "received_to_queryable_p50_ms",
            "received_to_queryable_p95_ms",
            "received_to_queryable_p99_ms",
            "last_received",
            "lost_in_browser",
            "missing_messages",
            "twins_from_server",
            "twins_lost_in_browser",
            "twins_browser_loss_rate",
            "twins_from_page",
            "twins_lost_by_server",
            "twins_server_loss_rate",
        ])?;
        let sources = self.sources.iter().map(|of| {
            let mut twins = self.twins.iter().flat_map(|twins| &twins.sources);
            let twins = twins.find(|twins| twins.source == of.source);
            let mut losses = vec![number(of.lost_in_browser), number(of.missing_messages)];
            losses.extend(reconciled(twins.map(|twins| &twins.reconciled)));
            (&of.source, "", &of.delivery, &of.judgement, losses)
        });
        let types = self.types.iter().map(|of| {
            let losses = vec![String::new(); 8];
            (
                &of.source,
                of.event_type.as_str(),
                &of.delivery,
                &of.judgement,
                losses,
            )
        });
        for (source, event_type, delivery, judgement, losses) in sources.chain(types) {
            let mut row = vec![
                text(&self.tenant),
                self.window.since.to_string(),
                self.window.until.to_string(),
                text(source),
                text(event_type),
            ];
            row.extend(judged(judgement));
            row.extend(delivered(delivery));
            row.extend(losses);
            out.write_record(row)?;
        }
        finish(out)
    }
}

impl Deliveries {
    /// One row per destination (its `event_type` is empty) and per event type of it.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn to_csv(&self) -> Result<String, csv::Error> {
        let mut out = Writer::from_writer(Vec::new());
        out.write_record([
            "tenant",
            "since",
            "until",
            "destination",
            "kind",
            "event_type",
            "verdict",
            "reason",
            "threshold",
            "expected",
            "turns",
            "attempts",
            "delivered",
            "failed",
            "retrying",
            "given_up",
            "withheld",
            "pending",
            "oldest_pending",
            "failures",
            "request_p50_ms",
            "request_p95_ms",
            "request_p99_ms",
            "received_to_delivered_p50_ms",
            "received_to_delivered_p95_ms",
            "received_to_delivered_p99_ms",
            "last",
        ])?;
        let kind = |destination: &str| {
            let of = (self.outgoing.destinations.iter()).find(|of| of.destination == destination);
            of.map_or("", |of| of.kind.as_str())
        };
        let destinations = self.outgoing.destinations.iter().map(|of| {
            let keys = [of.destination.as_str(), &of.kind, ""];
            (keys, of.expected, &of.sending, &of.judgement)
        });
        let types = self.outgoing.types.iter().map(|of| {
            let keys = [
                of.destination.as_str(),
                kind(&of.destination),
                &of.event_type,
            ];
            (keys, of.expected, &of.sending, &of.judgement)
        });
        for (keys, expected, sending, judgement) in destinations.chain(types) {
            let mut row = vec![
                text(&self.tenant),
                self.window.since.to_string(),
                self.window.until.to_string(),
            ];
            row.extend(keys.map(text));
            row.extend(judged(judgement));
            row.push(number(expected));
            row.extend(
                [
                    sending.turns,
                    sending.attempts,
                    sending.delivered,
                    sending.failed,
                    sending.retrying,
                    sending.given_up,
                    sending.withheld,
                    sending.pending,
                ]
                .map(|count| count.to_string()),
            );
            row.push(number(sending.oldest_pending));
            row.push(text(&crate::pages::classes(sending)));
            row.extend(latency(sending.request_ms));
            row.extend(latency(sending.delivered_ms));
            row.push(number(sending.last));
            out.write_record(row)?;
        }
        finish(out)
    }
}

impl Conversations {
    /// One row per metric and group: `breakdown` is overall, source, time, widget or language, `group`
    /// its value. `observable` is false where no source of the group can show the metric.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn to_csv(&self) -> Result<String, csv::Error> {
        let mut out = Writer::from_writer(Vec::new());
        out.write_record([
            "tenant",
            "since",
            "until",
            "breakdown",
            "group",
            "metric",
            "kind",
            "observable",
            "provisional",
            "value",
            "n",
            "numerator",
            "denominator",
            "median_ms",
            "p90_ms",
            "p95_ms",
        ])?;
        let mut row =
            |[breakdown, group, metric]: [&str; 3], provisional: bool, value: Option<&Value>| {
                let mut row = vec![
                    text(&self.tenant),
                    self.window.since.to_string(),
                    self.window.until.to_string(),
                    breakdown.to_owned(),
                    text(group),
                    text(metric),
                ];
                row.extend(figure(provisional, value));
                out.write_record(row)
            };
        for metric in &self.metrics {
            row(
                ["overall", "", &metric.metric],
                metric.provisional,
                metric.overall.as_ref(),
            )?;
        }
        for metric in &self.metrics {
            for (source, value) in &metric.by_source {
                row(
                    ["source", source, &metric.metric],
                    metric.provisional,
                    value.as_ref(),
                )?;
            }
        }
        // It settles later than the other figures of a group.
        let reopening = |metric: &str| {
            metric == REOPEN_RATE
                && (self.metrics.iter()).any(|of| of.metric == REOPEN_RATE && of.provisional)
        };
        for group in &self.by_time {
            for (metric, value) in &group.metrics {
                row(
                    ["time", &group.at.to_string(), metric],
                    group.provisional || reopening(metric),
                    value.as_ref(),
                )?;
            }
        }
        for (breakdown, groups) in [("widget", &self.by_widget), ("language", &self.by_language)] {
            for group in groups {
                for (metric, value) in &group.metrics {
                    row(
                        [breakdown, &group.value, metric],
                        group.provisional || reopening(metric),
                        value.as_ref(),
                    )?;
                }
            }
        }
        finish(out)
    }
}

impl Matrix {
    /// One row per metric and source: `observable` is yes, partial or no, `missing` what it lacks.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn to_csv(&self) -> Result<String, csv::Error> {
        let mut out = Writer::from_writer(Vec::new());
        out.write_record([
            "metric",
            "version",
            "kind",
            "unit",
            "cohort",
            "title",
            "formula",
            "source",
            "observable",
            "missing",
            "why",
        ])?;
        for metric in &self.metrics {
            for (source, cell) in &metric.by_source {
                out.write_record([
                    &text(&metric.metric),
                    &metric.version.to_string(),
                    &text(&metric.kind),
                    &text(&metric.unit),
                    &text(&metric.cohort),
                    &text(&metric.title),
                    &text(&metric.formula),
                    &text(source),
                    &text(&cell.observable),
                    &text(&cell.missing.join(", ")),
                    &text(&cell.why),
                ])?;
            }
        }
        finish(out)
    }
}

fn finish(out: Writer<Vec<u8>>) -> Result<String, csv::Error> {
    let bytes = out.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn judged(judgement: &Judgement) -> [String; 3] {
    [
        judgement.verdict.as_str().to_owned(),
        text(&judgement.reason),
        text(judgement.threshold.as_deref().unwrap_or("")),
    ]
}

fn delivered(delivery: &Delivery) -> Vec<String> {
    let counts = [
        delivery.received,
        delivery.accepted,
        delivery.duplicate,
        delivery.rejected,
        delivery.late,
        delivery.clock_ahead,
    ];
    let mut row: Vec<String> = counts.iter().map(u64::to_string).collect();
    row.extend(latency(delivery.receive_ms));
    row.extend(latency(delivery.queryable_ms));
    row.push(number(delivery.last_received));
    row
}

/// Empty where a source has no twins.
fn reconciled(of: Option<&Reconciled>) -> [String; 6] {
    [
        number(of.map(|of| of.server)),
        number(of.map(|of| of.lost_in_browser)),
        number(of.and_then(|of| of.browser_loss_rate)),
        number(of.map(|of| of.page)),
        number(of.map(|of| of.lost_by_server)),
        number(of.and_then(|of| of.server_loss_rate)),
    ]
}

fn latency(of: Option<Percentiles>) -> [String; 3] {
    [
        of.map(|of| of.p50),
        of.map(|of| of.p95),
        of.map(|of| of.p99),
    ]
    .map(number)
}

/// kind, observable, provisional, value, n, numerator, denominator, median, p90, p95.
fn figure(provisional: bool, value: Option<&Value>) -> [String; 10] {
    let none = String::new;
    let (kind, rest) = match value {
        None => ("", [none(), none(), none(), none(), none(), none(), none()]),
        Some(Value::Count { count }) => (
            "count",
            [
                count.to_string(),
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
            ],
        ),
        Some(Value::Rate {
            numerator,
            denominator,
            rate: ratio,
        }) => ("rate", fraction(*ratio, *numerator, *denominator)),
        Some(Value::Score {
            numerator,
            denominator,
            score: ratio,
        }) => ("score", fraction(*ratio, *numerator, *denominator)),
        Some(Value::Duration {
            n,
            median_ms,
            p90_ms,
            p95_ms,
        }) => (
            "duration",
            [
                number(*median_ms),
                n.to_string(),
                none(),
                none(),
                number(*median_ms),
                number(*p90_ms),
                number(*p95_ms),
            ],
        ),
    };
    let [shown, n, numerator, denominator, median, p90, p95] = rest;
    [
        kind.to_owned(),
        value.is_some().to_string(),
        provisional.to_string(),
        shown,
        n,
        numerator,
        denominator,
        median,
        p90,
        p95,
    ]
}

fn fraction(ratio: Option<f64>, numerator: i64, denominator: i64) -> [String; 7] {
    let none = String::new;
    [
        number(ratio),
        none(),
        numerator.to_string(),
        denominator.to_string(),
        none(),
        none(),
        none(),
    ]
}

fn number(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Text that a spreadsheet would take for a formula begins with an apostrophe: names of widgets and
/// events come from strangers.
fn text(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_run_stays_text() {
        assert_eq!(text("=HYPERLINK(\"x\")"), "'=HYPERLINK(\"x\")");
        assert_eq!(text("en-GB"), "en-GB");
    }

    #[test]
    fn what_is_not_known_is_empty_and_what_is_zero_is_0() {
        let unknown = figure(false, None);
        assert_eq!((unknown[1].as_str(), unknown[3].as_str()), ("false", ""));
        let zero = figure(true, Some(&Value::Count { count: 0 }));
        assert_eq!(
            (zero[1].as_str(), zero[2].as_str(), zero[3].as_str()),
            ("true", "true", "0")
        );
        let none = Value::Rate {
            numerator: 0,
            denominator: 0,
            rate: None,
        };
        assert_eq!(
            figure(false, Some(&none))[3..6],
            ["", "", "0"].map(String::from)
        );
    }
}

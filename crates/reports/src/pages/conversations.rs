//! `/tenants/{tenant}/conversations`: what became of the conversations that started in a time.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::parts::{Tile, count_or, definitions, foreign, not_available, scroll, tiles};
use super::routes::Slice;
use super::time::{series, slots, sums, time, unit_name, values, window};
use crate::chart::{self, Part, TimeChart, Unit};
use crate::conversation_list::Conversation;
use crate::conversations::{Conversations, Group, Metric, Value};
use crate::markdown::JUDGED_ANEW;
use crate::text::{duration, grouped};

/// Most widgets, and languages, that are listed.
const MOST_GROUPS: usize = 50;

const CANNOT: &str = "The sources here send nothing that shows it.";
const SOURCE_CANNOT: &str = "This source sends nothing that shows it.";

/// The exclusive outcomes of closed bot conversations, with their names and looks.
const OUTCOMES: [(&str, &str, &str); 6] = [
    (
        "bot_resolved_share",
        "Known to be resolved by the bot",
        "t-2",
    ),
    ("contained_assumed_share", "Contained, assumed", "t-1"),
    ("handed_off_share", "Handed off to a human", "t-3"),
    ("human_intervened_share", "Human intervened", "t-5"),
    (
        "requested_unserved_share",
        "Human requested, none came",
        "t-4",
    ),
    ("abandoned_share", "Abandoned", "t-6"),
];

/// Metrics in groups, as the table has them.
const GROUPS: [(&str, &[&str]); 6] = [
    (
        "Volume",
        &[
            "conversations",
            "total_messages",
            "visitor_messages",
            "bot_messages",
            "agent_messages",
            "reported_total",
            "message_gap",
            "messages_missing",
            "conversations_with_gap",
        ],
    ),
    (
        "Bot and human",
        &[
            "bot_conversations",
            "closed_bot_conversations",
            "handoff_request_rate",
            "handoff_rate",
            "containment_rate",
            "bot_resolution_rate",
            "unanswered_requests",
        ],
    ),
    (
        "Outcomes of closed bot conversations",
        &[
            "bot_resolved_share",
            "contained_assumed_share",
            "handed_off_share",
            "human_intervened_share",
            "requested_unserved_share",
            "abandoned_share",
        ],
    ),
    (
        "Times",
        &[
            "first_response_any",
            "first_response_human",
            "time_to_human",
            "handle_time",
            "resolution_time",
        ],
    ),
    (
        "Afterwards",
        &[
            "reopen_rate",
            "csat",
            "csat_response_rate",
            "nps",
            "surveys_shown",
            "feedback_count",
        ],
    ),
    (
        "What visitors did",
        &[
            "links_clicked",
            "contacts_submitted",
            "conversations_with_goal",
            "consents_accepted",
            "consents_declined",
            "deleted_conversations",
        ],
    ),
];

/// What the page shows below its head.
pub(super) fn content(report: &Conversations) -> Markup {
    if report.state.conversations == 0 {
        return html! {
            section.card {
                p.empty { "No conversation started in this time. " }
                p { "A conversation begins with its first accepted event. Whether events come at all, the page of health says; a longer time may show earlier ones." }
            }
        };
    }
    html! {
        div.stack {
            (state(report))
            (figures(report))
            (outcomes(report))
            section.card { (started(report)) }
            div.pair {
                section.card { (times(report, "first_response_any", "First response")) }
                section.card { (times(report, "time_to_human", "Time to human")) }
            }
            (metrics(report))
            div.pair {
                (groups(report, ("Widget", &report.by_widget)))
                (groups(report, ("Language", &report.by_language)))
            }
            (restatements(report))
            (definitions(report.metrics.iter().map(|of| (of.title.as_str(), of.formula.as_str()))))
        }
    }
}

fn state(report: &Conversations) -> Markup {
    let state = &report.state;
    let provisional = report
        .metrics
        .iter()
        .filter(|metric| metric.provisional)
        .count();
    html! {
        div.notice {
            span.reason { (grouped(state.conversations.into())) " conversations started in this time, " (grouped(state.open.into())) " of them are still open." }
            @if provisional > 0 {
                span.quiet {
                    (mark()) " marks figures that can still change"
                    @if let Some(at) = state.settles_at { "; the last open one closes on " (time(at)) " if it stays silent" }
                    @if let Some(at) = state.reopen_settles_at { "; the reopen rate is settled on " (time(at)) }
                    "."
                }
            } @else { span.quiet { "Every figure is settled; only late events can change it, and that is shown below." } }
            @if let Some(at) = state.as_of { span.quiet { "Judged " (time(at)) "." } }
        }
    }
}

/// Marks a figure that can still change.
fn mark() -> Markup {
    html! { span.star title="Provisional: the time is not over, or conversations that count are still open, so the figure can change." { "*" span.unseen { " provisional" } } }
}

fn find<'a>(report: &'a Conversations, name: &str) -> Option<&'a Metric> {
    report.metrics.iter().find(|metric| metric.metric == name)
}

fn figures(report: &Conversations) -> Markup {
    let shown: Vec<Tile<'_>> = [
        ("conversations", "Conversations"),
        ("containment_rate", "Containment"),
        ("handoff_rate", "Handoff"),
        ("first_response_any", "First response"),
        ("time_to_human", "Time to human"),
        ("handle_time", "Handle time"),
        ("csat", "CSAT"),
        ("nps", "NPS"),
    ]
    .into_iter()
    .filter_map(|(name, title)| {
        let metric = find(report, name)?;
        Some(Tile {
            name: title,
            figure: html! {
                (main_figure(metric.overall.as_ref(), CANNOT))
                @if metric.provisional && metric.overall.is_some() { (mark()) }
            },
            beside: beside(metric.overall.as_ref()),
            definition: &metric.formula,
        })
    })
    .collect();
    tiles(&shown)
}

/// The figure itself: a count, a rate, a score, a median.
fn main_figure(value: Option<&Value>, why_not: &str) -> Markup {
    match value {
        None => not_available(why_not),
        Some(Value::Count { count }) => html! { (grouped((*count).into())) },
        Some(Value::Rate {
            rate: Some(rate), ..
        }) => html! { (format!("{:.1}", rate * 100.0)) span.unit { " %" } },
        Some(Value::Score {
            score: Some(score), ..
        }) => html! { (format!("{:+.0}", score * 100.0).replace('-', "−")) },
        Some(Value::Duration {
            median_ms: Some(ms),
            ..
        }) => html! { (duration(*ms)) },
        Some(_) => html! { span title="There is nothing to measure in this time." { "–" } },
    }
}

/// What a figure is made of.
fn beside(value: Option<&Value>) -> Markup {
    match value {
        Some(Value::Rate {
            numerator,
            denominator,
            ..
        }) => html! { (grouped((*numerator).into())) " of " (grouped((*denominator).into())) },
        Some(Value::Score { denominator, .. }) => {
            html! { (grouped((*denominator).into())) " scores" }
        }
        Some(Value::Duration {
            n, p90_ms, p95_ms, ..
        }) => html! {
            @if let (Some(p90), Some(p95)) = (p90_ms, p95_ms) { span { "p90 " (duration(*p90)) } " · " span { "p95 " (duration(*p95)) } " · " }
            span { "n = " (grouped((*n).into())) }
        },
        Some(Value::Count { .. }) | None => html! {},
    }
}

/// As a cell of a table: the figure, and below it what it is made of.
fn cell(value: Option<&Value>, why_not: &str) -> Markup {
    html! {
        (main_figure(value, why_not))
        @if matches!(value, Some(Value::Rate { .. } | Value::Score { .. } | Value::Duration { .. })) {
            br; span.quiet { (beside(value)) }
        }
    }
}

fn outcomes(report: &Conversations) -> Markup {
    // Part and whole of each; none where it cannot be seen.
    let counts = OUTCOMES.map(|(metric, _, _)| {
        match find(report, metric).and_then(|metric| metric.overall.as_ref()) {
            Some(Value::Rate {
                numerator,
                denominator,
                ..
            }) => Some((*numerator, *denominator)),
            _ => None,
        }
    });
    let shares = || OUTCOMES.into_iter().zip(counts);
    let closed = counts
        .iter()
        .flatten()
        .map(|(_, closed)| *closed)
        .max()
        .unwrap_or(0);
    let bar: Vec<Part<'_>> = shares()
        .map(|((_, _, tone), counts)| Part {
            tone,
            value: counts.map_or(0.0, |(part, _)| part as f64),
        })
        .collect();
    let table = html! {
        table {
            caption.unseen { "Outcomes of closed bot conversations" }
            thead { tr { th scope="col" { "Outcome" } th.n scope="col" { "Share" } th.n scope="col" { "Conversations" } } }
            tbody { @for ((_, name, tone), counts) in shares() { tr {
                th scope="row" { span.legend { (chart::swatch(tone)) (name) } }
                @match counts {
                    Some((part, whole)) if whole > 0 => {
                        td.n { (format!("{:.1} %", part as f64 / whole as f64 * 100.0)) }
                        td.n { (grouped(part.into())) }
                    },
                    Some(_) => { td.n { "–" } td.n { "0" } },
                    None => { td.n { (not_available(CANNOT)) } td.n { (not_available(CANNOT)) } },
                }
            } } }
        }
    };
    html! {
        section.card {
            header {
                h2 #outcomes { "What became of bot conversations" }
                p { "Closed conversations with a visitor and the bot, each with exactly one outcome: " (grouped(closed.into())) ". Sources that cannot show outcomes are left out." }
            }
            @if closed == 0 { p.empty { "None is closed yet, or no source here can show an outcome." } }
            @else { (chart::share(&bar)) (table) }
        }
    }
}

fn of<'a>(metrics: &'a BTreeMap<String, Option<Value>>, name: &str) -> Option<&'a Value> {
    metrics.get(name).and_then(Option::as_ref)
}

fn started(report: &Conversations) -> Markup {
    let slots = slots(report.window, report.unit);
    let count = sums(
        &slots,
        report.by_time.iter().map(|group| {
            let count = match of(&group.metrics, "conversations") {
                Some(Value::Count { count }) => *count as f64,
                _ => 0.0,
            };
            (group.at, count)
        }),
    );
    TimeChart {
        id: "started",
        title: &format!("Conversations started per {}", unit_name(report.unit)),
        definition: "All sources.",
        slots,
        unit: Unit::Count,
        series: vec![series("conversations", "t-accepted", count)],
    }
    .stack()
}

fn times(report: &Conversations, metric: &str, title: &str) -> Markup {
    let slots = slots(report.window, report.unit);
    let line = |percentile: fn(&Value) -> Option<f64>| {
        let points = report.by_time.iter();
        values(
            &slots,
            points.map(|group| (group.at, of(&group.metrics, metric).and_then(percentile))),
        )
    };
    let median = line(|value| match value {
        Value::Duration { median_ms, .. } => *median_ms,
        _ => None,
    });
    let p90 = line(|value| match value {
        Value::Duration { p90_ms, .. } => *p90_ms,
        _ => None,
    });
    TimeChart {
        id: metric,
        title,
        definition: "By when the conversation started. A gap: nothing to measure.",
        slots,
        unit: Unit::Milliseconds,
        series: vec![
            series("median", "t-p50", median),
            series("p90", "t-p95", p90),
        ],
    }
    .lines()
}

fn metrics(report: &Conversations) -> Markup {
    let table = html! {
        table {
            caption.unseen { "Every metric, over all sources that can show it and by source" }
            thead { tr {
                th scope="col" { "Metric" } th.n scope="col" { "All" }
                @for source in &report.sources { th.n scope="col" { (foreign(source)) } }
            } }
            @for (group, names) in GROUPS { tbody {
                tr.group { th scope="rowgroup" colspan=(report.sources.len() + 2) { (group) } }
                @for metric in names.iter().filter_map(|name| find(report, name)) { tr data-key=(metric.metric) {
                    th scope="row" title=(metric.formula) {
                        (metric.title)
                        @if metric.provisional && metric.overall.is_some() { (mark()) }
                    }
                    td.n.made { (cell(metric.overall.as_ref(), CANNOT)) }
                    @for source in &report.sources {
                        td.n.made { (cell(metric.by_source.get(source).and_then(Option::as_ref), SOURCE_CANNOT)) }
                    }
                } }
            } }
        }
    };
    html! {
        section.card {
            header {
                h2 #metrics { "Every metric, by source" }
                p { "Of the conversations that started from " (window(report.window)) ". Times are medians. n/a: the source sends nothing that shows it; “All” is made of those that can." }
            }
            (scroll("Every metric, by source", &table))
        }
    }
}

fn groups(report: &Conversations, (column, groups): (&str, &[Group])) -> Markup {
    let title = format!("By {}", column.to_lowercase());
    let columns = [
        ("conversations", "Conversations"),
        ("containment_rate", "Containment"),
        ("handoff_rate", "Handoff"),
        ("first_response_any", "First response"),
    ];
    let table = html! {
        table.fold role="table" {
            caption.unseen { (title) }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { (column) }
                @for (metric, head) in columns { th.n scope="col" role="columnheader" title=[find(report, metric).map(|of| &of.formula)] { (head) } }
            } }
            tbody role="rowgroup" { @for group in groups.iter().take(MOST_GROUPS) {
                tr role="row" data-key={ (column) "-" (group.value) } {
                    th scope="row" role="rowheader" { @if group.value.is_empty() { span.quiet { "not told" } } @else { (foreign(&group.value)) } }
                    @for (metric, head) in columns {
                        td.n role="cell" data-label=(head) { (main_figure(of(&group.metrics, metric), CANNOT)) }
                    }
                }
            } }
        }
    };
    html! {
        section.card {
            header { h2 { (title) } }
            @if groups.is_empty() { p.empty { "No conversation in this time." } } @else { (scroll(&title, &table)) }
            @if groups.len() > MOST_GROUPS { p.quiet.small { (MOST_GROUPS) " of " (groups.len()) "; the API has all." } }
        }
    }
}

/// Conversations one by one.
pub(super) fn newest(list: &Slice<Conversation>) -> Markup {
    let outcome = |name: &str| match name {
        "bot_resolved" => "Resolved by the bot",
        "contained_assumed" => "Contained, assumed",
        "handed_off" => "Handed off to a human",
        "human_intervened" => "Human intervened",
        "requested_unserved" => "Human requested, none came",
        "abandoned" => "Abandoned",
        _ => "",
    };
    let count = |count: Option<u64>| count_or(count.map(i128::from), SOURCE_CANNOT);
    let span = |ms: Option<i64>| match ms {
        Some(ms) => html! { (duration(ms as f64)) },
        None => {
            html! { span title="It did not happen, or the source sends nothing that shows it." { "–" } }
        }
    };
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Conversations, the newest first" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Conversation" }
                th scope="col" role="columnheader" { "Started" }
                th scope="col" role="columnheader" { "State" }
                th scope="col" role="columnheader" { "Outcome" }
                @for head in ["Messages", "Visitor", "Bot", "Human", "First response", "Time to human", "Handle time"] { th.n scope="col" role="columnheader" { (head) } }
            } }
            tbody role="rowgroup" { @for of in &list.items {
                tr role="row" data-key={ "conversation-" (of.source) "-" (of.conversation_id) } {
                    th scope="row" role="rowheader" { span.cut { (foreign(&of.conversation_id)) } span.quiet { (foreign(&of.source)) } }
                    td.whole role="cell" data-label="Started" { (time(of.started_at)) }
                    td role="cell" data-label="State" { @if of.closed { "closed" } @else { "open" } }
                    td.whole role="cell" data-label="Outcome" {
                        @match &of.outcome {
                            Some(name) => (outcome(name)),
                            None => span.quiet title="Only closed conversations of a visitor with a bot have an outcome." { "–" },
                        }
                    }
                    td.n role="cell" data-label="Messages" { (count(of.total_messages)) }
                    td.n role="cell" data-label="Visitor" { (count(of.visitor_messages)) }
                    td.n role="cell" data-label="Bot" { (count(of.bot_messages)) }
                    td.n role="cell" data-label="Human" { (count(of.agent_messages)) }
                    td.n.whole role="cell" data-label="First response" { (span(of.first_response_any_ms)) }
                    td.n.whole role="cell" data-label="Time to human" { (span(of.time_to_human_ms)) }
                    td.n.whole role="cell" data-label="Handle time" { (span(of.handle_time_ms)) }
                }
            } }
        }
    };
    html! {
        section.card.after {
            header {
                h2 { "One by one, the newest first" }
                p { "Facts and times only: no texts, and nobody's name." }
            }
            @if list.items.is_empty() { p.empty { "None." } } @else { (scroll("Conversations, the newest first", &table)) }
            (list.links())
        }
    }
}

fn restatements(report: &Conversations) -> Markup {
    let restated = &report.restatements;
    let title =
        |name: &str| find(report, name).map_or_else(|| foreign(name), |of| of.title.clone());
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Settled figures that are now others" }
            thead role="rowgroup" { tr role="row" {
                @for head in ["Day", "Source", "Metric", "Was", "Is", "Why"] { th scope="col" role="columnheader" { (head) } }
            } }
            tbody role="rowgroup" { @for of in restated {
                tr role="row" {
                    th scope="row" role="rowheader" { (of.day.strftime("%-d %b %Y")) }
                    td role="cell" data-label="Source" { (foreign(&of.source)) }
                    td role="cell" data-label="Metric" { (title(&of.metric)) }
                    td role="cell" data-label="Was" { (main_figure(of.was.as_ref(), CANNOT)) br; span.quiet { "judged " (time(of.settled_as_of)) } }
                    td role="cell" data-label="Is" { (main_figure(of.is.as_ref(), CANNOT)) br; span.quiet { "judged " (time(of.restated_as_of)) } }
                    td.wide role="cell" data-label="Why" {
                        @if of.late_events == 0 { (JUDGED_ANEW) } @else { (grouped(of.late_events.into())) " late events" }
                        @if let (Some(first), Some(last)) = (of.first_occurred, of.last_occurred) { ", which occurred from " (time(first)) " to " (time(last)) }
                        @if let Some(at) = of.last_received { ", the last received " (time(at)) }
                    }
                }
            } }
        }
    };
    html! {
        section.card {
            header {
                h2 #restated { "Restated figures" }
                p {
                    "Figures of past days that were settled and have changed since: by late events, or by another definition or setting."
                    @if report.shows_newest_restatements() { " The newest are shown; " code { "/v1/restatements" } " has all." }
                }
            }
            @if restated.is_empty() { p.empty { "None." } } @else { (scroll("Restated figures", &table)) }
        }
    }
}

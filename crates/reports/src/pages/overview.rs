//! `/`: the whole installation, for its operator.

use maud::{Markup, html};

use super::health::{
    ACCEPTED, DUPLICATE, LATE, NONE_ACCEPTED, RECEIVED, REJECTED, TO_QUERYABLE, TO_RECEIVED,
    latency_tile,
};
use super::parts::{
    Tile, badge, definitions, encoded, foreign, link, not_available, scroll, share, tiles,
};
use super::time::{self, series, slots, sums, text, time, unit_name, values};
use crate::chart::{self, Part, TimeChart, Unit};
use crate::health::Percentiles;
use crate::overview::{Overview, PipelinePointReport, StageLag, TenantOverview};
use crate::text::{compact, duration, grouped};
use crate::verdict::Verdict;

/// Most tenants that are listed; a part of the name finds the others.
const MOST_TENANTS: usize = 50;
/// Most partitions of a stage that are listed.
const MOST_PARTITIONS: usize = 64;

const RATE: &str = "Events received per second, over the seconds of each unit that have passed.";
const BEHIND: &str = "Records that wait before a stage, over all partitions. 0 is best; a number that grows says that the stage is slower than what comes.";
const NO_LAG: &str = "The broker has not been asked yet, or this process runs no stage.";

/// What the page shows below its head.
pub(super) fn content(overview: &Overview, find: &str, since: &str) -> Markup {
    if overview.tenants.is_empty() {
        return html! {
            section.card {
                header { h2 #first { "No event has been stored yet" } }
                ol.steps {
                    li { p { "Make a tenant and its write key:" } pre { code { "chatpulse tenant add NAME --origin https://www.example.com" } } }
                    li { p { "Send an event with that key:" } pre { code {
                        "curl -X POST http://127.0.0.1:7070/v1/events/watermelon \\\n  -H 'Authorization: Bearer WRITE_KEY' \\\n  -H 'Content-Type: application/json' \\\n  -d '{\"event\": \"widget_opened\"}'"
                    } } }
                    li { p { "Or try everything with simulated traffic:" } pre { code { "chatpulse demo" } } }
                }
            }
        };
    }
    html! {
        div.stack {
            (figures(overview))
            div.pair {
                section.card { (rates(overview)) }
                section.card { (latencies(overview, "queryable", "Received → queryable", |point| point.queryable_ms)) }
            }
            (tenants(overview, find, since))
            (stages(overview.stages.as_deref()))
            section.card {
                (latencies(
                    overview,
                    "receive",
                    "Occurred → received",
                    |point| point.receive_ms,
                ))
            }
            (definitions([
                ("Received", RECEIVED), ("Accepted", ACCEPTED), ("Duplicate", DUPLICATE), ("Rejected", REJECTED), ("Late", LATE),
                ("Rate", RATE), ("Behind", BEHIND), ("Occurred → received", TO_RECEIVED), ("Received → queryable", TO_QUERYABLE),
            ].into_iter()))
        }
    }
}

fn figures(overview: &Overview) -> Markup {
    let sum = |of: fn(&PipelinePointReport) -> u64| overview.series.iter().map(of).sum::<u64>();
    let received = sum(|point| point.received);
    let seconds = overview
        .window
        .until
        .duration_since(overview.window.since)
        .as_secs_f64();
    let last = overview.series.last();
    let latest = last.and_then(|point| point.queryable_ms);
    let behind: Option<u64> = overview.stages.as_ref().map(|stages| {
        stages
            .iter()
            .flat_map(|stage| &stage.partitions)
            .map(|partition| partition.records)
            .sum()
    });
    let ill = overview
        .tenants
        .iter()
        .filter(|tenant| tenant.judgement.verdict != Verdict::Healthy)
        .count();
    let unit = unit_name(overview.unit);
    let outcome = |name, count: u64, definition| Tile {
        name,
        figure: html! { (share(count, received)) },
        beside: html! { (grouped(count.into())) },
        definition,
    };
    tiles(&[
        Tile {
            name: "Tenants",
            figure: html! { (grouped(overview.tenants.len() as i128)) },
            beside: if ill == 0 {
                html! { "all healthy" }
            } else {
                html! { (ill) " need attention" }
            },
            definition: "Tenants that sent something in this time or before it.",
        },
        Tile {
            name: "Received",
            figure: html! { (grouped(received.into())) },
            beside: html! { (rate_text(received as f64 / seconds.max(1.0))) " on average" },
            definition: RECEIVED,
        },
        outcome("Accepted", sum(|point| point.accepted), ACCEPTED),
        outcome("Duplicate", sum(|point| point.duplicate), DUPLICATE),
        outcome("Rejected", sum(|point| point.rejected), REJECTED),
        Tile {
            name: "Behind",
            figure: match behind {
                Some(records) => html! { (grouped(records.into())) span.unit { " records" } },
                None => not_available(NO_LAG),
            },
            beside: html! { "waiting before enricher and sink" },
            definition: BEHIND,
        },
        Tile {
            beside: match (latest, last) {
                (Some(ms), Some(point)) => {
                    html! { "median · p95 " (duration(ms.p95)) " in the " (unit) " of " (text(point.at)) }
                }
                _ => html! { "median of the last " (unit) },
            },
            ..latency_tile(
                "Received → queryable",
                latest,
                (TO_QUERYABLE, NONE_ACCEPTED),
            )
        },
    ])
}

/// `12/s`, or where that is little, `3.1/min`.
fn rate_text(per_second: f64) -> String {
    if per_second < 1.0 {
        format!("{}/min", compact(per_second * 60.0))
    } else {
        format!("{}/s", compact(per_second))
    }
}

fn rates(overview: &Overview) -> Markup {
    let slots = slots(overview.window, overview.unit);
    let highest = overview
        .series
        .iter()
        .map(|point| point.received as f64 / point.seconds.max(1.0))
        .fold(0.0, f64::max);
    let (title, unit, scale) = if highest < 1.0 {
        ("Events per minute", Unit::PerMinute, 60.0)
    } else {
        ("Events per second", Unit::PerSecond, 1.0)
    };
    let rate = |of: fn(&PipelinePointReport) -> u64| {
        let points = overview.series.iter();
        sums(
            &slots,
            points.map(|point| (point.at, of(point) as f64 / point.seconds.max(1.0) * scale)),
        )
    };
    TimeChart {
        id: "rate",
        title,
        definition: "All tenants, by what became of them.",
        slots,
        unit,
        series: vec![
            series("accepted", "t-accepted", rate(|point| point.accepted)),
            series("duplicate", "t-duplicate", rate(|point| point.duplicate)),
            series("rejected", "t-rejected", rate(|point| point.rejected)),
        ],
    }
    .stack()
}

fn latencies(
    overview: &Overview,
    id: &'static str,
    title: &'static str,
    of: fn(&PipelinePointReport) -> Option<Percentiles>,
) -> Markup {
    let slots = slots(overview.window, overview.unit);
    let line = |percentile: fn(Percentiles) -> f64| {
        values(
            &slots,
            overview
                .series
                .iter()
                .map(|point| (point.at, of(point).map(percentile))),
        )
    };
    TimeChart {
        id,
        title,
        definition: if id == "receive" {
            NO_TIME_GAP
        } else {
            NONE_GAP
        },
        slots,
        unit: Unit::Milliseconds,
        series: vec![
            series("p50", "t-p50", line(|ms| ms.p50)),
            series("p95", "t-p95", line(|ms| ms.p95)),
            series("p99", "t-p99", line(|ms| ms.p99)),
        ],
    }
    .lines()
}

const NO_TIME_GAP: &str = "All tenants. A gap: no event told when it occurred.";
const NONE_GAP: &str = "All tenants. A gap: nothing was accepted.";

fn stages(stages: Option<&[StageLag]>) -> Markup {
    html! {
        section.card {
            header {
                h2 #lag { "Waiting, by partition" }
                p { "Records that a stage has not worked on yet." }
            }
            @match stages {
                None => p.empty { "n/a: " (NO_LAG) },
                Some(stages) => div.pair { @for stage in stages { div { (partitions(stage)) } } },
            }
        }
    }
}

fn partitions(stage: &StageLag) -> Markup {
    let widest = stage
        .partitions
        .iter()
        .map(|partition| partition.records)
        .max()
        .unwrap_or(0);
    let total: u64 = stage
        .partitions
        .iter()
        .map(|partition| partition.records)
        .sum();
    let table = html! {
        table {
            caption { strong { (stage.stage) } " reads " code { (stage.topic) } ": " (grouped(total.into())) " waiting, as of " (time(stage.as_of)) }
            thead { tr {
                th scope="col" { "Partition" } th scope="col" { span.unseen { "Share" } }
                th.n scope="col" { "Waiting" } th.n scope="col" { "Standing still" }
            } }
            tbody { @for partition in stage.partitions.iter().take(MOST_PARTITIONS) {
                tr data-key={ "lag-" (stage.stage) "-" (partition.partition) } {
                    th.short scope="row" { (partition.partition) }
                    td.bars { (chart::parts(&[Part { tone: "t-late", value: partition.records as f64 }], widest as f64)) }
                    td.n { (grouped(partition.records.into())) }
                    @match partition.still_seconds {
                        Some(seconds) => td.n.bad[seconds >= 60] { (duration(seconds as f64 * 1_000.0)) },
                        None => td.n.quiet { "no" },
                    }
                }
            } }
        }
    };
    html! {
        (scroll(&format!("Waiting before the {}", stage.stage), &table))
        @if stage.partitions.len() > MOST_PARTITIONS {
            p.quiet.small { (MOST_PARTITIONS) " of " (stage.partitions.len()) " partitions; the API has all." }
        }
    }
}

fn tenants(overview: &Overview, find: &str, since: &str) -> Markup {
    let wanted = find.to_lowercase();
    let mut rows: Vec<&TenantOverview> = overview
        .tenants
        .iter()
        .filter(|tenant| tenant.tenant.to_lowercase().contains(&wanted))
        .collect();
    rows.sort_by(|a, b| {
        b.judgement
            .verdict
            .cmp(&a.judgement.verdict)
            .then(b.received.cmp(&a.received))
    });
    let widest = rows.iter().map(|tenant| tenant.received).max().unwrap_or(0);
    html! {
        section.card {
            header {
                h2 #tenants { "Tenants" }
                @if overview.tenants.len() > 10 || !find.is_empty() {
                    form.filter method="get" action="/" role="search" {
                        input type="hidden" name="since" value=(since);
                        label { "Part of the name" input type="search" name="find" value=(foreign(find)) maxlength="100"; }
                        button { "Find" }
                    }
                }
            }
            @if rows.is_empty() {
                p.empty { "No tenant's name contains “" (foreign(find)) "”. " a href=(link("/", &[("since", Some(since))])) { "Show all" } }
            } @else {
                (scroll("Tenants", &tenant_table(&rows, widest, since)))
            }
            @if rows.len() > MOST_TENANTS { p.quiet.small { (MOST_TENANTS) " of " (grouped(rows.len() as i128)) " tenants, the worst and largest first. Find others by a part of the name." } }
        }
    }
}

fn tenant_table(rows: &[&TenantOverview], widest: u64, since: &str) -> Markup {
    html! {
        table.fold role="table" {
            caption.unseen { "Tenants, the worst first" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Tenant" }
                th scope="col" role="columnheader" { "Verdict" }
                th scope="col" role="columnheader" { "Share by outcome" }
                @for (head, definition) in [("Received", RECEIVED), ("Duplicate", DUPLICATE), ("Rejected", REJECTED), ("Late", LATE), ("Last received", "Start of the unit of time in which the last one came.")] {
                    th.n scope="col" role="columnheader" title=(definition) { (head) }
                }
            } }
            tbody role="rowgroup" { @for tenant in rows.iter().take(MOST_TENANTS) {
                tr role="row" data-key={ "tenant-" (tenant.tenant) } {
                    th scope="row" role="rowheader" {
                        @if tenant.tenant.is_empty() { "(could not be decoded)" }
                        @else { a href=(link(&format!("/tenants/{}", encoded(&tenant.tenant)), &[("since", Some(since))])) { (foreign(&tenant.tenant)) } }
                    }
                    td role="cell" data-label="Verdict" { (badge(tenant.judgement.verdict)) }
                    td.bars role="cell" {
                        (chart::parts(&[
                            Part { tone: "t-accepted", value: tenant.accepted as f64 },
                            Part { tone: "t-duplicate", value: tenant.duplicate as f64 },
                            Part { tone: "t-rejected", value: tenant.rejected as f64 },
                        ], widest as f64))
                        span.quiet { (foreign(&tenant.judgement.reason)) }
                    }
                    td.n role="cell" data-label="Received" { (grouped(tenant.received.into())) }
                    td.n role="cell" data-label="Duplicate" { (share(tenant.duplicate, tenant.received)) }
                    td.n role="cell" data-label="Rejected" { (share(tenant.rejected, tenant.received)) }
                    td.n role="cell" data-label="Late" { (share(tenant.late, tenant.accepted)) }
                    td.n.whole role="cell" data-label="Last received" { (time::unit(tenant.last_received)) }
                }
            } }
        }
    }
}

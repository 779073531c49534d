//! `/tenants/{tenant}`: do the events of this tenant arrive?

use maud::{Markup, html};

use super::parts::{
    Tile, badge, count_or, definitions, first_and_more, foreign, not_available, notice, scroll,
    share, tiles,
};
use super::shell::Tab;
use super::time::{self, series, slots, sums, text, unit_name, values};
use crate::chart::{self, Part, TimeChart, Unit};
use crate::health::{
    Delivery, Drift, Key, Name, Percentiles, SourceHealth, TenantHealth, TypeHealth,
};
use crate::text::{duration, grouped};
use crate::twins::Twins;
use crate::verdict::{Verdict, percent};

/// Event types that are listed at once: those that need attention within these bounds.
const LEAST_TYPES: usize = 10;
const MOST_ILL: usize = 30;
/// Most names of each kind of drift that are listed.
const MOST_NAMES: usize = 50;
/// Looks of the lines of sources.
pub(super) const TONES: [&str; 6] = ["t-1", "t-3", "t-2", "t-4", "t-5", "t-6"];

pub(super) const RECEIVED: &str =
    "Everything of this tenant that was taken in: accepted + duplicate + rejected.";
pub(super) const ACCEPTED: &str = "The first of its event id. Only these count in metrics.";
pub(super) const DUPLICATE: &str =
    "Further copies of an accepted event, recognised by the event id. They harm nothing.";
pub(super) const REJECTED: &str =
    "Refused, with a reason; kept without its content, and can be replayed after a fix.";
pub(super) const LATE: &str =
    "Accepted, and occurred more than 5 minutes before it was received, by its own time.";
pub(super) const TO_RECEIVED: &str = "From when an event occurred, by its own time, to when it was received. Of accepted events that tell their time. At most 1 % off.";
pub(super) const TO_QUERYABLE: &str = "From when an event was received to when it could be asked for in ClickHouse. Of accepted events. At most 1 % off.";
const LOST: &str = "Numbers missing in page sessions that number their events: lost between page and collector. n/a where no page numbers its events.";
const MISSING: &str = "Messages that the vendor counted and that never came, of the conversations that started in this time. n/a where the vendor does not count.";
pub(super) const NO_NUMBERS: &str =
    "No page of this source numbers its events: send context.session_id and context.sequence.";
pub(super) const NO_COUNT: &str = "This vendor does not report how many messages there were.";
pub(super) const NO_TIME: &str = "No accepted event of this time tells when it occurred.";
pub(super) const NONE_ACCEPTED: &str = "No event was accepted in this time.";

/// What the page shows below its head.
pub(super) fn content(health: &TenantHealth, links: bool) -> Markup {
    if health.sources.is_empty() {
        return first_event(&health.tenant);
    }
    html! {
        div.stack {
            (notice(&health.judgement))
            (figures(health))
            (over_time(health))
            (sources(&health.sources))
            @if let Some(twins) = &health.twins { (reconciled(twins)) }
            (types(health))
            (queryable(health))
            (drift(&health.drift))
            (failures(health, links))
            @if let Some(deliveries) = &health.deliveries { (super::deliveries::summary(deliveries)) }
            (definitions(DEFINITIONS.into_iter()))
        }
    }
}

const DEFINITIONS: [(&str, &str); 10] = [
    ("Received", RECEIVED),
    ("Accepted", ACCEPTED),
    ("Duplicate", DUPLICATE),
    ("Rejected", REJECTED),
    ("Late", LATE),
    ("Occurred → received", TO_RECEIVED),
    ("Received → queryable", TO_QUERYABLE),
    ("Lost in the browser", LOST),
    ("Messages missing", MISSING),
    (
        "Verdict",
        "failing: 20 % or more rejected. degraded: 1 % or more rejected, 10 % or more late or ahead of our clock, 5 % or more lost in the browser, many more duplicates than before, or queryable only after a minute. silent: none came, and by what came before at least 5 were to be expected. healthy: none of these. A tenant is as well as its worst source.",
    ),
];

/// For a tenant of which nothing is known.
fn first_event(tenant: &str) -> Markup {
    html! {
        section.card {
            header {
                h2 #first { "No event has come yet" }
                p { "Nothing was received of " strong { (foreign(tenant)) } " in this time or before it. This is how the first event gets here." }
            }
            ol.steps {
                li { p { "Make the tenant and its write key, once:" } pre { code { "chatpulse tenant add NAME --origin https://www.example.com" } } }
                li { p { "Send an event with that key:" } pre { code {
                    "curl -X POST http://127.0.0.1:7070/v1/events/watermelon \\\n  -H 'Authorization: Bearer WRITE_KEY' \\\n  -H 'Content-Type: application/json' \\\n  -d '{\"event\": \"widget_opened\"}'"
                } } }
                li { p { "It shows here some seconds later. The answer of the collector says what was refused, and why." } }
            }
        }
    }
}

fn figures(health: &TenantHealth) -> Markup {
    let total = &health.total;
    let outcome = |name, count: u64, definition| Tile {
        name,
        figure: html! { (share(count, total.received)) },
        beside: html! { (grouped(i128::from(count))) },
        definition,
    };
    tiles(&[
        Tile {
            name: "Received",
            figure: html! { (grouped(i128::from(total.received))) },
            beside: match total.last_received {
                Some(last) => html! { "last " (time::unit(last)) },
                None => html! { "never" },
            },
            definition: RECEIVED,
        },
        outcome("Accepted", total.accepted, ACCEPTED),
        outcome("Duplicate", total.duplicate, DUPLICATE),
        outcome("Rejected", total.rejected, REJECTED),
        Tile {
            name: "Late",
            figure: html! { (share(total.late, total.accepted)) },
            beside: html! { (grouped(i128::from(total.late))) " of accepted" },
            definition: LATE,
        },
        latency_tile(
            "Occurred → received",
            total.receive_ms,
            (TO_RECEIVED, NO_TIME),
        ),
        latency_tile(
            "Received → queryable",
            total.queryable_ms,
            (TO_QUERYABLE, NONE_ACCEPTED),
        ),
    ])
}

pub(super) fn latency_tile<'a>(
    name: &'a str,
    ms: Option<Percentiles>,
    (definition, why_not): (&'a str, &str),
) -> Tile<'a> {
    Tile {
        name,
        figure: match ms {
            Some(ms) => html! { (duration(ms.p50)) },
            None => not_available(why_not),
        },
        beside: match ms {
            Some(ms) => html! { "median · p95 " (duration(ms.p95)) " · p99 " (duration(ms.p99)) },
            None => html! { "median, p95, p99" },
        },
        definition,
    }
}

fn over_time(health: &TenantHealth) -> Markup {
    let slots = slots(health.window, health.unit);
    let count = |of: fn(&crate::health::Point) -> u64| {
        sums(
            &slots,
            health
                .series
                .iter()
                .map(|point| (point.at, of(point) as f64)),
        )
    };
    let chart = TimeChart {
        id: "received",
        title: &format!("Received per {}", unit_name(health.unit)),
        definition: "All sources together, by what became of it.",
        slots,
        unit: Unit::Count,
        series: vec![
            series("accepted", "t-accepted", count(|point| point.accepted)),
            series("duplicate", "t-duplicate", count(|point| point.duplicate)),
            series("rejected", "t-rejected", count(|point| point.rejected)),
        ],
    };
    html! { section.card { (chart.stack()) } }
}

fn queryable(health: &TenantHealth) -> Markup {
    let slots = slots(health.window, health.unit);
    let names: Vec<String> = health
        .sources
        .iter()
        .map(|source| foreign(&source.source))
        .collect();
    let chart = |id: &'static str,
                 title: &'static str,
                 definition: &'static str,
                 of: fn(&crate::health::Point) -> Option<Percentiles>| {
        let lines = health
            .sources
            .iter()
            .zip(&names)
            .zip(TONES)
            .map(|((source, name), tone)| {
                let points = health
                    .series
                    .iter()
                    .filter(|point| point.source == source.source);
                series(
                    name,
                    tone,
                    values(
                        &slots,
                        points.map(|point| (point.at, of(point).map(|ms| ms.p95))),
                    ),
                )
            })
            .collect();
        TimeChart {
            id,
            title,
            definition,
            slots,
            unit: Unit::Milliseconds,
            series: lines,
        }
        .lines()
    };
    html! {
        div.pair {
            section.card { (chart("to-received", "Occurred → received, p95", "By source. A gap: no event told its time.", |point| point.receive_ms)) }
            section.card { (chart("to-queryable", "Received → queryable, p95", "By source. A gap: none was accepted.", |point| point.queryable_ms)) }
        }
        @if health.sources.len() > TONES.len() {
            p.quiet.small { "Lines of the first " (TONES.len()) " sources; the table of sources has all." }
        }
    }
}

/// What became of what was received, as a bar whose length is its share of the largest.
pub(super) fn outcome_bar(delivery: &Delivery, widest: u64) -> Markup {
    chart::parts(
        &[
            Part {
                tone: "t-accepted",
                value: delivery.accepted as f64,
            },
            Part {
                tone: "t-duplicate",
                value: delivery.duplicate as f64,
            },
            Part {
                tone: "t-rejected",
                value: delivery.rejected as f64,
            },
        ],
        widest as f64,
    )
}

fn sources(sources: &[SourceHealth]) -> Markup {
    let widest = sources
        .iter()
        .map(|source| source.delivery.received)
        .max()
        .unwrap_or(0);
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Delivery by source" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Source" }
                th scope="col" role="columnheader" { "Verdict" }
                th scope="col" role="columnheader" { "Share by outcome" }
                @for (head, definition) in [("Received", RECEIVED), ("Accepted", ACCEPTED), ("Duplicate", DUPLICATE), ("Rejected", REJECTED), ("Late", LATE), ("Lost in browser", LOST), ("Messages missing", MISSING)] {
                    th.n scope="col" role="columnheader" title=(definition) { (head) }
                }
            } }
            tbody role="rowgroup" { @for source in sources {
                @let of = &source.delivery;
                tr role="row" data-key={ "source-" (source.source) } {
                    th scope="row" role="rowheader" { (foreign(&source.source)) }
                    td role="cell" data-label="Verdict" { (badge(source.judgement.verdict)) }
                    td.bars role="cell" { (outcome_bar(of, widest)) span.quiet { (foreign(&source.judgement.reason)) } }
                    td.n role="cell" data-label="Received" { (grouped(of.received.into())) }
                    td.n role="cell" data-label="Accepted" { (grouped(of.accepted.into())) }
                    td.n role="cell" data-label="Duplicate" { (grouped(of.duplicate.into())) }
                    td.n role="cell" data-label="Rejected" { (grouped(of.rejected.into())) }
                    td.n role="cell" data-label="Late" { (grouped(of.late.into())) }
                    td.n role="cell" data-label="Lost in browser" { (count_or(source.lost_in_browser.map(i128::from), NO_NUMBERS)) }
                    td.n.whole role="cell" data-label="Messages missing" { (count_or(source.missing_messages.map(i128::from), NO_COUNT)) }
                }
            } }
        }
    };
    html! {
        section.card {
            header { h2 #sources { "Sources" } }
            (scroll("Delivery by source", &table))
        }
    }
}

/// Events that should come both from the page and from the vendor's server.
fn reconciled(twins: &Twins) -> Markup {
    let all = ("All sources", &twins.total);
    let rows = twins
        .sources
        .iter()
        .map(|of| (of.source.as_str(), &of.reconciled));
    let rows: Vec<_> = match twins.sources.len() {
        1 => rows.collect(),
        _ => std::iter::once(all).chain(rows).collect(),
    };
    let rate = |rate: Option<f64>| match rate {
        Some(rate) => html! { (percent(rate)) },
        None => not_available("Nothing came that way in this time."),
    };
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Page and server, reconciled" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Source" }
                @for head in ["From a server", "Lost in browser", "Share lost in browser", "From the page", "Lost by server", "Share lost by server"] {
                    th.n scope="col" role="columnheader" { (head) }
                }
            } }
            tbody role="rowgroup" { @for (source, of) in rows {
                tr role="row" data-key={ "twins-" (source) } {
                    th scope="row" role="rowheader" { (foreign(source)) }
                    td.n role="cell" data-label="From a server" { (grouped(of.server.into())) }
                    td.n role="cell" data-label="Lost in browser" { (grouped(of.lost_in_browser.into())) }
                    td.n role="cell" data-label="Share lost in browser" { (rate(of.browser_loss_rate)) }
                    td.n role="cell" data-label="From the page" { (grouped(of.page.into())) }
                    td.n role="cell" data-label="Lost by server" { (grouped(of.lost_by_server.into())) }
                    td.n role="cell" data-label="Share lost by server" { (rate(of.server_loss_rate)) }
                }
            } }
        }
    };
    html! {
        section.card {
            header {
                h2 #twins { "Page and server, reconciled" }
                p { "Events that come both from the page and from the vendor's server, under the same id: what came one way only was lost on the other. Of hours that have been over for an hour, by event types that are known to come both ways." }
            }
            (scroll("Page and server, reconciled", &table))
        }
    }
}

fn types(health: &TenantHealth) -> Markup {
    let mut types: Vec<&TypeHealth> = health.types.iter().collect();
    // What needs attention comes first.
    types.sort_by(|a, b| {
        let verdict = b.judgement.verdict.cmp(&a.judgement.verdict);
        verdict.then(b.delivery.received.cmp(&a.delivery.received))
    });
    let ill = types
        .iter()
        .filter(|of| of.judgement.verdict != Verdict::Healthy)
        .count();
    let first = ill.clamp(LEAST_TYPES, MOST_ILL);
    html! {
        section.card {
            header {
                h2 #types { "Event types" }
                p {
                    @if ill == 0 { "All " (types.len()) " healthy." }
                    @else { (ill) " of " (types.len()) " need attention; they come first." }
                }
            }
            (first_and_more(("Delivery by event type", "more-types"), first, &types, type_table))
        }
    }
}

fn type_table(caption: &str, types: &[&TypeHealth]) -> Markup {
    let table = html! {
        table.fold role="table" {
            caption.unseen { (caption) }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Type" }
                th scope="col" role="columnheader" { "Verdict" }
                @for (head, definition) in [("Received", RECEIVED), ("Rejected", REJECTED), ("Late", LATE), ("To received, p95", TO_RECEIVED), ("To queryable, p95", TO_QUERYABLE), ("Last received", "Start of the unit of time in which the last one came.")] {
                    th.n scope="col" role="columnheader" title=(definition) { (head) }
                }
            } }
            tbody role="rowgroup" { @for of in types {
                @let d = &of.delivery;
                tr role="row" data-key={ "type-" (of.source) "-" (of.event_type) } {
                    th scope="row" role="rowheader" { (foreign(&of.event_type)) " " span.quiet { (foreign(&of.source)) } }
                    td.wide role="cell" {
                        (badge(of.judgement.verdict)) " " span.quiet {
                            (foreign(&of.judgement.reason))
                            @if let Some(limit) = &of.judgement.threshold { "; limit " (limit) }
                        }
                    }
                    td.n role="cell" data-label="Received" { (grouped(d.received.into())) }
                    td.n role="cell" data-label="Rejected" { (grouped(d.rejected.into())) }
                    td.n role="cell" data-label="Late" { (grouped(d.late.into())) }
                    td.n.whole role="cell" data-label="To received, p95" { (p95(d.receive_ms, NO_TIME)) }
                    td.n.whole role="cell" data-label="To queryable, p95" { (p95(d.queryable_ms, NONE_ACCEPTED)) }
                    td.n.whole role="cell" data-label="Last received" { @match d.last_received { Some(last) => (time::unit(last)), None => "never" } }
                }
            } }
        }
    };
    scroll(caption, &table)
}

pub(super) fn p95(ms: Option<Percentiles>, why: &str) -> Markup {
    match ms {
        Some(ms) => {
            html! { span title={ "p50 " (duration(ms.p50)) ", p99 " (duration(ms.p99)) } { (duration(ms.p95)) } }
        }
        None => not_available(why),
    }
}

/// Names that came or went.
pub(super) fn drift(drift: &Drift) -> Markup {
    let groups: [(&str, &str, &[Name]); 3] = [
        (
            "vanished",
            "Came before and not now, though the source did.",
            &drift.vanished,
        ),
        (
            "appeared",
            "Documented, and came for the first time now.",
            &drift.appeared,
        ),
        (
            "not documented",
            "The source definition does not have it; kept as custom.",
            &drift.undocumented,
        ),
    ];
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Event names that came or went" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Name" }
                th scope="col" role="columnheader" { "Source" }
                th scope="col" role="columnheader" { "What" }
                @for head in ["Now", "Before", "Last received"] { th.n scope="col" role="columnheader" { (head) } }
            } }
            tbody role="rowgroup" { @for (what, meaning, names) in groups { @for name in names.iter().take(MOST_NAMES) {
                tr role="row" data-key={ (what) "-" (name.source) "-" (name.source_event) } {
                    th scope="row" role="rowheader" { (foreign(&name.source_event)) }
                    td role="cell" data-label="Source" { (foreign(&name.source)) }
                    td role="cell" { span.tag title=(meaning) { (what) } }
                    td.n role="cell" data-label="Now" { (grouped(name.received.into())) }
                    td.n role="cell" data-label="Before" { (grouped(name.baseline_received.into())) }
                    td.n.whole role="cell" data-label="Last received" { (time::unit(name.last_received)) }
                }
            } } }
        }
    };
    let empty = groups.iter().all(|(_, _, names)| names.is_empty());
    html! {
        section.card {
            header {
                h2 #drift { "Drift of event names" }
                p { "Names that vanished, appeared, or are not documented, against what came before." }
            }
            @if empty { p.empty { "None: every name came as before." } } @else { (scroll("Event names that came or went", &table)) }
            @for (what, _, names) in groups {
                @if names.len() > MOST_NAMES { p.quiet.small { (MOST_NAMES) " of " (names.len()) " " (what) "; the API has all." } }
            }
        }
        (key_drift(drift))
    }
}

fn key_drift(drift: &Drift) -> Markup {
    let groups: [(&str, &str, &[Key]); 2] = [
        (
            "vanished",
            "Most events of the type had it, and hardly one has it now: most often the page calls it something else.",
            &drift.vanished_keys,
        ),
        (
            "appeared",
            "Hardly an event of the type had it, and most have it now.",
            &drift.appeared_keys,
        ),
    ];
    if groups.iter().all(|(_, _, keys)| keys.is_empty()) {
        return html! {};
    }
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Keys of events that came or went" }
            thead role="rowgroup" { tr role="row" {
                @for head in ["Key", "Event type", "What"] { th scope="col" role="columnheader" { (head) } }
                @for head in ["Share now", "Share before"] { th.n scope="col" role="columnheader" { (head) } }
            } }
            tbody role="rowgroup" { @for (what, meaning, keys) in groups { @for key in keys.iter().take(MOST_NAMES) {
                tr role="row" data-key={ "key-" (what) "-" (key.source) "-" (key.event_type) "-" (key.key) } {
                    th scope="row" role="rowheader" { (foreign(&key.key)) }
                    td role="cell" data-label="Event type" { (foreign(&key.event_type)) " · " (foreign(&key.source)) }
                    td role="cell" { span.tag title=(meaning) { (what) } }
                    td.n role="cell" data-label="Share now" { (percent(key.share)) }
                    td.n role="cell" data-label="Share before" { (percent(key.baseline_share)) }
                }
            } } }
        }
    };
    html! {
        section.card {
            header {
                h2 { "Drift of keys" }
                p { "Keys that most events of a type had and no longer have, or the other way round, by whole days." }
            }
            (scroll("Keys of events that came or went", &table))
        }
    }
}

fn failures(health: &TenantHealth, links: bool) -> Markup {
    html! {
        section.card {
            header { h2 #rejections { "Rejected by reason" } }
            (super::failures::reasons(&health.rejections))
            @if links && !health.rejections.is_empty() {
                p { a href=(Tab::Failures.path(&health.tenant)) { "Recent failures" } }
            } @else if !health.recent_rejections.is_empty() {
                h3 { "The newest" }
                (super::failures::recent(&health.recent_rejections))
            }
        }
    }
}

/// For the head: what and when.
pub(super) fn about(health: &TenantHealth) -> String {
    format!(
        "Received from {} to {} UTC, compared with what came since {}.",
        text(health.window.since),
        text(health.window.until),
        text(health.baseline.since)
    )
}

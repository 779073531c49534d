//! `/tenants/{tenant}/delivery`: what came of each event type over time.

use jiff::Timestamp;
use maud::{Markup, html};

use super::health::{
    ACCEPTED, DUPLICATE, LATE, NO_TIME, NONE_ACCEPTED, RECEIVED, REJECTED, TO_QUERYABLE,
    TO_RECEIVED, TONES, drift,
};
use super::parts::{badge, definitions, first_and_more, foreign, link, not_available, scroll};
use super::shell::Tab;
use super::time::{self, series, slots, sums, unit_name, values};
use crate::chart::{self, Slots, TimeChart, Unit};
use crate::delivery::{Counted, DeliverySeries};
use crate::health::{Percentiles, Point, TenantHealth, TypeHealth};
use crate::text::{duration, grouped};

/// Most event types to choose from.
const MOST_TYPES: usize = 200;
/// Rows of event types that are shown at once.
const FIRST_TYPES: usize = 5;

/// What is shown of all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filter<'a> {
    pub(super) source: Option<&'a str>,
    pub(super) event_type: Option<&'a str>,
}

impl Filter<'_> {
    /// Whether everything is shown.
    pub(super) fn is_all(self) -> bool {
        self.source.is_none() && self.event_type.is_none()
    }

    fn takes(self, source: &str, event_type: &str) -> bool {
        self.source.is_none_or(|wanted| wanted == source)
            && self.event_type.is_none_or(|wanted| wanted == event_type)
    }

    fn name(self) -> String {
        match (self.event_type, self.source) {
            (None, None) => "all events".to_owned(),
            (None, Some(source)) => format!("events of {}", foreign(source)),
            (Some(event_type), None) => foreign(event_type),
            (Some(event_type), Some(source)) => {
                format!("{} of {}", foreign(event_type), foreign(source))
            }
        }
    }
}

/// Choices of source and type, as a form that works without a script.
pub(super) fn form(health: &TenantHealth, filter: Filter<'_>, since: &str) -> Markup {
    let mut types: Vec<&str> = health
        .types
        .iter()
        .map(|of| of.event_type.as_str())
        .collect();
    types.sort_unstable();
    types.dedup();
    let sources: Vec<&str> = health.sources.iter().map(|of| of.source.as_str()).collect();
    let select = |name: &str, label: &str, all: &str, choices: &[&str], chosen: Option<&str>| {
        html! {
            label { (label) select name=(name) {
                option value="" { (all) }
                @for choice in choices.iter().take(MOST_TYPES) {
                    option value=(choice) selected[chosen == Some(*choice)] { (foreign(choice)) }
                }
            } }
        }
    };
    html! {
        form.filter method="get" action=(Tab::Delivery.path(&health.tenant)) {
            input type="hidden" name="since" value=(since);
            (select("source", "Source", "All sources", &sources, filter.source))
            (select("type", "Event type", "All types", &types, filter.event_type))
            button { "Show" }
        }
    }
}

/// What the page shows below its head.
pub(super) fn content(
    health: &TenantHealth,
    delivery: &DeliverySeries,
    (filter, since): (Filter<'_>, &str),
) -> Markup {
    let slots = slots(delivery.window, delivery.unit);
    let mut rows: Vec<&TypeHealth> = health
        .types
        .iter()
        .filter(|of| filter.takes(&of.source, &of.event_type))
        .collect();
    rows.sort_by_key(|of| std::cmp::Reverse((of.judgement.verdict, of.delivery.received)));
    if rows.is_empty() {
        return html! {
            section.card { p.empty {
                "Nothing came of " (filter.name()) " in this time or before it. "
                a href=(link(&Tab::Delivery.path(&health.tenant), &[("since", Some(since))])) { "Show all" }
            } }
        };
    }
    html! {
        div.stack {
            section.card { (counts(delivery, slots, filter)) }
            div.pair {
                section.card { (late(delivery, slots, filter)) }
                section.card { (latency(health, delivery, (slots, filter), LATENCIES[1])) }
            }
            section.card { (latency(health, delivery, (slots, filter), LATENCIES[0])) }
            (table(health, delivery, &rows, since))
            (drift(&health.drift))
            (definitions([
                ("Received", RECEIVED), ("Accepted", ACCEPTED), ("Duplicate", DUPLICATE), ("Rejected", REJECTED), ("Late", LATE),
                ("Occurred → received", TO_RECEIVED), ("Received → queryable", TO_QUERYABLE),
                ("unknown", "Rejected records whose name stands for no type. In the table a rejected record counts with the type of its name, in the charts of a single type it does not."),
            ].into_iter()))
        }
    }
}

fn counted<'a>(
    delivery: &'a DeliverySeries,
    filter: Filter<'a>,
) -> impl Iterator<Item = &'a Counted> {
    delivery
        .types
        .iter()
        .filter(move |of| filter.takes(&of.source, &of.event_type))
        .flat_map(|of| &of.points)
}

fn counts(delivery: &DeliverySeries, slots: Slots, filter: Filter<'_>) -> Markup {
    let count = |of: fn(&Counted) -> u64| {
        sums(
            &slots,
            counted(delivery, filter).map(|point| (point.at, of(point) as f64)),
        )
    };
    TimeChart {
        id: "received",
        title: &format!(
            "Received per {}: {}",
            unit_name(delivery.unit),
            filter.name()
        ),
        definition: "By what became of it.",
        slots,
        unit: Unit::Count,
        series: vec![
            series("accepted", "t-accepted", count(|point| point.accepted)),
            series("duplicate", "t-duplicate", count(|point| point.duplicate)),
            series("rejected", "t-rejected", count(|point| point.rejected)),
        ],
    }
    .stack()
}

fn late(delivery: &DeliverySeries, slots: Slots, filter: Filter<'_>) -> Markup {
    let late = sums(
        &slots,
        counted(delivery, filter).map(|point| (point.at, point.late as f64)),
    );
    TimeChart {
        id: "late",
        title: &format!("Late per {}", unit_name(delivery.unit)),
        definition: "Accepted, and more than 5 minutes old when received.",
        slots,
        unit: Unit::Count,
        series: vec![series("late", "t-late", late)],
    }
    .stack()
}

#[derive(Clone, Copy)]
struct Latency {
    id: &'static str,
    title: &'static str,
    of_source: fn(&Point) -> Option<Percentiles>,
    of_type: fn(&Counted) -> Option<Percentiles>,
}

const LATENCIES: [Latency; 2] = [
    Latency {
        id: "to-received",
        title: "Occurred → received",
        of_source: |point| point.receive_ms,
        of_type: |point| point.receive_ms,
    },
    Latency {
        id: "to-queryable",
        title: "Received → queryable",
        of_source: |point| point.queryable_ms,
        of_type: |point| point.queryable_ms,
    },
];

impl Latency {
    /// Of one source, or one type of it, over time.
    fn points(
        self,
        delivery: &DeliverySeries,
        filter: Filter<'_>,
    ) -> Vec<(Timestamp, Option<Percentiles>)> {
        if filter.event_type.is_some() {
            let points = counted(delivery, filter);
            points
                .map(|point| (point.at, (self.of_type)(point)))
                .collect()
        } else {
            let points = delivery.sources.iter();
            let points =
                points.filter(|point| filter.source.is_none_or(|source| source == point.source));
            points
                .map(|point| (point.at, (self.of_source)(point)))
                .collect()
        }
    }
}

/// Of one source three percentiles, of several the 95th of each: percentiles cannot be added up.
fn latency(
    health: &TenantHealth,
    delivery: &DeliverySeries,
    (slots, filter): (Slots, Filter<'_>),
    latency: Latency,
) -> Markup {
    let mut sources: Vec<&str> = health
        .types
        .iter()
        .filter(|of| filter.takes(&of.source, &of.event_type))
        .map(|of| of.source.as_str())
        .collect();
    sources.dedup();
    let names: Vec<String> = sources.iter().map(|source| foreign(source)).collect();
    let line = |source: &str, percentile: fn(Percentiles) -> f64| {
        let of_source = Filter {
            source: Some(source),
            ..filter
        };
        let points = latency.points(delivery, of_source).into_iter();
        values(&slots, points.map(|(at, ms)| (at, ms.map(percentile))))
    };
    let (definition, lines) = if let [source] = sources[..] {
        (
            "Percentiles. A gap: nothing to measure.",
            vec![
                series("p50", "t-p50", line(source, |ms| ms.p50)),
                series("p95", "t-p95", line(source, |ms| ms.p95)),
                series("p99", "t-p99", line(source, |ms| ms.p99)),
            ],
        )
    } else {
        (
            "95th percentile by source. A gap: nothing to measure.",
            sources
                .iter()
                .zip(&names)
                .zip(TONES)
                .map(|((source, name), tone)| series(name, tone, line(source, |ms| ms.p95)))
                .collect(),
        )
    };
    let title = format!("{}: {}", latency.title, filter.name());
    TimeChart {
        id: latency.id,
        title: &title,
        definition,
        slots,
        unit: Unit::Milliseconds,
        series: lines,
    }
    .lines()
}

fn table(
    health: &TenantHealth,
    delivery: &DeliverySeries,
    rows: &[&TypeHealth],
    since: &str,
) -> Markup {
    let path = Tab::Delivery.path(&health.tenant);
    let slots = slots(delivery.window, delivery.unit);
    let table = |caption: &str, rows: &[&TypeHealth]| {
        html! {
            table.fold role="table" {
                caption.unseen { (caption) }
                thead role="rowgroup" { tr role="row" {
                    th scope="col" role="columnheader" { "Type" }
                    th scope="col" role="columnheader" { "Verdict" }
                    th scope="col" role="columnheader" { "Over time" }
                    @for (head, definition) in [("Received", RECEIVED), ("Accepted", ACCEPTED), ("Duplicate", DUPLICATE), ("Rejected", REJECTED), ("Late", LATE), ("Occurred → received", TO_RECEIVED), ("Received → queryable", TO_QUERYABLE), ("Last received", "Start of the unit of time in which the last one came.")] {
                        th.n scope="col" role="columnheader" title=(definition) { (head) }
                    }
                } }
                tbody role="rowgroup" { @for of in rows {
                    @let d = &of.delivery;
                    @let over_time = sums(&slots, counted(delivery, Filter { source: Some(&of.source), event_type: Some(&of.event_type) }).map(|point| (point.at, point.received as f64)));
                    tr role="row" data-key={ "type-" (of.source) "-" (of.event_type) } {
                        th scope="row" role="rowheader" {
                            a href=(link(&path, &[("since", Some(since)), ("source", Some(&of.source)), ("type", Some(&of.event_type))])) { (foreign(&of.event_type)) }
                            " " span.quiet { (foreign(&of.source)) }
                        }
                        td role="cell" data-label="Verdict" { (badge(of.judgement.verdict)) }
                        td role="cell" data-label="Over time" { (chart::sparkline(&over_time, "t-accepted")) }
                        td.n role="cell" data-label="Received" { (grouped(d.received.into())) }
                        td.n role="cell" data-label="Accepted" { (grouped(d.accepted.into())) }
                        td.n role="cell" data-label="Duplicate" { (grouped(d.duplicate.into())) }
                        td.n role="cell" data-label="Rejected" { (grouped(d.rejected.into())) }
                        td.n role="cell" data-label="Late" { (grouped(d.late.into())) }
                        td.n.made role="cell" data-label="Occurred → received" { (three(d.receive_ms, NO_TIME)) }
                        td.n.made role="cell" data-label="Received → queryable" { (three(d.queryable_ms, NONE_ACCEPTED)) }
                        td.n.whole role="cell" data-label="Last received" { @match d.last_received { Some(last) => (time::unit(last)), None => "never" } }
                    }
                } }
            }
        }
    };
    html! {
        section.card {
            header { h2 #types { "Event types" } p { "What needs attention comes first. Latencies are medians, with the 95th and 99th percentile. Choose a type to see its charts." } }
            (first_and_more(("Delivery by event type", "more-types"), FIRST_TYPES, rows, |caption, rows| {
                scroll(caption, &table(caption, rows))
            }))
        }
    }
}

fn three(ms: Option<Percentiles>, why: &str) -> Markup {
    match ms {
        Some(ms) => html! {
            span { (duration(ms.p50)) } " "
            span.quiet { span { "p95 " (duration(ms.p95)) } " · " span { "p99 " (duration(ms.p99)) } }
        },
        None => not_available(why),
    }
}

//! Deliveries to the tenant's own receivers, as a part of the pages of health and of delivery.

use maud::{Markup, html};

use super::health::p95;
use super::parts::{
    Tile, badge, count_or, definitions, first_and_more, foreign, not_available, notice, scroll,
    tiles,
};
use super::time::{series, slots, sums, time, unit_name};
use crate::chart::{TimeChart, Unit};
use crate::deliveries::{
    Deliveries, DestinationHealth, DestinationTypeHealth, FailedDelivery, Outgoing, OutgoingSeries,
    Sending, SentPoint,
};
use crate::text::{duration, grouped};

/// Rows that are shown at once.
const FIRST_DESTINATIONS: usize = 10;
const FIRST_TYPES: usize = 5;
const FIRST_FAILURES: usize = 3;
const MOST_NOTICES: usize = 20;

const DELIVERED: &str = "Requests that the receiver answered with success (2xx).";
const FAILED: &str = "Requests that did not deliver. Most are tried again: after 5 s, 5 min, 30 min, 2 h, 5 h and 10 h, if the operator has not set other pauses.";
const WAITING: &str = "Deliveries that wait for their next turn now, whenever they began.";
const GIVEN_UP: &str = "Deliveries that had their last turn, or that the receiver refused for good. They are kept and can be replayed: chatpulse deliveries replay.";
const WITHHELD: &str =
    "Not sent, because the visitor did not consent or is not known to have. No failure.";
const REQUEST: &str = "From the resolving of the name to the end of the answer. Of requests that delivered. At most 1 % off.";
const TO_DELIVERED: &str = "From when an event was received to when its receiver had it, retries included, replays not. At most 1 % off.";
const EXPECTED: &str = "Events of its types that were accepted in this time while it was configured, by whole units of time. n/a where it is not configured any more.";
const NONE_DELIVERED: &str = "Nothing was delivered in this time.";
const NOT_CONFIGURED: &str = "It is not in the tenants file any more, or switched off there.";

const DEFINITIONS: [(&str, &str); 9] = [
    ("Accepted for it", EXPECTED),
    ("Delivered", DELIVERED),
    ("Failed", FAILED),
    ("Waiting", WAITING),
    ("Given up", GIVEN_UP),
    ("Withheld", WITHHELD),
    ("Request", REQUEST),
    ("Received → delivered", TO_DELIVERED),
    (
        "Verdict",
        "failing: disabled, or 50 % or more of the requests failed, or 20 % or more of the deliveries that ended were given up. degraded: 5 % or more of the requests failed, 1 % or more given up, one waits for an hour or more, or delivered only after 5 minutes at p95. silent: nothing was sent though at least 5 events came for it, or all were withheld. healthy: none of these.",
    ),
];

/// On the page of health: how the destinations do.
pub(super) fn summary(outgoing: &Outgoing) -> Markup {
    html! {
        section.card {
            header {
                h2 #deliveries { "Deliveries to your receivers" }
                p { "Webhooks, GA4 and Meta. Their verdicts are not part of that above, which is on what arrives here." }
            }
            (notice(&outgoing.judgement))
            (notices(outgoing))
            (destinations(&outgoing.destinations))
        }
    }
}

/// On the page of delivery, and as a file: everything.
pub(super) fn content(outgoing: &Outgoing, over_time: &OutgoingSeries) -> Markup {
    if outgoing.destinations.is_empty() {
        return html! {
            section.card {
                header { h2 #deliveries { "Deliveries to your receivers" } }
                p.empty { "No destination is configured: [[tenant.destinations]] in the tenants file names webhooks, GA4 and Meta." }
            }
        };
    }
    html! {
        (summary(outgoing))
        (figures(&outgoing.total))
        section.card { (chart(over_time)) }
        (types(&outgoing.types))
        section.card {
            header {
                h2 #failed-deliveries { "Failed deliveries, the newest first" }
                p { "Without secrets and content." }
            }
            @if outgoing.recent_failures.is_empty() { p.empty { "None failed in this time." } }
            @else { (recent(&outgoing.recent_failures)) }
        }
        (definitions(DEFINITIONS.into_iter()))
    }
}

impl Deliveries {
    /// As one HTML file that needs nothing else.
    pub fn to_html(&self, over_time: &OutgoingSeries) -> String {
        let title = format!("Deliveries of {}", foreign(&self.tenant));
        let about = html! { "Turns that began from " (super::time::window(self.window)) " UTC" };
        super::shell::standalone(
            &title,
            &html! {
                (super::shell::head(&html! { (title) }, &about, &html! {}))
                div.stack { (content(&self.outgoing, over_time)) }
            },
        )
    }
}

fn notices(outgoing: &Outgoing) -> Markup {
    html! {
        @if !outgoing.notices.is_empty() {
            ul.notices { @for of in outgoing.notices.iter().take(MOST_NOTICES) {
                li { strong { (foreign(&of.destination)) } ": " (foreign_text(&of.text)) }
            } }
        }
        @if outgoing.notices.len() > MOST_NOTICES {
            p.quiet.small { (MOST_NOTICES) " of " (outgoing.notices.len()) " notices; the API has all." }
        }
    }
}

/// Our own words with a name in them.
fn foreign_text(text: &str) -> String {
    crate::text::one_line(text, 400)
}

fn figures(total: &Sending) -> Markup {
    let tile = |name, figure: Markup, beside: Markup, definition| Tile {
        name,
        figure,
        beside,
        definition,
    };
    let count = |count: u64| html! { (grouped(count.into())) };
    let of = |part: u64, whole: u64| html! { (super::parts::share(part, whole)) };
    tiles(&[
        tile(
            "Delivered",
            count(total.delivered),
            html! { (of(total.delivered, total.attempts)) " of the requests" },
            DELIVERED,
        ),
        tile(
            "Failed",
            count(total.failed),
            html! { (of(total.failed, total.attempts)) " of the requests" },
            FAILED,
        ),
        tile(
            "Waiting",
            count(total.pending),
            match total.oldest_pending {
                Some(oldest) => html! { "oldest of " (time(oldest)) },
                None => html! { "none" },
            },
            WAITING,
        ),
        tile(
            "Given up",
            count(total.given_up),
            html! { (of(total.given_up, total.given_up + total.delivered)) " of those that ended" },
            GIVEN_UP,
        ),
        tile(
            "Withheld",
            count(total.withheld),
            html! { "for want of consent" },
            WITHHELD,
        ),
        super::health::latency_tile("Request", total.request_ms, (REQUEST, NONE_DELIVERED)),
        super::health::latency_tile(
            "Received → delivered",
            total.delivered_ms,
            (TO_DELIVERED, NONE_DELIVERED),
        ),
    ])
}

fn chart(over_time: &OutgoingSeries) -> Markup {
    let slots = slots(over_time.window, over_time.unit);
    let count = |of: fn(&SentPoint) -> u64| {
        let points = over_time.destinations.iter().flat_map(|one| &one.points);
        sums(&slots, points.map(|point| (point.at, of(point) as f64)))
    };
    TimeChart {
        id: "sent",
        title: &format!("Requests per {}", unit_name(over_time.unit)),
        definition: "All destinations together, by whether they delivered.",
        slots,
        unit: Unit::Count,
        series: vec![
            series("delivered", "t-accepted", count(|point| point.delivered)),
            series("failed", "t-rejected", count(|point| point.failed)),
        ],
    }
    .stack()
}

const FIGURES: [(&str, &str); 6] = [
    ("Delivered", DELIVERED),
    ("Failed", FAILED),
    ("Waiting", WAITING),
    ("Given up", GIVEN_UP),
    ("Withheld", WITHHELD),
    ("To delivered, p95", TO_DELIVERED),
];

fn heads() -> Markup {
    html! {
        th.n scope="col" role="columnheader" title=(EXPECTED) { "Accepted for it" }
        @for (head, definition) in FIGURES {
            th.n scope="col" role="columnheader" title=(definition) { (head) }
        }
    }
}

fn cells(expected: Option<u64>, sending: &Sending) -> Markup {
    html! {
        td.n role="cell" data-label="Accepted for it" { (count_or(expected.map(i128::from), NOT_CONFIGURED)) }
        @for (label, count) in [("Delivered", sending.delivered), ("Failed", sending.failed), ("Waiting", sending.pending), ("Given up", sending.given_up), ("Withheld", sending.withheld)] {
            td.n role="cell" data-label=(label) { (grouped(count.into())) }
        }
        td.n.whole role="cell" data-label="To delivered, p95" { (p95(sending.delivered_ms, NONE_DELIVERED)) }
    }
}

fn destinations(destinations: &[DestinationHealth]) -> Markup {
    let mut rows: Vec<&DestinationHealth> = destinations.iter().collect();
    // What needs attention comes first.
    rows.sort_by_key(|of| std::cmp::Reverse(of.judgement.verdict));
    let table = |caption: &str, rows: &[&DestinationHealth]| {
        html! {
            table.fold role="table" {
                caption.unseen { (caption) }
                thead role="rowgroup" { tr role="row" {
                    th scope="col" role="columnheader" { "Destination" }
                    th scope="col" role="columnheader" { "Verdict" }
                    (heads())
                } }
                tbody role="rowgroup" { @for of in rows {
                    tr role="row" data-key={ "destination-" (of.destination) } {
                        th scope="row" role="rowheader" { (foreign(&of.destination)) " " span.quiet { (foreign(&of.kind)) } }
                        td.wide role="cell" {
                            (badge(of.judgement.verdict)) " " span.quiet {
                                (foreign(&of.judgement.reason))
                                @if let Some(limit) = &of.judgement.threshold { "; limit " (limit) }
                            }
                        }
                        (cells(of.expected, &of.sending))
                    }
                } }
            }
        }
    };
    let caption = ("Deliveries by destination", "more-destinations");
    first_and_more(caption, FIRST_DESTINATIONS, &rows, |caption, rows| {
        scroll(caption, &table(caption, rows))
    })
}

fn types(types: &[DestinationTypeHealth]) -> Markup {
    let mut rows: Vec<&DestinationTypeHealth> = types.iter().collect();
    // What needs attention comes first.
    rows.sort_by_key(|of| std::cmp::Reverse((of.judgement.verdict, of.sending.turns)));
    let table = |caption: &str, rows: &[&DestinationTypeHealth]| {
        html! {
            table.fold role="table" {
                caption.unseen { (caption) }
                thead role="rowgroup" { tr role="row" {
                    th scope="col" role="columnheader" { "Type" }
                    th scope="col" role="columnheader" { "Verdict" }
                    (heads())
                    th scope="col" role="columnheader" { "Failures by class" }
                } }
                tbody role="rowgroup" { @for of in rows {
                    tr role="row" data-key={ "sent-" (of.destination) "-" (of.event_type) } {
                        th scope="row" role="rowheader" { (foreign(&of.event_type)) " " span.quiet { (foreign(&of.destination)) } }
                        td role="cell" data-label="Verdict" { span title=(foreign(&of.judgement.reason)) { (badge(of.judgement.verdict)) } }
                        (cells(of.expected, &of.sending))
                        td.whole role="cell" data-label="Failures by class" { (classes(&of.sending)) }
                    }
                } }
            }
        }
    };
    html! {
        section.card {
            header { h2 #sent-types { "By destination and event type" } p { "What needs attention comes first." } }
            (first_and_more(("Deliveries by destination and event type", "more-sent-types"), FIRST_TYPES, &rows, |caption, rows| {
                scroll(caption, &table(caption, rows))
            }))
        }
    }
}

/// `timeout 3, http_5xx 1`
pub(crate) fn classes(sending: &Sending) -> String {
    let mut classes: Vec<_> = sending.failures.iter().collect();
    classes.sort_by_key(|(_, turns)| std::cmp::Reverse(**turns));
    let texts = classes
        .iter()
        .map(|(class, turns)| format!("{} {}", foreign(class), grouped((**turns).into())));
    texts.collect::<Vec<_>>().join(", ")
}

fn recent(failures: &[FailedDelivery]) -> Markup {
    let table = |caption: &str, failures: &[FailedDelivery]| {
        html! {
            table.fold role="table" {
                caption.unseen { (caption) }
                thead role="rowgroup" { tr role="row" {
                    @for head in ["Class", "Destination", "Event type", "What happened", "Began", "Result", "Delivery"] {
                        th scope="col" role="columnheader" { (head) }
                    }
                    th.n scope="col" role="columnheader" { "Turn" }
                    th.n scope="col" role="columnheader" title=(REQUEST) { "Request" }
                } }
                tbody role="rowgroup" { @for failure in failures {
                    tr role="row" data-key={ "failed-" (failure.partition) "-" (failure.offset) } {
                        th scope="row" role="rowheader" { (foreign(&failure.failure)) }
                        td role="cell" data-label="Destination" { (foreign(&failure.destination)) }
                        td.whole role="cell" data-label="Event type" { (foreign(&failure.event_type)) }
                        td.wide role="cell" data-label="What happened" { (foreign(failure.detail.as_deref().unwrap_or_default())) }
                        td.whole role="cell" data-label="Began" { (time(failure.at)) }
                        td.whole role="cell" data-label="Result" {
                            (foreign(&failure.result))
                            @if let Some(next) = failure.next_at { ", next " (time(next)) }
                        }
                        td.whole role="cell" data-label="Delivery" { code.hash { (foreign(&failure.delivery_id)) } }
                        td.n role="cell" data-label="Turn" { (failure.attempt) }
                        td.n role="cell" data-label="Request" {
                            @match failure.duration_ms {
                                Some(ms) => (duration(ms as f64)),
                                None => (not_available("No request was made.")),
                            }
                        }
                    }
                } }
            }
        }
    };
    let caption = ("The newest failed deliveries", "more-failed-deliveries");
    first_and_more(caption, FIRST_FAILURES, failures, |caption, failures| {
        scroll(caption, &table(caption, failures))
    })
}

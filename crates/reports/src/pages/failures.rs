//! `/tenants/{tenant}/failures`: what was refused, why, and what to do about it.

use maud::{Markup, html};

use super::parts::{count_or, first_and_more, foreign, scroll, share};
use super::routes::Slice;
use super::time::time;
use crate::chart::{self, Part};
use crate::failures::{Failure, Reason};
use crate::health::TenantHealth;
use crate::text::{grouped, one_line};

/// Reasons that are listed at once.
const FIRST_REASONS: usize = 10;

/// What the page shows below its head.
pub(super) fn content(health: &TenantHealth, list: &Slice<Failure>) -> Markup {
    let total = &health.total;
    html! {
        div.stack {
            section.card {
                header {
                    h2 #reasons { "By reason" }
                    p { (grouped(total.rejected.into())) " of " (grouped(total.received.into())) " received were rejected (" (share(total.rejected, total.received)) ")." }
                }
                (reasons(&health.rejections))
            }
            section.card {
                header {
                    h2 { "One by one, the newest first" }
                    p { "Content is never kept: the sender finds the record by its SHA-256. After a fix, " code { "chatpulse rejected replay" } " sends stored records through again." }
                }
                @if list.items.is_empty() { p.empty { "Nothing was rejected in this time." } } @else { (recent(&list.items)) }
                (list.links())
            }
        }
    }
}

/// Rejections by source and reason.
pub(super) fn reasons(reasons: &[Reason]) -> Markup {
    if reasons.is_empty() {
        return html! { p.empty { "Nothing was rejected in this time." } };
    }
    let widest = reasons.iter().map(|reason| reason.rejected).max();
    let caption = ("Rejected by source and reason", "more-reasons");
    first_and_more(caption, FIRST_REASONS, reasons, |caption, reasons| {
        reason_table(caption, reasons, widest)
    })
}

fn reason_table(caption: &str, reasons: &[Reason], widest: Option<u64>) -> Markup {
    let table = html! {
        table.fold role="table" {
            caption.unseen { (caption) }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Reason" }
                th scope="col" role="columnheader" { "Source" }
                th scope="col" role="columnheader" { span.unseen { "Share" } }
                th.n scope="col" role="columnheader" { "Rejected" }
                th.n scope="col" role="columnheader" { "Last" }
            } }
            tbody role="rowgroup" { @for reason in reasons {
                tr role="row" data-key={ "reason-" (reason.source) "-" (reason.reason) } {
                    th scope="row" role="rowheader" { (foreign(&reason.reason)) }
                    td role="cell" data-label="Source" { (foreign(&reason.source)) }
                    td.bars role="cell" { (chart::parts(&[Part { tone: "t-rejected", value: reason.rejected as f64 }], widest.unwrap_or(0) as f64)) }
                    td.n role="cell" data-label="Rejected" { (grouped(reason.rejected.into())) }
                    td.n role="cell" data-label="Last" { (time(reason.last_received)) }
                }
            } }
        }
    };
    scroll(caption, &table)
}

/// Rejected records, newest first.
pub(super) fn recent(failures: &[Failure]) -> Markup {
    let table = html! {
        table.fold role="table" {
            caption.unseen { "The newest rejected records" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "Reason" }
                th scope="col" role="columnheader" { "Source" }
                th scope="col" role="columnheader" { "Event" }
                th scope="col" role="columnheader" { "What is wrong" }
                th scope="col" role="columnheader" { "Received" }
                th.n scope="col" role="columnheader" { "Bytes" }
                th scope="col" role="columnheader" { "SHA-256" }
                th.n scope="col" role="columnheader" title="Partition and offset in chat.raw" { "Position" }
            } }
            tbody role="rowgroup" { @for failure in failures {
                tr role="row" data-key={ "failure-" (failure.partition) "-" (failure.offset) } {
                    th scope="row" role="rowheader" { (foreign(&failure.reason)) }
                    td role="cell" data-label="Source" { (foreign(&failure.source)) }
                    td.whole role="cell" data-label="Event" { (foreign(&failure.source_event)) }
                    td.wide role="cell" data-label="What is wrong" { (foreign(&failure.detail)) }
                    td.whole role="cell" data-label="Received" { (time(failure.received_at)) }
                    td.n role="cell" data-label="Bytes" { (count_or(failure.bytes.map(i128::from), "The record's size is not known.")) }
                    td.whole role="cell" data-label="SHA-256" {
                        @if let Some(hash) = &failure.sha256 { code.hash { (one_line(hash, 64)) } }
                    }
                    td.n role="cell" data-label="Position" { (failure.partition) ":" (failure.offset) }
                }
            } }
        }
    };
    scroll("The newest rejected records", &table)
}

//! `/sources`: which metrics each vendor's events can show, and what each event means.

use chatpulse_model::Actor;
use chatpulse_model::source::{Catalog, Definition};
use maud::{Markup, html};

use super::parts::{foreign, not_available, scroll};
use crate::matrix::{Matrix, MatrixCell};

/// What the page shows below its head.
pub(super) fn content(catalog: &Catalog, matrix: &Matrix) -> Markup {
    let sources: Vec<&Definition> = catalog.iter().collect();
    html! {
        div.stack {
            (shown(matrix))
            section.card {
                header {
                    h2 { "What each event means" }
                    p { "As the source's definition says; schemas/sources has one file for each. A name that is not listed is kept as " code { "custom" } "." }
                }
                @for source in &sources { (events(source)) }
            }
        }
    }
}

fn shown(matrix: &Matrix) -> Markup {
    let table = html! {
        table {
            caption.unseen { "Which metrics each source can show" }
            thead { tr {
                th scope="col" { "Metric" }
                @for source in &matrix.sources { th scope="col" { (foreign(&source.title)) } }
                th scope="col" { "Definition" }
            } }
            tbody { @for metric in &matrix.metrics { tr data-key=(metric.metric) {
                th scope="row" { (metric.title) }
                @for source in &matrix.sources { td { (cell(metric.by_source.get(&source.source))) } }
                td.wide.quiet { (metric.formula) }
            } } }
        }
    };
    html! {
        section.card {
            header {
                h2 { "Which metrics each source can show" }
                p { "n/a: the source sends nothing to make it of; it is never shown as 0. Partly: the figure may miss some, for the reason below it." }
            }
            (scroll("Which metrics each source can show", &table))
            (reasons(matrix))
        }
    }
}

/// Why not, for those who cannot point at a cell.
fn reasons(matrix: &Matrix) -> Markup {
    html! {
        details #why-not {
            summary { "Why not, by source" }
            @for source in &matrix.sources { div.definitions {
                h3 { (foreign(&source.title)) }
                dl { @for metric in &matrix.metrics {
                    @if let Some(cell) = metric.by_source.get(&source.source).filter(|cell| !cell.why.is_empty()) {
                        div { dt { (metric.title) } dd { (cell.why) } }
                    }
                } }
            } }
        }
    }
}

fn cell(of: Option<&MatrixCell>) -> Markup {
    let observable = of.map_or("no", |of| of.observable.as_str());
    let why = of.map_or("The source is not known.", |of| of.why.as_str());
    html! {
        @match observable {
            "yes" => span.yes { "✓ yes" },
            "partial" => { span.yes { "✓ partly" } br; span.quiet.small { (why) } }
            _ => (not_available(why)),
        }
    }
}

fn events(source: &Definition) -> Markup {
    let title = foreign(source.title());
    let caption = format!("Events of {title}");
    let table = html! {
        table.fold role="table" {
            caption.unseen { (caption) }
            thead role="rowgroup" { tr role="row" {
                @for head in ["Name", "Type", "Who", "What it proves"] { th scope="col" role="columnheader" { (head) } }
            } }
            tbody role="rowgroup" { @for (name, event) in source.events() {
                tr role="row" {
                    th scope="row" role="rowheader" { (foreign(name)) }
                    td.whole role="cell" data-label="Type" { code { (event.event_type.as_str()) } }
                    td.whole role="cell" data-label="Who" { (who(event.actor)) }
                    td.wide role="cell" data-label="What it proves" { (foreign(&event.proves)) }
                }
            } }
        }
    };
    html! {
        details data-key={ "events-" (source.name()) } {
            summary { (title) ", " (source.events().len()) " events" }
            (scroll(&caption, &table))
        }
    }
}

fn who(actor: Actor) -> &'static str {
    match actor {
        Actor::Visitor => "visitor",
        Actor::Bot => "bot",
        Actor::Agent => "human agent",
        Actor::System => "system",
    }
}

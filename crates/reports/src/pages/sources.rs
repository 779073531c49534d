//! `/sources`: what each vendor lets be seen, and what each of its events means.

use chatpulse_model::Actor;
use chatpulse_model::source::{Catalog, Definition, Observes};
use maud::{Markup, html};

use super::parts::{foreign, scroll};

/// What can be seen, of what metrics it is the ground, and whether a source has it.
type Seen = (&'static str, &'static str, fn(&Observes) -> bool);

const SEEN: [Seen; 19] = [
    (
        "Conversation id",
        "Without one the page session stands for the conversation.",
        |o| o.conversation_id,
    ),
    (
        "Visitor's messages",
        "Volumes, response times, bot conversations.",
        |o| o.visitor_messages,
    ),
    (
        "Bot's messages",
        "Bot conversations, containment, first response.",
        |o| o.bot_messages,
    ),
    (
        "Human's messages",
        "First human response, first response.",
        |o| o.agent_messages,
    ),
    (
        "All messages of those",
        "Without it some messages have no event, and counts are a part.",
        |o| !o.messages_partial && (o.visitor_messages || o.bot_messages || o.agent_messages),
    ),
    (
        "Vendor's count of messages",
        "Message gap: what was lost on the way.",
        |o| o.reported_total,
    ),
    (
        "Request for a human",
        "Handoff request rate, time to human.",
        |o| o.handoff_request,
    ),
    (
        "Human joins",
        "Handoff rate, time to human, handle time.",
        |o| o.human_join,
    ),
    ("Human leaves", "Handle time.", |o| o.human_leave),
    ("Return to the bot", "Handle time.", |o| o.bot_return),
    ("Close", "Resolution time, reopen rate.", |o| o.close),
    ("Resolved, or praised", "Bot resolution rate.", |o| {
        o.resolve_or_positive_feedback
    }),
    ("Rating with a value", "CSAT.", |o| o.csat),
    ("Score from 0 to 10", "NPS.", |o| o.nps),
    ("Survey shown", "CSAT response rate.", |o| o.surveys),
    ("Goals", "Goals met.", |o| o.goals),
    (
        "Contact details",
        "That they were submitted; never the details.",
        |o| o.contacts,
    ),
    ("Links", "Links clicked.", |o| o.links),
    ("Consent", "Consent accepted or declined.", |o| o.consent),
];

/// What the page shows below its head.
pub(super) fn content(catalog: &Catalog) -> Markup {
    let sources: Vec<&Definition> = catalog.iter().collect();
    html! {
        div.stack {
            (seen(&sources))
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

fn seen(sources: &[&Definition]) -> Markup {
    let table = html! {
        table {
            caption.unseen { "What each source lets be seen" }
            thead { tr {
                th scope="col" { "Seen" }
                @for source in sources { th scope="col" { (foreign(source.title())) } }
                th scope="col" { "For" }
            } }
            tbody { @for (name, purpose, of) in SEEN { tr {
                th scope="row" { (name) }
                @for source in sources {
                    td { @if of(source.observes()) { span.yes { "✓ yes" } } @else { span.no { "– no" } } }
                }
                td.wide.quiet { (purpose) }
            } } }
        }
    };
    html! {
        section.card {
            header {
                h2 { "What each source lets be seen" }
                p { "A metric is n/a for a source that sends nothing to make it of, never 0." }
            }
            (scroll("What each source lets be seen", &table))
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

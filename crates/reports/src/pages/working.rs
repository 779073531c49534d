//! `/tenants/{tenant}/working`: a guide for whoever puts the snippet on a site, with the events of their
//! own visit as they arrive.
//!
//! The page makes up a session and has the site opened with it in the address
//! (`?chatpulse_check=check-…`); the snippet takes it for that visit, so that nothing has to be copied
//! and no visitor's session can be asked for.

use maud::{Markup, html};
use url::Url;

use super::parts::{foreign, scroll};
use super::shell::Tab;
use super::time::time;
use crate::arrivals::{Arrival, Check};

/// Key in the site's address, which the snippet knows.
const KEY: &str = "chatpulse_check";
/// Most events that are shown.
pub(super) const MOST_ARRIVALS: u32 = 50;

/// The site's address with the check in it; `None` where it is no address of a page.
fn with_check(site: &str, check: &Check) -> Option<Url> {
    let mut url = Url::parse(site.trim()).ok()?;
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    if !web || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(key, _)| key != KEY)
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect();
    url.query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair(KEY, check.as_str());
    Some(url)
}

/// What the page shows below its head.
pub(super) fn content(
    tenant: &str,
    (check, site): (&Check, Option<&str>),
    arrivals: &[Arrival],
) -> Markup {
    let opened = site.and_then(|site| with_check(site, check));
    html! {
        div.stack {
            section.card {
                header { h2 { "1. The line is on your site" } }
                p { code { "chatpulse snippet --tenant " (foreign(tenant)) } " prints it. It stands in the head of every page, before the chat widget." }
            }
            section.card {
                header { h2 { "2. Open a page of it from here" } }
                form.filter method="get" action=(Tab::Working.path(tenant)) {
                    input type="hidden" name="check" value=(check.as_str());
                    label { "Address of the page" input type="url" name="site" required maxlength="2000" placeholder="https://www.example.com/" value=[site]; }
                    button { "Go on" }
                }
                @match (&opened, site) {
                    (Some(url), _) => p.more { a.button #open href=(url) target="_blank" rel="noopener noreferrer" { "Open it in a new tab" } },
                    (None, Some(_)) => p.more role="alert" { "This is no address of a page: it begins with https:// and has no user name." },
                    (None, None) => {}
                }
                p.more { span.quiet.small { "The address carries a session of this check, " code { (check.as_str()) } ", so that the events below are yours and nobody else's." } }
            }
            section.card {
                header {
                    h2 { "3. Use the chat there" }
                    p { "Open it and write something. Events arrive here within seconds." }
                }
                @if arrivals.is_empty() { (nothing()) } @else { (table(arrivals)) }
            }
        }
    }
}

/// What can keep events away, the likeliest first.
fn nothing() -> Markup {
    html! {
        p.empty { "Nothing has arrived yet." }
        details {
            summary { "When nothing arrives" }
            ul {
                li { "The page was opened by the button above, and a chat widget is on it." }
                li { "The browser's console shows the answer to " code { "chatpulse.js" } ": 401 means that the write key in the line is wrong." }
                li { "The console names the Content-Security-Policy: it must let the producer through in " code { "script-src" } " and " code { "connect-src" } "." }
                li { "The console names CORS: the site's origin is missing in the tenant's " code { "allowed_origins" } "." }
                li { "This browser asks sites not to track (Do Not Track, Global Privacy Control), and the tenant respects that: try another browser." }
                li { "An ad blocker keeps the script away: switch it off for this page." }
            }
        }
    }
}

fn table(arrivals: &[Arrival]) -> Markup {
    let table = html! {
        table.fold role="table" {
            caption.unseen { "Events of this check, the newest first" }
            thead role="rowgroup" { tr role="row" {
                th.n scope="col" role="columnheader" title="Number in the session" { "No." }
                th scope="col" role="columnheader" { "Event" }
                th scope="col" role="columnheader" { "Source" }
                th scope="col" role="columnheader" { "Type" }
                th scope="col" role="columnheader" { "Outcome" }
                th scope="col" role="columnheader" { "Reason" }
                th scope="col" role="columnheader" { "Received" }
            } }
            tbody role="rowgroup" { @for arrival in arrivals {
                tr role="row" data-key={ "arrival-" (arrival.partition) "-" (arrival.offset) } {
                    td.n role="cell" data-label="No." { @if let Some(number) = arrival.sequence { (number) } @else { "–" } }
                    th scope="row" role="rowheader" { (foreign(&arrival.source_event)) }
                    td role="cell" data-label="Source" { (foreign(&arrival.source)) }
                    td role="cell" data-label="Type" { (foreign(&arrival.event_type)) }
                    td role="cell" data-label="Outcome" { (foreign(&arrival.outcome)) }
                    td.wide role="cell" data-label="Reason" {
                        @if arrival.outcome == "duplicate" { "Its id came before: it counts once." }
                        @else if arrival.reason.is_empty() { "–" }
                        @else { (foreign(&arrival.reason)) ": " (foreign(&arrival.detail)) }
                    }
                    td.whole role="cell" data-label="Received" { (time(arrival.received_at)) }
                }
            } }
        }
    };
    html! {
        (scroll("Events of this check", &table))
        @if arrivals.len() >= MOST_ARRIVALS as usize { p.quiet.small { "The newest " (MOST_ARRIVALS) "." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> Check {
        Check::parse("check-0123456789abcdef").unwrap()
    }

    #[test]
    fn the_check_goes_into_the_address_beside_what_is_there() {
        for (site, with) in [
            (
                "https://shop.example",
                "https://shop.example/?chatpulse_check=check-0123456789abcdef",
            ),
            (
                "http://shop.example/a?b=c#d",
                "http://shop.example/a?b=c&chatpulse_check=check-0123456789abcdef#d",
            ),
            (
                "https://x.example/?chatpulse_check=old",
                "https://x.example/?chatpulse_check=check-0123456789abcdef",
            ),
        ] {
            assert_eq!(with_check(site, &check()).unwrap().as_str(), with);
        }
    }

    #[test]
    fn what_is_no_page_is_not_linked_to() {
        for site in [
            "",
            "shop.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://a:b@shop.example/",
            "file:///etc",
        ] {
            assert_eq!(with_check(site, &check()), None, "{site}");
            let html = content("acme", (&check(), Some(site)), &[]).into_string();
            assert!(!html.contains("id=\"open\""), "{html}");
        }
    }

    #[test]
    fn names_of_strangers_are_text() {
        let arrival = Arrival {
            partition: 0,
            offset: 1,
            received_at: "2026-01-15T10:00:00Z".parse().unwrap(),
            sequence: None,
            source: "watermelon".to_owned(),
            source_event: "<img src=x onerror=alert(1)>".to_owned(),
            event_type: "custom".to_owned(),
            outcome: "rejected".to_owned(),
            reason: "invalid_field".to_owned(),
            detail: "widget_id is longer".to_owned(),
        };
        let html = content("acme", (&check(), None), &[arrival]).into_string();
        assert!(!html.contains("<img"), "{html}");
        assert!(
            html.contains("invalid_field: widget_id is longer"),
            "{html}"
        );
    }
}

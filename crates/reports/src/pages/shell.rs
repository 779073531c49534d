//! What surrounds every page: head, navigation, where one is, live state, foot.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::assets;
use super::parts::{encoded, foreign, link};

/// The spans that can be picked.
const SPANS: [&str; 5] = ["1h", "24h", "7d", "30d", "90d"];

/// The pages of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Health,
    Delivery,
    Conversations,
    Failures,
    Working,
}

impl Tab {
    pub(super) const ALL: [Tab; 5] = [
        Tab::Health,
        Tab::Delivery,
        Tab::Conversations,
        Tab::Failures,
        Tab::Working,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Tab::Health => "Health",
            Tab::Delivery => "Delivery",
            Tab::Conversations => "Conversations",
            Tab::Failures => "Failures",
            Tab::Working => "Is it working?",
        }
    }

    /// The path of the page.
    pub(super) fn path(self, tenant: &str) -> String {
        let tenant = encoded(tenant);
        match self {
            Tab::Health => format!("/tenants/{tenant}"),
            Tab::Delivery => format!("/tenants/{tenant}/delivery"),
            Tab::Conversations => format!("/tenants/{tenant}/conversations"),
            Tab::Failures => format!("/tenants/{tenant}/failures"),
            Tab::Working => format!("/tenants/{tenant}/working"),
        }
    }
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Overview,
    Sources,
    Tenant(&'a str, Tab),
    /// A page that says why there is none now.
    Nowhere,
    /// Before one has signed in, and where there is nothing that could come: without a script.
    Outside,
}

/// What surrounds a page.
pub(super) struct Frame<'a> {
    pub(super) place: Place<'a>,
    /// Whether the reader may see all tenants.
    pub(super) operator: bool,
    /// When the page was made.
    pub(super) now: Timestamp,
    /// Whether the reader has a session that can be ended.
    pub(super) signed_in: bool,
    /// Where programs get the same.
    pub(super) api: Option<String>,
}

impl Frame<'_> {
    /// The whole page.
    pub(super) fn around(&self, title: &str, content: &Markup) -> String {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · chatpulse" }
                    link rel="icon" href=(assets::ICON);
                    link rel="stylesheet" href=(assets::style_path());
                    @if self.place != Place::Outside { script src=(assets::script_path()) defer {} }
                }
                body {
                    a.skip href="#main" { "Skip to content" }
                    header.top { div.width {
                        (self.brand())
                        @if self.place != Place::Outside { (self.navigation()) (self.live()) }
                    } }
                    main #main.width tabindex="-1" { (self.trail()) (content) }
                    footer.foot { div.width { (self.foot()) } }
                }
            }
        }
        .into_string()
    }

    fn brand(&self) -> Markup {
        let name = html! { (logo()) "chatpulse" };
        html! {
            @if self.operator { a.brand href="/" { (name) } } @else { span.brand { (name) } }
        }
    }

    fn navigation(&self) -> Markup {
        let current = |here: bool| here.then_some("page");
        html! {
            nav aria-label="Main" { ul {
                @if self.operator {
                    li { a href="/" aria-current=[current(self.place == Place::Overview)] { "Overview" } }
                }
                li { a href="/sources" aria-current=[current(self.place == Place::Sources)] { "Sources" } }
                @if self.signed_in {
                    li { form method="post" action="/sign-out" { button.plain { "Sign out" } } }
                }
            } }
        }
    }

    /// Without a script it says of when the page is and how to get a new one; the script takes over.
    fn live(&self) -> Markup {
        let now = self.now.to_zoned(TimeZone::UTC);
        html! {
            div.live data-state=(if self.place == Place::Nowhere { "away" } else { "still" }) {
                span.dot {}
                span { span role="status" { "As of" } " " time datetime=(self.now) { (now.strftime("%H:%M:%S UTC")) } }
                a.button href="" { "Reload" }
            }
        }
    }

    fn trail(&self) -> Markup {
        let Place::Tenant(tenant, tab) = self.place else {
            return html! {};
        };
        html! {
            nav.trail aria-label="Breadcrumb" { ol {
                @if self.operator { li { a href="/" { "Overview" } } }
                @if tab == Tab::Health {
                    li aria-current="page" { (foreign(tenant)) }
                } @else {
                    li { a href=(Tab::Health.path(tenant)) { (foreign(tenant)) } }
                    li aria-current="page" { (tab.name()) }
                }
            } }
        }
    }

    fn foot(&self) -> Markup {
        html! {
            ul {
                @if self.place != Place::Outside { li { "All times are UTC." } }
                @if self.place != Place::Outside { li { a href="/sources" { "What each source can show" } } }
                @if let Some(api) = &self.api { li { "For programs: " code { "GET " (api) } } }
                li { a href="/v1/openapi.json" { "The API (OpenAPI)" } }
            }
        }
    }
}

/// Title of the page, what it is about, and beside it the spans to pick from.
pub(super) fn head(title: &Markup, about: &Markup, tools: &Markup) -> Markup {
    html! {
        div.head {
            div { h1 { (title) } p.quiet { (about) } }
            div.tools { (tools) }
        }
    }
}

/// The spans as links that keep the other parameters.
pub(super) fn picker(path: &str, since: &str, others: &[(&str, Option<&str>)]) -> Markup {
    html! {
        nav aria-label="Time" { ul.picker {
            @for span in SPANS {
                @let parameters: Vec<_> = std::iter::once(("since", Some(span))).chain(others.iter().copied()).collect();
                li { a href=(link(path, &parameters)) aria-current=[(span == since).then_some("true")] { (span) } }
            }
        } }
    }
}

/// The pages of the tenant.
pub(super) fn tabs(tenant: &str, here: Tab, since: &str) -> Markup {
    html! {
        nav.tabs aria-label={ "Reports of " (foreign(tenant)) } { ul {
            @for tab in Tab::ALL {
                li { a href=(link(&tab.path(tenant), &[("since", Some(since))])) aria-current=[(tab == here).then_some("page")] { (tab.name()) } }
            }
        } }
    }
}

/// A page that needs nothing else: style within, no script, to be kept as a file.
pub(super) fn standalone(title: &str, content: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="content-security-policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) " · chatpulse" }
                style { (PreEscaped(assets::STYLE)) }
            }
            body {
                header.top { div.width { span.brand { (logo()) "chatpulse" } } }
                main.width { (content) }
                footer.foot { div.width { "All times are UTC." } }
            }
        }
    }
    .into_string()
}

fn logo() -> Markup {
    html! {
        svg aria-hidden="true" width="22" height="22" viewBox="0 0 24 24" {
            path d="M3 5.5A2.5 2.5 0 0 1 5.5 3h13A2.5 2.5 0 0 1 21 5.5v9a2.5 2.5 0 0 1-2.5 2.5H11l-5 4v-4h-.5A2.5 2.5 0 0 1 3 14.5z" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round" {}
            path d="M6 10.5h3l1.5-3 3 5.5 1.5-2.5h3" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" {}
        }
    }
}

//! Requests for pages.

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use chatpulse_store::{Disposition, StoreError};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::delivery::Filter;
use super::parts::{foreign, link};
use super::shell::{Frame, Place, Tab, head, picker, tabs};
use super::{
    conversations, deliveries, delivery, failures, health, overview, sources, time, working,
};
use crate::access::{self, Viewer};
use crate::arrivals::Check;
use crate::{Period, PeriodError, Reports};

/// Longest name that is asked for; bytes.
const LONGEST_NAME: usize = 256;
/// Longest place in a list; bytes. It has names of at most some hundred bytes.
const LONGEST_KEY: usize = 2_048;
const DEFAULT_SINCE: &str = "24h";
/// How many are listed at a time.
const MOST_CONVERSATIONS: u32 = 20;
const MOST_FAILURES: u32 = 50;

/// Nothing but what is served from here, and no script or style within a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The pages: `GET /`, `/sources`, `/tenants/{tenant}` with `/delivery`, `/conversations` and
/// `/failures` and `/working`. `?since=` is a span such as `24h`, the default. They stand behind the check of access.
pub(crate) fn router(reports: Reports) -> Router {
    Router::new()
        .route("/", get(show_overview))
        .route("/sources", get(show_sources))
        .route("/tenants/{tenant}", get(show_health))
        .route("/tenants/{tenant}/delivery", get(show_delivery))
        .route("/tenants/{tenant}/conversations", get(show_conversations))
        .route("/tenants/{tenant}/failures", get(show_failures))
        .route("/tenants/{tenant}/working", get(show_working))
        .with_state(reports)
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    since: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    find: Option<String>,
    after: Option<String>,
}

impl Asked {
    fn since(&self) -> &str {
        self.since.as_deref().unwrap_or(DEFAULT_SINCE)
    }

    fn period(&self) -> Result<Period, Trouble> {
        Ok(Period::before(Timestamp::now(), self.since())?)
    }

    fn filter(&self) -> Filter<'_> {
        Filter {
            source: chosen(&self.source),
            event_type: chosen(&self.event_type),
        }
    }

    /// Where a list goes on.
    fn after<K: DeserializeOwned>(&self) -> Result<Option<K>, Trouble> {
        let Some(after) = chosen(&self.after) else {
            return Ok(None);
        };
        let key = (after.len() <= LONGEST_KEY).then(|| serde_json::from_str(after));
        match key {
            Some(Ok(key)) => Ok(Some(key)),
            _ => Err(Trouble::Request(
                "after: this is no place in the list; begin with its first page".to_owned(),
            )),
        }
    }
}

/// A form sends an empty value for no choice.
fn chosen(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

/// Who asks for what.
struct Visit {
    viewer: Viewer,
    asked: Asked,
    headers: HeaderMap,
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let viewer = Viewer::from_request_parts(parts, state).await;
        let viewer = viewer.map_err(IntoResponse::into_response)?;
        let asked = Query::<Asked>::from_request_parts(parts, state).await;
        let Query(asked) =
            asked.map_err(|error| Trouble::Request(error.body_text()).into_response())?;
        Ok(Visit {
            viewer,
            asked,
            headers: parts.headers.clone(),
        })
    }
}

impl Visit {
    fn frame<'a>(&self, place: Place<'a>, api: Option<String>) -> Frame<'a> {
        Frame {
            place,
            operator: self.viewer == Viewer::Operator,
            signed_in: access::has_session(&self.headers),
            now: Timestamp::now(),
            api,
        }
    }
}

/// Who asks for what of a tenant, which they may read.
struct TenantVisit {
    visit: Visit,
    tenant: String,
}

impl<S: Send + Sync> FromRequestParts<S> for TenantVisit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let visit = Visit::from_request_parts(parts, state).await?;
        let tenant = Path::<String>::from_request_parts(parts, state).await;
        let Path(tenant) = tenant.map_err(IntoResponse::into_response)?;
        let trouble = if visit.viewer.tenant(Some(&tenant)).is_err() {
            Trouble::Foreign
        } else if tenant.is_empty() || tenant.len() > LONGEST_NAME {
            Trouble::Request(format!("A tenant's name has 1 to {LONGEST_NAME} bytes."))
        } else {
            return Ok(Self { visit, tenant });
        };
        Err(trouble.into_response())
    }
}

/// A page of a tenant, below its head and tabs.
struct TenantPage {
    tab: Tab,
    about: Markup,
    tools: Markup,
    content: Markup,
    /// The path of the API that answers with the same.
    api: &'static str,
}

impl TenantVisit {
    fn answer(&self, page: &TenantPage) -> Response {
        let (tenant, asked) = (self.tenant.as_str(), &self.visit.asked);
        let filter = asked.filter();
        let others = [("source", filter.source), ("type", filter.event_type)];
        let others: &[_] = if page.tab == Tab::Delivery {
            &others
        } else {
            &[]
        };
        let picker = picker(&page.tab.path(tenant), asked.since(), others);
        let name = foreign(tenant);
        let content = html! {
            (head(&html! { (name) }, &page.about, &html! { (page.tools) (picker) }))
            (tabs(tenant, page.tab, asked.since()))
            (page.content)
        };
        let api = link(
            page.api,
            &[("tenant", Some(tenant)), ("since", Some(asked.since()))],
        );
        let frame = self.visit.frame(Place::Tenant(tenant, page.tab), Some(api));
        let title = format!("{}: {name}", page.tab.name());
        answer(&self.visit.headers, &frame, &title, &content)
    }
}

async fn show_overview(State(reports): State<Reports>, visit: Visit) -> Result<Response, Trouble> {
    if let Viewer::Tenant(own) = &visit.viewer {
        return Ok(Redirect::to(&Tab::Health.path(own)).into_response());
    }
    let asked = &visit.asked;
    let report = reports.overview(asked.period()?).await?;
    let find = asked.find.as_deref().unwrap_or_default();
    let about = html! { "All tenants, " (time::window(report.window)) " UTC" };
    let picker = picker("/", asked.since(), &[("find", chosen(&asked.find))]);
    let content = html! {
        (head(&html! { "Overview" }, &about, &picker))
        (overview::content(&report, find, asked.since()))
    };
    let api = link("/v1/pipeline", &[("since", Some(asked.since()))]);
    let frame = visit.frame(Place::Overview, Some(api));
    Ok(answer(&visit.headers, &frame, "Overview", &content))
}

async fn show_sources(State(reports): State<Reports>, visit: Visit) -> Result<Response, Trouble> {
    let matrix = reports.matrix().await?;
    let about =
        html! { "Which metrics each vendor's events can show, and what each of them means" };
    let content = html! {
        (head(&html! { "Sources" }, &about, &html! {}))
        (sources::content(reports.catalog, &matrix))
    };
    let frame = visit.frame(Place::Sources, None);
    Ok(answer(&visit.headers, &frame, "Sources", &content))
}

async fn show_health(State(reports): State<Reports>, of: TenantVisit) -> Result<Response, Trouble> {
    let report = reports
        .tenant_health(&of.tenant, of.visit.asked.period()?)
        .await?;
    Ok(of.answer(&TenantPage {
        tab: Tab::Health,
        about: html! { (health::about(&report)) },
        tools: html! {},
        content: health::content(&report, true),
        api: "/v1/tenant-health",
    }))
}

async fn show_delivery(
    State(reports): State<Reports>,
    of: TenantVisit,
) -> Result<Response, Trouble> {
    let asked = &of.visit.asked;
    let period = asked.period()?;
    let (report, series, sent) = tokio::try_join!(
        reports.tenant_health(&of.tenant, period),
        reports.delivery_series(&of.tenant, period),
        reports.deliveries_series(&of.tenant, period),
    )?;
    let filter = asked.filter();
    Ok(of.answer(&TenantPage {
        tab: Tab::Delivery,
        about: html! { "What came of each event type, " (time::window(series.window)) " UTC" },
        tools: delivery::form(&report, filter, asked.since()),
        content: if report.sources.is_empty() {
            health::content(&report, true)
        } else {
            let came = delivery::content(&report, &series, (filter, asked.since()));
            match &report.deliveries {
                // They are asked about by destination, not by source.
                Some(outgoing) if filter.is_all() => {
                    html! { div.stack { (came) (deliveries::content(outgoing, &sent)) } }
                }
                Some(_) | None => came,
            }
        },
        api: "/v1/tenant-health/series",
    }))
}

async fn show_conversations(
    State(reports): State<Reports>,
    of: TenantVisit,
) -> Result<Response, Trouble> {
    let asked = &of.visit.asked;
    let (period, after) = (asked.period()?, asked.after()?);
    let (report, newest) = tokio::try_join!(
        reports.conversations(&of.tenant, period),
        reports.conversation_list(&of.tenant, period, (after.as_ref(), MOST_CONVERSATIONS + 1)),
    )?;
    let list = Slice::new(newest, MOST_CONVERSATIONS, |last| last.cursor());
    let list = list.with_links(&Tab::Conversations.path(&of.tenant), asked);
    Ok(of.answer(&TenantPage {
        tab: Tab::Conversations,
        about: html! { "Conversations that started from " (time::window(report.window)) " UTC" },
        tools: html! {},
        content: html! {
            (conversations::content(&report))
            @if report.state.conversations > 0 { (conversations::newest(&list)) }
        },
        api: "/v1/conversation-report",
    }))
}

async fn show_failures(
    State(reports): State<Reports>,
    of: TenantVisit,
) -> Result<Response, Trouble> {
    let asked = &of.visit.asked;
    let (period, after) = (asked.period()?, asked.after()?);
    let (report, newest) = tokio::try_join!(
        reports.tenant_health(&of.tenant, period),
        reports.rejections(&of.tenant, period, (after.as_ref(), MOST_FAILURES + 1)),
    )?;
    let list = Slice::new(newest, MOST_FAILURES, |last| last.cursor());
    let list = list.with_links(&Tab::Failures.path(&of.tenant), asked);
    Ok(of.answer(&TenantPage {
        tab: Tab::Failures,
        about: html! { "What was refused, " (time::window(report.window)) " UTC" },
        tools: html! {},
        content: if report.sources.is_empty() {
            health::content(&report, true)
        } else {
            failures::content(&report, &list)
        },
        api: "/v1/rejections",
    }))
}

/// The session of a check, and the page of the site that it is for.
#[derive(Debug, Default, Deserialize)]
struct Try {
    check: Option<String>,
    site: Option<String>,
}

async fn show_working(
    State(reports): State<Reports>,
    of: TenantVisit,
    asked: Query<Try>,
) -> Result<Response, Trouble> {
    let (tenant, tab) = (of.tenant.as_str(), Tab::Working);
    let Some(check) = asked.check.as_deref().and_then(Check::parse) else {
        // The address holds the check, so that the page stays the same when it is asked for again.
        let check = Check::new().map_err(|error| Trouble::Request(error.to_string()))?;
        let here = link(&tab.path(tenant), &[("check", Some(check.as_str()))]);
        return Ok(Redirect::to(&here).into_response());
    };
    let arrivals = reports
        .arrivals(tenant, &check, working::MOST_ARRIVALS)
        .await?;
    let name = foreign(tenant);
    let about = html! { "Events of your own visit, as they arrive" };
    let content = html! {
        (head(&html! { (name) }, &about, &html! {}))
        (tabs(tenant, tab, of.visit.asked.since()))
        (working::content(tenant, (&check, chosen(&asked.site)), &arrivals))
    };
    let frame = of.visit.frame(Place::Tenant(tenant, tab), None);
    let title = format!("{} {name}", tab.name());
    Ok(answer(&of.visit.headers, &frame, &title, &content))
}

/// A part of a list and how to get to the others.
pub(super) struct Slice<T> {
    pub(super) items: Vec<T>,
    /// What the first page and the next one are.
    pub(super) first: Option<String>,
    pub(super) next: Option<String>,
}

impl<T> Slice<T> {
    /// Of one more than are shown, by which it is known whether there are more.
    fn new<K: Serialize>(mut items: Vec<T>, most: u32, cursor: impl Fn(&T) -> K) -> Slice<T> {
        let most = most as usize;
        let more = items.len() > most;
        items.truncate(most);
        let next = items.last().filter(|_| more).map(cursor);
        Slice {
            items,
            first: None,
            next: next.and_then(|key| serde_json::to_string(&key).ok()),
        }
    }

    fn with_links(self, path: &str, asked: &Asked) -> Slice<T> {
        let to =
            |after: Option<&str>| link(path, &[("since", Some(asked.since())), ("after", after)]);
        Slice {
            first: chosen(&asked.after).map(|_| to(None)),
            next: self.next.as_deref().map(|after| to(Some(after))),
            ..self
        }
    }

    /// To the newest and to older ones.
    pub(super) fn links(&self) -> Markup {
        html! {
            @if self.first.is_some() || self.next.is_some() {
                p.more {
                    @if let Some(first) = &self.first { a.button href=(first) { "Newest" } }
                    @if let Some(next) = &self.next { a.button href=(next) { "Older" } }
                }
            }
        }
    }
}

/// The page, or only that it is the same as the reader has. What is shown of the time at which the page
/// was made is no part of that.
fn answer(headers: &HeaderMap, frame: &Frame<'_>, title: &str, content: &Markup) -> Response {
    let tag = format!("\"{}\"", &blake3::hash(content.0.as_bytes()).to_hex()[..32]);
    let same = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if same {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        page(StatusCode::OK, frame.around(title, content))
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn page(status: StatusCode, page: String) -> Response {
    (
        status,
        [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "same-origin"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        page,
    )
        .into_response()
}

/// A page for whoever has not signed in.
pub(crate) fn outside(title: &str, content: &Markup) -> Response {
    let frame = Frame {
        place: Place::Outside,
        operator: false,
        signed_in: false,
        now: Timestamp::now(),
        api: None,
    };
    page(StatusCode::OK, frame.around(title, content))
}

/// For an address that is none.
pub(crate) async fn not_found() -> Response {
    let content = html! {
        (head(&html! { "There is no such page" }, &html! { "The address may be mistyped, or of another version." }, &html! {}))
        p { a.button href="/" { "Overview" } }
    };
    let mut response = outside("There is no such page", &content);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Why there is no page.
enum Trouble {
    /// Another's tenant, or none: that is not told apart.
    Foreign,
    Request(String),
    Store(StoreError),
}

impl From<PeriodError> for Trouble {
    fn from(error: PeriodError) -> Self {
        Trouble::Request(format!("since: {error}"))
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble::Store(error)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (status, title, text) = match &self {
            Trouble::Foreign => (
                StatusCode::FORBIDDEN,
                "This is not for you",
                "Your token reads its own tenant. Sign in with another to see more.",
            ),
            Trouble::Request(text) => (
                StatusCode::BAD_REQUEST,
                "This address asks for something that cannot be",
                text.as_str(),
            ),
            Trouble::Store(error) => {
                tracing::error!(error = error as &dyn std::error::Error, "a page failed");
                return no_answer(error.disposition());
            }
        };
        let content = html! {
            (head(&html! { (title) }, &html! { (text) }, &html! {}))
            p { a.button href="/" { "Overview" } }
        };
        let mut response = outside(title, &content);
        *response.status_mut() = status;
        response
    }
}

/// A page that says why there is none, and becomes one as soon as there is.
fn no_answer(disposition: Disposition) -> Response {
    let (status, title, text) = if disposition == Disposition::Retry {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "ClickHouse does not answer now",
            "No figure can be shown until it does; events are not lost by that, they wait in Kafka. This page tries again by itself. If it lasts, see whether ClickHouse runs, and what /readyz and the log of this process say.",
        )
    } else {
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "This page could not be made",
            "The log of this process says why.",
        )
    };
    let frame = Frame {
        place: Place::Nowhere,
        operator: true,
        signed_in: false,
        now: Timestamp::now(),
        api: None,
    };
    let content = html! {
        (head(&html! { (title) }, &html! { (text) }, &html! {}))
        p { a.button href="" { "Try again" } " " a.button href="/" { "Overview" } }
    };
    let mut response = page(status, frame.around(title, &content));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

//! Requests for pages.

use std::borrow::Cow;

use axum::Router;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use chatpulse_store::{Disposition, StoreError};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::delivery::Filter;
use super::parts::{foreign, link};
use super::shell::{Frame, Place, Tab, head, picker, tabs};
use super::{assets, conversations, delivery, failures, health, overview, time};
use crate::access::Viewer;
use crate::{Period, PeriodError, Reports};

/// Longest name that is asked for; bytes.
const LONGEST_NAME: usize = 256;
const DEFAULT_SINCE: &str = "24h";

/// Nothing but what is served from here, and no script or style within a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The pages: `GET /`, `/tenants/{tenant}` with `/delivery`, `/conversations` and `/failures`,
/// `/assets/…`. `?since=` is a span such as `24h`, the default.
pub(crate) fn router(reports: Reports) -> Router {
    Router::new()
        .route("/", get(show_overview))
        .route("/tenants/{tenant}", get(show_health))
        .route("/tenants/{tenant}/delivery", get(show_delivery))
        .route("/tenants/{tenant}/conversations", get(show_conversations))
        .route("/tenants/{tenant}/failures", get(show_failures))
        .merge(assets::router())
        .with_state(reports)
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    since: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    find: Option<String>,
}

impl Asked {
    fn since(&self) -> &str {
        self.since.as_deref().unwrap_or(DEFAULT_SINCE)
    }

    fn period(&self) -> Result<Period, Trouble> {
        Ok(Period::before(Timestamp::now(), self.since())?)
    }

    fn filter(&self) -> Filter<'_> {
        // A form sends an empty value for no choice.
        let chosen = |value: &'_ Option<String>| {
            value.as_deref().filter(|value| !value.is_empty()).is_some()
        };
        Filter {
            source: self.source.as_deref().filter(|_| chosen(&self.source)),
            event_type: self
                .event_type
                .as_deref()
                .filter(|_| chosen(&self.event_type)),
        }
    }
}

/// The tenant of the path, which this viewer may read.
struct Readable {
    viewer: Viewer,
    tenant: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Readable {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let viewer = Viewer::from_request_parts(parts, state).await;
        let viewer = viewer.map_err(IntoResponse::into_response)?;
        let tenant = Path::<String>::from_request_parts(parts, state).await;
        let Path(tenant) = tenant.map_err(IntoResponse::into_response)?;
        let trouble = if viewer.tenant(Some(&tenant)).is_err() {
            Trouble::Foreign
        } else if tenant.is_empty() || tenant.len() > LONGEST_NAME {
            Trouble::Request(format!("A tenant's name has 1 to {LONGEST_NAME} bytes."))
        } else {
            return Ok(Self { viewer, tenant });
        };
        Err(trouble.into_response())
    }
}

async fn show_overview(
    State(reports): State<Reports>,
    viewer: Viewer,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    if let Viewer::Tenant(own) = viewer {
        return Ok(Redirect::to(&Tab::Health.path(&own)).into_response());
    }
    let report = reports.overview(asked.period()?).await?;
    let find = asked.find.as_deref().unwrap_or_default();
    let frame = Frame {
        place: Place::Overview,
        operator: true,
        now: Timestamp::now(),
        json: None,
    };
    let about = html! { "All tenants, " (time::window(report.window)) " UTC" };
    let content = html! {
        (head(&html! { "Overview" }, &about, &picker("/", asked.since(), &[("find", asked.find.as_deref())])))
        (overview::content(&report, find, asked.since()))
    };
    Ok(answer(&headers, &frame, "Overview", &content))
}

/// A page of a tenant: its head, tabs and content.
struct TenantPage<'a> {
    viewer: &'a Viewer,
    tenant: &'a str,
    tab: Tab,
    asked: &'a Asked,
    json: Option<String>,
}

impl TenantPage<'_> {
    fn answer(
        self,
        headers: &HeaderMap,
        (about, tools, content): (&Markup, &Markup, &Markup),
    ) -> Response {
        let frame = Frame {
            place: Place::Tenant(self.tenant, self.tab),
            operator: *self.viewer == Viewer::Operator,
            now: Timestamp::now(),
            json: self.json,
        };
        let path = self.tab.path(self.tenant);
        let filter = self.asked.filter();
        let others = [("source", filter.source), ("type", filter.event_type)];
        let others: &[_] = if self.tab == Tab::Delivery {
            &others
        } else {
            &[]
        };
        let tools = html! { (tools) (picker(&path, self.asked.since(), others)) };
        let name: Cow<'_, str> = foreign(self.tenant).into();
        let content = html! {
            (head(&html! { (name) }, about, &tools))
            (tabs(self.tenant, self.tab, self.asked.since()))
            (content)
        };
        answer(
            headers,
            &frame,
            &format!("{}: {name}", self.tab.name()),
            &content,
        )
    }
}

async fn show_health(
    State(reports): State<Reports>,
    Readable { viewer, tenant }: Readable,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let tenant = tenant.as_str();
    let report = reports.tenant_health(tenant, asked.period()?).await?;
    let json = json_link("tenant-health", tenant, &asked);
    let page = TenantPage {
        viewer: &viewer,
        tenant,
        tab: Tab::Health,
        asked: &asked,
        json: Some(json),
    };
    let about = html! { (health::about(&report)) };
    Ok(page.answer(
        &headers,
        (&about, &html! {}, &health::content(&report, true)),
    ))
}

async fn show_delivery(
    State(reports): State<Reports>,
    Readable { viewer, tenant }: Readable,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let tenant = tenant.as_str();
    let period = asked.period()?;
    let (report, series) = tokio::try_join!(
        reports.tenant_health(tenant, period),
        reports.delivery_series(tenant, period)
    )?;
    let page = TenantPage {
        viewer: &viewer,
        tenant,
        tab: Tab::Delivery,
        asked: &asked,
        json: None,
    };
    let filter = asked.filter();
    let about = html! { "What came of each event type, " (time::window(series.window)) " UTC" };
    let tools = delivery::form(&report, filter, asked.since());
    let content = if report.sources.is_empty() {
        health::content(&report, true)
    } else {
        delivery::content(&report, &series, filter, asked.since())
    };
    Ok(page.answer(&headers, (&about, &tools, &content)))
}

async fn show_conversations(
    State(reports): State<Reports>,
    Readable { viewer, tenant }: Readable,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let tenant = tenant.as_str();
    let report = reports.conversations(tenant, asked.period()?).await?;
    let json = json_link("conversation-report", tenant, &asked);
    let page = TenantPage {
        viewer: &viewer,
        tenant,
        tab: Tab::Conversations,
        asked: &asked,
        json: Some(json),
    };
    let about = html! { "Conversations that started from " (time::window(report.window)) " UTC" };
    Ok(page.answer(
        &headers,
        (&about, &html! {}, &conversations::content(&report)),
    ))
}

async fn show_failures(
    State(reports): State<Reports>,
    Readable { viewer, tenant }: Readable,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let tenant = tenant.as_str();
    let report = reports.tenant_health(tenant, asked.period()?).await?;
    let json = json_link("tenant-health", tenant, &asked);
    let page = TenantPage {
        viewer: &viewer,
        tenant,
        tab: Tab::Failures,
        asked: &asked,
        json: Some(json),
    };
    let about = html! { "What was refused, " (time::window(report.window)) " UTC" };
    let content = if report.sources.is_empty() {
        health::content(&report, true)
    } else {
        failures::content(&report)
    };
    Ok(page.answer(&headers, (&about, &html! {}, &content)))
}

fn json_link(report: &str, tenant: &str, asked: &Asked) -> String {
    link(
        &format!("/v1/{report}"),
        &[("tenant", Some(tenant)), ("since", Some(asked.since()))],
    )
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
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        page,
    )
        .into_response()
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
                if error.disposition() == Disposition::Retry {
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
                }
            }
        };
        let frame = Frame {
            place: Place::Nowhere,
            operator: true,
            now: Timestamp::now(),
            json: None,
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
}

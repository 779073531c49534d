//! Who asks: write keys, origins, and the CORS protocol of the Fetch standard.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use url::form_urlencoded;

use crate::{
    problem::Problem,
    tenants::{Grant, Snapshot, Tenant, WriteKeyError},
};

/// Request headers that a page may set: what snippets and SDKs send.
const PAGE_HEADERS: &str = "authorization, content-type, content-encoding";
/// What the answer to a preflight depends on.
const PREFLIGHT_VARY: &str =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// Finds the tenant of a request by its write key.
pub(crate) fn authenticate(tenants: &Snapshot, parts: &Parts) -> Result<Grant, Problem> {
    let key = write_key(parts).ok_or(Problem::MissingKey)?;
    tenants.authenticate(&key).map_err(|error| match error {
        WriteKeyError::Unknown => Problem::UnknownKey,
        WriteKeyError::Revoked => Problem::RevokedKey,
    })
}

/// The write key of the Authorization header or, only where there is no such header, of the query.
fn write_key(parts: &Parts) -> Option<Cow<'_, str>> {
    let key = match parts.headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| Cow::Borrowed(key.trim()))
        }
        None => {
            let mut pairs = form_urlencoded::parse(parts.uri.query()?.as_bytes());
            pairs
                .find(|(name, _)| name == "write_key")
                .map(|(_, key)| key)
        }
    };
    key.filter(|key| !key.is_empty())
}

/// Refuses pages of origins that the tenant does not name. A request without an Origin header is
/// no page's: what a server could forge, it could as well leave out.
pub(crate) fn check_origin(tenant: &Tenant, parts: &Parts) -> Result<(), Problem> {
    match origin(parts) {
        Some(origin) if !tenant.allows(&origin) => Err(Problem::OriginNotAllowed {
            tenant: tenant.id.clone(),
        }),
        _ => Ok(()),
    }
}

/// The Origin header as text; one that is no text is allowed by `*` alone.
fn origin(parts: &Parts) -> Option<Cow<'_, str>> {
    parts
        .headers
        .get(header::ORIGIN)
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// The page that may read the answer: one that the tenant allows or, where the tenant is not known
/// (a preflight shows no Authorization header, and a wrong key has no tenant), one that any tenant
/// allows. That gives nothing away: an answer holds nothing but its own request's outcome.
pub(crate) fn reader(
    tenants: &Snapshot,
    parts: &Parts,
    grant: Option<&Grant>,
) -> Option<HeaderValue> {
    let origin = origin(parts)?;
    let allowed = match grant {
        Some(grant) => grant.tenant.allows(&origin),
        None => tenants.any_allows(&origin),
    };
    if allowed {
        parts.headers.get(header::ORIGIN).cloned()
    } else {
        None
    }
}

/// Lets that page read the answer, Retry-After included.
pub(crate) fn readable_by(reader: Option<HeaderValue>, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = reader {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static("Retry-After");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response
}

/// Answers an OPTIONS request.
pub(crate) fn preflight(tenants: &Snapshot, parts: &Parts, max_age: Duration) -> Response {
    let mut response = if parts.headers.contains_key(header::ORIGIN) {
        let grant = authenticate(tenants, parts).ok();
        match reader(tenants, parts, grant.as_ref()) {
            Some(origin) => permission(origin, max_age),
            None => Problem::PreflightRefused.into_response(),
        }
    } else {
        (StatusCode::NO_CONTENT, [(header::ALLOW, EVENT_METHODS)]).into_response()
    };
    let vary = HeaderValue::from_static(PREFLIGHT_VARY);
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// Methods of the events path.
pub(crate) const EVENT_METHODS: &str = "POST, OPTIONS";

fn permission(origin: HeaderValue, max_age: Duration) -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST"),
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(PAGE_HEADERS),
        ),
        (
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from(max_age.as_secs()),
        ),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

//! Every answer of the API that is not a success, as RFC 9457 problem details that say what to do.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chatpulse_store::{Disposition, StoreError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::text::one_line;

/// Methods of every path.
pub(super) const METHODS: &str = "GET, HEAD, OPTIONS";
/// How long clients wait before they ask again while ClickHouse does not answer; seconds.
const RETRY_STORE: u64 = 5;
/// Longest part of a request that an answer repeats; characters.
const LONGEST_QUOTE: usize = 60;

/// What was wrong with a request, or with us. The `Display` form is the answer's `detail`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{name}: {fault}")]
    Parameter {
        name: &'static str,
        fault: Cow<'static, str>,
    },
    #[error(
        "{}: this path does not know it; it takes {known}",
        one_line(name, LONGEST_QUOTE)
    )]
    UnknownParameter { name: String, known: String },
    #[error("{}: given more than once", one_line(name, LONGEST_QUOTE))]
    RepeatedParameter { name: String },
    #[error(
        "no token: send `Authorization: Bearer TOKEN` with a read token, which begins with cpr_"
    )]
    MissingToken,
    #[error("this token is not known; `chatpulse tenant token add` makes a read token")]
    UnknownToken,
    #[error("this token was revoked; ask for a new one")]
    RevokedToken,
    #[error(
        "this is a write key, which sends events and reads nothing; a read token begins with cpr_"
    )]
    WriteKey,
    #[error("tenant: this token reads its own tenant only; leave the parameter out")]
    ForeignTenant,
    #[error("this is for the operator's token only")]
    OperatorOnly,
    #[error("no such path; /v1/openapi.json lists those there are")]
    UnknownPath,
    #[error("this path takes {METHODS} only")]
    MethodNotAllowed,
    #[error(
        "more requests than this token may send, or too many at once; wait for the time in Retry-After"
    )]
    RateLimited { wait: Duration },
    #[error(
        "the answer took too long; ask for a shorter time, or again after the time in Retry-After"
    )]
    TooSlow,
    #[error("ClickHouse does not answer now; ask again after the time in Retry-After")]
    StoreAway,
    #[error("the report failed; this is a fault of the server, see its log")]
    Internal,
}

/// Problem details (RFC 9457): what went wrong, and what to do about it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(examples(json!({
    "type": "urn:chatpulse:problem:invalid-parameter",
    "title": "Invalid parameter",
    "status": 400,
    "detail": "since: \"yesterday\" is no span of time: give a whole number and m, h or d, from 1m to 366d, for example 24h",
    "parameter": "since"
})))]
pub(crate) struct ProblemDetails {
    /// Kind of problem, the same for all of its kind.
    r#type: String,
    /// The kind for people.
    title: &'static str,
    /// Status of the answer.
    status: u16,
    /// What was wrong this time, and what to do.
    detail: String,
    /// The query parameter at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<String>,
}

impl Problem {
    /// A parameter that is not what it must be.
    pub(super) fn parameter(name: &'static str, fault: impl Into<Cow<'static, str>>) -> Self {
        Self::Parameter {
            name,
            fault: fault.into(),
        }
    }

    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Parameter { .. } => (S::BAD_REQUEST, "invalid-parameter", "Invalid parameter"),
            Self::UnknownParameter { .. } => {
                (S::BAD_REQUEST, "unknown-parameter", "Unknown parameter")
            }
            Self::RepeatedParameter { .. } => {
                (S::BAD_REQUEST, "repeated-parameter", "Repeated parameter")
            }
            Self::MissingToken => (S::UNAUTHORIZED, "missing-token", "Read token missing"),
            Self::UnknownToken | Self::WriteKey => {
                (S::UNAUTHORIZED, "unknown-token", "Read token unknown")
            }
            Self::RevokedToken => (S::UNAUTHORIZED, "revoked-token", "Read token revoked"),
            Self::ForeignTenant => (S::FORBIDDEN, "foreign-tenant", "Not your tenant"),
            Self::OperatorOnly => (S::FORBIDDEN, "operator-only", "For the operator"),
            Self::UnknownPath => (S::NOT_FOUND, "unknown-path", "Unknown path"),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            Self::RateLimited { .. } => (S::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::TooSlow => (S::SERVICE_UNAVAILABLE, "too-slow", "Too slow"),
            Self::StoreAway => (S::SERVICE_UNAVAILABLE, "store-away", "Store away"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// The header that belongs to the status.
    fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        let retry = |seconds: u64| Some((header::RETRY_AFTER, HeaderValue::from(seconds)));
        let challenge =
            |text: &'static str| Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(text)));
        match self {
            // RFC 6750: no error code where there was no token.
            Self::MissingToken => challenge("Bearer realm=\"chatpulse\""),
            Self::UnknownToken | Self::WriteKey | Self::RevokedToken => {
                challenge("Bearer realm=\"chatpulse\", error=\"invalid_token\"")
            }
            Self::MethodNotAllowed => Some((header::ALLOW, HeaderValue::from_static(METHODS))),
            // Rounded up: who comes back at the named second is let in.
            Self::RateLimited { wait } => {
                retry(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
            Self::TooSlow | Self::StoreAway => retry(RETRY_STORE),
            _ => None,
        }
    }

    fn at_fault(&self) -> Option<String> {
        match self {
            Self::Parameter { name, .. } => Some((*name).to_owned()),
            Self::ForeignTenant => Some("tenant".to_owned()),
            Self::UnknownParameter { name, .. } | Self::RepeatedParameter { name } => {
                Some(one_line(name, LONGEST_QUOTE))
            }
            _ => None,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a report failed");
        match error {
            StoreError::Timeout { .. } => Self::TooSlow,
            error if error.disposition() == Disposition::Retry => Self::StoreAway,
            _ => Self::Internal,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, kind, title) = self.kind();
        let details = ProblemDetails {
            r#type: format!("urn:chatpulse:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            parameter: self.at_fault(),
        };
        let mut response = (status, Json(details)).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some((name, value)) = self.header() {
            headers.insert(name, value);
        }
        response
    }
}

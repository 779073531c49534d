//! Every answer that is not a success, as RFC 9457 problem details that say what to do.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{share::Shared, split::SplitError};

/// What was wrong with a request, or with us. The `Display` form is the answer's `detail`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("no such path; events go to POST /v1/events/{{source}}")]
    UnknownPath,
    #[error(
        "this version of the snippet is not served any more; take the new line from \
         `chatpulse snippet --tenant ID`"
    )]
    UnknownSnippet,
    #[error("no source of that name; known sources are: {known}")]
    UnknownSource { known: String },
    #[error("this path takes {allow} only")]
    MethodNotAllowed { allow: &'static str },
    #[error(
        "no write key: send `Authorization: Bearer KEY`, or `?write_key=KEY` where headers cannot \
         be set"
    )]
    MissingKey,
    #[error("the write key belongs to no tenant; look it up in the tenant's settings")]
    UnknownKey,
    #[error("the write key was revoked; use the tenant's new one")]
    RevokedKey,
    #[error(
        "pages of this origin may not send for tenant {tenant}; add the origin to its \
         allowed_origins"
    )]
    OriginNotAllowed { tenant: String },
    #[error("pages of this origin may not send for any tenant; add the origin to allowed_origins")]
    PreflightRefused,
    #[error("tenant {tenant} sends more requests than its limit; wait, and send larger batches")]
    RateLimited { tenant: String, wait: Duration },
    #[error(
        "tenant {tenant} holds its share of {} already; send the batch again after the time in \
         Retry-After, fewer at once",
        what.described()
    )]
    OverShare { tenant: String, what: Shared },
    #[error(
        "content type {0}; send application/json, application/x-ndjson or text/plain, in UTF-8"
    )]
    MediaType(&'static str),
    #[error("content encoding {0}; send the body plain or in one of gzip, br, zstd")]
    ContentEncoding(&'static str),
    #[error("the body is larger than {limit} bytes {what}; send smaller batches")]
    BodyTooLarge { what: &'static str, limit: usize },
    #[error("the body did not arrive within {0:?}; send smaller batches")]
    BodyTimeout(Duration),
    #[error("the body ended early or its framing is broken; send it again")]
    BodyBroken,
    #[error("the body is not valid {encoding}, or was cut short: {fault}")]
    BodyUndecodable {
        encoding: &'static str,
        fault: String,
    },
    #[error(transparent)]
    Unsplittable(SplitError),
    #[error("too much is in flight here; send the batch again after the time in Retry-After")]
    Overloaded,
    #[error(
        "the broker has not confirmed the batch; send the whole batch again after the time in \
         Retry-After: what was stored already is recognised as a duplicate"
    )]
    NotConfirmed,
    #[error("the batch cannot be written; this is a fault of the server, see its log")]
    Internal,
}

/// How long clients wait before they try again, where nothing better is known; seconds.
const RETRY_OVERLOADED: u64 = 1;
const RETRY_NOT_CONFIRMED: u64 = 5;

impl Problem {
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::UnknownPath => (S::NOT_FOUND, "unknown-path", "Unknown path"),
            Self::UnknownSource { .. } => (S::NOT_FOUND, "unknown-source", "Unknown source"),
            Self::UnknownSnippet => (S::NOT_FOUND, "unknown-snippet", "Unknown snippet version"),
            Self::MethodNotAllowed { .. } => (
                S::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed",
            ),
            Self::MissingKey => (S::UNAUTHORIZED, "missing-write-key", "Write key missing"),
            Self::UnknownKey => (S::UNAUTHORIZED, "unknown-write-key", "Write key unknown"),
            Self::RevokedKey => (S::UNAUTHORIZED, "revoked-write-key", "Write key revoked"),
            Self::OriginNotAllowed { .. } | Self::PreflightRefused => {
                (S::FORBIDDEN, "origin-not-allowed", "Origin not allowed")
            }
            Self::RateLimited { .. } => (S::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::OverShare { .. } => (
                S::TOO_MANY_REQUESTS,
                "tenant-share",
                "Tenant holds its share",
            ),
            Self::MediaType(_) => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                "Unsupported content type",
            ),
            Self::ContentEncoding(_) => (
                S::UNSUPPORTED_MEDIA_TYPE,
                "content-encoding",
                "Unsupported content encoding",
            ),
            Self::BodyTooLarge { .. } | Self::Unsplittable(SplitError::TooMany(_)) => {
                (S::PAYLOAD_TOO_LARGE, "too-large", "Batch too large")
            }
            Self::BodyTimeout(_) => (S::REQUEST_TIMEOUT, "slow-body", "Body too slow"),
            Self::BodyBroken => (S::BAD_REQUEST, "broken-body", "Body broken"),
            Self::BodyUndecodable { .. } => (
                S::BAD_REQUEST,
                "undecodable-body",
                "Body cannot be decompressed",
            ),
            Self::Unsplittable(SplitError::Empty) => (S::BAD_REQUEST, "empty", "No items"),
            Self::Unsplittable(SplitError::Array { .. }) => {
                (S::BAD_REQUEST, "invalid-array", "Invalid JSON array")
            }
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            Self::NotConfirmed => (S::SERVICE_UNAVAILABLE, "not-confirmed", "Not confirmed"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// The header that belongs to the status.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let retry = |seconds: u64| Some((header::RETRY_AFTER, HeaderValue::from(seconds)));
        match self {
            Self::MissingKey | Self::UnknownKey | Self::RevokedKey => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Self::MethodNotAllowed { allow } => {
                Some((header::ALLOW, HeaderValue::from_static(allow)))
            }
            Self::ContentEncoding(_) => Some((
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("gzip, br, zstd"),
            )),
            // Rounded up: who comes back at the named second is let in.
            Self::RateLimited { wait, .. } => {
                retry(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
            Self::Overloaded | Self::OverShare { .. } => retry(RETRY_OVERLOADED),
            Self::NotConfirmed => retry(RETRY_NOT_CONFIRMED),
            _ => None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, kind, title) = self.kind();
        let body = json!({
            "type": format!("urn:chatpulse:problem:{kind}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.to_string(),
        });
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if let Some((name, value)) = self.header() {
            headers.insert(name, value);
        }
        response
    }
}

//! Reports over HTTP. There are no tokens yet: whoever can reach it reads every tenant, so it must
//! be bound to loopback only.

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chatpulse_store::{Disposition, StoreError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Period, PeriodError, Reports, pages};

/// Longest tenant name that is asked for; bytes.
const LONGEST_TENANT: usize = 256;
const DEFAULT_SINCE: &str = "24h";

/// The pages, and `GET /v1/report/tenant-health?tenant=&since=` and `GET /v1/report/conversations?tenant=&since=`
/// (JSON; `since` is a span such as `24h`, the default). Errors are `{"error": text}`: 400 for a
/// wrong parameter, 503 with `Retry-After` while ClickHouse does not answer, 500 else.
///
/// To be served on loopback only: it asks for no token.
pub fn router(reports: Reports) -> Router {
    Router::new()
        .route("/v1/report/tenant-health", get(health_json))
        .route("/v1/report/conversations", get(conversations_json))
        .with_state(reports.clone())
        .merge(pages::router(reports))
}

#[derive(Debug, Deserialize)]
struct Parameters {
    tenant: Option<String>,
    since: Option<String>,
}

impl Parameters {
    fn period(&self) -> Result<Period, PeriodError> {
        Period::before(
            Timestamp::now(),
            self.since.as_deref().unwrap_or(DEFAULT_SINCE),
        )
    }

    fn tenant(&self) -> Result<&str, Failure> {
        match self.tenant.as_deref() {
            Some(tenant) if !tenant.is_empty() && tenant.len() <= LONGEST_TENANT => Ok(tenant),
            _ => Err(Failure::Request(format!(
                "tenant: give a name of at most {LONGEST_TENANT} bytes"
            ))),
        }
    }
}

async fn health_json(
    State(reports): State<Reports>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Failure> {
    let (tenant, period) = (parameters.tenant()?, parameters.period()?);
    Ok(json(
        StatusCode::OK,
        &reports.tenant_health(tenant, period).await?,
    ))
}

async fn conversations_json(
    State(reports): State<Reports>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Failure> {
    let (tenant, period) = (parameters.tenant()?, parameters.period()?);
    Ok(json(
        StatusCode::OK,
        &reports.conversations(tenant, period).await?,
    ))
}

enum Failure {
    Request(String),
    Store(StoreError),
}

impl From<PeriodError> for Failure {
    fn from(error: PeriodError) -> Self {
        Failure::Request(format!("since: {error}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Request(error) => json(StatusCode::BAD_REQUEST, &ErrorBody { error: &error }),
            Failure::Store(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a report failed");
                if error.disposition() == Disposition::Retry {
                    let body = ErrorBody {
                        error: "ClickHouse does not answer now; try again",
                    };
                    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, &body);
                    response
                        .headers_mut()
                        .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                    response
                } else {
                    let body = ErrorBody {
                        error: "the report failed; the log of this process says why",
                    };
                    json(StatusCode::INTERNAL_SERVER_ERROR, &body)
                }
            }
        }
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (
            status,
            [
                (header::CONTENT_TYPE, "application/json"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::CACHE_CONTROL, "no-store"),
            ],
            body,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "a report cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

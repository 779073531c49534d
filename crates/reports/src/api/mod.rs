//! The JSON API, described by its own OpenAPI document.
//!
//! ```text
//! request ─ token ─► Viewer ─ rate ─ parameters known to the path ─► Question ─► handler ─► JSON
//!            401              429     400                              tenant 403, values 400
//! ```
//!
//! The document is derived from the handlers and their types; the names of the parameters that a
//! path takes are read from it, so what it says and what is done cannot part.

mod answers;
mod cursor;
mod document;
mod problem;
mod question;
mod routes;

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRef, MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};

use problem::{METHODS, Problem};
use question::Question;

use crate::{
    Reports,
    access::{Access, Turn},
};

/// What handlers work with.
#[derive(Clone)]
struct Api {
    reports: Reports,
    access: Access,
}

impl FromRef<Api> for Reports {
    fn from_ref(api: &Api) -> Reports {
        api.reports.clone()
    }
}

impl FromRef<Api> for Access {
    fn from_ref(api: &Api) -> Access {
        api.access.clone()
    }
}

/// What the check before every handler works with.
#[derive(Clone)]
struct Check {
    access: Access,
    /// The parameters of each path.
    parameters: Arc<HashMap<String, Vec<String>>>,
}

/// Every path under `/v1`.
pub(crate) fn router(reports: Reports, access: Access) -> Router {
    let (routes, document) = routes::all().split_for_parts();
    let document = document::finish(document);
    let check = Check {
        access: access.clone(),
        parameters: Arc::new(document::parameters(&document)),
    };
    let described = document.to_string();
    routes
        .route_layer(middleware::from_fn_with_state(check, guard))
        .with_state(Api { reports, access })
        .route(
            "/v1/openapi.json",
            get(|| async { ([(header::CONTENT_TYPE, "application/json")], described) }),
        )
        .route("/v1/{*path}", any(unknown))
        .route("/v1/", any(unknown))
        .method_not_allowed_fallback(other_method)
        .layer(middleware::map_response(unstored))
}

/// The OpenAPI document, as `/v1/openapi.json` serves it.
pub fn openapi() -> serde_json::Value {
    document::finish(routes::all().into_openapi())
}

/// The check before every handler: no question without it, and no answer without a question.
async fn guard(State(check): State<Check>, request: Request, next: Next) -> Response {
    // What methods there are is no secret.
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    match check.question(&parts) {
        Ok((question, turn)) => {
            parts.extensions.insert(question);
            let response = next.run(Request::from_parts(parts, body)).await;
            drop(turn);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

impl Check {
    fn question(&self, parts: &Parts) -> Result<(Question, Turn), Problem> {
        let token = bearer(parts).ok_or(Problem::MissingToken)?;
        let (viewer, token) = self.access.identify(token).map_err(|error| match error {
            crate::access::TokenError::Revoked => Problem::RevokedToken,
            crate::access::TokenError::Unknown if token.starts_with("cpw_") => Problem::WriteKey,
            crate::access::TokenError::Unknown => Problem::UnknownToken,
        })?;
        let turn = self.access.take_turn(&token);
        let turn = turn.map_err(|wait| Problem::RateLimited { wait })?;
        let path = parts.extensions.get::<MatchedPath>();
        let path = path.map_or("", MatchedPath::as_str);
        let known = self.parameters.get(path).map_or(&[][..], Vec::as_slice);
        let question = Question::new(viewer, path.into(), (&parts.uri, known))?;
        Ok((question, turn))
    }
}

/// The token of the Authorization header; nowhere else, since addresses are logged.
fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?;
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

async fn unknown() -> Problem {
    Problem::UnknownPath
}

async fn other_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => (StatusCode::NO_CONTENT, [(header::ALLOW, METHODS)]).into_response(),
        _ => Problem::MethodNotAllowed.into_response(),
    }
}

/// No answer is kept anywhere on its way, or taken for anything but what it says it is.
async fn unstored(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// An answer, or what stood in its way.
type Answer<T> = Result<Json<T>, Problem>;

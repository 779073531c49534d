//! Reports over HTTP: pages for people and the API for programs, each behind its own check.

use axum::Router;
use axum::middleware;

use crate::access::{self, Access};
use crate::{Reports, api, pages};

/// The pages (`/`), the form to sign in (`/sign-in`), and the JSON API (`/v1`, described at
/// `/v1/openapi.json`). Nobody gets a tenant's data whom `access` does not let read it. Serve it so
/// that requests hold `ConnectInfo<SocketAddr>`: attempts to sign in are limited by address.
pub fn router(reports: Reports, access: Access) -> Router {
    let guard = middleware::from_fn_with_state(access.clone(), access::guard);
    pages::router(reports.clone())
        .layer(guard)
        .merge(pages::assets())
        .merge(access::sign_in_routes(access.clone()))
        .merge(api::router(reports, access))
        .fallback(pages::not_found)
}

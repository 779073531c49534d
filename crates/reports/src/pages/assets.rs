//! Style sheet and script, served from here and named by their content, so that they can be kept for
//! ever and never be of another version than the page.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// The style sheet.
pub(super) const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/live.js");

/// Shown in the browser's tab: an answer bubble.
pub(super) const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Cpath d='M3 5a2 2 0 0 1 2-2h14a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2h-8l-5 4v-4H5a2 2 0 0 1-2-2z' fill='%232f6bd8'/%3E%3Cpath d='M6 10.5h3l1.5-3 3 5.5 1.5-2.5h3' fill='none' stroke='%23fff' stroke-width='2'/%3E%3C/svg%3E";

static STYLE_PATH: LazyLock<String> = LazyLock::new(|| path(STYLE, "css"));
static SCRIPT_PATH: LazyLock<String> = LazyLock::new(|| path(SCRIPT, "js"));

fn path(content: &str, ending: &str) -> String {
    let hash = blake3::hash(content.as_bytes()).to_hex();
    format!("/assets/{}.{ending}", &hash[..16])
}

pub(super) fn style_path() -> &'static str {
    &STYLE_PATH
}

pub(super) fn script_path() -> &'static str {
    &SCRIPT_PATH
}

/// `/assets/…`: for everyone, so that the page on which one signs in has its style.
pub(crate) fn router() -> Router {
    Router::new()
        .route(
            style_path(),
            get(|| async { asset("text/css; charset=utf-8", STYLE) }),
        )
        .route(
            script_path(),
            get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }),
        )
}

fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        content,
    )
}

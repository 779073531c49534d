//! The page snippet: one script for every page of every tenant, told apart by its settings alone.
//!
//! ```text
//! snippet/chatpulse.js ─ build.rs ─► minified ─┐
//! source definitions ─ page_rules ─────────────┼─► Snippet: text, hash, compressed ─► GET
//! [tenant.snippet] ────────────────────────────┘
//! ```
//!
//! The text depends on the version of chatpulse, the sources and the tenant's two settings, and on
//! nothing of the request: the script reads the producer's address and the write key from its own
//! address. So its hash is stable, and can be printed where it will be pasted. Two addresses lead to it:
//!
//! - `/v1/chatpulse.js`: the newest, asked for anew every few minutes (ETag).
//! - `/v1/chatpulse/{version}.js`: one version for ever, for Subresource Integrity. A version that is
//!   no longer this tenant's is not found, rather than a text that the browser would refuse.

use std::io::Cursor;

use async_compression::{
    Level,
    tokio::bufread::{BrotliEncoder, GzipEncoder},
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chatpulse_model::source::Catalog;
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha384};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::OnceCell,
};

use crate::{problem::Problem, tenants::SnippetEntry};

/// The script without its configuration.
const SCRIPT: &str = include_str!(concat!(env!("OUT_DIR"), "/chatpulse.js"));
/// Where the configuration goes; build.rs sees that it stands there once.
const PLACE: &str = "__CHATPULSE__";
/// Digits of a version in an address: enough that no two versions share one.
const VERSION_DIGITS: usize = 16;

/// A browser asks again after five minutes, and shows the old text while it does.
const NEWEST: HeaderValue =
    HeaderValue::from_static("public, max-age=300, stale-while-revalidate=86400");
/// A version is what it is.
const PINNED: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// The script as it is served to the pages of a tenant.
#[derive(Debug, Clone)]
pub struct Snippet {
    text: String,
    version: String,
    integrity: String,
}

impl Snippet {
    /// The script for these sources and settings.
    pub fn new(catalog: &Catalog, settings: SnippetEntry) -> Self {
        let rules: Vec<_> = catalog
            .iter()
            .filter_map(|source| source.page_rules())
            .collect();
        let config = json!({
            "v": env!("CARGO_PKG_VERSION"),
            "o": u8::from(settings.respect_opt_out),
            "s": u8::from(settings.storage),
            "q": rules,
        });
        let text = SCRIPT.replace(PLACE, &config.to_string());
        let mut version = hex::encode(Sha256::digest(&text));
        version.truncate(VERSION_DIGITS);
        let integrity = format!("sha384-{}", STANDARD.encode(Sha384::digest(&text)));
        Self {
            text,
            version,
            integrity,
        }
    }

    /// The script itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The `integrity` attribute of a script tag for [`Snippet::pinned_path`].
    pub fn integrity(&self) -> &str {
        &self.integrity
    }

    /// Path of the newest version, whatever it is when it is asked for.
    pub fn path() -> &'static str {
        "/v1/chatpulse.js"
    }

    /// Path of this version alone.
    pub fn pinned_path(&self) -> String {
        format!("/v1/chatpulse/{}.js", self.version)
    }
}

/// A snippet with its compressed forms.
#[derive(Debug)]
pub(crate) struct Served {
    snippet: Snippet,
    brotli: Bytes,
    gzip: Bytes,
}

impl Served {
    async fn new(snippet: Snippet) -> Self {
        let text = || Cursor::new(snippet.text.clone().into_bytes());
        let brotli = compressed(BrotliEncoder::with_quality(text(), Level::Best)).await;
        let gzip = compressed(GzipEncoder::with_quality(text(), Level::Best)).await;
        Self {
            snippet,
            brotli,
            gzip,
        }
    }

    /// The smallest form that the client takes: its bytes and the coding's name.
    fn form(&self, headers: &HeaderMap) -> (Bytes, Option<&'static str>) {
        let takes = |coding| accepts(headers, coding);
        match () {
            // Empty where it could not be made.
            () if takes("br") && !self.brotli.is_empty() => (self.brotli.clone(), Some("br")),
            () if takes("gzip") && !self.gzip.is_empty() => (self.gzip.clone(), Some("gzip")),
            () => (Bytes::from(self.snippet.text.clone()), None),
        }
    }
}

async fn compressed(mut encoder: impl AsyncRead + Unpin) -> Bytes {
    let mut bytes = Vec::new();
    match encoder.read_to_end(&mut bytes).await {
        Ok(_) => bytes.into(),
        Err(error) => {
            tracing::error!(%error, "the page snippet cannot be compressed and is served plain");
            Bytes::new()
        }
    }
}

/// The snippets of all settings, each made when it is first asked for.
#[derive(Debug)]
pub(crate) struct Snippets {
    catalog: &'static Catalog,
    made: [OnceCell<Served>; 4],
}

impl Snippets {
    pub(crate) fn new(catalog: &'static Catalog) -> Self {
        Self {
            catalog,
            made: Default::default(),
        }
    }

    pub(crate) async fn of(&self, settings: SnippetEntry) -> &Served {
        let index = 2 * usize::from(settings.respect_opt_out) + usize::from(settings.storage);
        self.made[index]
            .get_or_init(|| Served::new(Snippet::new(self.catalog, settings)))
            .await
    }
}

/// Answers a request for the newest version, or for a file that must be this version.
pub(crate) fn answer(served: &Served, headers: &HeaderMap, file: Option<&str>) -> Response {
    let version = &served.snippet.version;
    let caching = match file {
        None => NEWEST,
        Some(file) if file.strip_suffix(".js") == Some(version) => PINNED,
        Some(_) => return Problem::UnknownSnippet.into_response(),
    };
    let (bytes, coding) = served.form(headers);
    let tag = format!("\"{version}-{}\"", coding.unwrap_or("plain"));
    let mut response = match is_known(headers, &tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Body::from(bytes).into_response(),
    };
    let known = response.status() == StatusCode::NOT_MODIFIED;
    let answer = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.insert(name, value);
        }
    };
    set(header::ETAG, &tag);
    set(header::VARY, "Accept-Encoding");
    // What a page of any origin loads with `crossorigin`, and one that is isolated from others.
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        "cross-origin",
    );
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if !known {
        set(header::CONTENT_TYPE, "text/javascript; charset=utf-8");
        if let Some(coding) = coding {
            set(header::CONTENT_ENCODING, coding);
        }
    }
    answer.insert(header::CACHE_CONTROL, caching);
    response
}

/// The values of a header that is a list.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// Whether a client takes a coding that it names; one with `q=0` it does not.
fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    list(headers, header::ACCEPT_ENCODING).any(|item| {
        let (name, weight) = item.split_once(';').unwrap_or((item, ""));
        let weight = weight.trim().strip_prefix("q=").map(str::parse::<f32>);
        name.trim().eq_ignore_ascii_case(coding) && weight != Some(Ok(0.0))
    })
}

/// Whether a client has this very form (RFC 9110, 13.1.2; weakness does not matter to it).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    list(headers, header::IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a page may be asked to load.
    const MAX_COMPRESSED: usize = 4096;

    fn settings(respect_opt_out: bool, storage: bool) -> SnippetEntry {
        SnippetEntry {
            respect_opt_out,
            storage,
        }
    }

    #[tokio::test]
    async fn the_snippet_is_at_most_4_kib_compressed() {
        let snippets = Snippets::new(Catalog::builtin());
        for (respect, storage) in [(false, false), (false, true), (true, false), (true, true)] {
            let served = snippets.of(settings(respect, storage)).await;
            let (plain, brotli) = (served.snippet.text.len(), served.brotli.len());
            assert!(
                (1..=MAX_COMPRESSED).contains(&brotli),
                "{plain} bytes, {brotli} with brotli, {} with gzip",
                served.gzip.len()
            );
        }
    }

    #[test]
    fn the_text_depends_on_the_settings_alone() {
        let one = Snippet::new(Catalog::builtin(), settings(true, true));
        let same = Snippet::new(Catalog::builtin(), settings(true, true));
        let other = Snippet::new(Catalog::builtin(), settings(false, true));
        assert_eq!(
            (one.text(), one.integrity()),
            (same.text(), same.integrity())
        );
        assert_ne!(one.integrity(), other.integrity());
        assert_ne!(one.pinned_path(), other.pinned_path());
        assert!(!one.text().contains(PLACE));
    }

    #[test]
    fn the_script_works_under_a_strict_policy() {
        // What `script-src` without 'unsafe-eval' and 'unsafe-inline' refuses, and what leaves a trace.
        for forbidden in [
            "eval(",
            "new Function",
            "innerHTML",
            "document.write",
            "cookie",
            "createElement",
        ] {
            assert!(!SCRIPT.contains(forbidden), "{forbidden}");
        }
    }

    #[tokio::test]
    async fn the_coding_is_the_best_that_the_client_takes() {
        let served = Served::new(Snippet::new(Catalog::builtin(), settings(true, true))).await;
        for (accepted, coding) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip;q=1.0, br;q=0", Some("gzip")),
            ("GZIP", Some("gzip")),
            ("identity", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(served.form(&headers).1, coding, "{accepted}");
        }
    }
}

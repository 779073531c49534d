//! The page snippet over HTTP.

use chatpulse_model::source::Catalog;
use chatpulse_producer::{Snippet, tenants::SnippetEntry};

use crate::support::{KEY, OTHER, REVOKED, start};

fn newest(key: &str) -> String {
    format!("/v1/chatpulse.js?write_key={key}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snippet_is_javascript_that_pages_of_any_origin_may_load() {
    let producer = start().await;
    let answer = producer.call("GET", &newest(KEY)).send().await;
    assert_eq!(answer.status, 200);
    let snippet = Snippet::new(Catalog::builtin(), SnippetEntry::default());
    assert_eq!(answer.text(), snippet.text());
    for (name, value) in [
        ("content-type", "text/javascript; charset=utf-8"),
        ("access-control-allow-origin", "*"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("x-content-type-options", "nosniff"),
        ("vary", "Accept-Encoding"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let caching = answer.header("cache-control").unwrap();
    assert!(caching.starts_with("public, max-age=300"), "{caching}");
    // The text is the same for every key, so that its hash can be pasted.
    let other = producer.call("GET", &newest(OTHER)).send().await;
    assert_eq!(other.text(), answer.text());
    assert!(!answer.text().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_has_the_text_gets_no_second_copy() {
    let producer = start().await;
    let call = || {
        producer
            .call("GET", &newest(KEY))
            .header("Accept-Encoding", "gzip, br")
    };
    let first = call().send().await;
    assert_eq!(first.header("content-encoding"), Some("br"));
    let tag = first.header("etag").unwrap().to_owned();
    for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
        let again = call().header("If-None-Match", &known).send().await;
        assert_eq!(again.status, 304, "{known}");
        assert_eq!(again.header("etag"), Some(tag.as_str()));
        assert!(again.header("cache-control").is_some());
        assert!(again.text().is_empty());
    }
    // Another form is another text.
    let plain = producer.call("GET", &newest(KEY));
    let plain = plain.header("If-None-Match", &tag).send().await;
    assert_eq!(plain.status, 200);
    assert_ne!(plain.header("etag"), Some(tag.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_kept_for_ever_and_another_is_not_found() {
    let producer = start().await;
    let snippet = Snippet::new(Catalog::builtin(), SnippetEntry::default());
    let path = |path: &str| format!("{path}?write_key={KEY}");
    let answer = producer
        .call("GET", &path(&snippet.pinned_path()))
        .send()
        .await;
    assert_eq!(answer.text(), snippet.text());
    let caching = answer.header("cache-control").unwrap();
    assert!(caching.ends_with("immutable"), "{caching}");
    for file in ["0123456789abcdef.js", "x", "%FF.js"] {
        let call = producer.call("GET", &path(&format!("/v1/chatpulse/{file}")));
        let detail = call.send().await.problem(404, "unknown-snippet");
        assert!(detail.contains("chatpulse snippet"), "{detail}");
    }
    // Other settings are another version.
    let settings = SnippetEntry {
        storage: false,
        ..SnippetEntry::default()
    };
    let other = Snippet::new(Catalog::builtin(), settings).pinned_path();
    let answer = producer.call("GET", &path(&other)).send().await;
    answer.problem(404, "unknown-snippet");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snippet_is_for_keys_that_may_write() {
    let producer = start().await;
    for (target, kind) in [
        ("/v1/chatpulse.js".to_owned(), "missing-write-key"),
        (newest("cpw_nobody"), "unknown-write-key"),
        (newest(REVOKED), "revoked-write-key"),
    ] {
        let answer = producer.call("GET", &target).without("Authorization");
        answer.send().await.problem(401, kind);
    }
    let post = producer.call("POST", &newest(KEY)).send().await;
    assert_eq!(post.status, 405);
    assert_eq!(post.header("allow"), Some("GET, HEAD"));
}

//! Write keys, origins and CORS.

use crate::support::{Answer, KEY, OTHER, Producer, REVOKED, event, logs, start, start_limited};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_key_comes_as_bearer_or_in_the_query() {
    let producer = start().await;
    assert_eq!(producer.post(event("c")).send().await.confirmed().0, 1);
    let beacon = producer
        .call(
            "POST",
            &format!("/v1/events/watermelon?v=1&write_key={KEY}"),
        )
        .header("Content-Type", "text/plain;charset=UTF-8")
        .body(event("c"));
    assert_eq!(beacon.send().await.confirmed().0, 1);
    let lower = producer
        .post(event("c"))
        .header("Authorization", &format!("bearer  {KEY}"));
    assert_eq!(lower.send().await.confirmed().0, 1);
    for stored in producer.stored().await {
        assert_eq!(
            (stored.tenant.as_str(), stored.write_key_id.as_str()),
            ("acme", "web")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_unknown_or_revoked_key_is_401_and_writes_nothing() {
    let producer = start().await;
    let none = producer
        .post(event("c"))
        .without("Authorization")
        .send()
        .await;
    assert!(
        none.problem(401, "missing-write-key")
            .contains("Authorization: Bearer")
    );
    for (value, kind) in [
        ("Basic YWNtZTp4", "missing-write-key"),
        ("Bearer", "missing-write-key"),
        ("Bearer ", "missing-write-key"),
        ("Bearer cpw_nobody", "unknown-write-key"),
        ("Bearer caf\u{e9}", "missing-write-key"),
        (&format!("Bearer {REVOKED}"), "revoked-write-key"),
    ] {
        let answer = producer
            .post(event("c"))
            .header("Authorization", value)
            .send()
            .await;
        answer.problem(401, kind);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{value}");
    }
    // A key in the query does not stand in for a wrong one in the header.
    let both = producer
        .call("POST", &format!("/v1/events/watermelon?write_key={KEY}"))
        .header("Authorization", "Bearer cpw_nobody")
        .header("Content-Type", "application/json")
        .body(event("c"));
    both.send().await.problem(401, "unknown-write-key");
    assert!(producer.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_writes_for_its_own_tenant_only() {
    let producer = start().await;
    let foreign = producer
        .post(event("c"))
        .header("Authorization", &format!("Bearer {OTHER}"));
    assert_eq!(foreign.send().await.confirmed().0, 1);
    let stored = producer.stored().await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].tenant, "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_the_tenant_does_not_name_is_403() {
    let producer = start().await;
    for forged in [
        "https://evil.example",
        "http://www.acme.example",
        "https://www.acme.example.evil.example",
        "https://shop.acme.example",
        "https://other.example",
        "null",
        "caf\u{e9}",
    ] {
        let answer = producer
            .post(event("c"))
            .header("Origin", forged)
            .send()
            .await;
        assert!(answer.problem(403, "origin-not-allowed").contains("acme"));
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{forged}"
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    assert!(producer.stored().await.is_empty());
}

fn readable_by(answer: &Answer) -> Option<&str> {
    assert!(answer.header("vary").unwrap().contains("Origin"));
    answer.header("access-control-allow-origin")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_page_may_read_every_answer() {
    let producer = start().await;
    for origin in ["https://www.acme.example", "https://a.shop.acme.example"] {
        let good = producer
            .post(event("c"))
            .header("Origin", origin)
            .send()
            .await;
        assert_eq!(good.confirmed().0, 1);
        assert_eq!(readable_by(&good), Some(origin));
        assert_eq!(
            good.header("access-control-expose-headers"),
            Some("Retry-After")
        );
        let bad = producer.post("").header("Origin", origin).send().await;
        bad.problem(400, "empty");
        assert_eq!(readable_by(&bad), Some(origin));
        // The tenant is not known, yet some tenant trusts the page.
        let unknown = producer
            .post("")
            .header("Origin", origin)
            .without("Authorization");
        let unknown = unknown.send().await;
        assert_eq!((unknown.status, readable_by(&unknown)), (401, Some(origin)));
    }
}

async fn preflight(producer: &Producer, query: &str, origin: &str) -> Answer {
    producer
        .call("OPTIONS", &format!("/v1/events/watermelon{query}"))
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,content-type",
        )
        .send()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_for_allowed_origins_only() {
    let producer = start().await;
    let good = preflight(&producer, "", "https://www.acme.example").await;
    assert_eq!(good.status, 204);
    assert_eq!(readable_by(&good), Some("https://www.acme.example"));
    assert_eq!(good.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(
        good.header("access-control-allow-headers"),
        Some("authorization, content-type, content-encoding")
    );
    assert_eq!(good.header("access-control-max-age"), Some("600"));
    assert_eq!(good.header("access-control-allow-credentials"), None);

    let bad = preflight(&producer, "", "https://evil.example").await;
    bad.problem(403, "origin-not-allowed");
    assert_eq!(readable_by(&bad), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_that_names_its_key_is_judged_by_that_tenant() {
    let producer = start().await;
    let query = format!("?write_key={KEY}");
    let own = preflight(&producer, &query, "https://www.acme.example").await;
    assert_eq!(own.status, 204);
    let foreign = preflight(&producer, &query, "https://other.example").await;
    foreign.problem(403, "origin-not-allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_without_an_origin_tells_the_methods() {
    let producer = start().await;
    let answer = producer
        .call("OPTIONS", "/v1/events/watermelon")
        .send()
        .await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (204, Some("POST, OPTIONS"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_limit_is_429_and_its_neighbour_is_not() {
    let limits = "requests_per_second = 1\nburst = 2";
    let producer = start_limited(limits, |_| {}).await;
    for _ in 0..2 {
        producer.post(event("c")).send().await.confirmed();
    }
    let answer = producer.post(event("c")).send().await;
    answer.problem(429, "rate-limited");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let other = producer
        .post(event("c"))
        .header("Authorization", &format!("Bearer {OTHER}"));
    other.send().await.confirmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_key_is_ever_logged() {
    let producer = start().await;
    producer.post(event("logged")).send().await.confirmed();
    for target in [
        format!("/v1/events/watermelon?write_key={KEY}"),
        format!("/v1/events/{KEY}?write_key={KEY}"),
        format!("/{KEY}"),
    ] {
        for method in ["POST", "OPTIONS", "PUT"] {
            let call = producer
                .call(method, &target)
                .header("Content-Type", "text/csv");
            call.header("Origin", "https://evil.example").send().await;
        }
    }
    let logs = logs();
    assert!(logs.contains("a batch is durable") && logs.contains("a request is refused"));
    for key in [KEY, REVOKED, OTHER] {
        assert!(!logs.contains(key));
    }
}

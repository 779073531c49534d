//! Pages for people: who sees them, and how one signs in.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use chatpulse_model::source::Catalog;
use chatpulse_reports::{Access, AccessConfig, ReadTokens, Reports, router};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::api::{ACME, REVOKED, tokens};
use crate::{OPERATOR, access, store};

/// Pages of a database of its own, named after the test, on loopback or elsewhere.
async fn pages(database: &str, loopback: bool) -> Pages {
    let (tokens, receiver) = watch::channel(Arc::new(tokens()));
    let config = AccessConfig {
        tokens: receiver,
        loopback,
        ..access(ReadTokens::default())
    };
    let reports = Reports::new(store(database).await, Catalog::builtin());
    Pages {
        router: router(reports, Access::new(config).unwrap()),
        tokens,
    }
}

struct Pages {
    router: Router,
    tokens: watch::Sender<Arc<ReadTokens>>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The cookie as a browser sends it back.
    fn cookie(&self) -> String {
        self.header("set-cookie")
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    }
}

const BROWSER: [(&str, &str); 2] = [("host", "localhost:8080"), ("accept", "text/html,*/*")];

impl Pages {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// A browser's request; `headers` replace what it sends by itself.
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path);
        for (name, value) in BROWSER {
            if !headers.iter().any(|(own, _)| *own == name) {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post(path)
            .header("host", "reports.example")
            .header("content-type", "application/x-www-form-urlencoded")
            .extension(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 5_000))));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }
}

#[tokio::test]
async fn who_is_on_this_machine_is_the_operator_under_names_of_loopback_alone() {
    let pages = pages("access_loopback", true).await;
    for host in [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:8080",
        "127.8.9.1",
        "[::1]:8080",
    ] {
        let answer = pages.get("/", &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
        assert!(answer.body.contains("acme"));
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "[::2]",
        "0.0.0.0",
        "localhost@evil.example",
        "evil.example@localhost.evil.example",
        "",
    ] {
        let answer = pages.get("/", &[("host", host)]).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        assert!(!answer.body.contains("acme"));
    }
    let two = [("host", "localhost"), ("host", "evil.example")];
    let two = pages.get("/", &two).await;
    assert_eq!(two.status, StatusCode::MISDIRECTED_REQUEST);
    let absolute = pages.get("http://evil.example/", &[]).await;
    assert_eq!(absolute.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn whom_a_proxy_speaks_for_has_to_sign_in() {
    let pages = pages("access_proxy", true).await;
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
        ("via", "1.1 proxy"),
        ("x-real-ip", "203.0.113.7"),
        ("x-forwarded-host", "localhost"),
    ] {
        let answer = pages.get("/?tenant=acme", &[(name, value)]).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{name}");
        assert_eq!(
            answer.header("location"),
            "/sign-in?next=%2F%3Ftenant%3Dacme"
        );
    }
    let old = Request::get("/").version(axum::http::Version::HTTP_10);
    let old = old
        .header("host", "localhost")
        .header("accept", "text/html");
    let old = pages.send(old.body(Body::empty()).unwrap()).await;
    assert_eq!(old.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn pages_of_other_sites_ask_in_vain_and_links_from_them_work() {
    let pages = pages("access_sites", true).await;
    for headers in [
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
        ][..],
        &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "http://localhost:8081")],
    ] {
        let answer = pages.get("/", headers).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
        assert!(!answer.body.contains("acme"));
    }
    for headers in [
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ][..],
        &[
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "cors"),
        ],
        &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
        &[("origin", "http://localhost:8080")],
    ] {
        assert_eq!(
            pages.get("/", headers).await.status,
            StatusCode::OK,
            "{headers:?}"
        );
    }
    let frames = pages.get("/", &[]).await;
    assert!(
        frames
            .header("content-security-policy")
            .contains("frame-ancestors 'none'")
    );
}

#[tokio::test]
async fn elsewhere_one_signs_in_with_a_token_and_sees_its_tenant_until_signing_out() {
    let pages = pages("access_sign_in", false).await;
    let asked = pages.get("/?tenant=acme&since=7d", &[]).await;
    assert_eq!(asked.status, StatusCode::SEE_OTHER);
    let form = pages.get(asked.header("location"), &[]).await;
    assert_eq!(form.status, StatusCode::OK);
    assert!(
        form.body.contains("value=\"/?tenant=acme&amp;since=7d\""),
        "{}",
        form.body
    );
    assert!(
        form.header("content-security-policy")
            .contains("default-src 'none'")
    );
    let loaded = pages.get("/", &[("accept", "text/event-stream")]).await;
    assert_eq!(loaded.status, StatusCode::UNAUTHORIZED);

    let body = format!("token=+{ACME}%0A&next=%2F%3Ftenant%3Dacme");
    let signed_in = pages.post("/sign-in", &body, &[]).await;
    assert_eq!(signed_in.status, StatusCode::SEE_OTHER);
    assert_eq!(signed_in.header("location"), "/?tenant=acme");
    let set = signed_in.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("cpr_") && !set.contains("Secure"), "{set}");

    let cookie = format!("a=b; {}; c=d", signed_in.cookie());
    let signed = [("cookie", cookie.as_str())];
    let start = pages.get("/", &signed).await;
    assert_eq!(start.header("location"), "/tenants/acme");
    for page in ["", "/delivery", "/conversations", "/failures"] {
        let own = pages.get(&format!("/tenants/acme{page}"), &signed).await;
        assert_eq!(own.status, StatusCode::OK);
        assert!(own.body.contains("watermelon") || own.body.contains("acme"));
        let mut foreign = Vec::new();
        for tenant in ["bravo", "nobody", "ACME", "acme%20", "%2e%2e"] {
            let answer = pages
                .get(&format!("/tenants/{tenant}{page}"), &signed)
                .await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{tenant}{page}");
            assert!(!answer.body.contains("href=\"/tenants"), "{}", answer.body);
            foreign.push(answer.body.split("As of").next().unwrap().to_owned());
        }
        foreign.dedup();
        assert_eq!(foreign.len(), 1, "existing tenants are told apart");
    }
    // The cookie opens no API, and a token in a header no page.
    let api = pages.get("/v1/tenants", &signed).await;
    assert_eq!(api.status, StatusCode::UNAUTHORIZED);
    let bearer = format!("Bearer {ACME}");
    let header = pages.get("/", &[("authorization", bearer.as_str())]).await;
    assert_eq!(header.status, StatusCode::SEE_OTHER);

    let out = pages.post("/sign-out", "", &signed).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    let ended = pages.get("/tenants/acme", &signed).await;
    assert!(ended.header("location").starts_with("/sign-in"));
}

#[tokio::test]
async fn the_operator_signs_in_too_and_behind_tls_the_cookie_is_secure() {
    let pages = pages("access_operator", false).await;
    let https = [
        ("x-forwarded-proto", "https"),
        ("origin", "https://reports.example"),
    ];
    let answer = pages
        .post("/sign-in", &format!("token={OPERATOR}"), &https)
        .await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (StatusCode::SEE_OTHER, "/")
    );
    assert!(answer.header("set-cookie").ends_with("; Secure"));
    let cookie = answer.cookie();
    let index = pages.get("/", &[("cookie", cookie.as_str())]).await;
    assert!(index.body.contains("/tenants/acme"));
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let pages = pages("access_revoked", false).await;
    let cookie = pages
        .post("/sign-in", &format!("token={ACME}"), &[])
        .await
        .cookie();
    let signed = [("cookie", cookie.as_str())];
    assert_eq!(
        pages.get("/tenants/acme", &signed).await.status,
        StatusCode::OK
    );
    pages.tokens.send_replace(Arc::default());
    let ended = pages.get("/tenants/acme", &signed).await;
    assert!(ended.header("location").starts_with("/sign-in"));
}

#[tokio::test]
async fn wrong_tokens_are_told_apart_and_attempts_are_limited_by_address() {
    let pages = pages("access_wrong", false).await;
    for (token, said) in [
        ("cpr_nobody", "not known"),
        (REVOKED, "revoked"),
        ("cpw_of_acme", "write key"),
        ("", "not known"),
        ("%3Cscript%3E", "not known"),
    ] {
        let answer = pages.post("/sign-in", &format!("token={token}"), &[]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{token}");
        assert!(answer.body.contains(said), "{}", answer.body);
        assert!(!answer.headers.contains_key("set-cookie"));
        assert!(!answer.body.contains("script"), "{}", answer.body);
    }
    let long = format!("token={}", "x".repeat(10_000));
    assert_eq!(
        pages.post("/sign-in", &long, &[]).await.status,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    for _ in 5..10 {
        pages.post("/sign-in", "token=x", &[]).await;
    }
    let limited = pages.post("/sign-in", &format!("token={ACME}"), &[]).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.header("retry-after").parse::<u64>().unwrap() <= 6);
    let mut elsewhere = Request::post("/sign-in")
        .header("host", "reports.example")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("token={ACME}")))
        .unwrap();
    let other = ConnectInfo(SocketAddr::from(([192, 0, 2, 2], 5_000)));
    elsewhere.extensions_mut().insert(other);
    assert_eq!(pages.send(elsewhere).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn other_sites_cannot_sign_anybody_in_or_out_or_choose_where_one_goes() {
    let pages = pages("access_forged", false).await;
    for headers in [
        &[("origin", "https://evil.example")][..],
        &[("origin", "null")],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ],
        &[("sec-fetch-site", "same-site")],
    ] {
        for path in ["/sign-in", "/sign-out"] {
            let answer = pages.post(path, &format!("token={ACME}"), headers).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {headers:?}");
            assert!(!answer.headers.contains_key("set-cookie"));
        }
    }
    for next in [
        "https%3A%2F%2Fevil.example",
        "%2F%2Fevil.example",
        "%2F%5Cevil.example",
        "evil",
        "%2Fa%0D%0Aset-cookie%3A+x",
        "%2F%09%2Fevil.example",
    ] {
        let form = pages.get(&format!("/sign-in?next={next}"), &[]).await;
        assert!(
            form.body.contains("name=\"next\" value=\"/\""),
            "{}",
            form.body
        );
    }
    let body = format!("token={ACME}&next=%2F%2Fevil.example");
    assert_eq!(
        pages.post("/sign-in", &body, &[]).await.header("location"),
        "/"
    );
}

//! The reports against the engine itself, over the router.

#![allow(clippy::unwrap_used)] // a set-up that fails is a test that fails

mod access;
mod api;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_model::source::Catalog;
use chatpulse_model::{Actor, Event, EventType, Outcome, RejectReason, TimeBasis};
use chatpulse_reports::{
    Access, AccessConfig, Period, ReadTokens, Reconciled, Reports, TwinSource, Twins, router,
};
use chatpulse_store::{EventRow, Store, StoreConfig};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;
use tower::ServiceExt;

/// One ClickHouse for all tests of this binary: libchdb has one data path per process.
fn url() -> String {
    static SHARED: OnceLock<(ClickHouse, tokio::runtime::Runtime)> = OnceLock::new();
    let (server, _) = SHARED.get_or_init(|| {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports-clickhouse");
        let _ = std::fs::remove_dir_all(&data_dir);
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let config = ClickHouseConfig {
                data_dir,
                listen: "127.0.0.1:0".parse().unwrap(),
                password: None,
                library: None,
                memory_limit_bytes: None,
            };
            (
                runtime.block_on(ClickHouse::start(config)).unwrap(),
                runtime,
            )
        })
        .join()
        .unwrap()
    });
    server.url()
}

/// A store of a database named after the test, with some seconds of traffic of tenant acme in it.
async fn store(database: &str) -> Store {
    let config = StoreConfig {
        url: url(),
        database: database.to_owned(),
        ..StoreConfig::default()
    };
    let store = Store::new(&config);
    store.migrate().await.unwrap();
    store.sync_sources(Catalog::builtin().iter()).await.unwrap();
    let events = traffic(Timestamp::now().as_millisecond());
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    store.insert_events("all", &rows).await.unwrap();
    store
        .roll_up(Timestamp::now().as_millisecond())
        .await
        .unwrap();
    store
}

/// A contained conversation of watermelon, a message of algomo, and two hostile rejections.
fn traffic(now: i64) -> Vec<Event> {
    let base = event(now - 10_000);
    let message = |offset: i64, actor, at: i64| Event {
        offset,
        event_id: format!("m{offset}"),
        event_type: EventType::MessageSent,
        actor,
        occurred_at: base.occurred_at + at,
        received_at: base.occurred_at + at + 40,
        conversation_id: Some("c1".into()),
        message_number: Some(offset + 1),
        ..base.clone()
    };
    let rejected = |offset| Event {
        offset,
        outcome: Outcome::Rejected,
        reason: Some(RejectReason::InvalidJson),
        detail: Some("<img src=x onerror=alert(1)> | \u{202e}`x`".into()),
        rejected_bytes: Some(9),
        rejected_sha256: Some("cd".repeat(32)),
        event_type: EventType::Unknown,
        event_id: String::new(),
        ..base.clone()
    };
    vec![
        message(0, Actor::Visitor, 0),
        message(1, Actor::Bot, 2_000),
        Event {
            event_type: EventType::ConversationEnded,
            actor: Actor::System,
            message_number: None,
            ..message(2, Actor::System, 3_000)
        },
        Event {
            source: "algomo".into(),
            ..message(3, Actor::Visitor, 0)
        },
        rejected(4),
        rejected(5),
        Event {
            documented: false,
            source_event: "odd\nname".into(),
            offset: 6,
            event_id: "o".into(),
            ..base.clone()
        },
    ]
}

fn event(at: i64) -> Event {
    Event {
        partition: 0,
        offset: 0,
        outcome: Outcome::Accepted,
        reason: None,
        detail: None,
        rejected_bytes: None,
        rejected_sha256: None,
        tenant: "acme".into(),
        source: "watermelon".into(),
        write_key_id: "web".into(),
        source_event: "widget_message_sent".into(),
        event_type: EventType::Custom,
        actor: Actor::System,
        documented: true,
        event_id: "e".into(),
        occurred_at: at,
        time_basis: TimeBasis::Native,
        received_at: at,
        conversation_id: None,
        session_id: None,
        sequence: None,
        visitor: None,
        widget_id: None,
        platform: None,
        language: None,
        link: None,
        page_url: None,
        sdk: None,
        reported_total: None,
        score: None,
        score_kind: None,
        goal: None,
        properties: Default::default(),
        message_number: None,
        phase: None,
        response_time_ms: None,
        message_gap: None,
        replay_of: None,
    }
}

const OPERATOR: &str = "an-operator-token-of-good-length";

/// Access of this machine, with these tokens.
fn access(tokens: ReadTokens) -> AccessConfig {
    AccessConfig {
        tokens: tokio::sync::watch::channel(Arc::new(tokens)).1,
        operator_token: Some(OPERATOR.to_owned()),
        loopback: true,
        requests_per_second: NonZeroU32::new(1_000).unwrap(),
    }
}

/// Asks as the operator on this machine.
async fn get(store: Store, path: &str) -> (StatusCode, String, String) {
    let request = Request::get(path)
        .header("host", "127.0.0.1:8080")
        .header("authorization", format!("Bearer {OPERATOR}"))
        .body(Body::empty())
        .unwrap();
    let access = Access::new(access(ReadTokens::default())).unwrap();
    let response = router(Reports::new(store, Catalog::builtin()), access)
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status();
    let kind = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

async fn get_json(store: Store, path: &str) -> Value {
    let (status, kind, body) = get(store, path).await;
    assert_eq!(
        (status, kind.as_str()),
        (StatusCode::OK, "application/json"),
        "{body}"
    );
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn tenant_health_says_what_arrived_what_was_refused_and_why() {
    let store = store("reports_health").await;
    let report = get_json(store, "/v1/tenant-health?tenant=acme&since=24h").await;
    assert_eq!(report["judgement"]["verdict"], "failing");
    assert_eq!(
        report["judgement"]["reason"],
        "watermelon: 33.3 % rejected (2 of 6)"
    );
    let [algomo, watermelon] = report["sources"].as_array().unwrap().as_slice() else {
        panic!("{report}")
    };
    assert_eq!(algomo["judgement"]["verdict"], "healthy");
    assert!(algomo["missing_messages"].is_null() && algomo["lost_in_browser"].is_null());
    assert_eq!(
        (&watermelon["received"], &watermelon["accepted"]),
        (&6.into(), &4.into())
    );
    assert_eq!(report["rejections"][0]["reason"], "invalid_json");
    assert_eq!(report["recent_rejections"].as_array().unwrap().len(), 2);
    assert_eq!(
        report["drift"]["undocumented"][0]["source_event"],
        "odd\nname"
    );
    let types = report["types"].as_array().unwrap();
    let messages = types
        .iter()
        .find(|t| t["event_type"] == "message.sent" && t["source"] == "watermelon");
    assert_eq!(
        messages.unwrap()["rejected"],
        2,
        "a rejection counts with the type of its name"
    );
    let p50 = messages.unwrap()["receive_ms"]["p50"].as_f64().unwrap();
    assert!((p50 - 40.0).abs() <= 0.4, "{p50}");
    assert!(types.iter().all(|t| t["event_type"] != "unknown"));
    let odd = types.iter().find(|t| t["event_type"] == "custom").unwrap();
    assert_eq!(odd["last_received"].as_str().map(str::len), Some(20));
}

#[tokio::test]
async fn conversations_are_measured_per_source_and_null_where_they_cannot_be() {
    let store = store("reports_conversations").await;
    let report = get_json(store, "/v1/conversation-report?tenant=acme").await;
    assert_eq!(
        report["sources"],
        serde_json::json!(["algomo", "watermelon"])
    );
    let metric = |name: &str| {
        report["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["metric"] == name)
            .unwrap()
            .clone()
    };
    let containment = metric("containment_rate");
    assert!(containment["by_source"]["algomo"].is_null());
    let one_of_one =
        serde_json::json!({"kind": "rate", "numerator": 1, "denominator": 1, "rate": 1.0});
    assert_eq!(containment["by_source"]["watermelon"], one_of_one);
    assert_eq!(containment["overall"], one_of_one);
    assert_eq!(
        metric("first_response_any")["by_source"]["watermelon"]["median_ms"],
        2_000.0
    );
    assert_eq!(metric("handle_time")["by_source"]["watermelon"]["n"], 0);
    assert!(metric("csat")["overall"].is_null());
}

#[tokio::test]
async fn every_metric_of_the_views_has_its_row_in_the_report() {
    let store = store("reports_titles").await;
    let period = Period::before(Timestamp::now(), "24h").unwrap();
    let report = Reports::new(store.clone(), Catalog::builtin())
        .conversations("acme", period)
        .await
        .unwrap();
    let mut shown: Vec<&str> = report
        .metrics
        .iter()
        .map(|metric| metric.metric.as_str())
        .collect();
    shown.sort_unstable();
    let client = clickhouse_client("reports_titles");
    let mut defined: Vec<String> = client
        .query_raw("SELECT DISTINCT metric FROM metrics_overall ORDER BY metric")
        .fetch_all()
        .await
        .unwrap();
    defined.sort_unstable();
    assert_eq!(shown, defined);
}

fn clickhouse_client(database: &str) -> clickhouse::Client {
    clickhouse::Client::default()
        .with_url(url())
        .with_database(database)
}

#[tokio::test]
async fn markdown_shows_na_and_never_lets_foreign_text_out_of_its_cell() {
    let store = store("reports_markdown").await;
    let period = Period::before(Timestamp::now(), "24h").unwrap();
    let health = Reports::new(store.clone(), Catalog::builtin())
        .tenant_health("acme", period)
        .await
        .unwrap()
        .to_markdown();
    assert!(
        health.starts_with(
            "# Tenant health: acme\n\n**failing**: watermelon: 33.3 % rejected (2 of 6)\n"
        ),
        "{health}"
    );
    assert!(
        health.contains("&lt;img src=x onerror=alert(1)&gt; \\| \u{fffd}\\`x\\`"),
        "{health}"
    );
    assert!(
        health.contains("| odd\u{fffd}name | not documented | 1 | 0 |"),
        "{health}"
    );
    let conversations = Reports::new(store.clone(), Catalog::builtin())
        .conversations("acme", period)
        .await
        .unwrap()
        .to_markdown();
    assert!(
        conversations
            .contains("| Containment rate (of C) | 100.0 % (1/1) \\* | n/a | 100.0 % (1/1) |"),
        "{conversations}"
    );
    assert!(
        conversations.contains("| First response | 2.0 s / 2.0 s / 2.0 s (n = 1) \\* | n/a |"),
        "{conversations}"
    );
    assert!(
        conversations.contains("| Handle time | none \\* | n/a | none |"),
        "{conversations}"
    );
}

#[tokio::test]
async fn csv_has_what_the_report_has_and_nothing_that_a_spreadsheet_would_run() {
    let store = store("reports_csv").await;
    let reports = Reports::new(store, Catalog::builtin());
    let period = Period::before(Timestamp::now(), "24h").unwrap();
    let mut health = reports.tenant_health("acme", period).await.unwrap();
    let twins = Reconciled {
        server: 4,
        lost_in_browser: 1,
        browser_loss_rate: Some(0.25),
        ..Reconciled::default()
    };
    health.twins = Some(Twins {
        total: twins,
        sources: vec![TwinSource {
            source: "watermelon".into(),
            types: 1,
            reconciled: twins,
        }],
    });
    let rows = table(&health.to_csv().unwrap());
    assert_eq!(rows.len(), health.sources.len() + health.types.len());
    let watermelon = rows
        .iter()
        .find(|row| row["source"] == "watermelon" && row["event_type"].is_empty())
        .unwrap();
    assert_eq!(watermelon["received"], "6");
    assert_eq!(watermelon["lost_in_browser"], "", "nobody knows");
    assert_eq!(watermelon["verdict"], "failing");
    let twins = |of: &HashMap<String, String>| {
        let names = [
            "from_server",
            "lost_in_browser",
            "browser_loss_rate",
            "from_page",
        ];
        let others = ["lost_by_server", "server_loss_rate"];
        let names = names.iter().chain(&others);
        names
            .map(|name| of[&format!("twins_{name}")].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(twins(watermelon), ["4", "1", "0.25", "0", "0", ""]);
    let algomo = rows.iter().find(|row| row["source"] == "algomo").unwrap();
    assert_eq!(twins(algomo), [""; 6], "it has none");

    let conversations = reports.conversations("acme", period).await.unwrap();
    let rows = table(&conversations.to_csv().unwrap());
    let value = |breakdown: &str, group: &str, metric: &str| {
        let row = rows.iter().find(|row| {
            row["breakdown"] == breakdown && row["group"] == group && row["metric"] == metric
        });
        let row = row.unwrap_or_else(|| panic!("{breakdown} {group} {metric}"));
        (row["observable"].clone(), row["value"].clone())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        value("source", "watermelon", "containment_rate"),
        pair("true", "1")
    );
    assert_eq!(
        value("source", "algomo", "containment_rate"),
        pair("false", "")
    );
    assert_eq!(value("overall", "", "conversations"), pair("true", "2"));
    assert_eq!(value("language", "", "total_messages"), pair("true", "3"));
}

fn table(csv: &str) -> Vec<HashMap<String, String>> {
    csv::Reader::from_reader(csv.as_bytes())
        .deserialize()
        .collect::<Result<_, _>>()
        .unwrap()
}

#[tokio::test]
async fn a_page_allows_nothing_from_elsewhere_and_is_not_sent_twice() {
    let store = store("reports_page").await;
    let access = Access::new(access(ReadTokens::default())).unwrap();
    let router = router(Reports::new(store, Catalog::builtin()), access);
    let ask = |tag: Option<axum::http::HeaderValue>| {
        let mut request =
            Request::get("/tenants/acme/failures?since=7d").header("host", "localhost");
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let response = ask(None).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let policy = response.headers()["content-security-policy"]
        .to_str()
        .unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let tag = response.headers()["etag"].clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(body.to_vec()).unwrap();
    assert!(page.contains("&lt;img src=x") && !page.contains("<img") && !page.contains('\u{202e}'));
    assert!(
        page.contains("2 of 7 received were rejected (28.6 %)") && !page.contains(" style="),
        "{page}"
    );
    let again = ask(Some(tag)).await.unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_report_as_a_file_needs_nothing_else_and_escapes_everything() {
    let reports = Reports::new(store("reports_file").await, Catalog::builtin());
    let period = Period::before(Timestamp::now(), "24h").unwrap();
    let health = reports
        .tenant_health("acme", period)
        .await
        .unwrap()
        .to_html();
    let conversations = reports
        .conversations("acme", period)
        .await
        .unwrap()
        .to_html();
    for file in [&health, &conversations] {
        for outside in ["<script", "<link", "href=\"/", "src=\"", "url(", "<img"] {
            assert!(!file.contains(outside), "{outside}: {file}");
        }
        assert!(
            file.contains("<style>") && file.contains("<svg class=\"plot\""),
            "{file}"
        );
    }
    assert!(health.contains("&lt;img src=x") && !health.contains('\u{202e}'));
}

#[tokio::test]
async fn an_unknown_tenant_is_silent_and_sees_nothing_of_others() {
    let store = store("reports_foreign").await;
    let report = get_json(store.clone(), "/v1/tenant-health?tenant=bravo").await;
    assert_eq!(report["judgement"]["verdict"], "silent");
    for part in ["sources", "types", "rejections", "recent_rejections"] {
        assert_eq!(report[part], serde_json::json!([]), "{part}");
    }
    let report = get_json(
        store,
        "/v1/conversation-report?tenant=bravo%27%20OR%201%3D1",
    )
    .await;
    assert_eq!(report["sources"], serde_json::json!([]));
}

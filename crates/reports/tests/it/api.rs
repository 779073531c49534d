//! The JSON API. Its routes are taken from the OpenAPI document, so that a new one is under every test
//! here as soon as it is served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use chatpulse_model::source::Catalog;
use chatpulse_model::{
    Actor, Delivery, DeliveryResult, DestinationKind, Event, EventType, FailureClass, Outcome,
    RejectReason, delivery::DestinationState,
};
use chatpulse_reports::{Access, AccessConfig, ReadToken, ReadTokens, Reports, openapi, router};
use chatpulse_store::{DeliveryRow, DestinationRow, EventRow, Store, StoreConfig};
use http_body_util::BodyExt;
use jiff::{Timestamp, ToSpan};
use jsonschema::Validator;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::{OPERATOR, access, event, url};

pub(crate) const ACME: &str = "cpr_of_acme";
pub(crate) const BRAVO: &str = "cpr_of_bravo";
pub(crate) const REVOKED: &str = "cpr_of_acme_revoked";

pub(crate) fn tokens() -> ReadTokens {
    let token = |tenant: &str, token: &str| ReadToken {
        tenant: tenant.into(),
        sha256: Sha256::digest(token.as_bytes()).into(),
        revoked: token == REVOKED,
    };
    ReadTokens::from_iter([
        token("acme", ACME),
        token("acme", REVOKED),
        token("bravo", BRAVO),
    ])
}

/// In the window of all questions here, a little after the traffic.
fn until() -> Timestamp {
    static UNTIL: OnceLock<Timestamp> = OnceLock::new();
    *UNTIL.get_or_init(Timestamp::now)
}

/// Something for every list, with the tenant's name wherever a sender chooses the text: conversations of
/// two sources, drift, and rejections. Bravo sends more than acme.
fn traffic(tenant: &str) -> Vec<Event> {
    let copies = if tenant == "bravo" { 5 } else { 3 };
    let base = Event {
        tenant: tenant.into(),
        write_key_id: format!("{tenant}-key"),
        ..event(until().as_millisecond() - 20_000)
    };
    let mut events = Vec::new();
    for copy in 0..copies {
        let at = base.occurred_at + i64::from(copy) * 1_000;
        let id = format!("{tenant}-conversation-{copy}");
        let message = |actor, after: i64| Event {
            event_type: EventType::MessageSent,
            actor,
            occurred_at: at + after,
            received_at: at + after + 40,
            conversation_id: Some(id.clone()),
            session_id: Some(format!("{tenant}-session-{copy}")),
            widget_id: Some(format!("{tenant}-widget-{copy}")),
            language: Some(format!("{tenant}-language-{copy}")),
            ..base.clone()
        };
        events.extend([
            message(Actor::Visitor, 0),
            message(Actor::Bot, 1_000 + i64::from(copy)),
            Event {
                source: "algomo".into(),
                ..message(Actor::Visitor, 2_000)
            },
            Event {
                event_type: EventType::ConversationEnded,
                ..message(Actor::System, 3_000)
            },
            Event {
                documented: false,
                event_type: EventType::Custom,
                source_event: format!("{tenant} event {copy}"),
                ..message(Actor::System, 4_000)
            },
            Event {
                outcome: Outcome::Rejected,
                reason: Some(RejectReason::InvalidJson),
                detail: Some(format!("{tenant}-detail")),
                rejected_bytes: Some(9),
                rejected_sha256: Some("ab".repeat(32)),
                event_type: EventType::Unknown,
                conversation_id: None,
                ..message(Actor::System, 5_000)
            },
        ]);
    }
    events
}

/// Deliveries to a destination named after the tenant: one that succeeded, and some that did not.
async fn deliver(store: &Store, tenants: &[&str]) {
    let mut turns = Vec::new();
    let mut states = Vec::new();
    for tenant in tenants {
        let failures = if *tenant == "bravo" { 5 } else { 3 };
        for number in 0..=failures {
            let at = until().as_millisecond() - 10_000 + number;
            let failed = number > 0;
            turns.push(Delivery {
                delivery_id: format!("msg_{tenant}_{number}"),
                tenant: (*tenant).into(),
                destination: format!("{tenant}-crm"),
                kind: DestinationKind::Webhook,
                source: "watermelon".into(),
                event_type: "message.sent".into(),
                event_id: format!("{tenant}-{number}"),
                partition: 0,
                offset: number,
                occurred_at: at - 900,
                received_at: at - 800,
                attempt: 1,
                at,
                duration_ms: Some(40),
                result: match failed {
                    true => DeliveryResult::Retrying,
                    false => DeliveryResult::Delivered,
                },
                failure: failed.then_some(FailureClass::Timeout),
                status: (!failed).then_some(204),
                detail: failed.then(|| format!("{tenant}.example took too long")),
                next_at: failed.then_some(at + 5_000),
                replayed: false,
            });
        }
        states.push(DestinationState {
            tenant: (*tenant).into(),
            destination: format!("{tenant}-crm"),
            kind: DestinationKind::Webhook,
            address: "ab".into(),
            event_types: vec!["message.sent".into()],
            is_configured: true,
            failing_since: Some(until().as_millisecond() - 90_000),
            disabled_at: None,
            reason: None,
        });
    }
    let rows: Vec<_> = (0..)
        .zip(&turns)
        .map(|(offset, turn)| DeliveryRow::new((0, offset), turn))
        .collect();
    store.insert_deliveries(&rows).await.unwrap();
    let said: Vec<_> = (0..)
        .zip(&states)
        .map(|(offset, state)| DestinationRow::new((offset, 1_000), state))
        .collect();
    store.insert_destinations(&said).await.unwrap();
}

/// A migrated database of these tenants.
async fn store_of(database: &str, tenants: &[&str]) -> Store {
    let store = Store::new(&StoreConfig {
        url: url(),
        database: database.to_owned(),
        ..StoreConfig::default()
    });
    store.migrate().await.unwrap();
    store.sync_sources(Catalog::builtin().iter()).await.unwrap();
    let mut events: Vec<Event> = tenants.iter().flat_map(|tenant| traffic(tenant)).collect();
    for (offset, event) in events.iter_mut().enumerate() {
        event.offset = i64::try_from(offset).unwrap();
        event.event_id = format!("{}-{offset}", event.tenant);
    }
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    store.insert_events("all", &rows).await.unwrap();
    deliver(&store, tenants).await;
    store
        .roll_up(jiff::Timestamp::now().as_millisecond())
        .await
        .unwrap();
    store
}

fn app_with(store: Store, config: AccessConfig) -> Router {
    router(
        Reports::new(store, Catalog::builtin()),
        Access::new(config).unwrap(),
    )
}

/// The API over a database of these tenants, named after the test.
async fn app(database: &str, tenants: &[&str]) -> Router {
    app_with(store_of(database, tenants).await, access(tokens()))
}

/// The API over a store that is away.
fn app_without_store() -> Router {
    let store = Store::new(&StoreConfig {
        url: "http://127.0.0.1:9".into(),
        ..StoreConfig::default()
    });
    app_with(store, access(tokens()))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The answer to a good request.
    fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/json");
        self.json()
    }

    /// Problem details of this status and kind.
    fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:chatpulse:problem:{kind}"));
        assert_eq!(problem["status"], status);
        valid("ProblemDetails", &problem);
        problem
    }
}

async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    answer
}

async fn get(app: &Router, token: &str, path: &str) -> Answer {
    let request = Request::get(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    send(app, request).await
}

/// A path of the document.
struct Route {
    path: String,
    parameters: Vec<String>,
    /// Schema of its answer.
    schema: Value,
}

impl Route {
    fn takes(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|known| known == parameter)
    }

    /// The path, asking for the window of the traffic where it takes one.
    fn about(&self, more: &str) -> String {
        let window = match self.takes("from") {
            true => {
                let from = until().checked_sub(1.hour()).unwrap();
                // The end of an hour, so that the window is the same whenever it is asked for.
                let hour = until().as_second().div_euclid(3_600);
                let to = Timestamp::from_second((hour + 1) * 3_600).unwrap();
                format!("from={from}&to={to}&")
            }
            false => String::new(),
        };
        format!("{}?{window}{more}", self.path)
            .trim_end_matches(['?', '&'])
            .to_owned()
    }
}

/// Every path that the document has, and there is no other.
fn routes() -> Vec<Route> {
    let document = openapi();
    let paths = document["paths"].as_object().unwrap();
    let routes: Vec<Route> = paths
        .iter()
        .map(|(path, methods)| {
            let operation = &methods["get"];
            assert_eq!(methods.as_object().unwrap().len(), 1, "{path} only reads");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let parameters = parameters.map(|given| given["name"].as_str().unwrap().to_owned());
            Route {
                path: path.clone(),
                parameters: parameters.collect(),
                schema: operation["responses"]["200"]["content"]["application/json"]["schema"]
                    .clone(),
            }
        })
        .collect();
    assert!(routes.len() >= 11);
    routes
}

/// Holds an answer against a schema of the document.
fn conforms(schema: &Value, answer: &Value) {
    let validator = {
        static COMPILED: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
        let mut compiled = COMPILED.lock().unwrap();
        let of_schema = compiled.entry(schema.to_string());
        Arc::clone(of_schema.or_insert_with(|| Arc::new(closed_validator(schema))))
    };
    let errors: Vec<String> = validator
        .iter_errors(answer)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{answer:#}");
}

/// Lets a schema refuse members that it does not name.
fn closed(schema: &mut Value, inside_all_of: bool) {
    match schema {
        Value::Array(parts) => parts
            .iter_mut()
            .for_each(|part| closed(part, inside_all_of)),
        Value::Object(object) => {
            let names_members = object.contains_key("properties") || object.contains_key("allOf");
            if names_members && !inside_all_of {
                object.insert("unevaluatedProperties".into(), false.into());
            }
            for (key, part) in object.iter_mut() {
                closed(part, key == "allOf");
            }
        }
        _ => {}
    }
}

/// A validator of a schema of the document; what the schema does not name is an error.
fn closed_validator(schema: &Value) -> Validator {
    let mut schemas = openapi()["components"]["schemas"].clone();
    // What an allOf refers to may have more members beside it, so it stays open.
    let shared: BTreeSet<String> = schemas
        .as_object()
        .unwrap()
        .values()
        .filter_map(|schema| schema["allOf"].as_array())
        .flatten()
        .filter_map(|part| part["$ref"].as_str())
        .map(|reference| reference.rsplit('/').next().unwrap().to_owned())
        .collect();
    for (name, schema) in schemas.as_object_mut().unwrap() {
        closed(schema, shared.contains(name));
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": {"schemas": schemas},
    });
    jsonschema::validator_for(&schema).unwrap()
}

fn valid(name: &str, answer: &Value) {
    conforms(
        &json!({"$ref": format!("#/components/schemas/{name}")}),
        answer,
    );
}

#[tokio::test]
async fn no_route_answers_without_a_good_token() {
    let app = app_without_store();
    for route in routes() {
        let path = &route.path;
        let none = send(&app, Request::get(path).body(Body::empty()).unwrap()).await;
        none.problem(401, "missing-token");
        assert_eq!(
            none.header("www-authenticate"),
            "Bearer realm=\"chatpulse\""
        );
        for (credentials, kind) in [
            ("Bearer", "missing-token"),
            ("Bearer ", "missing-token"),
            ("Basic YWNtZTp4", "missing-token"),
            ("Bearer cpr_of_nobody", "unknown-token"),
            ("Bearer cpw_of_acme", "unknown-token"),
            (&format!("Bearer {REVOKED}"), "revoked-token"),
            (&format!("Bearer {ACME}x"), "unknown-token"),
        ] {
            let request = Request::get(path)
                .header("authorization", credentials)
                .body(Body::empty());
            let refused = send(&app, request.unwrap()).await;
            refused.problem(401, kind);
            assert!(refused.header("www-authenticate").starts_with("Bearer"));
        }
        // Neither an address nor a cookie stands in for the header.
        for (path, cookie) in [
            (format!("{path}?token={ACME}&access_token={ACME}"), ""),
            (path.clone(), ACME),
        ] {
            let request = Request::get(path)
                .header("cookie", format!("chatpulse_session={cookie}"))
                .body(Body::empty());
            send(&app, request.unwrap())
                .await
                .problem(401, "missing-token");
        }
    }
}

#[tokio::test]
async fn a_token_of_one_tenant_never_sees_another_on_any_route() {
    let app = app("api_tenants", &["acme", "bravo"]).await;
    for route in routes() {
        for (token, own, other) in [(ACME, "acme", "bravo"), (BRAVO, "bravo", "acme")] {
            let answer = get(&app, token, &route.about("")).await;
            assert!(
                !answer.body.contains(other),
                "{}: {}",
                route.path,
                answer.body
            );
            if !route.takes("tenant") {
                continue;
            }
            let of_token = answer.ok();
            assert!(answer.body.contains(own), "{}: {}", route.path, answer.body);
            let named = get(&app, token, &route.about(&format!("tenant={own}"))).await;
            assert_eq!(
                unmeasured(named.ok()),
                unmeasured(of_token),
                "{}",
                route.path
            );

            // The same answer whether the other tenant exists or not.
            let foreign = get(&app, token, &route.about(&format!("tenant={other}"))).await;
            foreign.problem(403, "foreign-tenant");
            for nobody in [
                "nobody",
                "ACME",
                "acme%00",
                "%20acme",
                "a%27%20OR%201%3D1",
                "%25",
            ] {
                let nobody = get(&app, token, &route.about(&format!("tenant={nobody}"))).await;
                assert_eq!(
                    (nobody.status, &nobody.body),
                    (foreign.status, &foreign.body)
                );
            }
        }
        if route.takes("tenant") {
            let unnamed = get(&app, OPERATOR, &route.about("")).await;
            let problem = unnamed.problem(400, "invalid-parameter");
            assert_eq!(problem["parameter"], "tenant");
            assert!(problem["detail"].as_str().unwrap().contains("/v1/tenants"));
            let of_operator = get(&app, OPERATOR, &route.about("tenant=bravo")).await.ok();
            let of_tenant = get(&app, BRAVO, &route.about("")).await.ok();
            assert_eq!(
                unmeasured(of_operator),
                unmeasured(of_tenant),
                "{}",
                route.path
            );
        }
    }
    let tenants = get(&app, OPERATOR, "/v1/tenants").await.ok();
    assert_eq!(
        tenants,
        json!({"operator": true, "tenants": [{"tenant": "acme"}, {"tenant": "bravo"}]})
    );
    get(&app, ACME, "/v1/pipeline")
        .await
        .problem(403, "operator-only");
}

/// Without what depends on the moment of the question or of the insert.
fn unmeasured(mut answer: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(object) => {
                for measured in ["queryable_ms", "as_of", "next_cursor"] {
                    object.remove(measured);
                }
                // A slow insert on a busy machine is the one thing that separates these two.
                object.retain(|_, value| {
                    let reason = value["reason"].to_string();
                    !reason.contains("queryable after") && !reason.contains("arriving")
                });
                object.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut answer);
    answer
}

#[tokio::test]
async fn what_a_tenant_reads_does_not_depend_on_others_being_there() {
    let alone = app("api_alone", &["acme"]).await;
    let together = app("api_together", &["bravo", "acme"]).await;
    for route in routes().iter().filter(|route| route.takes("tenant")) {
        let mut answers = Vec::new();
        for app in [&alone, &together] {
            let mut answer = unmeasured(get(app, ACME, &route.about("")).await.ok());
            // Positions in the log are shared by all.
            forget_offsets(&mut answer);
            answers.push(answer);
        }
        assert_eq!(answers[0], answers[1], "{}", route.path);
    }
}

fn forget_offsets(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("offset");
            object.values_mut().for_each(forget_offsets);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_offsets),
        _ => {}
    }
}

#[tokio::test]
async fn every_answer_is_as_the_document_says() {
    let app = app("api_schemas", &["acme", "bravo"]).await;
    for route in routes() {
        let tenant = if route.takes("tenant") {
            "tenant=acme"
        } else {
            ""
        };
        let mut asked = vec![
            route.about(tenant),
            route.about(&tenant.replace("acme", "nobody")),
        ];
        if route.takes("by") {
            for by in ["overall", "source", "time", "widget", "language"] {
                asked.push(route.about(&format!("{tenant}&by={by}")));
            }
        }
        for path in asked {
            conforms(&route.schema, &get(&app, OPERATOR, &path).await.ok());
        }
    }
}

#[tokio::test]
async fn lists_are_not_empty_here_so_that_these_tests_see_something() {
    let app = app("api_lists", &["acme"]).await;
    for route in routes().iter().filter(|route| route.takes("cursor")) {
        if route.path == "/v1/restatements" {
            continue; // tested where figures are restated
        }
        let items = get(&app, ACME, &route.about("")).await.ok()["items"].clone();
        assert!(
            items.as_array().unwrap().len() >= 3,
            "{}: {items}",
            route.path
        );
    }
}

#[tokio::test]
async fn pages_of_a_list_hold_each_item_once_and_in_order() {
    let app = app("api_pages", &["acme", "bravo"]).await;
    for route in routes().iter().filter(|route| route.takes("cursor")) {
        let whole = get(&app, ACME, &route.about("limit=1000")).await.ok();
        assert_eq!(whole["next_cursor"], Value::Null);
        for limit in 1..=2 {
            let (mut items, mut cursor) = (Vec::new(), String::new());
            loop {
                let path = route.about(&format!("limit={limit}{cursor}"));
                let page = get(&app, ACME, &path).await.ok();
                assert_eq!(page["window"], whole["window"], "{path}");
                let some = page["items"].as_array().unwrap();
                assert!(some.len() <= limit, "{path}");
                items.extend(some.clone());
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
                assert!(items.len() <= 1_000, "{} has no end", route.path);
            }
            let (items, whole) = (Value::from(items), whole["items"].clone());
            assert_eq!(unmeasured(items), unmeasured(whole), "{}", route.path);
        }
    }
}

#[tokio::test]
async fn a_cursor_goes_on_with_its_own_question_only() {
    let app = app("api_cursors", &["acme", "bravo"]).await;
    let refused = async |token: &str, path: String| {
        let problem = get(&app, token, &path)
            .await
            .problem(400, "invalid-parameter");
        assert_eq!(problem["parameter"], "cursor", "{path}");
    };
    let mut cursors = Vec::new();
    for route in routes().into_iter().filter(|route| route.takes("cursor")) {
        let first = get(&app, ACME, &route.about("limit=1")).await.ok();
        if let Some(cursor) = first["next_cursor"].as_str() {
            cursors.push((cursor.to_owned(), route));
        }
    }
    assert!(cursors.len() >= 4);
    for (cursor, route) in &cursors {
        // With another limit, or the tenant named, it is the same question.
        get(
            &app,
            ACME,
            &route.about(&format!("limit=7&tenant=acme&cursor={cursor}")),
        )
        .await
        .ok();
        refused(BRAVO, route.about(&format!("cursor={cursor}"))).await;
        refused(
            OPERATOR,
            route.about(&format!("tenant=bravo&cursor={cursor}")),
        )
        .await;
        refused(ACME, format!("{}?since=1h&cursor={cursor}", route.path)).await;
        refused(ACME, route.about(&format!("cursor={}", &cursor[1..]))).await;
        refused(ACME, route.about(&format!("cursor={cursor}AAAA"))).await;
        for (_, other) in cursors.iter().filter(|(_, other)| other.path != route.path) {
            refused(ACME, other.about(&format!("cursor={cursor}"))).await;
        }
    }
}

/// Values that each parameter must refuse. A parameter that is not here fails the test.
fn wrong_values(parameter: &str) -> Vec<String> {
    let texts: &[&str] = match parameter {
        "tenant" => &[""],
        "since" => &["", "yesterday", "0h", "367d", "-1h", "1e3h"],
        "from" => &["", "2026-11-01", "yesterday", "2026-13-01T00:00:00Z"],
        "to" => &["", "now", "1999-01-01T00:00:00Z"],
        "limit" => &[
            "",
            "0",
            "1001",
            "-1",
            "1.5",
            "ten",
            "99999999999999999999999",
        ],
        "cursor" => &["", "abc", "%00", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "..%2F.."],
        "by" => &["", "Source", "hour", "%27"],
        other => panic!("what must {other} refuse?"),
    };
    let mut values: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
    values.push("x".repeat(5_000));
    values
}

#[tokio::test]
async fn every_parameter_refuses_what_it_does_not_understand_by_its_name() {
    // A question that is wrong does not reach the store.
    let app = app_without_store();
    for route in routes() {
        for parameter in &route.parameters {
            for value in wrong_values(parameter) {
                let tenant = if *parameter == "tenant" || !route.takes("tenant") {
                    ""
                } else {
                    "&tenant=acme"
                };
                // `to` is wrong before what it ends.
                let from = if parameter == "to" {
                    "&from=2026-11-01T00:00:00Z"
                } else {
                    ""
                };
                let path = format!("{}?{parameter}={value}{tenant}{from}", route.path);
                let problem = get(&app, OPERATOR, &path)
                    .await
                    .problem(400, "invalid-parameter");
                let named = problem["parameter"].as_str().unwrap();
                assert!(
                    named == parameter || (named, parameter.as_str()) == ("from", "to"),
                    "{path}: {problem}"
                );
                assert!(problem["detail"].as_str().unwrap().len() < 300, "{problem}");
            }
            let twice = format!("{}?{parameter}=a&{parameter}=a", route.path);
            let problem = get(&app, OPERATOR, &twice)
                .await
                .problem(400, "repeated-parameter");
            assert_eq!(problem["parameter"], **parameter);
        }
        for unknown in ["Tenant", "tenant%20", "sinse", "format", "%3Cscript%3E"] {
            let path = format!("{}?{unknown}=acme", route.path);
            let problem = get(&app, ACME, &path)
                .await
                .problem(400, "unknown-parameter");
            let detail = problem["detail"].as_str().unwrap();
            for known in &route.parameters {
                assert!(detail.contains(known.as_str()), "{detail}");
            }
        }
        if route.takes("since") {
            let path = format!(
                "{}?tenant=acme&since=1h&from=2026-11-01T00:00:00Z",
                route.path
            );
            let path = if route.takes("tenant") {
                path
            } else {
                path.replace("tenant=acme&", "")
            };
            let problem = get(&app, OPERATOR, &path)
                .await
                .problem(400, "invalid-parameter");
            assert_eq!(problem["parameter"], "since");
        }
    }
}

#[tokio::test]
async fn other_methods_are_answered_as_http_has_them() {
    let app = app("api_methods", &["acme"]).await;
    let request = |method: &str, path: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {OPERATOR}"))
            .body(Body::empty())
            .unwrap()
    };
    for route in routes() {
        let tenant = if route.takes("tenant") {
            "tenant=acme"
        } else {
            ""
        };
        let head = send(&app, request("HEAD", &route.about(tenant))).await;
        assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""));
        let options = Request::builder().method(Method::OPTIONS).uri(&route.path);
        let options = send(&app, options.body(Body::empty()).unwrap()).await;
        assert_eq!(options.status, StatusCode::NO_CONTENT, "{}", options.body);
        assert_eq!(options.header("allow"), "GET, HEAD, OPTIONS");
        for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"] {
            let refused = send(&app, request(method, &route.path)).await;
            refused.problem(405, "method-not-allowed");
            assert_eq!(refused.header("allow"), "GET, HEAD, OPTIONS");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_the_document_needs_no_token() {
    let app = app_without_store();
    for path in [
        "/v1/",
        "/v1/nothing",
        "/v1/report/tenant-health",
        "/v1/tenants/",
        "/v1/%2e%2e/",
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        send(&app, request).await.problem(404, "unknown-path");
    }
    let request = Request::get("/v1/openapi.json")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&app, request).await.ok(), openapi());
}

#[tokio::test]
async fn a_token_that_asks_too_often_waits_and_others_do_not() {
    let store = Store::new(&StoreConfig::default());
    let config = AccessConfig {
        requests_per_second: std::num::NonZeroU32::MIN,
        ..access(tokens())
    };
    let app = app_with(store, config);
    for _ in 0..2 {
        get(&app, ACME, "/v1/tenants").await.ok();
    }
    let limited = get(&app, ACME, "/v1/tenants").await;
    limited.problem(429, "rate-limited");
    assert_eq!(limited.header("retry-after"), "1");
    get(&app, BRAVO, "/v1/tenants").await.ok();
}

#[tokio::test]
async fn a_token_with_slow_questions_waits_for_its_answers_and_others_do_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = Store::new(&StoreConfig {
        url: format!("http://{}", listener.local_addr().unwrap()),
        query_timeout: Duration::from_millis(500),
        ..StoreConfig::default()
    });
    let app = app_with(slow, access(tokens()));
    let ask = |token| get(&app, token, "/v1/rejections");
    let asked = (0..9).map(|_| ask(ACME)).chain([ask(BRAVO)]);
    let answers = futures::future::join_all(asked).await;
    let statuses: Vec<u16> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses, [503, 503, 503, 503, 503, 503, 503, 503, 429, 503]);
    answers[8].problem(429, "rate-limited");
    ask(ACME).await.problem(503, "too-slow");
}

#[tokio::test]
async fn a_store_that_is_away_or_slow_is_503_with_a_time_to_ask_again() {
    let away = app_without_store();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Connections are taken by the system, and nobody answers.
    let slow = Store::new(&StoreConfig {
        url: format!("http://{}", listener.local_addr().unwrap()),
        query_timeout: Duration::from_millis(50),
        ..StoreConfig::default()
    });
    let slow = app_with(slow, access(tokens()));
    for route in routes() {
        let tenant = if route.takes("tenant") {
            "tenant=acme"
        } else {
            ""
        };
        for (app, kind) in [(&away, "store-away"), (&slow, "too-slow")] {
            let answer = get(app, OPERATOR, &route.about(tenant)).await;
            answer.problem(503, kind);
            assert_eq!(answer.header("retry-after"), "5");
            assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
        }
    }
}

#[test]
fn every_route_is_described_in_full() {
    let document = openapi();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().unwrap() {
        let operation = &methods["get"];
        for what in ["summary", "description", "operationId"] {
            assert!(
                operation[what]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{path}: {what}"
            );
        }
        for status in ["200", "400", "401", "403", "429", "500", "503"] {
            assert!(
                operation["responses"][status].is_object(),
                "{path}: {status}"
            );
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{path}: {parameter}");
            assert_eq!(parameter["required"], false, "{path}: {parameter}");
        }
        let answer = &operation["responses"]["200"]["content"]["application/json"];
        assert!(answer["example"].is_object(), "{path} has no example");
        conforms(&answer["schema"], &answer["example"]);
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        says_something(name, schema);
    }
}

/// A schema has a type, and every member of an answer a description.
fn says_something(name: &str, schema: &Value) {
    let kinds = ["type", "$ref", "oneOf", "allOf", "enum"];
    assert!(
        kinds.iter().any(|kind| !schema[*kind].is_null()),
        "{name} can be anything: {schema}"
    );
    for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
        let name = format!("{name}.{member}");
        says_something(&name, schema);
        // That of the kind of a value is its name.
        let described = schema.to_string().contains("\"description\"");
        assert!(described || member == "kind", "{name}: {schema}");
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            says_something(&format!("{name}.{part}"), &schema[part]);
        }
    }
    for parts in ["oneOf", "allOf"] {
        for part in schema[parts].as_array().into_iter().flatten() {
            says_something(name, part);
        }
    }
}

#[test]
fn the_document_is_the_one_that_was_looked_at() {
    insta::assert_json_snapshot!(openapi());
}

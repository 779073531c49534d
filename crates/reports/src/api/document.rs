//! What the OpenAPI document says of every path alike.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

const DESCRIPTION: &str = "\
What chatpulse knows of a tenant's events and conversations. Every answer is for one tenant, taken from the \
token. What a source cannot show is `null`, never 0. Times are RFC 3339 in UTC, durations milliseconds, rates \
from 0 to 1.

Lists come in pages: give `next_cursor` as `cursor`, with the same parameters, until it is `null`. \
Errors are problem details (RFC 9457), whose `detail` says what to do. Parameters that a path \
does not know are refused.";

const TAGS: [(&str, &str); 4] = [
    ("access", "What a token reads."),
    (
        "delivery",
        "Whether events arrive: counts, verdicts, latency, drift, and what was refused.",
    ),
    (
        "conversations",
        "What became of conversations: metrics, facts of each, and restated figures.",
    ),
    ("operation", "The installation, for its operator."),
];

/// A header, and what it tells.
type Header = (&'static str, &'static str);

/// Answers that every path can give: status, when, and the headers that belong to it.
const ERRORS: [(&str, &str, &[Header]); 6] = [
    (
        "400",
        "A parameter is not known to the path, or not what it must be; `parameter` names it.",
        &[],
    ),
    (
        "401",
        "No token, or one that is not known or was revoked.",
        &[("WWW-Authenticate", "How to authenticate (RFC 6750).")],
    ),
    (
        "403",
        "The token may not read this: another tenant, or what is the operator's.",
        &[],
    ),
    (
        "429",
        "The token sends more requests than it may.",
        &[("Retry-After", "When the next will be answered; seconds.")],
    ),
    ("500", "A fault of the server, whose log has it.", &[]),
    (
        "503",
        "ClickHouse does not answer, or takes too long.",
        &[("Retry-After", "When to ask again; seconds.")],
    ),
];

/// Adds to what is derived from the handlers what holds for all of them.
pub(super) fn finish(document: OpenApi) -> Value {
    // Cannot fail: its maps have strings for keys.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    document["info"] = json!({
        "title": "chatpulse",
        "description": DESCRIPTION,
        "version": env!("CARGO_PKG_VERSION"),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/"}]);
    document["security"] = json!([{"token": []}]);
    document["components"]["securitySchemes"]["token"] = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "A read token (`cpr_…`) reads its tenant: `chatpulse tenant token add TENANT` makes one. The \
                        operator's token reads every tenant.",
    });
    document["tags"] = TAGS
        .iter()
        .map(|(name, about)| json!({"name": name, "description": about}))
        .collect();
    document["components"]["responses"] = ERRORS
        .iter()
        .map(|(status, when, headers)| ((*status).to_owned(), error(when, headers)))
        .collect();
    for (path, methods) in members(&mut document["paths"]) {
        for (_, operation) in members(methods) {
            for (status, ..) in ERRORS {
                let reference = format!("#/components/responses/{status}");
                operation["responses"][status] = json!({"$ref": reference});
            }
            if let Some((_, example)) = super::routes::EXAMPLES.iter().find(|(of, _)| of == path) {
                let example: Value = serde_json::from_str(example).unwrap_or_default();
                operation["responses"]["200"]["content"]["application/json"]["example"] = example;
            }
        }
    }
    for (name, schema) in members(&mut document["components"]["schemas"]) {
        // The one type that leaves a member out where it has nothing to say.
        if name != "ProblemDetails" {
            require_all(schema);
        }
    }
    document
}

fn error(when: &str, headers: &[Header]) -> Value {
    let header = |what: &str| json!({"description": what, "schema": {"type": "string"}});
    let headers: Map<String, Value> = headers
        .iter()
        .map(|(name, what)| ((*name).to_owned(), header(what)))
        .collect();
    let details = json!({"schema": {"$ref": "#/components/schemas/ProblemDetails"}});
    json!({
        "description": when,
        "headers": headers,
        "content": {"application/problem+json": details},
    })
}

/// Answers have every member, also where it is null.
fn require_all(schema: &mut Value) {
    if let Value::Array(parts) = schema {
        parts.iter_mut().for_each(require_all);
    }
    let Value::Object(object) = schema else {
        return;
    };
    if let Some(Value::Object(properties)) = object.get("properties") {
        let names = properties.keys().cloned().collect::<Vec<_>>();
        object.insert("required".to_owned(), names.into());
    }
    object.values_mut().for_each(require_all);
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

/// The names of the parameters of each path.
pub(super) fn parameters(document: &Value) -> HashMap<String, Vec<String>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .map(|(path, methods)| {
            let given = methods["get"]["parameters"]
                .as_array()
                .into_iter()
                .flatten();
            let names = given.filter_map(|given| given["name"].as_str().map(str::to_owned));
            (path.clone(), names.collect())
        })
        .collect()
}

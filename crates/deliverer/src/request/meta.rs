//! Meta Conversions API (developers.facebook.com/docs/marketing-api/conversions-api).
//!
//! One event per request: Meta refuses a whole request for one bad event. `event_name` and `event_id` are
//! those of the browser's bridge that Autochat recommends, by which Meta drops the twin. The action
//! source is `chat`; `website` would need the visitor's user agent, which is not kept.

use chatpulse_model::{Event, FailureClass};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Request, Unfit, capitalised, happened_at, visitor_id};
use crate::{
    destination::{Destination, Receiver},
    failure::Failure,
};

/// Meta refuses what is older.
const MAX_AGE_MS: i64 = 7 * 24 * 60 * 60 * 1_000;
/// Characters of an event name.
const MAX_NAME: usize = 50;
/// Characters of a custom value; Meta documents none, and no value of ours should need more.
const MAX_VALUE: usize = 500;

/// Whether Meta takes an event of this name.
pub(crate) fn check_event_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_- ".contains(&byte);
    match (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(format!(
            "{name:?} must be 1 to {MAX_NAME} letters, digits, spaces, hyphens and underscores"
        )),
    }
}

pub(super) fn build(
    destination: &Destination,
    event: &Event,
    at: Timestamp,
) -> Result<Request, Unfit> {
    let Receiver::Meta {
        base,
        pixel_id,
        access_token,
        event_names,
        test_event_code,
    } = &destination.receiver
    else {
        return Err(Unfit::new("the destination is not Meta"));
    };
    if at.as_millisecond() - event.occurred_at > MAX_AGE_MS {
        return Err(Unfit::new(
            "the event is older than 7 days, which Meta refuses",
        ));
    }
    let visitor = visitor_id(event)
        .ok_or_else(|| Unfit::new("neither visitor, session nor conversation is known"))?;
    let name = match event_names.get(&event.event_type) {
        Some(name) => name.clone(),
        None => format!("{}WidgetTracking", capitalised(&event.source)),
    };
    check_event_name(&name).map_err(Unfit::new)?;
    let mut data = json!({
        "event_name": name,
        "event_time": happened_at(event).div_euclid(1_000),
        "event_id": event.event_id,
        "action_source": "chat",
        "user_data": { "external_id": [hex::encode(visitor)] },
        "custom_data": custom_data(event)?,
    });
    if let Some(page) = &event.page_url {
        data["event_source_url"] = page.as_str().into();
    }
    let mut body = json!({ "data": [data] });
    if let Some(code) = test_event_code {
        body["test_event_code"] = code.as_str().into();
    }
    let mut url = base
        .join(&format!("{pixel_id}/events"))
        .map_err(|error| Unfit::new(error.to_string()))?;
    url.query_pairs_mut()
        .append_pair("access_token", access_token.reveal());
    Ok(Request {
        url,
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
    })
}

fn custom_data(event: &Event) -> Result<Map<String, Value>, Unfit> {
    let source = &event.source;
    let trigger = event.properties.get("trigger_source").map(String::as_str);
    let mut data = Map::new();
    for (name, value) in [
        (
            format!("{source}_event_type"),
            Some(event.source_event.as_str()),
        ),
        (format!("{source}_event_id"), Some(event.event_id.as_str())),
        (format!("{source}_trigger_source"), trigger),
        (
            "chat_event_type".to_owned(),
            Some(event.event_type.as_str()),
        ),
    ] {
        let Some(value) = value else { continue };
        if value.chars().count() > MAX_VALUE {
            return Err(Unfit::new(format!(
                "{name} would be longer than {MAX_VALUE} characters"
            )));
        }
        data.insert(name, value.into());
    }
    Ok(data)
}

/// Meta's error object.
#[derive(Deserialize)]
struct Answer {
    error: GraphError,
}

#[derive(Deserialize)]
struct GraphError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    is_transient: bool,
}

/// Meta answers 400 for nearly everything; what is meant stands in the body.
pub(crate) fn judge(failure: Failure, body: &[u8]) -> Failure {
    let Ok(Answer { error }) = serde_json::from_slice(body) else {
        return failure;
    };
    let class = match (failure.class, error.code) {
        (FailureClass::Refused | FailureClass::Http4xx, code) => match code {
            // Application, user, page and business limits (Graph API, rate limiting).
            4 | 17 | 32 | 341 | 368 | 613 | 80_000..=80_014 => FailureClass::RateLimited,
            // Token expired, revoked or without the right.
            3 | 10 | 102 | 190 | 200..=299 => FailureClass::Http4xx,
            // Theirs: unknown, service.
            1 | 2 => FailureClass::Http5xx,
            _ if error.is_transient => FailureClass::Http5xx,
            _ => failure.class,
        },
        (class, _) => class,
    };
    Failure {
        class,
        detail: format!("{} with Graph API error {}", failure.detail, error.code),
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        destination::tests::{META, one},
        request::tests::{AT, event},
    };

    #[test]
    fn the_request_is_what_meta_documents_and_autochat_recommends() {
        let entry = format!("{META}test_event_code = \"TEST1\"");
        let request = build(&one(&entry), &event(), AT.parse().unwrap()).unwrap();
        assert_eq!(
            request.url.as_str(),
            "https://graph.facebook.com/v23.0/1234567890/events?access_token=hunter2"
        );
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["test_event_code"], "TEST1");
        let data = &body["data"][0];
        assert_eq!(data["event_name"], "AutochatWidgetTracking");
        assert_eq!(data["event_id"], "7d0c1c9e-5b1f-4a64-9d2e-6f0b8a1c3e01");
        assert_eq!(data["event_time"], 1_768_471_290);
        assert_eq!(
            data["custom_data"]["autochat_event_type"],
            "autochat.lead_qualified.v1"
        );
        assert_eq!(
            data["custom_data"]["autochat_trigger_source"],
            "ai_evaluation"
        );
    }

    #[test]
    fn what_meta_would_refuse_is_not_sent() {
        let unfit = |event: &Event| {
            build(&one(META), event, AT.parse().unwrap())
                .unwrap_err()
                .to_string()
        };
        let mut old = event();
        old.occurred_at -= 8 * 24 * 60 * 60 * 1_000;
        assert!(unfit(&old).contains("7 days"));
        let mut name = event();
        name.source = "ö".to_owned();
        assert!(unfit(&name).contains("letters"));
        let mut nobody = event();
        nobody.session_id = None;
        nobody.conversation_id = None;
        assert!(unfit(&nobody).contains("visitor"));
    }

    #[test]
    fn what_meta_means_by_400_stands_in_the_body() {
        let class = |body: &str| judge(Failure::of_status(400, None), body.as_bytes()).class;
        let code = |code: i64| class(&format!(r#"{{"error":{{"code":{code}}}}}"#));
        assert_eq!(code(190), FailureClass::Http4xx);
        assert_eq!(code(80_004), FailureClass::RateLimited);
        assert_eq!(code(2), FailureClass::Http5xx);
        assert_eq!(code(100), FailureClass::Refused);
        assert_eq!(
            class(r#"{"error":{"code":999,"is_transient":true}}"#),
            FailureClass::Http5xx
        );
        assert_eq!(class("<html>"), FailureClass::Refused);
        let server = judge(Failure::of_status(500, None), br#"{"error":{"code":190}}"#);
        assert_eq!(server.class, FailureClass::Http5xx);
    }
}

//! Google Analytics 4, Measurement Protocol
//! (developers.google.com/analytics/devguides/collection/protocol/ga4).
//!
//! One event per request: Google answers 2xx whatever it thinks of an event, so one that does not fit
//! would be lost in silence. Limits are therefore checked here. Event name and parameters are those that
//! Autochat recommends; other sources have their own name in the place of `autochat`.
//!
//! The consent to the chat is no consent to advertising: both ad signals are always denied.

use chatpulse_model::Event;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Request, Unfit, happened_at, visitor_id};
use crate::destination::{Destination, Receiver};

/// What Autochat recommends.
const EVENT_NAME: &str = "chat_widget_tracking";
/// Documented limits: characters of names, of values, and bytes of a request.
const MAX_NAME: usize = 40;
const MAX_VALUE: usize = 100;
const MAX_BYTES: usize = 130_000;
/// Events can be dated back so far; what is older would be counted at another time.
const MAX_AGE_MS: i64 = 72 * 60 * 60 * 1_000;

/// Prefixes that Google keeps for itself.
const RESERVED_PREFIXES: [&str; 5] = ["_", "firebase_", "ga_", "google_", "gtag."];
/// Names that Google keeps for itself (web and app streams).
const RESERVED_NAMES: [&str; 36] = [
    "ad_activeview",
    "ad_click",
    "ad_exposure",
    "ad_impression",
    "ad_query",
    "ad_reward",
    "adunit_exposure",
    "app_background",
    "app_clear_data",
    "app_exception",
    "app_remove",
    "app_store_refund",
    "app_store_subscription_cancel",
    "app_store_subscription_convert",
    "app_store_subscription_renew",
    "app_update",
    "app_upgrade",
    "dynamic_link_app_open",
    "dynamic_link_app_update",
    "dynamic_link_first_open",
    "error",
    "first_open",
    "first_visit",
    "in_app_purchase",
    "notification_dismiss",
    "notification_foreground",
    "notification_open",
    "notification_receive",
    "notification_send",
    "os_update",
    "screen_view",
    "session_start",
    "session_start_with_rollout",
    "user_engagement",
    "app_crash",
    "app_session",
];

/// Whether Google takes an event of this name.
pub(crate) fn check_event_name(name: &str) -> Result<(), String> {
    check_name(name)?;
    match RESERVED_NAMES.contains(&name) {
        true => Err(format!("{name:?} is a name that Google keeps for itself")),
        false => Ok(()),
    }
}

/// The rule for names of events and parameters.
fn check_name(name: &str) -> Result<(), String> {
    let is_rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = (1..=MAX_NAME).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphabetic()
        && name.bytes().all(is_rest);
    if !fits {
        return Err(format!(
            "{name:?} must be 1 to {MAX_NAME} letters, digits and underscores, a letter first"
        ));
    }
    match RESERVED_PREFIXES
        .iter()
        .find(|prefix| name.starts_with(**prefix))
    {
        Some(prefix) => Err(format!(
            "{name:?} begins with {prefix:?}, which Google keeps for itself"
        )),
        None => Ok(()),
    }
}

pub(super) fn build(
    destination: &Destination,
    event: &Event,
    at: Timestamp,
) -> Result<Request, Unfit> {
    let Receiver::Ga4 {
        base,
        measurement_id,
        api_secret,
        event_names,
    } = &destination.receiver
    else {
        return Err(Unfit::new("the destination is not GA4"));
    };
    if at.as_millisecond() - event.occurred_at > MAX_AGE_MS {
        return Err(Unfit::new(
            "the event is older than 72 hours, and Google would count it at another time",
        ));
    }
    let visitor = visitor_id(event)
        .ok_or_else(|| Unfit::new("neither visitor, session nor conversation is known"))?;
    let body = json!({
        "client_id": hex::encode(&visitor[..16]),
        "timestamp_micros": happened_at(event).saturating_mul(1_000),
        "consent": { "ad_user_data": "DENIED", "ad_personalization": "DENIED" },
        "events": [{
            "name": event_names.get(&event.event_type).map_or(EVENT_NAME, String::as_str),
            "params": params(event)?,
        }],
    });
    let body = body.to_string().into_bytes();
    if body.len() > MAX_BYTES {
        return Err(Unfit::new("the request would be larger than 130 kB"));
    }
    let mut url = base.clone();
    url.set_path("/mp/collect");
    url.query_pairs_mut()
        .clear()
        .append_pair("measurement_id", measurement_id)
        .append_pair("api_secret", api_secret.reveal());
    Ok(Request {
        url,
        headers: Vec::new(),
        body,
    })
}

fn params(event: &Event) -> Result<Map<String, Value>, Unfit> {
    let source = &event.source;
    let property = |key: &str| event.properties.get(key).map(String::as_str);
    let texts = [
        (
            format!("{source}_event_type"),
            Some(event.source_event.as_str()),
        ),
        (format!("{source}_event_id"), Some(event.event_id.as_str())),
        (
            format!("{source}_trigger_source"),
            property("trigger_source"),
        ),
        (format!("{source}_scope"), property("scope")),
        (
            "chat_event_type".to_owned(),
            Some(event.event_type.as_str()),
        ),
        ("chat_goal".to_owned(), event.goal.as_deref()),
        ("chat_widget_id".to_owned(), event.widget_id.as_deref()),
        ("chat_language".to_owned(), event.language.as_deref()),
        ("page_location".to_owned(), event.page_url.as_deref()),
    ];
    let mut params = Map::new();
    for (name, value) in texts {
        let Some(value) = value else { continue };
        check_name(&name).map_err(Unfit::new)?;
        // Page addresses may have 1,000 characters.
        let most = if name == "page_location" {
            1_000
        } else {
            MAX_VALUE
        };
        if value.chars().count() > most {
            return Err(Unfit::new(format!(
                "{name} would be longer than {most} characters"
            )));
        }
        params.insert(name, value.into());
    }
    // Both are needed for an event to count as activity of a user.
    if let Some(session) = event.session_id.as_deref() {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(format!("{}\n{source}\n{session}", event.tenant));
        let number = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        params.insert("session_id".to_owned(), number.to_string().into());
        params.insert("engagement_time_msec".to_owned(), 1.into());
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        destination::tests::{GA4, one, parsed},
        request::tests::{AT, event},
    };

    fn built(event: &Event) -> Result<Value, String> {
        build(&one(GA4), event, AT.parse().unwrap())
            .map(|request| serde_json::from_slice(&request.body).unwrap())
            .map_err(|unfit| unfit.to_string())
    }

    #[test]
    fn the_request_is_what_google_documents_and_autochat_recommends() {
        let request = build(&one(GA4), &event(), AT.parse().unwrap()).unwrap();
        assert_eq!(
            request.url.as_str(),
            "https://www.google-analytics.com/mp/collect?measurement_id=G-ABC123DEF4&api_secret=hunter2"
        );
        let body = built(&event()).unwrap();
        assert_eq!(body["events"][0]["name"], "chat_widget_tracking");
        let params = &body["events"][0]["params"];
        assert_eq!(params["autochat_event_type"], "autochat.lead_qualified.v1");
        assert_eq!(
            params["autochat_event_id"],
            "7d0c1c9e-5b1f-4a64-9d2e-6f0b8a1c3e01"
        );
        assert_eq!(params["autochat_trigger_source"], "ai_evaluation");
        assert_eq!(params["autochat_scope"], "chat_widget_tracking");
        assert_eq!(body["timestamp_micros"], 1_768_471_290_250_000_i64);
        assert_eq!(body["consent"]["ad_user_data"], "DENIED");
    }

    #[test]
    fn what_google_would_change_or_drop_in_silence_is_not_sent() {
        let mut old = event();
        old.occurred_at -= 73 * 60 * 60 * 1_000;
        assert!(built(&old).unwrap_err().contains("72 hours"));
        let mut nobody = event();
        nobody.session_id = None;
        nobody.conversation_id = None;
        assert!(built(&nobody).unwrap_err().contains("visitor"));
        let mut long = event();
        long.event_id = "x".repeat(101);
        assert!(built(&long).unwrap_err().contains("autochat_event_id"));
        let mut source = event();
        source.source = "x".repeat(30);
        assert!(built(&source).unwrap_err().contains("letters"));
    }

    #[test]
    fn names_that_google_keeps_or_does_not_take_are_refused() {
        for name in [
            "session_start",
            "ga_lead",
            "google_x",
            "_x",
            "1x",
            "a-b",
            "",
            "ä",
            &"x".repeat(41),
        ] {
            assert!(check_event_name(name).is_err(), "{name}");
        }
        assert!(check_event_name("generate_lead").is_ok());
        let entry = format!(
            "[[tenant.destinations]]\n{GA4}event_names = {{ \"lead.qualified\" = \"first_visit\" }}"
        );
        assert!(parsed(&entry).unwrap_err().contains("event_names"));
    }

    #[test]
    fn a_type_may_have_a_name_of_its_own() {
        let entry = format!("{GA4}event_names = {{ \"lead.qualified\" = \"generate_lead\" }}");
        let request = build(&one(&entry), &event(), AT.parse().unwrap()).unwrap();
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["events"][0]["name"], "generate_lead");
    }
}

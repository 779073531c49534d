//! Every documented event of every vendor, fired in a page as its document says.

use std::collections::BTreeSet;

use chatpulse_model::{
    RawBody,
    source::{Catalog, Definition, Mapped, Pseudonyms, Receipt},
};
use serde_json::Value;

use super::site::{Site, golden};

/// What the vendors' widgets do with their payloads.
const ALGOMO: &str = "<script>
window.dataLayer = window.dataLayer || [];
const vendor = payload => dataLayer.push(payload);
</script>";
const AUTOCHAT: &str = "<script>
const vendor = payload => window.dispatchEvent(new CustomEvent(payload.type, {detail: payload.detail}));
</script>";
/// The site has a function of its own, as the tutorial tells it to.
const USERLIKE: &str = "<script>
var told = [];
function userlikeTrackingEvent(event_name, global_ctx, session_ctx) { told.push(event_name); }
const vendor = payload => window.userlikeTrackingEvent(payload.event_name, payload.global_ctx, payload.session_ctx);
</script>";
/// The site pushes what its listener hears to the data layer, as in the vendor's sample.
const LOYJOY: &str = "<script>
var dataLayer = dataLayer || [];
let listeners;
window.LoyJoy = (command, options) => { if (command === 'boot') listeners = options.eventListeners; };
const boot = () => LoyJoy('boot', {
  bot: 'b-1',
  eventListeners: [function (evt, obj) {
    dataLayer && dataLayer.push({ 'evt': evt, 'bot_id': obj && obj.bot_id, 'process_id': obj && obj.process_id, 'process_name': obj && obj.process_name })
  }]
});
const vendor = ({evt, ...obj}) => listeners.forEach(listener => listener(evt, obj));
</script>";

/// A golden payload as the pipeline reads it without a page in front.
fn direct(definition: &Definition, payload: &Value) -> Mapped {
    let receipt = Receipt {
        tenant: "t",
        write_key_id: "k",
        received_at: jiff::Timestamp::now().as_millisecond(),
        pseudonyms: &Pseudonyms::new(b"0123456789abcdef").unwrap(),
        max_item_bytes: 64 * 1024,
    };
    let admitted = definition.admit(payload.to_string().as_bytes(), &receipt);
    assert!(matches!(admitted.record.body, RawBody::Native(_)));
    definition.map(&admitted.record).unwrap()
}

/// What an event says, but for what the snippet adds and what the tenant's key makes of people.
const ARRIVED: &str = "SELECT concat(source_event, ' ', event_type, ' ', actor, ' ', toString(documented), ' ', \
    coalesce(widget_id, '-'), ' ', coalesce(platform, '-'), ' ', coalesce(language, '-'), ' ', coalesce(link, '-'), ' ', \
    coalesce(toString(reported_total), '-'), ' ', coalesce(toString(score), '-'), ' ', coalesce(goal, '-'), ' ', \
    toString(isNotNull(visitor)), ' ', coalesce(if(conversation_id = session_id, 'session', conversation_id), '-')) \
    FROM events WHERE {tenant} AND outcome = 'accepted' ORDER BY sequence FORMAT TSVRaw";

fn expected(definition: &Definition, payload: &Value) -> String {
    let mapped = direct(definition, payload);
    let text = |part: &Option<String>| part.clone().unwrap_or("-".into());
    let number = |part: Option<i64>| part.map_or("-".into(), |number| number.to_string());
    format!(
        "{} {} {} {} {} {} {} {} {} {} {} {} {}",
        mapped.source_event,
        mapped.event_type.as_str(),
        serde_json::to_value(mapped.actor)
            .unwrap()
            .as_str()
            .unwrap(),
        mapped.documented,
        text(&mapped.widget_id),
        text(&mapped.platform),
        text(&mapped.language),
        text(&mapped.link),
        number(mapped.reported_total),
        number(mapped.score.map(|score| score as i64)),
        text(&mapped.goal),
        u8::from(mapped.visitor.is_some()),
        // LoyJoy has none: the page session stands for it.
        match definition.name() {
            "loyjoy" => "session".to_owned(),
            _ => text(&mapped.conversation_id),
        },
    )
}

/// Fires every golden payload of a source in its vendor's page, and has each arrive with its meaning.
async fn every_event_arrives(source: &str, page: &str, before: &str) {
    let site = Site::new(&format!("all-{source}"), &[]).await;
    site.put("/shop", page);
    let visit = site.visit("/shop").await;
    visit.evaluate(before).await;
    let fired = format!(
        "fetch('/golden/{source}').then(r => r.json()).then(all => {{ all.forEach(p => vendor(p)); return all.length }})"
    );
    let fired = visit.evaluate(&fired).await.as_u64().unwrap();
    let golden = golden(source);
    let golden = golden.as_array().unwrap();
    assert_eq!(fired as usize, golden.len());

    let definition = Catalog::builtin().get(source).unwrap();
    // Autochat dispatches everything twice with the same id: one of the two is a duplicate.
    let mut known = BTreeSet::new();
    let accepted: Vec<&Value> = golden
        .iter()
        .filter(|payload| match &payload["detail"]["event_id"] {
            Value::String(id) => known.insert(id.clone()),
            _ => true,
        })
        .collect();
    let documented: BTreeSet<String> = accepted
        .iter()
        .map(|payload| direct(definition, payload).source_event)
        .collect();
    assert_eq!(
        documented.len(),
        definition.events().len(),
        "a golden payload for every documented event"
    );

    let count = "SELECT countIf(outcome = 'accepted'), countIf(outcome = 'duplicate'), countIf(outcome = 'rejected') \
                 FROM events WHERE {tenant}";
    let (accepts, duplicates) = (accepted.len(), golden.len() - accepted.len());
    site.wait_until(count, &format!("{accepts}\t{duplicates}\t0"))
        .await;
    let arrived = site.query(ARRIVED).await;
    let arrived: Vec<&str> = arrived.lines().collect();
    let wanted: Vec<String> = accepted
        .iter()
        .map(|payload| expected(definition, payload))
        .collect();
    assert_eq!(arrived, wanted, "{source}");
    // Nothing is missing in the session's count, and nothing was told twice to the site.
    let sequence = "SELECT uniqExact(session_id), min(sequence), max(sequence), uniqExact(sequence) FROM events WHERE {tenant}";
    let all = golden.len();
    assert_eq!(site.query(sequence).await, format!("1\t1\t{all}\t{all}"));
    assert_eq!(visit.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_of_algomo_arrive_from_the_data_layer() {
    every_event_arrives("algomo", ALGOMO, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_of_watermelon_arrive_from_the_data_layer() {
    every_event_arrives("watermelon", ALGOMO, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_of_autochat_arrive_under_the_stable_name_and_the_alias() {
    every_event_arrives("autochat", AUTOCHAT, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_of_userlike_arrive_and_reach_the_function_of_the_site() {
    every_event_arrives("userlike", USERLIKE, "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_events_of_loyjoy_arrive_once_although_the_site_pushes_them_too() {
    every_event_arrives("loyjoy", LOYJOY, "boot()").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loyjoy_is_heard_in_the_data_layer_where_it_was_booted_before_the_snippet() {
    let page = LOYJOY.replace(
        "</script>",
        "boot(); vendor({evt: 'load', bot_id: 'b-1'});</script>",
    );
    let site = Site::new("loyjoy-early", &[]).await;
    // The snippet stands at the end of the body.
    site.put_as("/shop", "", &format!("{page}{}", site.lines.tag));
    let visit = site.visit("/shop").await;
    visit
        .evaluate("vendor({evt: 'open', bot_id: 'b-1'}); vendor({evt: 'open', bot_id: 'b-1'})")
        .await;
    let sql = "SELECT groupArray(source_event) FROM (SELECT source_event FROM events WHERE {tenant} AND outcome = 'accepted' ORDER BY sequence)";
    site.wait_until(sql, "['load','open','open']").await;
}

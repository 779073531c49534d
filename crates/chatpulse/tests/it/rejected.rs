//! What could not be taken is listed, and is taken once its cause was mended.

use chatpulse_kafka::{KafkaConfig, Publisher, PublisherSettings, Record};
use chatpulse_model::{
    Context, NativePayload, RawBody, RawEvent,
    avro::{Codec, Framing},
};

use crate::process::{Serve, add_tenant, client};

/// Sends visitors' messages of one conversation with these event ids.
async fn send(serve: &Serve, key: &str, ids: &[&str]) {
    let items: Vec<String> = ids
        .iter()
        .map(|id| {
            let at = jiff::Timestamp::now().as_millisecond();
            format!(
                r#"{{"native":{{"event":"widget_message_sent","widget_platform":"web","widget_conversation_id":"c","timestamp":{at}}},"context":{{"event_id":"{id}"}}}}"#
            )
        })
        .collect();
    let answer = client()
        .post(format!("{}/v1/events/watermelon", serve.producer))
        .bearer_auth(key)
        .header("content-type", "application/x-ndjson")
        .body(items.join("\n"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
}

/// Writes a record into partition 0 of a topic, as another program would.
async fn write(serve: &Serve, topic: &str, payload: &[u8]) {
    let config = KafkaConfig::new(&serve.kafka, "test");
    let publisher = Publisher::new(&config, &PublisherSettings::default()).unwrap();
    let record = Record {
        partition: Some(0),
        payload: payload.to_vec(),
        ..Record::default()
    };
    for outcome in publisher.publish(topic, vec![record]).await {
        outcome.unwrap();
    }
}

fn count(outcome: &str) -> String {
    format!("SELECT count() FROM events WHERE outcome = '{outcome}'")
}

/// What the list is made of; a view fills it after the table has the rows.
const REJECTIONS: &str = "SELECT count() FROM rejections";

fn listed(serve: &Serve) -> serde_json::Value {
    let (text, success) = serve.tool(&["rejected", "list", "--json"], &[]);
    assert!(success);
    serde_json::from_str(&text).unwrap()
}

fn replayed(serve: &Serve, variables: &[(&str, &str)]) -> serde_json::Value {
    let (text, success) = serve.tool(&["rejected", "replay", "--json"], variables);
    assert!(success);
    serde_json::from_str(&text).unwrap()
}

fn assert_balanced(serve: &Serve) {
    let (audit, balanced) = serve.tool(&["audit"], &[]);
    assert!(balanced, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_store_refuses_blocks_nothing_and_is_taken_after_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let key = add_tenant(&data_dir);
    let serve = Serve::start(&data_dir);
    serve
        .query("ALTER TABLE events ADD CONSTRAINT no_bad CHECK event_id != 'bad'")
        .await;

    send(&serve, &key, &["a", "b", "bad", "c", "d"]).await;
    serve.wait_until(&count("accepted"), "4").await;
    serve.wait_until(REJECTIONS, "1").await;
    let list = listed(&serve);
    assert_eq!(list["rejections"][0]["reason"], "refused_by_store");
    assert_balanced(&serve);

    // Too early: it is refused again, at another position.
    assert_eq!(replayed(&serve, &[])["replayed"], 1);
    serve.wait_until(REJECTIONS, "2").await;
    assert_eq!(listed(&serve)["rejections"].as_array().unwrap().len(), 1);

    serve
        .query("ALTER TABLE events DROP CONSTRAINT no_bad")
        .await;
    assert_eq!(replayed(&serve, &[])["replayed"], 1);
    serve.wait_until(&count("accepted"), "5").await;
    let messages = "SELECT visitor_messages FROM conversations WHERE conversation_id = 'c'";
    // A view has an insert a moment after its table.
    serve.wait_until(messages, "5").await;
    assert_eq!(replayed(&serve, &[])["found"], 0, "nothing is left");
    assert_balanced(&serve);
    serve.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_records_in_both_topics_block_nothing_and_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let key = add_tenant(&data_dir);
    let mut serve = Serve::start(&data_dir);
    for topic in ["chat.raw", "chat.events"] {
        write(&serve, topic, b"not ours").await;
        write(&serve, topic, &[]).await;
    }
    // Whoever starts now finds foreign records at the end of the outcomes.
    serve.kill();
    let serve = Serve::start(&data_dir);
    // Every partition gets some.
    let ids: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    send(
        &serve,
        &key,
        &ids.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    serve.wait_until(&count("accepted"), "40").await;
    serve.wait_until(REJECTIONS, "2").await;
    let undecodable = "SELECT count() FROM undecodable_outcomes FINAL";
    serve.wait_until(undecodable, "2").await;
    let list = listed(&serve);
    assert_eq!(list["rejections"][0]["reason"], "undecodable");
    assert_eq!(list["undecodable_outcomes"].as_array().unwrap().len(), 2);
    let summary = replayed(&serve, &[]);
    assert_eq!(
        summary["left"]["still rejected: undecodable"], 2,
        "{summary}"
    );
    assert_balanced(&serve);
    serve.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_source_that_was_not_known_are_taken_once_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    add_tenant(&data_dir);
    let mut serve = Serve::start(&data_dir);
    let record = RawEvent {
        tenant: "acme".into(),
        source: "parrot".into(),
        write_key_id: "web".into(),
        received_at: jiff::Timestamp::now().as_millisecond(),
        context: Context {
            event_id: Some("p1".into()),
            ..Context::default()
        },
        body: RawBody::Native(NativePayload {
            json: r#"{"event":"Message sent (Algomo Widget)","conversationId":"c1"}"#.into(),
            redactions: Vec::new(),
        }),
        replay_of: None,
    };
    let codec = Codec::new(Framing::SingleObject).unwrap();
    write(&serve, "chat.raw", &codec.encode(&record).unwrap()).await;
    serve.wait_until(REJECTIONS, "1").await;
    assert_eq!(listed(&serve)["rejections"][0]["reason"], "unknown_source");
    serve.kill();

    let sources = folder.path().join("sources");
    std::fs::create_dir(&sources).unwrap();
    let algomo = include_str!("../../../../schemas/sources/algomo.toml");
    let parrot = algomo.replace("name = \"algomo\"", "name = \"parrot\"");
    std::fs::write(sources.join("parrot.toml"), parrot).unwrap();
    let variables = [("CHATPULSE__SOURCES__DIRECTORY", sources.to_str().unwrap())];
    let serve = Serve::start_with(&data_dir, &variables);
    let dry = serve.tool(&["rejected", "replay", "--dry-run"], &variables);
    assert_eq!(dry.0.trim(), "1 rejections, 1 could be replayed");
    assert_eq!(replayed(&serve, &variables)["replayed"], 1);
    serve.wait_until(&count("accepted"), "1").await;
    assert_eq!(replayed(&serve, &variables)["found"], 0);
    assert_balanced(&serve);
    serve.terminate();
}

use chatpulse_embedded::clickhouse::ClickHouse;
use chatpulse_model::{Actor, Event, EventType, Outcome, Phase, ReplayOf, ScoreKind};
use chatpulse_store::{Disposition, EventRow, Store, StoreConfig, StoreError};
use clickhouse::Client;

use crate::support::{
    DAY, START, client, config, duplicate, embedded, event, execute, insert, number, rejected,
    store,
};

/// Every view that fills a table, those that read what another fills last.
const FILLS: [&str; 12] = [
    "conversation_facts_fill",
    "event_health_fill",
    "rejections_fill",
    "session_sequences_fill",
    "conversation_starts_fill",
    "session_starts_fill",
    "event_health_hour_fill",
    "event_health_day_fill",
    "rejections_hour_fill",
    "event_keys_fill",
    "pipeline_health_fill",
    "tenant_health_fill",
];

/// Outcomes of every kind at the offsets from `first`, over two months of receipt.
fn block(first: i64, count: i64) -> Vec<Event> {
    (first..first + count)
        .map(|offset| {
            let mut made = match offset % 5 {
                3 => duplicate(offset),
                4 => rejected(offset),
                _ => event(offset),
            };
            made.event_type = if made.outcome == Outcome::Rejected {
                EventType::Unknown
            } else {
                EventType::MessageSent
            };
            made.actor = Actor::Visitor;
            made.conversation_id = Some(format!("c{}", offset % 7));
            made.session_id = Some(format!("s{}", offset % 3));
            made.sequence = Some(offset - first + 1);
            made.received_at = START + (offset % 2) * 31 * DAY;
            made.occurred_at = made.received_at - offset;
            made
        })
        .collect()
}

/// One row per table and view target: what no repetition may change. Parts are merged as the engine
/// likes, so sums are taken, not rows.
async fn state(client: &Client) -> Vec<u64> {
    let mut state = Vec::new();
    for sql in [
        "SELECT count() FROM events",
        "SELECT sum(sipHash64(partition, offset, event_id)) FROM events",
        "SELECT sum(received) FROM event_health",
        "SELECT sum(events) FROM event_keys",
        "SELECT sum(received) FROM pipeline_health WHERE unit = 'minute'",
        "SELECT sum(rejected) FROM pipeline_health WHERE unit = 'day'",
        "SELECT toUInt64(quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency)[1]) FROM pipeline_health WHERE unit = 'hour'",
        "SELECT sum(accepted) FROM tenant_health WHERE unit = 'hour'",
        "SELECT sum(duplicate) FROM tenant_health WHERE unit = 'day'",
        "SELECT sum(accepted) FROM event_health",
        "SELECT sum(duplicate) FROM event_health",
        "SELECT sum(rejected) FROM event_health",
        "SELECT toUInt64(quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency)[1]) FROM event_health",
        "SELECT sum(sipHash64(hour, event_type) * received) FROM event_health_hour",
        "SELECT sum(1000000 * accepted + 1000 * duplicate + rejected) FROM event_health_hour",
        "SELECT toUInt64(quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency)[2]) FROM event_health_hour",
        "SELECT sum(sipHash64(day, event_type) * received) FROM event_health_day",
        "SELECT sum(1000000 * accepted + 1000 * duplicate + rejected) FROM event_health_day",
        "SELECT toUInt64(quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency)[2]) FROM event_health_day",
        "SELECT sum(sipHash64(hour, reason) * rejected) FROM rejections_hour",
        "SELECT uniqExact(tenant, source, hour, id) FROM conversation_starts",
        "SELECT uniqExact(tenant, source, hour, id) FROM session_starts",
        "SELECT count() FROM rejections",
        "SELECT sum(sipHash64(partition, offset)) FROM rejections",
        "SELECT sum(arrived) FROM sessions",
        "SELECT sum(length(m)) FROM (SELECT groupUniqArrayArray(messages) AS m FROM conversation_facts
         GROUP BY tenant, source, conversation_id)",
    ] {
        state.push(number(client, sql).await);
    }
    state
}

#[tokio::test]
async fn every_field_of_an_event_arrives() {
    let store = store("insert_fields").await;
    let full = Event {
        partition: 3,
        detail: Some("d".into()),
        session_id: Some("s1".into()),
        sequence: Some(4),
        conversation_id: Some("c1".into()),
        visitor: Some("v".into()),
        widget_id: Some("w".into()),
        platform: Some("web".into()),
        language: Some("de".into()),
        link: Some("https://shop.example/".into()),
        page_url: Some("https://shop.example/p".into()),
        sdk: Some("chatpulse.js/1.0".into()),
        reported_total: Some(7),
        score: Some(4.5),
        score_kind: Some(ScoreKind::Stars),
        goal: Some("lead".into()),
        properties: [("k".to_owned(), "\u{202e} 🙂 ' \\ \n".to_owned())].into(),
        message_number: Some(2),
        phase: Some(Phase::Waiting),
        response_time_ms: Some(1_250),
        message_gap: Some(-1),
        replay_of: Some(ReplayOf {
            partition: 5,
            offset: 77,
        }),
        ..event(9)
    };
    insert(&store, "t", &[full, rejected(10)]).await;
    let text: String = client("insert_fields")
        .query_raw(
            "SELECT arrayStringConcat(groupArray(toString(line)), '|')
             FROM (SELECT tuple(* EXCEPT inserted_at) AS line FROM events ORDER BY offset)",
        )
        .fetch_one()
        .await
        .unwrap();
    let expected = concat!(
        "(3,9,'accepted',NULL,'d',NULL,NULL,'acme','watermelon','web','x','custom','system',true,'e9',",
        "'2024-06-03 12:00:00.000','native','2024-06-03 12:00:00.000','c1','s1',4,'v','w','web','de',",
        "'https://shop.example/','https://shop.example/p','chatpulse.js/1.0',7,4.5,'stars','lead',",
        "{'k':'\u{202e} 🙂 \\' \\\\ \\n'},2,'waiting',1250,-1,5,77)|",
        "(0,10,'rejected','invalid_json','no JSON at byte 3',17,",
        "'abababababababababababababababababababababababababababababababab','acme','watermelon','web','',",
        "'unknown','system',true,'','2024-06-03 12:00:00.000','native','2024-06-03 12:00:00.000',",
        "NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,{},NULL,NULL,NULL,NULL,NULL,NULL)",
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_repeated_insert_changes_nothing_in_any_table() {
    let store = store("insert_repeated").await;
    let client = client("insert_repeated");
    let rows = block(0, 500);
    insert(&store, "chat.events:0:0-500", &rows).await;
    let once = state(&client).await;
    assert_eq!(once[0], 500);
    insert(&store, "chat.events:0:0-500", &rows).await;
    assert_eq!(state(&client).await, once);
    insert(&store, "chat.events:0:500-1000", &block(500, 500)).await;
    insert(&store, "chat.events:0:0-500", &rows).await;
    assert_eq!(state(&client).await[0], 1_000);
    assert_eq!(state(&client).await[2], 1_000);
}

#[tokio::test]
async fn a_range_is_one_block_whatever_its_size() {
    let store = store("insert_one_block").await;
    let client = client("insert_one_block");
    execute(&client, "SYSTEM STOP MERGES events").await;
    // Beyond the size at which the server cuts blocks of its own reading.
    let mut rows = block(0, 150_000);
    for row in &mut rows {
        row.received_at = START;
    }
    insert(&store, "large", &rows).await;
    let parts = "SELECT count() FROM system.parts
                 WHERE database = 'insert_one_block' AND table = 'events' AND active";
    assert_eq!(number(&client, parts).await, 1);
    insert(&store, "large", &rows).await;
    assert_eq!(number(&client, "SELECT count() FROM events").await, 150_000);
}

#[tokio::test]
async fn what_died_between_table_and_views_is_completed() {
    let store = store("insert_between").await;
    let client = client("insert_between");
    insert(&store, "first", &block(0, 100)).await;
    // The views that had not been served when the first attempt died: those before each number, and
    // those from it on.
    let cuts = (1..=FILLS.len()).flat_map(|n| [&FILLS[..n], &FILLS[n - 1..]]);
    let mut blocks = 1;
    for missing in cuts {
        let token = format!("died-{blocks}");
        let rows = block(100 * blocks, 100);
        blocks += 1;
        for fill in missing {
            execute(&client, &format!("DETACH TABLE {fill}")).await;
        }
        insert(&store, &token, &rows).await;
        for fill in missing {
            execute(&client, &format!("ATTACH TABLE {fill}")).await;
        }
        insert(&store, &token, &rows).await;
        insert(&store, &token, &rows).await;
    }
    let interrupted = state(&client).await;
    let smooth = self::store("insert_smooth").await;
    for number in 0..blocks {
        insert(&smooth, &format!("{number}"), &block(100 * number, 100)).await;
    }
    assert_eq!(interrupted, state(&self::client("insert_smooth")).await);
}

#[tokio::test]
async fn other_rows_under_a_used_token_are_not_taken() {
    let store = store("insert_token").await;
    insert(&store, "t", &block(0, 10)).await;
    insert(&store, "t", &block(10, 10)).await;
    assert_eq!(
        number(
            &client("insert_token"),
            "SELECT toUInt64(max(offset)) FROM events"
        )
        .await,
        9
    );
}

#[tokio::test]
async fn an_empty_range_asks_nothing_of_the_server() {
    let nowhere = Store::new(&StoreConfig {
        url: "http://127.0.0.1:9".into(),
        ..StoreConfig::default()
    });
    assert_eq!(nowhere.insert_events("t", &[]).await.unwrap().rows, 0);
}

#[tokio::test]
async fn an_unreachable_server_is_retried_and_a_missing_table_is_not() {
    let nowhere = Store::new(&StoreConfig {
        url: "http://127.0.0.1:9".into(),
        ..StoreConfig::default()
    });
    let event = event(0);
    let rows = [EventRow::from(&event)];
    let error = nowhere.insert_events("t", &rows).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Retry, "{error}");

    let unmigrated = Store::new(&config("insert_unmigrated"));
    let error = unmigrated.insert_events("t", &rows).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Operator, "{error}");
}

#[tokio::test]
async fn a_column_added_under_way_does_not_stop_the_insert() {
    let store = store("insert_altered").await;
    let client = client("insert_altered");
    insert(&store, "a", &block(0, 5)).await;
    execute(
        &client,
        "ALTER TABLE events ADD COLUMN later String DEFAULT 'x' AFTER tenant",
    )
    .await;
    insert(&store, "b", &block(5, 5)).await;
    assert_eq!(
        number(&client, "SELECT countIf(later = 'x') FROM events").await,
        10
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_the_time_limit() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = Store::new(&StoreConfig {
        url: format!("http://{}", listener.local_addr().unwrap()),
        query_timeout: std::time::Duration::from_millis(50),
        ..StoreConfig::default()
    });
    let event = event(0);
    let error = silent
        .insert_events("t", &[EventRow::from(&event)])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    assert_eq!(error.disposition(), Disposition::Retry);
}

/// An engine has one data path per process, so the test starts itself again for each run of it.
#[test]
fn a_repeated_insert_changes_nothing_after_a_restart_either() {
    const DATA_DIR: &str = "STORE_TEST_DATA_DIR";
    if let Ok(data_dir) = std::env::var(DATA_DIR) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(insert_once_more(data_dir.into()));
    }
    let data_dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "insert::a_repeated_insert_changes_nothing_after_a_restart_either",
            ])
            .env(DATA_DIR, data_dir.path())
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stdout)
        );
        assert!(String::from_utf8_lossy(&run.stdout).contains("1 passed"));
    }
}

async fn insert_once_more(data_dir: std::path::PathBuf) {
    let server = ClickHouse::start(embedded(data_dir)).await.unwrap();
    let store = Store::new(&StoreConfig {
        url: server.url(),
        ..StoreConfig::default()
    });
    store.migrate().await.unwrap();
    insert(&store, "again", &block(0, 100)).await;
    let client = Client::default()
        .with_url(server.url())
        .with_database("chatpulse");
    assert_eq!(number(&client, "SELECT count() FROM events").await, 100);
    assert_eq!(
        number(&client, "SELECT sum(received) FROM event_health").await,
        100
    );
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_block_may_be_repeated_while_its_token_is_known_for_certain() {
    let database = "insert_repeatable";
    store(database).await;
    let store = Store::new(&StoreConfig {
        deduplication_window: 8,
        ..config(database)
    });
    let events = block(0, 10);
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    assert!(
        store.may_repeat(&rows).await.unwrap(),
        "it was never stored"
    );
    insert(&store, "first", &events).await;
    for number in 1..3 {
        insert(&store, &format!("other {number}"), &block(10 * number, 10)).await;
    }
    assert!(store.may_repeat(&rows).await.unwrap(), "two came after it");
    for number in 3..6 {
        insert(&store, &format!("other {number}"), &block(10 * number, 10)).await;
    }
    assert!(
        !store.may_repeat(&rows).await.unwrap(),
        "five came after it"
    );
}

//! Floods, wild times and hostile text: each outcome is a row, once, and its neighbours are theirs.

use std::collections::BTreeSet;

use chatpulse_model::{Actor, Event, EventType, TimeBasis};
use chatpulse_store::{Span, Unit, Window};

use crate::support::{DAY, HOUR, START, client, event, insert, number, store};

const WINDOW: Window = Window {
    since_ms: START,
    until_ms: START + DAY,
};
const BASELINE: Window = Window {
    since_ms: START - 7 * DAY,
    until_ms: START,
};

fn by_hour(window: Window) -> Span {
    Span {
        window,
        unit: Unit::Hour,
    }
}

fn message(offset: i64) -> Event {
    Event {
        event_type: EventType::MessageSent,
        actor: Actor::Visitor,
        conversation_id: Some("hot".into()),
        occurred_at: START + offset,
        message_number: Some(offset + 1),
        ..event(offset)
    }
}

#[tokio::test]
async fn a_flood_of_names_and_ids_is_counted_and_leaves_what_is_asked_for_bounded() {
    const FLOOD: i64 = 20_000;
    let store = store("hostile_flood").await;
    let client = client("hostile_flood");
    let mut events: Vec<Event> = (0..FLOOD)
        .map(|offset| Event {
            source_event: format!("invented {offset}"),
            documented: false,
            conversation_id: Some(format!("c{offset}")),
            session_id: Some(format!("s{offset}")),
            sequence: Some(1),
            language: Some(format!("l{offset}")),
            widget_id: Some(format!("w{offset}")),
            ..message(offset)
        })
        .collect();
    events.push(Event {
        source_event: "documented".into(),
        ..event(FLOOD)
    });
    events.push(Event {
        tenant: "bravo".into(),
        ..event(FLOOD + 1)
    });
    insert(&store, "flood", &events).await;
    for (sql, expected) in [
        ("SELECT count() FROM events", FLOOD + 2),
        ("SELECT sum(received) FROM event_health", FLOOD + 2),
        (
            "SELECT uniqExact(conversation_id) FROM conversation_facts",
            FLOOD,
        ),
        ("SELECT count() FROM events WHERE tenant = 'bravo'", 1),
    ] {
        assert_eq!(
            number(&client, sql).await,
            u64::try_from(expected).unwrap(),
            "{sql}"
        );
    }
    let (_, names) = store
        .expected("acme", by_hour(WINDOW), by_hour(BASELINE))
        .await
        .unwrap();
    assert_eq!(names.len(), 1_000);
    assert!(names.iter().any(|name| name.source_event == "documented"));
    let (_, of_bravo) = store
        .expected("bravo", by_hour(WINDOW), by_hour(BASELINE))
        .await
        .unwrap();
    assert_eq!(of_bravo.len(), 1);
}

#[tokio::test]
async fn a_hot_conversation_keeps_every_message() {
    const BLOCK: i64 = 25_000;
    let store = store("hostile_hot").await;
    for block in 0..4 {
        let rows: Vec<Event> = (block * BLOCK..(block + 1) * BLOCK).map(message).collect();
        insert(&store, &format!("t{block}"), &rows).await;
    }
    let client = client("hostile_hot");
    let messages = "SELECT toUInt64(length(groupUniqArrayArray(messages))) FROM conversation_facts";
    assert_eq!(number(&client, messages).await, 100_000);
    assert_eq!(
        number(&client, "SELECT sum(received) FROM event_health").await,
        100_000
    );
}

/// The producer refuses such times; a record of a foreign writer can hold them all the same.
#[tokio::test]
async fn a_time_beyond_every_calendar_is_a_row_and_blocks_nothing() {
    let store = store("hostile_times").await;
    let client = client("hostile_times");
    let times = [
        i64::MIN,
        -2_208_988_800_000,
        -1,
        0,
        9_223_372_036_854,
        10_413_792_000_000,
        i64::MAX,
    ];
    let mut events: Vec<Event> = (0..)
        .zip(times)
        .map(|(offset, at)| Event {
            occurred_at: at,
            received_at: at,
            time_basis: TimeBasis::Native,
            conversation_id: Some(format!("c{offset}")),
            ..message(offset)
        })
        .collect();
    events.push(message(100));
    insert(&store, "times", &events).await;
    insert(&store, "times", &events).await;
    insert(&store, "after", &[message(101)]).await;
    let rows = u64::try_from(times.len()).unwrap() + 2;
    for sql in [
        "SELECT count() FROM events",
        "SELECT sum(received) FROM event_health",
        "SELECT toUInt64(sum(length(m))) FROM
             (SELECT groupUniqArrayArray(messages) AS m FROM conversation_facts GROUP BY conversation_id)",
    ] {
        assert_eq!(number(&client, sql).await, rows, "{sql}");
    }
    let health = store.health("acme", by_hour(WINDOW)).await.unwrap();
    assert_eq!(
        health.rows[0].received, 2,
        "the neighbours, and none of the wild ones"
    );
}

#[tokio::test]
async fn hostile_text_is_stored_as_it_is_and_asks_nothing_of_the_server() {
    let store = store("hostile_text").await;
    let client = client("hostile_text");
    let texts = [
        "'; DROP TABLE events; --",
        "\\'); SELECT 1; --",
        "{tenant:String} ? $1 %s",
        "=HYPERLINK(\"http://x\")",
        "<script>alert(1)</script>",
        "\u{202e}evil \u{200d}🧑\u{200d}🚀 𝕏 \u{feff}",
        "tab\there\r\nline \u{0} nul",
        "\\N",
        "NULL",
    ];
    let events: Vec<Event> = (0..)
        .zip(texts)
        .map(|(offset, text)| Event {
            tenant: text.into(),
            source_event: text.into(),
            event_id: text.into(),
            conversation_id: Some(text.into()),
            widget_id: Some(text.into()),
            properties: [(text.to_owned(), text.to_owned())].into(),
            ..message(offset)
        })
        .collect();
    insert(&store, "text", &events).await;
    let stored: Vec<String> = client
        .query_raw(
            "SELECT tenant FROM events
             WHERE tenant = source_event AND tenant = event_id AND tenant = conversation_id
               AND tenant = widget_id AND tenant = properties[tenant]",
        )
        .fetch_all()
        .await
        .unwrap();
    let stored: BTreeSet<&str> = stored.iter().map(String::as_str).collect();
    assert_eq!(stored, BTreeSet::from(texts));
    for text in texts {
        let window = Window {
            until_ms: START + HOUR,
            ..WINDOW
        };
        let (_, names) = store
            .expected(text, by_hour(window), by_hour(BASELINE))
            .await
            .unwrap();
        assert_eq!(names.len(), 1, "{text}");
        assert_eq!(names[0].source_event, text);
    }
}

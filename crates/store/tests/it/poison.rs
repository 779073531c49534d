//! What the engine does with a block that it cannot take, and what is left of it.

use chatpulse_model::{Event, ReplayOf};
use chatpulse_store::{Disposition, EventRow, Inserted, Store, StoreError, UndecodableOutcome};

use crate::support::{DAY, START, client, event, execute, number, store};

const REFUSING: &str =
    "ALTER TABLE events ADD CONSTRAINT no_poison CHECK event_id NOT LIKE '%poison%'";

fn poison(offset: i64) -> Event {
    Event {
        event_id: format!("poison {offset}"),
        conversation_id: Some("c1".into()),
        session_id: Some("s1".into()),
        sequence: Some(3),
        ..event(offset)
    }
}

async fn try_insert(store: &Store, token: &str, events: &[Event]) -> Result<Inserted, StoreError> {
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    store.insert_events(token, &rows).await
}

#[tokio::test]
async fn of_a_block_with_a_refused_row_nothing_comes_in_and_the_token_stays_free() {
    let store = store("poison_constraint").await;
    let client = client("poison_constraint");
    execute(&client, REFUSING).await;
    // Over two months, so that the block makes two parts.
    let mut rows = vec![event(0), poison(1), event(2)];
    rows[2].received_at += 31 * DAY;
    let error = try_insert(&store, "t", &rows).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Poison, "{error}");
    assert_eq!(error.refusal().as_deref(), Some("469 VIOLATED_CONSTRAINT"));
    assert_eq!(number(&client, "SELECT count() FROM events").await, 0);
    assert_eq!(
        number(&client, "SELECT sum(received) FROM event_health").await,
        0
    );

    rows[1].event_id = "mended".into();
    try_insert(&store, "t", &rows).await.unwrap();
    assert_eq!(number(&client, "SELECT count() FROM events").await, 3);
    assert_eq!(
        number(&client, "SELECT sum(received) FROM event_health").await,
        3
    );
}

#[tokio::test]
async fn of_the_row_and_what_may_stand_for_it_one_is_stored_in_every_table() {
    let store = store("poison_alternatives").await;
    let client = client("poison_alternatives");
    let event = poison(7);
    let row = EventRow::from(&event);
    let refused = row.refused("469 VIOLATED_CONSTRAINT");
    assert_eq!((refused.tenant, refused.sequence), ("acme", Some(3)));
    assert_eq!((refused.event_id, refused.source_event), ("", ""));
    store
        .insert_events("t", std::slice::from_ref(&refused))
        .await
        .unwrap();
    // A frozen owner of before, after the constraint is gone; and the last resort.
    store
        .insert_events("t", &[row.clone(), row.refused_altogether("x")][..1])
        .await
        .unwrap();
    let bare = row.refused_altogether("469 VIOLATED_CONSTRAINT");
    assert_eq!((bare.tenant, bare.session_id), ("", None));
    store.insert_events("t", &[bare]).await.unwrap();
    for (sql, expected) in [
        ("SELECT count() FROM events", 1),
        ("SELECT sum(received) FROM event_health", 1),
        ("SELECT sum(rejected) FROM event_health", 1),
        (
            "SELECT count() FROM rejections WHERE reason = 'refused_by_store' AND tenant = 'acme'",
            1,
        ),
    ] {
        assert_eq!(number(&client, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_block_that_a_view_refuses_is_torn_and_completed_under_its_own_token() {
    let store = store("poison_view").await;
    let client = client("poison_view");
    execute(
        &client,
        "CREATE MATERIALIZED VIEW failing ENGINE = MergeTree ORDER BY x AS
         SELECT throwIf(event_id LIKE '%poison%') AS x FROM events",
    )
    .await;
    let rows = vec![event(0), poison(1), event(2)];
    for _ in 0..2 {
        let error = try_insert(&store, "t", &rows).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Torn {
                    stored: 3,
                    rows: 3,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.disposition(), Disposition::Operator);
    }
    execute(&client, "DROP TABLE failing SYNC").await;
    try_insert(&store, "t", &rows).await.unwrap();
    for (sql, expected) in [
        ("SELECT count() FROM events", 3),
        ("SELECT sum(received) FROM event_health", 3),
    ] {
        assert_eq!(number(&client, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn rows_of_many_months_make_one_block() {
    let store = store("poison_months").await;
    let client = client("poison_months");
    let rows: Vec<Event> = (0..150)
        .map(|month| Event {
            received_at: START - month * 31 * DAY,
            ..event(month)
        })
        .collect();
    for _ in 0..2 {
        try_insert(&store, "t", &rows).await.unwrap();
    }
    assert_eq!(number(&client, "SELECT count() FROM events").await, 150);
    assert_eq!(
        number(&client, "SELECT sum(received) FROM event_health").await,
        150
    );
}

#[tokio::test]
async fn a_column_or_table_that_is_gone_waits_for_an_operator_and_loses_no_row() {
    let store = store("poison_altered").await;
    let client = client("poison_altered");
    try_insert(&store, "a", &[event(0)]).await.unwrap();
    for (token, broken, mended) in [
        (
            "b",
            "ALTER TABLE events DROP COLUMN sdk",
            "ALTER TABLE events ADD COLUMN sdk LowCardinality(Nullable(String)) AFTER page_url",
        ),
        (
            "d",
            "RENAME TABLE events TO hidden",
            "RENAME TABLE hidden TO events",
        ),
    ] {
        let rows = [event(token.as_bytes()[0].into())];
        execute(&client, broken).await;
        // The first meets the columns of before, the second asks for them again.
        for _ in 0..2 {
            let error = try_insert(&store, token, &rows).await.unwrap_err();
            assert_eq!(
                error.disposition(),
                Disposition::Operator,
                "{token}: {error}"
            );
        }
        execute(&client, mended).await;
        let mut attempts = 0;
        while let Err(error) = try_insert(&store, token, &rows).await {
            attempts += 1;
            assert!(attempts < 2, "{token}: {error}");
        }
    }
    assert_eq!(number(&client, "SELECT count() FROM events").await, 3);
}

#[tokio::test]
async fn a_program_of_before_inserts_without_the_columns_of_later_migrations() {
    store("poison_columns").await;
    let client = client("poison_columns");
    // The client takes a row without a column only where the table declares a default.
    let without_default = "SELECT count() FROM system.columns
         WHERE database = currentDatabase() AND table = 'events' AND default_kind = ''
           AND name LIKE 'replay_of_%'";
    assert_eq!(number(&client, without_default).await, 0);
}

#[tokio::test]
async fn rows_of_before_a_migration_replay_nothing() {
    let store = store("poison_existing").await;
    let client = client("poison_existing");
    let old = Event {
        replay_of: Some(ReplayOf {
            partition: 3,
            offset: 44,
        }),
        ..event(1)
    };
    try_insert(&store, "t", &[event(0), old]).await.unwrap();
    let replays = "SELECT assumeNotNull(sum(toUInt64(replay_of_partition) * 100 + toUInt64(replay_of_offset))) FROM events";
    assert_eq!(number(&client, replays).await, 344);
    for sql in [
        "ALTER TABLE events DROP COLUMN replay_of_partition, DROP COLUMN replay_of_offset",
        "DROP TABLE undecodable_outcomes SYNC",
        "ALTER TABLE schema_migrations DELETE WHERE version = 5 SETTINGS mutations_sync = 2",
    ] {
        execute(&client, sql).await;
    }
    store.migrate().await.unwrap();
    store.ready().await.unwrap();
    assert_eq!(
        number(
            &client,
            "SELECT countIf(replay_of_partition IS NULL AND replay_of_offset IS NULL) FROM events"
        )
        .await,
        2
    );
}

#[tokio::test]
async fn an_undecodable_record_that_is_noted_again_is_listed_once() {
    let store = store("poison_undecodable").await;
    let record = |offset, payload| {
        UndecodableOutcome::new((3, offset), START, payload, "no known framing".into())
    };
    let records = [record(5, Some(b"garbage".as_slice())), record(9, None)];
    store.note_undecodable(&records[..1]).await.unwrap();
    store.note_undecodable(&records).await.unwrap();
    store.note_undecodable(&[]).await.unwrap();
    assert_eq!(store.undecodable_outcomes(10).await.unwrap(), records);
    assert_eq!(store.undecodable_outcomes(1).await.unwrap(), records[..1]);
    assert_eq!((records[0].bytes, records[1].bytes), (7, 0));
}

#[tokio::test]
async fn the_store_knows_how_far_it_has_come_with_a_partition() {
    let store = store("poison_until").await;
    try_insert(&store, "t", &[event(4), event(9)])
        .await
        .unwrap();
    assert_eq!(store.stored_until(0).await.unwrap(), Some(10));
    assert_eq!(store.stored_until(1).await.unwrap(), None);
}

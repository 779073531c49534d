//! Deliveries: what attempts come to, by minute, hour and day.

use chatpulse_model::{
    Delivery, DeliveryResult, DestinationKind, FailureClass, delivery::DestinationState,
};
use chatpulse_store::{AuditOptions, DeliveryRow, DestinationRow, Finding, Store};

use crate::support::{DAY, HOUR, SECOND, START, client, execute, number, store};

/// Turn `attempt` of delivery `number` to the CRM, `after` the start.
pub(crate) fn turn(number: i64, attempt: i32, after: i64) -> Delivery {
    Delivery {
        delivery_id: format!("msg_{number}"),
        tenant: "acme".into(),
        destination: "crm".into(),
        kind: DestinationKind::Webhook,
        source: "watermelon".into(),
        event_type: "message.sent".into(),
        event_id: format!("e{number}"),
        partition: 0,
        offset: number,
        occurred_at: START,
        received_at: START,
        attempt,
        at: START + after,
        duration_ms: Some(100),
        result: DeliveryResult::Delivered,
        failure: None,
        status: Some(200),
        detail: None,
        next_at: None,
        replayed: false,
    }
}

/// The same, failed, with another turn to come.
pub(crate) fn failed(number: i64, attempt: i32, after: i64) -> Delivery {
    Delivery {
        result: DeliveryResult::Retrying,
        failure: Some(FailureClass::Http5xx),
        status: Some(503),
        detail: Some("the receiver answered 503".into()),
        next_at: Some(START + after + HOUR),
        ..turn(number, attempt, after)
    }
}

/// Inserts them as the records from `first_offset` on.
pub(crate) async fn deliver(store: &Store, first_offset: i64, turns: &[Delivery]) {
    let rows: Vec<_> = (first_offset..)
        .zip(turns)
        .map(|(offset, turn)| DeliveryRow::new((0, offset), turn))
        .collect();
    store.insert_deliveries(&rows).await.unwrap();
}

pub(crate) fn destination(name: &str) -> DestinationState {
    DestinationState {
        tenant: "acme".into(),
        destination: name.into(),
        kind: DestinationKind::Webhook,
        address: "ab".into(),
        event_types: Vec::new(),
        is_configured: true,
        failing_since: None,
        disabled_at: None,
        reason: None,
    }
}

const TURNS: &str = "SELECT sum(turns) FROM delivery_rollup FINAL WHERE unit = ";

#[tokio::test]
async fn deliveries_by_hour_and_day_are_those_of_the_attempts_whatever_comes_twice() {
    let database = "delivery_rollup";
    let store = store(database).await;
    let client = client(database);
    let turns = [
        turn(1, 1, 0),
        failed(2, 1, 10 * SECOND),
        turn(2, 2, HOUR),
        turn(3, 1, DAY),
    ];
    deliver(&store, 0, &turns).await;
    let done = store.roll_up(START + DAY).await.unwrap();
    assert_eq!(done.delivery_hours, 3);
    // The sink was killed before its commit, and inserts them again; and one more came.
    deliver(&store, 0, &turns).await;
    deliver(&store, 4, &[turn(4, 1, 20 * SECOND)]).await;
    store.roll_up(START + DAY).await.unwrap();
    for (sql, expected) in [
        (format!("{TURNS}'hour'"), 5),
        (format!("{TURNS}'day'"), 5),
        (
            "SELECT turns FROM delivery_rollup FINAL WHERE unit = 'hour' ORDER BY at LIMIT 1".into(),
            3,
        ),
        (
            "SELECT failures['http_5xx'] FROM delivery_rollup FINAL WHERE unit = 'day' ORDER BY at LIMIT 1".into(),
            1,
        ),
        (
            "SELECT turns FROM delivery_rollup_bi.delivery_health_day ORDER BY day LIMIT 1".into(),
            4,
        ),
        (
            "SELECT sum(delivered) FROM delivery_rollup_bi.delivery_health_minute".into(),
            4,
        ),
        (
            "SELECT toUInt64(assumeNotNull(round(max(request_p99_ms)))) FROM delivery_rollup_bi.delivery_health_hour".into(),
            100,
        ),
        (
            "SELECT count() FROM delivery_rollup_bi.delivery_attempts".into(),
            5,
        ),
    ] {
        assert_eq!(number(&client, &sql).await, expected, "{sql}");
    }
    // Nothing came of a request that delivered nothing.
    let unknown = "SELECT count() FROM delivery_rollup_bi.delivery_health_minute
                   WHERE delivered = 0 AND request_p50_ms IS NOT NULL";
    assert_eq!(number(&client, unknown).await, 0);
}

#[tokio::test]
async fn the_audit_finds_deliveries_that_an_hour_or_a_day_has_not() {
    let database = "delivery_audit";
    let store = store(database).await;
    let client = client(database);
    deliver(&store, 0, &[turn(1, 1, 0), turn(2, 1, HOUR)]).await;
    let findings = async || {
        store
            .audit(&AuditOptions::default())
            .await
            .unwrap()
            .findings
    };
    assert_eq!(findings().await, [], "not rolled up yet, which is no fault");
    store.roll_up(START + DAY).await.unwrap();
    // Only what came in well before the last run is held against it.
    execute(
        &client,
        "ALTER TABLE deliveries UPDATE inserted_at = inserted_at - INTERVAL 5 MINUTE WHERE 1 SETTINGS mutations_sync = 2",
    )
    .await;
    assert_eq!(findings().await, []);
    for unit in ["hour", "day"] {
        let rows = format!(
            "INSERT INTO delivery_rollup SELECT * REPLACE (turns + 1 AS turns, now64(6, 'UTC') AS computed_at) FROM delivery_rollup FINAL WHERE unit = '{unit}'"
        );
        execute(&client, &rows).await;
        let wrong = Finding::RollUps {
            tenant: "acme".into(),
        };
        assert_eq!(findings().await, [wrong], "{unit}");
        store.roll_up(START + DAY).await.unwrap();
    }
}

#[tokio::test]
async fn the_last_word_on_a_destination_counts() {
    let database = "destinations";
    let store = store(database).await;
    let first = destination("crm");
    let disabled = DestinationState {
        disabled_at: Some(START),
        reason: Some("failing".into()),
        ..first.clone()
    };
    for _ in 0..2 {
        store
            .insert_destinations(&[
                DestinationRow::new(1, &disabled),
                DestinationRow::new(0, &first),
            ])
            .await
            .unwrap();
    }
    let rows = "SELECT countIf(reason = 'failing') * 10 + count() FROM destinations FINAL";
    assert_eq!(number(&client(database), rows).await, 11);
}

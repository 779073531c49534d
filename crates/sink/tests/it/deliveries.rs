//! Attempts to deliver events, on their way to ClickHouse.

use std::num::NonZeroU32;

use chatpulse_model::avro::{Codec, Framing};
use chatpulse_model::{Delivery, DeliveryResult, DestinationKind, FailureClass};
use chatpulse_store::{DeliveryCursor, DeliveryFilter};

use crate::support::{START, World};

/// Turn `attempt` of delivery `number`.
fn turn(number: i64, attempt: i32, failure: Option<FailureClass>) -> Delivery {
    let last = attempt == 7;
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
        occurred_at: START + number,
        received_at: START + number,
        attempt,
        at: START + i64::from(attempt) * 1_000,
        duration_ms: Some(10 * i64::from(attempt)),
        result: match failure {
            None => DeliveryResult::Delivered,
            Some(_) if last => DeliveryResult::GivenUp,
            Some(_) => DeliveryResult::Retrying,
        },
        failure,
        status: Some(200),
        detail: None,
        next_at: None,
        replayed: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_counts_once_whatever_is_inserted_twice() {
    let world = World::new("deliveries").await;
    world.make_delivery_topics().await;
    let codec = Codec::<Delivery>::new(Framing::SingleObject).unwrap();
    let mut turns = vec![
        // Delivered at once; delivered at the second turn; given up; still waiting.
        turn(1, 1, None),
        turn(2, 1, Some(FailureClass::Http5xx)),
        turn(2, 2, None),
        turn(4, 1, Some(FailureClass::Timeout)),
    ];
    turns.extend((1..=7).map(|attempt| turn(3, attempt, Some(FailureClass::Dns))));
    // A crash after the first delivery repeated it, and the repetition failed.
    turns.push(turn(1, 1, Some(FailureClass::Http5xx)));
    let mut payloads: Vec<_> = turns
        .iter()
        .map(|turn| codec.encode(turn).unwrap())
        .collect();
    payloads.insert(5, b"not ours".to_vec());
    world.write_deliveries(payloads).await;
    let count = "SELECT count() FROM deliveries FINAL";
    for group in ["one", "two"] {
        // The second reads all from the beginning, as after a crash before the commit.
        let sink = world.delivery_sink(group, NonZeroU32::new(5).unwrap());
        world.wait_until(count, 12).await;
        world
            .wait_until("SELECT countIf(log_offset = 12) FROM deliveries FINAL", 1)
            .await;
        sink.stop().await;
    }
    assert_eq!(world.number(count).await, 12);
    for (sql, expected) in [
        ("SELECT sum(turns) FROM delivery_health", 12),
        ("SELECT sum(attempts) FROM delivery_health", 12),
        ("SELECT sum(delivered) FROM delivery_health", 2),
        ("SELECT sumMap(failures)['dns'] FROM delivery_health", 7),
        (
            "SELECT sumMap(failures)['http_5xx'] FROM delivery_health",
            2,
        ),
        ("SELECT sum(given_up) FROM delivery_health", 1),
        ("SELECT count() FROM delivery_states", 4),
        ("SELECT count() FROM delivery_states WHERE is_final", 3),
    ] {
        assert_eq!(world.number(sql).await, expected, "{sql}");
    }
    let filter = |result: &str| DeliveryFilter {
        tenant: Some("acme".into()),
        result: Some(result.into()),
        from_ms: START,
        to_ms: START + 1_000,
        ..DeliveryFilter::default()
    };
    let list = async |result: &str| {
        world
            .store
            .deliveries(&filter(result), &DeliveryCursor::default(), 10)
            .await
            .unwrap()
    };
    let given_up = list("given_up").await;
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].delivery_id, "msg_3");
    assert_eq!(given_up[0].attempts, 7);
    assert_eq!(given_up[0].failure.as_deref(), Some("dns"));
    assert_eq!(list("delivered").await.len(), 2);
    assert_eq!(list("retrying").await[0].delivery_id, "msg_4");
}

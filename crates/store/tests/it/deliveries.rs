//! Deliveries: what attempts come to, by minute, hour and day.

use chatpulse_model::{
    Delivery, DeliveryResult, DestinationKind, Event, EventType, FailureClass,
    delivery::DestinationState,
};
use chatpulse_store::{
    AuditOptions, DeliveryCursor, DeliveryFilter, DeliveryRow, DestinationRow, Finding, Span,
    Store, Unit, Window,
};

use crate::support::{DAY, HOUR, SECOND, START, client, event, execute, insert, number, store};

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

/// So many after the start the next day begins.
fn midnight() -> i64 {
    DAY - START.rem_euclid(DAY)
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
async fn a_delivery_that_ended_has_ended_though_a_repeated_turn_came_later() {
    let database = "delivery_chains";
    let store = store(database).await;
    let client = client(database);
    let given_up = |number, attempt, after| Delivery {
        result: DeliveryResult::GivenUp,
        next_at: None,
        ..failed(number, attempt, after)
    };
    let replayed = |turn: Delivery| Delivery {
        replayed: true,
        ..turn
    };
    let turns = [
        // A kill left two chains: the second turn is repeated after the third was the last.
        failed(1, 1, 0),
        given_up(1, 3, 2 * SECOND),
        failed(1, 2, 3 * SECOND),
        // Replayed after its end.
        given_up(2, 3, 0),
        replayed(failed(2, 1, SECOND)),
        // Replayed twice, and given up again at last.
        given_up(3, 3, 0),
        replayed(failed(3, 2, SECOND)),
        replayed(given_up(3, 1, 2 * SECOND)),
    ];
    // What waits is looked for in the last days.
    let now = number(&client, "SELECT toUInt64(toUnixTimestamp64Milli(now64(3)))").await as i64;
    let turns = turns.map(|turn| Delivery {
        at: turn.at - START + now,
        ..turn
    });
    deliver(&store, 0, &turns).await;
    let of = async |what: &str| {
        let sql = format!(
            "SELECT toUInt64(groupBitOr(bitShiftLeft(1, offset))) FROM delivery_states WHERE {what}"
        );
        number(&client, &sql).await
    };
    assert_eq!(of("is_final AND result = 'given_up'").await, 0b1010);
    assert_eq!(
        of("result = 'retrying' AND next_at IS NOT NULL").await,
        0b0100
    );
    let pending = store.pending_deliveries("acme").await.unwrap();
    let waiting: u64 = pending.iter().map(|of| of.pending).sum();
    assert_eq!(waiting, 1);
}

#[tokio::test]
async fn an_hour_and_a_day_begin_with_their_first_moment_and_end_before_the_next() {
    let database = "delivery_midnight";
    let store = store(database).await;
    let turns = [
        turn(1, 1, midnight() - 1),
        turn(2, 1, midnight()),
        turn(3, 1, midnight() + HOUR - 1),
        turn(4, 1, midnight() + HOUR),
        turn(5, 1, midnight() + DAY - 1),
        turn(6, 1, midnight() + DAY),
    ];
    deliver(&store, 0, &turns).await;
    store.roll_up(START + 3 * DAY).await.unwrap();
    let client = client(database);
    for (unit, expected) in [("hour", "1,2,1,1,1"), ("day", "1,4,1")] {
        let turns = format!(
            "SELECT toUInt64(arrayStringConcat(groupArray(toString(turns)), ',') = '{expected}')
             FROM (SELECT turns FROM delivery_rollup FINAL WHERE unit = '{unit}' ORDER BY at)"
        );
        assert_eq!(number(&client, &turns).await, 1, "{unit}");
    }
}

#[tokio::test]
async fn what_is_there_twice_is_no_fault_to_the_audit_whether_it_is_merged_or_not() {
    let database = "delivery_audit_twice";
    let store = store(database).await;
    let client = client(database);
    deliver(&store, 0, &[turn(1, 1, 0), failed(2, 1, HOUR)]).await;
    // As if it had come long before the run.
    execute(
        &client,
        "ALTER TABLE deliveries UPDATE inserted_at = inserted_at - INTERVAL 5 MINUTE WHERE 1 SETTINGS mutations_sync = 2",
    )
    .await;
    for table in ["deliveries", "delivery_rollup"] {
        execute(&client, &format!("SYSTEM STOP MERGES {table}")).await;
    }
    execute(&client, "INSERT INTO deliveries SELECT * FROM deliveries").await;
    for _ in 0..2 {
        store.roll_up(START + DAY).await.unwrap();
    }
    for (table, once) in [("deliveries", 2), ("delivery_rollup", 3)] {
        let rows = format!("SELECT count() FROM {table}");
        assert!(
            number(&client, &rows).await > once,
            "{table}: nothing is twice"
        );
    }
    let audit = store.audit(&AuditOptions::default()).await.unwrap();
    assert_eq!(audit.findings, []);
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
                DestinationRow::new((1, START + HOUR), &disabled),
                DestinationRow::new((0, START), &first),
            ])
            .await
            .unwrap();
    }
    let client = client(database);
    let rows = "SELECT countIf(reason = 'failing') * 10 + count() FROM destination_states";
    assert_eq!(number(&client, rows).await, 11);
    let since =
        "SELECT toUInt64(toUnixTimestamp64Milli(assumeNotNull(since))) FROM destination_states";
    assert_eq!(number(&client, since).await, START as u64);
    // It left, and came again.
    let left = DestinationState {
        is_configured: false,
        ..disabled
    };
    store
        .insert_destinations(&[DestinationRow::new((2, START + 2 * HOUR), &left)])
        .await
        .unwrap();
    let configured = "SELECT countIf(is_configured OR since IS NOT NULL) FROM destination_states";
    assert_eq!(number(&client, configured).await, 0);
    store
        .insert_destinations(&[DestinationRow::new((3, START + 3 * HOUR), &first)])
        .await
        .unwrap();
    assert_eq!(number(&client, since).await, (START + 3 * HOUR) as u64);
}

#[tokio::test]
async fn deliveries_are_told_by_destination_type_and_time_in_every_unit() {
    let database = "delivery_questions";
    let store = store(database).await;
    // Of now, since what waits is asked for as of now.
    let now = number(
        &client(database),
        "SELECT toUInt64(toUnixTimestamp64Milli(now64(3)))",
    )
    .await as i64;
    let base = now - now.rem_euclid(HOUR) - HOUR;
    let at = |turn: Delivery, after: i64| Delivery {
        received_at: base,
        at: base + after,
        next_at: turn.next_at.map(|_| base + after + HOUR),
        ..turn
    };
    let of_erp = |turn: Delivery| Delivery {
        destination: "erp".into(),
        event_type: "lead.qualified".into(),
        delivery_id: format!("{}_erp", turn.delivery_id),
        ..turn
    };
    let given_up = Delivery {
        result: DeliveryResult::GivenUp,
        failure: Some(FailureClass::Refused),
        status: Some(400),
        next_at: None,
        ..at(failed(4, 1, 0), 4 * SECOND)
    };
    let unsent = Delivery {
        result: DeliveryResult::Withheld,
        failure: Some(FailureClass::ConsentUnknown),
        duration_ms: None,
        status: None,
        next_at: None,
        ..at(failed(5, 1, 0), 5 * SECOND)
    };
    let turns = [
        at(turn(1, 1, 0), SECOND),
        // Delivered at the second turn, ten minutes later.
        at(failed(2, 1, 0), 2 * SECOND),
        at(turn(2, 2, 0), 602 * SECOND),
        of_erp(at(failed(3, 1, 0), 3 * SECOND)),
        of_erp(given_up),
        unsent,
        // Of somebody else.
        Delivery {
            tenant: "bravo".into(),
            ..at(failed(6, 1, 0), SECOND)
        },
    ];
    // What is there twice stays so, and must not be seen.
    for table in ["deliveries", "delivery_rollup"] {
        execute(&client(database), &format!("SYSTEM STOP MERGES {table}")).await;
    }
    deliver(&store, 0, &turns).await;
    store.roll_up(now).await.unwrap();
    deliver(&store, 0, &turns).await;
    store.roll_up(now).await.unwrap();
    let requests = "SELECT sum(attempts) FROM delivery_states WHERE tenant = 'acme'";
    assert_eq!(number(&client(database), requests).await, 5);
    for unit in [Unit::Minute, Unit::Hour, Unit::Day] {
        let since_ms = base - base.rem_euclid(unit.ms());
        let window = Window {
            since_ms,
            until_ms: base + HOUR,
        };
        let span = Span { window, unit };
        let figures = store.delivery_figures("acme", span).await.unwrap();
        let keys: Vec<_> = figures
            .iter()
            .map(|of| (of.destination.as_deref(), of.event_type.as_deref()))
            .collect();
        assert_eq!(
            keys,
            [
                (None, None),
                (Some("crm"), None),
                (Some("crm"), Some("message.sent")),
                (Some("erp"), None),
                (Some("erp"), Some("lead.qualified")),
            ],
            "{unit:?}"
        );
        let all = &figures[0];
        assert_eq!(
            (all.turns, all.attempts, all.delivered, all.retrying),
            (6, 5, 2, 2),
            "{unit:?}"
        );
        assert_eq!((all.failed, all.given_up, all.withheld), (3, 1, 1));
        let failures: Vec<_> = all
            .failures
            .iter()
            .map(|(class, n)| (class.as_str(), *n))
            .collect();
        assert_eq!(
            failures,
            [("consent_unknown", 1), ("http_5xx", 2), ("refused", 1)]
        );
        assert!((all.request_ms[0] - 100.0).abs() <= 1.0);
        // 1.1 s and 602.1 s after they were received; of two values every percentile is the first.
        assert!(
            (all.delay_ms[0] / 1_100.0 - 1.0).abs() < 0.02,
            "{:?}",
            all.delay_ms
        );
        assert!(figures[3].request_ms.is_empty() && figures[3].delay_ms.is_empty());
        let points = store.delivery_series("acme", span).await.unwrap();
        let expected = if unit == Unit::Minute { 3 } else { 2 };
        assert_eq!(points.len(), expected, "{unit:?}: {points:?}");
        assert_eq!(points.iter().map(|point| point.delivered).sum::<u64>(), 2);
        let types = store.delivery_type_series("acme", span).await.unwrap();
        assert_eq!(types.last().unwrap().event_type, "lead.qualified");
        assert_eq!(types.last().unwrap().given_up, 1);
    }
    let pending = store.pending_deliveries("acme").await.unwrap();
    assert_eq!(pending.len(), 1, "{pending:?}");
    assert_eq!(
        (pending[0].destination.as_str(), pending[0].pending),
        ("erp", 1)
    );
    assert_eq!(pending[0].oldest_received_ms, base);
    // What was delivered once does not wait, whatever a repeated turn came to; nor does what was given up.
    let of_bravo = |turn: Delivery, after: i64| Delivery {
        tenant: "bravo".into(),
        ..at(turn, after)
    };
    let ended = [
        of_bravo(turn(7, 1, 0), 7 * SECOND),
        of_bravo(failed(7, 2, 0), 8 * SECOND),
        of_bravo(failed(8, 1, 0), 9 * SECOND),
        Delivery {
            result: DeliveryResult::GivenUp,
            next_at: None,
            ..of_bravo(failed(8, 2, 0), 10 * SECOND)
        },
    ];
    deliver(&store, 7, &ended).await;
    let pending = store.pending_deliveries("bravo").await.unwrap();
    assert_eq!((pending.len(), pending[0].pending), (1, 1), "{pending:?}");

    let window = Window {
        since_ms: base,
        until_ms: base + HOUR,
    };
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .failed_turns("acme", window, (after.as_ref(), 2))
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.cursor());
        seen.extend(page.into_iter().map(|turn| (turn.failure, turn.result)));
    }
    let seen: Vec<_> = seen.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("consent_unknown", "withheld"),
            ("refused", "given_up"),
            ("http_5xx", "retrying"),
            ("http_5xx", "retrying"),
        ]
    );
}

#[tokio::test]
async fn deliveries_are_listed_latest_first_or_in_the_order_of_their_ids_within_a_time() {
    let store = store("delivery_lists").await;
    let of = |number: i64, received_after: i64, at: i64| Delivery {
        received_at: START + received_after,
        result: DeliveryResult::GivenUp,
        next_at: None,
        ..failed(number, 1, at)
    };
    let turns = [
        of(1, 0, 3 * SECOND),
        of(2, SECOND, 5 * SECOND),
        of(3, 2 * SECOND, 4 * SECOND),
        of(4, 3 * SECOND, 6 * SECOND),
        turn(5, 1, SECOND),
    ];
    deliver(&store, 0, &turns).await;
    let filter = DeliveryFilter {
        tenant: Some("acme".into()),
        destination: Some("crm".into()),
        result: Some("given_up".into()),
        from_ms: START,
        to_ms: START + 3 * SECOND,
    };
    let ids = |found: Vec<chatpulse_store::DeliveryState>| -> Vec<String> {
        found.into_iter().map(|state| state.delivery_id).collect()
    };
    let latest = store.latest_deliveries(&filter, 2).await.unwrap();
    assert_eq!(ids(latest), ["msg_2", "msg_3"]);
    let start = DeliveryCursor::default();
    let first = store.deliveries(&filter, &start, 2).await.unwrap();
    let after = first[1].cursor();
    let rest = store.deliveries(&filter, &after, 2).await.unwrap();
    assert_eq!(ids(rest), ["msg_3"]);
    assert_eq!(ids(first), ["msg_1", "msg_2"]);
    for other in [
        DeliveryFilter {
            tenant: Some("bravo".into()),
            ..filter.clone()
        },
        DeliveryFilter {
            destination: Some("erp".into()),
            ..filter.clone()
        },
        DeliveryFilter {
            result: Some("withheld".into()),
            ..filter.clone()
        },
        DeliveryFilter {
            from_ms: START + 3 * SECOND,
            to_ms: START + 3 * SECOND,
            ..filter
        },
    ] {
        assert_eq!(
            ids(store.latest_deliveries(&other, 10).await.unwrap()),
            [""; 0]
        );
    }
}

#[tokio::test]
async fn the_last_word_on_consent_is_told_by_conversation() {
    let store = store("delivery_consents").await;
    let said = |offset: i64, conversation: &str, event_type: EventType| Event {
        event_type,
        conversation_id: Some(conversation.into()),
        ..event(offset)
    };
    let accepted = EventType::ConsentAccepted;
    let declined = EventType::ConsentDeclined;
    insert(
        &store,
        "consents",
        &[
            said(0, "yes", declined),
            said(1, "yes", accepted),
            said(2, "no", accepted),
            said(3, "no", declined),
            said(4, "silent", EventType::MessageSent),
            said(5, "of nobody's interest", accepted),
            Event {
                tenant: "bravo".into(),
                ..said(6, "silent", accepted)
            },
        ],
    )
    .await;
    let key = |conversation: &str| {
        let event = event(0);
        (event.tenant, event.source, conversation.to_owned())
    };
    let words = store
        .consents(&[key("yes"), key("no"), key("silent"), key("it's 'odd'")])
        .await
        .unwrap();
    assert_eq!(words, [(key("yes"), true), (key("no"), false)].into());
    assert!(store.consents(&[]).await.unwrap().is_empty());
}

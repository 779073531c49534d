use std::collections::BTreeMap;

use chatpulse_model::Event;
use chatpulse_store::{Audit, AuditOptions, Claim, EventRow, Finding, Store};

use crate::support::{Script, client, duplicate, event, execute, insert, rejected, store};

async fn audit(store: &Store) -> Audit {
    store.audit(&AuditOptions::default()).await.unwrap()
}

/// Outcomes of every kind at the offsets from 0 to 9 of two partitions.
fn sound() -> Vec<Event> {
    let mut script = Script::new("watermelon");
    script.visitor(0);
    script.bot(1_000);
    script.visitor(2_000);
    let mut events = script.events;
    events.extend([duplicate(3), rejected(4), event(5)]);
    events.extend((0..4).map(|offset| Event {
        partition: 1,
        tenant: "bravo".into(),
        event_id: format!("b{offset}"),
        ..event(offset)
    }));
    events
}

#[tokio::test]
async fn sound_books_balance_and_say_so() {
    let store = store("audit_sound").await;
    insert(&store, "all", &sound()).await;
    let audit = audit(&store).await;
    assert_eq!(audit.findings, [], "{audit}");
    assert!(audit.balanced);
    assert_eq!(audit.conversations, 1);
    assert_eq!(
        audit.to_string(),
        "partition 0: 6 outcomes of offsets 0 to 5\n\
         partition 1: 4 outcomes of offsets 0 to 3\n\
         tenant \"acme\": received 6 = accepted 4 + duplicate 1 + rejected 1; 1 conversations\n\
         tenant \"bravo\": received 4 = accepted 4 + duplicate 0 + rejected 0; 0 conversations\n\
         1 conversations compared; the books balance"
    );
}

#[tokio::test]
async fn an_empty_store_balances() {
    assert!(audit(&store("audit_empty").await).await.balanced);
}

#[tokio::test]
async fn missing_and_repeated_offsets_are_named() {
    let store = store("audit_offsets").await;
    let offsets = [2, 3, 3, 3, 6, 9, 9];
    let events: Vec<Event> = offsets
        .iter()
        .enumerate()
        .map(|(n, offset)| Event {
            event_id: format!("{n}"),
            ..event(*offset)
        })
        .collect();
    insert(&store, "all", &events).await;
    let missing = |first, last| Finding::Missing {
        partition: 0,
        first,
        last,
    };
    let repeated = |offset, times| Finding::Repeated {
        partition: 0,
        offset,
        times,
    };
    let found = audit(&store).await;
    assert!(!found.balanced);
    assert_eq!(
        found.findings,
        [
            missing(0, 1),
            missing(4, 5),
            missing(7, 8),
            repeated(3, 3),
            repeated(9, 2)
        ]
    );
    let options = AuditOptions {
        claims: BTreeMap::from([(0, Claim { low: 2, stored: 10 })]),
        listed: 1,
    };
    let kept = store.audit(&options).await.unwrap();
    assert_eq!(kept.findings, [missing(4, 5), repeated(3, 3)]);
}

#[tokio::test]
async fn views_that_lack_what_the_table_has_are_found() {
    let store = store("audit_views").await;
    insert(&store, "all", &sound()).await;
    let client = client("audit_views");
    let roll_ups = |tenant: &str| Finding::RollUps {
        tenant: tenant.into(),
    };
    execute(&client, "TRUNCATE TABLE rejections").await;
    let found = audit(&store).await;
    assert_eq!(
        found.findings,
        [
            Finding::Unbalanced {
                tenant: "acme".into()
            },
            roll_ups("acme"),
        ]
    );
    assert!(found.to_string().contains("rejections: 0"));
    execute(&client, "TRUNCATE TABLE rejections_hour").await;
    assert_eq!(audit(&store).await.findings.len(), 1);
    execute(&client, "TRUNCATE TABLE event_health").await;
    assert_eq!(audit(&store).await.findings.len(), 4);
}

#[tokio::test]
async fn roll_ups_that_are_not_the_sums_of_their_parts_are_found() {
    let store = store("audit_roll_ups").await;
    insert(&store, "all", &sound()).await;
    let client = client("audit_roll_ups");
    execute(
        &client,
        "INSERT INTO event_health_day SELECT * FROM event_health_day WHERE tenant = 'bravo'",
    )
    .await;
    let roll_ups = |tenant: &str| Finding::RollUps {
        tenant: tenant.into(),
    };
    assert_eq!(audit(&store).await.findings, [roll_ups("bravo")]);
    execute(&client, "TRUNCATE TABLE event_health_hour").await;
    assert_eq!(
        audit(&store).await.findings,
        [roll_ups("acme"), roll_ups("bravo")]
    );
}

#[tokio::test]
async fn a_view_that_has_what_the_table_lacks_is_found() {
    let store = store("audit_extra").await;
    insert(&store, "all", &sound()).await;
    execute(
        &client("audit_extra"),
        "ALTER TABLE events DELETE WHERE tenant = 'bravo' SETTINGS mutations_sync = 2",
    )
    .await;
    assert_eq!(
        audit(&store).await.findings,
        [Finding::Unbalanced {
            tenant: "bravo".into()
        }]
    );
}

#[tokio::test]
async fn stream_and_store_must_agree_on_the_messages_of_a_conversation() {
    let store = store("audit_messages").await;
    let mut events = sound();
    events[2].message_number = Some(4);
    insert(&store, "all", &events).await;
    let findings = audit(&store).await.findings;
    let [Finding::Messages(counts)] = findings.as_slice() else {
        panic!("{findings:?}")
    };
    assert_eq!((counts.events, counts.stream, counts.facts), (3, 4, 3));

    execute(
        &client("audit_messages"),
        "TRUNCATE TABLE conversation_facts",
    )
    .await;
    let findings = audit(&store).await.findings;
    assert!(
        findings
            .iter()
            .any(|finding| matches!(finding, Finding::Messages(counts) if counts.facts == 0))
    );
}

#[tokio::test]
async fn a_conversation_that_the_stream_forgot_and_met_again_is_no_finding() {
    let store = store("audit_forgotten").await;
    let mut events = sound();
    events[2].message_number = Some(1);
    insert(&store, "all", &events).await;
    assert_eq!(audit(&store).await.findings, []);
}

#[tokio::test]
async fn what_the_broker_knows_to_be_stored_must_be_there() {
    let store = store("audit_claims").await;
    let events: Vec<Event> = (3..6).map(event).collect();
    insert(&store, "all", &events).await;
    let missing = |partition, first, last| Finding::Missing {
        partition,
        first,
        last,
    };
    let findings = async |claims: &[(i32, i64, i64)]| {
        let claims = claims
            .iter()
            .map(|&(partition, low, stored)| (partition, Claim { low, stored }));
        let options = AuditOptions {
            claims: claims.collect(),
            ..AuditOptions::default()
        };
        store.audit(&options).await.unwrap().findings
    };
    assert_eq!(findings(&[(0, 3, 6)]).await, []);
    assert_eq!(
        findings(&[(0, 5, 6)]).await,
        [],
        "deleted after it was stored"
    );
    assert_eq!(
        findings(&[(0, 3, 4)]).await,
        [],
        "stored, and not yet committed"
    );
    assert_eq!(findings(&[(0, 0, 6)]).await, [missing(0, 0, 2)]);
    assert_eq!(findings(&[(0, 3, 9)]).await, [missing(0, 6, 8)]);
    assert_eq!(
        findings(&[(0, 3, 6), (1, 2, 7), (2, 4, 4)]).await,
        [missing(1, 2, 6)],
        "a partition of which the store has nothing"
    );
}

#[tokio::test]
async fn a_message_that_was_lost_behind_the_stream_is_not_missed_a_second_time() {
    let events = sound();
    let (first, second) = (&events[0], &events[1]);
    let rows = [
        EventRow::from(first).refused("VIOLATED_CONSTRAINT (469)"),
        EventRow::lost(first.partition, first.offset, first.received_at),
    ];
    for (name, row) in ["audit_refused", "audit_lost"].into_iter().zip(rows) {
        let store = store(name).await;
        store.insert_events("a", &[row]).await.unwrap();
        insert(&store, "b", &events[1..]).await;
        assert_eq!(audit(&store).await.findings, [], "{name}");
    }
    // And in another conversation of the same partition it would be, were it not lost.
    let store = store("audit_not_lost").await;
    insert(
        &store,
        "a",
        &[
            Event {
                conversation_id: None,
                ..first.clone()
            },
            second.clone(),
        ],
    )
    .await;
    assert_eq!(audit(&store).await.findings.len(), 1);
}

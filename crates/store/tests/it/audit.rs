use std::collections::BTreeMap;

use chatpulse_model::Event;
use chatpulse_store::{Audit, AuditOptions, Finding, Store};

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
        lowest_kept: BTreeMap::from([(0, 2)]),
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
    execute(&client, "TRUNCATE TABLE rejections").await;
    let found = audit(&store).await;
    assert_eq!(
        found.findings,
        [Finding::Unbalanced {
            tenant: "acme".into()
        }]
    );
    assert!(found.to_string().contains("rejections: 0"));
    execute(&client, "TRUNCATE TABLE event_health").await;
    assert_eq!(audit(&store).await.findings.len(), 2);
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

use chatpulse_model::{Event, Outcome, ReplayOf};
use chatpulse_store::{RejectionFilter, Replayed, Store};

use crate::support::{event, insert, rejected, store};

async fn pending(store: &Store) -> Vec<i64> {
    let filter = RejectionFilter {
        pending_only: true,
        ..RejectionFilter::default()
    };
    let found = store.rejections(&filter, None, 100).await.unwrap();
    found.iter().map(|rejection| rejection.offset).collect()
}

#[tokio::test]
async fn rejections_come_in_pages_and_by_filter() {
    let store = store("rejected_pages").await;
    let other = Event {
        tenant: "bravo".into(),
        ..rejected(9)
    };
    let events: Vec<Event> = (0..5).map(rejected).chain([other, event(10)]).collect();
    insert(&store, "all", &events).await;

    let everything = RejectionFilter::default();
    let first = store.rejections(&everything, None, 4).await.unwrap();
    let after = first.last().map(|rejection| rejection.cursor());
    let second = store.rejections(&everything, after, 4).await.unwrap();
    let offsets: Vec<i64> = first.iter().chain(&second).map(|r| r.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 9]);

    let matching =
        async |filter: RejectionFilter| store.rejections(&filter, None, 100).await.unwrap().len();
    let some = |text: &str| Some(text.to_owned());
    let filter = RejectionFilter::default;
    assert_eq!(
        matching(RejectionFilter {
            tenant: some("bravo"),
            ..filter()
        })
        .await,
        1
    );
    assert_eq!(
        matching(RejectionFilter {
            source: some("loyjoy"),
            ..filter()
        })
        .await,
        0
    );
    assert_eq!(
        matching(RejectionFilter {
            reason: some("invalid_json"),
            ..filter()
        })
        .await,
        6
    );
    let later = Some(events[0].received_at + 1);
    assert_eq!(
        matching(RejectionFilter {
            since_ms: later,
            ..filter()
        })
        .await,
        0
    );
}

#[tokio::test]
async fn a_rejection_is_pending_until_it_was_replayed_and_tells_what_came_of_it() {
    let store = store("rejected_replayed").await;
    insert(&store, "a", &[rejected(0), rejected(1)]).await;
    assert_eq!(pending(&store).await, [0, 1]);
    let replay = |offset, outcome| Event {
        outcome,
        replay_of: Some(ReplayOf {
            partition: 0,
            offset: 1,
        }),
        ..event(offset)
    };
    insert(&store, "b", &[replay(2, Outcome::Accepted)]).await;
    insert(&store, "c", &[replay(3, Outcome::Duplicate)]).await;
    assert_eq!(pending(&store).await, [0]);
    let all = RejectionFilter::default();
    let found = store.rejections(&all, None, 100).await.unwrap();
    assert_eq!(found[0].replayed, None);
    let taken = Replayed {
        outcome: "accepted".into(),
        partition: 0,
        offset: 2,
    };
    assert_eq!(found[1].replayed, Some(taken));
}

#[tokio::test]
async fn accepted_ids_are_those_of_the_tenant_and_source() {
    let store = store("rejected_ids").await;
    let (mine, other) = (event(0), rejected(1));
    insert(&store, "a", &[mine.clone(), other]).await;
    let ids = [mine.event_id.clone(), "no such".to_owned()];
    let found = async |tenant: &str| {
        let ids = store.accepted_ids(tenant, &mine.source, &ids).await;
        ids.unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(found(&mine.tenant).await, [mine.event_id.as_str()]);
    assert!(found("bravo").await.is_empty());
}

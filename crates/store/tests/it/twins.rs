//! Events that come both from the page and from the vendor's server.

use chatpulse_model::{Event, EventType, Outcome};
use chatpulse_store::{TwinCount, Window};

use crate::support::{HOUR, SECOND, START, event, insert, store};

/// Sent by the snippet, or by a server.
fn sent(offset: i64, id: &str, by_page: bool) -> Event {
    let at = START + offset * SECOND;
    Event {
        source: "autochat".into(),
        // Names differ: Autochat's page says everything under two.
        source_event: if by_page {
            "autochat.widget_tracking.v1"
        } else {
            "autochat.lead_qualified.v1"
        }
        .into(),
        event_type: EventType::LeadQualified,
        event_id: id.into(),
        occurred_at: at,
        received_at: at,
        sdk: by_page.then(|| "chatpulse.js/1".into()),
        ..event(offset)
    }
}

/// The copy that comes the second way.
fn copy(event: Event) -> Event {
    Event {
        outcome: Outcome::Duplicate,
        ..event
    }
}

#[tokio::test]
async fn what_came_one_way_only_is_counted_where_its_type_came_both_ways() {
    let store = store("twins").await;
    let other = |event: Event| Event {
        event_type: EventType::GoalMet,
        ..event
    };
    let events = [
        // Both ways, the page first; and the server first.
        sent(0, "a", true),
        copy(sent(1, "a", false)),
        sent(2, "b", false),
        copy(sent(3, "b", true)),
        // The page sends everything twice itself, which is no twin.
        sent(4, "c", true),
        copy(sent(5, "c", true)),
        // Lost in the browser.
        sent(6, "d", false),
        // Of a type that never comes from the page, and of a source without one.
        other(sent(7, "e", false)),
        Event {
            source: "algomo".into(),
            ..sent(8, "f", false)
        },
        // Of an hour later, when the page was dead.
        Event {
            occurred_at: START + HOUR + SECOND,
            received_at: START + HOUR + SECOND,
            ..sent(9, "g", false)
        },
        // Each way with a clock of its own, in two hours.
        Event {
            occurred_at: START + HOUR - 100,
            ..sent(11, "h", false)
        },
        Event {
            occurred_at: START + HOUR + 100,
            ..copy(sent(12, "h", true))
        },
    ];
    insert(&store, "twins", &events).await;
    let window = Window {
        since_ms: START,
        until_ms: START + 4 * HOUR,
    };
    let twins = async || store.twins("acme", window).await.unwrap();
    // The hour has not been over for an hour.
    store.roll_up(START + 2 * HOUR - 1).await.unwrap();
    assert_eq!(twins().await, []);
    let done = store.roll_up(START + 3 * HOUR).await.unwrap();
    assert!(done.twin_hours >= 2, "{done:?}");
    let expected = TwinCount {
        source: "autochat".into(),
        types: 1,
        server: 5,
        server_both: 3,
        page: 4,
        page_both: 3,
    };
    assert_eq!(twins().await, std::slice::from_ref(&expected));
    // What the page had kept comes with the next visit; a day later the hour is computed again.
    let late = Event {
        received_at: START + 20 * HOUR,
        ..copy(sent(6, "d", true))
    };
    insert(&store, "late", &[Event { offset: 10, ..late }]).await;
    store.roll_up(START + 25 * HOUR).await.unwrap();
    assert_eq!(twins().await[0].server_both, 3);
    store.roll_up(START + 26 * HOUR).await.unwrap();
    let found = twins().await;
    assert_eq!((found[0].server_both, found[0].page), (4, 5));
    // Where nothing ever comes both ways, nothing is known.
    assert_eq!(store.twins("bravo", window).await.unwrap(), []);
}

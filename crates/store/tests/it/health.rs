use chatpulse_model::{Event, EventType, RejectReason, TimeBasis};
use chatpulse_store::{BrowserLoss, GapCount, NameHealth, RejectionCount, Span, Unit, Window};

use crate::support::{DAY, HOUR, SECOND, START, Script, duplicate, event, insert, rejected, store};

const WINDOW: Window = Window {
    since_ms: START,
    until_ms: START + DAY,
};
const BASELINE: Window = Window {
    since_ms: START - 7 * DAY,
    until_ms: START,
};
const SPAN: Span = Span {
    window: WINDOW,
    unit: Unit::Hour,
};
const BEFORE: Span = Span {
    window: BASELINE,
    unit: Unit::Hour,
};

/// An event of a name, so long after it happened received at the given time after [`START`].
fn named(offset: i64, name: &str, received: i64, delay: i64) -> Event {
    Event {
        source_event: name.into(),
        event_type: EventType::WidgetOpened,
        received_at: START + received,
        occurred_at: START + received - delay,
        ..event(offset)
    }
}

#[tokio::test]
async fn delivery_is_counted_by_type_in_window_and_baseline() {
    let store = store("health_types").await;
    let mut events = vec![
        named(0, "opened", 0, 100),
        named(1, "opened", HOUR, 300_000),
        named(2, "opened", HOUR, 300_001),
        named(3, "opened", HOUR, -5_000),
        Event {
            time_basis: TimeBasis::Received,
            ..named(4, "opened", HOUR, 0)
        },
        Event {
            event_type: EventType::WidgetOpened,
            ..duplicate(5)
        },
        rejected(6),
        named(7, "opened", -HOUR, 10),
        named(8, "opened", -8 * DAY, 10),
        named(9, "opened", DAY, 10),
        Event {
            tenant: "bravo".into(),
            ..named(10, "opened", 0, 10)
        },
    ];
    events[8].event_type = EventType::WidgetClosed;
    insert(&store, "all", &events).await;
    let health = store.health("acme", SPAN).await.unwrap();
    let points = store.health_series("acme", SPAN).await.unwrap();
    assert_eq!(health.points, points, "the same, asked for at once");
    let [all, of_source, unknown, opened] = health.rows.as_slice() else {
        panic!("{health:?}")
    };
    assert_eq!(
        (all.source.as_deref(), all.event_type.as_deref()),
        (None, None)
    );
    assert_eq!(
        (all.received, all.accepted, all.duplicate, all.rejected),
        (7, 5, 1, 1)
    );
    assert_eq!(
        (of_source.source.as_deref(), of_source.event_type.as_deref()),
        (Some("watermelon"), None)
    );
    assert_eq!(of_source.receive_ms, all.receive_ms);
    assert_eq!(
        (
            unknown.event_type.as_deref().unwrap(),
            unknown.received,
            unknown.rejected
        ),
        ("unknown", 1, 1)
    );
    assert_eq!(
        (unknown.receive_ms.len(), unknown.queryable_ms.len()),
        (0, 0)
    );
    assert_eq!(opened.event_type.as_deref(), Some("widget.opened"));
    assert_eq!(
        (
            opened.received,
            opened.accepted,
            opened.duplicate,
            opened.rejected
        ),
        (6, 5, 1, 0)
    );
    assert_eq!((opened.late, opened.clock_ahead), (1, 1));
    let (expected, _) = store.expected("acme", SPAN, BEFORE).await.unwrap();
    let [before] = &expected[..] else { panic!() };
    assert_eq!(
        (
            before.event_type.as_str(),
            before.received,
            before.duplicate
        ),
        ("widget.opened", 1, 0)
    );
    assert_eq!(opened.last_received_ms, START + HOUR);
    // Of 100, 300,000 and 300,001 ms.
    let near = |ms: f64, exact: f64| (ms - exact).abs() <= exact * 0.01;
    assert!(
        near(opened.receive_ms[0], 300_000.0) && near(opened.receive_ms[2], 300_001.0),
        "{opened:?}"
    );
    assert_eq!(opened.queryable_ms.len(), 3);
}

#[tokio::test]
async fn names_that_came_and_went_are_told_apart() {
    let store = store("health_names").await;
    let events = [
        named(0, "kept", 0, 1),
        named(1, "kept", -HOUR, 1),
        named(2, "gone", -HOUR, 1),
        Event {
            documented: false,
            ..named(3, "new", 0, 1)
        },
    ];
    insert(&store, "all", &events).await;
    let (_, names) = store.expected("acme", SPAN, BEFORE).await.unwrap();
    let name = |name: &str, documented, received, baseline_received, last: i64| NameHealth {
        source: "watermelon".into(),
        source_event: name.into(),
        documented,
        received,
        rejected: 0,
        baseline_received,
        last_received_ms: START + last,
    };
    assert_eq!(
        names,
        [
            name("gone", true, 0, 1, -HOUR),
            name("kept", true, 1, 1, 0),
            name("new", false, 1, 0, 0)
        ]
    );
}

#[tokio::test]
async fn rejections_are_counted_by_reason_and_the_newest_listed_first() {
    let store = store("health_rejections").await;
    let at = |offset, received| Event {
        received_at: START + received,
        ..rejected(offset)
    };
    let events = [
        at(0, 0),
        at(1, 2 * SECOND),
        Event {
            reason: Some(RejectReason::TooLarge),
            ..at(2, SECOND)
        },
        at(3, -1),
        Event {
            tenant: "bravo".into(),
            ..at(4, 0)
        },
    ];
    insert(&store, "all", &events).await;
    let count = |reason: &str, rejected, last: i64| RejectionCount {
        source: "watermelon".into(),
        reason: reason.into(),
        rejected,
        last_received_ms: START + last,
    };
    for unit in [Unit::Minute, Unit::Hour, Unit::Day] {
        let span = Span {
            window: WINDOW,
            unit,
        };
        assert_eq!(
            store.rejections_by_reason("acme", span).await.unwrap(),
            [
                count("invalid_json", 2, 2 * SECOND),
                count("too_large", 1, SECOND)
            ],
            "{unit:?}"
        );
    }
    let recent = store
        .recent_rejections("acme", WINDOW, (None, 2))
        .await
        .unwrap();
    assert_eq!(
        recent.iter().map(|one| one.offset).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(
        (recent[0].bytes, recent[0].detail.as_str()),
        (Some(17), "no JSON at byte 3")
    );
}

#[tokio::test]
async fn numbers_missing_in_a_session_were_lost_in_the_browser_whatever_their_outcome() {
    let store = store("health_sessions").await;
    let numbered = |made: Event, session: &str, sequence| Event {
        session_id: Some(session.into()),
        sequence: Some(sequence),
        ..made
    };
    let events = [
        numbered(event(0), "s1", 1),
        numbered(duplicate(1), "s1", 1),
        numbered(rejected(2), "s1", 3),
        numbered(event(3), "s1", 6),
        numbered(event(4), "s2", 2),
        numbered(event(5), "broken counter", i64::MAX),
        event(6),
    ];
    insert(&store, "all", &events).await;
    store.roll_up(START + DAY).await.unwrap();
    let loss = BrowserLoss {
        source: "watermelon".into(),
        sessions: 2,
        arrived: 4,
        lost: 4,
    };
    assert_eq!(store.browser_loss("acme", WINDOW).await.unwrap(), [loss]);
    assert_eq!(store.browser_loss("bravo", WINDOW).await.unwrap(), []);
}

#[tokio::test]
async fn message_gaps_count_what_is_missing_and_not_what_is_too_much() {
    let store = store("health_gaps").await;
    let mut s = Script::new("watermelon");
    for (conversation, total) in [("missing two", 3), ("none missing", 1), ("one too much", 0)] {
        s.conversation(conversation);
        s.visitor(0).reported_total = Some(total);
    }
    s.conversation("no report");
    s.visitor(0);
    insert(&store, "all", &s.events).await;
    store.roll_up(START + DAY).await.unwrap();
    let gap = GapCount {
        source: "watermelon".into(),
        conversations: 3,
        with_gap: 1,
        missing: 2,
    };
    assert_eq!(store.message_gaps("acme", SPAN).await.unwrap(), [gap]);
}

#[tokio::test]
async fn the_books_are_kept_per_tenant() {
    let store = store("health_books").await;
    let events = [
        event(0),
        duplicate(1),
        rejected(2),
        Event {
            tenant: "bravo".into(),
            ..event(3)
        },
    ];
    insert(&store, "all", &events).await;
    let books = store.books().await.unwrap();
    let counts = |b: &chatpulse_store::Books| {
        (
            b.tenant.clone(),
            b.received,
            b.accepted,
            b.duplicate,
            b.rejected,
        )
    };
    assert_eq!(
        books.iter().map(counts).collect::<Vec<_>>(),
        [("acme".into(), 3, 1, 1, 1), ("bravo".into(), 1, 1, 0, 0)]
    );
}

#[tokio::test]
async fn keys_are_counted_by_type_and_day_of_accepted_events_once() {
    let store = store("health_keys").await;
    let with = |offset, day: i64, language: Option<&str>| Event {
        language: language.map(str::to_owned),
        properties: [("colour".to_owned(), "red".to_owned())].into(),
        ..named(offset, "opened", day * DAY, 0)
    };
    let events = [
        with(0, 0, Some("en")),
        with(1, 0, None),
        with(2, -1, Some("de")),
        duplicate(3),
        rejected(4),
    ];
    insert(&store, "all", &events).await;
    insert(&store, "all", &events).await;
    let day = DAY;
    let today = START - START % day;
    let span = |since: i64, until: i64| Span {
        window: Window {
            since_ms: today + since * day,
            until_ms: today + until * day,
        },
        unit: Unit::Day,
    };
    let keys = store
        .key_health("acme", span(0, 1), span(-7, 0))
        .await
        .unwrap();
    let seen: Vec<_> = keys
        .iter()
        .map(|k| {
            let now = (k.events, k.with_key);
            (
                k.key.as_str(),
                now,
                (k.baseline_events, k.baseline_with_key),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("language", (2, 1), (1, 1)),
            ("occurred_at", (2, 2), (1, 1)),
            ("properties.colour", (2, 2), (1, 1)),
        ]
    );
}

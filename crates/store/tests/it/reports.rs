//! The questions that reports ask, on data small enough to count by hand.

use chatpulse_model::Event;
use chatpulse_store::{Breakdown, ConversationCursor, Figure, Span, Unit, Window};

use crate::support::{DAY, HOUR, SECOND, START, Script, insert, store, sync_full};

const SPAN: Span = Span {
    window: Window {
        since_ms: START,
        until_ms: START + DAY,
    },
    unit: Unit::Hour,
};

/// Two conversations of watermelon, an hour apart, in two languages, and one of userlike.
fn script() -> Vec<Event> {
    let mut s = Script::new("watermelon");
    s.conversation("c1");
    s.visitor(0).language = Some("en".into());
    s.bot(2 * SECOND).language = Some("en".into());
    s.conversation("c2");
    s.visitor(HOUR).language = Some("de".into());
    s.bot(HOUR + 4 * SECOND);
    s.request(HOUR + 5 * SECOND);
    let mut other = Script::new("userlike");
    other.conversation("c3");
    other.visitor(HOUR);
    let mut events = s.events;
    let next = events.len() as i64;
    events.extend(other.events.into_iter().map(|event| Event {
        offset: event.offset + next,
        ..event
    }));
    events
}

fn counts<'f>(
    figures: &'f [Figure],
    metric: &str,
    key: impl Fn(&'f Figure) -> Option<&'f str>,
) -> Vec<(Option<&'f str>, Option<i64>)> {
    figures
        .iter()
        .filter(|figure| figure.metric == metric)
        .map(|figure| (key(figure), figure.numerator))
        .collect()
}

#[tokio::test]
async fn figures_are_taken_apart_by_source_time_and_language() {
    let store = store("report_figures").await;
    sync_full("report_figures").await;
    insert(&store, "all", &script()).await;
    store.roll_up(START + DAY).await.unwrap();

    let by_source = store
        .figures("acme", SPAN, &[Breakdown::Source])
        .await
        .unwrap()
        .figures;
    assert_eq!(
        counts(&by_source, "conversations", |f| f.source.as_deref()),
        [
            (None, Some(3)),
            (Some("userlike"), Some(1)),
            (Some("watermelon"), Some(2))
        ]
    );
    assert_eq!(
        counts(&by_source, "bot_messages", |f| f.source.as_deref())[1],
        (Some("userlike"), None),
        "no bot can be seen there"
    );
    let response = by_source
        .iter()
        .find(|f| f.metric == "first_response_any" && f.source.as_deref() == Some("watermelon"))
        .unwrap();
    assert_eq!((response.n, response.median_ms), (2, Some(3_000.0)));

    let by_time = store
        .figures("acme", SPAN, &[Breakdown::Time])
        .await
        .unwrap()
        .figures;
    let times: Vec<_> = by_time
        .iter()
        .filter(|f| f.metric == "conversations")
        .map(|f| (f.at_ms, f.numerator))
        .collect();
    assert_eq!(
        times,
        [(Some(START), Some(1)), (Some(START + HOUR), Some(2))]
    );

    let by_language = store
        .figures("acme", SPAN, &[Breakdown::Language])
        .await
        .unwrap()
        .figures;
    assert_eq!(
        counts(&by_language, "conversations", |f| f.value.as_deref()),
        [
            (Some(""), Some(1)),
            (Some("de"), Some(1)),
            (Some("en"), Some(1))
        ]
    );
    assert!(
        store
            .figures("bravo", SPAN, &[Breakdown::Source])
            .await
            .unwrap()
            .figures
            .is_empty()
    );
}

#[tokio::test]
async fn conversations_are_listed_newest_first_and_page_by_page_without_a_gap() {
    let store = store("report_conversations").await;
    sync_full("report_conversations").await;
    insert(&store, "all", &script()).await;
    store.roll_up(START + 24 * HOUR).await.unwrap();
    let mut seen = Vec::new();
    let mut cursor: Option<ConversationCursor> = None;
    loop {
        let page = store
            .conversations("acme", SPAN.window, (cursor.as_ref(), 1))
            .await
            .unwrap();
        let [row] = page.as_slice() else { break };
        cursor = Some(ConversationCursor {
            started_ms: row.started_ms,
            source: row.source.clone(),
            conversation_id: row.conversation_id.clone(),
        });
        seen.push(row.clone());
    }
    let ids: Vec<_> = seen
        .iter()
        .map(|row| row.conversation_id.as_str())
        .collect();
    assert_eq!(ids, ["c2", "c3", "c1"]);
    assert_eq!(seen[0].total_messages, Some(2));
    assert_eq!(seen[0].handoff_requested_ms, Some(START + HOUR + 5_000));
    assert_eq!(seen[0].first_response_any_ms, Some(4_000));
    assert_eq!(seen[1].bot_messages, None);
    assert_eq!(seen[2].languages, ["en"]);
}

#[tokio::test]
async fn delivery_over_time_has_a_point_for_each_unit_in_which_something_came() {
    let store = store("report_series").await;
    insert(&store, "all", &script()).await;
    let points = store.health_series("acme", SPAN).await.unwrap();
    let seen: Vec<_> = points
        .iter()
        .map(|p| (p.at_ms, p.source.as_str(), p.received))
        .collect();
    assert_eq!(
        seen,
        [
            (START, "watermelon", 2),
            (START + HOUR, "userlike", 1),
            (START + HOUR, "watermelon", 3)
        ]
    );
    let types = store.type_series("acme", SPAN).await.unwrap();
    let requests: Vec<_> = types
        .iter()
        .filter(|p| p.event_type == "handoff.requested")
        .map(|p| (p.at_ms, p.accepted))
        .collect();
    assert_eq!(requests, [(START + HOUR, 1)]);
    let all = store.pipeline_series(SPAN).await.unwrap();
    assert_eq!(
        all.iter()
            .map(|p| (p.at_ms, p.received))
            .collect::<Vec<_>>(),
        [(START, 2), (START + HOUR, 4)]
    );
    let tenants = store.tenants(SPAN, SPAN).await.unwrap();
    assert_eq!(
        tenants
            .iter()
            .map(|t| (t.tenant.as_str(), t.received, t.baseline_received))
            .collect::<Vec<_>>(),
        [("acme", 6, 6)]
    );
}

//! The roll-ups against what they are made of.

use chatpulse_model::{Actor, Event, EventType, Outcome};
use chatpulse_store::{Breakdown, CohortState, Figure, RolledUp, Span, Store, Unit, Window};
use clickhouse::{Client, Row};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::Deserialize;

use crate::support::{
    DAY, HOUR, START, Script, client, duplicate, event, execute, insert, number, rejected, store,
    sync_full,
};

const MINUTE: i64 = 60_000;

/// All days in which the tests' conversations may start.
fn days() -> Span {
    let midnight = START - START % DAY;
    Span {
        window: Window {
            since_ms: midnight - 40 * DAY,
            until_ms: midnight + 60 * DAY,
        },
        unit: Unit::Day,
    }
}

async fn figures(store: &Store, unit: Unit, breakdown: Breakdown) -> Vec<Figure> {
    store
        .figures("acme", Span { unit, ..days() }, &[breakdown])
        .await
        .unwrap()
        .figures
}

async fn roll_up(store: &Store, after: i64) -> RolledUp {
    store.roll_up(START + after).await.unwrap()
}

/// A figure without what only roll-ups have, and with percentiles that can be compared.
#[derive(Debug, Clone, PartialEq, Row, Deserialize)]
struct Expected {
    key: String,
    metric: String,
    kind: String,
    observable: bool,
    n: u64,
    numerator: Option<i64>,
    denominator: Option<i64>,
    rate: Option<f64>,
    median_ms: Option<f64>,
    p90_ms: Option<f64>,
    p95_ms: Option<f64>,
}

fn rolled(figures: Vec<Figure>, key: fn(&Figure) -> String) -> Vec<Expected> {
    let mut rolled: Vec<Expected> = figures
        .into_iter()
        .map(|f| Expected {
            key: key(&f),
            metric: f.metric,
            kind: f.kind,
            observable: f.observable,
            n: f.n,
            numerator: f.numerator,
            denominator: f.denominator,
            rate: f.rate,
            median_ms: f.median_ms,
            p90_ms: f.p90_ms,
            p95_ms: f.p95_ms,
        })
        .collect();
    rolled.sort_by(|a, b| (&a.key, &a.metric).cmp(&(&b.key, &b.metric)));
    rolled
}

/// What the views say at once from the facts.
async fn expected(client: &Client, after: i64, levels: &str, key: &str) -> Vec<Expected> {
    let as_of = START + after;
    let sql = format!(
        "SELECT {key} AS key, toString(metric) AS metric, toString(kind) AS kind, toBool(observable) AS observable, n,
                numerator, denominator, rate, median_ms, p90_ms, p95_ms
         FROM metrics_as_of(as_of = fromUnixTimestamp64Milli(toInt64({as_of}), 'UTC'),
             since = toDateTime64(0, 3, 'UTC'), until = toDateTime64('2200-01-01 00:00:00', 3, 'UTC'),
             conversation_prefix = '')
         WHERE tenant = 'acme' AND level IN ({levels}) ORDER BY key, metric"
    );
    client.query_raw(&sql).fetch_all().await.unwrap()
}

/// Roll-ups and views say the same of everything that both can say.
async fn assert_equal(store: &Store, client: &Client, after: i64) {
    let by_source = |f: &Figure| f.source.clone().unwrap_or_default();
    let by_day = |f: &Figure| f.at_ms.unwrap().to_string();
    for unit in [Unit::Hour, Unit::Day] {
        assert_eq!(
            rolled(figures(store, unit, Breakdown::Source).await, by_source),
            expected(client, after, "'overall', 'source'", "ifNull(source, '')").await,
            "by source, from {unit:?}s"
        );
    }
    assert_eq!(
        rolled(figures(store, Unit::Day, Breakdown::Time).await, by_day),
        expected(
            client,
            after,
            "'day'",
            "toString(toUnixTimestamp(assumeNotNull(day)) * 1000)"
        )
        .await,
        "by day"
    );
    assert_lists(client, START + after).await;
}

/// The lists of conversations are what the view says.
async fn assert_lists(client: &Client, as_of: i64) {
    let columns = |c: &str, handoff: &str, join: &str| {
        format!(
            "toString(({c}conversation_id, {c}started_at, {c}last_event_at, toBool({c}is_closed), toString({c}outcome),
                       {c}visitor_messages, {c}bot_messages, {c}agent_messages, {c}total_messages, {c}reported_total,
                       {c}message_gap, {c}{handoff}, {c}{join}, {c}first_response_any_ms, {c}first_response_human_ms,
                       {c}time_to_human_ms, {c}handle_time_ms, {c}resolution_time_ms, {c}goals, toString({c}consent),
                       arraySort({c}widgets), arraySort({c}languages)))"
        )
    };
    let differing = format!(
        "SELECT count() FROM (
             SELECT tenant, source, hour, conversation, count() AS times FROM (
                 SELECT tenant, source, toStartOfHour(started_at) AS hour, {judged} AS conversation
                 FROM conversations_as_of(as_of = fromUnixTimestamp64Milli(toInt64({as_of}), 'UTC'))
                 UNION ALL
                 SELECT tenant, source, hour, {listed} AS conversation
                 FROM conversation_lists FINAL ARRAY JOIN conversations AS c)
             GROUP BY ALL HAVING times != 2)",
        judged = columns("", "first_handoff_request_at", "first_human_join_at"),
        listed = columns("c.", "handoff_requested_at", "human_joined_at"),
    );
    assert_eq!(number(client, &differing).await, 0, "{differing}");
}

#[tokio::test]
async fn figures_of_hours_and_days_are_those_of_the_views() {
    let store = store("rollup_figures").await;
    let client = client("rollup_figures");
    sync_full("rollup_figures").await;
    let mut script = Script::new("full");
    for (conversation, hours) in [("c1", 0), ("c2", 0), ("c3", 5), ("c4", 30)] {
        script.conversation(conversation);
        let at = hours * HOUR;
        script.visitor(at);
        script.bot(at + 1_000 * (hours + 1));
        script.request(at + 10_000);
        script.join(at + 20_000);
        script.agent(at + 30_000);
        script.close(at + 90_000);
    }
    insert(&store, "a", &script.events).await;
    assert_eq!(roll_up(&store, 31 * HOUR).await.hours, 3);
    assert_equal(&store, &client, 31 * HOUR).await;
    let overall = figures(&store, Unit::Day, Breakdown::Source).await;
    let conversations = overall
        .iter()
        .find(|f| f.metric == "conversations")
        .unwrap();
    assert_eq!(
        (conversations.source.as_deref(), conversations.numerator),
        (None, Some(4))
    );
}

#[tokio::test]
async fn time_alone_closes_conversations_and_judges_reopening() {
    let store = store("rollup_time").await;
    let client = client("rollup_time");
    sync_full("rollup_time").await;
    let mut script = Script::new("full");
    script.conversation("silent").visitor(0);
    script.bot(1_000);
    script.conversation("closed").visitor(0);
    script.close(2_000);
    script.visitor(DAY);
    // Ends in the future of the first runs.
    script.conversation("ahead").visitor(0);
    script.close(20 * HOUR);
    insert(&store, "a", &script.events).await;
    for after in [
        MINUTE,
        20 * HOUR,
        DAY,
        DAY + HOUR,
        7 * DAY + 1_999,
        7 * DAY + 2_000,
        9 * DAY,
    ] {
        // Nothing is touched but by time: what came in is long seen.
        execute(
            &client,
            "ALTER TABLE conversation_starts UPDATE touched_at = toDateTime64(0, 3) WHERE 1 SETTINGS mutations_sync = 2",
        )
        .await;
        roll_up(&store, after).await;
        assert_equal(&store, &client, after).await;
    }
    assert_eq!(
        roll_up(&store, 10 * DAY).await.hours,
        0,
        "nothing is left to change"
    );
}

#[tokio::test]
async fn a_late_first_event_moves_a_conversation_out_of_its_old_cohort() {
    let store = store("rollup_moved").await;
    let client = client("rollup_moved");
    let mut script = Script::new("watermelon");
    script.visitor(0);
    script.bot(3 * HOUR);
    insert(&store, "a", &script.events).await;
    roll_up(&store, 4 * HOUR).await;
    script.visitor(-26 * HOUR);
    insert(&store, "b", &script.events[2..]).await;
    roll_up(&store, 5 * HOUR).await;
    assert_equal(&store, &client, 5 * HOUR).await;
    let hours = store
        .figures(
            "acme",
            Span {
                unit: Unit::Hour,
                ..days()
            },
            &[Breakdown::Time],
        )
        .await
        .unwrap()
        .figures;
    let mut starts: Vec<i64> = hours.iter().filter_map(|f| f.at_ms).collect();
    starts.dedup();
    assert_eq!(starts, [START - 26 * HOUR]);
    assert_eq!(
        number(&client, "SELECT countIf(conversations = 0) FROM conversation_rollup FINAL WHERE unit = 'day' AND dimension = ''").await,
        1,
        "its old day is known to be empty now"
    );
}

#[tokio::test]
async fn groups_beyond_the_largest_are_counted_with_the_others() {
    let store = store("rollup_groups").await;
    let mut script = Script::new("watermelon");
    for n in 0..150_i64 {
        let name: &'static str = format!("c{n}").leak();
        script.conversation(name);
        script.visitor(n / 50 * HOUR).widget_id = Some(format!("w{n:03}"));
    }
    insert(&store, "a", &script.events).await;
    roll_up(&store, 4 * HOUR).await;
    let widgets = figures(&store, Unit::Hour, Breakdown::Widget).await;
    let all: Vec<_> = widgets
        .iter()
        .filter(|f| f.metric == "conversations")
        .map(|f| (f.value.as_deref().unwrap(), f.numerator.unwrap()))
        .collect();
    assert_eq!(all.len(), 100);
    assert_eq!(all.iter().map(|(_, n)| n).sum::<i64>(), 150);
    assert!(all.contains(&("(other)", 51)), "{all:?}");
}

#[tokio::test]
async fn widgets_and_languages_are_taken_apart_and_capped() {
    let store = store("rollup_widgets").await;
    let mut script = Script::new("watermelon");
    let names: Vec<&'static str> = (0..60).map(|n| &*format!("c{n}").leak()).collect();
    for (n, name) in names.iter().enumerate() {
        script.conversation(name);
        script.visitor(0).widget_id = Some(format!("w{n}"));
        script.bot(1_000).language = Some("de".into());
    }
    script.conversation("of the first").visitor(0).widget_id = Some("w0".into());
    script.conversation("of none").visitor(0);
    script.conversation("of two").visitor(0).widget_id = Some("w1".into());
    script.bot(1).widget_id = Some("w2".into());
    script.conversation("long").visitor(0).widget_id = Some("ü".repeat(1_000));
    insert(&store, "a", &script.events).await;
    roll_up(&store, HOUR).await;
    for unit in [Unit::Hour, Unit::Day] {
        let widgets = figures(&store, unit, Breakdown::Widget).await;
        let count = |value: &str| {
            let is = |f: &&Figure| f.metric == "conversations" && f.value.as_deref() == Some(value);
            widgets.iter().find(is).and_then(|f| f.numerator)
        };
        assert_eq!(count("w0"), Some(2), "the most frequent");
        assert_eq!((count(""), count("(several)")), (Some(1), Some(1)));
        assert_eq!(count("(other)"), Some(13));
        let all: Vec<&Figure> = widgets
            .iter()
            .filter(|f| f.metric == "conversations")
            .collect();
        assert_eq!(all.len(), 51);
        assert_eq!(all.iter().filter_map(|f| f.numerator).sum::<i64>(), 64);
        assert!(
            all.iter()
                .all(|f| f.value.as_ref().unwrap().chars().count() <= 200)
        );
        let languages = figures(&store, unit, Breakdown::Language).await;
        let de = languages
            .iter()
            .find(|f| f.metric == "conversations" && f.value.as_deref() == Some("de"));
        assert_eq!(de.unwrap().numerator, Some(60));
    }
}

#[tokio::test]
async fn figures_are_provisional_until_their_day_is_over_and_nothing_is_open() {
    let store = store("rollup_provisional").await;
    let mut script = Script::new("watermelon");
    script.conversation("closed").visitor(0);
    script.close(1_000);
    script.conversation("open").visitor(0);
    insert(&store, "a", &script.events).await;
    let midnight = START - START % DAY;
    let span = Span {
        window: Window {
            since_ms: midnight,
            until_ms: midnight + DAY,
        },
        unit: Unit::Day,
    };
    let mut seen = Vec::new();
    for after in [HOUR, 12 * HOUR + 6 * MINUTE, DAY, 7 * DAY, 7 * DAY + 1_000] {
        roll_up(&store, after).await;
        let mut state = CohortState::default();
        for breakdown in [Breakdown::Source, Breakdown::Time] {
            let found = store.figures("acme", span, &[breakdown]).await.unwrap();
            let figures = found.figures;
            state = found.state;
            let provisional = |metric: &str| {
                figures
                    .iter()
                    .find(|f| f.metric == metric)
                    .unwrap()
                    .provisional
            };
            seen.push((provisional("conversations"), provisional("reopen_rate")));
        }
        assert_eq!(state.as_of_ms, Some(START + after));
        assert_eq!(
            (state.conversations, state.open),
            (2, u64::from(after < DAY))
        );
        assert_eq!(state.settles_at_ms, (after < DAY).then_some(START + DAY));
        assert_eq!(
            state.reopen_settles_at_ms,
            (after < 7 * DAY + 1_000).then_some(START + 1_000 + 7 * DAY)
        );
    }
    let [running, open, closed, still, settled] = [
        (true, true),
        (true, true),
        (false, true),
        (false, true),
        (false, false),
    ];
    assert_eq!(
        seen,
        [
            running, running, open, open, closed, closed, still, still, settled, settled
        ]
    );
}

#[tokio::test]
async fn a_late_event_restates_a_settled_day_once_and_says_why() {
    let store = store("rollup_restated").await;
    let client = client("rollup_restated");
    let mut script = Script::new("watermelon");
    script.visitor(0);
    script.bot(5_000);
    script.close(60_000);
    script.conversation("other day").visitor(2 * DAY);
    insert(&store, "a", &script.events).await;
    let window = days().window;
    roll_up(&store, HOUR).await;
    script.conversation("c1").visitor(1_000);
    let provisional = script.events.len();
    insert(&store, "b", &script.events[provisional - 1..]).await;
    assert_eq!(
        roll_up(&store, 2 * HOUR).await.restatements,
        0,
        "the day is not over"
    );
    roll_up(&store, 4 * DAY).await;
    assert_eq!(
        store.restatements("acme", window, (0, 100)).await.unwrap(),
        []
    );

    let late = Event {
        received_at: START + 5 * DAY,
        ..script.bot(2_000).clone()
    };
    insert(&store, "c", std::slice::from_ref(&late)).await;
    assert!(roll_up(&store, 5 * DAY).await.restatements > 0);
    assert_equal(&store, &client, 5 * DAY).await;
    let restatements = store.restatements("acme", window, (0, 100)).await.unwrap();
    let of = |metric: &str| {
        restatements
            .iter()
            .find(|r| r.metric == metric)
            .unwrap_or_else(|| panic!("{metric}: {restatements:?}"))
    };
    let bots = of("bot_messages");
    assert_eq!((bots.old_numerator, bots.new_numerator), (Some(1), Some(2)));
    assert_eq!(
        (bots.day_ms, bots.source.as_str()),
        (START - START % DAY, "watermelon")
    );
    assert_eq!(
        (bots.settled_as_of_ms, bots.restated_as_of_ms),
        (START + 4 * DAY, START + 5 * DAY)
    );
    assert_eq!(
        (
            bots.late_events,
            bots.first_occurred_ms,
            bots.last_occurred_ms
        ),
        (1, Some(START + 2_000), Some(START + 2_000))
    );
    assert_eq!(bots.last_received_ms, Some(START + 5 * DAY));
    let response = of("first_response_any");
    assert_eq!(
        (response.old_median_ms, response.new_median_ms),
        (Some(5_000.0), Some(2_000.0))
    );
    assert!(
        restatements
            .iter()
            .all(|r| r.metric != "visitor_messages" && r.metric != "conversations")
    );
    let paged = store.restatements("acme", window, (1, 1)).await.unwrap();
    assert_eq!(paged, restatements[1..2]);
    assert_eq!(
        store.restatements("bravo", window, (0, 100)).await.unwrap(),
        []
    );

    assert_eq!(
        roll_up(&store, 5 * DAY + HOUR).await.restatements,
        0,
        "nothing changed again"
    );
    assert_eq!(
        store.restatements("acme", window, (0, 100)).await.unwrap(),
        restatements
    );
}

#[tokio::test]
async fn a_change_of_a_setting_is_rolled_up_everywhere() {
    let store = store("rollup_setting").await;
    let client = client("rollup_setting");
    let mut script = Script::new("watermelon");
    script.visitor(0);
    script.bot(1_000);
    insert(&store, "a", &script.events).await;
    roll_up(&store, 2 * HOUR).await;
    store
        .sync_tenants(&[("acme", std::time::Duration::from_secs(3600))])
        .await
        .unwrap();
    roll_up(&store, 2 * HOUR + 1).await;
    assert_equal(&store, &client, 2 * HOUR + 1).await;
    let found = store.figures("acme", days(), &[Breakdown::Widget]).await;
    assert_eq!(found.unwrap().state.open, 0);
}

#[tokio::test]
async fn a_run_takes_up_what_one_that_died_left_and_two_may_run_at_once() {
    let store = store("rollup_died").await;
    let client = client("rollup_died");
    let mut script = Script::new("watermelon");
    script.visitor(0);
    insert(&store, "a", &script.events).await;
    roll_up(&store, HOUR).await;
    script.bot(1_000);
    insert(&store, "b", &script.events[1..]).await;
    roll_up(&store, HOUR).await;
    // It came to the hours, not to the days.
    for sql in [
        "ALTER TABLE rollup_runs DELETE WHERE read_at = (SELECT max(read_at) FROM rollup_runs) SETTINGS mutations_sync = 2",
        "ALTER TABLE conversation_rollup DELETE WHERE unit = 'day' SETTINGS mutations_sync = 2",
        "ALTER TABLE conversation_starts UPDATE touched_at = toDateTime64(0, 3) WHERE 1 SETTINGS mutations_sync = 2",
    ] {
        execute(&client, sql).await;
    }
    let (one, other) = tokio::join!(store.roll_up(START + HOUR), store.roll_up(START + HOUR));
    one.unwrap();
    other.unwrap();
    assert_equal(&store, &client, HOUR).await;
}

#[tokio::test]
async fn page_sessions_count_in_the_hour_of_their_first_receipt() {
    let store = store("rollup_sessions").await;
    let client = client("rollup_sessions");
    let numbered = |offset: i64, session: &str, sequence: i64, received: i64| Event {
        session_id: Some(session.into()),
        sequence: Some(sequence),
        received_at: START + received,
        ..event(offset)
    };
    insert(
        &store,
        "a",
        &[numbered(0, "s1", 2, HOUR), numbered(1, "s2", 1, HOUR)],
    )
    .await;
    roll_up(&store, HOUR).await;
    insert(&store, "b", &[numbered(2, "s1", 4, 0)]).await;
    roll_up(&store, HOUR).await;
    let window = |since, until| Window {
        since_ms: START + since,
        until_ms: START + until,
    };
    let of = async |window| {
        let loss = store.browser_loss("acme", window).await.unwrap();
        loss.iter()
            .map(|l| (l.sessions, l.arrived, l.lost))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(window(0, HOUR)).await, [(1, 2, 2)]);
    assert_eq!(of(window(HOUR, 2 * HOUR)).await, [(1, 1, 0)]);
    assert_eq!(of(window(2 * HOUR, DAY)).await, []);
    assert_eq!(
        number(&client, "SELECT sum(sessions) FROM session_rollup FINAL").await,
        2
    );
}

#[tokio::test]
async fn an_hour_without_news_is_not_computed_again() {
    let store = store("rollup_idle").await;
    let client = client("rollup_idle");
    let mut script = Script::new("watermelon");
    script.visitor(0);
    insert(&store, "a", &script.events).await;
    roll_up(&store, HOUR).await;
    execute(
        &client,
        "ALTER TABLE conversation_starts UPDATE touched_at = toDateTime64(0, 3) WHERE 1 SETTINGS mutations_sync = 2",
    )
    .await;
    let idle = roll_up(&store, 2 * HOUR).await;
    assert_eq!((idle.hours, idle.session_hours), (0, 0));
}

/// An event of one of few conversations, at any time of four days, of any kind that matters.
fn any_event() -> impl Strategy<Value = Event> {
    const KINDS: [(EventType, Actor); 10] = [
        (EventType::MessageSent, Actor::Visitor),
        (EventType::MessageSent, Actor::Visitor),
        (EventType::MessageSent, Actor::Bot),
        (EventType::MessageSent, Actor::Agent),
        (EventType::HandoffRequested, Actor::Visitor),
        (EventType::AgentJoined, Actor::Agent),
        (EventType::AgentLeft, Actor::Agent),
        (EventType::ConversationEnded, Actor::System),
        (EventType::FeedbackSubmitted, Actor::Visitor),
        (EventType::WidgetOpened, Actor::Visitor),
    ];
    let place = (0..8u8, 0..2u8, 0..3u8, 0..3u8);
    let time = prop_oneof![0..4 * DAY, 0..6 * HOUR];
    (place, 0..KINDS.len(), time, 0..20i64, 0..4 * HOUR).prop_map(
        |((conversation, source, widget, session), kind, at, what, delay)| {
            let (event_type, actor) = KINDS[kind];
            let base = match what {
                0 => duplicate(0),
                1 => rejected(0),
                _ => event(0),
            };
            Event {
                source: ["full", "watermelon"][usize::from(source)].into(),
                event_type,
                actor,
                source_event: event_type.as_str().into(),
                occurred_at: START + at,
                received_at: START + at + delay,
                conversation_id: (base.outcome != Outcome::Rejected)
                    .then(|| format!("c{conversation}")),
                session_id: Some(format!("s{session}")),
                sequence: Some(what + 1),
                widget_id: (widget > 0).then(|| format!("w{widget}")),
                reported_total: (what == 7).then_some(9),
                ..base
            }
        },
    )
}

#[tokio::test]
async fn whatever_comes_in_whatever_order_roll_ups_say_what_the_views_say() {
    let database = "rollup_property";
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let blocks = prop::collection::vec(
        (
            prop::collection::vec(any_event(), 1..12),
            any::<bool>(),
            0..2 * DAY,
        ),
        1..10,
    );
    for case in 0..6 {
        let store = store(database).await;
        let client = client(database);
        sync_full(database).await;
        let mut offset = 0;
        let mut now = 0;
        let drawn = blocks.new_tree(&mut runner).unwrap().current();
        for (number, (mut events, roll, later)) in drawn.into_iter().enumerate() {
            for event in &mut events {
                event.offset = offset;
                offset += 1;
                if event.outcome == Outcome::Accepted {
                    event.event_id = format!("e{offset}");
                }
            }
            insert(&store, &format!("{case}-{number}"), &events).await;
            now += later;
            if roll {
                roll_up(&store, now).await;
            }
        }
        roll_up(&store, now).await;
        assert_equal(&store, &client, now).await;
        roll_up(&store, now + 10 * DAY).await;
        assert_equal(&store, &client, now + 10 * DAY).await;
        assert_health(&client).await;
    }
}

/// Health by hour and day is what the events say.
async fn assert_health(client: &Client) {
    let sums = "sum(received), sum(accepted), sum(duplicate), sum(rejected)";
    for (table, start, column) in [
        ("event_health_hour", "toStartOfHour", "hour"),
        ("event_health_day", "toDate", "day"),
    ] {
        let differing = format!(
            "SELECT count() FROM (
                 SELECT tenant, source, event_type, at, groupUniqArray(counts) AS all FROM (
                     SELECT tenant, source, event_type, {column} AS at, ({sums}) AS counts FROM {table} GROUP BY ALL
                     UNION ALL
                     SELECT tenant, source, event_type, {start}(received_at) AS at,
                            (count(), countIf(outcome = 'accepted'), countIf(outcome = 'duplicate'), countIf(outcome = 'rejected'))
                     FROM events GROUP BY ALL)
                 GROUP BY ALL HAVING length(all) != 1 OR count() != 2)"
        );
        assert_eq!(number(client, &differing).await, 0, "{table}");
    }
}

//! The simulator judged from outside: by what it sends, as text.

mod live;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chatpulse_simulator::{
    Expect, FaultRates, Item, Options, PERSONAL_MARKERS, Pace, Simulator, Truth,
};
use proptest::prelude::*;
use serde_json::Value;

const BASE_MS: i64 = 1_760_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn options(seed: u64, events: u64) -> Options {
    Options {
        seed,
        events,
        tenants: vec!["acme".into(), "globex".into(), "initech".into()],
        base_time_ms: BASE_MS,
        run_id: "run1".into(),
        pace: Pace::Historic,
        faults: FaultRates::default(),
    }
}

fn run(options: Options) -> (Vec<Item>, Truth) {
    let mut simulator = Simulator::new(options);
    let items: Vec<Item> = simulator.by_ref().collect();
    (items, simulator.truth())
}

/// What the receiver gets, and what it must come to.
fn sent_text(items: &[Item]) -> String {
    let line = |item: &Item| {
        format!(
            "{} {} {} {:?}\n",
            item.tenant, item.source, item.body, item.expect
        )
    };
    items.iter().map(line).collect()
}

/// FNV-1a: a change of any byte shows.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn parsed(item: &Item) -> Value {
    serde_json::from_str(&item.body).expect("every item is JSON")
}

/// The vendor's own object, wrapped or bare.
fn native(body: &Value) -> &Value {
    body.get("native").unwrap_or(body)
}

/// The identity of an event as a reader of the item sees it.
fn identity(item: &Item) -> String {
    let body = parsed(item);
    let id = if item.source == "autochat" {
        native(&body)["detail"]["event_id"].to_string()
    } else if body.get("context").is_some() {
        body["context"]["event_id"].to_string()
    } else {
        body.to_string()
    };
    format!("{} {} {id}", item.tenant, item.source)
}

fn conversation(item: &Item, body: &Value) -> Option<String> {
    let native = native(body);
    let id = match item.source {
        "algomo" => &native["conversationId"],
        "autochat" => &native["detail"]["conversation_id"],
        "loyjoy" => &body["context"]["session_id"],
        "userlike" => &native["session_ctx"]["chat_id"],
        _ => native
            .get("widet_conversation_id")
            .unwrap_or(&native["widget_conversation_id"]),
    };
    id.as_str().map(str::to_owned)
}

fn event_name(item: &Item, body: &Value) -> String {
    let native = native(body);
    let name = match item.source {
        "autochat" => &native["detail"]["event_type"],
        "loyjoy" => &native["evt"],
        "userlike" => &native["event_name"],
        _ => &native["event"],
    };
    name.as_str()
        .expect("an accepted event has a name")
        .to_owned()
}

/// When the event happened: by the vendor's own time, else by the context.
fn occurred_at(item: &Item, body: &Value) -> i64 {
    let native = native(body);
    let time = match item.source {
        "watermelon" => &native["timestamp"],
        "autochat" => &native["detail"]["occurred_at"],
        _ => &body["context"]["occurred_at"],
    };
    match time {
        Value::Number(number) => number.as_i64().expect("milliseconds"),
        text => millis(text.as_str().expect("a time")),
    }
}

fn millis(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .expect("RFC 3339")
        .as_millisecond()
}

/// The accepted events of a run, each once.
fn accepted(items: &[Item]) -> impl Iterator<Item = (&Item, Value)> {
    items
        .iter()
        .filter(|item| item.expect == Expect::Accepted)
        .map(|item| (item, parsed(item)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn exactly_as_many_items_are_sent_as_asked_for_and_the_books_balance(
        seed in any::<u64>(),
        events in 0_u64..2_000,
        faults in (0.0..=1.0, 0.0..=1.0, 0.0..0.9, 0.0..=1.0),
    ) {
        let (retry, late, lost, malformed) = faults;
        let faults = FaultRates { retry, late, lost, malformed, ..FaultRates::default() };
        let (items, truth) = run(Options { faults, ..options(seed, events) });
        prop_assert_eq!(items.len() as u64, events);
        prop_assert_eq!(truth.sent, events);

        let mut rejected = BTreeMap::new();
        let (mut new, mut duplicate) = (0, 0);
        for item in &items {
            match item.expect {
                Expect::Accepted => new += 1,
                Expect::Duplicate => duplicate += 1,
                Expect::Rejected(reason) => *rejected.entry(reason).or_insert(0) += 1,
            }
        }
        prop_assert_eq!(truth.accepted, new);
        prop_assert_eq!(truth.duplicate, duplicate);
        prop_assert_eq!(&truth.rejected, &rejected);
        prop_assert_eq!(truth.sent, new + duplicate + rejected.values().sum::<u64>());
        prop_assert!(truth.sequence_gap <= truth.lost_in_browser);

        let of = |field: fn(&chatpulse_simulator::Books) -> u64| -> u64 {
            truth.per_tenant.iter().map(|tenant| field(&tenant.books)).sum()
        };
        prop_assert_eq!(of(|books| books.sent), truth.sent);
        prop_assert_eq!(of(|books| books.accepted), truth.accepted);
        prop_assert_eq!(of(|books| books.duplicate), truth.duplicate);
        prop_assert_eq!(of(|books| books.lost_in_browser), truth.lost_in_browser);
        prop_assert_eq!(of(|books| books.drift), truth.drift);
    }

    #[test]
    fn duplicates_are_the_items_whose_identity_was_sent_before(seed in any::<u64>()) {
        let (items, _) = run(options(seed, 2_000));
        let mut seen = HashSet::new();
        for item in &items {
            match item.expect {
                Expect::Accepted => prop_assert!(seen.insert(identity(item)), "{}", item.body),
                Expect::Duplicate => prop_assert!(seen.contains(&identity(item)), "{}", item.body),
                Expect::Rejected(_) => {}
            }
        }
    }

    #[test]
    fn the_sequence_gap_is_what_a_reader_of_the_sessions_finds(seed in any::<u64>()) {
        let (items, truth) = run(options(seed, 2_000));
        let mut sessions: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for item in items.iter().filter(|item| !matches!(item.expect, Expect::Rejected(_))) {
            let body = parsed(item);
            if let Some(number) = body["context"]["sequence"].as_u64() {
                let session = body["context"]["session_id"].as_str().expect("a session");
                sessions.entry(session.to_owned()).or_default().insert(number);
            }
        }
        let gap = |numbers: &BTreeSet<u64>| numbers.last().map_or(0, |last| last - numbers.len() as u64);
        prop_assert_eq!(sessions.values().map(gap).sum::<u64>(), truth.sequence_gap);
    }

    #[test]
    fn the_same_options_give_the_same_items_and_another_seed_gives_others(seed in any::<u64>()) {
        let (items, truth) = run(options(seed, 1_500));
        let (again, truth_again) = run(options(seed, 1_500));
        prop_assert_eq!(&items, &again);
        prop_assert_eq!(truth, truth_again);
        let (others, _) = run(options(seed ^ 1, 1_500));
        prop_assert_ne!(items, others);
    }
}

#[test]
fn a_seed_gives_the_same_bytes_from_version_to_version() {
    let (items, truth) = run(options(1, 10_000));
    assert_eq!(
        format!("{:016x}", fnv(&sent_text(&items))),
        "12d5107b6d1e4276"
    );
    assert_eq!(
        format!("{:016x}", fnv(&format!("{truth:?}"))),
        "91e596b029cc0135"
    );
}

#[test]
fn conversations_and_messages_are_what_a_reader_of_the_items_counts() {
    let (items, truth) = run(options(7, 60_000));
    let mut conversations: BTreeSet<(usize, &str, String)> = BTreeSet::new();
    let mut messages: BTreeMap<(usize, &str, &str), u64> = BTreeMap::new();
    let mut reported: BTreeMap<(usize, String), u64> = BTreeMap::new();
    for (item, body) in accepted(&items) {
        let Some(id) = conversation(item, &body) else {
            continue;
        };
        conversations.insert((item.tenant, item.source, id.clone()));
        let actor = match event_name(item, &body).as_str() {
            "Message sent (Algomo Widget)"
            | "intent_evaluated"
            | "message_operator_terminating"
            | "widget_message_sent" => "visitor",
            "widget_agent_message_sent" => "bot",
            "widget_message_user_sent" | "message_client_terminating" => "agent",
            _ => "",
        };
        if !actor.is_empty() {
            *messages
                .entry((item.tenant, item.source, actor))
                .or_default() += 1;
        }
        if let Some(total) = native(&body).get("total_messages").and_then(Value::as_u64) {
            let known = reported.entry((item.tenant, id)).or_default();
            *known = total.max(*known);
        }
    }
    for (tenant, expected) in truth.per_tenant.iter().enumerate() {
        let sources: Vec<_> = expected.metrics.keys().copied().collect();
        assert_eq!(
            sources,
            ["algomo", "autochat", "loyjoy", "userlike", "watermelon"]
        );
        for (&source, metrics) in &expected.metrics {
            let found = conversations
                .iter()
                .filter(|id| (id.0, id.1) == (tenant, source))
                .count();
            assert_eq!(metrics.conversations, found as u64, "{source}");
            for (actor, truth) in [
                ("visitor", metrics.messages.visitor),
                ("bot", metrics.messages.bot),
                ("agent", metrics.messages.agent),
            ] {
                assert_eq!(
                    truth,
                    messages.get(&(tenant, source, actor)).copied(),
                    "{source} {actor}"
                );
            }
        }
        let gap = expected.metrics["watermelon"]
            .message_gap
            .expect("Watermelon reports totals");
        let of_tenant = || reported.iter().filter(|((of, _), _)| *of == tenant);
        assert_eq!(gap.conversations, of_tenant().count() as u64);
        assert_eq!(
            gap.reported,
            of_tenant().map(|(_, total)| total).sum::<u64>()
        );
        assert!(gap.gap > 0, "messages were lost in the browser");
    }
}

/// The events of one Watermelon conversation as `(name, time)`, sorted by time.
fn watermelon_conversations(items: &[Item]) -> Vec<(usize, Vec<(String, i64)>)> {
    let mut found: BTreeMap<(usize, String), Vec<(String, i64)>> = BTreeMap::new();
    for (item, body) in accepted(items).filter(|(item, _)| item.source == "watermelon") {
        if let Some(id) = conversation(item, &body) {
            let event = (event_name(item, &body), occurred_at(item, &body));
            found.entry((item.tenant, id)).or_default().push(event);
        }
    }
    found
        .into_iter()
        .map(|((tenant, _), mut events)| {
            events.sort_by_key(|(_, at)| *at);
            (tenant, events)
        })
        .collect()
}

#[test]
fn watermelons_outcomes_and_durations_are_what_a_reader_of_the_items_derives() {
    let (items, truth) = run(options(11, 60_000));
    let conversations = watermelon_conversations(&items);
    for (tenant, expected) in truth.per_tenant.iter().enumerate() {
        let (mut b, mut c, mut outcomes) = (0, 0, BTreeMap::<&str, u64>::new());
        let mut resolution = Vec::new();
        let mut waits = Vec::new();
        for (_, events) in conversations.iter().filter(|(of, _)| *of == tenant) {
            let at = |names: &[&str]| -> Vec<i64> {
                events
                    .iter()
                    .filter(|(n, _)| names.contains(&n.as_str()))
                    .map(|e| e.1)
                    .collect()
            };
            let visitor = at(&["widget_message_sent"]);
            let bot = at(&["widget_agent_message_sent"]);
            let agent = at(&["widget_message_user_sent"]);
            let requests = at(&["widget_handoff_requested"]);
            let human = at(&["widget_user_joined", "widget_message_user_sent"]);
            let closes = at(&[
                "widget_conversation_archived",
                "widget_conversation_deleted",
            ]);
            if let Some(close) = closes.first() {
                resolution.push(close - events[0].1);
            }
            if let Some(request) = requests.first() {
                let joins = at(&["widget_user_joined"]);
                let later = |times: &[i64]| times.iter().find(|at| *at >= request).copied();
                waits.extend(later(&joins).or(later(&agent)).map(|at| at - request));
            }
            let outbound = agent.first().is_some_and(|first| {
                visitor.first().is_none_or(|at| first < at)
                    && bot.first().is_none_or(|at| first < at)
            });
            if visitor.is_empty() || (bot.is_empty() && requests.is_empty()) || outbound {
                continue;
            }
            b += 1;
            let silent = BASE_MS - events[events.len() - 1].1 >= DAY_MS;
            if closes.is_empty() && !silent {
                continue;
            }
            c += 1;
            let unanswered = bot.last().max(agent.last()) < visitor.last();
            let outcome = match (requests.is_empty(), human.is_empty()) {
                (false, false) => "handed_off",
                (false, true) => "requested_unserved",
                (true, false) => "human_intervened",
                (true, true) if unanswered => "abandoned",
                (true, true) => "contained_assumed",
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
        let metrics = &expected.metrics["watermelon"];
        assert_eq!(metrics.bot_conversations, Some(b));
        assert_eq!(metrics.closed_bot_conversations, Some(c));
        let found = metrics.outcomes.expect("Watermelon shows B");
        assert_eq!(found.handed_off, outcomes["handed_off"]);
        assert_eq!(found.requested_unserved, outcomes["requested_unserved"]);
        assert_eq!(found.human_intervened, outcomes["human_intervened"]);
        assert_eq!(found.abandoned, outcomes["abandoned"]);
        assert_eq!(found.contained_assumed, outcomes["contained_assumed"]);
        assert_eq!(found.bot_resolved, 0);
        assert_eq!(metrics.handoff_rate.map(|rate| rate.den), Some(c));
        assert!(b > c, "some conversations are still open");
        let resolution_time = metrics.resolution_time.as_ref().expect("closes are seen");
        assert_eq!(resolution_time.n, resolution.len() as u64);
        resolution.sort_unstable();
        if resolution.len() % 2 == 1 {
            let middle = resolution[resolution.len() / 2] as f64;
            assert_eq!(resolution_time.median_ms, Some(middle));
        }
        assert_eq!(
            metrics.time_to_human.as_ref().map(|time| time.n),
            Some(waits.len() as u64)
        );
        assert!(waits.iter().all(|wait| *wait >= 0));
        assert!(metrics.unanswered_requests > Some(0));
        let reopened = metrics.reopen_rate.expect("closes are seen");
        assert!(0 < reopened.num && reopened.num < reopened.den);
        assert!(metrics.handle_time.as_ref().is_some_and(|time| time.n > 0));
    }
}

#[test]
fn what_a_source_cannot_show_is_not_available() {
    let (_, truth) = run(options(3, 30_000));
    for tenant in &truth.per_tenant {
        for (source, metrics) in &tenant.metrics {
            let watermelon = *source == "watermelon";
            assert_eq!(metrics.bot_conversations.is_some(), watermelon, "{source}");
            assert_eq!(metrics.outcomes.is_some(), watermelon, "{source}");
            assert_eq!(metrics.containment_rate.is_some(), watermelon, "{source}");
            assert_eq!(metrics.message_gap.is_some(), watermelon, "{source}");
            assert_eq!(metrics.time_to_human.is_some(), watermelon, "{source}");
            assert_eq!(metrics.bot_resolution_rate, None, "{source}");
            assert_eq!(metrics.csat, None, "{source}");
            assert_eq!(metrics.nps.is_some(), *source == "loyjoy", "{source}");
            let closes = ["loyjoy", "watermelon"].contains(source);
            assert_eq!(metrics.resolution_time.is_some(), closes, "{source}");
            let known_again = *source == "watermelon";
            assert_eq!(metrics.reopen_rate.is_some(), known_again, "{source}");
            assert_eq!(metrics.handle_time.is_some(), closes, "{source}");
            let answers = ["userlike", "watermelon"].contains(source);
            assert_eq!(metrics.first_response_any.is_some(), answers, "{source}");
            assert_eq!(metrics.first_response_human.is_some(), answers, "{source}");
            assert_eq!(
                metrics.messages.total.is_none(),
                *source == "autochat",
                "{source}"
            );
        }
        let nps = tenant.metrics["loyjoy"].nps.expect("LoyJoy gives scores");
        assert!(nps.promoters > 0 && nps.detractors > 0 && nps.n > nps.promoters + nps.detractors);
    }
}

#[test]
fn every_event_lies_in_the_twelve_days_before_the_base_time() {
    let (items, _) = run(options(5, 30_000));
    for (item, body) in accepted(&items) {
        let at = occurred_at(item, &body);
        assert!(
            (BASE_MS - 12 * DAY_MS..=BASE_MS).contains(&at),
            "{}",
            item.body
        );
        if let Some(sent_at) = body["context"]["sent_at"].as_str() {
            assert!(
                millis(sent_at) <= BASE_MS && millis(sent_at) >= at,
                "{}",
                item.body
            );
        }
    }
}

#[test]
fn every_fault_and_every_reason_occurs() {
    let faults = FaultRates {
        max_item_bytes: Some(65_536),
        ..FaultRates::default()
    };
    let (items, truth) = run(Options {
        faults,
        ..options(9, 30_000)
    });
    let reasons: Vec<_> = truth.rejected.keys().copied().collect();
    assert_eq!(
        reasons,
        [
            "invalid_context",
            "invalid_event_name",
            "invalid_time",
            "missing_event_name",
            "not_an_object",
            "time_out_of_range",
            "too_complex",
            "too_large",
        ]
    );
    for item in &items {
        let too_large = item.expect == Expect::Rejected("too_large");
        assert_eq!(item.body.len() > 65_536, too_large, "{}", item.body);
    }
    assert!(truth.lost_in_browser > 0 && truth.drift > 0 && truth.sequence_gap > 0);
    let bare = accepted(&items)
        .filter(|(_, body)| body.get("context").is_none())
        .count();
    assert!(bare > 0, "some items come without context");
    let mut latest: BTreeMap<(usize, &str, String), i64> = BTreeMap::new();
    let mut overtaken = 0;
    for (item, body) in accepted(&items) {
        let Some(id) = conversation(item, &body) else {
            continue;
        };
        let at = occurred_at(item, &body);
        let last = latest.entry((item.tenant, item.source, id)).or_insert(at);
        overtaken += u64::from(at < *last);
        *last = at.max(*last);
    }
    assert!(overtaken > 0, "some events are overtaken by later ones");
}

#[test]
fn each_autochat_outcome_is_dispatched_twice_with_one_event_id() {
    let faults = FaultRates::NONE;
    let (items, truth) = run(Options {
        faults,
        ..options(13, 20_000)
    });
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut types = BTreeSet::new();
    for item in items.iter().filter(|item| item.source == "autochat") {
        let body = parsed(item);
        let detail = &native(&body)["detail"];
        types.insert(detail["event_type"].to_string());
        let id = detail["event_id"].to_string();
        names
            .entry(id)
            .or_default()
            .insert(native(&body)["type"].to_string());
    }
    assert_eq!(types.len(), 7);
    assert!(
        names.values().all(|names| names.len() == 2),
        "stable name and alias"
    );
    assert_eq!(truth.duplicate, names.len() as u64);
    assert_eq!(truth.lost_in_browser, 0);
    assert_eq!(truth.sequence_gap, 0);
    for tenant in &truth.per_tenant {
        assert_eq!(
            tenant.metrics["watermelon"]
                .message_gap
                .expect("reported")
                .gap,
            0
        );
    }
}

#[test]
fn both_spellings_of_watermelons_conversation_id_and_both_time_formats_occur() {
    let (items, _) = run(options(17, 10_000));
    let watermelon: Vec<Value> = accepted(&items)
        .filter(|(item, _)| item.source == "watermelon")
        .map(|(_, body)| native(&body).clone())
        .collect();
    let share =
        |test: &dyn Fn(&Value) -> bool| watermelon.iter().filter(|native| test(native)).count();
    assert!(share(&|native| native.get("widet_conversation_id").is_some()) > 0);
    assert!(share(&|native| native.get("widget_conversation_id").is_some()) > 0);
    assert!(share(&|native| native["timestamp"].is_string()) > 0);
    assert!(share(&|native| native["timestamp"].is_i64()) > share(&|n| n["timestamp"].is_string()));
    let started = |native: &Value| native["event"] == "widget_conversation_started";
    assert!(share(&started) > 0);
    assert_eq!(
        share(&|n| started(n) && n.get("widet_conversation_id").is_some()),
        0
    );
}

#[test]
fn personal_data_is_in_what_is_sent() {
    let (items, _) = run(options(19, 10_000));
    for marker in PERSONAL_MARKERS {
        assert!(
            items.iter().any(|item| item.body.contains(marker)),
            "{marker} is never sent"
        );
    }
}

#[test]
fn two_runs_share_no_event_session_or_conversation() {
    let (first, _) = run(options(23, 3_000));
    let (second, _) = run(Options {
        run_id: "run2".into(),
        ..options(23, 3_000)
    });
    let ids = |items: &[Item]| -> BTreeSet<String> {
        let ids = |(item, body): (&Item, Value)| {
            let session = body["context"]["session_id"].to_string();
            [
                identity(item),
                conversation(item, &body).unwrap_or_default(),
                session,
            ]
        };
        accepted(items)
            .flat_map(ids)
            .filter(|id| id.contains("run"))
            .collect()
    };
    assert!(ids(&first).is_disjoint(&ids(&second)));
}

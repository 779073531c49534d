//! Every line of the metric definitions, on conversations small enough to judge by hand. Times are
//! seconds after the start.

use chatpulse_model::{Actor, Event, EventType, ScoreKind};
use chatpulse_store::{MetricRow, SourceMetric, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{
    DAY, HOUR, Metrics, SECOND as S, START, Script, client, insert, metrics, store, sync_full,
};

/// Judged two days on: whatever was left open is closed by silence.
const LATER: i64 = 2 * DAY;
const WM: &str = "watermelon";

async fn judged(database: &str, script: &Script, as_of_ms: i64) -> Metrics {
    let store = store(database).await;
    sync_full(database).await;
    insert(&store, "all", &script.events).await;
    metrics(&store, as_of_ms).await
}

/// A question and the bot's answer, from second 0 to 2.
fn chat<'s>(s: &'s mut Script, conversation: &'static str) -> &'s mut Script {
    s.conversation(conversation);
    s.visitor(0);
    s.bot(2 * S);
    s
}

#[tokio::test]
async fn total_messages_are_those_of_visitor_bot_and_agent_and_nothing_else() {
    let mut s = Script::new(WM);
    chat(&mut s, "c1");
    s.agent(3 * S);
    s.at(4 * S, EventType::AgentTyping, Actor::Agent);
    s.at(5 * S, EventType::MessageSent, Actor::System);
    let m = judged("metric_messages", &s, LATER).await;
    assert_eq!(m.get(WM, "total_messages").numerator, Some(3));
    assert_eq!(m.get(WM, "visitor_messages").numerator, Some(1));
    assert_eq!(m.get(WM, "bot_messages").numerator, Some(1));
    assert_eq!(m.get(WM, "agent_messages").numerator, Some(1));
}

#[tokio::test]
async fn two_messages_of_the_same_millisecond_are_two() {
    let mut s = Script::new(WM);
    s.visitor(0);
    s.visitor(0);
    let m = judged("metric_same_ms", &s, LATER).await;
    assert_eq!(m.get(WM, "visitor_messages").numerator, Some(2));
}

#[tokio::test]
async fn the_message_gap_is_the_highest_report_less_the_messages_seen() {
    let mut s = Script::new(WM);
    chat(&mut s, "c1");
    s.visitor(3 * S).reported_total = Some(5);
    s.bot(4 * S).reported_total = Some(4);
    chat(&mut s, "without a report");
    let m = judged("metric_gap", &s, LATER).await;
    let gap = m.get(WM, "message_gap");
    assert_eq!((gap.n, gap.numerator), (1, Some(1)));
    assert_eq!(m.get(WM, "reported_total").numerator, Some(5));
}

#[tokio::test]
async fn b_needs_a_visitor_and_a_bot_or_a_request_and_no_human_at_the_start() {
    let mut s = Script::new(WM);
    chat(&mut s, "with bot");
    s.conversation("with request");
    s.visitor(0);
    s.request(S);
    s.conversation("no visitor");
    s.bot(0);
    s.conversation("no bot");
    s.visitor(0);
    s.conversation("agent began");
    s.agent(0);
    s.visitor(S);
    s.bot(2 * S);
    s.conversation("human joined before anybody wrote");
    s.join(0);
    s.visitor(S);
    s.bot(2 * S);
    s.conversation("at the same millisecond");
    s.agent(0);
    s.visitor(0);
    s.bot(S);
    let m = judged("metric_b", &s, LATER).await;
    assert_eq!(m.get(WM, "conversations").numerator, Some(7));
    assert_eq!(m.get(WM, "bot_conversations").numerator, Some(3));
    assert_eq!(m.fraction(WM, "handoff_request_rate"), (Some(1), Some(3)));
}

#[tokio::test]
async fn a_conversation_closes_by_an_end_or_by_a_day_of_silence() {
    let mut s = Script::new(WM);
    chat(&mut s, "silent since second 2");
    chat(&mut s, "ended").close(3 * S);
    chat(&mut s, "deleted").at(3 * S, EventType::ConversationDeleted, Actor::System);
    chat(&mut s, "taken up again").close(3 * S);
    s.visitor(DAY);
    chat(&mut s, "moving").at(20 * HOUR, EventType::Custom, Actor::System);
    let store = store("metric_closed").await;
    insert(&store, "all", &s.events).await;
    let closed = async |as_of| {
        let m = metrics(&store, as_of).await;
        m.get(WM, "closed_bot_conversations").numerator
    };
    assert_eq!(closed(2 * S).await, Some(0));
    assert_eq!(closed(3 * S).await, Some(3));
    assert_eq!(closed(DAY + 2 * S - 1).await, Some(3));
    assert_eq!(closed(DAY + 2 * S).await, Some(4));
    assert_eq!(closed(DAY + 20 * HOUR).await, Some(5));
}

#[tokio::test]
async fn the_silence_that_closes_is_the_tenants_own_where_it_has_set_one() {
    let mut s = Script::new(WM);
    chat(&mut s, "c1");
    let store = store("metric_timeout").await;
    insert(&store, "all", &s.events).await;
    store
        .sync_tenants(&[("acme", std::time::Duration::from_secs(3_600))])
        .await
        .unwrap();
    let early = metrics(&store, HOUR + 2 * S - 1).await;
    assert_eq!(early.get(WM, "closed_bot_conversations").numerator, Some(0));
    let late = metrics(&store, HOUR + 2 * S).await;
    assert_eq!(late.get(WM, "closed_bot_conversations").numerator, Some(1));
}

#[tokio::test]
async fn each_closed_conversation_has_the_first_outcome_that_holds() {
    let mut s = Script::new("full");
    let full = &mut s;
    // Also abandoned and well rated, had not a human come.
    chat(full, "handed off").request(3 * S);
    full.join(4 * S);
    full.visitor(5 * S);
    full.score(ScoreKind::Stars, 5.0);
    chat(full, "handed off to one who only wrote").request(3 * S);
    full.agent(4 * S);
    chat(full, "requested, unserved").request(3 * S);
    full.visitor(4 * S);
    chat(full, "human intervened").join(3 * S);
    chat(full, "abandoned").visitor(3 * S);
    full.score(ScoreKind::Stars, 5.0);
    chat(full, "answered at the same millisecond").visitor(3 * S);
    full.bot(3 * S);
    chat(full, "resolved by stars").score(ScoreKind::Stars, 4.0);
    chat(full, "resolved by a thumb").score(ScoreKind::Thumbs, 1.0);
    chat(full, "contained, badly rated").score(ScoreKind::Stars, 3.0);
    chat(full, "contained, recommended").score(ScoreKind::Nps, 10.0);
    let m = judged("metric_outcomes", full, LATER).await;
    let c = Some(10);
    assert_eq!(m.fraction("full", "handed_off_share"), (Some(2), c));
    assert_eq!(m.fraction("full", "requested_unserved_share"), (Some(1), c));
    assert_eq!(m.fraction("full", "human_intervened_share"), (Some(1), c));
    assert_eq!(m.fraction("full", "abandoned_share"), (Some(1), c));
    assert_eq!(m.fraction("full", "bot_resolution_rate"), (Some(2), c));
    assert_eq!(m.fraction("full", "contained_assumed_share"), (Some(3), c));
    assert_eq!(m.fraction("full", "handoff_rate"), (Some(3), c));
    assert_eq!(m.fraction("full", "containment_rate"), (Some(5), c));
    assert_eq!(m.get("full", "containment_rate").rate, Some(0.5));
    assert_eq!(m.fraction("full", "handoff_request_rate"), (Some(3), c));
}

#[tokio::test]
async fn the_first_response_is_not_before_the_first_question() {
    let mut s = Script::new(WM);
    s.conversation("greeted");
    s.bot(0);
    s.visitor(5 * S);
    s.bot(9 * S);
    s.agent(20 * S);
    s.conversation("never answered");
    s.visitor(0);
    s.conversation("only an agent");
    s.visitor(0);
    s.agent(8 * S);
    let m = judged("metric_first_response", &s, LATER).await;
    let any = m.get(WM, "first_response_any");
    assert_eq!(
        (any.n, any.median_ms, any.p90_ms, any.p95_ms),
        (2, Some(6_000.0), Some(7_600.0), Some(7_800.0))
    );
    assert_eq!(m.duration(WM, "first_response_human"), (2, Some(11_500.0)));
}

#[tokio::test]
async fn waiting_for_a_human_begins_with_the_request_where_there_is_one() {
    let mut s = Script::new(WM);
    s.visitor(0);
    s.agent(S);
    s.request(10 * S);
    s.agent(40 * S);
    let m = judged("metric_waiting", &s, LATER).await;
    assert_eq!(m.duration(WM, "first_response_human"), (1, Some(30_000.0)));
}

#[tokio::test]
async fn time_to_human_runs_to_a_join_else_to_a_message_and_unanswered_requests_count_apart() {
    let mut s = Script::new(WM);
    s.conversation("joined, having been there before");
    s.visitor(0);
    s.join(S);
    s.request(2 * S);
    s.agent(3 * S);
    s.join(10 * S);
    s.conversation("only wrote");
    s.request(0);
    s.agent(6 * S);
    s.conversation("was there before only");
    s.join(0);
    s.request(S);
    s.conversation("asked for twice");
    s.request(0);
    s.request(5 * S);
    s.join(7 * S);
    s.conversation("no request");
    s.join(0);
    let m = judged("metric_time_to_human", &s, LATER).await;
    assert_eq!(m.duration(WM, "time_to_human"), (3, Some(7_000.0)));
    assert_eq!(m.fraction(WM, "unanswered_requests"), (Some(1), Some(4)));
}

#[tokio::test]
async fn handle_time_is_the_time_with_at_least_one_human() {
    let mut s = Script::new(WM);
    s.conversation("join to leave");
    s.join(0);
    s.leave(30 * S);
    s.conversation("join to return");
    s.join(0);
    s.back_to_bot(20 * S);
    s.leave(30 * S);
    s.conversation("join to close");
    s.join(0);
    s.close(10 * S);
    s.conversation("one after the other");
    s.join(0);
    s.leave(10 * S);
    s.join(60 * S);
    s.leave(65 * S);
    s.conversation("handed over with both there");
    s.join(0);
    s.join(10 * S);
    s.leave(20 * S);
    s.leave(50 * S);
    s.conversation("handed over at a millisecond");
    s.join(0);
    s.leave(10 * S);
    s.join(10 * S);
    s.leave(30 * S);
    s.conversation("second one still there");
    s.join(0);
    s.leave(10 * S);
    s.join(60 * S);
    s.conversation("still there");
    s.leave(0);
    s.join(5 * S);
    let store = store("metric_handle_time").await;
    insert(&store, "all", &s.events).await;
    let found: Vec<(String, Option<i64>)> = client("metric_handle_time")
        .query_raw(
            "SELECT conversation_id, handle_time_ms FROM conversations ORDER BY conversation_id",
        )
        .fetch_all()
        .await
        .unwrap();
    let expected = [
        ("handed over at a millisecond", Some(30 * S)),
        ("handed over with both there", Some(50 * S)),
        ("join to close", Some(10 * S)),
        ("join to leave", Some(30 * S)),
        ("join to return", Some(20 * S)),
        ("one after the other", Some(15 * S)),
        ("second one still there", Some(10 * S)),
        ("still there", None),
    ];
    assert_eq!(
        found,
        expected.map(|(conversation, ms)| (conversation.to_owned(), ms))
    );
    let m = metrics(&store, LATER).await;
    assert_eq!(m.duration(WM, "handle_time"), (7, Some(20_000.0)));
}

#[tokio::test]
async fn resolution_time_runs_from_the_first_event_to_the_first_close() {
    let mut s = Script::new(WM);
    s.at(0, EventType::ConversationStarted, Actor::Visitor);
    s.visitor(5 * S);
    s.close(65 * S);
    s.close(100 * S);
    s.conversation("closed by silence only");
    s.visitor(0);
    let m = judged("metric_resolution", &s, LATER).await;
    assert_eq!(m.duration(WM, "resolution_time"), (1, Some(65_000.0)));
}

#[tokio::test]
async fn reopened_is_who_wrote_within_seven_days_of_a_close_that_is_seven_days_old() {
    let mut s = Script::new(WM);
    let mut case = |conversation, back: Option<i64>| {
        s.conversation(conversation);
        s.visitor(0);
        s.close(10);
        if let Some(back) = back {
            s.visitor(10 + back);
        }
    };
    case("not at all", None);
    case("at the close", Some(0));
    case("after a day", Some(DAY));
    case("after seven days", Some(7 * DAY));
    case("after more", Some(7 * DAY + 1));
    s.conversation("only the bot");
    s.close(10);
    s.bot(20);
    s.conversation("never closed");
    s.visitor(0);
    let store = store("metric_reopen").await;
    insert(&store, "all", &s.events).await;
    let young = metrics(&store, 7 * DAY + 9).await;
    assert_eq!(young.fraction(WM, "reopen_rate"), (Some(0), Some(0)));
    assert_eq!(young.get(WM, "reopen_rate").rate, None);
    let old = metrics(&store, 7 * DAY + 10).await;
    assert_eq!(old.fraction(WM, "reopen_rate"), (Some(2), Some(6)));
}

#[tokio::test]
async fn csat_is_the_share_of_good_ratings_and_its_response_rate_never_passes_one() {
    let mut s = Script::new("full");
    for (conversation, shown, stars) in [
        ("a", 1, &[5.0, 1.0][..]),
        ("b", 2, &[4.0]),
        ("c", 1, &[]),
        ("d", 0, &[3.0]),
    ] {
        s.conversation(conversation);
        for _ in 0..shown {
            s.at(0, EventType::FeedbackShown, Actor::System);
        }
        for score in stars {
            s.score(ScoreKind::Stars, *score);
        }
    }
    s.conversation("thumbs");
    s.at(0, EventType::SurveyShown, Actor::System);
    s.score(ScoreKind::Thumbs, 0.0);
    let m = judged("metric_csat", &s, LATER).await;
    assert_eq!(m.fraction("full", "csat"), (Some(2), Some(5)));
    assert_eq!(m.fraction("full", "csat_response_rate"), (Some(3), Some(5)));
}

#[tokio::test]
async fn nps_is_promoters_less_detractors_over_all_scores() {
    let mut s = Script::new("loyjoy");
    for (conversation, score) in [
        ("a", 10.0),
        ("b", 9.0),
        ("c", 8.0),
        ("d", 7.0),
        ("e", 6.0),
        ("f", 0.0),
        ("g", 3.0),
    ] {
        s.conversation(conversation);
        s.score(ScoreKind::Nps, score);
    }
    let m = judged("metric_nps", &s, LATER).await;
    assert_eq!(m.fraction("loyjoy", "nps"), (Some(-1), Some(7)));
    assert_eq!(m.get("loyjoy", "nps").rate, Some(-1.0 / 7.0));
}

#[tokio::test]
async fn a_surplus_in_one_conversation_hides_no_loss_in_another() {
    let mut s = Script::new(WM);
    chat(&mut s, "two lost")
        .at(3 * S, EventType::AgentJoined, Actor::Agent)
        .reported_total = Some(4);
    chat(&mut s, "one lost")
        .at(3 * S, EventType::AgentJoined, Actor::Agent)
        .reported_total = Some(3);
    chat(&mut s, "none lost")
        .at(3 * S, EventType::AgentJoined, Actor::Agent)
        .reported_total = Some(2);
    chat(&mut s, "one too many")
        .at(3 * S, EventType::AgentJoined, Actor::Agent)
        .reported_total = Some(1);
    chat(&mut s, "without a report");
    let m = judged("metric_missing", &s, LATER).await;
    let counted = |name: &str| (m.get(WM, name).n, m.get(WM, name).numerator);
    assert_eq!(counted("message_gap"), (4, Some(2)));
    assert_eq!(counted("messages_missing"), (4, Some(3)));
    assert_eq!(counted("conversations_with_gap"), (4, Some(2)));
}

#[tokio::test]
async fn the_six_shares_sum_to_one_over_sources_that_can_and_cannot_show_a_resolution() {
    let mut s = Script::new("full");
    chat(&mut s, "praised").score(ScoreKind::Stars, 5.0);
    chat(&mut s, "not rated");
    s.source = WM;
    // Praise that the source does not send proves nothing.
    chat(&mut s, "of watermelon").score(ScoreKind::Stars, 5.0);
    let m = judged("metric_six", &s, LATER).await;
    let (one, two, none) = (Some(1), Some(2), (Some(0), Some(1)));
    assert_eq!(m.fraction("full", "bot_resolved_share"), (one, two));
    assert_eq!(m.fraction("full", "bot_resolution_rate"), (one, two));
    assert_eq!(m.fraction(WM, "bot_resolved_share"), none);
    assert!(!m.get(WM, "bot_resolution_rate").observable);
    assert_eq!(m.fraction(WM, "contained_assumed_share"), (one, one));
    let overall = |name: &str| {
        let row =
            m.0.iter()
                .find(|row| row.source.is_none() && row.metric == name);
        row.map(|row| (row.numerator, row.denominator)).unwrap()
    };
    assert_eq!(overall("bot_resolved_share"), (one, Some(3)));
    assert_eq!(overall("contained_assumed_share"), (two, Some(3)));
    assert_eq!(overall("bot_resolution_rate"), (one, two));
}

#[tokio::test]
async fn what_visitors_did_is_counted_by_event_or_by_conversation() {
    let mut s = Script::new("loyjoy");
    for conversation in ["a", "b"] {
        s.conversation(conversation);
        s.at(0, EventType::LinkClicked, Actor::Visitor);
        s.at(0, EventType::LinkClicked, Actor::Visitor);
        s.at(1, EventType::ContactSubmitted, Actor::Visitor);
        s.at(2, EventType::FeedbackSubmitted, Actor::Visitor);
    }
    s.conversation("a");
    s.at(3, EventType::GoalMet, Actor::System).goal = Some("prize".into());
    s.at(4, EventType::GoalMet, Actor::System).goal = Some("prize".into());
    s.at(5, EventType::GoalMet, Actor::System).goal = Some("sign_up".into());
    // The last word counts, whatever came first on the way; at the same millisecond it is no.
    s.at(9, EventType::ConsentAccepted, Actor::Visitor);
    s.at(8, EventType::ConsentDeclined, Actor::Visitor);
    s.conversation("b");
    s.at(9, EventType::ConsentAccepted, Actor::Visitor);
    s.at(9, EventType::ConsentDeclined, Actor::Visitor);
    s.conversation("never asked");
    s.visitor(0);
    s.source = WM;
    chat(&mut s, "deleted").at(3 * S, EventType::ConversationDeleted, Actor::System);
    chat(&mut s, "there");
    s.at(3, EventType::LinkClicked, Actor::Visitor);
    s.source = "userlike";
    s.conversation("u");
    s.at(0, EventType::SurveyShown, Actor::System);
    s.at(1, EventType::FeedbackShown, Actor::System);
    s.at(2, EventType::ConsentAccepted, Actor::Visitor);
    let m = judged("metric_did", &s, LATER).await;
    let counted = |source: &str, name: &str| m.get(source, name).numerator;
    assert_eq!(counted("loyjoy", "links_clicked"), Some(4));
    assert_eq!(counted("loyjoy", "contacts_submitted"), Some(2));
    assert_eq!(counted("loyjoy", "feedback_count"), Some(2));
    assert_eq!(counted("loyjoy", "conversations_with_goal"), Some(1));
    assert_eq!(counted("loyjoy", "consents_accepted"), Some(1));
    assert_eq!(counted("loyjoy", "consents_declined"), Some(1));
    // It has no event of it.
    assert_eq!(counted("loyjoy", "deleted_conversations"), None);
    assert_eq!(counted(WM, "deleted_conversations"), Some(1));
    // Its links do not say of which conversation they are.
    assert_eq!(counted(WM, "links_clicked"), None);
    assert_eq!(counted("userlike", "surveys_shown"), Some(2));
    assert_eq!(counted("userlike", "consents_accepted"), Some(1));
    assert_eq!(counted("userlike", "consents_declined"), None);
    let goals: Vec<(String, String, u64)> = client("metric_did")
        .query_raw("SELECT conversation_id, goal, times FROM conversation_goals ORDER BY goal")
        .fetch_all()
        .await
        .unwrap();
    let expected = [("a", "prize", 2), ("a", "sign_up", 1)];
    assert_eq!(
        goals,
        expected.map(|(id, goal, times)| (id.to_owned(), goal.to_owned(), times))
    );
}

#[tokio::test]
async fn what_a_source_cannot_show_is_null_even_where_an_event_claims_it() {
    let mut events = Vec::new();
    for source in [
        "algomo",
        "watermelon",
        "autochat",
        "userlike",
        "loyjoy",
        "never heard of",
    ] {
        let mut s = Script::new(source);
        chat(&mut s, "c1").request(3 * S);
        s.join(4 * S);
        s.agent(5 * S);
        s.leave(6 * S);
        s.score(ScoreKind::Stars, 5.0);
        s.score(ScoreKind::Nps, 5.0);
        s.close(7 * S).reported_total = Some(9);
        let first = events.len() as i64;
        events.extend(s.events.into_iter().map(|event| Event {
            offset: event.offset + first,
            event_id: format!("{source}-{}", event.offset),
            ..event
        }));
    }
    let store = store("metric_observable").await;
    insert(&store, "all", &events).await;
    let m = metrics(&store, 30 * DAY).await;
    let shown: Vec<String> =
        m.0.iter()
            .filter(|row| row.observable)
            .filter_map(|row| Some(format!("{} {}", row.source.as_deref()?, row.metric)))
            .collect();
    let by_hand: &[(&str, &[&str])] = &[
        (
            "algomo",
            &["conversations", "total_messages", "visitor_messages"],
        ),
        (
            "autochat",
            &[
                "contacts_submitted",
                "conversations",
                "conversations_with_goal",
            ],
        ),
        (
            "loyjoy",
            &[
                "consents_accepted",
                "consents_declined",
                "contacts_submitted",
                "conversations",
                "conversations_with_goal",
                "feedback_count",
                "handle_time",
                "links_clicked",
                "nps",
                "resolution_time",
                "total_messages",
                "visitor_messages",
            ],
        ),
        ("never heard of", &["conversations"]),
        (
            "userlike",
            &[
                "agent_messages",
                "consents_accepted",
                "contacts_submitted",
                "conversations",
                "feedback_count",
                "first_response_any",
                "first_response_human",
                "surveys_shown",
                "total_messages",
                "visitor_messages",
            ],
        ),
        (
            "watermelon",
            &[
                "abandoned_share",
                "agent_messages",
                "bot_conversations",
                "bot_messages",
                "bot_resolved_share",
                "closed_bot_conversations",
                "contained_assumed_share",
                "containment_rate",
                "conversations",
                "conversations_with_gap",
                "deleted_conversations",
                "feedback_count",
                "first_response_any",
                "first_response_human",
                "handed_off_share",
                "handle_time",
                "handoff_rate",
                "handoff_request_rate",
                "human_intervened_share",
                "message_gap",
                "messages_missing",
                "reopen_rate",
                "reported_total",
                "requested_unserved_share",
                "resolution_time",
                "time_to_human",
                "total_messages",
                "unanswered_requests",
                "visitor_messages",
            ],
        ),
    ];
    let expected: Vec<String> = by_hand
        .iter()
        .flat_map(|(source, names)| names.iter().map(move |name| format!("{source} {name}")))
        .collect();
    assert_eq!(shown, expected);

    // The matrix says the same, and the definitions name every metric.
    let definitions = store.metric_definitions().await.unwrap();
    let matrix: Vec<SourceMetric> = store.source_metrics().await.unwrap();
    assert_eq!(matrix.len(), 5 * definitions.len());
    for cell in &matrix {
        let shown = shown.contains(&format!("{} {}", cell.source, cell.metric));
        assert_eq!(cell.observable != "no", shown, "{cell:?}");
        assert_eq!(cell.missing.is_empty(), shown, "{cell:?}");
        assert_eq!(cell.why.is_empty(), cell.observable == "yes", "{cell:?}");
    }
    let mut defined: Vec<(String, String)> = definitions
        .into_iter()
        .map(|of| (of.metric, of.kind))
        .collect();
    defined.sort();
    let overall = m.0.iter().filter(|row| row.source.is_none());
    let measured: Vec<(String, String)> = overall
        .map(|row| (row.metric.clone(), row.kind.clone()))
        .collect();
    assert_eq!(defined, measured);
}

#[tokio::test]
async fn why_a_source_cannot_show_a_metric_whole_is_said() {
    let store = store("metric_matrix").await;
    let matrix = store.source_metrics().await.unwrap();
    let said = |source: &str, metric: &str| {
        let cell = matrix
            .iter()
            .find(|cell| cell.source == source && cell.metric == metric)
            .unwrap();
        (cell.observable.as_str(), cell.why.as_str())
    };
    assert_eq!(said(WM, "containment_rate"), ("yes", ""));
    assert_eq!(
        said(WM, "bot_resolution_rate"),
        ("no", "not shown: positive feedback or an explicit resolve")
    );
    assert_eq!(
        said(WM, "links_clicked"),
        (
            "no",
            "not shown: clicks on links (seen, but not of which conversation)"
        )
    );
    assert_eq!(
        said("userlike", "consents_accepted"),
        (
            "partial",
            "not all shown: consent accepted; consent declined"
        )
    );
    assert_eq!(
        said("loyjoy", "visitor_messages"),
        ("partial", "not all shown: messages of visitors")
    );
    assert_eq!(said("algomo", "visitor_messages"), ("yes", ""));
    assert_eq!(
        said("algomo", "total_messages"),
        ("partial", "not all shown: every message")
    );
    assert_eq!(
        said("loyjoy", "reopen_rate"),
        (
            "no",
            "not shown: the id of a conversation (the page session stands for it)"
        )
    );
    assert_eq!(
        said("autochat", "time_to_human"),
        (
            "no",
            "not shown: humans joining or messages of human agents"
        )
    );
}

#[tokio::test]
async fn the_cohort_is_what_started_in_the_window_with_the_prefix() {
    let mut s = Script::new(WM);
    for (conversation, at) in [
        ("run1-a", 0),
        ("run1-b", 10 * S),
        ("run2-a", 10 * S),
        ("run1-c", 20 * S),
    ] {
        s.conversation(conversation);
        s.visitor(at);
        s.visitor(at + DAY);
    }
    let store = store("metric_cohort").await;
    insert(&store, "all", &s.events).await;
    let cohort = chatpulse_store::Cohort {
        tenant: "acme",
        started: chatpulse_store::Window {
            since_ms: START + 10 * S,
            until_ms: START + 20 * S,
        },
        as_of_ms: START,
        conversation_prefix: "run1-",
    };
    let rows = store.metrics(&cohort).await.unwrap();
    let count = rows
        .iter()
        .find(|row| row.source.is_none() && row.metric == "conversations")
        .unwrap();
    assert_eq!(count.numerator, Some(1));
    let foreign = chatpulse_store::Cohort {
        tenant: "bravo",
        ..cohort
    };
    assert_eq!(store.metrics(&foreign).await.unwrap(), []);
}

#[tokio::test]
async fn the_views_for_analysts_answer_by_name() {
    let mut s = Script::new(WM);
    chat(&mut s, "c1").close(3 * S);
    let store = store("metric_views").await;
    insert(&store, "all", &s.events).await;
    let client = client("metric_views");
    for (sql, expected) in [
        (
            "SELECT numerator FROM metrics_overall WHERE tenant = 'acme' AND metric = 'containment_rate'",
            1,
        ),
        (
            "SELECT denominator FROM metrics_by_source WHERE source = 'watermelon' AND metric = 'containment_rate'",
            1,
        ),
        (
            "SELECT toInt64(n) FROM metrics_by_day WHERE day = '2024-06-03' AND metric = 'resolution_time'",
            1,
        ),
        (
            "SELECT toInt64(count()) FROM conversations WHERE outcome = 'contained_assumed'",
            1,
        ),
    ] {
        let found: i64 = client
            .query(&format!("SELECT assumeNotNull(*) FROM ({sql})"))
            .fetch_one()
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(found, expected, "{sql}");
    }
}

/// Conversations of two sources in which anything may follow anything.
fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let types = proptest::sample::select(vec![
        (EventType::MessageSent, Actor::Visitor),
        (EventType::MessageSent, Actor::Visitor),
        (EventType::MessageSent, Actor::Bot),
        (EventType::MessageSent, Actor::Bot),
        (EventType::MessageSent, Actor::Agent),
        (EventType::HandoffRequested, Actor::Visitor),
        (EventType::AgentJoined, Actor::Agent),
        (EventType::AgentLeft, Actor::Agent),
        (EventType::BotResumed, Actor::System),
        (EventType::ConversationEnded, Actor::System),
        (EventType::ConversationDeleted, Actor::System),
        (EventType::SurveyShown, Actor::System),
        (EventType::FeedbackSubmitted, Actor::Visitor),
        (EventType::GoalMet, Actor::System),
    ]);
    // Few instants, so that events meet at the same millisecond; some lie weeks apart.
    let at = prop_oneof![0..20i64, 0..20 * DAY];
    let scored = (
        proptest::sample::select(vec![ScoreKind::Nps, ScoreKind::Stars, ScoreKind::Thumbs]),
        0..11i64,
    );
    let one = (
        types,
        at,
        0..12usize,
        proptest::option::of(scored),
        0..15i64,
    );
    proptest::collection::vec(one, 1..150).prop_map(|drawn| {
        const CONVERSATIONS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let mut s = Script::new(WM);
        for ((event_type, actor), at, place, score, total) in drawn {
            s.source = if place % 2 == 0 { WM } else { "full" };
            s.conversation = CONVERSATIONS[place / 2];
            let event = s.at(at, event_type, actor);
            if let Some((kind, value)) =
                score.filter(|_| event_type == EventType::FeedbackSubmitted)
            {
                let (low, high) = match kind {
                    ScoreKind::Nps => (0, 10),
                    ScoreKind::Stars => (1, 5),
                    ScoreKind::Thumbs => (0, 1),
                };
                event.score = Some(value.clamp(low, high) as f64);
                event.score_kind = Some(kind);
            }
            event.reported_total = (total < 5).then_some(total);
            event.goal = (event_type == EventType::GoalMet).then(|| "lead".to_owned());
        }
        s.events
    })
}

async fn empty(database: &str) {
    for table in [
        "events",
        "conversation_facts",
        "event_health",
        "rejections",
        "session_sequences",
    ] {
        crate::support::execute(&client(database), &format!("TRUNCATE TABLE {table}")).await;
    }
}

fn properties(
    database: &str,
    cases: u32,
    check: impl Fn(&tokio::runtime::Runtime, &Store, Vec<Event>),
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(store(database));
    runtime.block_on(sync_full(database));
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&any_events(), |events| {
            runtime.block_on(empty(database));
            check(&runtime, &store, events);
            Ok(())
        })
        .unwrap();
}

#[test]
fn rates_stay_within_bounds_and_shares_sum_to_one() {
    properties("metric_bounds", 25, |runtime, store, events| {
        runtime.block_on(insert(store, "all", &events));
        let m = runtime.block_on(metrics(store, 21 * DAY));
        for row in &m.0 {
            match (row.kind.as_str(), row.rate) {
                ("rate", Some(rate)) => assert!((0.0..=1.0).contains(&rate), "{row:?}"),
                ("score", Some(rate)) => assert!((-1.0..=1.0).contains(&rate), "{row:?}"),
                _ => {}
            }
            if let (Some(part), Some(whole)) = (row.numerator, row.denominator) {
                assert!(part.abs() <= whole, "{row:?}");
                assert!(part >= 0 || row.kind == "score", "{row:?}");
            }
            // What is shown of all sources is the sum of those that can show it.
            if row.source.is_none() {
                let of_sources = || {
                    let same = |other: &&MetricRow| {
                        other.source.is_some() && other.metric == row.metric && other.observable
                    };
                    m.0.iter().filter(same)
                };
                assert_eq!(row.observable, of_sources().count() > 0, "{row:?}");
                assert_eq!(row.n, of_sources().map(|of| of.n).sum::<u64>(), "{row:?}");
                let sum = |of: fn(&MetricRow) -> Option<i64>| {
                    of_sources().filter_map(of).reduce(|a, b| a + b)
                };
                assert_eq!(row.numerator, sum(|of| of.numerator), "{row:?}");
                assert_eq!(row.denominator, sum(|of| of.denominator), "{row:?}");
            }
            let durations = [row.median_ms, row.p90_ms, row.p95_ms];
            assert!(durations.iter().flatten().all(|ms| *ms >= 0.0), "{row:?}");
            assert_eq!(
                row.kind == "duration" && row.n > 0,
                row.median_ms.is_some(),
                "{row:?}"
            );
        }
        for source in [Some("full"), Some(WM), None] {
            let shares: Vec<_> =
                m.0.iter()
                    .filter(|row| row.source.as_deref() == source)
                    .filter(|row| row.metric.ends_with("_share"))
                    .collect();
            let closed = shares.iter().find_map(|row| row.denominator).unwrap_or(0);
            let sum: i64 = shares.iter().filter_map(|row| row.numerator).sum();
            assert_eq!(sum, closed, "{source:?}");
        }
    });
}

#[test]
fn neither_order_nor_repetition_nor_cuts_change_any_metric_or_fact() {
    properties("metric_commute", 15, |runtime, store, events| {
        let facts = || {
            let sql = "SELECT groupArray(toString(c)) FROM (SELECT tuple(* EXCEPT (widgets, platforms, languages)) AS c
                       FROM conversations_as_of(as_of = '2024-06-30 00:00:00') ORDER BY source, conversation_id)";
            runtime
                .block_on(
                    client("metric_commute")
                        .query_raw(sql)
                        .fetch_one::<Vec<String>>(),
                )
                .unwrap()
        };
        runtime.block_on(insert(store, "all", &events));
        let once = (facts(), runtime.block_on(metrics(store, 21 * DAY)).0);
        runtime.block_on(empty("metric_commute"));
        let mut shuffled = events.clone();
        shuffled.reverse();
        shuffled.extend_from_slice(&events[..events.len() / 2]);
        for (index, part) in shuffled.chunks(7).enumerate() {
            runtime.block_on(insert(store, &format!("part {index}"), part));
        }
        let again = (facts(), runtime.block_on(metrics(store, 21 * DAY)).0);
        assert_eq!(once, again);
    });
}

//! What comes of deliveries, receiver by receiver.

use std::time::Duration;

use chatpulse_model::{DeliveryResult, Event, EventType, FailureClass, delivery::Retry};

use crate::{
    receiver::{Behaviour, Receiver},
    support::{World, ends, event, summary},
};

fn webhook(id: &str, receiver: &Receiver) -> String {
    format!(
        "[[tenant.destinations]]\nid = \"{id}\"\nkind = \"webhook\"\nurl = \"{}\"\nsecrets = KEY\n\
         allow_http = true\ntimeout = \"1s\"\n",
        receiver.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_events_are_delivered_once_and_others_are_not() {
    let world = World::new("once").await;
    let receiver = Receiver::start(Behaviour::Fast).await;
    let config = world.config(world.destinations(&webhook("crm", &receiver)));
    let deliverer = world.start(config).await;
    let mut duplicate = event(50);
    duplicate.outcome = chatpulse_model::Outcome::Duplicate;
    let mut foreign = event(51);
    foreign.tenant = "other".into();
    world.accept((0, 50)).await;
    world.write([duplicate, foreign]).await;
    // An enricher that was deposed writes some again.
    world.accept((10, 20)).await;
    world.accept((52, 60)).await;
    let deliveries = world.ended(58).await;
    let body: serde_json::Value =
        serde_json::from_slice(receiver.seen().bodies.values().next().unwrap()).unwrap();
    assert_eq!(body["type"], "lead.qualified");
    deliverer.stop().await;
    assert_eq!(world.deliveries().len(), 58);
    let seen = receiver.seen();
    assert_eq!(seen.taken.len(), 58);
    assert!(seen.requests.values().all(|count| *count == 1));
    for delivery in &deliveries {
        assert_eq!(delivery.result, DeliveryResult::Delivered);
        assert_eq!(delivery.status, Some(200));
        assert!(seen.taken.contains_key(&delivery.delivery_id));
        assert!(delivery.duration_ms.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_it_was_and_repeats_nothing_that_ended() {
    let world = World::new("restart").await;
    let receiver = Receiver::start(Behaviour::Fast).await;
    let destinations = world.destinations(&webhook("crm", &receiver));
    let deliverer = world.start(world.config(destinations.clone())).await;
    world.accept((0, 20)).await;
    world.ended(20).await;
    deliverer.stop().await;
    // While nobody delivers.
    world.accept((20, 40)).await;
    let deliverer = world.start_late(world.config(destinations));
    world.ended(40).await;
    deliverer.stop().await;
    assert_eq!(world.deliveries().len(), 40);
    assert!(receiver.seen().requests.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_until_it_is_taken_or_given_up() {
    let world = World::new("again").await;
    let half = Receiver::start(Behaviour::FirstFails).await;
    let broken = Receiver::start(Behaviour::Broken).await;
    let refusing = Receiver::start(Behaviour::Refusing).await;
    let closing = Receiver::start(Behaviour::Closing).await;
    let limiting = Receiver::start(Behaviour::FirstLimited).await;
    let entries = [
        webhook("half", &half),
        webhook("broken", &broken),
        webhook("refusing", &refusing),
        webhook("closing", &closing),
        webhook("limiting", &limiting),
    ];
    let mut config = world.config(world.destinations(&entries.concat()));
    // So few events do not open a breaker.
    config.breaker.failures = 1_000;
    let deliverer = world.start(config).await;
    world.accept((0, 6)).await;
    let deliveries = world.ended(30).await;
    deliverer.stop().await;
    let summary = summary(&deliveries);
    assert_eq!(summary[&("broken", "retrying", "http_5xx")], 18);
    assert_eq!(summary[&("broken", "given_up", "http_5xx")], 6);
    assert_eq!(summary[&("closing", "given_up", "protocol")], 6);
    assert_eq!(summary[&("refusing", "given_up", "refused")], 6);
    assert!(!summary.contains_key(&("refusing", "retrying", "refused")));
    assert_eq!(summary[&("half", "delivered", "")], 6);
    assert_eq!(summary[&("limiting", "delivered", "")], 6);
    assert_eq!(summary[&("limiting", "retrying", "rate_limited")], 6);
    for (id, results) in ends(&deliveries) {
        assert_eq!(results.len(), 1, "{id}");
    }
    // Every turn came when it was due, in its order, and every request has its record.
    for receiver in [&half, &broken, &refusing, &limiting] {
        for (id, requests) in receiver.seen().requests {
            let turns: Vec<_> = deliveries
                .iter()
                .filter(|delivery| delivery.delivery_id == id)
                .collect();
            assert_eq!(turns.len(), requests, "{id}");
            for (number, turn) in (1..).zip(&turns) {
                assert_eq!(turn.attempt, number);
            }
            for pair in turns.windows(2) {
                assert!(pair[1].at >= pair[0].next_at.unwrap(), "{pair:?}");
            }
        }
    }
    let shown = format!("{deliveries:?}");
    assert!(!shown.contains("hunter2"), "a secret is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_holds_up_nobody_else_and_gets_all_when_it_works_again() {
    let world = World::new("hanging").await;
    let hanging = Receiver::start(Behaviour::Hanging).await;
    let fast = Receiver::start(Behaviour::Fast).await;
    // A request is over when its record is in the log, which takes long on a loaded machine.
    let fast_entry = format!("{}concurrency = 32\n", webhook("fast", &fast));
    let entries = [webhook("hanging", &hanging), fast_entry];
    let destinations = world.destinations(&entries.concat());
    let deliverer = world.start(world.config(destinations.clone())).await;
    // More than fits into a queue.
    world.accept((0, 1_000)).await;
    world.until(|| fast.seen().taken.len() == 1_000).await;
    assert!(hanging.seen().taken.is_empty());
    // What it has not got is remembered over a restart.
    deliverer.stop().await;
    world.accept((1_000, 1_100)).await;
    let deliverer = world.start_late(world.config(destinations));
    world.until(|| fast.seen().taken.len() == 1_100).await;
    hanging.mend();
    // Nothing was given up but what had its turns while it hung.
    world
        .until(|| ends(&world.deliveries()).len() == 2_200)
        .await;
    deliverer.stop().await;
    let deliveries = world.deliveries();
    let delivered: std::collections::BTreeSet<_> = deliveries
        .iter()
        .filter(|one| one.destination == "hanging" && one.result == DeliveryResult::Delivered)
        .map(|one| one.delivery_id.clone())
        .collect();
    assert_eq!(delivered.len(), hanging.seen().taken.len());
    assert!(delivered.len() > 900, "{}", delivered.len());
    assert_eq!(fast.seen().taken.len(), 1_100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_asked_no_more_also_after_a_restart() {
    let world = World::new("gone").await;
    let gone = Receiver::start(Behaviour::Gone).await;
    let entry = format!("{}concurrency = 1\n", webhook("gone", &gone));
    let destinations = world.destinations(&entry);
    let deliverer = world.start(world.config(destinations.clone())).await;
    world.accept((0, 5)).await;
    world.ended(5).await;
    deliverer.stop().await;
    assert_eq!(gone.seen().requests.len(), 1);
    let deliverer = world.start_late(world.config(destinations));
    world.accept((5, 8)).await;
    let deliveries = world.ended(8).await;
    deliverer.stop().await;
    assert_eq!(gone.seen().requests.len(), 1);
    let summary = summary(&deliveries);
    assert_eq!(summary[&("gone", "given_up", "gone")], 1);
    assert_eq!(summary[&("gone", "given_up", "disabled")], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_failed_for_too_long_is_disabled() {
    let world = World::new("failing").await;
    let broken = Receiver::start(Behaviour::Broken).await;
    let mut config = world.config(world.destinations(&webhook("broken", &broken)));
    config.disable_after = Duration::from_secs(2);
    let deliverer = world.start(config).await;
    world.accept((0, 500)).await;
    let deliveries = world.ended(500).await;
    deliverer.stop().await;
    let summary = summary(&deliveries);
    assert!(
        summary[&("broken", "given_up", "disabled")] > 300,
        "{summary:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn third_parties_get_what_was_consented_to() {
    let world = World::new("consent").await;
    let (ga4, meta) = (
        Receiver::start(Behaviour::Fast).await,
        Receiver::start(Behaviour::Fast).await,
    );
    let entries = format!(
        "[[tenant.destinations]]\nid = \"ga\"\nkind = \"ga4\"\nmeasurement_id = \"G-ABC123\"\n\
         url = \"{}\"\nsecrets = KEY\nevent_types = [\"lead.qualified\"]\n\
         [[tenant.destinations]]\nid = \"meta\"\nkind = \"meta\"\npixel_id = \"12345\"\n\
         url = \"{}\"\nsecrets = KEY\nevent_types = [\"lead.qualified\"]\n",
        ga4.url(),
        meta.url()
    );
    let destinations = world.destinations(&entries);
    let deliverer = world.start(world.config(destinations.clone())).await;
    let of = |number: i64, event_type: EventType, conversation: &str| {
        let mut event = event(number);
        event.event_type = event_type;
        event.conversation_id = Some(conversation.to_owned());
        event
    };
    world
        .write([
            of(0, EventType::LeadQualified, "unknown"),
            of(1, EventType::ConsentAccepted, "accepted"),
            of(2, EventType::LeadQualified, "accepted"),
            of(3, EventType::ConsentDeclined, "declined"),
            of(4, EventType::LeadQualified, "declined"),
        ])
        .await;
    world.ended(6).await;
    deliverer.stop().await;
    // What was said before a restart is not forgotten.
    let deliverer = world.start_late(world.config(destinations));
    world
        .write([of(5, EventType::LeadQualified, "accepted")])
        .await;
    let deliveries = world.ended(8).await;
    deliverer.stop().await;
    for (destination, receiver) in [("ga", &ga4), ("meta", &meta)] {
        let taken: Vec<_> = receiver.seen().taken.into_keys().collect();
        assert_eq!(taken, ["e2", "e5"]);
        let summary = summary(&deliveries);
        assert_eq!(summary[&(destination, "withheld", "consent_unknown")], 1);
        assert_eq!(summary[&(destination, "withheld", "consent_declined")], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_receiver_before_still_says_does_not_count_for_the_new_one() {
    let world = World::new("moved").await;
    let old = Receiver::start(Behaviour::SlowlyGone(Duration::from_millis(700))).await;
    let new = Receiver::start(Behaviour::Fast).await;
    let one_by_one = |receiver| format!("{}concurrency = 1\n", webhook("crm", receiver));
    let (sender, destinations) = tokio::sync::watch::channel(world.destinations(&one_by_one(&old)));
    let mut config = world.config(Vec::new());
    config.destinations = destinations;
    let deliverer = world.start(config).await;
    world.accept((0, 10)).await;
    world.until(|| old.seen().requests.len() == 1).await;
    // One request is under way to the old address, and nine wait behind it.
    let moved = world.destinations(&one_by_one(&new));
    let address = moved[0].receiver.address();
    sender.send_replace(moved);
    let deliveries = world.ended(10).await;
    deliverer.stop().await;
    let summary = summary(&deliveries);
    assert_eq!(summary[&("crm", "given_up", "gone")], 1, "{summary:?}");
    assert_eq!(summary[&("crm", "delivered", "")], 9, "{summary:?}");
    assert_eq!(new.seen().taken.len(), 9);
    assert_eq!(old.seen().requests.len(), 1);
    let said = world.said("crm").unwrap();
    assert_eq!((said.address, said.disabled_at), (address, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_that_was_given_is_known_at_every_later_turn_wherever_that_is() {
    let world = World::new("consent-later").await;
    let ga4 = Receiver::start(Behaviour::FirstFails).await;
    let entry = format!(
        "[[tenant.destinations]]\nid = \"ga\"\nkind = \"ga4\"\nmeasurement_id = \"G-ABC123\"\n\
         url = \"{}\"\nsecrets = KEY\nevent_types = [\"lead.qualified\"]\n",
        ga4.url()
    );
    let deliverer = world.start(world.config(world.destinations(&entry))).await;
    let accepted = Event {
        event_type: EventType::ConsentAccepted,
        ..event(0)
    };
    world.write([accepted, event(1)]).await;
    world.ended(1).await;
    let waited = world.retries(1).remove(0);
    assert_eq!(waited.consent, Some(true));
    // The same of conversations of which this deliverer has read nothing.
    for (number, consent) in [(2, Some(true)), (3, Some(false)), (4, None)] {
        let event = Event {
            conversation_id: Some(format!("elsewhere-{number}")),
            ..event(number)
        };
        let retry = Retry {
            event: world.events.encode(&event).unwrap(),
            consent,
            ..waited.clone()
        };
        world.wait(&retry).await;
    }
    let deliveries = world.ended(4).await;
    deliverer.stop().await;
    let summary = summary(&deliveries);
    assert_eq!(summary[&("ga", "delivered", "")], 2, "{summary:?}");
    assert_eq!(summary[&("ga", "withheld", "consent_declined")], 1);
    assert_eq!(summary[&("ga", "withheld", "consent_unknown")], 1);
    let taken: Vec<_> = ga4.seen().taken.into_keys().collect();
    assert_eq!(taken, ["e1", "e2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_connected_to_fails_with_its_class() {
    let world = World::new("classes").await;
    let inner = Receiver::start(Behaviour::Fast).await;
    let redirecting = Receiver::start(Behaviour::Redirecting(inner.port)).await;
    let dripping = Receiver::start(Behaviour::Dripping).await;
    let plain = Receiver::start(Behaviour::Plain).await;
    let other = |id: &str, url: &str| {
        format!(
            "[[tenant.destinations]]\nid = \"{id}\"\nkind = \"webhook\"\nurl = \"{url}\"\n\
             secrets = KEY\nallow_http = true\ntimeout = \"1s\"\n"
        )
    };
    let entries = [
        webhook("redirecting", &redirecting),
        webhook("dripping", &dripping),
        other("tls", &format!("https://127.0.0.1:{}/", plain.port)),
        other("dns", "https://no-such-host.invalid/"),
        other("metadata", "http://169.254.169.254/latest"),
        other("private", "http://[::ffff:10.0.0.1]/"),
    ];
    let mut config = world.config(world.destinations(&entries.concat()));
    config.breaker.failures = 1_000;
    let deliverer = world.start(config).await;
    world.accept((0, 2)).await;
    let deliveries = world.ended(12).await;
    deliverer.stop().await;
    let given_up: std::collections::BTreeMap<_, _> = deliveries
        .iter()
        .filter(|one| one.result == DeliveryResult::GivenUp)
        .map(|one| (one.destination.as_str(), one.failure.unwrap()))
        .collect();
    assert_eq!(
        given_up,
        [
            ("redirecting", FailureClass::Redirect),
            ("dripping", FailureClass::Timeout),
            ("tls", FailureClass::Tls),
            ("dns", FailureClass::Dns),
            ("metadata", FailureClass::Blocked),
            ("private", FailureClass::Blocked),
        ]
        .into()
    );
    assert!(inner.seen().requests.is_empty(), "a redirect was followed");
    assert!(deliverer_never_retried_too_often(&deliveries));
    assert!(world.retries(3).len() >= 12);
}

fn deliverer_never_retried_too_often(deliveries: &[chatpulse_model::Delivery]) -> bool {
    deliveries.iter().all(|delivery| delivery.attempt <= 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_destination_gets_what_comes_and_an_old_one_what_it_missed() {
    let world = World::new("new").await;
    let old = Receiver::start(Behaviour::Slow(Duration::from_millis(5))).await;
    let new = Receiver::start(Behaviour::Fast).await;
    let destinations = world.destinations(&webhook("old", &old));
    let deliverer = world.start(world.config(destinations)).await;
    world.accept((0, 5)).await;
    world.ended(5).await;
    deliverer.stop().await;
    world.accept((5, 10)).await;
    let both = [webhook("old", &old), webhook("new", &new)].concat();
    let deliverer = world.start_late(world.config(world.destinations(&both)));
    world.ended(10).await;
    world.accept((10, 15)).await;
    let deliveries = world.ended(20).await;
    assert_eq!(deliverer.metrics.turns(DeliveryResult::Delivered), 15);
    deliverer.stop().await;
    assert_eq!(old.seen().taken.len(), 15);
    assert_eq!(new.seen().taken.len(), 5);
    assert_eq!(deliveries.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_limits_gets_its_retries_before_what_is_fresh() {
    let world = World::new("limits").await;
    let limiting = Receiver::start(Behaviour::FirstLimited).await;
    let mut config = world.config(world.destinations(&webhook("limiting", &limiting)));
    config.disable_after = Duration::from_secs(10);
    let deliverer = world.start(config).await;
    world.accept((0, 40)).await;
    let deliveries = world.ended(40).await;
    deliverer.stop().await;
    let summary = summary(&deliveries);
    assert_eq!(summary[&("limiting", "delivered", "")], 40, "{summary:?}");
    assert_eq!(summary[&("limiting", "retrying", "rate_limited")], 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_not_repeated_though_the_cursors_do_not_know_it() {
    let world = World::new("ended").await;
    let receiver = Receiver::start(Behaviour::Fast).await;
    let destinations = world.destinations(&webhook("crm", &receiver));
    let deliverer = world.start(world.config(destinations.clone())).await;
    let first_cursors = world.last_cursors();
    world.accept((0, 30)).await;
    world.ended(30).await;
    deliverer.stop().await;
    // As if it had been killed before it wrote any more of them.
    world.write_cursors(first_cursors).await;
    let deliverer = world.start_late(world.config(destinations));
    world.accept((30, 40)).await;
    world.ended(40).await;
    deliverer.stop().await;
    assert_eq!(world.deliveries().len(), 40);
    assert!(receiver.seen().requests.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_come_change_and_go_while_others_are_delivered_to() {
    let world = World::new("reload").await;
    let (old, moved, hanging) = (
        Receiver::start(Behaviour::Fast).await,
        Receiver::start(Behaviour::Fast).await,
        Receiver::start(Behaviour::Hanging).await,
    );
    let (new, fast) = (
        Receiver::start(Behaviour::Fast).await,
        Receiver::start(Behaviour::Fast).await,
    );
    let fast_entry = webhook("fast", &fast);
    let entries = [
        webhook("crm", &old),
        webhook("gone", &hanging),
        fast_entry.clone(),
    ];
    let (sender, receiver) = tokio::sync::watch::channel(world.destinations(&entries.concat()));
    let mut config = world.config(Vec::new());
    config.destinations = receiver;
    let deliverer = world.start(config).await;
    world.accept((0, 300)).await;
    world.until(|| fast.seen().taken.len() == 300).await;
    world.until(|| old.seen().taken.len() == 300).await;
    // One goes that hangs, one points elsewhere, and one comes.
    let entries = [webhook("crm", &moved), webhook("new", &new), fast_entry];
    sender.send_replace(world.destinations(&entries.concat()));
    world
        .until(|| world.said("gone").is_some_and(|state| !state.is_configured))
        .await;
    world.until(|| world.said("new").is_some()).await;
    world.accept((300, 350)).await;
    world.until(|| fast.seen().taken.len() == 350).await;
    world.until(|| new.seen().taken.len() == 50).await;
    world.until(|| moved.seen().taken.len() == 50).await;
    // What the one that left was handed and had not taken is given up with its reason.
    world
        .until(|| {
            let deliveries = world.deliveries();
            let ended = ends(&deliveries);
            let of_gone = deliveries.iter().filter(|one| one.destination == "gone");
            // It had been handed what fits into its queue.
            let removed = of_gone
                .clone()
                .filter(|one| one.failure == Some(FailureClass::Removed));
            removed.count() >= 200
                && of_gone
                    .clone()
                    .all(|one| ended.contains_key(one.delivery_id.as_str()))
        })
        .await;
    deliverer.stop().await;
    assert_eq!(old.seen().taken.len(), 300);
    assert!(fast.seen().requests.values().all(|count| *count == 1));
    assert_eq!(world.said("crm").unwrap().address, {
        let all = world.destinations(&entries.concat());
        all[0].receiver.address()
    });
}

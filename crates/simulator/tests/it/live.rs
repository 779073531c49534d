//! Traffic that happens now, judged by what is sent and when it is due; no clock is read.

use crate::*;

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;

fn live(seed: u64, events_per_second: f64) -> Options {
    Options {
        pace: Pace::Live { events_per_second },
        ..options(seed, u64::MAX)
    }
}

/// The items of an endless run that are due within its first minutes.
fn first_minutes(minutes: i64, options: Options) -> Vec<Item> {
    Simulator::new(options)
        .take_while(|item| item.due_ms < BASE_MS + minutes * MINUTE_MS)
        .collect()
}

/// How long after its event an item is due, of those that have one.
fn ages(items: &[Item]) -> impl Iterator<Item = (&Item, i64)> {
    items
        .iter()
        .filter(|item| !matches!(item.expect, Expect::Rejected(_)))
        .map(|item| (item, item.due_ms - occurred_at(item, &parsed(item))))
}

#[test]
fn items_come_in_the_order_of_their_due_times_and_after_their_events() {
    let items = first_minutes(15, live(1, 30.0));
    assert!(items.is_sorted_by_key(|item| item.due_ms));
    assert!(items[0].due_ms >= BASE_MS);
    for (item, age) in ages(&items) {
        assert!(age >= 0, "{} due at {}", item.body, item.due_ms);
        assert!(item.due_ms - age >= BASE_MS, "{}", item.body);
        if let Some(sent_at) = parsed(item)["context"]["sent_at"].as_str() {
            assert!(millis(sent_at) <= item.due_ms, "{}", item.body);
        }
    }
}

#[test]
fn without_faults_every_item_is_due_within_half_a_second() {
    let faults = FaultRates::NONE;
    let items = first_minutes(
        10,
        Options {
            faults,
            ..live(2, 30.0)
        },
    );
    for (item, age) in ages(&items) {
        assert!((20..=500).contains(&age), "{age} ms: {}", item.body);
    }
    assert!(items.iter().any(|item| item.expect == Expect::Accepted));
}

#[test]
fn the_rate_is_as_asked_from_the_first_minute_on() {
    for events_per_second in [2.0, 40.0] {
        let items = first_minutes(10, live(3, events_per_second));
        let near = |found: usize, seconds: f64, within: f64| {
            let asked = events_per_second * seconds;
            (found as f64 - asked).abs() <= asked * within
        };
        assert!(near(items.len(), 600.0, 0.15), "{}", items.len());
        for minute in 0..10 {
            let of_minute = |item: &&Item| (item.due_ms - BASE_MS) / MINUTE_MS == minute;
            let found = items.iter().filter(of_minute).count();
            let within = if events_per_second < 10.0 { 0.5 } else { 0.15 };
            assert!(near(found, 60.0, within), "{found} in minute {minute}");
        }
    }
}

#[test]
fn late_items_come_at_their_rate_once_there_is_a_past_to_come_from() {
    let late = FaultRates::default().late;
    let items = first_minutes(25, live(4, 20.0));
    let share = |items: &[Item]| {
        let ages: Vec<i64> = ages(items).map(|(_, age)| age).collect();
        assert!(ages.iter().all(|age| *age < 9 * MINUTE_MS));
        let found = ages.iter().filter(|age| **age > 5 * MINUTE_MS).count();
        found as f64 / ages.len() as f64
    };
    let minute =
        |minute: i64| items.partition_point(|item| item.due_ms < BASE_MS + minute * MINUTE_MS);
    assert_eq!(share(&items[..minute(5)]), 0.0);
    let found = share(&items[minute(9)..]);
    assert!((found - late).abs() < late / 4.0, "{found}");
}

#[test]
fn copies_come_seconds_later_and_some_events_are_overtaken() {
    let items = first_minutes(10, live(5, 30.0));
    let mut sent: BTreeMap<(usize, &str), i64> = BTreeMap::new();
    let mut copies = 0;
    for item in &items {
        match item.expect {
            Expect::Accepted | Expect::Duplicate => {
                let key = (item.tenant, item.body.as_str());
                if let Some(first) = sent.get(&key) {
                    let wait = item.due_ms - first;
                    assert!((SECOND_MS..15 * SECOND_MS).contains(&wait), "{wait} ms");
                    copies += 1;
                } else {
                    sent.insert(key, item.due_ms);
                }
            }
            Expect::Rejected(_) => {}
        }
    }
    assert!(copies > items.len() / 50, "{copies} copies");
    let overtaken = ages(&items)
        .filter(|(_, age)| (SECOND_MS..11 * SECOND_MS).contains(age))
        .count();
    assert!(overtaken > items.len() / 50, "{overtaken} overtaken");
}

#[test]
fn outcomes_are_expected_and_booked_as_in_a_historic_run() {
    let (items, truth) = run(Options {
        events: 20_000,
        ..live(6, 30.0)
    });
    assert_eq!(items.len(), 20_000);
    let mut seen = HashSet::new();
    for item in &items {
        match item.expect {
            Expect::Accepted => assert!(seen.insert(identity(item)), "{}", item.body),
            Expect::Duplicate => assert!(seen.contains(&identity(item)), "{}", item.body),
            Expect::Rejected(_) => {}
        }
    }
    assert_eq!(truth.sent, 20_000);
    assert_eq!(truth.accepted, seen.len() as u64);
    let rejected: u64 = truth.rejected.values().sum();
    assert_eq!(truth.sent, truth.accepted + truth.duplicate + rejected);
    assert!(truth.lost_in_browser > 0 && truth.duplicate > 0 && rejected > 0);
    let (again, _) = run(Options {
        events: 20_000,
        ..live(6, 30.0)
    });
    assert_eq!(items, again);
}

#[test]
fn a_viewer_sees_whole_conversations_within_minutes() {
    let faults = FaultRates::NONE;
    let items = first_minutes(
        40,
        Options {
            faults,
            ..live(7, 20.0)
        },
    );
    let mut lengths = Vec::new();
    let (mut closed, mut answers, mut slow) = (0, 0, 0);
    for (_, mut events) in watermelon_conversations(&items) {
        // A bot may answer within the same millisecond.
        events.sort_by_key(|(name, at)| (*at, name == "widget_agent_message_sent"));
        let (start, end) = (events[0].1, events[events.len() - 1].1);
        // One that began in the last 15 minutes may be cut off.
        if start > BASE_MS + 25 * MINUTE_MS {
            continue;
        }
        lengths.push(end - start);
        closed += usize::from(events.iter().any(|(name, _)| {
            name == "widget_conversation_archived" || name == "widget_conversation_deleted"
        }));
        for pair in events.windows(2) {
            let pause = pair[1].1 - pair[0].1;
            assert!(pause <= 2 * MINUTE_MS, "{pause} ms before {}", pair[1].0);
            if pair[0].0 == "widget_message_sent" && pair[1].0 == "widget_agent_message_sent" {
                answers += 1;
                slow += usize::from(pause > 3 * SECOND_MS);
            }
        }
    }
    lengths.sort_unstable();
    let quantile = |share: f64| lengths[(lengths.len() as f64 * share) as usize];
    assert!((MINUTE_MS..4 * MINUTE_MS).contains(&quantile(0.5)));
    assert!(quantile(0.9) < 5 * MINUTE_MS, "{} ms", quantile(0.9));
    assert!(closed * 2 > lengths.len(), "{closed} of {}", lengths.len());
    assert!(closed * 10 < lengths.len() * 9, "some are left open");
    assert!(answers > 500 && slow == 0, "{slow} of {answers} are slow");
}

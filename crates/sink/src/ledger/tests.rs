use super::*;

const WIDE: Watermarks = Watermarks {
    low: 0,
    high: 1_000,
};

fn found(committed: &[Option<i64>]) -> Found<'_> {
    Found {
        committed,
        events: WIDE,
        raw: WIDE,
        stored: None,
    }
}

fn load(committed: [Option<i64>; 3]) -> Ledger {
    Ledger::load(&found(&committed)).expect("raw is long enough")
}

#[test]
fn a_new_partition_begins_with_the_first_outcome_or_what_raw_still_has() {
    for (raw_low, first_outcome, begins) in [(0, 0, 0), (7, 9, 7), (9, 7, 7)] {
        let mut ledger = Ledger::load(&Found {
            events: Watermarks { low: 5, high: 90 },
            raw: Watermarks {
                low: raw_low,
                high: 90,
            },
            ..found(&[None, None, None])
        })
        .expect("raw is long enough");
        assert_eq!((ledger.read_from(), ledger.pending()), (5, 0));
        assert!(!ledger.has_begun());
        ledger.begin(first_outcome);
        ledger.begin(first_outcome + 50);
        assert_eq!((ledger.watermark(), ledger.has_begun()), (begins, true));
    }
}

#[test]
fn a_range_that_was_decided_and_not_done_is_pending() {
    let mut ledger = load([Some(12), Some(10), Some(10)]);
    ledger.decide(15);
    assert_eq!(ledger.offsets(), [12, 25, 10]);
    let successor = load(ledger.offsets().map(Some));
    assert_eq!(successor.pending(), 15);
    assert_eq!(successor, ledger);
}

#[test]
fn a_range_that_is_done_is_not_pending() {
    let mut ledger = load([Some(12), Some(25), Some(10)]);
    ledger.done(40);
    assert_eq!(ledger.offsets(), [40, 25, 25]);
    assert_eq!(ledger.pending(), 0);
}

#[test]
fn a_refused_range_is_decided_anew_from_the_same_start() {
    let mut ledger = load([Some(12), Some(25), Some(10)]);
    ledger.decide(7);
    assert_eq!(ledger.offsets(), [12, 17, 10]);
}

#[test]
fn the_token_names_the_raw_partition_and_range() {
    let ledger = load([Some(12), Some(25), Some(10)]);
    let raw = TopicPartition::new("chat.raw", 3);
    assert_eq!(ledger.token(&raw), "chat.raw:3:10-25");
}

#[test]
fn the_range_survives_when_chat_events_was_deleted_and_made_again() {
    // Brokers that drop the offset with the topic, and one that keeps it beyond the new log.
    for place in [None, Some(800)] {
        let ledger = Ledger::load(&Found {
            events: Watermarks { low: 0, high: 30 },
            ..found(&[place, Some(25), Some(10)])
        })
        .expect("raw is long enough");
        assert_eq!(ledger.offsets(), [0, 25, 10]);
    }
}

#[test]
fn a_watermark_that_the_broker_forgot_is_asked_of_the_store() {
    let ledger = Ledger::load(&Found {
        stored: Some(70),
        ..found(&[Some(90), Some(40), None])
    })
    .expect("raw is long enough");
    assert_eq!(ledger.offsets(), [90, 70, 70]);
    assert!(ledger.has_begun());
}

#[test]
fn a_raw_topic_that_was_made_again_is_refused() {
    for (committed, stored) in [
        ([None, Some(40), Some(31)], None),
        ([None, Some(31), Some(31)], None),
        ([None, None, None], Some(31)),
    ] {
        let shorter = Ledger::load(&Found {
            raw: Watermarks { low: 0, high: 30 },
            stored,
            ..found(&committed)
        });
        assert!(shorter.is_err(), "{committed:?} {stored:?}");
    }
    // What ends exactly there is all stored.
    let whole = Ledger::load(&Found {
        raw: Watermarks { low: 0, high: 30 },
        ..found(&[Some(40), Some(30), Some(30)])
    });
    assert!(whole.is_ok());
}

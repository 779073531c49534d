use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::*;

#[test]
fn a_new_partition_starts_where_its_log_begins() {
    let ledger = Ledger::load(&[None, None, None], 7);
    assert_eq!(ledger.pending(), None);
    assert_eq!(ledger.next(), 7);
    assert_eq!(ledger.watermark(), Watermark::at(0));
}

#[test]
fn a_range_that_was_decided_and_not_done_is_pending() {
    let mut ledger = Ledger::load(&[Some(10), Some(10), Some(9)], 0);
    ledger.decide(25);
    assert_eq!(ledger.offsets(), [10, 25, 9]);
    let successor = Ledger::load(&ledger.offsets().map(Some), 0);
    assert_eq!(successor.pending(), Some(10..25));
    assert_eq!(successor, ledger);
}

#[test]
fn a_range_that_is_done_is_not_pending() {
    let mut ledger = Ledger::load(&[Some(10), Some(25), Some(9)], 0);
    ledger.done(Watermark::at(20));
    assert_eq!(ledger.offsets(), [25, 25, 20]);
    assert_eq!(ledger.pending(), None);
}

#[test]
fn the_token_names_topic_partition_and_range() {
    let mut ledger = Ledger::load(&[Some(10), None, None], 0);
    ledger.decide(25);
    assert_eq!(
        ledger.token(&TopicPartition::new("chat.events", 3)),
        "chat.events:3:10-25"
    );
}

/// A store that drops a block whose token it knows.
#[derive(Default)]
struct Store {
    blocks: BTreeMap<String, Vec<i64>>,
}

/// Where a run of the sink dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    BeforeDecision,
    AfterDecision,
    AfterInsert,
    None,
}

proptest! {
    /// Guarantee 6, without a broker: whatever is repeated in the log, and wherever the sink dies,
    /// every raw offset is stored once, and repeated inserts carry the same rows.
    #[test]
    fn every_outcome_is_stored_once_wherever_the_sink_dies(
        repeats in vec((0..20usize, 1..6usize), 0..10),
        steps in vec((1..9i64, prop::sample::select(vec![
            Death::BeforeDecision, Death::AfterDecision, Death::AfterInsert, Death::None,
        ])), 1..60),
    ) {
        // A log of raw offsets 0..20 in which zombies repeat earlier ones.
        let mut log: Vec<i64> = (0..20).collect();
        for (at, count) in repeats {
            let until = log[at];
            let first = (until + 1 - count as i64).max(0);
            let zombie: Vec<i64> = (first..=until).collect();
            let position = at + 1;
            log.splice(position..position, zombie);
        }
        let partition = TopicPartition::new("chat.events", 0);
        let mut committed = [None; 3];
        let mut store = Store::default();

        let insert = |ledger: &Ledger, store: &mut Store| {
            let mut watermark = ledger.watermark();
            let range = ledger.offsets();
            let rows: Vec<i64> = log[range[0] as usize..range[1] as usize]
                .iter()
                .copied()
                .filter(|&raw| {
                    watermark.admit(raw) != chatpulse_model::watermark::Admission::Repeated
                })
                .collect();
            let token = ledger.token(&partition);
            match store.blocks.get(&token) {
                Some(known) => assert_eq!(known, &rows, "the same token with other rows"),
                None => { store.blocks.insert(token, rows); }
            }
            watermark
        };

        let mut steps = steps.into_iter().chain(std::iter::repeat((100, Death::None)));
        let mut rounds = 0;
        'runs: loop {
            let mut ledger = Ledger::load(&committed, 0);
            if ledger.pending().is_some() {
                let watermark = insert(&ledger, &mut store);
                ledger.done(watermark);
                committed = ledger.offsets().map(Some);
            }
            loop {
                rounds += 1;
                prop_assert!(rounds < 1_000, "no progress");
                if ledger.next() as usize == log.len() {
                    break 'runs;
                }
                let Some((size, death)) = steps.next() else { break };
                if matches!(death, Death::BeforeDecision) { continue 'runs; }
                ledger.decide((ledger.next() + size).min(log.len() as i64));
                committed = ledger.offsets().map(Some);
                if matches!(death, Death::AfterDecision) { continue 'runs; }
                let watermark = insert(&ledger, &mut store);
                if matches!(death, Death::AfterInsert) { continue 'runs; }
                ledger.done(watermark);
                committed = ledger.offsets().map(Some);
            }
        }
        let stored: Vec<i64> = store.blocks.values().flatten().copied().collect();
        prop_assert_eq!(stored.len(), 20);
        prop_assert_eq!(stored.into_iter().collect::<BTreeSet<_>>().len(), 20);
    }
}

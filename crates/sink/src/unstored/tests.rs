use proptest::{collection::vec, prelude::*};

use super::*;

fn at(raw: i64, offset: i64) -> Position {
    Position {
        raw,
        received_at: raw.saturating_add(1_000),
        offset,
    }
}

/// Admits the outcomes of these raw offsets, which stand in chat.events from `start` on.
fn read(next: i64, start: i64, raws: &[i64]) -> Unstored<i64> {
    let mut unstored = Unstored::new(next, start);
    for (&raw, offset) in raws.iter().zip(start..) {
        unstored.admit(at(raw, offset), raw).expect("no wide gap");
    }
    unstored
}

fn rows(unstored: &Unstored<i64>) -> Vec<Row<i64>> {
    unstored.first(unstored.len()).cloned().collect()
}

#[test]
fn what_was_seen_before_is_dropped() {
    let unstored = read(5, 0, &[3, 4, 5, 4, 5, 6]);
    assert_eq!(rows(&unstored), [Row::Read(5), Row::Read(6)]);
    assert_eq!(unstored.position(), 6);
}

#[test]
fn each_skipped_raw_offset_becomes_a_lost_row_with_the_time_of_the_next() {
    let mut unstored = read(5, 10, &[5, 8]);
    let lost = Row::Lost(1_008);
    assert_eq!(
        rows(&unstored),
        [Row::Read(5), lost.clone(), lost, Row::Read(8)]
    );
    // The rest of a gap is found again from the record that showed it.
    assert_eq!(unstored.stored(2), 11);
    assert_eq!(unstored.stored(1), 11);
    assert_eq!(unstored.stored(1), 12);
}

#[test]
fn a_gap_that_is_no_damage_of_single_records_is_refused() {
    let mut unstored = read(0, 0, &[0]);
    let wide = unstored.admit(at(MAX_GAP + 2, 1), 0);
    assert_eq!(wide, Err(GapTooWide { expected: 1 }));
    let beyond = unstored.admit(at(i64::MAX, 1), 0);
    assert_eq!(beyond, Err(GapTooWide { expected: 1 }));
    assert!(unstored.admit(at(MAX_GAP + 1, 1), 0).is_ok());
    assert_eq!(unstored.len() as i64, MAX_GAP + 2);
}

proptest! {
    /// Rows are one per raw offset, whatever the log holds; and wherever a predecessor has stopped,
    /// reading on from the place it names gives the same rows again.
    #[test]
    fn rows_have_no_holes_and_are_found_again_from_the_place_that_is_named(
        raws in vec(0..30i64, 1..40),
        cuts in vec(1..5usize, 0..10),
    ) {
        let mut unstored = read(0, 0, &raws);
        let highest = raws.iter().max().copied().unwrap_or(0);
        prop_assert_eq!(unstored.len() as i64, highest + 1);
        let mut stored = 0;
        for cut in cuts {
            let cut = cut.min(unstored.len());
            let place = unstored.stored(cut);
            stored += cut as i64;
            let again = read(stored, place, &raws[place as usize..]);
            prop_assert_eq!(rows(&again), rows(&unstored));
        }
    }
}

//! What of a log is done, and what is still open. Pure.
//!
//! ```text
//! chat.events[p]   ─────────●────────●──────────────► next
//!                           │        └── behind: where a destination without room goes on reading
//!                           └── open: handed to a destination, not yet recorded
//! ```
//!
//! A destination's own cursor is the lowest of its open events and the place where it fell behind. So what
//! waits for a destination, for days if need be, waits in `chat.events` itself and costs one number.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chatpulse_model::delivery::Cursor;

/// A destination, by its number in this run.
pub(crate) type LaneId = usize;

/// What is done of one partition of `chat.events`.
#[derive(Debug)]
pub(crate) struct Progress {
    next: Cursor,
    lanes: HashMap<LaneId, LaneProgress>,
}

#[derive(Debug, Default)]
struct LaneProgress {
    /// Offsets handed over, with the raw offset of each.
    open: BTreeMap<i64, i64>,
    behind: Option<Cursor>,
}

impl LaneProgress {
    fn cursor(&self) -> Option<Cursor> {
        let first = self.open.first_key_value();
        let open = first.map(|(&offset, &raw)| Cursor { offset, raw });
        match (open, self.behind) {
            (Some(open), Some(behind)) => Some(open.min(behind)),
            (open, behind) => open.or(behind),
        }
    }
}

impl Progress {
    /// Where a predecessor left it.
    pub(crate) fn at(next: Cursor, behind: impl IntoIterator<Item = (LaneId, Cursor)>) -> Self {
        let lanes = behind
            .into_iter()
            .filter(|(_, cursor)| *cursor < next)
            .map(|(lane, cursor)| {
                let progress = LaneProgress {
                    open: BTreeMap::new(),
                    behind: Some(cursor),
                };
                (lane, progress)
            })
            .collect();
        Self { next, lanes }
    }

    /// Where the common reader goes on.
    pub(crate) fn next(&self) -> Cursor {
        self.next
    }

    /// The common reader has passed everything below `next`.
    pub(crate) fn advance(&mut self, next: Cursor) {
        self.next = next;
    }

    /// Where this destination goes on by itself, if it is behind.
    pub(crate) fn behind(&self, lane: LaneId) -> Option<Cursor> {
        self.lanes.get(&lane)?.behind
    }

    /// Every destination that is behind.
    pub(crate) fn laggards(&self) -> Vec<(LaneId, Cursor)> {
        let mut laggards: Vec<_> = self
            .lanes
            .iter()
            .filter_map(|(lane, progress)| Some((*lane, progress.behind?)))
            .collect();
        laggards.sort_unstable();
        laggards
    }

    /// The event at `at` was handed to a destination.
    pub(crate) fn begin(&mut self, lane: LaneId, at: Cursor) {
        let progress = self.lanes.entry(lane).or_default();
        progress.open.insert(at.offset, at.raw);
    }

    /// A destination has no room for the event at `at`.
    pub(crate) fn fall_behind(&mut self, lane: LaneId, at: Cursor) {
        let progress = self.lanes.entry(lane).or_default();
        progress.behind.get_or_insert(at);
    }

    /// A destination that is behind has come to `to`; where that is all, it goes with the others again.
    pub(crate) fn catch_up(&mut self, lane: LaneId, to: Cursor) {
        let next = self.next;
        let progress = self.lanes.entry(lane).or_default();
        progress.behind = (to.offset < next.offset).then_some(to);
        self.forget(lane);
    }

    /// The delivery of an event is recorded, or scheduled.
    pub(crate) fn settle(&mut self, lane: LaneId, offset: i64) {
        if let Some(progress) = self.lanes.get_mut(&lane) {
            progress.open.remove(&offset);
        }
        self.forget(lane);
    }

    fn forget(&mut self, lane: LaneId) {
        if self
            .lanes
            .get(&lane)
            .is_some_and(|progress| progress.cursor().is_none())
        {
            self.lanes.remove(&lane);
        }
    }

    /// What is to be remembered: the common cursor, and those of destinations that have something open
    /// below it.
    pub(crate) fn cursors(&self) -> (Cursor, Vec<(LaneId, Cursor)>) {
        let mut behind: Vec<_> = self
            .lanes
            .iter()
            .filter_map(|(lane, progress)| Some((*lane, progress.cursor()?)))
            .collect();
        behind.sort_unstable();
        (self.next, behind)
    }
}

/// What is done of one partition of waiting deliveries.
#[derive(Debug)]
pub(crate) struct OpenOffsets {
    next: i64,
    open: BTreeSet<i64>,
}

impl OpenOffsets {
    /// All below `next` is done.
    pub(crate) fn at(next: i64) -> Self {
        Self {
            next,
            open: BTreeSet::new(),
        }
    }

    /// The record at `offset` was read.
    pub(crate) fn begin(&mut self, offset: i64) {
        self.open.insert(offset);
        self.next = self.next.max(offset + 1);
    }

    /// The record at `offset` is done.
    pub(crate) fn settle(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// All below is done.
    pub(crate) fn done(&self) -> i64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor(offset: i64) -> Cursor {
        Cursor {
            offset,
            raw: offset,
        }
    }

    #[test]
    fn a_destination_without_room_holds_only_its_own_cursor_back() {
        let mut progress = Progress::at(cursor(0), []);
        progress.begin(1, cursor(0));
        progress.fall_behind(2, cursor(0));
        progress.advance(cursor(5));
        progress.settle(1, 0);
        assert_eq!(progress.cursors(), (cursor(5), vec![(2, cursor(0))]));
        progress.catch_up(2, cursor(5));
        assert_eq!(progress.cursors(), (cursor(5), vec![]));
    }

    #[test]
    fn what_is_open_is_begun_again_after_a_restart() {
        let mut progress = Progress::at(cursor(0), []);
        for offset in 0..4 {
            progress.begin(1, cursor(offset));
            progress.advance(cursor(offset + 1));
        }
        for offset in [0, 1, 3] {
            progress.settle(1, offset);
        }
        let (next, behind) = progress.cursors();
        assert_eq!((next, &behind), (cursor(4), &vec![(1, cursor(2))]));
        let again = Progress::at(next, behind);
        assert_eq!(again.laggards(), [(1, cursor(2))]);
    }

    #[test]
    fn waiting_deliveries_are_done_in_any_order_and_committed_in_theirs() {
        let mut open = OpenOffsets::at(3);
        for offset in 3..7 {
            open.begin(offset);
        }
        open.settle(4);
        open.settle(6);
        assert_eq!(open.done(), 3);
        open.settle(3);
        assert_eq!(open.done(), 5);
        open.settle(5);
        assert_eq!(open.done(), 7);
    }

    const LOG: i64 = 30;

    proptest! {
        /// Readers, rooms, endings and crashes in any order: every destination gets every event, and what
        /// was remembered never lies above an event that is not done.
        #[test]
        fn no_event_is_passed_over(steps in prop::collection::vec((0..6_u8, 0..2_usize), 0..300)) {
            let mut progress = Progress::at(cursor(0), []);
            let mut done = [[false; LOG as usize]; 2];
            let mut held: Vec<(LaneId, i64)> = Vec::new();
            let finish = steps.len();
            let all = steps.into_iter().chain(
                // In the end there is room, and everything is settled.
                std::iter::repeat_n([(1, 0), (2, 0), (2, 1), (3, 0)], 8 * LOG as usize).flatten());
            for (number, (step, lane)) in all.enumerate() {
                match step {
                    // The common reader, with room for one destination, or for both.
                    0 | 1 if progress.next().offset < LOG => {
                        let at = progress.next();
                        for other in 0..2 {
                            if progress.behind(other).is_some() { continue; }
                            if step == 1 || other == lane {
                                progress.begin(other, at);
                                held.push((other, at.offset));
                            } else {
                                progress.fall_behind(other, at);
                            }
                        }
                        progress.advance(cursor(at.offset + 1));
                    }
                    // One that is behind reads an event by itself.
                    2 => if let Some(at) = progress.behind(lane) {
                        progress.begin(lane, at);
                        held.push((lane, at.offset));
                        progress.catch_up(lane, cursor(at.offset + 1));
                    },
                    // Some delivery ends.
                    3 | 4 if !held.is_empty() => {
                        let (lane, offset) = held.swap_remove((number * 7) % held.len());
                        done[lane][offset as usize] = true;
                        progress.settle(lane, offset);
                    }
                    // kill -9.
                    5 if number < finish => {
                        let (next, behind) = progress.cursors();
                        progress = Progress::at(next, behind);
                        held.clear();
                    }
                    _ => {}
                }
                let (next, behind) = progress.cursors();
                for (lane, done) in done.iter().enumerate() {
                    let own = behind.iter().find(|(other, _)| *other == lane).map_or(next, |(_, at)| *at);
                    prop_assert!(done[..own.offset as usize].iter().all(|done| *done));
                }
            }
            prop_assert!(done.iter().flatten().all(|done| *done), "{progress:?}");
            prop_assert_eq!(progress.cursors(), (cursor(LOG), vec![]));
        }
    }
}

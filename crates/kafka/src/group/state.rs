//! What a group member does next: events in, effects out, no I/O. The driver in the parent module performs the
//! effects.
//!
//! ```text
//!            Assigned                    Revoked / Stop               all tasks ended, or deadline
//!  (nothing) ────────► Start each task ─────────────────► Stop each ─────────────────────────────► Release
//! ```
//!
//! Two rules hold in every order of events. A partition never has two tasks: one that outlived its deadline is
//! abandoned (it can no longer commit), and its successor starts only after it has ended. And the assignment is
//! released, which lets another member have it, only when every task has ended or was abandoned.
//!
//! And a third: what is assigned last has its tasks. An assignment that comes before the one before it was given back
//! ends that one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::reader::TopicPartition;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The coordinator gave us these partitions, and no others.
    Assigned(Vec<TopicPartition>),
    /// The coordinator takes everything back. The member must release within the rebalance timeout.
    Revoked {
        /// Another member may have the partitions already.
        lost: bool,
    },
    /// A task returned.
    Ended(TopicPartition),
    /// Shut down: by request, or because a task failed.
    Stop,
    /// Time passed.
    Tick,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Accept the assignment from the client library.
    Accept(Vec<TopicPartition>),
    /// Start the partition's task.
    Start(TopicPartition),
    /// Ask the task to return soon.
    Stop(TopicPartition),
    /// Let the task commit no more, and do not wait for it.
    Abandon(TopicPartition),
    /// Give the assignment back.
    Release,
    /// Leave the group; nothing comes after this.
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Owning whatever was assigned, perhaps nothing.
    Steady,
    /// Waiting for tasks to end, then giving the assignment back.
    Releasing {
        deadline: Instant,
        then: Then,
    },
    Left,
}

/// What follows a release; the later wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Then {
    Stay,
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Running,
    Stopping,
}

/// The member's state.
#[derive(Debug)]
pub(super) struct Member {
    phase: Phase,
    tasks: BTreeMap<TopicPartition, Task>,
    /// Tasks given up, whose threads have not ended yet.
    abandoned: BTreeSet<TopicPartition>,
    /// Assigned partitions whose abandoned task must end before the next one starts.
    waiting: BTreeSet<TopicPartition>,
    patience: Duration,
    /// What the event in hand has brought about so far.
    effects: Vec<Effect>,
}

impl Member {
    /// A member that has joined nothing yet and gives its tasks `patience` to end.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            phase: Phase::Steady,
            tasks: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            waiting: BTreeSet::new(),
            patience,
            effects: Vec::new(),
        }
    }

    /// Whether the task of `partition` was asked to return, or was given up: its end is then no surprise.
    pub(super) fn may_end(&self, partition: &TopicPartition) -> bool {
        self.tasks.get(partition) != Some(&Task::Running)
    }

    pub(super) fn has_left(&self) -> bool {
        self.phase == Phase::Left
    }

    pub(super) fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Assigned(partitions) => self.assigned(partitions),
            Event::Revoked { lost } => {
                self.release(now, Then::Stay);
                if lost {
                    self.abandon_all();
                }
            }
            Event::Stop => self.release(now, Then::Leave),
            Event::Ended(partition) => self.ended(partition),
            Event::Tick => {}
        }
        self.finish_release(now);
        std::mem::take(&mut self.effects)
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>) {
        if self.phase == Phase::Left {
            return;
        }
        // Tasks of a generation that is over, if the client library has joined again without waiting for their end.
        self.abandon_all();
        self.effects.push(Effect::Accept(partitions.clone()));
        if let Phase::Releasing {
            then: Then::Stay, ..
        } = self.phase
        {
            self.phase = Phase::Steady;
        }
        // While leaving it is only accepted so that it can be given back.
        if self.phase == Phase::Steady {
            self.waiting.clear();
            for partition in partitions {
                if self.abandoned.contains(&partition) {
                    self.waiting.insert(partition);
                } else {
                    self.start(partition);
                }
            }
        }
    }

    fn start(&mut self, partition: TopicPartition) {
        self.tasks.insert(partition.clone(), Task::Running);
        self.effects.push(Effect::Start(partition));
    }

    fn release(&mut self, now: Instant, then: Then) {
        self.phase = match self.phase {
            Phase::Steady => Phase::Releasing {
                deadline: now + self.patience,
                then,
            },
            Phase::Releasing {
                deadline,
                then: earlier,
            } => Phase::Releasing {
                deadline,
                then: earlier.max(then),
            },
            Phase::Left => return,
        };
        self.waiting.clear();
        for (partition, task) in &mut self.tasks {
            if *task == Task::Running {
                *task = Task::Stopping;
                self.effects.push(Effect::Stop(partition.clone()));
            }
        }
    }

    fn abandon_all(&mut self) {
        for partition in std::mem::take(&mut self.tasks).into_keys() {
            self.effects.push(Effect::Abandon(partition.clone()));
            self.abandoned.insert(partition);
        }
    }

    fn ended(&mut self, partition: TopicPartition) {
        if !self.abandoned.remove(&partition) {
            self.tasks.remove(&partition);
        } else if self.waiting.remove(&partition) {
            self.start(partition);
        }
    }

    fn finish_release(&mut self, now: Instant) {
        let Phase::Releasing { deadline, then } = self.phase else {
            return;
        };
        if !self.tasks.is_empty() {
            if now < deadline {
                return;
            }
            self.abandon_all();
        }
        // Also when nothing was assigned: the client library waits for the answer to every revocation.
        self.effects.push(Effect::Release);
        self.phase = match then {
            Then::Stay => Phase::Steady,
            Then::Leave => {
                self.effects.push(Effect::Leave);
                Phase::Left
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn partitions(numbers: &[i32]) -> Vec<TopicPartition> {
        numbers
            .iter()
            .map(|number| TopicPartition::new("t", *number))
            .collect()
    }

    fn only(number: i32) -> TopicPartition {
        TopicPartition::new("t", number)
    }

    #[test]
    fn a_revocation_is_released_after_the_last_task_has_ended() {
        let now = Instant::now();
        let mut member = Member::new(PATIENCE);
        assert_eq!(
            member.on(now, Event::Assigned(partitions(&[0, 1]))),
            [
                Effect::Accept(partitions(&[0, 1])),
                Effect::Start(only(0)),
                Effect::Start(only(1))
            ]
        );
        assert_eq!(
            member.on(now, Event::Revoked { lost: false }),
            [Effect::Stop(only(0)), Effect::Stop(only(1))]
        );
        assert_eq!(member.on(now, Event::Ended(only(0))), []);
        assert_eq!(member.on(now, Event::Ended(only(1))), [Effect::Release]);
    }

    #[test]
    fn a_task_that_outlives_the_deadline_is_abandoned_and_its_successor_waits_for_its_end() {
        let now = Instant::now();
        let mut member = Member::new(PATIENCE);
        member.on(now, Event::Assigned(partitions(&[0])));
        member.on(now, Event::Revoked { lost: false });
        assert_eq!(member.on(now + PATIENCE / 2, Event::Tick), []);
        assert_eq!(
            member.on(now + PATIENCE, Event::Tick),
            [Effect::Abandon(only(0)), Effect::Release]
        );
        assert_eq!(
            member.on(now, Event::Assigned(partitions(&[0]))),
            [Effect::Accept(partitions(&[0]))]
        );
        assert_eq!(
            member.on(now, Event::Ended(only(0))),
            [Effect::Start(only(0))]
        );
    }

    #[test]
    fn lost_partitions_are_released_at_once() {
        let now = Instant::now();
        let mut member = Member::new(PATIENCE);
        member.on(now, Event::Assigned(partitions(&[0])));
        assert_eq!(
            member.on(now, Event::Revoked { lost: true }),
            [
                Effect::Stop(only(0)),
                Effect::Abandon(only(0)),
                Effect::Release
            ]
        );
    }

    #[test]
    fn an_assignment_that_comes_before_the_last_is_given_back_has_its_tasks_and_those_before_commit_no_more()
     {
        let now = Instant::now();
        let mut member = Member::new(PATIENCE);
        member.on(now, Event::Assigned(partitions(&[0, 1])));
        member.on(now, Event::Revoked { lost: false });
        assert_eq!(
            member.on(now, Event::Assigned(partitions(&[1, 2]))),
            [
                Effect::Abandon(only(0)),
                Effect::Abandon(only(1)),
                Effect::Accept(partitions(&[1, 2])),
                Effect::Start(only(2))
            ]
        );
        // Nothing is given back any more.
        assert_eq!(member.on(now, Event::Ended(only(0))), []);
        assert_eq!(
            member.on(now, Event::Ended(only(1))),
            [Effect::Start(only(1))]
        );
        assert_eq!(member.on(now + PATIENCE, Event::Tick), []);
    }

    #[test]
    fn a_stop_during_a_revocation_leaves_when_the_tasks_have_ended() {
        let now = Instant::now();
        let mut member = Member::new(PATIENCE);
        member.on(now, Event::Assigned(partitions(&[0])));
        member.on(now, Event::Revoked { lost: false });
        assert_eq!(member.on(now, Event::Stop), []);
        assert_eq!(
            member.on(now, Event::Ended(only(0))),
            [Effect::Release, Effect::Leave]
        );
        assert!(member.has_left());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Assigned(Vec<i32>),
        Revoked(bool),
        End(usize),
        Stop,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => prop::collection::btree_set(0..4_i32, 0..4).prop_map(|set| Step::Assigned(set.into_iter().collect())),
            3 => any::<bool>().prop_map(Step::Revoked),
            6 => any::<usize>().prop_map(Step::End),
            1 => Just(Step::Stop),
            3 => (0..8_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Threads end whenever they like, also ones that were abandoned; the coordinator assigns whenever it likes.
        #[test]
        fn no_partition_ever_has_two_tasks_and_none_is_released_under_a_task_that_may_commit(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let mut now = Instant::now();
            let mut member = Member::new(PATIENCE);
            let mut threads: Vec<TopicPartition> = Vec::new();
            let mut may_commit: BTreeSet<TopicPartition> = BTreeSet::new();
            // What is assigned, but for what a task has ended of by itself.
            let mut owed: Option<BTreeSet<TopicPartition>> = None;
            let mut stopping = false;
            let mut releasing_since = None;
            for step in steps {
                let event = match step {
                    Step::Assigned(_) if member.has_left() => continue,
                    Step::Assigned(numbers) => {
                        owed = Some(partitions(&numbers).into_iter().collect());
                        if !stopping { releasing_since = None; }
                        Event::Assigned(partitions(&numbers))
                    }
                    Step::Revoked(_) if owed.is_none() => continue,
                    Step::Revoked(lost) => { releasing_since.get_or_insert(now); Event::Revoked { lost } }
                    Step::End(_) if threads.is_empty() => continue,
                    Step::End(pick) => {
                        let ended = threads.swap_remove(pick % threads.len());
                        if may_commit.remove(&ended) && let Some(owed) = &mut owed {
                            owed.remove(&ended);
                        }
                        Event::Ended(ended)
                    }
                    Step::Stop if member.has_left() => continue,
                    Step::Stop => { stopping = true; releasing_since.get_or_insert(now); Event::Stop }
                    Step::Wait(seconds) => { now += Duration::from_secs(seconds); Event::Tick }
                };
                for effect in member.on(now, event) {
                    match effect {
                        Effect::Accept(_) => {
                            prop_assert!(owed.is_some());
                            prop_assert!(may_commit.is_empty(), "of the assignment before: {may_commit:?}");
                        }
                        Effect::Start(partition) => {
                            prop_assert!(owed.as_ref().is_some_and(|owed| owed.contains(&partition)),
                                "started without an assignment");
                            prop_assert!(!threads.contains(&partition), "two tasks of {partition}");
                            may_commit.insert(partition.clone());
                            threads.push(partition);
                        }
                        Effect::Stop(partition) => prop_assert!(threads.contains(&partition)),
                        Effect::Abandon(partition) => { may_commit.remove(&partition); }
                        Effect::Release => {
                            prop_assert!(may_commit.is_empty(), "released under {may_commit:?}");
                            owed = None;
                            releasing_since = None;
                        }
                        Effect::Leave => prop_assert!(owed.is_none() && may_commit.is_empty()),
                    }
                }
                match releasing_since {
                    Some(since) => prop_assert!(now < since + PATIENCE, "a release was held back past its deadline"),
                    None => for partition in owed.iter().flatten() {
                        // Its task, or one of before that it waits for.
                        prop_assert!(threads.contains(partition), "nobody reads {partition}");
                    }
                }
            }
        }
    }
}

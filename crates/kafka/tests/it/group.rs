//! Membership: who reads what, what is committed, and how it ends.

use std::collections::BTreeSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use chatpulse_kafka::{
    Disposition, GroupConfig, GroupError, KafkaError, Next, Partition, TopicPartition, run_group,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio_util::sync::CancellationToken;

use crate::support::{Cluster, DEADLINE, limit, next, texts};

fn config(cluster: &Cluster, patience: Duration) -> GroupConfig {
    GroupConfig {
        kafka: cluster.config.clone(),
        group: "group".to_owned(),
        topics: vec!["t".to_owned()],
        patience,
    }
}

/// Sends over a channel that many tasks share.
fn shared<T: Send + 'static>(sender: Sender<T>) -> impl Fn(T) + Send + Sync + Clone {
    let sender = Arc::new(Mutex::new(sender));
    move |value| {
        sender
            .lock()
            .expect("no panic")
            .send(value)
            .expect("the test listens")
    }
}

fn until_revoked(mut partition: Partition) -> Result<(), KafkaError> {
    partition.seek(0)?;
    while !matches!(partition.next_batch(&limit(10))?, Next::Revoked) {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_is_read_and_its_offsets_are_kept_for_the_next_member() {
    let cluster = Cluster::with_topics(&["t"], 3);
    for partition in 0..3 {
        cluster.fill("t", partition, &["a", "b"]);
    }
    for expected in [None, Some(2)] {
        let (sender, seen) = channel();
        let report = shared(sender);
        let stop = CancellationToken::new();
        let running = tokio::spawn(run_group(
            config(&cluster, DEADLINE),
            move |mut partition: Partition| -> Result<(), KafkaError> {
                let id = partition.id().clone();
                let committed = partition.committed(std::slice::from_ref(&id))?[0];
                let mut read = Vec::new();
                partition.seek(0)?;
                while read.len() < 2 {
                    if let Next::Batch(batch) = partition.next_batch(&limit(10))? {
                        read.extend(texts(&batch));
                    }
                }
                partition.commit(&[(id.clone(), 2)])?;
                report((id.partition, committed, read));
                until_revoked(partition)
            },
            stop.clone(),
        ));
        let seen: BTreeSet<_> =
            tokio::task::spawn_blocking(move || (0..3).map(|_| next(&seen)).collect())
                .await
                .expect("no panic");
        let both = vec!["a".to_owned(), "b".to_owned()];
        let wanted: BTreeSet<_> = (0..3)
            .map(|partition| (partition, expected, both.clone()))
            .collect();
        assert_eq!(seen, wanted);
        stop.cancel();
        running.await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commit_stores_offsets_of_two_topics_of_which_one_is_empty_and_not_subscribed() {
    let cluster = Cluster::with_topics(&["t", "t.pending"], 1);
    let (sender, seen) = channel();
    let report = shared(sender);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_group(
        config(&cluster, DEADLINE),
        move |partition: Partition| -> Result<(), KafkaError> {
            let both = [
                TopicPartition::new("t", 0),
                TopicPartition::new("t.pending", 0),
            ];
            partition.commit(&[(both[0].clone(), 7), (both[1].clone(), 19)])?;
            report(partition.committed(&both)?);
            until_revoked(partition)
        },
        stop.clone(),
    ));
    let committed = tokio::task::spawn_blocking(move || next(&seen))
        .await
        .expect("no panic");
    assert_eq!(committed, [Some(7), Some(19)]);
    stop.cancel();
    running.await.expect("no panic").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_takes_over_part_of_the_partitions_after_their_tasks_have_ended() {
    let cluster = Cluster::with_topics(&["t"], 2);
    let (sender, events) = channel();
    let report = shared(sender);
    let stop = CancellationToken::new();
    let mut members = Vec::new();
    let mut seen = Vec::new();
    let events = Arc::new(Mutex::new(events));
    let owners = |member: &'static str| {
        let report = report.clone();
        tokio::spawn(run_group(
            config(&cluster, DEADLINE),
            move |partition: Partition| -> Result<(), KafkaError> {
                let number = partition.id().partition;
                report((member, number, true));
                let ended = until_revoked(partition);
                report((member, number, false));
                ended
            },
            stop.clone(),
        ))
    };
    // Follows who runs what until each partition is run by a member of its own.
    let mut running: BTreeSet<(&str, i32)> = BTreeSet::new();
    for (member, enough) in [("one", 1), ("two", 2)] {
        members.push(owners(member));
        while running.len() < 2
            || running
                .iter()
                .map(|(member, _)| member)
                .collect::<BTreeSet<_>>()
                .len()
                < enough
        {
            let events = Arc::clone(&events);
            let (member, partition, begins) =
                tokio::task::spawn_blocking(move || next(&events.lock().expect("no panic")))
                    .await
                    .expect("no panic");
            seen.push((member, partition, begins));
            if begins {
                assert!(
                    !running.iter().any(|(_, other)| *other == partition),
                    "two tasks of {partition}: {seen:?}"
                );
                running.insert((member, partition));
            } else {
                running.remove(&(member, partition));
            }
        }
    }
    stop.cancel();
    for member in members {
        member.await.expect("no panic").expect("a clean end");
    }
}

/// Which member reads what.
#[derive(Default)]
struct Readers {
    now: BTreeSet<(&'static str, TopicPartition)>,
    was_asked_to_end: bool,
    /// What became of commits of tasks whose partitions others read already.
    late_commits: Vec<Result<(), Disposition>>,
}

impl Readers {
    fn are(&self, names: &[&str]) -> bool {
        let now: BTreeSet<_> = self.now.iter().map(|(name, _)| *name).collect();
        now.iter().eq(names)
    }
}

/// librdkafka that sees its topics change joins again at once, also while it waits for the answer to a revocation: the
/// next assignment then came before the answer, which gave it back, and the member stayed and read nothing. Nor may what
/// the slow tasks still commit go under the number of the next generation.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_topics_change_while_its_tasks_are_slow_to_end_reads_on_afterwards() {
    let mut cluster = Cluster::with_topics(&["t"], 2);
    for (setting, value) in [
        ("session.timeout.ms", "3000"),
        ("heartbeat.interval.ms", "100"),
        ("topic.metadata.refresh.interval.ms", "200"),
    ] {
        let overrides = &mut cluster.config.overrides;
        overrides.insert(setting.to_owned(), value.to_owned());
    }
    let readers = Arc::new((Mutex::new(Readers::default()), Condvar::new()));
    let stop = CancellationToken::new();
    let member = |name: &'static str, topics: &[&str]| {
        let config = GroupConfig {
            topics: topics.iter().map(ToString::to_string).collect(),
            ..config(&cluster, DEADLINE)
        };
        let readers = Arc::clone(&readers);
        let task = move |mut partition: Partition| -> Result<(), KafkaError> {
            let (state, changed) = &*readers;
            let id = partition.id().clone();
            let reader = (name, id.clone());
            let lock = || state.lock().expect("no panic");
            lock().now.insert(reader.clone());
            changed.notify_all();
            partition.seek(0)?;
            while !matches!(partition.next_batch(&limit(10))?, Next::Revoked) {}
            let mut state = lock();
            state.was_asked_to_end = true;
            changed.notify_all();
            if state.are(&["one"]) {
                let is_alone = |state: &mut Readers| state.are(&["one"]);
                drop(
                    changed
                        .wait_timeout_while(state, DEADLINE / 2, is_alone)
                        .expect("no panic"),
                );
                let late = partition.commit(&[(id, 5)]);
                state = lock();
                state
                    .late_commits
                    .push(late.map_err(|error| error.disposition()));
            }
            state.now.remove(&reader);
            changed.notify_all();
            Ok(())
        };
        tokio::spawn(run_group(config, task, stop.clone()))
    };
    let until = |reached: fn(&Readers) -> bool| {
        let readers = Arc::clone(&readers);
        let waiting = tokio::task::spawn_blocking(move || {
            let (state, changed) = &*readers;
            let not_yet = |state: &mut Readers| !reached(state);
            let state = state.lock().expect("no panic");
            let (state, waited) = changed
                .wait_timeout_while(state, DEADLINE, not_yet)
                .expect("no panic");
            assert!(!waited.timed_out(), "in the end: {:?}", state.now);
        });
        async { waiting.await.expect("reached") }
    };
    let one = member("one", &["t", "new"]);
    until(|readers| readers.now.len() == 2).await;
    let two = member("two", &["t"]);
    until(|readers| readers.was_asked_to_end).await;
    cluster.mock.create_topic("new", 2, 1).expect("topic");
    until(|readers| readers.are(&["two"])).await;
    until(|readers| readers.now.len() == 4 && readers.are(&["one", "two"])).await;
    assert_eq!(
        readers.0.lock().expect("no panic").late_commits,
        [Err(Disposition::Fenced), Err(Disposition::Fenced)]
    );
    stop.cancel();
    for member in [one, two] {
        member.await.expect("no panic").expect("a clean end");
    }
}

#[derive(Debug, thiserror::Error)]
#[error("poison")]
struct Poison;

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_task_stops_the_others_and_its_error_is_returned() {
    let cluster = Cluster::with_topics(&["t"], 2);
    let ended = run_group(
        config(&cluster, DEADLINE),
        |partition: Partition| {
            if partition.id().partition == 1 {
                return Err(Poison);
            }
            until_revoked(partition).map_err(|_| Poison)
        },
        CancellationToken::new(),
    )
    .await;
    assert!(
        matches!(&ended, Err(GroupError::Task { partition, source: Poison }) if partition.partition == 1),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_or_returns_too_early_ends_the_group() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let panicked = run_group(
        config(&cluster, DEADLINE),
        |_: Partition| -> Result<(), KafkaError> { panic!("at the disco") },
        CancellationToken::new(),
    )
    .await;
    assert!(
        matches!(&panicked, Err(GroupError::Panicked { message, .. }) if message == "at the disco"),
        "{panicked:?}"
    );
    let early = run_group(
        config(&cluster, DEADLINE),
        |_: Partition| Ok::<_, KafkaError>(()),
        CancellationToken::new(),
    )
    .await;
    assert!(matches!(&early, Err(GroupError::Ended { .. })), "{early:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_outstays_the_patience_can_commit_no_more() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let (sender, started) = channel();
    let started_report = shared(sender);
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let (sender, outcome) = channel();
    let report = shared(sender);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_group(
        config(&cluster, Duration::from_millis(200)),
        move |partition: Partition| -> Result<(), KafkaError> {
            started_report(());
            released
                .lock()
                .expect("no panic")
                .recv()
                .expect("the test lets go");
            report(
                partition
                    .commit(&[(partition.id().clone(), 5)])
                    .map_err(|error| error.disposition()),
            );
            Ok(())
        },
        stop.clone(),
    ));
    tokio::task::spawn_blocking(move || next(&started))
        .await
        .expect("no panic");
    stop.cancel();
    running
        .await
        .expect("no panic")
        .expect("ends without the task");
    release.send(()).expect("the task waits");
    let refused = tokio::task::spawn_blocking(move || next(&outcome))
        .await
        .expect("no panic");
    assert_eq!(refused, Err(Disposition::Fenced));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_given_nothing_for_too_long_ends_and_says_so() {
    let mut cluster = Cluster::with_topics(&["t"], 1);
    // The mock lets a new group wait for 3 s, which is longer than two of these.
    for setting in ["session.timeout.ms", "max.poll.interval.ms"] {
        let overrides = &mut cluster.config.overrides;
        overrides.insert(setting.to_owned(), "1000".to_owned());
    }
    let ended = run_group(
        config(&cluster, DEADLINE),
        until_revoked,
        CancellationToken::new(),
    );
    let ended = tokio::time::timeout(DEADLINE, ended).await.expect("ends");
    assert!(
        matches!(
            &ended,
            Err(GroupError::Kafka(error @ KafkaError::Timeout { .. }))
                if error.disposition() == Disposition::Retry
        ),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_answered_does_not_hold_the_member_back() {
    let mut cluster = Cluster::with_topics(&["t"], 1);
    // Of the commit: longer than the test.
    cluster
        .config
        .overrides
        .insert("socket.timeout.ms".to_owned(), "60000".to_owned());
    let (sender, begun) = channel();
    let report = shared(sender);
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let stop = CancellationToken::new();
    let member = tokio::spawn(run_group(
        config(&cluster, Duration::from_millis(200)),
        move |partition: Partition| -> Result<(), KafkaError> {
            report(());
            released
                .lock()
                .expect("no panic")
                .recv()
                .expect("the broker falls silent");
            partition.commit(&[(partition.id().clone(), 5)])
        },
        stop.clone(),
    ));
    tokio::task::spawn_blocking(move || next(&begun))
        .await
        .expect("no panic");
    cluster
        .mock
        .broker_round_trip_time(1, 10 * DEADLINE)
        .expect("a slow broker");
    release.send(()).expect("the task waits");
    stop.cancel();
    tokio::time::timeout(DEADLINE / 2, member)
        .await
        .expect("the member waits for the commit's answer")
        .expect("no panic")
        .expect("ends without the task");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_task_commits_no_more_and_its_successor_does() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let (sender, outcomes) = channel();
    let report = shared(sender);
    let stop = CancellationToken::new();
    cluster.mock.request_errors(
        RDKafkaApiKey::OffsetCommit,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION],
    );
    let running = tokio::spawn(run_group(
        config(&cluster, DEADLINE),
        move |partition: Partition| -> Result<(), KafkaError> {
            let offsets = [(partition.id().clone(), 5)];
            for _ in 0..2 {
                report(
                    partition
                        .commit(&offsets)
                        .map_err(|error| error.disposition()),
                );
            }
            // Fenced once, so fenced for good; the group goes on with a new task.
            partition.commit(&offsets)?;
            until_revoked(partition)
        },
        stop.clone(),
    ));
    let outcomes: Vec<_> =
        tokio::task::spawn_blocking(move || (0..4).map(|_| next(&outcomes)).collect())
            .await
            .expect("no panic");
    let fenced = Err(Disposition::Fenced);
    assert_eq!(outcomes, [fenced, fenced, Ok(()), Ok(())]);
    stop.cancel();
    running.await.expect("no panic").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_ends_the_tasks() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let (sender, events) = channel();
    let report = shared(sender);
    let member = tokio::spawn(run_group(
        config(&cluster, DEADLINE),
        move |partition: Partition| -> Result<(), KafkaError> {
            report("began");
            let ended = until_revoked(partition);
            report("ended");
            ended
        },
        CancellationToken::new(),
    ));
    let events = tokio::task::spawn_blocking(move || {
        assert_eq!(next(&events), "began");
        events
    })
    .await
    .expect("no panic");
    member.abort();
    let last = tokio::task::spawn_blocking(move || next(&events))
        .await
        .expect("no panic");
    assert_eq!(last, "ended");
}

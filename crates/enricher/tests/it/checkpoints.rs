//! Restarts from checkpoints: quick where there is one, and with the same outcomes in any case.

use std::{error::Error, path::Path, time::Duration};

use chatpulse_kafka::Record;

use crate::support::{
    Cluster, Enriched, NEVER, START, Truth, checkpoints, metric, offset_of, wait_until,
};

/// A cluster whose enricher has written the outcomes of 500 records, and left checkpoints at 300 and 500.
/// Lets `damage` have their folder, enriches 100 more, and checks all outcomes against the truth.
async fn restarted(damage: impl FnOnce(&Path)) -> Enriched {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let truth = Truth::of(600);
    cluster.produce(START, (0, 600));
    cluster.publish(&cluster.topics.events, truth.records(500));
    for offset in [300, 500] {
        truth.write_checkpoint(folder.path(), offset);
    }
    damage(folder.path());
    let enriched = cluster.enrich(folder.path(), 600).await;
    assert_eq!(cluster.outcomes(), truth.outcomes);
    // A restart is quick again.
    assert_eq!(offset_of(&newest(folder.path())), 600);
    enriched
}

fn newest(folder: &Path) -> std::path::PathBuf {
    checkpoints(folder).pop().unwrap()
}

/// After `damage` to the newest checkpoint, the one before it is used.
async fn falls_back(damage: impl FnOnce(&Path)) {
    let enriched = restarted(|folder| damage(&newest(folder))).await;
    assert_eq!((enriched.restored(), enriched.replayed()), (300, 200));
    assert_eq!(enriched.load_failures(), 1);
}

fn alter(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_folds_nothing_again_and_writes_what_an_unbroken_run_writes() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [(0, 300), (300, 500), (500, 600)] {
        cluster.produce(START, (from, to));
        let enriched = cluster.enrich(folder.path(), to).await;
        assert_eq!((enriched.restored(), enriched.replayed()), (from, 0));
        assert_eq!(enriched.load_failures(), 0);
    }
    let truth = Truth::of(600);
    assert_eq!(cluster.outcomes(), truth.outcomes);
    // And what the enricher left is what the truth says.
    let kept = checkpoints(folder.path());
    let offsets: Vec<_> = kept.iter().map(|path| offset_of(path)).collect();
    assert_eq!(offsets, [500, 600]);
    let other = tempfile::tempdir().unwrap();
    for file in kept {
        let expected = truth.write_checkpoint(other.path(), offset_of(&file));
        assert_eq!(
            std::fs::read(file).unwrap(),
            std::fs::read(expected).unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_cut_off_in_its_middle_is_passed_over() {
    falls_back(|file| alter(file, |bytes| bytes.truncate(bytes.len() / 2))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_with_one_bit_flipped_is_passed_over() {
    falls_back(|file| {
        alter(file, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_checkpoint_is_passed_over() {
    falls_back(|file| alter(file, Vec::clear)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_newer_version_is_passed_over() {
    falls_back(|file| alter(file, |bytes| bytes[8] += 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_under_another_ones_name_is_passed_over() {
    falls_back(|file| {
        let older = file
            .parent()
            .unwrap()
            .join("00000000000000000300.checkpoint");
        std::fs::copy(older, file).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_kind_is_passed_over() {
    falls_back(|file| std::fs::write(file, "#!/bin/sh\nexit 0\n").unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_newest_checkpoint_the_one_before_is_used() {
    let enriched = restarted(|folder| std::fs::remove_file(newest(folder)).unwrap()).await;
    assert_eq!((enriched.restored(), enriched.replayed()), (300, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_checkpoint_everything_is_folded_again() {
    let enriched = restarted(|folder| std::fs::remove_dir_all(folder).unwrap()).await;
    assert_eq!((enriched.restored(), enriched.replayed()), (0, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_checkpoints_damaged_everything_is_folded_again() {
    let enriched = restarted(|folder| {
        for file in checkpoints(folder) {
            alter(&file, |bytes| bytes.truncate(100));
        }
    })
    .await;
    assert_eq!((enriched.restored(), enriched.replayed()), (0, 500));
    assert_eq!(enriched.load_failures(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_ahead_of_the_outcomes_is_not_used() {
    // The outcomes were lost, or another cluster has the same topics.
    let (ahead, cluster) = (Cluster::start(), Cluster::start());
    let folder = tempfile::tempdir().unwrap();
    ahead.produce(START, (0, 300));
    ahead.enrich(folder.path(), 300).await;
    cluster.produce(START, (0, 300));
    let enriched = cluster.enrich(folder.path(), 300).await;
    assert_eq!((enriched.restored(), enriched.load_failures()), (0, 1));
    assert_eq!(cluster.outcomes(), ahead.outcomes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_topic_that_was_made_again_is_not_used_and_removed() {
    let (old, cluster) = (Cluster::start(), Cluster::start());
    let (of_old, of_new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    old.produce(START, (0, 300));
    old.enrich(of_old.path(), 300).await;
    cluster.produce(START + 1, (0, 400));
    cluster.enrich(of_new.path(), 400).await;
    let enricher = cluster.enricher(of_old.path(), NEVER);
    let replayed = "chatpulse_enricher_replayed_total";
    wait_until(|| metric(&enricher.registry, replayed, "0") == 400).await;
    let enriched = enricher.stop().await.unwrap();
    assert_eq!((enriched.restored(), enriched.load_failures()), (0, 1));
    let left: Vec<_> = checkpoints(of_old.path())
        .iter()
        .map(|path| offset_of(path))
        .collect();
    assert!(!left.contains(&300), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_a_raw_topic_that_was_made_again_stop_the_enricher() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    cluster.publish(&cluster.topics.events, Truth::of(5).records(5));
    cluster.produce(START + 1, (100, 110));
    let enricher = cluster.enricher(folder.path(), Duration::ZERO);
    let error = enricher.running.await.unwrap().expect_err("it must stop");
    let mut chain = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        chain.push(error.to_string());
        cause = error.source();
    }
    let told = chain.join(": ");
    assert!(
        told.contains("raw offset 4") && told.contains("made again"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_whose_topic_gives_times_of_its_own_stop_nobody() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    cluster.produce(START, (0, 10));
    cluster.enrich(folder.path(), 10).await;
    // As with message.timestamp.type=LogAppendTime on chat.events.
    let append_time = |payload| Record {
        partition: Some(0),
        payload,
        timestamp_ms: Some(START + 999_999),
        ..Record::default()
    };
    let last = cluster.outcomes().pop().unwrap();
    cluster.publish(&cluster.topics.events, vec![append_time(last)]);
    cluster.produce(START, (10, 20));
    cluster.enrich(folder.path(), 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_counted_and_stops_nothing() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no folder");
    std::fs::write(&file, "").unwrap();
    cluster.produce(START, (0, 100));
    let enricher = cluster.enricher(&file, Duration::ZERO);
    let failures = "chatpulse_enricher_checkpoint_failures_total";
    wait_until(|| metric(&enricher.registry, failures, "store") > 0).await;
    let reader = cluster.events_reader();
    wait_until(|| cluster.written(&reader) == 100).await;
    enricher.stop().await.unwrap();
}

/// With a slow broker the fold runs ahead of what is confirmed; checkpoints must not.
#[tokio::test(flavor = "multi_thread")]
async fn no_checkpoint_is_ahead_of_the_outcomes_and_two_are_kept() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let reader = cluster.events_reader();
    let enricher = cluster.enricher(folder.path(), Duration::ZERO);
    cluster
        .mock
        .broker_round_trip_time(1, Duration::from_millis(150))
        .unwrap();
    let mut most = 0;
    for part in 0..8 {
        cluster.produce(START, (part * 100, part * 100 + 100));
        wait_until(|| {
            let found = checkpoints(folder.path());
            let named: Vec<_> = found
                .iter()
                .filter(|path| path.extension().is_some_and(|name| name == "checkpoint"))
                .map(|path| offset_of(path))
                .collect();
            // Asked after the files were seen, so it may only be further.
            let written = cluster.written(&reader);
            assert!(
                named.iter().all(|&offset| offset <= written),
                "{named:?} > {written}"
            );
            most = most.max(named.len());
            named.contains(&(part * 100 + 100))
        })
        .await;
    }
    enricher.stop().await.unwrap();
    assert!(
        (2..=3).contains(&most),
        "{most} at once: two, and a third for a moment"
    );
    let kept: Vec<_> = checkpoints(folder.path())
        .iter()
        .map(|path| offset_of(path))
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept[1], 800);
}

//! Files on the same way as requests.

use std::{path::Path, time::Duration};

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use chatpulse_model::RawBody;
use chatpulse_producer::{Progress, ReplayError, ReplayJob, ReplaySummary, replay};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::support::{Producer, environment, event, start, start_limited, taken_and_refused};

fn job(files: &[&Path]) -> ReplayJob {
    ReplayJob {
        tenant: "acme".into(),
        source: "watermelon".into(),
        files: files.iter().map(|file| file.to_path_buf()).collect(),
    }
}

async fn run(producer: &Producer, job: &ReplayJob) -> Result<ReplaySummary, ReplayError> {
    replay(&producer.config, &environment(&producer.mock), job, |_| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_compressed_files_are_taken_with_progress() {
    let producer = start().await;
    let content = vec![event("c"); 3_000].join("\n");
    let plain = producer.file("plain.ndjson");
    std::fs::write(&plain, &content).unwrap();
    let (gz, zst) = (producer.file("a.ndjson.gz"), producer.file("a.ndjson.zst"));
    let mut gzip = GzipEncoder::new(tokio::fs::File::create(&gz).await.unwrap());
    gzip.write_all(content.as_bytes()).await.unwrap();
    gzip.shutdown().await.unwrap();
    let mut zstd = ZstdEncoder::new(tokio::fs::File::create(&zst).await.unwrap());
    zstd.write_all(content.as_bytes()).await.unwrap();
    zstd.shutdown().await.unwrap();

    let mut told: Vec<Progress> = Vec::new();
    let job = job(&[&plain, &gz, &zst]);
    let environment = environment(&producer.mock);
    let summary = replay(&producer.config, &environment, &job, |step| told.push(step)).await;
    let summary = summary.unwrap();
    assert_eq!((summary.read, summary.accepted), (9_000, 9_000));
    assert!(summary.rejected.is_empty());
    assert!(told.len() >= 6, "{told:?}");
    assert!(told.is_sorted_by_key(|step| (step.bytes, step.read)));
    let last = told.last().unwrap();
    assert_eq!(
        (last.bytes, last.read, last.accepted),
        (last.total_bytes, 9_000, 9_000)
    );
    let stored = producer.stored().await;
    assert_eq!(taken_and_refused(&stored), (9_000, 0));
    assert!(stored.iter().all(|record| record.write_key_id == "replay"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_are_told_with_their_numbers_and_cost_no_neighbour() {
    let producer = start_limited("max_item_bytes = 200", |_| {}).await;
    let long = format!(
        r#"{{"event":"widget_opened","x":"{}"}}"#,
        "y".repeat(100_000)
    );
    let file = producer.file("mixed.ndjson");
    let good = event("c");
    std::fs::write(
        &file,
        format!("\u{feff}{good}\n\nnonsense\r\n{good}\n{long}\n{good}"),
    )
    .unwrap();
    let summary = run(&producer, &job(&[&file])).await.unwrap();
    assert_eq!((summary.read, summary.accepted), (5, 3));
    let lines: Vec<_> = summary
        .first_rejections
        .iter()
        .map(|r| (r.line, r.reason))
        .collect();
    assert_eq!(lines, [(3, "invalid_json"), (5, "too_large")]);
    assert_eq!(summary.rejected["too_large"], 1);

    let stored = producer.stored().await;
    assert_eq!(taken_and_refused(&stored), (3, 2));
    let hashes: Vec<_> = stored
        .iter()
        .filter_map(|record| match &record.body {
            RawBody::Rejection(rejection) => Some((rejection.bytes, rejection.sha256.clone())),
            RawBody::Native(_) => None,
        })
        .collect();
    let expected = (long.len() as i64, hex::encode(Sha256::digest(&long)));
    assert!(hashes.contains(&expected), "{hashes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_replay_writes_the_same_items_to_the_same_partitions() {
    let producer = start().await;
    let file = producer.file("once.ndjson");
    let lines: Vec<_> = (0..50).map(|n| event(&format!("c{n}"))).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    run(&producer, &job(&[&file])).await.unwrap();
    run(&producer, &job(&[&file])).await.unwrap();
    let mut bodies: Vec<_> = producer
        .stored()
        .await
        .into_iter()
        .map(|record| match record.body {
            RawBody::Native(native) => native.json,
            RawBody::Rejection(rejection) => panic!("{rejection:?}"),
        })
        .collect();
    bodies.sort();
    assert_eq!(bodies.len(), 100);
    assert!(bodies.chunks(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_said() {
    let producer = start().await;
    let file = producer.file("cut.ndjson.gz");
    let mut gzip = GzipEncoder::new(Vec::new());
    gzip.write_all(vec![event("c"); 100].join("\n").as_bytes())
        .await
        .unwrap();
    gzip.shutdown().await.unwrap();
    let whole = gzip.into_inner();
    std::fs::write(&file, &whole[..whole.len() - 4]).unwrap();
    let error = run(&producer, &job(&[&file]))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("cut.ndjson.gz"), "{error}");

    let absent = job(&[Path::new("no-such-file.ndjson")]);
    let error = run(&producer, &absent).await.unwrap_err().to_string();
    assert!(error.contains("no-such-file.ndjson"), "{error}");
    let nobody = ReplayJob {
        tenant: "nobody".into(),
        ..job(&[&file])
    };
    let error = run(&producer, &nobody).await.unwrap_err().to_string();
    assert!(error.contains("chatpulse tenant add nobody"), "{error}");
    let unknown = ReplayJob {
        source: "melon".into(),
        ..job(&[&file])
    };
    let error = run(&producer, &unknown).await.unwrap_err().to_string();
    assert!(error.contains("watermelon"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_a_broker_that_is_away_for_a_while() {
    let mut producer = start().await;
    producer.config.confirm_timeout = Duration::from_millis(500);
    let file = producer.file("patient.ndjson");
    std::fs::write(&file, vec![event("c"); 10].join("\n")).unwrap();
    producer.mock.broker_down(-1).unwrap();
    let job = job(&[&file]);
    let steps = std::cell::Cell::new(0);
    let environment = environment(&producer.mock);
    let work = replay(&producer.config, &environment, &job, |_| {
        steps.set(steps.get() + 1)
    });
    let mut work = std::pin::pin!(work);
    let early = tokio::time::timeout(Duration::from_secs(1), &mut work).await;
    assert!(early.is_err(), "{early:?}");
    producer.mock.broker_up(-1).unwrap();
    let summary = tokio::time::timeout(crate::support::PATIENCE, work)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((summary.accepted, steps.get()), (10, 1));
    assert!(taken_and_refused(&producer.stored().await).0 >= 10);
}

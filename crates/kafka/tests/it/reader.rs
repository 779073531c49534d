//! Reading one partition from a named offset.

use chatpulse_kafka::{KafkaError, PartitionReader, RecordRef, TopicPartition, Watermarks};

use crate::support::{Cluster, DEADLINE, limit, texts};

fn reader(cluster: &Cluster) -> PartitionReader {
    PartitionReader::new(&cluster.config, TopicPartition::new("t", 0)).expect("reader")
}

/// Reads until `count` records have come.
fn read(reader: &mut PartitionReader, count: usize) -> Vec<String> {
    let start = std::time::Instant::now();
    let mut read = Vec::new();
    while read.len() < count {
        assert!(start.elapsed() < DEADLINE, "only {read:?} came");
        read.extend(texts(
            &reader.next_batch(&limit(count), &|| false).expect("batch"),
        ));
    }
    read
}

#[test]
fn a_reader_starts_where_it_is_told_and_can_go_back() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.fill("t", 0, &["a", "b", "c", "d"]);
    let mut reader = reader(&cluster);
    reader.seek(2).expect("seek");
    assert_eq!(read(&mut reader, 2), ["c", "d"]);
    assert_eq!(reader.position(), Some(4));
    reader.seek(0).expect("seek");
    assert_eq!(read(&mut reader, 4), ["a", "b", "c", "d"]);
}

#[test]
fn a_batch_stops_at_its_limit_and_the_next_goes_on() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.fill("t", 0, &["a", "b", "c"]);
    let mut reader = reader(&cluster);
    reader.seek(0).expect("seek");
    let start = std::time::Instant::now();
    let mut lengths = Vec::new();
    while lengths.iter().sum::<usize>() < 3 {
        assert!(start.elapsed() < DEADLINE, "only {lengths:?} came");
        lengths.push(
            reader
                .next_batch(&limit(2), &|| false)
                .expect("batch")
                .len(),
        );
    }
    assert!(lengths.iter().all(|length| *length <= 2), "{lengths:?}");
}

#[test]
fn the_last_record_that_is_accepted_is_found_however_far_back_it_is() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let last = |wanted: &str| {
        let accept = |record: RecordRef<'_>| {
            (record.payload == Some(wanted.as_bytes())).then_some(record.offset)
        };
        reader(&cluster).find_last(DEADLINE, accept).expect("read")
    };
    assert_eq!(last("a"), None);
    cluster.fill("t", 0, &["a", "a", "b", "c"]);
    assert_eq!(last("c"), Some(3));
    assert_eq!(last("a"), Some(1));
    cluster.fill("t", 0, &["x"; 40]);
    assert_eq!(last("x"), Some(43));
    assert_eq!(last("b"), Some(2));
    assert_eq!(last("none"), None);
}

#[test]
fn a_range_is_read_exactly_and_reading_goes_on_after_it() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.fill("t", 0, &["a", "b", "c", "d"]);
    let mut reader = reader(&cluster);
    assert_eq!(
        texts(&reader.read_range(1..3, DEADLINE).expect("range")),
        ["b", "c"]
    );
    assert_eq!(read(&mut reader, 1), ["d"]);
    assert!(
        reader
            .read_range(2..2, DEADLINE)
            .expect("empty range")
            .is_empty()
    );
    assert_eq!(read(&mut reader, 2), ["c", "d"]);
}

#[test]
fn an_offset_outside_the_log_is_an_error_and_not_skipped() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.fill("t", 0, &["a"]);
    let mut reader = reader(&cluster);
    assert_eq!(
        reader.watermarks().expect("ends"),
        Watermarks { low: 0, high: 1 }
    );
    let range = reader
        .read_range(0..5, DEADLINE)
        .expect_err("only one record is there");
    assert!(
        matches!(
            range,
            KafkaError::OffsetOutOfRange {
                offset: 4,
                low: 0,
                high: 1,
                ..
            }
        ),
        "{range:?}"
    );

    reader.seek(40).expect("seek");
    let start = std::time::Instant::now();
    let error = loop {
        assert!(start.elapsed() < DEADLINE, "no error came");
        if let Err(error) = reader.next_batch(&limit(1), &|| false) {
            break error;
        }
    };
    assert!(
        matches!(error, KafkaError::OffsetOutOfRange { offset: 40, .. }),
        "{error:?}"
    );
}

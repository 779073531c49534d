//! The embedded broker, spoken to over its socket by the client that the stages use.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use chatpulse_embedded::broker::{Broker, BrokerConfig, BrokerError};
use chatpulse_kafka::{
    Admin, BatchLimit, Delivery, GroupConfig, KafkaConfig, KafkaError, Next, Outcomes, Partition,
    PartitionReader, Publisher, PublisherSettings, Record, TopicPartition, TopicSpec, run_group,
};
use tokio_util::sync::CancellationToken;

/// No step of a test takes longer on a healthy machine, however loaded.
const DEADLINE: Duration = Duration::from_secs(60);

async fn start(data_dir: &Path, listen: &str) -> Broker {
    let listen = listen.parse().expect("address");
    Broker::start(BrokerConfig {
        data_dir: data_dir.to_owned(),
        listen,
    })
    .await
    .expect("broker")
}

fn client(bootstrap: &str) -> KafkaConfig {
    KafkaConfig::new(bootstrap, "test")
}

fn spec(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec {
        name: name.to_owned(),
        partitions,
        replication: Some(1),
        config: BTreeMap::new(),
    }
}

async fn create(config: &KafkaConfig, topics: &[TopicSpec]) {
    Admin::new(config)
        .expect("admin")
        .ensure_topics(topics)
        .await
        .expect("topics");
}

fn numbered(partition: i32, numbers: std::ops::Range<usize>) -> Vec<Record> {
    numbers
        .map(|number| Record {
            partition: Some(partition),
            key: format!("key {number}").into_bytes(),
            payload: number.to_string().into_bytes(),
            timestamp_ms: Some(1_700_000_000_000 + number as i64),
        })
        .collect()
}

fn offsets(outcomes: &Outcomes) -> Vec<i64> {
    outcomes
        .iter()
        .map(|outcome| outcome.as_ref().expect("delivered").offset)
        .collect()
}

/// All payloads of the partition as numbers, checking on the way that offsets have no gap.
fn read_numbers(config: &KafkaConfig, topic: &str, partition: i32) -> Vec<usize> {
    let mut reader =
        PartitionReader::new(config, TopicPartition::new(topic, partition)).expect("reader");
    let ends = reader.watermarks().expect("ends");
    let batch = reader
        .read_range(ends.low..ends.high, DEADLINE)
        .expect("records");
    let read: Vec<i64> = batch.iter().map(|record| record.offset).collect();
    assert_eq!(
        read,
        (ends.low..ends.high).collect::<Vec<_>>(),
        "offsets have no gap"
    );
    batch
        .iter()
        .map(|record| {
            let payload = record.payload.expect("payload");
            std::str::from_utf8(payload)
                .expect("text")
                .parse()
                .expect("number")
        })
        .collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_once_and_a_different_number_of_partitions_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let admin = Admin::new(&client(&broker.bootstrap())).expect("admin");
    for _ in 0..2 {
        admin
            .ensure_topics(&[spec("a", 4), spec("b", 1)])
            .await
            .expect("topics");
    }
    assert_eq!(admin.partition_count("a").await.expect("count"), Some(4));
    assert_eq!(admin.partition_count("c").await.expect("count"), None);
    let refused = admin.ensure_topics(&[spec("a", 5)]).await;
    assert!(
        matches!(
            refused,
            Err(KafkaError::PartitionCount {
                expected: 5,
                actual: 4,
                ..
            })
        ),
        "{refused:?}"
    );
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_as_they_were_sent_in_order() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    create(&config, &[spec("t", 2)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    let outcomes = publisher.publish("t", numbered(1, 0..1000)).await;
    assert_eq!(offsets(&outcomes), (0..1000).collect::<Vec<_>>());
    blocking(move || {
        assert_eq!(read_numbers(&config, "t", 0), Vec::<usize>::new());
        assert_eq!(read_numbers(&config, "t", 1), (0..1000).collect::<Vec<_>>());
        let mut reader =
            PartitionReader::new(&config, TopicPartition::new("t", 1)).expect("reader");
        let tail = reader.read_tail(DEADLINE).expect("tail").expect("a record");
        let last = tail.iter().next().expect("a record");
        assert_eq!(last.offset, 999);
        assert_eq!(last.key, Some("key 999".as_bytes()));
        assert_eq!(last.timestamp_ms, 1_700_000_000_999);
    })
    .await;
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_fetch_is_answered_when_a_record_comes() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let mut config = client(&broker.bootstrap());
    create(&config, &[spec("t", 1)]).await;
    // A broker that answered at the end of the wait only would keep the record back for five minutes.
    config
        .overrides
        .insert("fetch.wait.max.ms".to_owned(), "300000".to_owned());
    config
        .overrides
        .insert("socket.timeout.ms".to_owned(), "301000".to_owned());
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    blocking(move || {
        let mut reader =
            PartitionReader::new(&config, TopicPartition::new("t", 0)).expect("reader");
        reader.seek(0).expect("seek");
        let limit = BatchLimit {
            max_records: 1,
            max_bytes: 1 << 20,
            wait: Duration::from_millis(200),
            linger: Duration::ZERO,
        };
        let nothing = reader.next_batch(&limit, &|| false).expect("batch");
        assert!(nothing.is_empty());
        for number in 0..3 {
            let sent = publisher
                .publish("t", numbered(0, number..number + 1))
                .wait(DEADLINE);
            offsets(&sent.expect("confirmed"));
            let limit = BatchLimit {
                wait: DEADLINE,
                ..limit
            };
            let batch = reader.next_batch(&limit, &|| false).expect("batch");
            assert_eq!(batch.first_offset(), Some(number as i64));
        }
    })
    .await;
    broker.shutdown().await.expect("shutdown");
}

/// Runs one member of the group until `step` has given its result for partition 0.
async fn as_member<T: Send + 'static>(
    config: &KafkaConfig,
    step: impl Fn(&Partition) -> Result<T, KafkaError> + Send + Sync + 'static,
) -> T {
    let (sender, result) = channel();
    let sender = std::sync::Mutex::new(sender);
    let stop = CancellationToken::new();
    let group = GroupConfig {
        kafka: config.clone(),
        group: "sink".to_owned(),
        topics: vec!["chat.events".to_owned()],
        patience: DEADLINE,
    };
    let member = tokio::spawn(run_group(
        group,
        move |mut partition: Partition| -> Result<(), KafkaError> {
            let value = step(&partition)?;
            sender
                .lock()
                .expect("no panic")
                .send(value)
                .expect("the test listens");
            let limit = BatchLimit {
                max_records: 1,
                max_bytes: 1,
                wait: Duration::from_millis(100),
                linger: Duration::ZERO,
            };
            while !matches!(partition.next_batch(&limit)?, Next::Revoked) {}
            Ok(())
        },
        stop.clone(),
    ));
    let value = blocking(move || result.recv_timeout(DEADLINE).expect("no assignment came")).await;
    stop.cancel();
    member.await.expect("no panic").expect("a clean end");
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commit_of_two_topics_is_stored_whole_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let first = [
        TopicPartition::new("chat.events", 0),
        TopicPartition::new("chat.events.pending", 0),
    ];
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let address = broker.bootstrap();
    let config = client(&address);
    create(
        &config,
        &[spec("chat.events", 1), spec("chat.events.pending", 1)],
    )
    .await;
    let both = first.clone();
    let committed = as_member(&config, move |partition| {
        let before = partition.committed(&both)?;
        partition.commit(&[(both[0].clone(), 7), (both[1].clone(), 19)])?;
        Ok((before, partition.committed(&both)?))
    })
    .await;
    assert_eq!(committed, (vec![None, None], vec![Some(7), Some(19)]));
    broker.shutdown().await.expect("shutdown");

    let broker = start(dir.path(), &address).await;
    let committed = as_member(&config, move |partition| partition.committed(&first)).await;
    assert_eq!(committed, [Some(7), Some(19)]);
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_lives_through_a_restart_without_loss_or_repetition() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let address = broker.bootstrap();
    let config = client(&address);
    create(&config, &[spec("t", 1)]).await;
    let settings = PublisherSettings {
        delivery: Delivery::Gapless,
        ..PublisherSettings::default()
    };
    let publisher = Publisher::new(&config, &settings).expect("publisher");
    offsets(&publisher.publish("t", numbered(0, 0..100)).await);
    broker.shutdown().await.expect("shutdown");
    let meanwhile = publisher.publish("t", numbered(0, 100..200));

    let broker = start(dir.path(), &address).await;
    assert_eq!(offsets(&meanwhile.await), (100..200).collect::<Vec<_>>());
    let read = blocking(move || read_numbers(&config, "t", 0)).await;
    assert_eq!(read, (0..200).collect::<Vec<_>>());
    broker.shutdown().await.expect("shutdown");
}

/// The broker in a process of its own, which can be killed.
struct Process {
    child: Child,
    bootstrap: String,
}

impl Process {
    fn start(data_dir: &Path, listen: &str) -> Self {
        let mut child = Command::new(example())
            .args([data_dir.as_os_str(), listen.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example `broker` starts");
        let mut bootstrap = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut bootstrap)
            .expect("the broker says where it listens");
        Self {
            child,
            bootstrap: bootstrap.trim().to_owned(),
        }
    }

    /// kill -9.
    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("dead");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead in the good case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn example() -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let dir = test
        .parent()
        .and_then(Path::parent)
        .expect("target directory");
    let path = dir.join("examples").join("broker");
    assert!(
        path.exists(),
        "{} is missing; `cargo test` builds it, `--test it` alone does not",
        path.display()
    );
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_before_a_kill_is_there_after_it_once_and_in_order() {
    let dir = tempfile::tempdir().expect("directory");
    let mut broker = Process::start(dir.path(), "127.0.0.1:0");
    let address = broker.bootstrap.clone();
    let config = client(&address);
    create(&config, &[spec("t", 1)]).await;
    let settings = PublisherSettings {
        delivery: Delivery::Gapless,
        ..PublisherSettings::default()
    };
    let publisher = Publisher::new(&config, &settings).expect("publisher");
    let mut sent = 0;
    for _ in 0..3 {
        // Killed with a thousand records confirmed and a thousand under way.
        let confirmed = publisher.publish("t", numbered(0, sent..sent + 1000));
        offsets(&confirmed.await);
        let under_way = publisher.publish("t", numbered(0, sent + 1000..sent + 2000));
        broker.kill();
        broker = Process::start(dir.path(), &address);
        let outcomes = tokio::time::timeout(DEADLINE, under_way)
            .await
            .expect("settled");
        offsets(&outcomes);
        sent += 2000;
    }
    let read = blocking(move || read_numbers(&config, "t", 0)).await;
    assert_eq!(read, (0..sent).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_may_have_any_name() {
    let dir = tempfile::tempdir().expect("directory");
    let odd = dir.path().join("Straße #1? 100% {ok}");
    let broker = start(&odd, "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    create(&config, &[spec("t", 1)]).await;
    broker.shutdown().await.expect("shutdown");
    let files = std::fs::read_dir(&odd).expect("made").count();
    assert!(files > 0, "nothing was stored in {}", odd.display());

    let broker = start(&odd, "127.0.0.1:0").await;
    let admin = Admin::new(&client(&broker.bootstrap())).expect("admin");
    assert_eq!(admin.partition_count("t").await.expect("count"), Some(1));
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let listen: SocketAddr = taken.local_addr().expect("address");
    let began = Instant::now();
    let refused = Broker::start(BrokerConfig {
        data_dir: dir.path().to_owned(),
        listen,
    })
    .await;
    assert!(
        matches!(&refused, Err(BrokerError::Listen { address, .. }) if *address == listen),
        "{refused:?}"
    );
    assert!(began.elapsed() < DEADLINE);
}

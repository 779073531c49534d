//! The embedded broker, spoken to over its socket by the client that the stages use.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use chatpulse_embedded::broker::{Broker, BrokerConfig, BrokerError};
use chatpulse_kafka::{
    Admin, BatchLimit, Delivery, GroupConfig, KafkaConfig, KafkaError, Next, Outcomes, Partition,
    PartitionReader, Publisher, PublisherSettings, Record, TopicPartition, TopicSpec, run_group,
};
use tansu_sans_io::join_group_request::JoinGroupRequestProtocol;
use tansu_sans_io::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tansu_sans_io::produce_request::{PartitionProduceData, TopicProduceData};
use tansu_sans_io::record::{Record as Produced, deflated, inflated};
use tansu_sans_io::{
    ApiKey, Body, DeleteRecordsRequest, DeleteTopicsRequest, ErrorCode, Frame, Header,
    HeartbeatRequest, InitProducerIdRequest, JoinGroupRequest, OffsetCommitRequest, ProduceRequest,
    SyncGroupRequest,
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
    let refused = admin.ensure_topics(&[spec("a", 3)]).await;
    assert!(
        matches!(
            refused,
            Err(KafkaError::PartitionCount {
                expected: 3,
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
        let last = reader.find_last(DEADLINE, |last| {
            let key = last.key.unwrap_or_default().to_vec();
            Some((last.offset, key, last.timestamp_ms))
        });
        let expected = (999, b"key 999".to_vec(), 1_700_000_000_999);
        assert_eq!(last.expect("tail"), Some(expected));
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
    // A broker that answered at the end of the wait only would be too late for the deadline below.
    config
        .overrides
        .insert("fetch.wait.max.ms".to_owned(), "10000".to_owned());
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
                wait: Duration::from_secs(3),
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
    let mut broker = Some(broker);
    for sent in [100, 200, 300] {
        let stopped = broker.take().expect("runs");
        stopped.shutdown().await.expect("shutdown");
        let meanwhile = publisher.publish("t", numbered(0, sent..sent + 100));
        broker = Some(start(dir.path(), &address).await);
        let sent = sent as i64;
        assert_eq!(
            offsets(&meanwhile.await),
            (sent..sent + 100).collect::<Vec<_>>()
        );
    }
    let read = blocking(move || read_numbers(&config, "t", 0)).await;
    assert_eq!(read, (0..400).collect::<Vec<_>>());
    let stopped = broker.take().expect("runs");
    stopped.shutdown().await.expect("shutdown");
}

/// Set in a process that a test starts in order to kill it: the data directory and the address.
const VICTIM: (&str, &str) = ("CHATPULSE_TEST_DATA_DIR", "CHATPULSE_TEST_LISTEN");

/// The broker in a process of its own, which can be killed: this program again, told to run one test of it only.
struct Process {
    child: Child,
    bootstrap: String,
}

impl Process {
    fn start(data_dir: &Path, listen: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("path of this test"))
            .args(["--exact", KILL_TEST, "--nocapture"])
            .env(VICTIM.0, data_dir)
            .env(VICTIM.1, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut bootstrap = String::new();
        BufReader::new(child.stderr.take().expect("piped"))
            .read_line(&mut bootstrap)
            .expect("the broker says where it listens");
        Self {
            child,
            bootstrap: bootstrap.trim().to_owned(),
        }
    }

    /// The other side of [`Process::start`]; whether this process is meant.
    async fn is_this() -> bool {
        let (Some(data_dir), Ok(listen)) = (std::env::var_os(VICTIM.0), std::env::var(VICTIM.1))
        else {
            return false;
        };
        let broker = start(Path::new(&data_dir), &listen).await;
        writeln!(std::io::stderr(), "{}", broker.bootstrap()).expect("a listener");
        // Ends with the process that started it, should that die before it kills.
        blocking(|| std::io::stdin().read_to_end(&mut Vec::new()).expect("end")).await;
        true
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

const KILL_TEST: &str =
    "broker::what_was_confirmed_before_a_kill_is_there_after_it_once_and_in_order";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_before_a_kill_is_there_after_it_once_and_in_order() {
    if Process::is_this().await {
        return;
    }
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

/// All that a reader can see of a record.
type Seen = (i64, Option<Vec<u8>>, Option<Vec<u8>>, i64);

fn seen(config: &KafkaConfig, from: i64, end: i64) -> Vec<Seen> {
    let mut reader = PartitionReader::new(config, TopicPartition::new("t", 0)).expect("reader");
    let batch = reader.read_range(from..end, DEADLINE).expect("records");
    batch
        .iter()
        .map(|record| {
            (
                record.offset,
                record.key.map(<[u8]>::to_vec),
                record.payload.map(<[u8]>::to_vec),
                record.timestamp_ms,
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_database_give_the_same_records() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let address = broker.bootstrap();
    let config = client(&address);
    create(&config, &[spec("t", 1)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    let mut sent = Vec::new();
    for batch in 0..10_i64 {
        let records: Vec<Record> = (0..100_i64)
            .map(|number| Record {
                partition: Some(0),
                key: vec![0xff; usize::try_from(number % 3).expect("small")],
                payload: vec![u8::try_from(batch).expect("small"); 10],
                // Backwards within a batch, and across them.
                timestamp_ms: Some(1_700_000_000_123 - batch * 1000 - number * 7),
            })
            .collect();
        sent.extend(records.iter().map(|record| {
            (
                sent_payload(record).to_vec(),
                record.timestamp_ms.expect("given"),
            )
        }));
        offsets(&publisher.publish("t", records).await);
    }
    // Beginnings of batches, and offsets in the middle of one.
    let starts = [0, 1, 99, 100, 137, 550, 999];
    let reading = config.clone();
    let from_memory = blocking(move || starts.map(|from| seen(&reading, from, 1000))).await;
    broker.shutdown().await.expect("shutdown");
    let broker = start(dir.path(), &address).await;
    let from_database = blocking(move || starts.map(|from| seen(&config, from, 1000))).await;
    for ((from, memory), database) in starts.iter().zip(&from_memory).zip(&from_database) {
        assert_eq!(memory, database, "from {from}");
        let read: Vec<i64> = memory.iter().map(|record| record.0).collect();
        assert_eq!(read, (*from..1000).collect::<Vec<_>>());
    }
    let whole = from_memory[0].iter().zip(&sent);
    for ((offset, _, payload, timestamp), (sent_payload, sent_timestamp)) in whole {
        assert_eq!(payload.as_ref(), Some(sent_payload), "{offset}");
        assert_eq!(timestamp, sent_timestamp, "{offset}");
    }
    broker.shutdown().await.expect("shutdown");
}

fn sent_payload(record: &Record) -> &[u8] {
    &record.payload
}

/// Bytes that no compression makes smaller.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_begins_before_what_is_in_memory_gets_all() {
    const LENGTH: usize = 200_000;
    const RECORDS: usize = 100;
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    create(&config, &[spec("t", 1)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    // Twice and a half of what the broker keeps of a partition.
    for number in 0..RECORDS {
        let record = Record {
            partition: Some(0),
            key: b"key".to_vec(),
            payload: noise(number as u64, LENGTH),
            timestamp_ms: Some(1),
        };
        offsets(&publisher.publish("t", vec![record]).await);
    }
    let read = blocking(move || seen(&config, 0, RECORDS as i64)).await;
    assert_eq!(read.len(), RECORDS);
    for (number, (offset, _, payload, _)) in read.into_iter().enumerate() {
        assert_eq!(offset, number as i64);
        assert!(payload == Some(noise(number as u64, LENGTH)), "{number}");
    }
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_producers_at_once_leave_no_hole_and_no_repetition() {
    const EACH: usize = 2000;
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    create(&config, &[spec("t", 1)]).await;
    let settings = PublisherSettings {
        linger: Duration::ZERO,
        ..PublisherSettings::default()
    };
    let producers = [0, EACH].map(|first| {
        let publisher = Publisher::new(&config, &settings).expect("publisher");
        tokio::spawn(async move {
            for number in (first..first + EACH).step_by(20) {
                offsets(
                    &publisher
                        .publish("t", numbered(0, number..number + 20))
                        .await,
                );
            }
        })
    });
    // Reads while they write: from memory, and from the database where the two have overtaken each other.
    let reading = config.clone();
    let live = blocking(move || {
        let mut reader =
            PartitionReader::new(&reading, TopicPartition::new("t", 0)).expect("reader");
        reader.seek(0).expect("seek");
        let limit = BatchLimit {
            max_records: 100,
            max_bytes: 1 << 20,
            wait: DEADLINE,
            linger: Duration::ZERO,
        };
        let mut read = Vec::new();
        while read.len() < 2 * EACH {
            let batch = reader.next_batch(&limit, &|| false).expect("batch");
            assert_eq!(batch.first_offset(), Some(read.len() as i64));
            for record in batch.iter() {
                assert_eq!(record.offset, read.len() as i64);
                let text = std::str::from_utf8(record.payload.expect("payload")).expect("text");
                read.push(text.parse::<usize>().expect("number"));
            }
        }
        read
    })
    .await;
    for producer in producers {
        producer.await.expect("no panic");
    }
    assert_eq!(
        blocking(move || read_numbers(&config, "t", 0)).await,
        live,
        "read again"
    );
    let (first, second): (Vec<usize>, Vec<usize>) = live.into_iter().partition(|n| *n < EACH);
    assert_eq!(first, (0..EACH).collect::<Vec<_>>());
    assert_eq!(second, (EACH..2 * EACH).collect::<Vec<_>>());
    broker.shutdown().await.expect("shutdown");
}

/// A connection that speaks the protocol word for word, for what no proper client would say.
struct Raw(TcpStream);

impl Raw {
    fn new(bootstrap: &str) -> Self {
        let stream = TcpStream::connect(bootstrap).expect("connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Self(stream)
    }

    /// The answer's body, unless the broker closes the connection.
    fn call(&mut self, version: i16, key: i16, body: Body) -> Option<Body> {
        let header = Header::Request {
            api_key: key,
            api_version: version,
            correlation_id: 1,
            client_id: Some("test".to_owned()),
        };
        let request = Frame::request(header, body).expect("encoded");
        self.0.write_all(&request).expect("sent");
        let mut answer = vec![0; 4];
        self.0.read_exact(&mut answer).ok()?;
        let length = u32::from_be_bytes(answer[..].try_into().expect("four"));
        answer.resize(4 + length as usize, 0);
        self.0.read_exact(&mut answer[4..]).expect("whole");
        let frame = Frame::response_from_bytes(&answer[..], key, version).expect("decoded");
        Some(frame.body)
    }
}

/// A member of the group `g`, by the words of the protocol.
struct Member {
    raw: Raw,
    id: String,
    generation: i32,
}

impl Member {
    fn join(bootstrap: &str) -> Self {
        let mut member = Self {
            raw: Raw::new(bootstrap),
            id: String::new(),
            generation: -1,
        };
        member.rejoin();
        member
    }

    fn rejoin(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let protocol = JoinGroupRequestProtocol::default()
                .name("range".to_owned())
                .metadata(Vec::new().into());
            let request = JoinGroupRequest::default()
                .group_id("g".to_owned())
                .session_timeout_ms(45_000)
                .rebalance_timeout_ms(Some(45_000))
                .member_id(self.id.clone())
                .group_instance_id(None)
                .protocol_type("consumer".to_owned())
                .protocols(Some(vec![protocol]));
            let answer = self.raw.call(5, JoinGroupRequest::KEY, request.into());
            let Some(Body::JoinGroupResponse(joined)) = answer else {
                panic!("{answer:?}");
            };
            self.id = joined.member_id;
            if joined.error_code == 0 {
                self.generation = joined.generation_id;
                return;
            }
            assert!(Instant::now() < deadline, "{}", joined.error_code);
        }
    }

    fn sync(&mut self) -> i16 {
        let request = SyncGroupRequest::default()
            .group_id("g".to_owned())
            .generation_id(self.generation)
            .member_id(self.id.clone())
            .group_instance_id(None)
            .assignments(Some(Vec::new()));
        match self.raw.call(3, SyncGroupRequest::KEY, request.into()) {
            Some(Body::SyncGroupResponse(answer)) => answer.error_code,
            answer => panic!("{answer:?}"),
        }
    }

    fn heartbeat(&mut self) -> i16 {
        let request = HeartbeatRequest::default()
            .group_id("g".to_owned())
            .generation_id(self.generation)
            .member_id(self.id.clone())
            .group_instance_id(None);
        match self.raw.call(3, HeartbeatRequest::KEY, request.into()) {
            Some(Body::HeartbeatResponse(answer)) => answer.error_code,
            answer => panic!("{answer:?}"),
        }
    }

    fn commit(&mut self, generation: i32, offset: i64) -> ErrorCode {
        let partition = OffsetCommitRequestPartition::default()
            .partition_index(0)
            .committed_offset(offset)
            .committed_leader_epoch(Some(-1));
        let topic = OffsetCommitRequestTopic::default()
            .name("t".to_owned())
            .partitions(Some(vec![partition]));
        let request = OffsetCommitRequest::default()
            .group_id("g".to_owned())
            .generation_id_or_member_epoch(Some(generation))
            .member_id(Some(self.id.clone()))
            .group_instance_id(None)
            .topics(Some(vec![topic]));
        let answer = self.raw.call(7, OffsetCommitRequest::KEY, request.into());
        let Some(Body::OffsetCommitResponse(answer)) = answer else {
            panic!("{answer:?}");
        };
        let topics = answer.topics.expect("topics");
        let partitions = topics[0].partitions.as_ref().expect("partitions");
        ErrorCode::try_from(partitions[0].error_code).expect("known")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_an_older_generation_is_refused() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    create(&config, &[spec("t", 1)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    offsets(&publisher.publish("t", numbered(0, 0..100)).await);
    let bootstrap = broker.bootstrap();
    blocking(move || {
        let mut old = Member::join(&bootstrap);
        assert_eq!(old.sync(), 0);
        let generation = old.generation;
        assert_eq!(old.commit(generation, 10), ErrorCode::None);

        // Another member comes, and the first one learns of it and joins again.
        let elsewhere = bootstrap.clone();
        let other = std::thread::spawn(move || Member::join(&elsewhere));
        let deadline = Instant::now() + DEADLINE;
        while old.generation == generation {
            assert!(Instant::now() < deadline, "no rebalance");
            if old.heartbeat() != 0 {
                old.rejoin();
            }
        }
        let mut other = other.join().expect("joined");
        // tansu's word for an older generation; the client takes both for the loss of its partitions.
        assert_eq!(old.commit(generation, 20), ErrorCode::RebalanceInProgress);
        assert_eq!(
            old.commit(old.generation + 1, 21),
            ErrorCode::IllegalGeneration
        );
        assert_eq!(other.commit(generation, 22), ErrorCode::RebalanceInProgress);
        let id = std::mem::replace(&mut other.id, "nobody".to_owned());
        assert_eq!(other.commit(old.generation, 23), ErrorCode::UnknownMemberId);
        other.id = id;
        assert_eq!(
            committed(&bootstrap),
            Some(10),
            "nothing refused was stored"
        );
        assert_eq!(old.commit(old.generation, 30), ErrorCode::None);
        assert_eq!(committed(&bootstrap), Some(30));
    })
    .await;
    broker.shutdown().await.expect("shutdown");
}

/// What the group `g` has committed of partition 0.
fn committed(bootstrap: &str) -> Option<i64> {
    let admin = Admin::new(&client(bootstrap)).expect("admin");
    let lag = tokio::runtime::Handle::current()
        .block_on(admin.lag("g", "t"))
        .expect("lag");
    lag[0].committed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_and_made_again_begins_anew() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let bootstrap = broker.bootstrap();
    let config = client(&bootstrap);
    for numbers in [0..100, 500..520] {
        create(&config, &[spec("t", 1)]).await;
        let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
        let sent = publisher.publish("t", numbered(0, numbers.clone())).await;
        assert_eq!(
            offsets(&sent),
            (0..numbers.len() as i64).collect::<Vec<_>>()
        );
        let (config, bootstrap) = (config.clone(), bootstrap.clone());
        blocking(move || {
            let read = read_numbers(&config, "t", 0);
            assert_eq!(read, numbers.collect::<Vec<_>>());
            let delete = DeleteTopicsRequest::default()
                .topic_names(Some(vec!["t".to_owned()]))
                .timeout_ms(1000);
            let answer = Raw::new(&bootstrap).call(3, DeleteTopicsRequest::KEY, delete.into());
            let Some(Body::DeleteTopicsResponse(deleted)) = answer else {
                panic!("{answer:?}");
            };
            assert_eq!(deleted.responses.expect("one")[0].error_code, 0);
        })
        .await;
    }
    broker.shutdown().await.expect("shutdown");
}

/// tansu's storage panics where an idempotent producer writes to a partition that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_storage_has_died_says_so_and_what_was_confirmed_is_there_afterwards() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let bootstrap = broker.bootstrap();
    let config = client(&bootstrap);
    create(&config, &[spec("t", 1)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    offsets(&publisher.publish("t", numbered(0, 0..10)).await);
    blocking(move || {
        let init = InitProducerIdRequest::default().transaction_timeout_ms(1000);
        let answer = Raw::new(&bootstrap).call(0, InitProducerIdRequest::KEY, init.into());
        let Some(Body::InitProducerIdResponse(given)) = answer else {
            panic!("{answer:?}");
        };
        let batch = inflated::Batch::builder()
            .producer_id(given.producer_id)
            .producer_epoch(given.producer_epoch)
            .base_sequence(0)
            .record(Produced::builder().value(Some(b"lost"[..].into())))
            .build()
            .expect("batch");
        let batches = vec![deflated::Batch::try_from(batch).expect("encoded")];
        let partition = PartitionProduceData::default()
            .index(7)
            .records(Some(deflated::Frame { batches }));
        let topic = TopicProduceData::default()
            .name("t".to_owned())
            .partition_data(Some(vec![partition]));
        let produce = ProduceRequest::default()
            .acks(-1)
            .timeout_ms(1000)
            .topic_data(Some(vec![topic]));
        Raw::new(&bootstrap).call(3, ProduceRequest::KEY, produce.into());
    })
    .await;
    tokio::time::timeout(DEADLINE, broker.died())
        .await
        .expect("it is noticed");
    drop(broker);
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    let read = blocking(move || read_numbers(&config, "t", 0)).await;
    assert_eq!(read, (0..10).collect::<Vec<_>>());
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_it_does_not_know_leave_the_broker_alive() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let bootstrap = broker.bootstrap();
    let config = client(&bootstrap);
    create(&config, &[spec("t", 1)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    offsets(&publisher.publish("t", numbered(0, 0..10)).await);
    let reading = config.clone();
    blocking(move || {
        let delete = DeleteRecordsRequest::default().topics(Some(Vec::new()));
        let answer = Raw::new(&bootstrap).call(0, DeleteRecordsRequest::KEY, delete.into());
        assert!(answer.is_none(), "{answer:?}");

        let init = InitProducerIdRequest::default()
            .transactional_id(Some("transaction".to_owned()))
            .transaction_timeout_ms(1000);
        let answer = Raw::new(&bootstrap).call(0, InitProducerIdRequest::KEY, init.into());
        let Some(Body::InitProducerIdResponse(refused)) = answer else {
            panic!("{answer:?}");
        };
        assert_ne!(refused.error_code, 0);

        // An old client's, which says nothing of ids.
        let init = InitProducerIdRequest::default().transaction_timeout_ms(1000);
        let answer = Raw::new(&bootstrap).call(0, InitProducerIdRequest::KEY, init.into());
        let Some(Body::InitProducerIdResponse(given)) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(given.error_code, 0);

        // A browser that lost its way, and a length below zero.
        for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff, 0xff, 0xff, 0x00]] {
            let mut stream = TcpStream::connect(&bootstrap).expect("connection");
            stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
            stream.write_all(nonsense).expect("sent");
            let mut answer = Vec::new();
            // Closed, with or without a reset, and not at the deadline.
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            assert!(answer.is_empty());
        }
        assert_eq!(read_numbers(&reading, "t", 0), (0..10).collect::<Vec<_>>());
    })
    .await;
    offsets(&publisher.publish("t", numbered(0, 10..20)).await);
    broker.shutdown().await.expect("shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_after_the_end_is_an_error_and_no_endless_wait() {
    let dir = tempfile::tempdir().expect("directory");
    let broker = start(dir.path(), "127.0.0.1:0").await;
    let config = client(&broker.bootstrap());
    create(&config, &[spec("t", 1)]).await;
    let publisher = Publisher::new(&config, &PublisherSettings::default()).expect("publisher");
    offsets(&publisher.publish("t", numbered(0, 0..10)).await);
    let refused = blocking(move || {
        let mut reader =
            PartitionReader::new(&config, TopicPartition::new("t", 0)).expect("reader");
        reader.seek(11).expect("seek");
        let limit = BatchLimit {
            max_records: 1,
            max_bytes: 1 << 20,
            wait: DEADLINE,
            linger: Duration::ZERO,
        };
        reader
            .next_batch(&limit, &|| false)
            .map(|batch| batch.len())
    })
    .await;
    assert!(refused.is_err(), "{refused:?}");
    broker.shutdown().await.expect("shutdown");
}

//! A producer with a mock broker, and a client that can send anything.

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use chatpulse_kafka::{KafkaConfig, PartitionReader, TopicPartition};
use chatpulse_model::{
    RawBody, RawEvent,
    avro::{Codec, Framing},
    source::Catalog,
};
use chatpulse_producer::{Environment, ProducerConfig, ProducerError, run};
use prometheus::Registry;
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

pub(crate) const TOPIC: &str = "chat.raw";
pub(crate) const PARTITIONS: i32 = 3;
/// Long enough for a loaded machine; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Keys of the tenants `acme` (good and revoked) and `other`.
pub(crate) const KEY: &str = "cpw_the-key-of-acme-that-is-in-no-log";
pub(crate) const REVOKED: &str = "cpw_the-revoked-key-of-acme";
pub(crate) const OTHER: &str = "cpw_the-key-of-other";

/// A tenants file with those keys; `limits` is the inside of acme's limits table.
pub(crate) fn tenants_toml(limits: &str) -> String {
    let digest = |key: &str| hex::encode(Sha256::digest(key));
    format!(
        r#"
[[tenant]]
id = "acme"
salt = "0123456789abcdef-acme"
allowed_origins = ["https://www.acme.example", "https://*.shop.acme.example"]
[[tenant.write_keys]]
id = "web"
sha256 = "{}"
[[tenant.write_keys]]
id = "old"
sha256 = "{}"
revoked = true
[tenant.limits]
{limits}

[[tenant]]
id = "other"
salt = "0123456789abcdef-other"
allowed_origins = ["https://other.example"]
[[tenant.write_keys]]
id = "web"
sha256 = "{}"
"#,
        digest(KEY),
        digest(REVOKED),
        digest(OTHER),
    )
}

/// An event that Watermelon's definition takes.
pub(crate) fn event(conversation: &str) -> String {
    format!(r#"{{"event":"widget_message_sent","widget_conversation_id":"{conversation}"}}"#)
}

pub(crate) struct Producer {
    pub(crate) address: SocketAddr,
    pub(crate) mock: Mock,
    pub(crate) config: ProducerConfig,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ProducerError>>,
}

/// A producer with default settings.
pub(crate) async fn start() -> Producer {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut ProducerConfig)) -> Producer {
    start_limited("", change).await
}

pub(crate) async fn start_limited(
    limits: &str,
    change: impl FnOnce(&mut ProducerConfig),
) -> Producer {
    start_on(mock(), limits, change).await
}

pub(crate) type Mock = MockCluster<'static, DefaultProducerContext>;

/// A broker with the topic.
pub(crate) fn mock() -> Mock {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    mock
}

pub(crate) async fn start_on(
    mock: Mock,
    limits: &str,
    change: impl FnOnce(&mut ProducerConfig),
) -> Producer {
    logs();
    let folder = tempfile::tempdir().unwrap();
    let tenants_file = folder.path().join("tenants.toml");
    std::fs::write(&tenants_file, tenants_toml(limits)).unwrap();
    let mut config = ProducerConfig {
        tenants_file,
        tenants_poll: Duration::from_millis(20),
        ..ProducerConfig::default()
    };
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let environment = environment(&mock);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(run(config.clone(), environment, Some(listener), async {
        let _ = stopped.await;
    }));
    let producer = Producer {
        address,
        mock,
        config,
        folder,
        stop: Some(stop),
        task,
    };
    assert_eq!(producer.call("GET", "/healthz").send().await.status, 200);
    producer
}

pub(crate) fn environment(mock: &Mock) -> Environment {
    Environment {
        kafka: KafkaConfig::new(mock.bootstrap_servers(), "test"),
        framing: Framing::SingleObject,
        catalog: Catalog::builtin(),
        registry: Registry::new(),
    }
}

impl Producer {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A POST for Watermelon with acme's key.
    pub(crate) fn post(&self, body: impl Into<Vec<u8>>) -> Call {
        self.call("POST", "/v1/events/watermelon")
            .header("Authorization", &format!("Bearer {KEY}"))
            .header("Content-Type", "application/json")
            .body(body)
    }

    pub(crate) fn call(&self, method: &str, target: &str) -> Call {
        Call {
            address: self.address,
            line: format!("{method} {target} HTTP/1.1"),
            headers: vec![("Host".into(), "localhost".into())],
            body: Vec::new(),
            length: true,
        }
    }

    /// Everything in the topic, decoded, by partition and offset.
    pub(crate) async fn stored(&self) -> Vec<RawEvent> {
        stored(&self.mock).await
    }

    pub(crate) async fn metric(&self, line: &str) -> Option<f64> {
        let text = self.call("GET", "/metrics").send().await.text();
        let value = text.lines().find_map(|found| found.strip_prefix(line));
        value.map(|value| value.trim().parse().unwrap())
    }

    /// Asks the server to stop, as a signal does.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn stopped(self) {
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

pub(crate) async fn stored(mock: &Mock) -> Vec<RawEvent> {
    let kafka = KafkaConfig::new(mock.bootstrap_servers(), "reader");
    let read = move || {
        let codec = Codec::<RawEvent>::new(Framing::SingleObject).unwrap();
        let mut events = Vec::new();
        for partition in 0..PARTITIONS {
            let partition = TopicPartition::new(TOPIC, partition);
            let mut reader = PartitionReader::new(&kafka, partition).unwrap();
            let ends = reader.watermarks().unwrap();
            if ends.low < ends.high {
                let batch = reader.read_range(ends.low..ends.high, PATIENCE).unwrap();
                events.extend(
                    batch
                        .iter()
                        .map(|r| codec.decode(r.payload.unwrap()).unwrap()),
                );
            }
        }
        events
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// How many of the records are taken and how many are refused.
pub(crate) fn taken_and_refused(events: &[RawEvent]) -> (usize, usize) {
    let taken = events
        .iter()
        .filter(|e| matches!(e.body, RawBody::Native(_)))
        .count();
    (taken, events.len() - taken)
}

/// A request, sent as it is written down.
pub(crate) struct Call {
    address: SocketAddr,
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: bool,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.also(name, value)
    }

    /// Like `header`, beside one of the same name.
    pub(crate) fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Leaves the length to a header of the test's own, or to chunks that the body holds.
    pub(crate) fn own_framing(mut self) -> Self {
        self.length = false;
        self
    }

    pub(crate) async fn send(mut self) -> Answer {
        self.headers.push(("Connection".into(), "close".into()));
        let stream = self.open().await;
        receive(stream).await
    }

    /// Sends the request and leaves the connection open.
    pub(crate) async fn open(self) -> TcpStream {
        let mut bytes = self.line.into_bytes();
        bytes.extend(b"\r\n");
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").bytes());
        }
        if self.length {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(self.body);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        // A server that answers early may close before all is sent.
        let _ = timeout(PATIENCE, stream.write_all(&bytes)).await.unwrap();
        stream
    }
}

/// Reads one answer, up to the end of its body.
pub(crate) async fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            if let Some(answer) = Answer::parse(&bytes) {
                return answer;
            }
            match stream.read_buf(&mut bytes).await {
                Ok(read) if read > 0 => {}
                end => panic!("{end:?} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: BTreeMap<_, _> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let body = bytes[end + 4..].to_vec();
        (body.len() >= length).then_some(Self {
            status,
            headers,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem of that kind, and gives its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:chatpulse:problem:{kind}"));
        assert_eq!(problem["status"], status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }

    /// Checks that this is a confirmation, and gives accepted and the rejected ones' index and
    /// reason.
    #[track_caller]
    pub(crate) fn confirmed(&self) -> (u64, Vec<(u64, String)>) {
        assert_eq!(self.status, 202, "{self:?}");
        let answer = self.json();
        let rejected = answer["rejected"].as_array().unwrap().iter().map(|item| {
            assert!(!item["detail"].as_str().unwrap().is_empty());
            (
                item["index"].as_u64().unwrap(),
                item["reason"].as_str().unwrap().to_owned(),
            )
        });
        (answer["accepted"].as_u64().unwrap(), rejected.collect())
    }
}

/// Asks until the condition holds.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    let ask = async {
        while !holds().await {
            beat.tick().await;
        }
    };
    timeout(PATIENCE, ask)
        .await
        .expect("the condition holds in time");
}

/// All that this process logs, at the finest level.
pub(crate) fn logs() -> String {
    static LOGS: OnceLock<()> = OnceLock::new();
    static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    struct Sink;
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            TEXT.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOGS.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(|| Sink)
            .init();
    });
    String::from_utf8_lossy(&TEXT.lock().unwrap()).into_owned()
}

//! One broker for all tests of this binary; topics and group of its own for each test.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use chatpulse_deliverer::{
    Config, DelivererError, Metrics,
    breaker::BreakerSettings,
    destination::{Destination, load},
    guard::Guard,
    http::Client,
    schedule::Schedule,
};
use chatpulse_embedded::broker::{Broker, BrokerConfig};
use chatpulse_kafka::{
    Admin, KafkaConfig, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition,
    Topics,
};
use chatpulse_model::{
    Delivery, DeliveryResult, Event, Outcome,
    avro::{Codec, Framing},
    delivery::{DestinationState, Retry},
};
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// No step of a test takes longer on a healthy machine, however loaded.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// Three pauses: a delivery has four turns.
pub(crate) const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
];

fn broker() -> &'static str {
    static BROKER: OnceLock<(Broker, tokio::runtime::Runtime)> = OnceLock::new();
    static BOOTSTRAP: OnceLock<String> = OnceLock::new();
    BOOTSTRAP.get_or_init(|| {
        let (broker, _) = BROKER.get_or_init(|| {
            let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deliverer");
            let _ = std::fs::remove_dir_all(&data_dir);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let config = BrokerConfig {
                    data_dir,
                    listen: "127.0.0.1:0".parse().unwrap(),
                };
                let broker = runtime.block_on(Broker::start(config)).unwrap();
                (broker, runtime)
            })
            .join()
            .unwrap()
        });
        broker.bootstrap()
    })
}

/// What one test works with.
pub(crate) struct World {
    pub(crate) kafka: KafkaConfig,
    pub(crate) topics: Topics,
    pub(crate) events: Arc<Codec<Event>>,
    publisher: Publisher,
    name: String,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(name: &str) -> Self {
        let kafka = KafkaConfig::new(broker(), "test");
        let topics = Topics::with_prefix(&format!("{name}."));
        let one = NonZeroU32::MIN;
        let mut specs = topics.specs(one, one);
        specs.extend(topics.delivery_specs(one, one, PAUSES.len()));
        Admin::new(&kafka)
            .unwrap()
            .ensure_topics(&specs)
            .await
            .unwrap();
        Self {
            publisher: Publisher::new(&kafka, &PublisherSettings::default()).unwrap(),
            kafka,
            topics,
            events: Arc::new(Codec::new(Framing::SingleObject).unwrap()),
            name: name.to_owned(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Destinations of tenant `acme`, given as TOML; `KEY` stands for a signing key.
    pub(crate) fn destinations(&self, entries: &str) -> Vec<Destination> {
        let path = |name: &str| self.folder.path().join(name);
        std::fs::write(path("key"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let secret = format!("[{{ file = {:?} }}]", path("key"));
        let entries = entries.replace("KEY", &secret);
        std::fs::write(
            path("tenants.toml"),
            format!("[[tenant]]\nid = \"acme\"\n{entries}"),
        )
        .unwrap();
        load(&path("tenants.toml")).unwrap()
    }

    /// Accepted events number `from` to `to`, exclusive.
    pub(crate) async fn accept(&self, (from, to): (i64, i64)) {
        self.write((from..to).map(event)).await;
    }

    pub(crate) async fn write(&self, events: impl IntoIterator<Item = Event>) {
        let records = events.into_iter().map(|event| Record {
            partition: Some(0),
            payload: self.events.encode(&event).unwrap(),
            ..Record::default()
        });
        self.publish(&self.topics.events, records.collect()).await;
    }

    pub(crate) async fn publish(&self, topic: &str, records: Vec<Record>) {
        for outcome in self.publisher.publish(topic, records).await {
            outcome.unwrap();
        }
    }

    pub(crate) fn config(&self, destinations: Vec<Destination>) -> Config {
        let guard = Guard::new(vec!["127.0.0.1/32".parse().unwrap()]);
        Config {
            kafka: self.kafka.clone(),
            topics: self.topics.clone(),
            group: format!("{}.deliverer", self.name),
            destinations: watch::channel(destinations).1,
            client: Client::new(guard, &[]).unwrap(),
            schedule: Schedule::new(PAUSES.to_vec()).unwrap(),
            breaker: BreakerSettings {
                failures: 10,
                pause: Duration::from_millis(100),
                max_pause: Duration::from_secs(1),
            },
            disable_after: Duration::from_secs(3_600),
            linger: Duration::from_millis(5),
            events: Arc::clone(&self.events),
            framing: Framing::SingleObject,
        }
    }

    /// A running deliverer, which has begun: what is accepted from now on is delivered.
    pub(crate) async fn start(&self, config: Config) -> Deliverer {
        let deliverer = self.start_late(config);
        self.until(|| self.has_cursors()).await;
        deliverer
    }

    pub(crate) fn start_late(&self, config: Config) -> Deliverer {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let stop = CancellationToken::new();
        let run = tokio::spawn(chatpulse_deliverer::run(
            config,
            metrics.clone(),
            stop.clone(),
        ));
        Deliverer { metrics, stop, run }
    }

    fn has_cursors(&self) -> bool {
        self.reader(&self.topics.cursors).watermarks().unwrap().high > 0
    }

    fn reader(&self, topic: &Arc<str>) -> PartitionReader {
        let partition = TopicPartition::new(Arc::clone(topic), 0);
        PartitionReader::new(&self.kafka, partition).unwrap()
    }

    fn read<T>(&self, topic: &Arc<str>, decode: impl Fn(&[u8]) -> T) -> Vec<T> {
        let mut reader = self.reader(topic);
        let ends = reader.watermarks().unwrap();
        let batch = reader.read_range(ends.low..ends.high, DEADLINE).unwrap();
        batch
            .iter()
            .map(|record| decode(record.payload.unwrap()))
            .collect()
    }

    /// Every record of chat.deliveries.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        let codec = Codec::<Delivery>::new(Framing::SingleObject).unwrap();
        self.read(&self.topics.deliveries, |bytes| {
            codec.decode(bytes).unwrap()
        })
    }

    /// What was said last of a destination.
    pub(crate) fn said(&self, destination: &str) -> Option<DestinationState> {
        let codec = Codec::<DestinationState>::new(Framing::SingleObject).unwrap();
        let all = self.read(&self.topics.destinations, |bytes| {
            codec.decode(bytes).unwrap()
        });
        all.into_iter()
            .rfind(|state| state.destination == destination)
    }

    /// Every record of a retry topic.
    pub(crate) fn retries(&self, step: usize) -> Vec<Retry> {
        let codec = Codec::<Retry>::new(Framing::SingleObject).unwrap();
        self.read(&self.topics.retries(step), |bytes| {
            codec.decode(bytes).unwrap()
        })
    }

    /// Lets a delivery wait in the first retry topic.
    pub(crate) async fn wait(&self, retry: &Retry) {
        let codec = Codec::<Retry>::new(Framing::SingleObject).unwrap();
        let record = Record {
            partition: Some(0),
            payload: codec.encode(retry).unwrap(),
            ..Record::default()
        };
        self.publish(&self.topics.retries(1), vec![record]).await;
    }

    /// The cursors that count, as they stand in their topic.
    pub(crate) fn last_cursors(&self) -> Vec<u8> {
        self.read(&self.topics.cursors, <[u8]>::to_vec)
            .pop()
            .unwrap()
    }

    pub(crate) async fn write_cursors(&self, payload: Vec<u8>) {
        let record = Record {
            partition: Some(0),
            payload,
            ..Record::default()
        };
        self.publish(&self.topics.cursors, vec![record]).await;
    }

    /// Waits for a condition, with a deadline.
    pub(crate) async fn until(&self, condition: impl Fn() -> bool + Send) {
        let deadline = Instant::now() + DEADLINE;
        while !tokio::task::block_in_place(&condition) {
            if Instant::now() >= deadline {
                panic!(
                    "it did not come true in time; deliveries: {:?}",
                    summary(&self.deliveries())
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every one of `count` deliveries has ended; gives all records.
    pub(crate) async fn ended(&self, count: usize) -> Vec<Delivery> {
        self.until(|| ends(&self.deliveries()).len() >= count).await;
        self.deliveries()
    }
}

/// The ends of deliveries by id: a delivery that was begun twice may end twice.
pub(crate) fn ends(deliveries: &[Delivery]) -> BTreeMap<&str, Vec<DeliveryResult>> {
    let mut ends: BTreeMap<&str, Vec<DeliveryResult>> = BTreeMap::new();
    for delivery in deliveries.iter().filter(|one| one.result.is_final()) {
        let all = ends.entry(&delivery.delivery_id).or_default();
        all.push(delivery.result);
    }
    ends
}

/// Numbers by destination, result and class.
pub(crate) fn summary(deliveries: &[Delivery]) -> BTreeMap<(&str, &str, &str), usize> {
    let mut summary = BTreeMap::new();
    for delivery in deliveries {
        let class = delivery.failure.map_or("", |class| class.as_str());
        let key = (
            delivery.destination.as_str(),
            delivery.result.as_str(),
            class,
        );
        *summary.entry(key).or_default() += 1;
    }
    summary
}

pub(crate) struct Deliverer {
    pub(crate) metrics: Metrics,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), DelivererError>>,
}

impl Deliverer {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap().unwrap();
    }
}

/// An accepted Autochat event of now.
pub(crate) fn event(number: i64) -> Event {
    let now = jiff::Timestamp::now().as_millisecond();
    let json = serde_json::json!({
        "partition": 0, "offset": number, "outcome": "accepted", "tenant": "acme",
        "source": "autochat", "write_key_id": "web",
        "source_event": "autochat.lead_qualified.v1", "event_type": "lead.qualified",
        "actor": "system", "documented": true, "event_id": format!("e{number}"),
        "occurred_at": now, "time_basis": "native", "received_at": now,
        "conversation_id": "c-1", "session_id": "s-1", "properties": {}
    });
    let event: Event = serde_json::from_value(json).unwrap();
    assert_eq!(event.outcome, Outcome::Accepted);
    event
}

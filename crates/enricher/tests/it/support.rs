//! A mock cluster with raw records, and enrichers that run until they have written what is wanted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chatpulse_enricher::{Checkpoints, Config, EnricherError, Metrics, run};
use chatpulse_kafka::{
    KafkaConfig, PartitionReader, Publisher, PublisherSettings, Record, TopicPartition, Topics,
};
use chatpulse_model::{
    Context, Event, NativePayload, RawBody, RawEvent,
    avro::{Codec, Framing},
    fold::{Horizon, PartitionFold, Position, read, snapshot::Anchor},
    source::Catalog,
};
use prometheus::Registry;
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use tokio_util::sync::CancellationToken;

/// No step of a test takes longer on a healthy machine, however loaded.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Checkpoints only when a partition is released.
pub(crate) const NEVER: Duration = Duration::from_secs(24 * 60 * 60);
/// Time of the first raw record.
pub(crate) const START: i64 = 1_768_471_800_000;

pub(crate) struct Cluster {
    pub(crate) mock: MockCluster<'static, DefaultProducerContext>,
    pub(crate) kafka: KafkaConfig,
    pub(crate) topics: Topics,
}

impl Cluster {
    /// One broker with empty topics of one partition.
    pub(crate) fn start() -> Self {
        let mock = MockCluster::new(1).unwrap();
        let topics = Topics::with_prefix("");
        for topic in [&topics.raw, &topics.events] {
            mock.create_topic(topic, 1, 1).unwrap();
        }
        let kafka = KafkaConfig::new(mock.bootstrap_servers(), "test");
        Self {
            mock,
            kafka,
            topics,
        }
    }

    /// Appends raw records number `from` to `to` (exclusive), a second apart from `start` on.
    pub(crate) fn produce(&self, start: i64, (from, to): (i64, i64)) {
        let codec = raw_codec();
        let records = (from..to).map(|number| Record {
            partition: Some(0),
            payload: codec.encode(&raw_event(number)).unwrap(),
            timestamp_ms: Some(start + number * 1000),
            ..Record::default()
        });
        self.publish(&self.topics.raw, records.collect());
    }

    pub(crate) fn publish(&self, topic: &str, records: Vec<Record>) {
        let publisher = Publisher::new(&self.kafka, &PublisherSettings::default()).unwrap();
        let outcomes = publisher.publish(topic, records).wait(DEADLINE).unwrap();
        for outcome in outcomes {
            outcome.unwrap();
        }
    }

    pub(crate) fn events_reader(&self) -> PartitionReader {
        let partition = TopicPartition::new(self.topics.events.clone(), 0);
        PartitionReader::new(&self.kafka, partition).unwrap()
    }

    /// All outcomes as bytes.
    pub(crate) fn outcomes(&self) -> Vec<Vec<u8>> {
        let mut reader = self.events_reader();
        let ends = reader.watermarks().unwrap();
        let batch = reader.read_range(ends.low..ends.high, DEADLINE).unwrap();
        let payload = |record: chatpulse_kafka::RecordRef<'_>| record.payload.unwrap().to_vec();
        batch.iter().map(payload).collect()
    }

    pub(crate) fn written(&self, reader: &PartitionReader) -> i64 {
        reader.watermarks().unwrap().high
    }

    /// An enricher with its checkpoints in `folder`.
    pub(crate) fn enricher(&self, folder: &Path, interval: Duration) -> Enricher {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let config = Config {
            kafka: self.kafka.clone(),
            topics: self.topics.clone(),
            group: "enricher".into(),
            horizon: Horizon::default(),
            catalog: Catalog::builtin(),
            linger: Duration::ZERO,
            checkpoints: Checkpoints::open(folder.to_str().unwrap(), interval).unwrap(),
            raw: Arc::new(raw_codec()),
            events: Arc::new(event_codec()),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config, metrics, stop.clone()));
        Enricher {
            registry,
            stop,
            running,
        }
    }

    /// Runs an enricher until there are `outcomes`, then stops it cleanly.
    pub(crate) async fn enrich(&self, folder: &Path, outcomes: i64) -> Enriched {
        let enricher = self.enricher(folder, NEVER);
        let reader = self.events_reader();
        wait_until(|| self.written(&reader) >= outcomes).await;
        enricher.stop().await.unwrap()
    }
}

/// What one fold that never stops makes of the raw records that [`Cluster::produce`] appends.
pub(crate) struct Truth {
    pub(crate) outcomes: Vec<Vec<u8>>,
}

impl Truth {
    pub(crate) fn of(count: i64) -> Self {
        let (mut fold, codec) = (empty_fold(), event_codec());
        let outcome = |number| codec.encode(&apply(&mut fold, number)).unwrap();
        Self {
            outcomes: (0..count).map(outcome).collect(),
        }
    }

    /// The first `count` outcomes as an enricher writes them.
    pub(crate) fn records(&self, count: usize) -> Vec<Record> {
        let record = |(number, payload): (i64, &Vec<u8>)| Record {
            partition: Some(0),
            payload: payload.clone(),
            timestamp_ms: Some(START + number * 1000),
            ..Record::default()
        };
        (0..).zip(&self.outcomes[..count]).map(record).collect()
    }

    /// Writes the checkpoint that an enricher leaves at `offset`.
    pub(crate) fn write_checkpoint(&self, folder: &Path, offset: i64) -> PathBuf {
        let mut fold = empty_fold();
        for number in 0..offset {
            apply(&mut fold, number);
        }
        let folder = folder.join("chat.raw/0");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{offset:020}.checkpoint"));
        let anchor = Anchor {
            offset,
            timestamp_ms: START + (offset - 1) * 1000,
        };
        let mut bytes = Vec::new();
        fold.encode("chat.raw", anchor, &mut bytes).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn empty_fold() -> PartitionFold {
    PartitionFold::new(0, Horizon::default())
}

fn apply(fold: &mut PartitionFold, number: i64) -> Event {
    let codec = raw_codec();
    let payload = codec.encode(&raw_event(number)).unwrap();
    let position = Position {
        offset: number,
        timestamp_ms: START + number * 1000,
    };
    fold.apply(position, read(&payload, &codec, Catalog::builtin()))
}

/// An enricher, running.
pub(crate) struct Enricher {
    pub(crate) registry: Registry,
    stop: CancellationToken,
    pub(crate) running: tokio::task::JoinHandle<Result<(), EnricherError>>,
}

impl Enricher {
    pub(crate) async fn stop(self) -> Result<Enriched, EnricherError> {
        self.stop.cancel();
        self.running.await.unwrap()?;
        Ok(Enriched(self.registry))
    }
}

/// What an enricher counted.
pub(crate) struct Enriched(Registry);

impl Enriched {
    /// Records folded again.
    pub(crate) fn replayed(&self) -> i64 {
        metric(&self.0, "chatpulse_enricher_replayed_total", "0")
    }

    /// Raw offset of the checkpoint that it started from.
    pub(crate) fn restored(&self) -> i64 {
        metric(&self.0, "chatpulse_enricher_restored_offset", "0")
    }

    pub(crate) fn load_failures(&self) -> i64 {
        metric(
            &self.0,
            "chatpulse_enricher_checkpoint_failures_total",
            "load",
        )
    }
}

/// The metric with that value of its only label; 0 where it is absent.
pub(crate) fn metric(registry: &Registry, name: &str, label: &str) -> i64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.into_iter().flat_map(|family| family.get_metric());
    let with_label = |metric: &&prometheus::proto::Metric| metric.get_label()[0].value() == label;
    metrics
        .filter(with_label)
        .map(|metric| {
            let value = match metric.get_counter().get_value() {
                0.0 => metric.get_gauge().get_value(),
                value => value,
            };
            value as i64
        })
        .sum()
}

pub(crate) async fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "it did not come about in {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The checkpoints of the only partition, oldest first.
pub(crate) fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder.join("chat.raw/0")) else {
        return vec![];
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The raw offset that a checkpoint is named for.
pub(crate) fn offset_of(checkpoint: &Path) -> i64 {
    let name = checkpoint.file_stem().unwrap().to_str().unwrap();
    name.parse().unwrap()
}

fn raw_codec() -> Codec<RawEvent> {
    Codec::new(Framing::SingleObject).unwrap()
}

fn event_codec() -> Codec<Event> {
    Codec::new(Framing::SingleObject).unwrap()
}

/// One message of one of seven conversations; every fifth comes a second time later.
fn raw_event(number: i64) -> RawEvent {
    let id = if number % 5 == 4 { number - 4 } else { number };
    let json = format!(
        r#"{{"event":"widget_message_sent","widget_platform":"web","widget_conversation_id":"c{}","timestamp":{},"total_messages":{}}}"#,
        id % 7,
        START + id * 900,
        id / 7,
    );
    RawEvent {
        tenant: "acme".into(),
        source: "watermelon".into(),
        write_key_id: "web".into(),
        received_at: START + number * 1000,
        context: Context {
            event_id: Some(format!("e{id}")),
            ..Context::default()
        },
        body: RawBody::Native(NativePayload {
            json,
            redactions: vec![],
        }),
        replay_of: None,
    }
}

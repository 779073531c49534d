//! One broker and one ClickHouse for all tests of this binary; topics, group and database of its
//! own for each test.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chatpulse_embedded::broker::{Broker, BrokerConfig};
use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_kafka::{Admin, KafkaConfig, Publisher, PublisherSettings, Record, Topics};
use chatpulse_model::avro::{Codec, Framing};
use chatpulse_model::{
    Actor, Context, Event, EventType, NativePayload, Outcome, RawBody, RawEvent, TimeBasis,
};
use chatpulse_sink::{Config, DeliveriesConfig, Metrics, SinkError, run_deliveries};
use chatpulse_store::{Audit, AuditOptions, Claim, Store, StoreConfig};
use clickhouse::Client;
use clickhouse::sql::Identifier;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

/// No step of a test takes longer on a healthy machine, however loaded.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
/// 2024-06-03 12:00:00 UTC.
pub(crate) const START: i64 = 1_717_416_000_000;

struct Shared {
    broker: Broker,
    clickhouse: ClickHouse,
    _runtime: tokio::runtime::Runtime,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sink");
        let _ = std::fs::remove_dir_all(&data_dir);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let broker = BrokerConfig {
                data_dir: data_dir.join("broker"),
                listen,
            };
            let clickhouse = ClickHouseConfig {
                data_dir: data_dir.join("clickhouse"),
                listen,
                password: None,
                library: None,
                memory_limit_bytes: None,
            };
            Shared {
                broker: runtime.block_on(Broker::start(broker)).unwrap(),
                clickhouse: runtime.block_on(ClickHouse::start(clickhouse)).unwrap(),
                _runtime: runtime,
            }
        })
        .join()
        .unwrap()
    })
}

/// What one test works with: partition 0 of topics of its own.
pub(crate) struct World {
    pub(crate) topics: Topics,
    pub(crate) store: Store,
    config: StoreConfig,
    /// Looks behind the store.
    pub(crate) client: Client,
    pub(crate) codec: Arc<Codec<Event>>,
    kafka: KafkaConfig,
    name: String,
    publisher: Publisher,
    raw_written: AtomicI64,
}

impl World {
    pub(crate) async fn new(name: &str) -> Self {
        let shared = shared();
        let kafka = KafkaConfig::new(shared.broker.bootstrap(), "test");
        let url = shared.clickhouse.url();
        Client::default()
            .with_url(&url)
            .query("DROP DATABASE IF EXISTS ? SYNC")
            .bind(Identifier(name))
            .execute()
            .await
            .unwrap();
        let config = StoreConfig {
            url: url.clone(),
            database: name.to_owned(),
            ..StoreConfig::default()
        };
        let store = Store::new(&config);
        store.migrate().await.unwrap();
        let world = Self {
            topics: Topics::with_prefix(&format!("{name}.")),
            store,
            config,
            client: Client::default().with_url(url).with_database(name),
            codec: Arc::new(Codec::new(Framing::SingleObject).unwrap()),
            publisher: Publisher::new(&kafka, &PublisherSettings::default()).unwrap(),
            kafka,
            name: name.to_owned(),
            raw_written: AtomicI64::new(0),
        };
        world.make_topics().await;
        world
    }

    /// The tables forget a token after so many further inserts.
    pub(crate) async fn keep_tokens(&mut self, window: u64) {
        for table in [
            "events",
            "conversation_facts",
            "event_health",
            "rejections",
            "session_sequences",
        ] {
            let setting = format!("non_replicated_deduplication_window = {window}");
            self.execute(&format!("ALTER TABLE {table} MODIFY SETTING {setting}"))
                .await;
        }
        self.config.deduplication_window = window;
        self.store = Store::new(&self.config);
    }

    pub(crate) async fn make_topics(&self) {
        let specs = self.topics.specs(NonZeroU32::MIN, NonZeroU32::MIN);
        let admin = Admin::new(&self.kafka).unwrap();
        admin.ensure_topics(&specs).await.unwrap();
    }

    /// Writes raw records to chat.raw, of which only the time of receipt matters: that of the
    /// outcome of the same number.
    pub(crate) async fn write_raw(&self, count: usize) {
        let codec = Codec::new(Framing::SingleObject).unwrap();
        let records = (0..count).map(|_| {
            let number = self.raw_written.fetch_add(1, Ordering::Relaxed);
            codec.encode(&raw(number)).unwrap()
        });
        self.publish(&self.topics.raw, records.collect()).await;
    }

    /// Writes records to chat.events.
    pub(crate) async fn write(&self, payloads: Vec<Vec<u8>>) {
        self.publish(&self.topics.events, payloads).await;
    }

    pub(crate) fn encoded(&self, event: &Event) -> Vec<u8> {
        self.codec.encode(event).unwrap()
    }

    pub(crate) async fn write_events(&self, events: impl IntoIterator<Item = Event>) {
        let payloads = events.into_iter().map(|event| self.encoded(&event));
        self.write(payloads.collect()).await;
    }

    async fn publish(&self, topic: &str, payloads: Vec<Vec<u8>>) {
        let records = payloads.into_iter().map(|payload| Record {
            partition: Some(0),
            payload,
            ..Record::default()
        });
        for outcome in self.publisher.publish(topic, records.collect()).await {
            outcome.unwrap();
        }
    }

    /// The tables of deliveries.
    pub(crate) async fn make_delivery_topics(&self) {
        let one = NonZeroU32::MIN;
        let admin = Admin::new(&self.kafka).unwrap();
        let specs = self.topics.delivery_specs(one, one, 1);
        admin.ensure_topics(&specs).await.unwrap();
    }

    /// Writes records to chat.deliveries.
    pub(crate) async fn write_deliveries(&self, payloads: Vec<Vec<u8>>) {
        self.publish(&self.topics.deliveries, payloads).await;
    }

    /// A running sink of deliveries.
    pub(crate) fn delivery_sink(&self, group: &str, batch_rows: NonZeroU32) -> Sink {
        let config = DeliveriesConfig {
            kafka: self.kafka.clone(),
            topics: self.topics.clone(),
            group: format!("{}.{group}", self.name),
            store: self.store.clone(),
            deliveries: Arc::new(Codec::new(Framing::SingleObject).unwrap()),
            destinations: Arc::new(Codec::new(Framing::SingleObject).unwrap()),
            batch_rows,
            batch_wait: Duration::from_millis(50),
        };
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let stop = CancellationToken::new();
        let run = tokio::spawn(run_deliveries(config, metrics, stop.clone()));
        Sink {
            registry,
            stop,
            run,
        }
    }

    /// Repeats a query until it answers `expected`.
    pub(crate) async fn wait_until(&self, sql: &str, expected: u64) {
        until(async || self.number(sql).await == expected).await;
    }

    /// A running sink.
    pub(crate) fn sink(&self, batch_rows: u32) -> Sink {
        let config = Config {
            kafka: self.kafka.clone(),
            topics: self.topics.clone(),
            group: format!("{}.sink", self.name),
            store: self.store.clone(),
            events: Arc::clone(&self.codec),
            raw: Arc::new(Codec::new(Framing::SingleObject).unwrap()),
            batch_rows: NonZeroU32::new(batch_rows).unwrap(),
            batch_wait: Duration::from_millis(50),
        };
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let stop = CancellationToken::new();
        let run = tokio::spawn(chatpulse_sink::run(config, metrics, stop.clone()));
        Sink {
            registry,
            stop,
            run,
        }
    }

    /// Runs a sink until the store has a row for each of the raw offsets below `end`.
    pub(crate) async fn store_until(&self, end: u64, batch_rows: u32) -> Sink {
        let sink = self.sink(batch_rows);
        self.wait_for(end).await;
        sink
    }

    pub(crate) async fn wait_for(&self, rows: u64) {
        until(async || self.number("SELECT count() FROM events").await >= rows).await;
    }

    pub(crate) async fn number(&self, sql: &str) -> u64 {
        self.client.query_raw(sql).fetch_one().await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.client.query_raw(sql).execute().await.unwrap();
    }

    /// The audit, told that the store must have all below `end`.
    pub(crate) async fn audit(&self, end: i64) -> Audit {
        let options = AuditOptions {
            claims: [(
                0,
                Claim {
                    low: 0,
                    stored: end,
                },
            )]
            .into(),
            ..AuditOptions::default()
        };
        self.store.audit(&options).await.unwrap()
    }
}

pub(crate) struct Sink {
    registry: Registry,
    stop: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), SinkError>>,
}

impl Sink {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap().unwrap();
    }

    /// The error with which it ends by itself, with all its causes.
    pub(crate) async fn failure(self) -> String {
        let failed = tokio::time::timeout(DEADLINE, self.run).await.unwrap();
        let error = failed.unwrap().unwrap_err();
        let mut text = String::new();
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            text.push_str(&format!("{error}: "));
            cause = error.source();
        }
        text
    }

    /// A counter or gauge, by the end of its name.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == format!("chatpulse_sink_{name}"))
            .unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }
}

/// Waits for a condition, with a deadline.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "it did not come true in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn raw(number: i64) -> RawEvent {
    RawEvent {
        tenant: "acme".into(),
        source: "watermelon".into(),
        write_key_id: "web".into(),
        received_at: START + number,
        context: Context::default(),
        body: RawBody::Native(NativePayload {
            json: "{}".into(),
            redactions: vec![],
        }),
        replay_of: None,
    }
}

/// An accepted message of conversation c1.
pub(crate) fn event(offset: i64) -> Event {
    Event {
        partition: 0,
        offset,
        outcome: Outcome::Accepted,
        reason: None,
        detail: None,
        rejected_bytes: None,
        rejected_sha256: None,
        tenant: "acme".into(),
        source: "watermelon".into(),
        write_key_id: "web".into(),
        source_event: "x".into(),
        event_type: EventType::MessageSent,
        actor: Actor::Visitor,
        documented: true,
        event_id: format!("e{offset}"),
        occurred_at: START + offset,
        time_basis: TimeBasis::Native,
        received_at: START + offset,
        conversation_id: Some("c1".into()),
        session_id: Some("s1".into()),
        sequence: Some(offset + 1),
        visitor: None,
        widget_id: None,
        platform: None,
        language: None,
        link: None,
        page_url: None,
        sdk: None,
        reported_total: None,
        score: None,
        score_kind: None,
        goal: None,
        properties: Default::default(),
        message_number: Some(offset + 1),
        phase: None,
        response_time_ms: None,
        message_gap: None,
        replay_of: None,
    }
}

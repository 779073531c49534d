//! One ClickHouse for all tests of this binary (libchdb has one data path per process), a database
//! per test, and events to put into it.

use std::path::Path;
use std::sync::OnceLock;

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_model::source::Catalog;
use chatpulse_model::{Actor, Event, EventType, Outcome, RejectReason, ScoreKind, TimeBasis};
use chatpulse_store::{Cohort, EventRow, MetricRow, Store, StoreConfig, Window};
use clickhouse::Client;
use clickhouse::sql::Identifier;

/// 2024-06-03 12:00:00 UTC, where the tests' conversations begin.
pub(crate) const START: i64 = 1_717_416_000_000;
pub(crate) const SECOND: i64 = 1_000;
pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const DAY: i64 = 24 * HOUR;

struct Shared {
    server: ClickHouse,
    _runtime: tokio::runtime::Runtime,
}

/// Where the engine of this process listens.
pub(crate) fn url() -> String {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store-clickhouse");
        let _ = std::fs::remove_dir_all(&data_dir);
        crate::bi::add_readers(&data_dir);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let server = runtime
                .block_on(ClickHouse::start(embedded(data_dir)))
                .unwrap();
            Shared {
                server,
                _runtime: runtime,
            }
        })
        .join()
        .unwrap()
    });
    shared.server.url()
}

pub(crate) fn embedded(data_dir: std::path::PathBuf) -> ClickHouseConfig {
    ClickHouseConfig {
        data_dir,
        listen: "127.0.0.1:0".parse().unwrap(),
        password: None,
        library: None,
        // Each table takes 5 MB for its deduplication window, and every test has its own tables.
        memory_limit_bytes: Some(4 << 30),
    }
}

pub(crate) fn config(database: &str) -> StoreConfig {
    StoreConfig {
        url: url(),
        database: database.to_owned(),
        ..StoreConfig::default()
    }
}

/// A bare client on the test's database, to look behind the store.
pub(crate) fn client(database: &str) -> Client {
    Client::default().with_url(url()).with_database(database)
}

pub(crate) async fn execute(client: &Client, sql: &str) {
    client.query_raw(sql).execute().await.unwrap();
}

pub(crate) async fn number(client: &Client, sql: &str) -> u64 {
    client.query_raw(sql).fetch_one().await.unwrap()
}

/// A migrated, otherwise empty database.
pub(crate) async fn store(database: &str) -> Store {
    let drop = Client::default().with_url(url());
    for database in [database, &format!("{database}_bi")] {
        drop.query("DROP DATABASE IF EXISTS ? SYNC")
            .bind(Identifier(database))
            .execute()
            .await
            .unwrap();
    }
    let store = Store::new(&config(database));
    store.migrate().await.unwrap();
    store.sync_sources(Catalog::builtin().iter()).await.unwrap();
    store
}

/// Lets source `full` be seen in every respect; no vendor is.
pub(crate) async fn sync_full(database: &str) {
    execute(
        &client(database),
        "INSERT INTO source_observes
         SELECT o.* REPLACE ('full' AS source, 1 AS resolve_or_positive_feedback, 1 AS csat, 1 AS nps, 1 AS surveys,
             1 AS goals, 1 AS contacts, [] AS partly, [] AS without_conversation,
             arrayConcat(o.event_types, ['survey.shown', 'feedback.shown']) AS event_types)
         FROM source_observes AS o FINAL WHERE o.source = 'watermelon'",
    )
    .await;
}

pub(crate) async fn insert(store: &Store, token: &str, events: &[Event]) {
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    store.insert_events(token, &rows).await.unwrap();
}

/// An accepted event with the least in it.
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
        event_type: EventType::Custom,
        actor: Actor::System,
        documented: true,
        event_id: format!("e{offset}"),
        occurred_at: START,
        time_basis: TimeBasis::Native,
        received_at: START,
        conversation_id: None,
        session_id: None,
        sequence: None,
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
        message_number: None,
        phase: None,
        response_time_ms: None,
        message_gap: None,
        replay_of: None,
    }
}

pub(crate) fn duplicate(offset: i64) -> Event {
    Event {
        outcome: Outcome::Duplicate,
        event_id: "e0".into(),
        ..event(offset)
    }
}

pub(crate) fn rejected(offset: i64) -> Event {
    Event {
        outcome: Outcome::Rejected,
        reason: Some(RejectReason::InvalidJson),
        detail: Some("no JSON at byte 3".into()),
        rejected_bytes: Some(17),
        rejected_sha256: Some("ab".repeat(32)),
        source_event: String::new(),
        event_type: EventType::Unknown,
        event_id: String::new(),
        ..event(offset)
    }
}

/// Writes conversations down, one thing after the other; offsets go on from call to call.
pub(crate) struct Script {
    pub(crate) source: &'static str,
    pub(crate) conversation: &'static str,
    pub(crate) events: Vec<Event>,
    messages: i64,
}

impl Script {
    pub(crate) fn new(source: &'static str) -> Script {
        Script {
            source,
            conversation: "c1",
            events: Vec::new(),
            messages: 0,
        }
    }

    pub(crate) fn conversation(&mut self, conversation: &'static str) -> &mut Script {
        self.conversation = conversation;
        self.messages = 0;
        self
    }

    /// An event so many milliseconds after [`START`].
    pub(crate) fn at(&mut self, ms: i64, event_type: EventType, actor: Actor) -> &mut Event {
        let offset = self.events.len() as i64;
        let message = event_type == EventType::MessageSent;
        self.messages += i64::from(message);
        self.events.push(Event {
            source: self.source.into(),
            source_event: event_type.as_str().into(),
            event_type,
            actor,
            occurred_at: START + ms,
            received_at: START + ms,
            conversation_id: Some(self.conversation.into()),
            message_number: message.then_some(self.messages),
            ..event(offset)
        });
        self.events.last_mut().unwrap()
    }

    pub(crate) fn visitor(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::MessageSent, Actor::Visitor)
    }

    pub(crate) fn bot(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::MessageSent, Actor::Bot)
    }

    pub(crate) fn agent(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::MessageSent, Actor::Agent)
    }

    pub(crate) fn request(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::HandoffRequested, Actor::Visitor)
    }

    pub(crate) fn join(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::AgentJoined, Actor::Agent)
    }

    pub(crate) fn leave(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::AgentLeft, Actor::Agent)
    }

    pub(crate) fn back_to_bot(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::BotResumed, Actor::System)
    }

    pub(crate) fn close(&mut self, ms: i64) -> &mut Event {
        self.at(ms, EventType::ConversationEnded, Actor::System)
    }

    pub(crate) fn score(&mut self, kind: ScoreKind, score: f64) -> &mut Event {
        let event = self.at(0, EventType::FeedbackSubmitted, Actor::Visitor);
        event.score = Some(score);
        event.score_kind = Some(kind);
        event
    }
}

/// The metrics of tenant acme over all time, judged so many milliseconds after [`START`].
pub(crate) async fn metrics(store: &Store, as_of_ms: i64) -> Metrics {
    let cohort = Cohort {
        tenant: "acme",
        started: Window {
            since_ms: 0,
            until_ms: START + 1_000 * DAY,
        },
        as_of_ms: START + as_of_ms,
        conversation_prefix: "",
    };
    Metrics(store.metrics(&cohort).await.unwrap())
}

pub(crate) struct Metrics(pub(crate) Vec<MetricRow>);

impl Metrics {
    pub(crate) fn get(&self, source: &str, metric: &str) -> &MetricRow {
        let found = self
            .0
            .iter()
            .find(|row| row.source.as_deref() == Some(source) && row.metric == metric);
        found.unwrap_or_else(|| panic!("no metric {metric} of {source}"))
    }

    /// Numerator and denominator.
    pub(crate) fn fraction(&self, source: &str, metric: &str) -> (Option<i64>, Option<i64>) {
        let row = self.get(source, metric);
        (row.numerator, row.denominator)
    }

    /// How many durations and their median.
    pub(crate) fn duration(&self, source: &str, metric: &str) -> (u64, Option<f64>) {
        let row = self.get(source, metric);
        (row.n, row.median_ms)
    }
}

//! A site to look at: one ClickHouse for all tests of this binary, a database and a server per test.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_model::source::Catalog;
use chatpulse_model::{Delivery, delivery::DestinationState};
use chatpulse_reports::{
    Access, AccessConfig, PartitionLag, ReadToken, ReadTokens, Reports, StageLag, router,
};
use chatpulse_store::{DeliveryRow, DestinationRow, Store, StoreConfig};
use clickhouse::Client;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::fixture::{self, Row};

const OPERATOR: &str = "an-operator-token-of-good-length";
/// A read token of the tenant blumenhaus.
pub(crate) const BLUMENHAUS: &str = "cpr_blumenhaus";

/// Who reads the pages.
#[derive(Clone, Copy, PartialEq)]
enum Readers {
    /// Whoever is on this machine, as the operator.
    Here,
    /// Who has signed in.
    SignedIn,
}

fn clickhouse() -> String {
    static SHARED: OnceLock<(ClickHouse, tokio::runtime::Runtime)> = OnceLock::new();
    let (server, _) = SHARED.get_or_init(|| {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser-clickhouse");
        let _ = std::fs::remove_dir_all(&data_dir);
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let config = ClickHouseConfig {
                data_dir,
                listen: "127.0.0.1:0".parse().unwrap(),
                password: None,
                library: None,
                memory_limit_bytes: None,
            };
            (
                runtime.block_on(ClickHouse::start(config)).unwrap(),
                runtime,
            )
        })
        .join()
        .unwrap()
    });
    server.url()
}

/// A served site. Ends with the value.
pub(crate) struct Site {
    pub(crate) url: String,
    pub(crate) reports: Reports,
    router: axum::Router,
    store: Store,
    client: Client,
    _lag: watch::Sender<Vec<StageLag>>,
    tokens: watch::Sender<Arc<ReadTokens>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Site {
    /// Over a new database of this name, empty but for its tables.
    pub(crate) async fn empty(database: &str) -> Site {
        Site::new(database, Readers::Here).await
    }

    async fn new(database: &str, readers: Readers) -> Site {
        let config = StoreConfig {
            url: clickhouse(),
            database: database.to_owned(),
            ..StoreConfig::default()
        };
        let store = Store::new(&config);
        store.migrate().await.unwrap();
        store.sync_sources(Catalog::builtin().iter()).await.unwrap();
        let client = Client::default()
            .with_url(&config.url)
            .with_database(database);
        Site::over(store, client, readers).await
    }

    /// Over a ClickHouse that does not answer.
    pub(crate) async fn without_store() -> Site {
        let config = StoreConfig {
            url: "http://127.0.0.1:9".into(),
            ..StoreConfig::default()
        };
        Site::over(Store::new(&config), Client::default(), Readers::Here).await
    }

    async fn over(store: Store, client: Client, readers: Readers) -> Site {
        let (lag, watched) = watch::channel(lag());
        let token = ReadToken {
            tenant: "blumenhaus".into(),
            sha256: Sha256::digest(BLUMENHAUS).into(),
            revoked: false,
        };
        let (tokens, known) = watch::channel(Arc::new([token].into_iter().collect()));
        let access = Access::new(AccessConfig {
            tokens: known,
            operator_token: Some(OPERATOR.to_owned()),
            loopback: readers == Readers::Here,
            requests_per_second: NonZeroU32::new(1_000).unwrap(),
        });
        let reports = Reports::new(store.clone(), Catalog::builtin()).with_lag(watched);
        let router = router(reports.clone(), access.unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = router.clone();
        let server = tokio::spawn(async move { axum::serve(listener, served).await.unwrap() });
        Site {
            url,
            reports,
            router,
            store,
            client,
            _lag: lag,
            tokens,
            server,
        }
    }

    /// With a day of traffic before `now`.
    pub(crate) async fn with_traffic(database: &str) -> Site {
        let site = Site::empty(database).await;
        let now = Timestamp::now().as_millisecond();
        let rows = fixture::traffic(now);
        // Of what was before its first run, the job looks at no twins.
        site.store.roll_up(now - 86_400_000).await.unwrap();
        site.deliver(
            &fixture::destinations(now),
            &fixture::deliveries(&rows, now),
        )
        .await;
        site.add(&rows).await;
        site
    }

    /// Stores deliveries; [`Site::add`] rolls them up.
    async fn deliver(&self, said: &[(i64, DestinationState)], turns: &[Delivery]) {
        let rows: Vec<_> = (0..)
            .zip(said)
            .map(|(offset, (at, state))| DestinationRow::new((offset, *at), state))
            .collect();
        self.store.insert_destinations(&rows).await.unwrap();
        let rows: Vec<_> = (0..)
            .zip(turns)
            .map(|(offset, turn)| DeliveryRow::new((0, offset), turn))
            .collect();
        self.store.insert_deliveries(&rows).await.unwrap();
    }

    /// The same for those who have signed in only.
    pub(crate) async fn to_sign_in(database: &str) -> Site {
        let site = Site::new(database, Readers::SignedIn).await;
        site.add(&fixture::traffic(Timestamp::now().as_millisecond()))
            .await;
        site
    }

    /// Takes every read token back, and with them the sessions.
    pub(crate) fn forget_tokens(&self) {
        self.tokens.send_replace(Arc::default());
    }

    /// Stores rows, as queryable from the time that each of them names, and rolls them up.
    pub(crate) async fn add(&self, rows: &[Row]) {
        let mut insert = self
            .client
            .insert_formatted_with("INSERT INTO events FORMAT JSONEachRow");
        for chunk in rows.chunks(2_000) {
            let lines: String = chunk.iter().map(|row| row.to_json() + "\n").collect();
            insert.send(lines.into()).await.unwrap();
        }
        insert.end().await.unwrap();
        let now = Timestamp::now().as_millisecond();
        self.store.roll_up(now).await.unwrap();
    }

    /// What the API answers.
    pub(crate) async fn api(&self, path: &str) -> Value {
        let request = axum::http::Request::get(path)
            .header("authorization", format!("Bearer {OPERATOR}"))
            .body(axum::body::Body::empty())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }
}

fn lag() -> Vec<StageLag> {
    let stage = |stage: &str, topic: &str, records: [u64; 4]| StageLag {
        stage: stage.into(),
        topic: topic.into(),
        as_of: Timestamp::now(),
        partitions: (0..)
            .zip(records)
            .map(|(partition, records)| PartitionLag {
                partition,
                records,
                still_seconds: (records > 400).then_some(95),
            })
            .collect(),
    };
    vec![
        stage("enricher", "chat.raw", [3, 0, 12, 1]),
        stage("sink", "chat.events", [41, 38, 412, 29]),
    ]
}

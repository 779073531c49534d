//! The embedded ClickHouse, spoken to over its socket by the clients it is made for.
//!
//! libchdb has one data path per process, so the tests of this binary share one instance; each has
//! a database of its own name.

use std::path::Path;
use std::sync::OnceLock;

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

struct Shared {
    server: ClickHouse,
    _runtime: tokio::runtime::Runtime,
}

/// The instance of this process; its runtime outlives that of each test.
fn server() -> &'static ClickHouse {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embedded-clickhouse");
        let _ = std::fs::remove_dir_all(&data_dir);
        let config = config(data_dir);
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let server = runtime.block_on(ClickHouse::start(config)).unwrap();
            Shared {
                server,
                _runtime: runtime,
            }
        })
        .join()
        .unwrap()
    });
    &shared.server
}

fn config(data_dir: std::path::PathBuf) -> ClickHouseConfig {
    ClickHouseConfig {
        data_dir,
        listen: "127.0.0.1:0".parse().unwrap(),
        password: None,
        library: None,
        memory_limit_bytes: None,
    }
}

/// A client whose database is empty and named after the test.
async fn client(database: &str) -> Client {
    let client = Client::default().with_url(server().url());
    for sql in ["DROP DATABASE IF EXISTS ? SYNC", "CREATE DATABASE ?"] {
        client
            .query(sql)
            .bind(clickhouse::sql::Identifier(database))
            .execute()
            .await
            .unwrap();
    }
    client.with_database(database)
}

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Message {
    id: u64,
    tenant: String,
    score: Option<f64>,
    tags: Vec<String>,
}

fn messages(count: u64) -> Vec<Message> {
    let message = |id| Message {
        id,
        tenant: format!("tenant {}", id % 3),
        score: id.is_multiple_of(2).then_some(id as f64 / 2.0),
        tags: vec![format!("{id}"); (id % 3) as usize],
    };
    (0..count).map(message).collect()
}

const MESSAGES: &str = "CREATE TABLE messages (id UInt64, tenant String, score Nullable(Float64), \
                        tags Array(String)) ENGINE = MergeTree ORDER BY id";

#[tokio::test]
async fn the_clickhouse_crate_writes_and_reads_rows_with_validation_on() {
    let plain = client("crate_rows").await;
    plain.query(MESSAGES).execute().await.unwrap();
    for compression in [Compression::None, Compression::Lz4] {
        let client = plain.clone().with_compression(compression);
        client
            .query("TRUNCATE TABLE messages")
            .execute()
            .await
            .unwrap();
        let rows = messages(20_000);
        let mut insert = client.insert::<Message>("messages").await.unwrap();
        for row in &rows {
            insert.write(row).await.unwrap();
        }
        insert.end().await.unwrap();
        let read: Vec<Message> = client
            .query("SELECT ?fields FROM messages ORDER BY id")
            .fetch_all()
            .await
            .unwrap();
        assert_eq!(read, rows, "{compression:?}");
    }
}

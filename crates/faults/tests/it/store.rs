//! `Store::insert_events` behind a proxy that fails: every fault, retried with the same token.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use chatpulse_faults::proxy::http::{Fault, Form, StoreProxy};
use chatpulse_faults::proxy::tcp::{Mode, TcpProxy};
use chatpulse_model::{Actor, Event, EventType, Outcome};
use chatpulse_store::{Disposition, EventRow, Store, StoreConfig, StoreError};
use clickhouse::Client;

/// Rows of a block; their body is several chunks of the client, so that a half is a true half.
const ROWS: i64 = 2_000;

struct Shared {
    server: ClickHouse,
    _runtime: tokio::runtime::Runtime,
}

/// One engine for all tests of this process; libchdb has one data path per process.
fn clickhouse() -> SocketAddr {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let data_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults-clickhouse");
        let _ = std::fs::remove_dir_all(&data_dir);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let config = ClickHouseConfig {
                data_dir,
                listen: any(),
                password: None,
                library: None,
                memory_limit_bytes: None,
            };
            let server = runtime.block_on(ClickHouse::start(config)).unwrap();
            Shared {
                server,
                _runtime: runtime,
            }
        })
        .join()
        .unwrap()
    });
    shared.server.addr()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn config(address: SocketAddr, database: &str) -> StoreConfig {
    StoreConfig {
        url: format!("http://{address}"),
        database: database.to_owned(),
        insert_timeout: Duration::from_secs(2),
        query_timeout: Duration::from_secs(10),
        ..StoreConfig::default()
    }
}

/// A migrated, empty database, seen past the proxy.
async fn database(name: &str) -> Client {
    let store = Store::new(&config(clickhouse(), name));
    store.migrate().await.unwrap();
    Client::default()
        .with_url(format!("http://{}", clickhouse()))
        .with_database(name)
}

/// Accepted messages, duplicates and rejections at the raw offsets from `first`.
fn block(first: i64) -> Vec<Event> {
    let goldens = include_str!("../../../../schemas/avro/event.v2.golden.json");
    let goldens: Vec<serde_json::Value> = serde_json::from_str(goldens).unwrap();
    let of = |index: usize| -> Event {
        serde_json::from_value(goldens[index]["record"].clone()).unwrap()
    };
    let (accepted, rejected) = (of(0), of(1));
    assert_eq!(accepted.outcome, Outcome::Accepted);
    assert_eq!(rejected.outcome, Outcome::Rejected);
    (first..first + ROWS)
        .map(|offset| {
            let made = match offset % 10 {
                9 => rejected.clone(),
                8 => Event {
                    outcome: Outcome::Duplicate,
                    ..accepted.clone()
                },
                _ => Event {
                    event_type: EventType::MessageSent,
                    actor: Actor::Visitor,
                    event_id: format!("e{offset}"),
                    conversation_id: Some(format!("c{}", offset % 97)),
                    ..accepted.clone()
                },
            };
            Event {
                partition: 0,
                offset,
                replay_of: None,
                session_id: Some(format!("s{}", offset % 89)),
                sequence: Some(offset),
                occurred_at: accepted.occurred_at + offset,
                received_at: accepted.occurred_at + offset,
                ..made
            }
        })
        .collect()
}

async fn insert(store: &Store, token: &str, events: &[Event]) -> Result<(), StoreError> {
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    store.insert_events(token, &rows).await.map(drop)
}

/// What the table and every target of a view hold, so that a row too few or too many shows.
async fn state(client: &Client) -> Vec<(&'static str, u64)> {
    let mut state = Vec::new();
    for sql in [
        "SELECT count() FROM events",
        "SELECT uniqExact(partition, offset) FROM events",
        "SELECT sum(received) FROM event_health",
        "SELECT sum(accepted) FROM event_health",
        "SELECT sum(duplicate) FROM event_health",
        "SELECT sum(rejected) FROM event_health",
        "SELECT count() FROM rejections",
        "SELECT sum(arrived) FROM sessions",
        "SELECT sum(length(m)) FROM (SELECT groupUniqArrayArray(messages) AS m
         FROM conversation_facts GROUP BY tenant, source, conversation_id)",
    ] {
        state.push((sql, client.query_raw(sql).fetch_one().await.unwrap()));
    }
    state
}

/// The state after so many blocks that met no fault, by arithmetic for what arithmetic can say.
async fn assert_each_row_once(client: &Client, name: &str, blocks: i64) {
    let smooth = database(&format!("{name}_smooth")).await;
    let store = Store::new(&config(clickhouse(), &format!("{name}_smooth")));
    for index in 0..blocks {
        insert(&store, &format!("t{index}"), &block(index * ROWS))
            .await
            .unwrap();
    }
    let expected = state(&smooth).await;
    let rows = u64::try_from(blocks * ROWS).unwrap();
    assert_eq!(expected[0].1, rows);
    assert_eq!(expected[2].1, rows);
    assert_eq!(state(client).await, expected);
}

async fn assert_retried_to_one_of_each(name: &str, faults: &[Fault]) {
    let client = database(name).await;
    let proxy = StoreProxy::start(any(), clickhouse()).await.unwrap();
    let store = Store::new(&config(proxy.address(), name));
    for (index, fault) in faults.iter().enumerate() {
        let rows = block(i64::try_from(index).unwrap() * ROWS);
        let token = format!("t{index}");
        proxy.fail_next(fault.clone(), 2);
        for _ in 0..2 {
            match insert(&store, &token, &rows).await {
                Ok(()) => panic!("{fault:?} was taken for a success"),
                Err(error) => assert_eq!(
                    error.disposition(),
                    Disposition::Retry,
                    "{fault:?}: {error:?}"
                ),
            }
        }
        insert(&store, &token, &rows).await.unwrap();
        assert_eq!(proxy.faults_made(), 2 * (index as u64 + 1), "{fault:?}");
    }
    let blocks = i64::try_from(faults.len()).unwrap();
    assert_each_row_once(&client, name, blocks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_breaks_anywhere_and_is_retried_is_there_once() {
    assert_retried_to_one_of_each(
        "faults_broken",
        &[Fault::BeforeBody, Fault::MidBody, Fault::AfterCommit],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_200_with_an_exception_is_no_success_in_any_form() {
    let faults: Vec<Fault> = Form::ALL
        .iter()
        .flat_map(|form| {
            [
                Fault::ExceptionInBody(*form),
                Fault::ExceptionWithoutForwarding(*form),
            ]
        })
        .collect();
    assert_retried_to_one_of_each("faults_exception", &faults).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_for_now_is_asked_again() {
    let refusal = |status, code, message: &str| Fault::Status {
        status,
        code,
        message: message.into(),
    };
    assert_retried_to_one_of_each(
        "faults_refused",
        &[
            refusal(500, 252, "Too many parts (300). (TOO_MANY_PARTS)"),
            refusal(500, 243, "Cannot reserve 1.00 MiB. (NOT_ENOUGH_SPACE)"),
            refusal(
                500,
                164,
                "Cannot execute query in readonly mode. (READONLY)",
            ),
            refusal(500, 242, "Table is in readonly mode. (TABLE_IS_READ_ONLY)"),
            refusal(500, 241, "Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)"),
            refusal(
                503,
                202,
                "Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)",
            ),
            refusal(
                500,
                319,
                "Unknown status of insert. (UNKNOWN_STATUS_OF_INSERT)",
            ),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_or_drips_is_given_up_and_asked_again() {
    assert_retried_to_one_of_each("faults_slow", &[Fault::Hang, Fault::DripAnswer]).await;
}

/// The code decides, not the status: this content is refused for ever, and retrying would block
/// the partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_row_is_poison_however_the_refusal_comes() {
    let client = database("faults_poison").await;
    let proxy = StoreProxy::start(any(), clickhouse()).await.unwrap();
    let store = Store::new(&config(proxy.address(), "faults_poison"));
    let rows = block(0);
    for status in [200, 400, 500] {
        let fault = Fault::Status {
            status,
            code: 469,
            message: "Constraint `x` is violated at row 3. (VIOLATED_CONSTRAINT)".into(),
        };
        proxy.fail_next(fault, 1);
        let error = insert(&store, "t0", &rows).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Poison, "{error:?}");
    }
    insert(&store, "t0", &rows).await.unwrap();
    assert_each_row_once(&client, "faults_poison", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_breaks_between_store_and_server_loses_and_doubles_nothing() {
    let client = database("faults_network").await;
    let proxy = TcpProxy::start(any(), clickhouse()).await.unwrap();
    let store = Store::new(&config(proxy.address(), "faults_network"));
    let modes = [
        Mode::Cut,
        Mode::Blackhole,
        Mode::OneWay { to_server: true },
        Mode::OneWay { to_server: false },
        Mode::HalfClose,
        Mode::Drip {
            bytes_per_second: 2_000,
        },
    ];
    for (index, mode) in modes.into_iter().enumerate() {
        let rows = block(i64::try_from(index).unwrap() * ROWS);
        let token = format!("t{index}");
        proxy.set(mode);
        let error = insert(&store, &token, &rows).await.expect_err("a break");
        assert_eq!(
            error.disposition(),
            Disposition::Retry,
            "{mode:?}: {error:?}"
        );
        proxy.set(Mode::Delay(Duration::from_millis(1)));
        insert(&store, &token, &rows).await.unwrap();
    }
    assert_each_row_once(&client, "faults_network", 6).await;
}

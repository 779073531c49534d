//! The embedded ClickHouse, spoken to over its socket by the clients it is made for.
//!
//! libchdb has one data path per process, so the tests of this binary share one instance; each has
//! a database of its own name. What needs a process of its own (restarts, kill -9, a password) runs
//! `examples/clickhouse.rs`.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};
use clickhouse::sql::Identifier;
use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Shared {
    server: ClickHouse,
    _runtime: tokio::runtime::Runtime,
}

/// The instance of this process; its runtime outlives that of each test.
fn server() -> &'static ClickHouse {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let config = config(empty_dir("clickhouse-shared"));
        let started = std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let server = runtime.block_on(ClickHouse::start(config)).unwrap();
            Shared {
                server,
                _runtime: runtime,
            }
        });
        started.join().unwrap()
    });
    &shared.server
}

fn config(data_dir: PathBuf) -> ClickHouseConfig {
    ClickHouseConfig {
        data_dir,
        listen: "127.0.0.1:0".parse().unwrap(),
        password: None,
        library: None,
        memory_limit_bytes: None,
    }
}

fn empty_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// A client whose database is empty and named after the test.
async fn client(database: &str) -> Client {
    let client = Client::default().with_url(server().url());
    for sql in ["DROP DATABASE IF EXISTS ? SYNC", "CREATE DATABASE ?"] {
        client
            .query(sql)
            .bind(Identifier(database))
            .execute()
            .await
            .unwrap();
    }
    client.with_database(database)
}

async fn execute(client: &Client, sql: &str) {
    client
        .query(sql)
        .execute()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn number(client: &Client, sql: &str) -> u64 {
    client
        .query(sql)
        .fetch_one()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Waits for a condition that becomes true by itself.
async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One answer of plain HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// By lower-case name.
    headers: HashMap<String, String>,
    body: Vec<u8>,
    /// The body came to its proper end.
    whole: bool,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn parse(raw: &[u8]) -> Self {
        let end = raw
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("an answer");
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HashMap<_, _> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let rest = &raw[end + 4..];
        let (body, whole) = if headers.contains_key("transfer-encoding") {
            Self::chunks(rest)
        } else {
            let length: usize = headers["content-length"].parse().unwrap();
            (rest.to_vec(), rest.len() == length)
        };
        Self {
            status,
            headers,
            body,
            whole,
        }
    }

    fn chunks(mut rest: &[u8]) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
            let size = std::str::from_utf8(&rest[..end]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                return (body, true);
            }
            let data = &rest[end + 2..];
            body.extend_from_slice(&data[..size.min(data.len())]);
            rest = data.get(size + 2..).unwrap_or_default();
        }
        (body, false)
    }
}

/// Sends a request as it stands, and reads until the server closes.
async fn raw(addr: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    Answer::parse(&answer)
}

async fn post(uri: &str, headers: &[&str], body: &[u8]) -> Answer {
    post_to(server().addr(), uri, headers, body).await
}

async fn post_to(addr: SocketAddr, uri: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut request = format!("POST {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for header in headers {
        request += &format!("{header}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n", body.len());
    raw(addr, &[request.as_bytes(), body].concat()).await
}

async fn get(uri: &str) -> Answer {
    let request = format!("GET {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    raw(server().addr(), request.as_bytes()).await
}

// ---- the clickhouse crate ------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Message {
    id: u64,
    tenant: String,
    score: Option<f64>,
    tags: Vec<String>,
}

fn messages(count: u64) -> Vec<Message> {
    let message = |id: u64| Message {
        id,
        tenant: format!("tenant {}", id % 3),
        score: id.is_multiple_of(2).then_some(id as f64 / 2.0),
        tags: vec![format!("{id}"); (id % 3) as usize],
    };
    (0..count).map(message).collect()
}

const MESSAGES: &str = "CREATE TABLE messages (id UInt64, tenant String, score Nullable(Float64), \
                        tags Array(String)) ENGINE = MergeTree ORDER BY id";

/// Beyond the server's limit the engine ends the process (tried: heavy queries on a limit of 700 MiB, in seconds).
#[tokio::test]
async fn statements_may_take_half_of_the_memory() {
    let client = client("memory").await;
    let sql =
        "SELECT toUInt64(value) FROM system.settings WHERE name = 'max_memory_usage_for_user'";
    assert_eq!(number(&client, sql).await, 640 << 20);
}

#[tokio::test]
async fn the_clickhouse_crate_writes_and_reads_rows_with_validation_on() {
    let plain = client("crate_rows").await;
    execute(&plain, MESSAGES).await;
    // More than one block comes back, so the names and types are cut off all but the first.
    let rows = messages(150_000);
    for compression in [Compression::None, Compression::Lz4] {
        let client = plain.clone().with_compression(compression);
        execute(&client, "TRUNCATE TABLE messages").await;
        let mut insert = client.insert::<Message>("messages").await.unwrap();
        for row in &rows {
            insert.write(row).await.unwrap();
        }
        insert.end().await.unwrap();
        let read = client.query("SELECT ?fields FROM messages ORDER BY id");
        let read: Vec<Message> = read.fetch_all().await.unwrap();
        assert!(read == rows, "{compression:?}: {} rows", read.len());
    }
}

#[tokio::test]
async fn the_clickhouse_crate_binds_parameters_on_the_server() {
    let client = client("crate_params").await;
    let text = "it's a \t tab, \\ and ü";
    #[derive(Debug, PartialEq, Row, Deserialize)]
    struct Bound {
        text: String,
        number: u32,
        list: Vec<u8>,
    }
    let read: Bound = client
        .query("SELECT {text: String} AS text, {number: UInt32} AS number, {list: Array(UInt8)} AS list")
        .param("text", text)
        .param("number", 7)
        .param("list", vec![1u8, 2])
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(
        read,
        Bound {
            text: text.to_owned(),
            number: 7,
            list: vec![1, 2]
        }
    );
}

#[tokio::test]
async fn the_clickhouse_crate_sees_the_engines_errors() {
    let client = client("crate_errors").await;
    for compression in [Compression::None, Compression::Lz4] {
        let client = client.clone().with_compression(compression);
        let error = client
            .query("SELECT * FROM nowhere")
            .execute()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("Code: 60."), "{error}");
        // An error after the answer has begun.
        let sql = "SELECT throwIf(number = 900000, 'late') FROM numbers(1000000)";
        let late = client.query(sql).with_setting("max_block_size", "10000");
        let error = late.fetch_all::<u8>().await.unwrap_err();
        assert!(
            error.to_string().contains("Code: 395. DB::Exception: late"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_settings_and_a_database_end_with_their_request() {
    let client = client("crate_isolation").await;
    execute(&client, "CREATE TABLE here (a UInt8) ENGINE = Memory").await;
    let requests = (1..=32u64).map(|threads| {
        let client = client.clone();
        async move {
            let sql = "SELECT toUInt64(getSetting('max_threads'))";
            let set = client
                .clone()
                .with_setting("max_threads", threads.to_string());
            assert_eq!(number(&set, sql).await, threads);
            let other = client.with_database("default");
            let error = other
                .query("SELECT * FROM here")
                .execute()
                .await
                .unwrap_err();
            assert!(error.to_string().contains("Code: 60."), "{error}");
        }
    });
    futures::future::join_all(requests).await;
    let sql = "SELECT toUInt64(currentDatabase() = 'crate_isolation')";
    assert_eq!(number(&client, sql).await, 1);
}

#[tokio::test]
async fn a_statement_leaves_nothing_to_the_next_that_wants_the_same_session() {
    let client = client("crate_kept").await;
    execute(&client, "CREATE TABLE t (a UInt8) ENGINE = Memory").await;
    // One after the other: each is offered the session of the one before.
    let seen = "SELECT concat(getSetting('max_threads')::String, ' ', getSetting('max_block_size')::String, ' ',
                currentDatabase())";
    let uri = "/?database=crate_kept&max_threads=3";
    let whole = &format!("{uri}&wait_end_of_query=1");
    let before = post(uri, &[], seen.as_bytes()).await.text();
    for sql in [
        "SELECT 1 SETTINGS max_threads = 7, max_block_size = 9",
        "SELECT number FROM numbers(100) SETTINGS max_threads = 7, max_block_size = 9",
        "SELECT 1 SETTINGS max_threads = 7, max_block_size = 9 FORMAT JSON",
        "SELECT 1 AS a GROUP BY a WITH TOTALS SETTINGS max_threads = 7, max_block_size = 9",
        "INSERT INTO t SETTINGS max_threads = 7, max_block_size = 9 VALUES (1)",
        "INSERT INTO t SELECT 1 SETTINGS max_threads = 7, max_block_size = 9",
        "SELECT throwIf(1) SETTINGS max_threads = 7, max_block_size = 9",
        "SELECT throwIf(number = 90000) FROM numbers(100000) SETTINGS max_threads = 7, max_block_size = 9",
        "SET max_threads = 7, max_block_size = 9",
        "USE default",
        "CREATE TEMPORARY TABLE passing (a UInt8)",
    ] {
        for uri in [uri, whole] {
            post(uri, &[], sql.as_bytes()).await;
            let after = post(uri, &[], seen.as_bytes()).await.text();
            assert_eq!(after, before, "{sql}");
        }
    }
    let passing = post(whole, &[], b"SELECT * FROM passing").await;
    assert_eq!(passing.status, 404, "{}", passing.text());
    let bound = format!("{uri}&param_a=1");
    let one = post(&bound, &[], b"SELECT {a:UInt8}").await;
    assert_eq!(one.text(), "1\n");
    let none = post(uri, &[], b"SELECT {a:UInt8}").await;
    assert!(none.text().starts_with("Code: 456."), "{}", none.text());
    let session = || async {
        let answer = post(whole, &[], b"SELECT getSetting('log_comment')").await;
        answer.text()
    };
    let first = session().await;
    assert_eq!(session().await, first, "it is the same session");
    post(whole, &[], b"SET max_threads = 7").await;
    assert_ne!(session().await, first, "it is another session");
}

// ---- plain HTTP ----------------------------------------------------------------------------

#[tokio::test]
async fn an_answer_has_clickhouses_headers() {
    let answer = post(
        "/?query_id=q-1",
        &[],
        b"SELECT number FROM numbers(3) FORMAT CSV",
    )
    .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "0\n1\n2\n"));
    assert_eq!(answer.headers["x-clickhouse-query-id"], "q-1");
    assert_eq!(answer.headers["x-clickhouse-format"], "CSV");
    assert_eq!(
        answer.headers["content-type"],
        "text/csv; charset=UTF-8; header=absent"
    );
    assert!(
        answer
            .headers
            .contains_key("x-clickhouse-server-display-name")
    );
    assert!(answer.headers.contains_key("x-clickhouse-timezone"));
    let summary = &answer.headers["x-clickhouse-summary"];
    assert!(summary.contains("\"read_rows\":\"3\""), "{summary}");
    assert!(summary.contains("\"result_rows\":\"3\""), "{summary}");

    client("headers").await;
    post(
        "/?database=headers",
        &[],
        b"CREATE TABLE t (a UInt8) ENGINE = Memory",
    )
    .await;
    let answer = post("/?database=headers", &[], b"INSERT INTO t VALUES (1), (2)").await;
    let summary = &answer.headers["x-clickhouse-summary"];
    assert!(summary.contains("\"written_rows\":\"2\""), "{summary}");
    assert_eq!(
        (get("/ping").await.text().as_str(), get("/").await.status),
        ("Ok.\n", 200)
    );
}

#[tokio::test]
async fn an_exception_has_clickhouses_status_code_and_text() {
    client("statuses").await;
    let cases: [(&str, &str, u16, u32); 12] = [
        ("/", "SELEC 1", 400, 62),
        ("/", "", 400, 62),
        ("/", "SELECT 1; SELECT 2", 400, 62),
        ("/", "DROP TABLE a; DROP TABLE b", 400, 62),
        ("/", "SELECT * FROM nowhere", 404, 60),
        ("/?database=nowhere", "SELECT 1", 404, 81),
        ("/?no_such_setting=1", "SELECT 1", 404, 115),
        ("/", "SELECT 1 FORMAT NoSuchFormat", 404, 73),
        (
            "/?max_execution_time=0.1",
            "SELECT sleepEachRow(0.2) FROM numbers(9) SETTINGS max_block_size = 1",
            408,
            159,
        ),
        ("/", "SELECT throwIf(1)", 500, 395),
        ("/", "SELECT 1 INTO OUTFILE '/x'", 501, 48),
        ("/?role=admin", "SELECT 1", 404, 511),
    ];
    for (uri, sql, status, code) in cases {
        let answer = post(uri, &[], sql.as_bytes()).await;
        assert_eq!(answer.status, status, "{sql}: {}", answer.text());
        assert_eq!(
            answer.headers["x-clickhouse-exception-code"],
            code.to_string(),
            "{sql}"
        );
        assert!(
            answer
                .text()
                .starts_with(&format!("Code: {code}. DB::Exception: ")),
            "{sql}"
        );
        assert!(
            answer.text().ends_with(")\n") && answer.text().contains("(version "),
            "{sql}"
        );
    }
    let answer = get("/?query=CREATE+TABLE+statuses.t+(a+Int8)+ENGINE=Memory").await;
    assert_eq!(
        (
            answer.status,
            answer.headers["x-clickhouse-exception-code"].as_str()
        ),
        (500, "164")
    );
    let answer = get("/?query=INSERT+INTO+t+VALUES+(1)").await;
    assert_eq!(answer.headers["x-clickhouse-exception-code"], "164");
    assert_eq!(get("/?query=SELECT+1&max_threads=1").await.text(), "1\n");
    assert_eq!(get("/nowhere").await.status, 404);
}

#[tokio::test]
async fn an_exception_in_mid_stream_breaks_the_answer_off() {
    let sql = "SELECT throwIf(number = 900000) FROM numbers(1000000)";
    let answer = post("/?max_block_size=10000", &[], sql.as_bytes()).await;
    assert_eq!((answer.status, answer.whole), (200, false));
    let tag = &answer.headers["x-clickhouse-exception-tag"];
    let end = format!(" {tag}\r\n__exception__\r\n");
    let text = answer.text();
    assert!(
        text.starts_with("0\n0\n") && text.ends_with(&end),
        "{}",
        &text[text.len() - 300..]
    );
    assert!(text.contains(&format!(
        "\r\n__exception__\r\n{tag}\r\nCode: 395. DB::Exception: "
    )));
    // Collected first, the same error has a status.
    let answer = post("/?wait_end_of_query=1", &[], sql.as_bytes()).await;
    assert_eq!((answer.status, answer.whole), (500, true));
}

#[tokio::test]
async fn every_format_is_one_document_however_many_blocks_it_has() {
    let sql = |format| {
        format!("SELECT number AS n, toString(number) AS s FROM numbers(200000) FORMAT {format}")
    };
    for format in [
        "TabSeparatedWithNames",
        "TabSeparatedWithNamesAndTypes",
        "CSVWithNames",
        "JSONEachRow",
        "JSONCompactEachRowWithNames",
        "JSONCompactEachRowWithNamesAndTypes",
        "RowBinary",
        "Native",
        "RowBinaryWithNames",
        "RowBinaryWithNamesAndTypes",
        "ArrowStream",
        "Parquet",
        "Values",
        "JSONColumns",
        "Pretty",
    ] {
        let streamed = post("/", &[], sql(format).as_bytes()).await;
        let collected = post("/?wait_end_of_query=1", &[], sql(format).as_bytes()).await;
        assert_eq!((streamed.status, collected.status), (200, 200), "{format}");
        assert!(streamed.whole && streamed.body.len() > 1000, "{format}");
        assert!(streamed.body == collected.body, "{format}");
    }
    let totals =
        "SELECT number % 2 AS k, count() FROM numbers(100) GROUP BY k WITH TOTALS ORDER BY k";
    assert_eq!(
        post("/", &[], totals.as_bytes()).await.text(),
        "0\t50\n1\t50\n\n0\t100\n"
    );
    let array = "SELECT number FROM numbers(200000)";
    let uri = "/?default_format=JSONEachRow&output_format_json_array_of_rows=1";
    let array = post(uri, &[], array.as_bytes()).await.text();
    assert_eq!(
        (array.matches('[').count(), array.matches(']').count()),
        (1, 1)
    );
}

#[tokio::test]
async fn requests_and_answers_are_compressed_as_http_and_as_clickhouse_do_it() {
    use std::io::Read as _;
    let client = client("compressed").await;
    execute(&client, "CREATE TABLE t (a UInt64) ENGINE = Memory").await;
    let rows = "1\n2\n3\n".repeat(1000);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(rows.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(rows.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(rows.as_bytes(), 1).unwrap();
    let lz4 = {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(rows.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let insert = "/?database=compressed&query=INSERT+INTO+t+FORMAT+TSV";
    let bodies = [
        ("gzip", gzip),
        ("deflate", deflate),
        ("zstd", zstd),
        ("lz4", lz4),
    ];
    for (encoding, body) in &bodies {
        let header = format!("Content-Encoding: {encoding}");
        let answer = post(insert, &[&header], body).await;
        assert_eq!(answer.status, 200, "{encoding}: {}", answer.text());
        assert!(answer.headers["x-clickhouse-summary"].contains("\"written_rows\":\"3000\""));
        // Cut in the middle, nothing of it may be taken.
        let answer = post(insert, &[&header], &body[..body.len() / 2]).await;
        assert_ne!(answer.status, 200, "{encoding}");
    }
    assert_eq!(number(&client, "SELECT count() FROM t").await, 4 * 3000);
    let answer = post(insert, &["Content-Encoding: rot13"], b"x").await;
    assert_eq!(answer.headers["x-clickhouse-exception-code"], "89");

    let sql = b"SELECT number FROM numbers(300000)";
    let plain = post("/", &[], sql).await.body;
    let compressed = |encoding: &'static str| async move {
        let answer = post("/", &[&format!("Accept-Encoding: {encoding}")], sql).await;
        assert_eq!(answer.headers["content-encoding"], encoding);
        answer.body
    };
    let mut read = Vec::new();
    flate2::read::MultiGzDecoder::new(&compressed("gzip").await[..])
        .read_to_end(&mut read)
        .unwrap();
    assert!(read == plain);
    assert!(zstd::decode_all(&compressed("zstd").await[..]).unwrap() == plain);
    read.clear();
    lz4_flex::frame::FrameDecoder::new(&compressed("lz4").await[..])
        .read_to_end(&mut read)
        .unwrap();
    assert!(read == plain);
    let answer = post(
        "/?enable_http_compression=0",
        &["Accept-Encoding: gzip"],
        sql,
    )
    .await;
    assert!(!answer.headers.contains_key("content-encoding") && answer.body == plain);
    // ClickHouse's own blocks go out as they come in.
    let blocks = post("/?compress=1", &[], b"SELECT number FROM numbers(6)")
        .await
        .body;
    let answer = post(&format!("{insert}&decompress=1"), &[], &blocks).await;
    assert!(answer.headers["x-clickhouse-summary"].contains("\"written_rows\":\"6\""));
    let mut damaged = blocks.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let answer = post(&format!("{insert}&decompress=1"), &[], &damaged).await;
    assert_eq!(answer.headers["x-clickhouse-exception-code"], "40");
}

#[tokio::test]
async fn an_insert_takes_any_format_and_leaves_its_error() {
    let client = client("formats").await;
    execute(
        &client,
        "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a",
    )
    .await;
    for format in [
        "Native",
        "RowBinary",
        "RowBinaryWithNamesAndTypes",
        "CSV",
        "JSONEachRow",
        "ArrowStream",
        "Arrow",
        "Parquet",
        "Values",
    ] {
        let rows =
            format!("SELECT number AS a, toString(number) AS b FROM numbers(100) FORMAT {format}");
        let rows = post("/", &[], rows.as_bytes()).await.body;
        let uri = format!("/?database=formats&query=INSERT+INTO+t+FORMAT+{format}");
        let answer = post(&uri, &[], &rows).await;
        assert_eq!(answer.status, 200, "{format}: {}", answer.text());
        // The same in one body: query, then data.
        let body = [
            format!("INSERT INTO t (a, b) FORMAT {format}\n").as_bytes(),
            &rows,
        ]
        .concat();
        let answer = post("/?database=formats", &[], &body).await;
        assert_eq!(answer.status, 200, "{format}: {}", answer.text());
        assert_eq!(
            number(&client, "SELECT count() + sum(a = toUInt64(b)) FROM t").await,
            400
        );
        execute(&client, "TRUNCATE TABLE t").await;
    }
    let bad = post(
        "/?database=formats&query=INSERT+INTO+t+FORMAT+CSV",
        &[],
        b"1,a\nx,b\n",
    )
    .await;
    assert_eq!(
        (
            bad.status,
            bad.headers["x-clickhouse-exception-code"].as_str()
        ),
        (400, "27")
    );
    // A large body after an early error is read to its end, so that the error can be read.
    let large = vec![b'1'; 20 << 20];
    let answer = post("/?query=INSERT+INTO+nowhere+FORMAT+CSV", &[], &large).await;
    assert_eq!(
        (
            answer.status,
            answer.headers["x-clickhouse-exception-code"].as_str()
        ),
        (404, "60")
    );
    assert_eq!(number(&client, "SELECT count() FROM t").await, 0);
}

// ---- blocks, deduplication, crashes --------------------------------------------------------

#[tokio::test]
async fn one_body_is_one_block_in_every_format() {
    let client = client("blocks").await;
    for (format, rows) in [
        ("RowBinary", 1_200_000),
        ("Native", 1_200_000),
        ("JSONEachRow", 300_000),
        ("CSV", 300_000),
        ("TSV", 300_000),
        ("Values", 100_000),
    ] {
        let sql = format!(
            "SELECT number AS a, repeat('x', 40) AS b FROM numbers({rows}) FORMAT {format}"
        );
        let body = post("/?wait_end_of_query=1", &[], sql.as_bytes())
            .await
            .body;
        let table = format!("t_{format}");
        execute(
            &client,
            &format!("CREATE TABLE {table} (a UInt64, b String) ENGINE = MergeTree ORDER BY a"),
        )
        .await;
        execute(&client, &format!("SYSTEM STOP MERGES {table}")).await;
        let uri = format!("/?database=blocks&query=INSERT+INTO+{table}+FORMAT+{format}");
        let answer = post(&uri, &[], &body).await;
        assert_eq!(answer.status, 200, "{format}: {}", answer.text());
        let parts = "SELECT count() FROM system.parts WHERE database = 'blocks'";
        assert_eq!(
            number(&client, &format!("{parts} AND table = '{table}'")).await,
            1,
            "{format}"
        );
        assert_eq!(
            number(&client, &format!("SELECT count() FROM {table}")).await,
            rows,
            "{format}"
        );
    }
}

const SOURCE: &str = "CREATE TABLE source (k UInt32, v UInt64) ENGINE = MergeTree ORDER BY v \
                      SETTINGS non_replicated_deduplication_window = 1000";
const TARGET: &str = "CREATE TABLE target (k UInt32, n AggregateFunction(count)) ENGINE = \
                      AggregatingMergeTree ORDER BY k SETTINGS non_replicated_deduplication_window = 1000";
const VIEW: &str =
    "CREATE MATERIALIZED VIEW view TO target AS SELECT k, countState() AS n FROM source GROUP BY k";

#[derive(Row, Serialize)]
struct Pair {
    k: u32,
    v: u64,
}

async fn insert_pairs(client: &Client, token: &str, count: u64) {
    let client = client
        .clone()
        .with_setting("insert_deduplication_token", token);
    let mut insert = client.insert::<Pair>("source").await.unwrap();
    for v in 0..count {
        insert
            .write(&Pair {
                k: (v % 7) as u32,
                v,
            })
            .await
            .unwrap();
    }
    insert.end().await.unwrap();
}

/// Rows of the table, and what its view has counted.
async fn counted(client: &Client) -> (u64, u64) {
    let source = number(client, "SELECT count() FROM source").await;
    (
        source,
        number(client, "SELECT countMerge(n) FROM target").await,
    )
}

#[tokio::test]
async fn a_retried_insert_counts_once_in_the_table_and_through_views() {
    let client = client("dedup").await;
    for sql in [SOURCE, TARGET, VIEW] {
        execute(&client, sql).await;
    }
    insert_pairs(&client, "t:0:0-50000", 50_000).await;
    insert_pairs(&client, "t:0:0-50000", 50_000).await;
    assert_eq!(counted(&client).await, (50_000, 50_000));
    // The same rows under another token are other rows.
    insert_pairs(&client, "t:0:50000-100000", 50_000).await;
    assert_eq!(counted(&client).await, (100_000, 100_000));
    // A crash between table and view: the retry fills in the view alone.
    execute(&client, "DROP TABLE view SYNC").await;
    insert_pairs(&client, "t:0:torn", 1000).await;
    assert_eq!(counted(&client).await, (101_000, 100_000));
    execute(&client, VIEW).await;
    insert_pairs(&client, "t:0:torn", 1000).await;
    insert_pairs(&client, "t:0:torn", 1000).await;
    assert_eq!(counted(&client).await, (101_000, 101_000));
}

#[tokio::test]
async fn an_insert_that_is_broken_off_leaves_nothing() {
    let client = client("broken_off").await;
    execute(
        &client,
        "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a",
    )
    .await;
    let head = "POST /?database=broken_off&query=INSERT+INTO+t+FORMAT+TSV HTTP/1.1\r\nHost: x\r\n";
    let bodies = [
        "Content-Length: 1000\r\n\r\n1\n2\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n",
    ];
    for body in bodies {
        let mut stream = TcpStream::connect(server().addr()).await.unwrap();
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .unwrap();
        drop(stream);
    }
    let idle = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t%'";
    until("the inserts have ended", || async {
        number(&client, idle).await == 0
    })
    .await;
    // A later insert shows that the table is not merely slow.
    execute(&client, "INSERT INTO t VALUES (3)").await;
    assert_eq!(number(&client, "SELECT sum(a) FROM t").await, 3);
}

#[tokio::test]
async fn a_query_whose_client_leaves_is_stopped() {
    let client = client("left").await;
    let running = "SELECT count() FROM system.processes WHERE query LIKE '%left_behind%' AND \
                   query NOT LIKE '%processes%'";
    for sql in [
        "SELECT sleepEachRow(0.1) AS left_behind FROM numbers(10000) SETTINGS max_block_size = 1",
        "SELECT count() AS left_behind FROM system.numbers FORMAT JSON",
    ] {
        let mut stream = TcpStream::connect(server().addr()).await.unwrap();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{sql}",
            sql.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        until("the query runs", || async {
            number(&client, running).await == 1
        })
        .await;
        drop(stream);
        until("the query is stopped", || async {
            number(&client, running).await == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_second_start_in_one_process_says_why_not() {
    server();
    let error = ClickHouse::start(config(empty_dir("clickhouse-second")))
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("one data path per process"),
        "{error}"
    );
    let mut open = config(empty_dir("clickhouse-open"));
    open.listen = "0.0.0.0:0".parse().unwrap();
    let error = ClickHouse::start(open).await.err().unwrap();
    assert!(error.to_string().contains("set a password"), "{error}");
}

/// ClickHouse in a process of its own.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(data_dir: &Path, password: Option<&str>) -> Self {
        let test = std::env::current_exe().unwrap();
        let example = test
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/clickhouse");
        let mut command = Command::new(&example);
        command
            .arg(data_dir)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped());
        if let Some(password) = password {
            command.env("CLICKHOUSE_PASSWORD", password);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; `cargo test` builds it", example.display()));
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        assert!(
            url.starts_with("http://"),
            "ClickHouse did not start: {url:?}"
        );
        Self {
            child,
            url: url.trim().to_owned(),
        }
    }

    fn client(&self) -> Client {
        Client::default().with_url(&self.url)
    }

    /// `SIGKILL`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `SIGINT`, and a clean end.
    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_and_is_still_deduplicated() {
    let dir = empty_dir("clickhouse-killed");
    let process = Process::start(&dir, None);
    for sql in [SOURCE, TARGET, VIEW] {
        execute(&process.client(), sql).await;
    }
    insert_pairs(&process.client(), "a", 20_000).await;
    insert_pairs(&process.client(), "b", 30_000).await;
    process.kill();

    let process = Process::start(&dir, None);
    assert_eq!(counted(&process.client()).await, (50_000, 50_000));
    insert_pairs(&process.client(), "a", 20_000).await;
    insert_pairs(&process.client(), "b", 30_000).await;
    assert_eq!(counted(&process.client()).await, (50_000, 50_000));
    process.stop();

    let process = Process::start(&dir, None);
    insert_pairs(&process.client(), "b", 30_000).await;
    assert_eq!(counted(&process.client()).await, (50_000, 50_000));
    process.kill();
}

/// Kills again and again in the middle of inserts, each of which is retried until acknowledged.
#[tokio::test]
async fn an_insert_retried_through_kills_counts_once() {
    let dir = empty_dir("clickhouse-retried");
    let mut process = Process::start(&dir, None);
    for sql in [SOURCE, TARGET, VIEW] {
        execute(&process.client(), sql).await;
    }
    for round in 0..6u64 {
        let token = format!("round {round}");
        let client = process.client();
        let insert = tokio::spawn({
            let token = token.clone();
            async move {
                let client = client.with_setting("insert_deduplication_token", token);
                let mut insert = client.insert::<Pair>("source").await?;
                for v in 0..20_000 {
                    insert
                        .write(&Pair {
                            k: (v % 7) as u32,
                            v,
                        })
                        .await?;
                }
                insert.end().await
            }
        });
        // A different moment of the insert each time.
        tokio::time::sleep(Duration::from_millis(10 * round)).await;
        process.kill();
        let _ = insert.await.unwrap();
        process = Process::start(&dir, None);
        insert_pairs(&process.client(), &token, 20_000).await;
        let expected = 20_000 * (round + 1);
        assert_eq!(
            counted(&process.client()).await,
            (expected, expected),
            "{token}"
        );
    }
}

/// The state between two steps of the engine that no kill can be timed to hit: the deduplication
/// record is written, its part is not in place.
#[tokio::test]
async fn a_token_without_its_part_does_not_swallow_the_retry() {
    let dir = empty_dir("clickhouse-orphan");
    let process = Process::start(&dir, None);
    execute(&process.client(), SOURCE).await;
    insert_pairs(&process.client(), "kept", 10).await;
    insert_pairs(&process.client(), "lost", 20).await;
    process.kill();
    let mut removed = 0;
    for shard in std::fs::read_dir(dir.join("store")).unwrap() {
        for table in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let part = table.unwrap().path().join("all_2_2_0");
            removed += usize::from(std::fs::remove_dir_all(part).is_ok());
        }
    }
    assert_eq!(removed, 1);
    let process = Process::start(&dir, None);
    assert_eq!(
        number(&process.client(), "SELECT count() FROM source").await,
        10
    );
    insert_pairs(&process.client(), "kept", 10).await;
    insert_pairs(&process.client(), "lost", 20).await;
    insert_pairs(&process.client(), "lost", 20).await;
    assert_eq!(
        number(&process.client(), "SELECT count() FROM source").await,
        30
    );
}

#[tokio::test]
async fn two_processes_do_not_share_a_data_path_and_a_password_is_asked_for() {
    let dir = empty_dir("clickhouse-password");
    let process = Process::start(&dir, Some("s3cret"));
    let refused = process
        .client()
        .query("SELECT 1")
        .execute()
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("REQUIRED_PASSWORD"),
        "{refused}"
    );
    let wrong = process.client().with_user("default").with_password("other");
    let refused = wrong.query("SELECT 1").execute().await.unwrap_err();
    assert!(
        refused.to_string().contains("AUTHENTICATION_FAILED"),
        "{refused}"
    );
    let right = process
        .client()
        .with_user("default")
        .with_password("s3cret");
    assert_eq!(number(&right, "SELECT toUInt64(1)").await, 1);

    let test = std::env::current_exe().unwrap();
    let example = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/clickhouse");
    let second = Command::new(example)
        .arg(&dir)
        .arg("127.0.0.1:0")
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains("Locked") || said.contains("in use by another process"),
        "{said}"
    );
}

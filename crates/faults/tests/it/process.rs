//! ClickHouse as a process: started, asked, ended, and started again on what it kept.

use std::time::Duration;

use clickhouse::Client;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

async fn start(data: &std::path::Path) -> (Child, Client) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_faults-store"))
        .args(["--listen", "127.0.0.1:0", "--memory-mib", "512", "--data"])
        .arg(data)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let url = timeout(PATIENCE, lines.next_line()).await.unwrap();
    let url = url.unwrap().expect("its URL");
    (process, Client::default().with_url(url))
}

async fn execute(client: &Client, sql: &str) {
    client.query_raw(sql).execute().await.unwrap();
}

#[tokio::test]
async fn what_it_has_taken_is_there_after_a_kill_and_after_an_orderly_end() {
    let data = tempfile::tempdir().unwrap();
    let (mut process, client) = start(data.path()).await;
    execute(
        &client,
        "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n",
    )
    .await;
    execute(&client, "INSERT INTO t VALUES (1)").await;
    process.kill().await.unwrap();

    let (mut process, client) = start(data.path()).await;
    execute(&client, "INSERT INTO t VALUES (2)").await;
    let id = process.id().unwrap().to_string();
    let asked = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(asked.unwrap().success());
    let ended = timeout(PATIENCE, process.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");

    let (_process, client) = start(data.path()).await;
    let sum: u64 = client
        .query_raw("SELECT sum(n) FROM t")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(sum, 3);
}

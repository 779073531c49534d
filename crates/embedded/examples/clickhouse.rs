//! The embedded ClickHouse alone, until Ctrl-C:
//! `cargo run -p chatpulse-embedded --example clickhouse -- DATA_DIR [ADDRESS]`.
//! A password is taken from the environment (`CLICKHOUSE_PASSWORD`).

use std::io::Write as _;

use chatpulse_embedded::clickhouse::{ClickHouse, ClickHouseConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let data_dir = arguments
        .next()
        .ok_or("usage: clickhouse DATA_DIR [ADDRESS]")?
        .into();
    let listen = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:8123".into())
        .parse()?;
    let password = std::env::var("CLICKHOUSE_PASSWORD").ok();
    let config = ClickHouseConfig {
        data_dir,
        listen,
        password,
        library: None,
        memory_limit_bytes: None,
    };
    let server = ClickHouse::start(config).await?;
    writeln!(std::io::stdout(), "{}", server.url())?;
    tokio::signal::ctrl_c().await?;
    server.shutdown().await?;
    Ok(())
}

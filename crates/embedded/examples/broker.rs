//! Runs the embedded broker alone: `broker DATA_DIR ADDRESS`. Says where it listens on standard output and stops
//! when its standard input ends. Logs to standard error as `RUST_LOG` says.

use std::io::{Read as _, Write as _};

use chatpulse_embedded::broker::{Broker, BrokerConfig};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args_os().skip(1);
    let (Some(data_dir), Some(listen)) = (arguments.next(), arguments.next()) else {
        return Err("usage: broker DATA_DIR ADDRESS".into());
    };
    let listen = listen.to_str().ok_or("the address is not text")?.parse()?;
    let broker = Broker::start(BrokerConfig {
        data_dir: data_dir.into(),
        listen,
    })
    .await?;
    writeln!(std::io::stdout(), "{}", broker.bootstrap())?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    broker.shutdown().await?;
    Ok(())
}

//! ClickHouse as a process that can be killed, behind a proxy that fails inserts and one that
//! breaks connections.
//!
//! ```text
//! sinks ──► TcpProxy ──► StoreProxy ──► faults-store
//!                        judge ─────────────▲
//! ```

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use chatpulse_faults::proxy::{http::StoreProxy, tcp::TcpProxy};
use tokio::process::{Child, Command};

use crate::process::{Signal, free_ports, loopback, signal, spawn};

/// The engine unpacks itself at first use.
const START: Duration = Duration::from_secs(180);

/// The store, running.
pub(crate) struct Store {
    folder: PathBuf,
    program: PathBuf,
    address: SocketAddr,
    client: reqwest::Client,
    child: Mutex<Option<Child>>,
    /// Fails inserts.
    pub(crate) inserts: StoreProxy,
    /// Breaks connections.
    pub(crate) traffic: TcpProxy,
}

impl Store {
    /// Starts it with its data in `folder`.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        // Built with this program.
        let program = std::env::current_exe()?.with_file_name("faults-store");
        ensure!(
            program.exists(),
            "{} is not built: cargo build -p chatpulse-faults",
            program.display()
        );
        std::fs::create_dir_all(folder)?;
        let address = loopback(free_ports(1));
        let inserts = StoreProxy::start(loopback(0), address).await?;
        let traffic = TcpProxy::start(loopback(0), inserts.address()).await?;
        let store = Self {
            folder: folder.to_owned(),
            program,
            address,
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(60))
                .build()?,
            child: Mutex::new(None),
            inserts,
            traffic,
        };
        store.restart().await?;
        Ok(store)
    }

    /// URL for the stages, through both proxies.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.traffic.address())
    }

    /// kill -9.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let child = self.slot().take();
        match child {
            Some(mut child) => child.kill().await.context("cannot kill the store"),
            None => Ok(()),
        }
    }

    /// Starts it again on the same data, and waits until it answers.
    pub(crate) async fn restart(&self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .arg("--listen")
            .arg(self.address.to_string())
            .arg("--data")
            .arg(self.folder.join("data"));
        let mut child = spawn(&mut command, &self.folder.join("store.log"))?;
        let deadline = Instant::now() + START;
        while self.query("default", "SELECT 1").await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "the store ended with {status}: see {}",
                    self.folder.join("store.log").display()
                );
            }
            ensure!(Instant::now() < deadline, "the store does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *self.slot() = Some(child);
        Ok(())
    }

    /// Drops an installation's databases with all that is in them.
    pub(crate) async fn forget(&self, database: &str) -> anyhow::Result<()> {
        for name in [format!("{database}_bi"), database.to_owned()] {
            let drop = format!("DROP DATABASE IF EXISTS `{name}` SYNC");
            self.query("default", &drop).await?;
        }
        Ok(())
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, what: Signal) -> anyhow::Result<()> {
        let pid = self.slot().as_ref().and_then(Child::id);
        signal(pid.context("the store does not run")?, what)
    }

    /// The answer to a query, straight from the server; rows of tab-separated fields.
    pub(crate) async fn query(
        &self,
        database: &str,
        sql: &str,
    ) -> anyhow::Result<Vec<Vec<String>>> {
        let answer = self
            .client
            .post(format!("http://{}/?database={database}", self.address))
            .body(sql.to_owned())
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{sql}: {text}");
        let rows = text.lines();
        Ok(rows
            .map(|row| row.split('\t').map(str::to_owned).collect())
            .collect())
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

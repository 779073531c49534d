//! ClickHouse in this process: ClickHouse's own engine as a library (libchdb), behind a server of
//! ClickHouse's HTTP interface, so that curl, the `clickhouse` crate, clickhouse-connect and BI
//! tools talk to it as to a server.
//!
//! ```text
//! client ── HTTP ──► server ── C interface, a connection per request ──► libchdb ──► data path
//! ```
//!
//! What a process must know:
//!
//! - One data path per process: a second [`ClickHouse::start`] fails while one runs.
//! - No access control inside: whoever may query may also read and write files that this process
//!   can (`file()`), as in clickhouse-local. Hence loopback, or a password.
//! - Durability: an insert is answered when its parts are in place and on the disk: one `syncfs` for all inserts that
//!   wait for it, so it also waits for what others write there. `kill -9` loses nothing acknowledged.
//!   After a power cut, a retried insert that was not answered may double: its parts may be on the disk and the engine's
//!   deduplication log not.
//! - Retries with the same `insert_deduplication_token` are dropped, also through materialized
//!   views, after restarts and after `kill -9` (the engine's own gap there is closed at start),
//!   provided that the table and every view's target have a `non_replicated_deduplication_window`
//!   and that the body is one block again ([`INSERT_AS_ONE_BLOCK_SETTINGS`], on by default).
//! - Sessions (`session_id`) are accepted and not kept: each request starts afresh.

mod codec;
mod disk;
mod engine;
mod exception;
mod ffi;
mod format;
pub mod library;
mod repair;
mod request;
mod server;
mod sql;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

pub use engine::INSERT_AS_ONE_BLOCK_SETTINGS;

/// Memory that the engine may use where none is configured: 1.25 GiB.
const DEFAULT_MEMORY_LIMIT_BYTES: u64 = 1280 * 1024 * 1024;
/// Requests in progress get this long to end when the server shuts down.
const DRAIN: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct ClickHouseConfig {
    /// Where tables are kept; created when missing. One process at a time.
    pub data_dir: PathBuf,
    /// Where to serve HTTP; port 0 takes any free one. Beyond loopback only with a password.
    pub listen: SocketAddr,
    /// The password of the user `default`; without one, requests of web pages are refused.
    pub password: Option<String>,
    /// A libchdb to load instead of what [`library::ensure`] finds or fetches.
    pub library: Option<PathBuf>,
    /// The engine's `max_server_memory_usage`, in bytes; 1.25 GiB where none is given. Statements may take half of it.
    pub memory_limit_bytes: Option<u64>,
}

/// Why ClickHouse does not run.
#[derive(Debug, thiserror::Error)]
pub enum ClickHouseError {
    /// There is no library to load.
    #[error(transparent)]
    Library(#[from] library::LibraryError),
    /// The library cannot be loaded.
    #[error("ClickHouse cannot be loaded: {0}")]
    Load(String),
    /// The engine does not start: a second one in this process, or a bad data path.
    #[error("ClickHouse cannot start: {0}")]
    Start(String),
    /// The data path is in use by another process.
    #[error("{0} is in use by another process; stop that one, or choose another data directory")]
    Locked(PathBuf),
    /// The data path cannot be used.
    #[error("cannot use the data path {path}")]
    DataDir {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}; choose another address")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// An address that others can reach, without a password.
    #[error("{0} can be reached from other machines: set a password, or listen on 127.0.0.1")]
    Open(SocketAddr),
    /// The server ended by itself.
    #[error("the HTTP server ended: {0}")]
    Server(String),
}

/// A running ClickHouse. Dropped without [`ClickHouse::shutdown`] it stops too, but nobody waits
/// for its last requests.
pub struct ClickHouse {
    addr: SocketAddr,
    server: Arc<server::Server>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
    _lock: std::fs::File,
}

impl ClickHouse {
    /// Starts the engine and its HTTP server; ready to answer when it returns. Fetches the library
    /// when it is not there yet, showing progress on standard error.
    ///
    /// # Errors
    /// No library, a data path or address that cannot be used, or a process that already runs one.
    pub async fn start(config: ClickHouseConfig) -> Result<Self, ClickHouseError> {
        if !config.listen.ip().is_loopback() && config.password.is_none() {
            return Err(ClickHouseError::Open(config.listen));
        }
        let listener = tokio::net::TcpListener::bind(config.listen)
            .await
            .map_err(|source| ClickHouseError::Listen {
                listen: config.listen,
                source,
            })?;
        let addr = listener
            .local_addr()
            .map_err(|source| ClickHouseError::Listen {
                listen: config.listen,
                source,
            })?;
        let password = config.password.clone();
        let started = tokio::task::spawn_blocking(move || start_engine(&config)).await;
        let (engine, lock) = started.map_err(|e| ClickHouseError::Start(e.to_string()))??;
        let permits = Arc::new(Semaphore::new(server::MAX_QUERIES));
        let server = Arc::new(server::Server {
            engine: Arc::new(engine),
            password,
            permits,
        });
        let router = axum::Router::new()
            .fallback(server::handle)
            .with_state(server.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        // Else the end of a long answer waits 40 ms for the client to confirm the rest.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let serving = tokio::spawn(serving.into_future());
        tracing::info!(%addr, version = server.engine.version, "ClickHouse is ready");
        Ok(Self {
            addr,
            server,
            stop: Some(stop),
            serving,
            _lock: lock,
        })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more requests, gives those in progress ten seconds before they are killed, and
    /// closes the engine. The data path can be opened again after this.
    ///
    /// # Errors
    /// The HTTP server had ended by itself before.
    pub async fn shutdown(mut self) -> Result<(), ClickHouseError> {
        drop(self.stop.take());
        let served = tokio::time::timeout(DRAIN, &mut self.serving).await;
        if served.is_err() {
            let server = self.server.clone();
            let killed = tokio::task::spawn_blocking(move || server.engine.kill_all()).await;
            killed.map_err(|error| ClickHouseError::Server(error.to_string()))?;
        }
        self.serving.abort();
        let all = u32::try_from(server::MAX_QUERIES).unwrap_or(u32::MAX);
        if tokio::time::timeout(DRAIN, self.server.permits.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!(
                "statements still run after they were killed; they end with the process"
            );
        }
        let server = self.server;
        let closed = tokio::task::spawn_blocking(move || drop(server)).await;
        closed.map_err(|error| ClickHouseError::Server(error.to_string()))?;
        match served {
            Ok(Ok(Err(error))) => Err(ClickHouseError::Server(error.to_string())),
            Ok(Err(error)) if error.is_panic() => Err(ClickHouseError::Server(error.to_string())),
            _ => Ok(()),
        }
    }
}

fn start_engine(
    config: &ClickHouseConfig,
) -> Result<(engine::Engine, std::fs::File), ClickHouseError> {
    let library = match &config.library {
        Some(path) => path.clone(),
        None => {
            let mut reporter = library::Reporter::stderr();
            library::ensure(&mut |progress| reporter.report(progress))?
        }
    };
    let data_dir = prepare(&config.data_dir).map_err(|source| ClickHouseError::DataDir {
        path: config.data_dir.clone(),
        source,
    })?;
    let library =
        ffi::Library::load(&library).map_err(|error| ClickHouseError::Load(error.to_string()))?;
    let lock = lock(&data_dir)?;
    let memory = config
        .memory_limit_bytes
        .unwrap_or(DEFAULT_MEMORY_LIMIT_BYTES);
    let engine = engine::Engine::start(library, &data_dir, memory)
        .map_err(|error| ClickHouseError::Start(error.to_string()))?;
    Ok((engine, lock))
}

fn prepare(data_dir: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(data_dir)?;
    // The engine must not depend on the working directory.
    data_dir.canonicalize()
}

/// The engine locks its path as well, but says so on standard error alone.
fn lock(data_dir: &Path) -> Result<std::fs::File, ClickHouseError> {
    let path = data_dir.join("chatpulse.lock");
    let failed = |source| ClickHouseError::DataDir {
        path: path.clone(),
        source,
    };
    let file = std::fs::File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ClickHouseError::Locked(data_dir.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

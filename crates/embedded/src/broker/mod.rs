//! A Kafka broker in this process, on disk: tansu's protocol layers on its SQLite storage.
//!
//! ```text
//!  TCP ──► frames ──► Gate ──► tansu routes ──► tansu storage ──► broker.db (SQLite, WAL)
//!                      │
//!                      └── what tansu lacks: a fetch that answers when records come, offset commits that are
//!                          fenced by the group's generation
//! ```
//!
//! It runs on threads of its own, because the storage does its disk work inside async calls. Records that were
//! acknowledged survive the process's death (WAL, written before the answer); the last moments before a loss of
//! power may not (`synchronous=normal`). One broker per data directory, loopback only: it has no access control.

mod gate;
mod groups;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rama::{Context, Layer as _, Service};
use tansu_broker::coordinator::group::administrator::Controller;
use tansu_broker::service;
use tansu_service::{BytesFrameLayer, FrameRouteBuilder, FrameRouteService};
use tansu_storage::{BrokerRegistrationRequest, Storage as _, StorageContainer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use self::gate::Tails;

/// Name under which the broker keeps its data; changing it would hide what was stored.
const CLUSTER: &str = "chatpulse";
const NODE: i32 = 1;
/// The storage engine is one task, so more threads than this only serve connections.
const THREADS: usize = 2;
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How often it is looked whether the storage lives.
const LOOK: Duration = Duration::from_secs(1);
/// Largest request taken, bytes; Kafka's own default.
const MAX_REQUEST: usize = 100 << 20;

/// Where the broker listens and keeps its data.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Directory of its own, made when absent.
    pub data_dir: PathBuf,
    /// Address to listen on and to tell clients; port 0 takes any free one.
    pub listen: SocketAddr,
}

/// Why the broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The data directory cannot be used.
    #[error("the broker cannot use its data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process listens there, or the address is not of this machine.
    #[error("the broker cannot listen on {address}; free the port, or give it another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No threads could be started.
    #[error("the broker cannot start its threads")]
    Threads(#[source] std::io::Error),
    /// The stored data cannot be opened or written.
    #[error("the broker's storage in {} failed: {reason}", path.display())]
    Storage {
        /// The directory.
        path: PathBuf,
        /// The storage engine's own words.
        reason: String,
    },
    /// A fault in the broker itself; the log has more.
    #[error("the broker has died: {0}")]
    Panicked(String),
}

/// A running broker. Dropping it stops it without waiting.
pub struct Broker {
    address: SocketAddr,
    stop: CancellationToken,
    dead: CancellationToken,
    serving: JoinHandle<()>,
    /// Taken at shutdown: a runtime must not be waited for on an async thread.
    runtime: Option<Runtime>,
}

impl Broker {
    /// Opens the data directory and listens; clients can connect when this returns.
    ///
    /// # Errors
    /// [`BrokerError`], each naming the path or the address.
    pub async fn start(config: BrokerConfig) -> Result<Self, BrokerError> {
        let database = Database::at(&config.data_dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("broker")
            .enable_all()
            .build()
            .map_err(BrokerError::Threads)?;
        let (stop, dead) = (CancellationToken::new(), CancellationToken::new());
        let opened = runtime
            .spawn(Server::open(config, database, (stop.clone(), dead.clone())))
            .await
            .unwrap_or_else(|panic| Err(BrokerError::Panicked(panic.to_string())));
        let server = match opened {
            Ok(server) => server,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let address = server.address;
        let serving = runtime.spawn(server.serve());
        Ok(Self {
            address,
            stop,
            dead,
            serving,
            runtime: Some(runtime),
        })
    }

    /// Resolves when the storage has died, after which no request is answered any more. What was confirmed is on the
    /// disk: start again.
    pub async fn died(&self) {
        self.dead.cancelled().await;
    }

    /// Where clients connect, as `host:port`.
    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// Closes all connections, finishes what was begun, and closes the storage. Waits 5 s at most.
    ///
    /// # Errors
    /// [`BrokerError::Panicked`] when the broker had died before.
    pub async fn shutdown(mut self) -> Result<(), BrokerError> {
        self.stop.cancel();
        let ended = tokio::time::timeout(SHUTDOWN, &mut self.serving).await;
        if let Some(runtime) = self.runtime.take() {
            // Waits for threads, which async code must not.
            let closing = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SHUTDOWN));
            closing
                .await
                .map_err(|panic| BrokerError::Panicked(panic.to_string()))?;
        }
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(panic)) => Err(BrokerError::Panicked(panic.to_string())),
            Err(_) => {
                tracing::warn!("the broker did not stop in time; its connections were cut");
                Ok(())
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Broker")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What runs on the broker's own threads.
struct Server {
    address: SocketAddr,
    listener: TcpListener,
    storage: StorageContainer,
    groups: Controller<StorageContainer>,
    tails: Tails,
    stop: CancellationToken,
    /// Cancelled when the storage has died.
    dead: CancellationToken,
    /// Keeps the way to the database open.
    _database: Database,
}

impl Server {
    async fn open(
        config: BrokerConfig,
        database: Database,
        (stop, dead): (CancellationToken, CancellationToken),
    ) -> Result<Self, BrokerError> {
        let BrokerConfig { data_dir, listen } = config;
        let listen_failed = |source| BrokerError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(listen_failed)?;
        let address = listener.local_addr().map_err(listen_failed)?;

        let storage_failed = |reason: String| BrokerError::Storage {
            path: data_dir.clone(),
            reason,
        };
        let advertised = Url::parse(&format!("tcp://{address}"))
            .map_err(|error| storage_failed(error.to_string()))?;
        let storage = StorageContainer::builder()
            .cluster_id(CLUSTER)
            .node_id(NODE)
            .advertised_listener(advertised)
            .storage(database.url.clone())
            .cancellation(stop.clone())
            .silent(true)
            .build()
            .await
            .map_err(|error| storage_failed(error.to_string()))?;
        storage
            .register_broker(BrokerRegistrationRequest {
                broker_id: NODE,
                cluster_id: CLUSTER.to_owned(),
                incarnation_id: Uuid::new_v4(),
                rack: None,
            })
            .await
            .map_err(|error| storage_failed(error.to_string()))?;
        groups::release_members(&storage)
            .await
            .map_err(|error| storage_failed(error.to_string()))?;
        let groups = Controller::with_storage(storage.clone())
            .map_err(|error| storage_failed(error.to_string()))?;
        Ok(Self {
            address,
            listener,
            storage,
            groups,
            tails: Tails::default(),
            stop,
            dead,
            _database: database,
        })
    }

    async fn serve(self) {
        let mut connections = JoinSet::new();
        let mut death = std::pin::pin!(death_of(self.storage.clone()));
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        if let Err(error) = self.spawn(stream, &mut connections) {
                            tracing::warn!(%peer, %error, "cannot serve a connection to the broker");
                        }
                    }
                    // Too many open files, or a client that has gone again.
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection to the broker");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if let Err(panic) = ended {
                        tracing::error!(%panic, "a connection to the broker ended by a panic");
                    }
                }
                error = &mut death => {
                    tracing::error!(%error, "the broker's storage has died");
                    self.dead.cancel();
                    break;
                }
                () = self.stop.cancelled() => break,
            }
        }
        connections.shutdown().await;
    }

    fn spawn(
        &self,
        stream: TcpStream,
        connections: &mut JoinSet<()>,
    ) -> Result<(), tansu_broker::Error> {
        stream.set_nodelay(true)?;
        let routes = FrameRouteService::<(), tansu_broker::Error>::builder();
        let routes = storage_routes(routes, &self.storage)?;
        let routes = service::coordinator::services(routes, self.groups.clone())?.build()?;
        let frames = BytesFrameLayer::default().into_layer(self.tails.in_front_of(routes));
        connections.spawn(async move {
            // A connection that the client closed is an error here too, and no news.
            if let Err(error) = converse(stream, frames).await {
                tracing::debug!(%error, "a connection to the broker ended");
            }
        });
        Ok(())
    }
}

/// Resolves when the storage, a task that some requests end by a panic, answers no more.
async fn death_of(storage: StorageContainer) -> tansu_storage::Error {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = storage.brokers().await {
            return error;
        }
    }
}

/// The requests that the storage can answer. The rest of tansu's (transactions, deleting records, altering
/// configurations) end its only task by a panic or are of no use here; clients are told that they are not known.
fn storage_routes(
    routes: FrameRouteBuilder<(), tansu_broker::Error>,
    storage: &StorageContainer,
) -> Result<FrameRouteBuilder<(), tansu_broker::Error>, tansu_broker::Error> {
    use service::storage as route;
    [
        route::consumer_group_describe,
        route::create_topics,
        route::delete_groups,
        route::delete_topics,
        route::describe_cluster,
        route::describe_configs,
        route::describe_groups,
        route::describe_topic_partitions,
        route::fetch,
        route::find_coordinator,
        route::init_producer_id,
        route::list_groups,
        route::list_offsets,
        route::metadata,
        route::produce,
    ]
    .iter()
    .try_fold(routes, |routes, route| route(routes, storage.clone()))
}

/// Answers the requests of one connection, one after the other as Kafka does, until the client closes it.
async fn converse<S>(mut stream: TcpStream, frames: S) -> Result<(), tansu_broker::Error>
where
    S: Service<(), Bytes, Response = Bytes, Error = tansu_broker::Error>,
{
    loop {
        let size = stream.read_i32().await?;
        let length = usize::try_from(size)
            .ok()
            .filter(|length| *length <= MAX_REQUEST)
            .ok_or_else(|| {
                std::io::Error::other(format!("a request of {size} bytes; not Kafka's protocol?"))
            })?;
        // tansu reads the length as part of the frame.
        let mut request = vec![0; size_of_val(&size) + length];
        let (head, body) = request.split_at_mut(size_of_val(&size));
        head.copy_from_slice(&size.to_be_bytes());
        stream.read_exact(body).await?;
        let answer = frames.serve(Context::default(), request.into()).await?;
        stream.write_all(&answer).await?;
    }
}

/// The way to the database file. tansu takes it as a URL and does not decode it, so a directory whose name a URL
/// would encode (spaces, umlauts, `#`, `?`) is reached through a link with a plain name.
struct Database {
    url: Url,
    link: Option<PathBuf>,
}

impl Database {
    fn at(dir: &Path) -> Result<Self, BrokerError> {
        let failed = |source| BrokerError::DataDir {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let dir = dir.canonicalize().map_err(failed)?;
        if let Some(url) = plain_url(&dir) {
            return Ok(Self { url, link: None });
        }
        let link = std::env::temp_dir().join(format!("chatpulse-broker-{}", Uuid::new_v4()));
        std::os::unix::fs::symlink(&dir, &link).map_err(failed)?;
        let url = plain_url(&link).ok_or_else(|| {
            failed(std::io::Error::other(
                "neither it nor the temporary directory has a plain ASCII name",
            ))
        })?;
        Ok(Self {
            url,
            link: Some(link),
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && let Err(error) = std::fs::remove_file(link)
        {
            tracing::debug!(%error, link = %link.display(), "cannot remove the link to the broker's data");
        }
    }
}

/// The URL of the database in `dir`, unless the URL would spell the path differently. The empty first segment makes
/// the path absolute for tansu, which otherwise takes it from the working directory.
fn plain_url(dir: &Path) -> Option<Url> {
    let path = format!("/{}/broker.db", dir.to_str()?);
    let url = Url::parse(&format!("sqlite://{path}")).ok()?;
    (url.path() == path && url.query().is_none() && url.fragment().is_none()).then_some(url)
}

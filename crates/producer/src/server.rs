//! Serves HTTP/1.1 with every wait and every size bounded.
//!
//! `axum::serve` sets no timer and no bound on headers, so connections are served here.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, response::Response};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use prometheus::IntCounter;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{self, AbortHandle, JoinSet},
    time::{Sleep, sleep, timeout},
};

use crate::config::ProducerConfig;

/// More headers than any browser, SDK or chain of proxies sends.
const MAX_HEADERS: usize = 100;
/// Pause after a connection could not be taken, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pause before another connection has to make room, where the first has not yet.
const DISPLACE_PAUSE: Duration = Duration::from_millis(50);

/// What serves, and within which bounds.
pub(crate) struct Server<'c> {
    pub(crate) router: Router,
    pub(crate) config: &'c ProducerConfig,
    /// Counts connections that had to make room.
    pub(crate) displaced: IntCounter,
}

impl Server<'_> {
    /// Serves until `shutdown`, then takes no more connections and lets those in flight finish
    /// under the drain deadline.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let config = self.config;
        let mut protocol = http1::Builder::new();
        protocol
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(config.max_header_bytes.get())
            .max_buf_size(config.max_header_bytes.get().max(64 * 1024));
        let places = Arc::new(Semaphore::new(config.max_connections.get()));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut open = HashMap::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = connections.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    open.remove(&id);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = tokio::select! {
                biased;
                () = &mut shutdown => break,
                place = self.place(&places, &open) => place,
            };
            // Fails where the client has gone already, which the connection itself will find.
            let _ = stream.set_nodelay(true);
            let stream = TokioIo::new(Answering::new(stream, config.body_timeout));
            let connection = Connection::new();
            let served = protocol.serve_connection(stream, self.service(connection.clone()));
            let served = graceful.watch(served);
            let task = connections.spawn(async move {
                // Broken connections and malformed requests are the clients' affair.
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a connection ended");
                }
                drop(place);
            });
            open.insert(task.id(), (task, connection));
        }
        drop(listener);
        if timeout(config.drain_timeout, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!(after = ?config.drain_timeout, "connections were still open at the end");
        }
        connections.shutdown().await;
    }

    /// The router, told which connection a request came on.
    fn service(
        &self,
        connection: Connection,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response,
        Error = Infallible,
        Future: Send + 'static,
    > + use<> {
        let router = TowerToHyperService::new(self.router.clone());
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            router.call(request)
        })
    }

    /// A place for a connection. Where there is none, the connection that has been without a
    /// request being served for longest makes room: whoever opens connections and sends nothing, or
    /// nothing with a good key, keeps nobody out.
    async fn place(&self, places: &Arc<Semaphore>, open: &Open) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return Some(place);
            }
            let quiet = open.values().filter(|(task, _)| !task.is_finished());
            let quiet =
                quiet.filter_map(|(task, connection)| Some((connection.quiet_since()?, task)));
            if let Some((_, longest)) = quiet.min_by_key(|(since, _)| *since) {
                longest.abort();
                self.displaced.inc();
            }
            let freed = Arc::clone(places).acquire_owned();
            if let Ok(place) = timeout(DISPLACE_PAUSE, freed).await {
                // The semaphore is never closed.
                return place.ok();
            }
        }
    }
}

type Open = HashMap<task::Id, (AbortHandle, Connection)>;

/// Whether a connection serves a request of a known tenant, or since when it does not.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<AtomicU64>);

/// The time of a connection that is serving.
const SERVING: u64 = u64::MAX;

impl Connection {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(now())))
    }

    /// Nanoseconds of the process, or none while it serves.
    fn quiet_since(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|since| *since != SERVING)
    }

    /// Keeps the connection from being displaced for as long as this lives.
    pub(crate) fn serving(&self) -> Serving<'_> {
        self.0.store(SERVING, Ordering::Relaxed);
        Serving(self)
    }
}

/// A request being served.
pub(crate) struct Serving<'c>(&'c Connection);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.0.store(now(), Ordering::Relaxed);
    }
}

/// Nanoseconds since the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// A connection that ends when its client leaves an answer untaken for too long: hyper has no limit
/// of its own, and an answer that names thousands of faults would be held for ever.
struct Answering {
    stream: TcpStream,
    limit: Duration,
    /// Runs from the first write that had to wait until all is written.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Answering {
    fn new(stream: TcpStream, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            waiting: None,
        }
    }

    fn or_give_up<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        waiting
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Answering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Answering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_give_up(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.or_give_up(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper asks for this when nothing is left to be written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.waiting = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

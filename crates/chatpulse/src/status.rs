//! /healthz, /readyz and /metrics of a stage that serves nothing else.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::StatusCode,
    routing::get,
};
use chatpulse_kafka::Admin;
use chatpulse_store::Store;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::lag::LagWatch;

/// A part that is asked too often must not be asked too long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a stage needs to be of use.
#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) registry: Registry,
    /// The brokers, where the stage needs them.
    pub(crate) kafka: Option<Admin>,
    /// The store, where the stage needs it.
    pub(crate) store: Option<Store>,
    /// How far the stages are behind.
    pub(crate) lag: Vec<LagWatch>,
}

/// The three routes.
pub(crate) fn router(status: Status) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status)
}

/// What a client may take of a server. `axum::serve` sets no such limits.
struct Limits {
    /// Connections at once; one more waits.
    connections: usize,
    /// Longest wait for the head of a request, the next one of a connection included.
    head: Duration,
    /// Longest wait at the end for answers under way.
    drain: Duration,
}

const LIMITS: Limits = Limits {
    connections: 1_024,
    head: Duration::from_secs(30),
    drain: Duration::from_secs(10),
};
/// More headers than any browser or chain of proxies sends.
const MAX_HEADERS: usize = 100;
/// Room for the head of a request; bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Pause after a connection could not be taken, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router until `stop`, then lets answers under way finish. Requests know their peer's address
/// (`ConnectInfo<SocketAddr>`).
pub(crate) async fn serve(
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve_within(&LIMITS, router, listener, stop).await
}

async fn serve_within(
    limits: &Limits,
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await?;
            anyhow::Ok((place, listener.accept().await))
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next => next?,
        };
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Fails where the client has gone already, which the connection itself will find.
        let _ = stream.set_nodelay(true);
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: axum::http::Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.call(request)
        });
        let served = graceful.watch(protocol.serve_connection(TokioIo::new(stream), service));
        connections.spawn(async move {
            // Broken connections and malformed requests are the clients' affair.
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(after = ?limits.drain, "answers were still under way at the end");
    }
    connections.shutdown().await;
    Ok(())
}

/// Binds an address that `setting`, a configuration key or an option, gives.
pub(crate) async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: give another address by {setting}"))
}

async fn ready(State(status): State<Status>) -> (StatusCode, String) {
    let mut faults = Vec::new();
    if let Some(kafka) = &status.kafka
        && let Err(error) = kafka.ping(TIMEOUT).await
    {
        faults.push(format!("Kafka: {error}"));
    }
    if let Some(store) = &status.store {
        match tokio::time::timeout(TIMEOUT, store.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.push(format!("ClickHouse: {error}")),
            Err(_) => faults.push(format!("ClickHouse: no answer within {TIMEOUT:?}")),
        }
    }
    for lag in &status.lag {
        faults.extend(lag.faults(Instant::now()));
    }
    match faults.is_empty() {
        true => (StatusCode::OK, "ready\n".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, faults.join("\n") + "\n"),
    }
}

async fn metrics(State(status): State<Status>) -> (StatusCode, String) {
    match TextEncoder::new().encode_to_string(&status.registry.gather()) {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    /// A server of the path `/peer`, and what ends it.
    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let router = Router::new().route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let stopped = stop.clone();
        let served = tokio::spawn(async move {
            serve_within(&limits, router, listener, stopped)
                .await
                .unwrap();
        });
        (address, stop, served)
    }

    const GET: &[u8] = b"GET /peer HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    /// All that comes until the server ends the connection.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        read.unwrap().unwrap();
        text
    }

    #[tokio::test]
    async fn whoever_sends_nothing_or_half_a_request_makes_room_after_a_while() {
        let limits = Limits {
            connections: 2,
            head: Duration::from_millis(100),
            ..LIMITS
        };
        let (address, stop, served) = start(limits).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(&GET[..20]).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        let third_address = third.local_addr().unwrap();
        third.write_all(GET).await.unwrap();
        let answer = rest(&mut third).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(&third_address.to_string()), "{answer}");
        rest(&mut silent).await;
        rest(&mut half).await;
        stop.cancel();
        served.await.unwrap();
    }

    #[tokio::test]
    async fn the_end_does_not_wait_for_those_who_hold_a_connection() {
        let limits = Limits {
            drain: Duration::from_millis(50),
            ..LIMITS
        };
        let (address, stop, served) = start(limits).await;
        let mut held = TcpStream::connect(address).await.unwrap();
        held.write_all(&GET[..20]).await.unwrap();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(60), served)
            .await
            .unwrap()
            .unwrap();
    }
}

//! /healthz, /readyz and /metrics of a stage that serves nothing else.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use chatpulse_kafka::Admin;
use chatpulse_store::Store;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
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

/// Serves a router until `stop`.
pub(crate) async fn serve(
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
        .context("HTTP server")
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

//! The HTTP interface and the way of one request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chatpulse_kafka::Admin;
use chatpulse_model::{
    RawEvent,
    avro::Codec,
    source::{Catalog, Definition, Receipt},
};
use prometheus::{IntGauge, Registry, TextEncoder};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    access::{self, EVENT_METHODS},
    body::{self, Purse, Shape},
    config::ProducerConfig,
    intake::{Batch, Intake, Refused, known_sources},
    metrics::Metrics,
    problem::Problem,
    server::Connection,
    share::{Claim, Pool},
    snippet::{self, Snippets},
    split::split,
    tenants::{Grant, Tenants},
    writer::{Room, WriteError, Writer},
};

/// All that requests share.
pub(crate) struct Collector {
    pub(crate) config: ProducerConfig,
    pub(crate) catalog: &'static Catalog,
    pub(crate) codec: Codec<RawEvent>,
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) registry: Registry,
    pub(crate) budget: Pool,
    pub(crate) turns: Pool,
    pub(crate) readiness: Readiness,
    pub(crate) snippets: Snippets,
}

/// The answer to a batch that is durable.
#[derive(Debug, Serialize)]
struct Confirmed {
    accepted: usize,
    rejected: Vec<Refused>,
}

pub(crate) fn router(collector: Arc<Collector>) -> Router {
    let events = post(events).options(preflight).fallback(|| async {
        Problem::MethodNotAllowed {
            allow: EVENT_METHODS,
        }
    });
    let get_only = || async { Problem::MethodNotAllowed { allow: "GET, HEAD" } };
    Router::new()
        .route("/v1/events/{source}", events)
        .route("/v1/chatpulse.js", get(newest_snippet).fallback(get_only))
        .route(
            "/v1/chatpulse/{file}",
            get(pinned_snippet).fallback(get_only),
        )
        .route("/healthz", get(|| async { "ok\n" }).fallback(get_only))
        .route("/readyz", get(readyz).fallback(get_only))
        .route("/metrics", get(metrics).fallback(get_only))
        .fallback(|| async { Problem::UnknownPath })
        .layer(middleware::from_fn_with_state(
            Arc::clone(&collector),
            count,
        ))
        .with_state(collector)
}

async fn count(State(collector): State<Arc<Collector>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    collector
        .metrics
        .requests
        .with_label_values(&[response.status().as_str()])
        .inc();
    response
}

/// `POST /v1/events/{source}`.
async fn events(
    State(collector): State<Arc<Collector>>,
    source: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let _counted = InFlight::new(&collector.metrics.in_flight);
    // A name that is no UTF-8 is no source's.
    let source = source.map_or(String::new(), |Path(source)| source);
    let (parts, mut body) = request.into_parts();
    let tenants = collector.tenants.snapshot();
    let grant = access::authenticate(&tenants, &parts);
    let reader = access::reader(&tenants, &parts, grant.as_ref().ok());
    let result = collector.collect(&source, (&parts, &mut body), grant).await;
    if let Err(problem) = &result {
        // Nothing of the request itself: a write key may stand in it.
        tracing::debug!(%problem, "a request is refused");
        if let Problem::OverShare { tenant, what } = problem {
            let labels = [tenant.as_str(), what.name()];
            collector
                .metrics
                .over_share
                .with_label_values(&labels)
                .inc();
        }
    }
    let waits_for_leave = parts.headers.contains_key(header::EXPECT);
    if result.is_err() && !waits_for_leave {
        body::drain(&mut body).await;
    }
    let answer = result.map(|confirmed| (StatusCode::ACCEPTED, Json(confirmed)));
    access::readable_by(reader, answer.into_response())
}

/// `OPTIONS /v1/events/{source}`.
async fn preflight(State(collector): State<Arc<Collector>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let tenants = collector.tenants.snapshot();
    access::preflight(&tenants, &parts, collector.config.preflight_max_age)
}

/// `GET /v1/chatpulse.js`.
async fn newest_snippet(State(collector): State<Arc<Collector>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    snippet(&collector, &parts, None).await
}

/// `GET /v1/chatpulse/{version}.js`.
async fn pinned_snippet(
    State(collector): State<Arc<Collector>>,
    file: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let file = file.map_or(String::new(), |Path(file)| file);
    snippet(&collector, &parts, Some(&file)).await
}

/// The snippet for the tenant of the request's write key.
async fn snippet(collector: &Collector, parts: &Parts, file: Option<&str>) -> Response {
    match access::authenticate(&collector.tenants.snapshot(), parts) {
        Ok(grant) => {
            let snippet = collector.snippets.of(grant.tenant.snippet).await;
            snippet::answer(snippet, &parts.headers, file)
        }
        Err(problem) => problem.into_response(),
    }
}

impl Collector {
    /// The way of one request: what costs little is checked first.
    async fn collect(
        &self,
        source: &str,
        (parts, body): (&Parts, &mut Body),
        grant: Result<Grant, Problem>,
    ) -> Result<Confirmed, Problem> {
        let received_at = jiff::Timestamp::now().as_millisecond();
        let definition = self.definition(source)?;
        let Grant {
            tenant,
            key_id,
            alone,
        } = &grant?;
        access::check_origin(tenant, parts)?;
        let limited = |wait| Problem::RateLimited {
            tenant: tenant.id.clone(),
            wait,
        };
        tenant.take_request().map_err(limited)?;
        let claim = Claim {
            tenant: &tenant.id,
            holdings: &tenant.holdings,
            percent: if *alone {
                100
            } else {
                self.config.tenant_share_percent
            },
        };
        let _turn = self.turns.take(1, claim)?;
        let _busy = parts.extensions.get().map(Connection::serving);
        if !self.readiness.topic_seen(&self.config.topic).await {
            return Err(Problem::NotConfirmed);
        }

        let shape = Shape::of(&parts.headers, self.config.max_body_bytes.get())?;
        let purse = Purse {
            budget: &self.budget,
            claim,
        };
        let body = body::read(body, shape.encoding, &self.config, purse).await?;
        self.metrics.sent_bytes.inc_by(body.sent as u64);
        self.metrics.decoded_bytes.inc_by(body.bytes.len() as u64);
        let items = split(&body.bytes, shape.layout, self.config.max_items.get())
            .map_err(Problem::Unsplittable)?;
        let room = self.writer.room(items.len(), claim)?;

        let receipt = Receipt {
            tenant: &tenant.id,
            write_key_id: key_id,
            received_at,
            pseudonyms: &tenant.pseudonyms,
            max_item_bytes: tenant.limits.max_item_bytes.get(),
        };
        let batch = admit(
            &Intake {
                definition,
                receipt,
                codec: &self.codec,
            },
            &items,
        )
        .await?;
        self.confirm((&tenant.id, source), batch, room).await
    }

    fn definition(&self, source: &str) -> Result<&'static Definition, Problem> {
        let unknown = || Problem::UnknownSource {
            known: known_sources(self.catalog),
        };
        self.catalog.get(source).ok_or_else(unknown)
    }

    /// Has the batch written; only then it counts.
    async fn confirm(
        &self,
        names: (&str, &str),
        batch: Batch,
        room: Room,
    ) -> Result<Confirmed, Problem> {
        let accepted = batch.accepted();
        let started = Instant::now();
        let written = self.writer.write(room, batch.records).await;
        self.metrics
            .confirm_seconds
            .observe(started.elapsed().as_secs_f64());
        match written {
            Ok(()) => {
                self.metrics.count(names, accepted, &batch.refused);
                let (tenant, source) = names;
                let rejected = batch.refused.len();
                tracing::debug!(tenant, source, accepted, rejected, "a batch is durable");
                Ok(Confirmed {
                    accepted,
                    rejected: batch.refused,
                })
            }
            Err(WriteError::QueueFull) => Err(Problem::Overloaded),
            Err(WriteError::NotConfirmed) => Err(Problem::NotConfirmed),
            Err(error @ WriteError::TooLarge) => {
                tracing::error!(%error, "a batch cannot be written");
                Err(Problem::Internal)
            }
        }
    }
}

async fn admit(intake: &Intake<'_>, items: &[&[u8]]) -> Result<Batch, Problem> {
    let mut batch = Batch::default();
    for item in items {
        intake.admit(item, &mut batch).map_err(|error| {
            tracing::error!(%error, "a raw record cannot be encoded");
            Problem::Internal
        })?;
        // Large batches take turns with other requests.
        tokio::task::coop::consume_budget().await;
    }
    Ok(batch)
}

/// Counts a request for as long as it is served, also where its client goes away.
struct InFlight<'m>(&'m IntGauge);

impl<'m> InFlight<'m> {
    fn new(gauge: &'m IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn metrics(State(collector): State<Arc<Collector>>) -> Response {
    match TextEncoder::new().encode_to_string(&collector.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be encoded");
            Problem::Internal.into_response()
        }
    }
}

/// `GET /readyz`: 200 when a broker answers and has the topic.
async fn readyz(State(collector): State<Arc<Collector>>) -> Response {
    match collector.readiness.check(&collector.config.topic).await {
        Ok(()) => "ready\n".into_response(),
        Err(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

/// How long an answer of the broker stands, and how long we wait for one.
const READY_FOR: Duration = Duration::from_secs(1);
const READY_WAIT: Duration = Duration::from_secs(2);

/// Asks the broker, at most one question at a time.
pub(crate) struct Readiness {
    admin: Admin,
    /// Whether the topic was there once.
    seen: AtomicBool,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Readiness {
    pub(crate) fn new(admin: Admin) -> Self {
        Self {
            admin,
            seen: AtomicBool::new(false),
            last: Mutex::new(None),
        }
    }

    /// False while no broker has shown the topic, as where the producer was started before Kafka: what was
    /// published then could have a broker create the topic with settings of its own.
    async fn topic_seen(&self, topic: &str) -> bool {
        self.seen.load(Ordering::Relaxed) || self.check(topic).await.is_ok()
    }

    async fn check(&self, topic: &str) -> Result<(), String> {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, result)) if at.elapsed() < READY_FOR => return result.clone(),
            _ => {}
        }
        let result = match timeout(READY_WAIT, self.admin.partition_count(topic)).await {
            Ok(Ok(Some(_))) => {
                self.seen.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(Ok(None)) => Err(format!("topic {topic} does not exist: create it")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no broker answered within {READY_WAIT:?}")),
        };
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

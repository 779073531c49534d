//! The paths. Each takes a [`Question`], which has passed the check, and asks it for what it documents.

use axum::{Json, extract::State};
use jiff::Timestamp;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use chatpulse_store::{ConversationCursor, FailedTurnCursor, RejectedCursor};

use super::{
    Answer, Api,
    answers::{DriftKind, DriftingName, TenantName, Tenants},
    problem::{Problem, ProblemDetails},
    question::{Page, PageParameters, Question, TenantParameter, WindowParameters},
};
use crate::{
    Conversation, Conversations, Deliveries, DeliverySeries, FailedDelivery, Failure, Matrix,
    MetricGroups, MetricsBy, OutgoingSeries, Overview, Period, Reports, Restatement, TenantHealth,
    TypeHealth,
    access::{Access, Viewer},
};

/// Example answers by path, shown in the document; a test holds them against their schemas.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("/v1/tenants", include_str!("examples/tenants.json")),
    (
        "/v1/tenant-health",
        include_str!("examples/tenant-health.json"),
    ),
    (
        "/v1/tenant-health/series",
        include_str!("examples/tenant-health-series.json"),
    ),
    ("/v1/event-types", include_str!("examples/event-types.json")),
    ("/v1/event-names", include_str!("examples/event-names.json")),
    ("/v1/rejections", include_str!("examples/rejections.json")),
    ("/v1/deliveries", include_str!("examples/deliveries.json")),
    (
        "/v1/deliveries/series",
        include_str!("examples/deliveries-series.json"),
    ),
    (
        "/v1/deliveries/failures",
        include_str!("examples/deliveries-failures.json"),
    ),
    (
        "/v1/conversation-report",
        include_str!("examples/conversation-report.json"),
    ),
    (
        "/v1/conversation-metrics",
        include_str!("examples/conversation-metrics.json"),
    ),
    (
        "/v1/conversations",
        include_str!("examples/conversations.json"),
    ),
    (
        "/v1/restatements",
        include_str!("examples/restatements.json"),
    ),
    ("/v1/metrics", include_str!("examples/metrics.json")),
    ("/v1/pipeline", include_str!("examples/pipeline.json")),
];

/// What no handler names as its answer.
#[derive(OpenApi)]
#[openapi(components(schemas(ProblemDetails)))]
struct Shared;

pub(super) fn all() -> OpenApiRouter<Api> {
    OpenApiRouter::<Api>::with_openapi(Shared::openapi())
        .routes(routes!(tenants))
        .routes(routes!(tenant_health))
        .routes(routes!(tenant_health_series))
        .routes(routes!(event_types))
        .routes(routes!(event_names))
        .routes(routes!(rejections))
        .routes(routes!(deliveries))
        .routes(routes!(deliveries_series))
        .routes(routes!(deliveries_failures))
        .routes(routes!(conversation_report))
        .routes(routes!(conversation_metrics))
        .routes(routes!(conversations))
        .routes(routes!(restatements))
        .routes(routes!(metrics))
        .routes(routes!(pipeline))
}

/// Tenants
///
/// What this token reads: its own tenant, or for the operator's every tenant that has a read token or
/// has sent something in the last 30 days, by name.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "access",
    responses((status = 200, description = "The tenants.", body = Tenants)),
)]
async fn tenants(
    State(reports): State<Reports>,
    State(access): State<Access>,
    question: Question,
) -> Answer<Tenants> {
    let names = match question.viewer() {
        Viewer::Tenant(own) => vec![own.to_string()],
        Viewer::Operator => {
            let month = Period::before(Timestamp::now(), "30d")
                .map_err(|error| Problem::parameter("since", error.to_string()))?;
            let seen = reports.overview(month).await?.tenants;
            let mut names: Vec<String> = seen.into_iter().map(|tenant| tenant.tenant).collect();
            names.extend(access.tenants());
            // Records that could not be decoded have no tenant.
            names.retain(|name| !name.is_empty());
            names.sort();
            names.dedup();
            names
        }
    };
    let tenants = names.into_iter().map(|tenant| TenantName { tenant });
    Ok(Json(Tenants {
        operator: *question.viewer() == Viewer::Operator,
        tenants: tenants.collect(),
    }))
}

/// Tenant health
///
/// Do the tenant's events arrive? Delivery per source and event type with a verdict, its reason and its
/// threshold; losses, latency, drift, and the newest rejections.
#[utoipa::path(
    get, path = "/v1/tenant-health", tag = "delivery", params(TenantParameter, WindowParameters),
    responses((status = 200, description = "The report.", body = TenantHealth)),
)]
async fn tenant_health(State(reports): State<Reports>, question: Question) -> Answer<TenantHealth> {
    let (tenant, period) = (question.tenant()?, question.period()?);
    Ok(Json(reports.tenant_health(&tenant, period).await?))
}

/// Tenant health over time
///
/// Delivery per source with latencies, and per event type, by minutes up to 2 hours, by hours up to
/// 3 days, else by days.
#[utoipa::path(
    get, path = "/v1/tenant-health/series", tag = "delivery", params(TenantParameter, WindowParameters),
    responses((status = 200, description = "The series.", body = DeliverySeries)),
)]
async fn tenant_health_series(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<DeliverySeries> {
    let (tenant, period) = (question.tenant()?, question.period()?);
    Ok(Json(reports.delivery_series(&tenant, period).await?))
}

/// Event types
///
/// Delivery of each event type of each source with its verdict, by source and type.
#[utoipa::path(
    get, path = "/v1/event-types", tag = "delivery",
    params(TenantParameter, WindowParameters, PageParameters),
    responses((status = 200, description = "A page of event types.", body = Page<TypeHealth>)),
)]
async fn event_types(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<Page<TypeHealth>> {
    let slice = question.slice::<(String, String)>(Period::delivery)?;
    let health = reports.tenant_health(&slice.tenant, slice.period).await?;
    let key = |of: &TypeHealth| (of.source.clone(), of.event_type.clone());
    Ok(Json(slice.page_of(health.types, key)?))
}

/// Event names that came, went, or are not documented
///
/// Of the documented and the most frequent 1,000 names of the tenant: those that are not in the source's
/// definition, then those that appeared, then those that vanished, each by source and name.
#[utoipa::path(
    get, path = "/v1/event-names", tag = "delivery",
    params(TenantParameter, WindowParameters, PageParameters),
    responses((status = 200, description = "A page of event names.", body = Page<DriftingName>)),
)]
async fn event_names(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<Page<DriftingName>> {
    let slice = question.slice::<(DriftKind, String, String)>(Period::delivery)?;
    let drift = reports
        .tenant_health(&slice.tenant, slice.period)
        .await?
        .drift;
    let key = |of: &DriftingName| {
        (
            of.drift,
            of.name.source.clone(),
            of.name.source_event.clone(),
        )
    };
    let mut names = DriftingName::of(drift);
    names.sort_by_key(key);
    Ok(Json(slice.page_of(names, key)?))
}

/// Rejected records
///
/// What was refused and why, newest first, without its content.
#[utoipa::path(
    get, path = "/v1/rejections", tag = "delivery",
    params(TenantParameter, WindowParameters, PageParameters),
    responses((status = 200, description = "A page of rejected records.", body = Page<Failure>)),
)]
async fn rejections(State(reports): State<Reports>, question: Question) -> Answer<Page<Failure>> {
    let slice = question.slice::<RejectedCursor>(Period::delivery)?;
    let found = reports
        .rejections(&slice.tenant, slice.period, slice.part())
        .await?;
    Ok(Json(slice.page(found, Failure::cursor)?))
}

/// Deliveries
///
/// Do the tenant's events reach its own receivers (webhooks, GA4, Meta)? Requests, successes, failures by
/// class, latencies, what waits and what was given up, per destination and event type, each with a verdict,
/// its reason and its threshold; destinations that are disabled, and the newest failures.
#[utoipa::path(
    get, path = "/v1/deliveries", tag = "delivery", params(TenantParameter, WindowParameters),
    responses((status = 200, description = "The report.", body = Deliveries)),
)]
async fn deliveries(State(reports): State<Reports>, question: Question) -> Answer<Deliveries> {
    let (tenant, period) = (question.tenant()?, question.period()?);
    Ok(Json(reports.deliveries(&tenant, period).await?))
}

/// Deliveries over time
///
/// Per destination, and per destination and event type, by minutes up to 2 hours, by hours up to 3 days,
/// else by days.
#[utoipa::path(
    get, path = "/v1/deliveries/series", tag = "delivery", params(TenantParameter, WindowParameters),
    responses((status = 200, description = "The series.", body = OutgoingSeries)),
)]
async fn deliveries_series(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<OutgoingSeries> {
    let (tenant, period) = (question.tenant()?, question.period()?);
    Ok(Json(reports.deliveries_series(&tenant, period).await?))
}

/// Failed deliveries
///
/// Turns of deliveries that did not deliver, newest first, without secrets and content.
#[utoipa::path(
    get, path = "/v1/deliveries/failures", tag = "delivery",
    params(TenantParameter, WindowParameters, PageParameters),
    responses((status = 200, description = "A page of failed turns.", body = Page<FailedDelivery>)),
)]
async fn deliveries_failures(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<Page<FailedDelivery>> {
    let slice = question.slice::<FailedTurnCursor>(Period::delivery)?;
    let found = reports
        .failed_deliveries(&slice.tenant, slice.period, slice.part())
        .await?;
    Ok(Json(slice.page(found, FailedDelivery::cursor)?))
}

/// Conversation report
///
/// Every metric of the conversations that started in the window: overall, by source, time, widget and
/// language, with what is provisional and what was restated.
#[utoipa::path(
    get, path = "/v1/conversation-report", tag = "conversations", params(TenantParameter, WindowParameters),
    responses((status = 200, description = "The report.", body = Conversations)),
)]
async fn conversation_report(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<Conversations> {
    let (tenant, period) = (question.tenant()?, question.period()?);
    Ok(Json(reports.conversations(&tenant, period).await?))
}

/// What to group by.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // documents what `Question` reads
struct ByParameter {
    /// What to group conversations by. Default `overall`.
    #[param(inline, example = "source")]
    by: Option<MetricsBy>,
}

/// Conversation metrics
///
/// Every metric of the conversations that started in the window, in groups.
#[utoipa::path(
    get, path = "/v1/conversation-metrics", tag = "conversations",
    params(TenantParameter, WindowParameters, ByParameter),
    responses((status = 200, description = "The groups.", body = MetricGroups)),
)]
async fn conversation_metrics(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<MetricGroups> {
    let (tenant, period) = (question.tenant()?, question.period()?);
    let by = question.choice(("by", "overall, source, time, widget and language"))?;
    let by = by.unwrap_or(MetricsBy::Overall);
    Ok(Json(reports.metrics_by(&tenant, period, by).await?))
}

/// Conversations
///
/// The conversations that started in the window, newest first, as of the last roll-up: facts, durations
/// and outcome of each, no texts and nobody's name.
#[utoipa::path(
    get, path = "/v1/conversations", tag = "conversations",
    params(TenantParameter, WindowParameters, PageParameters),
    responses((status = 200, description = "A page of conversations.", body = Page<Conversation>)),
)]
async fn conversations(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<Page<Conversation>> {
    let slice = question.slice::<ConversationCursor>(Period::cohorts)?;
    let found = reports
        .conversation_list(&slice.tenant, slice.period, slice.part())
        .await?;
    Ok(Json(slice.page(found, Conversation::cursor)?))
}

/// Restated figures
///
/// Figures of past days that were settled and are now others, newest first, with what they were and why
/// they changed.
#[utoipa::path(
    get, path = "/v1/restatements", tag = "conversations",
    params(TenantParameter, WindowParameters, PageParameters),
    responses((status = 200, description = "A page of restated figures.", body = Page<Restatement>)),
)]
async fn restatements(
    State(reports): State<Reports>,
    question: Question,
) -> Answer<Page<Restatement>> {
    let slice = question.slice::<u64>(Period::cohorts)?;
    let skip = slice.after.unwrap_or(0);
    let found = reports
        .restatements(&slice.tenant, slice.period, (skip, slice.fetch()))
        .await?;
    let next = skip + slice.limit as u64;
    Ok(Json(slice.page(found, |_| next)?))
}

/// Metrics
///
/// What each metric is, and which source can show it: why a figure is `null`. The same for every tenant.
#[utoipa::path(
    get, path = "/v1/metrics", tag = "conversations",
    responses((status = 200, description = "The metrics and sources.", body = Matrix)),
)]
async fn metrics(State(reports): State<Reports>, _question: Question) -> Answer<Matrix> {
    Ok(Json(reports.matrix().await?))
}

/// The whole installation
///
/// For the operator's token only: tenants, rates, latencies, and how far each stage is behind.
#[utoipa::path(
    get, path = "/v1/pipeline", tag = "operation", params(WindowParameters),
    responses((status = 200, description = "The state of the installation.", body = Overview)),
)]
async fn pipeline(State(reports): State<Reports>, question: Question) -> Answer<Overview> {
    if *question.viewer() != Viewer::Operator {
        return Err(Problem::OperatorOnly);
    }
    Ok(Json(reports.overview(question.period()?).await?))
}

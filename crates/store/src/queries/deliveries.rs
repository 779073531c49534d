//! Deliveries of one tenant: what went out to each destination, per event type and unit of time.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Unit, Window, brief};
use crate::Store;
use crate::error::StoreError;

/// Deliveries of one event type to one destination, to one destination (`event_type` is none), or of the
/// tenant (both are none).
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct DeliveryFigures {
    /// Destination; none for all together.
    pub destination: Option<String>,
    /// Neutral type; none for all together.
    pub event_type: Option<String>,
    /// delivered + retrying + given_up + withheld.
    pub turns: u64,
    /// Turns with a request.
    pub attempts: u64,
    /// Requests that delivered.
    pub delivered: u64,
    /// Turns that another follows.
    pub retrying: u64,
    /// Deliveries given up.
    pub given_up: u64,
    /// Not sent for want of consent.
    pub withheld: u64,
    /// Requests that did not deliver.
    pub failed: u64,
    /// Turns that did not deliver by class, by name.
    pub failures: Vec<(String, u64)>,
    /// Duration of the requests that delivered, p50, p95 and p99; milliseconds, at most 1 % off; empty where
    /// none did.
    pub request_ms: Vec<f64>,
    /// Received to delivered, but for replays; likewise.
    pub delay_ms: Vec<f64>,
    /// Start of the last unit with a turn.
    pub last_ms: i64,
}

/// One unit of time of one destination, or of one event type of it.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct DeliveryPoint {
    /// Start of the unit.
    pub at_ms: i64,
    /// Destination.
    pub destination: String,
    /// Neutral type; empty for all together.
    pub event_type: String,
    /// As in [`DeliveryFigures`].
    pub attempts: u64,
    /// As in [`DeliveryFigures`].
    pub delivered: u64,
    /// As in [`DeliveryFigures`].
    pub failed: u64,
    /// As in [`DeliveryFigures`].
    pub given_up: u64,
    /// As in [`DeliveryFigures`].
    pub withheld: u64,
    /// As in [`DeliveryFigures`].
    pub failures: Vec<(String, u64)>,
    /// As in [`DeliveryFigures`].
    pub request_ms: Vec<f64>,
    /// As in [`DeliveryFigures`].
    pub delay_ms: Vec<f64>,
}

/// Deliveries that wait for their next turn, now.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct PendingDeliveries {
    /// Destination.
    pub destination: String,
    /// Neutral type.
    pub event_type: String,
    /// How many.
    pub pending: u64,
    /// When the event of the oldest was received.
    pub oldest_received_ms: i64,
}

/// A destination as the deliverers told last.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct DestinationInfo {
    /// Its name.
    pub destination: String,
    /// webhook, ga4 or meta.
    pub kind: String,
    /// Neutral types that it gets; empty: all.
    pub event_types: Vec<String>,
    /// False where it has left the tenants file.
    pub is_configured: bool,
    /// Since when it has been configured.
    pub since_ms: Option<i64>,
    /// First failure after the last success, once that has lasted a minute.
    pub failing_since_ms: Option<i64>,
    /// When it was disabled.
    pub disabled_at_ms: Option<i64>,
    /// Why: gone or failing.
    pub reason: Option<String>,
}

/// Events of a type that were accepted in a unit of time.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct AcceptedPoint {
    /// Start of the unit.
    pub at_ms: i64,
    /// Neutral type.
    pub event_type: String,
    /// How many.
    pub accepted: u64,
}

/// A turn that did not deliver.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct FailedTurn {
    /// When it began.
    pub at_ms: i64,
    /// Destination.
    pub destination: String,
    /// Neutral type of the event.
    pub event_type: String,
    /// Stable id of the delivery.
    pub delivery_id: String,
    /// Which turn of the delivery it was, from 1.
    pub attempt: i32,
    /// retrying, given_up or withheld.
    pub result: String,
    /// Class of the failure.
    pub failure: String,
    /// HTTP status, where there was an answer.
    pub status: Option<i32>,
    /// What happened, without secrets and content.
    pub detail: Option<String>,
    /// Of the request, where one was made.
    pub duration_ms: Option<i64>,
    /// When the next turn is due.
    pub next_at_ms: Option<i64>,
    /// Partition of its record in chat.deliveries.
    pub log_partition: i32,
    /// Offset there.
    pub log_offset: i64,
}

/// Where a page of failed turns ends: the last one on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTurnCursor {
    /// When it began; milliseconds.
    pub at_ms: i64,
    /// Its partition.
    pub log_partition: i32,
    /// Its offset.
    pub log_offset: i64,
}

impl FailedTurn {
    /// Its place in the list.
    pub fn cursor(&self) -> FailedTurnCursor {
        FailedTurnCursor {
            at_ms: self.at_ms,
            log_partition: self.log_partition,
            log_offset: self.log_offset,
        }
    }
}

/// Most rows of a series.
const MAX_POINTS: u32 = 50_000;
/// A delivery that waits has had its last turn within this time: so long waiting deliveries are kept.
const WAITING_DAYS: u32 = 30;

/// What the rows of `h` come to.
const FIGURES: &str = "
    sum(h.turns) AS turns, sum(h.attempts) AS attempts, sum(h.delivered) AS delivered,
    sum(h.retrying) AS retrying, sum(h.given_up) AS given_up, sum(h.withheld) AS withheld,
    sum(h.failed) AS failed,
    CAST(arraySort(arrayZip(mapKeys(sumMap(h.failures)), mapValues(sumMap(h.failures)))), 'Array(Tuple(String, UInt64))') AS failures,
    arrayFilter(ms -> isFinite(ms), quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.request_latency)) AS request_ms,
    arrayFilter(ms -> isFinite(ms), quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.delivery_delay)) AS delay_ms";

impl Span {
    /// Deliveries by the unit: the table, its column of time, and the condition for the window.
    fn deliveries(&self) -> (&'static str, &'static str, String) {
        let rollup = "delivery_rollup AS h FINAL";
        match self.unit {
            Unit::Minute => ("delivery_health AS h", "h.minute", self.on("h.minute")),
            Unit::Hour => (
                rollup,
                "h.at",
                format!("h.unit = 'hour' AND {}", self.on("h.at")),
            ),
            Unit::Day => (
                rollup,
                "h.at",
                format!("h.unit = 'day' AND {}", self.on("h.at")),
            ),
        }
    }
}

impl Store {
    /// The tenant's destinations, by name; also those that have left the tenants file.
    pub async fn destinations(&self, tenant: &str) -> Result<Vec<DestinationInfo>, StoreError> {
        let query = self.client.query(
            "SELECT toString(destination) AS destination, toString(kind) AS kind,
                    CAST(event_types, 'Array(String)') AS event_types, is_configured,
                    toUnixTimestamp64Milli(since) AS since_ms,
                    toUnixTimestamp64Milli(failing_since) AS failing_since_ms,
                    toUnixTimestamp64Milli(disabled_at) AS disabled_at_ms,
                    CAST(reason, 'Nullable(String)') AS reason
             FROM destination_states WHERE tenant = ? ORDER BY destination",
        );
        let query = brief(query.bind(tenant));
        self.within("reading destinations", query.fetch_all()).await
    }

    /// Deliveries whose turns began in the span: of the tenant, of each destination, and of each type of each
    /// destination. By hour and day as of the last roll-up.
    pub async fn delivery_figures(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<DeliveryFigures>, StoreError> {
        let (table, column, inside) = span.deliveries();
        let sql = format!(
            "SELECT toNullable(toString(h.destination)) AS destination,
                    toNullable(toString(h.event_type)) AS event_type, {FIGURES},
                    toInt64(toUnixTimestamp(max({column}))) * 1000 AS last_ms
             FROM {table}
             WHERE h.tenant = ? AND {inside}
             GROUP BY GROUPING SETS ((destination, event_type), (destination), ())
             HAVING turns > 0
             ORDER BY destination NULLS FIRST, event_type NULLS FIRST
             SETTINGS group_by_use_nulls = 1"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading deliveries", query.fetch_all()).await
    }

    /// Deliveries over time per destination and `event_type`, an expression.
    async fn delivery_points(
        &self,
        tenant: &str,
        span: Span,
        event_type: &str,
    ) -> Result<Vec<DeliveryPoint>, StoreError> {
        let (table, column, inside) = span.deliveries();
        let sql = format!(
            "SELECT at_ms, destination, event_type, attempts, delivered, failed, given_up, withheld, failures,
                    request_ms, delay_ms
             FROM (
                 SELECT toInt64(toUnixTimestamp({column})) * 1000 AS at_ms, toString(h.destination) AS destination,
                        {event_type} AS event_type, {FIGURES}
                 FROM {table}
                 WHERE h.tenant = ? AND {inside}
                 GROUP BY at_ms, destination, event_type)
             ORDER BY destination, event_type, at_ms LIMIT {MAX_POINTS}"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading deliveries over time", query.fetch_all())
            .await
    }

    /// Deliveries over time per destination; at most 50,000 points, and none for a unit without a turn.
    pub async fn delivery_series(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<DeliveryPoint>, StoreError> {
        self.delivery_points(tenant, span, "''").await
    }

    /// The same per destination and event type.
    pub async fn delivery_type_series(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<DeliveryPoint>, StoreError> {
        let event_type = "toString(h.event_type)";
        self.delivery_points(tenant, span, event_type).await
    }

    /// Deliveries that wait for their next turn, at the moment.
    pub async fn pending_deliveries(
        &self,
        tenant: &str,
    ) -> Result<Vec<PendingDeliveries>, StoreError> {
        let recent = format!("tenant = ? AND at >= now() - INTERVAL {WAITING_DAYS} DAY");
        let sql = format!(
            "SELECT toString(destination) AS destination, event_type, count() AS pending,
                    toUnixTimestamp64Milli(min(received_at)) AS oldest_received_ms
             FROM (
                 SELECT destination, delivery_id, received_at, toString(any(event_type)) AS event_type,
                        argMax(result, (replayed, if(replayed, 0, attempt), at, log_offset)) AS last, countIf(result = 'delivered') AS deliveries
                 FROM deliveries FINAL
                 WHERE {recent} AND delivery_id IN (
                     SELECT delivery_id FROM deliveries WHERE {recent} AND result = 'retrying')
                 GROUP BY destination, delivery_id, received_at)
             WHERE last = 'retrying' AND deliveries = 0
             GROUP BY destination, event_type ORDER BY destination, event_type"
        );
        let query = brief(self.client.query(&sql).bind(tenant).bind(tenant));
        self.within("reading waiting deliveries", query.fetch_all())
            .await
    }

    /// Events of the tenant that were accepted in the span, by type and unit.
    pub async fn accepted_by_type(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<AcceptedPoint>, StoreError> {
        let (table, column, inside) = span.health();
        let sql = format!(
            "SELECT toInt64(toUnixTimestamp({column})) * 1000 AS at_ms, toString(h.event_type) AS event_type,
                    sum(h.accepted) AS accepted
             FROM {table} AS h
             WHERE h.tenant = ? AND {inside}
             GROUP BY at_ms, event_type HAVING accepted > 0 ORDER BY event_type, at_ms LIMIT {MAX_POINTS}"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading what was accepted", query.fetch_all())
            .await
    }

    /// Turns of the window that did not deliver, newest first, after a place in that list, at most so many.
    pub async fn failed_turns(
        &self,
        tenant: &str,
        window: Window,
        (after, limit): (Option<&FailedTurnCursor>, u32),
    ) -> Result<Vec<FailedTurn>, StoreError> {
        let place = after.copied().unwrap_or(FailedTurnCursor {
            at_ms: window.until_ms,
            log_partition: i32::MAX,
            log_offset: i64::MAX,
        });
        let time = |what: &str| format!("fromUnixTimestamp64Milli(toInt64({what}), 'UTC')");
        let sql = format!(
            "SELECT toUnixTimestamp64Milli(d.at) AS at_ms, toString(d.destination) AS destination,
                    toString(d.event_type) AS event_type, d.delivery_id AS delivery_id, d.attempt AS attempt,
                    toString(d.result) AS result, toString(assumeNotNull(d.failure)) AS failure,
                    d.status AS status, d.detail AS detail, d.duration_ms AS duration_ms,
                    toUnixTimestamp64Milli(d.next_at) AS next_at_ms, d.log_partition AS log_partition,
                    d.log_offset AS log_offset
             FROM deliveries AS d FINAL
             WHERE d.tenant = ? AND d.at >= {since} AND d.at < {until} AND d.at <= {place}
               AND d.result != 'delivered'
               AND (d.at, d.log_partition, d.log_offset) < ({place}, ?, ?)
             ORDER BY d.at DESC, d.log_partition DESC, d.log_offset DESC LIMIT ?",
            since = time("?"),
            until = time("?"),
            place = time("?"),
        );
        let query = self.client.query(&sql).bind(tenant);
        let query = query.bind(window.since_ms).bind(window.until_ms);
        let query = query.bind(place.at_ms).bind(place.at_ms);
        let query = query.bind(place.log_partition).bind(place.log_offset);
        let query = brief(query.bind(limit));
        self.within("reading failed deliveries", query.fetch_all())
            .await
    }
}

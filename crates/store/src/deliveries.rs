//! Table `deliveries`: attempts to deliver events, and what is asked of them.

use std::collections::HashMap;

use chatpulse_model::{Delivery, FailureClass, delivery::DestinationState};
use clickhouse::{Row, query::Query};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;

/// One row of `deliveries`: the fields of [`Delivery`] under their own names, and where its record stands in
/// `chat.deliveries`. Times are milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, PartialEq, Row, Serialize)]
#[allow(missing_docs)] // each field is documented at its namesake in `Delivery`
pub struct DeliveryRow<'a> {
    pub tenant: &'a str,
    pub destination: &'a str,
    pub kind: &'a str,
    pub source: &'a str,
    pub event_type: &'a str,
    pub event_id: &'a str,
    pub delivery_id: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub occurred_at: i64,
    pub received_at: i64,
    pub attempt: i32,
    pub at: i64,
    pub duration_ms: Option<i64>,
    pub result: &'a str,
    pub failure: Option<&'a str>,
    pub status: Option<i32>,
    pub detail: Option<&'a str>,
    pub next_at: Option<i64>,
    pub replayed: bool,
    pub log_partition: i32,
    pub log_offset: i64,
}

impl<'a> DeliveryRow<'a> {
    /// The row of the record at `(partition, offset)` of `chat.deliveries`.
    pub fn new((log_partition, log_offset): (i32, i64), delivery: &'a Delivery) -> Self {
        Self {
            tenant: &delivery.tenant,
            destination: &delivery.destination,
            kind: delivery.kind.as_str(),
            source: &delivery.source,
            event_type: &delivery.event_type,
            event_id: &delivery.event_id,
            delivery_id: &delivery.delivery_id,
            partition: delivery.partition,
            offset: delivery.offset,
            occurred_at: delivery.occurred_at,
            received_at: delivery.received_at,
            attempt: delivery.attempt,
            at: delivery.at,
            duration_ms: delivery.duration_ms,
            result: delivery.result.as_str(),
            failure: delivery.failure.map(FailureClass::as_str),
            status: delivery.status,
            detail: delivery.detail.as_deref(),
            next_at: delivery.next_at,
            replayed: delivery.replayed,
            log_partition,
            log_offset,
        }
    }
}

/// One row of `destinations`: the fields of [`DestinationState`] under their own names, and offset and time of
/// its record in `chat.destinations`, of which the highest counts.
#[derive(Debug, Clone, PartialEq, Row, Serialize)]
#[allow(missing_docs)] // each field is documented at its namesake in `DestinationState`
pub struct DestinationRow<'a> {
    pub tenant: &'a str,
    pub destination: &'a str,
    pub kind: &'a str,
    pub event_types: &'a [String],
    pub is_configured: bool,
    pub failing_since: Option<i64>,
    pub disabled_at: Option<i64>,
    pub reason: Option<&'a str>,
    pub said_at: i64,
    pub log_offset: i64,
}

impl<'a> DestinationRow<'a> {
    /// The row of the record at `log_offset` of `chat.destinations`, written at `said_at`.
    pub fn new((log_offset, said_at): (i64, i64), state: &'a DestinationState) -> Self {
        Self {
            tenant: &state.tenant,
            destination: &state.destination,
            kind: state.kind.as_str(),
            event_types: &state.event_types,
            is_configured: state.is_configured,
            failing_since: state.failing_since,
            disabled_at: state.disabled_at,
            reason: state.reason.as_deref(),
            said_at,
            log_offset,
        }
    }
}

/// Which deliveries are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// To this destination.
    pub destination: Option<String>,
    /// With this result: `delivered`, `retrying`, `given_up`, `withheld`.
    pub result: Option<String>,
    /// Of events received from this time on; milliseconds since the epoch.
    pub from_ms: i64,
    /// And before this one.
    pub to_ms: i64,
}

/// What became of a delivery so far.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct DeliveryState {
    /// Tenant.
    pub tenant: String,
    /// Destination.
    pub destination: String,
    /// Its stable id.
    pub delivery_id: String,
    /// Kind of the destination.
    pub kind: String,
    /// Neutral type of the event.
    pub event_type: String,
    /// Its id.
    pub event_id: String,
    /// Partition of its raw record.
    pub partition: i32,
    /// Offset of its raw record.
    pub offset: i64,
    /// When the producer received it; milliseconds since the epoch.
    pub received_at_ms: i64,
    /// When the last turn began; milliseconds since the epoch.
    pub last_at_ms: i64,
    /// Requests made.
    pub attempts: u64,
    /// `delivered`, `retrying`, `given_up` or `withheld`.
    pub result: String,
    /// Class of the last failure.
    pub failure: Option<String>,
    /// What happened last.
    pub detail: Option<String>,
}

impl DeliveryState {
    /// Its place in the list.
    pub fn cursor(&self) -> DeliveryCursor {
        DeliveryCursor {
            delivery_id: self.delivery_id.clone(),
            received_at_ms: self.received_at_ms,
        }
    }
}

/// Tenant, source and conversation.
pub type ConversationKey = (String, String, String);

/// A place in the list of deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryCursor {
    /// Id of the last delivery before it.
    pub delivery_id: String,
    /// When the event of that was received; milliseconds since the epoch.
    pub received_at_ms: i64,
}

/// The deliveries of a filter.
const STATES: &str = "
SELECT tenant, destination, delivery_id, kind, event_type, event_id, partition, offset,
       toUnixTimestamp64Milli(received_at) AS received_at_ms,
       toUnixTimestamp64Milli(last_at) AS last_at_ms,
       attempts, result, failure, detail
FROM delivery_states
WHERE (? = '' OR tenant = ?) AND (? = '' OR destination = ?) AND (? = '' OR result = ?)
  AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
  AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')";

/// The same from a place on, in the order of ids.
const IN_ORDER: &str = "
  AND (delivery_id, received_at) > (?, fromUnixTimestamp64Milli(toInt64(?), 'UTC'))
ORDER BY delivery_id, received_at
LIMIT ?";

/// The latest of them.
const LATEST_FIRST: &str = "
ORDER BY last_at DESC, delivery_id, received_at
LIMIT ?";

impl Store {
    /// Inserts attempts. Repeating a call changes nothing that is read with FINAL.
    ///
    /// # Errors
    /// [`StoreError`], with its disposition.
    pub async fn insert_deliveries(&self, rows: &[DeliveryRow<'_>]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let insert = async {
            let mut insert = self.client.insert::<DeliveryRow<'_>>("deliveries").await?;
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        };
        let inserted = self.within("inserting deliveries", insert).await;
        if inserted.is_err() {
            self.client.clear_cached_metadata().await;
        }
        inserted
    }

    /// Writes what deliverers say of destinations. Repeating a call changes nothing that is read with FINAL.
    ///
    /// # Errors
    /// [`StoreError`], with its disposition.
    pub async fn insert_destinations(&self, rows: &[DestinationRow<'_>]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let insert = async {
            let mut insert = self
                .client
                .insert::<DestinationRow<'_>>("destinations")
                .await?;
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        };
        let inserted = self.within("inserting destinations", insert).await;
        if inserted.is_err() {
            self.client.clear_cached_metadata().await;
        }
        inserted
    }

    /// What became of deliveries, in the order of their ids, after a place in that list.
    ///
    /// # Errors
    /// [`StoreError`], with its disposition.
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: &DeliveryCursor,
        limit: u32,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        let query = self
            .delivery_states(filter, IN_ORDER)
            .bind(&after.delivery_id)
            .bind(after.received_at_ms)
            .bind(limit);
        self.within("reading deliveries", query.fetch_all()).await
    }

    /// What became of deliveries, those first that had the latest turn.
    ///
    /// # Errors
    /// [`StoreError`], with its disposition.
    pub async fn latest_deliveries(
        &self,
        filter: &DeliveryFilter,
        limit: u32,
    ) -> Result<Vec<DeliveryState>, StoreError> {
        let query = self.delivery_states(filter, LATEST_FIRST).bind(limit);
        self.within("reading deliveries", query.fetch_all()).await
    }

    /// The last word on consent in each of these conversations: whether it was accepted. None of one in which
    /// nothing was said of it.
    ///
    /// # Errors
    /// [`StoreError`], with its disposition.
    pub async fn consents(
        &self,
        conversations: &[ConversationKey],
    ) -> Result<HashMap<ConversationKey, bool>, StoreError> {
        if conversations.is_empty() {
            return Ok(HashMap::new());
        }
        let query = self.client.query(
            "SELECT tenant, source, assumeNotNull(conversation_id) AS conversation,
                    argMax(event_type = 'consent.accepted', (partition, offset)) AS is_accepted
             FROM events
             WHERE outcome = 'accepted' AND event_type IN ('consent.accepted', 'consent.declined')
               AND (tenant, source, ifNull(conversation_id, '')) IN ?
             GROUP BY tenant, source, conversation",
        );
        let words: Vec<(String, String, String, bool)> = self
            .within(
                "reading what was said of consent",
                query.bind(conversations).fetch_all(),
            )
            .await?;
        let words = words.into_iter();
        Ok(words
            .map(|(tenant, source, conversation, word)| ((tenant, source, conversation), word))
            .collect())
    }

    fn delivery_states(&self, filter: &DeliveryFilter, part: &str) -> Query {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let mut query = self.client.query(&format!("{STATES}{part}"));
        for value in [&filter.tenant, &filter.destination, &filter.result] {
            query = query.bind(text(value)).bind(text(value));
        }
        query.bind(filter.from_ms).bind(filter.to_ms)
    }
}

//! What became of the events of one page session, one by one.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Window;
use crate::Store;
use crate::error::StoreError;

/// How far an event's own time may lie before its receipt to be found: events that a browser kept while
/// it had no network. Milliseconds.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// One outcome of a page session. Nothing of the event's content.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct SessionEvent {
    /// Partition of chat.raw.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// When it was received; milliseconds.
    pub received_ms: i64,
    /// Number in the session, from 1.
    pub sequence: Option<i64>,
    /// Source.
    pub source: String,
    /// The vendor's event name; empty where it has none.
    pub source_event: String,
    /// Neutral type.
    pub event_type: String,
    /// accepted, duplicate or rejected.
    pub outcome: String,
    /// Why it was rejected; else empty.
    pub reason: String,
    /// What was wrong and what to do, without content; else empty.
    pub detail: String,
}

impl Store {
    /// The newest events of a page session that were received in the window, newest first.
    pub async fn session_events(
        &self,
        (tenant, session): (&str, &str),
        window: Window,
        limit: u32,
    ) -> Result<Vec<SessionEvent>, StoreError> {
        // The table is ordered by the events' own time: with it, most of a large tenant is not read.
        let query = self
            .client
            .query(
                "SELECT partition, offset, toUnixTimestamp64Milli(received_at) AS received_ms, sequence,
                        source, source_event, event_type, outcome,
                        ifNull(reason, '') AS reason, ifNull(detail, '') AS detail
                 FROM events
                 WHERE tenant = ? AND session_id = ?
                   AND occurred_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 ORDER BY received_ms DESC, sequence DESC, partition, offset LIMIT ?",
            )
            .bind(tenant)
            .bind(session)
            .bind(window.since_ms.saturating_sub(KEPT_MS))
            .bind(window.since_ms)
            .bind(window.until_ms)
            .bind(limit);
        self.within("reading a session's events", query.fetch_all())
            .await
    }
}

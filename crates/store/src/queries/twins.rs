//! Events that should come both from the page and from the vendor's server.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Unit, Window, brief};
use crate::Store;
use crate::error::StoreError;

/// Event ids of one source that came from page and server, or one way only. Of the event types that came both
/// ways at least once: others are not known to have a twin.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct TwinCount {
    /// Source.
    pub source: String,
    /// Event types.
    pub types: u64,
    /// Ids that came from a server.
    pub server: u64,
    /// Of these, those that came from the page as well.
    pub server_both: u64,
    /// Ids that came from the page.
    pub page: u64,
    /// Of these, those that came from a server as well.
    pub page_both: u64,
}

/// How long before the window an event type may have had its twins; days.
const REMEMBERED_DAYS: i64 = 30;

impl Store {
    /// Twins of events that occurred in the window, which begins with the hour that it begins in, by source,
    /// as of the last roll-up: the last hour or two are not in it yet.
    pub async fn twins(&self, tenant: &str, window: Window) -> Result<Vec<TwinCount>, StoreError> {
        let hours = |window| Span {
            window,
            unit: Unit::Hour,
        };
        let span = hours(window).whole();
        let before = hours(Window {
            since_ms: span.window.since_ms - REMEMBERED_DAYS * Unit::Day.ms(),
            ..window
        });
        let sql = format!(
            "SELECT toString(t.source) AS source, uniqExact(t.event_type) AS types, sum(t.server) AS server,
                    sum(t.server_both) AS server_both, sum(t.page) AS page, sum(t.page_both) AS page_both
             FROM twin_rollup AS t FINAL
             WHERE t.tenant = ? AND {} AND (t.source, t.event_type) IN (
                 SELECT source, event_type FROM twin_rollup FINAL
                 WHERE tenant = ? AND {} AND server_both + page_both > 0)
             GROUP BY source ORDER BY source",
            span.on("t.hour"),
            before.on("hour"),
        );
        let query = brief(self.client.query(&sql).bind(tenant).bind(tenant));
        self.within("reading twins", query.fetch_all()).await
    }
}

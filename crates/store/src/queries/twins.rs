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

/// An event type with twins.
#[derive(Debug, Row, Deserialize)]
struct TwinTypeRow {
    source: String,
    server: u64,
    server_both: u64,
    page: u64,
    page_both: u64,
}

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
            "SELECT source, sumIf(t.server, {inside}) AS server, sumIf(t.server_both, {inside}) AS server_both,
                    sumIf(t.page, {inside}) AS page, sumIf(t.page_both, {inside}) AS page_both
             FROM twin_rollup AS t FINAL
             WHERE tenant = ? AND {}
             GROUP BY source, event_type
             HAVING countIf({inside}) > 0 AND sum(t.server_both + t.page_both) > 0
             ORDER BY source",
            before.on("hour"),
            inside = span.on("hour"),
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        let types: Vec<TwinTypeRow> = self.within("reading twins", query.fetch_all()).await?;
        let of_source = |types: &[TwinTypeRow]| {
            let sum = |of: fn(&TwinTypeRow) -> u64| types.iter().map(of).sum();
            TwinCount {
                source: types[0].source.clone(),
                types: types.len() as u64,
                server: sum(|row| row.server),
                server_both: sum(|row| row.server_both),
                page: sum(|row| row.page),
                page_both: sum(|row| row.page_both),
            }
        };
        Ok(types
            .chunk_by(|one, other| one.source == other.source)
            .map(of_source)
            .collect())
    }
}

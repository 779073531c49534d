//! Which keys the events of a type have, by day of receipt.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, brief};
use crate::Store;
use crate::error::StoreError;

/// A key of an event type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyHealth {
    /// Source.
    pub source: String,
    /// Neutral type.
    pub event_type: String,
    /// Field of `events`, or `properties.<name>`.
    pub key: String,
    /// Accepted events of the type in the span.
    pub events: u64,
    /// Of these with the key.
    pub with_key: u64,
    /// Accepted events of the type in the baseline.
    pub baseline_events: u64,
    /// Of these with the key.
    pub baseline_with_key: u64,
}

/// Most keys that a report is told of.
const MAX_KEYS: u32 = 10_000;

impl Store {
    /// The keys of every type in span and baseline, by whole days of receipt; at most 10,000.
    pub async fn key_health(
        &self,
        tenant: &str,
        span: Span,
        baseline: Span,
    ) -> Result<Vec<KeyHealth>, StoreError> {
        let (inside, before) = (span.on_days("k.day"), baseline.on_days("k.day"));
        let sql = format!(
            "SELECT k.source AS source, k.event_type AS event_type, k.key AS key,
                    sumIf(k.events, {inside}) AS now, sumIf(k.events, {before}) AS earlier
             FROM event_keys AS k
             WHERE k.tenant = ? AND (({inside}) OR ({before}))
             GROUP BY source, event_type, key
             ORDER BY source, event_type, key
             LIMIT {MAX_KEYS}"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        let rows: Vec<KeyRow> = self
            .within("reading keys of events", query.fetch_all())
            .await?;
        Ok(keys(rows))
    }
}

/// Accepted events with a key, or all of the type where the key is empty.
#[derive(Debug, Row, Deserialize)]
struct KeyRow {
    source: String,
    event_type: String,
    key: String,
    now: u64,
    earlier: u64,
}

/// Of rows by source, type and key: a type's own row comes before its keys.
fn keys(rows: Vec<KeyRow>) -> Vec<KeyHealth> {
    let mut every = None;
    let mut keys = Vec::with_capacity(rows.len());
    for row in rows {
        if row.key.is_empty() {
            every = Some(row);
            continue;
        }
        let of_type = every.as_ref().filter(|every: &&KeyRow| {
            (&every.source, &every.event_type) == (&row.source, &row.event_type)
        });
        keys.push(KeyHealth {
            events: of_type.map_or(0, |every| every.now),
            baseline_events: of_type.map_or(0, |every| every.earlier),
            source: row.source,
            event_type: row.event_type,
            key: row.key,
            with_key: row.now,
            baseline_with_key: row.earlier,
        });
    }
    keys
}

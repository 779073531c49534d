//! Which keys the events of a type have, by day of receipt.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, brief};
use crate::Store;
use crate::error::StoreError;

/// A key of an event type.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
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
            "SELECT source, event_type, c.1 AS key, every.2 AS events, c.2 AS with_key,
                    every.3 AS baseline_events, c.3 AS baseline_with_key
             FROM (
                 SELECT source, event_type, groupArray((key, now, earlier)) AS counted,
                        arrayFirst(c -> c.1 = '', counted) AS every
                 FROM (
                     SELECT k.source AS source, k.event_type AS event_type, k.key AS key,
                            sumIf(k.events, {inside}) AS now, sumIf(k.events, {before}) AS earlier
                     FROM event_keys AS k
                     WHERE k.tenant = ? AND (({inside}) OR ({before}))
                     GROUP BY source, event_type, key)
                 GROUP BY source, event_type)
             ARRAY JOIN counted AS c
             WHERE key != ''
             ORDER BY source, event_type, key
             LIMIT {MAX_KEYS}"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading keys of events", query.fetch_all())
            .await
    }
}

//! Which keys the events of a type have, by day of receipt.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Span;
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
        let query = self
            .client
            .query(
                "WITH
                     toInt64(toUnixTimestamp(toDateTime(k.day, 'UTC'))) * 1000 AS at,
                     at >= ? AND at < ? AS inside,
                     at >= ? AND at < ? AS before,
                     counted AS (
                         SELECT k.source AS source, k.event_type AS event_type, k.key AS key,
                                sumIf(k.events, inside) AS now, sumIf(k.events, before) AS earlier
                         FROM event_keys AS k
                         WHERE k.tenant = ? AND (inside OR before)
                         GROUP BY source, event_type, key)
                 SELECT c.source AS source, c.event_type AS event_type, c.key AS key,
                        a.now AS events, c.now AS with_key,
                        a.earlier AS baseline_events, c.earlier AS baseline_with_key
                 FROM counted AS c
                 INNER JOIN counted AS a ON a.source = c.source AND a.event_type = c.event_type
                 WHERE a.key = '' AND c.key != ''
                 ORDER BY source, event_type, key
                 LIMIT ?",
            )
            .bind(span.window.since_ms)
            .bind(span.window.until_ms)
            .bind(baseline.window.since_ms)
            .bind(baseline.window.until_ms)
            .bind(tenant)
            .bind(MAX_KEYS);
        self.within("reading keys of events", query.fetch_all())
            .await
    }
}

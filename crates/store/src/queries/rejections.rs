//! What was refused, by reason and one by one.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Window;
use crate::Store;
use crate::error::StoreError;

/// Rejections of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct RejectionCount {
    /// Source.
    pub source: String,
    /// Reason.
    pub reason: String,
    /// How many.
    pub rejected: u64,
    /// The last one.
    pub last_received_ms: i64,
}

/// One rejected record.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct Rejected {
    /// Partition of chat.raw.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// Source.
    pub source: String,
    /// When it was received.
    pub received_ms: i64,
    /// Reason.
    pub reason: String,
    /// What was wrong, without content.
    pub detail: String,
    /// The vendor's event name, or empty.
    pub source_event: String,
    /// Size as received; bytes.
    pub bytes: Option<i64>,
    /// Hash as received; lower-case hex.
    pub sha256: Option<String>,
}

impl Store {
    /// Rejections of the window by source and reason.
    pub async fn rejections_by_reason(
        &self,
        tenant: &str,
        window: Window,
    ) -> Result<Vec<RejectionCount>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT source, reason, count() AS rejected,
                        toUnixTimestamp64Milli(max(received_at)) AS last_received_ms
                 FROM rejections
                 WHERE tenant = ? AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 GROUP BY source, reason ORDER BY rejected DESC, source, reason",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        self.within("reading rejections", query.fetch_all()).await
    }

    /// The newest rejections of the window, newest first.
    pub async fn recent_rejections(
        &self,
        tenant: &str,
        window: Window,
        limit: u32,
    ) -> Result<Vec<Rejected>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT partition, offset, source, toUnixTimestamp64Milli(received_at) AS received_ms,
                        reason, detail, source_event, bytes, sha256
                 FROM rejections
                 WHERE tenant = ? AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                 ORDER BY received_at DESC, partition, offset LIMIT ?",
            )
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms)
            .bind(limit);
        self.within("reading rejections", query.fetch_all()).await
    }
}

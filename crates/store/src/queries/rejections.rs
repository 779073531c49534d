//! What was refused, by reason and one by one.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Unit, Window, brief};
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

/// Where a page of rejections ends: the last one on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedCursor {
    /// When it was received; milliseconds.
    pub received_ms: i64,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

impl Store {
    /// Rejected records of the tenant that were received in the span, the most frequent first.
    pub async fn rejections_by_reason(
        &self,
        tenant: &str,
        span: Span,
    ) -> Result<Vec<RejectionCount>, StoreError> {
        let (table, count, last, inside) = match span.unit {
            Unit::Minute => (
                "rejections",
                "count()",
                "received_at",
                span.on("received_at"),
            ),
            Unit::Hour | Unit::Day => (
                "rejections_hour",
                "sum(r.rejected)",
                "last_received_at",
                span.on("hour"),
            ),
        };
        let sql = format!(
            "SELECT r.source AS source, r.reason AS reason, {count} AS rejected,
                    toUnixTimestamp64Milli(max(r.{last})) AS last_received_ms
             FROM {table} AS r
             WHERE r.tenant = ? AND {inside}
             GROUP BY source, reason ORDER BY rejected DESC, source, reason"
        );
        let query = brief(self.client.query(&sql).bind(tenant));
        self.within("reading rejections", query.fetch_all()).await
    }

    /// Rejections of the window, newest first, after `cursor`.
    pub async fn recent_rejections(
        &self,
        tenant: &str,
        window: Window,
        (cursor, limit): (Option<&RejectedCursor>, u32),
    ) -> Result<Vec<Rejected>, StoreError> {
        let after = match cursor {
            Some(_) => {
                "AND (toUnixTimestamp64Milli(received_at), -partition, -offset) < (toInt64(?), -toInt64(?), -toInt64(?))"
            }
            None => "",
        };
        let sql = format!(
            "SELECT partition, offset, source, toUnixTimestamp64Milli(received_at) AS received_ms,
                    reason, detail, source_event, bytes, sha256
             FROM rejections
             WHERE tenant = ? AND received_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
               AND received_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC') {after}
             ORDER BY received_ms DESC, partition, offset LIMIT ?"
        );
        let mut query = (self.client.query(&sql))
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        if let Some(cursor) = cursor {
            query = query
                .bind(cursor.received_ms)
                .bind(cursor.partition)
                .bind(cursor.offset);
        }
        let query = query.bind(limit);
        self.within("reading rejections", brief(query).fetch_all())
            .await
    }
}

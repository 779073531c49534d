//! What was refused, without its content.

use chatpulse_store::{Rejected, RejectedCursor, RejectionCount, StoreError};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Reports;
use crate::period::{Period, timestamp};

/// Rejections of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RejectionCount)]
pub struct Reason {
    /// Source.
    pub source: String,
    /// Reason.
    pub reason: String,
    /// How many.
    pub rejected: u64,
    /// The last one.
    pub last_received: Timestamp,
}

/// One rejected record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Rejection)]
pub struct Failure {
    /// When it was received.
    pub received_at: Timestamp,
    /// Source.
    pub source: String,
    /// The vendor's event name; empty where it has none.
    pub source_event: String,
    /// Reason.
    pub reason: String,
    /// What was wrong and what to do, without content.
    pub detail: String,
    /// Size as received; bytes.
    pub bytes: Option<i64>,
    /// Hash as received, lower-case hex, by which the sender can find it.
    pub sha256: Option<String>,
    /// Partition of chat.raw.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

impl From<RejectionCount> for Reason {
    fn from(row: RejectionCount) -> Reason {
        Reason {
            source: row.source,
            reason: row.reason,
            rejected: row.rejected,
            last_received: timestamp(row.last_received_ms),
        }
    }
}

impl From<Rejected> for Failure {
    fn from(row: Rejected) -> Failure {
        Failure {
            received_at: timestamp(row.received_ms),
            source: row.source,
            source_event: row.source_event,
            reason: row.reason,
            detail: row.detail,
            bytes: row.bytes,
            sha256: row.sha256,
            partition: row.partition,
            offset: row.offset,
        }
    }
}

impl Failure {
    /// Its place in the list of rejections.
    pub fn cursor(&self) -> RejectedCursor {
        RejectedCursor {
            received_ms: self.received_at.as_millisecond(),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

impl Reports {
    /// Rejections of the tenant in the period, newest first, after a place in that list, at most so many.
    pub async fn rejections(
        &self,
        tenant: &str,
        period: Period,
        part: (Option<&RejectedCursor>, u32),
    ) -> Result<Vec<Failure>, StoreError> {
        let window = period.delivery().window;
        let found = self.store.recent_rejections(tenant, window, part).await?;
        Ok(found.into_iter().map(Failure::from).collect())
    }
}

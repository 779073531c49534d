//! Rejections over all tenants, for the operator who mends their cause and replays them.

use std::collections::BTreeSet;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::StoreError;

/// Which rejections; `None` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectionFilter {
    /// Of this tenant; empty for records that could not be decoded.
    pub tenant: Option<String>,
    /// Of this source.
    pub source: Option<String>,
    /// With this reason.
    pub reason: Option<String>,
    /// Received at or after; milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Only those that were not replayed yet.
    pub pending_only: bool,
}

/// Where a page of rejections ends: the next one begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectionCursor {
    received_at_ms: i64,
    partition: i32,
    offset: i64,
}

/// One rejected raw record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectionRecord {
    /// Tenant; empty where the record could not be decoded.
    pub tenant: String,
    /// Source; empty where the record could not be decoded.
    pub source: String,
    /// When it was received; milliseconds since the Unix epoch.
    pub received_at_ms: i64,
    /// Partition of chat.raw.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// Why.
    pub reason: String,
    /// What was wrong, without content.
    pub detail: String,
    /// Size of the item; bytes.
    pub bytes: Option<i64>,
    /// Hash of the item, lower-case hex.
    pub sha256: Option<String>,
    /// What became of its replay: of the one that was accepted, else of the last.
    pub replayed: Option<Replayed>,
}

/// The outcome of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// `accepted`, `duplicate` or `rejected`.
    pub outcome: String,
    /// Partition of chat.raw that the replay stands in.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

impl RejectionRecord {
    /// Its place in the order of pages.
    pub fn cursor(&self) -> RejectionCursor {
        RejectionCursor {
            received_at_ms: self.received_at_ms,
            partition: self.partition,
            offset: self.offset,
        }
    }
}

#[derive(Row, Deserialize)]
struct Found {
    tenant: String,
    source: String,
    received_at_ms: i64,
    partition: i32,
    offset: i64,
    reason: String,
    detail: String,
    bytes: Option<i64>,
    sha256: Option<String>,
    replay_outcome: Option<String>,
    replay_partition: Option<i32>,
    replay_offset: Option<i64>,
}

impl From<Found> for RejectionRecord {
    fn from(found: Found) -> Self {
        let replayed = match (
            found.replay_outcome,
            found.replay_partition,
            found.replay_offset,
        ) {
            (Some(outcome), Some(partition), Some(offset)) => Some(Replayed {
                outcome,
                partition,
                offset,
            }),
            _ => None,
        };
        Self {
            tenant: found.tenant,
            source: found.source,
            received_at_ms: found.received_at_ms,
            partition: found.partition,
            offset: found.offset,
            reason: found.reason,
            detail: found.detail,
            bytes: found.bytes,
            sha256: found.sha256,
            replayed,
        }
    }
}

const REJECTIONS: &str = "
SELECT
    toString(r.tenant) AS tenant, toString(r.source) AS source,
    toUnixTimestamp64Milli(r.received_at) AS received_at_ms,
    r.partition AS partition, r.offset AS offset,
    toString(r.reason) AS reason, r.detail AS detail, r.bytes AS bytes, r.sha256 AS sha256,
    p.best_outcome AS replay_outcome, p.best_partition AS replay_partition, p.best_offset AS replay_offset
FROM rejections AS r
LEFT JOIN
(
    SELECT
        assumeNotNull(replay_of_partition) AS of_partition, assumeNotNull(replay_of_offset) AS of_offset,
        -- The one that was taken, where one was; else the last.
        argMax(toString(outcome), (outcome = 'accepted', inserted_at, offset)) AS best_outcome,
        argMax(partition, (outcome = 'accepted', inserted_at, offset)) AS best_partition,
        argMax(offset, (outcome = 'accepted', inserted_at, offset)) AS best_offset
    FROM events
    WHERE replay_of_offset IS NOT NULL
    GROUP BY of_partition, of_offset
) AS p ON p.of_partition = r.partition AND p.of_offset = r.offset
WHERE true";

impl Store {
    /// At most `limit` rejections after `after`, in the order of receipt, partition and offset.
    pub async fn rejections(
        &self,
        filter: &RejectionFilter,
        after: Option<RejectionCursor>,
        limit: u32,
    ) -> Result<Vec<RejectionRecord>, StoreError> {
        let mut sql = REJECTIONS.to_owned();
        let texts = [
            (&filter.tenant, " AND r.tenant = ?"),
            (&filter.source, " AND r.source = ?"),
            (&filter.reason, " AND r.reason = ?"),
        ];
        for (_, condition) in texts.iter().filter(|(text, _)| text.is_some()) {
            sql.push_str(condition);
        }
        if filter.pending_only {
            sql.push_str(" AND p.best_outcome IS NULL");
        }
        sql.push_str(
            " AND (toUnixTimestamp64Milli(r.received_at), r.partition, r.offset) > (?, ?, ?)
              ORDER BY received_at_ms, partition, offset LIMIT ?",
        );
        let mut query = self.client.query(&sql).with_setting("join_use_nulls", "1");
        for text in texts.iter().filter_map(|(text, _)| text.as_ref()) {
            query = query.bind(text);
        }
        let start = RejectionCursor {
            received_at_ms: filter.since_ms.unwrap_or(i64::MIN),
            partition: -1,
            offset: -1,
        };
        let after = after.unwrap_or(start);
        let query = query
            .bind(after.received_at_ms)
            .bind(after.partition)
            .bind(after.offset)
            .bind(limit);
        let found: Vec<Found> = self.within("reading rejections", query.fetch_all()).await?;
        Ok(found.into_iter().map(RejectionRecord::from).collect())
    }

    /// Which of `ids` have an accepted event.
    pub async fn accepted_ids(
        &self,
        tenant: &str,
        source: &str,
        ids: &[String],
    ) -> Result<BTreeSet<String>, StoreError> {
        let query = self
            .client
            .query(
                "SELECT DISTINCT event_id FROM events
                 WHERE tenant = ? AND source = ? AND outcome = 'accepted' AND event_id IN ?",
            )
            .bind(tenant)
            .bind(source)
            .bind(ids);
        let found: Vec<String> = self
            .within("looking for accepted events", query.fetch_all())
            .await?;
        Ok(found.into_iter().collect())
    }
}

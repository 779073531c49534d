//! Conversations one by one, newest first.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Unit, Window};
use crate::Store;
use crate::error::StoreError;

/// A conversation: facts, durations and outcome. `None` is what its source cannot show, or what did
/// not happen. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
pub struct ConversationRow {
    /// Source.
    pub source: String,
    /// Id, unique within tenant and source; the page session where the source has none.
    pub conversation_id: String,
    /// First event.
    pub started_ms: i64,
    /// Last event.
    pub last_event_ms: i64,
    /// Ended, or silent for the tenant's time.
    pub is_closed: bool,
    /// One of the six outcomes, of closed bot conversations.
    pub outcome: Option<String>,
    /// Messages of visitors.
    pub visitor_messages: Option<u64>,
    /// Messages of the bot.
    pub bot_messages: Option<u64>,
    /// Messages of human agents.
    pub agent_messages: Option<u64>,
    /// All messages seen.
    pub total_messages: Option<u64>,
    /// Highest count that the vendor reported.
    pub reported_total: Option<i64>,
    /// reported_total less total_messages.
    pub message_gap: Option<i64>,
    /// First handoff request.
    pub handoff_requested_ms: Option<i64>,
    /// First human join.
    pub human_joined_ms: Option<i64>,
    /// First visitor's message to the first answer; milliseconds.
    pub first_response_any_ms: Option<i64>,
    /// Start of waiting to the first agent's message; milliseconds.
    pub first_response_human_ms: Option<i64>,
    /// Request to human; milliseconds.
    pub time_to_human_ms: Option<i64>,
    /// Time with a human; milliseconds.
    pub handle_time_ms: Option<i64>,
    /// Start to first close; milliseconds.
    pub resolution_time_ms: Option<i64>,
    /// Goals reached, by name.
    pub goals: Vec<String>,
    /// accepted or declined.
    pub consent: Option<String>,
    /// Widgets, at most 10.
    pub widgets: Vec<String>,
    /// Languages, at most 10.
    pub languages: Vec<String>,
}

/// Where a page of conversations ends: the last one on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationCursor {
    /// Its start.
    pub started_ms: i64,
    /// Its source.
    pub source: String,
    /// Its id.
    pub conversation_id: String,
}

impl Store {
    /// Conversations of the tenant that started in the window, newest first, after `cursor`.
    pub async fn conversations(
        &self,
        tenant: &str,
        window: Window,
        (cursor, limit): (Option<&ConversationCursor>, u32),
    ) -> Result<Vec<ConversationRow>, StoreError> {
        let after = if cursor.is_some() {
            "AND (toUnixTimestamp64Milli(started_at), source, conversation_id) < (toInt64(?), ?, ?)"
        } else {
            ""
        };
        // The page is chosen by three narrow columns of those that may start in the window; only its
        // conversations are judged.
        let may_start = Span {
            window,
            unit: Unit::Hour,
        }
        .whole()
        .on("hour");
        let sql = format!(
            "WITH page AS (
                 SELECT tenant, source, conversation_id FROM (
                     SELECT f.tenant AS tenant, f.source AS source,
                            f.conversation_id AS conversation_id, min(f.started_at) AS started_at
                     FROM conversation_facts AS f
                     WHERE f.tenant = ? AND (f.tenant, f.source, f.conversation_id) IN (
                         SELECT tenant, source, id FROM conversation_starts WHERE tenant = ? AND {may_start})
                     GROUP BY tenant, source, conversation_id)
                 WHERE started_at >= fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                   AND started_at < fromUnixTimestamp64Milli(toInt64(?), 'UTC') {after}
                 ORDER BY toUnixTimestamp64Milli(started_at) DESC, source DESC, conversation_id DESC
                 LIMIT ?)
             SELECT toString(c.source) AS source, c.conversation_id AS conversation_id,
                    toUnixTimestamp64Milli(c.started_at) AS started_ms,
                    toUnixTimestamp64Milli(c.last_event_at) AS last_event_ms,
                    toBool(c.is_closed) AS is_closed,
                    CAST(c.outcome AS Nullable(String)) AS outcome,
                    CAST(c.visitor_messages AS Nullable(UInt64)) AS visitor_messages,
                    CAST(c.bot_messages AS Nullable(UInt64)) AS bot_messages,
                    CAST(c.agent_messages AS Nullable(UInt64)) AS agent_messages,
                    CAST(c.total_messages AS Nullable(UInt64)) AS total_messages,
                    CAST(c.reported_total AS Nullable(Int64)) AS reported_total,
                    CAST(c.message_gap AS Nullable(Int64)) AS message_gap,
                    toUnixTimestamp64Milli(c.first_handoff_request_at) AS handoff_requested_ms,
                    toUnixTimestamp64Milli(c.first_human_join_at) AS human_joined_ms,
                    CAST(c.first_response_any_ms AS Nullable(Int64)) AS first_response_any_ms,
                    CAST(c.first_response_human_ms AS Nullable(Int64)) AS first_response_human_ms,
                    CAST(c.time_to_human_ms AS Nullable(Int64)) AS time_to_human_ms,
                    CAST(c.handle_time_ms AS Nullable(Int64)) AS handle_time_ms,
                    CAST(c.resolution_time_ms AS Nullable(Int64)) AS resolution_time_ms,
                    c.goals AS goals,
                    CAST(c.consent AS Nullable(String)) AS consent,
                    arraySlice(arraySort(c.widgets), 1, 10) AS widgets,
                    arraySlice(arraySort(c.languages), 1, 10) AS languages
             FROM conversations AS c
             WHERE (c.tenant, c.source, c.conversation_id) IN (SELECT tenant, source, conversation_id FROM page)
             ORDER BY started_ms DESC, source DESC, conversation_id DESC"
        );
        let mut query = self
            .client
            .query(&sql)
            .bind(tenant)
            .bind(tenant)
            .bind(window.since_ms)
            .bind(window.until_ms);
        if let Some(cursor) = cursor {
            query = query
                .bind(cursor.started_ms)
                .bind(&cursor.source)
                .bind(&cursor.conversation_id);
        }
        let query = query.bind(limit);
        self.within("reading conversations", query.fetch_all())
            .await
    }
}

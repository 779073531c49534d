//! Conversations one by one, newest first.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::{Span, Unit, Window, brief};
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
    /// Conversations of the tenant that started in the window, newest first, after `cursor`, as of the
    /// last roll-up.
    pub async fn conversations(
        &self,
        tenant: &str,
        window: Window,
        (cursor, limit): (Option<&ConversationCursor>, u32),
    ) -> Result<Vec<ConversationRow>, StoreError> {
        let after = if cursor.is_some() {
            "AND (started_ms, l.source, c.conversation_id) < (toInt64(?), ?, ?)"
        } else {
            ""
        };
        let Window { since_ms, until_ms } = window;
        let until_ms = cursor.map_or(until_ms, |cursor| until_ms.min(cursor.started_ms + 1));
        let left = Window { since_ms, until_ms };
        let since_hour_ms = self.hours_of_page(tenant, left, limit).await?;
        let hours = Span {
            window: Window {
                since_ms: since_hour_ms,
                until_ms,
            },
            unit: Unit::Hour,
        }
        .on("hour");
        let sql = format!(
            "SELECT toString(l.source) AS source, c.conversation_id AS conversation_id,
                    toUnixTimestamp64Milli(c.started_at) AS started_ms,
                    toUnixTimestamp64Milli(c.last_event_at) AS last_event_ms,
                    c.is_closed AS is_closed,
                    CAST(c.outcome AS Nullable(String)) AS outcome,
                    c.visitor_messages AS visitor_messages,
                    c.bot_messages AS bot_messages,
                    c.agent_messages AS agent_messages,
                    c.total_messages AS total_messages,
                    c.reported_total AS reported_total,
                    c.message_gap AS message_gap,
                    toUnixTimestamp64Milli(c.handoff_requested_at) AS handoff_requested_ms,
                    toUnixTimestamp64Milli(c.human_joined_at) AS human_joined_ms,
                    c.first_response_any_ms AS first_response_any_ms,
                    c.first_response_human_ms AS first_response_human_ms,
                    c.time_to_human_ms AS time_to_human_ms,
                    c.handle_time_ms AS handle_time_ms,
                    c.resolution_time_ms AS resolution_time_ms,
                    c.goals AS goals,
                    CAST(c.consent AS Nullable(String)) AS consent,
                    c.widgets AS widgets,
                    c.languages AS languages
             FROM (SELECT source, conversations FROM conversation_lists FINAL WHERE tenant = ? AND {hours}) AS l
             ARRAY JOIN l.conversations AS c
             WHERE started_ms >= {since_ms} AND started_ms < {until_ms} {after}
             ORDER BY started_ms DESC, source DESC, conversation_id DESC
             LIMIT ?"
        );
        let mut query = brief(self.client.query(&sql).bind(tenant));
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

    /// From which hour on the newest `limit` conversations that started in the window are found: only as
    /// many hours are read as a page needs.
    async fn hours_of_page(
        &self,
        tenant: &str,
        window: Window,
        limit: u32,
    ) -> Result<i64, StoreError> {
        let left = Span {
            window,
            unit: Unit::Hour,
        };
        let query = self.client.query(&format!(
            "SELECT toInt64(toUnixTimestamp(hour)) * 1000 AS hour_ms, sum(size) AS size
             FROM conversation_lists FINAL
             WHERE tenant = ? AND {} GROUP BY hour ORDER BY hour DESC",
            left.whole().on("hour")
        ));
        let query = brief(query.bind(tenant));
        let sizes: Vec<(i64, u64)> = self
            .within("counting conversations", query.fetch_all())
            .await?;
        let mut lacking = u64::from(limit);
        for &(hour_ms, size) in &sizes {
            // An hour that the window ends in counts for nothing: nobody knows how many of it are wanted.
            if hour_ms + Unit::Hour.ms() <= window.until_ms {
                lacking = lacking.saturating_sub(size);
            }
            if lacking == 0 {
                return Ok(hour_ms);
            }
        }
        Ok(sizes
            .last()
            .map_or(window.until_ms, |&(hour_ms, _)| hour_ms))
    }
}

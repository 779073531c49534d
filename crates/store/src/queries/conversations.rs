//! Conversations one by one, newest first.

use std::fmt;

use clickhouse::Row;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Span, Unit, Window, brief};
use crate::Store;
use crate::error::StoreError;

/// A conversation: facts, durations and outcome. `None` is what its source cannot show, or what did
/// not happen. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// A row of a page: an element of `conversation_lists`, as it stands there.
#[derive(Debug, Row, Deserialize)]
struct Listed {
    source: String,
    conversation: Element,
}

/// Its type, without names, which the client cannot read.
const ELEMENT: &str = r"Tuple(String, DateTime64(3, \'UTC\'), DateTime64(3, \'UTC\'), Bool, LowCardinality(Nullable(String)),
    Nullable(UInt64), Nullable(UInt64), Nullable(UInt64), Nullable(UInt64), Nullable(Int64), Nullable(Int64),
    Nullable(DateTime64(3, \'UTC\')), Nullable(DateTime64(3, \'UTC\')), Nullable(Int64), Nullable(Int64), Nullable(Int64),
    Nullable(Int64), Nullable(Int64), Array(String), LowCardinality(Nullable(String)), Array(String), Array(String))";

/// All but the source.
#[derive(Debug)]
struct Element(ConversationRow);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Element;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a conversation of the list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut columns: A) -> Result<Element, A::Error> {
                macro_rules! next {
                    () => {
                        (columns.next_element()?)
                            .ok_or_else(|| A::Error::custom("a conversation has too few columns"))?
                    };
                }
                // In the order of the table.
                Ok(Element(ConversationRow {
                    source: String::new(),
                    conversation_id: next!(),
                    started_ms: next!(),
                    last_event_ms: next!(),
                    is_closed: next!(),
                    outcome: next!(),
                    visitor_messages: next!(),
                    bot_messages: next!(),
                    agent_messages: next!(),
                    total_messages: next!(),
                    reported_total: next!(),
                    message_gap: next!(),
                    handoff_requested_ms: next!(),
                    human_joined_ms: next!(),
                    first_response_any_ms: next!(),
                    first_response_human_ms: next!(),
                    time_to_human_ms: next!(),
                    handle_time_ms: next!(),
                    resolution_time_ms: next!(),
                    goals: next!(),
                    consent: next!(),
                    widgets: next!(),
                    languages: next!(),
                }))
            }
        }
        deserializer.deserialize_tuple(22, Columns)
    }
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
            "AND (c.started_at, source, c.conversation_id)
                    < (fromUnixTimestamp64Milli(toInt64(?), 'UTC'), ?, ?)"
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
            "SELECT source, CAST(c, '{ELEMENT}') AS conversation
             FROM conversation_lists FINAL ARRAY JOIN conversations AS c
             PREWHERE tenant = ? AND {hours}
             WHERE c.started_at >= fromUnixTimestamp64Milli({since_ms}, 'UTC')
               AND c.started_at < fromUnixTimestamp64Milli({until_ms}, 'UTC') {after}
             ORDER BY c.started_at DESC, source DESC, c.conversation_id DESC
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
        let rows: Vec<Listed> = self
            .within("reading conversations", query.fetch_all())
            .await?;
        let row = |listed: Listed| ConversationRow {
            source: listed.source,
            ..listed.conversation.0
        };
        Ok(rows.into_iter().map(row).collect())
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

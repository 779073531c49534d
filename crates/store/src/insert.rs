//! The insert of a recorded range: one request, one block, one token.

use clickhouse::Client;
use clickhouse::error::Error;
use clickhouse::query::Query;

use crate::error::{Disposition, StoreError};
use crate::rows::{EventRow, UndecodableOutcome};
use crate::{Store, limited};

/// What an insert sent. Whether the server took the rows or knew the token is all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// Rows in the block.
    pub rows: usize,
}

const DOING: &str = "inserting events";

impl Store {
    /// Inserts one recorded range of outcomes into `events` and, through the views, into the
    /// tables that they fill.
    ///
    /// `rows` are of one raw partition, and `token` names their range. Repeating a call with the
    /// same token changes nothing, in any table, and with the same rows completes what an earlier
    /// attempt left half done. Returns only when the server has confirmed. On an error
    /// [`StoreError::disposition`] says what to do: for [`Disposition::Poison`] nothing of the block
    /// is in `events`, else what the server did is not known.
    pub async fn insert_events(
        &self,
        token: &str,
        rows: &[EventRow<'_>],
    ) -> Result<Inserted, StoreError> {
        if rows.is_empty() {
            return Ok(Inserted { rows: 0 });
        }
        let Err(error) = self.send(token, rows).await else {
            return Ok(Inserted { rows: rows.len() });
        };
        match error.disposition() {
            Disposition::Retry => Err(error),
            Disposition::Poison => Err(self.judge_refusal(error, rows).await),
            Disposition::Operator => {
                // The columns may have been altered under us: ask again next time.
                self.client.clear_cached_metadata().await;
                Err(error)
            }
        }
    }

    async fn send(&self, token: &str, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
        let client =
            one_block(&self.client, rows.len()).with_setting("insert_deduplication_token", token);
        // Opening may fetch the table's columns, which has no time limit of its own.
        let mut insert = self
            .within(DOING, client.insert::<EventRow<'_>>("events"))
            .await?
            .with_timeouts(
                Some(self.config.send_timeout),
                Some(self.config.insert_timeout),
            );
        let sent = async {
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        };
        sent.await.map_err(|error| match error {
            Error::TimedOut => StoreError::Timeout {
                doing: DOING,
                after: self.config.insert_timeout,
            },
            error => StoreError::from_client(DOING, error),
        })
    }

    /// A refusal may be acted upon only where nothing of the block has come in: a view can fail
    /// after the table has taken the block.
    async fn judge_refusal(&self, refusal: StoreError, rows: &[EventRow<'_>]) -> StoreError {
        match self.stored_rows(rows).await {
            Ok(0) => refusal,
            Ok(stored) => StoreError::Torn {
                stored,
                rows: rows.len(),
                source: Box::new(refusal),
            },
            Err(unknown) => unknown,
        }
    }

    /// Whether inserting `rows` under their token once more is safe: nothing of them is in `events`, or
    /// so few inserts have come since that every table still knows the token. Else all of them are
    /// there, and would come twice.
    pub async fn may_repeat(&self, rows: &[EventRow<'_>]) -> Result<bool, StoreError> {
        if self.stored_rows(rows).await? == 0 {
            return Ok(true);
        }
        let (condition, bounds) = positions(rows);
        // A block's rows have one time, so the times are the blocks.
        let query = self.fresh(&format!(
            "SELECT uniqExact(inserted_at) FROM events
             WHERE inserted_at >= (SELECT max(inserted_at) FROM events WHERE {condition})"
        ));
        let query = bounds.into_iter().fold(query, Query::bind);
        let since: u64 = self
            .look_up("counting the inserts since a block", query.fetch_one())
            .await?;
        Ok(since < self.config.deduplication_window / 2)
    }

    /// How many rows of `events` stand at the raw positions of `rows`, which are of one partition.
    async fn stored_rows(&self, rows: &[EventRow<'_>]) -> Result<u64, StoreError> {
        let (condition, bounds) = positions(rows);
        let query = self.fresh(&format!("SELECT count() FROM events WHERE {condition}"));
        let query = bounds.into_iter().fold(query, Query::bind);
        self.look_up("looking for rows of a block", query.fetch_one())
            .await
    }

    /// Whether the row of a raw record says that it was received at one of `received_at`, in
    /// milliseconds; `None` where there is no row that could say so.
    pub async fn was_received_at(
        &self,
        partition: i32,
        offset: i64,
        received_at: [i64; 2],
    ) -> Result<Option<bool>, StoreError> {
        const ROW: &str = "SELECT count() FROM events
             WHERE partition = ? AND offset = ? AND ifNull(reason, '') != 'outcome_lost'";
        let doing = "looking for the row of a raw record";
        // Reads the parts of that time alone, and mostly finds it.
        let times = received_at.map(|at| format!("fromUnixTimestamp64Milli(toInt64({at}), 'UTC')"));
        let at_that_time = format!("{ROW} AND received_at IN ({})", times.join(", "));
        for (sql, found) in [(at_that_time.as_str(), true), (ROW, false)] {
            let query = self.fresh(sql).bind(partition).bind(offset);
            let rows: u64 = self.look_up(doing, query.fetch_one()).await?;
            if rows > 0 {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn look_up<T>(
        &self,
        doing: &'static str,
        question: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, StoreError> {
        limited(doing, self.config.lookup_timeout, question).await
    }

    /// A query about rows that were just inserted: a replica that lags behind must not answer it.
    fn fresh(&self, sql: &str) -> Query {
        self.client
            .query(sql)
            .with_setting("select_sequential_consistency", "1")
    }

    /// First raw offset of `partition` above all that `events` holds; `None` where it holds none.
    pub async fn stored_until(&self, partition: i32) -> Result<Option<i64>, StoreError> {
        let query = self
            .fresh("SELECT maxOrNull(offset) + 1 FROM events WHERE partition = ?")
            .bind(partition);
        self.within("looking for the last row of a partition", query.fetch_one())
            .await
    }

    /// Notes records of chat.events that cannot be decoded. Noting one again changes nothing.
    pub async fn note_undecodable(&self, records: &[UndecodableOutcome]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let insert = async {
            let mut insert = self
                .client
                .insert::<UndecodableOutcome>("undecodable_outcomes")
                .await?;
            for record in records {
                insert.write(record).await?;
            }
            insert.end().await
        };
        let noted = self.within("noting undecodable records", insert).await;
        if noted.is_err() {
            self.client.clear_cached_metadata().await;
        }
        noted
    }
}

/// The condition for the raw positions of `rows`, which are of one partition, and what it is bound to.
fn positions(rows: &[EventRow<'_>]) -> (&'static str, [i64; 5]) {
    let bounds = |key: fn(&EventRow<'_>) -> i64| {
        let keys = || rows.iter().map(key);
        keys().min().zip(keys().max()).unwrap_or_default()
    };
    let partition = rows.first().map_or(0, |row| row.partition.into());
    let (first, last) = bounds(|row| row.offset);
    // Spares the months that hold none of them.
    let (earliest, latest) = bounds(|row| row.received_at);
    let condition = "partition = ? AND offset BETWEEN ? AND ?
         AND received_at BETWEEN fromUnixTimestamp64Milli(toInt64(?), 'UTC')
                             AND fromUnixTimestamp64Milli(toInt64(?), 'UTC')";
    (condition, [partition, first, last, earliest, latest])
}

/// Settings under which the server makes one block of a body, so that the token stands for all of
/// it, and answers only when the views have been filled as well.
fn one_block(client: &Client, rows: usize) -> Client {
    let rows = rows.to_string();
    client
        .clone()
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "1")
        .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
        .with_setting("max_insert_threads", "1")
        .with_setting("max_insert_block_size", rows.as_str())
        .with_setting("min_insert_block_size_rows", rows.as_str())
        .with_setting("min_insert_block_size_bytes", "0")
        // Late records of many months in one block are no fault.
        .with_setting("max_partitions_per_insert_block", "0")
        .with_setting("wait_end_of_query", "1")
        // Progress would send the status, 200, before the outcome is known.
        .with_setting("send_progress_in_http_headers", "0")
}

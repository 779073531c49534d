//! The insert of a recorded range: one request, one block, one token.

use clickhouse::Client;
use clickhouse::error::Error;

use crate::Store;
use crate::error::StoreError;
use crate::rows::EventRow;

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
    /// `token` names the range (`topic:partition:first-end`). Repeating a call with the same
    /// token and rows changes nothing, in any table, and completes what an earlier attempt left
    /// half done. Returns only when the server has confirmed; on an error what the server did is
    /// not known, and [`StoreError::disposition`] says what to do.
    pub async fn insert_events(
        &self,
        token: &str,
        rows: &[EventRow<'_>],
    ) -> Result<Inserted, StoreError> {
        if rows.is_empty() {
            return Ok(Inserted { rows: 0 });
        }
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
        match sent.await {
            Ok(()) => Ok(Inserted { rows: rows.len() }),
            Err(Error::TimedOut) => Err(StoreError::Timeout {
                doing: DOING,
                after: self.config.insert_timeout,
            }),
            Err(error) => {
                let error = StoreError::from_client(DOING, error);
                if error.disposition() == crate::Disposition::Fatal {
                    // The columns may have been altered under us: ask again next time.
                    self.client.clear_cached_metadata().await;
                }
                Err(error)
            }
        }
    }
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
        .with_setting("wait_end_of_query", "1")
        // Progress would send the status, 200, before the outcome is known.
        .with_setting("send_progress_in_http_headers", "0")
}

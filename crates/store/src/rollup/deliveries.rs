//! Deliveries by hour and day.
//!
//! ```text
//! deliveries ─ hours of what came in since the last run ─► delivery_health of each ─► delivery_rollup (hour)
//!                                                                   hours of their days ─► delivery_rollup (day)
//! ```
//!
//! An attempt may be inserted twice, so what is inserted cannot be summed: hours are computed anew.

use crate::Store;
use crate::error::StoreError;

use super::{bounded, time};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// What the rows of `h` come to, under the names of `delivery_rollup`, in its order.
const SUMS: &str = "
    now64(6, 'UTC'), sum(h.turns), sum(h.attempts), sum(h.delivered), sum(h.retrying), sum(h.given_up),
    sum(h.withheld), sum(h.failed), sumMap(h.failures),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.request_latency),
    quantilesDDMergeState(0.01, 0.5, 0.95, 0.99)(h.delivery_delay)";

/// One hour, by its start in seconds since the epoch.
fn hour(at: i64) -> String {
    let end = at + HOUR;
    format!(
        "INSERT INTO delivery_rollup
         SELECT h.tenant, 'hour', toDateTime({at}, 'UTC') AS at, h.destination, h.event_type, {SUMS}
         FROM delivery_health AS h
         WHERE h.minute >= toDateTime({at}, 'UTC') AND h.minute < toDateTime({end}, 'UTC')
         GROUP BY h.tenant, h.destination, h.event_type"
    )
}

/// One day, from its hours.
fn day(at: i64) -> String {
    let end = at + DAY;
    format!(
        "INSERT INTO delivery_rollup
         SELECT h.tenant, 'day', toDateTime({at}, 'UTC') AS at, h.destination, h.event_type, {SUMS}
         FROM delivery_rollup AS h FINAL
         WHERE h.unit = 'hour' AND h.at >= toDateTime({at}, 'UTC') AND h.at < toDateTime({end}, 'UTC')
         GROUP BY h.tenant, h.destination, h.event_type"
    )
}

impl Store {
    /// Computes the hours and days of the turns that came in since `since_ms`, and says how many hours.
    pub(super) async fn roll_up_deliveries(&self, since_ms: i64) -> Result<u64, StoreError> {
        let found = format!(
            "SELECT DISTINCT toInt64(toUnixTimestamp(toStartOfHour(at))) AS hour FROM deliveries
             WHERE inserted_at >= {} ORDER BY hour",
            time(since_ms)
        );
        let found = bounded(self.client.query_raw(&found));
        let hours: Vec<i64> = self
            .within("finding changed hours of deliveries", found.fetch_all())
            .await?;
        // One at a time: what a statement needs is bounded by what comes in an hour.
        for &at in &hours {
            self.roll("rolling up hours of deliveries", &hour(at))
                .await?;
        }
        let mut days: Vec<i64> = hours.iter().map(|at| at - at.rem_euclid(DAY)).collect();
        days.dedup();
        for at in days {
            self.roll("rolling up days of deliveries", &day(at)).await?;
        }
        Ok(hours.len() as u64)
    }
}

//! Twins: events that come both from the page and from the vendor's server, under the same event id.
//!
//! ```text
//! events of an hour that is over ─ by event id ─► seen from the page? from a server? ─► twin_rollup
//! ```
//!
//! The snippet says that it is one (`context.sdk`); everything else counts as a server. A copy that comes
//! the second way is a duplicate of the first, and its row still tells which way it came. Of sources that came
//! one way alone nothing is computed, so that an installation without twins pays for one look at each hour.

use crate::Store;
use crate::error::StoreError;

use super::time;

const HOUR_MS: i64 = 3_600_000;
/// An hour is computed when it has been over for so long: what a page could not send at once comes with its
/// next visit, so the second time counts.
const SETTLED_MS: [i64; 2] = [HOUR_MS, 25 * HOUR_MS];
/// What a run catches up with at most, after a time without any.
const CATCH_UP_MS: i64 = 24 * HOUR_MS;
/// A source that had twins within so many days is looked at also where its page is silent.
const REMEMBERED_DAYS: u32 = 30;
/// How much earlier or later than its twin an event may say that it occurred.
const APART_MS: i64 = HOUR_MS;
/// How much later than it occurred an event may come.
const LATE_DAYS: u32 = 2;

/// Starts of the hours that became due between two runs. The first run computes none: of what was before
/// it, nothing is known.
fn due(last_as_of_ms: Option<i64>, as_of_ms: i64) -> Vec<i64> {
    let Some(last_as_of_ms) = last_as_of_ms else {
        return Vec::new();
    };
    let since_ms = last_as_of_ms.max(as_of_ms - CATCH_UP_MS);
    let mut hours: Vec<i64> = SETTLED_MS
        .iter()
        .flat_map(|after| {
            // The hour that begins at `h` is due at `h + HOUR_MS + after`.
            let first = (since_ms - after).div_euclid(HOUR_MS);
            let last = (as_of_ms - after).div_euclid(HOUR_MS);
            (first..last).map(|hour| hour * HOUR_MS)
        })
        .collect();
    hours.sort_unstable();
    hours.dedup();
    hours
}

/// One hour, by its start.
fn hour(at_ms: i64) -> String {
    let (from, to) = (time(at_ms), time(at_ms + HOUR_MS));
    let (near, far) = (time(at_ms - APART_MS), time(at_ms + HOUR_MS + APART_MS));
    let is_page = "startsWith(ifNull(sdk, ''), 'chatpulse.js/')";
    let about = format!(
        "occurred_at >= {near} AND occurred_at < {far} AND received_at >= {near}
         AND received_at < {far} + INTERVAL {LATE_DAYS} DAY
         AND outcome IN ('accepted', 'duplicate') AND event_id != ''"
    );
    let here = format!("occurred_at >= {from} AND occurred_at < {to}");
    format!(
        "INSERT INTO twin_rollup
         WITH twins AS (
             SELECT tenant, source FROM events WHERE {about}
             GROUP BY tenant, source HAVING countIf({is_page}) > 0 AND countIf(NOT {is_page}) > 0
             UNION DISTINCT
             SELECT tenant, source FROM twin_rollup
             WHERE server_both > 0 AND hour >= {from} - INTERVAL {REMEMBERED_DAYS} DAY AND hour < {from})
         SELECT tenant, source, toDateTime({from}) AS hour, type, now64(6, 'UTC'),
                countIf(server_here), countIf(server_here AND page_any),
                countIf(page_here), countIf(page_here AND server_any)
         FROM (
             SELECT tenant, source, event_id, any(event_type) AS type,
                    countIf({is_page}) > 0 AS page_any, countIf(NOT {is_page}) > 0 AS server_any,
                    countIf({is_page} AND {here}) > 0 AS page_here, countIf(NOT {is_page} AND {here}) > 0 AS server_here
             FROM events
             WHERE (tenant, source) IN twins AND {about}
             GROUP BY tenant, source, event_id)
         WHERE page_here OR server_here
         GROUP BY tenant, source, type"
    )
}

impl Store {
    /// Computes the hours that became due since the last run, and says how many.
    pub(super) async fn roll_up_twins(
        &self,
        last_as_of_ms: Option<i64>,
        as_of_ms: i64,
    ) -> Result<u64, StoreError> {
        let hours = due(last_as_of_ms, as_of_ms);
        for &at_ms in &hours {
            self.roll("rolling up twins", &hour(at_ms)).await?;
        }
        Ok(hours.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_due_when_it_has_been_over_for_an_hour_and_again_a_day_later() {
        let hours = |last: i64, now: i64| due(Some(last * HOUR_MS), now * HOUR_MS);
        let at = |hours: &[i64]| hours.iter().map(|hour| hour * HOUR_MS).collect::<Vec<_>>();
        assert_eq!(hours(100, 100), at(&[]));
        assert_eq!(hours(100, 101), at(&[75, 99]));
        assert_eq!(hours(100, 103), at(&[75, 76, 77, 99, 100, 101]));
        assert_eq!(due(Some(100 * HOUR_MS), 100 * HOUR_MS + 1), at(&[]));
        // After a long time without a run, and before the first.
        assert_eq!(hours(0, 1_000).len(), 48);
        assert_eq!(due(None, 1_000 * HOUR_MS), at(&[]));
    }
}

//! Typed questions to the tables and views, each for one tenant unless it says otherwise. Times are
//! milliseconds since the Unix epoch, UTC; windows are half open, `[since, until)`.

mod cohorts;
mod conversations;
mod definitions;
mod deliveries;
mod figures;
mod health;
mod keys;
mod overview;
mod rejections;
mod sessions;
mod twins;

pub use cohorts::{Breakdown, Cohort, CohortState, Figure, Figures, MetricRow, Restatement};
pub use conversations::{ConversationCursor, ConversationRow};
pub use definitions::{MetricDefinition, SourceMetric};
pub use deliveries::{
    AcceptedPoint, DeliveryFigures, DeliveryPoint, DestinationInfo, FailedTurn, FailedTurnCursor,
    PendingDeliveries,
};
pub use figures::REOPEN_RATE;
pub use health::{
    BrowserLoss, GapCount, Health, HealthPoint, HealthRow, NameHealth, TypeBaseline, TypePoint,
};
pub use keys::KeyHealth;
pub use overview::{Books, PipelinePoint, TenantRow};
pub use rejections::{Rejected, RejectedCursor, RejectionCount};
pub use sessions::SessionEvent;
pub use twins::TwinCount;

use clickhouse::query::Query;
use serde::Serialize;

/// A span of time, `[since_ms, until_ms)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// First millisecond.
    pub since_ms: i64,
    /// First millisecond after it.
    pub until_ms: i64,
}

/// The unit of time in which figures are kept and shown. Units begin at whole minutes, hours and
/// days of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 60 s.
    Minute,
    /// 60 min.
    Hour,
    /// 24 h.
    Day,
}

impl Unit {
    /// Its length; milliseconds.
    pub fn ms(self) -> i64 {
        match self {
            Unit::Minute => 60_000,
            Unit::Hour => 3_600_000,
            Unit::Day => 86_400_000,
        }
    }

    /// Unit of the cohorts of conversations: those of an hour are the smallest.
    fn cohorts(self) -> &'static str {
        match self {
            Unit::Minute | Unit::Hour => "hour",
            Unit::Day => "day",
        }
    }
}

/// A window and the unit in which to look at it. The window is taken by whole units: one that begins
/// in it is in it, so `since_ms` is best the start of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The window.
    pub window: Window,
    /// The unit.
    pub unit: Unit,
}

impl Span {
    /// Begins with the start of the unit that the window begins in.
    fn whole(self) -> Span {
        let mut whole = self;
        whole.window.since_ms -= whole.window.since_ms.rem_euclid(self.unit.ms());
        whole
    }

    /// The condition for a column of type DateTime, the start of a unit, to be in the window; such that
    /// the primary key and the partitions are used.
    fn on(&self, column: &str) -> String {
        let Window { since_ms, until_ms } = self.window;
        let (since, until) = (ceil(since_ms, 1000), ceil(until_ms, 1000));
        format!("{column} >= toDateTime({since}, 'UTC') AND {column} < toDateTime({until}, 'UTC')")
    }

    /// The same for a column of type Date.
    fn on_days(&self, column: &str) -> String {
        let Window { since_ms, until_ms } = self.window;
        let day_ms = Unit::Day.ms();
        let (since, until) = (ceil(since_ms, day_ms), ceil(until_ms, day_ms));
        format!("{column} >= toDate({since}) AND {column} < toDate({until})")
    }

    /// The condition for a table that keeps every unit, by its columns `unit` and `at`.
    fn at(&self) -> String {
        let unit = match self.unit {
            Unit::Minute => "minute",
            Unit::Hour => "hour",
            Unit::Day => "day",
        };
        format!("unit = '{unit}' AND {}", self.on("at"))
    }

    /// Delivery health by the unit: table, its column of time, and the condition for the window.
    fn health(&self) -> (&'static str, &'static str, String) {
        match self.unit {
            Unit::Minute => ("event_health", "minute", self.on("minute")),
            Unit::Hour => ("event_health_hour", "hour", self.on("hour")),
            Unit::Day => ("event_health_day", "day", self.on_days("day")),
        }
    }
}

/// How many of `length_ms` reach to `ms`, the last one counted in full; from 1970 to 2100.
fn ceil(ms: i64, length_ms: i64) -> i64 {
    let ms = ms.clamp(0, 4_102_444_800_000);
    ms / length_ms + i64::from(ms % length_ms > 0)
}

/// p50, p95 and p99 of both latencies, from the sketches of `h`; empty where there is none.
const LATENCIES: &str = "
    arrayFilter(ms -> isFinite(ms), quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.receive_latency)) AS receive_ms,
    arrayFilter(ms -> isFinite(ms), quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(h.queryable_latency)) AS queryable_ms";

/// Settings for a question that reads little: more threads would cost more than they save, and take
/// turns with other questions. The last row of a key stands in one partition; conditions on keys are
/// judged before the other columns are read, also of tables of which the last row counts.
fn brief(query: Query) -> Query {
    query
        .with_setting("max_threads", "1")
        .with_setting("do_not_merge_across_partitions_select_final", "1")
        .with_setting("optimize_move_to_prewhere_if_final", "1")
}

//! Typed questions to the tables and views, each for one tenant unless it says otherwise. Times are
//! milliseconds since the Unix epoch, UTC; windows are half open, `[since, until)`.

mod cohorts;
mod conversations;
mod health;
mod overview;
mod rejections;

pub use cohorts::{Breakdown, Cohort, CohortState, Figure, MetricRow, Restatement};
pub use conversations::{ConversationCursor, ConversationRow};
pub use health::{
    BrowserLoss, GapCount, HealthPoint, HealthRow, NameHealth, TypeBaseline, TypePoint,
};
pub use overview::{Books, PipelinePoint, TenantRow};
pub use rejections::{Rejected, RejectedCursor, RejectionCount};

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

    /// The function of ClickHouse that takes a time to the start of its unit.
    fn start_of(self) -> &'static str {
        match self {
            Unit::Minute => "toStartOfMinute",
            Unit::Hour => "toStartOfHour",
            Unit::Day => "toStartOfDay",
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

//! How much a chatpulse pipeline carries, and what an event costs in it.
//!
//! ```text
//! simulator or mix ─► feed: requests ─► load: sent when the schedule says ─► producer ─► … ─► ClickHouse
//!                        (ahead)           │ own lag, send → acknowledged         │            │
//!                                          ▼                                     ▼            ▼
//!                                        run ◄── counters, CPU and memory ──── watch: markers seen by a query
//!                                          │
//!                      search ◄── verdict ◄┘          (pure: schedule, trend, verdict, search, projection)
//!                         │
//!                         └─► report ─► text, JSON, one HTML page
//! ```
//!
//! The load is open-loop: requests are sent when a schedule says, whether or not earlier ones were answered, and
//! latencies count from the time that the schedule says. So a system that stalls cannot slow the load that it is
//! judged by.

mod error;
mod feed;
mod load;
mod mix;
mod page;
mod plot;
mod process;
mod projection;
mod report;
mod run;
mod schedule;
mod search;
mod text;
mod trend;
mod verdict;
mod watch;

pub use error::CapacityError;
pub use feed::{Feed, FeedOptions, Request};
pub use load::MARKER_TENANT;
pub use mix::{Mix, MixError, MixEvent, place};
pub use page::html;
pub use process::{Consumption, Usage};
pub use projection::{Demand, Measured, Projection, STAGE_THREADS_PER_PARTITION, project};
pub use report::{
    Bytes, DrainReport, Lag, Latency, Level, LoadReport, Machine, PartCost, Report, Run,
    Sustainable, TableBytes, Window,
};
pub use run::{Bench, Plan, Target, drain_of};
pub use schedule::{Arrivals, Schedule};
pub use search::{Ceiling, Found, Search, Step};
pub use text::summary;
pub use trend::{Trend, trend};
pub use verdict::{Observed, Rule, Verdict, confirmed, judge};
pub use watch::StoreAddress;

//! Reports for people and programs, from ClickHouse alone.
//!
//! ```text
//! Store ─ typed queries ─► TenantHealth, Conversations ─┬─► serde ─► JSON
//!          (I/O)              (pure judgement)          ├─► to_markdown
//!                                                       └─► HTML page     router: GET /, /v1/report/…
//! ```
//!
//! What a source cannot show is `null` in JSON and `n/a` for people, never 0.

mod conversations;
mod health;
mod http;
mod markdown;
mod page;
mod period;
mod text;
mod verdict;

pub use conversations::{Conversations, Metric, Value, conversations};
pub use health::{Drift, Percentiles, SourceHealth, TenantHealth, TypeHealth, tenant_health};
pub use http::router;
pub use period::{Period, PeriodError};
pub use verdict::{Judgement, Verdict};

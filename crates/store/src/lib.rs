//! ClickHouse, and nothing else of chatpulse speaks to it.
//!
//! ```text
//! sink ── EventRow ─ insert_events(token) ─► events ──views──► conversation_facts, event_health,
//!                                              │               rejections, session_sequences
//!                                              ▼
//!                    audit, metric views, typed queries ──► reports, command line
//! ```
//!
//! The tables and views are in `schemas/clickhouse`, compiled in, and applied by [`Store::migrate`];
//! every metric has its one definition there.

mod audit;
mod config;
mod deliveries;
mod dictionary;
mod error;
mod insert;
mod migrations;
mod queries;
mod readers;
mod reference;
mod rejected;
mod rollup;
mod rows;
mod views;

pub use audit::{Audit, AuditOptions, Claim, Finding, MessageCounts, PartitionBooks, TenantBooks};
pub use config::{Engine, StoreConfig};
pub use deliveries::{
    ConversationKey, DeliveryCursor, DeliveryFilter, DeliveryRow, DeliveryState, DestinationRow,
};
pub use dictionary::{Column, Dictionary, View};
pub use error::{Disposition, StoreError};
pub use insert::Inserted;
pub use migrations::{MIGRATIONS, Migration};
pub use queries::{
    AcceptedPoint, Books, Breakdown, BrowserLoss, Cohort, CohortState, ConversationCursor,
    ConversationRow, DeliveryFigures, DeliveryPoint, DestinationInfo, FailedTurn, FailedTurnCursor,
    Figure, Figures, GapCount, Health, HealthPoint, HealthRow, KeyHealth, MetricDefinition,
    MetricRow, NameHealth, PendingDeliveries, PipelinePoint, REOPEN_RATE, Rejected, RejectedCursor,
    RejectionCount, Restatement, SessionEvent, SourceMetric, Span, TenantRow, TwinCount,
    TypeBaseline, TypePoint, Unit, Window,
};
pub use readers::{Reader, access_statements};
pub use rejected::{RejectionCursor, RejectionFilter, RejectionRecord, Replayed};
pub use rollup::RolledUp;
pub use rows::{EventRow, OUTCOME_LOST, REFUSED_BY_STORE, UndecodableOutcome};

use std::future::Future;
use std::time::Duration;

use clickhouse::Client;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;

/// A handle on one ClickHouse database; clones share the connection pool.
#[derive(Clone)]
pub struct Store {
    config: StoreConfig,
    client: Client,
}

/// The crate's own client, and with TCP_NODELAY: else the end of an insert waits up to 40 ms for the
/// server to confirm the rest.
fn client() -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(60)));
    // ClickHouse closes an idle connection after 3 s, unless told otherwise.
    let client = legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(2))
        .build(connector);
    Client::with_http_client(client)
}

/// Runs a request until `limit`.
async fn limited<T>(
    doing: &'static str,
    limit: Duration,
    request: impl Future<Output = clickhouse::error::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| StoreError::from_client(doing, error)),
        Err(_) => Err(StoreError::Timeout {
            doing,
            after: limit,
        }),
    }
}

impl Store {
    /// Makes a handle; nothing is sent yet.
    pub fn new(config: &StoreConfig) -> Store {
        let client = client()
            .with_url(&config.url)
            .with_database(&config.database)
            .with_user(&config.user)
            .with_password(&config.password)
            .with_product_info("chatpulse", env!("CARGO_PKG_VERSION"));
        Store {
            config: config.clone(),
            client,
        }
    }

    /// Succeeds when the server answers and its schema is this binary's.
    pub async fn ready(&self) -> Result<(), StoreError> {
        let applied = self.applied().await?;
        migrations::check(&applied)?;
        match MIGRATIONS
            .iter()
            .find(|known| !applied.iter().any(|done| done.version == known.version))
        {
            None => views::check_current(self.applied_views().await?.as_ref()),
            Some(missing) => Err(StoreError::SchemaTooOld {
                missing: missing.version,
            }),
        }
    }

    /// Runs a request under the configured time limit and names what was being done on failure.
    async fn within<T>(
        &self,
        doing: &'static str,
        request: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, StoreError> {
        limited(doing, self.config.query_timeout, request).await
    }
}

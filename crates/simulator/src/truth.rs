//! What a run must come to: the books of what was sent, and the metrics derived from it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::metrics::{self, SourceMetrics, Tally};
use crate::vendors::Source;
use crate::visit::Visit;

/// Totals over what was sent: `sent` = `accepted` + `duplicate` + all of `rejected`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Items sent.
    pub sent: u64,
    /// Distinct events among them.
    pub accepted: u64,
    /// Further copies of accepted events.
    pub duplicate: u64,
    /// Malformed items by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Items that the browser never sent.
    pub lost_in_browser: u64,
    /// What of these the sequence numbers tell: per page session the highest number received less
    /// the distinct numbers received (accepted or duplicate), summed.
    pub sequence_gap: u64,
    /// Accepted events whose name the vendor's document does not have.
    pub drift: u64,
}

impl Books {
    fn add(&mut self, other: &Books) {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.duplicate += other.duplicate;
        for (reason, count) in &other.rejected {
            *self.rejected.entry(reason).or_default() += count;
        }
        self.lost_in_browser += other.lost_in_browser;
        self.sequence_gap += other.sequence_gap;
        self.drift += other.drift;
    }
}

/// The ground truth of a run: a function of the set of items sent, not of their order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Truth {
    /// Items sent.
    pub sent: u64,
    /// Distinct events among them.
    pub accepted: u64,
    /// Further copies of accepted events.
    pub duplicate: u64,
    /// Malformed items by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Items that the browser never sent.
    pub lost_in_browser: u64,
    /// See [`Books::sequence_gap`].
    pub sequence_gap: u64,
    /// See [`Books::drift`].
    pub drift: u64,
    /// The same and the metrics for each tenant, in the order of the options.
    pub per_tenant: Vec<TenantTruth>,
}

/// The ground truth of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantTruth {
    /// The tenant's name.
    pub tenant: String,
    /// Its totals, flattened into this object where it is serialized.
    #[serde(flatten)]
    pub books: Books,
    /// Its metrics by source name, of the sources that have a conversation; none of a live run.
    pub metrics: BTreeMap<&'static str, SourceMetrics>,
}

/// The truth of one tenant, growing.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) books: Books,
    tallies: BTreeMap<Source, Tally>,
}

impl Ledger {
    /// Enters a visit of which nothing more will be received; without a time to judge it by, as in
    /// a run without end, into the books only.
    pub(crate) fn enter(&mut self, visit: &Visit, as_of: Option<i64>) {
        self.books.sequence_gap += visit.sequence_gap();
        let Some(as_of) = as_of else { return };
        self.tallies
            .entry(visit.source)
            .or_default()
            .add(&visit.facts(), as_of);
    }
}

/// Sums up; `tenants` names the ledgers.
pub(crate) fn finish(tenants: Vec<String>, ledgers: Vec<Ledger>) -> Truth {
    let mut total = Books::default();
    let mut per_tenant = Vec::with_capacity(tenants.len());
    for (tenant, ledger) in tenants.into_iter().zip(ledgers) {
        total.add(&ledger.books);
        let metrics = metrics::finish(ledger.tallies);
        per_tenant.push(TenantTruth {
            tenant,
            books: ledger.books,
            metrics,
        });
    }
    let Books {
        sent,
        accepted,
        duplicate,
        rejected,
        lost_in_browser,
        sequence_gap,
        drift,
    } = total;
    Truth {
        sent,
        accepted,
        duplicate,
        rejected,
        lost_in_browser,
        sequence_gap,
        drift,
        per_tenant,
    }
}

//! Twins: events that come both from the page and from the vendor's server, and what was lost one way.

use chatpulse_store::TwinCount;
use serde::Serialize;
use utoipa::ToSchema;

/// Events that should come both ways, under the same id: those whose type came both ways at least once, in the
/// window or in the 30 days before it. Of whole hours of occurrence that have been over for an hour; what a
/// page sends later is counted a day after the hour.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Twins {
    /// All sources together.
    #[serde(flatten)]
    pub total: Reconciled,
    /// Per source, by name.
    pub sources: Vec<TwinSource>,
}

/// Twins of one source.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TwinSource {
    /// Source.
    pub source: String,
    /// Event types that have twins.
    pub types: u64,
    /// What came.
    #[serde(flatten)]
    pub reconciled: Reconciled,
}

/// What came both ways, and one way only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Reconciled {
    /// Event ids that came from a server.
    pub server: u64,
    /// Of these, those that never came from the page: lost in the browser.
    pub lost_in_browser: u64,
    /// Their share, from 0 to 1; null where none came from a server.
    pub browser_loss_rate: Option<f64>,
    /// Event ids that came from the page.
    pub page: u64,
    /// Of these, those that never came from a server.
    pub lost_by_server: u64,
    /// Their share, from 0 to 1; null where none came from the page.
    pub server_loss_rate: Option<f64>,
}

impl Reconciled {
    fn of(counts: &[TwinCount]) -> Self {
        let sum = |of: fn(&TwinCount) -> u64| counts.iter().map(of).sum::<u64>();
        let rate = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let (server, page) = (sum(|of| of.server), sum(|of| of.page));
        let lost_in_browser = server - sum(|of| of.server_both);
        let lost_by_server = page - sum(|of| of.page_both);
        Self {
            server,
            lost_in_browser,
            browser_loss_rate: rate(lost_in_browser, server),
            page,
            lost_by_server,
            server_loss_rate: rate(lost_by_server, page),
        }
    }
}

/// `None` where no event type is known to come both ways: then nothing can be seen.
pub(crate) fn twins(counts: &[TwinCount]) -> Option<Twins> {
    (!counts.is_empty()).then(|| Twins {
        total: Reconciled::of(counts),
        sources: counts
            .iter()
            .map(|of| TwinSource {
                source: of.source.clone(),
                types: of.types,
                reconciled: Reconciled::of(std::slice::from_ref(of)),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_nothing_is_unknown_and_so_are_twins_that_never_were() {
        assert_eq!(twins(&[]), None);
        let silent = TwinCount {
            source: "autochat".into(),
            types: 1,
            server: 4,
            server_both: 1,
            page: 0,
            page_both: 0,
        };
        let found = twins(&[silent]).unwrap();
        assert_eq!(found.total.browser_loss_rate, Some(0.75));
        assert_eq!((found.total.lost_in_browser, found.total.page), (3, 0));
        assert_eq!(found.total.server_loss_rate, None);
    }
}

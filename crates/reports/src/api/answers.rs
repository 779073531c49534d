//! Answers that are the API's own. All others are the reports themselves.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Drift, Name};

/// What a token reads.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tenants {
    /// Whether it is the operator's, which reads every tenant.
    pub(super) operator: bool,
    /// The tenants, by name.
    pub(super) tenants: Vec<TenantName>,
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantName {
    /// Its name, as the parameter `tenant` takes it.
    pub(super) tenant: String,
}

/// Why an event name is in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum DriftKind {
    /// Received, and not in the source's definition.
    Undocumented,
    /// Documented, received in the window, and not in the baseline, though the source was.
    Appeared,
    /// Received in the baseline and not in the window, though the source was.
    Vanished,
}

/// An event name that came, went, or is not documented.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DriftingName {
    /// Why it is in the list.
    pub(super) drift: DriftKind,
    /// The name and its counts.
    #[serde(flatten)]
    pub(super) name: Name,
}

impl DriftingName {
    pub(super) fn of(drift: Drift) -> Vec<Self> {
        let all = |drift, names: Vec<Name>| names.into_iter().map(move |name| Self { drift, name });
        all(DriftKind::Undocumented, drift.undocumented)
            .chain(all(DriftKind::Appeared, drift.appeared))
            .chain(all(DriftKind::Vanished, drift.vanished))
            .collect()
    }
}

//! The faults, in one table, and how each is made.

use std::time::Duration;

use anyhow::Context as _;
use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::{site::Site, stage::Kind};

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// For `--only`.
    pub(crate) name: &'static str,
    /// What happens, for the report.
    pub(crate) title: &'static str,
    pub(crate) fault: Fault,
}

/// What is done while events flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9 of instances of these stages at random moments.
    Kill(&'static [Kind]),
}

/// Kills between two judgements.
pub(crate) const KILLS_PER_ROUND: u32 = 10;

/// Every fault.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill-producer",
        title: "kill -9 of a producer",
        fault: Fault::Kill(&[Kind::Producer]),
    },
    Scenario {
        name: "kill-enricher",
        title: "kill -9 of an enricher",
        fault: Fault::Kill(&[Kind::Enricher]),
    },
    Scenario {
        name: "kill-sink",
        title: "kill -9 of a sink",
        fault: Fault::Kill(&[Kind::Sink]),
    },
    Scenario {
        name: "kill-any",
        title: "kill -9 of any stage",
        fault: Fault::Kill(&Kind::ALL),
    },
];

impl Fault {
    /// Makes the fault and ends it. Events flow meanwhile. Gives how many faults it made.
    pub(crate) async fn make(
        self,
        site: &mut Site<'_>,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<u32> {
        match self {
            Self::Kill(kinds) => {
                for _ in 0..KILLS_PER_ROUND {
                    pause(rng, 100..1_200).await;
                    let kind = *kinds.choose(rng).context("no stage to kill")?;
                    let stages = site.of(kind);
                    stages.choose(rng).context("no instance to kill")?.kill()?;
                }
                Ok(KILLS_PER_ROUND)
            }
        }
    }
}

async fn pause(rng: &mut ChaCha8Rng, milliseconds: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(milliseconds))).await;
}

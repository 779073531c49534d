//! What came of the runs: a table for the terminal and a page for docs.

use std::{fmt::Write as _, time::Duration};

use crate::{RunArgs, scenarios::Scenario};

/// What came of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Faults made.
    pub(crate) runs: u32,
    /// kill -9 of stages among or beside them.
    pub(crate) kills: u32,
    pub(crate) acknowledged: u64,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    /// From the end of each fault until everything acknowledged was queryable.
    pub(crate) recoveries: Vec<Duration>,
    /// How often stages ended by themselves and were started again.
    pub(crate) failures: usize,
    /// Highest memory, where it was looked at.
    pub(crate) memory: Vec<String>,
    /// What went wrong otherwise.
    pub(crate) failure: Option<String>,
}

/// What came of all.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(Scenario, Outcome)>,
    pub(crate) took: Duration,
}

impl Report {
    /// Adds a scenario.
    pub(crate) fn add(&mut self, scenario: &Scenario, outcome: Outcome) {
        self.rows.push((*scenario, outcome));
    }

    /// Whether nothing was lost or doubled, and nothing else failed.
    pub(crate) fn is_good(&self) -> bool {
        self.rows
            .iter()
            .all(|(_, o)| o.failure.is_none() && o.lost + o.doubled == 0)
    }

    /// The table of runs as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| fault | scenario | runs | kill -9 | events | lost | doubled | recovery s, median | max |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (scenario, o) in &self.rows {
            let failed = if o.failure.is_some() {
                " **FAILED**"
            } else {
                ""
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {}{failed} | {} | {} | {} | {} | {} | {} | {} | {} |",
                scenario.title,
                scenario.name,
                o.runs,
                o.kills,
                o.acknowledged,
                o.lost,
                o.doubled,
                seconds(median(&o.recoveries)),
                seconds(o.recoveries.iter().max().copied()),
            );
        }
        let sum = |field: fn(&Outcome) -> u64| self.rows.iter().map(|(_, o)| field(o)).sum::<u64>();
        let _ = writeln!(
            text,
            "| **all** | | {} | {} | {} | {} | {} | {} | {} |",
            sum(|o| o.runs.into()),
            sum(|o| o.kills.into()),
            sum(|o| o.acknowledged),
            sum(|o| o.lost as u64),
            sum(|o| o.doubled as u64),
            seconds(median(&self.recoveries())),
            seconds(self.recoveries().into_iter().max()),
        );
        text
    }

    fn recoveries(&self) -> Vec<Duration> {
        let all = self.rows.iter().flat_map(|(_, o)| &o.recoveries);
        all.copied().collect()
    }

    /// The page for docs.
    pub(crate) fn page(&self, args: &RunArgs, seed: u64) -> String {
        let mut memory = String::new();
        for (scenario, o) in &self.rows {
            for line in &o.memory {
                let _ = writeln!(memory, "- `{}`: {line}", scenario.name);
            }
        }
        let failures: usize = self.rows.iter().map(|(_, o)| o.failures).sum();
        let kills: u32 = self.rows.iter().map(|(_, o)| o.kills).sum();
        include_str!("faults.md")
            .replace("{suite}", args.suite.name())
            .replace("{asked}", &args.kills.to_string())
            .replace("{jobs}", &args.jobs.to_string())
            .replace("{seed}", &seed.to_string())
            .replace("{rate}", &args.rate.to_string())
            .replace("{minutes}", &(self.took.as_secs() / 60).to_string())
            .replace("{kills}", &kills.to_string())
            .replace("{failures}", &failures.to_string())
            .replace("{table}", &self.table())
            .replace("{memory}", &memory)
    }
}

fn median(of: &[Duration]) -> Option<Duration> {
    let mut sorted = of.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or("–".into(), |duration| {
        format!("{:.1}", duration.as_secs_f64())
    })
}

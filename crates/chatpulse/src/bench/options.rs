//! What `chatpulse bench capacity` can be told.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use chatpulse_capacity::{Arrivals, LoadReport, Mix, Rule};
use clap::{Args, ValueEnum};
use jiff::{Span, SpanTotal, Unit};

/// Requests whose events are followed to ClickHouse, per second, at most.
pub(super) const MARKERS_PER_SECOND: f64 = 50.0;

#[derive(Debug, Clone, Args)]
#[command(
    about = "Finds the highest load that this pipeline carries for good, and what an event costs",
    long_about = "Finds the highest load that this pipeline carries for good, and what an event costs.\n\n\
Stages run as processes of their own, on the embedded broker and ClickHouse or, with --external, on those of the \
configuration. Topics, database and tenants are fresh and are removed afterwards. The load is open-loop: requests are \
sent when a schedule says, and latencies count from there. docs/capacity.md says how to read the result.",
    after_help = "Examples:
  chatpulse bench capacity --html capacity.html
  chatpulse bench capacity --run 10s --warm-up 3s --max-time 5m --batch 1
  chatpulse bench capacity --project 5000/s --retention 90d --json > capacity.json
  chatpulse bench capacity --external --config chatpulse.toml
  chatpulse bench record-mix --tenant acme > mix.json && chatpulse bench capacity --mix mix.json
  chatpulse bench capacity --stage sink --events 500000
  chatpulse bench capacity --rate 2000/s --levels ''"
)]
pub(crate) struct CapacityArgs {
    /// Measures one stage alone: the producer under load, enricher and sink by how quickly they drain a topic that
    /// was filled before.
    #[arg(long, value_name = "STAGE")]
    pub(super) stage: Option<StageName>,
    /// Uses the brokers and the ClickHouse of the configuration instead of embedded ones.
    #[arg(long)]
    pub(super) external: bool,
    /// Process of an external broker on this machine, to tell its CPU time and memory.
    #[arg(long, value_name = "PID", requires = "external")]
    pub(super) broker_pid: Option<u32>,
    /// First rate that is tried; events per second.
    #[arg(long, value_name = "RATE", default_value = "500/s", value_parser = rate)]
    pub(super) start: f64,
    /// Measures at this rate alone instead of looking for the highest.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// How well the rate is to be known; percent.
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(super) precision: u8,
    /// Length of the measured part of a run.
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    pub(super) run: Duration,
    /// What is discarded before it.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(super) warm_up: Duration,
    /// When the search is to end at the latest; the levels come after it.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
    pub(super) max_time: Duration,
    /// Percentages of the rate found at which latencies are measured.
    #[arg(long, value_name = "PERCENT,…", default_value = "10,50,70,90", value_parser = levels)]
    levels: Levels,
    /// Most events in a request. 1 shows single-event requests.
    #[arg(long, default_value = "50")]
    pub(super) batch: NonZeroU32,
    /// Sends this recorded mix (see bench record-mix) instead of simulated visits of all five vendors.
    #[arg(long, value_name = "FILE")]
    mix: Option<PathBuf>,
    /// Tenants.
    #[arg(long, default_value = "10")]
    pub(super) tenants: NonZeroUsize,
    /// Partitions of the topics, instead of kafka.partitions.
    #[arg(long)]
    pub(super) partitions: Option<NonZeroU32>,
    /// How requests are spread over time.
    #[arg(long, default_value = "poisson")]
    pub(super) arrivals: ArrivalsName,
    /// Most connections to the producer.
    #[arg(long, default_value = "256")]
    pub(super) connections: NonZeroUsize,
    /// Events that a stage alone drains.
    #[arg(long, default_value = "200000")]
    pub(super) events: u64,
    /// What chance begins with: the same seed, the same load.
    #[arg(long, default_value = "1")]
    pub(super) seed: u64,
    /// How often ClickHouse is asked for the events that are followed: the resolution of send → queryable.
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration)]
    pub(super) poll: Duration,
    /// p99 of the generator's own lag above which a run is void.
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = duration)]
    max_generator_lag: Duration,
    /// Says what this load would need.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(super) project: Option<f64>,
    /// How long data are kept, for --project.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = duration)]
    pub(super) retention: Duration,
    /// Folder for the data of the embedded engines and the logs of the stages; a folder in it is made and removed.
    /// Default: the system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Writes the report as one HTML page with plots.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

impl CapacityArgs {
    /// The defaults, but for these words of a command line.
    pub(super) fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, clap::Error> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: CapacityArgs,
        }
        let line = ["bench capacity"].into_iter().chain(words);
        <Line as clap::Parser>::try_parse_from(line).map(|line| line.args)
    }

    pub(super) fn levels(&self) -> &[u32] {
        &self.levels.0
    }

    /// The recorded mix, where one is given.
    pub(super) fn mix(&self) -> anyhow::Result<Option<Mix>> {
        let Some(file) = &self.mix else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let mix = Mix::parse(&text).with_context(|| file.display().to_string())?;
        Ok(Some(mix))
    }

    pub(super) fn rule(&self) -> Rule {
        Rule {
            generator_lag_seconds: self.max_generator_lag.as_secs_f64(),
            ..Rule::default()
        }
    }

    pub(super) fn load_report(&self, partitions: u32) -> LoadReport {
        LoadReport {
            mix: match &self.mix {
                Some(file) => format!("recorded mix {}", file.display()),
                None => "simulated visits of all five vendors".into(),
            },
            batch: self.batch.get(),
            tenants: self.tenants.get(),
            arrivals: self.arrivals.into(),
            connections: self.connections.get(),
            partitions,
            seed: self.seed,
            run_seconds: self.run.as_secs_f64(),
            warm_up_seconds: self.warm_up.as_secs_f64(),
            poll_ms: self.poll.as_secs_f64() * 1e3,
        }
    }
}

/// A stage that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StageName {
    /// HTTP into the broker.
    Producer,
    /// chat.raw to chat.events.
    Enricher,
    /// chat.events to ClickHouse.
    Sink,
}

impl StageName {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Enricher => "enricher",
            Self::Sink => "sink",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ArrivalsName {
    /// Independently of each other, as those of many visitors.
    Poisson,
    /// At equal distances.
    Even,
}

impl From<ArrivalsName> for Arrivals {
    fn from(name: ArrivalsName) -> Self {
        match name {
            ArrivalsName::Poisson => Self::Poisson,
            ArrivalsName::Even => Self::Even,
        }
    }
}

#[derive(Debug, Clone)]
struct Levels(Vec<u32>);

fn levels(text: &str) -> Result<Levels, String> {
    let percent = |part: &str| match part.trim().parse() {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err(format!("{part:?} is not a percentage from 1 to 100")),
    };
    let parts = text.split(',').filter(|part| !part.trim().is_empty());
    parts.map(percent).collect::<Result<_, _>>().map(Levels)
}

/// `5000/s`, `5000`, `0.5/s`.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches("/s").trim();
    match number.replace(['_', ','], "").parse::<f64>() {
        Ok(rate) if (0.1..=1e7).contains(&rate) => Ok(rate),
        _ => Err("give events per second, from 0.1/s to 10000000/s".into()),
    }
}

/// `20s`, `1m 30s`, `200ms`, `90d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span: Span = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    let total = SpanTotal::from(Unit::Second).days_are_24_hours();
    let seconds = span.total(total).map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_durations_are_read_as_people_write_them() {
        assert_eq!(rate("5000/s"), Ok(5_000.0));
        assert_eq!(rate("12,500"), Ok(12_500.0));
        assert!(rate("0").is_err() && rate("fast").is_err());
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("-5s").is_err());
    }

    #[test]
    fn levels_may_be_none_and_never_above_the_rate() {
        assert_eq!(levels("10, 90").unwrap().0, [10, 90]);
        assert!(levels("").unwrap().0.is_empty());
        assert!(levels("110").is_err());
    }
}

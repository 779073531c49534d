//! `chatpulse demo`: everything in one process, with simulated traffic through the real endpoint.
//!
//! ```text
//! simulator ──► POST /v1/events/{source} ──► … the pipeline … ──► ClickHouse
//!     └── ground truth ──────────── judge ──────────── derived ◄────┘
//! ```

mod judge;
mod progress;
mod traffic;

use std::{
    io::Write as _,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use chatpulse_producer::{
    Tenants,
    tenants::{TenantsFile, new_tenant},
};
use chatpulse_simulator::{FaultRates, Options, Pace, Simulator};
use chatpulse_store::Store;
use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    local::{DataDir, Local, LocalArgs},
    output,
    stages::Stages,
};
use traffic::Sender;

/// Runs everything on this machine with simulated traffic of all five vendors.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  chatpulse demo                                   live traffic until Ctrl-C, and 12 days of history
  chatpulse demo --rate 2000                       more of it
  chatpulse demo --events 50000 --exit --json      send exactly so many, wait, judge, print, exit")]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) local: LocalArgs,
    /// Send exactly N events as fast as they are taken, then judge the answers by the ground truth.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// With --events: stop when all is judged; exit code 0 only if the books balance and every
    /// metric equals the truth.
    #[arg(long, requires = "events")]
    exit: bool,
    /// With --events: print one JSON object on standard output.
    #[arg(long, requires = "events")]
    json: bool,
    /// The same seed gives the same traffic.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Events per second of live traffic.
    #[arg(long, value_name = "R", default_value_t = 100.0, value_parser = rate)]
    rate: f64,
    /// Events of the last 12 days that the tenant demo-history gets at the first start, so that reports
    /// have something to show; 0 for none.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20_000,
        conflicts_with = "events"
    )]
    history: u64,
}

fn rate(text: &str) -> Result<f64, String> {
    let allowed = Pace::EVENTS_PER_SECOND;
    match text.parse::<f64>() {
        Ok(rate) if allowed.contains(&rate) => Ok(rate),
        _ => Err(format!(
            "give a number from {} to {}",
            allowed.start(),
            allowed.end()
        )),
    }
}

/// Runs the demo until it is done or `stop` is cancelled. False: the judgement failed.
pub(crate) async fn run(
    config: Config,
    args: DemoArgs,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let folder = DataDir::open(&args.local.data_dir)?;
    let now_ms = Timestamp::now().as_millisecond();
    let run_id = format!("r{now_ms:x}");
    let tenants = match args.events {
        // Tenants of their own, so that the figures are those of this run alone.
        Some(_) => vec![format!("check-{run_id}-a"), format!("check-{run_id}-b")],
        None => vec![LIVE_TENANT.to_owned()],
    };
    let write_keys = prepare_tenants(&folder, &tenants)?;
    let history = match args.events {
        None if args.history > 0 => History::prepare(&folder, (now_ms, &run_id), &args)?,
        _ => None,
    };
    let read_token = match args.events {
        None => Some(prepare_read_token(&folder)?),
        Some(_) => None,
    };
    let mut local = Local::start(config, &args.local, folder).await?;
    output::note(&local.banner());
    if let Some(file) = read_token {
        output::note(&format!("read token   {}   (for /v1)", file.display()));
    }
    output::note(&format!("traffic of   {}", tenants.join(", ")));
    if args.events.is_none() {
        output::note(&format!(
            "for a page   chatpulse snippet --tenant {LIVE_TENANT} --tenants {} --url http://{} --write-key \"$(cat {})\"",
            local.stages.config.producer.tenants_file.display(),
            local.producer,
            args.local
                .data_dir
                .join(format!("{LIVE_TENANT}.write-key"))
                .display(),
        ));
    }

    let (pace, events) = match args.events {
        Some(events) => (Pace::Historic, events),
        None => (
            Pace::Live {
                events_per_second: args.rate,
            },
            u64::MAX,
        ),
    };
    let simulator = Simulator::new(Options {
        seed: args.seed.unwrap_or(now_ms.unsigned_abs()),
        events,
        tenants,
        base_time_ms: now_ms,
        run_id,
        faults: FaultRates::default(),
        pace,
    });
    let sender = Sender::new(local.producer, write_keys)?;
    let progress = progress::Progress::start(&local, &sender, args.events);
    let outcome = {
        let (probe, producer) = (Probe::of(&local), local.producer);
        let work = async {
            if let Some(history) = history {
                history.send(producer).await?;
            }
            work(&args, (simulator, now_ms), &sender, probe).await
        };
        tokio::select! {
            outcome = work => outcome,
            failure = local.failure() => Err(failure),
            () = stop.cancelled() => Ok(true),
        }
    };
    progress.finish();
    let stopped = local.stop().await;
    let fine = outcome?;
    stopped.map(|()| fine)
}

/// Events of the past, sent once: live traffic has none.
struct History {
    write_key: String,
    options: Options,
}

impl History {
    const TENANT: &str = "demo-history";

    /// None where it was sent by an earlier start.
    fn prepare(
        folder: &DataDir,
        (now_ms, run_id): (i64, &str),
        args: &DemoArgs,
    ) -> anyhow::Result<Option<Self>> {
        let tenants = Tenants::load(folder.tenants_file());
        if tenants.is_ok_and(|tenants| tenants.snapshot().get(Self::TENANT).is_some()) {
            return Ok(None);
        }
        let write_key = prepare_tenants(folder, &[Self::TENANT.to_owned()])?.remove(0);
        let options = Options {
            seed: args.seed.unwrap_or(now_ms.unsigned_abs()),
            events: args.history,
            tenants: vec![Self::TENANT.to_owned()],
            base_time_ms: now_ms,
            run_id: format!("{run_id}-history"),
            faults: FaultRates::default(),
            pace: Pace::Historic,
        };
        Ok(Some(Self { write_key, options }))
    }

    async fn send(self, producer: SocketAddr) -> anyhow::Result<()> {
        let sender = Sender::new(producer, vec![self.write_key])?;
        let sent = sender.send_all(&mut Simulator::new(self.options)).await?;
        output::note(&format!(
            "history of   {}: {} events of the last 12 days",
            Self::TENANT,
            sent.items
        ));
        Ok(())
    }
}

/// What the work needs of the running parts.
#[derive(Clone)]
struct Probe {
    store: Store,
    stages: Stages,
    enricher: chatpulse_enricher::Metrics,
    sink: chatpulse_sink::Metrics,
}

impl Probe {
    fn of(local: &Local) -> Self {
        Self {
            store: local.stages.store(),
            stages: local.stages.clone(),
            enricher: local.enricher_metrics.clone(),
            sink: local.sink_metrics.clone(),
        }
    }
}

/// Sends, and judges where there is an end.
async fn work(
    args: &DemoArgs,
    (mut simulator, as_of_ms): (Simulator, i64),
    sender: &Sender,
    probe: Probe,
) -> anyhow::Result<bool> {
    if args.events.is_none() {
        sender.send_when_due(&mut simulator).await?;
        return Ok(true);
    }
    let timing = judge::Timing::start(&probe, sender);
    let sent = sender.send_all(&mut simulator).await?;
    let verdict = judge::judge((simulator.truth(), as_of_ms), sent, timing, &probe).await?;
    if args.json {
        output::result(&serde_json::to_string_pretty(&verdict)?);
    } else {
        output::note(&verdict.to_string());
    }
    if !args.exit {
        output::note("all is judged; the parts go on running until Ctrl-C");
        std::future::pending::<()>().await;
    }
    Ok(verdict.passes())
}

/// The tenant of live traffic. Its write key is kept beside its data, so that the next start goes
/// on with it.
const LIVE_TENANT: &str = "demo";

/// Adds the tenants that are missing, and gives everyone's write key.
fn prepare_tenants(folder: &DataDir, tenants: &[String]) -> anyhow::Result<Vec<String>> {
    tenants
        .iter()
        .map(|tenant| {
            let kept = folder.file(&format!("{tenant}.write-key"));
            if tenant == LIVE_TENANT && kept.exists() {
                let key = std::fs::read_to_string(&kept)
                    .with_context(|| format!("cannot read {}", kept.display()))?;
                return Ok(key.trim().to_owned());
            }
            let (mut entry, key) = new_tenant(tenant)?;
            // The simulator stands for thousands of pages.
            entry.limits.requests_per_second = NonZeroU32::MAX;
            entry.limits.burst = NonZeroU32::MAX;
            if tenant == LIVE_TENANT {
                // For the page of whoever tries the snippet, wherever it is served from.
                entry.allowed_origins = vec!["*".to_owned()];
            }
            TenantsFile::append(&folder.tenants_file(), &entry)?;
            if tenant == LIVE_TENANT {
                private_file(&kept, key.expose())
                    .with_context(|| format!("cannot write {}", kept.display()))?;
            }
            Ok(key.expose().to_owned())
        })
        .collect()
}

/// The file with the read token of live traffic's tenant, which is made where it is missing.
fn prepare_read_token(folder: &DataDir) -> anyhow::Result<PathBuf> {
    let kept = folder.file(&format!("{LIVE_TENANT}.read-token"));
    if !kept.exists() {
        let token = TenantsFile::add_read_token(&folder.tenants_file(), LIVE_TENANT, None)?;
        private_file(&kept, token.expose())
            .with_context(|| format!("cannot write {}", kept.display()))?;
    }
    Ok(kept)
}

fn private_file(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

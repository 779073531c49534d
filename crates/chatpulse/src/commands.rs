//! The subcommands that do not need the simulator.

use std::{collections::BTreeMap, path::PathBuf, sync::Mutex, time::Duration};

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use chatpulse_kafka::{Admin, KafkaError, PartitionLag};
use chatpulse_producer::{
    ReplayJob, Tenants,
    tenants::{TenantsFile, new_tenant},
};
use chatpulse_reports::{Period, PeriodError};
use chatpulse_store::{Audit, AuditOptions, Claim, Reader, Store, StoreError};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "embedded")]
use crate::local::{DataDir, Local, LocalArgs};
use crate::{
    config::Config,
    deliveries::{self, DeliveriesCommand},
    lag::LagWatch,
    output,
    rejected::{self, RejectedCommand},
    snippet::{self, SnippetArgs},
    stages::Stages,
    status::{self, Status},
};

/// One stage each, and the tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Takes events in over HTTP and writes them to chat.raw.
    #[command(after_help = "Example:
  CHATPULSE__KAFKA__BOOTSTRAP=broker:9092 chatpulse producer --config chatpulse.toml")]
    Producer,
    /// Makes one outcome of every raw record: chat.raw to chat.events.
    #[command(after_help = "Example:\n  chatpulse enricher --config chatpulse.toml")]
    Enricher,
    /// Carries outcomes to ClickHouse.
    #[command(
        after_help = "Example:\n  chatpulse migrate && chatpulse sink --config chatpulse.toml"
    )]
    Sink,
    /// Delivers events to the tenants' webhooks, GA4 and Meta.
    #[command(after_help = "Example:\n  chatpulse deliverer --config chatpulse.toml")]
    Deliverer,
    /// Serves the reports as pages and JSON.
    #[command(after_help = "Example:\n  chatpulse reports --config chatpulse.toml")]
    Reports,
    /// Brings the schema of ClickHouse up to date, makes the topics that are missing, and adds
    /// partitions where kafka.partitions was raised.
    #[command(after_help = "Example:
  CHATPULSE__CLICKHOUSE__PASSWORD=… chatpulse migrate --config chatpulse.toml
  CHATPULSE__CLICKHOUSE__BI_PASSWORD=… chatpulse migrate --bi-user anna --bi-tenant acme")]
    Migrate(MigrateArgs),
    /// Sends NDJSON files of native payloads (.gz, .br and .zst too) as if a page had sent them.
    Replay(ReplayArgs),
    /// Prints a report.
    #[command(
        subcommand,
        after_help = "Example:\n  chatpulse report tenant-health --tenant acme --since 24h"
    )]
    Report(ReportCommand),
    /// Proves that every raw record of Kafka has exactly one outcome in ClickHouse, and that all counts
    /// agree. Exit code 1 and the offsets where not.
    #[command(after_help = "Example:\n  chatpulse audit --json")]
    Audit(AuditArgs),
    /// Lists rejected records, and gives them to the pipeline again after a fix.
    #[command(
        subcommand,
        after_help = "Example:\n  chatpulse rejected list --since 24h\n  chatpulse rejected replay --reason unknown_source"
    )]
    Rejected(RejectedCommand),
    /// Prints the line that a website owner pastes, and its variants.
    Snippet(SnippetArgs),
    /// Lists deliveries, delivers again what was given up, tests destinations and switches them on.
    #[command(
        subcommand,
        after_help = "Example:\n  chatpulse deliveries list --tenant acme --since 24h"
    )]
    Deliveries(DeliveriesCommand),
    /// Manages the tenants file.
    #[command(
        subcommand,
        after_help = "Example:\n  chatpulse tenant add acme --origin https://www.acme.example"
    )]
    Tenant(TenantCommand),
}

/// `chatpulse serve`
#[cfg(feature = "embedded")]
#[derive(Debug, Args)]
#[command(
    about = "Runs everything on this machine, on the embedded broker and ClickHouse",
    after_help = "Example:
  chatpulse tenant add acme --origin https://www.acme.example --tenants chatpulse-data/tenants.toml
  chatpulse serve"
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Makes a user of ClickHouse who may read the views for analysts and nothing else, or sets its
    /// password and tenant anew. The password is taken from CHATPULSE__CLICKHOUSE__BI_PASSWORD.
    #[arg(long, value_name = "NAME")]
    bi_user: Option<String>,
    /// The one tenant whose rows that user sees. Without it, those of all tenants.
    #[arg(long, value_name = "TENANT", requires = "bi_user")]
    bi_tenant: Option<String>,
}

impl MigrateArgs {
    /// The user to make, where one is asked for.
    fn reader<'a>(&'a self, config: &'a Config) -> anyhow::Result<Option<Reader<'a>>> {
        let Some(name) = &self.bi_user else {
            return Ok(None);
        };
        let password = config.clickhouse.bi_password.as_ref().context(
            "--bi-user needs the user's password: set CHATPULSE__CLICKHOUSE__BI_PASSWORD",
        )?;
        Ok(Some(Reader {
            name,
            password: password.reveal(),
            tenant: self.bi_tenant.as_deref(),
        }))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  chatpulse replay --tenant acme --source watermelon events-2026-01.ndjson.zst

A replay may be repeated: events are recognised by their ids within the dedup window.")]
pub(crate) struct ReplayArgs {
    /// Tenant whose events these are.
    #[arg(long)]
    tenant: String,
    /// Source that the payloads are of.
    #[arg(long)]
    source: String,
    /// Tenants file, instead of the configured one.
    #[arg(long, value_name = "FILE")]
    tenants: Option<PathBuf>,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
    /// Files with one JSON object per line.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Prove the store alone, where the broker is not to be had: what it lacks at its end is not seen.
    #[arg(long)]
    store_only: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Do a tenant's events arrive? Delivery per event type with a verdict, losses, drift.
    #[command(after_help = "Example:
  chatpulse report tenant-health --tenant acme --since 24h
  chatpulse report tenant-health --tenant acme --since 7d --format html > health.html")]
    TenantHealth(ReportArgs),
    /// Do a tenant's events reach its webhooks, GA4 and Meta? Deliveries per destination with a verdict.
    #[command(after_help = "Example:
  chatpulse report deliveries --tenant acme --since 24h")]
    Deliveries(ReportArgs),
    /// What became of the conversations that started: outcomes, handoff, containment, times.
    #[command(after_help = "Example:
  chatpulse report conversations --tenant acme --since 30d --format json")]
    Conversations(ReportArgs),
    /// Which source can show which metric, and why not; how each metric is defined.
    #[command(after_help = "Example:\n  chatpulse report sources --format csv > sources.csv")]
    Sources {
        /// Form of the report.
        #[arg(long, default_value = "md")]
        format: MatrixFormat,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MatrixFormat {
    /// Markdown.
    Md,
    /// One JSON object.
    Json,
    /// One table for a spreadsheet.
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Tenant.
    #[arg(long)]
    tenant: String,
    /// How far back: 90m, 24h, 7d.
    #[arg(long, default_value = "24h", conflicts_with = "from")]
    since: String,
    /// First moment instead, e.g. 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME", requires = "to")]
    from: Option<Timestamp>,
    /// First moment after it.
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<Timestamp>,
    /// Form of the report.
    #[arg(long, default_value = "md")]
    format: ReportFormat,
}

impl ReportArgs {
    fn period(&self) -> Result<Period, PeriodError> {
        match (self.from, self.to) {
            (Some(from), Some(to)) => Period::between(from, to, Timestamp::now()),
            _ => Period::before(Timestamp::now(), &self.since),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ReportFormat {
    /// Markdown.
    Md,
    /// One JSON object.
    Json,
    /// One table for a spreadsheet.
    Csv,
    /// One HTML file with charts that needs nothing else.
    Html,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Adds a tenant with a fresh write key, and prints the key: it cannot be shown again.
    #[command(
        after_help = "Example:\n  chatpulse tenant add acme --origin https://www.acme.example"
    )]
    Add {
        /// Name: a-z, 0-9, - and _.
        id: String,
        /// Origin whose pages may send; may be repeated.
        #[arg(long = "origin", value_name = "ORIGIN")]
        origins: Vec<String>,
        /// Tenants file, instead of the configured one.
        #[arg(long, value_name = "FILE")]
        tenants: Option<PathBuf>,
    },
    /// Manages the tokens that read a tenant's reports.
    #[command(
        subcommand,
        after_help = "Example:\n  chatpulse tenant token add acme --id support"
    )]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Gives a tenant a fresh read token, and prints it: it cannot be shown again. It is in force when
    /// the file is next looked at, without a restart. To take one back, set `revoked = true` at its id
    /// in the file.
    #[command(after_help = "Example:\n  chatpulse tenant token add acme --id support")]
    Add {
        /// Tenant whose reports the token reads.
        tenant: String,
        /// Name of the token in the file: a-z, 0-9, - and _. Default: read, read-2, and so on.
        #[arg(long)]
        id: Option<String>,
        /// Tenants file, instead of the configured one.
        #[arg(long, value_name = "FILE")]
        tenants: Option<PathBuf>,
    },
}

/// Runs everything on this machine until `stop`.
#[cfg(feature = "embedded")]
pub(crate) async fn serve(
    config: Config,
    args: ServeArgs,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let folder = DataDir::open(&args.local.data_dir)?;
    let mut local = Local::start(config, &args.local, folder).await?;
    output::note(&local.banner());
    let outcome = tokio::select! {
        failure = local.failure() => Err(failure),
        () = stop.cancelled() => Ok(()),
    };
    let stopped = local.stop().await;
    outcome.and(stopped)
}

/// False where a check was made and failed.
pub(crate) async fn run(
    config: Config,
    command: Command,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    let stages = Stages::new(config).await?;
    match command {
        Command::Producer => {
            // It answers at once: 503 until the topic is there.
            tokio::try_join!(
                patiently("Kafka", &stop, || stages.ensure_topics()),
                stages.clone().produce(None, stop.clone()),
            )?;
        }
        Command::Enricher => enricher(stages, stop).await?,
        Command::Sink => sink(stages, stop).await?,
        Command::Deliverer => deliverer(stages, stop).await?,
        Command::Reports => {
            let listener = status::listen("reports.listen", stages.config.reports.listen).await?;
            let admin = Admin::new(&stages.kafka("lag"))?;
            let lag = [
                stages.enricher_lag()?,
                stages.sink_lag_watch()?,
                stages.deliverer_lag()?,
            ];
            let watches = lag.iter().map(|watch| watch.run(&admin, &stop));
            let watches = async { futures::future::try_join_all(watches).await.map(drop) };
            // Readiness asks for the store alone: the reports serve while the stages stand still.
            let report = stages.clone().report(listener, Vec::new(), stop.clone());
            beside(report, watches, &stop).await?;
        }
        Command::Migrate(args) => {
            let reader = args.reader(&stages.config)?;
            stages.migrate().await?;
            stages.raise_partitions().await?;
            output::note("schema and topics are up to date");
            if let Some(reader) = reader {
                stages.store().add_reader(&reader).await?;
                let database = stages.config.clickhouse.store().bi_database();
                let rows = reader.tenant.map_or("all tenants".to_owned(), |tenant| {
                    format!("tenant {tenant} alone")
                });
                output::note(&format!("user {} may read {database}: {rows}", reader.name));
            }
        }
        Command::Replay(args) => replay(stages, args).await?,
        Command::Report(command) => report(&stages, command).await?,
        Command::Rejected(command) => rejected::run(&stages, command).await?,
        Command::Deliveries(command) => return deliveries::run(&stages, command).await,
        Command::Audit(args) => return audit(&stages, args).await,
        Command::Snippet(args) => {
            snippet::run(&args, stages.catalog, &stages.config.producer)?;
        }
        Command::Tenant(TenantCommand::Add {
            id,
            origins,
            tenants,
        }) => {
            let file = tenants.unwrap_or_else(|| stages.config.producer.tenants_file.clone());
            let (mut entry, key) = new_tenant(&id)?;
            entry.allowed_origins = origins;
            TenantsFile::append(&file, &entry)?;
            output::note(&format!(
                "tenant {id} is in {}; its write key, shown this once:",
                file.display()
            ));
            output::result(key.expose());
        }
        Command::Tenant(TenantCommand::Token(TokenCommand::Add {
            tenant,
            id,
            tenants,
        })) => {
            let file = tenants.unwrap_or_else(|| stages.config.producer.tenants_file.clone());
            let token = TenantsFile::add_read_token(&file, &tenant, id.as_deref())?;
            output::note(&format!(
                "read token {} of tenant {tenant} is in {}; the token, shown this once:",
                token.id,
                file.display()
            ));
            output::result(token.expose());
        }
    }
    Ok(true)
}

async fn enricher(stages: Stages, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = status::listen("enricher.listen", stages.config.enricher.listen).await?;
    let metrics = chatpulse_enricher::Metrics::new(&stages.registry)?;
    let server = Server {
        listener,
        lag: stages.enricher_lag()?,
        store: None,
    };
    let work = stages.clone().enrich(metrics, stop.clone());
    stage(&stages, server, work, &stop).await
}

async fn deliverer(stages: Stages, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = status::listen("deliverer.listen", stages.config.deliverer.listen).await?;
    let metrics = chatpulse_deliverer::Metrics::new(&stages.registry)?;
    let server = Server {
        listener,
        lag: stages.deliverer_lag()?,
        store: None,
    };
    let work = stages.clone().deliver(metrics, stop.clone());
    stage(&stages, server, work, &stop).await
}

async fn sink(stages: Stages, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = status::listen("sink.listen", stages.config.sink.listen).await?;
    let metrics = chatpulse_sink::Metrics::new(&stages.registry)?;
    let server = Server {
        listener,
        lag: stages.sink_lag_watch()?,
        store: Some(stages.store()),
    };
    let outcomes = stages.clone().sink(metrics.clone(), stop.clone());
    let attempts = stages.clone().sink_deliveries(metrics, stop.clone());
    let work = async { tokio::try_join!(outcomes, attempts).map(drop) };
    stage(&stages, server, work, &stop).await
}

/// What the status server of a stage shows, and what the stage waits for beside Kafka.
struct Server {
    listener: TcpListener,
    lag: LagWatch,
    store: Option<Store>,
}

/// Runs a stage with its status server, which answers from the beginning; the work begins when Kafka, and
/// the store where there is one, are there.
async fn stage(
    stages: &Stages,
    Server {
        listener,
        lag,
        store,
    }: Server,
    work: impl Future<Output = anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let admin = Admin::new(&stages.kafka("status"))?;
    let router = status::router(Status {
        registry: stages.registry.clone(),
        kafka: Some(admin.clone()),
        store: store.clone(),
        lag: vec![lag.clone()],
    });
    let work = async {
        patiently("Kafka", stop, || stages.ensure_topics()).await?;
        if let Some(store) = &store {
            let ready = async || Ok(store.ready().await?);
            patiently("ClickHouse", stop, ready).await?;
        }
        beside(work, lag.run(&admin, stop), stop).await
    };
    let status = status::serve(router, listener, stop.clone());
    beside(work, status, stop).await
}

/// How long a server that is away may make a starting stage wait before it is asked again, at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries again while `part` has a passing fault: stages may be started before what they need.
async fn patiently(
    part: &str,
    stop: &CancellationToken,
    attempt: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let retries = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(PATIENCE)
        .without_max_times();
    let work = (|| attempt())
        .retry(retries)
        .when(will_pass)
        .notify(|error, wait| tracing::warn!("waiting for {part}, again in {wait:?}: {error:#}"));
    tokio::select! {
        outcome = work => outcome,
        () = stop.cancelled() => Ok(()),
    }
}

/// Whether an error may pass by itself, or by what an operator does elsewhere.
fn will_pass(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<KafkaError>() {
        return error.disposition() == chatpulse_kafka::Disposition::Retry;
    }
    match error.downcast_ref::<StoreError>() {
        // `chatpulse migrate` may be under way.
        Some(StoreError::SchemaTooOld { .. } | StoreError::ViewsTooOld { .. }) => true,
        Some(error) => error.disposition() == chatpulse_store::Disposition::Retry,
        None => false,
    }
}

/// Runs a stage and what goes with it; the first that ends stops the other.
async fn beside(
    work: impl Future<Output = anyhow::Result<()>>,
    other: impl Future<Output = anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let _stop_the_other = stop.clone().drop_guard();
    tokio::pin!(work, other);
    tokio::select! {
        ended = &mut work => ended,
        ended = &mut other => {
            ended?;
            work.await
        }
    }
}

async fn replay(stages: Stages, args: ReplayArgs) -> anyhow::Result<()> {
    stages.ensure_topics().await?;
    let mut config = stages.producer_config();
    config.tenants_file = args.tenants.unwrap_or(config.tenants_file);
    let job = ReplayJob {
        tenant: args.tenant,
        source: args.source,
        files: args.files,
    };
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{spinner} {bytes}/{total_bytes} {bar:30} {msg} (eta {eta})",
    )?);
    let bar = Mutex::new(bar);
    let progress = |progress: chatpulse_producer::Progress| {
        if let Ok(bar) = bar.lock() {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} items", progress.read));
        }
    };
    let summary =
        chatpulse_producer::replay(&config, &stages.producer_environment(), &job, progress).await?;
    if let Ok(bar) = bar.lock() {
        bar.finish_and_clear();
    }
    if args.json {
        output::result(&serde_json::to_string_pretty(&summary)?);
        return Ok(());
    }
    output::result(&format!(
        "{} items read, {} accepted",
        summary.read, summary.accepted
    ));
    for (reason, count) in &summary.rejected {
        output::result(&format!("{count} rejected: {reason}"));
    }
    for line in &summary.first_rejections {
        output::result(&format!(
            "  {}:{}: {}: {}",
            line.file.display(),
            line.line,
            line.reason,
            line.detail
        ));
    }
    Ok(())
}

async fn report(stages: &Stages, command: ReportCommand) -> anyhow::Result<()> {
    // The stage does so all the time; where none runs, the figures would be old.
    let now = Timestamp::now();
    if let Err(error) = stages.store().roll_up(now.as_millisecond()).await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(
            error,
            "could not roll up: the report is as of the last time that it was done"
        );
    }
    let reports = stages.reports();
    let text = match command {
        ReportCommand::TenantHealth(args) => {
            let report = reports.tenant_health(&args.tenant, args.period()?).await?;
            if report.sources.is_empty() {
                known_tenant(stages, &args.tenant)?;
            }
            match args.format {
                ReportFormat::Md => report.to_markdown(),
                ReportFormat::Json => serde_json::to_string_pretty(&report)?,
                ReportFormat::Csv => report.to_csv()?,
                ReportFormat::Html => report.to_html(),
            }
        }
        ReportCommand::Deliveries(args) => {
            let period = args.period()?;
            let report = reports.deliveries(&args.tenant, period).await?;
            if report.outgoing.destinations.is_empty() {
                known_tenant(stages, &args.tenant)?;
            }
            match args.format {
                ReportFormat::Md => report.to_markdown(),
                ReportFormat::Json => serde_json::to_string_pretty(&report)?,
                ReportFormat::Csv => report.to_csv()?,
                ReportFormat::Html => {
                    report.to_html(&reports.deliveries_series(&args.tenant, period).await?)
                }
            }
        }
        ReportCommand::Conversations(args) => {
            let report = reports.conversations(&args.tenant, args.period()?).await?;
            if report.sources.is_empty() {
                known_tenant(stages, &args.tenant)?;
            }
            match args.format {
                ReportFormat::Md => report.to_markdown(),
                ReportFormat::Json => serde_json::to_string_pretty(&report)?,
                ReportFormat::Csv => report.to_csv()?,
                ReportFormat::Html => report.to_html(),
            }
        }
        ReportCommand::Sources { format } => {
            let report = reports.matrix().await?;
            match format {
                MatrixFormat::Md => report.to_markdown(),
                MatrixFormat::Json => serde_json::to_string_pretty(&report)?,
                MatrixFormat::Csv => report.to_csv()?,
            }
        }
    };
    output::result(&text);
    Ok(())
}

/// Refuses a tenant that has sent nothing and stands in no tenants file: most likely a slip of the pen.
fn known_tenant(stages: &Stages, tenant: &str) -> anyhow::Result<()> {
    let file = &stages.config.producer.tenants_file;
    // Whoever reads elsewhere than where the producer runs has no such file.
    let Ok(tenants) = Tenants::load(file) else {
        return Ok(());
    };
    let snapshot = tenants.snapshot();
    let names: Vec<&str> = snapshot
        .tenants()
        .map(|tenant| tenant.id.as_str())
        .collect();
    anyhow::ensure!(
        names.contains(&tenant),
        "nothing came from tenant {tenant:?} in that time, and {} has no such tenant; it has: {}",
        file.display(),
        names.join(", ")
    );
    Ok(())
}

const AUDIT_ATTEMPTS: u32 = 20;
const AUDIT_PAUSE: Duration = Duration::from_millis(300);

/// The audit of the store against the broker: every raw record has its outcome in the store, or is
/// still on its way. Without the broker the end of the store is not proved.
async fn audit(stages: &Stages, args: AuditArgs) -> anyhow::Result<bool> {
    let store = stages.store();
    let mut attempts = AUDIT_ATTEMPTS;
    // While inserts run, a block is in the table before the views have it. What is wrong stays wrong
    // in every attempt; what was only under way does not.
    let (audit, under_way) = loop {
        let raw = match args.store_only {
            true => None,
            false => Some(stages.raw_partitions().await.context(
                "the broker does not say what the store must hold: try again, or prove the store alone with --store-only",
            )?),
        };
        let audit = store
            .audit(&AuditOptions {
                claims: claims(raw.iter().flatten()),
                ..AuditOptions::default()
            })
            .await?;
        let under_way = raw.map(|raw| under_way(&raw, &audit));
        attempts -= 1;
        if audit.balanced || attempts == 0 || under_way.unwrap_or(0) == 0 {
            break (audit, under_way);
        }
        tokio::time::sleep(AUDIT_PAUSE).await;
    };
    let complete = match under_way {
        Some(0) => "Kafka agrees: every raw record has its outcome in the store".to_owned(),
        Some(under_way) => {
            format!("Kafka agrees, but for {under_way} raw records that are still on their way")
        }
        None => "Kafka was not asked: the end of the store is not proved".to_owned(),
    };
    if args.json {
        let mut report = serde_json::to_value(&audit)?;
        report["raw_records_under_way"] = serde_json::to_value(under_way)?;
        output::result(&serde_json::to_string_pretty(&report)?);
    } else {
        output::result(&format!("{audit}\n{complete}"));
    }
    Ok(audit.balanced)
}

/// What the store must hold by what the sinks have committed; nothing where they have committed
/// nothing, or the broker has forgotten it after a long rest.
fn claims<'a>(raw: impl Iterator<Item = &'a PartitionLag>) -> BTreeMap<i32, Claim> {
    let claim = |lag: &PartitionLag| Claim {
        low: lag.low,
        stored: lag.committed.unwrap_or(lag.low),
    };
    raw.map(|lag| (lag.partition, claim(lag))).collect()
}

/// Raw records beyond what is known to be stored: by the sinks' word, or by the store's.
fn under_way(raw: &[PartitionLag], audit: &Audit) -> u64 {
    let stored = |partition: i32| {
        let books = audit.partitions.iter().find(|p| p.partition == partition);
        books.map(|books| books.last_offset + 1)
    };
    raw.iter()
        .map(|lag| PartitionLag {
            committed: lag.committed.or_else(|| stored(lag.partition)),
            ..*lag
        })
        .map(|lag| lag.records())
        .sum()
}

//! The system under test: engines and stages as processes, with topics, a database and tenants of their own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use chatpulse_capacity::{Bench, Bytes, MARKER_TENANT, StoreAddress, Target, Usage};
use chatpulse_kafka::Admin;
use chatpulse_producer::tenants::{TenantsFile, new_tenant};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    END,
    options::{CapacityArgs, StageName},
};
use crate::{
    config::{ClickHouse, Config},
    output,
    stages::Stages,
};

/// Name of the part that sends the load: this process.
pub(super) const GENERATOR: &str = "generator";
const STAGES: [&str; 3] = ["producer", "enricher", "sink"];
/// The ClickHouse library is unpacked at first use.
const START: Duration = Duration::from_secs(180);
/// The embedded broker takes tens of milliseconds for a batch: as `chatpulse serve` has it.
const EMBEDDED_LINGER: &str = "25ms";
/// More than any benchmark sends.
const REQUESTS_PER_SECOND: u32 = 10_000_000;

/// The system, or as much of it as is running.
pub(super) struct Site {
    id: String,
    args: CapacityArgs,
    file: Option<PathBuf>,
    /// As the stages have it, as soon as the engines' addresses are known.
    config: Config,
    folder: PathBuf,
    parts: Vec<Part>,
    write_keys: Vec<String>,
    marker_key: String,
    stages: Option<Stages>,
}

/// A child process.
struct Part {
    name: &'static str,
    child: Child,
    /// Where its HTTP server listens; of a stage.
    address: Option<String>,
}

impl Site {
    /// Makes a folder and tenants; starts nothing.
    pub(super) fn prepare(
        mut config: Config,
        file: Option<&Path>,
        args: &CapacityArgs,
    ) -> anyhow::Result<Self> {
        ensure!(
            args.external || cfg!(feature = "embedded"),
            "this binary has no embedded engines: use --external"
        );
        let now = jiff::Timestamp::now().as_millisecond();
        let id = format!("{:x}{:x}", now & 0xff_ffff_ffff, std::process::id());
        let parent = args.work_dir.clone().unwrap_or_else(std::env::temp_dir);
        let parent = std::path::absolute(parent)?;
        let folder = parent.join(format!("chatpulse-bench-{id}"));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        if let Some(partitions) = args.partitions {
            config.kafka.partitions = Some(partitions);
        }
        if !args.external {
            config.kafka.for_embedded();
        }
        config.kafka.prefix = format!("{}bench-{id}.", config.kafka.prefix);
        config.clickhouse.database = format!("{}_bench_{id}", config.clickhouse.database);
        config.clickhouse.bi_database = Some(format!("{}_bi", config.clickhouse.database));
        config.producer.tenants_file = folder.join("tenants.toml");
        config.enricher.checkpoints = folder.join("checkpoints").display().to_string();
        let mut site = Self {
            id,
            args: args.clone(),
            file: file.map(std::path::absolute).transpose()?,
            config,
            folder,
            parts: Vec::new(),
            write_keys: Vec::new(),
            marker_key: String::new(),
            stages: None,
        };
        site.make_tenants()?;
        Ok(site)
    }

    fn make_tenants(&mut self) -> anyhow::Result<()> {
        let mut file = TenantsFile { tenant: Vec::new() };
        let names = (0..self.args.tenants.get()).map(|number| format!("bench-{number}"));
        for name in names.chain([MARKER_TENANT.to_owned()]) {
            let (mut entry, key) = new_tenant(&name)?;
            entry.limits.requests_per_second = non_zero(REQUESTS_PER_SECOND);
            entry.limits.burst = non_zero(REQUESTS_PER_SECOND);
            file.tenant.push(entry);
            self.write_keys.push(key.expose().to_owned());
        }
        self.marker_key = self.write_keys.pop().unwrap_or_default();
        // All at once: one after the other would read the file again for each.
        fs::write(&self.config.producer.tenants_file, toml::to_string(&file)?)?;
        Ok(())
    }

    /// Starts the engines, makes topics and database, and starts the stages that are measured under load.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let has_store = !matches!(
            self.args.stage,
            Some(StageName::Producer | StageName::Enricher)
        );
        if !self.args.external {
            self.config.kafka.bootstrap = self.start_engine("broker").await?;
            if has_store {
                self.config.clickhouse.url = self.start_engine("clickhouse").await?;
                self.config.clickhouse.user = "default".into();
                self.config.clickhouse.password = None;
            }
        }
        let stages = Stages::new(self.config.clone()).await?;
        self.stages = Some(stages.clone());
        stages.ensure_topics().await?;
        if has_store {
            stages.migrate().await?;
        }
        self.start_stage("producer").await?;
        if self.args.stage.is_none() {
            self.start_stage("enricher").await?;
            self.start_stage("sink").await?;
        }
        Ok(())
    }

    /// Starts an engine; gives the address that it prints when it can be used.
    async fn start_engine(&mut self, name: &'static str) -> anyhow::Result<String> {
        let mut command = self.command(name)?;
        command
            .arg("--data")
            .arg(self.folder.join(name))
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a process")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        self.parts.push(Part {
            name,
            child,
            address: None,
        });
        let mut lines = BufReader::new(stdout).lines();
        let said = timeout(START, lines.next_line()).await;
        match said {
            Ok(Ok(Some(address))) => Ok(address),
            _ => bail!("the {name} did not start: {}", self.last_words(name)),
        }
    }

    /// Starts a stage and waits until it is ready; gives the URL of its metrics.
    pub(super) async fn start_stage(&mut self, name: &'static str) -> anyhow::Result<String> {
        let address = free_address()?;
        let kafka = &self.config.kafka;
        let store = &self.config.clickhouse;
        let tenants = self.config.producer.tenants_file.display().to_string();
        let mut settings = vec![
            ("KAFKA__PREFIX", kafka.prefix.clone()),
            ("KAFKA__PARTITIONS", kafka.partitions().to_string()),
            ("CLICKHOUSE__DATABASE", store.database.clone()),
            ("CLICKHOUSE__BI_DATABASE", store.store().bi_database()),
            ("PRODUCER__TENANTS_FILE", tenants),
            (
                "ENRICHER__CHECKPOINTS",
                self.config.enricher.checkpoints.clone(),
            ),
        ];
        if !self.args.external {
            let batch_wait = format!("{}ms", crate::local::BATCH_WAIT.as_millis());
            settings.extend([
                ("KAFKA__BOOTSTRAP", kafka.bootstrap.clone()),
                ("CLICKHOUSE__URL", store.url.clone()),
                ("CLICKHOUSE__USER", store.user.clone()),
                ("CLICKHOUSE__PASSWORD", String::new()),
                ("PRODUCER__LINGER", EMBEDDED_LINGER.into()),
                ("ENRICHER__LINGER", EMBEDDED_LINGER.into()),
                ("SINK__BATCH_WAIT", batch_wait),
            ]);
        }
        let mut command = self.command(name)?;
        let listen = format!("CHATPULSE__{}__LISTEN", name.to_uppercase());
        command.env(listen, &address).stdout(Stdio::null());
        for (key, value) in settings {
            command.env(format!("CHATPULSE__{key}"), value);
        }
        let child = command.spawn().context("cannot start a process")?;
        self.parts.push(Part {
            name,
            child,
            address: Some(address.clone()),
        });
        self.until_ready(name, &address).await?;
        Ok(format!("http://{address}/metrics"))
    }

    async fn until_ready(&mut self, name: &str, address: &str) -> anyhow::Result<()> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()?;
        let deadline = Instant::now() + START;
        loop {
            let answer = http.get(format!("http://{address}/readyz")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let part = self.parts.iter_mut().find(|part| part.name == name);
            let ended = part
                .map(|part| part.child.try_wait())
                .transpose()?
                .flatten();
            if let Some(status) = ended {
                bail!("the {name} ended with {status}: {}", self.last_words(name));
            }
            ensure!(
                Instant::now() < deadline,
                "the {name} does not become ready: {}",
                self.last_words(name)
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// This binary as a part, out of reach of the terminal's Ctrl-C: it is this process that ends it.
    fn command(&self, name: &str) -> anyhow::Result<Command> {
        let log = File::create(self.log(name))
            .with_context(|| format!("cannot write {}", self.log(name).display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(file) = &self.file {
            command.arg("--config").arg(file);
        }
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "warn,chatpulse=info");
        }
        command
            .args(["bench", "part", name])
            .stdin(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn last_words(&self, name: &str) -> String {
        let log = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        format!("it says\n  {last}")
    }

    /// Ends a part, so that it drains; with force when it does not.
    pub(super) async fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let Some(place) = self.parts.iter().position(|part| part.name == name) else {
            return Ok(());
        };
        let mut part = self.parts.remove(place);
        let pid = part.child.id().and_then(|pid| Pid::from_raw(pid as i32));
        // One that has ended already cannot be told.
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(END, part.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    output::note(&format!("the {name} ended with {status}"));
                }
            }
            Err(_) => {
                output::note(&format!("the {name} did not end, and was killed"));
                part.child.kill().await?;
            }
        }
        Ok(())
    }

    /// Ends everything and removes what was made. The folder with the logs stays where the benchmark failed.
    pub(super) async fn remove(&mut self, went_well: bool) -> anyhow::Result<()> {
        for name in STAGES {
            self.end(name).await?;
        }
        let removed = match (self.args.external, self.stages.take()) {
            (true, Some(stages)) => self.remove_outside(&stages).await,
            _ => Ok(()),
        };
        for name in ["clickhouse", "broker"] {
            self.end(name).await?;
        }
        match went_well {
            true => fs::remove_dir_all(&self.folder)
                .with_context(|| format!("cannot remove {}", self.folder.display()))?,
            false => output::note(&format!(
                "the logs of the stages are in {}",
                self.folder.display()
            )),
        }
        removed
    }

    /// Removes topics and databases from servers that are not ours.
    async fn remove_outside(&self, stages: &Stages) -> anyhow::Result<()> {
        let topics = &stages.topics;
        let steps = stages.config.deliverer.pauses.len();
        let one = std::num::NonZeroU32::MIN;
        let specs = topics.specs(one, one).into_iter();
        let specs: Vec<_> = specs
            .chain(topics.delivery_specs(one, one, steps))
            .collect();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let prefix = &self.config.kafka.prefix;
        Admin::new(&stages.kafka("bench"))?
            .delete_topics(&names)
            .await
            .with_context(|| format!("cannot remove the topics {prefix}…: remove them by hand"))?;
        if let Some(store) = self.store_address() {
            let bi_database = self.config.clickhouse.store().bi_database();
            for database in [bi_database.as_str(), store.database.as_str()] {
                store.drop_database(database).await.with_context(|| {
                    format!("cannot remove the database {database}: remove it by hand")
                })?;
            }
        }
        Ok(())
    }

    /// What the load goes to and what is watched.
    pub(super) fn target(&self) -> Target {
        let address = |name: &str| {
            let part = self.parts.iter().find(|part| part.name == name)?;
            part.address.clone()
        };
        Target {
            producer: address("producer").unwrap_or_default(),
            write_keys: self.write_keys.clone(),
            marker_key: self.marker_key.clone(),
            sink_metrics: address("sink").map(|address| format!("http://{address}/metrics")),
            store: self.store_address(),
            parts: self.parts(),
        }
    }

    /// The parts that are running, and how their consumption is known.
    pub(super) fn parts(&self) -> Vec<(String, Usage)> {
        let usage = |part: &Part| part.child.id().map_or(Usage::Unknown, Usage::Process);
        let mut parts: Vec<(String, Usage)> = self
            .parts
            .iter()
            .map(|part| (part.name.to_owned(), usage(part)))
            .collect();
        if self.args.external {
            let broker = self.args.broker_pid.map_or(Usage::Unknown, Usage::Process);
            parts.push(("broker".into(), broker));
            if self.store_address().is_some() {
                parts.push(("clickhouse".into(), Usage::AskClickHouse));
            }
        }
        parts.sort_by_key(|(name, _)| {
            let order = ["producer", "enricher", "sink", "broker", "clickhouse"];
            order.iter().position(|other| other == name)
        });
        parts.push((GENERATOR.into(), Usage::Process(std::process::id())));
        parts
    }

    /// ClickHouse, where it is measured.
    pub(super) fn store_address(&self) -> Option<StoreAddress> {
        if matches!(
            self.args.stage,
            Some(StageName::Producer | StageName::Enricher)
        ) {
            return None;
        }
        Some(store_address(&self.config.clickhouse))
    }

    /// Bytes per event of all that `bench` sent.
    pub(super) async fn bytes(&self, bench: &Bench, weighed: u64) -> anyhow::Result<Bytes> {
        let events = bench.acknowledged as f64;
        if bench.acknowledged == 0 {
            return Ok(Bytes::default());
        }
        let stages = self.stages.as_ref().context("nothing was started")?;
        let admin = Admin::new(&stages.kafka("bench"))?;
        let weigh = async |topic: &str| -> anyhow::Result<Option<f64>> {
            let (records, bytes) = admin.weigh(topic, weighed).await?;
            Ok((records > 0).then(|| bytes as f64 / records as f64))
        };
        let tables = bench.tables().await?;
        let of_tables: u64 = tables.iter().map(|table| table.bytes).sum();
        let broker = self.folder.join("broker");
        Ok(Bytes {
            wire: Some(bench.body_bytes as f64 / events),
            kafka_raw: weigh(&stages.topics.raw).await?,
            kafka_events: weigh(&stages.topics.events).await?,
            kafka_disk: match self.args.external {
                true => None,
                false => Some(size_of(&broker)? as f64 / events),
            },
            clickhouse: (!tables.is_empty()).then(|| of_tables as f64 / events),
            tables,
        })
    }

    /// Copies of each partition in Kafka.
    pub(super) fn copies(&self) -> f64 {
        f64::from(self.config.kafka.replication.get())
    }

    /// Partitions of each topic.
    pub(super) fn partitions(&self) -> u32 {
        self.config.kafka.partitions().get()
    }

    /// Of this benchmark only.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Broker and ClickHouse, for people.
    pub(super) fn engines(&self) -> String {
        match self.args.external {
            true => "broker and ClickHouse of the configuration".into(),
            false => "embedded broker and ClickHouse".into(),
        }
    }

    /// What a reader must know of this system.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "The load was made on the same machine, and its CPU time is shown as that of the generator.".to_owned(),
        ];
        if !self.args.external {
            notes.push(
                "The embedded broker is for one machine; with Apache Kafka (--external) figures are others.".into(),
            );
        }
        if cfg!(debug_assertions) {
            notes.push(
                "THIS IS A DEBUG BUILD: it is several times slower than a release build.".into(),
            );
        }
        notes
    }
}

/// How the benchmark reaches a ClickHouse for itself.
pub(super) fn store_address(store: &ClickHouse) -> StoreAddress {
    StoreAddress {
        url: store.url.clone(),
        database: store.database.clone(),
        user: store.user.clone(),
        password: store
            .password
            .as_ref()
            .map(|secret| secret.reveal().to_owned()),
    }
}

fn non_zero(number: u32) -> std::num::NonZeroU32 {
    std::num::NonZeroU32::new(number).unwrap_or(std::num::NonZeroU32::MIN)
}

/// An address of this machine that nobody else reaches and nobody uses now.
fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.to_string())
}

fn size_of(folder: &Path) -> anyhow::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += match metadata.is_dir() {
            true => size_of(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(size)
}

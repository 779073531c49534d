//! Broker, store and stages as processes, and what they cost.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use chatpulse_kafka::{Admin, KafkaConfig, Topics};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

pub(crate) const PARTITIONS: u32 = 4;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kafka/kafka");
/// Of the clock in which the kernel counts CPU time; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// A round that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// Processes by what they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pids(pub(crate) BTreeMap<String, u32>);

impl Pids {
    pub(crate) fn with(mut self, name: &str, pid: u32) -> Self {
        self.0.insert(name.to_owned(), pid);
        self
    }
}

/// What a role is told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(crate) fn with(&self, name: &str, value: impl ToString) -> Self {
        let mut more = self.clone();
        more.0.insert(name.to_owned(), value.to_string());
        more
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.with_context(|| format!("no {name} is given"))
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        text.parse().ok().with_context(|| format!("{name}: {text}"))
    }
}

/// What a window of work took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) records: u64,
    /// Of these the window begins after the first.
    counted: u64,
    seconds: f64,
    /// CPU seconds of each process.
    cpu: BTreeMap<String, f64>,
}

impl Measured {
    pub(crate) fn rate(&self) -> f64 {
        self.counted as f64 / self.seconds
    }

    /// CPU time per record; microseconds.
    pub(crate) fn micros(&self, who: &str) -> f64 {
        let seconds = self.cpu.get(who).copied().unwrap_or(0.0);
        seconds * 1e6 / self.counted as f64
    }
}

/// The beginning of a window.
pub(crate) struct Mark {
    at: Instant,
    cpu: BTreeMap<String, (u32, f64)>,
    done: u64,
}

impl Mark {
    pub(crate) fn now(pids: &Pids) -> Result<Self> {
        let mut cpu = BTreeMap::new();
        for (name, pid) in &pids.0 {
            cpu.insert(name.clone(), (*pid, cpu_seconds(*pid)?));
        }
        Ok(Self {
            at: Instant::now(),
            cpu,
            done: 0,
        })
    }

    pub(crate) fn until_now(&self, records: u64) -> Result<Measured> {
        let seconds = self.at.elapsed().as_secs_f64();
        let mut cpu = BTreeMap::new();
        for (name, (pid, before)) in &self.cpu {
            cpu.insert(name.clone(), cpu_seconds(*pid)? - before);
        }
        Ok(Measured {
            records,
            counted: records - self.done,
            seconds,
            cpu,
        })
    }
}

/// User and system time of a process and its threads so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    Ok(ticks
        .filter_map(|text| text.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS_PER_SECOND)
}

/// The window from when `done` is more than 0 to when it is `total`: starting costs are not in it.
pub(crate) async fn window(total: u64, pids: &Pids, done: impl Fn() -> u64) -> Result<Measured> {
    let deadline = Instant::now() + PATIENCE;
    let mut mark: Option<Mark> = None;
    loop {
        let now = done();
        match &mut mark {
            None if now > 0 => {
                let mut begin = Mark::now(pids)?;
                begin.done = now.min(total - 1);
                mark = Some(begin);
            }
            Some(begin) if now >= total => return begin.until_now(now),
            _ => {}
        }
        ensure!(
            Instant::now() < deadline,
            "{now} of {total} after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// The broker, and a folder for everything; both gone with it.
pub(crate) struct Ground {
    folder: TempDir,
    bootstrap: String,
    broker: u32,
    compression: String,
}

/// How every client of the brokers is set up.
pub(crate) fn kafka(bootstrap: &str, compression: &str, client: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(bootstrap, client);
    let (name, codec) = ("compression.type".to_owned(), compression.to_owned());
    config.overrides.insert(name, codec);
    config
}

impl Ground {
    pub(crate) async fn start(compression: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kafka = folder.path().join("kafka");
        let output = Command::new(SCRIPT)
            .arg("start")
            .arg(&kafka)
            .env("CHATPULSE_KAFKA_HEAP", "1g")
            .stdin(Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        // From here on dropping it stops the broker.
        let mut ground = Self {
            folder,
            bootstrap: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            broker: 0,
            compression: compression.to_owned(),
        };
        ensure!(output.status.success(), "{SCRIPT}: {}", said.trim());
        let pid = std::fs::read_to_string(kafka.join("broker-1/pid"))?;
        ground.broker = pid.trim().parse()?;
        Ok(ground)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn kafka(&self, client: &str) -> KafkaConfig {
        kafka(&self.bootstrap, &self.compression, client)
    }

    pub(crate) fn pids(&self) -> Pids {
        Pids::default().with("broker", self.broker)
    }

    pub(crate) fn parameters(&self) -> Parameters {
        let checkpoints = self.path("checkpoints");
        Parameters::default()
            .with("bootstrap", &self.bootstrap)
            .with("compression", &self.compression)
            .with("checkpoints", checkpoints.display())
    }

    /// Makes the topics, as an installation does.
    pub(crate) async fn make(&self, topics: &Topics) -> Result<()> {
        let partitions = NonZeroU32::MIN.saturating_add(PARTITIONS - 1);
        let specs = topics.specs(partitions, NonZeroU32::MIN);
        Admin::new(&self.kafka("admin"))?
            .ensure_topics(&specs)
            .await?;
        Ok(())
    }

    /// Starts a role; it is ready when this returns. `threads` for async work, 0 for as many as cores.
    pub(crate) async fn start_role(
        &self,
        role: &str,
        parameters: &Parameters,
        threads: usize,
    ) -> Result<Role> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("role")
            .arg(role)
            .arg(serde_json::to_string(parameters)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if threads > 0 {
            command.env("TOKIO_WORKER_THREADS", threads.to_string());
        }
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut role = Role {
            name: role.to_owned(),
            input: input.context("a pipe")?,
            lines: BufReader::new(output.context("a pipe")?).lines(),
            child,
        };
        let line = role.line().await?;
        ensure!(line == "ready", "{} says {line}", role.name);
        Ok(role)
    }

    /// A role from its start to its report.
    pub(crate) async fn measure(
        &self,
        role: &str,
        parameters: &Parameters,
        pids: &Pids,
    ) -> Result<Measured> {
        let mut role = self.start_role(role, parameters, 0).await?;
        let pids = pids.clone().with("self", role.pid());
        role.go(&pids).await?;
        role.report().await
    }

    pub(crate) async fn store(&self) -> Result<StoreProcess> {
        let parameters = self.parameters().with("data", self.path("store").display());
        let mut role = self.start_role("store", &parameters, 0).await?;
        let url = role.line().await?;
        Ok(StoreProcess { role, url })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The script's broker does not die with us.
        let _ = std::process::Command::new(SCRIPT)
            .arg("kill")
            .arg(self.folder.path().join("kafka"))
            .status();
    }
}

/// ClickHouse, running.
pub(crate) struct StoreProcess {
    role: Role,
    url: String,
}

impl StoreProcess {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn pid(&self) -> u32 {
        self.role.pid()
    }
}

/// This program again, as one part of the whole. Killed when dropped.
pub(crate) struct Role {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Role {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The next line that it says.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.with_context(|| format!("{} says nothing", self.name))??;
        line.with_context(|| format!("{} ended: see above", self.name))
    }

    /// Lets it begin, and watch these processes.
    pub(crate) async fn go(&mut self, pids: &Pids) -> Result<()> {
        let line = serde_json::to_string(pids)? + "\n";
        self.input.write_all(line.as_bytes()).await?;
        Ok(())
    }

    pub(crate) async fn report(&mut self) -> Result<Measured> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }
}

/// Runs a statement.
pub(crate) async fn query(url: &str, sql: &str) -> Result<()> {
    let answer = reqwest::Client::new()
        .post(url)
        .body(sql.to_owned())
        .send()
        .await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{sql}: {text}");
    Ok(())
}

/// Passes requests on to the store, and keeps the blocks of events among them.
pub(crate) struct Recorder {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    store: String,
    client: reqwest::Client,
    inserts: Mutex<Vec<(String, Bytes)>>,
}

impl Recorder {
    pub(crate) async fn start(store: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            store: store.to_owned(),
            client: reqwest::Client::new(),
            inserts: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let router = axum::Router::new()
            .fallback(pass)
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, shared })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Writes the inserts down: lengths and bytes of path and body in turn.
    pub(crate) fn save(&self, path: &Path) -> Result<PathBuf> {
        let inserts = self
            .shared
            .inserts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        for (uri, body) in inserts.iter() {
            for part in [uri.as_bytes(), body] {
                bytes.extend((part.len() as u64).to_le_bytes());
                bytes.extend(part);
            }
        }
        std::fs::write(path, bytes)?;
        Ok(path.to_owned())
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match forward(&shared, request).await {
        Ok(response) => response,
        Err(error) => {
            let mut response = Response::new(Body::from(error.to_string()));
            *response.status_mut() = axum::http::StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn forward(shared: &Shared, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.to_string();
    let body = axum::body::to_bytes(body, usize::MAX).await?;
    let mut onward = shared
        .client
        .request(parts.method, format!("{}{uri}", shared.store));
    for (name, value) in &parts.headers {
        if name.as_str().starts_with("x-clickhouse") {
            onward = onward.header(name, value);
        }
    }
    let answer = onward.body(body.clone()).send().await?;
    if answer.status().is_success() && uri.contains("insert_deduplication_token") {
        let mut inserts = shared
            .inserts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inserts.push((uri, body));
    }
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name.as_str().starts_with("x-clickhouse") {
            response = response.header(name, value);
        }
    }
    Ok(response.body(Body::from(answer.bytes().await?))?)
}

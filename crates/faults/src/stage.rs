//! The stages as processes, each started again when it ends, as an init system does.

use std::{
    fmt,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

use crate::process::{Signal, free_ports, loopback, peak_kib, signal, spawn};

/// Pause before a process that ended by itself is started again.
const PAUSE: Duration = Duration::from_millis(500);
/// A stage drains for at most 20 s.
const END: Duration = Duration::from_secs(45);

/// Which stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Producer,
    Enricher,
    Sink,
    Deliverer,
}

impl Kind {
    /// Those that bring events into the store, in the order of the data.
    pub(crate) const STORING: [Kind; 3] = [Kind::Producer, Kind::Enricher, Kind::Sink];
    /// And the one that brings them to the tenants' receivers.
    pub(crate) const ALL: [Kind; 4] = [Kind::Producer, Kind::Enricher, Kind::Sink, Kind::Deliverer];

    fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Enricher => "enricher",
            Self::Sink => "sink",
            Self::Deliverer => "deliverer",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The binary, where it runs, and with which configuration.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Program {
    /// The binary with the configuration of its folder.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("--config")
            .arg(self.folder.join("chatpulse.toml"))
            .current_dir(&self.folder);
        command
    }
}

/// One instance, kept running until it is stopped.
pub(crate) struct Stage {
    pub(crate) kind: Kind,
    address: SocketAddr,
    log: PathBuf,
    state: Arc<Mutex<State>>,
    keeper: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    is_stopping: bool,
    /// Somebody sent a signal that ends it.
    is_end_asked: bool,
    /// How it ended where nobody had asked it to.
    ends: Vec<ExitStatus>,
    /// kill -9 that found a process.
    kills: u32,
    last_end: Option<ExitStatus>,
    starts: u32,
}

impl Stage {
    /// Starts instance `number` of `kind`.
    pub(crate) fn start(program: &Program, kind: Kind, number: usize) -> Self {
        let address = loopback(free_ports(1));
        let log = program.folder.join(format!("{kind}-{number}.log"));
        let state = Arc::new(Mutex::new(State::default()));
        let keeper = tokio::spawn(keep(
            program.clone(),
            (kind, address),
            log.clone(),
            Arc::clone(&state),
        ));
        Self {
            kind,
            address,
            log,
            state,
            keeper,
        }
    }

    /// URL of its HTTP server.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// kill -9; it is started again at once.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        {
            let mut state = self.state();
            state.kills += u32::from(state.pid.is_some());
        }
        self.end(Signal::KILL)
    }

    /// How often it was killed so far.
    pub(crate) fn kills(&self) -> u32 {
        self.state().kills
    }

    /// SIGSTOP: it does nothing, and does not know it.
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        self.send(Signal::STOP)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        self.send(Signal::CONT)
    }

    /// SIGTERM, and waits until the process has ended and another is there.
    pub(crate) async fn replace(&self) -> anyhow::Result<()> {
        let starts = self.state().starts;
        self.end(Signal::TERM)?;
        let deadline = Instant::now() + END;
        while self.state().starts == starts {
            ensure!(
                Instant::now() < deadline,
                "the {} does not end on SIGTERM: see {}",
                self.kind,
                self.log.display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let status = self.state().last_end;
        ensure!(
            status.is_none_or(is_clean),
            "the {} ended with {status:?} on SIGTERM: see {}",
            self.kind,
            self.log.display()
        );
        Ok(())
    }

    /// Waits until the present process has done some of its stage's work: what is killed or frozen
    /// then was not idle.
    pub(crate) async fn at_work(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + END;
        while !self.has_worked().await {
            ensure!(
                Instant::now() < deadline,
                "the {} does not come to work: see {}",
                self.kind,
                self.log.display()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// By its own metrics, which begin with the process.
    async fn has_worked(&self) -> bool {
        let name = match self.kind {
            Kind::Producer => "chatpulse_producer_items_total",
            Kind::Enricher => "chatpulse_enricher_outcomes_total",
            Kind::Sink => "chatpulse_sink_stored_total",
            Kind::Deliverer => "chatpulse_deliverer_turns_total",
        };
        let Ok(answer) = reqwest::get(format!("{}/metrics", self.url())).await else {
            return false;
        };
        let text = answer.text().await.unwrap_or_default();
        text.lines()
            .filter(|line| line.starts_with(name))
            .any(|line| !line.ends_with(" 0"))
    }

    /// How often a process of it took a partition over.
    pub(crate) fn takeovers(&self) -> usize {
        let what = match self.kind {
            Kind::Producer => return 0,
            Kind::Enricher => ": enriching ",
            Kind::Sink => ": storing ",
            Kind::Deliverer => ": delivering ",
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(what)).count()
    }

    /// How often it ended by itself.
    pub(crate) fn failures(&self) -> usize {
        self.state().ends.len()
    }

    /// Highest memory of the present process so far, KiB.
    pub(crate) fn peak_kib(&self) -> Option<u64> {
        peak_kib(self.state().pid?)
    }

    /// Ends it for good, with SIGTERM; after a deadline with SIGKILL, which is an error.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        self.state().is_stopping = true;
        self.end(Signal::TERM)?;
        let deadline = Instant::now() + END;
        while !self.keeper.is_finished() {
            if Instant::now() >= deadline {
                self.end(Signal::KILL)?;
                anyhow::bail!(
                    "the {} does not stop: see {}",
                    self.kind,
                    self.log.display()
                );
            }
            // Between two processes there is none that hears a signal.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let status = self.state().last_end;
        ensure!(
            status.is_none_or(is_clean),
            "the {} stopped with {status:?}: see {}",
            self.kind,
            self.log.display()
        );
        Ok(())
    }

    fn end(&self, what: Signal) -> anyhow::Result<()> {
        {
            let mut state = self.state();
            state.is_end_asked = state.pid.is_some();
        }
        self.send(what)
    }

    fn send(&self, what: Signal) -> anyhow::Result<()> {
        match self.state().pid {
            Some(pid) => signal(pid, what),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A process that has just begun does not catch the signal yet; and somebody may have killed it first.
fn is_clean(status: ExitStatus) -> bool {
    status.success() || matches!(status.signal(), Some(9 | 15))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(
    program: Program,
    (kind, address): (Kind, SocketAddr),
    log: PathBuf,
    state: Arc<Mutex<State>>,
) {
    while !lock(&state).is_stopping {
        let ended = run(&program, (kind, address), &log, &state).await;
        let was_asked = {
            let mut state = lock(&state);
            state.pid = None;
            let was_asked = std::mem::take(&mut state.is_end_asked);
            match ended {
                Ok(status) => {
                    state.last_end = Some(status);
                    if !was_asked {
                        state.ends.push(status);
                    }
                }
                Err(error) => crate::output::note(&format!("{kind}: {error:#}")),
            }
            was_asked
        };
        if !was_asked {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn run(
    program: &Program,
    (kind, address): (Kind, SocketAddr),
    log: &Path,
    state: &Mutex<State>,
) -> anyhow::Result<ExitStatus> {
    let listen = format!("CHATPULSE__{}__LISTEN", kind.name().to_uppercase());
    let mut command = program.command();
    command.arg(kind.name()).env(listen, address.to_string());
    let mut child: Child = spawn(&mut command, log)?;
    {
        let mut state = lock(state);
        state.pid = child.id();
        state.starts += 1;
        // It was not there to hear the signal.
        if state.is_stopping
            && let Some(pid) = state.pid
        {
            signal(pid, Signal::TERM)?;
        }
    }
    child.wait().await.context("cannot wait for a stage")
}

//! Processes with their log in a file, their signals and their memory.

use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::Context as _;
pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};

/// Starts a child that dies with the harness, and appends what it says to `log`.
pub(crate) fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Child> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.as_std().get_program()))
}

/// Sends a signal. A process that has ended in the meantime is no error.
pub(crate) fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot send {signal:?} to {pid:?}")),
    }
}

/// Highest resident memory of a process so far, KiB.
pub(crate) fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Lowest port given out; below the range from which systems serve outgoing connections, so that
/// none takes the port of a process that is down.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 7_500;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// The first of `count` free ports in a row on loopback, for a process that is started again on
/// the same one.
pub(crate) fn free_ports(count: u16) -> u16 {
    // Harnesses that run at the same time begin at different places.
    let start = (std::process::id() % 75) as u16 * 100;
    loop {
        let number = NEXT_PORT.fetch_add(count, Ordering::Relaxed);
        let first = FIRST_PORT + start.wrapping_add(number) % PORTS;
        if (first..first + count).all(|port| TcpListener::bind(loopback(port)).is_ok()) {
            return first;
        }
    }
}

/// An address of this machine that nobody else reaches.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

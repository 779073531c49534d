//! Headless Chromium for tests of pages, over the Chrome DevTools Protocol.
//!
//! ```text
//! Browser::launch ─ .ci/chromium ─► process ─ WebSocket ─► Page: goto, evaluate, wait_for, screenshot, axe
//! ```
//!
//! The protocol is spoken plainly, some twenty of its oldest commands: the crates that generate
//! types of all of it refuse messages of browsers that are newer than they are, and a distribution's
//! Chromium is newer every month; WebDriver would need a second program of exactly the browser's
//! version, and cannot set the colour scheme.
//!
//! This crate is for tests only, so whatever goes wrong panics with what it was.

mod axe;
mod page;
mod wire;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

pub use axe::Violation;
pub use page::{Page, Screen};
use wire::Wire;

/// A guard against hanging: machines that build beside are slow.
const DEADLINE: Duration = Duration::from_secs(120);

/// Most browsers of a test binary at a time: each takes several processes and some hundred megabytes.
static PLACES: Semaphore = Semaphore::const_new(4);

/// A running browser with a profile of its own. Ends with the value.
pub struct Browser {
    wire: Wire,
    process: Child,
    _profile: TempDir,
    _place: SemaphorePermit<'static>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its profile is removed next, so it must have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser {
    /// Starts the Chromium that `.ci/chromium` finds or installs. It can reach this machine only.
    ///
    /// # Panics
    /// Where there is none and none can be installed, or it does not start.
    pub async fn launch() -> Browser {
        let place = PLACES.acquire().await.expect("never closed");
        let profile = tempfile::tempdir().expect("a folder for the browser's profile");
        let mut command = Command::new(installed().await);
        command
            .args([
                "--headless=new",
                "--remote-debugging-port=0",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-default-apps",
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--disable-gpu",
                "--disable-popup-blocking",
                "--disable-sync",
                "--hide-scrollbars",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--no-default-browser-check",
                "--no-first-run",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Chromium's sandbox refuses root, and containers rarely let it make namespaces.
        if rustix::process::geteuid().is_root() || std::env::var_os("CI").is_some() {
            command.arg("--no-sandbox");
        }
        let mut process = command.spawn().expect("starting Chromium");
        let stderr = process.stderr.take().expect("its stderr is piped");
        let url = tokio::time::timeout(DEADLINE, listening(stderr))
            .await
            .expect("Chromium did not listen in time")
            .expect("Chromium ended before it listened, see above");
        Browser {
            wire: Wire::connect(&url).await,
            process,
            _profile: profile,
            _place: place,
        }
    }

    /// A new, empty page, as a desktop of 1440 x 900 shows it.
    pub async fn page(&self) -> Page {
        // A context of its own: no cookie, cache or storage is shared with another page.
        let context = self
            .wire
            .call(None, "Target.createBrowserContext", json!({}))
            .await;
        let context = context["browserContextId"].as_str().expect("a context");
        Page::open(self.wire.clone(), context.to_owned()).await
    }
}

/// The address that Chromium prints; what it says after that is read and dropped.
fn listening(stderr: ChildStderr) -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut said = Vec::new();
        for line in lines.by_ref() {
            if let Some(url) = line.strip_prefix("DevTools listening on ") {
                let _ = sender.send(url.trim().to_owned());
                lines.for_each(drop);
                return;
            }
            said.push(line);
        }
        let _ = std::io::Write::write_all(&mut std::io::stderr(), said.join("\n").as_bytes());
    });
    receiver
}

/// Runs a script of `.ci` that finds or installs something and prints its path.
async fn script(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.ci")
        .join(name);
    let output = tokio::process::Command::new(&path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap_or_else(|error| panic!("running {}: {error}", path.display()));
    assert!(
        output.status.success(),
        "{} failed, see above",
        path.display()
    );
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

async fn installed() -> PathBuf {
    static PATH: tokio::sync::OnceCell<PathBuf> = tokio::sync::OnceCell::const_new();
    PATH.get_or_init(|| script("chromium")).await.clone()
}

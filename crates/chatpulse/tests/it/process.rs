//! Starts the binary and waits for what it says.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

/// Builds on a loaded machine are slow to start.
const START: Duration = Duration::from_secs(120);

/// The binary with a data folder of its own and any free ports.
pub(crate) fn chatpulse(subcommand: &str, data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatpulse"));
    command.arg(subcommand).arg("--data-dir").arg(data_dir);
    for part in ["--producer", "--dashboard", "--clickhouse", "--kafka"] {
        command.arg(part).arg("127.0.0.1:0");
    }
    command.current_dir(data_dir.parent().unwrap());
    command
}

/// An HTTP client. The embedded broker's dependencies make reqwest want a provider of cryptography.
pub(crate) fn client() -> reqwest::Client {
    // Every test installs the same one; whoever comes second is told so.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::new()
}

/// A tool of the binary, away from any configuration file.
pub(crate) fn tool(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chatpulse"))
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap()
}

/// Adds the tenant `acme` to the tenants file of a data folder; gives its write key.
pub(crate) fn add_tenant(data_dir: &Path) -> String {
    std::fs::create_dir_all(data_dir).unwrap();
    let file = data_dir.join("tenants.toml");
    let output = tool(
        &["tenant", "add", "acme", "--tenants", file.to_str().unwrap()],
        data_dir.parent().unwrap(),
    );
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// `chatpulse serve`, running.
pub(crate) struct Serve {
    child: Child,
    lines: Mutex<Receiver<String>>,
    pub(crate) producer: String,
    pub(crate) dashboard: String,
    pub(crate) clickhouse: String,
    pub(crate) kafka: String,
}

impl Serve {
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// With variables in its environment.
    pub(crate) fn start_with(data_dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = chatpulse("serve", data_dir)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("serve: {line}");
                let _ = said.send(line);
            }
        });
        let mut serve = Self {
            child,
            lines: Mutex::new(lines),
            producer: String::new(),
            dashboard: String::new(),
            clickhouse: String::new(),
            kafka: String::new(),
        };
        let events = serve.wait_for("events in");
        serve.producer = events.trim_end_matches("/v1/events/{source}").to_owned();
        serve.dashboard = serve.wait_for("reports").trim_end_matches('/').to_owned();
        let clickhouse = serve.wait_for("ClickHouse");
        let url = clickhouse.split_whitespace().next().unwrap();
        serve.clickhouse = url.trim_end_matches('/').to_owned();
        serve.kafka = serve.wait_for("Kafka");
        serve
    }

    /// The rest of the first line that begins with `what`.
    fn wait_for(&mut self, what: &str) -> String {
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .get_mut()
                .unwrap()
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("no line {what:?} from chatpulse serve: {error}"));
            if let Some(rest) = line.trim().strip_prefix(what) {
                return rest.trim().to_owned();
            }
        }
    }

    /// kill -9: nothing is flushed, closed or told.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and a clean end.
    pub(crate) fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = self.child.wait().unwrap();
        assert!(status.success(), "serve ended with {status}");
    }

    /// A tool of the binary on the same Kafka and ClickHouse; its result, and whether it succeeded.
    pub(crate) fn tool(&self, args: &[&str], variables: &[(&str, &str)]) -> (String, bool) {
        let output = Command::new(env!("CARGO_BIN_EXE_chatpulse"))
            .args(args)
            .env("CHATPULSE__CLICKHOUSE__URL", &self.clickhouse)
            .env("CHATPULSE__KAFKA__BOOTSTRAP", &self.kafka)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        (text, output.status.success())
    }

    /// The answer of ClickHouse as text.
    pub(crate) async fn query(&self, sql: &str) -> String {
        let answer = client()
            .post(format!("{}/?database=chatpulse", self.clickhouse))
            .body(sql.to_owned())
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{sql}: {text}");
        text.trim().to_owned()
    }

    /// Repeats a query until it answers `expected`.
    pub(crate) async fn wait_until(&self, sql: &str, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let answer = self.query(sql).await;
            if answer == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{sql}: {answer}, still not {expected}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

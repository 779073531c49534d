//! A website with the snippet, and a gate in front of the producer that can fail as networks do.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    serve::Listener,
};
use chatpulse_browser::{Browser, Page};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::process::{Serve, client, tool};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `chatpulse serve` with a data folder of its own. All tests that run at once share one.
struct Pipeline {
    serve: Serve,
    tenants: PathBuf,
    _folder: tempfile::TempDir,
}

fn pipeline() -> Arc<Pipeline> {
    static RUNNING: Mutex<Weak<Pipeline>> = Mutex::new(Weak::new());
    let mut running = lock(&RUNNING);
    if let Some(pipeline) = running.upgrade() {
        return pipeline;
    }
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let pipeline = Arc::new(Pipeline {
        serve: Serve::start(&data_dir),
        tenants: data_dir.join("tenants.toml"),
        _folder: folder,
    });
    *running = Arc::downgrade(&pipeline);
    pipeline
}

/// A failed test must not fail the others that hold the same lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The lines of `chatpulse snippet`.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Lines {
    pub(crate) tag: String,
    pub(crate) pinned_tag: String,
    pub(crate) gtm: String,
}

/// A tenant with its website, its gate and a browser.
pub(crate) struct Site {
    pub(crate) tenant: String,
    pub(crate) gate: Arc<Gate>,
    pub(crate) lines: Lines,
    pub(crate) browser: Browser,
    pages: Arc<Pages>,
    address: SocketAddr,
    pipeline: Arc<Pipeline>,
}

impl Site {
    /// The website of a new tenant; `settings` is text of the tenants file that is replaced, and by what.
    pub(crate) async fn new(tenant: &str, settings: &[(&str, &str)]) -> Self {
        let pages = Arc::new(Pages::default());
        let address = serve_pages(Arc::clone(&pages)).await;
        let pipeline = tokio::task::spawn_blocking(pipeline).await.unwrap();
        let key = add_tenant(&pipeline, (tenant, address), settings);
        let gate = Arc::new(Gate::new(pipeline.serve.producer.clone()));
        let collector = gate.open().await;
        let url = format!("http://{collector}");
        // The producer looks at its tenants file once a second.
        let script = format!(
            "{}/v1/chatpulse.js?write_key={key}",
            pipeline.serve.producer
        );
        until("the producer knows the tenant", async || {
            client().get(&script).send().await.unwrap().status() == 200
        })
        .await;
        let output = tool(
            &[
                "snippet",
                "--json",
                "--tenant",
                tenant,
                "--url",
                &url,
                "--write-key",
                &key,
                "--tenants",
                pipeline.tenants.to_str().unwrap(),
            ],
            pipeline.tenants.parent().unwrap(),
        );
        assert!(output.status.success(), "{output:?}");
        Self {
            tenant: tenant.to_owned(),
            gate,
            lines: serde_json::from_slice(&output.stdout).unwrap(),
            browser: Browser::launch().await,
            pages,
            address,
            pipeline,
        }
    }

    /// The address of one of the site's pages.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The address of a page of the reports.
    pub(crate) fn dashboard(&self, path: &str) -> String {
        format!("{}{path}", self.pipeline.serve.dashboard)
    }

    /// Puts a page up: a head with the snippet's line, and a body.
    pub(crate) fn put(&self, path: &str, body: &str) {
        self.put_as(path, &self.lines.tag, body);
    }

    /// Puts a page up, with a head of its own.
    pub(crate) fn put_as(&self, path: &str, head: &str, body: &str) {
        let html = format!(
            "<!doctype html><html lang=en><head><title>Shop</title>{head}</head><body>{body}</body></html>"
        );
        lock(&self.pages.0).insert(path.to_owned(), (html, String::new()));
    }

    /// Gives a page a Content-Security-Policy.
    pub(crate) fn protect(&self, path: &str, policy: &str) {
        if let Some(page) = lock(&self.pages.0).get_mut(path) {
            page.1 = policy.to_owned();
        }
    }

    /// Opens a page of the site and waits for the snippet.
    pub(crate) async fn visit(&self, path: &str) -> Page {
        let page = self.browser.page().await;
        self.visit_in(&page, path).await;
        page
    }

    /// The same in a page that is open already.
    pub(crate) async fn visit_in(&self, page: &Page, path: &str) {
        page.goto(&self.url(path)).await;
        page.wait_for("window.chatpulse").await;
    }

    /// The answer of a query; `{tenant}` stands for the condition that it is this one's.
    pub(crate) async fn query(&self, sql: &str) -> String {
        self.pipeline.serve.query(&self.own(sql)).await
    }

    /// Repeats a query until it answers `expected`.
    pub(crate) async fn wait_until(&self, sql: &str, expected: &str) {
        self.pipeline
            .serve
            .wait_until(&self.own(sql), expected)
            .await;
    }

    fn own(&self, sql: &str) -> String {
        sql.replace("{tenant}", &format!("tenant = '{}'", self.tenant))
    }

    /// Waits until exactly these labels (see [`FIRE`]) are accepted once each, and nothing is rejected.
    pub(crate) async fn accepted_once_each(&self, labels: impl IntoIterator<Item = u32>) {
        let expected: Vec<String> = labels.into_iter().map(|n| format!("'c-{n}'")).collect();
        let sql = "SELECT arraySort(x -> toUInt32(substring(x, 3)), groupArray(conversation_id)), \
                   (SELECT countIf(outcome = 'rejected') FROM events WHERE {tenant}) \
                   FROM events WHERE {tenant} AND outcome = 'accepted' AND startsWith(conversation_id, 'c-')";
        self.wait_until(sql, &format!("[{}]\t0", expected.join(",")))
            .await;
    }
}

/// A function of test pages: fires a Watermelon event with a label, as its widget does.
pub(crate) const FIRE: &str = "<script>
window.dataLayer = window.dataLayer || [];
function fire(...labels) {
  for (const n of labels) dataLayer.push({event: 'widget_message_sent', widget_platform: 'web',
    widet_conversation_id: 'c-' + n, timestamp: Date.now(), total_messages: n});
}
</script>";

fn add_tenant(
    pipeline: &Pipeline,
    (tenant, site): (&str, SocketAddr),
    settings: &[(&str, &str)],
) -> String {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = lock(&ONE_AT_A_TIME);
    let file = pipeline.tenants.to_str().unwrap();
    let origin = format!("http://{site}");
    let arguments = [
        "tenant",
        "add",
        tenant,
        "--origin",
        &origin,
        "--tenants",
        file,
    ];
    let output = tool(&arguments, pipeline.tenants.parent().unwrap());
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(file).unwrap();
    let start = text.find(&format!("id = \"{tenant}\"")).unwrap();
    let (before, own) = text.split_at(start);
    let own = settings.iter().fold(own.to_owned(), |own, (from, to)| {
        assert!(own.contains(from), "{from} is not in {own}");
        own.replacen(from, to, 1)
    });
    // Others read the file meanwhile: whole, before or after.
    let new = format!("{file}.new");
    std::fs::write(&new, format!("{before}{own}")).unwrap();
    std::fs::rename(new, file).unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Path → HTML and policy.
#[derive(Default)]
struct Pages(Mutex<BTreeMap<String, (String, String)>>);

async fn serve_pages(pages: Arc<Pages>) -> SocketAddr {
    async fn page(State(pages): State<Arc<Pages>>, request: Request) -> Response {
        let path = request.uri().path();
        if path == "/favicon.ico" {
            return StatusCode::NO_CONTENT.into_response();
        }
        if let Some(source) = path.strip_prefix("/golden/") {
            return golden(source).to_string().into_response();
        }
        let Some((html, policy)) = lock(&pages.0).get(path).cloned() else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let mut response =
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response();
        if !policy.is_empty() {
            let policy = policy.parse().unwrap();
            response
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(page).with_state(pages);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Every golden payload of a source.
pub(crate) fn golden(source: &str) -> Value {
    let file = format!(
        "{}/../../schemas/sources/{source}.golden.ndjson",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .collect()
}

/// What the gate does with requests that carry events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Hands them on.
    Pass,
    /// Closes every connection at once.
    Down,
    /// Answers with a status and a Retry-After itself.
    Refuse(u16, u64),
    /// Hands them on, and keeps the answer to itself.
    Swallow,
}

/// A request that came to the gate.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) body: String,
}

pub(crate) struct Gate {
    producer: String,
    mode: Mutex<Mode>,
    seen: Mutex<Vec<Seen>>,
    dropped: Mutex<usize>,
}

impl Gate {
    fn new(producer: String) -> Self {
        Self {
            producer,
            mode: Mutex::new(Mode::Pass),
            seen: Mutex::default(),
            dropped: Mutex::default(),
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *lock(&self.mode) = mode;
    }

    /// Requests for events so far.
    pub(crate) fn events(&self) -> Vec<Seen> {
        let seen = lock(&self.seen);
        seen.iter()
            .filter(|seen| seen.path.starts_with("/v1/events/"))
            .cloned()
            .collect()
    }

    /// Every item that was sent, with its source.
    pub(crate) fn items(&self) -> Vec<(String, Value)> {
        let mut items = Vec::new();
        for request in self.events() {
            let source = request.path["/v1/events/".len()..].to_owned();
            let body: Vec<Value> = serde_json::from_str(&request.body).unwrap();
            items.extend(body.into_iter().map(|item| (source.clone(), item)));
        }
        items
    }

    /// Connections that were closed while the gate was down.
    pub(crate) fn dropped(&self) -> usize {
        *lock(&self.dropped)
    }

    async fn open(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door {
            listener,
            gate: Arc::clone(self),
        };
        let router = Router::new().fallback(pass).with_state(Arc::clone(self));
        tokio::spawn(async move { axum::serve(door, router).await });
        address
    }
}

struct Door {
    listener: TcpListener,
    gate: Arc<Gate>,
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let Ok(accepted) = self.listener.accept().await else {
                continue;
            };
            if *lock(&self.gate.mode) != Mode::Down {
                return accepted;
            }
            *lock(&self.gate.dropped) += 1;
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn pass(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let is_event = parts.uri.path().starts_with("/v1/events/");
    let mode = *lock(&gate.mode);
    let origin = parts.headers.get(header::ORIGIN).cloned();
    let mut response = match mode {
        Mode::Refuse(status, after) if is_event => {
            let status = StatusCode::from_u16(status).unwrap();
            let headers = [
                ("retry-after", after.to_string()),
                ("access-control-expose-headers", "Retry-After".to_owned()),
            ];
            let mut response = (status, headers).into_response();
            if let Some(origin) = origin {
                let name = header::ACCESS_CONTROL_ALLOW_ORIGIN;
                response.headers_mut().insert(name, origin);
            }
            response
        }
        _ => forward(&gate, &parts, body.clone()).await,
    };
    lock(&gate.seen).push(Seen {
        at,
        path: parts.uri.path().to_owned(),
        status: response.status().as_u16(),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    if mode == Mode::Swallow && is_event {
        // A browser gives a page nothing of an answer that does not name its origin.
        response
            .headers_mut()
            .remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    }
    // A connection that is kept would get past the door.
    let close = "close".parse().unwrap();
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

async fn forward(gate: &Gate, parts: &axum::http::request::Parts, body: Bytes) -> Response {
    let target = parts.uri.path_and_query().unwrap();
    let method = reqwest::Method::from_bytes(parts.method.as_str().as_bytes()).unwrap();
    let mut request = client().request(method, format!("{}{target}", gate.producer));
    for (name, value) in &parts.headers {
        if name != header::HOST && name != header::CONTENT_LENGTH {
            request = request.header(name.as_str(), value.as_bytes());
        }
    }
    let answer = match request.body(body).send().await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let mut response = Response::builder().status(answer.status().as_u16());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" && name != "connection" {
            response = response.header(name.as_str(), value.as_bytes());
        }
    }
    let bytes = answer.bytes().await.unwrap_or_default();
    response.body(Body::from(bytes)).unwrap()
}

//! The HTTP side: one request in, one statement in a session of its own, one answer out.
//!
//! ```text
//! request ─ Options, Plan ─► permit ─► blocking thread: session, run ─► answer
//!    body ─ decompress ────► data ───► append …               blocks ─► body
//! ```
//!
//! Each request has its own settings, current database and temporary tables, as in ClickHouse without a
//! session. To open a connection and to set it up takes several milliseconds of CPU, more than most
//! questions: one whose statement left it as it was set up serves the next request that wants the same.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::codec::{self, ByteStream, Encoding};
use super::engine::{Engine, Session, Setup};
use super::exception::{Code, Exception};
use super::ffi::{Connection, Query, Stats};
use super::format::{self, Joining};
use super::request::{Body, Options, Plan};
use super::sql::Kind;

/// Statements that run at the same time.
pub(super) const MAX_QUERIES: usize = 16;
/// How long a statement waits for its turn before it is answered with 503.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a body that is read to its end, and thrown away, after its statement has failed.
const MAX_DRAIN_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of a result that has to be collected before it is sent.
const MAX_BUFFERED_RESULT_BYTES: u64 = 256 * 1024 * 1024;

/// What every request shares.
pub(super) struct Server {
    pub(super) engine: Arc<Engine>,
    pub(super) password: Option<String>,
    pub(super) permits: Arc<Semaphore>,
}

/// Answers one request.
pub(super) async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    match request.uri().path() {
        "/ping" => plain(StatusCode::OK, "Ok.\n"),
        "/replicas_status" => plain(StatusCode::OK, "Ok.\n"),
        "/" => match *request.method() {
            Method::GET if request.uri().query().is_none() => plain(StatusCode::OK, "Ok.\n"),
            Method::GET | Method::HEAD | Method::POST => {
                let started = Instant::now();
                let mut failed = Failed::default();
                match server.answer(request, &mut failed, started).await {
                    Ok(response) => response,
                    Err(exception) => server.refuse(&exception, &failed),
                }
            }
            _ => plain(StatusCode::METHOD_NOT_ALLOWED, "Use GET or POST.\n"),
        },
        path => {
            let text = format!("There is no handle {path}\n\nUse / or /ping for health checks.\n");
            plain(StatusCode::NOT_FOUND, text)
        }
    }
}

/// How the answer to a failed request is written, as far as is known when it fails.
#[derive(Default)]
struct Failed {
    query_id: Option<String>,
    output: Output,
}

/// How an answer is compressed.
#[derive(Debug, Clone, Copy, Default)]
struct Output {
    blocks: bool,
    encoding: Option<Encoding>,
}

impl Output {
    fn of(options: &Options, headers: &HeaderMap) -> Self {
        let enabled = !matches!(
            options.setting("enable_http_compression"),
            Some("0" | "false")
        );
        let encoding = Encoding::accepted(headers).filter(|_| enabled);
        Self {
            blocks: options.compress,
            encoding,
        }
    }

    fn respond(self, mut response: Response, body: ByteStream) -> Response {
        self.name(response.headers_mut());
        *response.body_mut() = HttpBody::from_stream(self.encode(body));
        response
    }

    /// Names the compression of HTTP, where there is one.
    fn name(self, headers: &mut HeaderMap) {
        if let Some(encoding) = self.encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        }
    }

    fn encode(self, body: ByteStream) -> ByteStream {
        let body = if self.blocks {
            body.map(|chunk| chunk.map(|chunk| codec::encode_blocks(&chunk)))
                .boxed()
        } else {
            body
        };
        match self.encoding {
            Some(encoding) => encoding.encode(body),
            None => body,
        }
    }

    const fn is_plain(self) -> bool {
        !self.blocks && self.encoding.is_none()
    }
}

impl Server {
    async fn answer(
        self: &Arc<Self>,
        request: Request,
        failed: &mut Failed,
        started: Instant,
    ) -> Result<Response, Exception> {
        let (parts, raw) = request.into_parts();
        let mut options = Options::read(&parts.method, &parts.uri, &parts.headers)?;
        authenticate(self.password.as_deref(), &options, &parts.headers)?;
        let query_id = options.query_id.clone().unwrap_or_else(random_id);
        failed.query_id = Some(query_id);
        failed.output = Output::of(&options, &parts.headers);
        let raw = raw
            .into_data_stream()
            .map(|chunk| chunk.map_err(std::io::Error::other))
            .boxed();
        let encoding = Encoding::of_request(&parts.headers)?;
        let mut body = Body::new(raw, encoding, options.decompress);
        let plan = Plan::read(&mut options, &mut body, &parts.headers).await?;
        if options.readonly && matches!(plan.kind, Kind::Insert { .. } | Kind::InsertSelect) {
            let text = "Cannot execute query in readonly mode. For queries over HTTP, method GET \
                        implies readonly. You should use method POST for modifying queries";
            return Err(Exception::new(Code::Readonly, text));
        }
        let queued = tokio::time::timeout(QUEUE_TIMEOUT, self.permits.clone().acquire_owned());
        let permit = queued.await.ok().and_then(Result::ok).ok_or_else(|| {
            let text = format!("Too many simultaneous queries. Maximum: {MAX_QUERIES}");
            Exception::new(Code::TooManySimultaneousQueries, text)
        })?;

        let (input, data) = mpsc::channel(4);
        let (head, reply) = oneshot::channel();
        let running = Running::default();
        let cancel = CancelOnDrop {
            engine: Some(self.engine.clone()),
            running: running.clone(),
        };
        let inserting = matches!(plan.kind, Kind::Insert { .. });
        let job = Job {
            options,
            running,
            plan,
            data,
        };
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || {
            job.run(&engine, head);
            drop(permit);
        });
        if inserting {
            feed(&mut body, input).await?;
        } else {
            drop(input);
        }
        let lost = |_| {
            Exception::new(
                Code::QueryWasCancelled,
                "The statement ended without an answer",
            )
        };
        match reply.await.map_err(lost)? {
            Ok(reply) => Ok(self.respond(reply, failed, (cancel, started))),
            Err(exception) => {
                cancel.disarm();
                Err(exception)
            }
        }
    }

    fn respond(
        &self,
        reply: Reply,
        failed: &Failed,
        (cancel, started): (CancelOnDrop, Instant),
    ) -> Response {
        let mut response = self.head(StatusCode::OK, failed.query_id.as_deref());
        let headers = response.headers_mut();
        set(
            headers,
            "X-ClickHouse-Summary",
            &summary(reply.stats, started.elapsed()),
        );
        match &reply.format {
            Some(format) => {
                set(headers, "X-ClickHouse-Format", format);
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static(format::content_type(format)),
                );
            }
            None => {
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("text/plain; charset=UTF-8"),
                );
            }
        }
        let Some(rest) = reply.rest else {
            cancel.disarm();
            let body: Vec<_> = reply.ready.into();
            if failed.output.is_plain() {
                *response.body_mut() = match <[Bytes; 1]>::try_from(body) {
                    Ok([one]) => HttpBody::from(one),
                    Err(many) => HttpBody::from(many.concat()),
                };
                return response;
            }
            let body = futures::stream::iter(body.into_iter().map(Ok)).boxed();
            return failed.output.respond(response, body);
        };
        let tag = random_tag();
        set(response.headers_mut(), "X-ClickHouse-Exception-Tag", &tag);
        let late = Arc::new(AtomicBool::new(false));
        let stream = Streamed {
            ready: reply.ready,
            rest,
            cancel: Some(cancel),
            failed: late.clone(),
        };
        let body = failed
            .output
            .encode(stream.bytes(tag, self.engine.version.clone()));
        *response.body_mut() = HttpBody::from_stream(body.chain(broken_off(late)));
        failed.output.name(response.headers_mut());
        response
    }

    fn refuse(&self, exception: &Exception, failed: &Failed) -> Response {
        let mut response = self.head(exception.status(), failed.query_id.as_deref());
        let headers = response.headers_mut();
        set(
            headers,
            "X-ClickHouse-Exception-Code",
            &exception.code.to_string(),
        );
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=UTF-8"),
        );
        if exception.status() == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"ClickHouse server HTTP API\"");
            headers.insert(WWW_AUTHENTICATE, realm);
        }
        let text = Bytes::from(exception.body(&self.engine.version));
        failed
            .output
            .respond(response, futures::stream::iter([Ok(text)]).boxed())
    }

    fn head(&self, status: StatusCode, query_id: Option<&str>) -> Response {
        let mut response = Response::new(HttpBody::empty());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        set(
            headers,
            "X-ClickHouse-Server-Display-Name",
            &self.engine.display_name,
        );
        set(headers, "X-ClickHouse-Timezone", &self.engine.timezone);
        if let Some(query_id) = query_id {
            set(headers, "X-ClickHouse-Query-Id", query_id);
        }
        response
    }
}

/// Lets in the user `default`, with the password when one is set.
fn authenticate(
    password: Option<&str>,
    options: &Options,
    headers: &HeaderMap,
) -> Result<(), Exception> {
    let user = options.user.as_deref().unwrap_or_default();
    if !matches!(user, "" | "default") {
        let text = format!("{user}: Authentication failed: there is only the user `default`");
        return Err(Exception::new(Code::AuthenticationFailed, text));
    }
    let Some(wanted) = password else {
        // Without a password any page in a browser could reach the port: those say who they are.
        let foreign = headers
            .get(ORIGIN)
            .is_some_and(|origin| !is_loopback_origin(origin));
        return if foreign {
            let text = "Requests of web pages need a password to be set";
            Err(Exception::new(Code::AuthenticationFailed, text))
        } else {
            Ok(())
        };
    };
    match options.password.as_deref() {
        Some(given) if same(given.as_bytes(), wanted.as_bytes()) => Ok(()),
        None | Some("") => Err(Exception::new(
            Code::RequiredPassword,
            "default: a password is required",
        )),
        Some(_) => {
            let text = "default: Authentication failed: password is incorrect";
            Err(Exception::new(Code::AuthenticationFailed, text))
        }
    }
}

/// Compares without telling by its time how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn is_loopback_origin(origin: &HeaderValue) -> bool {
    let Some(host) = origin
        .to_str()
        .ok()
        .and_then(|o| o.split_once("://"))
        .map(|(_, host)| host)
    else {
        return false;
    };
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

fn plain(status: StatusCode, text: impl Into<HttpBody>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn summary(stats: Stats, elapsed: Duration) -> String {
    format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
         \"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\"result_bytes\":\"{}\",\
         \"elapsed_ns\":\"{}\"}}",
        stats.read_rows,
        stats.read_bytes,
        stats.written_rows,
        stats.written_bytes,
        stats.result_rows,
        stats.result_bytes,
        elapsed.as_nanos()
    )
}

fn random_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Sixteen lower-case letters that no row can be expected to hold.
fn random_tag() -> String {
    uuid::Uuid::new_v4()
        .as_bytes()
        .iter()
        .map(|b| char::from(b'a' + b % 26))
        .collect()
}

/// A piece of an `INSERT`'s data, or its proper end. A channel that closes without the end means
/// that the client is gone, and that nothing may be committed.
enum Input {
    Data(Bytes),
    End,
}

/// Hands the body to the statement's thread. When the statement fails early, the rest of the body
/// is read and thrown away, so that the client gets to read why.
async fn feed(body: &mut Body, input: mpsc::Sender<Input>) -> Result<(), Exception> {
    while let Some(chunk) = body.next().await? {
        if input.send(Input::Data(chunk)).await.is_err() {
            let mut drained = 0;
            while drained < MAX_DRAIN_BYTES {
                let Ok(Some(chunk)) = body.next().await else {
                    break;
                };
                drained += chunk.len();
            }
            return Ok(());
        }
    }
    let _ = input.send(Input::End).await;
    Ok(())
}

/// What a statement answers: the blocks that are there, and those to come.
struct Reply {
    format: Option<String>,
    stats: Stats,
    ready: VecDeque<Bytes>,
    rest: Option<mpsc::Receiver<Result<Bytes, Exception>>>,
}

/// One statement with all that it needs to run.
struct Job {
    options: Options,
    running: Running,
    plan: Plan,
    data: mpsc::Receiver<Input>,
}

type Head = oneshot::Sender<Result<Reply, Exception>>;

impl Job {
    /// Runs on a thread that may block.
    fn run(mut self, engine: &Engine, head: Head) {
        let session = match engine.session(self.setup(engine)) {
            Ok(session) => session,
            Err(exception) => {
                let _ = head.send(Err(exception));
                return;
            }
        };
        self.running.begins(&session);
        let ended = self.answer(engine, &session, head);
        self.running.ends();
        if ended && self.leaves_no_trace() {
            engine.keep(session);
        }
    }

    /// Runs the statement and answers; false where it failed or was left.
    fn answer(&mut self, engine: &Engine, session: &Session, head: Head) -> bool {
        let joining = self.joining();
        match self.plan.kind {
            Kind::Insert { .. } => {
                let inserted = self.insert(engine, session).transpose();
                let ended = matches!(inserted, Some(Ok(_)));
                if let Some(result) = inserted {
                    let _ = head.send(result);
                }
                ended
            }
            Kind::Select { .. } if joining != Joining::Whole => self.stream(session, joining, head),
            _ => {
                let collected = self.collect(engine, session);
                let ended = collected.is_ok();
                let _ = head.send(collected);
                ended
            }
        }
    }

    /// What the session has to be like; of settings, the later of a name wins.
    fn setup(&self, engine: &Engine) -> Setup {
        let mut settings = engine.base_settings();
        if self.joining() == Joining::Whole {
            settings.insert(
                "max_result_bytes".to_owned(),
                MAX_BUFFERED_RESULT_BYTES.to_string(),
            );
        }
        settings.extend(self.options.settings.iter().cloned());
        if self.options.readonly {
            settings.insert("readonly".to_owned(), "2".to_owned());
        }
        // The session has its own, by which its statement is killed.
        settings.remove("log_comment");
        Setup {
            settings,
            database: self
                .options
                .database
                .clone()
                .filter(|name| !name.is_empty()),
        }
    }

    /// Whether the statement leaves its session as it found it.
    fn leaves_no_trace(&self) -> bool {
        matches!(
            self.plan.kind,
            Kind::Insert { .. } | Kind::InsertSelect | Kind::Select { .. }
        ) && self.options.params.is_empty()
    }

    /// The format of the result.
    fn format(&self) -> &str {
        let named = self.plan.format.as_deref();
        named
            .or(self.options.default_format.as_deref())
            .unwrap_or("TabSeparated")
    }

    fn query<'a>(&'a self, format: &'a str) -> Query<'a> {
        Query {
            sql: &self.plan.sql,
            format,
            params: &self.options.params,
        }
    }

    fn joining(&self) -> Joining {
        let streamable = matches!(self.plan.kind, Kind::Select { totals: false });
        let settings = ["extremes", "output_format_json_array_of_rows"];
        let shaped = settings.iter().any(|name| {
            self.options.setting(name).is_some() || contains(&self.plan.sql, name.as_bytes())
        });
        if streamable && !shaped && !self.options.wait_end_of_query {
            format::joining(self.format())
        } else {
            Joining::Whole
        }
    }

    fn collect(&self, engine: &Engine, connection: &Connection) -> Result<Reply, Exception> {
        let chunk = connection.query(self.query(self.format()))?;
        let writes = self.plan.kind == Kind::InsertSelect;
        if writes {
            written(engine)?;
        }
        let ready = VecDeque::from([chunk.data]);
        let format = (!writes).then(|| self.format().to_owned());
        Ok(Reply {
            format,
            stats: chunk.stats,
            ready,
            rest: None,
        })
    }

    /// Sends a `SELECT`'s blocks as they come. Two are awaited before the answer begins: most
    /// results are one block, and then their summary is exact and a late error has its own status.
    /// False where it failed or was left.
    fn stream(&self, connection: &Connection, joining: Joining, head: Head) -> bool {
        let started = || {
            let mut stream = connection.stream(self.query(self.format()))?;
            let mut ready = VecDeque::new();
            let mut stats = Stats::default();
            while ready.len() < 2 {
                let Some(chunk) = stream.next()? else { break };
                let header = if ready.is_empty() {
                    0
                } else {
                    joining.header(&chunk.data)
                };
                stats += chunk.stats;
                ready.push_back(chunk.data.slice(header..));
            }
            Ok::<_, Exception>((stream, ready, stats))
        };
        let (mut stream, ready, stats) = match started() {
            Ok(started) => started,
            Err(exception) => {
                let _ = head.send(Err(exception));
                return false;
            }
        };
        let format = Some(self.format().to_owned());
        let (output, rest) = mpsc::channel(2);
        let rest = (ready.len() == 2).then_some(rest);
        let more = rest.is_some();
        let sent = head.send(Ok(Reply {
            format,
            stats,
            ready,
            rest,
        }));
        if sent.is_err() || !more {
            return !more;
        }
        loop {
            let block = match stream.next() {
                Ok(Some(chunk)) => Ok(chunk.data.slice(joining.header(&chunk.data)..)),
                Ok(None) => return true,
                Err(error) => Err(Exception::from(error)),
            };
            let last = block.is_err();
            if output.blocking_send(block).is_err() || last {
                return false;
            }
        }
    }

    /// Inserts the data; `None` when the client left before its end, and nothing was committed.
    fn insert(
        &mut self,
        engine: &Engine,
        connection: &Connection,
    ) -> Result<Option<Reply>, Exception> {
        let format = self.plan.format.as_deref().unwrap_or("Values");
        let query = Query {
            sql: &self.plan.sql,
            format,
            params: &self.options.params,
        };
        let mut stream = connection.insert(query)?;
        if !self.plan.data.is_empty() {
            stream.append(&self.plan.data)?;
        }
        loop {
            match self.data.blocking_recv() {
                Some(Input::Data(chunk)) => stream.append(&chunk)?,
                Some(Input::End) => break,
                None => return Ok(None),
            }
        }
        let mut stats = stream.finish()?;
        written(engine)?;
        stats.read_rows = stats.read_rows.max(stats.written_rows);
        Ok(Some(Reply {
            format: None,
            stats,
            ready: VecDeque::new(),
            rest: None,
        }))
    }
}

/// What was inserted is on the disk.
fn written(engine: &Engine) -> Result<(), Exception> {
    engine.disk.sync().map_err(|error| {
        let text = format!("The disk does not confirm what was inserted: {error}");
        Exception::new(Code::CannotWriteToFileDescriptor, text)
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len())
        .any(|w| w.eq_ignore_ascii_case(word))
}

/// The comment of the session whose statement runs for a request.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<Option<String>>>);

impl Running {
    fn comment(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, session: &Session) {
        *self.comment() = Some(session.comment.clone());
    }

    /// From here on the session may serve another request, which must not be killed.
    fn ends(&self) {
        *self.comment() = None;
    }

    fn kill(&self, engine: &Engine) {
        let comment = self.comment();
        if let Some(comment) = comment.as_deref() {
            engine.kill(comment);
        }
    }
}

/// Kills the statement of a request that was dropped: its client has gone away.
struct CancelOnDrop {
    engine: Option<Arc<Engine>>,
    running: Running,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.engine = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(engine) = self.engine.take() else {
            return;
        };
        let running = self.running.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || running.kill(&engine));
        }
    }
}

/// The blocks of an answer that is longer than what was ready.
struct Streamed {
    ready: VecDeque<Bytes>,
    rest: mpsc::Receiver<Result<Bytes, Exception>>,
    cancel: Option<CancelOnDrop>,
    /// Set when the text of an exception was the last of the body.
    failed: Arc<AtomicBool>,
}

impl Streamed {
    fn bytes(self, tag: String, version: String) -> ByteStream {
        futures::stream::unfold(self, move |mut this| {
            let (tag, version) = (tag.clone(), version.clone());
            async move {
                if let Some(block) = this.ready.pop_front() {
                    return Some((Ok(block), this));
                }
                let next = this.rest.recv().await;
                if !matches!(next, Some(Ok(_)))
                    && let Some(cancel) = this.cancel.take()
                {
                    cancel.disarm();
                }
                match next? {
                    Ok(block) => Some((Ok(block), this)),
                    Err(exception) => {
                        this.failed.store(true, Ordering::Release);
                        this.rest.close();
                        Some((Ok(tagged(&exception, &tag, &version)), this))
                    }
                }
            }
        })
        .boxed()
    }
}

/// Ends the connection without the end of the body when the answer has failed: a client that does
/// not know the tag of an exception sees that, too.
fn broken_off(failed: Arc<AtomicBool>) -> ByteStream {
    futures::stream::once(async move {
        if failed.load(Ordering::Acquire) {
            // Once around the scheduler: what was written must go out before the break.
            tokio::task::yield_now().await;
            return Some(Err(std::io::Error::other(
                "the query failed after its answer began",
            )));
        }
        None
    })
    .filter_map(std::future::ready)
    .boxed()
}

/// `\r\n__exception__\r\nTAG\r\nmessage\nlength TAG\r\n__exception__\r\n`, of ClickHouse 25.11 on.
fn tagged(exception: &Exception, tag: &str, version: &str) -> Bytes {
    let message = exception.body(version);
    let length = message.len();
    Bytes::from(format!(
        "\r\n__exception__\r\n{tag}\r\n{message}{length} {tag}\r\n__exception__\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn let_in(password: Option<&str>, uri: &str, headers: &[(&str, &str)]) -> Result<(), u16> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let options = Options::read(&Method::POST, &uri.parse().unwrap(), &headers).unwrap();
        authenticate(password, &options, &headers).map_err(|e: Exception| e.status().as_u16())
    }

    #[test]
    fn the_password_is_taken_from_wherever_clients_put_it() {
        let wanted = Some("s:cret");
        let basic = ("authorization", "Basic ZGVmYXVsdDpzOmNyZXQ=");
        let key = ("x-clickhouse-key", "s:cret");
        assert_eq!(
            let_in(wanted, "/?user=default&password=s%3Acret", &[]),
            Ok(())
        );
        assert_eq!(
            let_in(wanted, "/", &[("x-clickhouse-user", "default"), key]),
            Ok(())
        );
        assert_eq!(let_in(wanted, "/", &[basic]), Ok(()));
        assert_eq!(let_in(wanted, "/", &[]), Err(401));
        assert_eq!(let_in(wanted, "/?password=other", &[]), Err(403));
        assert_eq!(let_in(wanted, "/?user=admin", &[key]), Err(403));
    }

    #[test]
    fn without_a_password_web_pages_of_other_sites_are_refused() {
        assert_eq!(let_in(None, "/", &[]), Ok(()));
        assert_eq!(let_in(None, "/?user=default&password=any", &[]), Ok(()));
        assert_eq!(
            let_in(None, "/", &[("origin", "http://localhost:3000")]),
            Ok(())
        );
        assert_eq!(
            let_in(None, "/", &[("origin", "https://127.0.0.1.evil.example")]),
            Err(403)
        );
        assert_eq!(
            let_in(
                Some("x"),
                "/?password=x",
                &[("origin", "https://bi.example")]
            ),
            Ok(())
        );
    }

    #[test]
    fn a_late_exception_is_tagged_as_clickhouse_does() {
        let exception = Exception::new(Code::Readonly, "x");
        let text = String::from_utf8(tagged(&exception, "abcdefghijklmnop", "1").to_vec()).unwrap();
        let message = "Code: 164. DB::Exception: x. (READONLY) (version 1)\n";
        assert_eq!(
            text,
            format!(
                "\r\n__exception__\r\nabcdefghijklmnop\r\n{message}{} abcdefghijklmnop\r\n__exception__\r\n",
                message.len()
            )
        );
    }
}

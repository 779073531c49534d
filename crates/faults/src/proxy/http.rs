//! An HTTP/1.1 proxy in front of ClickHouse that fails inserts on command.
//!
//! ```text
//! client ──► is it an INSERT, and is a fault due? ── no ──► streamed to the server and back, unchanged
//!                              │ yes
//!                              ▼
//!            the body is collected (at most 256 MiB), the fault is made
//! ```
//!
//! An insert is told by the URL's parameter `query`, where there is one, else by the start of the
//! body, uncompressed.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Largest body of an insert to which a fault is made.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;
/// The tag of an exception in a body; the server has random letters.
const TAG: &str = "chatpulsefaults0";
/// What an exception made here ends with, as the server writes it.
const VERSION: &str = "(version 26.7.3.1 (official build))";

type AnyBody = BoxBody<Bytes, io::Error>;

/// What happens to an insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 500 before the body is read; nothing is forwarded.
    BeforeBody,
    /// Half of the body is forwarded, then both sides are cut.
    MidBody,
    /// All is forwarded and the server's whole answer awaited, then the client is cut.
    AfterCommit,
    /// All is forwarded and the server's whole answer awaited, then the client gets 200 and an
    /// exception.
    ExceptionInBody(Form),
    /// 200 and an exception, and nothing is forwarded.
    ExceptionWithoutForwarding(Form),
    /// This answer; nothing is forwarded.
    Status {
        /// HTTP status.
        status: u16,
        /// ClickHouse's exception code, e.g. 252 too many parts, 243 no space, 164 read-only.
        code: u32,
        /// The text after `DB::Exception: `.
        message: String,
    },
    /// All is read, nothing forwarded, no answer ever.
    Hang,
    /// All is forwarded and the server's whole answer awaited; then the client gets its status, and
    /// a body that never ends, a byte a second.
    DripAnswer,
}

/// How an exception comes with a 200. The server does this when it fails after it has sent the
/// status: with progress in headers, or an answer that it began to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `X-ClickHouse-Exception-Code` in the header, the text in the body.
    Header,
    /// Since 25.11: `X-ClickHouse-Exception-Tag` in the header, in the body
    /// `\r\n__exception__\r\nTAG\r\ntext\nlength TAG\r\n__exception__\r\n`, and the connection ends
    /// without the chunk of no bytes that ends a body.
    Tagged,
    /// The same, its chunks cut anywhere by what lies between.
    TaggedInPieces,
    /// Before 24.11: the text alone, in a body that has its end.
    Text,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 4] = [Form::Header, Form::Tagged, Form::TaggedInPieces, Form::Text];
}

/// A listening proxy in front of one server. Dropped, it closes its port and all connections.
#[derive(Debug)]
pub struct StoreProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    due: Mutex<VecDeque<(Fault, u32)>>,
    made: AtomicU64,
}

impl StoreProxy {
    /// Listens on `listen` (port 0 takes any free one) and forwards to `target`, which may be down:
    /// the client's connection is closed then.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<StoreProxy> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            due: Mutex::default(),
            made: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(StoreProxy {
            address,
            shared,
            accepting,
        })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes this fault to so many inserts, after the faults that were asked for before.
    pub fn fail_next(&self, fault: Fault, times: u32) {
        self.shared.due().push_back((fault, times));
    }

    /// Makes no more faults. What hangs or drips goes on doing so.
    pub fn pass(&self) {
        self.shared.due().clear();
    }

    /// Faults made so far.
    #[must_use]
    pub fn faults_made(&self) -> u64 {
        self.shared.made.load(Ordering::Acquire)
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn due(&self) -> MutexGuard<'_, VecDeque<(Fault, u32)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Fault> {
        let mut due = self.due();
        while let Some((fault, times)) = due.front_mut() {
            if *times == 0 {
                due.pop_front();
                continue;
            }
            *times -= 1;
            self.made.fetch_add(1, Ordering::AcqRel);
            return Some(fault.clone());
        }
        None
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // No file handles left, say: the next client may fare better.
                let Ok((client, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let shared = shared.clone();
                let service = service_fn(move |request| handle(shared.clone(), request));
                open.spawn(async move {
                    // An error here is a cut that was asked for, or a client that left.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(client), service)
                        .await;
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// Answers one request; an error closes the client's connection without an answer.
async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<AnyBody>, io::Error> {
    let (parts, body) = request.into_parts();
    let mut request = Request::from_parts(parts, body.map_err(io::Error::other).boxed());
    // Only a due fault is a reason to look into a body.
    if shared.due().is_empty() || !is_insert(&mut request).await? {
        return forward(shared.target, request).await;
    }
    match shared.take() {
        None => forward(shared.target, request).await,
        Some(fault) => make(fault, shared.target, request).await,
    }
}

async fn make(
    fault: Fault,
    target: SocketAddr,
    request: Request<AnyBody>,
) -> Result<Response<AnyBody>, io::Error> {
    if fault == Fault::BeforeBody {
        return Ok(answer(500, full("Internal Server Error\n")));
    }
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES)
        .collect()
        .await
        .map_err(io::Error::other)?
        .to_bytes();
    let whole = Request::from_parts(parts, full(body.clone()));
    match fault {
        Fault::BeforeBody => Ok(answer(500, full("Internal Server Error\n"))),
        Fault::MidBody => {
            send_half(target, &whole, &body).await?;
            Err(io::Error::other("cut in the middle of the body"))
        }
        Fault::AfterCommit => {
            complete(target, whole).await?;
            Err(io::Error::other("cut after the server's answer"))
        }
        Fault::ExceptionInBody(form) => {
            complete(target, whole).await?;
            Ok(exception(form))
        }
        Fault::ExceptionWithoutForwarding(form) => Ok(exception(form)),
        Fault::Status {
            status,
            code,
            message,
        } => {
            let text = format!("Code: {code}. DB::Exception: {message} {VERSION}\n");
            let mut response = answer(status, full(text));
            let code = HeaderValue::from(code);
            response
                .headers_mut()
                .insert("X-ClickHouse-Exception-Code", code);
            Ok(response)
        }
        Fault::Hang => std::future::pending().await,
        Fault::DripAnswer => {
            let status = complete(target, whole).await?;
            let drops = stream::repeat(()).then(|()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Frame::data(Bytes::from_static(b"\n")))
            });
            Ok(answer(status, streamed(drops)))
        }
    }
}

/// Whether the request is an insert; what was read of the body to know is put back.
async fn is_insert(request: &mut Request<AnyBody>) -> Result<bool, io::Error> {
    let url = request.uri().query().unwrap_or_default();
    let query = form_urlencoded::parse(url.as_bytes())
        .find(|(name, value)| name == "query" && !value.is_empty())
        .map(|(_, value)| begins_with_insert(value.as_bytes()));
    if let Some(known) = query {
        return Ok(known);
    }
    let mut body = std::mem::replace(request.body_mut(), full(Bytes::new()));
    let Some(first) = body.frame().await.transpose()? else {
        return Ok(false);
    };
    let known = first
        .data_ref()
        .is_some_and(|data| begins_with_insert(data));
    let rest = body.into_data_stream().map(|data| data.map(Frame::data));
    *request.body_mut() = streamed(stream::iter([Ok(first)]).chain(rest));
    Ok(known)
}

fn begins_with_insert(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii_start();
    sql.get(..6)
        .is_some_and(|word| word.eq_ignore_ascii_case(b"insert"))
}

/// Sends the request on and streams the answer, over a connection of its own.
async fn forward(
    target: SocketAddr,
    request: Request<AnyBody>,
) -> Result<Response<AnyBody>, io::Error> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends with the answer, or when nobody awaits it any more.
    tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    Ok(response.map(|body| body.map_err(io::Error::other).boxed()))
}

/// Sends the request on, reads the whole answer and gives its status.
async fn complete(target: SocketAddr, request: Request<AnyBody>) -> Result<u16, io::Error> {
    let response = forward(target, request).await?;
    let status = response.status().as_u16();
    let mut body = pin!(response.into_body());
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(status)
}

/// Sends the head and half of the body, written by hand: a client cannot be told to stop there and
/// to have sent that much.
async fn send_half(
    target: SocketAddr,
    request: &Request<AnyBody>,
    body: &[u8],
) -> Result<(), io::Error> {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let mut sent = format!("{} {path} HTTP/1.1\r\n", request.method()).into_bytes();
    for (name, value) in request.headers() {
        if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
            continue;
        }
        sent.extend_from_slice(name.as_str().as_bytes());
        sent.extend_from_slice(b": ");
        sent.extend_from_slice(value.as_bytes());
        sent.extend_from_slice(b"\r\n");
    }
    let half = &body[..body.len() / 2];
    sent.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
    if !half.is_empty() {
        sent.extend_from_slice(format!("{:x}\r\n", half.len()).as_bytes());
        sent.extend_from_slice(half);
        sent.extend_from_slice(b"\r\n");
    }
    let mut server = TcpStream::connect(target).await?;
    server.write_all(&sent).await?;
    server.shutdown().await?;
    Ok(())
}

fn exception(form: Form) -> Response<AnyBody> {
    let text = format!(
        "Code: 241. DB::Exception: Memory limit (total) exceeded, made by the fault proxy. (MEMORY_LIMIT_EXCEEDED) {VERSION}\n"
    );
    let tagged = format!(
        "\r\n__exception__\r\n{TAG}\r\n{text}{} {TAG}\r\n__exception__\r\n",
        text.len()
    );
    let tag = Some(("X-ClickHouse-Exception-Tag", TAG));
    let (header, body) = match form {
        Form::Header => (Some(("X-ClickHouse-Exception-Code", "241")), full(text)),
        Form::Text => (None, full(text)),
        Form::Tagged => (tag, broken_off(tagged.into_bytes(), usize::MAX)),
        Form::TaggedInPieces => (tag, broken_off(tagged.into_bytes(), 7)),
    };
    let mut response = answer(200, body);
    if let Some((name, value)) = header {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// A body in pieces of so many bytes that ends without its end.
fn broken_off(body: Vec<u8>, piece: usize) -> AnyBody {
    let pieces = body.chunks(piece).map(Bytes::copy_from_slice);
    let pieces: Vec<_> = pieces.map(|piece| Ok(Frame::data(piece))).collect();
    let end = Err(io::Error::other("broken off after the exception"));
    // A pause before each, or pieces are sent as one, and the last not at all.
    streamed(
        stream::iter(pieces.into_iter().chain([end])).then(|piece| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            piece
        }),
    )
}

fn answer(status: u16, body: AnyBody) -> Response<AnyBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static("text/plain; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn full(body: impl Into<Bytes>) -> AnyBody {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed()
}

fn streamed<S>(frames: S) -> AnyBody
where
    S: futures::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + Sync + 'static,
{
    BodyExt::boxed(StreamBody::new(frames))
}

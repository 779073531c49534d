//! One POST, every step under a limit and with a class of its own.
//!
//! ```text
//! name ─ resolve ─► addresses ─ guard ─► TCP ─► TLS ─► request ─► status ─► at most 64 kB of body
//!        dns          blocked        connect   tls   timeout, protocol
//! ```
//!
//! The address that passed the guard is the one that is connected to, nothing resolves twice, no proxy is
//! asked, and no redirect is followed. Connections are kept for the next request to the same destination.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chatpulse_model::FailureClass;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Response, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Origin, Url};

use crate::{
    failure::{Ending, Failure},
    guard::Guard,
    request::Request,
    schedule,
};

/// How long each step before the request may take, within the attempt's own limit.
const STEP: Duration = Duration::from_secs(5);
/// How long is waited for the rest of an answer whose status is known.
const REST: Duration = Duration::from_secs(1);
/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 4;
/// Bytes of a body that are read; the rest is cut off with its connection.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of head lines.
const MAX_HEAD: usize = 64 * 1024;
/// A connection is used again if it was idle for no longer.
const MAX_IDLE: Duration = Duration::from_secs(30);

const USER_AGENT: &str = concat!("chatpulse/", env!("CARGO_PKG_VERSION"));

/// Finds the addresses of a host.
pub trait Resolve: Send + Sync {
    /// All addresses of `host`, with `port`.
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file of certificates cannot be used.
    #[error("deliverer.ca_files: {path}: {fault}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    guard: Guard,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
}

/// Idle connections of one destination, since when, and to which host: a destination may come to point
/// elsewhere while a request is under way.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<(Instant, Origin, Sender)>>);

/// Reads the body of an answer that is no success.
pub(crate) type Judge = fn(Failure, &[u8]) -> Failure;

type Sender = http1::SendRequest<Full<Bytes>>;

impl Pool {
    fn take(&self, to: &Origin) -> Option<Sender> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, host, sender)| {
            host == to && since.elapsed() < MAX_IDLE && !sender.is_closed()
        });
        idle.pop().map(|(_, _, sender)| sender)
    }

    fn put(&self, to: Origin, sender: Sender) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as requests were under way at once, which the destination's concurrency bounds.
        idle.push((Instant::now(), to, sender));
    }
}

/// An answer: its status, what it asks for, and the beginning of its body where that is worth reading.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Client {
    /// A client that trusts the system's certificates and those of `ca_files` (PEM).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn new(guard: Guard, ca_files: &[PathBuf]) -> Result<Self, ClientError> {
        Self::with_resolver(guard, ca_files, Arc::new(SystemResolver))
    }

    /// The same with another way to find addresses.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn with_resolver(
        guard: Guard,
        ca_files: &[PathBuf],
        resolver: Arc<dyn Resolve>,
    ) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        for path in ca_files {
            add_file(&mut roots, path)?;
        }
        if roots.is_empty() {
            tracing::warn!("no trusted certificates are found: every TLS connection will fail");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            guard,
            resolver,
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }

    /// Makes the request within `timeout`. `judge` reads the body of an answer that is no success.
    pub(crate) async fn send(
        &self,
        pool: &Pool,
        request: &Request,
        (timeout, judge): (Duration, Judge),
    ) -> Ending {
        let answered = within(timeout, "in all", FailureClass::Timeout, async {
            self.exchange(pool, request).await
        });
        match answered.await {
            Err(failure) => Ending::Failed(failure),
            Ok(Answer { status, .. }) if (200..300).contains(&status) => {
                Ending::Delivered { status }
            }
            Ok(answer) => {
                let failure = Failure::of_status(answer.status, answer.retry_after);
                Ending::Failed(judge(failure, &answer.body))
            }
        }
    }

    async fn exchange(&self, pool: &Pool, request: &Request) -> Result<Answer, Failure> {
        let to = request.url.origin();
        while let Some(mut sender) = pool.take(&to) {
            // One that the receiver closed meanwhile did not take the request.
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(head(request)?).await {
                Ok(response) => return Self::read((pool, to), sender, response).await,
                Err(mut error) => {
                    if error.take_message().is_none() {
                        return Err(protocol(&error.into_error()));
                    }
                }
            }
        }
        let mut sender = self.connect(&request.url).await?;
        let response = sender
            .send_request(head(request)?)
            .await
            .map_err(|error| protocol(&error))?;
        Self::read((pool, to), sender, response).await
    }

    async fn read(
        (pool, to): (&Pool, Origin),
        sender: Sender,
        response: Response<Incoming>,
    ) -> Result<Answer, Failure> {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| schedule::retry_after(value, Timestamp::now()));
        // The status is the answer. A body that does not come, or does not end, changes nothing but the
        // connection's fate.
        let body = Limited::new(response.into_body(), MAX_BODY).collect();
        let body = match tokio::time::timeout(REST, body).await {
            Ok(Ok(body)) => {
                pool.put(to, sender);
                body.to_bytes().to_vec()
            }
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    }

    async fn connect(&self, url: &Url) -> Result<Sender, Failure> {
        let port = url.port_or_known_default().unwrap_or(443);
        let (addresses, name) = match url.host() {
            Some(Host::Domain(host)) => {
                let found = self.resolver.resolve(host, port);
                let found = within(STEP, "resolving the name", FailureClass::Dns, async {
                    found.await.map_err(|error| {
                        Failure::new(FailureClass::Dns, format!("cannot resolve {host}: {error}"))
                    })
                });
                (found.await?, ServerName::try_from(host.to_owned()).ok())
            }
            Some(Host::Ipv4(address)) => (
                vec![SocketAddr::new(address.into(), port)],
                Some(ServerName::IpAddress(
                    std::net::IpAddr::from(address).into(),
                )),
            ),
            Some(Host::Ipv6(address)) => (
                vec![SocketAddr::new(address.into(), port)],
                Some(ServerName::IpAddress(
                    std::net::IpAddr::from(address).into(),
                )),
            ),
            None => return Err(Failure::new(FailureClass::Dns, "the address names no host")),
        };
        let stream = self.connect_to(&addresses).await?;
        // Requests are small, and each is waited for.
        let _ = stream.set_nodelay(true);
        if url.scheme() != "https" {
            return handshake(TokioIo::new(stream)).await;
        }
        let name = name.ok_or_else(|| {
            Failure::new(
                FailureClass::Tls,
                "the host's name cannot stand in a certificate",
            )
        })?;
        let stream = within(STEP, "agreeing on TLS", FailureClass::Timeout, async {
            self.tls
                .connect(name, stream)
                .await
                .map_err(|error| Failure::new(FailureClass::Tls, format!("TLS: {error}")))
        });
        handshake(TokioIo::new(stream.await?)).await
    }

    /// The only place where a socket is opened: to addresses that passed the guard.
    async fn connect_to(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        let mut failure = Failure::new(FailureClass::Dns, "the name has no address");
        let mut open = Vec::new();
        for address in addresses {
            match self.guard.check(address.ip()) {
                Ok(()) => open.push(SocketAddr::new(address.ip().to_canonical(), address.port())),
                Err(kind) => {
                    failure = Failure::new(
                        FailureClass::Blocked,
                        format!(
                            "the host is at {} ({kind}), where requests may not go; the operator can \
                             allow the network (deliverer.allow_networks)",
                            address.ip()
                        ),
                    );
                }
            }
        }
        for address in open.into_iter().take(MAX_ADDRESSES) {
            let connected = within(STEP, "connecting", FailureClass::Timeout, async {
                TcpStream::connect(address).await.map_err(|error| {
                    Failure::new(FailureClass::Connect, format!("cannot connect: {error}"))
                })
            });
            match connected.await {
                Ok(stream) => return Ok(stream),
                Err(other) => failure = other,
            }
        }
        Err(failure)
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), ClientError> {
    let fault = |fault: String| ClientError::CaFile {
        path: path.into(),
        fault,
    };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| fault(error.to_string()))?;
    }
    Ok(())
}

async fn handshake<T>(stream: TokioIo<T>) -> Result<Sender, Failure>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(|error| protocol(&error))?;
    tokio::spawn(async move {
        // What goes wrong is told to the request that waits.
        let _ = connection.await;
    });
    Ok(sender)
}

fn head(request: &Request) -> Result<hyper::Request<Full<Bytes>>, Failure> {
    let url = &request.url;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let mut builder = hyper::Request::builder()
        .method(Method::POST)
        .uri(target)
        .header(header::HOST, host)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in &request.headers {
        builder = builder.header(*name, value);
    }
    builder
        .body(Full::new(Bytes::from(request.body.clone())))
        // The error would quote the address.
        .map_err(|_| Failure::new(FailureClass::Invalid, "the request cannot be put into HTTP"))
}

fn protocol(error: &hyper::Error) -> Failure {
    // hyper's own words quote nothing of the request.
    Failure::new(
        FailureClass::Protocol,
        format!("the connection or the answer broke: {error}"),
    )
}

async fn within<T>(
    limit: Duration,
    step: &str,
    class: FailureClass,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(Failure::new(
            class,
            format!("no end within {limit:?} ({step})"),
        )),
    }
}

#[cfg(test)]
mod tests;

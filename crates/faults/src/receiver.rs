//! The tenants' own receivers: what webhooks come to, and what they say of it.
//!
//! ```text
//! deliverers ──► /{tenant}/{destination} ──► noted by event id ──► 200, or 500 to the first request of some
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::process::loopback;

/// Requests under way at once to one destination.
pub(crate) const CONCURRENCY: u32 = 16;
/// Of each tenant: a name, the types it asks for, and whether it gets what the load sends.
const DESTINATIONS: [(&str, &[&str], bool); 3] = [
    ("crm", &[], true),
    // Answers 500 to the first request of every fourth delivery.
    (SHAKY, &["message.sent"], true),
    ("handoffs", &["handoff.requested"], false),
];
const SHAKY: &str = "shaky";
/// The destinations that get every event.
pub(crate) fn that_take() -> impl Iterator<Item = &'static str> {
    let taking = DESTINATIONS.iter().filter(|(.., takes)| *takes);
    taking.map(|(name, ..)| *name)
}

/// Signs the requests, which nobody here checks: the tests of the deliverer do.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MAX_BODY_BYTES: usize = 1 << 20;

/// What came of one event to one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The delivery ids that it came under.
    pub(crate) ids: BTreeSet<String>,
    pub(crate) requests: u64,
    /// Those that were answered 200.
    pub(crate) taken: u64,
}

/// Tenant, destination, event id.
pub(crate) type Key = (String, String, String);

/// All that came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals {
    pub(crate) seen: BTreeMap<Key, Seen>,
    /// Requests that are no deliveries.
    pub(crate) wrong: Vec<String>,
}

/// A receiver of every destination. Dropped, it closes its port and all connections.
pub(crate) struct Receiver {
    address: SocketAddr,
    arrivals: Arc<Mutex<Arrivals>>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let arrivals = Arc::<Mutex<Arrivals>>::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&arrivals)));
        Ok(Self {
            address,
            arrivals,
            accepting,
        })
    }

    /// The destinations of a tenant, as they stand in the tenants file.
    pub(crate) fn destinations(&self, tenant: &str) -> String {
        let one = |(name, types, _): &(&str, &[&str], bool)| {
            let types = match types.is_empty() {
                true => String::new(),
                false => format!("event_types = {types:?}\n"),
            };
            format!(
                "\n[[tenant.destinations]]\nid = \"{name}\"\nkind = \"webhook\"\nallow_http = true\n\
                 url = \"http://{}/{tenant}/{name}\"\nsecrets = [{{ file = \"webhook-secret\" }}]\n\
                 concurrency = {CONCURRENCY}\n{types}",
                self.address
            )
        };
        DESTINATIONS.iter().map(one).collect()
    }

    /// What came so far.
    pub(crate) fn arrivals(&self) -> Arrivals {
        lock(&self.arrivals).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(arrivals: &Mutex<Arrivals>) -> MutexGuard<'_, Arrivals> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, arrivals: Arc<Mutex<Arrivals>>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let arrivals = Arc::clone(&arrivals);
                let service = service_fn(move |request| answer(Arc::clone(&arrivals), request));
                open.spawn(async move {
                    // An error here is a deliverer that was killed.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(client), service)
                        .await;
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn answer(
    arrivals: Arc<Mutex<Arrivals>>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    // A body that does not come to its end is a deliverer that was killed, and no request.
    if let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await {
        let id = head.headers.get("webhook-id");
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let mut arrivals = lock(&arrivals);
        *response.status_mut() = match arrivals.note((head.uri.path(), id), &body.to_bytes()) {
            Ok(status) => status,
            Err(wrong) => {
                arrivals.wrong.push(wrong);
                StatusCode::BAD_REQUEST
            }
        };
    }
    Ok(response)
}

impl Arrivals {
    /// Notes a request before its answer, so that what a deliverer was told has been noted.
    fn note(&mut self, (path, id): (&str, &str), body: &[u8]) -> Result<StatusCode, String> {
        let wrong = || format!("{path}, {id:?}: {}", String::from_utf8_lossy(body));
        let body: serde_json::Value = serde_json::from_slice(body).map_err(|_| wrong())?;
        let (tenant, destination) = path[1..].split_once('/').ok_or_else(wrong)?;
        let event_id = body["data"]["event_id"].as_str().ok_or_else(wrong)?;
        if id.is_empty() || body["data"]["tenant"] != tenant {
            return Err(wrong());
        }
        let key = (tenant.into(), destination.into(), event_id.into());
        let seen = self.seen.entry(key).or_default();
        seen.ids.insert(id.to_owned());
        seen.requests += 1;
        let is_fourth = id.as_bytes().last().is_some_and(|last| last % 4 == 0);
        if destination == SHAKY && is_fourth && seen.requests == 1 {
            return Ok(StatusCode::INTERNAL_SERVER_ERROR);
        }
        seen.taken += 1;
        Ok(StatusCode::OK)
    }
}

//! The load generator: requests leave when the schedule says, over a bounded number of kept connections.
//!
//! ```text
//! feed, markers ─► drive: waits until the request is due ─► idle connection, the one used last ─► producer
//!                                                       └─► none idle: waits in line, and its latency runs on
//! ```
//!
//! Two things are told apart. A request that finds no idle connection waits for the system, and that is the system's
//! latency. A request that leaves late although a connection was idle, or that was handed over late, is the generator's
//! own lag: beyond a bound it voids the run.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    error::CapacityError,
    feed::{Feed, Request},
    schedule::Schedule,
    watch::Markers,
};

/// The tenant of the events that are followed to ClickHouse.
pub const MARKER_TENANT: &str = "bench-markers";
/// Where markers are sent to.
const MARKER_SOURCE: &str = "watermelon";
/// Events of a marker request that are followed.
const FOLLOWED: u32 = 5;
/// Every so many requests one may be a marker request, at most.
const LEAST_BETWEEN_MARKERS: f64 = 4.0;
/// Longer than a producer waits for the broker.
const ANSWER: Duration = Duration::from_secs(15);
/// Bodies that wait for a connection, at most; bytes. What comes beyond is refused in the system's name.
const WAITING_BYTES: usize = 256 << 20;
/// Windows of a run.
pub(crate) const WINDOWS: usize = 10;

pub(crate) fn histogram() -> Histogram<u64> {
    // Microseconds, from 1 to ten minutes, three digits.
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("valid bounds"))
}

pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.max(1));
}

/// What became of the requests of one run.
#[derive(Debug)]
pub(crate) struct Tally {
    /// First intended time that is measured, and the first that is not any more.
    measured: (Instant, Instant),
    counts: Mutex<Counts>,
    /// Set to end the run early.
    pub(crate) stop: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Counts {
    /// Events handed over so far.
    pub(crate) scheduled: u64,
    /// Events acknowledged so far.
    pub(crate) acknowledged: u64,
    /// Bytes of their bodies.
    pub(crate) bytes: u64,
    /// Requests under way.
    pub(crate) in_flight: u64,
    /// Measured requests that ended.
    pub(crate) requests: u64,
    /// Those that were not acknowledged, by what came instead.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Send → acknowledged of measured requests.
    pub(crate) latency: Histogram<u64>,
    /// The same in each window.
    pub(crate) windows: Vec<Histogram<u64>>,
    /// The generator's own lag on measured requests.
    pub(crate) own_lag: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new(measured: (Instant, Instant)) -> Self {
        Self {
            measured,
            counts: Mutex::new(Counts {
                scheduled: 0,
                acknowledged: 0,
                bytes: 0,
                in_flight: 0,
                requests: 0,
                refused: BTreeMap::new(),
                latency: histogram(),
                windows: (0..WINDOWS).map(|_| histogram()).collect(),
                own_lag: histogram(),
            }),
            stop: AtomicBool::new(false),
        }
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window of an intended time; none outside of what is measured.
    pub(crate) fn window(&self, intended: Instant) -> Option<usize> {
        let (from, until) = self.measured;
        let share = intended.checked_duration_since(from)?.as_secs_f64()
            / until.duration_since(from).as_secs_f64();
        (share < 1.0).then_some((share * WINDOWS as f64) as usize)
    }

    fn ended(&self, shot: &Shot, outcome: Result<(), String>) {
        let window = self.window(shot.intended);
        let latency = shot.intended.elapsed();
        let mut counts = self.counts();
        counts.in_flight -= 1;
        if window.is_some() {
            counts.requests += 1;
        }
        match outcome {
            Ok(()) => {
                counts.acknowledged += u64::from(shot.request.events);
                counts.bytes += shot.request.body.len() as u64;
                if let Some(window) = window {
                    record(&mut counts.latency, latency);
                    record(&mut counts.windows[window], latency);
                }
            }
            Err(what) if window.is_some() => *counts.refused.entry(what).or_default() += 1,
            Err(_) => {}
        }
    }
}

/// A request under way.
struct Shot {
    request: Request,
    intended: Instant,
    /// Ids of the events that are followed.
    followed: Vec<String>,
    /// Whether a connection was idle when it was handed over.
    had_connection: bool,
    tally: Arc<Tally>,
    markers: Arc<Markers>,
}

#[derive(Default)]
struct Line {
    /// Connections that wait for a request; the last one goes first, so that few are used.
    idle: Vec<oneshot::Sender<Shot>>,
    waiting: VecDeque<Shot>,
    waiting_bytes: usize,
}

/// Where to send, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Gun {
    /// `host:port` of the producer.
    pub(crate) producer: String,
    /// `Bearer …` for each tenant, and last that of the markers.
    pub(crate) authorizations: Arc<[String]>,
}

/// What a run sends, and when.
pub(crate) struct Salvo {
    pub(crate) feed: Feed,
    pub(crate) schedule: Schedule,
    pub(crate) start: Instant,
    pub(crate) until: Instant,
    /// Events to send; the run ends with them.
    pub(crate) events: u64,
    pub(crate) tally: Arc<Tally>,
    pub(crate) markers: Arc<Markers>,
    /// Every so many requests a marker; none where nothing is followed.
    pub(crate) marker_every: Option<u64>,
    pub(crate) batch: u32,
}

/// How many requests a marker request comes after.
pub(crate) fn marker_every(requests_per_second: f64, markers_per_second: f64) -> u64 {
    (requests_per_second / markers_per_second)
        .max(LEAST_BETWEEN_MARKERS)
        .round() as u64
}

/// The connections, kept over all runs.
pub(crate) struct Load {
    line: Arc<Mutex<Line>>,
    marker_tenant: usize,
    /// They end with it.
    _connections: JoinSet<()>,
}

impl Load {
    /// Opens no connection yet; each is opened when it is needed.
    pub(crate) fn new(gun: &Gun, connections: usize) -> Self {
        let line = Arc::new(Mutex::new(Line::default()));
        let mut tasks = JoinSet::new();
        for _ in 0..connections.max(1) {
            tasks.spawn(connection(gun.clone(), Arc::clone(&line)));
        }
        Self {
            line,
            marker_tenant: gun.authorizations.len().saturating_sub(1),
            _connections: tasks,
        }
    }

    /// Sends until the end of the salvo; does not wait for the answers.
    pub(crate) async fn drive(&self, mut salvo: Salvo) -> Result<(), CapacityError> {
        let mut sent = 0;
        for number in 1_u64.. {
            let is_marker = salvo.marker_every.is_some_and(|every| number % every == 0);
            let (mut request, mut followed) = match is_marker {
                true => (self.marker(&salvo), Vec::new()),
                false => (salvo.feed.next().await?, Vec::new()),
            };
            let intended = salvo.start + salvo.schedule.next_due(request.events);
            if intended >= salvo.until
                || sent >= salvo.events
                || salvo.tally.stop.load(Ordering::Relaxed)
            {
                break;
            }
            if intended > Instant::now() {
                sleep_until(intended).await;
            }
            sent += u64::from(request.events);
            if is_marker {
                (request.body, followed) = salvo.markers.bodies(number, request.events, FOLLOWED);
                salvo.markers.follow(&followed, intended);
            }
            self.hand_over(Shot {
                request,
                intended,
                followed,
                had_connection: false,
                tally: Arc::clone(&salvo.tally),
                markers: Arc::clone(&salvo.markers),
            });
        }
        Ok(())
    }

    fn marker(&self, salvo: &Salvo) -> Request {
        Request {
            tenant: self.marker_tenant,
            source: MARKER_SOURCE.into(),
            body: Bytes::new(),
            events: salvo.batch,
        }
    }

    fn hand_over(&self, mut shot: Shot) {
        let tally = Arc::clone(&shot.tally);
        {
            let mut counts = tally.counts();
            counts.scheduled += u64::from(shot.request.events);
            counts.in_flight += 1;
        }
        let mut line = lock(&self.line);
        shot.had_connection = true;
        while let Some(idle) = line.idle.pop() {
            match idle.send(shot) {
                Ok(()) => return,
                // That connection's task has ended.
                Err(back) => shot = back,
            }
        }
        shot.had_connection = false;
        if tally.window(shot.intended).is_some() {
            record(&mut tally.counts().own_lag, shot.intended.elapsed());
        }
        let bytes = shot.request.body.len();
        if line.waiting_bytes + bytes > WAITING_BYTES {
            drop(line);
            shot.markers.forget(&shot.followed);
            tally.ended(&shot, Err("no connection was idle for too long".into()));
            return;
        }
        line.waiting_bytes += bytes;
        line.waiting.push_back(shot);
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connection(gun: Gun, line: Arc<Mutex<Line>>) {
    let mut sender = None;
    loop {
        let next = {
            let mut line = lock(&line);
            match line.waiting.pop_front() {
                Some(shot) => {
                    line.waiting_bytes -= shot.request.body.len();
                    Ok(shot)
                }
                None => {
                    let (idle, next) = oneshot::channel();
                    line.idle.push(idle);
                    Err(next)
                }
            }
        };
        let shot = match next {
            Ok(shot) => shot,
            Err(next) => match next.await {
                Ok(shot) => shot,
                Err(_) => return,
            },
        };
        if shot.had_connection && shot.tally.window(shot.intended).is_some() {
            record(&mut shot.tally.counts().own_lag, shot.intended.elapsed());
        }
        let outcome = timeout(ANSWER, post(&gun, &shot, &mut sender))
            .await
            .unwrap_or_else(|_| Err("no answer".into()));
        if outcome.is_err() {
            sender = None;
            shot.markers.forget(&shot.followed);
        }
        shot.tally.ended(&shot, outcome);
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// Sends one request and reads its answer; an error is what came instead of 202.
async fn post(gun: &Gun, shot: &Shot, kept: &mut Option<Sender>) -> Result<(), String> {
    let request = || {
        hyper::Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/events/{}", shot.request.source))
            .header(HOST, &gun.producer)
            .header(AUTHORIZATION, &gun.authorizations[shot.request.tenant])
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(Full::new(shot.request.body.clone()))
            .map_err(|error| error.to_string())
    };
    let kept_open = match kept.take() {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let mut sender = match kept_open {
        Some(sender) => sender,
        None => connect(&gun.producer).await?,
    };
    let answer = match sender.send_request(request()?).await {
        // The server had closed the kept connection before it saw the request.
        Err(error) if error.is_canceled() => {
            sender = connect(&gun.producer).await?;
            sender.send_request(request()?).await
        }
        answer => answer,
    };
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status();
    // The answer counts when all of it is there.
    answer
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    *kept = Some(sender);
    match status {
        StatusCode::ACCEPTED => Ok(()),
        status => Err(status.as_u16().to_string()),
    }
}

async fn connect(producer: &str) -> Result<Sender, String> {
    let stream = TcpStream::connect(producer)
        .await
        .map_err(|error| error.to_string())?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the producer");
        }
    });
    Ok(sender)
}

//! Receivers on loopback: one per behaviour, which remember what they saw and what they said they have.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What a receiver does with a request.
#[allow(dead_code)] // each test binary uses some of them
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// 200 at once.
    Fast,
    /// 200 after this time.
    Slow(Duration),
    /// Never answers.
    Hanging,
    /// 500 to every second request, 200 to the others.
    HalfBroken,
    /// 500 to the first request of every delivery, 200 to the others.
    FirstFails,
    /// 500 always.
    Broken,
    /// 429 with Retry-After: 1 to all but the first ten requests of every half second.
    RateLimiting,
    /// 429 with Retry-After: 1 to the first request of every delivery.
    FirstLimited,
    /// 410.
    Gone,
    /// 410 after this time.
    SlowlyGone(Duration),
    /// 422.
    Refusing,
    /// 307 to another receiver's port.
    Redirecting(u16),
    /// A byte of the answer every 100 ms.
    Dripping,
    /// Speaks before it is spoken to, and no TLS.
    Plain,
    /// Closes the connection instead of answering.
    Closing,
}

/// What came to a receiver.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// Requests by delivery id.
    pub(crate) requests: BTreeMap<String, usize>,
    /// Answers of 2xx by delivery id.
    pub(crate) taken: BTreeMap<String, usize>,
    /// The last body of each.
    pub(crate) bodies: BTreeMap<String, Vec<u8>>,
    /// Beginning of this half second, and its requests.
    window: Option<(Instant, usize)>,
}

pub(crate) struct Receiver {
    pub(crate) port: u16,
    seen: Arc<Mutex<Seen>>,
    works: Arc<AtomicBool>,
}

struct Request {
    id: String,
    body: Vec<u8>,
}

impl Receiver {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let works = Arc::new(AtomicBool::new(false));
        let (all, switch) = (Arc::clone(&seen), Arc::clone(&works));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    stream,
                    behaviour,
                    (Arc::clone(&all), Arc::clone(&switch)),
                ));
            }
        });
        Self { port, seen, works }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// From now on it is fast, whatever it was.
    pub(crate) fn mend(&self) {
        self.works.store(true, Ordering::SeqCst);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?token=hunter2", self.port)
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    (seen, works): (Arc<Mutex<Seen>>, Arc<AtomicBool>),
) {
    if behaviour == Behaviour::Plain {
        let _ = stream.write_all(b"HTTP/1.1 400 X\r\n\r\n").await;
    }
    while let Some(request) = read(&mut stream).await {
        let (number, of_delivery, in_window) = {
            let mut seen = seen.lock().unwrap();
            *seen.requests.entry(request.id.clone()).or_default() += 1;
            seen.bodies.insert(request.id.clone(), request.body);
            let now = Instant::now();
            if seen
                .window
                .is_none_or(|(began, _)| now - began > Duration::from_millis(500))
            {
                seen.window = Some((now, 0));
            }
            let window = seen.window.get_or_insert((now, 0));
            window.1 += 1;
            let in_window = window.1;
            let number = seen.requests.values().sum::<usize>();
            (number, seen.requests[&request.id], in_window)
        };
        let behaviour = match works.load(Ordering::SeqCst) {
            true => Behaviour::Fast,
            false => behaviour,
        };
        let answer = match behaviour {
            Behaviour::Fast | Behaviour::Dripping => "200",
            Behaviour::Slow(pause) => {
                tokio::time::sleep(pause).await;
                "200"
            }
            Behaviour::Hanging => {
                std::future::pending::<()>().await;
                return;
            }
            Behaviour::HalfBroken if number % 2 == 1 => "500",
            Behaviour::HalfBroken => "200",
            Behaviour::FirstFails if of_delivery == 1 => "500",
            Behaviour::FirstFails => "200",
            Behaviour::Broken => "500",
            Behaviour::FirstLimited if of_delivery == 1 => "429",
            Behaviour::FirstLimited => "200",
            Behaviour::RateLimiting if in_window > 10 => "429",
            Behaviour::RateLimiting => "200",
            Behaviour::Gone => "410",
            Behaviour::SlowlyGone(pause) => {
                tokio::time::sleep(pause).await;
                "410"
            }
            Behaviour::Refusing => "422",
            Behaviour::Redirecting(_) => "307",
            Behaviour::Closing | Behaviour::Plain => return,
        };
        let mut head = format!("HTTP/1.1 {answer} X\r\ncontent-length: 0\r\n");
        match behaviour {
            Behaviour::Redirecting(port) => {
                head.push_str(&format!("location: http://127.0.0.1:{port}/\r\n"));
            }
            _ if answer == "429" => head.push_str("retry-after: 1\r\n"),
            _ => {}
        }
        head.push_str("\r\n");
        if behaviour == Behaviour::Dripping {
            for byte in head.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if answer == "200" {
            // Before the answer: what a sender is told has been taken.
            *seen.lock().unwrap().taken.entry(request.id).or_default() += 1;
        }
        if behaviour != Behaviour::Dripping && stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let field = |name: &str| {
                head.lines().find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix(": ")
                        .map(str::to_owned)
                })
            };
            let length: usize = field("content-length")?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                let body = bytes[end + 4..end + 4 + length].to_vec();
                // GA4 and Meta have no such header: the event's own id stands for it.
                let id = field("webhook-id").unwrap_or_else(|| event_id(&body));
                return Some(Request { id, body });
            }
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn event_id(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let ga4 = &body["events"][0]["params"]["autochat_event_id"];
    let meta = &body["data"][0]["event_id"];
    ga4.as_str().or(meta.as_str()).unwrap().to_owned()
}

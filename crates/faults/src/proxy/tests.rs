use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::http::{Fault, Form, StoreProxy};
use super::tcp::{Mode, TcpProxy};

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for what flows to arrive, short enough to wait for what must not.
const SILENCE: Duration = Duration::from_millis(150);

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A port on which nobody listens any more.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind(any()).await.unwrap();
    listener.local_addr().unwrap()
}

/// A server that says back what it hears.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind(any()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

/// A server that passes on what it hears, an empty chunk at the end of it, and says "hi" once.
async fn listener() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind(any()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                stream.write_all(b"hi").await.unwrap();
                let mut buffer = [0; 1024];
                loop {
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    let _ = heard.send(buffer[..read].to_vec());
                    if read == 0 {
                        return;
                    }
                }
            });
        }
    });
    (address, hears)
}

async fn proxied(target: SocketAddr) -> (TcpProxy, TcpStream) {
    let proxy = TcpProxy::start(any(), target).await.unwrap();
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    (proxy, stream)
}

async fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    timeout(PATIENCE, stream.read_exact(&mut got))
        .await
        .expect("nothing came")
        .unwrap();
    assert_eq!(got, wanted);
}

async fn expect_silence(stream: &mut TcpStream) {
    let read = timeout(SILENCE, stream.read(&mut [0; 1])).await;
    assert!(read.is_err(), "something came: {read:?}");
}

async fn expect_end(stream: &mut TcpStream) {
    let read = timeout(PATIENCE, stream.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "not closed: {read:?}");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_an_end_is_passed_on() {
    let (proxy, mut stream) = proxied(echo().await).await;
    stream.write_all(b"hello").await.unwrap();
    expect(&mut stream, b"hello").await;
    assert_eq!(proxy.connections(), 1);
    stream.shutdown().await.unwrap();
    expect_end(&mut stream).await;
    until("the connection is forgotten", || proxy.connections() == 0).await;
}

#[tokio::test]
async fn a_cut_closes_what_is_open_and_what_comes_until_it_passes_again() {
    let (proxy, mut stream) = proxied(echo().await).await;
    stream.write_all(b"x").await.unwrap();
    expect(&mut stream, b"x").await;
    proxy.set(Mode::Cut);
    expect_end(&mut stream).await;
    let mut later = TcpStream::connect(proxy.address()).await.unwrap();
    expect_end(&mut later).await;
    proxy.set(Mode::Pass);
    let mut after = TcpStream::connect(proxy.address()).await.unwrap();
    after.write_all(b"y").await.unwrap();
    expect(&mut after, b"y").await;
}

#[tokio::test]
async fn a_black_hole_holds_back_what_flows_afterwards() {
    let (proxy, mut stream) = proxied(echo().await).await;
    stream.write_all(b"a").await.unwrap();
    expect(&mut stream, b"a").await;
    proxy.set(Mode::Blackhole);
    let mut later = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"b").await.unwrap();
    later.write_all(b"c").await.unwrap();
    expect_silence(&mut stream).await;
    expect_silence(&mut later).await;
    proxy.set(Mode::Pass);
    expect(&mut stream, b"b").await;
    expect(&mut later, b"c").await;
}

#[tokio::test]
async fn one_direction_flows_while_the_other_stalls() {
    let (target, mut hears) = listener().await;
    let (proxy, mut stream) = proxied(target).await;
    expect(&mut stream, b"hi").await;
    proxy.set(Mode::OneWay { to_server: false });
    stream.write_all(b"x").await.unwrap();
    assert!(timeout(SILENCE, hears.recv()).await.is_err());
    let mut later = TcpStream::connect(proxy.address()).await.unwrap();
    expect(&mut later, b"hi").await;
    proxy.set(Mode::OneWay { to_server: true });
    assert_eq!(hears.recv().await.unwrap(), b"x");
    let mut deaf = TcpStream::connect(proxy.address()).await.unwrap();
    deaf.write_all(b"y").await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), b"y");
    expect_silence(&mut deaf).await;
    proxy.set(Mode::Pass);
    expect(&mut deaf, b"hi").await;
}

#[tokio::test]
async fn a_delay_is_paid_in_each_direction() {
    let (proxy, mut stream) = proxied(echo().await).await;
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let started = Instant::now();
    stream.write_all(b"x").await.unwrap();
    expect(&mut stream, b"x").await;
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_half_close_ends_the_answers_and_leaves_the_requests() {
    let (target, mut hears) = listener().await;
    let (proxy, mut stream) = proxied(target).await;
    expect(&mut stream, b"hi").await;
    proxy.set(Mode::HalfClose);
    assert_eq!(
        timeout(PATIENCE, stream.read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap(),
        0
    );
    stream.write_all(b"still").await.unwrap();
    assert_eq!(hears.recv().await.unwrap(), b"still");
}

#[tokio::test]
async fn a_drip_is_slow() {
    let (proxy, mut stream) = proxied(echo().await).await;
    proxy.set(Mode::Drip {
        bytes_per_second: 100,
    });
    let started = Instant::now();
    stream.write_all(&[7; 50]).await.unwrap();
    expect(&mut stream, &[7; 50]).await;
    assert!(started.elapsed() >= Duration::from_millis(450));
}

#[tokio::test]
async fn a_target_that_is_down_closes_the_client() {
    let (_proxy, mut stream) = proxied(nobody().await).await;
    expect_end(&mut stream).await;
    let proxy = StoreProxy::start(any(), nobody().await).await.unwrap();
    assert!(post(&proxy, "INSERT", "x").await.is_none());
}

#[tokio::test]
async fn a_dropped_proxy_closes_its_connections_and_its_port() {
    let (proxy, mut stream) = proxied(echo().await).await;
    stream.write_all(b"x").await.unwrap();
    expect(&mut stream, b"x").await;
    let address = proxy.address();
    drop(proxy);
    expect_end(&mut stream).await;
    let again = TcpProxy::start(address, nobody().await).await.unwrap();
    assert_eq!(again.address(), address);
}

/// A server that passes on each whole body that it got and answers 200 "done".
async fn server() -> (SocketAddr, mpsc::UnboundedReceiver<Option<Bytes>>) {
    let listener = TcpListener::bind(any()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| async {
                    let body = request.into_body().collect().await;
                    let body = body.map(|body| body.to_bytes());
                    let _ = heard.send(body.as_ref().ok().cloned());
                    body.map(|_| Response::new(Full::new(Bytes::from_static(b"done"))))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, hears)
}

struct Answer {
    status: u16,
    code: Option<String>,
    tag: Option<String>,
    body: String,
    /// The body has its end.
    whole: bool,
}

/// The answer to a query in the URL; `None` when the connection ended without one.
async fn post(proxy: &StoreProxy, query: &str, body: &'static str) -> Option<Answer> {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    send(proxy, &format!("/?query={query}"), body).await
}

async fn send(proxy: &StoreProxy, uri: &str, body: &'static str) -> Option<Answer> {
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post(uri)
        .header("host", "store")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    let (parts, mut incoming) = sender.send_request(request).await.ok()?.into_parts();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    Some(Answer {
        status: parts.status.as_u16(),
        code: header("x-clickhouse-exception-code"),
        tag: header("x-clickhouse-exception-tag"),
        body: String::from_utf8(body).unwrap(),
        whole,
    })
}

async fn store() -> (StoreProxy, mpsc::UnboundedReceiver<Option<Bytes>>) {
    let (target, hears) = server().await;
    (StoreProxy::start(any(), target).await.unwrap(), hears)
}

#[tokio::test]
async fn what_is_no_insert_passes_while_a_fault_is_due() {
    let (proxy, mut hears) = store().await;
    proxy.fail_next(Fault::BeforeBody, 1);
    for (uri, body) in [
        ("/?query=SELECT+1", "INSERT INTO x"),
        ("/", "SELECT 'insert'"),
        ("/", ""),
    ] {
        let answer = send(&proxy, uri, body).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
        assert_eq!(hears.recv().await.unwrap().unwrap(), body);
    }
    assert_eq!(proxy.faults_made(), 0);
    let answer = send(&proxy, "/", "\n insert INTO x VALUES").await.unwrap();
    assert_eq!((answer.status, proxy.faults_made()), (500, 1));
    let answer = send(&proxy, "/", "\n insert INTO x VALUES").await.unwrap();
    assert_eq!((answer.status, proxy.faults_made()), (200, 1));
}

#[tokio::test]
async fn each_fault_forwards_what_it_says() {
    let (proxy, mut hears) = store().await;
    proxy.fail_next(Fault::BeforeBody, 1);
    proxy.fail_next(
        Fault::Status {
            status: 500,
            code: 252,
            message: "Too many parts. (TOO_MANY_PARTS)".into(),
        },
        1,
    );
    proxy.fail_next(Fault::ExceptionWithoutForwarding(Form::Text), 1);
    assert_eq!(post(&proxy, "INSERT", "0123").await.unwrap().status, 500);
    let answer = post(&proxy, "INSERT", "0123").await.unwrap();
    assert_eq!((answer.status, answer.code.as_deref()), (500, Some("252")));
    assert!(
        answer
            .body
            .starts_with("Code: 252. DB::Exception: Too many parts.")
    );
    let answer = post(&proxy, "INSERT", "0123").await.unwrap();
    assert!(answer.status == 200 && answer.body.starts_with("Code: 241."));
    assert!(hears.try_recv().is_err(), "nothing may have been forwarded");

    proxy.fail_next(Fault::MidBody, 1);
    assert!(post(&proxy, "INSERT", "0123").await.is_none());
    assert_eq!(hears.recv().await.unwrap(), None, "a body cut short");

    proxy.fail_next(Fault::AfterCommit, 1);
    assert!(post(&proxy, "INSERT", "0123").await.is_none());
    assert_eq!(hears.recv().await.unwrap().unwrap(), "0123");

    for form in Form::ALL {
        proxy.fail_next(Fault::ExceptionInBody(form), 1);
        let answer = post(&proxy, "INSERT", "0123").await.unwrap();
        assert_eq!(hears.recv().await.unwrap().unwrap(), "0123");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.code.is_some(), form == Form::Header);
        let tagged = matches!(form, Form::Tagged | Form::TaggedInPieces);
        assert_eq!(answer.tag.is_some(), tagged);
        assert_eq!(answer.whole, !tagged, "{form:?}");
        let body = answer.body;
        assert!(body.contains("Code: 241. DB::Exception: "), "{body}");
        assert_eq!(body.ends_with("\r\n__exception__\r\n"), tagged, "{body:?}");
    }
    assert_eq!(proxy.faults_made(), 9);
    assert_eq!(post(&proxy, "INSERT", "0123").await.unwrap().status, 200);
}

#[tokio::test]
async fn what_hangs_or_drips_does_not_stop_the_others() {
    let (proxy, mut hears) = store().await;
    proxy.fail_next(Fault::Hang, 1);
    assert!(
        timeout(SILENCE, post(&proxy, "INSERT", "0123"))
            .await
            .is_err()
    );
    proxy.fail_next(Fault::DripAnswer, 1);
    assert!(
        timeout(SILENCE, post(&proxy, "INSERT", "4567"))
            .await
            .is_err()
    );
    assert_eq!(hears.recv().await.unwrap().unwrap(), "4567");
    proxy.fail_next(Fault::Hang, 100);
    proxy.pass();
    assert_eq!(post(&proxy, "INSERT", "0123").await.unwrap().status, 200);
    assert_eq!(proxy.faults_made(), 2);
}

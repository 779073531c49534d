//! Against receivers on loopback that misbehave in every way.

use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::CertifiedKey;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);

/// A receiver that handles each connection with `serve`; its port, and how many connections came.
async fn receiver<F>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> (u16, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream));
        }
    });
    (port, connections)
}

/// Reads one request; false where the connection ended.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut seen = Vec::new();
    let mut byte = [0; 1024];
    loop {
        match stream.read(&mut byte).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => seen.extend_from_slice(&byte[..count]),
        }
        if seen.ends_with(b"{}") {
            return true;
        }
    }
}

/// Answers every request with the same bytes.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: Vec<u8>) {
    while read_request(&mut stream).await {
        if stream.write_all(&bytes).await.is_err() {
            break;
        }
    }
}

async fn answering(bytes: &str) -> (u16, Arc<AtomicUsize>) {
    let bytes = bytes.as_bytes().to_vec();
    receiver(move |stream| answer(stream, bytes.clone())).await
}

/// Names of the tests, all on loopback but for those that are not there.
struct Names;

impl Resolve for Names {
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let found = match host {
            "absent.example" => Err(io::Error::other("no such host")),
            "empty.example" => Ok(vec![]),
            "mixed.example" => Ok(vec!["169.254.169.254", "127.0.0.1"]),
            "slow.example" => return Box::pin(futures::future::pending()),
            _ => Ok(vec!["127.0.0.1"]),
        };
        let found = found.map(|list| {
            list.iter()
                .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
                .collect()
        });
        Box::pin(async move { found })
    }
}

fn client(allowed: &[&str], ca_files: &[PathBuf]) -> Client {
    let guard = Guard::new(allowed.iter().map(|net| net.parse().unwrap()).collect());
    Client::with_resolver(guard, ca_files, Arc::new(Names)).unwrap()
}

fn request(url: &str) -> Request {
    Request {
        url: url.parse().unwrap(),
        headers: vec![("webhook-id", "msg_1".to_owned())],
        body: b"{}".to_vec(),
    }
}

async fn send(client: &Client, url: &str) -> Ending {
    client
        .send(
            &Pool::default(),
            &request(url),
            (TIMEOUT, |failure, _| failure),
        )
        .await
}

/// The failure of a request, which names nothing secret.
async fn failure(url: &str) -> Failure {
    let url = format!("{url}/hooks/s3cr3t?token=hunter2");
    match send(&client(&["127.0.0.0/8"], &[]), &url).await {
        Ending::Failed(failure) => {
            for secret in ["hunter2", "s3cr3t"] {
                assert!(!failure.detail.contains(secret), "{failure:?}");
            }
            failure
        }
        delivered @ Ending::Delivered { .. } => panic!("{delivered:?}"),
    }
}

async fn class(url: &str) -> FailureClass {
    failure(url).await.class
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_receiver_that_answers_2xx_has_it_and_its_connection_is_used_again() {
    let (port, connections) = answering(OK).await;
    let client = client(&["127.0.0.0/8"], &[]);
    let (pool, request) = (
        Pool::default(),
        request(&format!("http://ok.example:{port}/")),
    );
    for _ in 0..3 {
        let ending = client
            .send(&pool, &request, (TIMEOUT, |failure, _| failure))
            .await;
        assert_eq!(ending, Ending::Delivered { status: 200 });
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_attempt() {
    // Answers once per connection, then closes without saying so.
    let (port, connections) = receiver(|mut stream| async move {
        if read_request(&mut stream).await {
            let _ = stream.write_all(OK.as_bytes()).await;
        }
    })
    .await;
    let client = client(&["127.0.0.0/8"], &[]);
    let (pool, request) = (
        Pool::default(),
        request(&format!("http://ok.example:{port}/")),
    );
    for _ in 0..5 {
        let ending = client
            .send(&pool, &request, (TIMEOUT, |failure, _| failure))
            .await;
        assert_eq!(ending, Ending::Delivered { status: 200 });
        // The end of the connection reaches us.
        while pool
            .0
            .lock()
            .unwrap()
            .iter()
            .any(|(_, _, idle)| !idle.is_closed())
        {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_connection_to_one_host_is_not_used_for_another() {
    let (old, of_old) = answering(OK).await;
    let (new, of_new) = answering(OK).await;
    let client = client(&["127.0.0.0/8"], &[]);
    let pool = Pool::default();
    // The name counts as well: behind one address there may be many receivers.
    for (host, port) in [("a", old), ("a", new), ("b", new), ("b", new)] {
        let request = request(&format!("http://{host}.example:{port}/"));
        let ending = client
            .send(&pool, &request, (TIMEOUT, |failure, _| failure))
            .await;
        assert_eq!(ending, Ending::Delivered { status: 200 });
    }
    assert_eq!(of_old.load(Ordering::SeqCst), 1);
    assert_eq!(of_new.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn each_status_has_its_class_and_retry_after_is_read() {
    let (port, _) =
        answering("HTTP/1.1 503 X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n").await;
    let failed = failure(&format!("http://a.example:{port}")).await;
    assert_eq!(failed.class, FailureClass::Http5xx);
    assert_eq!(failed.status, Some(503));
    assert_eq!(failed.retry_after, Some(Duration::from_secs(7)));
    for (status, expected) in [
        (404, FailureClass::Http4xx),
        (410, FailureClass::Gone),
        (422, FailureClass::Refused),
        (429, FailureClass::RateLimited),
        (500, FailureClass::Http5xx),
    ] {
        let (port, _) =
            answering(&format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(class(&format!("http://a.example:{port}")).await, expected);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (inner, connections) = answering(OK).await;
    let location = format!("http://127.0.0.1:{inner}/");
    let (port, _) = answering(&format!(
        "HTTP/1.1 307 X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
    ))
    .await;
    assert_eq!(
        class(&format!("http://a.example:{port}")).await,
        FailureClass::Redirect
    );
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_or_drips_its_head_runs_into_the_limit() {
    let (silent, _) = receiver(|mut stream| async move {
        read_request(&mut stream).await;
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let (dripping, _) = receiver(|mut stream| async move {
        read_request(&mut stream).await;
        for byte in OK.bytes() {
            let _ = stream.write_all(&[byte]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    for port in [silent, dripping] {
        let began = Instant::now();
        let class = class(&format!("http://a.example:{port}")).await;
        assert_eq!(class, FailureClass::Timeout);
        assert!(began.elapsed() < TIMEOUT + Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_body_that_drips_or_never_ends_does_not_change_the_answer() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx".to_owned(),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{}",
            "x".repeat(1_000_000)
        ),
    ] {
        let (port, _) = answering(&bytes).await;
        let client = client(&["127.0.0.0/8"], &[]);
        let ending = send(&client, &format!("http://a.example:{port}/")).await;
        assert_eq!(ending, Ending::Delivered { status: 200 });
    }
}

#[tokio::test]
async fn what_is_no_http_or_too_much_of_it_is_a_fault_of_the_protocol() {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1_000_000));
    for bytes in ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", &huge] {
        let (port, _) = answering(bytes).await;
        assert_eq!(
            class(&format!("http://a.example:{port}")).await,
            FailureClass::Protocol
        );
    }
    let (port, _) = receiver(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    assert_eq!(
        class(&format!("http://a.example:{port}")).await,
        FailureClass::Protocol
    );
}

#[tokio::test]
async fn names_and_connections_fail_with_their_own_classes() {
    assert_eq!(class("http://absent.example").await, FailureClass::Dns);
    assert_eq!(class("http://empty.example").await, FailureClass::Dns);
    let (port, _) = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap().port(), drop(listener))
    };
    assert_eq!(
        class(&format!("http://a.example:{port}")).await,
        FailureClass::Connect
    );
}

#[tokio::test]
async fn a_name_that_is_never_resolved_runs_into_the_limit() {
    let failed = failure("http://slow.example").await;
    assert_eq!(failed.class, FailureClass::Timeout);
}

#[tokio::test]
async fn closed_networks_are_not_connected_to_whatever_the_name_says() {
    let (port, connections) = answering(OK).await;
    let closed = client(&[], &[]);
    for host in [
        "rebound.example",
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
    ] {
        let ending = send(&closed, &format!("http://{host}:{port}/")).await;
        let Ending::Failed(failure) = ending else {
            panic!("{host}: {ending:?}")
        };
        assert_eq!(failure.class, FailureClass::Blocked, "{host}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    // An open address beside a closed one is taken.
    let open = client(&["127.0.0.0/8"], &[]);
    let ending = send(&open, &format!("http://mixed.example:{port}/")).await;
    assert_eq!(ending, Ending::Delivered { status: 200 });
}

#[tokio::test]
async fn tls_needs_a_trusted_certificate_of_the_right_name() {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["good.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (port, _) = receiver(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, OK.as_bytes().to_vec()).await;
            }
        }
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, cert.pem()).unwrap();
    let trusting = client(&["127.0.0.0/8"], &[file.path().to_owned()]);
    let good = format!("https://good.example:{port}/");
    assert_eq!(
        send(&trusting, &good).await,
        Ending::Delivered { status: 200 }
    );
    let is_tls = |ending: Ending| {
        matches!(
            ending,
            Ending::Failed(Failure {
                class: FailureClass::Tls,
                ..
            })
        )
    };
    assert!(is_tls(send(&client(&["127.0.0.0/8"], &[]), &good).await));
    assert!(is_tls(
        send(&trusting, &format!("https://other.example:{port}/")).await
    ));
    let (plain, _) = receiver(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 X\r\n\r\n").await;
    })
    .await;
    assert!(is_tls(
        send(&trusting, &format!("https://good.example:{plain}/")).await
    ));
}

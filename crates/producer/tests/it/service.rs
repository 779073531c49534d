//! Paths, health, metrics and the end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{KEY, PATIENCE, event, receive, start, start_with, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_source_is_404_and_names_the_known_ones() {
    let producer = start().await;
    for source in ["watermelons", "WATERMELON", "%ff", "..", "watermelon%2f"] {
        let target = format!("/v1/events/{source}?write_key={KEY}");
        let call = producer
            .call("POST", &target)
            .header("Content-Type", "application/json");
        let detail = call
            .body(event("c"))
            .send()
            .await
            .problem(404, "unknown-source");
        for known in ["algomo", "autochat", "loyjoy", "userlike", "watermelon"] {
            assert!(detail.contains(known), "{source}: {detail}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_source_is_taken() {
    let producer = start().await;
    for (source, item) in [
        ("watermelon", r#"{"event":"widget_opened"}"#),
        (
            "loyjoy",
            r#"{"evt":"chat_opened","bot_id":"b","process_id":"p","process_name":"n"}"#,
        ),
    ] {
        let target = format!("/v1/events/{source}?write_key={KEY}");
        let call = producer
            .call("POST", &target)
            .header("Content-Type", "application/json");
        assert_eq!(
            call.body(item).send().await.confirmed(),
            (1, vec![]),
            "{source}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_are_404_and_wrong_methods_405() {
    let producer = start().await;
    for path in [
        "/",
        "/v1/events",
        "/v1/events/",
        "/v2/events/watermelon",
        "/v1/events/a/b",
    ] {
        producer
            .call("POST", path)
            .send()
            .await
            .problem(404, "unknown-path");
    }
    for (method, path, allow) in [
        ("GET", "/v1/events/watermelon", "POST, OPTIONS"),
        ("PUT", "/v1/events/watermelon", "POST, OPTIONS"),
        ("DELETE", "/v1/events/watermelon", "POST, OPTIONS"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
    ] {
        let answer = producer.call(method, path).send().await;
        assert!(answer.problem(405, "method-not-allowed").contains(allow));
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_are_served() {
    let producer = start().await;
    assert_eq!(producer.call("GET", "/healthz").send().await.status, 200);
    until(async || producer.call("GET", "/readyz").send().await.status == 200).await;
    let body = format!("[{},{{}},7,7]", event("c"));
    producer.post(body).send().await.confirmed();
    producer.post("").send().await.problem(400, "empty");
    producer.call("GET", "/nowhere").send().await;

    let item = |outcome: &str, reason: &str| {
        format!(
            "chatpulse_producer_items_total{{outcome=\"{outcome}\",reason=\"{reason}\",\
             source=\"watermelon\",tenant=\"acme\"}}"
        )
    };
    assert_eq!(producer.metric(&item("accepted", "")).await, Some(1.0));
    assert_eq!(
        producer
            .metric(&item("rejected", "missing_event_name"))
            .await,
        Some(1.0)
    );
    assert_eq!(
        producer.metric(&item("rejected", "not_an_object")).await,
        Some(2.0)
    );
    let requests =
        |status: &str| format!("chatpulse_producer_requests_total{{status=\"{status}\"}}");
    assert_eq!(producer.metric(&requests("202")).await, Some(1.0));
    assert_eq!(producer.metric(&requests("400")).await, Some(1.0));
    assert_eq!(producer.metric(&requests("404")).await, Some(1.0));
    assert_eq!(
        producer
            .metric("chatpulse_producer_confirm_seconds_count")
            .await,
        Some(1.0)
    );
    assert_eq!(
        producer
            .metric("chatpulse_producer_requests_in_flight")
            .await,
        Some(0.0)
    );
    assert_eq!(
        producer.metric("chatpulse_producer_tenants").await,
        Some(2.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_no_longer_in_flight() {
    let producer = start().await;
    let gauge = "chatpulse_producer_requests_in_flight";
    let held = producer
        .post("{")
        .own_framing()
        .header("Content-Length", "100")
        .open()
        .await;
    until(async || producer.metric(gauge).await == Some(1.0)).await;
    drop(held);
    until(async || producer.metric(gauge).await == Some(0.0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_is_in_flight_and_takes_no_more() {
    let mut producer = start().await;
    let body = event("last");
    let (begin, end) = body.split_at(10);
    let mut held = producer
        .post(begin)
        .own_framing()
        .header("Content-Length", &body.len().to_string())
        .open()
        .await;
    let gauge = "chatpulse_producer_requests_in_flight";
    until(async || producer.metric(gauge).await == Some(1.0)).await;
    producer.ask_to_stop();
    let address = producer.address;
    until(async || TcpStream::connect(address).await.is_err()).await;
    held.write_all(end.as_bytes()).await.unwrap();
    assert_eq!(receive(held).await.confirmed().0, 1);
    assert_eq!(producer.stored().await.len(), 1);
    producer.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_ever() {
    let mut producer = start_with(|config| config.drain_timeout = Duration::from_millis(200)).await;
    let held = producer
        .post("{")
        .own_framing()
        .header("Content-Length", "100")
        .open()
        .await;
    let gauge = "chatpulse_producer_requests_in_flight";
    until(async || producer.metric(gauge).await == Some(1.0)).await;
    producer.ask_to_stop();
    producer.stopped().await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_ends_its_headers_is_cut_off() {
    let producer = start_with(|config| config.header_timeout = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(producer.address).await.unwrap();
    stream
        .write_all(b"POST /v1/events/watermelon HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    // So is one that sends nothing, or keeps a connection without using it.
    let mut idle = TcpStream::connect(producer.address).await.unwrap();
    timeout(PATIENCE, idle.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let mut kept = producer.call("GET", "/healthz").open().await;
    timeout(PATIENCE, kept.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_takes_its_answers_is_cut_off() {
    let producer = start_with(|config| config.body_timeout = Duration::from_millis(300)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(producer.address).await.unwrap();
    // Each answer names ten thousand faults.
    let body = "x\n".repeat(10_000);
    let request = format!(
        "POST /v1/events/watermelon?write_key={KEY} HTTP/1.1\r\nHost: x\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let cut = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(PATIENCE, cut)
        .await
        .expect("the server ends the connection");
}

//! What one tenant, or who is none, can take from the others.

use std::{num::NonZeroUsize, time::Duration};

use chatpulse_producer::ProducerConfig;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Answer, Call, KEY, OTHER, PATIENCE, Producer, event, receive, start_with, until,
};

const IN_FLIGHT: &str = "chatpulse_producer_requests_in_flight";

fn size(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// A request of acme whose body never comes.
fn stalled(producer: &Producer) -> Call {
    producer
        .post("")
        .own_framing()
        .header("Content-Length", "40000")
}

fn of_other(call: Call) -> Call {
    call.header("Authorization", &format!("Bearer {OTHER}"))
}

async fn refused(producer: &Producer, of: &str) -> Option<f64> {
    let name = "chatpulse_producer_over_share_total";
    producer
        .metric(&format!("{name}{{of=\"{of}\",tenant=\"acme\"}}"))
        .await
}

/// Opens so many requests of acme that stall, and gives the answers to those that are not let in,
/// and the rest.
async fn stall(producer: &Producer, requests: usize, let_in: usize) -> (Vec<Answer>, impl Sized) {
    let mut waiting = FuturesUnordered::new();
    for _ in 0..requests {
        waiting.push(receive(stalled(producer).open().await));
    }
    let mut answers = Vec::new();
    while answers.len() < requests - let_in {
        answers.push(waiting.next().await.unwrap());
    }
    (answers, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_stalls_bodies_holds_its_share_of_the_places_and_others_go_on() {
    let producer = start_with(|config| config.max_requests = size(8)).await;
    let (answers, held) = stall(&producer, 8, 2).await;
    for answer in answers {
        let detail = answer.problem(429, "tenant-share");
        assert!(detail.contains("acme") && detail.contains("requests served at once"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(producer.metric(IN_FLIGHT).await, Some(2.0));
    assert_eq!(refused(&producer, "requests").await, Some(6.0));
    let other = of_other(producer.post(event("c"))).send().await;
    assert_eq!(other.confirmed().0, 1);
    // What is given back may be taken again.
    drop(held);
    until(async || producer.post(event("c")).send().await.status == 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_stalls_bodies_holds_its_share_of_their_memory_and_others_go_on() {
    // A body of that length holds 32 KiB before it has begun: there is memory for sixteen of them.
    let producer = start_with(|config| {
        config.max_decoded_bytes = size(64 * 1024);
        config.max_inflight_bytes = size(512 * 1024);
    })
    .await;
    let (answers, _held) = stall(&producer, 16, 4).await;
    for answer in answers {
        let detail = answer.problem(429, "tenant-share");
        assert!(detail.contains("memory for bodies"), "{detail}");
    }
    assert_eq!(producer.metric(IN_FLIGHT).await, Some(4.0));
    assert_eq!(refused(&producer, "bytes").await, Some(12.0));
    let large = format!("[{}{}]", " ".repeat(60_000), event("c"));
    let other = of_other(producer.post(large)).send().await;
    assert_eq!(other.confirmed().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_floods_the_queue_holds_its_share_of_it_and_others_go_on() {
    let producer = start_with(|config| {
        config.queue_records = size(80);
        config.max_items = size(20);
        config.confirm_timeout = PATIENCE;
    })
    .await;
    producer.post(event("c")).send().await.confirmed();
    producer.mock.broker_down(-1).unwrap();
    let batch = || producer.post(format!("[{}]", vec![event("c"); 20].join(",")));
    let mut flood: FuturesUnordered<_> = (0..4).map(|_| batch().send()).collect();
    for _ in 0..3 {
        let answer = flood.next().await.unwrap();
        let detail = answer.problem(429, "tenant-share");
        assert!(detail.contains("queue to the broker"), "{detail}");
    }
    assert_eq!(refused(&producer, "records").await, Some(3.0));
    // The other's batch waits for the broker beside the first of the flood.
    let other = of_other(batch()).open().await;
    until(async || producer.metric(IN_FLIGHT).await == Some(2.0)).await;
    producer.mock.broker_up(-1).unwrap();
    assert_eq!(receive(other).await.confirmed().0, 20);
    assert_eq!(flood.next().await.unwrap().confirmed().0, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_alone_may_take_all() {
    let alone = |config: &mut ProducerConfig| {
        config.max_requests = size(4);
        let both = std::fs::read_to_string(&config.tenants_file).unwrap();
        let (acme, _other) = both.rsplit_once("[[tenant]]").unwrap();
        std::fs::write(&config.tenants_file, acme).unwrap();
    };
    let whole = |config: &mut ProducerConfig| {
        config.max_requests = size(4);
        config.tenant_share_percent = 100;
    };
    for producer in [start_with(alone).await, start_with(whole).await] {
        let (answers, _held) = stall(&producer, 5, 4).await;
        answers[0].problem(503, "overloaded");
        assert_eq!(refused(&producer, "requests").await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_good_key_keeps_nobody_out() {
    let producer = start_with(|config| {
        config.max_requests = size(2);
        config.max_connections = size(4);
        config.header_timeout = 4 * PATIENCE;
        config.body_timeout = 4 * PATIENCE;
    })
    .await;
    // A tenant's request that is under way stays.
    let (begin, end) = (&event("slow")[..10], &event("slow")[10..]);
    let mut slow = of_other(producer.post(begin))
        .own_framing()
        .header("Content-Length", &event("slow").len().to_string())
        .open()
        .await;
    until(async || producer.metric(IN_FLIGHT).await == Some(1.0)).await;
    let half = b"POST /v1/events/watermelon HTTP/1.1\r\nHost: x\r\n";
    let connect = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(producer.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    };
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(connect(b"").await);
        strangers.push(connect(half).await);
        let unknown = stalled(&producer).header("Authorization", "Bearer cpw_unknown");
        strangers.push(unknown.open().await);
    }
    assert_eq!(producer.post(event("c")).send().await.confirmed().0, 1);
    // Nor does the next stranger cut off whose headers are still on their way.
    let mut arriving = connect(half).await;
    strangers.push(connect(b"").await);
    assert_eq!(producer.call("GET", "/healthz").send().await.status, 200);
    let item = event("arriving");
    let rest = format!(
        "Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{item}",
        item.len()
    );
    arriving.write_all(rest.as_bytes()).await.unwrap();
    assert_eq!(receive(arriving).await.confirmed().0, 1);
    slow.write_all(end.as_bytes()).await.unwrap();
    assert_eq!(receive(slow).await.confirmed().0, 1);
    let displaced = "chatpulse_producer_connections_displaced_total";
    assert!(producer.metric(displaced).await >= Some(9.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_wait_while_all_are_served_and_then_an_idle_one_makes_room() {
    let producer = start_with(|config| {
        config.max_requests = size(1);
        config.max_connections = size(1);
    })
    .await;
    let item = event("c");
    let mut first = producer
        .post("")
        .own_framing()
        .header("Content-Length", &item.len().to_string())
        .header("Expect", "100-continue")
        .open()
        .await;
    // Asked for when the request has its place and its body is read.
    let mut begin = [0; 25];
    timeout(PATIENCE, first.read_exact(&mut begin))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&begin, b"HTTP/1.1 100 Continue\r\n\r\n");
    let second = producer.call("GET", "/healthz").open().await;
    let early = timeout(Duration::from_millis(200), second.peek(&mut begin)).await;
    assert!(early.is_err(), "served beyond the bound: {early:?}");
    first.write_all(item.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(PATIENCE, first.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
    assert_eq!(receive(second).await.status, 200);
}

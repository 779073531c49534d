//! Every body that a client may send, and those that it may not.

use std::time::{Duration, Instant};

use async_compression::{
    Level,
    tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder},
    zstd::CParameter,
};
use chatpulse_model::RawBody;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::support::{PATIENCE, event, start, start_limited, start_with, taken_and_refused};

async fn finish(mut encoder: impl AsyncWrite + Unpin, plain: &[u8]) {
    encoder.write_all(plain).await.unwrap();
    encoder.shutdown().await.unwrap();
}

async fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    finish(GzipEncoder::new(&mut out), plain).await;
    out
}

async fn brotli(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    finish(BrotliEncoder::with_quality(&mut out, Level::Fastest), plain).await;
    out
}

async fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    finish(ZstdEncoder::new(&mut out), plain).await;
    out
}

async fn every_encoding(plain: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    [
        ("gzip", gzip(plain).await),
        ("br", brotli(plain).await),
        ("zstd", zstd(plain).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_an_array_and_lines_are_taken_in_every_content_type() {
    let producer = start().await;
    let (object, array) = (event("a"), format!("[{},{}]", event("b"), event("c")));
    let lines = format!("{}\n\n{}\n", event("d"), event("e"));
    for (content_type, body, items) in [
        ("application/json", &object, 1),
        ("application/json; charset=utf-8", &array, 2),
        ("application/x-ndjson", &lines, 2),
        ("APPLICATION/JSON", &object, 1),
        ("text/plain;charset=UTF-8", &object, 1),
        ("text/plain", &array, 2),
        ("text/plain", &lines, 2),
    ] {
        let call = producer
            .post(body.as_bytes())
            .header("Content-Type", content_type);
        assert_eq!(
            call.send().await.confirmed(),
            (items, vec![]),
            "{content_type}"
        );
    }
    assert_eq!(taken_and_refused(&producer.stored().await), (11, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoding_is_taken() {
    let producer = start().await;
    let plain = format!("[{},{}]", event("a"), event("b"));
    for (encoding, body) in every_encoding(plain.as_bytes()).await {
        let call = producer.post(body).header("Content-Encoding", encoding);
        assert_eq!(call.send().await.confirmed(), (2, vec![]), "{encoding}");
    }
    let call = producer.post(plain).header("Content-Encoding", "identity");
    assert_eq!(call.send().await.confirmed().0, 2);
    // Members may follow each other, as appended gzip files have them.
    let members = [
        gzip(event("c").as_bytes()).await,
        gzip(b"\n").await,
        gzip(b"{}").await,
    ];
    let call = producer
        .post(members.concat())
        .header("Content-Encoding", "gzip");
    let call = call.header("Content-Type", "application/x-ndjson");
    assert_eq!(
        call.send().await.confirmed(),
        (1, vec![(1, "missing_event_name".into())])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_cut_short_or_damaged_is_400() {
    let producer = start().await;
    let plain = format!("[{}]", vec![event("a"); 200].join(","));
    for (encoding, whole) in every_encoding(plain.as_bytes()).await {
        let cut = &whole[..whole.len() - 5];
        let answer = producer
            .post(cut)
            .header("Content-Encoding", encoding)
            .send()
            .await;
        assert!(answer.problem(400, "undecodable-body").contains(encoding));
        let answer = producer
            .post(plain.as_bytes())
            .header("Content-Encoding", encoding);
        answer.send().await.problem(400, "undecodable-body");
        let followed = [whole.as_slice(), b"more"].concat();
        let answer = producer
            .post(followed)
            .header("Content-Encoding", encoding)
            .send()
            .await;
        answer.problem(400, "undecodable-body");
    }
    let mut flipped = gzip(plain.as_bytes()).await;
    let checksum = flipped.len() - 6;
    flipped[checksum] ^= 1;
    let answer = producer
        .post(flipped)
        .header("Content-Encoding", "gzip")
        .send()
        .await;
    answer.problem(400, "undecodable-body");
    assert!(producer.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_cost_no_more_than_the_limit_and_are_413() {
    let producer = start().await;
    let bomb = vec![b' '; 40_000_000];
    for (encoding, body) in every_encoding(&bomb).await {
        assert!(body.len() < 100_000, "{encoding}: {}", body.len());
        let answer = producer
            .post(body)
            .header("Content-Encoding", encoding)
            .send()
            .await;
        assert!(
            answer
                .problem(413, "too-large")
                .contains("8388608 bytes when decoded")
        );
    }
    // The decoder would have to hold the window that the frame asks for, 128 MiB.
    let mut window = Vec::new();
    let wide = [CParameter::window_log(27)];
    finish(
        ZstdEncoder::with_quality_and_params(&mut window, Level::Fastest, &wide),
        event("c").as_bytes(),
    )
    .await;
    let answer = producer.post(window).header("Content-Encoding", "zstd");
    answer.send().await.problem(400, "undecodable-body");
    assert!(producer.stored().await.is_empty());
    let inner = gzip(&bomb).await;
    let nested = gzip(&inner).await;
    let call = producer
        .post(nested)
        .header("Content-Encoding", "gzip, gzip");
    assert!(
        call.send()
            .await
            .problem(415, "content-encoding")
            .contains("nested")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_and_nested_encodings_are_415() {
    let producer = start().await;
    for encoding in ["deflate", "gzip, br", "identity, gzip", "compress", ""] {
        let answer = producer
            .post("{}")
            .header("Content-Encoding", encoding)
            .send()
            .await;
        answer.problem(415, "content-encoding");
        assert_eq!(
            answer.header("accept-encoding"),
            Some("gzip, br, zstd"),
            "{encoding}"
        );
    }
    let twice = producer.post("{}").also("Content-Encoding", "gzip");
    twice
        .also("Content-Encoding", "gzip")
        .send()
        .await
        .problem(415, "content-encoding");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_types_are_415() {
    let producer = start().await;
    let types = [
        "application/xml",
        "multipart/form-data; boundary=x",
        "",
        "json",
    ];
    for content_type in types
        .into_iter()
        .chain(["application/json; charset=utf-16"])
    {
        let answer = producer
            .post("{}")
            .header("Content-Type", content_type)
            .send()
            .await;
        assert!(
            answer
                .problem(415, "media-type")
                .contains("application/x-ndjson")
        );
    }
    producer
        .post("{}")
        .without("Content-Type")
        .send()
        .await
        .problem(415, "media-type");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_or_batch_is_400() {
    let producer = start().await;
    for body in ["", "\n \n", "[]", "\u{feff}"] {
        producer.post(body).send().await.problem(400, "empty");
    }
    let unframed = producer.post("").own_framing().send().await;
    unframed.problem(400, "empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_array_is_400_and_names_the_byte() {
    let producer = start().await;
    let answer = producer.post("[{},{}").send().await;
    assert!(answer.problem(400, "invalid-array").ends_with("byte 6"));
    let answer = producer.post("[{}] trailing").send().await;
    assert!(answer.problem(400, "invalid-array").ends_with("byte 5"));
    assert!(producer.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_however_it_is_framed() {
    let producer = start().await;
    let large = vec![b' '; 1024 * 1024 + 1];
    let declared = producer.post(large.as_slice()).send().await;
    assert!(
        declared
            .problem(413, "too-large")
            .contains("1048576 bytes as sent")
    );
    let mut chunked = format!("{:x}\r\n", large.len()).into_bytes();
    chunked.extend(&large);
    chunked.extend(b"\r\n0\r\n\r\n");
    let call = producer
        .post(chunked)
        .own_framing()
        .header("Transfer-Encoding", "chunked");
    call.send().await.problem(413, "too-large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_items_are_413_and_ten_thousand_are_taken() {
    let producer = start().await;
    let million = gzip(format!("[{}{{}}]", "{},".repeat(999_999)).as_bytes()).await;
    let answer = producer
        .post(million)
        .header("Content-Encoding", "gzip")
        .send()
        .await;
    assert!(answer.problem(413, "too-large").contains("10000 items"));
    let lines = gzip("{}\n".repeat(1_000_000).as_bytes()).await;
    let call = producer.post(lines).header("Content-Encoding", "gzip");
    call.header("Content-Type", "application/x-ndjson")
        .send()
        .await
        .problem(413, "too-large");
    assert!(producer.stored().await.is_empty());

    let full = gzip(vec![event("c"); 10_000].join("\n").as_bytes()).await;
    let call = producer.post(full).header("Content-Encoding", "gzip");
    let answer = call
        .header("Content-Type", "application/x-ndjson")
        .send()
        .await;
    assert_eq!(answer.confirmed(), (10_000, vec![]));
    assert_eq!(taken_and_refused(&producer.stored().await), (10_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_items_leave_their_neighbours_untouched() {
    let producer = start().await;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let bad: [&[u8]; 7] = [
        b"nonsense",
        b"{\"event\":\"widget_opened\",\"total_messages\":NaN}",
        b"7",
        b"{}",
        b"{\"event\":\"\xff\xfe\"}",
        b"{\"event\":\"widget_opened\"} trailing",
        deep.as_bytes(),
    ];
    for (content_type, open, between, close) in [
        ("application/json", "[", ",", "]"),
        ("application/x-ndjson", "", "\n", ""),
    ] {
        let mut body = open.as_bytes().to_vec();
        for item in bad {
            body.extend(event("good").bytes());
            body.extend(between.bytes());
            body.extend(item);
            body.extend(between.bytes());
        }
        body.extend(event("good").bytes());
        body.extend(close.bytes());
        let answer = producer
            .post(body)
            .header("Content-Type", content_type)
            .send()
            .await;
        let (accepted, rejected) = answer.confirmed();
        assert_eq!(accepted, 8);
        let indexes: Vec<_> = rejected.iter().map(|(index, _)| *index).collect();
        assert_eq!(indexes, [1, 3, 5, 7, 9, 11, 13], "{content_type}");
        assert_eq!(rejected[0].1, "invalid_json");
        assert_eq!(rejected[2].1, "not_an_object");
        assert_eq!(rejected[3].1, "missing_event_name");
        assert_eq!(rejected[6].1, "too_complex");
    }
    assert_eq!(taken_and_refused(&producer.stored().await), (16, 14));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_item_is_a_raw_record_without_its_content() {
    let producer = start().await;
    let item = r#"{"secret":"jane.doe@example.com"}"#;
    let (accepted, rejected) = producer.post(item).send().await.confirmed();
    assert_eq!(
        (accepted, rejected),
        (0, vec![(0, "missing_event_name".into())])
    );
    let stored = producer.stored().await;
    let [record] = stored.as_slice() else {
        panic!("{stored:?}")
    };
    let RawBody::Rejection(rejection) = &record.body else {
        panic!("{record:?}")
    };
    assert_eq!(rejection.reason.as_str(), "missing_event_name");
    assert_eq!(rejection.bytes, item.len() as i64);
    assert_eq!(rejection.sha256, hex::encode(Sha256::digest(item)));
    assert!(!format!("{record:?}").contains("jane"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_over_the_tenants_limit_is_rejected_alone() {
    let producer = start_limited("max_item_bytes = 1000", |_| {}).await;
    let large = format!(
        r#"{{"event":"widget_opened","note":"{}"}}"#,
        "x".repeat(1000)
    );
    let answer = producer
        .post(format!("[{},{large}]", event("a")))
        .send()
        .await;
    assert_eq!(answer.confirmed(), (1, vec![(1, "too_large".into())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_redacted_before_they_are_written() {
    let producer = start().await;
    let item = r#"{"event":"widget_message_sent","widget_conversation_id":"c","agent_name":"Jane",
        "whatever":"jane.doe@example.com","link_url":"https://x.example/a?email=jane"}"#;
    producer.post(item).send().await.confirmed();
    let stored = format!("{:?}", producer.stored().await);
    assert!(stored.contains("widget_message_sent") && !stored.to_lowercase().contains("jane"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_items_of_a_request_are_received_at_one_time() {
    let producer = start().await;
    let before = jiff::Timestamp::now().as_millisecond();
    let many = vec![event("c"); 500].join(",");
    producer.post(format!("[{many}]")).send().await.confirmed();
    let after = jiff::Timestamp::now().as_millisecond();
    let stored = producer.stored().await;
    assert!((before..=after).contains(&stored[0].received_at));
    assert!(
        stored
            .iter()
            .all(|record| record.received_at == stored[0].received_at)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_or_drips_is_408() {
    let producer = start_with(|config| config.body_timeout = Duration::from_millis(300)).await;
    let started = Instant::now();
    let stalled = producer
        .post("{\"ev")
        .own_framing()
        .header("Content-Length", "100");
    stalled.send().await.problem(408, "slow-body");
    assert!(started.elapsed() >= Duration::from_millis(300));

    let mut stream = producer
        .post("")
        .own_framing()
        .header("Transfer-Encoding", "chunked")
        .header("Connection", "close")
        .open()
        .await;
    let (mut read, mut write) = stream.split();
    let mut answer = [0; 12];
    let drip = async {
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        // Ends when the server has closed.
        while write.write_all(b"1\r\n \r\n").await.is_ok() {
            beat.tick().await;
        }
    };
    let answered = async { read.read_exact(&mut answer).await };
    tokio::select! {
        answered = answered => assert_eq!(answered.unwrap(), 12),
        () = drip => panic!("the server closed without an answer"),
        () = tokio::time::sleep(PATIENCE) => panic!("no answer"),
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(producer.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_or_framing_is_400() {
    let producer = start().await;
    // Shorter than declared: the client closes early, and gets nothing stored.
    let mut short = producer
        .post(event("c"))
        .own_framing()
        .header("Content-Length", "4000")
        .header("Connection", "close")
        .open()
        .await;
    short.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, short.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
        "{answer:?}"
    );

    let negative = producer
        .post("{}")
        .own_framing()
        .header("Content-Length", "-1")
        .send()
        .await;
    assert_eq!(negative.status, 400);
    let two = producer
        .post("{}")
        .own_framing()
        .also("Content-Length", "2");
    assert_eq!(two.also("Content-Length", "3").send().await.status, 400);
    let chunk = producer
        .post("zz\r\n{}\r\n")
        .own_framing()
        .header("Transfer-Encoding", "chunked");
    chunk.send().await.problem(400, "broken-body");
    assert!(producer.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_ends_where_its_framing_says_and_the_rest_is_judged_as_a_request() {
    let producer = start().await;
    let item = event("c");
    let longer = format!("{item}{}", event("smuggled"));
    let chunked = format!(
        "{:x}\r\n{item}\r\n0\r\n\r\n{}",
        item.len(),
        event("smuggled")
    );
    let longer = producer
        .post(longer)
        .own_framing()
        .header("Content-Length", &item.len().to_string());
    // Both: the chunks count, and the connection ends, as RFC 9112 (6.1) has it.
    let chunked = producer
        .post(chunked)
        .own_framing()
        .header("Content-Length", "5000")
        .also("Transfer-Encoding", "chunked");
    for (call, statuses) in [(longer, &["202", "400"][..]), (chunked, &["202"])] {
        let mut stream = call.open().await;
        let mut answers = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answers))
            .await
            .unwrap()
            .unwrap();
        let answered = answers.split("HTTP/1.1 ").skip(1);
        let answered: Vec<_> = answered.map(|answer| &answer[..3]).collect();
        assert_eq!(answered, statuses, "{answers}");
    }
    let stored = format!("{:?}", producer.stored().await);
    assert_eq!(stored.matches("widget_message_sent").count(), 2);
    assert!(!stored.contains("smuggled"));
}

/// Fifty bytes can stand for ten thousand items, and a record for each. Peak memory is the process's,
/// so the test starts itself again, alone.
#[test]
fn small_bodies_of_many_items_cost_no_more_than_the_queue_has_room_for() {
    const ALONE: &str = "PRODUCER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(two_hundred_bodies_of_many_items());
    }
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "bodies::small_bodies_of_many_items_cost_no_more_than_the_queue_has_room_for",
        ])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

async fn two_hundred_bodies_of_many_items() {
    let peak_mib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() / 1024
    };
    let producer = start_with(|config| config.tenant_share_percent = 100).await;
    let body = gzip("x\n".repeat(10_000).as_bytes()).await;
    assert!(body.len() < 100, "{}", body.len());
    let before = peak_mib();
    let calls = (0..200).map(|_| {
        let call = producer
            .post(body.clone())
            .header("Content-Encoding", "gzip");
        call.header("Content-Type", "application/x-ndjson").send()
    });
    let answers = futures::future::join_all(calls).await;
    let answered = |status| answers.iter().filter(|a| a.status == status).count();
    assert!(answered(202) >= 10 && answered(202) + answered(503) == 200);
    // Eight MiB a batch, and ten batches fill the queue.
    let grown = peak_mib() - before;
    assert!(grown < 400, "{grown} MiB");
}

/// Names, ids and values are the sender's; what the producer counts by is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_names_ids_and_hosts_makes_no_series() {
    let producer = start().await;
    let series = async || {
        let text = producer.call("GET", "/metrics").send().await.text();
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let flood = |salt: &str| {
        let lines = (0..2_000).map(|n| {
            format!(
                r#"{{"native":{{"event":"{salt}_{n}","widget_conversation_id":"{salt}{n}","language":"{salt}{n}"}},"context":{{"session_id":"{salt}{n}","sdk":"{salt}/{n}"}}}}"#
            )
        });
        producer
            .post(lines.collect::<Vec<_>>().join("\n"))
            .header("Content-Type", "application/x-ndjson")
            .header("Host", &format!("{salt}.example"))
    };
    assert_eq!(flood("first").send().await.confirmed().0, 2_000);
    let before = series().await;
    for salt in ["a", "b", "c"] {
        assert_eq!(flood(salt).send().await.confirmed().0, 2_000);
        let unknown = producer.call("POST", &format!("/v1/events/{salt}?write_key={salt}"));
        assert_eq!(unknown.send().await.status, 404);
    }
    // The statuses 404 and, of the first look itself, 200.
    assert!(series().await <= before + 2);
    assert_eq!(taken_and_refused(&producer.stored().await), (8_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_are_431_and_bound_the_target_too() {
    let producer = start().await;
    let huge = producer
        .post(event("c"))
        .header("X-Huge", &"x".repeat(100_000))
        .send()
        .await;
    assert_eq!(huge.status, 431);
    let mut many = producer.post(event("c"));
    for index in 0..500 {
        many = many.also(&format!("X-{index}"), "x");
    }
    assert_eq!(many.send().await.status, 431);
    let target = format!("/v1/events/watermelon?write_key={}", "x".repeat(100_000));
    let long = producer.call("POST", &target).send().await;
    assert!(matches!(long.status, 414 | 431), "{}", long.status);
    assert!(producer.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_shared_budget_are_503_with_retry_after() {
    let producer = start_with(|config| {
        let mib = std::num::NonZeroUsize::new(1024 * 1024).unwrap();
        config.max_decoded_bytes = mib;
        config.max_inflight_bytes = mib;
    })
    .await;
    // Neither ends, and there is room for one of them.
    let unfinished = || {
        producer
            .post(vec![b' '; 600_000])
            .own_framing()
            .header("Content-Length", "700000")
            .send()
    };
    let answer = tokio::select! {
        answer = unfinished() => answer,
        answer = unfinished() => answer,
    };
    answer.problem(503, "overloaded");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let large = format!("[{}{}]", " ".repeat(600_000), event("c"));
    crate::support::until(async || producer.post(large.as_str()).send().await.status == 202).await;
}

//! What clients are told when the broker is slow, full or gone.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use rdkafka::{
    bindings::rd_kafka_resp_err_t as RespErr, mocking::MockCluster, types::RDKafkaApiKey,
};

use crate::support::{
    PARTITIONS, PATIENCE, TOPIC, event, mock, start, start_on, start_with, taken_and_refused, until,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_waits_for_the_confirmation() {
    let producer = start().await;
    // The client knows the broker before it gets slow.
    producer.post(event("first")).send().await.confirmed();
    let delay = Duration::from_millis(700);
    producer.mock.broker_round_trip_time(-1, delay).unwrap();
    let started = Instant::now();
    assert_eq!(producer.post(event("second")).send().await.confirmed().0, 1);
    assert!(started.elapsed() >= delay, "{:?}", started.elapsed());
    producer
        .mock
        .broker_round_trip_time(-1, Duration::ZERO)
        .unwrap();
    assert_eq!(producer.stored().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_too_slow_is_503_with_retry_after() {
    let producer = start_with(|config| config.confirm_timeout = Duration::from_millis(400)).await;
    until(async || producer.post(event("c")).send().await.status == 202).await;
    producer
        .mock
        .broker_round_trip_time(-1, Duration::from_secs(60))
        .unwrap();
    let started = Instant::now();
    let answer = producer.post(event("c")).send().await;
    assert!(
        answer
            .problem(503, "not-confirmed")
            .contains("whole batch again")
    );
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_is_503_and_comes_back() {
    let producer = start_with(|config| config.confirm_timeout = Duration::from_millis(400)).await;
    until(async || producer.post(event("c")).send().await.status == 202).await;
    producer.mock.broker_down(-1).unwrap();
    producer
        .post(event("c"))
        .send()
        .await
        .problem(503, "not-confirmed");
    until(async || producer.call("GET", "/readyz").send().await.status == 503).await;
    producer.mock.broker_up(-1).unwrap();
    until(async || producer.post(event("c")).send().await.status == 202).await;
    until(async || producer.call("GET", "/readyz").send().await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_kafka_has_the_topic_clients_are_told_to_send_again() {
    let producer = start_on(MockCluster::new(1).unwrap(), "", |_| {}).await;
    let answer = producer.post(event("c")).send().await;
    answer.problem(503, "not-confirmed");
    assert_eq!(answer.header("retry-after"), Some("5"));
    producer.mock.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    until(async || producer.post(event("c")).send().await.status == 202).await;
    assert_eq!(taken_and_refused(&producer.stored().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_errors_of_the_broker_are_not_the_clients_business() {
    let producer = start().await;
    producer.post(event("c")).send().await.confirmed();
    let errors = [RespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 3];
    producer
        .mock
        .request_errors(RDKafkaApiKey::Produce, &errors);
    producer.post(event("c")).send().await.confirmed();
    assert_eq!(taken_and_refused(&producer.stored().await), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_broker_refuses_is_not_acknowledged() {
    let producer = start_with(|config| config.confirm_timeout = Duration::from_secs(2)).await;
    producer.post(event("c")).send().await.confirmed();
    let errors = [RespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    producer
        .mock
        .request_errors(RDKafkaApiKey::Produce, &errors);
    producer
        .post(event("c"))
        .send()
        .await
        .problem(503, "not-confirmed");
    until(async || producer.post(event("c")).send().await.status == 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_503_at_once() {
    let producer = start_with(|config| {
        config.queue_records = NonZeroUsize::new(60).unwrap();
        config.max_items = NonZeroUsize::new(50).unwrap();
        config.confirm_timeout = PATIENCE * 2;
    })
    .await;
    producer.post(event("c")).send().await.confirmed();
    producer.mock.broker_down(-1).unwrap();
    // There is room for one of them.
    let many = format!("[{}]", vec![event("c"); 50].join(","));
    let (one, two) = (producer.post(many.as_str()), producer.post(many.as_str()));
    let answer = tokio::select! {
        answer = one.send() => answer,
        answer = two.send() => answer,
    };
    answer.problem(503, "overloaded");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_are_503_at_once() {
    let producer = start_with(|config| config.max_requests = NonZeroUsize::MIN).await;
    let unfinished = || {
        producer
            .post("{")
            .own_framing()
            .header("Content-Length", "100")
            .send()
    };
    // At the same instant the share of the tenant may be misjudged, and the answer be 429.
    until(async || {
        let answer = tokio::select! {
            answer = unfinished() => answer,
            answer = unfinished() => answer,
        };
        let is_full = answer.status == 503;
        if is_full {
            answer.problem(503, "overloaded");
        }
        is_full
    })
    .await;
    until(async || producer.post(event("c")).send().await.status == 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_failed_for_good_is_replaced() {
    let mock = mock();
    let denied = RespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    mock.request_errors(RDKafkaApiKey::InitProducerId, &[denied]);
    let producer = start_on(mock, "", |_| {}).await;
    producer
        .post(event("c"))
        .send()
        .await
        .problem(503, "not-confirmed");
    until(async || producer.post(event("c")).send().await.status == 202).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_without_its_topic_is_alive_and_not_ready() {
    let producer = start_with(|config| config.topic = "chat.absent".into()).await;
    assert_eq!(producer.call("GET", "/healthz").send().await.status, 200);
    let answer = producer.call("GET", "/readyz").send().await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("chat.absent does not exist"),
        "{}",
        answer.text()
    );
}

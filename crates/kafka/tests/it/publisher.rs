//! Every record ends confirmed or with an error, in order.

use std::time::Duration;

use chatpulse_kafka::{
    Delivery, Disposition, PublishError, PublisherSettings, Record, partition_for,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::{Cluster, DEADLINE, delivered, records};

fn numbered(count: usize) -> Vec<Record> {
    let payloads: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    records(0, &payloads)
}

#[tokio::test]
async fn records_of_a_publication_are_confirmed_at_contiguous_offsets_in_order() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let publisher = cluster.publisher(&PublisherSettings::default());
    let outcomes = publisher.publish("t", numbered(100)).await;
    let offsets: Vec<i64> = delivered(&outcomes)
        .iter()
        .map(|delivered| delivered.offset)
        .collect();
    assert_eq!(offsets, (0..100).collect::<Vec<_>>());
    // librdkafka counts a record out only after the outcomes of its whole batch were handed over.
    publisher.flush(DEADLINE).expect("nothing is open");
    assert_eq!(publisher.in_flight(), 0);
}

#[tokio::test]
async fn a_keyed_record_lands_where_partition_for_says() {
    let cluster = Cluster::with_topics(&["t"], 7);
    let publisher = cluster.publisher(&PublisherSettings::default());
    let keys: Vec<String> = (0..50)
        .map(|number| format!("tenant/conversation-{number}"))
        .collect();
    let keyed = keys.iter().map(|key| Record {
        key: key.clone().into_bytes(),
        ..Record::default()
    });
    let outcomes = publisher.publish("t", keyed.collect()).await;
    for (key, delivered) in keys.iter().zip(delivered(&outcomes)) {
        assert_eq!(
            delivered.partition,
            partition_for(key.as_bytes(), 7),
            "{key}"
        );
    }
}

#[test]
fn a_full_queue_refuses_the_rest_at_once_and_sends_the_beginning() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.mock.broker_down(1).expect("broker goes down");
    let settings = PublisherSettings {
        queue_records: 10,
        ..PublisherSettings::default()
    };
    let publisher = cluster.publisher(&settings);
    let publication = publisher
        .publish("t", numbered(25))
        .wait(Duration::ZERO)
        .expect_err("ten records are still open");

    cluster.mock.broker_up(1).expect("broker comes back");
    let outcomes = publication.wait(DEADLINE).expect("settled");
    delivered(&outcomes[..10].to_vec());
    assert!(
        outcomes[10..]
            .iter()
            .all(|outcome| *outcome == Err(PublishError::QueueFull)),
        "{outcomes:?}"
    );
}

#[test]
fn a_waiting_publish_goes_on_as_room_is_made() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let settings = PublisherSettings {
        queue_records: 10,
        ..PublisherSettings::default()
    };
    let publisher = cluster.publisher(&settings);
    let publication = publisher.publish_waiting("t", numbered(200), DEADLINE);
    let offsets: Vec<i64> = delivered(&publication.wait(DEADLINE).expect("settled"))
        .iter()
        .map(|delivered| delivered.offset)
        .collect();
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_broker_that_is_away_past_the_deadline_leaves_the_record_unconfirmed() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.mock.broker_down(1).expect("broker goes down");
    let delivery = Delivery::Within(Duration::from_millis(300));
    let publisher = cluster.publisher(&PublisherSettings {
        delivery,
        ..PublisherSettings::default()
    });
    let outcomes = publisher.publish("t", numbered(1)).await;
    assert_eq!(outcomes, [Err(PublishError::Unconfirmed)]);
}

#[tokio::test]
async fn a_passing_error_of_the_broker_is_retried_without_loss_or_repetition() {
    let cluster = Cluster::with_topics(&["t"], 1);
    cluster.mock.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        ],
    );
    let settings = PublisherSettings {
        delivery: Delivery::Gapless,
        ..PublisherSettings::default()
    };
    let outcomes = cluster
        .publisher(&settings)
        .publish("t", numbered(20))
        .await;
    let offsets: Vec<i64> = delivered(&outcomes)
        .iter()
        .map(|delivered| delivered.offset)
        .collect();
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_record_above_the_limit_is_refused_for_good() {
    let mut cluster = Cluster::with_topics(&["t"], 1);
    cluster
        .config
        .overrides
        .insert("message.max.bytes".to_owned(), "2000".to_owned());
    let publisher = cluster.publisher(&PublisherSettings::default());
    let payload = vec![b'x'; 4000];
    let outcomes = publisher
        .publish(
            "t",
            vec![Record {
                payload,
                ..Record::default()
            }],
        )
        .await;
    assert_eq!(outcomes, [Err(PublishError::TooLarge)]);
    assert_eq!(PublishError::TooLarge.disposition(), Disposition::Fatal);
}

#[tokio::test]
async fn a_gapless_publisher_dies_rather_than_leave_a_gap() {
    let cluster = Cluster::with_topics(&["t"], 1);
    let settings = PublisherSettings {
        delivery: Delivery::Gapless,
        ..PublisherSettings::default()
    };
    let publisher = cluster.publisher(&settings);
    cluster.mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let first = publisher.publish("t", numbered(1)).await;
    assert_eq!(
        first[0].as_ref().map_err(PublishError::disposition),
        Err(Disposition::Fatal),
        "{first:?}"
    );
    let second = publisher.publish("t", numbered(1)).await;
    assert!(
        matches!(second[0], Err(PublishError::Dead { .. })),
        "{second:?}"
    );
}

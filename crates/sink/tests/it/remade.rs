//! Ranges that a predecessor left behind, topics deleted and made again, and offsets that the broker
//! forgets. A topic of another name
//! stands for one that was made again: the group has committed nothing for it.

use std::time::Duration;

use chatpulse_kafka::Topics;
use chatpulse_store::{EventRow, Store, StoreConfig};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use crate::support::{DEADLINE, World, event, until};

/// Ten outcomes are stored; then the topics are others.
async fn stored_ten(name: &str, remade: impl FnOnce(&mut Topics)) -> World {
    let mut world = World::new(name).await;
    world.write_raw(10).await;
    world.write_events((0..10).map(event)).await;
    let sink = world.store_until(10, 4).await;
    // What is not committed yet would be pending, which the model tests.
    until(async || sink.metric("stored_total") >= 10.0).await;
    sink.stop().await;
    remade(&mut world.topics);
    world.make_topics().await;
    world
}

async fn has_each_once(world: &World, end: i64) {
    until(async || world.audit(end).await.balanced).await;
    assert_eq!(world.number("SELECT count() FROM events").await, end as u64);
    assert_eq!(
        world.number("SELECT sum(received) FROM event_health").await,
        end as u64
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_are_written_again_to_a_new_chat_events_are_not_stored_again() {
    let world = stored_ten("remade_events", |topics| {
        topics.events = "remade_events.again".into();
    })
    .await;
    world.write_raw(5).await;
    world.write_events((0..15).map(event)).await;
    let sink = world.store_until(15, 4).await;
    has_each_once(&world, 15).await;
    assert_eq!(sink.metric("repeated_total"), 10.0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_that_the_broker_forgot_is_asked_of_the_store() {
    let world = stored_ten("forgotten", |topics| {
        topics.watermark = "forgotten.watermark.again".into();
        topics.pending = "forgotten.pending.again".into();
    })
    .await;
    world.write_raw(5).await;
    world.write_events((0..15).map(event)).await;
    let sink = world.store_until(15, 4).await;
    has_each_once(&world, 15).await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_the_broker_forgot_altogether_stores_nothing_twice() {
    let world = stored_ten("forgotten_all", |topics| {
        *topics = Topics {
            raw: topics.raw.clone(),
            ..Topics::with_prefix("forgotten_all.again.")
        };
    })
    .await;
    world.write_raw(5).await;
    world.write_events((0..15).map(event)).await;
    let sink = world.store_until(15, 4).await;
    has_each_once(&world, 15).await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_raw_that_was_made_again_is_refused_before_its_records_are_taken_for_old_ones() {
    let world = stored_ten("remade_raw", |topics| {
        topics.raw = "remade_raw.again".into();
    })
    .await;
    world.write_raw(3).await;
    world.write_events((0..3).map(event)).await;
    let error = world.sink(4).failure().await;
    assert!(
        error.contains("remade_raw.again[0] ends before offset 3")
            && error.contains("up to offset 10"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_raw_that_was_made_again_and_has_outgrown_the_store_is_refused_too() {
    let world = stored_ten("outgrown_raw", |topics| {
        *topics = Topics::with_prefix("outgrown_raw.again.");
    })
    .await;
    world.write_raw(15).await;
    world.write_events((0..15).map(event)).await;
    let error = world.sink(4).failure().await;
    assert!(
        error.contains("offset 9 of outgrown_raw.again.chat.raw[0] is not the record"),
        "{error}"
    );
}

/// A sink decides on a range of eight outcomes, finds the store broken, and is stopped.
async fn eight_pending(name: &str) -> World {
    let world = World::new(name).await;
    world.write_raw(10).await;
    world.write_events((0..8).map(event)).await;
    // Inserts fail, and questions are answered: a sink that could ask nothing would decide nothing.
    world
        .execute("ALTER TABLE events RENAME COLUMN sdk TO hidden")
        .await;
    let sink = world.sink(100);
    until(async || sink.metric("waiting_for_operator") == 1.0).await;
    sink.stop().await;
    world
        .execute("ALTER TABLE events RENAME COLUMN hidden TO sdk")
        .await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_left_behind_is_inserted_as_the_block_it_was_whatever_the_successors_settings() {
    let world = eight_pending("pending").await;
    // As if the predecessor's request had been taken although it heard nothing of it.
    let events: Vec<_> = (0..8).map(event).collect();
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    let token = "pending.chat.raw:0:0-8";
    world.store.insert_events(token, &rows).await.unwrap();
    world.write_events((8..10).map(event)).await;
    let sink = world.store_until(10, 3).await;
    has_each_once(&world, 10).await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_left_behind_is_found_again_in_a_chat_events_that_was_made_again() {
    let mut world = eight_pending("pending_remade").await;
    world.topics.events = "pending_remade.again".into();
    world.make_topics().await;
    let events: Vec<_> = (0..8).map(event).collect();
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    let token = "pending_remade.chat.raw:0:0-8";
    world.store.insert_events(token, &rows).await.unwrap();
    // Another number of records stands before each outcome now.
    world
        .write_events([0, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(event))
        .await;
    let sink = world.store_until(10, 3).await;
    has_each_once(&world, 10).await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_left_behind_so_long_that_its_token_is_forgotten_is_not_stored_twice() {
    let mut world = eight_pending("forgotten_token").await;
    let events: Vec<_> = (0..8).map(event).collect();
    let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::from).collect();
    let token = "forgotten_token.chat.raw:0:0-8";
    world.keep_tokens(4).await;
    world.store.insert_events(token, &rows).await.unwrap();
    for number in 0..8 {
        let other = chatpulse_model::Event {
            partition: 9,
            ..event(number)
        };
        let token = format!("other {number}");
        let row = [EventRow::from(&other)];
        world.store.insert_events(&token, &row).await.unwrap();
    }
    world.write_events((8..10).map(event)).await;
    let sink = world.store_until(18, 3).await;
    until(async || world.audit(10).await.balanced).await;
    assert_eq!(world.number("SELECT count() FROM events").await, 18);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_the_store_never_answers_is_given_up_with_the_partition() {
    let mut world = eight_pending("unanswered").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.store = Store::new(&StoreConfig {
        url: format!("http://{}", silent.local_addr().unwrap()),
        lookup_timeout: Duration::from_secs(3_600),
        ..StoreConfig::default()
    });
    let sink = world.sink(100);
    let (mut connection, _) = silent.accept().await.unwrap();
    connection.read_u8().await.unwrap();
    sink.stop().await;
    // Whoever asked has hung up.
    let mut rest = Vec::new();
    let closed = connection.read_to_end(&mut rest);
    tokio::time::timeout(DEADLINE, closed)
        .await
        .unwrap()
        .unwrap();
}

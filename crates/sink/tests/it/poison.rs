//! Records that cannot be read or stored block nothing and vanish nowhere.

use chatpulse_model::Event;

use crate::support::{START, World, event, until};

const REFUSING: &str =
    "ALTER TABLE events ADD CONSTRAINT no_poison CHECK event_id NOT LIKE '%poison%'";

fn poison(offset: i64) -> Event {
    Event {
        event_id: format!("poison {offset}"),
        ..event(offset)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_outcomes_are_noted_and_what_they_stood_for_is_rejected() {
    let world = World::new("undecodable").await;
    world.write_raw(8).await;
    let sound = |offset| world.encoded(&event(offset));
    let foreign = world.encoded(&Event {
        partition: 7,
        ..event(2)
    });
    let mut cut = sound(5);
    cut.truncate(40);
    let mut unknown = sound(5);
    unknown[2] ^= 1;
    world
        .write(vec![
            sound(0),
            sound(1),
            b"garbage".to_vec(),
            Vec::new(),
            foreign,
            sound(4),
            cut,
            unknown,
            sound(7),
        ])
        .await;
    let sink = world.store_until(8, 1_000).await;
    until(async || world.audit(8).await.balanced).await;
    let audit = world.audit(8).await;
    let books: Vec<_> = (audit.tenants.iter())
        .map(|t| (t.tenant.as_str(), t.received, t.accepted, t.rejected))
        .collect();
    assert_eq!(books, [("", 4, 0, 4), ("acme", 4, 4, 0)]);
    assert_eq!(
        world
            .number("SELECT toUInt64(sum(offset)) FROM rejections WHERE reason = 'outcome_lost'")
            .await,
        2 + 3 + 5 + 6
    );
    let noted = world.store.undecodable_outcomes(100).await.unwrap();
    let offsets: Vec<i64> = noted.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [2, 3, 4, 6, 7]);
    assert!(
        noted
            .iter()
            .all(|record| !record.detail.contains("garbage"))
    );
    assert!(noted[2].detail.contains("raw partition 7"), "{noted:?}");
    assert!(noted[4].detail.contains("fingerprint"), "{noted:?}");
    assert_eq!(sink.metric("undecodable_total"), 5.0);
    assert_eq!(sink.metric("outcomes_lost_total"), 4.0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisoned_row_among_thousands_is_found_in_few_cuts() {
    let world = World::new("needle").await;
    world.execute(REFUSING).await;
    world.write_raw(4_000).await;
    world
        .write_events((0..4_000).map(|n| if n == 2_777 { poison(n) } else { event(n) }))
        .await;
    let sink = world.store_until(4_000, 4_000).await;
    until(async || world.audit(4_000).await.balanced).await;
    let rejections = world
        .store
        .rejections(&Default::default(), None, 10)
        .await
        .unwrap();
    let [rejection] = rejections.as_slice() else {
        panic!("{rejections:?}")
    };
    assert_eq!(
        (rejection.tenant.as_str(), rejection.offset),
        ("acme", 2_777)
    );
    assert_eq!(rejection.reason, "refused_by_store");
    assert_eq!(rejection.detail, "469 VIOLATED_CONSTRAINT");
    // A session does not lose a number by it.
    assert_eq!(
        world
            .number("SELECT sum(lost_in_browser) FROM sessions")
            .await,
        0
    );
    assert_eq!(sink.metric("refused_total"), 1.0);
    let cuts = sink.metric("cuts_total");
    assert!(cuts < 2.0 * 12.0, "{cuts} cuts");
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_poison_is_stored_as_rejections_and_sound_rows_among_it_as_they_are() {
    let world = World::new("storm").await;
    world.execute(REFUSING).await;
    world.write_raw(150).await;
    world
        .write_events((0..150).map(|n| if n % 7 == 0 { event(n) } else { poison(n) }))
        .await;
    let sink = world.store_until(150, 100).await;
    until(async || world.audit(150).await.balanced).await;
    let books = &world.audit(150).await.tenants[0];
    assert_eq!((books.accepted, books.rejected), (22, 128));
    assert_eq!(sink.metric("refused_total"), 128.0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_tenant_is_refused_keeps_its_position() {
    let world = World::new("bare").await;
    world
        .execute("ALTER TABLE events ADD CONSTRAINT no_acme CHECK tenant != 'acme'")
        .await;
    world.write_raw(1).await;
    world.write_events([event(0)]).await;
    let sink = world.store_until(1, 100).await;
    let sql = "SELECT count() FROM rejections WHERE tenant = '' AND partition = 0 AND offset = 0
               AND reason = 'refused_by_store'";
    until(async || world.number(sql).await == 1).await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_altered_under_way_is_waited_for_and_nothing_is_lost() {
    let world = World::new("altered").await;
    world.write_raw(30).await;
    world.write_events((0..10).map(event)).await;
    let sink = world.store_until(10, 100).await;
    for (end, broken, mended) in [
        (
            20,
            "ALTER TABLE events DROP COLUMN sdk",
            "ALTER TABLE events ADD COLUMN sdk LowCardinality(Nullable(String)) AFTER page_url",
        ),
        (
            30,
            "CREATE MATERIALIZED VIEW failing ENGINE = MergeTree ORDER BY x AS
             SELECT throwIf(event_id = 'e25') AS x FROM events",
            "DROP TABLE failing SYNC",
        ),
    ] {
        world.execute(broken).await;
        world.write_events((end - 10..end).map(event)).await;
        until(async || sink.metric("waiting_for_operator") == 1.0).await;
        world.execute(mended).await;
        until(async || world.audit(end).await.balanced).await;
        until(async || sink.metric("waiting_for_operator") == 0.0).await;
    }
    assert_eq!(world.number("SELECT count() FROM rejections").await, 0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_too_many_outcomes_stops_the_sink_and_names_it() {
    let world = World::new("wide").await;
    world.write_raw(3).await;
    world.write_events([event(0), event(200_000)]).await;
    let error = world.sink(100).failure().await;
    assert!(
        error.contains("raw offsets 1 to 199999 have no outcome"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_any_month_are_stored() {
    let world = World::new("months").await;
    world.write_raw(200).await;
    let month = 31 * 24 * 3_600_000;
    world
        .write_events((0..200).map(|n| Event {
            received_at: START - n * month,
            ..event(n)
        }))
        .await;
    let sink = world.store_until(200, 1_000).await;
    until(async || world.audit(200).await.balanced).await;
    assert_eq!(sink.metric("refused_total"), 0.0);
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_a_record_that_cannot_be_noted_until_it_can() {
    let world = World::new("unnoted").await;
    world.write_raw(4).await;
    world
        .execute("RENAME TABLE undecodable_outcomes TO hidden")
        .await;
    let sound = |offset| world.encoded(&event(offset));
    world
        .write(vec![sound(0), b"garbage".to_vec(), sound(2), sound(3)])
        .await;
    let sink = world.sink(100);
    until(async || sink.metric("waiting_for_operator") == 1.0).await;
    assert_eq!(world.number("SELECT count() FROM events").await, 0);
    // A successor finds the record again.
    sink.stop().await;
    let sink = world.sink(100);
    until(async || sink.metric("waiting_for_operator") == 1.0).await;
    world
        .execute("RENAME TABLE hidden TO undecodable_outcomes")
        .await;
    until(async || world.audit(4).await.balanced).await;
    let noted = world.store.undecodable_outcomes(10).await.unwrap();
    assert_eq!(noted.len(), 1);
    sink.stop().await;
}

use chatpulse_store::{Disposition, MIGRATIONS, Store, StoreError};

use crate::support::{client, config, execute, number, store};

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let store = store("migrate_again").await;
    store.migrate().await.unwrap();
    store.ready().await.unwrap();
    let applied = number(
        &client("migrate_again"),
        "SELECT count() FROM schema_migrations",
    )
    .await;
    assert_eq!(applied, MIGRATIONS.len() as u64);
}

#[tokio::test]
async fn several_may_migrate_at_the_same_time() {
    let first = store("migrate_race").await;
    execute(&client("default"), "DROP DATABASE migrate_race SYNC").await;
    let second = Store::new(&config("migrate_race"));
    let (a, b) = tokio::join!(first.migrate(), second.migrate());
    a.unwrap();
    b.unwrap();
    first.ready().await.unwrap();
}

#[tokio::test]
async fn a_run_that_died_can_be_repeated() {
    let store = store("migrate_died").await;
    let client = client("migrate_died");
    execute(
        &client,
        "ALTER TABLE schema_migrations DELETE WHERE version > 1 SETTINGS mutations_sync = 2",
    )
    .await;
    assert!(matches!(
        store.ready().await,
        Err(StoreError::SchemaTooOld { missing: 2 })
    ));
    store.migrate().await.unwrap();
    store.ready().await.unwrap();
}

#[tokio::test]
async fn a_changed_migration_and_a_newer_database_are_refused() {
    let store = store("migrate_refused").await;
    let client = client("migrate_refused");
    execute(
        &client,
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x')",
    )
    .await;
    let newer = store.migrate().await.unwrap_err();
    assert!(
        matches!(newer, StoreError::SchemaTooNew { version: 9999, .. }),
        "{newer}"
    );
    assert_eq!(newer.disposition(), Disposition::Operator);
    execute(
        &client,
        "ALTER TABLE schema_migrations DELETE WHERE version = 9999 SETTINGS mutations_sync = 2",
    )
    .await;
    execute(
        &client,
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (1, 'edited', 'x')",
    )
    .await;
    let changed = store.ready().await.unwrap_err();
    assert!(
        matches!(changed, StoreError::MigrationChanged { version: 1 }),
        "{changed}"
    );
}

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

#[tokio::test]
async fn changed_views_are_applied_again_and_newer_ones_are_left_alone() {
    let store = store("migrate_views").await;
    let client = client("migrate_views");
    let applied = "SELECT count() FROM schema_views";
    store.migrate().await.unwrap();
    assert_eq!(number(&client, applied).await, 1);

    execute(
        &client,
        "ALTER TABLE schema_views UPDATE checksum = 'other' WHERE 1 SETTINGS mutations_sync = 2",
    )
    .await;
    execute(
        &client,
        "CREATE OR REPLACE VIEW conversations AS SELECT 'of another program' AS text",
    )
    .await;
    let stale = store.ready().await.unwrap_err();
    assert!(matches!(stale, StoreError::ViewsTooOld { .. }), "{stale}");
    store.migrate().await.unwrap();
    store.ready().await.unwrap();
    assert_eq!(number(&client, applied).await, 2);
    assert_eq!(
        number(
            &client,
            "SELECT count() FROM conversations WHERE tenant = 'acme'"
        )
        .await,
        0
    );

    execute(
        &client,
        "INSERT INTO schema_views (version, checksum) VALUES (9999, 'later')",
    )
    .await;
    execute(
        &client,
        "CREATE OR REPLACE VIEW conversations AS SELECT 'of a newer program' AS text",
    )
    .await;
    for refused in [store.migrate().await, store.ready().await] {
        let newer = refused.unwrap_err();
        assert!(
            matches!(newer, StoreError::ViewsTooNew { version: 9999, .. }),
            "{newer}"
        );
    }
    assert_eq!(
        number(
            &client,
            "SELECT count() FROM conversations WHERE text = 'of a newer program'"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn a_database_that_is_older_than_sets_of_views_waits_for_a_migration() {
    let store = store("migrate_before_views").await;
    let client = client("migrate_before_views");
    execute(&client, "DROP TABLE schema_views SYNC").await;
    let old = store.ready().await.unwrap_err();
    assert!(matches!(old, StoreError::ViewsTooOld { .. }), "{old}");
    // What a program of that time remembers of the two files that had views in them.
    execute(
        &client,
        "ALTER TABLE schema_migrations UPDATE checksum = if(version = 2,
             '2311eb853c5ceb637ffcf3215606ad5bd7ab208eb32ee27e7547176c3ff352b7',
             '98b257590a0f4979806b41078ed65c6ab7bd6bb1e10b986bf8bf8cdbd9911306')
         WHERE version IN (2, 4) SETTINGS mutations_sync = 2",
    )
    .await;
    store.migrate().await.unwrap();
    store.ready().await.unwrap();
}

#[tokio::test]
async fn the_database_for_analysts_is_made_and_follows_its_name() {
    let store = store("migrate_bi").await;
    let databases = "SELECT count() FROM system.databases WHERE name IN ('migrate_bi_bi', 'migrate_bi_of_analysts')";
    let client = client("migrate_bi");
    assert_eq!(number(&client, databases).await, 1);
    let renamed = Store::new(&chatpulse_store::StoreConfig {
        bi_database: Some("migrate_bi_of_analysts".to_owned()),
        ..config("migrate_bi")
    });
    renamed.ready().await.unwrap();
    renamed.migrate().await.unwrap();
    assert_eq!(number(&client, databases).await, 2);
    assert_eq!(number(&client, "SELECT count() FROM schema_views").await, 2);
    store.ready().await.unwrap();
    execute(&client, "DROP DATABASE migrate_bi_of_analysts SYNC").await;
}

#[tokio::test]
async fn views_answer_whatever_the_current_database_of_the_one_who_asks() {
    let _store = store("migrate_elsewhere").await;
    let views: Vec<String> = client("migrate_elsewhere")
        .query_raw(
            "SELECT name FROM system.tables WHERE database = 'migrate_elsewhere' AND engine = 'View'
             AND create_table_query NOT LIKE '%{as_of:%' ORDER BY name",
        )
        .fetch_all()
        .await
        .unwrap();
    assert!(views.contains(&"metrics_by_source".to_owned()), "{views:?}");
    for view in views {
        let sql = format!("SELECT count() FROM migrate_elsewhere.{view}");
        execute(&client("default"), &sql).await;
    }
}

//! Views that only read, as repeatable migrations: the whole set is applied, in order, whenever it
//! is not the one that was applied last.

use clickhouse::Row;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Store;
use crate::error::StoreError;
use crate::migrations::quoted;
pub(crate) use crate::migrations::split;

/// Raised with each change of a file of `schemas/clickhouse/views`: by it a program knows views that
/// are newer than its own, and leaves them alone.
const VERSION: u32 = 11;

macro_rules! files {
    ($($name:literal,)*) => {
        [$(($name, include_str!(concat!("../../../schemas/clickhouse/views/", $name))),)*]
    };
}

/// The files of `schemas/clickhouse/views` in the order of application.
pub(crate) static FILES: &[(&str, &str)] = &files![
    "10_delivery.sql",
    "11_deliveries.sql",
    "15_definitions.sql",
    "20_conversations.sql",
    "30_metrics.sql",
    "50_bi_events.sql",
    "51_bi_health.sql",
    "52_bi_conversations.sql",
    "53_bi_reference.sql",
    "54_bi_deliveries.sql",
];

/// Table `schema_views` as far as it counts.
#[derive(Debug, Row, Deserialize)]
pub(crate) struct Applied {
    version: u32,
    checksum: String,
    bi_database: String,
}

/// SHA-256 over names and texts, lower-case hex.
fn checksum() -> String {
    let mut hash = Sha256::new();
    for (name, sql) in FILES {
        hash.update(format!("{name}\n{sql}\n"));
    }
    format!("{:x}", hash.finalize())
}

/// Every statement of a file. `{bi}` becomes the database of the views for analysts, `{db}` that of
/// the tables: a view with parameters that another calls is looked for in the current database of
/// whoever asks, if it is not named in full.
fn statements(sql: &str, database: &str, bi_database: &str) -> Vec<String> {
    let sql = sql.replace("{db}", &quoted(database));
    split(&sql.replace("{bi}", &quoted(bi_database)))
}

/// Refuses views that only a newer program understands.
pub(crate) fn check(applied: Option<&Applied>) -> Result<(), StoreError> {
    match applied {
        Some(views) if views.version > VERSION => Err(StoreError::ViewsTooNew {
            version: views.version,
            newest: VERSION,
        }),
        _ => Ok(()),
    }
}

/// Refuses views that are not exactly this program's.
pub(crate) fn check_current(applied: Option<&Applied>) -> Result<(), StoreError> {
    check(applied)?;
    match applied {
        Some(views) if views.checksum == checksum() => Ok(()),
        _ => Err(StoreError::ViewsTooOld { missing: VERSION }),
    }
}

/// ClickHouse's code of a table that does not exist.
const UNKNOWN_TABLE: u32 = 60;

impl Store {
    /// The set of views that was applied last; none in a database that is older than sets of views.
    pub(crate) async fn applied_views(&self) -> Result<Option<Applied>, StoreError> {
        let query = self.client.query_raw(
            "SELECT version, checksum, bi_database FROM schema_views
             ORDER BY version DESC, applied_at DESC LIMIT 1",
        );
        let read = self.within("reading which views are applied", query.fetch_optional());
        match read.await {
            Err(StoreError::Server {
                code: UNKNOWN_TABLE,
                ..
            }) => Ok(None),
            read => read,
        }
    }

    /// Applies the views where `applied` is another set, or was for another database of analysts.
    pub(crate) async fn apply_views(&self, applied: Option<&Applied>) -> Result<(), StoreError> {
        let bi_database = self.config.bi_database();
        let checksum = checksum();
        if applied
            .is_some_and(|views| views.checksum == checksum && views.bi_database == bi_database)
        {
            return Ok(());
        }
        for (name, sql) in FILES {
            tracing::info!(name, "applying views");
            for statement in statements(sql, &self.config.database, &bi_database) {
                let apply = self.client.query_raw(&statement);
                self.within("applying views", apply.execute()).await?;
            }
        }
        let remember = self
            .client
            .query("INSERT INTO schema_views (version, checksum, bi_database) VALUES (?, ?, ?)")
            .bind(VERSION)
            .bind(checksum)
            .bind(bi_database);
        self.within("recording the views", remember.execute()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_raised_with_each_change_of_a_view() {
        // Changed a view? Raise VERSION above and pin both here.
        const PINNED: (u32, &str) = (11, "25623354d57ff008");
        assert_eq!((VERSION, &checksum()[..16]), PINNED);
    }

    #[test]
    fn the_files_are_all_of_the_folder_in_the_order_of_their_numbers() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../schemas/clickhouse/views"
        );
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        let named: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(named, found);
    }

    #[test]
    fn every_statement_is_a_view_that_can_be_repeated() {
        for (name, sql) in FILES {
            let statements = statements(sql, "shop", "shop_bi");
            assert!(!statements.is_empty(), "{name}");
            for statement in statements {
                let calls = statement.matches("_as_of(").count();
                assert_eq!(
                    statement.matches("FROM `shop`.").count(),
                    calls,
                    "{name}: {statement}"
                );
                assert!(
                    statement.starts_with("CREATE OR REPLACE VIEW ")
                        || statement.starts_with("DROP VIEW IF EXISTS "),
                    "{name}: {statement}",
                );
            }
        }
    }

    #[test]
    fn the_databases_are_filled_in_whatever_their_names() {
        assert_eq!(
            statements(
                "CREATE OR REPLACE VIEW {bi}.x AS SELECT * FROM {db}.y(at = {at:UInt8})",
                "c",
                "a`b"
            ),
            ["CREATE OR REPLACE VIEW `a\\`b`.x AS SELECT * FROM `c`.y(at = {at:UInt8})"],
        );
    }

    #[test]
    fn newer_views_are_left_alone_and_other_ones_replaced() {
        let applied = |version, checksum: &str| Applied {
            version,
            checksum: checksum.to_owned(),
            bi_database: "chatpulse_bi".to_owned(),
        };
        assert!(check(None).is_ok());
        assert!(check_current(Some(&applied(VERSION, &checksum()))).is_ok());
        for stale in [
            None,
            Some(applied(VERSION, "other")),
            Some(applied(0, "other")),
        ] {
            assert!(check(stale.as_ref()).is_ok());
            assert!(matches!(
                check_current(stale.as_ref()),
                Err(StoreError::ViewsTooOld { missing: VERSION })
            ));
        }
        let newer = applied(VERSION + 1, &checksum());
        for refused in [check(Some(&newer)), check_current(Some(&newer))] {
            assert!(matches!(
                refused,
                Err(StoreError::ViewsTooNew {
                    newest: VERSION,
                    ..
                })
            ));
        }
    }
}

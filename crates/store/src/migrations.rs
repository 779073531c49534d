//! Numbered migrations, applied once each and remembered with the hash of their text. After them
//! come the views, see `views.rs`.

use clickhouse::Row;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Store;
use crate::config::Engine;
use crate::error::StoreError;
use crate::views;

/// One file of `schemas/clickhouse`.
#[derive(Debug)]
pub struct Migration {
    /// Its number, from 1, without holes.
    pub version: u32,
    /// Its file name.
    pub name: &'static str,
    sql: &'static str,
    /// SHA-256 of texts that did the same and that databases may remember.
    former: &'static [&'static str],
}

macro_rules! migrations {
    ($($version:literal $name:literal $(formerly $former:literal)*,)*) => {
        /// Every migration, in the order of application.
        pub static MIGRATIONS: &[Migration] = &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../schemas/clickhouse/", $name)),
            former: &[$($former,)*],
        },)*];
    };
}

migrations! {
    1 "0001_events.sql",
    // Without the views that moved to views/.
    2 "0002_facts.sql" formerly "2311eb853c5ceb637ffcf3215606ad5bd7ab208eb32ee27e7547176c3ff352b7",
    3 "0003_reference.sql",
    4 "0004_metrics.sql" formerly "98b257590a0f4979806b41078ed65c6ab7bd6bb1e10b986bf8bf8cdbd9911306",
    5 "0005_poison.sql",
    6 "0006_rollups.sql",
    7 "0007_sight.sql",
    8 "0008_keys.sql",
    9 "0009_overview.sql",
    10 "0010_deliveries.sql",
    11 "0011_conversation_lists.sql",
    12 "0012_twins.sql",
}

impl Migration {
    /// SHA-256 of the file, lower-case hex.
    fn checksum(&self) -> String {
        format!("{:x}", Sha256::digest(self.sql.as_bytes()))
    }

    /// Whether a database that remembers this hash has what this migration makes.
    fn is_known(&self, checksum: &str) -> bool {
        self.checksum() == checksum || self.former.contains(&checksum)
    }

    /// The statements to send, with the engine filled in.
    fn statements(&self, engine: Engine) -> Vec<String> {
        let sql = match engine {
            Engine::MergeTree => self
                .sql
                .replace("{engine:", "")
                .replace("MergeTree}", "MergeTree"),
            Engine::Replicated => self
                .sql
                .replace("{engine:", "Replicated")
                .replace("MergeTree}", "MergeTree"),
        };
        split(&sql)
    }
}

/// A migration that the database remembers.
#[derive(Debug, Row, Deserialize)]
pub(crate) struct Applied {
    pub(crate) version: u32,
    checksums: Vec<String>,
}

const LEDGERS: &str = "
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version    UInt32,
    name       String,
    checksum   String                 COMMENT 'SHA-256 of the migration file',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:MergeTree}
ORDER BY version
COMMENT 'Migrations applied to this database';

CREATE TABLE IF NOT EXISTS schema_views
(
    version     UInt32,
    checksum    String                 COMMENT 'SHA-256 of the files of schemas/clickhouse/views',
    bi_database String                 COMMENT 'Database that {bi} stood for',
    applied_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {engine:MergeTree}
ORDER BY (version, applied_at)
COMMENT 'Sets of views applied to this database; the highest version counts, of these the last'";

impl Store {
    /// Makes the databases where they are missing, applies every migration not yet applied, and
    /// then the views where they are not this program's, and the role that reads those for analysts.
    ///
    /// Each statement says `IF NOT EXISTS` or `OR REPLACE`, so a run that died can be repeated and
    /// two runs at the same time end in the same schema. Fails without touching anything when the
    /// database was migrated by a newer program, or a migration was changed after it was applied.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        if self.config.engine == Engine::MergeTree {
            let client = self.client.clone().with_database("default");
            for database in [&self.config.database, &self.config.bi_database()] {
                let create = format!("CREATE DATABASE IF NOT EXISTS {}", quoted(database));
                self.within("creating a database", client.query_raw(&create).execute())
                    .await?;
            }
        }
        let ledgers = Migration {
            version: 0,
            name: "ledgers",
            sql: LEDGERS,
            former: &[],
        };
        self.run(&ledgers).await?;
        let applied = self.applied().await?;
        check(&applied)?;
        let applied_views = self.applied_views().await?;
        views::check(applied_views.as_ref())?;
        for migration in MIGRATIONS {
            if applied.iter().any(|done| done.version == migration.version) {
                continue;
            }
            tracing::info!(
                version = migration.version,
                name = migration.name,
                "applying migration"
            );
            self.run(migration).await?;
            let remember = self
                .client
                .query("INSERT INTO schema_migrations (version, name, checksum) VALUES (?, ?, ?)")
                .bind(migration.version)
                .bind(migration.name)
                .bind(migration.checksum());
            self.within("recording a migration", remember.execute())
                .await?;
        }
        self.apply_views(applied_views.as_ref()).await?;
        self.apply_reader_role().await?;
        self.client.clear_cached_metadata().await;
        Ok(())
    }

    async fn run(&self, migration: &Migration) -> Result<(), StoreError> {
        for statement in migration.statements(self.config.engine) {
            self.within(
                "applying a migration",
                self.client.query_raw(&statement).execute(),
            )
            .await?;
        }
        Ok(())
    }

    pub(crate) async fn applied(&self) -> Result<Vec<Applied>, StoreError> {
        let query = self.client.query_raw(
            "SELECT version, groupUniqArray(checksum) AS checksums
             FROM schema_migrations GROUP BY version ORDER BY version",
        );
        self.within("reading the applied migrations", query.fetch_all())
            .await
    }
}

/// Refuses a database that this program does not understand.
pub(crate) fn check(applied: &[Applied]) -> Result<(), StoreError> {
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.version);
    for done in applied {
        match MIGRATIONS
            .iter()
            .find(|known| known.version == done.version)
        {
            None => {
                return Err(StoreError::SchemaTooNew {
                    version: done.version,
                    newest,
                });
            }
            Some(known) if done.checksums.iter().any(|sum| !known.is_known(sum)) => {
                return Err(StoreError::MigrationChanged {
                    version: done.version,
                });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// An identifier for ClickHouse, whatever characters it has.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// Cuts a file into statements at semicolons that stand outside of strings and `--` comments; the
/// comments go, since ClickHouse would keep them in no other place than the query log.
pub(crate) fn split(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut chars = sql.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                quoted = !quoted;
                statement.push(c);
            }
            '-' if !quoted && chars.peek() == Some(&'-') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            ';' if !quoted => statements.push(std::mem::take(&mut statement)),
            _ => statement.push(c),
        }
    }
    statements.push(statement);
    statements
        .iter()
        .map(|s| s.trim().to_owned())
        .filter(|s| !s.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_at_semicolons_outside_of_strings_and_comments() {
        let sql = "-- a; b\nSELECT 'a;--''b' ; -- it's\nSELECT 2;\n";
        assert_eq!(split(sql), ["SELECT 'a;--''b'", "SELECT 2"]);
    }

    #[test]
    fn migrations_are_numbered_from_one_without_holes_and_named_by_their_number() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
            assert!(
                migration
                    .name
                    .starts_with(&format!("{:04}_", migration.version))
            );
        }
    }

    #[test]
    fn every_statement_can_be_repeated() {
        for migration in MIGRATIONS {
            for statement in migration.statements(Engine::MergeTree) {
                // What is inserted is a set, or comes after a TRUNCATE.
                let repeatable = [
                    "IF NOT EXISTS",
                    "OR REPLACE",
                    "IF EXISTS",
                    "INSERT INTO",
                    "MODIFY SETTING",
                ];
                assert!(
                    repeatable.iter().any(|word| statement.contains(word)),
                    "{}: {statement}",
                    migration.name,
                );
            }
        }
    }

    #[test]
    fn the_engine_is_filled_in_everywhere() {
        for migration in MIGRATIONS {
            let plain = migration.statements(Engine::MergeTree).concat();
            assert!(
                !plain.contains("{engine") && !plain.contains("Replicated"),
                "{}",
                migration.name
            );
            let replicated = migration.statements(Engine::Replicated).concat();
            assert_eq!(
                plain.matches("ENGINE = ").count(),
                replicated.matches("ENGINE = Replicated").count(),
            );
        }
    }

    #[test]
    fn a_changed_and_an_unknown_migration_are_refused() {
        let first = &MIGRATIONS[0];
        let done = |version, checksum: String| {
            [Applied {
                version,
                checksums: vec![checksum],
            }]
        };
        assert!(check(&done(1, first.checksum())).is_ok());
        let former = MIGRATIONS
            .iter()
            .find(|known| known.version == 4)
            .unwrap()
            .former[0];
        assert!(check(&done(4, former.to_owned())).is_ok());
        assert!(matches!(
            check(&done(1, former.to_owned())),
            Err(StoreError::MigrationChanged { version: 1 })
        ));
        assert!(matches!(
            check(&done(1, "other".to_owned())),
            Err(StoreError::MigrationChanged { version: 1 })
        ));
        assert!(matches!(
            check(&done(9_999, first.checksum())),
            Err(StoreError::SchemaTooNew { version: 9_999, .. })
        ));
    }
}

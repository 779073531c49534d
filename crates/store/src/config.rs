use std::fmt;
use std::time::Duration;

/// Where ClickHouse is and how patiently to speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// HTTP interface, e.g. `http://127.0.0.1:8123`.
    pub url: String,
    /// Database; made by [`crate::Store::migrate`] where it is missing. Default `chatpulse`.
    pub database: String,
    /// Database of the views for analysts, made likewise. Default: that of the tables with `_bi`
    /// behind it.
    pub bi_database: Option<String>,
    /// User. Default `default`.
    pub user: String,
    /// Password; empty for none.
    pub password: String,
    /// Table engines that migrations create.
    pub engine: Engine,
    /// Longest wait for one chunk of an insert to leave. Default 30 s.
    pub send_timeout: Duration,
    /// Longest wait for the server's answer to an insert, its views included. Default 120 s.
    pub insert_timeout: Duration,
    /// Longest wait for the answer to a query. Default 120 s.
    pub query_timeout: Duration,
    /// The same for a question about a few rows, which is asked again. Default 20 s.
    pub lookup_timeout: Duration,
    /// Inserts whose tokens the tables keep. Default 20,000, as the migrations set it; where it was
    /// raised in the tables this may stay lower.
    pub deduplication_window: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            url: "http://127.0.0.1:8123".to_owned(),
            database: "chatpulse".to_owned(),
            bi_database: None,
            user: "default".to_owned(),
            password: String::new(),
            engine: Engine::MergeTree,
            send_timeout: Duration::from_secs(30),
            insert_timeout: Duration::from_secs(120),
            query_timeout: Duration::from_secs(120),
            lookup_timeout: Duration::from_secs(20),
            deduplication_window: 20_000,
        }
    }
}

impl StoreConfig {
    /// Name of the database of the views for analysts.
    pub fn bi_database(&self) -> String {
        match &self.bi_database {
            Some(name) => name.clone(),
            None => format!("{}_bi", self.database),
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("url", &self.url)
            .field("database", &self.database)
            .field("bi_database", &self.bi_database())
            .field("user", &self.user)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// The engines of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// One server, or the embedded engine.
    #[default]
    MergeTree,
    /// Several replicas. The database must exist and have the `Replicated` engine, so that the
    /// server carries each statement to every replica and names the tables' paths itself.
    Replicated,
}

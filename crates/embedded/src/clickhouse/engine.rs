//! The running engine: started once per process and data path, asked for a session per request.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::disk::{self, Disk};
use super::exception::Exception;
use super::ffi::{self, Connection, EngineError, Library, Query};
use super::sql;

/// Settings that make the body of an `INSERT` one block, whatever its format: one part per
/// partition, one entry of the deduplication window per table, all or nothing.
///
/// They are the default of every request here. A sink that also talks to a ClickHouse server should
/// send them with its inserts: there `async_insert` is on by default since 26.x, and the server
/// then decides about blocks.
///
/// The limits are a thousand times what a body can hold: a block is squashed until it reaches
/// `min_insert_block_size_rows` *or* `_bytes`, and never cut below `max_insert_block_size`.
pub const INSERT_AS_ONE_BLOCK_SETTINGS: [(&str, &str); 7] = [
    ("async_insert", "0"),
    ("input_format_parallel_parsing", "0"),
    ("max_insert_threads", "1"),
    ("max_insert_block_size", "1000000000"),
    ("max_insert_block_size_bytes", "0"),
    ("min_insert_block_size_rows", "1000000000"),
    ("min_insert_block_size_bytes", "1000000000000"),
];

/// Sessions that are kept for the next request: as many as statements that run at the same time.
const MAX_IDLE: usize = super::server::MAX_QUERIES;

/// Settings of a request before its own: what a ClickHouse server has, where libchdb differs.
const SERVER_LIKE_SETTINGS: [(&str, &str); 2] = [
    ("implicit_select", "0"),
    ("allow_introspection_functions", "0"),
];

pub(super) struct Engine {
    library: &'static Library,
    path_argument: String,
    /// What all statements together may take, in bytes: half of the limit. Beyond the limit itself ClickHouse throws
    /// in threads that catch nothing, which ends the process.
    statements_bytes: u64,
    /// Connections opened so far.
    connected: AtomicU64,
    /// Sessions whose statement has ended, the latest last.
    idle: Mutex<VecDeque<Session>>,
    /// Keeps the engine running: it ends with its last connection.
    _anchor: Mutex<Connection>,
    pub(super) version: String,
    pub(super) timezone: String,
    pub(super) display_name: String,
    /// Where inserts are made durable.
    pub(super) disk: Disk,
    /// The data path, released when the engine has ended. Declared last: dropped last.
    _running: Running,
}

/// What a session is given before its first statement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Setup {
    /// Settings, each name once.
    pub(super) settings: BTreeMap<String, String>,
    /// Current database; the engine's default where none is named.
    pub(super) database: Option<String>,
}

/// A connection with its settings and current database.
pub(super) struct Session {
    setup: Setup,
    /// `log_comment` of its statements, no other session's.
    pub(super) comment: String,
    connection: Connection,
}

impl Session {
    fn set_up(&self) -> Result<(), Exception> {
        let assignments: Vec<String> = [("log_comment", self.comment.as_str())]
            .into_iter()
            .chain(
                self.setup
                    .settings
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str())),
            )
            .map(|(name, value)| format!("{} = {}", sql::identifier(name), sql::literal(value)))
            .collect();
        let mut statements = vec![format!("SET {}", assignments.join(", "))];
        statements.extend(
            (self.setup.database.iter()).map(|name| format!("USE {}", sql::identifier(name))),
        );
        for sql in statements {
            self.query(Query {
                sql: sql.as_bytes(),
                format: "Null",
                params: &[],
            })?;
        }
        Ok(())
    }
}

impl Deref for Session {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(
        "this process already runs ClickHouse on {0}; libchdb has one data path per process, so \
         share that instance, or shut it down first"
    )]
    AlreadyRunning(PathBuf),
    #[error("the engine refused to start on {0}; what it wrote to standard error says why")]
    Refused(PathBuf),
    #[error("cannot use the data path {0}: {1}")]
    Files(PathBuf, std::io::Error),
    #[error("the data path {0} is not UTF-8")]
    Path(PathBuf),
    #[error("the engine started but does not answer: {0}")]
    Silent(#[from] EngineError),
}

static RUNNING: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The mark that this process runs an engine.
struct Running;

impl Running {
    fn mark(path: &Path) -> Result<Self, StartError> {
        let mut running = RUNNING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*running {
            Some(other) => Err(StartError::AlreadyRunning(other.clone())),
            None => {
                *running = Some(path.to_owned());
                Ok(Self)
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *RUNNING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }
}

impl Engine {
    /// Starts the engine on `path`. Blocks; parts are loaded, broken ones of a crash set aside.
    pub(super) fn start(
        library: &'static Library,
        path: &Path,
        memory_limit_bytes: u64,
    ) -> Result<Self, StartError> {
        let running = Running::mark(path)?;
        let text = path
            .to_str()
            .ok_or_else(|| StartError::Path(path.to_owned()))?;
        let path_argument = format!("--path={text}");
        let unusable = |source| StartError::Files(path.to_owned(), source);
        for log in super::repair::deduplication_logs(path).map_err(unusable)? {
            tracing::warn!(
                log = %log.display(),
                "cut off the deduplication record of a block that a crash kept from being inserted"
            );
        }
        let disk = Disk::of(path).map_err(unusable)?;
        let config = path.join("engine.xml");
        std::fs::write(&config, configuration(memory_limit_bytes)).map_err(unusable)?;
        let arguments = [
            path_argument.clone(),
            format!("--config-file={}", config.display()),
        ];
        let anchor = library
            .connect(&arguments)
            .ok_or_else(|| StartError::Refused(path.to_owned()))?;
        let sql = b"SELECT version(), timezone(), displayName()";
        let chunk = anchor.query(Query {
            sql,
            format: "TabSeparated",
            params: &[],
        })?;
        ffi::end_process_without_destructors();
        let line = String::from_utf8_lossy(&chunk.data).trim_end().to_owned();
        let mut fields = line.split('\t').map(str::to_owned);
        let mut field = || fields.next().unwrap_or_default();
        Ok(Self {
            library,
            path_argument,
            statements_bytes: memory_limit_bytes / 2,
            connected: AtomicU64::new(0),
            idle: Mutex::default(),
            version: field(),
            timezone: field(),
            display_name: field(),
            disk,
            _anchor: Mutex::new(anchor),
            _running: running,
        })
    }

    /// The settings that every request starts from.
    pub(super) fn base_settings(&self) -> BTreeMap<String, String> {
        let fixed = SERVER_LIKE_SETTINGS
            .into_iter()
            .chain(INSERT_AS_ONE_BLOCK_SETTINGS);
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let memory = (
            "max_memory_usage_for_user".to_owned(),
            self.statements_bytes.to_string(),
        );
        fixed.chain([memory]).collect()
    }

    /// A session as `wanted`: one that has been so already, or a new one.
    pub(super) fn session(&self, wanted: Setup) -> Result<Session, Exception> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().rposition(|session| session.setup == wanted);
        if let Some(session) = at.and_then(|at| idle.remove(at)) {
            return Ok(session);
        }
        drop(idle);
        let nth = self.connected.fetch_add(1, Ordering::Relaxed);
        if nth.is_power_of_two() {
            ffi::end_process_without_destructors();
        }
        let connection = self
            .library
            .connect(std::slice::from_ref(&self.path_argument))
            .ok_or_else(|| EngineError("the engine gave no connection".into()))?;
        let session = Session {
            comment: format!("session {nth}"),
            setup: wanted,
            connection,
        };
        session.set_up()?;
        Ok(session)
    }

    /// Takes back a session that is still as it was set up: its statement has ended well, and was none
    /// that changes a session.
    pub(super) fn keep(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (idle.len() >= MAX_IDLE).then(|| idle.pop_front());
        idle.push_back(session);
        drop(idle);
        drop(oldest);
    }

    /// Asks the engine to stop the statement of the session with this comment; it does so at its next block.
    pub(super) fn kill(&self, comment: &str) {
        self.kill_where(&format!(
            "Settings['log_comment'] = {}",
            sql::literal(comment)
        ));
    }

    /// Asks the engine to stop every statement.
    pub(super) fn kill_all(&self) {
        self.kill_where("1");
    }

    fn kill_where(&self, condition: &str) {
        let sql = format!("KILL QUERY WHERE {condition} ASYNC");
        let query = Query {
            sql: sql.as_bytes(),
            format: "Null",
            params: &[],
        };
        let killed = self
            .session(Setup::default())
            .and_then(|session| session.query(query).map_err(Exception::from));
        if let Err(exception) = killed {
            tracing::debug!(error = exception.message, "statements could not be killed");
        }
    }
}

/// The server configuration that the engine starts with.
///
/// - Small caches and pools: the machine also runs the pipeline. Names and defaults:
///   <https://clickhouse.com/docs/operations/server-configuration-parameters/settings>.
/// - MergeTree tables are durable against a power cut too: parts are on the disk before their insert is answered
///   ([`Disk`]), and those merged into another are kept for a minute, by when the system has written that one out.
/// - Given as a file, because the engine would else take a `config.xml` of the working directory
///   or of the home folder.
fn configuration(memory_limit_bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    let element = |(name, value): (&str, u64)| format!("<{name}>{value}</{name}>\n");
    let server: String = [
        ("max_server_memory_usage", memory_limit_bytes),
        ("mark_cache_size", 64 * MIB),
        ("primary_index_cache_size", 32 * MIB),
        ("index_mark_cache_size", 16 * MIB),
        ("uncompressed_cache_size", 0),
        ("mmap_cache_size", 64),
        ("parquet_metadata_cache_size", MIB),
        ("iceberg_metadata_files_cache_size", MIB),
        ("query_condition_cache_size", 8 * MIB),
        ("compiled_expression_cache_size", 16 * MIB),
        ("background_pool_size", 4),
        ("background_schedule_pool_size", 8),
        ("max_thread_pool_size", 1000),
        ("max_thread_pool_free_size", 50),
        // The limit is the engine's own: in a container it would else count every process there.
        ("memory_worker_use_cgroup", 0),
    ]
    .map(element)
    .concat();
    let engine_syncs = u64::from(!disk::HERE);
    let merge_tree: String = [
        ("fsync_after_insert", engine_syncs),
        ("fsync_part_directory", engine_syncs),
        ("old_parts_lifetime", 60),
    ]
    .map(element)
    .concat();
    format!("<clickhouse>\n{server}<merge_tree>\n{merge_tree}</merge_tree>\n</clickhouse>\n")
}

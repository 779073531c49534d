//! The C interface of libchdb, made safe: one [`Library`] per process, [`Connection`]s on its one
//! data path, and results that free themselves.
//!
//! Shapes are those of `programs/local/chdb.h`, version 26.7. A connection runs one statement at a
//! time, from whichever thread holds it; every call here blocks until the engine has answered.
//!
//! This is the only module of the workspace with `unsafe` code.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use bytes::Bytes;

/// A parameter of a query: name and value, the value in ClickHouse's escaped text form.
pub(super) type Param = (String, String);

/// An engine error as the engine words it: `Code: N. DB::Exception: text (NAME)`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct EngineError(pub(super) String);

/// Why the shared library could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{path} cannot be loaded: {source}")]
    Open {
        path: PathBuf,
        source: libloading::Error,
    },
    #[error("{path} is not a usable libchdb: {source}")]
    Symbol {
        path: PathBuf,
        source: libloading::Error,
    },
    #[error(
        "this process has already loaded {loaded}; a second libchdb ({wanted}) cannot be loaded beside it"
    )]
    Another { loaded: PathBuf, wanted: PathBuf },
}

type RawConnection = *mut c_void;
type RawResult = *mut c_void;
type RawInsert = *mut c_void;

type WithParams<R> = unsafe extern "C" fn(
    RawConnection,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> R;

/// Declares the table of C functions and the code that looks each one up.
macro_rules! symbols {
    ($($name:ident: $type:ty),* $(,)?) => {
        struct Symbols { $($name: $type),* }

        impl Symbols {
            /// # Safety
            /// `library` must be a libchdb whose functions have the types declared here.
            unsafe fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the caller vouches for the library; the types are those of chdb.h.
                unsafe {
                    Ok(Self { $($name: *library.get(concat!(stringify!($name), "\0"))?),* })
                }
            }
        }
    };
}

symbols! {
    chdb_set_signal_handlers_enabled: unsafe extern "C" fn(c_int),
    chdb_connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    chdb_close_conn: unsafe extern "C" fn(*mut RawConnection),
    chdb_query_with_params_n: WithParams<RawResult>,
    chdb_stream_query_with_params_n: WithParams<RawResult>,
    chdb_stream_fetch_result: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    chdb_stream_cancel_query: unsafe extern "C" fn(RawConnection, RawResult),
    chdb_destroy_query_result: unsafe extern "C" fn(RawResult),
    chdb_stream_insert_with_params_n: WithParams<RawInsert>,
    chdb_stream_append: unsafe extern "C" fn(RawInsert, *const c_void, usize) -> c_int,
    chdb_stream_done: unsafe extern "C" fn(RawInsert) -> RawResult,
    chdb_stream_insert_error: unsafe extern "C" fn(RawInsert) -> *const c_char,
    chdb_destroy_insert_stream: unsafe extern "C" fn(RawInsert),
    chdb_result_buffer: unsafe extern "C" fn(RawResult) -> *const u8,
    chdb_result_length: unsafe extern "C" fn(RawResult) -> usize,
    chdb_result_error: unsafe extern "C" fn(RawResult) -> *const c_char,
    chdb_result_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_bytes_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_storage_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_storage_bytes_read: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_rows_written: unsafe extern "C" fn(RawResult) -> u64,
    chdb_result_bytes_written: unsafe extern "C" fn(RawResult) -> u64,
}

/// The loaded engine. It stays loaded until the process ends: its threads outlive connections.
pub(super) struct Library {
    path: PathBuf,
    symbols: Symbols,
}

static LIBRARY: OnceLock<Library> = OnceLock::new();

impl Library {
    /// Loads libchdb from `path`, or returns the copy that this process already has loaded.
    pub(super) fn load(path: &Path) -> Result<&'static Self, LoadError> {
        static LOADING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _loading = LOADING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(loaded) = LIBRARY.get() {
            return if loaded.path == path {
                Ok(loaded)
            } else {
                Err(LoadError::Another {
                    loaded: loaded.path.clone(),
                    wanted: path.to_owned(),
                })
            };
        }
        let failed = |source| LoadError::Open {
            path: path.to_owned(),
            source,
        };
        // SAFETY: libchdb has no initialisation that depends on state of this process.
        let library = unsafe { libloading::Library::new(path.as_os_str()) };
        // Leaked: the engine's threads run its code until the process ends.
        let library = Box::leak(Box::new(library.map_err(failed)?));
        // SAFETY: a file that exports all of these names is a libchdb.
        let symbols = unsafe { Symbols::of(library) }.map_err(|source| LoadError::Symbol {
            path: path.to_owned(),
            source,
        })?;
        // SAFETY: before the first connection, as chdb.h asks. This process owns its signals.
        unsafe { (symbols.chdb_set_signal_handlers_enabled)(0) };
        Ok(LIBRARY.get_or_init(|| Self {
            path: path.to_owned(),
            symbols,
        }))
    }

    /// Opens a connection; the first of a process starts the engine with `arguments`
    /// (`--path=…` and server settings). `None` when the engine refuses: it says why on standard
    /// error only.
    pub(super) fn connect(&'static self, arguments: &[String]) -> Option<Connection> {
        let owned: Vec<CString> = std::iter::once("clickhouse")
            .chain(arguments.iter().map(String::as_str))
            .map(CString::new)
            .collect::<Result<_, _>>()
            .ok()?;
        let mut pointers: Vec<*mut c_char> = owned.iter().map(|s| s.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `count` NUL-terminated strings, which the engine copies before it returns.
        let handle = unsafe { (self.symbols.chdb_connect)(count, pointers.as_mut_ptr()) };
        Some(Connection {
            library: self,
            handle: NonNull::new(handle)?,
        })
    }
}

/// From here on the process ends without the destructors of libchdb.
///
/// At `exit` those would shut a still running engine down after parts of it are gone, and crash the
/// process with its status lost. What was acknowledged is on disk, so ending at once is safe, and
/// whoever wants more has [`super::ClickHouse::shutdown`].
///
/// Handlers run in reverse order of registration, and the engine registers some of its own when it
/// first uses a part of itself: so this is called again now and then.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn end_process_without_destructors() {
    unsafe extern "C" {
        fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
        fn fflush(stream: *mut c_void) -> c_int;
        fn _exit(status: c_int) -> !;
    }
    extern "C" fn end(status: c_int, _: *mut c_void) {
        // SAFETY: flushing all streams and ending the process have no preconditions.
        unsafe {
            fflush(ptr::null_mut());
            _exit(status)
        }
    }
    // SAFETY: `end` lives as long as the process. Without memory for a handler nothing is lost.
    unsafe { on_exit(end, ptr::null_mut()) };
}

/// Elsewhere the C library hands its exit status to no handler: shut ClickHouse down before the end.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn end_process_without_destructors() {}

/// What a statement has read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stats {
    /// Rows and bytes of the result.
    pub(super) result_rows: u64,
    pub(super) result_bytes: u64,
    /// Rows and bytes read from tables.
    pub(super) read_rows: u64,
    pub(super) read_bytes: u64,
    /// Rows and bytes written, those of materialized views included.
    pub(super) written_rows: u64,
    pub(super) written_bytes: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.result_rows += other.result_rows;
        self.result_bytes += other.result_bytes;
        self.read_rows += other.read_rows;
        self.read_bytes += other.read_bytes;
        self.written_rows += other.written_rows;
        self.written_bytes += other.written_bytes;
    }
}

/// One session of the engine: its own settings, current database and temporary tables.
pub(super) struct Connection {
    library: &'static Library,
    handle: NonNull<RawConnection>,
}

// SAFETY: a connection may move between threads; chdb serialises the statements on it.
unsafe impl Send for Connection {}

impl Connection {
    fn raw(&self) -> RawConnection {
        // SAFETY: the handle points at a live connection until `drop`.
        unsafe { *self.handle.as_ptr() }
    }

    fn call<R>(&self, function: WithParams<R>, query: Query<'_>) -> R {
        let names: Vec<_> = query
            .params
            .iter()
            .map(|(name, _)| name.as_ptr().cast())
            .collect();
        let name_lengths: Vec<_> = query.params.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<_> = query
            .params
            .iter()
            .map(|(_, value)| value.as_ptr().cast())
            .collect();
        let value_lengths: Vec<_> = query.params.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: every pointer comes with its length and outlives the call, which copies.
        unsafe {
            function(
                self.raw(),
                query.sql.as_ptr().cast(),
                query.sql.len(),
                query.format.as_ptr().cast(),
                query.format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                names.len(),
            )
        }
    }

    /// Runs one statement to its end; the whole result is in memory.
    pub(super) fn query(&self, query: Query<'_>) -> Result<Chunk, EngineError> {
        let raw = self.call(self.library.symbols.chdb_query_with_params_n, query);
        ResultHandle {
            library: self.library,
            raw,
        }
        .into_chunk()
    }

    /// Starts a `SELECT` whose result is fetched a block at a time.
    pub(super) fn stream(&self, query: Query<'_>) -> Result<SelectStream<'_>, EngineError> {
        let raw = self.call(self.library.symbols.chdb_stream_query_with_params_n, query);
        let result = ResultHandle {
            library: self.library,
            raw,
        };
        match result.error() {
            Some(error) => Err(error),
            None => Ok(SelectStream {
                connection: self,
                result,
                ended: false,
            }),
        }
    }

    /// Starts an `INSERT` (without `FORMAT` and data) whose data is appended in pieces.
    pub(super) fn insert(&self, query: Query<'_>) -> Result<InsertStream<'_>, EngineError> {
        let raw = self.call(self.library.symbols.chdb_stream_insert_with_params_n, query);
        let stream = InsertStream {
            connection: self,
            raw,
        };
        match stream.error() {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: opened by chdb_connect, closed once; results that point into it borrow it.
        unsafe { (self.library.symbols.chdb_close_conn)(self.handle.as_ptr()) };
    }
}

/// A statement, the format of its data or result, and its parameters.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) sql: &'a [u8],
    pub(super) format: &'a str,
    pub(super) params: &'a [Param],
}

struct ResultHandle {
    library: &'static Library,
    raw: RawResult,
}

// SAFETY: a finished result is plain memory; it may be read and freed from any thread.
unsafe impl Send for ResultHandle {}

impl ResultHandle {
    fn error(&self) -> Option<EngineError> {
        if self.raw.is_null() {
            return Some(EngineError("the engine returned no result".into()));
        }
        // SAFETY: a live result; the text is copied before the result can be freed.
        unsafe { text((self.library.symbols.chdb_result_error)(self.raw)) }
    }

    fn into_chunk(self) -> Result<Chunk, EngineError> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let symbols = &self.library.symbols;
        // SAFETY: a live, finished result.
        let stats = unsafe {
            Stats {
                result_rows: (symbols.chdb_result_rows_read)(self.raw),
                result_bytes: (symbols.chdb_result_bytes_read)(self.raw),
                read_rows: (symbols.chdb_result_storage_rows_read)(self.raw),
                read_bytes: (symbols.chdb_result_storage_bytes_read)(self.raw),
                written_rows: (symbols.chdb_result_rows_written)(self.raw),
                written_bytes: (symbols.chdb_result_bytes_written)(self.raw),
            }
        };
        Ok(Chunk {
            stats,
            data: Bytes::from_owner(self),
        })
    }
}

impl AsRef<[u8]> for ResultHandle {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer belongs to the result and lives as long as it does.
        unsafe {
            let data = (self.library.symbols.chdb_result_buffer)(self.raw);
            let length = (self.library.symbols.chdb_result_length)(self.raw);
            if data.is_null() || length == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(data, length)
            }
        }
    }
}

impl Drop for ResultHandle {
    fn drop(&mut self) {
        // SAFETY: each handle is destroyed once; null is accepted.
        unsafe { (self.library.symbols.chdb_destroy_query_result)(self.raw) };
    }
}

/// A formatted piece of a result. The bytes are the engine's own memory, freed when dropped.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) data: Bytes,
    pub(super) stats: Stats,
}

/// A running `SELECT`. Dropped before its end, it is cancelled.
pub(super) struct SelectStream<'c> {
    connection: &'c Connection,
    result: ResultHandle,
    ended: bool,
}

impl SelectStream<'_> {
    /// The next formatted block; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>, EngineError> {
        if self.ended {
            return Ok(None);
        }
        let library = self.connection.library;
        // SAFETY: both handles are live; this thread alone fetches.
        let raw = unsafe {
            (library.symbols.chdb_stream_fetch_result)(self.connection.raw(), self.result.raw)
        };
        let chunk = ResultHandle { library, raw }.into_chunk();
        self.ended = chunk.as_ref().map_or(true, |chunk| chunk.data.is_empty());
        chunk.map(|chunk| (!self.ended).then_some(chunk))
    }
}

impl Drop for SelectStream<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let cancel = self.connection.library.symbols.chdb_stream_cancel_query;
            // SAFETY: both handles are live; the result itself is freed after this.
            unsafe { cancel(self.connection.raw(), self.result.raw) };
        }
    }
}

/// A running `INSERT`. Dropped before [`InsertStream::finish`], it is cancelled: nothing that the
/// engine has not yet written as a block is written.
pub(super) struct InsertStream<'c> {
    connection: &'c Connection,
    raw: RawInsert,
}

impl InsertStream<'_> {
    fn error(&self) -> Option<EngineError> {
        let error = self.connection.library.symbols.chdb_stream_insert_error;
        // SAFETY: a live stream handle; the text is copied at once.
        unsafe { text(error(self.raw)) }
    }

    /// Appends formatted data; blocks while the engine is busy with what it has.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), EngineError> {
        let append = self.connection.library.symbols.chdb_stream_append;
        // SAFETY: the engine copies `data` before it returns.
        let state = unsafe { append(self.raw, data.as_ptr().cast(), data.len()) };
        if state == 0 {
            return Ok(());
        }
        Err(self
            .error()
            .unwrap_or_else(|| EngineError("the engine stopped the insert".into())))
    }

    /// Ends the data and commits it.
    pub(super) fn finish(self) -> Result<Stats, EngineError> {
        let library = self.connection.library;
        // SAFETY: a live stream handle, finished once; freed by `drop`.
        let raw = unsafe { (library.symbols.chdb_stream_done)(self.raw) };
        let chunk = ResultHandle { library, raw }.into_chunk()?;
        Ok(chunk.stats)
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        let destroy = self.connection.library.symbols.chdb_destroy_insert_stream;
        // SAFETY: each handle is destroyed once; an unfinished one is cancelled by this.
        unsafe { destroy(self.raw) };
    }
}

/// # Safety
/// `pointer` is null or a NUL-terminated string that lives through the call.
unsafe fn text(pointer: *const c_char) -> Option<EngineError> {
    if ptr::eq(pointer, ptr::null()) {
        return None;
    }
    // SAFETY: not null, and as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(EngineError(text.to_string_lossy().into_owned()))
}

//! Who may send: tenants with their write keys, origins, salt and limits.
//!
//! ```text
//! tenants.toml ─ file (typed, validated) ─► Snapshot ─ swapped in whole ─► requests
//!       ▲ watched                              a broken new file changes nothing
//! ```

mod file;
mod snapshot;

use std::{
    convert::Infallible,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;

pub use file::{LimitsEntry, TenantEntry, TenantsFile, WriteKey, WriteKeyEntry, new_tenant};
pub use snapshot::{Grant, Snapshot, Tenant, WriteKeyError};

/// The tenants of a file, always the last valid version of it. Cheap to read from many tasks.
#[derive(Debug)]
pub struct Tenants {
    path: PathBuf,
    current: ArcSwap<Snapshot>,
    /// What the file looked like when it was last read, also where it was then found broken.
    seen: Mutex<Option<Fingerprint>>,
}

/// What changes whenever a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

/// What came of looking at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The file is the one last read.
    Unchanged,
    /// The file was read and is in force.
    Applied,
}

impl Tenants {
    /// Reads the file. Errors name the key that is wrong and what it must be.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, TenantsError> {
        let path = path.into();
        let seen = fingerprint(&path)?;
        let snapshot = Snapshot::new(&TenantsFile::read(&path)?, &Snapshot::default())
            .map_err(|error| error.of(&path))?;
        Ok(Self {
            path,
            current: ArcSwap::from_pointee(snapshot),
            seen: Mutex::new(Some(seen)),
        })
    }

    /// The tenants in force now. Take it once per request, so that a request sees one version.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Reads the file again if it changed. An error leaves the tenants as they are, and is
    /// reported once per change of the file, not at every look.
    pub fn reload(&self) -> Result<Reload, TenantsError> {
        // Looked at before it is read: what is written in between is seen the next time.
        let now = fingerprint(&self.path).ok();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return Ok(Reload::Unchanged);
        }
        *seen = now;
        let file = TenantsFile::read(&self.path)?;
        let snapshot =
            Snapshot::new(&file, &self.current.load()).map_err(|error| error.of(&self.path))?;
        self.current.store(Arc::new(snapshot));
        Ok(Reload::Applied)
    }

    /// Looks at the file every `interval`, for ever, and hands every change to `report`. Polled
    /// rather than notified of: that works on network file systems and for the links that
    /// Kubernetes swaps, too.
    pub async fn watch(
        self: &Arc<Self>,
        interval: Duration,
        report: impl Fn(Result<(), TenantsError>),
    ) -> Infallible {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tenants = Arc::clone(self);
            match tokio::task::spawn_blocking(move || tenants.reload()).await {
                Ok(Ok(Reload::Unchanged)) => {}
                Ok(Ok(Reload::Applied)) => report(Ok(())),
                Ok(Err(error)) => report(Err(error)),
                // A panic while reading, or the runtime's end; the next look shows which.
                Err(error) => tracing::error!(%error, "looking at the tenants file failed"),
            }
        }
    }
}

fn fingerprint(path: &Path) -> Result<Fingerprint, TenantsError> {
    let read = || {
        let data = std::fs::metadata(path)?;
        Ok(Fingerprint {
            modified: data.modified()?,
            bytes: data.len(),
            inode: data.ino(),
        })
    };
    read().map_err(|error| TenantsError::Read {
        path: path.into(),
        error,
    })
}

/// Why tenants cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TenantsError {
    /// The file cannot be read.
    #[error(
        "cannot read the tenants file {path}: {error}; make one with `chatpulse tenant add ID`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the tenants file {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is no TOML, or has keys or types that are not known.
    #[error("tenants file {path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and key.
        error: Box<toml::de::Error>,
    },
    /// A value is not what it must be.
    #[error("tenants file {path}: {invalid}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        invalid: Invalid,
    },
    /// The operating system gives no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

/// A value of the tenants file that is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {fault}")]
pub struct Invalid {
    key: String,
    fault: String,
}

impl Invalid {
    fn new(key: impl Into<String>, fault: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            fault: fault.into(),
        }
    }

    fn of(self, path: &Path) -> TenantsError {
        TenantsError::Invalid {
            path: path.into(),
            invalid: self,
        }
    }
}

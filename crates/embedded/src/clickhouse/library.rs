//! Finds libchdb, or fetches it: environment → cache folder → npm package.
//!
//! ```text
//! CHATPULSE_CHDB_LIBRARY ─┐
//! cache folder ───────────┼─► path of libchdb
//! npm pack → SHA-512 → unpack → fsync → rename ─► cache folder
//! ```
//!
//! The package is pinned by version and by the SHA-512 of its tarball. Processes that need it at
//! the same time wait for one of them to fetch it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use sha2::{Digest, Sha512};

/// Names a libchdb to use instead of the fetched one.
pub const LIBRARY_VARIABLE: &str = "CHATPULSE_CHDB_LIBRARY";

/// The version of the npm packages, and of libchdb.
pub const VERSION: &str = "26.7.3-stable.1";

const FILE_NAME: &str = "libchdb.so";
/// What the unpacked library and the tarball beside it take, with some room.
const MAX_LIBRARY_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// A published build of libchdb.
struct Package {
    os: &'static str,
    arch: &'static str,
    name: &'static str,
    /// SHA-512 of the tarball, in base64, as the registry states it (`npm view NAME dist.integrity`).
    sha512: &'static str,
}

/// The builds that are known and pinned. For another machine the path of a libchdb of the same
/// version has to be given in [`LIBRARY_VARIABLE`].
const PACKAGES: [Package; 1] = [Package {
    os: "linux",
    arch: "x86_64",
    name: "@chdb/lib-linux-x64-gnu",
    sha512: "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
}];

/// What [`ensure`] is doing, for whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another process is fetching the library; this one waits for it.
    Waiting,
    /// npm is downloading the package. It does not say how far it is.
    Downloading {
        /// Time since it began.
        elapsed: Duration,
    },
    /// The library is being unpacked.
    Unpacking {
        /// Bytes written.
        done: u64,
        /// Bytes of the whole library.
        total: u64,
    },
    /// The library is in its place.
    Done,
}

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The environment names a file that is not there.
    #[error("{LIBRARY_VARIABLE} names {0}, which is not a file")]
    Override(PathBuf),
    /// No build is pinned for this machine.
    #[error(
        "no libchdb is pinned for {os}/{arch}; put libchdb {VERSION} for it somewhere and name it \
         in {LIBRARY_VARIABLE}, or point the stages at a ClickHouse server"
    )]
    Platform {
        /// The operating system, as Rust names it.
        os: &'static str,
        /// The processor, as Rust names it.
        arch: &'static str,
    },
    /// Neither a cache folder nor a home folder is known.
    #[error("no cache folder: set XDG_CACHE_HOME or HOME, or name a libchdb in {LIBRARY_VARIABLE}")]
    NoCacheFolder,
    /// The npm client is missing.
    #[error(
        "the npm client is needed to fetch libchdb and was not found; install Node.js, or name a \
         libchdb {VERSION} in {LIBRARY_VARIABLE}"
    )]
    NpmMissing,
    /// npm ran and failed.
    #[error(
        "npm could not fetch {package}@{VERSION}: {message}; check the network and npm's registry \
         setting, or name a libchdb in {LIBRARY_VARIABLE}"
    )]
    Npm {
        /// The package asked for.
        package: &'static str,
        /// The end of what npm wrote to standard error.
        message: String,
    },
    /// The package is not the one that was pinned.
    #[error(
        "{package}@{VERSION} has SHA-512 {actual} and not {expected}: the registry answered with \
         something else than what was pinned, and it was thrown away"
    )]
    Integrity {
        /// The package asked for.
        package: &'static str,
        /// The pinned hash, in base64.
        expected: &'static str,
        /// The hash of what came, in base64.
        actual: String,
    },
    /// The package holds no library.
    #[error("{0}@{VERSION} holds no {FILE_NAME}")]
    Empty(&'static str),
    /// A file could not be read or written; a full disk is the usual reason.
    #[error("cannot {action} {path}: {source}{hint}", hint = disk_hint(source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn disk_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::StorageFull {
        "; libchdb needs 750 MB while it is fetched and 570 MB after that"
    } else {
        ""
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LibraryError {
    move |source| LibraryError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The path of a libchdb of [`VERSION`]; fetches it on first use. Blocks for as long as that takes
/// (178 MB to download, 566 MB to unpack); `progress` is called from this thread meanwhile.
///
/// # Errors
/// See [`LibraryError`]: every message says what to do next.
pub fn ensure(progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, LibraryError> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(LibraryError::Override(path))
        };
    }
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let package = PACKAGES
        .iter()
        .find(|package| package.os == os && package.arch == arch);
    let package = package.ok_or(LibraryError::Platform { os, arch })?;
    ensure_in(&cache_folder()?, package, "npm", progress)
}

/// `~/.cache/chatpulse`, or `~/Library/Caches/chatpulse`.
fn cache_folder() -> Result<PathBuf, LibraryError> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let caches = if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))
    };
    Ok(caches.ok_or(LibraryError::NoCacheFolder)?.join("chatpulse"))
}

fn ensure_in(
    cache: &Path,
    package: &Package,
    npm: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, LibraryError> {
    let folder = cache.join(format!("chdb-{VERSION}"));
    let library = folder.join(FILE_NAME);
    if library.is_file() {
        return Ok(library);
    }
    fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(failed("create", &lock_path))?;
    if lock.try_lock().is_err() {
        progress(Progress::Waiting);
        lock.lock().map_err(failed("lock", &lock_path))?;
    }
    // Held until the end of this function; whoever waited finds the library there.
    if !library.is_file() {
        let work = folder.join("fetch");
        remove(&work)?;
        fs::create_dir_all(&work).map_err(failed("create", &work))?;
        let fetched = fetch(package, &work, npm, progress).and_then(|unpacked| {
            fs::rename(&unpacked, &library).map_err(failed("rename to", &library))?;
            File::open(&folder)
                .and_then(|f| f.sync_all())
                .map_err(failed("sync", &folder))
        });
        remove(&work)?;
        fetched?;
    }
    progress(Progress::Done);
    Ok(library)
}

fn remove(folder: &Path) -> Result<(), LibraryError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

fn fetch(
    package: &Package,
    work: &Path,
    npm: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, LibraryError> {
    let tarball = download(package, work, npm, progress)?;
    verify(package, &tarball)?;
    unpack(package, &tarball, progress)
}

/// Lets npm fetch the package: it knows the machine's registry, proxy and credentials.
fn download(
    package: &Package,
    work: &Path,
    npm: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, LibraryError> {
    let log_path = work.join("npm.log");
    let log = File::create(&log_path).map_err(failed("create", &log_path))?;
    let spawned = Command::new(npm)
        .args([
            "pack",
            "--loglevel=error",
            "--ignore-scripts",
            "--pack-destination",
        ])
        .arg(work)
        .arg(format!("{}@{VERSION}", package.name))
        .current_dir(work)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let mut npm = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LibraryError::NpmMissing);
        }
        Err(error) => return Err(failed("start", Path::new("npm"))(error)),
    };
    let started = Instant::now();
    let status = loop {
        progress(Progress::Downloading {
            elapsed: started.elapsed(),
        });
        match npm
            .try_wait()
            .map_err(failed("wait for", Path::new("npm")))?
        {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    let tarball = fs::read_dir(work)
        .map_err(failed("list", work))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    match tarball {
        Some(path) if status.success() => Ok(path),
        _ => {
            let log = fs::read(&log_path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let mut lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines.split_off(lines.len().saturating_sub(4)).join(" / ");
            let message = if last.is_empty() {
                status.to_string()
            } else {
                last
            };
            Err(LibraryError::Npm {
                package: package.name,
                message,
            })
        }
    }
}

fn verify(package: &Package, tarball: &Path) -> Result<(), LibraryError> {
    let mut file = File::open(tarball).map_err(failed("open", tarball))?;
    let mut hash = Sha512::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed("read", tarball))? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let actual = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
    if actual == package.sha512 {
        Ok(())
    } else {
        Err(LibraryError::Integrity {
            package: package.name,
            expected: package.sha512,
            actual,
        })
    }
}

/// Unpacks the library, and nothing else, beside the tarball.
fn unpack(
    package: &Package,
    tarball: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, LibraryError> {
    let file = File::open(tarball).map_err(failed("open", tarball))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
    let wanted = Path::new("package").join(FILE_NAME);
    for entry in archive.entries().map_err(failed("read", tarball))? {
        let mut entry = entry.map_err(failed("read", tarball))?;
        if entry.path().is_ok_and(|path| path != wanted) {
            continue;
        }
        let total = entry.size().min(MAX_LIBRARY_BYTES);
        let path = tarball.with_file_name(FILE_NAME);
        let mut out = File::create(&path).map_err(failed("create", &path))?;
        let mut buffer = vec![0; 4 << 20];
        let mut done = 0;
        while done < total {
            progress(Progress::Unpacking { done, total });
            let count = entry.read(&mut buffer).map_err(failed("read", tarball))?;
            if count == 0 {
                return Err(failed("read", tarball)(io::ErrorKind::UnexpectedEof.into()));
            }
            out.write_all(&buffer[..count])
                .map_err(failed("write", &path))?;
            done += count as u64;
        }
        progress(Progress::Unpacking { done, total });
        out.sync_all().map_err(failed("sync", &path))?;
        return Ok(path);
    }
    Err(LibraryError::Empty(package.name))
}

/// Shows [`Progress`] on standard error: a bar on a terminal, a line now and then elsewhere.
pub struct Reporter {
    bar: Option<indicatif::ProgressBar>,
    said: Option<u64>,
}

impl Reporter {
    /// A reporter for this process's standard error.
    #[must_use]
    pub fn stderr() -> Self {
        use std::io::IsTerminal as _;
        let bar = io::stderr()
            .is_terminal()
            .then(indicatif::ProgressBar::no_length);
        Self { bar, said: None }
    }

    /// Shows one step.
    pub fn report(&mut self, progress: Progress) {
        match self.bar.clone() {
            Some(bar) => self.draw(&bar, progress),
            None => self.say(progress),
        }
    }

    fn draw(&mut self, bar: &indicatif::ProgressBar, progress: Progress) {
        let style = |template| {
            indicatif::ProgressStyle::with_template(template)
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar())
        };
        match progress {
            Progress::Waiting => bar.set_message("waiting for another process to fetch ClickHouse"),
            Progress::Downloading { .. } => {
                if self.said.is_none() {
                    bar.set_style(style("{spinner} downloading ClickHouse (178 MB) {elapsed}"));
                    self.said = Some(0);
                }
                bar.tick();
            }
            Progress::Unpacking { done, total } => {
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    bar.set_style(style(
                        "unpacking ClickHouse [{bar:40}] {bytes}/{total_bytes}",
                    ));
                }
                bar.set_position(done);
            }
            Progress::Done => bar.finish_and_clear(),
        }
    }

    /// A line every ten seconds of download and every tenth of the unpacking.
    fn say(&mut self, progress: Progress) {
        let (step, text) = match progress {
            Progress::Waiting => (
                0,
                "waiting for another process to fetch ClickHouse".to_owned(),
            ),
            Progress::Downloading { elapsed } => {
                let tens = elapsed.as_secs() / 10;
                (
                    1 + tens,
                    format!("downloading ClickHouse (178 MB), {} s", tens * 10),
                )
            }
            Progress::Unpacking { done, total } => {
                let tenths = (done * 10).checked_div(total).unwrap_or(10);
                (
                    1_000_000 + tenths,
                    format!("unpacking ClickHouse, {} %", tenths * 10),
                )
            }
            Progress::Done => (2_000_000, "ClickHouse is in its place".to_owned()),
        };
        if self.said != Some(step) {
            self.said = Some(step);
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::LazyLock;

    /// Stands for npm: packs whatever name is asked for, but not `missing`. Written once, before
    /// any process is spawned: a script that is open for writing cannot be run.
    static NPM: LazyLock<(tempfile::TempDir, String)> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let tarball = dir.path().join("package.tgz");
        std::fs::write(&tarball, TARBALL.0.as_slice()).unwrap();
        let script = dir.path().join("npm");
        let text = format!(
            "#!/bin/sh\necho x >> ../../runs\ncase \"$6\" in missing*) echo E404 not found >&2; \
             exit 1;; esac\ncp {} made.tgz\n",
            tarball.display()
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = script.to_str().unwrap().to_owned();
        (dir, path)
    });

    const LIBRARY: &[u8] = b"not really a library";

    /// A package as npm packs it, and the hash of it.
    static TARBALL: LazyLock<(Vec<u8>, &'static str)> = LazyLock::new(|| {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(gzip);
        for (name, data) in [("index.js", b"module" as &[u8]), (FILE_NAME, LIBRARY)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            let path = Path::new("package").join(name);
            archive.append_data(&mut header, path, data).unwrap();
        }
        let tarball = archive.into_inner().unwrap().finish().unwrap();
        let hash = base64::engine::general_purpose::STANDARD.encode(Sha512::digest(&tarball));
        (tarball, hash.leak())
    });

    fn package(name: &'static str, sha512: &'static str) -> Package {
        Package {
            os: "any",
            arch: "any",
            name,
            sha512,
        }
    }

    fn runs(cache: &Path) -> usize {
        let runs = std::fs::read_to_string(cache.join(format!("chdb-{VERSION}/../runs")));
        runs.unwrap_or_default().lines().count()
    }

    #[test]
    fn many_at_once_fetch_it_once() {
        let cache = tempfile::tempdir().unwrap();
        let good = package("good", TARBALL.1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let path = ensure_in(cache.path(), &good, &NPM.1, &mut |_| {}).unwrap();
                    assert_eq!(std::fs::read(path).unwrap(), LIBRARY);
                });
            }
        });
        assert_eq!(runs(cache.path()), 1);
        let folder = cache.path().join(format!("chdb-{VERSION}"));
        let mut left: Vec<_> = entries(&folder);
        left.sort();
        assert_eq!(left, [FILE_NAME, "lock"]);
    }

    fn entries(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_package_of_another_hash_is_thrown_away() {
        let cache = tempfile::tempdir().unwrap();
        let wrong = package("good", "AAAA");
        let error = ensure_in(cache.path(), &wrong, &NPM.1, &mut |_| {}).unwrap_err();
        assert!(matches!(error, LibraryError::Integrity { .. }), "{error}");
        assert_eq!(
            entries(&cache.path().join(format!("chdb-{VERSION}"))),
            ["lock"]
        );
    }

    #[test]
    fn what_npm_says_is_passed_on() {
        let cache = tempfile::tempdir().unwrap();
        let missing = package("missing", TARBALL.1);
        let error = ensure_in(cache.path(), &missing, &NPM.1, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("E404 not found"), "{error}");
    }

    #[test]
    fn without_npm_the_error_says_what_to_install() {
        let cache = tempfile::tempdir().unwrap();
        let good = package("good", TARBALL.1);
        let error = ensure_in(cache.path(), &good, "no-such-npm", &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("install Node.js"), "{error}");
    }

    #[test]
    fn progress_ends_at_the_whole_library() {
        let cache = tempfile::tempdir().unwrap();
        let good = package("good", TARBALL.1);
        let mut steps = Vec::new();
        ensure_in(cache.path(), &good, &NPM.1, &mut |step| steps.push(step)).unwrap();
        let total = LIBRARY.len() as u64;
        let unpacked = Progress::Unpacking { done: total, total };
        assert!(matches!(steps.first(), Some(Progress::Downloading { .. })));
        assert_eq!(steps[steps.len() - 2..], [unpacked, Progress::Done]);
    }
}

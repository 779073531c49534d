//! Who may send, and read: tenants with their write keys, origins, salt, limits and read tokens.
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

pub use file::{
    KeyEntry, LimitsEntry, ReadToken, SnippetEntry, TenantEntry, TenantsFile, WriteKey, new_tenant,
};
pub use snapshot::{Grant, ReadGrant, Snapshot, Tenant, WriteKeyError};

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
pub struct Fingerprint {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl Fingerprint {
    /// What the file looks like now.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let data = std::fs::metadata(path)?;
        Ok(Self {
            modified: data.modified()?,
            bytes: data.len(),
            inode: data.ino(),
        })
    }
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
        let seen = Fingerprint::of(&path).map_err(|error| TenantsError::Read {
            path: path.clone(),
            error,
        })?;
        let snapshot = Snapshot::new(&TenantsFile::read(&path)?, &Snapshot::default())
            .map_err(|error| error.of(&path))?;
        Ok(Self {
            path,
            current: ArcSwap::from_pointee(snapshot),
            seen: Mutex::new(Some(seen)),
        })
    }

    /// The same, but a file that is not there is one without tenants: they come when it does.
    pub fn load_if_there(path: impl Into<PathBuf>) -> Result<Self, TenantsError> {
        let path = path.into();
        if path.exists() {
            return Self::load(path);
        }
        Ok(Self {
            path,
            current: ArcSwap::default(),
            seen: Mutex::new(None),
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
        let now = Fingerprint::of(&self.path).ok();
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
    /// The file is not such that it could be changed so.
    #[error("the tenants file {path} {fault}")]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why not.
        fault: String,
    },
    /// The file is no TOML, or has keys or types that are not known.
    #[error("tenants file {path}, {place}: {fault}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, and the key on it if there is one.
        place: String,
        /// What is wrong. No values: they may be secrets.
        fault: String,
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ENTRY: &str = r#"
        id = "acme"
        salt = "0123456789abcdef"
    "#;

    fn load(text: &str) -> Result<Tenants, TenantsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Tenants::load(file.path())
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let tenants = load(&format!("[[tenant]]{ENTRY}")).unwrap().snapshot();
        let tenant = tenants.get("acme").unwrap();
        assert_eq!(tenant.conversation_timeout, Duration::from_secs(24 * 3600));
        assert_eq!(tenant.limits, LimitsEntry::default());
        assert!(!tenant.allows("https://www.acme.example"));
    }

    #[test]
    fn a_file_without_tenants_is_where_one_begins() {
        assert_eq!(
            load("# none yet\n").unwrap().snapshot().tenants().count(),
            0
        );
    }

    #[test]
    fn errors_name_the_key_and_show_no_secret() {
        let digest = "0".repeat(64);
        let secret = "cpw_somebody-put-the-key-here";
        for (text, key) in [
            (format!("{ENTRY} colour = 1"), "colour"),
            (format!("{ENTRY} limits = {{ burts = 1 }}"), "burts"),
            (
                format!("{ENTRY} limits = {{ burst = 0 }}"),
                "line 5, limits",
            ),
            (
                format!("{ENTRY} limits = {{ max_item_bytes = 900000 }}"),
                "limits.max_item_bytes",
            ),
            (
                format!("{ENTRY} conversation_timeout = \"soon\""),
                "conversation_timeout",
            ),
            (
                format!("{ENTRY} conversation_timeout = \"0s\""),
                "conversation_timeout",
            ),
            (
                format!("{ENTRY} allowed_origins = [\"*\", \"x\"]"),
                "tenant[0].allowed_origins[1]",
            ),
            (
                "id = \"Acme\"\nsalt = \"0123456789abcdef\"".into(),
                "tenant[0].id",
            ),
            (
                "id = \"\"\nsalt = \"0123456789abcdef\"".into(),
                "tenant[0].id",
            ),
            (
                "id = \"acme\"\nsalt = \"short-secret\"".into(),
                "tenant[0].salt",
            ),
            ("id = \"acme\"".into(), "salt"),
            ("id = \"acme\"\nsalt = 42424242".into(), "line 3, salt"),
            (
                format!("{ENTRY} allowed_origins = \"{secret}\""),
                "allowed_origins",
            ),
            (
                format!("{ENTRY} conversation_timeout = \"{secret}\""),
                "conversation_timeout",
            ),
            (
                format!("{ENTRY} write_keys = \"{secret}"),
                "line 5, write_keys",
            ),
            (format!("{ENTRY} [[tenant]] {ENTRY}"), "tenant[1].id"),
            (
                format!("{ENTRY} write_keys = [{{ id = \"web\", sha256 = \"{secret}\" }}]"),
                "tenant[0].write_keys[0].sha256",
            ),
            (
                format!("{ENTRY} write_keys = [{{ id = \"\", sha256 = \"{digest}\" }}]"),
                "tenant[0].write_keys[0].id",
            ),
            (
                format!(
                    "{ENTRY} write_keys = [{{ id = \"a\", sha256 = \"{digest}\" }}, \
                     {{ id = \"b\", sha256 = \"{digest}\" }}]"
                ),
                "tenant[0].write_keys[1].sha256",
            ),
            (
                format!(
                    "{ENTRY} write_keys = [{{ id = \"a\", sha256 = \"{digest}\" }}, \
                     {{ id = \"a\", sha256 = \"{}\" }}]",
                    "1".repeat(64)
                ),
                "tenant[0].write_keys[1].id",
            ),
        ] {
            let text = format!(
                "[[tenant]]\n{}",
                text.replace("[[tenant]]", "\n[[tenant]]\n")
            );
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
            assert!(
                !error.contains(secret) && !error.contains("short-secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_new_tenant_is_appended_to_a_file_that_keeps_its_comments_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        let (first, first_key) = new_tenant("acme").unwrap();
        TenantsFile::append(&path, &first).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# ours\n{}", text.trim_end())).unwrap();
        let (second, second_key) = new_tenant("other").unwrap();
        TenantsFile::append(&path, &second).unwrap();

        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ours\n"));
        assert!(!text.contains(first_key.expose()) && !text.contains(second_key.expose()));
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let tenants = Tenants::load(&path).unwrap().snapshot();
        for (key, id) in [(&first_key, "acme"), (&second_key, "other")] {
            let grant = tenants.authenticate(key.expose()).unwrap();
            assert_eq!(
                (grant.tenant.id.as_str(), grant.key_id.as_str()),
                (id, "web")
            );
        }
        assert_eq!(
            tenants.authenticate("cpw_").unwrap_err(),
            WriteKeyError::Unknown
        );
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn a_read_token_is_added_to_its_tenant_and_the_rest_of_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        let before = format!(
            "# ours\n[[tenant]]{ENTRY}# first\n[tenant.limits]\nburst = 7 # few\n\n\
             [[tenant]]{}read_tokens = [{{ id = \"read\", sha256 = \"{}\", revoked = true }}]\n# end\n",
            ENTRY.replace("acme", "other"),
            "0".repeat(64)
        );
        std::fs::write(&path, &before).unwrap();
        let add = |tenant, id| TenantsFile::add_read_token(&path, tenant, id);
        let tokens = [
            add("acme", None).unwrap(),
            add("acme", None).unwrap(),
            add("other", None).unwrap(),
            add("other", Some("support")).unwrap(),
        ];
        let ids = tokens.each_ref().map(|token| token.id.as_str());
        assert_eq!(ids, ["read", "read-2", "read-2", "support"]);
        for (tenant, id, fault) in [
            ("nobody", None, "no tenant \"nobody\""),
            ("acme", Some("read"), "--id"),
            ("acme", Some("Not A Name"), "read_tokens[2].id"),
        ] {
            let error = add(tenant, id).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }

        let text = std::fs::read_to_string(&path).unwrap();
        for line in before.lines().filter(|line| !line.contains("read_tokens")) {
            assert!(text.contains(line), "{line:?} is gone: {text}");
        }
        let snapshot = Tenants::load(&path).unwrap().snapshot();
        let granted: Vec<_> = snapshot
            .read_tokens()
            .map(|grant| (grant.tenant.to_string(), grant.sha256, grant.revoked))
            .collect();
        assert_eq!(granted.len(), 5);
        for (token, tenant) in tokens.iter().zip(["acme", "acme", "other", "other"]) {
            assert!(token.expose().starts_with("cpr_") && token.expose().len() == 52);
            assert!(!text.contains(token.expose()));
            assert!(!format!("{token:?}").contains(token.expose()));
            let hash = file::hash(token.expose());
            assert!(granted.contains(&(tenant.to_owned(), hash, false)));
            assert_eq!(
                snapshot.authenticate(token.expose()).unwrap_err(),
                WriteKeyError::Unknown,
                "a read token writes nothing"
            );
        }
        assert!(granted.contains(&("other".to_owned(), [0; 32], true)));
    }

    #[test]
    fn one_secret_is_not_a_key_and_a_token_at_once() {
        let digest = "0".repeat(64);
        let error = load(&format!(
            "[[tenant]]{ENTRY} write_keys = [{{ id = \"a\", sha256 = \"{digest}\" }}]
             read_tokens = [{{ id = \"a\", sha256 = \"{digest}\" }}]"
        ));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("tenant[0].read_tokens[0].sha256"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_yet_has_no_tenants_until_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        let tenants = Tenants::load_if_there(&path).unwrap();
        assert_eq!(tenants.reload().unwrap(), Reload::Unchanged);
        std::fs::write(&path, format!("[[tenant]]{ENTRY}")).unwrap();
        assert_eq!(tenants.reload().unwrap(), Reload::Applied);
        assert!(tenants.snapshot().get("acme").is_some());
    }

    #[test]
    fn a_tenant_is_not_added_twice_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not there yet").join("tenants.toml");
        let (entry, _) = new_tenant("acme").unwrap();
        TenantsFile::append(&path, &entry).unwrap();
        let before = std::fs::read(&path).unwrap();
        let (again, _) = new_tenant("acme").unwrap();
        let error = TenantsFile::append(&path, &again).unwrap_err().to_string();
        assert!(error.contains("tenant[1].id"), "{error}");
        let (bad, _) = new_tenant("Not A Name").unwrap();
        TenantsFile::append(&path, &bad).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn keys_and_salts_are_fresh_and_stay_out_of_debug_output() {
        let (one, one_key) = new_tenant("acme").unwrap();
        let (two, two_key) = new_tenant("acme").unwrap();
        assert!(one_key.expose() != two_key.expose() && one.salt != two.salt);
        assert!(one_key.expose().starts_with("cpw_") && one_key.expose().len() == 52);
        let shown = format!("{one:?} {one_key:?}");
        assert!(!shown.contains(&one.salt) && !shown.contains(one_key.expose()));
    }

    #[test]
    fn a_reload_keeps_the_level_of_a_bucket_whose_limits_stay_and_what_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        let limited = |burst: u32| {
            format!("[[tenant]]{ENTRY}limits = {{ requests_per_second = 1, burst = {burst} }}")
        };
        std::fs::write(&path, limited(1)).unwrap();
        let tenants = Tenants::load(&path).unwrap();
        let take = || tenants.snapshot().get("acme").unwrap().take_request();
        take().unwrap();
        assert!(take().unwrap_err() <= Duration::from_secs(1));
        assert_eq!(tenants.reload().unwrap(), Reload::Unchanged);

        std::fs::write(&path, format!("# longer\n{}", limited(1))).unwrap();
        assert_eq!(tenants.reload().unwrap(), Reload::Applied);
        take().unwrap_err();
        std::fs::write(&path, format!("# still longer\n{}", limited(2))).unwrap();
        assert_eq!(tenants.reload().unwrap(), Reload::Applied);
        take().unwrap();

        let holdings = || Arc::clone(&tenants.snapshot().get("acme").unwrap().holdings);
        let before = holdings();
        std::fs::write(&path, limited(300)).unwrap();
        assert_eq!(tenants.reload().unwrap(), Reload::Applied);
        assert!(Arc::ptr_eq(&before, &holdings()));
    }

    #[test]
    fn a_broken_file_is_reported_once_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenants.toml");
        std::fs::write(&path, format!("[[tenant]]{ENTRY}")).unwrap();
        let tenants = Tenants::load(&path).unwrap();
        for broken in ["[[tenant]", ""] {
            std::fs::write(&path, broken).unwrap();
            tenants.reload().unwrap_err();
            assert_eq!(tenants.reload().unwrap(), Reload::Unchanged);
            assert!(tenants.snapshot().get("acme").is_some());
        }
        std::fs::remove_file(&path).unwrap();
        tenants.reload().unwrap_err();
        assert_eq!(tenants.reload().unwrap(), Reload::Unchanged);
        std::fs::write(&path, format!("[[tenant]]{}", ENTRY.replace("acme", "new"))).unwrap();
        assert_eq!(tenants.reload().unwrap(), Reload::Applied);
        assert!(tenants.snapshot().get("acme").is_none());
    }
}

//! The tenants file as it stands on disk.

use std::{
    fmt,
    io::Write as _,
    num::{NonZeroU32, NonZeroUsize},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Snapshot, TenantsError};

/// The whole file: `[[tenant]]` tables.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantsFile {
    /// Every tenant.
    #[serde(default)]
    pub tenant: Vec<TenantEntry>,
}

/// One tenant.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    /// Name in every record, row and report: `[a-z0-9][a-z0-9_-]{0,62}`. Never reuse one.
    pub id: String,
    /// Secret of at least 16 bytes under which personal identifiers are pseudonymised. Changing
    /// it makes every visitor a new one.
    pub salt: String,
    /// Origins whose pages may send: `https://host[:port]`, `https://*.domain[:port]`, `*`.
    /// Requests without an `Origin` header (servers) are not concerned.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// Silence after which a conversation counts as closed, e.g. `24h`.
    #[serde(
        default = "day",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub conversation_timeout: Duration,
    /// Keys that may write for this tenant.
    #[serde(default)]
    pub write_keys: Vec<KeyEntry>,
    /// Tokens that may read this tenant's reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read_tokens: Vec<KeyEntry>,
    /// Limits; what is left out has the default.
    #[serde(default)]
    pub limits: LimitsEntry,
    /// The page snippet; what is left out has the default.
    #[serde(default)]
    pub snippet: SnippetEntry,
    /// Where its events are delivered: read and checked by the deliverer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<toml::Table>,
}

/// One write key or read token, known by its hash only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Name, of the form of a tenant's id: of a write key in records; unique among the write keys,
    /// or the read tokens, of its tenant.
    pub id: String,
    /// SHA-256 of the key, hex.
    pub sha256: String,
    /// A revoked key is refused, and told apart from one that never was.
    #[serde(default)]
    pub revoked: bool,
}

/// What a tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsEntry {
    /// Requests per second in the long run.
    pub requests_per_second: NonZeroU32,
    /// Requests that may come at once after a pause.
    pub burst: NonZeroU32,
    /// Size of one item; bytes.
    pub max_item_bytes: NonZeroUsize,
}

/// How the page snippet behaves on the tenant's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnippetEntry {
    /// Do nothing in a browser that is set to Do Not Track or Global Privacy Control.
    pub respect_opt_out: bool,
    /// Keep the session, and events that are not sent yet, in the browser's storage of the page's own
    /// origin. Without it a session is one page, and what is not sent is lost with the page.
    pub storage: bool,
}

impl Default for SnippetEntry {
    fn default() -> Self {
        Self {
            respect_opt_out: true,
            storage: true,
        }
    }
}

impl Default for LimitsEntry {
    fn default() -> Self {
        const fn some(n: u32) -> NonZeroU32 {
            match NonZeroU32::new(n) {
                Some(n) => n,
                None => NonZeroU32::MIN,
            }
        }
        Self {
            requests_per_second: some(1_000),
            burst: some(2_000),
            max_item_bytes: NonZeroUsize::MIN.saturating_add(64 * 1024 - 1),
        }
    }
}

fn day() -> Duration {
    Duration::from_secs(24 * 60 * 60)
}

/// The salt stays out of logs.
impl fmt::Debug for TenantEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantEntry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A write key in plain text. It exists where it is made, and at the sender; here it is known by
/// its hash.
pub struct WriteKey(String);

impl WriteKey {
    /// The key itself, to be handed to its owner and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WriteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteKey(…)")
    }
}

/// A read token in plain text. It exists where it is made, and at the reader; here it is known by
/// its hash.
pub struct ReadToken {
    /// Its name among the read tokens of its tenant.
    pub id: String,
    token: String,
}

impl ReadToken {
    /// The token itself, to be handed to its owner and to nobody else.
    pub fn expose(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for ReadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The hash under which a key is known.
pub(super) fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// A tenant with a fresh salt and one fresh write key, `web`. The key cannot be had again.
pub fn new_tenant(id: &str) -> Result<(TenantEntry, WriteKey), TenantsError> {
    let key = WriteKey(format!("cpw_{}", random_hex::<24>()?));
    let entry = TenantEntry {
        id: id.to_owned(),
        salt: random_hex::<32>()?,
        allowed_origins: Vec::new(),
        conversation_timeout: day(),
        write_keys: vec![KeyEntry {
            id: "web".to_owned(),
            sha256: hex::encode(hash(key.expose())),
            revoked: false,
        }],
        read_tokens: Vec::new(),
        limits: LimitsEntry::default(),
        snippet: SnippetEntry::default(),
        destinations: Vec::new(),
    };
    Ok((entry, key))
}

fn random_hex<const N: usize>() -> Result<String, TenantsError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(TenantsError::Random)?;
    Ok(hex::encode(bytes))
}

impl TenantsFile {
    /// Reads and types the file; what the values mean is checked by [`Snapshot`].
    pub(super) fn read(path: &Path) -> Result<Self, TenantsError> {
        let text = std::fs::read_to_string(path).map_err(|error| TenantsError::Read {
            path: path.into(),
            error,
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, TenantsError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            TenantsError::Syntax {
                path: path.into(),
                place: place(text, at),
                fault: without_value(error.message()),
            }
        })
    }

    /// Adds a tenant at the end of the file, which is made if it is not there; what stands in it
    /// stays as it is, comments included. The new file is checked as a whole, then replaces the
    /// old one in one step, readable by its owner alone.
    pub fn append(path: &Path, entry: &TenantEntry) -> Result<(), TenantsError> {
        let mut text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(TenantsError::Read {
                    path: path.into(),
                    error,
                });
            }
        };
        let added = toml::to_string(&Self {
            tenant: vec![entry.clone()],
        })
        .map_err(|error| TenantsError::Write {
            path: path.into(),
            error: std::io::Error::other(error),
        })?;
        if !text.is_empty() {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        text.push_str(&added);
        Self::put(path, &text)
    }

    /// Gives a tenant a fresh read token of that name, or else of the first free one of `read`,
    /// `read-2` and so on. What stands in the file stays as it is, comments included; the new file is
    /// checked and replaced as by [`TenantsFile::append`]. The token cannot be had again.
    pub fn add_read_token(
        path: &Path,
        tenant: &str,
        id: Option<&str>,
    ) -> Result<ReadToken, TenantsError> {
        let unchanged = |fault: String| TenantsError::Edit {
            path: path.into(),
            fault,
        };
        let file = Self::read(path)?;
        let entry = file.tenant.iter().find(|entry| entry.id == tenant);
        let entry = entry.ok_or_else(|| unchanged(format!("has no tenant {tenant:?}")))?;
        let taken = |id: &str| entry.read_tokens.iter().any(|token| token.id == id);
        let id = match id {
            Some(id) if taken(id) => {
                return Err(unchanged(format!(
                    "tenant {tenant} has a read token {id:?} already; give it another --id"
                )));
            }
            Some(id) => id.to_owned(),
            None => std::iter::once("read".to_owned())
                .chain((2..).map(|n| format!("read-{n}")))
                .find(|id| !taken(id))
                .unwrap_or_default(),
        };
        let token = ReadToken {
            id,
            token: format!("cpr_{}", random_hex::<24>()?),
        };

        let text = std::fs::read_to_string(path).map_err(|error| TenantsError::Read {
            path: path.into(),
            error,
        })?;
        // It was read as TOML just now.
        let mut document: toml_edit::DocumentMut = (text.parse())
            .map_err(|_| unchanged("was changed at this very moment; try again".to_owned()))?;
        let added = toml_edit::Table::from_iter([
            ("id", token.id.clone()),
            ("sha256", hex::encode(hash(token.expose()))),
        ]);
        let tables = document
            .get_mut("tenant")
            .and_then(|item| item.as_array_of_tables_mut());
        let table = tables.and_then(|tables| {
            let id = |table: &toml_edit::Table| table.get("id")?.as_str().map(str::to_owned);
            tables
                .iter_mut()
                .find(|table| id(table).as_deref() == Some(tenant))
        });
        let tokens = table.map(|table| {
            table
                .entry("read_tokens")
                .or_insert_with(|| toml_edit::Item::ArrayOfTables(toml_edit::ArrayOfTables::new()))
        });
        match tokens {
            Some(toml_edit::Item::ArrayOfTables(tokens)) => tokens.push(added),
            Some(toml_edit::Item::Value(toml_edit::Value::Array(tokens))) => {
                tokens.push(added.into_inline_table());
            }
            _ => {
                return Err(unchanged(
                    "must have its tenants as [[tenant]] tables for a token to be added".to_owned(),
                ));
            }
        }
        Self::put(path, &document.to_string())?;
        Ok(token)
    }

    /// Checks a new text of the file as a whole, then puts it in place of the old one.
    fn put(path: &Path, text: &str) -> Result<(), TenantsError> {
        Snapshot::new(&Self::parse(text, path)?, &Snapshot::default())
            .map_err(|invalid| invalid.of(path))?;
        replace(path, text.as_bytes()).map_err(|error| TenantsError::Write {
            path: path.into(),
            error,
        })
    }
}

/// The line of a fault, from 1, and its key. The rest of the line may be a secret.
fn place(text: &str, at: usize) -> String {
    let before = &text[..at];
    let number = 1 + before.matches('\n').count();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    match line.split_once('=') {
        Some((key, _)) => format!("line {number}, {}", key.trim()),
        None => format!("line {number}"),
    }
}

/// A message of the TOML reader without the value that it quotes.
fn without_value(message: &str) -> String {
    match (message.split_once(": "), message.rsplit_once(", expected ")) {
        (Some((fault @ ("invalid type" | "invalid value"), _)), Some((_, expected))) => {
            format!("{fault}, expected {expected}")
        }
        _ => message.to_owned(),
    }
}

/// Writes a file, and its folder where that is missing, so that a reader sees the old or the new one, and a crash leaves one of them.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    // tempfile makes its files with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()
}

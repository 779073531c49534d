//! The tenants of one version of the file, validated and laid out for requests.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use chatpulse_model::source::Pseudonyms;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};

use super::{
    Invalid,
    file::{KeyEntry, LimitsEntry, SnippetEntry, TenantEntry, TenantsFile, hash},
};
use crate::{origin::OriginPattern, share::Holdings};

/// An item of this size still is a record that every broker takes with its default settings
/// (1 MB), context and Avro included.
const MAX_ITEM_BYTES: usize = 512 * 1024;
const MAX_NAME_BYTES: usize = 63;

/// A version of the tenants, never changed once made.
#[derive(Debug, Default)]
pub struct Snapshot {
    by_id: BTreeMap<String, Arc<Tenant>>,
    by_key: HashMap<[u8; 32], KeyOwner>,
    read_tokens: HashMap<[u8; 32], ReadGrant>,
}

/// A read token, known by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadGrant {
    /// Tenant that it reads.
    pub tenant: Arc<str>,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// A revoked token is refused, and told apart from one that never was.
    pub revoked: bool,
}

#[derive(Debug)]
struct KeyOwner {
    tenant: Arc<Tenant>,
    key_id: String,
    revoked: bool,
}

/// A tenant as requests see it.
pub struct Tenant {
    /// Name in every record.
    pub id: String,
    /// Silence after which a conversation counts as closed.
    pub conversation_timeout: Duration,
    /// What the tenant may send.
    pub limits: LimitsEntry,
    /// How the page snippet behaves on its pages.
    pub snippet: SnippetEntry,
    pub(crate) pseudonyms: Pseudonyms,
    origins: Vec<OriginPattern>,
    limiter: Arc<DefaultDirectRateLimiter>,
    pub(crate) holdings: Arc<Holdings>,
}

/// Neither salt nor origins in logs: the id says it all.
impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenant")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A write key that was found good.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Whose key it is.
    pub tenant: Arc<Tenant>,
    /// The key's name.
    pub key_id: String,
    /// Whether there is no other tenant to share anything with.
    pub alone: bool,
}

/// Why a write key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKeyError {
    /// No tenant has such a key.
    Unknown,
    /// The key was taken back.
    Revoked,
}

impl Snapshot {
    /// Validates a file. A tenant whose limits did not change keeps the level of its bucket.
    pub(super) fn new(file: &TenantsFile, before: &Self) -> Result<Self, Invalid> {
        // An editor that writes in place leaves the file empty for a moment.
        if file.tenant.is_empty() && !before.by_id.is_empty() {
            let fault = "none is left; to stop all of them, revoke their keys";
            return Err(Invalid::new("tenant", fault));
        }
        let mut snapshot = Self::default();
        for (index, entry) in file.tenant.iter().enumerate() {
            let at = format!("tenant[{index}]");
            let tenant = Tenant::new(entry, &at, before)?;
            snapshot.add(tenant, entry, &at)?;
        }
        Ok(snapshot)
    }

    fn add(&mut self, tenant: Tenant, entry: &TenantEntry, at: &str) -> Result<(), Invalid> {
        let tenant = Arc::new(tenant);
        if self
            .by_id
            .insert(entry.id.clone(), Arc::clone(&tenant))
            .is_some()
        {
            return Err(Invalid::new(
                format!("{at}.id"),
                format!("{:?} is used twice", entry.id),
            ));
        }
        for (key, digest, at) in keys(&entry.write_keys, &format!("{at}.write_keys"))? {
            self.check_new(&digest, &at)?;
            let owner = KeyOwner {
                tenant: Arc::clone(&tenant),
                key_id: key.id.clone(),
                revoked: key.revoked,
            };
            self.by_key.insert(digest, owner);
        }
        for (token, digest, at) in keys(&entry.read_tokens, &format!("{at}.read_tokens"))? {
            self.check_new(&digest, &at)?;
            self.read_tokens.insert(
                digest,
                ReadGrant {
                    tenant: entry.id.as_str().into(),
                    sha256: digest,
                    revoked: token.revoked,
                },
            );
        }
        Ok(())
    }

    fn check_new(&self, digest: &[u8; 32], at: &str) -> Result<(), Invalid> {
        match self.by_key.contains_key(digest) || self.read_tokens.contains_key(digest) {
            true => Err(Invalid::new(
                format!("{at}.sha256"),
                "stands for another key or token already; each needs its own secret",
            )),
            false => Ok(()),
        }
    }

    /// Every read token, of all tenants.
    pub fn read_tokens(&self) -> impl Iterator<Item = &ReadGrant> {
        self.read_tokens.values()
    }

    /// Finds the owner of a write key by the key's hash, so that nothing secret is compared.
    pub fn authenticate(&self, write_key: &str) -> Result<Grant, WriteKeyError> {
        let owner = self
            .by_key
            .get(&hash(write_key))
            .ok_or(WriteKeyError::Unknown)?;
        if owner.revoked {
            return Err(WriteKeyError::Revoked);
        }
        Ok(Grant {
            tenant: Arc::clone(&owner.tenant),
            key_id: owner.key_id.clone(),
            alone: self.by_id.len() == 1,
        })
    }

    /// The tenant of that id.
    pub fn get(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.by_id.get(id)
    }

    /// Every tenant, by id.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_id.values()
    }

    /// Whether pages of that origin may send for any tenant: all that a preflight can be asked.
    pub(crate) fn any_allows(&self, origin: &str) -> bool {
        self.by_id.values().any(|tenant| tenant.allows(origin))
    }
}

impl Tenant {
    fn new(entry: &TenantEntry, at: &str, before: &Snapshot) -> Result<Self, Invalid> {
        let invalid = |key: &str, fault: String| Invalid::new(format!("{at}.{key}"), fault);
        name(&entry.id).map_err(|fault| invalid("id", fault))?;
        let pseudonyms = Pseudonyms::new(entry.salt.as_bytes())
            .map_err(|error| invalid("salt", error.to_string()))?;
        if entry.limits.max_item_bytes.get() > MAX_ITEM_BYTES {
            return Err(invalid(
                "limits.max_item_bytes",
                format!("must be at most {MAX_ITEM_BYTES}"),
            ));
        }
        if entry.conversation_timeout.is_zero() {
            return Err(invalid(
                "conversation_timeout",
                "must be longer than 0".into(),
            ));
        }
        let pattern = |(index, text): (usize, &String)| {
            OriginPattern::parse(text)
                .map_err(|fault| invalid(&format!("allowed_origins[{index}]"), fault))
        };
        let origins = entry.allowed_origins.iter().enumerate().map(pattern);
        let limiter = match before.by_id.get(&entry.id) {
            Some(old) if old.limits == entry.limits => Arc::clone(&old.limiter),
            _ => Arc::new(RateLimiter::direct(
                Quota::per_second(entry.limits.requests_per_second).allow_burst(entry.limits.burst),
            )),
        };
        // What requests in flight hold stays held.
        let old = before.by_id.get(&entry.id);
        let holdings = old.map(|old| Arc::clone(&old.holdings));
        Ok(Self {
            id: entry.id.clone(),
            conversation_timeout: entry.conversation_timeout,
            limits: entry.limits,
            snippet: entry.snippet,
            pseudonyms,
            origins: origins.collect::<Result<_, _>>()?,
            limiter,
            holdings: holdings.unwrap_or_default(),
        })
    }

    /// Whether pages of that origin may send for this tenant.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|pattern| pattern.allows(origin))
    }

    /// Takes one request from the tenant's bucket; when it is empty, how long until the next.
    pub(crate) fn take_request(&self) -> Result<(), Duration> {
        self.limiter
            .check()
            .map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

/// An entry, its hash, and its place in the file.
type Placed<'e> = (&'e KeyEntry, [u8; 32], String);

/// The entries of a list, checked.
fn keys<'e>(entries: &'e [KeyEntry], at: &str) -> Result<Vec<Placed<'e>>, Invalid> {
    let mut keys: Vec<Placed<'_>> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("{at}[{index}]");
        name(&entry.id).map_err(|fault| Invalid::new(format!("{at}.id"), fault))?;
        if keys.iter().any(|(earlier, ..)| earlier.id == entry.id) {
            let fault = "is used twice in this tenant";
            return Err(Invalid::new(format!("{at}.id"), fault));
        }
        let digest =
            sha256(&entry.sha256).map_err(|fault| Invalid::new(format!("{at}.sha256"), fault))?;
        keys.push((entry, digest, at));
    }
    Ok(keys)
}

fn name(text: &str) -> Result<(), String> {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = bytes.first().is_some_and(|b| lower(*b))
        && bytes.len() <= MAX_NAME_BYTES
        && bytes.iter().all(|b| lower(*b) || matches!(b, b'_' | b'-'));
    if good {
        Ok(())
    } else {
        Err(format!(
            "{text:?} must be [a-z0-9][a-z0-9_-]*, at most {MAX_NAME_BYTES} long"
        ))
    }
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut digest = [0; 32];
    // The text is not quoted: someone may have put the key itself here.
    hex::decode_to_slice(text, &mut digest).map_err(|_| {
        "must be the SHA-256 as 64 hex digits, not the key or token itself".to_owned()
    })?;
    Ok(digest)
}

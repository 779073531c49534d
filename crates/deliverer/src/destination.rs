//! Where a tenant's events go: `[[tenant.destinations]]` in the tenants file, validated once.
//!
//! ```toml
//! [[tenant]]
//! id = "acme"
//! # …
//! [[tenant.destinations]]
//! id = "crm"
//! kind = "webhook"
//! url = "https://crm.acme.example/hooks/chat"
//! secrets = [{ env = "ACME_CRM_SECRET" }]        # two while one replaces the other
//! event_types = ["lead.qualified", "handoff.requested"]
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chatpulse_model::{DestinationKind, EventType, delivery::DestinationState};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::secret::{Secret, SecretPlace};

/// A destination as it stands in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationEntry {
    /// The tenant's own name for it: `[a-z0-9][a-z0-9_-]{0,62}`. Never reuse one.
    pub id: String,
    /// What kind of receiver it is.
    pub kind: DestinationKind,
    /// Webhook: the address. GA4 and Meta: another base address than the public one, for tests or a
    /// region (`https://region1.google-analytics.com`).
    #[serde(default)]
    pub url: Option<String>,
    /// Webhook: one signing secret (`whsec_…`), or two while one replaces the other. GA4: the API secret.
    /// Meta: the access token.
    #[serde(default)]
    pub secrets: Vec<SecretPlace>,
    /// Which neutral event types are sent; all where it is left out.
    #[serde(default)]
    pub event_types: Option<Vec<EventType>>,
    /// Whether anything is sent.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What must be known of the visitor's consent; see [`ConsentRule`].
    #[serde(default)]
    pub consent: Option<ConsentRule>,
    /// Requests under way at once, 1 to 64.
    #[serde(default = "four")]
    pub concurrency: usize,
    /// How long one attempt may take, `1s` to `60s`.
    #[serde(
        default = "fifteen_seconds",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub timeout: Duration,
    /// Webhook: send over plain HTTP, where everybody on the way can read and change it.
    #[serde(default)]
    pub allow_http: bool,
    /// GA4: the stream's `G-…`.
    #[serde(default)]
    pub measurement_id: Option<String>,
    /// Meta: the pixel's or data set's number.
    #[serde(default)]
    pub pixel_id: Option<String>,
    /// Meta: version of the Graph API, e.g. `v23.0`.
    #[serde(default)]
    pub api_version: Option<String>,
    /// Meta: events go to the test tool under this code, and count nowhere.
    #[serde(default)]
    pub test_event_code: Option<String>,
    /// GA4 and Meta: another event name for a type, e.g. Meta's standard event
    /// `"lead.qualified" = "Lead"`, where the receiver's policy allows.
    #[serde(default)]
    pub event_names: BTreeMap<EventType, String>,
}

/// What must be known of the visitor's consent before an event is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsentRule {
    /// Consent was accepted earlier in the same conversation, and not declined since. The default for GA4
    /// and Meta, whose receivers use what they get for purposes of their own. What is not known to be
    /// consented is withheld.
    Proven,
    /// The tenant answers for it (the page loads the widget only after consent, for example). What was
    /// visibly declined is withheld even so.
    Assumed,
    /// None is needed: the receiver is the tenant's own system. The default for webhooks.
    NotNeeded,
}

fn yes() -> bool {
    true
}

fn four() -> usize {
    4
}

fn fifteen_seconds() -> Duration {
    Duration::from_secs(15)
}

/// A validated destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Its name, unique in its tenant.
    pub id: Arc<str>,
    /// What is sent where.
    pub receiver: Receiver,
    /// Which events; `None` for all.
    pub event_types: Option<BTreeSet<EventType>>,
    /// What must be known of consent.
    pub consent: ConsentRule,
    /// Requests under way at once.
    pub concurrency: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// What is sent where.
#[derive(Clone, PartialEq, Eq)]
pub enum Receiver {
    /// Standard Webhooks.
    Webhook {
        /// The address, which may itself be a secret.
        url: Url,
        /// Signing keys, the newest first.
        keys: Vec<SigningKey>,
    },
    /// Measurement Protocol.
    Ga4 {
        /// Base address.
        base: Url,
        /// The stream.
        measurement_id: String,
        /// Its API secret.
        api_secret: Secret,
        /// Other event names.
        event_names: BTreeMap<EventType, String>,
    },
    /// Conversions API.
    Meta {
        /// Base address with the version.
        base: Url,
        /// The pixel.
        pixel_id: String,
        /// Its access token.
        access_token: Secret,
        /// Other event names.
        event_names: BTreeMap<EventType, String>,
        /// Test tool.
        test_event_code: Option<String>,
    },
}

/// Paths and secrets stay out of logs: a webhook's path is often its password.
impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("kind", &self.kind())
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

/// A key for webhook signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(pub(crate) Vec<u8>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The prefix of the specification.
const KEY_PREFIX: &str = "whsec_";

impl SigningKey {
    /// Reads `whsec_` and base64 of 24 to 64 bytes, as the specification recommends them.
    fn parse(secret: &Secret) -> Result<Self, String> {
        let fault = || {
            format!(
                "must be {KEY_PREFIX} followed by the base64 of 24 to 64 random bytes; make one with \
                 `printf {KEY_PREFIX}; openssl rand -base64 32`"
            )
        };
        let text = secret.reveal().strip_prefix(KEY_PREFIX).ok_or_else(fault)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| fault())?;
        if !(24..=64).contains(&bytes.len()) {
            return Err(fault());
        }
        Ok(Self(bytes))
    }
}

impl Receiver {
    /// Its kind.
    pub fn kind(&self) -> DestinationKind {
        match self {
            Self::Webhook { .. } => DestinationKind::Webhook,
            Self::Ga4 { .. } => DestinationKind::Ga4,
            Self::Meta { .. } => DestinationKind::Meta,
        }
    }

    fn url(&self) -> &Url {
        match self {
            Self::Webhook { url, .. } => url,
            Self::Ga4 { base, .. } | Self::Meta { base, .. } => base,
        }
    }

    /// Its host, which may be shown.
    pub fn host(&self) -> &str {
        self.url().host_str().unwrap_or_default()
    }

    /// A hash of where it points, to tell whether it is still the same receiver. No secret goes into it,
    /// so that a new secret is no new receiver.
    pub fn address(&self) -> String {
        let account = match self {
            Self::Webhook { .. } => "",
            Self::Ga4 { measurement_id, .. } => measurement_id,
            Self::Meta { pixel_id, .. } => pixel_id,
        };
        let digest = Sha256::digest(format!("{}\n{account}", self.url()));
        hex::encode(&digest[..16])
    }
}

impl Destination {
    /// Whether events of this type are sent.
    pub fn wants(&self, event_type: EventType) -> bool {
        self.event_types
            .as_ref()
            .is_none_or(|types| types.contains(&event_type))
    }

    /// The stable id of the delivery of an event.
    pub fn delivery_id(&self, source: &str, event_id: &str) -> String {
        delivery_id((&self.tenant, &self.id), (source, event_id))
    }

    /// What is to be said of it while nothing is wrong.
    pub fn healthy(&self) -> DestinationState {
        let types = self.event_types.iter().flatten();
        DestinationState {
            tenant: self.tenant.to_string(),
            destination: self.id.to_string(),
            kind: self.receiver.kind(),
            address: self.receiver.address(),
            event_types: types.map(|one| one.as_str().to_owned()).collect(),
            is_configured: true,
            failing_since: None,
            disabled_at: None,
            reason: None,
        }
    }

    /// Validates an entry. `read` gives the secret that a place holds.
    fn new(
        tenant: &str,
        entry: &DestinationEntry,
        read: &dyn Fn(&SecretPlace) -> Result<Secret, String>,
    ) -> Result<Self, Fault> {
        if !is_name(&entry.id) {
            return fault("id", "must match [a-z0-9][a-z0-9_-]{0,62}");
        }
        if !(1..=64).contains(&entry.concurrency) {
            return fault("concurrency", "must be 1 to 64");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&entry.timeout) {
            return fault("timeout", "must be 1s to 60s");
        }
        if entry.event_types.as_ref().is_some_and(Vec::is_empty) {
            return fault("event_types", "is empty: leave it out to send all types");
        }
        let secrets = entry
            .secrets
            .iter()
            .map(|place| read(place).map_err(|fault| Fault::new("secrets", fault)))
            .collect::<Result<Vec<_>, _>>()?;
        let receiver = receiver(entry, secrets)?;
        let consent = entry.consent.unwrap_or(match entry.kind {
            DestinationKind::Webhook => ConsentRule::NotNeeded,
            DestinationKind::Ga4 | DestinationKind::Meta => ConsentRule::Proven,
        });
        if entry.kind != DestinationKind::Webhook && consent == ConsentRule::NotNeeded {
            return fault(
                "consent",
                "a third party needs one: \"proven\", or \"assumed\" where the tenant answers for it",
            );
        }
        Ok(Self {
            tenant: tenant.into(),
            id: entry.id.as_str().into(),
            receiver,
            event_types: entry
                .event_types
                .as_ref()
                .map(|types| types.iter().copied().collect()),
            consent,
            concurrency: entry.concurrency,
            timeout: entry.timeout,
        })
    }
}

fn receiver(entry: &DestinationEntry, secrets: Vec<Secret>) -> Result<Receiver, Fault> {
    let base = |default: &str| match &entry.url {
        Some(url) => address(url, true),
        None => address(default, false),
    };
    let only_one = || match <[Secret; 1]>::try_from(secrets.clone()) {
        Ok([secret]) => Ok(secret),
        Err(_) => fault("secrets", "must name exactly one secret"),
    };
    for (is_set, key, kind) in [
        (
            entry.measurement_id.is_some(),
            "measurement_id",
            DestinationKind::Ga4,
        ),
        (entry.pixel_id.is_some(), "pixel_id", DestinationKind::Meta),
        (
            entry.api_version.is_some(),
            "api_version",
            DestinationKind::Meta,
        ),
        (
            entry.test_event_code.is_some(),
            "test_event_code",
            DestinationKind::Meta,
        ),
    ] {
        if is_set && kind != entry.kind {
            return fault(key, "is not for this kind of destination");
        }
    }
    match entry.kind {
        DestinationKind::Webhook => {
            if !entry.event_names.is_empty() {
                return fault("event_names", "is not for this kind of destination");
            }
            let Some(url) = &entry.url else {
                return fault("url", "is missing");
            };
            if !(1..=2).contains(&secrets.len()) {
                return fault(
                    "secrets",
                    "must name one secret, or two while one replaces the other",
                );
            }
            let keys = secrets
                .iter()
                .map(|secret| SigningKey::parse(secret).map_err(|text| Fault::new("secrets", text)))
                .collect::<Result<_, _>>()?;
            Ok(Receiver::Webhook {
                url: address(url, entry.allow_http)?,
                keys,
            })
        }
        DestinationKind::Ga4 => {
            let id = entry.measurement_id.clone().unwrap_or_default();
            let is_id = |id: &str| {
                id.strip_prefix("G-").is_some_and(|rest| {
                    (4..=20).contains(&rest.len())
                        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
                })
            };
            if !is_id(&id) {
                return fault("measurement_id", "must be the stream's G-…");
            }
            for name in entry.event_names.values() {
                crate::request::ga4::check_event_name(name)
                    .map_err(|fault| Fault::new("event_names", fault))?;
            }
            Ok(Receiver::Ga4 {
                base: base("https://www.google-analytics.com")?,
                measurement_id: id,
                api_secret: only_one()?,
                event_names: entry.event_names.clone(),
            })
        }
        DestinationKind::Meta => {
            let pixel_id = entry.pixel_id.clone().unwrap_or_default();
            if !(5..=20).contains(&pixel_id.len()) || !pixel_id.bytes().all(|b| b.is_ascii_digit())
            {
                return fault("pixel_id", "must be the pixel's number");
            }
            let version = entry
                .api_version
                .clone()
                .unwrap_or_else(|| "v23.0".to_owned());
            let is_version = version
                .strip_prefix('v')
                .and_then(|rest| rest.split_once('.'))
                .is_some_and(|(major, minor)| {
                    [major, minor].iter().all(|part| {
                        (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
                    })
                });
            if !is_version {
                return fault("api_version", "must look like v23.0");
            }
            for name in entry.event_names.values() {
                crate::request::meta::check_event_name(name)
                    .map_err(|fault| Fault::new("event_names", fault))?;
            }
            let mut base = base("https://graph.facebook.com")?;
            base.set_path(&format!("/{version}/"));
            Ok(Receiver::Meta {
                base,
                pixel_id,
                access_token: only_one()?,
                event_names: entry.event_names.clone(),
                test_event_code: entry.test_event_code.clone(),
            })
        }
    }
}

const WHOLE_ADDRESS: &str = "must be a whole address, as https://crm.acme.example/hooks/chat";

fn address(text: &str, allow_http: bool) -> Result<Url, Fault> {
    if text.len() > 2_048 {
        return fault("url", "is longer than 2,048 bytes");
    }
    // The parser's words do not quote the address.
    let url = Url::parse(text)
        .map_err(|error| Fault::new("url", format!("{WHOLE_ADDRESS} ({error})")))?;
    match url.scheme() {
        "https" => {}
        "http" if allow_http => {}
        "http" => {
            return fault(
                "url",
                "must be https: plain HTTP can be read and changed on the way; allow_http = true sends over it \
                 all the same",
            );
        }
        _ => return fault("url", WHOLE_ADDRESS),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return fault("url", "names no host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return fault("url", "must not hold user and password");
    }
    if url.fragment().is_some() {
        return fault("url", "must not have a fragment");
    }
    Ok(url)
}

fn is_name(id: &str) -> bool {
    let is_head = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&id.len())
        && id.bytes().next().is_some_and(is_head)
        && id
            .bytes()
            .all(|byte| is_head(byte) || byte == b'_' || byte == b'-')
}

/// The stable id of a delivery: a hash of tenant, destination, source and event id. Names have no
/// newline, and what is free text stands last.
pub fn delivery_id(
    (tenant, destination): (&str, &str),
    (source, event_id): (&str, &str),
) -> String {
    let parts = format!("{tenant}\n{destination}\n{source}\n{event_id}");
    format!("msg_{}", hex::encode(&Sha256::digest(parts)[..16]))
}

/// What is wrong with one key.
#[derive(Debug)]
struct Fault {
    key: &'static str,
    text: String,
}

impl Fault {
    fn new(key: &'static str, text: impl Into<String>) -> Self {
        Self {
            key,
            text: text.into(),
        }
    }
}

fn fault<T>(key: &'static str, text: &str) -> Result<T, Fault> {
    Err(Fault::new(key, text))
}

/// Why the destinations cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DestinationsError {
    /// The file cannot be read.
    #[error("cannot read the tenants file {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is no TOML, or has keys or types that are not known.
    #[error("tenants file {path}, line {line}: {fault}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        fault: String,
    },
    /// A value is not what it must be.
    #[error("tenants file {path}: destination {tenant}/{destination}, {key}: {fault}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Whose destination.
        tenant: String,
        /// Which.
        destination: String,
        /// Which key of it.
        key: &'static str,
        /// What is wrong. No secrets.
        fault: String,
    },
}

/// The part of the tenants file that is read here; the rest is the producer's.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    tenant: Vec<TenantPart>,
}

#[derive(Deserialize)]
struct TenantPart {
    id: String,
    #[serde(default)]
    destinations: Vec<DestinationEntry>,
}

/// Most destinations of one tenant.
const MAX_PER_TENANT: usize = 100;

/// The enabled destinations of a tenants file, with their secrets.
///
/// # Errors
/// [`DestinationsError`], which names the key that is wrong and what it must be, and shows no secret.
pub fn load(path: &Path) -> Result<Vec<Destination>, DestinationsError> {
    let text = std::fs::read_to_string(path).map_err(|error| DestinationsError::Read {
        path: path.into(),
        error,
    })?;
    parse(&text, path, &SecretPlace::read)
}

/// What is wrong with the file as TOML, by key. A value may be a secret that stands where it should not: only
/// what was expected is said.
fn syntax_fault(error: &toml::de::Error, text: &str) -> String {
    let fault = match error.message().rsplit_once(", expected ") {
        Some((fault, _)) if fault.starts_with("unknown field") => return fault.to_owned(),
        Some((_, expected)) => format!("expected {expected}"),
        None => error.message().to_owned(),
    };
    let before = &text[..error.span().map_or(0, |span| span.start)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    let is_key = |key: &&str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match line.split_once('=').map(|(key, _)| key.trim()).filter(is_key) {
        Some("secrets") => {
            "secrets: a secret is named and not written here, as in [{ env = \"ACME_CRM_SECRET\" }] or \
             [{ file = \"/run/secrets/acme-crm\" }]"
                .to_owned()
        }
        Some("timeout") => "timeout: must be a time such as 15s".to_owned(),
        Some(key) => format!("{key}: {fault}"),
        None => fault,
    }
}

fn parse(
    text: &str,
    path: &Path,
    read: &dyn Fn(&SecretPlace) -> Result<Secret, String>,
) -> Result<Vec<Destination>, DestinationsError> {
    let file: File = toml::from_str(text).map_err(|error| DestinationsError::Syntax {
        path: path.into(),
        line: 1 + text[..error.span().map_or(0, |span| span.start)]
            .matches('\n')
            .count(),
        fault: syntax_fault(&error, text),
    })?;
    let mut destinations = Vec::new();
    for tenant in &file.tenant {
        let mut ids = BTreeSet::new();
        for entry in &tenant.destinations {
            let checked = if !ids.insert(&entry.id) {
                fault("id", "is used twice")
            } else if ids.len() > MAX_PER_TENANT {
                fault("id", "is one too many: a tenant has at most 100")
            } else {
                Destination::new(&tenant.id, entry, read)
            };
            let destination = checked.map_err(|fault| DestinationsError::Invalid {
                path: path.into(),
                tenant: tenant.id.clone(),
                destination: entry.id.chars().take(63).collect(),
                key: fault.key,
                fault: fault.text,
            })?;
            if entry.enabled {
                destinations.push(destination);
            }
        }
    }
    Ok(destinations)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The key of the specification's own example.
    pub(crate) const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn read(place: &SecretPlace) -> Result<Secret, String> {
        match place {
            SecretPlace::Env(name) if name == "KEY" => Ok(Secret::new(KEY)),
            SecretPlace::Env(name) if name == "NEW_KEY" => {
                Ok(Secret::new("whsec_bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcg"))
            }
            SecretPlace::Env(name) if name == "TOKEN" => Ok(Secret::new("hunter2")),
            SecretPlace::Env(_) | SecretPlace::File(_) => Err("is not set".to_owned()),
        }
    }

    pub(crate) fn parsed(entries: &str) -> Result<Vec<Destination>, String> {
        let text = format!("[[tenant]]\nid = \"acme\"\nsalt = \"s3cr3t\"\n{entries}");
        parse(&text, Path::new("tenants.toml"), &read).map_err(|error| error.to_string())
    }

    pub(crate) fn one(entry: &str) -> Destination {
        let mut all = parsed(&format!("[[tenant.destinations]]\n{entry}")).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    pub(crate) const WEBHOOK: &str = r#"
        id = "crm"
        kind = "webhook"
        url = "https://crm.acme.example/hooks/abc?token=hunter2"
        secrets = [{ env = "KEY" }]
    "#;
    pub(crate) const GA4: &str = r#"
        id = "ga"
        kind = "ga4"
        measurement_id = "G-ABC123DEF4"
        secrets = [{ env = "TOKEN" }]
    "#;
    pub(crate) const META: &str = r#"
        id = "meta"
        kind = "meta"
        pixel_id = "1234567890"
        secrets = [{ env = "TOKEN" }]
    "#;

    #[test]
    fn what_is_left_out_has_its_default() {
        let webhook = one(WEBHOOK);
        assert_eq!(webhook.consent, ConsentRule::NotNeeded);
        assert_eq!(webhook.timeout, Duration::from_secs(15));
        assert!(webhook.wants(EventType::AgentTyping));
        assert_eq!(one(GA4).consent, ConsentRule::Proven);
        assert_eq!(one(META).receiver.host(), "graph.facebook.com");
    }

    #[test]
    fn only_the_types_that_were_asked_for_are_wanted() {
        let entry = format!("{WEBHOOK}event_types = [\"lead.qualified\"]");
        let destination = one(&entry);
        assert!(destination.wants(EventType::LeadQualified));
        assert!(!destination.wants(EventType::MessageSent));
    }

    #[test]
    fn a_destination_that_is_switched_off_is_checked_and_left_out() {
        let entry = format!("[[tenant.destinations]]\n{WEBHOOK}enabled = false");
        assert!(parsed(&entry).unwrap().is_empty());
        assert!(parsed(&entry.replace("https:", "ftp:")).is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        for entry in [WEBHOOK, GA4, META] {
            let shown = format!("{:?}", one(entry));
            for secret in ["hunter2", "MfKQ9", "abc", "token"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn delivery_ids_are_stable_and_differ_in_every_part() {
        let webhook = one(WEBHOOK);
        let id = webhook.delivery_id("autochat", "e1");
        assert_eq!(id, "msg_437c6eda3d792043175c43b906d885d0");
        assert_ne!(id, webhook.delivery_id("algomo", "e1"));
        assert_ne!(id, webhook.delivery_id("autochat", "e2"));
        assert_ne!(id, one(GA4).delivery_id("autochat", "e1"));
    }

    #[test]
    fn each_fault_is_named_by_its_key_and_shows_no_secret() {
        let webhook = |from: &str, to: &str| {
            let entry = WEBHOOK.replace(from, to);
            assert_ne!(entry, WEBHOOK, "{from}");
            parsed(&format!("[[tenant.destinations]]\n{entry}")).unwrap_err()
        };
        for (from, to, key) in [
            ("\"crm\"", "\"CRM\"", "id"),
            ("https:", "http:", "url"),
            ("https:", "file:", "url"),
            ("https://", "https://user:hunter2@", "url"),
            (
                "https://crm.acme.example/hooks/abc?token=hunter2",
                "/hooks",
                "url",
            ),
            ("env = \"KEY\"", "env = \"NONE\"", "secrets"),
            ("env = \"KEY\"", "env = \"TOKEN\"", "secrets"),
            ("[{ env = \"KEY\" }]", "[]", "secrets"),
            ("secrets", "timeout = \"0s\"\nsecrets", "timeout"),
            ("secrets", "concurrency = 65\nsecrets", "concurrency"),
            ("secrets", "event_types = []\nsecrets", "event_types"),
            (
                "secrets",
                "measurement_id = \"G-ABC123DEF4\"\nsecrets",
                "measurement_id",
            ),
            ("secrets", "colour = \"red\"\nsecrets", "unknown field"),
            (
                "[{ env = \"KEY\" }]",
                "[\"hunter2\"]",
                "secrets: a secret is named",
            ),
            (
                "\"webhook\"",
                "\"hunter2\"",
                "kind: expected one of `webhook`",
            ),
            (
                "secrets",
                "timeout = \"hunter2\"\nsecrets",
                "timeout: must be",
            ),
            (
                "secrets",
                "event_types = [\"no.such\"]\nsecrets",
                "event_types: expected one of",
            ),
        ] {
            let error = webhook(from, to);
            assert!(error.contains(&format!(" {key}")), "{to}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_third_party_needs_consent() {
        let entry = format!("[[tenant.destinations]]\n{GA4}consent = \"not_needed\"");
        assert!(parsed(&entry).unwrap_err().contains("consent"));
    }

    #[test]
    fn two_destinations_of_one_name_are_refused() {
        let entry =
            format!("[[tenant.destinations]]\n{WEBHOOK}\n[[tenant.destinations]]\n{WEBHOOK}");
        assert!(parsed(&entry).unwrap_err().contains("used twice"));
    }
}

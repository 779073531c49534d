//! Read tokens, known by their hashes.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// SHA-256 of a token.
pub(crate) type Digest = [u8; 32];

/// The hash under which a token is known.
pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// Takes as long where they differ as where they do not.
pub(super) fn equal(a: &Digest, b: &Digest) -> bool {
    a.ct_eq(b).into()
}

/// One token that reads one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadToken {
    /// Tenant that it reads.
    pub tenant: Arc<str>,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// Taken back: refused, and told apart from one that never was.
    pub revoked: bool,
}

/// Every tenant's tokens in one version of the tenants file.
#[derive(Debug, Default)]
pub struct ReadTokens(HashMap<Digest, ReadToken>);

impl FromIterator<ReadToken> for ReadTokens {
    fn from_iter<I: IntoIterator<Item = ReadToken>>(tokens: I) -> Self {
        let by_hash = tokens.into_iter().map(|token| (token.sha256, token));
        Self(by_hash.collect())
    }
}

/// Why a token reads nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// No tenant has it.
    Unknown,
    /// It was taken back.
    Revoked,
}

impl ReadTokens {
    /// Tenants that have a token, revoked ones included.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|token| &*token.tenant)
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looked up by the hash of what was given: whatever the time of that tells of hashes, nobody
    /// learns a token from it, which has 192 random bits of its own.
    pub(super) fn tenant_of(&self, digest: &Digest) -> Result<Arc<str>, TokenError> {
        match self.0.get(digest) {
            Some(token) if token.revoked => Err(TokenError::Revoked),
            Some(token) => Ok(Arc::clone(&token.tenant)),
            None => Err(TokenError::Unknown),
        }
    }
}

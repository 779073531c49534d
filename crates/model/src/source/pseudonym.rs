//! Pseudonyms: a keyed hash of a personal value, the same for the same value within a source.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Shortest salt taken; bytes.
pub const MIN_SALT_BYTES: usize = 16;
/// Length of a pseudonym: 128 bit in lower-case hex.
pub const PSEUDONYM_CHARS: usize = 32;

/// A tenant's pseudonym key, ready for use on the hot path.
#[derive(Clone)]
pub struct Pseudonyms {
    mac: Hmac<Sha256>,
}

/// The salt is too short to keep values from being guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the salt has {bytes} bytes and needs at least {MIN_SALT_BYTES}: give the tenant a random salt"
)]
pub struct SaltTooShort {
    bytes: usize,
}

impl Pseudonyms {
    /// Takes the tenant's salt, of at least [`MIN_SALT_BYTES`] bytes. The same salt gives the same
    /// pseudonyms for ever; a new one cuts every tie to older records.
    pub fn new(salt: &[u8]) -> Result<Self, SaltTooShort> {
        let too_short = SaltTooShort { bytes: salt.len() };
        if salt.len() < MIN_SALT_BYTES {
            return Err(too_short);
        }
        // HMAC takes keys of every length, so this cannot fail.
        let mac = Hmac::new_from_slice(salt).map_err(|_| too_short)?;
        Ok(Self { mac })
    }

    /// HMAC-SHA-256 over (source, kind, value), cut to 128 bit, lower-case hex. `kind` keeps apart
    /// values that mean different things, e.g. a visitor's and an agent's id.
    pub(super) fn of(&self, source: &str, kind: &str, value: &str) -> String {
        let mut mac = self.mac.clone();
        for part in [source, kind] {
            mac.update(part.as_bytes());
            mac.update(&[0]); // neither can hold it: see `definition`
        }
        mac.update(value.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..PSEUDONYM_CHARS / 2])
    }
}

/// Shows nothing of the salt.
impl std::fmt::Debug for Pseudonyms {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pseudonyms(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_stable_and_depends_on_salt_source_kind_and_value() {
        let one = Pseudonyms::new(b"sixteen bytes or").unwrap();
        let other = Pseudonyms::new(b"sixteen bytes OR").unwrap();
        let base = one.of("userlike", "visitor", "u-1");
        assert_eq!(base, one.of("userlike", "visitor", "u-1"));
        assert_eq!(base.len(), PSEUDONYM_CHARS);
        assert!(base.bytes().all(|byte| byte.is_ascii_hexdigit()));
        for different in [
            other.of("userlike", "visitor", "u-1"),
            one.of("loyjoy", "visitor", "u-1"),
            one.of("userlike", "agent", "u-1"),
            one.of("userlike", "visitor", "u-2"),
            one.of("user", "likevisitor", "u-1"),
        ] {
            assert_ne!(base, different);
        }
    }

    #[test]
    fn a_short_salt_is_refused_and_a_salt_is_never_shown() {
        assert_eq!(
            Pseudonyms::new(b"fifteen bytes..").unwrap_err().to_string(),
            "the salt has 15 bytes and needs at least 16: give the tenant a random salt"
        );
        let shown = format!("{:?}", Pseudonyms::new(b"sixteen bytes or").unwrap());
        assert_eq!(shown, "Pseudonyms(..)");
    }
}

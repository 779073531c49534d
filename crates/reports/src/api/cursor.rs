//! Where a list goes on: opaque, and bound to the question whose answer it continues.
//!
//! ```text
//! base64url( check ‖ JSON [since_ms, until_ms, key] )      check = SHA-256(question, JSON), cut to 12 bytes
//! ```
//!
//! It holds the window too, so that `since=24h` means the same 24 hours on every page. The check is
//! against mistakes: a cursor grants nothing, since the tenant comes from the token every time.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chatpulse_store::Window;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// Longest cursor that is read, as text; bytes. A key holds names of at most some hundred bytes.
const LONGEST: usize = 4_096;
const CHECK: usize = 12;

/// What a cursor must not be carried away from.
#[derive(Debug, Clone)]
pub(super) struct Asked(Sha256);

impl Asked {
    /// By path, tenant, and every parameter but those of pages.
    pub(super) fn new<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // Lengths keep the parts apart.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash)
    }

    fn check(&self, payload: &[u8]) -> [u8; CHECK] {
        let digest = self.0.clone().chain_update(payload).finalize();
        let mut check = [0; CHECK];
        check.copy_from_slice(&digest[..CHECK]);
        check
    }

    /// The cursor of what comes after `key`.
    pub(super) fn cursor<K: Serialize>(
        &self,
        window: Window,
        key: &K,
    ) -> Result<String, serde_json::Error> {
        let payload = serde_json::to_vec(&(window.since_ms, window.until_ms, key))?;
        let mut bytes = self.check(&payload).to_vec();
        bytes.extend(payload);
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a cursor of this question says; none for anything else.
    pub(super) fn read<K: DeserializeOwned>(&self, cursor: &str) -> Option<(Window, K)> {
        if cursor.len() > LONGEST {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (check, payload) = bytes.split_at_checked(CHECK)?;
        if check != self.check(payload) {
            return None;
        }
        let (since_ms, until_ms, key) = serde_json::from_slice(payload).ok()?;
        Some((Window { since_ms, until_ms }, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window {
        since_ms: 5,
        until_ms: 9,
    };

    #[test]
    fn a_cursor_is_read_by_the_question_that_made_it_and_by_no_other() {
        let asked = Asked::new(["/v1/rejections", "acme", "since", "24h"]);
        let key = (7_i64, "a/\"b\"".to_owned());
        let cursor = asked.cursor(WINDOW, &key).unwrap();
        assert!(
            cursor
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert_eq!(asked.read(&cursor), Some((WINDOW, key)));
        for other in [
            ["/v1/rejections", "bravo", "since", "24h"],
            ["/v1/conversations", "acme", "since", "24h"],
            ["/v1/rejections", "acme", "since", "7d"],
            ["/v1/rejections", "acm", "esince", "24h"],
        ] {
            assert_eq!(Asked::new(other).read::<(i64, String)>(&cursor), None);
        }
    }

    #[test]
    fn a_cursor_that_was_altered_or_made_up_is_refused() {
        let asked = Asked::new(["/v1/rejections"]);
        let cursor = asked.cursor(WINDOW, &1_u64).unwrap();
        for at in 0..cursor.len() {
            let mut altered = cursor.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(asked.read::<u64>(&altered), None, "{altered}");
        }
        for made_up in ["", "A", "AAAA", "====", "é", &"A".repeat(LONGEST + 4)] {
            assert_eq!(asked.read::<u64>(made_up), None);
        }
        assert_eq!(asked.read::<String>(&cursor), None, "a key of another type");
    }
}

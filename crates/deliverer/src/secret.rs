//! Secrets: named in the configuration, kept in the environment or in files, never shown.

use std::{fmt, path::PathBuf};

use serde::Deserialize;

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; for the request that needs it, and nothing else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is kept. The configuration itself never holds one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretPlace {
    /// An environment variable.
    Env(String),
    /// A file; white space at its ends does not count.
    File(PathBuf),
}

/// Longer ones are no secrets but mistakes.
const MAX_BYTES: u64 = 8 * 1024;

impl SecretPlace {
    /// Reads the secret.
    ///
    /// # Errors
    /// What is missing, without any content.
    pub fn read(&self) -> Result<Secret, String> {
        let value = match self {
            Self::Env(name) => std::env::var(name)
                .map_err(|_| format!("the environment variable {name} is not set"))?,
            Self::File(path) => {
                let failed = |error| format!("cannot read {}: {error}", path.display());
                if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
                    return Err(format!("{} is larger than a secret", path.display()));
                }
                std::fs::read_to_string(path).map_err(failed)?
            }
        };
        match value.trim() {
            "" => Err("the secret is empty".to_owned()),
            value => Ok(Secret::new(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn a_secret_comes_from_a_file_without_its_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "hunter2\n").unwrap();
        let place = SecretPlace::File(file.path().to_owned());
        assert_eq!(place.read().unwrap().reveal(), "hunter2");
    }

    #[test]
    fn what_is_missing_or_empty_is_said_by_its_name() {
        let missing = SecretPlace::Env("CHATPULSE_TEST_NO_SUCH".to_owned()).read();
        assert!(missing.unwrap_err().contains("CHATPULSE_TEST_NO_SUCH"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = SecretPlace::File(file.path().to_owned()).read();
        assert!(empty.unwrap_err().contains("empty"));
    }
}

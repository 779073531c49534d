use std::time::Duration;

use clickhouse::error::Error;

/// What went wrong between chatpulse and ClickHouse.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The server refused or failed; `code` is ClickHouse's exception code, 0 where it gave none.
    #[error("ClickHouse failed while {doing} (code {code}): {message}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// ClickHouse's exception code.
        code: u32,
        /// ClickHouse's text.
        message: String,
    },
    /// The server could not be reached, or the connection broke: what it did is not known.
    #[error("no answer from ClickHouse while {doing}: {source}")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// The client's error.
        source: Error,
    },
    /// The time limit passed: what the server did is not known.
    #[error("ClickHouse did not answer within {after:?} while {doing}")]
    Timeout {
        /// What was being done.
        doing: &'static str,
        /// The limit.
        after: Duration,
    },
    /// Table and program do not agree on columns or types.
    #[error(
        "the schema of ClickHouse is not this program's, found while {doing}: {source}; run `chatpulse migrate`"
    )]
    Schema {
        /// What was being done.
        doing: &'static str,
        /// The client's error.
        source: Error,
    },
    /// A migration was changed after it was applied.
    #[error(
        "migration {version} was applied to this database with other content: restore schemas/clickhouse to what was applied, and put the change in a new migration"
    )]
    MigrationChanged {
        /// Number of the migration.
        version: u32,
    },
    /// The database was migrated by a newer program.
    #[error(
        "the database has migration {version}, and this program knows {newest} at most: run the newer program"
    )]
    SchemaTooNew {
        /// Number of the unknown migration.
        version: u32,
        /// Highest number that this program knows.
        newest: u32,
    },
    /// A migration of this program has not been applied.
    #[error("migration {missing} has not been applied: run `chatpulse migrate`")]
    SchemaTooOld {
        /// Number of the migration.
        missing: u32,
    },
}

/// What the caller of a failed insert must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same insert again, with the same token, after a pause. Nothing may overtake it.
    Retry,
    /// The server cannot take the content of a row: cut the batch to find it.
    Poison,
    /// Neither waiting nor cutting helps: stop and let an operator see it.
    Fatal,
}

impl StoreError {
    /// What to do about it. An exception code that is in no list is retried: that loses nothing.
    pub fn disposition(&self) -> Disposition {
        match self {
            StoreError::Server { code, .. } => of_code(*code),
            StoreError::Unreachable { .. } | StoreError::Timeout { .. } => Disposition::Retry,
            StoreError::Schema { .. }
            | StoreError::MigrationChanged { .. }
            | StoreError::SchemaTooNew { .. }
            | StoreError::SchemaTooOld { .. } => Disposition::Fatal,
        }
    }

    pub(crate) fn from_client(doing: &'static str, error: Error) -> StoreError {
        match error {
            Error::BadResponse(message) => {
                let code = exception_code(&message).unwrap_or(0);
                StoreError::Server {
                    doing,
                    code,
                    message: bounded(message),
                }
            }
            Error::SchemaMismatch(_)
            | Error::InvalidColumnsHeader(_)
            | Error::NotEnoughData
            | Error::InvalidParams(_)
            | Error::Unsupported(_)
            | Error::SequenceMustHaveLength
            | Error::DeserializeAnyNotSupported
            | Error::InvalidTagEncoding(_)
            | Error::VariantDiscriminatorIsOutOfBound(_)
            | Error::InvalidUtf8Encoding(_)
            | Error::Custom(_) => StoreError::Schema {
                doing,
                source: error,
            },
            // The enum is open; what is not known to be a mismatch of types is trouble on the way.
            other => StoreError::Unreachable {
                doing,
                source: other,
            },
        }
    }
}

/// ClickHouse's exceptions begin with `Code: 241. DB::Exception: …`.
fn exception_code(message: &str) -> Option<u32> {
    let digits = message.split_once("Code: ")?.1;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// The server's text can quote a whole query; a log line need not.
fn bounded(mut message: String) -> String {
    const LIMIT: usize = 2_000;
    if message.len() > LIMIT {
        message.truncate(message.floor_char_boundary(LIMIT));
        message.push('…');
    }
    message
}

/// Sorts ClickHouse's exception codes (src/Common/ErrorCodes.cpp there).
fn of_code(code: u32) -> Disposition {
    match code {
        // The content of a row: CANNOT_PARSE_TEXT, _DATE, _DATETIME, _NUMBER, _UUID, CANNOT_CONVERT_TYPE,
        // ARGUMENT_OUT_OF_BOUND, INCORRECT_DATA, TOO_LARGE_ARRAY_SIZE, TOO_LARGE_STRING_SIZE,
        // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN,
        // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO, DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT.
        6 | 38 | 41 | 69 | 70 | 72 | 117 | 128 | 131 | 321 | 349 | 376 | 395 | 407 | 469 => {
            Disposition::Poison
        }
        // The schema, the query or the rights: NOT_FOUND_COLUMN_IN_BLOCK, NO_SUCH_COLUMN_IN_TABLE,
        // NUMBER_OF_ARGUMENTS_DOESNT_MATCH, ILLEGAL_TYPE_OF_ARGUMENT, UNKNOWN_FUNCTION,
        // UNKNOWN_IDENTIFIER, UNKNOWN_TYPE, TYPE_MISMATCH, UNKNOWN_TABLE, SYNTAX_ERROR,
        // UNKNOWN_FORMAT, UNKNOWN_DATABASE, UNKNOWN_SETTING, UNKNOWN_USER, WRONG_PASSWORD,
        // REQUIRED_PASSWORD, ACCESS_DENIED, AUTHENTICATION_FAILED.
        10 | 16 | 42 | 43 | 46 | 47 | 50 | 53 | 60 | 62 | 73 | 81 | 115 | 192 | 193 | 194 | 497
        | 516 => Disposition::Fatal,
        // TIMEOUT_EXCEEDED, READONLY, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR,
        // NO_ZOOKEEPER, ABORTED, MEMORY_LIMIT_EXCEEDED, TABLE_IS_READ_ONLY, NOT_ENOUGH_SPACE,
        // TOO_MANY_PARTS, UNKNOWN_STATUS_OF_INSERT, KEEPER_EXCEPTION, a body cut short
        // (CANNOT_READ_ALL_DATA, ATTEMPT_TO_READ_AFTER_EOF), and all others.
        _ => Disposition::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(message: &str) -> StoreError {
        StoreError::from_client("testing", Error::BadResponse(message.to_owned()))
    }

    #[test]
    fn the_exception_code_decides_what_to_do() {
        for (message, disposition) in [
            (
                "Code: 252. DB::Exception: Too many parts",
                Disposition::Retry,
            ),
            (
                "Code: 241. DB::Exception: Memory limit exceeded",
                Disposition::Retry,
            ),
            (
                "Code: 117. DB::Exception: Incorrect data",
                Disposition::Poison,
            ),
            ("Code: 60. DB::Exception: Unknown table", Disposition::Fatal),
            ("503 Service Unavailable", Disposition::Retry),
            (
                "Code: 99999. DB::Exception: of a later release",
                Disposition::Retry,
            ),
        ] {
            assert_eq!(server(message).disposition(), disposition, "{message}");
        }
    }

    #[test]
    fn a_lost_connection_is_retried_and_a_wrong_schema_is_not() {
        let lost = StoreError::from_client("testing", Error::TimedOut);
        assert_eq!(lost.disposition(), Disposition::Retry);
        let wrong = StoreError::from_client("testing", Error::SchemaMismatch("x".to_owned()));
        assert_eq!(wrong.disposition(), Disposition::Fatal);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let StoreError::Server { message, .. } = server(&"é".repeat(3_000)) else {
            panic!("not a server error")
        };
        assert!(message.len() <= 2_003 && message.ends_with('…'));
    }
}

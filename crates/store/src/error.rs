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
    /// The server refused the content of a row after a part of the block had come in (a view
    /// failed): the block can only be completed, under its own token.
    #[error(
        "{stored} of {rows} rows are in table events although ClickHouse refused the block: a view \
         fails; repair it, the block is completed then"
    )]
    Torn {
        /// Rows of the block that are in `events`.
        stored: u64,
        /// Rows of the block.
        rows: usize,
        /// The refusal.
        source: Box<StoreError>,
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
    /// The views are those of a newer program.
    #[error(
        "the database has version {version} of the views, and this program knows {newest} at most: run the newer program"
    )]
    ViewsTooNew {
        /// Version that is applied.
        version: u32,
        /// The program's version.
        newest: u32,
    },
    /// A user for an analyst cannot be made.
    #[error("no user for an analyst was made: {reason}")]
    Reader {
        /// Why, or what to do.
        reason: String,
    },
    /// The views are not this program's yet.
    #[error("version {missing} of the views has not been applied: run `chatpulse migrate`")]
    ViewsTooOld {
        /// The program's version.
        missing: u32,
    },
}

/// What the caller of a failed insert must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same insert again, with the same token, after a pause. Nothing may overtake it.
    Retry,
    /// The server cannot take the content of a row, and nothing of the block is in `events`: cut
    /// the block to find the row.
    Poison,
    /// Schema, rights or settings: an operator must see it. The same insert again once it is mended;
    /// nothing may overtake it.
    Operator,
}

impl StoreError {
    /// What to do about it. An exception code that is in no list is retried: that loses nothing.
    pub fn disposition(&self) -> Disposition {
        match self {
            StoreError::Server { code, .. } => of_code(*code),
            StoreError::Unreachable { .. } | StoreError::Timeout { .. } => Disposition::Retry,
            StoreError::Schema { .. }
            | StoreError::Torn { .. }
            | StoreError::MigrationChanged { .. }
            | StoreError::SchemaTooNew { .. }
            | StoreError::SchemaTooOld { .. }
            | StoreError::Reader { .. }
            | StoreError::ViewsTooNew { .. }
            | StoreError::ViewsTooOld { .. } => Disposition::Operator,
        }
    }

    /// ClickHouse's code and its name where it refused the content of a row, e.g.
    /// `469 VIOLATED_CONSTRAINT`. The message stays out: it quotes the content.
    pub fn refusal(&self) -> Option<String> {
        let StoreError::Server { code, .. } = self else {
            return None;
        };
        let (code, name) = POISON.iter().find(|(known, _)| known == code)?;
        Some(format!("{code} {name}"))
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

/// Codes by which ClickHouse refuses the content of a row (src/Common/ErrorCodes.cpp there), none
/// of which an altered schema can cause as well. So not INCORRECT_DATA (117), which is also its
/// answer to a column that is gone or has another type.
const POISON: &[(u32, &str)] = &[
    (6, "CANNOT_PARSE_TEXT"),
    (38, "CANNOT_PARSE_DATE"),
    (41, "CANNOT_PARSE_DATETIME"),
    (69, "ARGUMENT_OUT_OF_BOUND"),
    (72, "CANNOT_PARSE_NUMBER"),
    (128, "TOO_LARGE_ARRAY_SIZE"),
    (131, "TOO_LARGE_STRING_SIZE"),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"),
    (376, "CANNOT_PARSE_UUID"),
    (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    (407, "DECIMAL_OVERFLOW"),
    (469, "VIOLATED_CONSTRAINT"),
];

/// Sorts ClickHouse's exception codes.
fn of_code(code: u32) -> Disposition {
    match code {
        _ if POISON.iter().any(|(known, _)| *known == code) => Disposition::Poison,
        // The schema, the query or the rights: THERE_IS_NO_COLUMN, NOT_FOUND_COLUMN_IN_BLOCK,
        // NO_SUCH_COLUMN_IN_TABLE, NUMBER_OF_COLUMNS_DOESNT_MATCH,
        // NUMBER_OF_ARGUMENTS_DOESNT_MATCH, ILLEGAL_TYPE_OF_ARGUMENT, UNKNOWN_FUNCTION,
        // UNKNOWN_IDENTIFIER, UNKNOWN_TYPE, TYPE_MISMATCH, UNKNOWN_TABLE, SYNTAX_ERROR,
        // CANNOT_CONVERT_TYPE, UNKNOWN_FORMAT, UNKNOWN_DATABASE, UNKNOWN_SETTING, INCORRECT_DATA,
        // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN,
        // ACCESS_DENIED, AUTHENTICATION_FAILED.
        8 | 10 | 16 | 20 | 42 | 43 | 46 | 47 | 50 | 53 | 60 | 62 | 70 | 73 | 81 | 115 | 117
        | 192 | 193 | 194 | 349 | 497 | 516 => Disposition::Operator,
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
            // The fault list: too many parts, no space, read-only, memory, timeouts, unknown
            // status, keeper.
            (
                "Code: 252. DB::Exception: Too many parts",
                Disposition::Retry,
            ),
            (
                "Code: 243. DB::Exception: Not enough space",
                Disposition::Retry,
            ),
            ("Code: 164. DB::Exception: Readonly", Disposition::Retry),
            (
                "Code: 242. DB::Exception: Table is read-only",
                Disposition::Retry,
            ),
            (
                "Code: 241. DB::Exception: Memory limit exceeded",
                Disposition::Retry,
            ),
            (
                "Code: 159. DB::Exception: Timeout exceeded",
                Disposition::Retry,
            ),
            (
                "Code: 209. DB::Exception: Socket timeout",
                Disposition::Retry,
            ),
            (
                "Code: 319. DB::Exception: Unknown status of insert",
                Disposition::Retry,
            ),
            ("Code: 999. DB::Exception: Keeper", Disposition::Retry),
            (
                "Code: 33. DB::Exception: Cannot read all data",
                Disposition::Retry,
            ),
            ("503 Service Unavailable", Disposition::Retry),
            (
                "Code: 99999. DB::Exception: of a later release",
                Disposition::Retry,
            ),
            ("Code: 469. DB::Exception: Constraint", Disposition::Poison),
            ("Code: 395. DB::Exception: throwIf", Disposition::Poison),
            (
                "Code: 117. DB::Exception: Type of 'x' must be",
                Disposition::Operator,
            ),
            (
                "Code: 16. DB::Exception: No such column",
                Disposition::Operator,
            ),
            (
                "Code: 60. DB::Exception: Unknown table",
                Disposition::Operator,
            ),
            (
                "Code: 516. DB::Exception: Authentication failed",
                Disposition::Operator,
            ),
        ] {
            assert_eq!(server(message).disposition(), disposition, "{message}");
        }
    }

    #[test]
    fn a_refusal_is_told_by_code_and_name_without_the_content_that_the_server_quotes() {
        let refused =
            server("Code: 469. DB::Exception: Constraint on `mail@shop.example` violated");
        assert_eq!(
            refused.refusal().as_deref(),
            Some("469 VIOLATED_CONSTRAINT")
        );
        assert_eq!(server("Code: 60. DB::Exception: x").refusal(), None);
    }

    #[test]
    fn a_lost_connection_is_retried_and_a_wrong_schema_waits_for_an_operator() {
        let lost = StoreError::from_client("testing", Error::TimedOut);
        assert_eq!(lost.disposition(), Disposition::Retry);
        let wrong = StoreError::from_client("testing", Error::SchemaMismatch("x".to_owned()));
        assert_eq!(wrong.disposition(), Disposition::Operator);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let StoreError::Server { message, .. } = server(&"é".repeat(3_000)) else {
            panic!("not a server error")
        };
        assert!(message.len() <= 2_003 && message.ends_with('…'));
    }
}

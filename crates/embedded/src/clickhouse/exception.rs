//! ClickHouse's exceptions as HTTP carries them: `Code: N. DB::Exception: text (NAME) (version V)`,
//! with the status that ClickHouse answers for each code.

use axum::http::StatusCode;

use super::ffi::EngineError;

/// An exception: one of the engine, or one of this server in the same form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) code: u32,
    /// The whole text, without the version.
    pub(super) message: String,
}

/// The codes that this server raises itself, from ClickHouse's `ErrorCodes.cpp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BadArguments,
    NotImplemented,
    SyntaxError,
    Readonly,
    RequiredPassword,
    TooManySimultaneousQueries,
    SocketTimeout,
    CannotReadAllData,
    CannotWriteToFileDescriptor,
    CannotDecompress,
    ChecksumDoesntMatch,
    UnknownCompressionMethod,
    UnknownRole,
    AuthenticationFailed,
    TooLargeSizeCompressed,
    TooManyBytes,
    UnknownSetting,
    QueryWasCancelled,
}

impl Code {
    const fn parts(self) -> (u32, &'static str) {
        match self {
            Self::BadArguments => (36, "BAD_ARGUMENTS"),
            Self::NotImplemented => (48, "NOT_IMPLEMENTED"),
            Self::SyntaxError => (62, "SYNTAX_ERROR"),
            Self::UnknownSetting => (115, "UNKNOWN_SETTING"),
            Self::Readonly => (164, "READONLY"),
            Self::RequiredPassword => (194, "REQUIRED_PASSWORD"),
            Self::TooManySimultaneousQueries => (202, "TOO_MANY_SIMULTANEOUS_QUERIES"),
            Self::SocketTimeout => (209, "SOCKET_TIMEOUT"),
            Self::TooManyBytes => (307, "TOO_MANY_BYTES"),
            Self::CannotReadAllData => (33, "CANNOT_READ_ALL_DATA"),
            Self::CannotWriteToFileDescriptor => (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR"),
            Self::ChecksumDoesntMatch => (40, "CHECKSUM_DOESNT_MATCH"),
            Self::UnknownCompressionMethod => (89, "UNKNOWN_COMPRESSION_METHOD"),
            Self::TooLargeSizeCompressed => (39, "TOO_LARGE_SIZE_COMPRESSED"),
            Self::CannotDecompress => (271, "CANNOT_DECOMPRESS"),
            Self::UnknownRole => (511, "UNKNOWN_ROLE"),
            Self::AuthenticationFailed => (516, "AUTHENTICATION_FAILED"),
            Self::QueryWasCancelled => (394, "QUERY_WAS_CANCELLED"),
        }
    }
}

impl Exception {
    pub(super) fn new(code: Code, text: impl std::fmt::Display) -> Self {
        let (number, name) = code.parts();
        Self {
            code: number,
            message: format!("Code: {number}. DB::Exception: {text}. ({name})"),
        }
    }

    /// The status of `exceptionCodeToHTTPStatus` in ClickHouse; one of our own, 503 for too many
    /// queries and 413 for too large a body, where ClickHouse has the general 500.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            // CANNOT_PARSE_*, wrong columns and syntax, BAD_ARGUMENTS, wrong data, values out of range.
            6
            | 8
            | 15
            | 25..=27
            | 36..=38
            | 41
            | 44
            | 53
            | 62
            | 72
            | 117
            | 123
            | 167
            | 168
            | 223
            | 321
            | 376
            | 427
            | 441
            | 675
            | 676 => StatusCode::BAD_REQUEST,
            // UNKNOWN_…
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => {
                StatusCode::NOT_FOUND
            }
            229 | 307 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 202 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            381 => StatusCode::LENGTH_REQUIRED,
            159 => StatusCode::REQUEST_TIMEOUT,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body of the answer: the message and the engine's version, on a line of its own.
    pub(super) fn body(&self, version: &str) -> String {
        let message = self.message.trim_end();
        if message.contains("(version ") {
            format!("{message}\n")
        } else {
            format!("{message} (version {version})\n")
        }
    }
}

impl From<EngineError> for Exception {
    fn from(EngineError(message): EngineError) -> Self {
        let code = message.strip_prefix("Code: ").and_then(|rest| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            rest[..digits].parse().ok()
        });
        match code {
            Some(code) => Self { code, message },
            // UNKNOWN_EXCEPTION, as ClickHouse has it for what is not a DB::Exception.
            None => Self {
                code: 1002,
                message: format!("Code: 1002. DB::Exception: {message}. (UNKNOWN_EXCEPTION)"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_engine_error_is_read_from_its_text() {
        let text = "Code: 60. DB::Exception: Table y.k does not exist. (UNKNOWN_TABLE)";
        let exception = Exception::from(EngineError(text.into()));
        assert_eq!(exception.code, 60);
        assert_eq!(exception.status(), StatusCode::NOT_FOUND);
        assert_eq!(
            exception.body("26.7.2.1"),
            format!("{text} (version 26.7.2.1)\n")
        );
        assert_eq!(Exception::from(EngineError("boom".into())).code, 1002);
    }

    #[test]
    fn a_version_is_not_added_twice() {
        let text = "Code: 27. DB::Exception: x. (CANNOT_PARSE) (version 26.7.2.1)";
        assert_eq!(
            Exception::from(EngineError(text.into())).body("v"),
            format!("{text}\n")
        );
    }
}

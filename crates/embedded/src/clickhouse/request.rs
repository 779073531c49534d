//! A request of ClickHouse's HTTP interface, read: URL and headers → [`Options`]; body → text of
//! the query and a stream of data.

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Uri};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::codec::{self, ByteStream, Encoding};
use super::exception::{Code, Exception};
use super::ffi::Param;
use super::sql::{self, Kind};

/// The longest query text, inline data of an `INSERT` excepted.
pub(super) const MAX_QUERY_BYTES: usize = 16 * 1024 * 1024;
/// The longest body, decompressed. It is streamed, so this bounds time, not memory.
pub(super) const MAX_BODY_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// How much of a body is read to find out whether it holds an `INSERT` with data.
const PROBE_BYTES: usize = 256 * 1024;

/// What URL and headers say.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// The query of the URL; empty when the body holds it.
    pub(super) query: String,
    /// Engine settings in the order of the URL.
    pub(super) settings: Vec<(String, String)>,
    /// Query parameters (`param_x`), values in escaped text form.
    pub(super) params: Vec<Param>,
    pub(super) database: Option<String>,
    pub(super) default_format: Option<String>,
    pub(super) query_id: Option<String>,
    /// Answer in ClickHouse's compressed blocks.
    pub(super) compress: bool,
    /// The body comes in ClickHouse's compressed blocks.
    pub(super) decompress: bool,
    /// Collect the whole result before answering.
    pub(super) wait_end_of_query: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// A `GET` or `HEAD`: must not change anything.
    pub(super) readonly: bool,
}

impl Options {
    pub(super) fn read(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, Exception> {
        let mut options = Self {
            readonly: method != Method::POST,
            ..Self::default()
        };
        let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        options.database = header("x-clickhouse-database");
        options.default_format = header("x-clickhouse-format");
        options.user = header("x-clickhouse-user");
        options.password = header("x-clickhouse-key");
        if let Some(value) = headers.get(AUTHORIZATION) {
            let (user, password) = value.to_str().ok().and_then(basic).ok_or_else(|| {
                Exception::new(
                    Code::AuthenticationFailed,
                    "Only HTTP Basic authorization is known",
                )
            })?;
            options.user.get_or_insert(user);
            options.password.get_or_insert(password);
        }
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        for (name, value) in pairs {
            options.set(&name, value.into_owned())?;
        }
        Ok(options)
    }

    /// Takes one parameter of a URL or of a form.
    fn set(&mut self, name: &str, value: String) -> Result<(), Exception> {
        let on = matches!(value.as_str(), "1" | "true");
        match name {
            "query" => self.query = value,
            "database" => self.database = Some(value),
            "default_format" => self.default_format = Some(value),
            "query_id" => self.query_id = Some(value).filter(|id| !id.is_empty()),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "compress" => self.compress = on,
            "decompress" => self.decompress = on,
            "wait_end_of_query" => self.wait_end_of_query = on,
            // A session is one request here: nothing of it is kept for a next one.
            "session_check" if on => {
                return Err(Exception::new(
                    Code::NotImplemented,
                    "Sessions are not kept",
                ));
            }
            "session_id"
            | "session_timeout"
            | "session_check"
            | "quota_key"
            | "stacktrace"
            | "buffer_size"
            | "close_session"
            | "client_protocol_version" => {}
            "role" => {
                let text = format!("There is no role `{value}`: the embedded engine has none");
                return Err(Exception::new(Code::UnknownRole, text));
            }
            _ => match name.strip_prefix("param_") {
                Some(param) => self.params.push((param.to_owned(), value)),
                None if is_setting_name(name) => self.settings.push((name.to_owned(), value)),
                None => {
                    let text = format!("Unknown setting '{}'", name.escape_debug());
                    return Err(Exception::new(Code::UnknownSetting, text));
                }
            },
        }
        Ok(())
    }

    /// The last value given for a setting.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

fn is_setting_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
}

fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// A body, decompressed and bounded.
pub(super) struct Body {
    chunks: BoxStream<'static, Result<Bytes, Exception>>,
    left: u64,
}

impl Body {
    /// A chunk must follow the last one within this time.
    const IDLE: std::time::Duration = std::time::Duration::from_secs(30);

    pub(super) fn new(raw: ByteStream, encoding: Option<Encoding>, decompress: bool) -> Self {
        let plain = match encoding {
            Some(encoding) => encoding.decode(raw),
            None => raw,
        };
        let chunks = if decompress {
            codec::decode_blocks(plain)
                .map(|chunk| chunk.map_err(Exception::from))
                .boxed()
        } else {
            let failed = |error| {
                Exception::new(
                    Code::CannotReadAllData,
                    format!("The body cannot be read: {error}"),
                )
            };
            plain.map(move |chunk| chunk.map_err(failed)).boxed()
        };
        Self {
            chunks,
            left: MAX_BODY_BYTES,
        }
    }

    /// The next piece; `None` at the proper end of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Exception> {
        let next = tokio::time::timeout(Self::IDLE, self.chunks.next())
            .await
            .map_err(|_| {
                Exception::new(
                    Code::SocketTimeout,
                    "Timeout exceeded while reading the body",
                )
            })?;
        let Some(chunk) = next.transpose()? else {
            return Ok(None);
        };
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or_else(|| {
            let text = format!("The body is larger than {MAX_BODY_BYTES} bytes");
            Exception::new(Code::TooManyBytes, text)
        })?;
        Ok(Some(chunk))
    }

    /// Appends to `into` until it holds `limit` bytes or more; true when the body has ended.
    async fn read_until(&mut self, into: &mut BytesMut, limit: usize) -> Result<bool, Exception> {
        while into.len() < limit {
            match self.next().await? {
                Some(chunk) => into.extend_from_slice(&chunk),
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

/// What to run.
pub(super) struct Plan {
    /// The statement; of an `INSERT` with data, without `FORMAT` and data.
    pub(super) sql: Bytes,
    pub(super) kind: Kind,
    pub(super) format: Option<String>,
    /// The data of an `INSERT`: what stood behind the statement, then the rest of the body.
    pub(super) data: Bytes,
}

impl Plan {
    /// Reads as much of the body as the statement needs; the rest of an `INSERT`'s data stays in
    /// it.
    pub(super) async fn read(
        options: &mut Options,
        body: &mut Body,
        headers: &HeaderMap,
    ) -> Result<Self, Exception> {
        if let Some(boundary) = form_boundary(headers) {
            read_form(options, body, boundary).await?;
            return Self::of(Bytes::from(std::mem::take(&mut options.query)));
        }
        let mut text = BytesMut::from(options.query.as_bytes());
        let named = !text.is_empty();
        if named {
            if let Kind::Insert { data_start, .. } = sql::outline(&text).kind {
                if data_start < text.len() {
                    text.extend_from_slice(b"\n");
                }
                return Self::of(text.freeze());
            }
            text.extend_from_slice(b"\n");
        }
        let mut ended = body.read_until(&mut text, PROBE_BYTES).await?;
        if !ended && !matches!(sql::outline(&text).kind, Kind::Insert { .. }) {
            ended = body.read_until(&mut text, MAX_QUERY_BYTES).await?;
            if !ended {
                let text = format!("The query is longer than {MAX_QUERY_BYTES} bytes");
                return Err(Exception::new(Code::TooManyBytes, text));
            }
        }
        Self::of(text.freeze())
    }

    fn of(text: Bytes) -> Result<Self, Exception> {
        if text.trim_ascii().is_empty() {
            return Err(Exception::new(Code::SyntaxError, "Empty query"));
        }
        let outline = sql::outline(&text);
        if outline.several {
            let text = "Syntax error (Multi-statements are not allowed)";
            return Err(Exception::new(Code::SyntaxError, text));
        }
        if outline.touches_files {
            let text = "INTO OUTFILE and FROM INFILE are not allowed over HTTP";
            return Err(Exception::new(Code::NotImplemented, text));
        }
        if outline.kind == Kind::InsertSelect && outline.format.is_some() {
            // libchdb 26.7 accepts such data and inserts nothing: refusing is the only safe answer.
            let text = "INSERT … SELECT with data of its own (input()) is not supported by the \
                        embedded engine; insert the data with INSERT … FORMAT";
            return Err(Exception::new(Code::NotImplemented, text));
        }
        let format = outline.format.map(str::to_owned);
        let kind = outline.kind;
        let (sql, data) = match kind {
            Kind::Insert {
                sql_end,
                data_start,
            } => (text.slice(..sql_end), text.slice(data_start..)),
            _ => (text.clone(), Bytes::new()),
        };
        Ok(Self {
            sql,
            kind,
            format,
            data,
        })
    }
}

fn form_boundary(headers: &HeaderMap) -> Option<String> {
    multer::parse_boundary(headers.get(CONTENT_TYPE)?.to_str().ok()?).ok()
}

/// Reads a `multipart/form-data` body, in which clients send a query with many parameters.
async fn read_form(
    options: &mut Options,
    body: &mut Body,
    boundary: String,
) -> Result<(), Exception> {
    let mut text = BytesMut::new();
    if !body.read_until(&mut text, MAX_QUERY_BYTES).await? {
        let text = format!("The form is larger than {MAX_QUERY_BYTES} bytes");
        return Err(Exception::new(Code::TooManyBytes, text));
    }
    let wrong =
        |error: multer::Error| Exception::new(Code::BadArguments, format!("Wrong form: {error}"));
    let whole = futures::stream::iter([Ok::<_, std::io::Error>(text.freeze())]);
    let mut form = multer::Multipart::new(whole, boundary);
    while let Some(field) = form.next_field().await.map_err(wrong)? {
        if field.file_name().is_some() {
            let text = "External tables are not supported by the embedded engine";
            return Err(Exception::new(Code::NotImplemented, text));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let value = field.text().await.map_err(wrong)?;
        options.set(&name, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(uri: &str) -> Result<Options, Exception> {
        Options::read(&Method::POST, &uri.parse().unwrap(), &HeaderMap::new())
    }

    #[test]
    fn url_parameters_are_told_apart() {
        let read = options(
            "/?query=SELECT+1&param_a=x%27&max_threads=2&database=d&session_id=s&decompress=1",
        )
        .unwrap();
        assert_eq!(read.query, "SELECT 1");
        assert_eq!(read.params, [("a".into(), "x'".into())]);
        assert_eq!(read.settings, [("max_threads".into(), "2".into())]);
        assert_eq!(read.database.as_deref(), Some("d"));
        assert!(read.decompress && !read.compress && !read.readonly);
    }

    #[test]
    fn a_setting_name_cannot_carry_sql() {
        assert_eq!(options("/?a%60b=1").unwrap_err().code, 115);
    }

    async fn plan(uri: &str, body: &'static [u8]) -> Result<(Plan, Vec<u8>), Exception> {
        let mut options = options(uri)?;
        let raw = futures::stream::iter([Ok(Bytes::from_static(body))]).boxed();
        let mut body = Body::new(raw, None, false);
        let plan = Plan::read(&mut options, &mut body, &HeaderMap::new()).await?;
        let mut rest = plan.data.to_vec();
        while let Some(chunk) = body.next().await? {
            rest.extend_from_slice(&chunk);
        }
        Ok((plan, rest))
    }

    #[tokio::test]
    async fn the_data_of_an_insert_is_the_same_wherever_the_query_stands() {
        let in_url = plan("/?query=INSERT+INTO+t+FORMAT+CSV", b"1\n2\n")
            .await
            .unwrap();
        let in_body = plan("/", b"INSERT INTO t FORMAT CSV\n1\n2\n")
            .await
            .unwrap();
        let in_both = plan("/?query=INSERT+INTO+t+FORMAT+CSV%0A1", b"2\n")
            .await
            .unwrap();
        for (plan, data) in [in_url, in_body, in_both] {
            assert_eq!(plan.sql.trim_ascii(), b"INSERT INTO t");
            assert_eq!(plan.format.as_deref(), Some("CSV"));
            assert_eq!(data, b"1\n2\n");
        }
    }

    #[tokio::test]
    async fn a_query_is_joined_from_url_and_body() {
        let (plan, _) = plan("/?query=SELECT", b"1").await.unwrap();
        assert_eq!(&plan.sql[..], b"SELECT\n1");
    }

    #[tokio::test]
    async fn what_the_engine_would_silently_drop_is_refused() {
        let refused = plan(
            "/",
            b"INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV\n1",
        )
        .await;
        assert_eq!(refused.err().unwrap().code, 48);
        assert_eq!(plan("/", b" \n").await.err().unwrap().code, 62);
    }
}

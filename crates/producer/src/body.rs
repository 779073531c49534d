//! Reads a request body: bounded in size as sent, in size as decoded, in time and in memory.
//!
//! ```text
//! frames ─ count ─► decoder (gzip, br, zstd) ─ count ─► Vec<u8>, its size taken from the budget
//! ```
//!
//! Nothing is kept of the compressed form, and no more is decoded than is allowed, so that a
//! compression bomb costs at most the limit.

use std::io;

use async_compression::{
    tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::{HeaderMap, header},
};
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt as _},
    time::{Duration, timeout},
};
use tokio_util::io::StreamReader;

use crate::{
    config::ProducerConfig,
    problem::Problem,
    share::{Claim, Pool, Shared, Taken},
    split::Layout,
};

/// Decoded bytes asked for at once.
const CHUNK: usize = 32 * 1024;
/// A zstd frame may ask for a window of so many bytes, as a power of two: what RFC 8878 tells
/// every decoder to support, and no more.
const ZSTD_WINDOW_LOG: u32 = 23;
/// How much of a refused body is read, and for how long, so that its sender gets to the answer.
const DRAIN_BYTES: usize = 4 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How a body or a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Brotli,
    Zstd,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "data",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Decodes a stream. Members and frames that follow each other are one stream; anything else
    /// that follows is an error, and so is an early end.
    pub(crate) fn decode<'r, R>(self, reader: R) -> Box<dyn AsyncRead + Send + Unpin + 'r>
    where
        R: AsyncBufRead + Send + Unpin + 'r,
    {
        match self {
            Self::Identity => Box::new(reader),
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(reader);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Brotli => {
                let mut decoder = BrotliDecoder::new(reader);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
                let mut decoder = ZstdDecoder::with_params(reader, &[window]);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
        }
    }
}

/// What the headers say about a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    pub(crate) encoding: Encoding,
}

impl Shape {
    /// Reads Content-Type, Content-Encoding and Content-Length.
    pub(crate) fn of(headers: &HeaderMap, max_bytes: usize) -> Result<Self, Problem> {
        let shape = Self {
            layout: layout(headers)?,
            encoding: encoding(headers)?,
        };
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok());
        match declared.map(str::parse::<u64>) {
            Some(Ok(bytes)) if bytes > max_bytes as u64 => Err(too_long(max_bytes)),
            // No length is a chunked body; a malformed one is refused by the HTTP parser.
            _ => Ok(shape),
        }
    }
}

fn layout(headers: &HeaderMap) -> Result<Layout, Problem> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .ok_or(Problem::MediaType("is missing"))?;
    let value = value
        .to_str()
        .map_err(|_| Problem::MediaType("is not readable"))?;
    let mut parts = value.split(';').map(str::trim);
    let layout = match parts.next().map(str::to_ascii_lowercase).as_deref() {
        Some("application/json") => Layout::Json,
        Some("application/x-ndjson") => Layout::Lines,
        Some("text/plain") => Layout::ByContent,
        _ => return Err(Problem::MediaType("is not one of ours")),
    };
    let charset = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find_map(|(key, value)| {
            key.eq_ignore_ascii_case("charset")
                .then(|| value.trim_matches('"').to_ascii_lowercase())
        });
    match charset.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(layout),
        Some(_) => Err(Problem::MediaType("names a charset that is not UTF-8")),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(Encoding::Identity);
    };
    let value = value
        .to_str()
        .map_err(|_| Problem::ContentEncoding("is not readable"))?;
    if values.next().is_some() || value.contains(',') {
        return Err(Problem::ContentEncoding("is nested"));
    }
    match value.trim().to_ascii_lowercase().as_str() {
        "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "br" => Ok(Encoding::Brotli),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(Problem::ContentEncoding("is not one of ours")),
    }
}

/// The decoded body, and its share of the budget for as long as it lives.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) bytes: Vec<u8>,
    /// Size as sent; bytes.
    pub(crate) sent: usize,
    _memory: Option<Taken>,
}

/// Memory for bodies, shared by all requests; one permit is one KiB.
pub(crate) fn budget(config: &ProducerConfig) -> Pool {
    // A buffer that grows by doubling may be twice as large as its body.
    let largest = config.max_decoded_bytes.get().saturating_mul(2) / 1024;
    Pool::new(
        Shared::Bytes,
        config.max_inflight_bytes.get() / 1024,
        largest,
    )
}

/// The budget, and who takes of it.
#[derive(Clone, Copy)]
pub(crate) struct Purse<'a> {
    pub(crate) budget: &'a Pool,
    pub(crate) claim: Claim<'a>,
}

impl Purse<'_> {
    /// Makes `memory` cover `bytes`.
    fn cover(&self, memory: &mut Option<Taken>, bytes: usize) -> Result<(), Problem> {
        let held = memory.as_ref().map_or(0, Taken::permits);
        let missing = bytes.div_ceil(1024).saturating_sub(held);
        if missing > 0 {
            let more = self.budget.take(missing, self.claim)?;
            match memory {
                Some(memory) => memory.merge(more),
                None => *memory = Some(more),
            }
        }
        Ok(())
    }
}

/// Reads and decodes a body within the limits of `config`.
pub(crate) async fn read(
    body: &mut Body,
    encoding: Encoding,
    config: &ProducerConfig,
    purse: Purse<'_>,
) -> Result<Decoded, Problem> {
    timeout(
        config.body_timeout,
        read_unhurried(body, encoding, config, purse),
    )
    .await
    .unwrap_or(Err(Problem::BodyTimeout(config.body_timeout)))
}

async fn read_unhurried(
    body: &mut Body,
    encoding: Encoding,
    config: &ProducerConfig,
    purse: Purse<'_>,
) -> Result<Decoded, Problem> {
    let (max_sent, max_decoded) = (config.max_body_bytes.get(), config.max_decoded_bytes.get());
    let mut sent = 0;
    let declared = body.size_hint().exact();
    let size_hint = declared.and_then(|size| usize::try_from(size).ok());
    let frames = StreamReader::new(counted(body, &mut sent, max_sent));
    // One byte more than allowed, to tell a full body from one that is too long.
    let mut reader = encoding.decode(frames).take(max_decoded as u64 + 1);
    // One byte more than a body that says its size, so that its end is found without growing.
    let mut bytes = Vec::with_capacity(match encoding {
        Encoding::Identity => size_hint.map_or(CHUNK, |size| size.min(CHUNK - 1) + 1),
        Encoding::Gzip | Encoding::Brotli | Encoding::Zstd => CHUNK,
    });
    let mut memory = None;
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(CHUNK);
        }
        purse.cover(&mut memory, bytes.capacity())?;
        match reader.read_buf(&mut bytes).await {
            Ok(0) => break,
            Ok(_) if bytes.len() > max_decoded => {
                return Err(Problem::BodyTooLarge {
                    what: "when decoded",
                    limit: max_decoded,
                });
            }
            // Decoders never wait for anything but frames: be fair to the other requests.
            Ok(_) => tokio::task::coop::consume_budget().await,
            Err(error) => return Err(classify(error, encoding, max_sent)),
        }
    }
    drop(reader);
    Ok(Decoded {
        bytes,
        sent,
        _memory: memory,
    })
}

/// The body's data frames, counted; one that passes the limit is an error.
fn counted<'b>(
    body: &'b mut Body,
    sent: &'b mut usize,
    max: usize,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'b {
    http_body_util::BodyDataStream::new(body).map(move |frame| {
        let frame = frame.map_err(|error| io::Error::other(Transport(error)))?;
        *sent += frame.len();
        if *sent > max {
            Err(io::Error::other(TooLong))
        } else {
            Ok(frame)
        }
    })
}

#[derive(Debug, thiserror::Error)]
#[error("body too long")]
struct TooLong;

#[derive(Debug, thiserror::Error)]
#[error("body broken")]
struct Transport(#[source] axum::Error);

fn classify(error: io::Error, encoding: Encoding, max_sent: usize) -> Problem {
    match error.get_ref() {
        Some(inner) if inner.is::<TooLong>() => too_long(max_sent),
        Some(inner) if inner.is::<Transport>() => Problem::BodyBroken,
        _ => Problem::BodyUndecodable {
            encoding: encoding.name(),
            fault: error.to_string(),
        },
    }
}

fn too_long(limit: usize) -> Problem {
    Problem::BodyTooLarge {
        what: "as sent",
        limit,
    }
}

/// Reads on for a moment after a refusal: a client that is still sending when the connection
/// closes may never see the answer.
pub(crate) async fn drain(body: &mut Body) {
    let discard = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Neither outcome matters: the answer is decided.
    let _ = timeout(DRAIN_TIME, discard).await;
}

//! The two compressions of ClickHouse's HTTP interface: HTTP's own (`Content-Encoding`,
//! `Accept-Encoding`) and ClickHouse's blocks (`decompress=1`, `compress=1`).
//!
//! A ClickHouse block is `CityHash128 of the rest (16 bytes) · method (1) · compressed size with
//! this 9-byte header (4, LE) · uncompressed size (4, LE) · data`.
//! Source: <https://clickhouse.com/docs/interfaces/specs/NativeFormat>.

use async_compression::tokio::bufread::{
    BrotliDecoder, BrotliEncoder, GzipDecoder, GzipEncoder, Lz4Decoder, Lz4Encoder, ZlibDecoder,
    ZlibEncoder, ZstdDecoder, ZstdEncoder,
};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::{ReaderStream, StreamReader};

use super::exception::{Code, Exception};

/// A stream of bytes of a request or a response.
pub(super) type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Bytes read from a decoder at a time.
const READ_SIZE: usize = 128 * 1024;
/// The largest ClickHouse block taken, compressed or not. Clients send blocks of 1 MiB and less.
const MAX_BLOCK_BYTES: usize = 64 * 1024 * 1024;
/// The uncompressed size of the blocks written.
const BLOCK_BYTES: usize = 1024 * 1024;
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const METHOD_NONE: u8 = 0x02;
const METHOD_LZ4: u8 = 0x82;
const METHOD_ZSTD: u8 = 0x90;

/// A compression of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Brotli,
    Lz4,
    Gzip,
    Deflate,
    Zstd,
}

impl Encoding {
    const ALL: [Self; 5] = [
        Self::Brotli,
        Self::Lz4,
        Self::Gzip,
        Self::Deflate,
        Self::Zstd,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// The compression of a request's body; `None` when it is plain.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Exception> {
        let Some(value) = headers.get(CONTENT_ENCODING) else {
            return Ok(None);
        };
        let name = value.to_str().unwrap_or_default().trim();
        if name.is_empty() || name.eq_ignore_ascii_case("identity") {
            return Ok(None);
        }
        let encoding = Self::ALL
            .into_iter()
            .find(|e| name.eq_ignore_ascii_case(e.name()));
        encoding.map(Some).ok_or_else(|| {
            let text = format!("Unknown compression method {name}");
            Exception::new(Code::UnknownCompressionMethod, text)
        })
    }

    /// The compression that the client accepts, the first of ClickHouse's order of preference.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let accepted = headers.get(ACCEPT_ENCODING)?.to_str().ok()?;
        let refused = |token: &str| token.split(';').skip(1).any(|q| q.trim() == "q=0");
        let names: Vec<_> = accepted
            .split(',')
            .filter(|token| !refused(token))
            .filter_map(|token| token.split(';').next())
            .map(str::trim)
            .collect();
        Self::ALL
            .into_iter()
            .find(|e| names.iter().any(|name| name.eq_ignore_ascii_case(e.name())))
    }

    /// Bodies may be several members one after the other: clickhouse-connect compresses each block of
    /// rows by itself. What follows the last is an error, never dropped.
    pub(super) fn decode(self, body: ByteStream) -> ByteStream {
        let reader = BufReader::new(StreamReader::new(body));
        macro_rules! members {
            ($decoder:ident) => {{
                let mut decoder = $decoder::new(reader);
                decoder.multiple_members(true);
                stream(decoder)
            }};
        }
        match self {
            Self::Brotli => members!(BrotliDecoder),
            Self::Lz4 => members!(Lz4Decoder),
            Self::Gzip => members!(GzipDecoder),
            Self::Deflate => members!(ZlibDecoder),
            Self::Zstd => members!(ZstdDecoder),
        }
    }

    pub(super) fn encode(self, body: ByteStream) -> ByteStream {
        let reader = BufReader::with_capacity(READ_SIZE, StreamReader::new(body));
        match self {
            Self::Brotli => {
                // The default level of brotli, 11, is far too slow for answers made on the fly.
                let level = async_compression::Level::Precise(3);
                stream(BrotliEncoder::with_quality(reader, level))
            }
            Self::Lz4 => stream(Lz4Encoder::new(reader)),
            Self::Gzip => stream(GzipEncoder::with_quality(
                reader,
                async_compression::Level::Fastest,
            )),
            Self::Deflate => stream(ZlibEncoder::with_quality(
                reader,
                async_compression::Level::Fastest,
            )),
            Self::Zstd => stream(ZstdEncoder::new(reader)),
        }
    }
}

fn stream(reader: impl AsyncRead + Send + 'static) -> ByteStream {
    ReaderStream::with_capacity(reader, READ_SIZE).boxed()
}

/// Decompresses a body made of ClickHouse blocks.
pub(super) fn decode_blocks(body: ByteStream) -> impl Stream<Item = Result<Bytes, BlockError>> {
    let reader = StreamReader::new(body);
    futures::stream::try_unfold(reader, |mut reader| async move {
        let mut head = [0; CHECKSUM_BYTES + HEADER_BYTES];
        let mut filled = 0;
        while filled < head.len() {
            match reader.read(&mut head[filled..]).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(BlockError::Truncated),
                count => filled += count,
            }
        }
        let sizes = BlockSizes::of(&head)?;
        let mut block = vec![0; HEADER_BYTES + sizes.data];
        block[..HEADER_BYTES].copy_from_slice(&head[CHECKSUM_BYTES..]);
        reader
            .read_exact(&mut block[HEADER_BYTES..])
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => BlockError::Truncated,
                _ => BlockError::Read(error),
            })?;
        let expected = (&head[..]).get_u128_le();
        Ok(Some((
            decode_block(expected, &block, sizes.uncompressed)?,
            reader,
        )))
    })
}

struct BlockSizes {
    data: usize,
    uncompressed: usize,
}

impl BlockSizes {
    fn of(head: &[u8]) -> Result<Self, BlockError> {
        let mut sizes = &head[CHECKSUM_BYTES + 1..];
        let (compressed, uncompressed) = (sizes.get_u32_le() as usize, sizes.get_u32_le() as usize);
        if compressed > MAX_BLOCK_BYTES || uncompressed > MAX_BLOCK_BYTES {
            return Err(BlockError::TooLarge(compressed.max(uncompressed)));
        }
        let data = compressed
            .checked_sub(HEADER_BYTES)
            .ok_or(BlockError::Corrupt)?;
        Ok(Self { data, uncompressed })
    }
}

fn checksum(block: &[u8]) -> u128 {
    cityhash_rs::cityhash_102_128(block).rotate_right(64)
}

fn decode_block(expected: u128, block: &[u8], uncompressed: usize) -> Result<Bytes, BlockError> {
    if checksum(block) != expected {
        return Err(BlockError::Checksum);
    }
    let data = &block[HEADER_BYTES..];
    let decoded = match block[0] {
        METHOD_NONE => data.to_vec(),
        METHOD_LZ4 => {
            lz4_flex::block::decompress(data, uncompressed).map_err(|_| BlockError::Corrupt)?
        }
        METHOD_ZSTD => {
            zstd::bulk::decompress(data, uncompressed).map_err(|_| BlockError::Corrupt)?
        }
        method => return Err(BlockError::Method(method)),
    };
    if decoded.len() == uncompressed {
        Ok(decoded.into())
    } else {
        Err(BlockError::Corrupt)
    }
}

/// Compresses `data` into ClickHouse blocks of LZ4.
pub(super) fn encode_blocks(data: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    for part in data.chunks(BLOCK_BYTES) {
        let compressed = lz4_flex::block::compress(part);
        let mut block = Vec::with_capacity(HEADER_BYTES + compressed.len());
        block.put_u8(METHOD_LZ4);
        block.put_u32_le(u32::try_from(HEADER_BYTES + compressed.len()).unwrap_or(u32::MAX));
        block.put_u32_le(u32::try_from(part.len()).unwrap_or(u32::MAX));
        block.put_slice(&compressed);
        out.put_u128_le(checksum(&block));
        out.put_slice(&block);
    }
    out.freeze()
}

/// What is wrong with a body of ClickHouse blocks.
#[derive(Debug, thiserror::Error)]
pub(super) enum BlockError {
    #[error("the compressed body ends in the middle of a block")]
    Truncated,
    #[error("a compressed block of {0} bytes is larger than the {MAX_BLOCK_BYTES} allowed")]
    TooLarge(usize),
    #[error("Checksum doesn't match: corrupted data")]
    Checksum,
    #[error("a compressed block is corrupt")]
    Corrupt,
    #[error("Unknown compression method {0:#04x}")]
    Method(u8),
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

impl From<BlockError> for Exception {
    fn from(error: BlockError) -> Self {
        let code = match &error {
            BlockError::Truncated => Code::CannotReadAllData,
            BlockError::TooLarge(_) => Code::TooLargeSizeCompressed,
            BlockError::Checksum => Code::ChecksumDoesntMatch,
            BlockError::Corrupt => Code::CannotDecompress,
            BlockError::Method(_) => Code::UnknownCompressionMethod,
            BlockError::Read(_) => Code::CannotReadAllData,
        };
        Self::new(code, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    async fn decode(wire: Vec<u8>) -> Result<Vec<u8>, BlockError> {
        let pieces: Vec<_> = wire
            .chunks(7)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        let body = futures::stream::iter(pieces).boxed();
        let chunks: Vec<Bytes> = decode_blocks(body).try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn blocks_round_trip_whatever_the_pieces() {
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        assert_eq!(decode(encode_blocks(&data).to_vec()).await.unwrap(), data);
        assert_eq!(decode(Vec::new()).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_flipped_bit_and_a_cut_are_found() {
        let wire = encode_blocks(b"hello hello hello").to_vec();
        for at in 0..wire.len() {
            let mut bad = wire.clone();
            bad[at] ^= 1;
            assert!(decode(bad).await.is_err(), "bit {at}");
        }
        assert!(matches!(
            decode(wire[..20].to_vec()).await,
            Err(BlockError::Truncated)
        ));
        assert!(matches!(
            decode(wire[..30].to_vec()).await,
            Err(BlockError::Truncated)
        ));
    }

    #[tokio::test]
    async fn a_block_that_claims_gigabytes_is_refused_before_it_is_read() {
        let mut wire = vec![0u8; 25];
        wire[16] = METHOD_LZ4;
        wire[17..21].copy_from_slice(&100u32.to_le_bytes());
        wire[21..25].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(wire).await, Err(BlockError::TooLarge(_))));
    }

    #[tokio::test]
    async fn every_http_encoding_round_trips() {
        for encoding in Encoding::ALL {
            let data = vec![b'x'; 300_000];
            let body = futures::stream::iter([Ok(Bytes::from(data.clone()))]).boxed();
            let back: Vec<Bytes> = encoding
                .decode(encoding.encode(body))
                .try_collect()
                .await
                .unwrap();
            assert_eq!(back.concat(), data, "{encoding:?}");
        }
    }

    #[tokio::test]
    async fn a_body_of_several_members_is_read_to_its_end() {
        for encoding in Encoding::ALL {
            let mut wire = Vec::new();
            for part in [b"one ".as_slice(), b"two ", b"three"] {
                let body = futures::stream::iter([Ok(Bytes::copy_from_slice(part))]).boxed();
                let member: Vec<Bytes> = encoding.encode(body).try_collect().await.unwrap();
                wire.extend(member.concat());
            }
            let body = futures::stream::iter([Ok(Bytes::from(wire))]).boxed();
            let back: Vec<Bytes> = encoding.decode(body).try_collect().await.unwrap();
            assert_eq!(back.concat(), b"one two three", "{encoding:?}");
        }
    }

    #[tokio::test]
    async fn what_follows_the_last_member_is_an_error() {
        for encoding in Encoding::ALL {
            let body = futures::stream::iter([Ok(Bytes::from_static(b"rows"))]).boxed();
            let member: Vec<Bytes> = encoding.encode(body).try_collect().await.unwrap();
            let wire = [member.concat().as_slice(), b"no member"].concat();
            let body = futures::stream::iter([Ok(Bytes::from(wire))]).boxed();
            let back: Result<Vec<Bytes>, _> = encoding.decode(body).try_collect().await;
            assert!(back.is_err(), "{encoding:?}");
        }
    }

    #[test]
    fn the_accepted_encoding_is_the_preferred_of_those_offered() {
        let accepted = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, value.parse().unwrap());
            Encoding::accepted(&headers)
        };
        assert_eq!(accepted("gzip, br;q=0.5"), Some(Encoding::Brotli));
        assert_eq!(accepted("br;q=0, zstd"), Some(Encoding::Zstd));
        assert_eq!(accepted("*"), None);
    }
}

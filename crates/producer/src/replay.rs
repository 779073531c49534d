//! Files of native payloads, one per line, on the same way as requests.
//!
//! ```text
//! FILE ─ gunzip, unzstd ─► line ─ intake ─► batch ─ writer (waits for the broker) ─► next batch
//! ```
//!
//! One batch is in memory at a time, so the broker sets the pace. A line is received when it is
//! read: where neither the item nor its context names a time, that is when it happened. A file may
//! be replayed again; items keep their event ids, by which the enricher recognises them.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chatpulse_kafka::{KafkaError, Record};
use chatpulse_model::{
    Context, RawBody, RawEvent, RejectReason, Rejection,
    avro::{AvroError, Codec},
    source::{Admitted, Receipt},
};
use memchr::memchr;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt as _, BufReader},
    time::sleep,
};
use tokio_util::io::InspectReader;

use crate::{
    Environment,
    body::Encoding,
    config::{ConfigError, ProducerConfig},
    intake::{Batch, Intake, known_sources},
    share::Claim,
    tenants::{Tenants, TenantsError},
    writer::{WriteError, Writer},
};

/// A batch is written when it has so many items, or so many bytes of records.
const BATCH_ITEMS: usize = 2_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often a batch is offered to a broker that does not take it, and the pause in between.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// Refusals that are told one by one; all are counted.
const MAX_TOLD: usize = 20;
const READ_BUFFER: usize = 256 * 1024;

/// What to replay.
#[derive(Debug, Clone)]
pub struct ReplayJob {
    /// For which tenant; its salt and limits apply.
    pub tenant: String,
    /// From which source the payloads are.
    pub source: String,
    /// NDJSON files, plain or compressed as their names say (`.gz`, `.br`, `.zst`).
    pub files: Vec<PathBuf>,
}

/// How far a replay has come. Everything in it is confirmed by the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the files read so far, as they are on disk.
    pub bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Items read.
    pub read: u64,
    /// Items taken.
    pub accepted: u64,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReplaySummary {
    /// Items read: lines that are not blank.
    pub read: u64,
    /// Items taken.
    pub accepted: u64,
    /// Items refused, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// The first refusals.
    pub first_rejections: Vec<RejectedLine>,
}

/// A line that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedLine {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: u64,
    /// The class of the fault.
    pub reason: &'static str,
    /// What was wrong.
    pub detail: String,
}

/// Why a replay stopped. What was confirmed before stays; replay the files again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tenants cannot be read.
    #[error(transparent)]
    Tenants(#[from] TenantsError),
    /// No such tenant.
    #[error("no tenant {0:?} in the tenants file; add it with `chatpulse tenant add {0}`")]
    UnknownTenant(String),
    /// No such source.
    #[error("no source {name:?}; known sources are: {known}")]
    UnknownSource {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A file cannot be read.
    #[error("{file}, after line {line}: {error}")]
    Read {
        /// The file.
        file: PathBuf,
        /// The last line that was read whole.
        line: u64,
        /// What is wrong with it.
        error: io::Error,
    },
    /// The publisher cannot be made.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The broker did not take a batch.
    #[error("{file}, up to line {line}: {error}; run the replay again when the broker is well")]
    Write {
        /// The file.
        file: PathBuf,
        /// Last line of the batch.
        line: u64,
        /// What the broker did.
        error: WriteError,
    },
    /// A record cannot be encoded.
    #[error(transparent)]
    Avro(#[from] AvroError),
}

/// Replays the files of `job`, one after the other, and tells `progress` after every batch.
pub async fn replay(
    config: &ProducerConfig,
    environment: &Environment,
    job: &ReplayJob,
    progress: impl FnMut(Progress),
) -> Result<ReplaySummary, ReplayError> {
    config.validate()?;
    let tenants = Tenants::load(&config.tenants_file)?.snapshot();
    let tenant = tenants
        .get(&job.tenant)
        .ok_or_else(|| ReplayError::UnknownTenant(job.tenant.clone()))?;
    let definition =
        environment
            .catalog
            .get(&job.source)
            .ok_or_else(|| ReplayError::UnknownSource {
                name: job.source.clone(),
                known: known_sources(environment.catalog),
            })?;
    let codec = Codec::new(environment.framing)?;
    let writer = Writer::new(&environment.kafka, config)?;
    let receipt = Receipt {
        tenant: &tenant.id,
        write_key_id: "replay",
        received_at: 0, // set anew for every batch
        pseudonyms: &tenant.pseudonyms,
        max_item_bytes: tenant.limits.max_item_bytes.get(),
    };
    let mut replay = Replay {
        intake: Intake {
            definition,
            receipt,
            codec: &codec,
        },
        source: &job.source,
        writer: &writer,
        // The queue is the replay's own.
        claim: Claim {
            tenant: &tenant.id,
            holdings: &tenant.holdings,
            percent: 100,
        },
        bytes: Arc::default(),
        total_bytes: total_bytes(&job.files).await?,
        summary: ReplaySummary::default(),
        progress,
    };
    for file in &job.files {
        replay.file(file).await?;
    }
    Ok(replay.summary)
}

async fn total_bytes(files: &[PathBuf]) -> Result<u64, ReplayError> {
    let mut total = 0;
    for file in files {
        let data = tokio::fs::metadata(file).await;
        total += data.map_err(|error| unreadable(file, 0, error))?.len();
    }
    Ok(total)
}

fn unreadable(file: &Path, line: u64, error: io::Error) -> ReplayError {
    ReplayError::Read {
        file: file.into(),
        line,
        error,
    }
}

struct Replay<'a, P> {
    intake: Intake<'a>,
    source: &'a str,
    writer: &'a Writer,
    claim: Claim<'a>,
    bytes: Arc<AtomicU64>,
    total_bytes: u64,
    summary: ReplaySummary,
    progress: P,
}

/// Lines of one file that go to the broker together.
#[derive(Default)]
struct Pending {
    batch: Batch,
    /// The line of each record.
    lines: Vec<u64>,
    bytes: usize,
}

impl<P: FnMut(Progress)> Replay<'_, P> {
    async fn file(&mut self, path: &Path) -> Result<(), ReplayError> {
        let file = File::open(path)
            .await
            .map_err(|error| unreadable(path, 0, error))?;
        let bytes = Arc::clone(&self.bytes);
        let counted = InspectReader::new(file, move |read| {
            bytes.fetch_add(read.len() as u64, Ordering::Relaxed);
        });
        let decoded = encoding(path).decode(BufReader::with_capacity(READ_BUFFER, counted));
        let mut reader = BufReader::with_capacity(READ_BUFFER, decoded);
        let mut pending = Pending::default();
        let mut content = Vec::new();
        let mut number = 0;
        loop {
            if pending.lines.is_empty() {
                self.intake.receipt.received_at = jiff::Timestamp::now().as_millisecond();
            }
            let max = self.intake.receipt.max_item_bytes;
            let line = next_line(&mut reader, &mut content, max).await;
            let Some(line) = line.map_err(|error| unreadable(path, number, error))? else {
                return self.write(path, pending).await;
            };
            number += 1;
            let before = pending.batch.records.len();
            match line {
                Line::Whole => {
                    let item = item(&content, number);
                    if !item.is_empty() {
                        self.intake.admit(item, &mut pending.batch)?;
                    }
                }
                Line::TooLong { bytes, sha256 } => {
                    let refused = self.too_long(bytes, sha256);
                    self.intake.put(refused, &mut pending.batch)?;
                }
            }
            let Some(record) = pending.batch.records.get(before) else {
                continue;
            };
            pending.bytes += record.payload.len();
            pending.lines.push(number);
            if pending.lines.len() >= BATCH_ITEMS || pending.bytes >= BATCH_BYTES {
                self.write(path, std::mem::take(&mut pending)).await?;
            }
        }
    }

    /// The record of a line that was never in memory as a whole.
    fn too_long(&self, bytes: u64, sha256: [u8; 32]) -> Admitted {
        let receipt = &self.intake.receipt;
        let limit = receipt.max_item_bytes;
        let rejection = Rejection {
            reason: RejectReason::TooLarge,
            detail: format!("the item has {bytes} bytes, more than the tenant's limit of {limit}"),
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            sha256: hex::encode(sha256),
        };
        let record = RawEvent {
            tenant: receipt.tenant.to_owned(),
            source: self.source.to_owned(),
            write_key_id: receipt.write_key_id.to_owned(),
            received_at: receipt.received_at,
            context: Context::default(),
            body: RawBody::Rejection(rejection),
            replay_of: None,
        };
        Admitted {
            record,
            key: sha256.to_vec(),
        }
    }

    async fn send(&self, records: Vec<Record>) -> Result<(), WriteError> {
        let room = self.writer.room(records.len(), self.claim);
        let room = room.map_err(|_| WriteError::QueueFull)?;
        self.writer.write(room, records).await
    }

    async fn write(&mut self, file: &Path, pending: Pending) -> Result<(), ReplayError> {
        let Pending { batch, lines, .. } = pending;
        let accepted = batch.accepted() as u64;
        let Batch { records, refused } = batch;
        if let Some(last) = lines.last() {
            let mut attempt = 1;
            // Sent again, the whole batch is stored once: see the module's head.
            while let Err(error) = self.send(records.clone()).await {
                if attempt == ATTEMPTS || error == WriteError::TooLarge {
                    return Err(ReplayError::Write {
                        file: file.into(),
                        line: *last,
                        error,
                    });
                }
                attempt += 1;
                sleep(PAUSE).await;
            }
        }
        self.summary.read += lines.len() as u64;
        self.summary.accepted += accepted;
        for item in refused {
            let reason = item.reason.as_str();
            *self.summary.rejected.entry(reason).or_default() += 1;
            if self.summary.first_rejections.len() < MAX_TOLD {
                self.summary.first_rejections.push(RejectedLine {
                    file: file.into(),
                    line: lines.get(item.index).copied().unwrap_or_default(),
                    reason,
                    detail: item.detail,
                });
            }
        }
        (self.progress)(Progress {
            bytes: self.bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes,
            read: self.summary.read,
            accepted: self.summary.accepted,
        });
        Ok(())
    }
}

/// A file's compression, by its name.
fn encoding(path: &Path) -> Encoding {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Encoding::Gzip,
        Some("br") => Encoding::Brotli,
        Some("zst") => Encoding::Zstd,
        _ => Encoding::Identity,
    }
}

/// The item of a line: without white space, and without a byte order mark on the first line.
fn item(content: &[u8], line: u64) -> &[u8] {
    let mark: &[u8] = if line == 1 { b"\xEF\xBB\xBF" } else { b"" };
    content.strip_prefix(mark).unwrap_or(content).trim_ascii()
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// The line is in the buffer.
    Whole,
    /// The line was passed over.
    TooLong { bytes: u64, sha256: [u8; 32] },
}

/// Reads a line into `line`, at most `max` bytes of it; `None` at the end.
async fn next_line<R: AsyncBufRead + Unpin>(
    reader: &mut R,
    line: &mut Vec<u8>,
    max: usize,
) -> io::Result<Option<Line>> {
    line.clear();
    let mut passed: Option<(u64, Sha256)> = None;
    let mut begun = false;
    loop {
        let available = reader.fill_buf().await?;
        let end = memchr(b'\n', available);
        let chunk = &available[..end.unwrap_or(available.len())];
        let at_end = available.is_empty();
        match &mut passed {
            Some((bytes, digest)) => {
                *bytes += chunk.len() as u64;
                digest.update(chunk);
            }
            None if line.len() + chunk.len() > max => {
                let digest = Sha256::new().chain_update(&line).chain_update(chunk);
                passed = Some(((line.len() + chunk.len()) as u64, digest));
            }
            None => line.extend_from_slice(chunk),
        }
        let used = chunk.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_none() && !at_end {
            begun = true;
            continue;
        }
        if at_end && !begun {
            return Ok(None);
        }
        return Ok(Some(match passed {
            Some((bytes, digest)) => Line::TooLong {
                bytes,
                sha256: digest.finalize().into(),
            },
            None => Line::Whole,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(content: &[u8], max: usize) -> Vec<(Line, Vec<u8>)> {
        // A small buffer, so that lines span several reads.
        let mut reader = BufReader::with_capacity(3, content);
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        while let Some(kind) = next_line(&mut reader, &mut line, max).await.unwrap() {
            lines.push((kind, line.clone()));
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_read_whole_up_to_the_limit_and_hashed_beyond_it() {
        let read = lines(b"one\n\nthree, which is long\nfour", 4).await;
        let digest = Sha256::digest(b"three, which is long").into();
        assert_eq!(read.len(), 4);
        assert_eq!(read[0], (Line::Whole, b"one".to_vec()));
        assert_eq!(read[1], (Line::Whole, Vec::new()));
        assert_eq!(
            read[2].0,
            Line::TooLong {
                bytes: 20,
                sha256: digest
            }
        );
        assert_eq!(read[3], (Line::Whole, b"four".to_vec()));
    }

    #[tokio::test]
    async fn a_file_without_lines_has_none() {
        assert_eq!(lines(b"", 4).await, []);
        assert_eq!(lines(b"\n", 4).await, [(Line::Whole, Vec::new())]);
    }

    #[test]
    fn the_name_tells_the_compression() {
        assert_eq!(encoding(Path::new("a.ndjson.gz")), Encoding::Gzip);
        assert_eq!(encoding(Path::new("a.zst")), Encoding::Zstd);
        assert_eq!(encoding(Path::new("a.ndjson")), Encoding::Identity);
    }

    #[test]
    fn a_mark_is_no_part_of_the_first_item() {
        assert_eq!(item(b"\xEF\xBB\xBF {} \r", 1), b"{}");
        assert_eq!(item(b"\xEF\xBB\xBF{}", 2), b"\xEF\xBB\xBF{}");
    }
}

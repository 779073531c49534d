//! Checkpoints: the state of a partition in an object store, so that a restart folds one interval's
//! records and not all of them.
//!
//! ```text
//! PartitionFold ─ encode ─► <root>/<topic>/<partition>/<offset>.checkpoint   (the two newest are kept)
//!                                   │ newest first: whole? ours? not ahead of chat.events?
//!                                   ▼ is its raw record still the one in the log?
//!                             PartitionFold, or the one before, or a replay from the start
//! ```
//!
//! A checkpoint is never needed and never trusted: without one the state is rebuilt from the raw
//! records, and one that is torn, altered or of another log is passed over with a warning. It is a
//! pure function of the raw log up to its offset, so what a deposed owner still writes is true too.

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chatpulse_kafka::Partition;
use chatpulse_model::fold::{
    PartitionFold,
    snapshot::{Anchor, Identity, SnapshotError},
};
use futures::TryStreamExt;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, buffered::BufWriter, local::LocalFileSystem,
    path::Path,
};
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use url::Url;

use crate::{
    error::PartitionError,
    metrics::Step,
    partition::{Stage, raw_record},
};

/// How many checkpoints of a partition are kept: the newest, and one to fall back to.
const KEPT: usize = 2;
/// Beyond this a state is not written, and not read: 250 million ids of one partition.
const MAX_BYTES: u64 = 4 << 30;
/// Parts of an upload. Larger than the least that S3 takes (5 MiB).
const PART: usize = 8 << 20;
/// Parts on their way at once.
const MAX_PARTS: usize = 4;
/// How long to wait for the store when a partition starts; after that its records are replayed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an upload may take; after that another partition has its turn.
const UPLOAD: Duration = Duration::from_secs(600);
/// How often a wait looks whether the partition was taken away.
const SLICE: Duration = Duration::from_millis(50);
const SUFFIX: &str = ".checkpoint";

/// Where checkpoints are kept, and how often one is made. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// The same folder for this process's own file system calls, where it is one.
    folder: Option<PathBuf>,
    interval: Duration,
    /// One partition at a time encodes and uploads: a bound on memory.
    turn: Arc<Semaphore>,
}

/// Why a place for checkpoints cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointsError {
    /// Neither a folder nor an address that this binary can use.
    #[error("{place:?} is no place for checkpoints: {reason}")]
    Place {
        /// What was given.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Checkpoints {
    /// Checkpoints in `place`: a folder's path, `file:///folder`, or `s3://bucket/prefix` in a binary
    /// built with the feature `s3`. Credentials and endpoints of S3 come from the variables `AWS_…`.
    /// Each partition makes one at most once per `interval`. Asks nothing of the store yet.
    ///
    /// # Errors
    /// [`CheckpointsError::Place`].
    pub fn open(place: &str, interval: Duration) -> Result<Self, CheckpointsError> {
        let unusable = |place: &str, reason: String| CheckpointsError::Place {
            place: place.to_owned(),
            reason,
        };
        let (store, root, folder) = if place.contains("://") {
            let url = Url::parse(place).map_err(|error| unusable(place, error.to_string()))?;
            if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
                // Not shown again: it may hold a secret.
                let reason = "credentials and options do not belong into it; give them as AWS_… \
                              variables";
                return Err(unusable(url.scheme(), reason.into()));
            }
            match (url.scheme(), url.to_file_path()) {
                ("file", Ok(folder)) => local(folder),
                ("s3" | "s3a", _) => s3(&url, aws_variables()),
                _ => Err("give a folder, file:///folder or s3://bucket/prefix".into()),
            }
        } else if place.is_empty() {
            Err("it is empty; give a folder".into())
        } else {
            std::path::absolute(place)
                .map_err(|error| error.to_string())
                .and_then(local)
        }
        .map_err(|reason| unusable(place, reason))?;
        Ok(Self {
            store,
            root,
            folder,
            interval,
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    fn partition(&self, topic: &str, partition: i32) -> Path {
        self.root.clone().join(topic).join(partition.to_string())
    }

    /// The checkpoints in `folder` with the offsets of their names, newest first.
    async fn list(&self, folder: &Path) -> object_store::Result<Vec<(i64, ObjectMeta)>> {
        let mut found: Vec<_> = self
            .store
            .list(Some(folder))
            .try_filter_map(|meta| async { Ok(offset_of(&meta).map(|offset| (offset, meta))) })
            .try_collect()
            .await?;
        found.sort_unstable_by_key(|(offset, _)| std::cmp::Reverse(*offset));
        Ok(found)
    }

    /// Stores `chunks` under `path`, whole or not at all.
    async fn put(&self, path: &Path, chunks: Vec<Bytes>) -> object_store::Result<()> {
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.store), path.clone(), PART)
            .with_max_concurrency(MAX_PARTS);
        for chunk in chunks {
            if let Err(error) = writer.put(chunk).await {
                // What is left of it costs space at most; the error that counts is the first.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
        writer
            .shutdown()
            .await
            .map_err(|source| object_store::Error::Generic {
                store: "checkpoints",
                source: source.into(),
            })
    }

    /// Deletes what is older than the [`KEPT`] newest up to `offset`. What is newer belongs to a newer
    /// owner, and is left alone.
    async fn prune(&self, folder: &Path, offset: i64) -> object_store::Result<()> {
        let found = self.list(folder).await?;
        let kept = found.iter().filter(|(at, _)| *at <= offset).take(KEPT);
        let Some(oldest) = kept.map(|(at, _)| *at).last() else {
            return Ok(());
        };
        for (_, meta) in found.iter().filter(|(at, _)| *at < oldest) {
            self.store.delete(&meta.location).await?;
        }
        let Some(local) = self.folder.clone() else {
            return Ok(());
        };
        // What was being written when a process was killed has a name that the store does not list.
        let partition = folder.prefix_match(&self.root).into_iter().flatten();
        let local = partition.fold(local, |local, part| local.join(part.as_ref()));
        let sweep = tokio::task::spawn_blocking(move || remove_torn(&local, oldest));
        sweep.await.map_err(object_store::Error::from)?;
        Ok(())
    }
}

/// Removes files of uploads that were cut off, of checkpoints below `offset`.
fn remove_torn(folder: &std::path::Path, offset: i64) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let torn = name.to_str().and_then(|name| name.split_once('#'));
        if torn
            .and_then(|(name, _)| parse_name(name))
            .is_some_and(|at| at < offset)
        {
            // Another time, then: it only costs space.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

type Opened = (Arc<dyn ObjectStore>, Path, Option<PathBuf>);

fn local(folder: PathBuf) -> Result<Opened, String> {
    let folder = resolved(&folder);
    let root = Path::from_absolute_path(&folder).map_err(|error| error.to_string())?;
    // A checkpoint is written beside its place, synced and renamed; then its folder is synced.
    let store = LocalFileSystem::new().with_fsync(true);
    Ok((Arc::new(store), root, Some(folder)))
}

/// The same folder without `..` and links, which a name in the store cannot have; it need not exist.
fn resolved(folder: &std::path::Path) -> PathBuf {
    match (folder.canonicalize(), folder.parent(), folder.file_name()) {
        (Ok(folder), _, _) => folder,
        (Err(_), Some(parent), Some(name)) => resolved(parent).join(name),
        (Err(_), _, _) => folder.to_owned(),
    }
}

/// Credentials, region and endpoint, as other tools take them too.
fn aws_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("AWS_"))
        .collect()
}

#[cfg(feature = "s3")]
fn s3(url: &Url, variables: Vec<(String, String)>) -> Result<Opened, String> {
    object_store::parse_url_opts(url, variables)
        .map(|(store, root)| (Arc::from(store), root, None))
        .map_err(|error| error.to_string())
}

#[cfg(not(feature = "s3"))]
fn s3(_url: &Url, _variables: Vec<(String, String)>) -> Result<Opened, String> {
    Err("this binary was built without S3: build it with `--features s3`, or give a folder".into())
}

fn name(offset: i64) -> String {
    format!("{offset:020}{SUFFIX}")
}

fn parse_name(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let whole = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    whole.then(|| digits.parse().ok())?
}

fn offset_of(meta: &ObjectMeta) -> Option<i64> {
    parse_name(meta.location.filename()?)
}

/// Why a checkpoint was passed over.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("chat.events ends at raw offset {resume}, and the checkpoint is ahead of it")]
    AheadOfOutcomes { resume: i64 },
    #[error("the raw records after it were deleted: the log begins at {low}")]
    BehindRaw { low: i64 },
    #[error("it has {bytes} bytes, more than a checkpoint can have")]
    TooLarge { bytes: u64 },
    #[error("it is named for another raw offset than {offset}, the one it holds")]
    OtherName { offset: i64 },
    #[error(
        "the raw record before it has another time than when it was made: the topic was deleted \
         and made again"
    )]
    OtherLog,
    #[error(transparent)]
    Content(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Unusable {
    /// Whether it can never become usable, so that it is better gone.
    fn is_final(&self) -> bool {
        match self {
            Self::TooLarge { .. } | Self::OtherName { .. } | Self::OtherLog => true,
            Self::Content(error) => match error {
                SnapshotError::NotASnapshot
                | SnapshotError::Damaged
                | SnapshotError::Malformed { .. } => true,
                // Of use to another version, or after a setting was taken back.
                SnapshotError::Version { .. }
                | SnapshotError::OtherPartition { .. }
                | SnapshotError::OtherHorizon { .. } => false,
            },
            Self::AheadOfOutcomes { .. } | Self::BehindRaw { .. } | Self::Store(_) => false,
        }
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Failed(#[from] object_store::Error),
    #[error("the store did not answer within {after:?}")]
    Timeout { after: Duration },
    #[error("the partition was taken away, or the process stops")]
    Stopped,
}

/// What was stored.
struct Stored {
    offset: i64,
    bytes: usize,
    took: Duration,
}

/// Makes and finds the checkpoints of one partition, from its thread.
pub(crate) struct Keeper<'a> {
    stage: &'a Stage,
    topic: String,
    partition: i32,
    label: String,
    folder: Path,
    /// Raw offset of the newest that is known to be stored.
    offset: i64,
    taken_at: Instant,
    storing: Option<Receiver<Result<Stored, StoreError>>>,
}

impl<'a> Keeper<'a> {
    pub(crate) fn new(stage: &'a Stage, input: &Partition) -> Self {
        let id = input.id();
        Self {
            stage,
            topic: id.topic.to_string(),
            partition: id.partition,
            label: id.partition.to_string(),
            folder: stage.config.checkpoints.partition(&id.topic, id.partition),
            offset: 0,
            taken_at: Instant::now(),
            storing: None,
        }
    }

    /// The newest state that is true and of use: not ahead of `resume`, the first raw offset without an
    /// outcome, nor behind `low`, the beginning of the raw log. `None` when there is none, and the
    /// records must be folded from there.
    ///
    /// # Errors
    /// When the raw log cannot be read. What is wrong with a checkpoint or the store is only told.
    pub(crate) fn restore(
        &mut self,
        input: &mut Partition,
        (low, resume): (i64, i64),
    ) -> Result<Option<(PartitionFold, Anchor)>, PartitionError> {
        let started = Instant::now();
        self.stage.metrics.restored(&self.label, 0);
        let (checkpoints, folder) = (self.stage.config.checkpoints.clone(), self.folder.clone());
        let list = async move { checkpoints.list(&folder).await };
        let found = match self.wait(list, PATIENCE, Some(input)) {
            Ok(found) => found,
            Err(error) => {
                self.stage.metrics.checkpoint_failed(Step::Load);
                let partition = self.partition;
                tracing::warn!(partition, %error, "cannot look for checkpoints, replaying instead");
                return Ok(None);
            }
        };
        for (offset, meta) in found {
            let named = if offset > resume {
                Err(Unusable::AheadOfOutcomes { resume })
            } else if offset < low {
                Err(Unusable::BehindRaw { low })
            } else {
                self.load(&meta, input)
            };
            let why = match named {
                Ok((_, anchor)) if anchor.offset != offset => Unusable::OtherName {
                    offset: anchor.offset,
                },
                Ok((fold, anchor)) => {
                    let before = raw_record(input, anchor.offset - 1)?;
                    let is_same = |timestamp_ms| timestamp_ms == anchor.timestamp_ms;
                    if before.iter().all(|raw| is_same(raw.timestamp_ms)) {
                        self.offset = offset;
                        self.stage.metrics.restored(&self.label, offset);
                        self.stage
                            .metrics
                            .checkpoint_took(Step::Load, started.elapsed());
                        return Ok(Some((fold, anchor)));
                    }
                    Unusable::OtherLog
                }
                Err(why) => why,
            };
            self.stage.metrics.checkpoint_failed(Step::Load);
            tracing::warn!(partition = self.partition, checkpoint = %meta.location, %why,
                "checkpoint passed over");
            if why.is_final() {
                let checkpoints = self.stage.config.checkpoints.clone();
                let delete = async move { checkpoints.store.delete(&meta.location).await };
                if let Err(error) = self.wait(delete, PATIENCE, Some(input)) {
                    tracing::warn!(partition = self.partition, %error, "cannot delete it");
                }
            }
        }
        Ok(None)
    }

    fn load(
        &self,
        meta: &ObjectMeta,
        input: &Partition,
    ) -> Result<(PartitionFold, Anchor), Unusable> {
        if meta.size > MAX_BYTES {
            return Err(Unusable::TooLarge { bytes: meta.size });
        }
        let checkpoints = self.stage.config.checkpoints.clone();
        let (location, size) = (meta.location.clone(), meta.size);
        // The range bounds memory, should the object have grown since.
        let get = async move { checkpoints.store.get_range(&location, 0..size).await };
        let bytes = match size {
            0 => Bytes::new(),
            _ => self.wait(get, PATIENCE, Some(input))?,
        };
        let identity = Identity {
            topic: &self.topic,
            partition: self.partition,
            horizon: self.stage.config.horizon,
        };
        Ok(PartitionFold::decode(&bytes, &identity)?)
    }

    /// Whether it is time for a checkpoint of the state at `anchor`.
    pub(crate) fn is_due(&self, anchor: &Anchor) -> bool {
        let checkpoints = &self.stage.config.checkpoints;
        self.storing.is_none()
            && anchor.offset > self.offset
            && self.taken_at.elapsed() >= checkpoints.interval
            && checkpoints.turn.available_permits() > 0
    }

    /// Begins a checkpoint of the state at `anchor`, up to which all outcomes are confirmed: encodes it
    /// here and uploads it in the background. Does nothing while another partition does so.
    pub(crate) fn begin(&mut self, fold: &PartitionFold, anchor: Anchor) {
        let turn = Arc::clone(&self.stage.config.checkpoints.turn);
        if let Ok(turn) = turn.try_acquire_owned() {
            self.upload(fold, anchor, turn);
        }
    }

    fn upload(&mut self, fold: &PartitionFold, anchor: Anchor, turn: OwnedSemaphorePermit) {
        let started = Instant::now();
        self.taken_at = started;
        let mut chunks = Chunks::default();
        if let Err(error) = fold.encode(&self.topic, anchor, &mut chunks) {
            self.failed(&error);
            return;
        }
        let (bytes, chunks) = (chunks.written, chunks.finish());
        self.stage
            .metrics
            .checkpoint_took(Step::Encode, started.elapsed());
        let checkpoints = self.stage.config.checkpoints.clone();
        let (folder, partition) = (self.folder.clone(), self.partition);
        let (report, storing) = sync_channel(1);
        self.storing = Some(storing);
        self.stage.runtime.spawn(async move {
            let started = Instant::now();
            let path = folder.clone().join(name(anchor.offset));
            let stored = match tokio::time::timeout(UPLOAD, checkpoints.put(&path, chunks)).await {
                Err(_) => Err(StoreError::Timeout { after: UPLOAD }),
                Ok(Err(error)) => Err(error.into()),
                Ok(Ok(())) => Ok(Stored {
                    offset: anchor.offset,
                    bytes,
                    took: started.elapsed(),
                }),
            };
            if stored.is_ok()
                && let Err(error) = checkpoints.prune(&folder, anchor.offset).await
            {
                tracing::warn!(partition, %error, "cannot delete old checkpoints");
            }
            drop(turn);
            // Nobody listens any more when the partition was taken away meanwhile.
            let _ = report.send(stored);
        });
    }

    /// Takes note of an upload that has ended.
    pub(crate) fn poll(&mut self) {
        self.settle(Instant::now());
    }

    /// At most until `deadline`: waits for the upload under way, and makes a last checkpoint where there
    /// is something new, so that the next owner starts quickly.
    pub(crate) fn finish(&mut self, fold: &PartitionFold, anchor: Anchor, deadline: Instant) {
        self.settle(deadline);
        if self.storing.is_some() || anchor.offset <= self.offset {
            return;
        }
        let turn = Arc::clone(&self.stage.config.checkpoints.turn);
        let left = deadline.saturating_duration_since(Instant::now());
        // It is never closed.
        let turn = async move { Ok(turn.acquire_owned().await.ok()) };
        if let Ok(Some(turn)) = self.wait(turn, left, None) {
            self.upload(fold, anchor, turn);
            self.settle(deadline);
        }
    }

    fn settle(&mut self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(storing) = &self.storing else {
            return;
        };
        let ended = match storing.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => return,
            Ok(ended) => ended,
            Err(RecvTimeoutError::Disconnected) => Err(StoreError::Stopped),
        };
        self.storing = None;
        match ended {
            Ok(stored) => {
                self.offset = stored.offset;
                let metrics = &self.stage.metrics;
                metrics.checkpoint_took(Step::Store, stored.took);
                metrics.stored(&self.label, stored.offset, stored.bytes);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        self.stage.metrics.checkpoint_failed(Step::Store);
        tracing::warn!(
            partition = self.partition,
            error,
            "checkpoint not stored; restarts take longer until one is"
        );
    }

    /// Does `work` on the runtime and waits for it on this thread, at most for `patience`, and as long
    /// as `input` is ours.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
        patience: Duration,
        input: Option<&Partition>,
    ) -> Result<T, StoreError> {
        let (report, result) = sync_channel(1);
        let task = self.stage.runtime.spawn(async move {
            let _ = report.send(work.await);
        });
        let deadline = Instant::now() + patience;
        let ended = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match result.recv_timeout(left.min(SLICE)) {
                Ok(result) => return Ok(result?),
                Err(RecvTimeoutError::Disconnected) => break StoreError::Stopped,
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    break StoreError::Timeout { after: patience };
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if input.is_some_and(Partition::is_revoked) {
                break StoreError::Stopped;
            }
        };
        task.abort();
        Err(ended)
    }
}

/// Gathers what is written in pieces that can be uploaded without another copy.
#[derive(Default)]
struct Chunks {
    full: Vec<Bytes>,
    last: Vec<u8>,
    written: usize,
}

impl Chunks {
    fn finish(mut self) -> Vec<Bytes> {
        self.full.push(self.last.into());
        self.full
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len();
        if self.written as u64 > MAX_BYTES {
            return Err(io::Error::other(format!(
                "the state has more than {MAX_BYTES} bytes"
            )));
        }
        self.last.extend_from_slice(bytes);
        if self.last.len() >= PART {
            self.full.push(std::mem::take(&mut self.last).into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, feature = "s3"))]
mod s3_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn open(folder: &std::path::Path) -> Checkpoints {
        Checkpoints::open(folder.to_str().unwrap(), INTERVAL).unwrap()
    }

    fn refusal(place: &str) -> String {
        Checkpoints::open(place, INTERVAL).unwrap_err().to_string()
    }

    fn names(folder: &std::path::Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_name_gives_its_offset_back_and_sorts_by_it() {
        assert_eq!(parse_name(&name(7)), Some(7));
        assert_eq!(parse_name(&name(i64::MAX)), Some(i64::MAX));
        assert!(name(9) < name(10));
        for other in [
            "7.checkpoint",
            "0000000000000000000a.checkpoint",
            "00000000000000000007",
            "",
        ] {
            assert_eq!(parse_name(other), None, "{other:?}");
        }
        assert_eq!(parse_name("99999999999999999999.checkpoint"), None);
    }

    #[test]
    fn a_place_that_cannot_be_used_is_refused_with_what_to_do() {
        for place in ["", "ftp://host/folder", "file://host/folder"] {
            assert!(refusal(place).contains("folder"), "{}", refusal(place));
        }
    }

    #[cfg(not(feature = "s3"))]
    #[test]
    fn s3_in_a_binary_without_it_is_refused_with_what_to_do() {
        assert!(refusal("s3://bucket/prefix").contains("--features s3"));
    }

    #[cfg(feature = "s3")]
    #[test]
    fn a_bucket_and_a_prefix_are_a_place() {
        let checkpoints = Checkpoints::open("s3://bucket/some/prefix", INTERVAL).unwrap();
        let folder = checkpoints.partition("chat.raw", 3);
        assert_eq!(folder.as_ref(), "some/prefix/chat.raw/3");
    }

    #[test]
    fn credentials_in_a_place_are_refused_and_not_shown() {
        for place in ["s3://key:hunter2@bucket/x", "s3://bucket/x?secret=hunter2"] {
            let refusal = refusal(place);
            assert!(
                refusal.contains("AWS_") && !refusal.contains("hunter2"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_folder_and_its_file_address_are_the_same_place() {
        let folder = std::path::Path::new("/some folder/with 100 % #1");
        let address = Url::from_file_path(folder).unwrap();
        let by_address = Checkpoints::open(address.as_str(), INTERVAL).unwrap();
        assert_eq!(by_address.root, open(folder).root);
        assert_eq!(by_address.folder, open(folder).folder);
    }

    #[tokio::test]
    async fn a_folder_above_the_working_directory_is_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let checkpoints = open(&inner.join("../sibling"));
        let path = checkpoints.partition("chat.raw", 0).join(name(5));
        checkpoints.put(&path, vec!["x".into()]).await.unwrap();
        assert_eq!(names(&folder.path().join("sibling/chat.raw/0")), [name(5)]);
    }

    #[tokio::test]
    async fn what_was_put_is_found_again_also_in_several_parts_and_a_folder_of_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("some folder with 100 % #1");
        let checkpoints = open(&folder);
        let partition = checkpoints.partition("chat.raw", 0);
        assert!(checkpoints.list(&partition).await.unwrap().is_empty());
        let mut chunks = Chunks::default();
        for number in 0..3 * PART / 1000 {
            chunks.write_all(&[number as u8; 1000]).unwrap();
        }
        let chunks = chunks.finish();
        let bytes = chunks.concat();
        checkpoints
            .put(&partition.clone().join(name(5)), chunks)
            .await
            .unwrap();
        let found = checkpoints.list(&partition).await.unwrap();
        let [(5, meta)] = found.as_slice() else {
            panic!("{found:?}");
        };
        let got = checkpoints.store.get(&meta.location).await.unwrap();
        assert_eq!(got.bytes().await.unwrap(), bytes);
        assert_eq!(names(&folder.join("chat.raw/0")), [name(5)]);
    }

    #[tokio::test]
    async fn pruning_keeps_the_two_newest_up_to_an_offset_and_all_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = open(folder.path());
        let partition = checkpoints.partition("chat.raw", 0);
        let local = folder.path().join("chat.raw/0");
        std::fs::create_dir_all(&local).unwrap();
        for offset in [1, 2, 3, 4, 9] {
            std::fs::write(local.join(name(offset)), "x").unwrap();
        }
        // Left by processes that were killed, and one by an upload that may be under way.
        for offset in [2, 9] {
            std::fs::write(local.join(name(offset) + "#1"), "x").unwrap();
        }
        std::fs::write(local.join("README"), "x").unwrap();
        checkpoints.prune(&partition, 4).await.unwrap();
        let left = [name(3), name(4), name(9), name(9) + "#1", "README".into()];
        assert_eq!(names(&local), left);
    }
}

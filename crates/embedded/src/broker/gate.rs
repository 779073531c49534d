//! Stands before tansu's routes and adds what it lacks.
//!
//! - *Fetch*: tansu answers a fetch that found records only after it has slept for at least half of
//!   the client's maximal wait, and reads record by record. The gate asks it without a wait, waits
//!   itself until the next append, and serves readers that keep up from the newest batches, which
//!   it keeps as they were written and confirmed.
//!   A fetch beyond the end, which tansu would let wait for ever, is refused as Kafka does.
//! - *OffsetCommit*: tansu takes a commit of any generation. The gate first asks it by a heartbeat
//!   whether the member and its generation are current, and refuses the commit as Kafka does.
//! - *InitProducerId*: the storage does not survive one of a transaction, nor one that renews an
//!   id. The gate refuses the former and makes the latter ask for a new id.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rama::{Context, Service};
use tansu_sans_io::{
    Body, ErrorCode, FetchRequest, FetchResponse, Frame, Header, HeartbeatRequest,
    InitProducerIdResponse, MetadataResponse, OffsetCommitRequest, OffsetCommitResponse,
    ProduceRequest, ProduceResponse,
    fetch_response::{FetchableTopicResponse, PartitionData},
    offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    record::deflated::{Batch, Frame as Batches},
};
use tokio::{sync::Notify, time::Instant};

/// Longest wait that a client may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// API key of Heartbeat, and a version that tansu and this code know.
const HEARTBEAT: (i16, i16) = (12, 3);

/// Newest batches of one partition kept in memory; bytes. Like the page cache of a broker that
/// writes files: a reader that keeps up costs the database nothing.
const TAIL_BYTES: usize = 32 << 20;
/// The same of all partitions together; bytes.
const TAILS_BYTES: usize = 64 << 20;

/// What the connections of a broker share.
#[derive(Clone, Debug, Default)]
pub(super) struct Tails {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    grown: Notify,
    /// Held from a commit's check to its end and by who reads offsets: a new owner sees a commit of
    /// the old one, or the old one's is refused, but none comes after the new owner has looked.
    commits: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    tails: HashMap<TopicPartition, Tail>,
    /// Names of topics by their ids, as metadata answers told them: newer clients fetch by id.
    names: HashMap<[u8; 16], String>,
}

type TopicPartition = (String, i32);

/// The newest batches of a partition, without a hole: offsets `[start, end)`.
#[derive(Debug)]
struct Tail {
    batches: VecDeque<Batch>,
    start: i64,
    end: i64,
    bytes: usize,
}

impl Tail {
    fn starting_at(offset: i64) -> Self {
        Self {
            batches: VecDeque::new(),
            start: offset,
            end: offset,
            bytes: 0,
        }
    }

    /// Adds batches that the database has from `base` on. Answers of two connections may come here
    /// in another order than the database wrote them: what is older than the end is left out, and
    /// after a hole the tail begins anew. Readers of what is not here ask the database.
    fn append(&mut self, mut base: i64, batches: &[Batch]) {
        if base < self.end {
            return;
        }
        if base > self.end {
            *self = Self::starting_at(base);
        }
        for batch in batches {
            let batch = Batch {
                base_offset: base,
                ..batch.clone()
            };
            base += i64::from(batch.last_offset_delta) + 1;
            self.bytes += batch.record_data.len();
            self.batches.push_back(batch);
        }
        self.end = base;
        while self.bytes > TAIL_BYTES {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= oldest.record_data.len();
            self.start = oldest.base_offset + i64::from(oldest.last_offset_delta) + 1;
        }
    }

    /// Batches from the one that holds `offset`, at least one, up to `max_bytes`.
    fn from(&self, offset: i64, max_bytes: usize) -> Vec<Batch> {
        let first = self.batches.partition_point(|batch| {
            batch.base_offset + i64::from(batch.last_offset_delta) < offset
        });
        let mut bytes = 0;
        self.batches
            .iter()
            .skip(first)
            .take_while(|batch| {
                let fits = bytes == 0 || bytes + batch.record_data.len() <= max_bytes;
                bytes += batch.record_data.len();
                fits
            })
            .cloned()
            .collect()
    }
}

impl State {
    /// Makes room where most is kept.
    fn trim(&mut self) {
        while self.tails.values().map(|tail| tail.bytes).sum::<usize>() > TAILS_BYTES
            && let Some(longest) = self.tails.values_mut().max_by_key(|tail| tail.bytes)
        {
            longest.drop_oldest();
        }
    }
}

impl Tails {
    /// tansu's routes behind the gate.
    pub(super) fn in_front_of<S>(&self, routes: S) -> Gate<S> {
        Gate {
            routes,
            tails: self.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what the database has confirmed.
    fn note(&self, written: Vec<(TopicPartition, Vec<Batch>)>, answer: &ProduceResponse) {
        let mut bases = HashMap::new();
        for topic in answer.responses.iter().flatten() {
            for partition in topic.partition_responses.iter().flatten() {
                if partition.error_code == i16::from(ErrorCode::None) {
                    bases.insert((topic.name.clone(), partition.index), partition.base_offset);
                }
            }
        }
        let mut state = self.state();
        for (partition, batches) in written {
            if let Some(&base) = bases.get(&partition) {
                let tail = state.tails.entry(partition);
                tail.or_insert_with(|| Tail::starting_at(base))
                    .append(base, &batches);
            }
        }
        state.trim();
        drop(state);
        self.shared.grown.notify_waiters();
    }

    fn learn(&self, metadata: &MetadataResponse) {
        let mut state = self.state();
        for topic in metadata.topics.iter().flatten() {
            if let (Some(id), Some(name)) = (topic.topic_id, &topic.name) {
                state.names.insert(id, name.clone());
            }
        }
    }

    /// Forgets all: a topic of the same name may begin anew.
    fn forget(&self) {
        *self.state() = State::default();
    }

    /// What a fetch is to be answered with from memory: `None` where the database must be asked.
    fn answer(&self, fetch: &FetchRequest) -> Option<FetchResponse> {
        let state = self.state();
        let mut left = usize::try_from(fetch.max_bytes.unwrap_or(i32::MAX)).unwrap_or(0);
        let mut topics = Vec::new();
        for topic in fetch.topics.iter().flatten() {
            let name = match &topic.topic {
                Some(name) if !name.is_empty() => name,
                _ => state.names.get(&topic.topic_id?)?,
            };
            let mut partitions = Vec::new();
            for asked in topic.partitions.iter().flatten() {
                let tail = state.tails.get(&(name.clone(), asked.partition))?;
                if !(tail.start..=tail.end).contains(&asked.fetch_offset) {
                    return None;
                }
                let limit = usize::try_from(asked.partition_max_bytes).unwrap_or(0);
                let batches = match left {
                    0 => Vec::new(),
                    left => tail.from(asked.fetch_offset, limit.min(left)),
                };
                left -= left.min(batches.iter().map(|batch| batch.record_data.len()).sum());
                partitions.push(
                    PartitionData::default()
                        .partition_index(asked.partition)
                        .error_code(ErrorCode::None.into())
                        .high_watermark(tail.end)
                        .last_stable_offset(Some(tail.end))
                        .log_start_offset(Some(-1))
                        .aborted_transactions(Some(Vec::new()))
                        .preferred_read_replica(Some(-1))
                        .records((!batches.is_empty()).then_some(Batches { batches })),
                );
            }
            topics.push(
                FetchableTopicResponse::default()
                    .topic(topic.topic.clone())
                    .topic_id(topic.topic_id)
                    .partitions(Some(partitions)),
            );
        }
        (!topics.is_empty()).then(|| {
            FetchResponse::default()
                .throttle_time_ms(Some(0))
                .error_code(Some(ErrorCode::None.into()))
                .session_id(Some(0))
                .node_endpoints(Some(Vec::new()))
                .responses(Some(topics))
        })
    }
}

/// tansu's routes, and what is added to them.
#[derive(Debug)]
pub(super) struct Gate<S> {
    routes: S,
    tails: Tails,
}

impl<S> Service<(), Frame> for Gate<S>
where
    S: Service<(), Frame, Response = Frame>,
{
    type Response = Frame;
    type Error = S::Error;

    async fn serve(&self, ctx: Context<()>, mut request: Frame) -> Result<Frame, S::Error> {
        match &mut request.body {
            Body::FetchRequest(fetch) => {
                let wait = Duration::from_millis(u64::try_from(fetch.max_wait_ms).unwrap_or(0));
                fetch.max_wait_ms = 0;
                self.fetch(ctx, request, Instant::now() + wait.min(MAX_WAIT))
                    .await
            }
            Body::ProduceRequest(produce) => {
                let written = batches_of(produce);
                let answer = self.routes.serve(ctx, request).await?;
                if let Body::ProduceResponse(produced) = &answer.body {
                    self.tails.note(written, produced);
                }
                Ok(answer)
            }
            Body::ApiVersionsRequest(_) => {
                let mut answer = self.routes.serve(ctx, request).await?;
                if let Body::ApiVersionsResponse(versions) = &mut answer.body {
                    // Empty all, and Kafka leaves empty ones out; librdkafka 2.0 fails on them.
                    versions.supported_features = None;
                    versions.finalized_features_epoch = None;
                    versions.finalized_features = None;
                    versions.zk_migration_ready = None;
                }
                Ok(answer)
            }
            Body::DeleteTopicsRequest(_) => {
                let answer = self.routes.serve(ctx, request).await?;
                self.tails.forget();
                Ok(answer)
            }
            Body::InitProducerIdRequest(init) if init.transactional_id.is_some() => {
                let refused = InitProducerIdResponse::default()
                    .throttle_time_ms(0)
                    .error_code(ErrorCode::TransactionalIdAuthorizationFailed.into())
                    .producer_id(-1)
                    .producer_epoch(-1);
                Ok(answer_to(&request, Body::InitProducerIdResponse(refused)))
            }
            Body::InitProducerIdRequest(init) => {
                init.producer_id = Some(-1);
                init.producer_epoch = Some(-1);
                self.routes.serve(ctx, request).await
            }
            Body::MetadataRequest(_) => {
                let answer = self.routes.serve(ctx, request).await?;
                if let Body::MetadataResponse(metadata) = &answer.body {
                    self.tails.learn(metadata);
                }
                Ok(answer)
            }
            Body::OffsetFetchRequest(_) => {
                let _no_commit = self.tails.shared.commits.lock().await;
                self.routes.serve(ctx, request).await
            }
            Body::OffsetCommitRequest(commit) => {
                let _alone = self.tails.shared.commits.lock().await;
                let refused = self
                    .refusal(&ctx, commit)
                    .await?
                    .map(|code| Body::OffsetCommitResponse(refused(commit, code)));
                match refused {
                    Some(body) => Ok(answer_to(&request, body)),
                    None => self.routes.serve(ctx, request).await,
                }
            }
            _ => self.routes.serve(ctx, request).await,
        }
    }
}

impl<S> Gate<S>
where
    S: Service<(), Frame, Response = Frame>,
{
    async fn fetch(
        &self,
        ctx: Context<()>,
        request: Frame,
        deadline: Instant,
    ) -> Result<Frame, S::Error> {
        loop {
            // Registered before looking: what is appended after this line wakes us.
            let mut grown = std::pin::pin!(self.tails.shared.grown.notified());
            grown.as_mut().enable();
            let from_memory = match &request.body {
                Body::FetchRequest(fetch) => self.tails.answer(fetch),
                _ => None,
            };
            let (answer, is_news) = match from_memory {
                Some(response) => {
                    let is_news = has_news(&response);
                    (answer_to(&request, Body::FetchResponse(response)), is_news)
                }
                None => {
                    let answer = self.ask_database(&ctx, &request).await?;
                    let is_news = match &answer.body {
                        Body::FetchResponse(response) => has_news(response),
                        _ => true,
                    };
                    (answer, is_news)
                }
            };
            if is_news {
                return Ok(answer);
            }
            if tokio::time::timeout_at(deadline, grown).await.is_err() {
                // Once more from the database: a connection that broke off after its write was
                // confirmed has told the tails nothing.
                return self.ask_database(&ctx, &request).await;
            }
        }
    }

    async fn ask_database(&self, ctx: &Context<()>, request: &Frame) -> Result<Frame, S::Error> {
        let mut answer = self.routes.serve(ctx.clone(), request.clone()).await?;
        if let (Body::FetchRequest(fetch), Body::FetchResponse(response)) =
            (&request.body, &mut answer.body)
        {
            refuse_beyond_end(fetch, response);
        }
        Ok(answer)
    }

    /// The error that a commit is to be answered with, if any.
    async fn refusal(
        &self,
        ctx: &Context<()>,
        commit: &OffsetCommitRequest,
    ) -> Result<Option<ErrorCode>, S::Error> {
        let generation = commit.generation_id_or_member_epoch.unwrap_or(-1);
        let member = commit.member_id.as_deref().unwrap_or_default();
        if generation < 0 && member.is_empty() {
            // No member of the group: an administrator's tool, as Kafka allows.
            return Ok(None);
        }
        let heartbeat = HeartbeatRequest::default()
            .group_id(commit.group_id.clone())
            .generation_id(generation)
            .member_id(member.to_owned())
            .group_instance_id(commit.group_instance_id.clone());
        let frame = Frame {
            size: 0,
            header: Header::Request {
                api_key: HEARTBEAT.0,
                api_version: HEARTBEAT.1,
                correlation_id: 0,
                client_id: None,
            },
            body: Body::HeartbeatRequest(heartbeat),
        };
        let answer = self.routes.serve(ctx.clone(), frame).await?;
        let Body::HeartbeatResponse(answer) = answer.body else {
            return Ok(None);
        };
        // Also a rebalance in progress: tansu says so to every older generation, for good, and hands
        // partitions on without waiting for their owners.
        Ok(match ErrorCode::try_from(answer.error_code) {
            Ok(ErrorCode::None) => None,
            Ok(code) => Some(code),
            Err(_) => Some(ErrorCode::UnknownServerError),
        })
    }
}

fn batches_of(request: &ProduceRequest) -> Vec<(TopicPartition, Vec<Batch>)> {
    let topics = request.topic_data.as_deref().unwrap_or_default();
    topics
        .iter()
        .flat_map(|topic| {
            let partitions = topic.partition_data.as_deref().unwrap_or_default();
            partitions.iter().map(|partition| {
                let batches = partition
                    .records
                    .as_ref()
                    .map(|records| records.batches.clone());
                (
                    (topic.name.clone(), partition.index),
                    batches.unwrap_or_default(),
                )
            })
        })
        .collect()
}

/// A reader that stands after the end has lost its log (another data directory, power loss) and must be told.
fn refuse_beyond_end(fetch: &FetchRequest, response: &mut FetchResponse) {
    // tansu answers topics and partitions in the order in which they were asked for.
    let topics = fetch.topics.iter().flatten();
    for (asked, answered) in topics.zip(response.responses.iter_mut().flatten()) {
        let partitions = asked.partitions.iter().flatten();
        for (asked, answered) in partitions.zip(answered.partitions.iter_mut().flatten()) {
            if answered.error_code == 0 && asked.fetch_offset > answered.high_watermark {
                answered.error_code = ErrorCode::OffsetOutOfRange.into();
            }
        }
    }
}

/// Records, or an error that the client must see.
fn has_news(response: &FetchResponse) -> bool {
    if response.error_code.is_some_and(|code| code != 0) {
        return true;
    }
    let topics = response.responses.as_deref().unwrap_or_default();
    topics.iter().any(|topic| {
        let partitions = topic.partitions.as_deref().unwrap_or_default();
        partitions
            .iter()
            .any(|partition| partition.error_code != 0 || partition.records.is_some())
    })
}

fn refused(commit: &OffsetCommitRequest, code: ErrorCode) -> OffsetCommitResponse {
    let topics = commit.topics.as_deref().unwrap_or_default();
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.as_deref().unwrap_or_default();
        let partitions = partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .partition_index(partition.partition_index)
                .error_code(i16::from(code))
        });
        OffsetCommitResponseTopic::default()
            .name(topic.name.clone())
            .partitions(Some(partitions.collect()))
    });
    OffsetCommitResponse::default()
        .throttle_time_ms(Some(0))
        .topics(Some(topics.collect()))
}

fn answer_to(request: &Frame, body: Body) -> Frame {
    let correlation_id = match &request.header {
        Header::Request { correlation_id, .. } | Header::Response { correlation_id } => {
            *correlation_id
        }
    };
    Frame {
        size: 0,
        header: Header::Response { correlation_id },
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: i32) -> Batch {
        let record_data = vec![0; records as usize].into();
        Batch {
            last_offset_delta: records - 1,
            record_data,
            ..Batch::default()
        }
    }

    fn bases(tail: &Tail, offset: i64) -> Vec<i64> {
        tail.from(offset, usize::MAX)
            .iter()
            .map(|batch| batch.base_offset)
            .collect()
    }

    #[test]
    fn a_reader_gets_the_batch_that_holds_its_offset_and_all_after_it() {
        let mut tail = Tail::starting_at(10);
        tail.append(10, &[batch(5)]);
        tail.append(15, &[batch(5), batch(1)]);
        assert_eq!((tail.start, tail.end), (10, 21));
        assert_eq!(bases(&tail, 10), [10, 15, 20]);
        assert_eq!(bases(&tail, 14), [10, 15, 20]);
        assert_eq!(bases(&tail, 15), [15, 20]);
        assert_eq!(bases(&tail, 21), [0; 0]);
    }

    #[test]
    fn a_limit_of_nothing_still_gives_one_batch() {
        let mut tail = Tail::starting_at(0);
        tail.append(0, &[batch(5), batch(5)]);
        assert_eq!(tail.from(0, 0).len(), 1);
        assert_eq!(tail.from(0, 10).len(), 2);
    }

    #[test]
    fn an_answer_that_comes_late_never_leaves_a_hole() {
        let mut tail = Tail::starting_at(0);
        tail.append(0, &[batch(5)]);
        tail.append(10, &[batch(5)]);
        assert_eq!(
            (tail.start, tail.end),
            (10, 15),
            "begins anew after the hole"
        );
        tail.append(5, &[batch(5)]);
        assert_eq!(
            (tail.start, tail.end),
            (10, 15),
            "the late one is left to the database"
        );
        tail.append(15, &[batch(5)]);
        assert_eq!(bases(&tail, 10), [10, 15]);
    }

    #[test]
    fn the_oldest_batches_make_room() {
        let mut tail = Tail::starting_at(0);
        let big = TAIL_BYTES as i32 / 2;
        for index in 0..4 {
            tail.append(i64::from(index * big), &[batch(big)]);
        }
        assert_eq!(tail.start, i64::from(2 * big));
        assert!(tail.bytes <= TAIL_BYTES);
    }

    #[test]
    fn many_partitions_together_keep_no_more_than_their_share() {
        let mut state = State::default();
        let half = TAIL_BYTES as i32 / 2;
        for partition in 0..30 {
            let tail = state.tails.entry(("t".to_owned(), partition));
            let tail = tail.or_insert_with(|| Tail::starting_at(0));
            tail.append(0, &[batch(half)]);
            tail.append(i64::from(half), &[batch(half)]);
            state.trim();
            let newest = &state.tails[&("t".to_owned(), partition)];
            assert_eq!(newest.end, 2 * i64::from(half));
        }
        let kept: usize = state.tails.values().map(|tail| tail.bytes).sum();
        assert!(kept <= TAILS_BYTES && kept > TAILS_BYTES / 2, "{kept}");
        for tail in state.tails.values() {
            let first = tail
                .batches
                .front()
                .map_or(tail.end, |batch| batch.base_offset);
            assert_eq!(tail.start, first, "offsets and batches agree");
        }
    }
}

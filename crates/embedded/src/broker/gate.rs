//! Stands before tansu's routes and adds what it lacks.
//!
//! - *Fetch*: tansu answers a fetch that found records only after it has slept for at least half of
//!   the client's maximal wait. The gate asks it without a wait, and waits itself until the next
//!   record of the partitions asked for.
//! - *OffsetCommit*: tansu takes a commit of any generation. The gate first asks it by a heartbeat
//!   whether the member and its generation are current, and refuses the commit as Kafka does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rama::{Context, Service};
use tansu_sans_io::{
    Body, ErrorCode, FetchRequest, FetchResponse, Frame, Header, HeartbeatRequest,
    OffsetCommitRequest, OffsetCommitResponse, ProduceRequest,
    offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
};
use tokio::{sync::Notify, time::Instant};

/// Longest wait that a client may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// API key of Heartbeat, and a version that tansu and this code know.
const HEARTBEAT: (i16, i16) = (12, 3);

/// What the connections of a broker share: when records were appended.
#[derive(Clone, Debug, Default)]
pub(super) struct Appends {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Appends to each partition since the start.
    counts: Mutex<HashMap<(String, i32), u64>>,
    happened: Notify,
}

impl Appends {
    /// tansu's routes behind the gate.
    pub(super) fn in_front_of<S>(&self, routes: S) -> Gate<S> {
        Gate {
            routes,
            appends: self.clone(),
        }
    }

    fn note(&self, request: &[(String, i32)]) {
        let mut counts = self
            .shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for partition in request {
            *counts.entry(partition.clone()).or_default() += 1;
        }
        drop(counts);
        self.shared.happened.notify_waiters();
    }

    fn count(&self, partitions: &[(String, i32)]) -> u64 {
        let counts = self
            .shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        partitions
            .iter()
            .filter_map(|partition| counts.get(partition))
            .sum()
    }

    /// Waits until the partitions have more appends than `seen`; false when `deadline` came first.
    async fn after(&self, seen: u64, partitions: &[(String, i32)], deadline: Instant) -> bool {
        loop {
            let mut happened = std::pin::pin!(self.shared.happened.notified());
            happened.as_mut().enable();
            if self.count(partitions) > seen {
                return true;
            }
            if tokio::time::timeout_at(deadline, happened).await.is_err() {
                return false;
            }
        }
    }
}

/// tansu's routes, and what is added to them.
#[derive(Debug)]
pub(super) struct Gate<S> {
    routes: S,
    appends: Appends,
}

impl<S> Service<(), Frame> for Gate<S>
where
    S: Service<(), Frame, Response = Frame>,
{
    type Response = Frame;
    type Error = S::Error;

    async fn serve(&self, ctx: Context<()>, request: Frame) -> Result<Frame, S::Error> {
        match &request.body {
            Body::FetchRequest(_) => self.fetch(ctx, request).await,
            Body::ProduceRequest(produce) => {
                let partitions = produced(produce);
                let answer = self.routes.serve(ctx, request).await;
                self.appends.note(&partitions);
                answer
            }
            Body::OffsetCommitRequest(commit) => match self.refusal(&ctx, commit).await? {
                Some(code) => Ok(refused(&request, commit, code)),
                None => self.routes.serve(ctx, request).await,
            },
            _ => self.routes.serve(ctx, request).await,
        }
    }
}

impl<S> Gate<S>
where
    S: Service<(), Frame, Response = Frame>,
{
    async fn fetch(&self, ctx: Context<()>, mut request: Frame) -> Result<Frame, S::Error> {
        let Body::FetchRequest(fetch) = &mut request.body else {
            return self.routes.serve(ctx, request).await;
        };
        let wait = Duration::from_millis(u64::try_from(fetch.max_wait_ms).unwrap_or(0));
        let deadline = Instant::now() + wait.min(MAX_WAIT);
        fetch.max_wait_ms = 0;
        let partitions = fetched(fetch);
        loop {
            let seen = self.appends.count(&partitions);
            let answer = self.routes.serve(ctx.clone(), request.clone()).await?;
            let is_news = match &answer.body {
                Body::FetchResponse(response) => has_news(response),
                _ => true,
            };
            if is_news || !self.appends.after(seen, &partitions, deadline).await {
                return Ok(answer);
            }
        }
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
        Ok(match ErrorCode::try_from(answer.error_code) {
            // During a rebalance the old generation may still commit.
            Ok(ErrorCode::None | ErrorCode::RebalanceInProgress) => None,
            Ok(code) => Some(code),
            Err(_) => Some(ErrorCode::UnknownServerError),
        })
    }
}

fn produced(request: &ProduceRequest) -> Vec<(String, i32)> {
    let topics = request.topic_data.as_deref().unwrap_or_default();
    topics
        .iter()
        .flat_map(|topic| {
            let partitions = topic.partition_data.as_deref().unwrap_or_default();
            partitions
                .iter()
                .map(|partition| (topic.name.clone(), partition.index))
        })
        .collect()
}

fn fetched(request: &FetchRequest) -> Vec<(String, i32)> {
    let topics = request.topics.as_deref().unwrap_or_default();
    topics
        .iter()
        .flat_map(|topic| {
            let name = topic.topic.clone().unwrap_or_default();
            let partitions = topic.partitions.as_deref().unwrap_or_default();
            partitions
                .iter()
                .map(move |partition| (name.clone(), partition.partition))
        })
        .collect()
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

fn refused(request: &Frame, commit: &OffsetCommitRequest, code: ErrorCode) -> Frame {
    let correlation_id = match &request.header {
        Header::Request { correlation_id, .. } | Header::Response { correlation_id } => {
            *correlation_id
        }
    };
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
    Frame {
        size: 0,
        header: Header::Response { correlation_id },
        body: Body::OffsetCommitResponse(
            OffsetCommitResponse::default()
                .throttle_time_ms(Some(0))
                .topics(Some(topics.collect())),
        ),
    }
}

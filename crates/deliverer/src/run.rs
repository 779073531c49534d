//! What the partitions of one run of the group share: the lanes, by tenant and by name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use chatpulse_kafka::{Batch, BatchLimit, KafkaError, PartitionReader, TopicPartition};
use chatpulse_model::{
    Event,
    avro::Codec,
    delivery::{Cursors, DestinationState, Retry},
};
use futures::StreamExt as _;
use tokio::runtime::Handle;

use crate::{
    Config,
    destination::{ConsentRule, Destination},
    error::PartitionError,
    lane::{Lane, Shared},
    metrics::Metrics,
    progress::LaneId,
};

/// Everything that a partition's thread needs.
pub(crate) struct Run {
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) runtime: Handle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: Arc<Codec<Event>>,
    pub(crate) retries: Codec<Retry>,
    pub(crate) cursors: Codec<Cursors>,
    lanes: ArcSwap<Lanes>,
    /// What was said last of destinations.
    said: Mutex<Said>,
    recorded: OnceLock<HashSet<RecordedTurn>>,
}

/// The destinations at work, and those that were. Replaced as a whole; a lane keeps its number.
#[derive(Default)]
struct Lanes {
    all: Vec<Arc<Lane>>,
    numbers: HashMap<Name, LaneId>,
    /// Those that are configured.
    by_tenant: HashMap<Arc<str>, Vec<LaneId>>,
    by_name: HashMap<Name, LaneId>,
}

/// Tenant and destination.
type Name = (Arc<str>, Arc<str>);

impl Lanes {
    /// Counts a lane among those that are configured.
    fn insert(&mut self, id: LaneId, destination: &Destination) {
        let tenant = Arc::clone(&destination.tenant);
        let of_tenant = self.by_tenant.entry(Arc::clone(&tenant)).or_default();
        of_tenant.push(id);
        self.by_name
            .insert((tenant, Arc::clone(&destination.id)), id);
    }

    fn configured(&self) -> impl Iterator<Item = (&Arc<Lane>, LaneId)> {
        self.by_name.values().map(|id| (&self.all[*id], *id))
    }
}

/// A turn that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RecordedTurn {
    pub(crate) lane: LaneId,
    /// Of the event's raw record.
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) attempt: i32,
}

/// So many records of turns before the start are looked through: those that a predecessor may have had no
/// time to note in its cursors and commits.
const RECORDED: i64 = 10_000;

/// Words on destinations that are on their way to the broker at once.
const SAID_AT_ONCE: usize = 256;

/// What was said last of destinations, by tenant and name.
type Said = BTreeMap<(String, String), DestinationState>;

/// How a log of states is read.
const STATES: BatchLimit = BatchLimit {
    max_records: 1_000,
    max_bytes: 1 << 20,
    wait: Duration::from_millis(500),
    linger: Duration::ZERO,
};
/// How long the states may take to be read at the start.
const READ: Duration = Duration::from_secs(30);

impl Run {
    /// Without destinations yet. To be called in the runtime.
    pub(crate) fn start(
        (config, metrics): (Config, Metrics),
        shared: Arc<Shared>,
        (retries, cursors): (Codec<Retry>, Codec<Cursors>),
    ) -> Self {
        Self {
            events: Arc::clone(&config.events),
            config,
            metrics,
            runtime: Handle::current(),
            shared,
            retries,
            cursors,
            lanes: ArcSwap::default(),
            said: Mutex::default(),
            recorded: OnceLock::new(),
        }
    }

    /// Takes over what is configured now. To be called in the runtime, and by one at a time. What is said of
    /// a new destination from before is taken over as well.
    pub(crate) fn configure(&self, destinations: &[Destination]) {
        let before = self.lanes.load_full();
        let mut lanes = Lanes {
            all: before.all.clone(),
            numbers: before.numbers.clone(),
            ..Lanes::default()
        };
        for destination in destinations {
            let name = (Arc::clone(&destination.tenant), Arc::clone(&destination.id));
            let id = match lanes.numbers.get(&name).copied() {
                Some(id) => {
                    let lane = &lanes.all[id];
                    if *lane.destination() != *destination || lane.is_removed() {
                        lane.configure(destination.clone());
                    }
                    id
                }
                None => {
                    let lane = Lane::start(destination.clone(), &self.shared);
                    let key = (destination.tenant.to_string(), destination.id.to_string());
                    if let Some(state) = self.said().get(&key) {
                        lane.remembered(state, true);
                    }
                    lanes.all.push(lane);
                    let id = lanes.all.len() - 1;
                    lanes.numbers.insert(name, id);
                    id
                }
            };
            lanes.insert(id, destination);
        }
        for (name, id) in &before.by_name {
            if !lanes.by_name.contains_key(name) {
                before.all[*id].remove();
            }
        }
        self.lanes.store(Arc::new(lanes));
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lane(&self, id: LaneId) -> Arc<Lane> {
        Arc::clone(&self.lanes.load().all[id])
    }

    /// The lanes that want an event.
    pub(crate) fn wanting(&self, event: &Event) -> Vec<LaneId> {
        let lanes = self.lanes.load();
        let of_tenant = lanes.by_tenant.get(event.tenant.as_str());
        of_tenant
            .into_iter()
            .flatten()
            .copied()
            .filter(|id| lanes.all[*id].destination().wants(event.event_type))
            .collect()
    }

    /// The names of all lanes that are configured, and their numbers.
    pub(crate) fn names(&self) -> Vec<(String, LaneId)> {
        let lanes = self.lanes.load();
        let mut names: Vec<_> = lanes
            .by_name
            .iter()
            .map(|((tenant, destination), id)| (format!("{tenant}/{destination}"), *id))
            .collect();
        // Cursors are compared with those written before.
        names.sort_unstable();
        names
    }

    pub(crate) fn lane_of(&self, tenant: &str, destination: &str) -> Option<LaneId> {
        let name = (Arc::from(tenant), Arc::from(destination));
        self.lanes.load().by_name.get(&name).copied()
    }

    /// Whether any destination asks for proof of consent.
    pub(crate) fn asks_for_consent(&self) -> bool {
        let lanes = self.lanes.load();
        lanes
            .configured()
            .any(|(lane, _)| lane.destination().consent != ConsentRule::NotNeeded)
    }

    /// An error where the way to the broker has broken.
    pub(crate) fn check(&self) -> Result<(), PartitionError> {
        match self.shared.recorder.failure() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// The turns recorded last in a partition of chat.deliveries, but for those that an operator asked for:
    /// he may ask twice. Blocking.
    pub(crate) fn recorded(
        &self,
        partition: i32,
    ) -> Result<impl Iterator<Item = RecordedTurn>, PartitionError> {
        let topic = TopicPartition::new(self.config.topics.deliveries.clone(), partition);
        let mut reader = PartitionReader::new(&self.config.kafka, topic)?;
        let ends = reader.watermarks()?;
        let from = ends.low.max(ends.high - RECORDED);
        let batch = match reader.read_range(from..ends.high, READ) {
            Err(KafkaError::OffsetOutOfRange { .. }) => Batch::default(),
            batch => batch?,
        };
        let codec = &self.shared.recorder.codecs().deliveries;
        let turns: Vec<_> = batch
            .iter()
            .filter_map(|record| codec.decode(record.payload?).ok())
            .filter(|delivery| !delivery.replayed)
            .filter_map(|delivery| {
                Some(RecordedTurn {
                    lane: self.lane_of(&delivery.tenant, &delivery.destination)?,
                    partition: delivery.partition,
                    offset: delivery.offset,
                    attempt: delivery.attempt,
                })
            })
            .collect();
        Ok(turns.into_iter())
    }

    /// The same for waiting deliveries, which are of all partitions. To be called once. Blocking.
    pub(crate) fn load_recorded(&self, partitions: i32) -> Result<(), PartitionError> {
        let mut turns = HashSet::new();
        for partition in 0..partitions {
            turns.extend(self.recorded(partition)?);
        }
        // Loaded twice it would be the same.
        let _ = self.recorded.set(turns);
        Ok(())
    }

    /// Whether a turn was recorded before this run began.
    pub(crate) fn is_recorded(&self, turn: RecordedTurn) -> bool {
        self.recorded
            .get()
            .is_some_and(|recorded| recorded.contains(&turn))
    }

    /// Reads what is remembered of destinations, and says what is new: the sink carries it to the store.
    /// Blocking.
    pub(crate) fn load_states(&self) -> Result<PartitionReader, PartitionError> {
        let topic = TopicPartition::new(self.config.topics.destinations.clone(), 0);
        let mut reader = PartitionReader::new(&self.config.kafka, topic)?;
        let ends = reader.watermarks()?;
        let batch = reader.read_range(ends.low..ends.high, READ)?;
        for record in batch.iter() {
            self.take_state(record.payload, true);
        }
        self.tell_disabled();
        self.runtime.block_on(self.say());
        Ok(reader)
    }

    /// Says of destinations what is new. Where it cannot be written, the run fails of it.
    pub(crate) async fn say(&self) {
        let new = self.to_be_said(&self.said());
        // One after the other, a thousand would take as long as a thousand ways to the broker and back.
        let written =
            futures::stream::iter(new).for_each_concurrent(SAID_AT_ONCE, |state| async move {
                self.shared.recorder.remember(&state).await;
            });
        written.await;
    }

    /// What is to be said of destinations, which is not what was said last.
    fn to_be_said(&self, said: &Said) -> Vec<DestinationState> {
        let lanes = self.lanes.load();
        let configured = lanes.configured().filter_map(|(lane, _)| {
            let now = lane.destination().healthy();
            let before = said.get(&(now.tenant.clone(), now.destination.clone()));
            let now = match before.filter(|before| before.address == now.address) {
                Some(before) => DestinationState {
                    failing_since: before.failing_since,
                    disabled_at: before.disabled_at,
                    reason: before.reason.clone(),
                    ..now
                },
                None => now,
            };
            (before != Some(&now)).then_some(now)
        });
        let gone = said
            .values()
            .filter(|state| state.is_configured)
            .filter(|state| self.lane_of(&state.tenant, &state.destination).is_none())
            .map(|state| DestinationState {
                is_configured: false,
                ..state.clone()
            });
        configured.chain(gone).collect()
    }

    /// Follows it, until the run ends: another process, or an operator, may say more. Blocking.
    pub(crate) fn follow_states(&self, mut reader: PartitionReader) {
        let stop = self.shared.stop.clone();
        while !stop.is_cancelled() {
            match reader.next_batch(&STATES, &|| stop.is_cancelled()) {
                Ok(batch) => {
                    for record in batch.iter() {
                        self.take_state(record.payload, false);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what is said of destinations cannot be read");
                    std::thread::sleep(STATES.wait);
                }
            }
            self.tell_disabled();
        }
    }

    fn take_state(&self, payload: Option<&[u8]>, is_start: bool) {
        let codec = &self.shared.recorder.codecs().destinations;
        let state: DestinationState = match payload.map(|bytes| codec.decode(bytes)) {
            Some(Ok(state)) => state,
            Some(Err(_)) | None => return self.metrics.undecodable(),
        };
        if let Some(id) = self.lane_of(&state.tenant, &state.destination) {
            self.lane(id).remembered(&state, is_start);
        }
        let key = (state.tenant.clone(), state.destination.clone());
        self.said().insert(key, state);
    }

    fn tell_disabled(&self) {
        let lanes = self.lanes.load();
        let disabled = lanes.configured().filter(|(lane, _)| lane.is_disabled());
        self.metrics.disabled(disabled.count());
    }
}

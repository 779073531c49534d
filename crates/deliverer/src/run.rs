//! What the partitions of one run of the group share: the lanes, by tenant and by name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use chatpulse_kafka::{Batch, BatchLimit, KafkaError, PartitionReader, TopicPartition};
use chatpulse_model::{
    Event,
    avro::Codec,
    delivery::{Cursors, DestinationState, Retry},
};
use tokio::runtime::Handle;

use crate::{
    Config,
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
    lanes: Vec<Arc<Lane>>,
    by_tenant: HashMap<Arc<str>, Vec<LaneId>>,
    by_name: HashMap<(Arc<str>, Arc<str>), LaneId>,
    recorded: OnceLock<HashSet<RecordedTurn>>,
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
    /// Starts a lane for each destination. To be called in the runtime.
    pub(crate) fn start(
        (config, metrics): (Config, Metrics),
        shared: Arc<Shared>,
        (retries, cursors): (Codec<Retry>, Codec<Cursors>),
    ) -> Self {
        let lanes: Vec<_> = config
            .destinations
            .iter()
            .map(|destination| Lane::start(destination.clone(), &shared))
            .collect();
        let mut by_tenant: HashMap<Arc<str>, Vec<LaneId>> = HashMap::new();
        let mut by_name = HashMap::new();
        for (id, lane) in lanes.iter().enumerate() {
            let Lane { destination, .. } = &**lane;
            let tenant = Arc::clone(&destination.tenant);
            by_tenant.entry(Arc::clone(&tenant)).or_default().push(id);
            by_name.insert((tenant, Arc::clone(&destination.id)), id);
        }
        Self {
            events: Arc::clone(&config.events),
            config,
            metrics,
            runtime: Handle::current(),
            shared,
            retries,
            cursors,
            lanes,
            by_tenant,
            by_name,
            recorded: OnceLock::new(),
        }
    }

    pub(crate) fn lane(&self, id: LaneId) -> &Arc<Lane> {
        &self.lanes[id]
    }

    /// The lanes that want an event.
    pub(crate) fn wanting(&self, event: &Event) -> impl Iterator<Item = LaneId> {
        let of_tenant = self.by_tenant.get(event.tenant.as_str());
        of_tenant
            .into_iter()
            .flatten()
            .copied()
            .filter(|id| self.lanes[*id].destination.wants(event.event_type))
    }

    /// The names of all lanes, and their numbers.
    pub(crate) fn names(&self) -> impl Iterator<Item = (String, LaneId)> {
        let name = |lane: &Arc<Lane>| {
            let destination = &lane.destination;
            format!("{}/{}", destination.tenant, destination.id)
        };
        let lanes = self.lanes.iter().enumerate();
        lanes.map(move |(id, lane)| (name(lane), id))
    }

    pub(crate) fn lane_of(&self, tenant: &str, destination: &str) -> Option<LaneId> {
        let name = (Arc::from(tenant), Arc::from(destination));
        self.by_name.get(&name).copied()
    }

    /// Whether any destination asks for proof of consent.
    pub(crate) fn asks_for_consent(&self) -> bool {
        use crate::destination::ConsentRule;
        self.lanes
            .iter()
            .any(|lane| lane.destination.consent != ConsentRule::NotNeeded)
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
        let mut said = BTreeMap::new();
        for record in batch.iter() {
            if let Some(state) = self.state(record.payload) {
                said.insert((state.tenant.clone(), state.destination.clone()), state);
            }
        }
        for state in said.values() {
            self.take_state(state, true);
        }
        self.tell_disabled();
        for state in self.to_be_said(&said) {
            // Where it cannot be written, the run fails of it.
            self.runtime.block_on(self.shared.recorder.remember(&state));
        }
        Ok(reader)
    }

    /// What is to be said of destinations, which is not what was said last.
    fn to_be_said(&self, said: &Said) -> Vec<DestinationState> {
        let lanes = self.lanes.iter().filter_map(|lane| {
            let now = lane.destination.healthy();
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
        lanes.chain(gone).collect()
    }

    /// Follows it, until the run ends: another process, or an operator, may say more. Blocking.
    pub(crate) fn follow_states(&self, mut reader: PartitionReader) {
        let stop = self.shared.stop.clone();
        while !stop.is_cancelled() {
            match reader.next_batch(&STATES, &|| stop.is_cancelled()) {
                Ok(batch) => {
                    for record in batch.iter() {
                        if let Some(state) = self.state(record.payload) {
                            self.take_state(&state, false);
                        }
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

    fn state(&self, payload: Option<&[u8]>) -> Option<DestinationState> {
        let codec = &self.shared.recorder.codecs().destinations;
        let state = payload.and_then(|bytes| codec.decode(bytes).ok());
        if state.is_none() {
            self.metrics.undecodable();
        }
        state
    }

    fn take_state(&self, state: &DestinationState, is_start: bool) {
        if let Some(id) = self.lane_of(&state.tenant, &state.destination) {
            self.lanes[id].remembered(state, is_start);
        }
    }

    fn tell_disabled(&self) {
        let disabled = self.lanes.iter().filter(|lane| lane.is_disabled());
        self.metrics.disabled(disabled.count());
    }
}

//! The deterministic fold: outcome = f(all raw records of the partition up to this one).
//!
//! No wall clock (the highest broker timestamp so far is the clock), no randomness, no lookup.
//! Replaying a partition therefore writes the same outcomes again, and that is what makes
//! restarts and rebalances harmless (see [`crate::watermark`]).
//!
//! The state is bounded by [`Horizon`]: event ids are remembered for `dedup_ms`, conversations for
//! `idle_ms` after their last event, both by the partition's clock.

pub mod snapshot;

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use sha2::{Digest, Sha256};

use crate::{
    avro::Codec,
    event::{Actor, Event, EventType, Outcome, Phase, TimeBasis},
    raw::{Context, RawBody, RawEvent, RejectReason, Rejection, ReplayOf},
    source::{Catalog, Mapped},
};

/// What one raw record says by itself: a pure function of its bytes and the source definitions.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// An item in neutral terms.
    Mapped(RawEvent, Box<Mapped>),
    /// An item that the producer refused, or that cannot be mapped.
    Rejected(RawEvent, Rejection),
    /// Bytes that are no raw record.
    Undecodable(Rejection),
}

/// Largest raw record that is read: above all that the producer writes, and so small that its
/// outcome fits into a record of Kafka's default size.
const MAX_RAW_BYTES: usize = 768 * 1024;

/// Reads the payload of one raw record; never fails, since every record has an outcome.
pub fn read(payload: &[u8], codec: &Codec<RawEvent>, catalog: &Catalog) -> Reading {
    let undecodable = |detail: String| {
        Reading::Undecodable(Rejection {
            reason: RejectReason::Undecodable,
            detail,
            bytes: payload.len() as i64,
            sha256: sha256_hex(payload),
        })
    };
    if payload.len() > MAX_RAW_BYTES {
        return undecodable(format!(
            "larger than {MAX_RAW_BYTES} bytes: no producer of chatpulse wrote it"
        ));
    }
    let mut raw = match codec.decode(payload) {
        Ok(raw) => raw,
        Err(error) => return undecodable(error.to_string()),
    };
    if let RawBody::Rejection(rejection) = &mut raw.body {
        let rejection = rejection.clone();
        return Reading::Rejected(raw, rejection);
    }
    let Some(definition) = catalog.get(&raw.source) else {
        let rejection = Rejection {
            reason: RejectReason::UnknownSource,
            detail: "the enricher has no definition of this source: give it the same definitions \
                     as the producer"
                .into(),
            bytes: payload.len() as i64,
            sha256: sha256_hex(payload),
        };
        return Reading::Rejected(raw, rejection);
    };
    match definition.map(&raw) {
        Ok(mapped) => Reading::Mapped(raw, Box::new(mapped)),
        Err(rejection) => Reading::Rejected(raw, rejection),
    }
}

/// Where a raw record stands, and the broker's time of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Offset in the raw partition.
    pub offset: i64,
    /// The record's Kafka timestamp; milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

/// How long the fold remembers, in milliseconds of the partition's own clock.
///
/// Part of the fold's definition: every enricher of a cluster must use the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// A copy that comes later than this after the first is not seen as a duplicate.
    pub dedup_ms: i64,
    /// A conversation silent for longer starts again at message number 1.
    pub idle_ms: i64,
}

impl Default for Horizon {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            dedup_ms: 7 * DAY_MS,
            idle_ms: 7 * DAY_MS,
        }
    }
}

/// The state of one raw partition.
#[derive(Debug, Clone)]
pub struct PartitionFold {
    partition: i32,
    horizon: Horizon,
    clock_ms: i64,
    swept_ms: i64,
    /// Event ids, each with the raw offset of the record that was taken for it.
    seen: HashMap<Digest128, i64>,
    seen_order: VecDeque<(i64, Digest128)>,
    conversations: HashMap<Digest128, Conversation>,
}

/// First 128 bits of a SHA-256: names in a fixed size, with no way to make two of them meet.
type Digest128 = [u8; 16];

/// What the stream remembers of a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Conversation {
    messages: i64,
    /// When the first visitor message that nobody has answered was sent.
    unanswered_since: Option<i64>,
    phase: Option<Phase>,
    touched_ms: i64,
}

/// The sweep of idle conversations looks at all of them, so it runs once per this much stream time.
const SWEEP_INTERVAL_MS: i64 = 60 * 60 * 1000;

impl PartitionFold {
    /// The state before the first record of a raw partition.
    pub fn new(partition: i32, horizon: Horizon) -> Self {
        Self {
            partition,
            horizon,
            clock_ms: 0,
            swept_ms: 0,
            seen: HashMap::new(),
            seen_order: VecDeque::new(),
            conversations: HashMap::new(),
        }
    }

    /// Conversations held in memory.
    pub fn conversations(&self) -> usize {
        self.conversations.len()
    }

    /// Event ids held in memory.
    pub fn event_ids(&self) -> usize {
        self.seen.len()
    }

    /// Takes the next raw record and gives its outcome. Records must come in offset order, all.
    pub fn apply(&mut self, position: Position, reading: Reading) -> Event {
        self.advance(position.timestamp_ms);
        let origin = Origin {
            partition: self.partition,
            offset: position.offset,
        };
        let (raw, mapped) = match reading {
            Reading::Mapped(raw, mapped) => (raw, *mapped),
            Reading::Rejected(raw, rejection) => return origin.rejected(raw, rejection),
            Reading::Undecodable(rejection) => {
                return origin.rejected(nameless(position.timestamp_ms), rejection);
            }
        };
        let id = digest(&[&raw.tenant, &raw.source, &mapped.event_id]);
        let is_new = match self.seen.entry(id) {
            Entry::Vacant(unseen) => {
                unseen.insert(position.offset);
                self.seen_order.push_back((self.clock_ms, id));
                true
            }
            // The very record that is replayed was taken for the id, and its outcome was lost behind
            // the stream, or the source definitions of today take what was rejected then. From here
            // on this record stands for the id, so that no other replay of that one is taken.
            Entry::Occupied(mut seen) if raw.replay_of == Some(origin.at(*seen.get())) => {
                seen.insert(position.offset);
                false
            }
            Entry::Occupied(_) => return origin.outcome(Outcome::Duplicate, raw, mapped),
        };
        let initial_phase = mapped.initial_phase;
        let mut event = origin.outcome(Outcome::Accepted, raw, mapped);
        // Else it is counted in its conversation already.
        if is_new {
            self.follow(&mut event, initial_phase);
        }
        event
    }

    /// Moves the clock and forgets what lies beyond the horizon.
    fn advance(&mut self, timestamp_ms: i64) {
        self.clock_ms = self.clock_ms.max(timestamp_ms);
        let oldest = self.clock_ms - self.horizon.dedup_ms;
        while let Some(&(at, id)) = self.seen_order.front() {
            if at >= oldest {
                break;
            }
            self.seen_order.pop_front();
            self.seen.remove(&id);
        }
        if self.clock_ms - self.swept_ms >= SWEEP_INTERVAL_MS {
            self.swept_ms = self.clock_ms;
            let oldest = self.clock_ms - self.horizon.idle_ms;
            self.conversations
                .retain(|_, conversation| conversation.touched_ms >= oldest);
        }
    }

    /// Adds what only the stream can know.
    fn follow(&mut self, event: &mut Event, initial_phase: Option<Phase>) {
        let Some(conversation_id) = &event.conversation_id else {
            return;
        };
        let key = digest(&[&event.tenant, &event.source, conversation_id]);
        let conversation = self.conversations.entry(key).or_insert(Conversation {
            phase: initial_phase,
            ..Conversation::default()
        });
        conversation.touched_ms = self.clock_ms;
        if is_message(event) {
            conversation.messages += 1;
            event.message_number = Some(conversation.messages);
            event.response_time_ms = conversation.answer(event);
        }
        conversation.phase = next_phase(conversation.phase, initial_phase, event);
        event.phase = conversation.phase;
        event.message_gap = event
            .reported_total
            .map(|total| total.saturating_sub(conversation.messages));
    }
}

impl Conversation {
    /// Response time of a bot's or agent's message, where there was something to answer.
    ///
    /// A message without a time of its own takes no part; one older than the question is no answer
    /// to it, so the question stays open and no duration is ever negative.
    fn answer(&mut self, message: &Event) -> Option<i64> {
        if message.time_basis == TimeBasis::Received {
            return None;
        }
        let at = message.occurred_at;
        if message.actor == Actor::Visitor {
            self.unanswered_since = Some(self.unanswered_since.map_or(at, |since| since.min(at)));
            return None;
        }
        let since = self.unanswered_since.filter(|&since| since <= at)?;
        self.unanswered_since = None;
        Some(at.saturating_sub(since))
    }
}

/// A visitor's, bot's or agent's message; typing, notes and system events are none.
fn is_message(event: &Event) -> bool {
    event.event_type == EventType::MessageSent && event.actor != Actor::System
}

/// Phase after an event, in stream order. An ended conversation begins again with the next event
/// of the visitor.
fn next_phase(now: Option<Phase>, initial: Option<Phase>, event: &Event) -> Option<Phase> {
    match (event.event_type, event.actor) {
        (EventType::ConversationEnded | EventType::ConversationDeleted, _) => Some(Phase::Closed),
        (EventType::AgentJoined, _) | (EventType::MessageSent, Actor::Agent) => Some(Phase::Human),
        (EventType::HandoffRequested, _) if now != Some(Phase::Human) => Some(Phase::Waiting),
        (EventType::BotResumed, _) => Some(Phase::Bot),
        (EventType::AgentLeft, _) => initial,
        (EventType::MessageSent, Actor::Visitor) | (EventType::ConversationResumed, _)
            if now == Some(Phase::Closed) =>
        {
            initial
        }
        _ => now,
    }
}

/// Where an outcome comes from.
#[derive(Clone, Copy)]
struct Origin {
    partition: i32,
    offset: i64,
}

impl Origin {
    /// Another record of the same partition.
    fn at(self, offset: i64) -> ReplayOf {
        ReplayOf {
            partition: self.partition,
            offset,
        }
    }

    fn outcome(self, outcome: Outcome, raw: RawEvent, mapped: Mapped) -> Event {
        Event {
            partition: self.partition,
            offset: self.offset,
            outcome,
            reason: None,
            detail: None,
            rejected_bytes: None,
            rejected_sha256: None,
            tenant: raw.tenant,
            source: raw.source,
            write_key_id: raw.write_key_id,
            source_event: mapped.source_event,
            event_type: mapped.event_type,
            actor: mapped.actor,
            documented: mapped.documented,
            event_id: mapped.event_id,
            occurred_at: mapped.occurred_at,
            time_basis: mapped.time_basis,
            received_at: raw.received_at,
            conversation_id: mapped.conversation_id,
            session_id: mapped.session_id,
            sequence: mapped.sequence,
            visitor: mapped.visitor,
            widget_id: mapped.widget_id,
            platform: mapped.platform,
            language: mapped.language,
            link: mapped.link,
            page_url: raw.context.page_url,
            sdk: raw.context.sdk,
            reported_total: mapped.reported_total,
            score: mapped.score,
            score_kind: mapped.score_kind,
            goal: mapped.goal,
            properties: mapped.properties,
            message_number: None,
            phase: None,
            response_time_ms: None,
            message_gap: None,
            replay_of: raw.replay_of,
        }
    }

    fn rejected(self, raw: RawEvent, rejection: Rejection) -> Event {
        let mapped = Mapped {
            source_event: String::new(),
            event_type: EventType::Unknown,
            actor: Actor::System,
            documented: true,
            event_id: String::new(),
            occurred_at: raw.received_at,
            time_basis: TimeBasis::Received,
            conversation_id: None,
            session_id: raw.context.session_id.clone(),
            sequence: raw.context.sequence,
            visitor: None,
            widget_id: None,
            platform: None,
            language: None,
            link: None,
            reported_total: None,
            score: None,
            score_kind: None,
            goal: None,
            properties: Default::default(),
            initial_phase: None,
        };
        Event {
            reason: Some(rejection.reason),
            detail: Some(rejection.detail),
            rejected_bytes: Some(rejection.bytes),
            rejected_sha256: Some(rejection.sha256),
            ..self.outcome(Outcome::Rejected, raw, mapped)
        }
    }
}

/// Stands for a raw record that could not be read: nothing about it is known but its position and
/// the broker's time.
fn nameless(timestamp_ms: i64) -> RawEvent {
    RawEvent {
        tenant: String::new(),
        source: String::new(),
        write_key_id: String::new(),
        received_at: timestamp_ms,
        context: Context::default(),
        body: RawBody::Native(crate::raw::NativePayload {
            json: String::new(),
            redactions: vec![],
        }),
        replay_of: None,
    }
}

/// Digest of several names; lengths are part of it, so that no two lists look alike.
fn digest(names: &[&str]) -> Digest128 {
    let mut hash = Sha256::new();
    for name in names {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;

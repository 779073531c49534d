//! The state of a fold as bytes, and back: what a checkpoint holds.
//!
//! ```text
//! PartitionFold + topic + Anchor ── encode ──► bytes ── decode ──► the same PartitionFold, or why not
//! ```
//!
//! A snapshot is a true statement about the raw log ("these records, folded, give this state"), so it
//! does not matter who wrote it and when. Equal states give equal bytes.
//!
//! Layout, integers little-endian, `v` an unsigned LEB128:
//!
//! | part | bytes |
//! |---|---|
//! | magic `chatfold`, version | 8, 2 |
//! | topic: length, UTF-8 | 2, … |
//! | partition, dedup and idle horizon | 4, 8, 8 |
//! | anchor: offset, timestamp of the record before it | 8, 8 |
//! | clock, time of the last sweep | 8, 8 |
//! | number of ids; per id, oldest first: digest, v(ms since the id before it), v(zigzag(raw offset - that of the id before it)) | 8; 16, 1…, 1… |
//! | number of conversations; per conversation, by key: key, flags, v(messages), v(clock - touched), where flagged v(zigzag(unanswered - touched)) | 8; 16, 1, 1…, 1…, 1… |
//! | BLAKE3 of all before it | 32 |
//!
//! Nearly all of it are digests, which no compressor makes smaller; the rest is written as differences
//! of one to five bytes.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write},
};

use super::{Conversation, Digest128, Horizon, PartitionFold};
use crate::event::Phase;

const MAGIC: [u8; 8] = *b"chatfold";
/// Version of the layout, and of the meaning of what is in it.
const VERSION: u16 = 1;
const CHECKSUM: usize = blake3::OUT_LEN;
/// Fewest bytes of an id and of a conversation: bounds what a count may claim.
const MIN_ID: usize = 18;
const MIN_CONVERSATION: usize = 19;
/// Bytes gathered before they are hashed and handed on.
const BUFFER: usize = 64 << 10;
/// Flag of a conversation with an unanswered message; the phase is in the bits below.
const UNANSWERED: u8 = 1 << 3;

/// Which point of the raw log a state stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Raw offset of the next record to fold.
    pub offset: i64,
    /// Kafka timestamp of the last record folded, the one before `offset`; milliseconds since the
    /// Unix epoch. Tells a topic from one of the same name that was made later.
    pub timestamp_ms: i64,
}

/// Whose state is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The raw topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// How long the fold remembers: another horizon gives another state.
    pub horizon: Horizon,
}

/// Why bytes are not the state that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Empty, or something else.
    #[error("it is empty or no checkpoint at all")]
    NotASnapshot,
    /// Written by a later version of chatpulse.
    #[error("its format is version {found}, and this version of chatpulse reads {VERSION}")]
    Version {
        /// The version it names.
        found: u16,
    },
    /// Cut off, or altered.
    #[error("its checksum does not fit: it was torn or altered")]
    Damaged,
    /// Whole, and yet impossible.
    #[error("its checksum fits, but its content cannot be: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A state of something else.
    #[error("it is of {found_topic}[{found_partition}]")]
    OtherPartition {
        /// The topic it names.
        found_topic: String,
        /// The partition it names.
        found_partition: i32,
    },
    /// A state that another memory gives.
    #[error("the dedup window or the conversation window was changed since it was written")]
    OtherHorizon {
        /// The horizon it names.
        found: Horizon,
    },
}

impl PartitionFold {
    /// Writes the state, which stands for `anchor` in `topic`.
    ///
    /// # Errors
    /// Those of `out`; a topic's name longer than 65,535 bytes (Kafka's bound is 249).
    pub fn encode(&self, topic: &str, anchor: Anchor, out: &mut impl Write) -> io::Result<()> {
        let Self {
            partition,
            horizon,
            clock_ms,
            swept_ms,
            seen,
            seen_order,
            conversations,
        } = self;
        let topic_bytes = u16::try_from(topic.len()).map_err(io::Error::other)?;
        let mut encoder = Encoder::new(out);
        encoder.put(&MAGIC);
        encoder.put(&VERSION.to_le_bytes());
        encoder.put(&topic_bytes.to_le_bytes());
        encoder.put(topic.as_bytes());
        encoder.put(&partition.to_le_bytes());
        for number in [
            horizon.dedup_ms,
            horizon.idle_ms,
            anchor.offset,
            anchor.timestamp_ms,
            *clock_ms,
            *swept_ms,
        ] {
            encoder.put(&number.to_le_bytes());
        }

        encoder.put(&(seen_order.len() as u64).to_le_bytes());
        let mut before = (0, 0);
        for (at, id) in seen_order {
            // Every id of the order is in the map.
            let offset = seen.get(id).copied().unwrap_or_default();
            encoder.put(id);
            encoder.put_varint(at.wrapping_sub(before.0) as u64);
            encoder.put_varint(zigzag(offset.wrapping_sub(before.1)));
            before = (*at, offset);
            encoder.flush_full()?;
        }

        encoder.put(&(conversations.len() as u64).to_le_bytes());
        let mut sorted: Vec<_> = conversations.iter().collect();
        sorted.sort_unstable_by_key(|(key, _)| **key);
        for (key, conversation) in sorted {
            let Conversation {
                messages,
                unanswered_since,
                phase,
                touched_ms,
            } = conversation;
            let unanswered = unanswered_since.map_or(0, |_| UNANSWERED);
            encoder.put(key);
            encoder.put(&[phase_code(*phase) | unanswered]);
            encoder.put_varint(*messages as u64);
            encoder.put_varint(clock_ms.wrapping_sub(*touched_ms) as u64);
            if let Some(since) = unanswered_since {
                encoder.put_varint(zigzag(since.wrapping_sub(*touched_ms)));
            }
            encoder.flush_full()?;
        }
        encoder.finish()
    }

    /// Reads a state of `identity` and the point that it stands for. Memory is bounded by a small
    /// multiple of the length of `bytes`, whatever they say.
    ///
    /// # Errors
    /// Any bytes that [`PartitionFold::encode`] did not write for the same topic, partition and
    /// horizon.
    pub fn decode(bytes: &[u8], identity: &Identity<'_>) -> Result<(Self, Anchor), SnapshotError> {
        let body = check(bytes)?;
        let mut reader = Reader(body);
        let topic_bytes = u16::from_le_bytes(reader.array()?);
        let topic = reader.slice(usize::from(topic_bytes))?;
        let partition = i32::from_le_bytes(reader.array()?);
        if topic != identity.topic.as_bytes() || partition != identity.partition {
            return Err(SnapshotError::OtherPartition {
                found_topic: String::from_utf8_lossy(topic).into_owned(),
                found_partition: partition,
            });
        }
        let horizon = Horizon {
            dedup_ms: reader.i64()?,
            idle_ms: reader.i64()?,
        };
        if horizon != identity.horizon {
            return Err(SnapshotError::OtherHorizon { found: horizon });
        }
        let anchor = Anchor {
            offset: reader.i64()?,
            timestamp_ms: reader.i64()?,
        };
        let (clock_ms, swept_ms) = (reader.i64()?, reader.i64()?);
        if anchor.offset < 0 || !(0..=clock_ms).contains(&swept_ms) {
            return Err(malformed("offset or times are out of order"));
        }
        let (seen, seen_order) = reader.ids(clock_ms)?;
        let conversations = reader.conversations(clock_ms)?;
        if !reader.0.is_empty() {
            return Err(malformed("it goes on after its end"));
        }
        let fold = Self {
            partition,
            horizon,
            clock_ms,
            swept_ms,
            seen,
            seen_order,
            conversations,
        };
        Ok((fold, anchor))
    }
}

/// What lies between version and checksum, once both are right.
fn check(bytes: &[u8]) -> Result<&[u8], SnapshotError> {
    let (version, _) = bytes
        .strip_prefix(&MAGIC)
        .and_then(|rest| rest.split_first_chunk())
        .ok_or(SnapshotError::NotASnapshot)?;
    // Asked first: another version may have another checksum.
    let found = u16::from_le_bytes(*version);
    if found != VERSION {
        return Err(SnapshotError::Version { found });
    }
    let (content, checksum) = bytes
        .split_last_chunk::<CHECKSUM>()
        .ok_or(SnapshotError::Damaged)?;
    if blake3::hash(content) != *checksum {
        return Err(SnapshotError::Damaged);
    }
    content
        .get(MAGIC.len() + size_of::<u16>()..)
        .ok_or(SnapshotError::Damaged)
}

fn malformed(what: &'static str) -> SnapshotError {
    SnapshotError::Malformed { what }
}

/// Gathers bytes, and hashes what it hands on.
struct Encoder<'a, W> {
    out: &'a mut W,
    hash: blake3::Hasher,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Encoder<'a, W> {
    fn new(out: &'a mut W) -> Self {
        Self {
            out,
            hash: blake3::Hasher::new(),
            buffer: Vec::with_capacity(BUFFER + 64),
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn put_varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.buffer.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.buffer.push(number as u8);
    }

    fn flush_full(&mut self) -> io::Result<()> {
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(self.hash.finalize().as_bytes())
    }
}

/// Takes a body apart from its front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn slice(&mut self, len: usize) -> Result<&'a [u8], SnapshotError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i64(&mut self) -> Result<i64, SnapshotError> {
        self.array().map(i64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<u64, SnapshotError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(malformed("a number has more than 64 bits"))
    }

    /// A number of items, each of at least `item` bytes, that are still to come.
    fn count(&mut self, item: usize) -> Result<usize, SnapshotError> {
        usize::try_from(u64::from_le_bytes(self.array()?))
            .ok()
            .filter(|&count| count <= self.0.len() / item)
            .ok_or(malformed("it promises more than it holds"))
    }

    #[expect(clippy::type_complexity, reason = "two fields of the fold")]
    fn ids(
        &mut self,
        clock_ms: i64,
    ) -> Result<(HashMap<Digest128, i64>, VecDeque<(i64, Digest128)>), SnapshotError> {
        let count = self.count(MIN_ID)?;
        let mut seen = HashMap::with_capacity(count);
        let mut order = VecDeque::with_capacity(count);
        let (mut at, mut offset): (i64, i64) = (0, 0);
        for _ in 0..count {
            let id = self.array()?;
            at = at
                .checked_add_unsigned(self.varint()?)
                .filter(|&at| at <= clock_ms)
                .ok_or(malformed("an id is newer than the clock"))?;
            offset = offset.wrapping_add(unzigzag(self.varint()?));
            order.push_back((at, id));
            if seen.insert(id, offset).is_some() {
                return Err(malformed("an id stands there twice"));
            }
        }
        Ok((seen, order))
    }

    fn conversations(
        &mut self,
        clock_ms: i64,
    ) -> Result<HashMap<Digest128, Conversation>, SnapshotError> {
        let count = self.count(MIN_CONVERSATION)?;
        let mut conversations = HashMap::with_capacity(count);
        for _ in 0..count {
            let key = self.array()?;
            let [flags] = self.array()?;
            let messages = i64::try_from(self.varint()?)
                .map_err(|_| malformed("a conversation has too many messages"))?;
            let touched_ms = clock_ms
                .checked_sub_unsigned(self.varint()?)
                .ok_or(malformed("a conversation is older than time"))?;
            let unanswered_since = match flags & UNANSWERED {
                0 => None,
                _ => Some(touched_ms.wrapping_add(unzigzag(self.varint()?))),
            };
            let conversation = Conversation {
                messages,
                unanswered_since,
                phase: phase_of(flags & !UNANSWERED)?,
                touched_ms,
            };
            if conversations.insert(key, conversation).is_some() {
                return Err(malformed("a conversation stands there twice"));
            }
        }
        Ok(conversations)
    }
}

fn phase_code(phase: Option<Phase>) -> u8 {
    match phase {
        None => 0,
        Some(Phase::Bot) => 1,
        Some(Phase::Waiting) => 2,
        Some(Phase::Human) => 3,
        Some(Phase::Closed) => 4,
    }
}

fn phase_of(code: u8) -> Result<Option<Phase>, SnapshotError> {
    Ok(match code {
        0 => None,
        1 => Some(Phase::Bot),
        2 => Some(Phase::Waiting),
        3 => Some(Phase::Human),
        4 => Some(Phase::Closed),
        _ => return Err(malformed("a conversation has an unknown phase")),
    })
}

/// Small numbers of either sign as small numbers without one.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(code: u64) -> i64 {
    (code >> 1) as i64 ^ -((code & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::records;
    use super::super::{Position, Reading};
    use super::*;
    use crate::event::{Actor, Event};

    const HORIZON: Horizon = Horizon {
        dedup_ms: 60 * 60_000,
        idle_ms: 60 * 60_000,
    };
    const IDENTITY: Identity<'static> = Identity {
        topic: "chat.raw",
        partition: 7,
        horizon: HORIZON,
    };
    const ANCHOR: Anchor = Anchor {
        offset: 12,
        timestamp_ms: 345,
    };

    fn start() -> PartitionFold {
        PartitionFold::new(IDENTITY.partition, HORIZON)
    }

    /// Folds records that stand at offsets from `first` on.
    fn apply(fold: &mut PartitionFold, first: usize, records: &[(i64, Reading)]) -> Vec<Event> {
        let mut event = |(offset, (timestamp_ms, reading)): (usize, &(i64, Reading))| {
            let position = Position {
                offset: offset as i64,
                timestamp_ms: *timestamp_ms,
            };
            fold.apply(position, reading.clone())
        };
        (first..).zip(records).map(&mut event).collect()
    }

    fn encoded(fold: &PartitionFold) -> Vec<u8> {
        let mut bytes = Vec::new();
        fold.encode(IDENTITY.topic, ANCHOR, &mut bytes).unwrap();
        bytes
    }

    fn folded(records: &[(i64, Reading)]) -> PartitionFold {
        let mut fold = start();
        apply(&mut fold, 0, records);
        fold
    }

    fn refused(bytes: &[u8]) -> SnapshotError {
        PartitionFold::decode(bytes, &IDENTITY).expect_err("it must be refused")
    }

    /// The same bytes with a checksum that fits.
    fn sealed(mut content: Vec<u8>) -> Vec<u8> {
        let checksum = blake3::hash(&content);
        content.extend_from_slice(checksum.as_bytes());
        content
    }

    fn content(fold: &PartitionFold) -> Vec<u8> {
        let mut bytes = encoded(fold);
        bytes.truncate(bytes.len() - CHECKSUM);
        bytes
    }

    proptest! {
        /// Exactness: a fold that was stored and restored anywhere goes on as if nothing had been.
        #[test]
        fn a_restored_fold_goes_on_as_the_one_that_never_stopped(
            records in records(),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(records.len() + 1);
            let (before, after) = records.split_at(cut);
            let mut whole = folded(before);
            let (mut restored, anchor) = PartitionFold::decode(&encoded(&whole), &IDENTITY).unwrap();
            prop_assert_eq!(anchor, ANCHOR);
            prop_assert_eq!(
                apply(&mut restored, cut, after),
                apply(&mut whole, cut, after)
            );
            prop_assert_eq!(encoded(&restored), encoded(&whole));
        }

        /// Also over many stops.
        #[test]
        fn stopping_after_every_record_changes_nothing(records in records()) {
            let mut whole = start();
            let truth = apply(&mut whole, 0, &records);
            let mut restored = start();
            let mut outcomes = Vec::new();
            for (offset, record) in records.iter().enumerate() {
                outcomes.extend(apply(&mut restored, offset, std::slice::from_ref(record)));
                restored = PartitionFold::decode(&encoded(&restored), &IDENTITY).unwrap().0;
            }
            prop_assert_eq!(outcomes, truth);
        }

        #[test]
        fn equal_states_give_equal_bytes(records in records()) {
            prop_assert_eq!(encoded(&folded(&records)), encoded(&folded(&records)));
        }

        #[test]
        fn a_flipped_bit_anywhere_is_refused(
            records in records(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut bytes = encoded(&folded(&records));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            refused(&bytes);
        }

        #[test]
        fn a_cut_anywhere_is_refused(records in records(), at in any::<prop::sample::Index>()) {
            let bytes = encoded(&folded(&records));
            refused(&bytes[..at.index(bytes.len())]);
        }

        #[test]
        fn added_bytes_are_refused(records in records(), added in prop::collection::vec(any::<u8>(), 1..40)) {
            let mut bytes = encoded(&folded(&records));
            bytes.extend_from_slice(&added);
            refused(&bytes);
        }

        /// Whoever can write a checksum can write a lie, but can neither stop the reader nor fill its
        /// memory: a state has no more items than its bytes can hold.
        #[test]
        fn altered_content_under_a_fitting_checksum_gives_a_state_or_an_error(
            records in records(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut content = content(&folded(&records));
            for (at, byte) in changes {
                let at = at.index(content.len());
                content[at] = byte;
            }
            let cut = cut.index(content.len() * 4);
            content.truncate(cut.max(10));
            let bytes = sealed(content);
            if let Ok((fold, _)) = PartitionFold::decode(&bytes, &IDENTITY) {
                prop_assert!(fold.event_ids() * MIN_ID + fold.conversations() * MIN_CONVERSATION <= bytes.len());
            }
        }

        #[test]
        fn numbers_of_both_signs_come_back(number: i64) {
            prop_assert_eq!(unzigzag(zigzag(number)), number);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes: Vec<u8>) {
            refused(&bytes);
        }
    }

    /// When this fails, checkpoints of releases before are no longer read as what they are: make it pass
    /// with a new `VERSION`, also where only the meaning changed (names of digests, phases, times).
    #[test]
    fn the_bytes_of_this_version_stay_as_they_are() {
        let message = |id: &str, actor, at| {
            let mapped = super::super::tests::message(id, actor, at);
            Reading::Mapped(super::super::tests::raw(), Box::new(mapped))
        };
        let records = [
            (1_000_000, message("a", Actor::Visitor, 999_000)),
            (1_000_400, message("b", Actor::Bot, 999_900)),
            (1_060_000, message("c", Actor::Visitor, 1_059_000)),
        ];
        let hash = blake3::hash(&encoded(&folded(&records))).to_hex();
        assert_eq!(
            hash.as_str(),
            "06f241d7e29fe2ba948f9ffd684c847be5a6393421925147726ade3f85570054"
        );
    }

    #[test]
    fn nothing_is_no_snapshot() {
        assert_eq!(refused(b""), SnapshotError::NotASnapshot);
        assert_eq!(refused(&[0; 4096]), SnapshotError::NotASnapshot);
    }

    #[test]
    fn a_newer_version_is_told_as_such() {
        let mut content = content(&start());
        content[MAGIC.len()] = 2;
        assert_eq!(
            refused(&sealed(content)),
            SnapshotError::Version { found: 2 }
        );
    }

    #[test]
    fn a_state_of_another_topic_partition_or_horizon_is_told_as_such() {
        let bytes = encoded(&start());
        let decode = |identity| PartitionFold::decode(&bytes, &identity).map(drop);
        assert_eq!(decode(IDENTITY), Ok(()));
        let other_partition = Err(SnapshotError::OtherPartition {
            found_topic: "chat.raw".into(),
            found_partition: 7,
        });
        let topic = Identity {
            topic: "new.chat.raw",
            ..IDENTITY
        };
        assert_eq!(decode(topic), other_partition);
        let partition = Identity {
            partition: 8,
            ..IDENTITY
        };
        assert_eq!(decode(partition), other_partition);
        let horizon = Identity {
            horizon: Horizon::default(),
            ..IDENTITY
        };
        let found = HORIZON;
        assert_eq!(decode(horizon), Err(SnapshotError::OtherHorizon { found }));
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_memory_is_taken() {
        let mut content = content(&start());
        let ids = content.len() - 16;
        content[ids..ids + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let what = "it promises more than it holds";
        assert_eq!(refused(&sealed(content)), SnapshotError::Malformed { what });
    }
}

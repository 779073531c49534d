use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    raw::NativePayload,
    watermark::{Admission, Watermark},
};

const MINUTE: i64 = 60_000;

pub(super) fn raw() -> RawEvent {
    RawEvent {
        tenant: "acme".into(),
        source: "watermelon".into(),
        write_key_id: "web".into(),
        received_at: 1_700_000_000_000,
        context: Context::default(),
        body: RawBody::Native(NativePayload {
            json: "{}".into(),
            redactions: vec![],
        }),
        replay_of: None,
    }
}

fn mapped(id: &str, event_type: EventType, actor: Actor, at: i64) -> Mapped {
    Mapped {
        source_event: "x".into(),
        event_type,
        actor,
        documented: true,
        event_id: id.into(),
        occurred_at: at,
        time_basis: TimeBasis::Native,
        conversation_id: Some("c1".into()),
        session_id: None,
        sequence: None,
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
        initial_phase: Some(Phase::Bot),
    }
}

pub(super) fn message(id: &str, actor: Actor, at: i64) -> Mapped {
    mapped(id, EventType::MessageSent, actor, at)
}

/// Applies the readings at offsets 0, 1, … with one minute of broker time between them.
fn outcomes(readings: impl IntoIterator<Item = Mapped>) -> Vec<Event> {
    let mut fold = PartitionFold::new(3, Horizon::default());
    (0..)
        .zip(readings)
        .map(|(offset, mapped)| {
            let position = Position {
                offset,
                timestamp_ms: offset * MINUTE,
            };
            fold.apply(position, Reading::Mapped(raw(), Box::new(mapped)))
        })
        .collect()
}

#[test]
fn every_outcome_carries_its_origin() {
    let events = outcomes([
        message("a", Actor::Visitor, 0),
        message("a", Actor::Visitor, 0),
    ]);
    assert_eq!((events[0].partition, events[0].offset), (3, 0));
    assert_eq!((events[1].partition, events[1].offset), (3, 1));
}

#[test]
fn the_second_copy_of_an_event_id_is_a_duplicate_and_counts_nothing() {
    let events = outcomes([
        message("a", Actor::Visitor, 0),
        message("a", Actor::Visitor, 0),
        message("b", Actor::Visitor, 1),
    ]);
    assert_eq!(events[1].outcome, Outcome::Duplicate);
    assert_eq!(events[1].message_number, None);
    assert_eq!(events[2].message_number, Some(2));
}

#[test]
fn the_same_event_id_of_another_tenant_or_source_is_no_duplicate() {
    let mut fold = PartitionFold::new(0, Horizon::default());
    let mut apply = |offset, tenant: &str, source: &str| {
        let raw = RawEvent {
            tenant: tenant.into(),
            source: source.into(),
            ..raw()
        };
        let reading = Reading::Mapped(raw, Box::new(message("a", Actor::Visitor, 0)));
        fold.apply(
            Position {
                offset,
                timestamp_ms: 0,
            },
            reading,
        )
        .outcome
    };
    assert_eq!(apply(0, "acme", "watermelon"), Outcome::Accepted);
    assert_eq!(apply(1, "bravo", "watermelon"), Outcome::Accepted);
    assert_eq!(apply(2, "acme", "userlike"), Outcome::Accepted);
    assert_eq!(apply(3, "acme", "watermelon"), Outcome::Duplicate);
}

#[test]
fn an_event_id_is_forgotten_beyond_the_horizon_and_not_before() {
    let horizon = Horizon {
        dedup_ms: 10,
        idle_ms: 10,
    };
    let mut fold = PartitionFold::new(0, horizon);
    let mut apply = |offset, timestamp_ms| {
        let reading = Reading::Mapped(raw(), Box::new(message("a", Actor::Visitor, 0)));
        fold.apply(
            Position {
                offset,
                timestamp_ms,
            },
            reading,
        )
        .outcome
    };
    assert_eq!(apply(0, 100), Outcome::Accepted);
    assert_eq!(apply(1, 110), Outcome::Duplicate);
    assert_eq!(apply(2, 111), Outcome::Accepted);
    assert_eq!(fold.event_ids(), 1);
}

#[test]
fn an_idle_conversation_is_forgotten_beyond_the_horizon() {
    let horizon = Horizon {
        dedup_ms: 10,
        idle_ms: 10,
    };
    let mut fold = PartitionFold::new(0, horizon);
    let later = SWEEP_INTERVAL_MS * 2;
    for (offset, id, timestamp_ms) in [(0, "a", 0), (1, "b", later)] {
        let reading = Reading::Mapped(raw(), Box::new(message(id, Actor::Visitor, 0)));
        let event = fold.apply(
            Position {
                offset,
                timestamp_ms,
            },
            reading,
        );
        assert_eq!(event.message_number, Some(1));
    }
    assert_eq!(fold.conversations(), 1);
}

#[test]
fn response_time_runs_from_the_first_unanswered_visitor_message() {
    let events = outcomes([
        message("a", Actor::Visitor, 1_000),
        message("b", Actor::Visitor, 3_000),
        message("c", Actor::Bot, 4_500),
        message("d", Actor::Agent, 9_000),
    ]);
    let times: Vec<_> = events.iter().map(|event| event.response_time_ms).collect();
    assert_eq!(times, [None, None, Some(3_500), None]);
}

#[test]
fn a_message_older_than_the_question_is_no_answer() {
    let events = outcomes([
        message("a", Actor::Visitor, 5_000),
        message("b", Actor::Bot, 4_000),
        message("c", Actor::Bot, 6_000),
    ]);
    assert_eq!(events[1].response_time_ms, None);
    assert_eq!(events[2].response_time_ms, Some(1_000));
}

#[test]
fn a_time_of_receipt_gives_no_response_time() {
    let untimed = Mapped {
        time_basis: TimeBasis::Received,
        ..message("a", Actor::Visitor, 0)
    };
    let events = outcomes([untimed, message("b", Actor::Bot, 6_000)]);
    assert_eq!(events[1].response_time_ms, None);
}

#[test]
fn phases_follow_handoff_join_return_and_end() {
    use EventType::{AgentJoined, BotResumed, ConversationEnded, HandoffRequested};
    let events = outcomes([
        message("a", Actor::Visitor, 0),
        mapped("b", HandoffRequested, Actor::Visitor, 1),
        mapped("c", AgentJoined, Actor::Agent, 2),
        mapped("d", HandoffRequested, Actor::Visitor, 3),
        mapped("e", BotResumed, Actor::System, 4),
        mapped("f", ConversationEnded, Actor::System, 5),
        message("g", Actor::Visitor, 6),
    ]);
    let phases: Vec<_> = events.iter().filter_map(|event| event.phase).collect();
    use Phase::{Bot, Closed, Human, Waiting};
    assert_eq!(phases, [Bot, Waiting, Human, Human, Bot, Closed, Bot]);
}

#[test]
fn the_message_gap_is_reported_minus_seen() {
    let lost_one = Mapped {
        reported_total: Some(3),
        ..message("b", Actor::Bot, 1)
    };
    let events = outcomes([message("a", Actor::Visitor, 0), lost_one]);
    assert_eq!(events[1].message_gap, Some(1));
}

/// Records of a few ids, conversations and kinds, so that all of them meet.
pub(super) fn records() -> impl Strategy<Value = Vec<(i64, Reading)>> {
    let types = proptest::sample::select(vec![
        EventType::MessageSent,
        EventType::HandoffRequested,
        EventType::AgentJoined,
        EventType::AgentLeft,
        EventType::BotResumed,
        EventType::ConversationEnded,
        EventType::Custom,
    ]);
    let actors = proptest::sample::select(vec![
        Actor::Visitor,
        Actor::Bot,
        Actor::Agent,
        Actor::System,
    ]);
    let item = (
        0..40u8,
        types,
        actors,
        0..100_000i64,
        0..3u8,
        0..3 * 60 * MINUTE,
        proptest::option::weighted(0.1, 0..60i64),
    )
        .prop_map(
            |(id, event_type, actor, at, conversation, timestamp, replays)| {
                let mapped = Mapped {
                    conversation_id: Some(format!("c{conversation}")),
                    reported_total: (id % 3 == 0).then_some(i64::from(id)),
                    ..mapped(&format!("e{id}"), event_type, actor, at)
                };
                let replay_of = replays.map(|offset| ReplayOf {
                    partition: 7,
                    offset,
                });
                let raw = RawEvent { replay_of, ..raw() };
                (timestamp, Reading::Mapped(raw, Box::new(mapped)))
            },
        );
    let refused = (0..3 * 60 * MINUTE).prop_map(|timestamp| {
        let rejection = Rejection {
            reason: RejectReason::InvalidJson,
            detail: "no JSON".into(),
            bytes: 3,
            sha256: "00".into(),
        };
        (timestamp, Reading::Rejected(raw(), rejection))
    });
    vec(prop_oneof![9 => item, 1 => refused], 1..120)
}

fn fold_all(records: &[(i64, Reading)]) -> Vec<Event> {
    let mut fold = PartitionFold::new(
        0,
        Horizon {
            dedup_ms: 60 * MINUTE,
            idle_ms: 60 * MINUTE,
        },
    );
    (0..)
        .zip(records)
        .map(|(offset, (timestamp_ms, reading))| {
            fold.apply(
                Position {
                    offset,
                    timestamp_ms: *timestamp_ms,
                },
                reading.clone(),
            )
        })
        .collect()
}

/// A writer that starts by the log's tail as it is at `start`, and appends `count` outcomes, one
/// at each of its turns. `start` may lie before other writers' appends: then it is a zombie, or a
/// second owner.
#[derive(Debug, Clone)]
struct Writer {
    next: usize,
    left: usize,
}

proptest! {
    /// Guarantees 3 to 5: whatever is cut, repeated or written by two owners at once, a reader
    /// with the watermark rule reads the one stream.
    #[test]
    fn any_cut_replay_or_second_writer_gives_the_same_stream(
        records in records(),
        schedule in vec((0..4usize, 0..2u8, 1..40usize), 0..200),
    ) {
        let truth = fold_all(&records);
        let mut log: Vec<&Event> = Vec::new();
        let mut writers: Vec<Option<Writer>> = vec![None; 4];
        for (slot, kind, turns) in schedule {
            if kind == 0 || writers[slot].is_none() {
                // (Re)start: the fold is replayed from 0 and is silent up to the tail's offset.
                let next = log.last().map_or(0, |tail| tail.offset as usize + 1);
                writers[slot] = Some(Writer { next, left: turns });
            }
            if let Some(writer) = &mut writers[slot] {
                for _ in 0..turns.min(writer.left) {
                    if let Some(event) = truth.get(writer.next) {
                        log.push(event);
                        writer.next += 1;
                    }
                }
                writer.left = writer.left.saturating_sub(turns);
            }
        }
        // The last owner runs to the end.
        let next = log.last().map_or(0, |tail| tail.offset as usize + 1);
        log.extend(&truth[next..]);

        let mut watermark = Watermark::default();
        let mut read = Vec::new();
        for event in log {
            match watermark.admit(event.offset) {
                Admission::New => read.push(event.clone()),
                Admission::Repeated => {}
                Admission::Gap { expected } => prop_assert!(false, "gap at {expected}"),
            }
        }
        prop_assert_eq!(read, truth);
    }

    /// A replay from the start is byte for byte the same stream.
    #[test]
    fn the_fold_is_deterministic(records in records()) {
        prop_assert_eq!(fold_all(&records), fold_all(&records));
    }

    /// The books balance, ids are accepted once, and no duration is negative.
    #[test]
    fn accepted_ids_are_unique_and_durations_are_not_negative(records in records()) {
        let mut fold = PartitionFold::new(0, Horizon { dedup_ms: i64::MAX / 4, idle_ms: i64::MAX / 4 });
        let mut ids = std::collections::HashSet::new();
        for (offset, (timestamp_ms, reading)) in (0..).zip(records) {
            let event = fold.apply(Position { offset, timestamp_ms }, reading);
            prop_assert!(event.response_time_ms.is_none_or(|time| time >= 0));
            if event.outcome == Outcome::Accepted {
                prop_assert!(ids.insert(event.event_id));
            }
        }
    }
}

mod replays {
    use super::*;

    const VISITOR: Actor = Actor::Visitor;

    fn replay(offset: i64) -> RawEvent {
        RawEvent {
            replay_of: Some(ReplayOf {
                partition: 3,
                offset,
            }),
            ..raw()
        }
    }

    /// Applies records at offsets 0, 1, …, one minute of broker time apart.
    fn fold(records: impl IntoIterator<Item = (RawEvent, &'static str)>) -> Vec<Event> {
        let mut fold = PartitionFold::new(3, Horizon::default());
        (0..)
            .zip(records)
            .map(|(offset, (raw, id))| {
                let position = Position {
                    offset,
                    timestamp_ms: offset * MINUTE,
                };
                let mapped = Box::new(message(id, VISITOR, offset));
                fold.apply(position, Reading::Mapped(raw, mapped))
            })
            .collect()
    }

    fn outcomes(events: &[Event]) -> Vec<Outcome> {
        events.iter().map(|event| event.outcome).collect()
    }

    use Outcome::{Accepted, Duplicate};

    #[test]
    fn what_the_stream_never_took_is_accepted_and_counted_and_its_second_replay_is_a_duplicate() {
        let events = fold([(raw(), "other"), (replay(7), "a"), (replay(7), "a")]);
        assert_eq!(outcomes(&events), [Accepted, Accepted, Duplicate]);
        assert_eq!(events[1].message_number, Some(2));
        assert_eq!(events[1].replay_of.map(|of| of.offset), Some(7));
    }

    #[test]
    fn what_was_lost_behind_the_stream_is_accepted_once_more_and_not_counted_again() {
        let records = [
            (raw(), "a"),
            (replay(0), "a"),
            (replay(0), "a"),
            (raw(), "b"),
        ];
        let events = fold(records);
        assert_eq!(outcomes(&events), [Accepted, Accepted, Duplicate, Accepted]);
        assert_eq!(events[1].message_number, None);
        assert_eq!(events[3].message_number, Some(2));
    }

    #[test]
    fn a_replay_that_was_lost_too_can_be_replayed_by_its_own_position() {
        let events = fold([(raw(), "a"), (replay(0), "a"), (replay(1), "a")]);
        assert_eq!(outcomes(&events), [Accepted, Accepted, Accepted]);
    }

    #[test]
    fn a_copy_is_no_replay_even_where_its_own_outcome_was_lost() {
        let events = fold([(raw(), "a"), (raw(), "a"), (replay(1), "a")]);
        assert_eq!(outcomes(&events), [Accepted, Duplicate, Duplicate]);
    }

    #[test]
    fn an_event_that_came_by_another_way_in_between_is_a_duplicate() {
        let events = fold([(raw(), "a"), (replay(9), "a")]);
        assert_eq!(outcomes(&events), [Accepted, Duplicate]);
    }
}

#[test]
fn a_record_larger_than_any_producer_writes_is_rejected_and_not_read() {
    let codec = Codec::new(crate::avro::Framing::SingleObject).unwrap();
    let reading = |padding: usize| {
        let mut record = raw();
        record.tenant = "x".repeat(padding);
        read(&codec.encode(&record).unwrap(), &codec, Catalog::builtin())
    };
    assert!(!matches!(reading(1_000), Reading::Undecodable(_)));
    let Reading::Undecodable(rejection) = reading(MAX_RAW_BYTES) else {
        panic!("it was read");
    };
    assert!(rejection.bytes > MAX_RAW_BYTES as i64);
}

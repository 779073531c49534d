//! Every golden payload from the producer's side to the enricher's: admitted, through the bytes of
//! chat.raw, folded, through the bytes of chat.events. What mapping makes of each is in the other
//! snapshots; here is what the fold adds.

use chatpulse_model::{
    Event, Outcome, RawEvent,
    avro::{Codec, Framing},
    fold::{Horizon, PartitionFold, Position, read},
    source::Catalog,
};

use crate::goldens::{self, RECEIVED_AT, admit, enveloped};

/// The outcomes of a source's goldens, sent in the order of their file by one page session.
fn enrich(source: &str) -> Vec<Event> {
    let raw = Codec::<RawEvent>::new(Framing::SingleObject).unwrap();
    let events = Codec::<Event>::new(Framing::SingleObject).unwrap();
    let mut fold = PartitionFold::new(0, Horizon::default());
    (0..)
        .zip(goldens::of(source))
        .map(|(offset, native)| {
            let item = enveloped(native, offset as usize + 1);
            let record = raw.encode(&admit(source, item.as_bytes()).record).unwrap();
            let position = Position {
                offset,
                timestamp_ms: RECEIVED_AT + offset,
            };
            let outcome = fold.apply(position, read(&record, &raw, Catalog::builtin()));
            let bytes = events.encode(&outcome).unwrap();
            let decoded = events.decode(&bytes).unwrap();
            assert_eq!(decoded, outcome);
            decoded
        })
        .collect()
}

fn shown(source: &str) -> String {
    let text = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
    enrich(source)
        .iter()
        .map(|event| {
            let phase = event
                .phase
                .map_or("-".to_owned(), |phase| format!("{phase:?}"));
            format!(
                "{} {:?} {} by {:?} at {} ({:?}) message {} phase {phase} response {} gap {}\n",
                event.source_event,
                event.outcome,
                event.event_type.as_str(),
                event.actor,
                event.occurred_at - RECEIVED_AT,
                event.time_basis,
                text(event.message_number),
                text(event.response_time_ms),
                text(event.message_gap),
            )
        })
        .collect()
}

#[test]
fn goldens_of_algomo_are_enriched_as_reviewed() {
    insta::assert_snapshot!(shown("algomo"));
}

#[test]
fn goldens_of_autochat_are_enriched_as_reviewed() {
    insta::assert_snapshot!(shown("autochat"));
}

#[test]
fn goldens_of_loyjoy_are_enriched_as_reviewed() {
    insta::assert_snapshot!(shown("loyjoy"));
}

#[test]
fn goldens_of_userlike_are_enriched_as_reviewed() {
    insta::assert_snapshot!(shown("userlike"));
}

#[test]
fn goldens_of_watermelon_are_enriched_as_reviewed() {
    insta::assert_snapshot!(shown("watermelon"));
}

#[test]
fn autochats_two_dispatches_are_one_accepted_and_one_duplicate() {
    let events = enrich("autochat");
    assert_eq!(events.len(), 14);
    for outcome in [Outcome::Accepted, Outcome::Duplicate] {
        assert_eq!(
            events
                .iter()
                .filter(|event| event.outcome == outcome)
                .count(),
            7
        );
    }
}

//! Items into raw records: `item bytes ─ admit (parse, validate, redact) ─► Avro ─► Record`.
//!
//! An item that is refused is a record too, without its content, so that the books balance.

use chatpulse_kafka::Record;
use chatpulse_model::{
    RawBody, RawEvent, RejectReason,
    avro::{AvroError, Codec},
    source::{Admitted, Catalog, Definition, Receipt},
};
use serde::Serialize;

/// An item that was refused.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// Position of the item in its batch, from 0. Blank lines of NDJSON are no items.
    pub index: usize,
    /// The class of the fault, one of a closed list.
    #[serde(serialize_with = "name")]
    pub reason: RejectReason,
    /// What was wrong and what to do.
    pub detail: String,
}

fn name<S: serde::Serializer>(reason: &RejectReason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

/// What became of a batch of items.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    pub(crate) refused: Vec<Refused>,
}

impl Batch {
    /// Items that were taken.
    pub(crate) fn accepted(&self) -> usize {
        self.records.len() - self.refused.len()
    }
}

/// Everything that the items of one batch have in common.
pub(crate) struct Intake<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) receipt: Receipt<'a>,
    pub(crate) codec: &'a Codec<RawEvent>,
}

impl Intake<'_> {
    /// Adds one item to a batch, as the next by its position.
    pub(crate) fn admit(&self, item: &[u8], batch: &mut Batch) -> Result<(), AvroError> {
        self.put(self.definition.admit(item, &self.receipt), batch)
    }

    /// Adds an item that was judged already.
    pub(crate) fn put(&self, admitted: Admitted, batch: &mut Batch) -> Result<(), AvroError> {
        let Admitted { record, key } = admitted;
        let payload = self.codec.encode(&record)?;
        if let RawBody::Rejection(rejection) = record.body {
            batch.refused.push(Refused {
                index: batch.records.len(),
                reason: rejection.reason,
                detail: rejection.detail,
            });
        }
        batch.records.push(Record {
            key,
            payload,
            ..Record::default()
        });
        Ok(())
    }
}

/// The sources that there are, for a sender who named another.
pub(crate) fn known_sources(catalog: &Catalog) -> String {
    catalog
        .iter()
        .map(Definition::name)
        .collect::<Vec<_>>()
        .join(", ")
}

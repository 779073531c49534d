//! The wire form of the two record types.
//!
//! Records are framed so that a reader knows the writer's schema: Avro single-object encoding
//! (`C3 01`, then the schema's CRC-64 fingerprint), or the Confluent wire format (`00`, then the
//! registry's schema id, big-endian) where a registry is used. Readers take both, told apart by
//! the first byte, and every version under `schemas/avro`.
//!
//! Raw records and events of the newest version are read and written directly ([`direct`]), all else by
//! serde_avro_fast; apache-avro is the oracle in the tests.

use std::{collections::HashMap, io::Read as _, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};
use serde_avro_fast::{
    Schema,
    de::{DeserializerConfig, DeserializerState, read::SliceRead},
    ser::SerializerConfig,
};

use crate::{
    delivery::{Cursors, Delivery, DestinationState, Retry},
    event::Event,
    raw::RawEvent,
};

mod direct;

pub use direct::Direct;

/// First bytes of the single-object encoding (Avro specification).
const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];
/// First byte of the Confluent wire format.
const CONFLUENT: u8 = 0;
/// No array or map of our records comes near this; a larger count is an attack.
const MAX_ITEMS: usize = 10_000;

/// Most records are shorter.
const USUAL_BYTES: usize = 768;

/// A record type with its schema versions, oldest first; the last one is written.
pub trait Versioned: Serialize + DeserializeOwned {
    /// Name of the schema; the registry's subject is the topic's name with `-value`.
    const NAME: &'static str;
    /// Every version that may stand in a topic.
    const SCHEMAS: &'static [&'static str];
    /// The short way of the newest version, where records are many.
    const DIRECT: Option<Direct<Self>> = None;
}

impl Versioned for RawEvent {
    const NAME: &'static str = "raw_event";
    const SCHEMAS: &'static [&'static str] = &[
        include_str!("../../../schemas/avro/raw_event.v1.avsc"),
        include_str!("../../../schemas/avro/raw_event.v2.avsc"),
    ];
    const DIRECT: Option<Direct<Self>> = Some(direct::direct());
}

impl Versioned for Event {
    const NAME: &'static str = "event";
    const SCHEMAS: &'static [&'static str] = &[
        include_str!("../../../schemas/avro/event.v1.avsc"),
        include_str!("../../../schemas/avro/event.v2.avsc"),
    ];
    const DIRECT: Option<Direct<Self>> = Some(direct::direct());
}

impl Versioned for Delivery {
    const NAME: &'static str = "delivery";
    const SCHEMAS: &'static [&'static str] =
        &[include_str!("../../../schemas/avro/delivery.v1.avsc")];
}

impl Versioned for Retry {
    const NAME: &'static str = "retry";
    const SCHEMAS: &'static [&'static str] = &[
        include_str!("../../../schemas/avro/retry.v1.avsc"),
        include_str!("../../../schemas/avro/retry.v2.avsc"),
    ];
}

impl Versioned for Cursors {
    const NAME: &'static str = "cursors";
    const SCHEMAS: &'static [&'static str] =
        &[include_str!("../../../schemas/avro/cursors.v1.avsc")];
}

impl Versioned for DestinationState {
    const NAME: &'static str = "destination";
    const SCHEMAS: &'static [&'static str] =
        &[include_str!("../../../schemas/avro/destination.v1.avsc")];
}

/// How written records are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Avro single-object encoding: no registry.
    SingleObject,
    /// Confluent wire format with the registry's id of the newest schema.
    Confluent {
        /// Id that the registry gave to the newest schema.
        schema_id: u32,
    },
}

/// Why bytes could not be read or written as a record.
#[derive(Debug, thiserror::Error)]
pub enum AvroError {
    /// The first byte belongs to neither framing.
    #[error("no known framing: expected C3 01 (single object) or 00 (schema registry)")]
    Framing,
    /// Single-object encoding with a schema that this reader does not have.
    #[error("unknown schema fingerprint {0:02x?}: written by a newer version? upgrade the reader")]
    UnknownFingerprint([u8; 8]),
    /// Confluent format with an id that this reader has not been given.
    #[error("unknown schema id {0}: fetch it from the schema registry")]
    UnknownSchemaId(u32),
    /// The record does not follow its schema.
    #[error("record does not follow its schema: {0}")]
    Decode(String),
    /// Bytes are left after the record.
    #[error("bytes are left after the record")]
    Trailing,
    /// The record could not be written.
    #[error("record cannot be written: {0}")]
    Encode(String),
    /// A schema text is not valid.
    #[error("schema is not valid: {0}")]
    Schema(String),
}

/// Reads and writes one record type.
#[derive(Debug)]
pub struct Codec<T> {
    versions: Vec<Schema>,
    by_id: HashMap<u32, Schema>,
    header: Vec<u8>,
    record: PhantomData<fn() -> T>,
}

impl<T: Versioned> Codec<T> {
    /// A codec that writes the newest schema with the given framing and reads every version.
    pub fn new(framing: Framing) -> Result<Self, AvroError> {
        let versions = T::SCHEMAS
            .iter()
            .map(|text| parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        let newest = versions
            .last()
            .ok_or(AvroError::Schema("no version".into()))?;
        let header = match framing {
            Framing::SingleObject => [
                SINGLE_OBJECT.as_slice(),
                newest.rabin_fingerprint().as_slice(),
            ]
            .concat(),
            Framing::Confluent { schema_id } => {
                [[CONFLUENT].as_slice(), schema_id.to_be_bytes().as_slice()].concat()
            }
        };
        let mut codec = Self {
            versions,
            by_id: HashMap::new(),
            header,
            record: PhantomData,
        };
        if let (Framing::Confluent { schema_id }, Some(text)) = (framing, T::SCHEMAS.last()) {
            codec.learn(schema_id, text)?;
        }
        Ok(codec)
    }

    /// Teaches the codec a writer's schema that the registry knows under `id`.
    pub fn learn(&mut self, id: u32, schema: &str) -> Result<(), AvroError> {
        self.by_id.insert(id, parse(schema)?);
        Ok(())
    }

    /// The framed record.
    pub fn encode(&self, record: &T) -> Result<Vec<u8>, AvroError> {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.extend_from_slice(&self.header);
        if let Some(direct) = T::DIRECT {
            (direct.put)(record, &mut bytes);
            return Ok(bytes);
        }
        self.encode_by_schema(record, bytes)
    }

    fn newest(&self) -> Result<&Schema, AvroError> {
        // `new` refuses an empty list of versions.
        let newest = self.versions.last();
        newest.ok_or(AvroError::Schema("no version".into()))
    }

    fn encode_by_schema(&self, record: &T, bytes: Vec<u8>) -> Result<Vec<u8>, AvroError> {
        let newest = self.newest()?;
        serde_avro_fast::to_datum(record, bytes, &mut SerializerConfig::new(newest))
            .map_err(|error| AvroError::Encode(error.to_string()))
    }

    /// Reads a framed record of any known version.
    pub fn decode(&self, bytes: &[u8]) -> Result<T, AvroError> {
        let (schema, mut datum) = self.unframe(bytes)?;
        let Some(direct) = T::DIRECT else {
            return Self::decode_by_schema(schema, datum);
        };
        if schema.rabin_fingerprint() != self.newest()?.rabin_fingerprint() {
            return Self::decode_by_schema(schema, datum);
        }
        let record = (direct.take)(&mut datum).map_err(|fault| AvroError::Decode(fault.into()))?;
        match datum {
            [] => Ok(record),
            _ => Err(AvroError::Trailing),
        }
    }

    fn decode_by_schema(schema: &Schema, datum: &[u8]) -> Result<T, AvroError> {
        let mut config = DeserializerConfig::new(schema);
        config.max_seq_size = MAX_ITEMS;
        let mut state = DeserializerState::with_config(SliceRead::new(datum), config);
        let record = T::deserialize(state.deserializer())
            .map_err(|error| AvroError::Decode(without_content(&error.to_string())))?;
        match state.into_reader().read(&mut [0]) {
            Ok(0) => Ok(record),
            _ => Err(AvroError::Trailing),
        }
    }

    fn unframe<'b>(&self, bytes: &'b [u8]) -> Result<(&Schema, &'b [u8]), AvroError> {
        if let Some(rest) = bytes.strip_prefix(&SINGLE_OBJECT) {
            let (fingerprint, datum) = rest.split_first_chunk::<8>().ok_or(AvroError::Framing)?;
            let schema = self
                .versions
                .iter()
                .find(|s| s.rabin_fingerprint() == fingerprint);
            return Ok((
                schema.ok_or(AvroError::UnknownFingerprint(*fingerprint))?,
                datum,
            ));
        }
        if let Some(rest) = bytes.strip_prefix(&[CONFLUENT]) {
            let (id, datum) = rest.split_first_chunk::<4>().ok_or(AvroError::Framing)?;
            let id = u32::from_be_bytes(*id);
            return Ok((
                self.by_id.get(&id).ok_or(AvroError::UnknownSchemaId(id))?,
                datum,
            ));
        }
        Err(AvroError::Framing)
    }
}

/// serde quotes the value that it did not expect, which may be personal and of any length.
fn without_content(error: &str) -> String {
    match error.split_once(['`', '"', '\'']) {
        Some((before, _)) => format!("{before}…"),
        None => error.to_owned(),
    }
}

fn parse(text: &str) -> Result<Schema, AvroError> {
    text.parse::<Schema>()
        .map_err(|error| AvroError::Schema(error.to_string()))
}

#[cfg(test)]
mod tests;

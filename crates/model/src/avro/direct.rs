//! The two record types of the hot path, read and written field by field in the order of their newest schema.
//!
//! A codec that looks at the schema while it works costs three to four times as much. That both say the same, byte
//! for byte, is tested over everything that a field can hold; every other version goes the long way.

use std::collections::BTreeMap;

use super::MAX_ITEMS;
use crate::{
    event::{Actor, Event, EventType, Outcome, Phase, ScoreKind, TimeBasis},
    raw::{Context, NativePayload, RawBody, RawEvent, RejectReason, Rejection, ReplayOf},
};

/// How the newest schema of a record type is read and written.
#[derive(Debug, Clone, Copy)]
pub struct Direct<T> {
    pub(super) put: fn(&T, &mut Vec<u8>),
    /// Takes a record off the front of the bytes.
    pub(super) take: fn(&mut &[u8]) -> Result<T, Fault>,
}

pub(super) const fn direct<T: Datum>() -> Direct<T> {
    Direct {
        put: T::put,
        take: T::take,
    }
}

/// What is wrong with a datum, without its content.
pub(super) type Fault = &'static str;

/// A value in Avro's binary encoding.
pub(super) trait Datum: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(from: &mut &[u8]) -> Result<Self, Fault>;
}

const ENDS: Fault = "the record ends too early";

fn split<'b>(from: &mut &'b [u8], length: usize) -> Result<&'b [u8], Fault> {
    let (taken, rest) = from.split_at_checked(length).ok_or(ENDS)?;
    *from = rest;
    Ok(taken)
}

impl Datum for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        let mut zigzag = ((self << 1) ^ (self >> 63)) as u64;
        while zigzag >= 0x80 {
            out.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        out.push(zigzag as u8);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        let mut zigzag = 0_u64;
        for (index, &byte) in from.iter().take(10).enumerate() {
            // The tenth byte holds the last bit.
            if index == 9 && byte > 1 {
                break;
            }
            zigzag |= u64::from(byte & 0x7F) << (7 * index);
            if byte < 0x80 {
                *from = &from[index + 1..];
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err("a number has no end")
    }
}

impl Datum for i32 {
    fn put(&self, out: &mut Vec<u8>) {
        i64::from(*self).put(out);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        i64::take(from)?
            .try_into()
            .map_err(|_| "a number is too large for its field")
    }
}

impl Datum for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        match split(from, 1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err("a boolean is neither 0 nor 1"),
        }
    }
}

impl Datum for f64 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        let (bytes, rest) = from.split_first_chunk().ok_or(ENDS)?;
        *from = rest;
        Ok(f64::from_le_bytes(*bytes))
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    // No text in memory is longer than an i64 can say.
    (text.len() as i64).put(out);
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'b>(from: &mut &'b [u8]) -> Result<&'b str, Fault> {
    let length = usize::try_from(i64::take(from)?).map_err(|_| "a length is negative")?;
    std::str::from_utf8(split(from, length)?).map_err(|_| "a text is not UTF-8")
}

impl Datum for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(self, out);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        take_text(from).map(str::to_owned)
    }
}

/// A union of null and one more.
impl<T: Datum> Datum for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => 0_i64.put(out),
            Some(value) => {
                1_i64.put(out);
                value.put(out);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        match i64::take(from)? {
            0 => Ok(None),
            1 => T::take(from).map(Some),
            _ => Err("a union has no such branch"),
        }
    }
}

/// The items of an array or map, in blocks, of which each says how many it holds; an empty one ends them.
fn take_blocks(
    from: &mut &[u8],
    mut item: impl FnMut(&mut &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut left = MAX_ITEMS as u64;
    loop {
        let count = i64::take(from)?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            // Then its size in bytes follows, for readers who skip it.
            i64::take(from)?;
        }
        left = left
            .checked_sub(count.unsigned_abs())
            .ok_or("an array or map has too many items")?;
        for _ in 0..count.unsigned_abs() {
            item(from)?;
        }
    }
}

impl Datum for Vec<String> {
    fn put(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            (self.len() as i64).put(out);
            self.iter().for_each(|item| item.put(out));
        }
        0_i64.put(out);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        let mut items = Vec::new();
        take_blocks(from, |from| {
            items.push(String::take(from)?);
            Ok(())
        })?;
        Ok(items)
    }
}

impl Datum for BTreeMap<String, String> {
    fn put(&self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            (self.len() as i64).put(out);
            for (key, value) in self {
                key.put(out);
                value.put(out);
            }
        }
        0_i64.put(out);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        let mut entries = Self::new();
        take_blocks(from, |from| {
            entries.insert(String::take(from)?, String::take(from)?);
            Ok(())
        })?;
        Ok(entries)
    }
}

/// Enums of the schema: the number of the symbol.
macro_rules! symbols {
    ($($enum:ident [$($symbol:ident),*])*) => {$(
        impl Datum for $enum {
            fn put(&self, out: &mut Vec<u8>) {
                (*self as i64).put(out);
            }

            fn take(from: &mut &[u8]) -> Result<Self, Fault> {
                const SYMBOLS: &[$enum] = &[$($enum::$symbol),*];
                let number = usize::try_from(i64::take(from)?).ok();
                let symbol = number.and_then(|number| SYMBOLS.get(number));
                symbol.copied().ok_or("an enum has no such symbol")
            }
        }
    )*};
}

symbols! {
    Outcome [Accepted, Duplicate, Rejected]
    Actor [Visitor, Bot, Agent, System]
    TimeBasis [Native, Context, Received]
    Phase [Bot, Waiting, Human, Closed]
    ScoreKind [Nps, Stars, Thumbs]
}

/// Closed lists that are text in the schema, so that they may grow.
macro_rules! names {
    ($($enum:ident)*) => {$(
        impl Datum for $enum {
            fn put(&self, out: &mut Vec<u8>) {
                put_text(self.as_str(), out);
            }

            fn take(from: &mut &[u8]) -> Result<Self, Fault> {
                $enum::named(take_text(from)?).ok_or("a name is in no list of this version")
            }
        }
    )*};
}

names! { EventType RejectReason }

/// Records: their fields in the order of the schema.
macro_rules! records {
    ($($record:ident { $($field:ident),* $(,)? })*) => {$(
        impl Datum for $record {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }

            fn take(from: &mut &[u8]) -> Result<Self, Fault> {
                // Fields of a struct expression are evaluated as they are written.
                Ok(Self { $($field: Datum::take(from)?),* })
            }
        }
    )*};
}

records! {
    RawEvent { tenant, source, write_key_id, received_at, context, body, replay_of }
    Context { event_id, session_id, sequence, occurred_at, sent_at, page_url, sdk }
    NativePayload { json, redactions }
    Rejection { reason, detail, bytes, sha256 }
    ReplayOf { partition, offset }
    Event {
        partition, offset, outcome, reason, detail, rejected_bytes, rejected_sha256, tenant, source,
        write_key_id, source_event, event_type, actor, documented, event_id, occurred_at, time_basis,
        received_at, conversation_id, session_id, sequence, visitor, widget_id, platform, language, link,
        page_url, sdk, reported_total, score, score_kind, goal, properties, message_number, phase,
        response_time_ms, message_gap, replay_of,
    }
}

impl Datum for RawBody {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Native(native) => {
                0_i64.put(out);
                native.put(out);
            }
            Self::Rejection(rejection) => {
                1_i64.put(out);
                rejection.put(out);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, Fault> {
        match i64::take(from)? {
            0 => Datum::take(from).map(Self::Native),
            1 => Datum::take(from).map(Self::Rejection),
            _ => Err("a union has no such branch"),
        }
    }
}

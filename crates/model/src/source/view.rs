//! A redacted payload beside what its record says of it: the one place where paths are read.

use std::{borrow::Cow, collections::BTreeMap};

use sha2::{Digest, Sha256};

use super::{
    Mapped,
    definition::{Definition, Path},
    json::Json,
};
use crate::{
    event::{Actor, EventType, TimeBasis},
    raw::Context,
};

/// How a minted event id begins, so that it is told from a vendor's.
const MINTED_ID_PREFIX: &str = "h-";
/// Length of a minted id's hash: 128 bit in hex.
const MINTED_ID_CHARS: usize = 32;

#[derive(Clone, Copy)]
pub(super) struct View<'v> {
    pub(super) definition: &'v Definition,
    pub(super) tenant: &'v str,
    pub(super) context: &'v Context,
    pub(super) payload: &'v Json<'v>,
    /// The payload's canonical text.
    pub(super) json: &'v str,
}

impl Path {
    /// The value that stands here in a payload.
    pub(super) fn of<'j>(&self, payload: &'j Json<'j>) -> Option<&'j Json<'j>> {
        let Path::Native(keys) = self else {
            return None;
        };
        keys.iter().try_fold(payload, |value, key| match value {
            Json::Object(object) => object.get(key.as_str()),
            _ => None,
        })
    }
}

/// The first of several places that holds a value.
pub(super) fn first<'j>(paths: &[Path], payload: &'j Json<'j>) -> Option<&'j Json<'j>> {
    paths.iter().find_map(|path| path.of(payload))
}

impl<'v> View<'v> {
    fn text(&self, paths: &[Path]) -> Option<&'v str> {
        first(paths, self.payload).and_then(Json::text)
    }

    /// The conversation, which may be the page session.
    pub(super) fn conversation_id(&self) -> Option<&'v str> {
        let paths = &self.definition.document.paths.conversation_id;
        paths.iter().find_map(|path| match path {
            Path::PageSession => self.context.session_id.as_deref(),
            Path::Native(_) => path.of(self.payload).and_then(Json::text),
        })
    }

    /// The page session; the vendor's own where the snippet gives none.
    pub(super) fn session_id(&self) -> Option<&'v str> {
        let own = || self.text(&self.definition.document.paths.session_id);
        self.context.session_id.as_deref().or_else(own)
    }

    /// The vendor's id, else the snippet's, else one minted from the record. A minted id does not
    /// depend on the receipt, so that a second copy gets the same.
    pub(super) fn event_id(&self) -> Cow<'v, str> {
        let own = self.text(&self.definition.document.paths.event_id);
        match own.or(self.context.event_id.as_deref()) {
            Some(id) => Cow::Borrowed(id),
            None => Cow::Owned(self.minted_id()),
        }
    }

    /// Name, time and conversation are in the payload or the context, so these two are all. With
    /// a sequence number two equal events of a session stay two.
    fn minted_id(&self) -> String {
        let number = |number: Option<i64>| number.map(|number| number.to_string());
        let mut hash = Sha256::new();
        for part in [
            Some(self.tenant),
            Some(self.definition.name()),
            self.context.session_id.as_deref(),
            number(self.context.sequence).as_deref(),
            number(self.context.occurred_at).as_deref(),
            Some(self.json),
        ] {
            // With its length each part stands for itself; an absent one is none of any length.
            hash.update(
                part.map_or(u64::MAX, |part| part.len() as u64)
                    .to_be_bytes(),
            );
            hash.update(part.unwrap_or_default());
        }
        MINTED_ID_PREFIX.to_owned() + &hex::encode(&hash.finalize()[..MINTED_ID_CHARS / 2])
    }

    /// `None` where the payload has no event name.
    pub(super) fn map(&self, received_at: i64) -> Option<Mapped> {
        let document = &self.definition.document;
        let paths = &document.paths;
        let mut used: Vec<&Json> = Vec::with_capacity(12);
        let mut role = |paths: &[Path]| {
            let value = first(paths, self.payload)?;
            used.push(value);
            Some(value)
        };
        let text = |value: Option<&Json>| value.and_then(Json::scalar).map(Cow::into_owned);

        let source_event = role(&paths.name).and_then(Json::text)?;
        let event = document.events.get(source_event);
        let native_time = role(&paths.time).and_then(Json::whole);
        let (occurred_at, time_basis) = match (native_time, self.context.occurred_at) {
            (Some(at), _) => (at, TimeBasis::Native),
            (None, Some(at)) => (at, TimeBasis::Context),
            (None, None) => (received_at, TimeBasis::Received),
        };
        // Read for their ids below; here only marked as used.
        role(&paths.event_id);
        role(&paths.conversation_id);
        if self.context.session_id.is_none() {
            role(&paths.session_id);
        }
        let own_score = role(&paths.score)
            .and_then(Json::whole)
            .map(|score| score as f64);
        let score_kind = event.and_then(|event| event.score_kind);
        let mapped = Mapped {
            source_event: source_event.to_owned(),
            event_type: event.map_or(EventType::Custom, |event| event.event_type),
            actor: event.map_or(Actor::System, |event| event.actor),
            documented: event.is_some(),
            event_id: self.event_id().into_owned(),
            occurred_at,
            time_basis,
            conversation_id: self.conversation_id().map(str::to_owned),
            session_id: self.session_id().map(str::to_owned),
            sequence: self.context.sequence,
            visitor: text(role(&paths.visitor)),
            widget_id: text(role(&paths.widget_id)),
            platform: text(role(&paths.platform))
                .or_else(|| event.and_then(|event| event.platform.clone())),
            language: text(role(&paths.language)),
            link: text(role(&paths.link)),
            reported_total: role(&paths.reported_total).and_then(Json::whole),
            score: score_kind.and_then(|_| event.and_then(|event| event.score).or(own_score)),
            score_kind,
            goal: event.and_then(|event| event.goal.clone()),
            properties: event.map_or_else(BTreeMap::new, |event| event.properties.clone()),
            initial_phase: document.observes.initial_phase,
        };
        Some(Mapped {
            properties: self.properties(&used, mapped.properties),
            ..mapped
        })
    }

    /// What no role took, named by its last key; the definition keeps names apart and few.
    fn properties(
        &self,
        used: &[&Json],
        mut properties: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut open = vec![self.payload];
        while let Some(value) = open.pop() {
            let Json::Object(members) = value else {
                continue;
            };
            for (key, value) in members.iter() {
                if let Json::Object(_) = value {
                    open.push(value);
                } else if let Some(text) = value.scalar()
                    && !used.iter().any(|&role| std::ptr::eq(role, value))
                {
                    properties.insert(key.to_owned(), text.into_owned());
                }
            }
        }
        properties
    }
}

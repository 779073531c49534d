//! Payload as received ─► what may be written down: validation and redaction in one walk.
//!
//! The rules tree is walked beside the payload. A listed field is treated as its definition says,
//! every other one is dropped. What was done is noted by path, never by value.

use std::{borrow::Cow, collections::BTreeSet};

use super::{
    Fault, Receipt,
    definition::{Definition, MAX_NAME_CHARS, Rule, Rules, Treatment},
    json::{Json, Object},
    mask, time, url,
    view::first,
};
use crate::raw::{Context, RejectReason};

/// Longest id; characters.
pub const MAX_ID_CHARS: usize = 128;
/// Longest kept text or link; characters. What is longer is cut, and noted as `cut:path`.
pub const MAX_TEXT_CHARS: usize = 1024;
/// Most notes of one item.
pub const MAX_REDACTIONS: usize = 20;
/// Largest number taken. No count is as large, and the store can sum millions of them.
const MAX_NUMBER: i64 = 1_000_000_000_000;
/// Longest SDK name and version; characters.
const MAX_SDK_CHARS: usize = 64;

/// State of the walk over one item.
pub(super) struct Redactor<'r> {
    definition: &'r Definition,
    receipt: &'r Receipt<'r>,
    notes: BTreeSet<String>,
    fault: Option<Fault>,
}

impl<'r> Redactor<'r> {
    pub(super) fn new(definition: &'r Definition, receipt: &'r Receipt<'r>) -> Self {
        Self {
            definition,
            receipt,
            notes: BTreeSet::new(),
            fault: None,
        }
    }

    /// What was done, sorted and bounded; or the first fault by [`stage`].
    pub(super) fn finish(mut self, redacted: &Json) -> Result<Vec<String>, Fault> {
        let paths = &self.definition.document.paths.name;
        if first(paths, redacted).is_none() {
            // Gives way to a name that is there and invalid.
            self.fail(
                RejectReason::MissingEventName,
                format!("no event name: this source keeps it in {}", paths[0]),
            );
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.notes.into_iter().take(MAX_REDACTIONS).collect()),
        }
    }

    /// Keeps the fault that comes first in the order of the checks, whatever order the keys have.
    pub(super) fn fail(&mut self, reason: RejectReason, detail: String) {
        if self
            .fault
            .as_ref()
            .is_none_or(|known| stage(reason) < stage(known.reason))
        {
            self.fault = Some(Fault::new(reason, detail));
        }
    }

    fn note(&mut self, what: &str, path: &str) {
        self.notes.insert([what, ":", path].concat());
    }

    /// An unlisted key is named where it looks like a vendor's identifier, so that a renamed key
    /// can be seen; where it could itself be somebody's data, it is not.
    fn note_unlisted(&mut self, prefix: &str, key: &str) {
        let key = if is_identifier(key) { key } else { "*" };
        if prefix.is_empty() {
            self.note("unlisted", key);
        } else {
            self.note("unlisted", &[prefix, ".", key].concat());
        }
    }

    /// Redacts the native payload.
    pub(super) fn native<'a>(&mut self, payload: Object<'a>) -> Object<'a> {
        let definition = self.definition;
        self.walk(&definition.rules, "", payload)
    }

    fn walk<'a>(&mut self, rules: &Rules, prefix: &str, object: Object<'a>) -> Object<'a> {
        let mut kept = Object::new();
        for (key, value) in object {
            let value = match (rules.0.get(key.as_ref()), value) {
                (None, _) => {
                    self.note_unlisted(prefix, &key);
                    None
                }
                (Some(_), Json::Null) => None,
                (Some(Rule::Branch { path, rules }), Json::Object(inner)) => {
                    let inner = self.walk(rules, path, inner);
                    (!inner.is_empty()).then_some(Json::Object(inner))
                }
                (Some(Rule::Branch { path, .. }), _) => {
                    self.note("drop", path);
                    None
                }
                (Some(Rule::Leaf { path, treatment }), value) => self.leaf(path, treatment, value),
            };
            if let Some(value) = value {
                kept.insert(key, value);
            }
        }
        kept
    }

    fn leaf<'a>(&mut self, path: &str, treatment: &Treatment, value: Json<'a>) -> Option<Json<'a>> {
        match treatment {
            Treatment::Drop => {
                self.note("drop", path);
                None
            }
            Treatment::Name => self.name(path, value),
            Treatment::Time => self.time(path, &value),
            Treatment::Id => self.id(path, value),
            Treatment::Number => self.number(path, &value),
            Treatment::Pseudonymise(domain) => {
                let (Json::Text(_) | Json::Number(_)) = value else {
                    self.note("drop", path);
                    return None;
                };
                let text = value.scalar().filter(|text| !text.trim().is_empty())?;
                self.note("pseudonymise", path);
                Some(Json::Text(Cow::Owned(self.pseudonym(domain, text.trim()))))
            }
            Treatment::Keep | Treatment::Text | Treatment::Url => self.text(path, treatment, value),
        }
    }

    fn text<'a>(&mut self, path: &str, treatment: &Treatment, value: Json<'a>) -> Option<Json<'a>> {
        let text = match (value, treatment) {
            (Json::Text(text), _) => text,
            // A number in a field for free text can be a phone number.
            (Json::Number(number), Treatment::Text) if mask::is_suspicious(&number.to_string()) => {
                Cow::Owned(number.to_string())
            }
            (scalar @ (Json::Bool(_) | Json::Number(_)), Treatment::Keep | Treatment::Text) => {
                return Some(scalar);
            }
            _ => {
                self.note("drop", path);
                return None;
            }
        };
        if text.trim().is_empty() {
            return None;
        }
        let text = match clean(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(cleaned) => {
                self.note("clean", path);
                Cow::Owned(cleaned)
            }
        };
        let Some((treated, cut)) = bounded(&text, treatment) else {
            self.note("drop", path);
            return None;
        };
        let shortened = cut && text.starts_with(treated.as_ref());
        if treated != text && !shortened {
            let links = *treatment == Treatment::Url;
            self.note(if links { "url" } else { "mask" }, path);
        }
        if cut {
            self.note("cut", path);
        }
        Some(Json::Text(if treated == text {
            text
        } else {
            Cow::Owned(treated.into_owned())
        }))
    }

    fn name<'a>(&mut self, path: &str, value: Json<'a>) -> Option<Json<'a>> {
        let Json::Text(text) = value else {
            self.fail(
                RejectReason::InvalidEventName,
                format!("the event name ({path}) is not a string: send the vendor's name for it"),
            );
            return None;
        };
        let text = self.unhidden(path, text);
        let name = text.trim();
        if self.definition.events().contains_key(name) {
            return Some(Json::Text(trimmed(text)));
        }
        let problem = if name.is_empty() {
            "is empty"
        } else if name.chars().count() > MAX_NAME_CHARS {
            "is longer than 128 characters"
        } else if name.chars().any(char::is_control) {
            "has control characters"
        } else {
            // Nothing is known of this name, so it may hold what a person wrote.
            let masked = mask::text(name);
            if masked != name {
                self.note("mask", path);
            }
            let name = masked.chars().take(MAX_NAME_CHARS).collect();
            return Some(Json::Text(Cow::Owned(name)));
        };
        self.fail(
            RejectReason::InvalidEventName,
            format!("the event name ({path}) {problem}: send the vendor's name for it"),
        );
        None
    }

    fn time<'a>(&mut self, path: &str, value: &Json<'a>) -> Option<Json<'a>> {
        let at = self.instant(path, value)?;
        Some(Json::Number(at.into()))
    }

    /// A time that can be read and can be true.
    fn instant(&mut self, path: &str, value: &Json) -> Option<i64> {
        let Some(at) = time::parse(value) else {
            self.fail(
                RejectReason::InvalidTime,
                format!(
                    "{path} is no time: send milliseconds since the epoch or RFC 3339 with an offset"
                ),
            );
            return None;
        };
        if !time::in_range(at, self.receipt.received_at) {
            self.fail(
                RejectReason::TimeOutOfRange,
                format!(
                    "{path} is before 2010 or more than 24 h ahead: check the sender's clock and unit"
                ),
            );
            return None;
        }
        Some(at)
    }

    fn id<'a>(&mut self, path: &str, value: Json<'a>) -> Option<Json<'a>> {
        let text = match value {
            Json::Text(text) => text,
            Json::Number(number) if !number.is_f64() => Cow::Owned(number.to_string()),
            _ => {
                self.fail(
                    RejectReason::InvalidField,
                    format!("{path} is neither a string nor a whole number: send the id as text"),
                );
                return None;
            }
        };
        let id = trimmed(self.unhidden(path, text));
        if id.is_empty() {
            return None;
        }
        match self.checked_id(&id) {
            Ok(None) => Some(Json::Text(id)),
            Ok(Some(pseudonym)) => {
                self.note("pseudonymise", path);
                Some(Json::Text(Cow::Owned(pseudonym)))
            }
            Err(problem) => {
                self.fail(RejectReason::InvalidField, format!("{path} {problem}"));
                None
            }
        }
    }

    /// `Ok(None)`: fit to be kept. `Ok(Some)`: its pseudonym, since it holds an address or number.
    fn checked_id(&self, id: &str) -> Result<Option<String>, &'static str> {
        if id.len() > MAX_ID_CHARS && id.chars().count() > MAX_ID_CHARS {
            return Err("is longer than 128 characters: send a shorter id");
        }
        if id.chars().any(char::is_control) {
            return Err("has control characters: send a plain id");
        }
        Ok(mask::is_personal(id).then(|| self.pseudonym("id", id)))
    }

    /// A name or id without marks that are not seen: two that look the same are the same.
    fn unhidden<'a>(&mut self, path: &str, text: Cow<'a, str>) -> Cow<'a, str> {
        if text.is_ascii() || !text.chars().any(hides) {
            return text;
        }
        self.note("clean", path);
        Cow::Owned(text.chars().filter(|&c| !hides(c)).collect())
    }

    fn number<'a>(&mut self, path: &str, value: &Json<'a>) -> Option<Json<'a>> {
        let number = match value {
            Json::Text(text) if text.trim().is_empty() => return None,
            Json::Text(text) => text.trim().parse().ok(),
            other => other.whole(),
        };
        match number {
            Some(number) if (0..=MAX_NUMBER).contains(&number) => Some(Json::Number(number.into())),
            _ => {
                self.fail(
                    RejectReason::InvalidField,
                    format!(
                        "{path} is no whole number from 0 to {MAX_NUMBER}: send it as a number"
                    ),
                );
                None
            }
        }
    }

    fn pseudonym(&self, domain: &str, value: &str) -> String {
        self.receipt
            .pseudonyms
            .of(self.definition.name(), domain, value)
    }

    /// Reads the envelope's context. A part that is not what it must be is a fault and left out;
    /// the valid parts stay, so that a refused item still counts in its session.
    pub(super) fn context(&mut self, value: &Json) -> Context {
        let empty = Object::new();
        let members = match value {
            Json::Object(members) => members,
            Json::Null => &empty,
            _ => {
                self.invalid_context(
                    "context",
                    "is not an object: send an object or leave it out",
                );
                &empty
            }
        };
        let member = |key: &str| members.get(key).filter(|value| **value != Json::Null);
        let (event_id, session_id) = (member("event_id"), member("session_id"));
        let (sequence, page_url, sdk) = (member("sequence"), member("page_url"), member("sdk"));
        let (occurred_at, sent_at) = (member("occurred_at"), member("sent_at"));
        Context {
            event_id: event_id.and_then(|value| self.context_id("context.event_id", value)),
            session_id: session_id.and_then(|value| self.context_id("context.session_id", value)),
            sequence: sequence.and_then(|value| {
                let number = value.whole().filter(|number| *number > 0);
                if number.is_none() {
                    self.invalid_context(
                        "context.sequence",
                        "is no whole number from 1: count the session's events",
                    );
                }
                number
            }),
            occurred_at: occurred_at.and_then(|value| self.instant("context.occurred_at", value)),
            // Its range is not checked: a wrong clock here must not cost the event.
            sent_at: sent_at.and_then(|value| {
                let at = time::parse(value);
                if at.is_none() {
                    self.fail(
                        RejectReason::InvalidTime,
                        "context.sent_at is no time: send milliseconds since the epoch or RFC 3339"
                            .to_owned(),
                    );
                }
                at
            }),
            page_url: page_url
                .and_then(|value| self.context_text("context.page_url", &Treatment::Url, value)),
            sdk: sdk
                .and_then(|value| self.context_text("context.sdk", &Treatment::Keep, value))
                .map(|sdk| match sdk.char_indices().nth(MAX_SDK_CHARS) {
                    Some((end, _)) => sdk[..end].to_owned(),
                    None => sdk,
                }),
        }
    }

    fn context_id(&mut self, path: &str, value: &Json) -> Option<String> {
        let text = Cow::Borrowed(value.text().unwrap_or_default());
        let id = trimmed(self.unhidden(path, text));
        if id.is_empty() {
            self.invalid_context(path, "is no string or empty: send the id as text");
            return None;
        }
        match self.checked_id(&id) {
            Ok(None) => Some(id.into_owned()),
            Ok(pseudonym) => {
                self.note("pseudonymise", path);
                pseudonym
            }
            Err(problem) => {
                self.invalid_context(path, problem);
                None
            }
        }
    }

    fn context_text(&mut self, path: &str, treatment: &Treatment, value: &Json) -> Option<String> {
        let Json::Text(_) = value else {
            self.invalid_context(path, "is not a string: send it as text");
            return None;
        };
        match self.text(path, treatment, value.clone())? {
            Json::Text(text) => Some(text.into_owned()),
            _ => None,
        }
    }

    fn invalid_context(&mut self, path: &str, problem: &str) {
        self.fail(RejectReason::InvalidContext, format!("{path} {problem}"));
    }
}

/// The order of the checks; of several faults the first counts.
fn stage(reason: RejectReason) -> u8 {
    match reason {
        RejectReason::TooLarge => 0,
        RejectReason::InvalidJson => 1,
        RejectReason::TooComplex => 2,
        RejectReason::NotAnObject => 3,
        RejectReason::InvalidContext => 4,
        RejectReason::InvalidEventName => 5,
        RejectReason::MissingEventName => 6,
        RejectReason::InvalidTime => 7,
        RejectReason::TimeOutOfRange => 8,
        RejectReason::InvalidField => 9,
        RejectReason::Undecodable | RejectReason::UnknownSource => 10,
    }
}

/// Treats and cuts until both hold at once: cutting can bare what masking must see again.
/// `None` where nothing of it may stay; the flag says whether it was cut.
fn bounded<'t>(text: &'t str, treatment: &Treatment) -> Option<(Cow<'t, str>, bool)> {
    let treat = |text: &str| match treatment {
        Treatment::Url => url::cut(text).map(Cow::into_owned),
        Treatment::Text => Some(mask::text(text).into_owned()),
        _ => Some(mask::token(text).into_owned()),
    };
    let mut treated = match treatment {
        Treatment::Url => url::cut(text)?,
        Treatment::Text => mask::text(text),
        _ => mask::token(text),
    };
    let mut cut = false;
    while treated.len() > MAX_TEXT_CHARS
        && let Some((end, _)) = treated.char_indices().nth(MAX_TEXT_CHARS)
    {
        cut = true;
        treated = Cow::Owned(treat(&treated[..end])?);
    }
    (!treated.is_empty()).then_some((treated, cut))
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

/// Marks that reorder or hide text. Joiners are none: emoji and several scripts need them.
fn hides(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// Control characters become spaces; marks that reorder or hide text go.
fn clean(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~');
    if text.bytes().all(is_plain) || !text.chars().any(|c| c.is_control() || hides(c)) {
        return Cow::Borrowed(text);
    }
    let cleaned = text.chars().filter(|&c| !hides(c));
    Cow::Owned(
        cleaned
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    )
}

/// A vendor's identifier: short, plain, and without a run of digits long enough to be a number.
fn is_identifier(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts
        && key.len() <= 64
        && key.bytes().all(plain)
        && !key
            .as_bytes()
            .windows(5)
            .any(|run| run.iter().all(u8::is_ascii_digit))
}

//! A bounded JSON tree: item bytes ─► [`Json`], with every fault of a hostile text found on the way.
//!
//! Own type rather than `serde_json::Value`, because a duplicate key must be seen (vendors and
//! parsers disagree about which copy wins), bounds must hold while parsing, not after it, and keys
//! must be sorted whatever features other crates switch on: the sorted text is the canonical form
//! that event ids are hashed from.

use std::{borrow::Cow, cell::RefCell, fmt};

use serde::{
    Serialize, Serializer,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::Fault;
use crate::raw::RejectReason;

/// Deepest nesting taken; the outermost object is level 1.
pub const MAX_DEPTH: usize = 32;
/// Most keys taken, over all objects of an item.
pub const MAX_KEYS: usize = 1000;

/// An object's members, sorted by key. A vector, since objects are small: one allocation, and no tree to walk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Json<'a>> {
        let at = self.find(key).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Json<'a>> {
        let at = self.find(key).ok()?;
        Some(self.0.remove(at).1)
    }

    /// False where the key is there already; then the object stays as it is.
    pub(super) fn insert(&mut self, key: Cow<'a, str>, value: Json<'a>) -> bool {
        match self.find(&key) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, (key, value));
                true
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }

    /// Where the key stands, or would.
    fn find(&self, key: &str) -> Result<usize, usize> {
        match self.0.last() {
            // In order already, as what is written back mostly is.
            Some((last, _)) if last.as_ref() < key => Err(self.0.len()),
            _ => self
                .0
                .binary_search_by(|(other, _)| other.as_ref().cmp(key)),
        }
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = (Cow<'a, str>, Json<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A JSON value. Arrays are checked but not held: no source keeps one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(Cow<'a, str>),
    Array,
    Object(Object<'a>),
}

impl Json<'_> {
    /// Scalars as text; `None` for the rest.
    pub(super) fn scalar(&self) -> Option<Cow<'_, str>> {
        match self {
            Json::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            Json::Number(number) => Some(Cow::Owned(number.to_string())),
            Json::Text(text) => Some(Cow::Borrowed(text)),
            Json::Null | Json::Array | Json::Object(_) => None,
        }
    }

    /// The text of a string; `None` for the rest.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number; also one written with a zero fraction, since JavaScript knows no integers.
    pub(super) fn whole(&self) -> Option<i64> {
        let Json::Number(number) = self else {
            return None;
        };
        number.as_i64().or_else(|| {
            let float = number.as_f64()?;
            // Above 2^53 a double no longer says which whole number was meant.
            (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
        })
    }
}

/// The canonical text: keys sorted, no white space.
impl fmt::Display for Json<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        formatter.write_str(&text)
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // An array cannot be written back; nothing that keeps a value keeps one.
            Json::Null | Json::Array => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Number(number) => number.serialize(serializer),
            Json::Text(text) => serializer.serialize_str(text),
            Json::Object(object) => serializer.collect_map(object.iter()),
        }
    }
}

/// Parses one item; `invalid_json` or `too_complex`.
///
/// A leading byte-order mark is skipped (editors and shells add one to the first line of a file);
/// anything after the value but white space is a fault.
pub(super) fn parse(item: &[u8]) -> Result<Json<'_>, Fault> {
    let item = item.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(item);
    let text = std::str::from_utf8(item).map_err(|error| {
        invalid(format!(
            "the item is not UTF-8 (byte {}): encode it as UTF-8",
            error.valid_up_to()
        ))
    })?;
    let bounds = RefCell::new(Bounds::default());
    let mut parser = serde_json::Deserializer::from_str(text);
    let tree = Node {
        bounds: &bounds,
        depth: 0,
    }
    .deserialize(&mut parser)
    .and_then(|tree| parser.end().map(|()| tree));
    tree.map_err(|error| match bounds.into_inner().fault {
        // Broken JSON stays broken JSON, however deep: only a text that holds is too complex.
        Some(fault) if fault.reason == RejectReason::TooComplex => {
            match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => fault,
                Err(error) => syntax(&error),
            }
        }
        Some(fault) => fault,
        None => syntax(&error),
    })
}

fn invalid(detail: impl Into<Cow<'static, str>>) -> Fault {
    Fault::new(RejectReason::InvalidJson, detail)
}

/// Says where, never what: serde_json's own messages can quote the text.
fn syntax(error: &serde_json::Error) -> Fault {
    let kind = if error.is_eof() {
        "the item ends before its JSON does"
    } else {
        "the item is no valid JSON text"
    };
    invalid(format!(
        "{kind} (line {}, column {}): send one JSON object per item",
        error.line(),
        error.column()
    ))
}

#[derive(Default)]
struct Bounds {
    keys: usize,
    fault: Option<Fault>,
}

/// A value to be read at `depth` objects and arrays below the top.
#[derive(Clone, Copy)]
struct Node<'b> {
    bounds: &'b RefCell<Bounds>,
    depth: usize,
}

impl Node<'_> {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.fail(
                RejectReason::TooComplex,
                format!("the item is nested more than {MAX_DEPTH} levels deep: flatten it"),
            ));
        }
        Ok(Node {
            depth: self.depth + 1,
            ..self
        })
    }

    fn fail<E: serde::de::Error>(
        self,
        reason: RejectReason,
        detail: impl Into<Cow<'static, str>>,
    ) -> E {
        self.bounds.borrow_mut().fault = Some(Fault::new(reason, detail));
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json<'de>, E> {
        serde_json::Number::from_f64(value)
            .map(Json::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        while elements.next_element_seed(below)?.is_some() {}
        Ok(Json::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        let mut object = Object::new();
        while let Some(Key(key)) = members.next_key()? {
            let keys = {
                let mut bounds = self.bounds.borrow_mut();
                bounds.keys += 1;
                bounds.keys
            };
            if keys > MAX_KEYS {
                return Err(self.fail(
                    RejectReason::TooComplex,
                    format!("the item has more than {MAX_KEYS} keys: send fewer"),
                ));
            }
            // The key as parsed, so that an escaped spelling of the same key counts as the same.
            if !object.insert(key, members.next_value_seed(below)?) {
                return Err(self.fail(
                    RejectReason::InvalidJson,
                    "duplicate key in one object: name each key once",
                ));
            }
        }
        Ok(Json::Object(object))
    }
}

/// An object's key, borrowed where it holds no escape.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(item: &[u8]) -> RejectReason {
        parse(item).unwrap_err().reason
    }

    #[test]
    fn hostile_texts_are_invalid_json() {
        let cases: &[&[u8]] = &[
            b"",
            b"  ",
            b"{",
            b"{\"a\":1}}",
            b"{\"a\":1} {}",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"{\"a\":-Infinity}",
            b"{\"a\":01}",
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":\"\\udc00x\"}",
            b"{\"a\":\"\xff\xfe\"}",
            b"{\"a\":\"\x00\"}",
            b"{\"a\":\"\xed\xa0\x80\"}",
            b"{'a':1}",
            b"{\"a\":1,}",
            b"\xEF\xBB\xBF\xEF\xBB\xBF{}",
            b"{\"a\":1,\"a\":2}",
            b"{\"a\":1,\"\\u0061\":2}",
            b"{\"x\":[{\"a\":1,\"a\":1}]}",
        ];
        for case in cases {
            let shown = String::from_utf8_lossy(case);
            assert_eq!(reason(case), RejectReason::InvalidJson, "{shown}");
        }
    }

    #[test]
    fn a_duplicate_key_is_named_as_the_fault() {
        let fault = parse(br#"{"a":1,"\u0061":2}"#).unwrap_err();
        assert!(fault.detail.contains("duplicate key"));
    }

    #[test]
    fn a_byte_order_mark_and_surrounding_space_are_skipped() {
        assert_eq!(
            parse(b"\xEF\xBB\xBF \n{} \r\n").unwrap(),
            Json::Object(Object::new())
        );
    }

    #[test]
    fn keys_that_differ_in_case_or_are_special_to_javascript_are_keys_like_others() {
        let tree = parse(br#"{"a":1,"A":2,"__proto__":{"x":1},"":0}"#).unwrap();
        let Json::Object(object) = tree else {
            panic!("an object");
        };
        assert_eq!(object.len(), 4);
    }

    #[test]
    fn depth_is_bounded_at_its_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(
            reason(nested(MAX_DEPTH + 1).as_bytes()),
            RejectReason::TooComplex
        );
        assert_eq!(reason(nested(30_000).as_bytes()), RejectReason::TooComplex);
        assert_eq!(
            reason("[".repeat(30_000).as_bytes()),
            RejectReason::InvalidJson
        );
    }

    #[test]
    fn keys_are_bounded_over_all_objects() {
        let flat = |keys: usize| {
            let members: Vec<String> = (0..keys).map(|key| format!("\"k{key}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(parse(flat(MAX_KEYS).as_bytes()).is_ok());
        assert_eq!(
            reason(flat(MAX_KEYS + 1).as_bytes()),
            RejectReason::TooComplex
        );
        let spread = format!("[{}]", vec!["{\"a\":0}"; MAX_KEYS + 1].join(","));
        assert_eq!(reason(spread.as_bytes()), RejectReason::TooComplex);
    }

    #[test]
    fn whole_numbers_are_told_from_the_rest() {
        let whole = |text: &str| parse(text.as_bytes()).unwrap().whole();
        assert_eq!(whole("12"), Some(12));
        assert_eq!(whole("12.0"), Some(12));
        assert_eq!(whole("-3"), Some(-3));
        assert_eq!(whole("1.5"), None);
        assert_eq!(whole("99999999999999999999"), None);
        assert_eq!(whole("\"12\""), None);
    }

    #[test]
    fn faults_never_echo_the_item() {
        for item in [
            "{\"jane@example.com\":1,\"jane@example.com\":2}",
            "jane@example.com",
        ] {
            let fault = parse(item.as_bytes()).unwrap_err();
            assert!(!fault.detail.contains("jane"), "{}", fault.detail);
        }
    }
}

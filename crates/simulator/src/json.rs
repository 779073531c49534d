//! Text of JSON objects, written field by field in the order given: vendors' objects have an order,
//! and the bytes of a run must not depend on how a map type happens to sort.

use serde_json::Value;

/// A JSON object under construction.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Object(String::from("{"))
    }

    /// Appends a field. The caller gives every key once.
    pub(crate) fn with(self, key: &str, value: impl Into<Value>) -> Self {
        let value: Value = value.into();
        self.with_json(key, &value.to_string())
    }

    /// Appends a field where there is a value; JavaScript's `undefined` leaves no key behind.
    pub(crate) fn with_some<V: Into<Value>>(self, key: &str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Appends a field whose value is JSON text already.
    pub(crate) fn with_json(mut self, key: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
        self.0.push_str(json);
        self
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// RFC 3339 in UTC, exact to the millisecond.
///
/// # Panics
/// Outside the years −9999 to 9999; [`crate::Simulator::new`] refuses such a base time.
pub(crate) fn rfc3339(at_ms: i64) -> String {
    (jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_millis(at_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_text_is_escaped() {
        let text = Object::new()
            .with("z", "a\"b\n")
            .with_some("none", None::<i64>)
            .with("a", 1_i64)
            .with_json("o", &Object::new().finish())
            .finish();
        assert_eq!(text, r#"{"z":"a\"b\n","a":1,"o":{}}"#);
    }

    #[test]
    fn times_are_written_to_the_millisecond() {
        assert_eq!(rfc3339(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
    }
}

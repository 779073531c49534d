//! Cuts a body into items without parsing them: `body bytes ─► item slices`.
//!
//! Only what separates items is looked at, so that whatever is wrong inside one item stays that
//! item's fault: it is judged, once, where it is parsed ([`chatpulse_model::source`]). Only a fault
//! of the separators themselves, after which no one could say where the items are, spoils a body.

use memchr::{memchr, memchr2};

/// How a body holds its items, as its content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `application/json`: one array of items, or else one item.
    Json,
    /// `application/x-ndjson`: one item per line.
    Lines,
    /// `text/plain`, the type of beacons: any of the above, decided by content.
    ByContent,
}

/// Why a body could not be cut. Positions are byte offsets into the decoded body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    #[error("the body holds no item: send one JSON object, an array of objects, or NDJSON")]
    Empty,
    #[error("the body holds more than {0} items: send smaller batches")]
    TooMany(usize),
    #[error("the array is not valid JSON: {fault} at byte {at}")]
    Array { fault: &'static str, at: usize },
}

/// The items of a body in order, at most `max` of them. Blank lines of NDJSON are no items.
pub(crate) fn split(body: &[u8], layout: Layout, max: usize) -> Result<Vec<&[u8]>, SplitError> {
    // RFC 8259, section 8.1: a parser may ignore a byte order mark. Some file exports have one.
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = trim(text);
    let Some(first) = text.first() else {
        return Err(SplitError::Empty);
    };
    let whole_is_one = || memchr(b'\n', text).is_none() || is_one_value(text);
    match layout {
        Layout::Json | Layout::ByContent if *first == b'[' => split_array(body, text, max),
        Layout::Json => Ok(vec![text]),
        Layout::ByContent if whole_is_one() => Ok(vec![text]),
        Layout::Lines | Layout::ByContent => split_lines(text, max),
    }
}

fn split_lines(text: &[u8], max: usize) -> Result<Vec<&[u8]>, SplitError> {
    let lines = text
        .split(|byte| *byte == b'\n')
        .map(trim)
        .filter(|line| !line.is_empty());
    let items: Vec<_> = lines.take(max + 1).collect();
    if items.len() > max {
        Err(SplitError::TooMany(max))
    } else {
        Ok(items)
    }
}

/// `text` is the body without mark and outer white space and begins with `[`.
fn split_array<'b>(
    body: &'b [u8],
    text: &'b [u8],
    max: usize,
) -> Result<Vec<&'b [u8]>, SplitError> {
    let offset = text.as_ptr() as usize - body.as_ptr() as usize;
    let fault = |fault, at: usize| {
        Err(SplitError::Array {
            fault,
            at: offset + at,
        })
    };
    let mut items = Vec::new();
    let mut depth = 0_usize;
    let mut start = 1;
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => match end_of_string(text, at) {
                Some(end) => at = end,
                None => return fault("a string without end begins", at),
            },
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => depth -= 1,
            b'}' => return fault("a brace that closes nothing stands", at),
            b',' | b']' if depth == 0 => {
                let item = trim(&text[start..at]);
                let closing = *byte == b']';
                match (item.is_empty(), closing && items.is_empty()) {
                    (true, true) => {}
                    (true, false) => return fault("an element is missing", at),
                    (false, _) if items.len() == max => return Err(SplitError::TooMany(max)),
                    (false, _) => items.push(item),
                }
                if closing {
                    let rest = trim(&text[at + 1..]);
                    return match (rest.is_empty(), items.is_empty()) {
                        (false, _) => fault("data follow the array", text.len() - rest.len()),
                        (true, true) => Err(SplitError::Empty),
                        (true, false) => Ok(items),
                    };
                }
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    fault("the array is not closed: the body ends", text.len())
}

/// Index of the quote that ends the string that begins at `start`.
fn end_of_string(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Whether the whole text is one JSON value, such as an object printed over several lines.
fn is_one_value(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// Without the white space that JSON allows around values.
fn trim(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let start = text
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn texts(body: &str, layout: Layout) -> Result<Vec<String>, SplitError> {
        let items = split(body.as_bytes(), layout, 10)?;
        Ok(items
            .into_iter()
            .map(|item| String::from_utf8_lossy(item).into_owned())
            .collect())
    }

    fn fault(body: &str) -> (&'static str, usize) {
        match split(body.as_bytes(), Layout::Json, 10) {
            Err(SplitError::Array { fault, at }) => (fault, at),
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn an_object_is_one_item_and_an_array_is_its_elements() {
        assert_eq!(texts(r#" {"a":1} "#, Layout::Json).unwrap(), [r#"{"a":1}"#]);
        let array = r#"[ {"a":"],"} , [1,2],"x\"]" , 7 ]"#;
        assert_eq!(
            texts(array, Layout::Json).unwrap(),
            [r#"{"a":"],"}"#, "[1,2]", r#""x\"]""#, "7"]
        );
    }

    #[test]
    fn lines_are_items_and_blank_lines_are_none() {
        let body = "\n{\"a\":1}\r\n\r\n  \n[1]\nnonsense\n";
        assert_eq!(
            texts(body, Layout::Lines).unwrap(),
            [r#"{"a":1}"#, "[1]", "nonsense"]
        );
    }

    #[test]
    fn plain_text_is_told_apart_by_its_content() {
        assert_eq!(
            texts("{\"a\":\n1}", Layout::ByContent).unwrap(),
            ["{\"a\":\n1}"]
        );
        assert_eq!(
            texts("{\"a\":1}\n{\"b\":2}", Layout::ByContent)
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            texts("{\"a\":1\n{\"b\":2}", Layout::ByContent)
                .unwrap()
                .len(),
            2
        );
        assert_eq!(texts("[{},\n{}]", Layout::ByContent).unwrap().len(), 2);
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(texts("\u{feff}[{}]", Layout::Json).unwrap(), ["{}"]);
        assert_eq!(
            texts("\u{feff}{}\n{}", Layout::Lines).unwrap(),
            ["{}", "{}"]
        );
    }

    #[test]
    fn a_bad_element_is_cut_out_and_its_neighbours_are_untouched() {
        let mut body = br#"[{"a":NaN},{"b":""#.to_vec();
        body.extend([0xff, b'"', b'}', b',']);
        body.extend(br#"{"c":3}]"#);
        let items = split(&body, Layout::Json, 10).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[2], br#"{"c":3}"#);
    }

    #[test]
    fn a_body_without_items_is_empty() {
        for body in ["", " \r\n\t", "[]", "[ \n ]", "\u{feff}"] {
            assert_eq!(
                texts(body, Layout::ByContent),
                Err(SplitError::Empty),
                "{body:?}"
            );
        }
    }

    #[test]
    fn a_broken_array_is_named_with_its_byte() {
        assert_eq!(fault("[{},]").1, 4);
        assert_eq!(fault("[,{}]").1, 1);
        assert_eq!(fault("[{}").1, 3);
        assert_eq!(fault("[{}] {}").1, 5);
        assert_eq!(fault(r#"[{"a":"b]"#).1, 6);
        assert_eq!(fault("[{}}]").1, 3);
        assert_eq!(
            fault("\u{feff} [{},]").1,
            8,
            "positions count the mark and the blanks"
        );
        assert_eq!(fault(r#"["\"#).1, 1, "an escape at the very end");
    }

    #[test]
    fn no_more_items_are_cut_than_allowed() {
        let (array, lines) = (format!("[{}1]", "1,".repeat(10)), "1\n".repeat(11));
        assert_eq!(texts(&array, Layout::Json), Err(SplitError::TooMany(10)));
        assert_eq!(texts(&lines, Layout::Lines), Err(SplitError::TooMany(10)));
        assert_eq!(texts(&"1\n".repeat(10), Layout::Lines).unwrap().len(), 10);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(serde_json::Value::from),
            ".*".prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_valid_array_is_cut_as_a_json_parser_cuts_it(
            values in prop::collection::vec(json(), 1..8), pretty: bool,
        ) {
            let body = if pretty { serde_json::to_string_pretty(&values) }
                else { serde_json::to_string(&values) }.unwrap();
            let expected: Vec<&RawValue> = serde_json::from_str(&body).unwrap();
            let expected: Vec<&[u8]> = expected.iter().map(|raw| raw.get().as_bytes()).collect();
            prop_assert_eq!(split(body.as_bytes(), Layout::Json, 8).unwrap(), expected);
        }

        #[test]
        fn any_bytes_give_items_or_a_fault(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for layout in [Layout::Json, Layout::Lines, Layout::ByContent] {
                if let Ok(items) = split(&body, layout, 10) {
                    prop_assert!(!items.is_empty() && items.len() <= 10);
                }
            }
        }
    }
}

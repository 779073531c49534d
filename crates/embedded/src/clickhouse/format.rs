//! What HTTP must know of ClickHouse's formats: the content type, and whether the blocks of a
//! streamed result can be laid end to end.
//!
//! libchdb finishes each block of a streamed result as a document of its own. For formats of bare
//! rows that makes no difference; for formats with a header of names the header comes again with
//! every block and is cut off all but the first; the others need the whole result at once.

/// How a format's blocks join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// Blocks follow each other.
    Bare,
    /// Each block starts with this many lines of names and types.
    Lines(usize),
    /// Each block starts with RowBinary's names, and with types where `types` is set.
    RowBinary { types: bool },
    /// A result is one document.
    Whole,
}

/// How the blocks of `format` join.
pub(super) fn joining(format: &str) -> Joining {
    match format {
        "TabSeparated"
        | "TSV"
        | "TabSeparatedRaw"
        | "TSVRaw"
        | "Raw"
        | "CSV"
        | "JSONEachRow"
        | "JSONLines"
        | "NDJSON"
        | "JSONStringsEachRow"
        | "JSONCompactEachRow"
        | "JSONCompactStringsEachRow"
        | "TSKV"
        | "LineAsString"
        | "RawBLOB"
        | "RowBinary"
        | "Native"
        | "MsgPack"
        | "BSONEachRow" => Joining::Bare,
        "TabSeparatedWithNames" | "TSVWithNames" | "JSONCompactEachRowWithNames" => {
            Joining::Lines(1)
        }
        "TabSeparatedWithNamesAndTypes"
        | "TSVWithNamesAndTypes"
        | "JSONCompactEachRowWithNamesAndTypes" => Joining::Lines(2),
        "RowBinaryWithNames" => Joining::RowBinary { types: false },
        "RowBinaryWithNamesAndTypes" => Joining::RowBinary { types: true },
        _ => Joining::Whole,
    }
}

impl Joining {
    /// The length of the header with which `block` starts; 0 when it has none, or is cut short.
    pub(super) fn header(self, block: &[u8]) -> usize {
        match self {
            Self::Bare | Self::Whole => 0,
            Self::Lines(lines) => {
                let mut ends = block.iter().enumerate().filter(|(_, b)| **b == b'\n');
                ends.nth(lines - 1).map_or(0, |(at, _)| at + 1)
            }
            Self::RowBinary { types } => row_binary_header(block, types).unwrap_or(0),
        }
    }
}

fn row_binary_header(block: &[u8], types: bool) -> Option<usize> {
    let mut at = 0;
    let columns = varint(block, &mut at)?;
    let strings = columns.checked_mul(if types { 2 } else { 1 })?;
    for _ in 0..strings {
        let length = varint(block, &mut at)?;
        at = at.checked_add(length).filter(|end| *end <= block.len())?;
    }
    Some(at)
}

fn varint(block: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..63).step_by(7) {
        let byte = *block.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The `Content-Type` that ClickHouse answers for `format`.
pub(super) fn content_type(format: &str) -> &'static str {
    match format {
        f if f.starts_with("JSON") && (f.contains("EachRow") || f == "JSONLines") => {
            "application/x-ndjson; charset=UTF-8"
        }
        "NDJSON" => "application/x-ndjson; charset=UTF-8",
        f if f.starts_with("JSON") => "application/json; charset=UTF-8",
        f if f.starts_with("CSVWithNames") => "text/csv; charset=UTF-8; header=present",
        f if f.starts_with("CSV") => "text/csv; charset=UTF-8; header=absent",
        f if f.starts_with("TabSeparated") || f.starts_with("TSV") || f == "TSKV" => {
            "text/tab-separated-values; charset=UTF-8"
        }
        "XML" => "application/xml; charset=UTF-8",
        "Markdown" => "text/markdown; charset=UTF-8",
        f if f.starts_with("RowBinary") => "application/octet-stream",
        "Native" | "Parquet" | "Arrow" | "ArrowStream" | "ORC" | "Avro" | "MsgPack"
        | "BSONEachRow" | "Npy" | "RawBLOB" | "CapnProto" | "Protobuf" => {
            "application/octet-stream"
        }
        _ => "text/plain; charset=UTF-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_binary_header_is_measured() {
        let block = b"\x02\x01k\x04name\x06UInt32\x06String\x01\x00\x00\x00";
        assert_eq!(
            joining("RowBinaryWithNamesAndTypes").header(block),
            block.len() - 4
        );
        assert_eq!(joining("RowBinaryWithNames").header(block), 8);
        assert_eq!(joining("RowBinaryWithNamesAndTypes").header(&block[..5]), 0);
    }

    #[test]
    fn header_lines_are_counted() {
        assert_eq!(
            joining("TSVWithNamesAndTypes").header(b"a\tb\nUInt8\tString\n1\tx\n"),
            17
        );
        assert_eq!(joining("TSVWithNames").header(b"a\tb"), 0);
    }
}

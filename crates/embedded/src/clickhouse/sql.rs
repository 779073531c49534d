//! What the HTTP interface must know of a statement before the engine sees it: whether it is a
//! `SELECT` that can be streamed, an `INSERT` with data behind it, and which format it names.
//!
//! A scan over tokens at parenthesis depth zero, no parser: strings, quoted names and comments are
//! stepped over, everything else is the engine's business, its errors included.

/// What kind of statement a text is, as far as HTTP is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `SELECT`, `WITH … SELECT` or a parenthesised one: the engine can hand out its result in
    /// blocks. `totals` is set when the text has a `WITH TOTALS`, which needs the whole result.
    Select { totals: bool },
    /// `INSERT … [VALUES | FORMAT name] data`: `sql_end` is where the statement without its format
    /// ends, `data_start` where its inline data starts.
    Insert { sql_end: usize, data_start: usize },
    /// `INSERT … SELECT`. `format` in it names the format of the data of `input()`.
    InsertSelect,
    /// Everything else: runs to its end and returns its whole result.
    Other,
}

/// The outline of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    pub(super) kind: Kind,
    /// The format named by a `FORMAT` clause; `Values` for `INSERT … VALUES`.
    pub(super) format: Option<&'a str>,
    /// More than one statement: something stands behind a semicolon.
    pub(super) several: bool,
    /// `INTO OUTFILE` or `FROM INFILE`: files of this machine, which HTTP does not reach.
    pub(super) touches_files: bool,
}

/// Reads the outline of the statement in `text`; for an `INSERT` with inline data the data need not
/// be complete, nor UTF-8.
pub(super) fn outline(text: &[u8]) -> Statement<'_> {
    let mut tokens = Tokens {
        text,
        at: 0,
        depth: 0,
    };
    let mut statement = Statement {
        kind: Kind::Other,
        format: None,
        several: false,
        touches_files: false,
    };
    let Some(first) = tokens.next() else {
        return statement;
    };
    match first.word() {
        w if is(w, "insert") => insert(tokens, statement),
        w if is(w, "select") || is(w, "with") || first.text == b"(" => {
            statement.kind = Kind::Select { totals: false };
            query(tokens, statement)
        }
        _ => query(tokens, statement),
    }
}

fn query<'a>(tokens: Tokens<'a>, mut statement: Statement<'a>) -> Statement<'a> {
    let mut previous: &[u8] = b"";
    let (mut settings, mut ended) = (false, false);
    for token in tokens {
        let word = token.word();
        if let Kind::Select { totals } = &mut statement.kind {
            *totals |= is(previous, "with") && is(word, "totals");
        }
        statement.several |= ended && token.text != b";";
        ended |= token.text == b";";
        if token.depth == 0 {
            settings |= statement.format.is_some() && is(word, "settings");
            if is(previous, "format") && token.is_name() {
                statement.format = std::str::from_utf8(token.text).ok();
            } else if !settings && token.text != b";" {
                // Nothing but SETTINGS follows a format: that was a column called `format`.
                statement.format = None;
            }
            if is(word, "insert") && matches!(statement.kind, Kind::Select { .. }) {
                statement.kind = Kind::InsertSelect;
            }
            statement.touches_files |= is(previous, "into") && is(word, "outfile");
        }
        previous = word;
    }
    statement
}

fn insert<'a>(mut tokens: Tokens<'a>, mut statement: Statement<'a>) -> Statement<'a> {
    let text = tokens.text;
    let mut previous: &[u8] = b"";
    // A table may be called `values` or `format`: a name after INTO, TABLE, FUNCTION or a dot is
    // no keyword.
    let names = ["into", "table", "function", "."];
    while let Some(token) = tokens.next() {
        let word = token.word();
        let named = names.iter().any(|name| is(previous, name));
        if token.depth == 0 && !named {
            if is(word, "values") {
                statement.format = Some("Values");
                statement.kind = Kind::Insert {
                    sql_end: token.start,
                    data_start: token.end(),
                };
                return statement;
            }
            if is(word, "format") {
                let format = tokens.next().filter(Token::is_name);
                statement.format = format.and_then(|t| std::str::from_utf8(t.text).ok());
                if statement.kind == Kind::Other {
                    let data_start = data_after(text, format.map_or(token.end(), |t| t.end()));
                    statement.kind = Kind::Insert {
                        sql_end: token.start,
                        data_start,
                    };
                }
                return statement;
            }
            if is(word, "select") || is(word, "with") {
                statement.kind = Kind::InsertSelect;
            }
            statement.touches_files |= is(previous, "from") && is(word, "infile");
        }
        previous = if word.is_empty() { token.text } else { word };
    }
    if statement.kind == Kind::Other {
        let end = text.trim_ascii_end();
        let end = end.strip_suffix(b";").unwrap_or(end).len();
        statement.kind = Kind::Insert {
            sql_end: end,
            data_start: text.len(),
        };
    }
    statement
}

/// Inline data starts after the format's name, blanks, and at most one line break.
fn data_after(text: &[u8], name_end: usize) -> usize {
    let rest = &text[name_end..];
    let blanks = rest
        .iter()
        .take_while(|b| matches!(b, b' ' | b'\t' | 0x0c))
        .count();
    let rest = &rest[blanks..];
    let breaks = if rest.starts_with(b"\r\n") {
        2
    } else {
        usize::from(rest.starts_with(b"\n"))
    };
    name_end + blanks + breaks
}

fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a [u8],
    start: usize,
    depth: u32,
}

impl<'a> Token<'a> {
    fn is_name(&self) -> bool {
        self.text
            .first()
            .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
    }

    fn word(&self) -> &'a [u8] {
        if self.is_name() { self.text } else { b"" }
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Tokens<'a> {
    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let skipped = match rest {
                [b, ..] if b.is_ascii_whitespace() => 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => {
                    rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
                }
                [b'/', b'*', ..] => rest[2..]
                    .windows(2)
                    .position(|w| w == b"*/")
                    .map_or(rest.len(), |at| at + 4),
                _ => return,
            };
            self.at += skipped;
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks_and_comments();
        let rest = &self.text[self.at..];
        let first = *rest.first()?;
        let length = match first {
            b'\'' | b'"' | b'`' => quoted(rest, first),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => rest
                .iter()
                .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
                .count(),
            _ => 1,
        };
        if matches!(first, b')' | b']' | b'}') {
            self.depth = self.depth.saturating_sub(1);
        }
        let token = Token {
            text: &rest[..length],
            start: self.at,
            depth: self.depth,
        };
        if matches!(first, b'(' | b'[' | b'{') {
            self.depth += 1;
        }
        self.at += length;
        Some(token)
    }
}

/// The length of a quoted string or name, quotes included; a doubled quote or one after a
/// backslash does not end it.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b if b == quote => {
                if text.get(at + 1) != Some(&quote) {
                    return at + 1;
                }
                at += 2;
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// `text` as a ClickHouse string literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// `name` as a quoted ClickHouse identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert_parts(text: &str) -> (&str, Option<&str>, &str) {
        let outline = outline(text.as_bytes());
        match outline.kind {
            Kind::Insert {
                sql_end,
                data_start,
            } => (
                text[..sql_end].trim_end(),
                outline.format,
                &text[data_start..],
            ),
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn an_insert_is_cut_into_statement_format_and_data() {
        assert_eq!(
            insert_parts("INSERT INTO t (a, format) FORMAT CSV\n1,2\n"),
            ("INSERT INTO t (a, format)", Some("CSV"), "1,2\n")
        );
        assert_eq!(
            insert_parts("insert into db.values values (1, 'FORMAT x'), (2)"),
            (
                "insert into db.values",
                Some("Values"),
                " (1, 'FORMAT x'), (2)"
            )
        );
        assert_eq!(
            insert_parts(
                "/* c; FORMAT */ INSERT INTO format SETTINGS a = 'FORMAT' FORMAT RowBinary"
            ),
            (
                "/* c; FORMAT */ INSERT INTO format SETTINGS a = 'FORMAT'",
                Some("RowBinary"),
                ""
            )
        );
        assert_eq!(
            insert_parts("INSERT INTO t ;\n"),
            ("INSERT INTO t", None, "")
        );
        assert_eq!(
            insert_parts("INSERT INTO FUNCTION f('x', 'CSV') FORMAT TSV \r\na\n"),
            ("INSERT INTO FUNCTION f('x', 'CSV')", Some("TSV"), "a\n")
        );
    }

    #[test]
    fn an_insert_from_a_select_has_no_data_of_its_own() {
        let outline = outline(b"INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV\n1");
        assert_eq!(
            (outline.kind, outline.format),
            (Kind::InsertSelect, Some("CSV"))
        );
    }

    #[test]
    fn the_format_of_a_select_is_that_of_its_own_clause() {
        let cases = [
            ("SELECT 1 FORMAT JSON", Some("JSON")),
            ("SELECT 1 format `x`, 2", None),
            ("SELECT 'FORMAT JSON'", None),
            ("SELECT 1 -- FORMAT JSON\n", None),
            ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1;", Some("CSV")),
            ("SELECT format('{}', 'a')", None),
            ("(SELECT 1) UNION ALL (SELECT 2) FORMAT TSV", Some("TSV")),
            ("SELECT format FROM t", None),
            ("SELECT a AS format FROM t WHERE b FORMAT CSV", Some("CSV")),
            ("SHOW TABLES FORMAT JSONEachRow", Some("JSONEachRow")),
        ];
        for (text, format) in cases {
            assert_eq!(outline(text.as_bytes()).format, format, "{text}");
        }
    }

    #[test]
    fn several_statements_are_told_from_a_closing_semicolon() {
        assert!(outline(b"CREATE TABLE a (b Int8) ENGINE = Null; DROP TABLE a").several);
        assert!(!outline(b"SELECT ';' ;; -- ; and no more").several);
    }

    #[test]
    fn totals_and_files_are_seen() {
        assert_eq!(
            outline(b"SELECT a, count() FROM t GROUP BY a WITH  TOTALS").kind,
            Kind::Select { totals: true }
        );
        assert!(outline(b"SELECT 1 INTO OUTFILE '/x'").touches_files);
        assert!(outline(b"INSERT INTO t FROM INFILE '/x' FORMAT CSV").touches_files);
        assert!(!outline(b"SELECT ' INTO OUTFILE '").touches_files);
    }

    #[test]
    fn a_scan_of_any_bytes_ends() {
        for text in [
            "'",
            "`\\",
            "/*",
            "--",
            "((((",
            "INSERT INTO t FORMAT",
            "\u{0}\u{ff}",
            "a'b\\",
        ] {
            let _ = outline(text.as_bytes());
        }
    }
}

//! The data dictionary: what the views for analysts are, read from the SQL that makes them.
//!
//! ```text
//! schemas/clickhouse/views/5*.sql ── compiled in ──► parse ──► Dictionary ──► chatpulse docs
//!                                 └─ migrate ─► ClickHouse ─► system.columns   (a test: the same)
//! ```
//!
//! Names, types and meanings therefore stand in one place, and are known without a server.

use serde::Serialize;

use crate::views;

/// The views for analysts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dictionary {
    /// Database that the views are in.
    pub database: String,
    /// The views, in the order in which they are made.
    pub views: Vec<View>,
}

/// One view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Its name within the database.
    pub name: String,
    /// What a row is, and how to read it.
    pub comment: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
}

/// One column of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// ClickHouse's type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What it holds, with its unit.
    pub comment: String,
}

impl Dictionary {
    /// The dictionary of this program's views, for analysts who find them in `database`.
    pub fn compiled_in(database: &str) -> Dictionary {
        let statements = views::FILES.iter().flat_map(|(_, sql)| views::split(sql));
        Dictionary {
            database: database.to_owned(),
            views: statements
                .filter_map(|sql| parse(sql.strip_prefix(FOR_ANALYSTS)?))
                .collect(),
        }
    }
}

impl View {
    /// Whether rows belong to tenants.
    pub fn has_tenants(&self) -> bool {
        self.columns.iter().any(|column| column.name == "tenant")
    }
}

/// How the statement of each such view begins.
const FOR_ANALYSTS: &str = "CREATE OR REPLACE VIEW {bi}.";

/// Reads `name (column Type COMMENT 'text', …) … COMMENT 'text'`; none where it is not of this form.
fn parse(sql: &str) -> Option<View> {
    let (name, rest) = sql.split_once(char::is_whitespace)?;
    let rest = rest.trim_start().strip_prefix('(')?;
    let end = outside(rest, |rest| rest.starts_with(')')).next()?;
    let (columns, query) = (&rest[..end], &rest[end..]);
    let mut start = 0;
    let commas = outside(columns, |rest| rest.starts_with(',')).chain([columns.len()]);
    let columns = commas.map(|comma| {
        let column = &columns[start..comma];
        start = comma + 1;
        let (what, comment) = commented(column)?;
        let (name, type_name) = what.trim().split_once(char::is_whitespace)?;
        Some(Column {
            name: name.to_owned(),
            type_name: type_name.trim().to_owned(),
            comment,
        })
    });
    Some(View {
        name: name.to_owned(),
        columns: columns.collect::<Option<_>>()?,
        comment: commented(query)?.1,
    })
}

/// Cuts off the comment at the end.
fn commented(sql: &str) -> Option<(&str, String)> {
    const KEYWORD: &str = "COMMENT ";
    let at = outside(sql, |rest| rest.starts_with(KEYWORD)).last()?;
    let literal = sql[at + KEYWORD.len()..].trim();
    let text = literal.strip_prefix('\'')?.strip_suffix('\'')?;
    Some((&sql[..at], text.replace("''", "'")))
}

/// Where in `sql`, outside of strings and brackets, what follows is looked for.
fn outside(sql: &str, found: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    let (mut quoted, mut depth) = (false, 0_u32);
    sql.char_indices().filter_map(move |(at, c)| {
        let hit = !quoted && depth == 0 && found(&sql[at..]);
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        hit.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_read_with_its_columns_types_and_comments() {
        let sql = "v\n(\n    a  Map(String, Array(UInt8)) COMMENT 'it''s (a), COMMENT 1',\n    b Date  COMMENT 'b')\n\
                   DEFINER = CURRENT_USER SQL SECURITY DEFINER\nAS SELECT f(a, ')') AS a, b FROM t\nCOMMENT 'One row per b.'";
        let column = |name: &str, type_name: &str, comment: &str| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            comment: comment.to_owned(),
        };
        let view = View {
            name: "v".to_owned(),
            comment: "One row per b.".to_owned(),
            columns: vec![
                column("a", "Map(String, Array(UInt8))", "it's (a), COMMENT 1"),
                column("b", "Date", "b"),
            ],
        };
        assert_eq!(parse(sql), Some(view));
    }

    #[test]
    fn a_view_or_column_without_comment_is_not_of_this_form() {
        assert_eq!(parse("v (a UInt8) AS SELECT 1 AS a COMMENT 'x'"), None);
        assert_eq!(parse("v (a UInt8 COMMENT 'x') AS SELECT 1 AS a"), None);
    }

    #[test]
    fn every_view_for_analysts_is_in_the_dictionary_and_says_what_a_row_is() {
        let made: usize = views::FILES
            .iter()
            .map(|(_, sql)| sql.matches(FOR_ANALYSTS).count())
            .sum();
        let dictionary = Dictionary::compiled_in("chatpulse_bi");
        assert_eq!(dictionary.views.len(), made);
        assert!(made > 0);
        for view in dictionary.views {
            assert!(view.comment.starts_with("One row per "), "{}", view.name);
            for text in view.columns.iter().map(|column| &column.comment) {
                assert!(text.len() > 3, "{}", view.name);
            }
        }
    }

    #[test]
    fn names_of_views_and_columns_are_snake_case_and_nothing_internal_is_shown() {
        let internal = [
            "partition",
            "offset",
            "sha256",
            "hash",
            "inserted_at",
            "write_key_id",
        ];
        for view in Dictionary::compiled_in("chatpulse_bi").views {
            let names = view.columns.iter().map(|column| &column.name);
            for name in names.chain([&view.name]) {
                let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                assert!(name.chars().all(snake), "{name}");
                assert!(!internal.contains(&name.as_str()), "{}.{name}", view.name);
            }
        }
    }
}

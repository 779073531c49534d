//! Pieces that pages are made of: badges, figures, tables' cells, links.

use std::fmt::Write;

use maud::{Markup, html};

use crate::text::{NOT_AVAILABLE, grouped, one_line};
use crate::verdict::{Judgement, Verdict};

/// Longest text of unknown origin in a cell; characters.
pub(super) const CELL: usize = 200;

/// A text of unknown origin, on one line and of bounded length.
pub(super) fn foreign(text: &str) -> String {
    one_line(text, CELL)
}

/// A verdict as icon and word: colour alone would tell some readers nothing.
pub(super) fn badge(verdict: Verdict) -> Markup {
    let shape = match verdict {
        Verdict::Healthy => html! {
            circle cx="8" cy="8" r="7" fill="none" stroke="currentColor" stroke-width="2" {}
            path d="M4.8 8.3l2.2 2.2 4.2-4.6" fill="none" stroke="currentColor" stroke-width="2" {}
        },
        Verdict::Degraded => html! {
            path d="M8 1.5L15 14H1z" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round" {}
            path d="M8 6v3.6M8 11.2v1" stroke="currentColor" stroke-width="1.8" {}
        },
        Verdict::Silent => html! {
            circle cx="8" cy="8" r="7" fill="none" stroke="currentColor" stroke-width="2" stroke-dasharray="3 2.5" {}
            path d="M4.5 8h7" stroke="currentColor" stroke-width="2" {}
        },
        Verdict::Failing => html! {
            path d="M5 1h6l4 4v6l-4 4H5l-4-4V5z" fill="none" stroke="currentColor" stroke-width="2" stroke-linejoin="round" {}
            path d="M5.3 5.3l5.4 5.4M10.7 5.3l-5.4 5.4" stroke="currentColor" stroke-width="1.8" {}
        },
    };
    html! {
        span.badge.(verdict.as_str()) {
            svg aria-hidden="true" width="14" height="14" viewBox="0 0 16 16" { (shape) }
            (verdict.as_str())
        }
    }
}

/// A verdict with what was found and the limit that decided.
pub(super) fn notice(judgement: &Judgement) -> Markup {
    html! {
        div.notice.(judgement.verdict.as_str()) {
            (badge(judgement.verdict))
            span.reason { (foreign(&judgement.reason)) }
            @if let Some(threshold) = &judgement.threshold { span.quiet.small { "Limit: " (threshold) } }
        }
    }
}

/// What cannot be known, and why not.
pub(super) fn not_available(why: &str) -> Markup {
    html! { span.na title=(why) { (NOT_AVAILABLE) } }
}

/// A count, or n/a with the reason.
pub(super) fn count_or(count: Option<i128>, why: &str) -> Markup {
    match count {
        Some(count) => html! { (grouped(count)) },
        None => not_available(why),
    }
}

/// A share of a whole with one decimal; a dash where there is no whole.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        "–".to_owned()
    } else {
        format!("{:.1} %", part as f64 / whole as f64 * 100.0)
    }
}

/// One figure of a row of tiles.
pub(super) struct Tile<'a> {
    /// What it is.
    pub(super) name: &'a str,
    /// The figure.
    pub(super) figure: Markup,
    /// What belongs beside it.
    pub(super) beside: Markup,
    /// How it is defined.
    pub(super) definition: &'a str,
}

/// Figures in a row, and how each is defined.
pub(super) fn tiles(tiles: &[Tile<'_>]) -> Markup {
    html! {
        dl.tiles { @for tile in tiles {
            div.tile {
                dt title=(tile.definition) { (tile.name) }
                dd.figure { (tile.figure) }
                dd.beside { (tile.beside) }
            }
        } }
    }
}

/// The definitions of figures, folded.
pub(super) fn definitions<'a>(of: impl Iterator<Item = (&'a str, &'a str)>) -> Markup {
    html! {
        details.definitions {
            summary { "How these figures are defined" }
            dl { @for (name, definition) in of { div { dt { (name) } dd { (definition) } } } }
        }
    }
}

/// Most rows of a table.
pub(super) const MOST_ROWS: usize = 200;

/// A table of its first rows, and a second one of the others that opens when it is asked for: a page must be
/// short enough to be read, on a phone too. `id` is that of the second.
pub(super) fn first_and_more<T>(
    (caption, id): (&str, &str),
    first: usize,
    rows: &[T],
    table: impl Fn(&str, &[T]) -> Markup,
) -> Markup {
    let (shown, more) = rows.split_at(rows.len().min(first));
    let more = &more[..more.len().min(MOST_ROWS)];
    html! {
        (table(caption, shown))
        @if !more.is_empty() {
            details id=(id) {
                summary { "Show " (more.len()) " more" }
                (table(&format!("{caption}, continued"), more))
            }
        }
        @if rows.len() > shown.len() + more.len() {
            p.quiet.small { (shown.len() + more.len()) " of " (rows.len()) "; the API has all." }
        }
    }
}

/// A table in a box that scrolls by itself and can be reached by keyboard.
pub(super) fn scroll(label: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(label) { (table) } }
}

/// `/path?a=b&c=d` with what is given.
pub(super) fn link(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut link = path.to_owned();
    let mut mark = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            let _ = write!(link, "{mark}{name}={}", encoded(value));
            mark = '&';
        }
    }
    link
}

/// Percent-encoded, for a path segment or a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_carry_what_is_given_and_nothing_else() {
        assert_eq!(link("/x", &[("since", None)]), "/x");
        assert_eq!(
            link(
                "/x",
                &[
                    ("since", Some("7d")),
                    ("source", None),
                    ("type", Some("a b&c"))
                ]
            ),
            "/x?since=7d&type=a%20b%26c"
        );
    }

    #[test]
    fn a_share_of_nothing_is_a_dash() {
        assert_eq!(share(0, 0), "–");
        assert_eq!(share(1, 8), "12.5 %");
    }

    #[test]
    fn a_badge_has_a_word_and_an_icon() {
        for verdict in [
            Verdict::Healthy,
            Verdict::Degraded,
            Verdict::Silent,
            Verdict::Failing,
        ] {
            let badge = badge(verdict).0;
            assert!(
                badge.contains("<svg") && badge.ends_with(&format!("{}</span>", verdict.as_str()))
            );
        }
    }
}

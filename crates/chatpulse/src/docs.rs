//! `chatpulse docs`: the data dictionary of the views for analysts, from the SQL compiled in. Needs no
//! server.

use std::fmt::Write as _;

use chatpulse_store::{Dictionary, View};
use clap::Args;

use crate::{config::Config, output};

/// `chatpulse docs`
#[derive(Debug, Args)]
#[command(
    about = "Prints the data dictionary: every view for analysts, its columns, types and meanings",
    after_help = "Example:\n  chatpulse docs > data-dictionary.md"
)]
pub(crate) struct DocsArgs {
    /// Print one JSON object instead of Markdown.
    #[arg(long)]
    json: bool,
}

/// Prints the dictionary under the configured name of the database.
pub(crate) fn run(config: &Config, args: &DocsArgs) -> anyhow::Result<()> {
    let database = config.clickhouse.store().bi_database();
    let dictionary = Dictionary::compiled_in(&database);
    output::result(&match args.json {
        true => serde_json::to_string_pretty(&dictionary)?,
        false => markdown(&dictionary),
    });
    Ok(())
}

const HOW_TO_READ: &str = "\
Views for analysts. Names, types and meanings are kept: columns are added, not renamed or taken away.

- All times are UTC. Durations and latencies are in milliseconds where a name ends in `_ms`.
- NULL is unknown, never zero: the source cannot show it, or it did not happen. `sources` says what each source lets be
  seen.
- Counts add up. Rates over several rows: `sum(numerator) / nullIf(sum(denominator), 0)`. Medians and percentiles do not
  add up:
  - of conversations merge the durations, `quantileExactInclusiveArray(0.95)(durations_ms)` where `sum(n) > 0`, or take them
    from `conversations`, `quantileExactInclusive(0.95)(first_response_any_ms)`; both are exact;
  - of latencies merge the states of `event_latency_minute`, `_hour` or `_day`, e.g.
    `quantilesDDMerge(0.01, 0.5, 0.95, 0.99)(receive_latency)`, which gives [p50, p95, p99], each at most 1 % off. `nan`
    where there is none.
- Filter by `tenant` first: the tables are ordered by it. `conversation_metrics_*` and `event_health_*` read little;
  `conversations` judges each conversation anew and `events` is every event.
";

fn markdown(dictionary: &Dictionary) -> String {
    let mut page = format!(
        "# Data dictionary\n\nDatabase `{}`. Made by `chatpulse docs`; do not edit.\n\n{HOW_TO_READ}\n",
        dictionary.database
    );
    for view in &dictionary.views {
        let rows = view
            .comment
            .split_once(['.', ':'])
            .map_or("", |(rows, _)| rows);
        let _ = writeln!(page, "- [{0}](#{0}): {1}", view.name, lower(rows));
    }
    for view in &dictionary.views {
        section(&mut page, view);
    }
    page
}

fn section(page: &mut String, view: &View) {
    let _ = writeln!(page, "\n## {}\n\n{}\n", view.name, escaped(&view.comment));
    page.push_str("| column | type | meaning |\n|---|---|---|\n");
    for column in &view.columns {
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {} |",
            column.name,
            column.type_name,
            escaped(&column.comment)
        );
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// What Markdown would take for its own.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('*', "\\*")
        .replace('_', "\\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_what_the_program_prints() {
        let printed = markdown(&Dictionary::compiled_in("chatpulse_bi"));
        assert!(
            include_str!("../../../docs/data-dictionary.md") == printed,
            "make it again: cargo run -p chatpulse -- docs > docs/data-dictionary.md"
        );
    }

    #[test]
    fn signs_of_markdown_are_escaped() {
        assert_eq!(escaped("a|b_c*"), "a\\|b\\_c\\*");
    }
}

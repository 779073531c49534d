//! Charts as SVG, drawn on the server.
//!
//! ```text
//! series ─ scale: ticks ─► plot: paths in slots x 100 units ─► figure: title, legend, SVG, table of the same data
//! ```
//!
//! Pure functions, without a colour of their own: classes name what is shown, the style sheet says how
//! that looks in light and dark. The paths are stretched to the width of the page, labels are not, so a
//! chart can be read at 360 px and at 1600. What is not known is a gap, never 0.
//!
//! Why no crate: plotters, charts-rs and charming write colours, fonts and sizes into the elements, which
//! neither follow a dark page nor pass a policy without inline styles. poloto and splot are styled by
//! classes, but have a fixed size whose text shrinks with the picture, no stacked bars, no gaps, and
//! nothing for screen readers.

mod scale;

use std::fmt::Write;

use maud::{Markup, html};

use crate::text::{compact, duration, grouped};

/// Height of a plot, its room above, and below for the times; pixels.
const HEIGHT: f64 = 156.0;
const ABOVE: f64 = 10.0;
const BELOW: f64 = 24.0;
/// Height of the units in which paths are drawn.
const UNITS: f64 = 100.0;
const DAY_MS: i64 = 86_400_000;
/// Width of a bar; of its slot.
const BAR: f64 = 0.84;
/// A bar that is there is seen: its least height in units.
const LEAST_BAR: f64 = 1.6;

/// The slots of time that a chart has values for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    /// Begin of the first; milliseconds since the epoch.
    pub(crate) start_ms: i64,
    /// Length of each; milliseconds.
    pub(crate) step_ms: i64,
    /// How many.
    pub(crate) count: usize,
    /// What comes after is not known yet: the slot that holds it is shown as unfinished.
    pub(crate) until_ms: i64,
}

impl Slots {
    fn unfinished(&self, slot: usize) -> bool {
        self.start_ms + self.step_ms * (slot as i64 + 1) > self.until_ms
    }
}

/// What the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Whole things.
    Count,
    /// Things a second.
    PerSecond,
    /// Things a minute.
    PerMinute,
    /// A duration.
    Milliseconds,
}

impl Unit {
    /// A value with its unit.
    pub(crate) fn text(self, value: f64) -> String {
        match self {
            Unit::Count => grouped(value.round() as i128),
            Unit::PerSecond => format!("{}/s", compact(value)),
            Unit::PerMinute => format!("{}/min", compact(value)),
            Unit::Milliseconds => duration(value),
        }
    }
}

/// The values of one thing over time.
#[derive(Debug, Clone)]
pub(crate) struct Series<'a> {
    /// What it is.
    pub(crate) name: &'a str,
    /// The class that gives it its look: see `.t-…` in the style sheet.
    pub(crate) tone: &'a str,
    /// One per slot; none where it is not known.
    pub(crate) values: Vec<Option<f64>>,
}

/// A chart over time.
#[derive(Debug, Clone)]
pub(crate) struct TimeChart<'a> {
    /// Unique on the page; letters, digits and hyphens.
    pub(crate) id: &'a str,
    /// What it shows, with the unit.
    pub(crate) title: &'a str,
    /// How the figures are defined.
    pub(crate) definition: &'a str,
    /// When.
    pub(crate) slots: Slots,
    /// Of all series.
    pub(crate) unit: Unit,
    /// What, in the order of the legend; of a stack the first is at the bottom.
    pub(crate) series: Vec<Series<'a>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Lines,
    Stack,
}

impl TimeChart<'_> {
    /// A line for each series, broken where a value is not known.
    pub(crate) fn lines(&self) -> Markup {
        self.figure(Form::Lines)
    }

    /// A bar for each slot, made of the series.
    pub(crate) fn stack(&self) -> Markup {
        self.figure(Form::Stack)
    }

    fn figure(&self, form: Form) -> Markup {
        let known = self.known_slots();
        html! {
            figure.chart id=(self.id) {
                figcaption {
                    h2 { (self.title) }
                    // One series is what the title says.
                    @if self.series.len() > 1 {
                        ul.legend { @for series in &self.series { li { (key(series.tone, form)) (series.name) } } }
                    }
                    p { (self.definition) }
                }
                @if known == 0 {
                    p.nothing { "Nothing in this time." }
                } @else if known == 1 && form == Form::Lines {
                    // A line of one point says nothing; the value does.
                    p.nothing { (self.only_value()) }
                } @else {
                    (self.plot(form))
                }
                @if known > 0 { (self.table()) }
            }
        }
    }

    /// Slots in which anything is known and, of counts, is not 0.
    fn known_slots(&self) -> usize {
        let counts = self.unit != Unit::Milliseconds;
        (0..self.slots.count)
            .filter(|slot| {
                self.series.iter().any(|series| match value(series, *slot) {
                    Some(value) => !counts || value != 0.0,
                    None => false,
                })
            })
            .count()
    }

    fn only_value(&self) -> String {
        let slot = (0..self.slots.count)
            .find(|slot| {
                self.series
                    .iter()
                    .any(|series| value(series, *slot).is_some_and(|v| v != 0.0))
            })
            .or_else(|| {
                (0..self.slots.count)
                    .find(|slot| self.series.iter().any(|s| value(s, *slot).is_some()))
            });
        slot.map(|slot| format!("Only once: {}", self.slot_text(slot)))
            .unwrap_or_default()
    }

    fn highest(&self, form: Form) -> f64 {
        let heights = (0..self.slots.count).map(|slot| {
            let values = self.series.iter().filter_map(|series| value(series, slot));
            match form {
                Form::Lines => values.fold(0.0, f64::max),
                Form::Stack => values.sum(),
            }
        });
        heights.fold(0.0, f64::max)
    }

    fn plot(&self, form: Form) -> Markup {
        let ticks = scale::ticks(self.highest(form), self.unit);
        let top = ticks.last().copied().unwrap_or(1.0);
        let (title, description) = (format!("{}-t", self.id), format!("{}-d", self.id));
        let count = self.slots.count;
        html! {
            svg.plot role="img" aria-labelledby={ (title) " " (description) } height=(ABOVE + HEIGHT + BELOW) {
                title id=(title) { (self.title) }
                desc id=(description) { (self.summary()) }
                @for tick in &ticks {
                    @let y = ABOVE + HEIGHT * (1.0 - tick / top);
                    line.grid x1="0" x2="100%" y1=(px(y)) y2=(px(y)) {}
                }
                svg.marks x="0" y=(ABOVE) width="100%" height=(HEIGHT) viewBox={ "0 0 " (count) " " (UNITS) } preserveAspectRatio="none" {
                    @match form {
                        Form::Lines => @for series in &self.series { path.line.(series.tone) d=(line(series, &self.slots, top)) {} },
                        Form::Stack => (self.bars(top)),
                    }
                }
                @for tick in &ticks {
                    @let y = ABOVE + HEIGHT * (1.0 - tick / top);
                    text.tick x="-8" y=(px(y + 4.0)) text-anchor="end" { (scale::tick_label(*tick, self.unit)) }
                }
                @for (slot, label) in scale::time_ticks(&self.slots) {
                    // A time stands where it begins, a day in the middle of its slot.
                    @let share = (slot as f64 + if self.slots.step_ms >= DAY_MS { 0.5 } else { 0.0 }) / count as f64;
                    // A label at an edge stays within the picture.
                    @let anchor = if share < 0.03 { "start" } else if share > 0.93 { "end" } else { "middle" };
                    text.tick x={ (px(share * 100.0)) "%" } y=(px(ABOVE + HEIGHT + 17.0)) text-anchor=(anchor) { (label) }
                }
                svg.hits x="0" y="0" width="100%" height=(px(ABOVE + HEIGHT)) viewBox={ "0 0 " (count) " 1" } preserveAspectRatio="none" {
                    @for slot in 0..count { rect x=(slot) width="1" height="1" { title { (self.slot_text(slot)) } } }
                }
            }
        }
    }

    /// One path for each series and what is finished, one for what is not.
    fn bars(&self, top: f64) -> Markup {
        let mut paths = vec![[String::new(), String::new()]; self.series.len()];
        for slot in 0..self.slots.count {
            let mut base = 0.0;
            for (series, path) in self.series.iter().zip(&mut paths) {
                let share = value(series, slot).unwrap_or(0.0) / top * UNITS;
                if share <= 0.0 {
                    continue;
                }
                let height = share.max(LEAST_BAR);
                let path = &mut path[usize::from(self.slots.unfinished(slot))];
                let _ = write!(
                    path,
                    "M{} {}v-{}h{BAR}v{}z",
                    px(slot as f64 + (1.0 - BAR) / 2.0),
                    px(UNITS - base),
                    px(height),
                    px(height)
                );
                base += height;
            }
        }
        html! {
            @for (series, [finished, unfinished]) in self.series.iter().zip(&paths) {
                @if !finished.is_empty() { path.bar.(series.tone) d=(finished) {} }
                @if !unfinished.is_empty() { path.bar.unfinished.(series.tone) d=(unfinished) {} }
            }
        }
    }

    /// `20 Nov 14:00–15:00 UTC: accepted 12, rejected 3`.
    fn slot_text(&self, slot: usize) -> String {
        let values: Vec<String> = self
            .series
            .iter()
            .map(|series| format!("{} {}", series.name, self.value_text(series, slot)))
            .collect();
        let unfinished = if self.slots.unfinished(slot) {
            ", so far"
        } else {
            ""
        };
        format!(
            "{} UTC{unfinished}: {}",
            scale::slot_label(&self.slots, slot),
            values.join(", ")
        )
    }

    fn value_text(&self, series: &Series<'_>, slot: usize) -> String {
        value(series, slot).map_or_else(|| "n/a".to_owned(), |value| self.unit.text(value))
    }

    /// What a reader who does not see the picture is told of it.
    fn summary(&self) -> String {
        let last = self.slots.count.saturating_sub(1);
        let mut summary = format!(
            "From {} to {} UTC.",
            scale::slot_label(&self.slots, 0),
            scale::slot_label(&self.slots, last)
        );
        for series in &self.series {
            let values = || (0..self.slots.count).filter_map(|slot| value(series, slot));
            let _ = match values().reduce(f64::max) {
                None => write!(summary, " {}: not known.", series.name),
                Some(highest) => write!(
                    summary,
                    " {}: {} to {}.",
                    series.name,
                    self.unit.text(values().fold(highest, f64::min)),
                    self.unit.text(highest)
                ),
            };
        }
        summary.push_str(" A table of all values follows.");
        summary
    }

    fn table(&self) -> Markup {
        html! {
            details.data id={ (self.id) "-data" } {
                summary { "Values as a table" }
                div.scroll tabindex="0" role="region" aria-label={ (self.title) ", values" } { table {
                    caption.unseen { (self.title) }
                    thead { tr {
                        th scope="col" { "Time (UTC)" }
                        @for series in &self.series { th.n scope="col" { (series.name) } }
                    } }
                    tbody { @for slot in 0..self.slots.count { tr {
                        th scope="row" {
                            (scale::slot_label(&self.slots, slot))
                            @if self.slots.unfinished(slot) { " " span.quiet { "so far" } }
                        }
                        @for series in &self.series { td.n { (self.value_text(series, slot)) } }
                    } } }
                } }
            }
        }
    }
}

fn value(series: &Series<'_>, slot: usize) -> Option<f64> {
    series
        .values
        .get(slot)
        .copied()
        .flatten()
        .filter(|value| value.is_finite())
}

/// A line through the middles of the slots. A value alone between gaps is a dot.
fn line(series: &Series<'_>, slots: &Slots, top: f64) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for slot in 0..slots.count {
        let Some(value) = value(series, slot) else {
            drawing = false;
            continue;
        };
        let (x, y) = (px(slot as f64 + 0.5), px(UNITS * (1.0 - value / top)));
        let alone = !drawing && self::value(series, slot + 1).is_none();
        let _ = write!(path, "{}{x} {y}", if drawing { 'L' } else { 'M' });
        if alone {
            path.push_str("h.01");
        }
        drawing = true;
    }
    path
}

/// How a series looks, for the legend.
fn key(tone: &str, form: Form) -> Markup {
    html! {
        svg.key aria-hidden="true" width="18" height="12" {
            @match form {
                Form::Lines => line.line.(tone) x1="1" x2="17" y1="6" y2="6" {},
                Form::Stack => rect.bar.(tone) x="3" width="12" height="12" rx="2" {},
            }
        }
    }
}

/// The look of a series that has no form of its own.
pub(crate) fn swatch(tone: &str) -> Markup {
    key(tone, Form::Stack)
}

/// A part of a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    /// As of a series.
    pub(crate) tone: &'a str,
    /// Not negative.
    pub(crate) value: f64,
}

/// A bar of parts, as wide as `whole` is of `widest`. The figures stand beside it, so it is hidden from
/// screen readers.
pub(crate) fn parts(parts: &[Part<'_>], widest: f64) -> Markup {
    let mut x = 0.0;
    let placed: Vec<(&str, f64, f64)> = parts
        .iter()
        .filter(|part| part.value > 0.0 && widest > 0.0)
        .map(|part| {
            let width = part.value / widest * 100.0;
            let placed = (part.tone, x, width);
            x += width;
            placed
        })
        .collect();
    html! {
        svg.parts aria-hidden="true" width="100%" height="10" {
            @for (tone, x, width) in placed {
                rect.bar.(tone) x={ (px(x)) "%" } width={ (px(width)) "%" } height="100%" {}
            }
        }
    }
}

/// The parts of one whole, as a bar across the card.
pub(crate) fn share(parts: &[Part<'_>]) -> Markup {
    let whole = parts.iter().map(|part| part.value).sum();
    html! { div.large { (self::parts(parts, whole)) } }
}

/// A small line without axes, for a row of a table. The figures stand beside it.
pub(crate) fn sparkline(values: &[Option<f64>], tone: &str) -> Markup {
    let slots = Slots {
        start_ms: 0,
        step_ms: 1,
        count: values.len(),
        until_ms: i64::MAX,
    };
    let series = Series {
        name: "",
        tone,
        values: values.to_vec(),
    };
    let highest = values.iter().flatten().copied().fold(0.0, f64::max);
    html! {
        @if values.iter().flatten().count() > 1 && highest > 0.0 {
            svg.spark aria-hidden="true" width="96" height="24" viewBox={ "0 -4 " (values.len()) " 108" } preserveAspectRatio="none" {
                path.line.(tone) d=(line(&series, &slots, highest)) {}
            }
        }
    }
}

/// At most two decimals, and none that say nothing.
fn px(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    /// 2026-11-20 20:00 UTC.
    const START: i64 = 1_795_204_800_000;

    fn chart<'a>(series: Vec<Series<'a>>, unit: Unit) -> TimeChart<'a> {
        TimeChart {
            id: "received",
            title: "Received",
            definition: "All records.",
            slots: Slots {
                start_ms: START,
                step_ms: HOUR,
                count: 4,
                until_ms: START + 4 * HOUR - 1,
            },
            unit,
            series,
        }
    }

    fn series<'a>(name: &'a str, tone: &'a str, values: [Option<f64>; 4]) -> Series<'a> {
        Series {
            name,
            tone,
            values: values.to_vec(),
        }
    }

    /// One element a line, so that a difference can be read.
    fn pretty(markup: &Markup) -> String {
        markup.0.replace("><", ">\n<")
    }

    #[test]
    fn a_stack_has_a_path_for_each_series_and_its_last_unfinished_slot_apart() {
        let accepted = series(
            "accepted",
            "t-accepted",
            [Some(4.0), Some(0.0), Some(6.0), Some(2.0)],
        );
        let rejected = series(
            "rejected",
            "t-rejected",
            [Some(1.0), Some(0.0), Some(0.0), Some(1.0)],
        );
        insta::assert_snapshot!(pretty(
            &chart(vec![accepted, rejected], Unit::Count).stack()
        ));
    }

    #[test]
    fn a_line_breaks_where_a_value_is_not_known_and_a_value_alone_is_a_dot() {
        let p50 = series("p50", "t-p50", [Some(40.0), None, Some(60.0), Some(20.0)]);
        insta::assert_snapshot!(pretty(&chart(vec![p50], Unit::Milliseconds).lines()));
    }

    #[test]
    fn a_chart_without_data_says_so_and_a_line_of_one_point_is_a_sentence() {
        let none = chart(vec![series("p50", "t-p50", [None; 4])], Unit::Milliseconds)
            .lines()
            .0;
        assert!(none.contains("Nothing in this time.") && !none.contains("<svg class=\"plot\""));
        let zeros = chart(vec![series("a", "t-accepted", [Some(0.0); 4])], Unit::Count)
            .stack()
            .0;
        assert!(zeros.contains("Nothing in this time."));
        let one = chart(
            vec![series("p50", "t-p50", [None, Some(40.0), None, None])],
            Unit::Milliseconds,
        )
        .lines()
        .0;
        assert!(!one.contains("<svg class=\"plot\""));
        assert!(
            one.contains("Only once: 20 Nov 21:00–22:00 UTC: p50 40 ms"),
            "{one}"
        );
    }

    #[test]
    fn what_is_not_a_number_is_not_drawn() {
        let odd = series(
            "p50",
            "t-p50",
            [Some(f64::NAN), Some(f64::INFINITY), Some(1.0), Some(2.0)],
        );
        let page = chart(vec![odd], Unit::Milliseconds).lines().0;
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn a_bar_of_parts_fills_what_it_is_of_the_widest() {
        let parts = parts(
            &[
                Part {
                    tone: "t-accepted",
                    value: 3.0,
                },
                Part {
                    tone: "t-rejected",
                    value: 0.0,
                },
                Part {
                    tone: "t-duplicate",
                    value: 1.0,
                },
            ],
            8.0,
        );
        insta::assert_snapshot!(pretty(&parts));
    }

    #[test]
    fn a_sparkline_needs_two_values() {
        assert_eq!(sparkline(&[Some(1.0), None], "t-accepted").0, "");
        assert_eq!(sparkline(&[Some(0.0), Some(0.0)], "t-accepted").0, "");
        assert!(
            sparkline(&[Some(1.0), Some(2.0)], "t-accepted")
                .0
                .contains("M0.5 50L1.5 0")
        );
    }
}

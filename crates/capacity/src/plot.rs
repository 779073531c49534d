//! Plots of one number over another as SVG, without a colour of their own: classes name what is shown.
//!
//! The charts of crates/reports are over time; these are over a load.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::text::count;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const ABOVE: f64 = 12.0;
const BELOW: f64 = 44.0;
/// Ticks of an axis, about.
const TICKS: f64 = 5.0;
const DOT: f64 = 4.0;

/// How the points of a series are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Dots joined by a line.
    Line,
    Dot,
    Cross,
}

/// Points of one thing.
#[derive(Debug, Clone)]
pub(crate) struct Series<'a> {
    pub(crate) name: String,
    /// Class that gives the colour.
    pub(crate) tone: &'a str,
    pub(crate) mark: Mark,
    /// In the order of the line.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Series<'_> {
    /// What is no number is not shown.
    fn shown(&self) -> impl Iterator<Item = (f64, f64)> {
        let points = self.points.iter().copied();
        points.filter(|(x, y)| x.is_finite() && y.is_finite())
    }
}

/// A plot with axes from 0.
#[derive(Debug, Clone)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) series: Vec<Series<'a>>,
}

impl Plot<'_> {
    /// The plot with its legend; nothing where there is no point.
    pub(crate) fn draw(&self) -> Markup {
        let points = || self.series.iter().flat_map(Series::shown);
        let x_ticks = ticks(points().map(|(x, _)| x).fold(0.0, f64::max));
        let y_ticks = ticks(points().map(|(_, y)| y).fold(0.0, f64::max));
        let top = |ticks: &[f64]| ticks.last().copied().unwrap_or(1.0);
        let (x_top, y_top) = (top(&x_ticks), top(&y_ticks));
        let x_of = |x: f64| LEFT + x / x_top * (WIDTH - LEFT - RIGHT);
        let y_of = |y: f64| HEIGHT - BELOW - y / y_top * (HEIGHT - ABOVE - BELOW);
        html! {
            @if points().next().is_some() {
                figure {
                    figcaption { (self.title) }
                    ul.legend aria-hidden="true" {
                        @for series in self.series.iter().filter(|series| series.shown().next().is_some()) {
                            li.(series.tone) { (sign(series.mark)) " " span { (series.name) } }
                        }
                    }
                    div.scroll {
                        svg.plot role="img" aria-label={ (self.title) ": " (self.y) " over " (self.x) "; the values are in the table" }
                            viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } {
                            @for tick in &y_ticks {
                                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(px(y_of(*tick))) y2=(px(y_of(*tick))) {}
                                text x=(LEFT - 8.0) y=(px(y_of(*tick) + 4.0)) text-anchor="end" { (label(*tick)) }
                            }
                            @for tick in &x_ticks {
                                text x=(px(x_of(*tick))) y=(HEIGHT - BELOW + 18.0) text-anchor="middle" { (label(*tick)) }
                            }
                            text x=(px((LEFT + WIDTH - RIGHT) / 2.0)) y=(HEIGHT - 6.0) text-anchor="middle" { (self.x) }
                            text x="12" y=(px((HEIGHT - BELOW) / 2.0)) text-anchor="middle"
                                transform={ "rotate(-90 12 " (px((HEIGHT - BELOW) / 2.0)) ")" } { (self.y) }
                            @for series in &self.series {
                                g.(series.tone) {
                                    @if series.mark == Mark::Line { path.series d=(path(series.shown(), x_of, y_of)) {} }
                                    @for (x, y) in series.shown() {
                                        @let (at_x, at_y) = (x_of(x), y_of(y));
                                        @if series.mark == Mark::Cross {
                                            path.cross d={ "M" (px(at_x - DOT)) " " (px(at_y - DOT)) "l8 8m0-8l-8 8" } {
                                                title { (series.name) ": " (label(x)) ", " (label(y)) }
                                            }
                                        } @else {
                                            circle.dot cx=(px(at_x)) cy=(px(at_y)) r=(DOT) {
                                                title { (series.name) ": " (label(x)) ", " (label(y)) }
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn sign(mark: Mark) -> &'static str {
    match mark {
        Mark::Line => "●─",
        Mark::Dot => "●",
        Mark::Cross => "✕",
    }
}

fn path(
    points: impl Iterator<Item = (f64, f64)>,
    x_of: impl Fn(f64) -> f64,
    y_of: impl Fn(f64) -> f64,
) -> String {
    let mut path = String::new();
    for (number, (x, y)) in points.enumerate() {
        let letter = if number == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{} {}", px(x_of(x)), px(y_of(y)));
    }
    path
}

/// Round numbers from 0 to the first that is not below `highest`: 1, 2 or 5 times a power of ten apart.
fn ticks(highest: f64) -> Vec<f64> {
    if highest <= 0.0 {
        return vec![0.0, 1.0];
    }
    let rough = highest / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let last = (highest / step - 1e-9).ceil() as u32;
    (0..=last).map(|number| f64::from(number) * step).collect()
}

fn label(value: f64) -> String {
    if value >= 10.0 || value == 0.0 {
        count(value)
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn px(number: f64) -> String {
    let text = format!("{number:.1}");
    text.trim_end_matches(".0").to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ticks_reach_the_highest_value_and_are_few(highest in 1e-6..1e9_f64) {
            let ticks = ticks(highest);
            prop_assert!((3..=7).contains(&ticks.len()), "{ticks:?}");
            prop_assert!(*ticks.last().unwrap() >= highest * (1.0 - 1e-6));
            prop_assert!(ticks[ticks.len() - 2] < highest);
        }
    }

    #[test]
    fn a_plot_without_points_is_nothing_and_what_is_no_number_draws_none() {
        let plot = |points| Plot {
            title: "t",
            x: "x",
            y: "y",
            series: vec![Series {
                name: "<b>".into(),
                tone: "a",
                mark: Mark::Line,
                points,
            }],
        };
        assert_eq!(plot(vec![]).draw().into_string(), "");
        let drawn = plot(vec![(1.0, f64::NAN), (f64::INFINITY, 2.0)]).draw();
        let drawn = drawn.into_string();
        assert!(
            !drawn.contains("NaN") && !drawn.contains("inf\""),
            "{drawn}"
        );
        assert!(!drawn.contains("<b>"));
    }
}

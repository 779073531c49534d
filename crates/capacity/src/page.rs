//! The report as one HTML page that needs nothing else.
use crate::report::Report;
/// x
pub fn html(report: &Report) -> String { crate::text::summary(report) }

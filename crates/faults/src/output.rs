//! What people read: progress on standard error, results on standard output.

use std::io::Write as _;

/// A result.
pub(crate) fn result(text: &str) {
    // A reader that went away is no error.
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

/// A message to the person at the terminal.
pub(crate) fn note(text: &str) {
    let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
    let _ = writeln!(std::io::stderr().lock(), "{now} {}", text.trim_end());
}

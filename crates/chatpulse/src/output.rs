//! What people and programs read: results on standard output, everything else on standard error.

use std::io::Write as _;

/// A result, on standard output. A reader that went away (`| head`) is no error.
pub(crate) fn result(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

/// A message to the person at the terminal, on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
}

//! chatpulse
fn main() {}

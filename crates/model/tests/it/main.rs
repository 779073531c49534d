//! Integration tests of the model.
#![allow(clippy::unwrap_used)] // the lint spares only functions marked as tests, not their helpers

mod enriched;
mod goldens;
mod hostile;
mod redaction;
mod sources;

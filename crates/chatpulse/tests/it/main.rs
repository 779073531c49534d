//! The binary as its user runs it: whole processes on the embedded engines.
#![allow(clippy::unwrap_used)] // the lint spares only functions marked as tests, not their helpers

mod capacity;
mod cli;
mod deliveries;
mod demo;
mod kill;
mod process;
/// The same receivers as in the tests of the deliverer.
#[path = "../../../deliverer/tests/it/receiver.rs"]
mod receiver;
mod rejected;
mod snippet;
mod tokens;

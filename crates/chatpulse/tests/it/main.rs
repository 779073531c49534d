//! The binary as its user runs it: whole processes on the embedded engines.
#![allow(clippy::unwrap_used)] // the lint spares only functions marked as tests, not their helpers

mod cli;
mod demo;
mod kill;
mod process;
mod rejected;
mod snippet;
mod tokens;

//! What the faults do to the parts of chatpulse.

#![allow(clippy::unwrap_used)] // a set-up that fails is a test that fails

mod documents;
mod process;
mod store;

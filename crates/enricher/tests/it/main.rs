//! The enricher against librdkafka's mock cluster: real clients, real protocol, real files.
#![allow(clippy::unwrap_used)] // the lint spares only functions marked as tests, not their helpers

mod checkpoints;
mod support;

//! The store against the engine itself: ClickHouse as a library, over its HTTP interface.

#![allow(clippy::unwrap_used)] // a set-up that fails is a test that fails

mod audit;
mod bi;
mod deliveries;
mod health;
mod hostile;
mod insert;
mod metrics;
mod migrations;
mod poison;
mod rejected;
mod reports;
mod rollup;
mod support;
mod twins;

//! The store against the engine itself: ClickHouse as a library, over its HTTP interface.

mod audit;
mod health;
mod insert;
mod metrics;
mod migrations;
mod support;

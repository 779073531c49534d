//! Integration tests of the embedded engines.

mod broker;
mod clickhouse;

//! Integration tests of the embedded engines.

#[cfg(test)]
mod broker;
#[cfg(test)]
mod clickhouse;

//! The two engines of a single machine: a Kafka broker and ClickHouse, in this process, on disk.
//!
//! Both speak their network protocol on a loopback socket, so the stages that use them cannot tell
//! them from servers: pointing a stage elsewhere is configuration alone.

#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "clickhouse")]
pub mod clickhouse;

//! The embedded ClickHouse.

//! The embedded ClickHouse, spoken to over its socket.

//! Proxies that break on command.
//!
//! ```text
//! stage ──► TcpProxy   ──► Kafka or ClickHouse      bytes: cut, stalled, one way, slow
//! sink  ──► StoreProxy ──► ClickHouse over HTTP     inserts: refused, cut short, answered wrongly
//! ```

pub mod http;
pub mod tcp;

#[cfg(test)]
mod tests;

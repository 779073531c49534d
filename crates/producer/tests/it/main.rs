//! The producer as its clients see it: a real server on a free port, a mock broker behind it.

// clippy.toml allows unwrap in test functions; helpers of tests are tests, too.
#![allow(clippy::unwrap_used)]

mod access;
mod bodies;
mod broker;
mod replay;
mod service;
mod share;
mod snippet;
mod support;
mod tenants;

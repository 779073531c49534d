//! The producer as its clients see it: a real server on a free port, a mock broker behind it.

mod access;
mod bodies;
mod broker;
mod replay;
mod service;
mod support;
mod tenants;

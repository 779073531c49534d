//! The Kafka crate against librdkafka's mock cluster: real clients, real protocol, programmable brokers.

mod group;
mod publisher;
mod reader;
mod support;

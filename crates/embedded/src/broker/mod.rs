//! The embedded Kafka broker.

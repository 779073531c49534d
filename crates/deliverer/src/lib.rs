//! The deliverer: `chat.events` → the destinations of each tenant → `chat.deliveries`.
//!
//! Here so far: what a destination is ([`destination`]), what is sent to it ([`request`]), how ([`http`],
//! [`guard`]), and what follows from the answer ([`failure`], [`schedule`], [`breaker`]).

pub mod breaker;
pub mod destination;
pub mod failure;
pub mod guard;
pub mod http;
pub mod request;
pub mod schedule;
pub mod secret;
mod trial;

pub use trial::send_test;

//! Faults made on purpose, and the judge of what they did.

pub mod proxy;

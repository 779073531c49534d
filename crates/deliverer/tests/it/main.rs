//! The deliverer on the embedded broker, against receivers that behave like real ones.

#![allow(clippy::unwrap_used)] // a set-up that fails is a test that fails

mod delivery;
mod receiver;
mod support;

//! The sink between the embedded broker and the embedded ClickHouse.

#![allow(clippy::unwrap_used)] // a set-up that fails is a test that fails

mod deliveries;
mod poison;
mod remade;
mod support;

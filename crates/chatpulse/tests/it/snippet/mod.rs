//! The page snippet in a real browser, on pages that imitate the vendors as their documents describe
//! them, through the whole of `chatpulse serve`.
//!
//! ```text
//! pages (one origin) ──► Chromium ──► gate (another origin) ──► producer, Kafka, ClickHouse
//! ```

mod delivery;
mod manners;
mod site;
mod vendors;
mod working;

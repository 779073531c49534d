//! The pages in headless Chromium, on the real router and the real engine: what is on a page equals
//! the API, in light and dark, on a phone and on a desk, with and without scripts.

#![allow(clippy::unwrap_used)] // a set-up that fails is a test that fails

mod fixture;
mod looks;
mod pages;
mod site;

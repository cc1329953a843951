//! What the architecture assumes about Envoy (DESIGN.md, section 1), fact by fact, on a real Envoy: when a new one
//! breaks a fact, the test of that name says so. The filter is the probe (`tests/probe`), which does what the script
//! in its configuration says; client and broker are sockets of the test.
//!
//! Not here: never `Pause` from `on_upstream_data` (Envoy keeps a dangling pointer, so nothing can be observed
//! safely).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own steps: a failure is the test's failure"
)]

mod behaving_host;
mod closing;
mod connecting;
mod holding;
mod life;
mod module;
mod rig;
mod script;
mod shared_data;

mod tls;
mod told;
mod writing;

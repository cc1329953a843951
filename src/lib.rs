//! Leveret's sans-IO core.
pub mod bridge;
pub mod config;
pub mod time;

pub use bridge::{Bridge, Peer};
pub use config::Config;

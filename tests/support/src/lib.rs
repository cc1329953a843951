//! Harnesses shared by the tests, the demo and the load program: real processes on loopback that end with the
//! process that started them, each in a folder of its own.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use support::{envoy, rabbitmq};
//!
//! let folder = tempfile::tempdir()?;
//! let broker = rabbitmq::Rabbitmq::start(&folder.path().join("broker"), &rabbitmq::Options::default())?;
//! let config = envoy::Shipped::with_broker(envoy::Mode::Lazy, broker.amqp_address()).render()?;
//! let envoy = envoy::Envoy::start(&folder.path().join("envoy"), &config, &envoy::Options::default())?;
//! println!("mqtt://{}", envoy.address("mqtt")?);
//! # Ok(()) }
//! ```
#![allow(clippy::disallowed_types, reason = "native test code: the clock is the real one")]

pub mod agreeable;
pub mod chaos;
mod client;
pub mod elsewhere;
pub mod envoy;
#[cfg(feature = "wasm")]
pub mod host;
pub mod load;
pub mod methods;
#[cfg(feature = "wasm")]
pub mod module;
pub mod mosquitto;
pub mod packets;
pub mod pipelines;
pub mod ports;
pub mod process;
pub mod rabbitmq;
pub mod scripted_broker;
#[cfg(feature = "wasm")]
pub mod subject;
pub mod swap;
#[cfg(feature = "wasm")]
pub mod talk;
#[cfg(feature = "tls")]
pub mod tls;

use std::path::{Path, PathBuf};

/// The root of the source tree, with `envoy/`, `target/` and `.tools/`.
pub fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder).to_path_buf()
}

//! Leveret's core: MQTT 3.1.1 and 3.1 from a client, AMQP 0-9-1 to a broker, and no input or output of its own.
//!
//! ```text
//!            ┌──────────────────────── Bridge ────────────────────────┐
//!  client    │ frame   decode     check    authorise  translate encode│   broker
//!  bytes ───>│ mqtt::Decoder ──> bridge ──> policy ──> topic ──> amqp │──> bytes
//!  bytes <───│ mqtt::encode <─── bridge <────────────  topic <── amqp │<── bytes
//!            └──────────────────────────────────────────────────────┘
//! ```
//!
//! A [`Bridge`] is one client connection. The host gives it bytes and the time, and after every input drains what it has to say:
//! bytes for either side, when to call again, when to close, and events for logs and counters. Payloads pass through in the
//! pieces in which they arrive, so a connection's memory does not depend on how large messages are.
//!
//! Nothing here knows Envoy, reads a clock, or can panic on what a peer sends.

pub mod amqp;
pub mod bridge;
pub mod config;
pub mod error;
pub mod event;
pub mod log;
pub mod metrics;
pub mod mqtt;
pub mod names;
pub mod policy;
pub mod release;
mod secret;
pub mod time;
pub mod topic;
pub mod wire;

pub use bridge::{Bridge, Timer, Who};
pub use config::Config;
pub use error::Error;
pub use event::{Event, Level};
pub use metrics::Metric;
pub use policy::{Gate, Peer};
pub use secret::Secret;

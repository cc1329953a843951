//! An independent model of MQTT's sessions and subscriptions beside bridges that work for generated sequences of what clients do.
//!
//! Devices, bridges and a broker in memory (`broker.rs`) live in one thread and one clock (`world.rs`); every byte moves in pieces, in
//! an order that chance chooses. `reference.rs` knows MQTT and nothing of AMQP, and judges what every device has heard. What fails
//! is shrunk to a short sequence. `LEVERET_MODEL_CASES=5000` tries more of them.
// A test says what is wrong by panicking, its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod broker;
mod reference;
mod run;
mod sequences;
mod truth;
mod world;

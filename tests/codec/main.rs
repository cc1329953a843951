//! The judges of the two codecs: vectors and clauses, how streams are cut, independent implementations, arbitrary bytes.
// A test says what is wrong by panicking, its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod amqp_oracle;
mod amqp_vectors;
mod arbitrary;
mod mqtt_clauses;
mod mqtt_oracle;
mod mqtt_vectors;
mod streams;
mod transcript;

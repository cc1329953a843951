//! End to end: clients of all kinds, the built module in a real Envoy, a real RabbitMQ without its MQTT plugin.
//!
//! One broker serves all tests, and so do two Envoys (lazy and eager); what needs a configuration of its own, or
//! counts what happens in Envoy, starts another Envoy. Tests run side by side: each has its own client ids and topics.
//!
//! Needs what `./build.sh test` sets up: the modules, the package, Envoy, RabbitMQ, mosquitto and its clients, paho C, Node and MQTT.js,
//! skopeo, `$LEVERET_PYTHON`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test's own steps: a failure is the test's failure, and the clock is the real one"
)]

mod amqp;
mod broker_errors;
mod clients;
mod deployment;
mod ends;
mod entrances;
mod fake_broker;
mod foreign;
mod import;
mod interop;
mod large;
mod link;
mod login;
mod management;
mod metrics;
mod mqtt;
mod operation;
mod order;
mod package;
mod permissions;
mod pipelines;
mod policy;
mod pressure;
mod publish;
mod python;
mod refusals;
mod retained;
mod rules;
mod sessions;
mod shared;
mod shipped;
mod swap;
mod takeover;
mod topics;
mod wills;
mod world;

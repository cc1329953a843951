//! What the filter reads in a connection's bytes, as JSON, in a browser or in Node.
//!
//! The same core as in the module for Envoy: its two decoders, its reader of the configuration, its topics. What is refused here is
//! refused there, for the same reason. `./build.sh page` makes a page of it.

mod amqp;
mod hex;
mod mqtt;

use leveret::Config;
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

/// What a device has sent, packet by packet, with the keys that its topics become: a JSON array.
///
/// `hex` is pairs of digits with white space, colons, commas or nothing between them, each with `0x` in front or not. The configuration
/// is one of the plugin's, for its `topic_mapping` and its limits, or empty. What is no packet, or the beginning of one, ends the array:
/// an entry with `error` or `incomplete`.
///
/// # Errors
/// When the configuration is wrong, or `hex` is something else.
#[wasm_bindgen]
pub fn mqtt(hex: &str, configuration: &str) -> Result<String, JsError> {
    answer(hex, configuration, mqtt::packets)
}

/// What a broker has sent, or the filter to a broker, frame by frame, with the topics of what is delivered: a JSON array.
///
/// Of the methods that only the filter sends, which the core writes and never reads, there are the names and not the arguments. The
/// rest is as with MQTT.
///
/// # Errors
/// When the configuration is wrong, or `hex` is something else.
#[wasm_bindgen]
pub fn amqp(hex: &str, configuration: &str) -> Result<String, JsError> {
    answer(hex, configuration, amqp::frames)
}

fn answer(
    hex: &str,
    configuration: &str,
    read: impl FnOnce(&[u8], &Config) -> Vec<Value>,
) -> Result<String, JsError> {
    let config = Config::from_json(configuration.trim().as_bytes());
    let config = config.map_err(|error| JsError::new(&error.to_string()))?;
    let bytes = hex::bytes(hex).map_err(|error| JsError::new(&error.to_string()))?;
    Ok(Value::from(read(&bytes, &config)).to_string())
}

/// An entry: where it starts, and what it is. What there is nothing of is left out.
fn item(at: usize, fields: Value) -> Value {
    let mut item = json!({ "at": at });
    if let (Value::Object(item), Value::Object(fields)) = (&mut item, fields) {
        item.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    item
}

/// How a list ends when there are bytes left: with what is wrong with them, or how many wait for more.
fn last(at: usize, left: &[u8], error: Option<String>) -> Value {
    match error {
        Some(error) => json!({ "at": at, "error": error }),
        None => json!({ "at": at, "incomplete": left.len() }),
    }
}

/// As text, if it is some.
fn payload(bytes: &[u8]) -> Value {
    match core::str::from_utf8(bytes) {
        Ok(text) => json!({ "length": bytes.len(), "text": text }),
        Err(_) => json!({ "length": bytes.len(), "hex": hex::text(bytes) }),
    }
}

/// For keys and tags, which are bytes to AMQP.
fn lossy(bytes: &[u8]) -> Value {
    String::from_utf8_lossy(bytes).into()
}

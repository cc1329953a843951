//! What the filter reads in a connection's bytes, as JSON, in a browser or in Node.
//!
//! The same core as in the module for Envoy: its two decoders, its reader of the configuration, its topics. What is wrong with the bytes
//! here is wrong there. Who may do what is not asked: that is `leveret explain`'s. `./build.sh page` makes a page of it.

mod amqp;
mod hex;
mod mqtt;

use leveret::{Config, Error};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

/// What a device has sent, packet by packet, with the keys that its topics become: a JSON array.
///
/// `digits` is pairs of hexadecimal ones with white space, colons, commas, dashes or nothing between them, each with `0x` or `\x` in front
/// or not. The configuration is one of the plugin's, for its `topic_mapping`, `sparkplug`, `max_packet_size_unauthenticated` and
/// `max_packet_size_authenticated`; or empty. What the filter would end the connection for ends the array, in an entry with `error`. So
/// does the beginning of a packet, in one with `incomplete` or `payload_missing`.
///
/// # Errors
/// When the configuration is wrong, or `digits` are something else.
#[wasm_bindgen]
pub fn mqtt(digits: &str, configuration: &str) -> Result<String, JsError> {
    answer(digits, configuration, mqtt::packets)
}

/// What a broker has sent, or the filter to a broker, frame by frame, with the topics of what is published and delivered: a JSON array.
///
/// Of methods there are the arguments that say most, and of connection.start-ok, which holds a password, none. The rest is as with MQTT.
///
/// # Errors
/// When the configuration is wrong, or `digits` are something else.
#[wasm_bindgen]
pub fn amqp(digits: &str, configuration: &str) -> Result<String, JsError> {
    answer(digits, configuration, amqp::frames)
}

fn answer(
    digits: &str,
    configuration: &str,
    read: impl FnOnce(&[u8], &Config) -> Vec<Value>,
) -> Result<String, JsError> {
    let config = Config::from_json(configuration.trim().as_bytes());
    let config = config.map_err(|error| JsError::new(&error.to_string()))?;
    let bytes = hex::bytes(digits).map_err(|error| JsError::new(&error.to_string()))?;
    Ok(Value::from(read(&bytes, &config)).to_string())
}

/// Entries of a list, more than anybody reads: one more says that there is more.
const MOST: usize = 10_000;

/// How a list ends that has that many.
fn more(at: usize, left: &[u8]) -> Value {
    json!({ "at": at, "note": format!("{MOST} are told; {} bytes are left", left.len()) })
}

/// An entry: where it starts, and what it is. What there is nothing of is left out.
fn item(at: usize, fields: Value) -> Value {
    let mut item = json!({ "at": at });
    if let (Value::Object(item), Value::Object(fields)) = (&mut item, fields) {
        item.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    item
}

/// How a list ends with what the filter would end the connection for.
fn error(at: usize, error: Error) -> Value {
    json!({ "at": at, "error": error.to_string() })
}

/// How a list ends with the beginning of something.
fn incomplete(at: usize, left: &[u8]) -> Value {
    json!({ "at": at, "incomplete": left.len() })
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

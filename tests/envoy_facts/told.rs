//! What the module is told: its configuration, and the properties of a connection.

use std::fs;

use serde_json::{Value, json};

use crate::rig::{Mode, Rig, Talk, filter};
use crate::script::TICK_MS;

/// A `StringValue` arrives as its text; a `Struct` does not arrive as JSON but as its protobuf bytes. A module that
/// refuses its configuration makes Envoy refuse the whole.
#[test]
fn a_struct_arrives_as_protobuf_and_a_string_as_text() {
    let rig = Rig::start(Mode::Eager, json!({}));
    rig.said("configure: taken");
    let mut bootstrap: Value =
        serde_json::from_slice(&fs::read(rig.folder.path().join("envoy.json")).unwrap()).unwrap();
    filter(&mut bootstrap)["typed_config"]["config"]["configuration"] = json!({
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "value": { "tick_ms": TICK_MS },
    });
    let refusal = support::envoy::validate(rig.folder.path(), &bootstrap).unwrap_err().to_string();
    assert!(refusal.contains("configure: refused"), "{refusal}");
}

/// The properties that identity and tenant rules use; numbers are eight bytes, little-endian.
#[test]
fn properties_name_the_connection_from_its_start() {
    const PROPERTIES: [&str; 6] = [
        "source.address",
        "destination.port",
        "plugin_name",
        "xds.filter_chain_name",
        "connection_id",
        "connection.mtls",
    ];
    let all = PROPERTIES.map(|path| json!({ "property": path }));
    let rig = Rig::start(Mode::Eager, json!({ "connected": [all], "client_data": [all] }));
    let mut client = rig.client();
    client.say("x");
    let number = |n: u64| n.to_le_bytes().escape_ascii().to_string();
    for callback in ["connected", "client_data"] {
        let property = |path: &str| rig.said(&format!("{callback}: property {path} = "));
        assert_eq!(property("source.address"), client.local_addr().unwrap().to_string());
        assert_eq!(property("destination.port"), number(client.peer_addr().unwrap().port().into()));
        assert_eq!(property("plugin_name"), "the plugin");
        assert_eq!(property("xds.filter_chain_name"), "the chain");
        // The admin port does not count, the first client does.
        assert_eq!(property("connection_id").len(), number(0).len());
        assert_eq!(property("connection.mtls"), r"\x00");
    }
}

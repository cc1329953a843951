//! The module's life: a trap, and a new one in its place.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::rig::{End, Mode, PATIENCE, Rig, Talk, filter, probe, reload_after_traps};
use crate::script::{TICK_MS, in_next_tick, inject, ops};

/// A trap ends every connection of its VM; with FAIL_RELOAD a fresh VM serves later ones.
#[test]
fn a_trap_ends_the_connections_of_its_vm_and_the_next_is_served() {
    let script = json!({ "client_data": [ops![], ops!["trap"]] });
    let rig = Rig::with(Mode::Eager, script, |bootstrap, _| reload_after_traps(bootstrap));
    let [mut one, mut two] = [0, 1].map(|_| {
        let (mut client, mut broker) = (rig.client(), rig.broker());
        client.say("x");
        broker.hears("x");
        client
    });
    two.say("x");
    assert_eq!(two.rest(), (String::new(), End::Fin));
    assert_eq!(one.rest(), (String::new(), End::Fin));
    let mut newcomers = Vec::new();
    support::process::wait_until("a fresh VM", PATIENCE, || {
        // Until the backoff is over Envoy turns them away, so that this may fail.
        let mut client = rig.client();
        let _ = client.write_all(b"y");
        newcomers.push(client);
        (rig.sayings("connected: ").len() > 2).then_some(())
    })
    .unwrap();
    rig.broker().hears("y");
}

/// A filter given by file is replaced for new connections when the file is moved in place; old ones keep theirs, and
/// its ticks.
#[test]
fn a_new_filter_file_is_for_new_connections() {
    let script = |tag: &str| {
        json!({
            "tick_ms": TICK_MS,
            "client_data": [ops![inject(tag), "pause"]],
            "broker_data": [ops![in_next_tick(inject(&format!("{tag} ticks")))]],
        })
    };
    let rig = Rig::with(Mode::Eager, json!({}), |bootstrap, folder| {
        let path = provide(folder, script("old"));
        bootstrap["node"] = json!({ "id": "facts", "cluster": "facts" });
        *filter(bootstrap) = json!({
            "name": "probe",
            "config_discovery": {
                "type_urls": ["type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm"],
                "config_source": { "resource_api_version": "V3", "path_config_source": { "path": path } },
            },
        });
    });
    let (mut old_client, mut old_broker) = (rig.client(), rig.broker());
    old_client.say("x");
    old_broker.hears("old");
    provide(rig.folder.path(), script("new"));
    let reloads = "extension_config_discovery.network_filter.probe.config_reload";
    rig.envoy.stat_until(reloads, PATIENCE, |reloads| reloads == 2).unwrap();
    let (mut new_client, mut new_broker) = (rig.client(), rig.broker());
    new_client.say("x");
    new_broker.hears("new");
    old_client.say("x");
    old_broker.hears("old");
    old_broker.say("x");
    old_broker.hears("old ticks");
}

/// Moves a file with the probe in place, the way Envoy notices.
fn provide(folder: &Path, script: Value) -> std::path::PathBuf {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "probe",
        "typed_config": probe(script),
    });
    let (file, path) = (folder.join("written.json"), folder.join("probe.json"));
    fs::write(&file, json!({ "resources": [resource] }).to_string()).unwrap();
    fs::rename(&file, &path).unwrap();
    path
}

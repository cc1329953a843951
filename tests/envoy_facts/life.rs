//! The module's life: a trap, and a new one in its place.

use std::io::Write;

use serde_json::json;

use crate::rig::{End, Mode, PATIENCE, Rig, Talk, add_listener, discover, probe, reload_after_traps};
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

/// In a worker all filters of a VM that have the same configuration have one root context. One with another has its own,
/// and is started and ticks by itself.
#[test]
fn filters_share_a_root_context_when_they_share_a_configuration() {
    let script = |path: &str| json!({ "tick_ms": TICK_MS, "connected": [ops!["pause"]], "root_tick": ops![{ "property": path }] });
    let rig = Rig::with(Mode::Eager, script("plugin_name"), |bootstrap, _| {
        add_listener(bootstrap, "same", script("plugin_name"));
        add_listener(bootstrap, "other", script("plugin_root_id"));
    });
    let _clients = [rig.client(), rig.client_of("same"), rig.client_of("other")];
    for path in ["plugin_name", "plugin_root_id"] {
        rig.said_times(&format!("root_tick: property {path}"), 4);
    }
    let (worker, _) = rig.sayings_by_thread("connected: ").pop_first().unwrap();
    assert_eq!(rig.sayings_by_thread("vm_start: ")[&worker].len(), 2);
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
        discover(bootstrap, folder, &probe(script("old")));
    });
    let (mut old_client, mut old_broker) = (rig.client(), rig.broker());
    old_client.say("x");
    old_broker.hears("old");
    rig.swap(&probe(script("new")));
    let (mut new_client, mut new_broker) = (rig.client(), rig.broker());
    new_client.say("x");
    new_broker.hears("new");
    old_client.say("x");
    old_broker.hears("old");
    old_broker.say("x");
    old_broker.hears("old ticks");
}

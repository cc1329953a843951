//! When `tcp_proxy` connects, and to which cluster.

use serde_json::json;
use support::envoy::has_lazy_connects;

use crate::rig::{
    Deaf, EARLY_DATA, End, Mode, Rig, Talk, accept, add_cluster, add_listener, address, cluster, listen,
    replace_broker,
};
use crate::script::{TICK_MS, choose, in_next_tick, inject, ops};

/// Lazy: nothing connects until bytes are resumed, and the filter state set before picks the cluster. It needs the
/// `Pause` of `on_new_connection`: without, `tcp_proxy` has chosen when the first bytes come.
#[test]
fn lazy_connects_with_the_first_bytes_to_the_cluster_chosen_with_them() {
    if !has_lazy_connects() {
        return;
    }
    for (on_connected, chosen) in [(ops!["pause"], true), (ops![], false)] {
        let other = listen();
        let rig = Rig::with(
            Mode::Lazy,
            json!({
                "tick_ms": TICK_MS,
                "connected": [on_connected],
                "client_data": [ops!["pause"], ops![choose("other"), inject("GO"), "pause"]],
                "tick": [ops![{ "property": "plugin_name" }]],
            }),
            |bootstrap, _| add_cluster(bootstrap, cluster("other", address(other.local_addr().unwrap()))),
        );
        let mut client = rig.client();
        client.say("x");
        rig.said("client_data: 1 bytes");
        rig.said_times("tick: ", 5);
        assert!(rig.broker_is_untouched());
        client.say("y");
        if chosen {
            accept(&other).hears("GO")
        } else {
            rig.broker().hears("GO")
        }
        assert_eq!(rig.said("client_data: filter_state "), "Ok");
    }
}

/// Connections of one VM go to a cluster each, as it was chosen for them. A cluster that is not there ends the client.
#[test]
fn each_connection_has_the_cluster_chosen_for_it() {
    if !has_lazy_connects() {
        return;
    }
    let brokers = [listen(), listen()];
    let script = |name| json!({ "connected": [ops!["pause"]], "client_data": [ops![choose(name), inject("GO"), "pause"]] });
    let rig = Rig::with(Mode::Lazy, script("nowhere"), |bootstrap, _| {
        for (name, broker) in ["one", "two"].into_iter().zip(&brokers) {
            add_cluster(bootstrap, cluster(name, address(broker.local_addr().unwrap())));
            add_listener(bootstrap, name, script(name));
        }
    });
    let mut clients = ["one", "two", "one", "two"].map(|name| rig.client_of(name));
    for client in &mut clients {
        client.say("x");
    }
    for broker in [&brokers[0], &brokers[1], &brokers[0], &brokers[1]] {
        accept(broker).hears("GO");
    }
    let mut lost = rig.client();
    lost.say("x");
    assert_eq!(lost.rest(), (String::new(), End::Fin));
    assert_eq!(rig.said_times("client_data: filter_state ", 5), "Ok");
    assert!(rig.broker_is_untouched());
}

/// Eager: what is known when the client connects can still choose the cluster.
#[test]
fn eager_connects_to_the_cluster_chosen_in_new_connection() {
    let other = listen();
    let rig = Rig::with(Mode::Eager, json!({ "connected": [ops![choose("other")]] }), |bootstrap, _| {
        add_cluster(bootstrap, cluster("other", address(other.local_addr().unwrap())));
    });
    rig.client().say("x");
    accept(&other).hears("x");
}

/// Eager: the client is not read before the broker is connected.
#[test]
fn eager_reads_the_client_after_connecting() {
    let deaf = Deaf::new();
    let script = json!({ "tick_ms": TICK_MS, "tick": [ops![{ "property": "plugin_name" }]] });
    let rig = Rig::with(Mode::Eager, script, |bootstrap, _| replace_broker(bootstrap, &deaf.listener));
    let mut client = rig.client();
    client.say("x");
    rig.said_times("tick: ", 5);
    assert!(rig.sayings("client_data").is_empty());
    deaf.accept().hears("x");
    rig.said("client_data: 1 bytes");
}

/// Eager: a `Pause` from `on_new_connection` hangs; the client is never read, the broker never connected.
#[test]
fn eager_hangs_after_a_pause_in_new_connection() {
    let rig = Rig::start(
        Mode::Eager,
        json!({ "tick_ms": TICK_MS, "connected": [ops!["pause"]], "tick": [ops![{ "property": "plugin_name" }]] }),
    );
    let mut client = rig.client();
    client.say("x");
    rig.said_times("tick: ", 10);
    assert!(rig.sayings("client_data").is_empty());
    assert!(rig.broker_is_untouched());
}

/// While the broker is being connected everything written to it is kept, whatever its size and from ticks too;
/// `max_early_data_bytes` only says when the client is read no further.
#[test]
fn early_data_is_kept_and_stops_the_client_beyond_its_limit() {
    if !has_lazy_connects() {
        return;
    }
    let deaf = Deaf::new();
    let much = "m".repeat(10 * EARLY_DATA);
    let rig = Rig::with(
        Mode::Lazy,
        json!({
            "tick_ms": TICK_MS,
            "connected": [ops!["pause"]],
            "client_data": [
                ops![inject("A"), "pause"],
                ops![inject("B"), "pause", in_next_tick(inject(&much))],
                ops![inject("C"), "pause"],
            ],
            "tick": [ops![{ "property": "plugin_name" }]],
        }),
        |bootstrap, _| replace_broker(bootstrap, &deaf.listener),
    );
    let mut client = rig.client();
    client.say("x");
    rig.said_times("client_data: ", 3);
    client.say("x");
    rig.said("tick: resume_downstream Ok");
    client.say("x");
    let ticks = rig.sayings("tick: ").len();
    rig.said_times("tick: ", ticks + 5);
    assert_eq!(rig.sayings("client_data: 1 bytes").len(), 2);
    let mut broker = deaf.accept();
    broker.hears("AB");
    broker.hears(&much);
    broker.hears("C");
}

/// A refusal needs no broker: an internal listener with `echo` sends it back to us, and so to the client.
#[test]
fn an_internal_listener_with_echo_carries_a_local_reply() {
    if !has_lazy_connects() {
        return;
    }
    let script = json!({
        "tick_ms": TICK_MS,
        "connected": [ops!["pause"]],
        "client_data": [ops![choose("local_reply"), inject("REFUSED"), "pause"]],
        // The reply itself passes; the byte after it shows that it has passed.
        "broker_data": [
            ops![in_next_tick(inject("!"))],
            ops![{ "set_upstream": "" }, in_next_tick(ops!["close_downstream"])],
        ],
    });
    let rig = Rig::with(Mode::Lazy, script, |bootstrap, _| {
        add_cluster(
            bootstrap,
            cluster("local_reply", json!({ "envoy_internal_address": { "server_listener_name": "echo" } })),
        );
        bootstrap["bootstrap_extensions"] = json!([{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            },
        }]);
        let echo = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" });
        bootstrap["static_resources"]["listeners"].as_array_mut().unwrap().push(json!({
            "name": "echo",
            "internal_listener": {},
            "filter_chains": [{ "filters": [{ "name": "echo", "typed_config": echo }] }],
        }));
    });
    let mut client = rig.client();
    client.say("x");
    assert_eq!(client.rest(), ("REFUSED".to_owned(), End::Fin));
    assert!(rig.broker_is_untouched());
}

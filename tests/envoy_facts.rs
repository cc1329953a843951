//! What the architecture assumes about Envoy (DESIGN.md, section 1), fact by fact, on a real Envoy: when a new one
//! breaks a fact, the test of that name says so. The filter is the probe (`tests/probe`), which does what the script
//! in its configuration says; client and broker are sockets of the test.
//!
//! Not here: never `Pause` from `on_upstream_data` (Envoy keeps a dangling pointer, so nothing can be observed
//! safely), and the properties of TLS connections.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's own steps: a failure is the test's failure"
)]

#[path = "envoy_facts/module.rs"]
mod module;
#[path = "envoy_facts/rig.rs"]
mod rig;

use std::fs;
use std::io::Write;
use std::path::Path;

use rig::{
    Deaf, EARLY_DATA, End, Mode, PATIENCE, Rig, Talk, accept, address, cluster, listen, probe, replace_broker,
};
use serde_json::{Value, json};
use socket2::SockRef;

/// The steps of one callback, as JSON; lists among them (what the helpers below give) are taken apart.
macro_rules! ops {
    ($($json:tt)*) => { Value::from(flat(&json!([$($json)*]))) };
}

fn flat(ops: &Value) -> Vec<Value> {
    match ops.as_array() {
        Some(parts) => parts.iter().flat_map(flat).collect(),
        None => vec![ops.clone()],
    }
}

/// Sends bytes to the broker.
fn inject(bytes: &str) -> Value {
    json!([{ "set_downstream": bytes }, "resume_downstream"])
}

fn in_next_tick(ops: Value) -> Value {
    json!({ "next_tick": ops })
}

/// The shortest period with which a tick is still later than what happens at once.
const TICK_MS: u32 = 20;

// Bytes to the broker

/// Once a `Pause` was returned for client data, the broker can be written to from every callback.
#[test]
fn after_a_pause_the_broker_hears_at_any_time() {
    for (mode, connected) in [(Mode::Eager, ops![]), (Mode::Lazy, ops!["pause"])] {
        let rig = Rig::start(
            mode,
            json!({
                "tick_ms": TICK_MS,
                "connected": [connected],
                "client_data": [ops![inject("A"), "pause"]],
                "broker_data": [ops![inject("B"), in_next_tick(inject("C"))]],
            }),
        );
        let mut client = rig.client();
        client.say("hello");
        let mut broker = rig.broker();
        broker.hears("A");
        broker.say("x");
        broker.hears("BC");
        client.hears("x");
    }
}

/// After a `Continue` there is no buffer to write to; nothing breaks, but nothing is sent either.
#[test]
fn after_a_continue_the_broker_hears_only_the_client() {
    let rig = Rig::start(
        Mode::Eager,
        json!({ "tick_ms": TICK_MS, "broker_data": [ops![inject("B"), in_next_tick(inject("C"))]] }),
    );
    let mut client = rig.client();
    let mut broker = rig.broker();
    client.say("hello");
    broker.hears("hello");
    broker.say("x");
    assert_eq!(rig.said("broker_data: set_downstream "), "BadArgument");
    assert_eq!(rig.said("tick: set_downstream "), "BadArgument");
    client.say("goodbye");
    broker.hears("goodbye");
}

/// A resume takes effect after the callback: of several replacements in one callback only the last is sent.
#[test]
fn of_two_writes_in_one_callback_the_last_is_sent() {
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "tick_ms": TICK_MS,
            "client_data": [ops![inject("A"), inject("B"), "pause", in_next_tick(ops![inject("C"), inject("D")])]],
        }),
    );
    let mut client = rig.client();
    client.say("x");
    rig.broker().hears("BD");
}

// Bytes to the client

/// The client can be written to only while the broker's bytes are on their way to it.
#[test]
fn the_client_hears_only_inside_broker_data() {
    let write = || ops![{ "set_upstream": "W" }, "resume_upstream"];
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "tick_ms": TICK_MS,
            "connected": [write()],
            "client_data": [ops![write(), "pause"]],
            "broker_data": [ops![write(), in_next_tick(write())]],
        }),
    );
    let mut client = rig.client();
    client.say("x");
    assert_eq!(rig.said("connected: set_upstream "), "BadArgument");
    assert_eq!(rig.said("client_data: set_upstream "), "BadArgument");
    rig.broker().say("x");
    client.hears("W");
    assert_eq!(rig.said("broker_data: set_upstream "), "Ok");
    assert_eq!(rig.said("tick: set_upstream "), "BadArgument");
    assert_eq!(rig.said("tick: resume_upstream "), "Unimplemented");
}

// Closing

/// A close in the callback that wrote to the client loses what it wrote; in the next tick it does not. There is only
/// one close: that of the upstream stream closes the client's connection too.
#[test]
fn a_close_keeps_the_last_bytes_only_in_a_later_callback() {
    for close in ["close_downstream", "close_upstream"] {
        for (ops, last) in [(ops![close], ""), (ops![in_next_tick(ops![close])], "LAST")] {
            let rig = Rig::start(
                Mode::Eager,
                json!({ "tick_ms": TICK_MS, "broker_data": [ops![{ "set_upstream": "LAST" }, ops]] }),
            );
            let mut client = rig.client();
            let mut broker = rig.broker();
            broker.say("x");
            assert_eq!(client.rest(), (last.to_owned(), End::Fin), "{close}");
            assert_eq!(broker.rest(), (String::new(), End::Fin), "{close}");
            rig.said("client_close: by Local");
        }
    }
}

/// Bytes for the broker written right before `close_downstream` are still given to the kernel, then FIN.
#[test]
fn a_close_sends_what_was_written_to_the_broker() {
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "tick_ms": TICK_MS,
            "client_data": [ops![inject("A"), "pause", in_next_tick(ops![inject("B"), "close_downstream"])]],
        }),
    );
    let mut client = rig.client();
    let mut broker = rig.broker();
    client.say("x");
    assert_eq!(client.rest(), (String::new(), End::Fin));
    assert_eq!(broker.rest(), ("AB".to_owned(), End::Fin));
}

/// What the broker's socket does not take at that moment is lost: what matters must be confirmed before a close.
#[test]
fn a_close_loses_what_the_brokers_socket_does_not_take() {
    // Twice what Linux lets a send buffer grow to, for a broker that takes next to nothing.
    let much = "m".repeat(8 << 20);
    let slow = listen();
    SockRef::from(&slow).set_recv_buffer_size(4096).unwrap();
    let rig = Rig::with(
        Mode::Eager,
        json!({ "client_data": [ops![inject(&much), "close_downstream", "pause"]] }),
        |bootstrap, _| replace_broker(bootstrap, &slow),
    );
    let mut client = rig.client();
    let mut broker = accept(&slow);
    client.say("x");
    assert_eq!(client.rest(), (String::new(), End::Fin));
    let (some, end) = broker.rest();
    assert_eq!(end, End::Fin);
    assert!(some.len() < much.len(), "all {} bytes arrived", some.len());
}

/// A RST of the broker is one for the client, and takes with it what came right before.
#[test]
fn a_reset_of_the_broker_resets_the_client() {
    let mut rig = Rig::start(Mode::Eager, json!({}));
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("x");
    rig.while_frozen(|| {
        broker.say("LAST");
        broker.reset();
    });
    assert_eq!(client.rest(), (String::new(), End::Rst));
    rig.said("broker_data: 4 bytes");
}

/// A RST of the client is one for the broker; what is written on the news of it is lost, though the status is Ok.
#[test]
fn a_reset_of_the_client_resets_the_broker() {
    let rig = Rig::start(
        Mode::Eager,
        json!({ "client_data": [ops![inject("A"), "pause"]], "client_close": [inject("LOST")] }),
    );
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("A");
    client.reset();
    assert_eq!(broker.rest(), (String::new(), End::Rst));
    rig.said("client_close: by Remote");
    assert_eq!(rig.said("client_close: set_downstream "), "Ok");
}

/// A FIN of the client comes as data with end of stream. What is written then reaches the broker before its FIN, and
/// the broker's answer still reaches the client.
#[test]
fn a_fin_of_the_client_lets_both_sides_finish() {
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "client_data": [ops![inject("A"), "pause"], ops![inject("B"), "pause"]],
            "broker_data": [ops![{ "set_upstream": "ANSWER" }], ops![]],
        }),
    );
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("A");
    client.finish();
    assert_eq!(broker.rest(), ("B".to_owned(), End::Fin));
    rig.said("client_data: 0 bytes, end true");
    broker.say("y");
    client.hears("ANSWER");
    drop(broker);
    assert_eq!(client.rest(), ("".to_owned(), End::Fin));
}

/// The client's FIN is held back like its bytes: until a resume, which may come from a tick with more bytes.
#[test]
fn a_fin_of_the_client_waits_for_a_resume() {
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "tick_ms": TICK_MS,
            "client_data": [ops![inject("A"), "pause"], ops!["pause"]],
            "broker_data": [ops![in_next_tick(inject("B"))]],
        }),
    );
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("A");
    client.finish();
    rig.said("client_data: 0 bytes, end true");
    broker.say("y");
    assert_eq!(broker.rest(), ("B".to_owned(), End::Fin));
}

/// A FIN of the broker comes as data with end of stream. What is written then reaches the client before its FIN. The
/// other direction stays open, from ticks too, until somebody closes.
#[test]
fn a_fin_of_the_broker_leaves_the_other_direction_open() {
    let rig = Rig::start(
        Mode::Eager,
        json!({
            "tick_ms": TICK_MS,
            "client_data": [ops![inject("A"), "pause"], ops![inject("D"), in_next_tick(ops!["close_downstream"]), "pause"]],
            "broker_data": [ops![{ "set_upstream": "LAST" }, inject("B"), in_next_tick(inject("C"))]],
        }),
    );
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("A");
    broker.finish();
    broker.hears("BC");
    rig.said("broker_data: 0 bytes, end true");
    assert_eq!(client.rest(), ("LAST".to_owned(), End::Fin));
    client.say("x");
    assert_eq!(broker.rest(), ("D".to_owned(), End::Fin));
}

/// A broker that refuses the connection ends the client's: no callback comes in which a refusal could be said.
#[test]
fn a_refused_connection_to_the_broker_ends_the_client() {
    let nobody = listen();
    let rig = Rig::with(
        Mode::Lazy,
        json!({ "connected": [ops!["pause"]], "client_data": [ops![inject("A"), "pause"]] }),
        |bootstrap, _| replace_broker(bootstrap, &nobody),
    );
    drop(nobody);
    let mut client = rig.client();
    client.say("x");
    assert_eq!(client.rest(), (String::new(), End::Fin));
    rig.said("client_close: by Local");
    assert!(rig.sayings("broker_data").is_empty());
}

// Before the broker is there

/// Lazy: nothing connects until bytes are resumed, and the filter state set before picks the cluster. It needs the
/// `Pause` of `on_new_connection`: without, `tcp_proxy` has chosen when the first bytes come.
#[test]
fn lazy_connects_with_the_first_bytes_to_the_cluster_chosen_with_them() {
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

fn choose(cluster: &str) -> Value {
    json!({ "filter_state": ["envoy.tcp_proxy.cluster", cluster] })
}

fn add_cluster(bootstrap: &mut Value, cluster: Value) {
    bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
}

// The module's life

/// A trap ends every connection of its VM; with FAIL_RELOAD a fresh VM serves later ones.
#[test]
fn a_trap_ends_the_connections_of_its_vm_and_the_next_is_served() {
    let script = json!({ "client_data": [ops![], ops!["trap"]] });
    let rig = Rig::with(Mode::Eager, script, |bootstrap, _| {
        let plugin = &mut filter(bootstrap)["typed_config"]["config"];
        plugin["failure_policy"] = json!("FAIL_RELOAD");
        plugin["reload_config"] = json!({ "backoff": { "base_interval": "0.02s" } });
    });
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

fn filter(bootstrap: &mut Value) -> &mut Value {
    &mut bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
}

// What the module is told

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

/// A callback's data is bounded by the buffer limit of its side, rounded up to Envoy's next read of 16 KiB.
#[test]
fn pieces_are_bounded_by_the_buffer_limit() {
    const LIMIT: usize = 32 << 10;
    const READ: usize = 16 << 10;
    let much = vec![b'm'; 1 << 20];
    let mut rig = Rig::with(Mode::Eager, json!({}), |bootstrap, _| {
        bootstrap["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = json!(LIMIT);
        bootstrap["static_resources"]["clusters"][0]["per_connection_buffer_limit_bytes"] = json!(LIMIT);
    });
    let (mut client, mut broker) = (rig.client(), rig.broker());
    rig.while_frozen(|| {
        client.say(&much);
        broker.say(&much);
    });
    client.hears(&much);
    broker.hears(&much);
    for callback in ["client_data: ", "broker_data: "] {
        let sizes =
            rig.sayings(callback).into_iter().filter_map(|line| line.split_once(" bytes")?.0.parse().ok());
        let largest: usize = sizes.max().unwrap();
        assert!((LIMIT..=LIMIT + READ).contains(&largest), "{callback}{largest}");
    }
}

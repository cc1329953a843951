//! The host that tests of the module use instead of Envoy (`support::host`): where a filter depends on it, it has the
//! same facts.

use std::sync::LazyLock;

use serde_json::{Value, json};
use support::host::{Certificate, Facts, Host, SharedData};
use support::module::Module;

use crate::module;
use crate::script::{in_next_tick, inject, ops};

#[test]
fn a_mark_guards_a_value() {
    let shared = || json!({ "shared": "k" });
    let steps = ops![
        shared(),
        { "share": ["k", "one", 77] }, shared(),
        { "share": ["k", "two", 77] },
        { "share": ["k", "", 1] }, shared(),
        { "share": ["k", "three", 0] }, shared(),
    ];
    let mut host = host(json!({ "connected": [steps] }));
    host.connect_as(&Facts::default());
    let answers = [
        "shared k: NotFound",
        "share k Ok",
        "shared k = one, cas 1",
        "share k CasMismatch",
        "share k Ok",
        "shared k = , cas 2",
        "share k Ok",
        "shared k = three, cas 3",
    ];
    assert_eq!(said(&host, "connected: ")[1..], answers);
}

#[test]
fn workers_share_data() {
    let shared = SharedData::default();
    let script = json!({ "connected": [ops![{ "count": ["n", 3] }]] }).to_string();
    for sum in ["3,", "6,"] {
        let mut worker = Host::worker_of(&shared, &PROBE, &script).unwrap();
        worker.connect_as(&Facts::default());
        assert!(said(&worker, "connected: count n = ")[0].starts_with(sum));
    }
}

#[test]
fn a_queue_calls_once_for_each_entry() {
    let soon = |key: &str| json!({ "soon": [{ "shared": key }] });
    let mut host = host(json!({ "connected": [ops![soon("a"), soon("b"), { "shared": "c" }]] }));
    host.connect_as(&Facts::default());
    let after = ["connected: shared c", "queue_ready: shared a", "queue_ready: shared b"];
    let expected = after.map(|line| format!("{line}: NotFound"));
    assert!(said(&host, "2 ").iter().filter(|line| line.contains("shared")).eq(&expected));
}

#[test]
fn a_client_that_is_held_is_read_up_to_the_limit_and_one_read_more() {
    let mut host = host(json!({ "client_data": [ops!["pause"]] }));
    let client = host.connect_as(&Facts::default());
    host.client_sends(client, &[0; 10 * LIMIT]);
    assert_eq!(said(&host, "client_data: "), ["32768 bytes, end false", "49152 bytes, end false"]);
    assert_eq!(host.unread(client), 10 * LIMIT - 49152);
}

#[test]
fn what_is_held_can_be_replaced_later() {
    let mut host = host(json!({
        "tick_ms": 20,
        "client_data": [ops!["pause"]],
        "broker_data": [ops![inject("OUT")], ops![in_next_tick(inject("TICK"))], ops![{ "set_downstream": "" }]],
    }));
    let client = host.connect_as(&Facts::default());
    host.client_sends(client, &[0; 10 * LIMIT]);
    let mut unread = host.unread(client);
    for out in ["OUT", "TICK", ""] {
        host.broker_sends(client, b"y");
        host.advance(20);
        assert_eq!(host.take_to_broker(client), out.as_bytes());
        assert_eq!(host.unread(client), unread - LIMIT - READ, "it reads on");
        unread = host.unread(client);
    }
}

#[test]
fn reading_stops_and_goes_on_with_what_the_filter_leaves() {
    let fill = |size| ops![{ "set_downstream": "f".repeat(size) }];
    let mut host = host(json!({
        "client_data": [ops![inject("A"), "pause"], ops!["pause"]],
        "broker_data": [fill(LIMIT), fill(LIMIT + 1), fill(LIMIT - 100)],
    }));
    let client = host.connect_as(&Facts::default());
    host.client_sends(client, b"x");
    for unread in [0, 5, 0] {
        host.broker_sends(client, b"y");
        host.client_sends(client, b"hello");
        assert_eq!(host.unread(client), unread);
    }
}

#[test]
fn what_is_put_back_through_a_queue_lets_nothing_in() {
    let put_back = json!({ "soon": ops![{ "prepend_downstream": "p".repeat(LIMIT + 1) }] });
    let mut host = host(json!({
        "client_data": [ops![inject("OUT"), put_back, "pause"]],
        "broker_data": [ops![inject("OUT"), put_back]],
    }));
    let client = host.connect_as(&Facts::default());
    host.client_sends(client, b"x");
    host.client_sends(client, b"more");
    for _ in 0..2 {
        assert_eq!(host.take_to_broker(client), b"OUT");
        assert_eq!(host.unread(client), 4);
        host.broker_sends(client, b"y");
    }
}

#[test]
fn an_end_is_not_noticed_while_reading_is_stopped() {
    let script = json!({ "client_data": [ops!["pause"]], "broker_data": [ops![], ops![inject("A")]] });
    let mut ending = host(script.clone());
    let client = ending.connect_as(&Facts::default());
    ending.client_sends(client, &[0; 2 * LIMIT]);
    ending.client_ends(client);
    ending.broker_sends(client, b"y");
    assert!(!said(&ending, "client_data: ").iter().any(|line| line.contains("end true")));
    ending.broker_sends(client, b"y");
    assert_eq!(said(&ending, "client_data: ").last().unwrap(), "16384 bytes, end true");

    let mut breaking = host(script);
    let client = breaking.connect_as(&Facts::default());
    breaking.client_sends(client, &[0; 2 * LIMIT]);
    breaking.client_vanishes(client);
    assert!(said(&breaking, "client_close: ").is_empty());
    breaking.broker_sends(client, b"y");
    assert_eq!(said(&breaking, "client_close: "), ["by Remote"]);
    assert!(breaking.take_to_client(client).is_empty());
}

#[test]
fn a_fin_goes_with_the_first_resume() {
    let broker_data = [ops![inject("A")], ops![inject("LOST")]];
    let mut host = host(json!({ "client_data": [ops!["pause"]], "broker_data": broker_data }));
    let client = host.connect_as(&Facts::default());
    host.client_sends(client, b"hello");
    host.client_ends(client);
    assert_eq!(said(&host, "client_data: ")[1], "5 bytes, end true");
    host.broker_sends(client, b"y");
    host.broker_sends(client, b"y");
    assert_eq!(host.take_to_broker(client), b"A");
    assert_eq!(host.lost(client), 4);
}

#[test]
fn a_certificate_is_known_with_the_first_data() {
    let properties = [
        "source.address",
        "destination.port",
        "xds.filter_chain_name",
        "connection.requested_server_name",
        "connection.mtls",
        "connection.subject_peer_certificate",
        "connection.dns_san_peer_certificate",
        "connection.uri_san_peer_certificate",
    ];
    let all = ops![properties.map(|path| json!({ "property": path }))];
    let script = json!({ "connected": [all], "client_data": [all] });
    let server_name = Some("b.example".to_owned());
    let dns = Some("a.example".to_owned());
    let certificate = Some(Certificate { subject: "CN=a".to_owned(), dns, uri: None });
    let with_certificate = Facts { server_name: server_name.clone(), certificate, ..Facts::default() };
    let without = Facts { server_name, ..Facts::default() };
    for (facts, server_name, at_first, later) in [
        (
            with_certificate,
            " = b.example",
            [r" = \x00", " = ", ": NotFound", ": NotFound"],
            [r" = \x01", " = CN=a", " = a.example", ": NotFound"],
        ),
        (
            without,
            " = b.example",
            [r" = \x00", " = ", ": NotFound", ": NotFound"],
            [r" = \x00", " = ", ": NotFound", ": NotFound"],
        ),
        (
            Facts::default(),
            " = ",
            [r" = \x00", ": NotFound", ": NotFound", ": NotFound"],
            [r" = \x00", ": NotFound", ": NotFound", ": NotFound"],
        ),
    ] {
        let mut host = host(script.clone());
        let client = host.connect_as(&facts);
        host.client_sends(client, b"x");
        for (callback, certificate) in [("connected", at_first), ("client_data", later)] {
            let known = [" = 127.0.0.1:40000", r" = [\x07\x00\x00\x00\x00\x00\x00", " = ", server_name];
            let told = properties.iter().zip(known.into_iter().chain(certificate));
            let told = told.map(|(property, value)| format!("{property}{value}"));
            assert!(said(&host, &format!("{callback}: property ")).into_iter().eq(told), "{facts:?}");
        }
    }
}

fn host(script: Value) -> Host {
    let mut host = Host::new(&PROBE, &script.to_string()).unwrap();
    host.set_buffer_limit(LIMIT);
    host
}

/// What the probe has said after this text so far.
fn said(host: &Host, text: &str) -> Vec<String> {
    let lines = host.logs().iter().filter_map(|line| line.text.strip_prefix("probe #")?.split_once(text));
    lines.map(|(_, rest)| rest.to_owned()).collect()
}

static PROBE: LazyLock<Module> = LazyLock::new(|| Module::load(&module::probe()));

const LIMIT: usize = 32 << 10;
const READ: usize = 16 << 10;

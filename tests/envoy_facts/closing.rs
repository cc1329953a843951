//! Ends: by the filter, the client and the broker, with FIN and with RST.

use serde_json::json;
use socket2::SockRef;
use support::envoy::{has_lazy_connects, minor_version};

use crate::rig::{End, Mode, Rig, Talk, accept, listen, replace_broker};
use crate::script::{TICK_MS, in_next_tick, inject, ops};

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

/// A RST of the broker is one for the client, and takes with it what came right before; before Envoy 1.38 it is a FIN, and takes nothing.
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
    let expected = if minor_version() >= 38 { ("", End::Rst) } else { ("LAST", End::Fin) };
    assert_eq!(client.rest(), (expected.0.to_owned(), expected.1));
    rig.said("broker_data: 4 bytes");
}

/// A RST of the client is one for the broker, before Envoy 1.40 a FIN; what is written on the news of it is lost, though the status is Ok.
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
    let expected = if minor_version() >= 40 { End::Rst } else { End::Fin };
    assert_eq!(broker.rest(), (String::new(), expected));
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
    if !has_lazy_connects() {
        return;
    }
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

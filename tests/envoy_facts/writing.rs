//! Who can be written to, and when.

use serde_json::json;
use support::envoy::has_lazy_connects;

use crate::rig::{Mode, Rig, Talk};
use crate::script::{TICK_MS, in_next_tick, inject, ops};

/// Once a `Pause` was returned for client data, the broker can be written to from every callback.
#[test]
fn after_a_pause_the_broker_hears_at_any_time() {
    for (mode, connected) in [(Mode::Eager, ops![]), (Mode::Lazy, ops!["pause"])] {
        if matches!(mode, Mode::Lazy) && !has_lazy_connects() {
            continue;
        }
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

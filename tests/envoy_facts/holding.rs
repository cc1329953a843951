//! Holding a client back: bytes that the filter leaves in Envoy's buffer, and when Envoy reads no further.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use support::envoy::has_lazy_connects;
use support::process::wait_until;

use crate::rig::{End, Mode, PATIENCE, Rig, Talk};
use crate::script::{TICK_MS, in_next_tick, inject, ops};

/// A callback's data is bounded by the buffer limit of its side, rounded up to Envoy's next read of 16 KiB.
#[test]
fn pieces_are_bounded_by_the_buffer_limit() {
    let much = vec![b'm'; 1 << 20];
    let mut rig = Rig::with(Mode::Eager, json!({}), |bootstrap, _| {
        limit_buffers(bootstrap);
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

/// What a `Pause` leaves in the buffer stays there, and each callback tells of all of it. Beyond its limit Envoy reads
/// no further, and the client's sends block when the kernel's buffers are full too, which takes megabytes.
#[test]
fn a_client_that_is_held_is_read_up_to_the_limit_and_one_read_more() {
    for (mode, connected) in [(Mode::Eager, ops![]), (Mode::Lazy, ops!["pause"])] {
        if matches!(mode, Mode::Lazy) && !has_lazy_connects() {
            continue;
        }
        let rig = held(mode, json!({ "connected": [connected] }));
        let mut client = rig.client();
        client.say("hello");
        rig.said("client_data: 5 bytes, end false");
        println!("the client could send {} bytes", flood(&mut client));
        wait_until_full(&rig, 1);
        wait_for_stillness(&rig);
        assert!(*sizes(&rig).last().unwrap() <= LIMIT + READ, "{:?}", sizes(&rig));
    }
}

/// From ticks and while the broker's bytes come, all that is held can be read and replaced. Exactly the replacement is
/// sent, and the client is read again.
#[test]
fn what_is_held_can_be_replaced_later() {
    let release = || ops!["get_downstream", inject("OUT")];
    for broker_data in [release(), ops![in_next_tick(release())]] {
        let rig = held(Mode::Eager, json!({ "broker_data": [broker_data] }));
        let (mut client, mut broker) = (rig.client(), rig.broker());
        flood(&mut client);
        for round in 1..=3 {
            wait_until_full(&rig, round);
            broker.say("y");
            broker.hears("OUT");
            let held = rig.said_times(": get_downstream = ", round).len();
            assert!((LIMIT + 1..=LIMIT + READ).contains(&held), "{held}");
        }
    }
}

/// Lazy: also before there is a broker. It is connected to then.
#[test]
fn what_is_held_can_be_replaced_before_the_broker_is_there() {
    if !has_lazy_connects() {
        return;
    }
    let release = in_next_tick(ops![in_next_tick(ops!["get_downstream", inject("OUT")])]);
    let script =
        json!({ "connected": [ops!["pause"]], "client_data": [ops!["pause", release], ops!["pause"]] });
    let rig = held(Mode::Lazy, script);
    rig.client().say("hello");
    rig.broker().hears("OUT");
    assert_eq!(rig.said("tick: get_downstream = "), "hello");
}

/// Reading goes by what is in the buffer, and not by resumes: it stops when the filter fills the buffer beyond the limit,
/// and goes on when the filter replaces that by no more than the limit.
#[test]
fn reading_stops_and_goes_on_with_what_the_filter_leaves() {
    let fill = |size| ops![{ "set_downstream": "f".repeat(size) }];
    let rig = held(
        Mode::Eager,
        json!({
            "client_data": [ops![inject("A"), "pause"], ops!["pause"]],
            "broker_data": [fill(LIMIT), fill(LIMIT + 1), fill(LIMIT - 100)],
        }),
    );
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("A");
    let mut tell = |is_read: bool, size: usize| {
        broker.say("y");
        client.hears("y");
        client.say("hello");
        let told = format!("client_data: {size} bytes");
        if is_read {
            rig.said(&told);
        } else {
            wait_for_stillness(&rig);
            assert!(rig.sayings(&told).is_empty(), "{size}");
        }
    };
    tell(true, LIMIT + 5);
    tell(false, LIMIT + 1 + 5);
    tell(true, LIMIT - 100 + 10);
}

/// Each write to the broker takes the whole buffer along and so lets Envoy read on. A shared queue calls the filter back
/// before Envoy does, from every callback: whatever it puts back then, it has let nothing in.
#[test]
fn what_is_put_back_through_a_queue_lets_nothing_in() {
    let out = || ops![inject("OUT"), { "soon": ops![{ "prepend_downstream": "p".repeat(LIMIT + 1) }] }];
    for (client_data, broker_data) in [
        (ops!["pause"], ops![out()]),
        (ops!["pause"], ops![in_next_tick(out())]),
        (ops![out(), "pause"], ops![]),
    ] {
        let rig = held(Mode::Eager, json!({ "client_data": [client_data], "broker_data": [broker_data] }));
        let (mut client, mut broker) = (rig.client(), rig.broker());
        flood(&mut client);
        rig.said("client_data: ");
        wait_for_stillness(&rig);
        let before = sizes(&rig);
        for _ in 0..3 {
            broker.say("y");
            client.hears("y");
            wait_for_stillness(&rig);
        }
        assert_eq!(sizes(&rig), before);
        broker.hears("OUT");
    }
}

/// What is put back comes with what the client sends next.
#[test]
fn what_is_put_back_is_before_what_comes() {
    let put_back = json!({ "soon": ops![{ "prepend_downstream": "held" }] });
    let client_data = [ops![inject("A"), put_back, "pause"], ops!["get_downstream", inject("B"), "pause"]];
    let rig = held(Mode::Eager, json!({ "client_data": client_data }));
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("x");
    broker.hears("A");
    rig.said("queue_ready: prepend_downstream Ok");
    client.say("y");
    broker.hears("B");
    assert_eq!(rig.said("client_data: get_downstream = "), "heldy");
}

/// A FIN behind bytes that are held is told at once. The first resume passes it on, and all writes after that are lost.
#[test]
fn a_fin_goes_with_the_first_resume() {
    let broker_data = [ops![inject("A")], ops![inject("LOST")]];
    let rig = held(Mode::Eager, json!({ "broker_data": broker_data }));
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say("hello");
    rig.said("client_data: 5 bytes, end false");
    client.finish();
    rig.said("client_data: 5 bytes, end true");
    for _ in 0..2 {
        broker.say("y");
        client.hears("y");
    }
    assert_eq!(rig.said_times("broker_data: resume_downstream ", 2), "Ok");
    assert_eq!(broker.rest(), ("A".to_owned(), End::Fin));
}

/// While Envoy does not read, neither FIN nor RST is noticed: a RST with the next write to the client, a FIN when
/// everything before it has been read.
#[test]
fn an_end_is_not_noticed_while_reading_is_stopped() {
    let rig = held(Mode::Eager, json!({ "broker_data": [ops![inject("A")]] }));
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say(vec![b'm'; 2 * LIMIT]);
    client.finish();
    wait_until_full(&rig, 1);
    wait_for_stillness(&rig);
    assert!(rig.sayings("client_data: ").iter().all(|it| it.contains("end false")));
    broker.say("y");
    rig.said("client_data: 16384 bytes, end true");

    let rig = held(Mode::Eager, json!({}));
    let (mut client, mut broker) = (rig.client(), rig.broker());
    client.say(vec![b'm'; 2 * LIMIT]);
    wait_until_full(&rig, 1);
    client.reset();
    wait_for_stillness(&rig);
    assert!(rig.sayings("client_close: ").is_empty());
    broker.say("y");
    rig.said("client_close: by Remote");
}

/// A probe that leaves in the buffer what comes, if the script does not say otherwise.
fn held(mode: Mode, script: Value) -> Rig {
    let mut all = json!({ "tick_ms": TICK_MS, "client_data": [ops!["pause"]] });
    all.as_object_mut().unwrap().extend(script.as_object().unwrap().clone());
    Rig::with(mode, all, |bootstrap, _| limit_buffers(bootstrap))
}

fn limit_buffers(bootstrap: &mut Value) {
    bootstrap["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = json!(LIMIT);
}

/// Sends until no more is taken; how much that was.
fn flood(client: &mut TcpStream) -> usize {
    client.set_write_timeout(Some(STILL)).unwrap();
    let piece = [b'm'; READ];
    std::iter::from_fn(|| client.write(&piece).ok()).sum()
}

/// What was in the buffer in each callback.
fn sizes(rig: &Rig) -> Vec<usize> {
    let calls = rig.sayings("client_data: ");
    calls.iter().filter_map(|call| call.split_once(" bytes, end")?.0.parse().ok()).collect()
}

/// Returns when the buffer has gone beyond its limit that often.
fn wait_until_full(rig: &Rig, times: usize) {
    wait_until("a full buffer", PATIENCE, || {
        sizes(rig).into_iter().filter(|&size| size > LIMIT).nth(times - 1)
    })
    .unwrap();
}

/// Returns when the probe has said nothing for a while.
fn wait_for_stillness(rig: &Rig) {
    let mut said = rig.sayings("").len();
    loop {
        std::thread::sleep(STILL);
        let now = rig.sayings("").len();
        if now == said {
            return;
        }
        said = now;
    }
}

const LIMIT: usize = 32 << 10;
/// What Envoy reads at a time.
const READ: usize = 16 << 10;
/// What happens at all happens within a few milliseconds.
const STILL: Duration = Duration::from_millis(200);

//! Generated sequences.

use crate::reference::Id;
use crate::run::{Act, CLIENTS, Step, run};
use crate::world::End;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

/// One thing at a time: what every client hears is exactly known.
#[test]
fn one_after_the_other() {
    try_all(vec(act().prop_map(Step::Alone), 1..30));
}

/// Several clients at once, and several packets in one flight: what is certain is heard, and nothing that may not be.
#[test]
fn at_the_same_time() {
    let step = prop_oneof![
        2 => act().prop_map(Step::Alone),
        3 => vec(packet(), 2..8).prop_map(Step::Together),
    ];
    try_all(vec(step, 1..20));
}

/// Clients come, go and take over while others publish to them, and while they publish themselves.
#[test]
fn coming_and_going_at_the_same_time() {
    let act = prop_oneof![
        4 => packet(),
        2 => connect(),
        1 => client().prop_map(|client| Act::Disconnect { client }),
        2 => (client(), select(&[End::Fin, End::Reset, End::HostGone, End::Malformed][..]))
            .prop_map(|(client, end)| Act::End { client, end }),
    ];
    let step = prop_oneof![
        3 => self::act().prop_map(Step::Alone),
        2 => vec(act, 2..8).prop_map(Step::Together),
    ];
    try_all(vec(step, 1..20));
}

fn try_all(steps: impl Strategy<Value = Vec<Step>>) {
    let cases = std::env::var("LEVERET_MODEL_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    let config = Config { cases, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&(steps, any::<u64>()), |(steps, seed)| {
        run(&steps, seed).map_err(|wrong| TestCaseError::fail(format!("{wrong}\n")))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => connect(),
        20 => packet(),
        2 => (client(), any::<bool>()).prop_map(|(client, hold)| Act::HoldAcks { client, hold }),
        2 => client().prop_map(|client| Act::Disconnect { client }),
        4 => (client(), end()).prop_map(|(client, end)| Act::End { client, end }),
        3 => select(&[100, 100, 100_000, 6_000_000][..]).prop_map(|millis| Act::Elapse { millis }),
    ]
}

fn connect() -> impl Strategy<Value = Act> {
    let will = option::of((topic(), 0..3_u8));
    (client(), any::<bool>(), will, prop::bool::weighted(0.3), any::<bool>()).prop_map(
        |(client, is_kept, will, holds_acks, keep_alive)| Act::Connect {
            client,
            is_kept,
            will,
            holds_acks,
            keep_alive,
        },
    )
}

/// What a client may do at any time that it is connected.
fn packet() -> impl Strategy<Value = Act> {
    let size = prop_oneof![4 => 0..40_usize, 1 => 0..300_000_usize];
    prop_oneof![
        4 => (client(), vec((filter(), 0..3_u8), 1..4))
            .prop_map(|(client, filters)| Act::Subscribe { client, filters }),
        1 => (client(), vec(filter(), 1..3)).prop_map(|(client, filters)| Act::Unsubscribe { client, filters }),
        8 => (client(), topic(), 0..3_u8, size, any::<bool>())
            .prop_map(|(client, topic, qos, size, twice)| Act::Publish { client, topic, qos, size, twice }),
        3 => (client(), 0..4_usize).prop_map(|(client, which)| Act::Acknowledge { client, which }),
        1 => (topic(), 0..2_u8).prop_map(|(topic, qos)| Act::FromElsewhere { topic, qos }),
    ]
}

fn client() -> impl Strategy<Value = Id> {
    0..CLIENTS
}

fn end() -> impl Strategy<Value = End> {
    select(&[End::Fin, End::Reset, End::Unplugged, End::HostGone, End::Malformed][..])
}

fn topic() -> impl Strategy<Value = &'static str> {
    select(&["a", "a/b", "a/b", "a.b", "b", "a/b/c", "/", "$x/a"][..])
}

fn filter() -> impl Strategy<Value = &'static str> {
    select(
        &[
            "a", "a/b", "a/b", "a/b", "b", "#", "a/#", "+/b", "a/+/c", "#/b", "a/#/c", "*/b", "a.b", "+",
            "$x/#", "", "a+", "#a",
        ][..],
    )
}

/// Some seconds in a debug build.
const CASES: u32 = 300;

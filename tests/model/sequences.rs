//! Generated sequences.

use crate::reference::Id;
use crate::run::{Act, CLIENTS, Resent, Step, run};
use crate::world::End;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

/// One thing at a time: what every client hears is exactly known.
#[test]
fn one_after_the_other() {
    try_all(vec(act(plain()).prop_map(Step::Alone), 1..30));
}

/// Several clients at once, and several packets in one flight: what is certain is heard, and nothing that may not be.
#[test]
fn at_the_same_time() {
    let step = prop_oneof![
        2 => act(plain()).prop_map(Step::Alone),
        3 => vec(packet(plain()), 2..8).prop_map(Step::Together),
    ];
    try_all(vec(step, 1..20));
}

/// Clients come, go and take over while others publish to them, and while they publish themselves.
#[test]
fn coming_and_going_at_the_same_time() {
    let act = prop_oneof![
        4 => packet(plain()),
        2 => connect(client()),
        1 => client().prop_map(|client| Act::Disconnect { client }),
        2 => (client(), select(&[End::Fin, End::Reset, End::HostGone, End::Malformed][..]))
            .prop_map(|(client, end)| Act::End { client, end }),
    ];
    let step = prop_oneof![
        3 => self::act(plain()).prop_map(Step::Alone),
        2 => vec(act, 2..8).prop_map(Step::Together),
    ];
    try_all(vec(step, 1..20));
}

/// Groups share what is published, whoever comes and goes. No two of these filters match the same topic, since nobody could tell the
/// copies apart.
#[test]
fn in_groups() {
    let filters = || {
        select(
            &["$share/g/a/+", "$share/g/a/+", "$share/h/a", "$share/g/b", "$share//a", "$share/g", "/"][..],
        )
        .boxed()
    };
    let step = prop_oneof![
        4 => act(filters()).prop_map(Step::Alone),
        // Who joins a group just while its last member leaves it, may lose its connection.
        1 => vec(packet(filters()).prop_filter("joins", |act| !matches!(act, Act::Unsubscribe { .. })), 2..8)
            .prop_map(Step::Together),
    ];
    try_all(vec(step, 1..30));
}

fn try_all(steps: impl Strategy<Value = Vec<Step>>) {
    let cases = std::env::var("LEVERET_MODEL_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    let config = Config { cases, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() };
    // Everybody is there to begin with.
    let newcomers: Vec<_> = (0..CLIENTS).map(|client| connect(Just(client)).prop_map(Step::Alone)).collect();
    let steps = (newcomers, steps).prop_map(|(newcomers, steps)| [newcomers, steps].concat());
    let result = TestRunner::new(config).run(&(steps, any::<u64>()), |(steps, seed)| {
        run(&steps, seed).map_err(|wrong| TestCaseError::fail(format!("{wrong}\n")))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn act(filters: BoxedStrategy<&'static str>) -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => connect(client()),
        20 => packet(filters),
        2 => (client(), any::<bool>()).prop_map(|(client, hold)| Act::HoldAcks { client, hold }),
        2 => client().prop_map(|client| Act::Disconnect { client }),
        4 => (client(), end()).prop_map(|(client, end)| Act::End { client, end }),
        3 => select(&[100, 100, 100_000, 6_000_000][..]).prop_map(|millis| Act::Elapse { millis }),
    ]
}

fn connect(client: impl Strategy<Value = Id>) -> impl Strategy<Value = Act> {
    let will = option::of((topic(), 0..3_u8));
    (client, prop::bool::weighted(0.6), will, any::<bool>(), any::<bool>()).prop_map(
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
fn packet(filters: BoxedStrategy<&'static str>) -> impl Strategy<Value = Act> {
    let size = prop_oneof![4 => 0..40_usize, 1 => 0..300_000_usize];
    prop_oneof![
        4 => (client(), vec((filters.clone(), 0..3_u8), 1..4))
            .prop_map(|(client, filters)| Act::Subscribe { client, filters }),
        1 => (client(), vec(filters, 1..3)).prop_map(|(client, filters)| Act::Unsubscribe { client, filters }),
        8 => (client(), topic(), 0..3_u8, size, select(&[Resent::Never, Resent::AtOnce, Resent::AfterPubrec][..]))
            .prop_map(|(client, topic, qos, size, resent)| Act::Publish { client, topic, qos, size, resent }),
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

fn plain() -> BoxedStrategy<&'static str> {
    select(
        &[
            "a", "a/b", "a/b", "a/b", "b", "#", "#", "a/#", "+/b", "a/+/c", "#/b", "a/#/c", "*/b", "a.b",
            "+", "$x/#", "a+", "#a",
        ][..],
    )
    .boxed()
}

/// Some seconds in a debug build.
const CASES: u32 = 150;

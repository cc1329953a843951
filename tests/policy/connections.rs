//! `max_connections`: of a tenant, over all workers.

use crate::*;

/// The client says goodbye, and the broker too.
fn leaves(t: &mut Talk) {
    t.client(DISCONNECT);
    t.agree();
    t.closes();
}

#[track_caller]
fn is_full(t: &mut Talk, client: &Facts) {
    let mut other = another(t, client);
    is_refused(t, connect("n"), 5, "connections");
    swap(t, &mut other);
}

fn with(most: u32) -> Value {
    json!({ "max_connections": most })
}

#[test]
fn a_place_is_taken_by_connect_and_free_again_at_the_end() {
    both(with(2), |t| {
        logs_in(t, connect("a"));
        let mut first = another(t, &Facts::default());
        logs_in(t, connect("b"));
        is_full(t, &Facts::default());
        leaves(t);
        another(t, &Facts::default());
        logs_in(t, connect("d"));
        is_full(t, &Facts::default());
        // A client that breaks off leaves its place, too.
        swap(t, &mut first);
        t.subject.client_vanishes(t.connection);
        t.advance(100);
        another(t, &Facts::default());
        logs_in(t, connect("e"));
        is_full(t, &Facts::default());
    });
}

/// As long as its login is under way a client has its place, and when that fails, no more.
#[test]
fn a_login_that_fails_gives_its_place_back() {
    both(with(1), |t| {
        t.client(connect("a"));
        is_full(t, &Facts::default());
        t.reply(methods::CONNECTION, methods::start("RabbitMQ", "4.1.0", "PLAIN"));
        t.reply(methods::CONNECTION, methods::close(403, "ACCESS_REFUSED"));
        t.hears(connack(4));
        t.closes();
        another(t, &Facts::default());
        logs_in(t, connect("b"));
    });
}

/// Whoever is refused has none, nor has who has not said CONNECT.
#[test]
fn only_who_is_let_in_takes_one() {
    let mut config = with(1);
    config["users"] = json!([user("u", "p")]);
    config["publish"] = json!({ "allow": [] });
    both(config, |t| {
        for _ in 0..3 {
            another(t, &Facts::default());
        }
        is_refused(t, connect_as("u", "x"), 4, "wrong_password");
        another(t, &Facts::default());
        t.client(connect_will(0, "w", "gone"));
        assert_eq!(t.counter("refused.by.will"), 1);
        another(t, &Facts::default());
        logs_in(t, connect("c"));
    });
}

/// Also where the limit is the top level's, which each tenant has for itself.
#[test]
fn each_tenant_has_its_own() {
    let config = json!({
        "max_connections": 1,
        "tenants": [
            { "name": "a", "match": { "port": 1 } },
            { "name": "b", "match": { "port": 2 } },
            { "name": "c", "match": { "port": 3 }, "max_connections": 2 },
        ],
    });
    both(config, |t| {
        for (port, most) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            let client = Facts { port, ..Facts::default() };
            for number in 0..most {
                another(t, &client);
                logs_in(t, connect(&format!("{port} {number}")));
            }
            is_full(t, &client);
        }
        // All without a tenant are together.
        is_full(t, &Facts { port: 5, ..Facts::default() });
    });
}

/// Time passes for both.
fn wait(one: &mut Talk, two: &mut Talk, millis: u64) {
    for _ in 0..millis / 100 {
        one.advance(100);
        two.advance(100);
    }
}

#[test]
fn all_workers_count_together() {
    two_workers(with(2), |one, two| {
        logs_in(one, connect("a"));
        logs_in(two, connect("b"));
        is_full(one, &Facts::default());
        is_full(two, &Facts::default());
        leaves(one);
        another(two, &Facts::default());
        logs_in(two, connect("c"));
        is_full(one, &Facts::default());
        // For as long as they are there.
        wait(one, two, 20_000);
        is_full(one, &Facts::default());
        is_full(two, &Facts::default());
    });
}

/// It says nothing when it ends: it is not heard of any more.
#[test]
fn the_places_of_a_worker_that_is_gone_are_free_after_five_seconds() {
    two_workers(with(1), |one, two| {
        logs_in(one, connect("a"));
        wait(one, two, 10_000);
        is_full(two, &Facts::default());
        two.advance(3_000);
        is_full(two, &Facts::default());
        two.advance(2_500);
        another(two, &Facts::default());
        logs_in(two, connect("b"));
    });
}

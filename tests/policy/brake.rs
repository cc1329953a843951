//! The brake on guessing passwords.

use crate::*;

const HERE: &str = "198.51.100.1";

fn config() -> Value {
    json!({
        "users": [user("u", "right"), user("v", "right")],
        "max_login_failures_per_address": 3, "max_login_failures_per_user": 5, "login_failure_window": 10_000,
    })
}

/// A client connects from an address and says who it is.
fn tries(t: &mut Talk, address: &str, username: &str, password: &str) -> Option<&'static str> {
    another(t, &from(address));
    // Not from the log, which has only so many lines a second.
    let count = |t: &Talk, reason: &str| t.counter(&format!("refused.by.{reason}"));
    let reasons = ["wrong_password", "unknown_user", "guessing"];
    let before = reasons.map(|reason| count(t, reason));
    t.client(connect_as(username, password));
    let reason = reasons.into_iter().zip(before).find(|(reason, before)| count(t, reason) > *before);
    let reason = reason.map(|(reason, _)| reason);
    if reason.is_some() {
        t.expect_protocol_header();
        t.broker_at_once(b"x");
        t.hears(connack(4));
    } else {
        t.agree();
        t.hears(connack(0));
    }
    reason
}

/// So many wrong passwords, each another one.
#[track_caller]
fn guesses(t: &mut Talk, address: &str, username: &str, passwords: std::ops::Range<u32>) {
    for number in passwords {
        let answer = tries(t, address, username, &format!("guess {number}"));
        assert!(matches!(answer, Some("wrong_password" | "unknown_user")), "{}: {answer:?}", t.name);
    }
}

#[test]
fn an_address_that_guesses_is_held_for_a_while() {
    both(config(), |t| {
        guesses(t, HERE, "u", 0..2);
        t.advance(4_000);
        guesses(t, HERE, "nobody", 2..3);
        assert_eq!(tries(t, HERE, "v", "right"), Some("guessing"), "{}: whoever it says it is", t.name);
        assert_eq!(tries(t, HERE, "v", "wrong"), Some("guessing"), "and nothing is looked up");
        assert_eq!(tries(t, "198.51.100.2", "v", "right"), None, "elsewhere it is another matter");
        t.advance(5_800);
        assert_eq!(tries(t, HERE, "v", "right"), Some("guessing"));
        t.advance(400);
        assert_eq!(tries(t, HERE, "v", "right"), None);
    });
}

/// It has none that could be guessed.
#[test]
fn a_client_without_a_password_is_let_through() {
    both(config(), |t| {
        guesses(t, HERE, "u", 0..3);
        another(t, &from(HERE));
        is_refused(t, connect_anonymous(), 5, "not_loopback");
        another(t, &from(HERE));
        is_refused(t, connect_as("u", "right"), 4, "guessing");
    });
}

#[test]
fn of_ipv6_a_network_is_one_address() {
    both(config(), |t| {
        for (address, number) in [("2001:db8::1", 0), ("2001:db8::2", 1), ("2001:db8::ffff:3", 2)] {
            guesses(t, address, "u", number..number + 1);
        }
        assert_eq!(tries(t, "2001:db8::99", "v", "right"), Some("guessing"));
        assert_eq!(tries(t, "2001:db8:0:1::1", "v", "right"), None);
    });
    // And IPv4 is IPv4, whatever carries it.
    both(config(), |t| {
        guesses(t, HERE, "u", 0..2);
        guesses(t, "::ffff:198.51.100.1", "u", 2..3);
        assert_eq!(tries(t, HERE, "v", "right"), Some("guessing"));
    });
}

#[test]
fn a_user_who_is_guessed_at_from_everywhere_is_held() {
    both(config(), |t| {
        for number in 0..5 {
            guesses(t, &format!("192.0.2.{number}"), "u", 0..1);
        }
        assert_eq!(tries(t, HERE, "u", "right"), Some("guessing"));
        assert_eq!(tries(t, HERE, "v", "right"), None);
        t.advance(10_000);
        assert_eq!(tries(t, HERE, "u", "right"), None);
    });
}

#[test]
fn the_same_wrong_password_again_is_no_guess() {
    both(config(), |t| {
        for number in 0..20 {
            // Nor is it looked at for ever.
            let answer = if number < 3 { "wrong_password" } else { "guessing" };
            assert_eq!(tries(t, HERE, "u", "old"), Some(answer), "{}", t.name);
        }
        assert_eq!(tries(t, HERE, "u", "right"), None);
        assert_eq!(tries(t, HERE, "v", "right"), None);
        // For another user it is one.
        assert_eq!(tries(t, HERE, "w", "old"), Some("unknown_user"));
        assert_eq!(tries(t, HERE, "x", "old"), Some("unknown_user"));
        assert_eq!(tries(t, HERE, "y", "right"), Some("guessing"));
    });
}

/// A device with an old password behind the same router does not lock it out, nor does somebody who guesses elsewhere.
#[test]
fn who_has_logged_in_from_there_is_let_through() {
    both(config(), |t| {
        assert_eq!(tries(t, HERE, "u", "right"), None);
        guesses(t, HERE, "v", 0..3);
        assert_eq!(tries(t, HERE, "v", "right"), Some("guessing"));
        assert_eq!(tries(t, HERE, "u", "right"), None);
        assert_eq!(tries(t, HERE, "u", "wrong"), Some("wrong_password"), "it is looked up");
    });
    both(config(), |t| {
        assert_eq!(tries(t, HERE, "u", "right"), None);
        for number in 0..5 {
            guesses(t, &format!("192.0.2.{number}"), "u", 0..1);
        }
        assert_eq!(tries(t, HERE, "u", "right"), None);
        assert_eq!(tries(t, "198.51.100.2", "u", "right"), Some("guessing"), "only there");
    });
}

/// Where the broker is not going to say anything about it, being verified here is enough.
#[test]
fn behind_a_broker_user_too() {
    let mut config = config();
    config["broker_user"] = "edge".into();
    config["broker_pass"] = "e".into();
    both(config, |t| {
        assert_eq!(tries(t, HERE, "u", "right"), None);
        guesses(t, HERE, "v", 0..3);
        assert_eq!(tries(t, HERE, "v", "right"), Some("guessing"));
        assert_eq!(tries(t, HERE, "u", "right"), None);
    });
}

/// A client connects from here, and the broker refuses its password, or something else.
fn broker_refuses(t: &mut Talk, password: &str, code: u16, text: &str, connack_code: u8) {
    another(t, &from(HERE));
    t.client(connect_as("u", password));
    t.reply(methods::CONNECTION, methods::start("RabbitMQ", "4.1.0", "PLAIN"));
    t.reply(methods::CONNECTION, methods::close(code, text));
    t.hears(connack(connack_code));
}

#[test]
fn what_the_broker_refuses_counts() {
    let mut config = config();
    config.as_object_mut().unwrap().remove("users");
    both(config.clone(), |t| {
        for number in 0..3 {
            broker_refuses(t, &number.to_string(), 403, "ACCESS_REFUSED - Login was refused", 4);
        }
        assert_eq!(t.counter("refused.by.broker"), 3);
        another(t, &from(HERE));
        is_refused(t, connect_as("v", "any"), 4, "guessing");
    });
    // The same one again does not; nor does what is no matter of passwords.
    both(config.clone(), |t| {
        for _ in 0..9 {
            broker_refuses(t, "old", 403, "ACCESS_REFUSED - Login was refused", 4);
        }
        for number in 0..9 {
            broker_refuses(t, &number.to_string(), 530, "NOT_ALLOWED - access to vhost refused for user", 5);
        }
        another(t, &from(HERE));
        logs_in(t, connect_as("v", "any"));
    });
    // Who got in at the broker is welcome, and only then.
    both(config, |t| {
        broker_refuses(t, "0", 403, "ACCESS_REFUSED - Login was refused", 4);
        another(t, &from(HERE));
        logs_in(t, connect_as("v", "any"));
        for number in 1..3 {
            broker_refuses(t, &number.to_string(), 403, "ACCESS_REFUSED - Login was refused", 4);
        }
        another(t, &from(HERE));
        is_refused(t, connect_as("u", "any"), 4, "guessing");
        another(t, &from(HERE));
        logs_in(t, connect_as("v", "any"));
    });
}

#[test]
fn zero_is_no_brake() {
    let mut config = config();
    config["max_login_failures_per_address"] = 0.into();
    both(config.clone(), |t| {
        guesses(t, HERE, "w", 0..4);
        assert_eq!(tries(t, HERE, "u", "right"), None);
        guesses(t, HERE, "w", 4..5);
        assert_eq!(tries(t, HERE, "w", "x"), Some("guessing"), "for the user it is still on");
    });
    config["max_login_failures_per_user"] = 0.into();
    both(config, |t| guesses(t, HERE, "u", 0..40));
}

#[test]
fn the_defaults() {
    both(json!({ "users": [user("u", "right")] }), |t| {
        guesses(t, HERE, "u", 0..30);
        assert_eq!(tries(t, HERE, "v", "x"), Some("guessing"));
        for number in 0..70 {
            guesses(t, &format!("192.0.2.{number}"), "u", 0..1);
        }
        assert_eq!(tries(t, "203.0.113.1", "u", "right"), Some("guessing"));
        t.advance(59_500);
        assert_eq!(tries(t, "203.0.113.1", "u", "right"), Some("guessing"));
        t.advance(1_000);
        assert_eq!(tries(t, "203.0.113.1", "u", "right"), None);
    });
}

#[test]
fn each_worker_counts_for_itself() {
    two_workers(config(), |one, two| {
        guesses(one, HERE, "u", 0..3);
        assert_eq!(tries(one, HERE, "v", "right"), Some("guessing"));
        assert_eq!(tries(two, HERE, "v", "right"), None);
    });
}

/// A tenant's user is another one than the user of that name of another tenant.
#[test]
fn users_are_those_of_their_tenant() {
    let tenant = |name: &str, port: u16| json!({ "name": name, "match": { "port": port }, "users": [user("u", "right")] });
    let config = json!({
        "max_login_failures_per_user": 2, "tenants": [tenant("a", 1001), tenant("b", 1002)],
    });
    both(config, |t| {
        let at = |port, last: u8| Facts { port, ..from(&format!("192.0.2.{last}")) };
        for (last, password) in [(1, "x"), (2, "y")] {
            another(t, &at(1001, last));
            is_refused(t, connect_as("u", password), 4, "wrong_password");
        }
        another(t, &at(1001, 3));
        is_refused(t, connect_as("u", "right"), 4, "guessing");
        another(t, &at(1002, 3));
        logs_in(t, connect_as("u", "right"));
    });
}

//! What becomes of a client whose PUBLISH policy does not permit. (tests/bridge has what becomes of it when the broker does not.)

use crate::*;
use support::methods::*;

fn config(on_unauthorized: &str) -> Value {
    json!({ "on_unauthorized": on_unauthorized, "publish": { "allow": ["a/#"] } })
}

#[track_caller]
fn is_disconnected(t: &mut Talk) {
    t.expect_goodbye();
    t.expect_silence();
    t.reply(CONNECTION, close_ok());
    t.closes();
    t.hears_nothing();
    assert_eq!((t.counter("closed.denied"), t.counter("denied.by.grant")), (1, 1), "{}", t.name);
    assert_eq!((t.counter("denied.publish"), t.counter("unauthorized")), (0, 0));
    logged(t, "closed: PUBLISH denied: no allow entry matches");
}

/// Nothing of the message goes to the broker, nor of what the client says behind it.
#[test]
fn disconnect_is_the_default() {
    for config in [config("disconnect"), json!({ "publish": { "allow": ["a/#"] } })] {
        for qos in 0..=2 {
            both(config.clone(), |t| {
                logs_in(t, connect("c"));
                t.client([publish(qos, 7, "secret", &[7; 300]), publish(0, 0, "a/b", b"x")].concat());
                is_disconnected(t);
            });
        }
    }
}

/// Its head is enough.
#[test]
fn disconnect_does_not_wait_for_the_payload() {
    both(config("disconnect"), |t| {
        logs_in(t, connect("c"));
        t.client(&publish(1, 7, "secret", &[7; 300])[..30]);
        is_disconnected(t);
    });
}

#[test]
fn what_was_ahead_of_it_is_published() {
    both(config("disconnect"), |t| {
        logs_in(t, connect("c"));
        t.client([publish(0, 0, "a", b"x"), publish(0, 0, "secret", b"x")].concat());
        t.expect(PUBLISH, channel_open());
        t.expect_publish(PUBLISH, "a", b"x");
        t.reply(PUBLISH, channel_open_ok());
        t.routes();
        is_disconnected(t);
    });
}

/// A will is not the client's to take back by breaking a rule.
#[test]
fn disconnect_leaves_the_will() {
    let mut config = config("disconnect");
    config["publish"] = json!({ "allow": ["w", "a"] });
    both(config, |t| {
        t.client(connect_will(1, "w", "gone"));
        t.agree();
        t.hears(connack(0));
        t.client(publish(0, 0, "secret", b"x"));
        t.expect_last_will(1);
        t.send_will();
        is_disconnected(t);
    });
}

/// What is said behind CONNECT is looked at once that is answered.
#[test]
fn disconnect_right_behind_connect() {
    both(config("disconnect"), |t| {
        t.client([connect("c"), publish(1, 7, "secret", b"x")].concat());
        let told = t.agree();
        assert!(publishes(&told).is_empty(), "{}", t.name);
        t.closes();
        t.hears(connack(0));
        assert_eq!(t.counter("closed.denied"), 1);
    });
}

#[test]
fn drop_acknowledges_as_if_it_were_not_dropped() {
    for (qos, receipts) in [(0, vec![]), (1, puback(7)), (2, pubrec(7))] {
        both(config("drop"), |t| {
            logs_in(t, connect("c"));
            t.client(publish(qos, 7, "secret", b"x"));
            assert!(publishes(&t.agree()).is_empty(), "{}", t.name);
            t.hears(&receipts);
            if qos == 2 {
                // Again, for all the client knows, is once.
                t.client([publish(2, 7, "secret", b"x"), pubrel(7)].concat());
                assert!(publishes(&t.agree()).is_empty(), "{}", t.name);
                t.hears([pubrec(7), pubcomp(7)].concat());
            }
            t.stays_open();
            assert_eq!(t.counter("denied.publish"), t.counter("denied.by.grant"));
            assert_eq!((t.counter("closed.denied"), t.counter("unauthorized")), (0, 0));
            logged(t, "dropped a PUBLISH: no allow entry matches");
        });
    }
}

/// Its receipt comes in its turn.
#[test]
fn drop_acknowledges_behind_what_was_said_before() {
    both(config("drop"), |t| {
        logs_in(t, connect("c"));
        t.client([publish(1, 6, "a/b", b"x"), publish(2, 7, "secret", b"x")].concat());
        t.hears_nothing();
        assert_eq!(publishes(&t.agree()).len(), 1, "{}", t.name);
        t.hears([puback(6), pubrec(7)].concat());
    });
}

/// Its payload, however it is cut, is nobody's: not the message's ahead of it, nor of the one behind.
#[test]
fn a_dropped_payload_is_passed_over() {
    for qos in 0..=2 {
        for size in [0, 1, 39, 5_000] {
            both(config("drop"), |t| {
                logs_in(t, connect("c"));
                t.client(
                    [
                        publish(qos, 1, "a/1", b"one"),
                        publish(qos, 2, "secret", &vec![7; size]),
                        publish(qos, 3, "a/3", b"three"),
                        publish(0, 0, "secret", &vec![8; size]),
                        publish(1, 4, "a/4", &[4; 100]),
                    ]
                    .concat(),
                );
                let expected = [("a.1", &b"one"[..]), ("a.3", b"three"), ("a.4", &[4; 100])];
                let expected = expected.map(|(key, payload)| (key.to_owned(), payload.to_vec()));
                assert_eq!(publishes(&t.agree()), expected, "{}: {qos} {size}", t.name);
                let mut heard = t.take_heard();
                let mut receipts = match qos {
                    0 => puback(4),
                    1 => [puback(1), puback(2), puback(3), puback(4)].concat(),
                    _ => [pubrec(1), pubrec(2), pubrec(3), puback(4)].concat(),
                };
                heard.sort_unstable();
                receipts.sort_unstable();
                assert_eq!(heard, receipts, "{}: {qos} {size}", t.name);
            });
        }
    }
}

#[test]
fn drop_ahead_of_connack() {
    both(config("drop"), |t| {
        t.client([connect("c"), publish(1, 7, "secret", b"x"), publish(1, 8, "a", b"x")].concat());
        assert_eq!(publishes(&t.agree()).len(), 1, "{}", t.name);
        t.hears([connack(0), puback(7), puback(8)].concat());
    });
}

/// A message that is dropped is not kept for others either.
#[test]
fn what_is_dropped_is_not_retained() {
    let mut config = config("drop");
    config["retained"] = true.into();
    both(config, |t| {
        logs_in(t, connect("c"));
        t.client([publish_flags(3, 7, "secret", b"x"), publish_flags(1, 0, "secret", b"")].concat());
        let told = t.agree();
        assert!(publishes(&told).is_empty(), "{}", t.name);
        assert!(!told.iter().any(|it| matches!(it, AMQPFrame::Method(KEEP | REPLAY, _))), "{}", t.name);
        t.hears(puback(7));
        assert_eq!((t.counter("retained.kept"), t.counter("retained.cleared")), (0, 0));
    });
}

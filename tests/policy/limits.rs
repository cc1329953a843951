//! Limits of single messages and filters; those of connections and rates have files of their own.

use crate::*;
use amq_protocol::protocol::queue;

/// Who breaks a rule is not disconnected.
fn with(key: &str, value: impl Into<Value>) -> Value {
    json!({ "on_unauthorized": "drop", key: value.into() })
}

/// Whether a PUBLISH gets to the broker.
#[track_caller]
fn passes(t: &mut Talk, packet: Vec<u8>) -> bool {
    t.client(packet);
    let passes = !publishes(&t.agree()).is_empty();
    t.take_heard();
    t.stays_open();
    passes
}

#[test]
fn a_payload_has_at_most_so_many_bytes() {
    both(with("max_payload_size", 100), |t| {
        logs_in(t, connect("c"));
        for qos in 0..=2 {
            assert!(passes(t, publish(qos, 7, "a", &[7; 100])), "{}", t.name);
            assert!(!passes(t, publish(qos, 8, "a", &[7; 101])), "{}", t.name);
        }
        assert_eq!((t.counter("denied.publish"), t.counter("denied.by.max_payload_size")), (3, 3));
        logged(t, "dropped a PUBLISH: payload is larger than max_payload_size");
        assert!(passes(t, publish(0, 0, "a", b"")));
    });
    both(with("max_payload_size", 0), |t| {
        logs_in(t, connect("c"));
        assert!(passes(t, publish(0, 0, "a", b"")) && !passes(t, publish(0, 0, "a", b"x")));
    });
}

#[test]
fn a_publish_above_max_qos_is_refused() {
    for most in 0..=2 {
        both(with("max_qos", most), |t| {
            logs_in(t, connect("c"));
            for qos in 0..=2 {
                assert_eq!(passes(t, publish(qos, 7, "a", b"x")), qos <= most, "{}: {qos} of {most}", t.name);
            }
            assert_eq!(t.counter("denied.by.max_qos"), u64::from(2 - most));
        });
    }
}

/// We deliver at QoS 1 at most.
#[test]
fn a_subscribe_above_max_qos_is_granted_it() {
    for (most, codes) in [(0, [0, 0, 0]), (1, [0, 1, 1]), (2, [0, 1, 1])] {
        both(with("max_qos", most), |t| {
            logs_in(t, connect("c"));
            assert_eq!(subscribes_at(t, &[("a", 0), ("b", 1), ("c", 2)]), codes, "{}: {most}", t.name);
            assert_eq!(t.counter("denied.subscribe"), 0);
        });
    }
}

#[test]
fn retain_may_be_forbidden() {
    let retain = |qos: u8, payload: &[u8]| publish_flags(1 | qos << 1, 7, "a", payload);
    for retained in [true, false] {
        let mut config = with("retain_allowed", false);
        config["retained"] = retained.into();
        both(config, |t| {
            logs_in(t, connect("c"));
            for packet in [retain(0, b"x"), retain(1, b"x"), retain(2, b"x"), retain(0, b"")] {
                assert!(!passes(t, packet), "{}", t.name);
            }
            assert!(passes(t, publish(0, 0, "a", b"x")));
            assert_eq!(t.counter("denied.by.retain_allowed"), 4);
            logged(t, "dropped a PUBLISH: retain_allowed is off");
        });
    }
    both(with("retain_allowed", true), |t| {
        logs_in(t, connect("c"));
        assert!(passes(t, retain(0, b"x")));
    });
}

#[test]
fn topics_and_filters_have_at_most_so_many_levels() {
    both(with("max_topic_levels", 3), |t| {
        logs_in(t, connect("c"));
        for (topic, expected) in [
            ("a", true),
            ("a/b/c", true),
            ("//", true),
            ("a.b.c.d", true),
            ("a/b/c/d", false),
            ("///", false),
        ] {
            assert_eq!(passes(t, publish(0, 0, topic, b"x")), expected, "{}: {topic}", t.name);
        }
        assert_eq!(
            subscribes(t, &["a/+/#", "a/+/+/#", "$share/g/a/b/c", "$share/g/a/b/c/d"]),
            [1, REFUSED, 1, REFUSED]
        );
        assert_eq!(t.counter("denied.by.max_topic_levels"), 4);
        logged(t, "refused a filter: topic has more than max_topic_levels");
    });
    let deep = vec!["a"; 128].join("/");
    both(with("max_topic_levels", 128), |t| {
        logs_in(t, connect("c"));
        assert!(passes(t, publish(0, 0, &deep[..127], b"x")));
    });
}

#[test]
fn a_connection_has_at_most_so_many_filters() {
    let mut config = with("max_subscriptions", 2);
    config["subscribe"] = json!({ "deny": ["secret"] });
    both(config, |t| {
        logs_in(t, connect("c"));
        assert_eq!(subscribes(t, &["secret", "a", "b", "c"]), [REFUSED, 1, 1, REFUSED], "{}", t.name);
        assert_eq!((t.counter("denied.by.max_subscriptions"), t.counter("denied.by.grant")), (1, 1));
        logged(t, "refused a filter: there are max_subscriptions already");
        // One of them again is no more.
        assert_eq!(subscribes_at(t, &[("a", 0), ("b", 1), ("c", 0)]), [0, 1, REFUSED]);
        for (given_up, wanted, code) in [("x", "c", REFUSED), ("a", "c", 1), ("c", "a", 1)] {
            t.client(unsubscribe(5, &[given_up]));
            t.agree();
            t.hears(unsuback(5));
            assert_eq!(subscribes(t, &[wanted, "d"]), [code, REFUSED], "{}: {given_up}", t.name);
        }
        // Another connection has as many of its own.
        another(t, &Facts::default());
        logs_in(t, connect("d"));
        assert_eq!(subscribes(t, &["e", "f", "g"]), [1, 1, REFUSED]);
    });
}

#[test]
fn what_the_broker_refuses_counts_no_more() {
    both(with("max_subscriptions", 2), |t| {
        logs_in(t, connect("c"));
        t.broker.refuse(1, (403, "ACCESS_REFUSED"), |_, method| {
            matches!(method, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) if bind.routing_key.as_str() == "secret")
        });
        // Not while the broker may still grant it.
        assert_eq!(subscribes(t, &["secret", "a", "b"]), [REFUSED, 1, REFUSED], "{}", t.name);
        assert_eq!(subscribes(t, &["b", "c"]), [1, REFUSED], "{}", t.name);
    });
}

#[test]
fn a_share_counts_as_a_filter() {
    both(with("max_subscriptions", 1), |t| {
        logs_in(t, connect("c"));
        assert_eq!(subscribes(t, &["$share/g/a", "a"]), [1, REFUSED]);
        t.client(unsubscribe(5, &["$share/g/a"]));
        t.agree();
        t.hears(unsuback(5));
        assert_eq!(subscribes(t, &["a", "$share/g/a"]), [1, REFUSED]);
    });
}

#[test]
fn what_is_no_limit() {
    for (key, wrong) in [
        ("max_connections", vec![json!(0), json!(1.5), json!(4_294_967_296_u64)]),
        ("message_rate", vec![json!(0), json!(-1)]),
        ("byte_rate", vec![json!(0)]),
        ("client_message_rate", vec![json!(0)]),
        ("client_byte_rate", vec![json!(0)]),
        ("max_inflight", vec![json!(0), json!(65_536)]),
        ("max_payload_size", vec![json!(-1), json!(268_435_456)]),
        ("max_qos", vec![json!(3), json!(-1)]),
        ("max_topic_levels", vec![json!(0), json!(129)]),
        ("max_subscriptions", vec![json!(0)]),
        ("prefetch", vec![json!(0), json!(65_536)]),
        ("retain_allowed", vec![json!(0), json!("yes")]),
        ("max_login_failures_per_address", vec![json!(-1)]),
        ("max_login_failures_per_user", vec![json!(-1)]),
        ("login_failure_window", vec![json!(-1)]),
    ] {
        for value in wrong.into_iter().chain([json!("x"), json!([])]) {
            assert_eq!(error_of(json!({ key: value })).path(), key, "{value}");
        }
    }
}

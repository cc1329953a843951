//! Wills are publishes: one that may not be published is refused with its CONNECT.

use crate::*;

/// CONNECT of `c` with a will.
fn with_will(qos: u8, retain: bool, topic: &str, payload: &str) -> Vec<u8> {
    connect_with(0xc6 | qos << 3 | u8::from(retain) << 5, 0, &["c", topic, payload, "u", "p"])
}

#[track_caller]
fn is_refused(config: Value, connect: Vec<u8>, why: &str) {
    // It is no PUBLISH that could be dropped.
    for on_unauthorized in ["disconnect", "drop"] {
        let mut config = config.clone();
        config["on_unauthorized"] = on_unauthorized.into();
        both(config, |t| {
            t.client(&connect);
            assert_eq!(t.counter("refused.by.will"), 1, "{}: {why}: {:?}", t.name, t.subject.logs());
            logged(t, &format!("CONNACK 5: refused: will may not be published: {why}"));
            t.expect_protocol_header();
            t.expect_silence();
            t.broker_at_once(b"x");
            t.hears(connack(5));
            t.closes();
        });
    }
}

#[track_caller]
fn is_taken(config: Value, connect: Vec<u8>) {
    both(config, |t| drop(logs_in(t, &connect)));
}

#[test]
fn grants() {
    let config = json!({ "publish": { "allow": ["w/{client_id}", "x/#"], "deny": ["x/secret"] } });
    for topic in ["w/c", "x", "x/y"] {
        is_taken(config.clone(), with_will(1, false, topic, "gone"));
    }
    for topic in ["w/d", "y"] {
        is_refused(config.clone(), with_will(1, false, topic, "gone"), "no allow entry matches");
    }
    is_refused(config, with_will(0, false, "x/secret", "gone"), "a deny entry matches");
}

#[test]
fn permissions() {
    let with = |write: &str| {
        json!({
            "permissions": [{ "user": "u", "vhost": "/", "configure": ".*", "write": write, "read": ".*" }],
        })
    };
    is_taken(with(".*"), with_will(1, false, "w", "gone"));
    is_refused(with("^mqtt"), with_will(1, false, "w", "gone"), "the user's permissions lack the exchange");
    let topics = json!({
        "topic_permissions": [
            { "user": "u", "vhost": "/", "exchange": "amq.topic", "write": "^w\\.{client_id}$", "read": "" },
        ],
    });
    is_taken(topics.clone(), with_will(1, false, "w/c", "gone"));
    is_refused(topics, with_will(1, false, "w/d", "gone"), "the user's topic permissions lack the topic");
}

#[test]
fn limits() {
    let payload = json!({ "max_payload_size": 4 });
    is_taken(payload.clone(), with_will(1, false, "w", "gone"));
    is_refused(payload, with_will(1, false, "w", "gone."), "payload is larger than max_payload_size");
    let qos = json!({ "max_qos": 1 });
    is_taken(qos.clone(), with_will(1, false, "w", "gone"));
    is_refused(qos, with_will(2, false, "w", "gone"), "QoS is above max_qos");
    let retain = json!({ "retain_allowed": false });
    is_taken(retain.clone(), with_will(1, false, "w", "gone"));
    is_refused(retain, with_will(1, true, "w", "gone"), "retain_allowed is off");
    let levels = json!({ "max_topic_levels": 2 });
    is_taken(levels.clone(), with_will(1, false, "w/x", "gone"));
    is_refused(levels, with_will(1, false, "w/x/y", "gone"), "topic has more than max_topic_levels");
}

/// It is the will of a client that is let in.
#[test]
fn whoever_may_not_come_in_hears_that_first() {
    let config = json!({ "users": [], "publish": { "allow": [] } });
    both(config, |t| crate::is_refused(t, with_will(1, false, "w", "gone"), 4, "unknown_user"));
}

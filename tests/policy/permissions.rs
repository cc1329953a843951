//! RabbitMQ's permissions, enforced at the edge.

use crate::*;

fn permission(vhost: &str, [configure, write, read]: [&str; 3]) -> Value {
    json!({ "user": "u", "vhost": vhost, "configure": configure, "write": write, "read": read })
}

fn with(permissions: &[Value]) -> Value {
    json!({ "on_unauthorized": "drop", "permissions": permissions })
}

#[test]
fn a_user_has_to_have_an_entry_for_its_virtual_host() {
    let config = with(&[permission("/", [".*"; 3]), permission("v", [""; 3])]);
    both(config.clone(), |t| drop(logs_in(t, connect_as("u", "p"))));
    both(config.clone(), |t| drop(logs_in(t, connect_as("v:u", "p"))));
    for username in ["w", "w:u", "v:w", "U"] {
        both(config.clone(), |t| is_refused(t, connect_as(username, "p"), 5, "vhost_access"));
    }
    both(config, |t| is_refused(t, connect_anonymous(), 5, "vhost_access"));
    both(with(&[]), |t| is_refused(t, connect_as("u", "p"), 5, "vhost_access"));
}

#[test]
fn publish_needs_write_on_the_exchange() {
    for (write, expected) in [
        ("^amq\\.topic$", true),
        ("topic", true),
        (".*", true),
        ("^topic", false),
        ("", false),
        ("^$", false),
    ] {
        both(with(&[permission("/", [".*", write, ".*"])]), |t| {
            logs_in(t, connect("c"));
            assert_eq!(may_publish(t, "a"), expected, "{}: {write}", t.name);
            assert_eq!(t.counter("denied.by.permission"), u64::from(!expected));
        });
    }
    both(with(&[permission("/", ["", "^amq", ""])]), |t| {
        logs_in(t, connect("c"));
        assert!(may_publish(t, "a"), "{}: nothing else", t.name);
    });
    let mut config = with(&[permission("/", [".*", "^amq", ".*"])]);
    config["exchange"] = "other".into();
    both(config, |t| {
        logs_in(t, connect("c"));
        assert!(!may_publish(t, "a"), "{}: it is another exchange", t.name);
        logged(t, "dropped a PUBLISH: the user's permissions lack the exchange");
    });
}

#[test]
fn subscribe_needs_read_on_the_exchange_and_all_on_its_queue() {
    const QUEUE: &str = "^mqtt-subscription-cqos1$";
    const BOTH: &str = "^(amq\\.topic|mqtt-subscription-cqos1)$";
    for ([configure, write, read], denied) in [
        ([QUEUE, QUEUE, BOTH], None),
        ([".*", ".*", QUEUE], Some("permission")),
        (["", ".*", ".*"], Some("queue_permission")),
        ([".*", "^amq", ".*"], Some("queue_permission")),
        ([".*", ".*", "^amq"], Some("queue_permission")),
        ([QUEUE, QUEUE, ""], Some("permission")),
    ] {
        both(with(&[permission("/", [configure, write, read])]), |t| {
            logs_in(t, connect("c"));
            let code = if denied.is_some() { REFUSED } else { 1 };
            assert_eq!(subscribes(t, &["a"]), [code], "{}: {denied:?}", t.name);
            if let Some(reason) = denied {
                assert_eq!(t.counter(&format!("denied.by.{reason}")), 1, "{}: {reason}", t.name);
            }
        });
    }
}

/// Each QoS has its queue.
#[test]
fn the_queue_is_that_of_the_qos_that_is_granted() {
    for (pattern, codes) in [("(topic|qos0)$", [0, REFUSED, REFUSED]), ("(topic|qos1)$", [REFUSED, 1, 1])] {
        both(with(&[permission("/", [pattern; 3])]), |t| {
            logs_in(t, connect("c"));
            assert_eq!(subscribes_at(t, &[("a", 0), ("b", 1), ("c", 2)]), codes, "{}: {pattern}", t.name);
        });
    }
    let mut config = with(&[permission("/", ["(topic|qos0)$"; 3])]);
    config["max_qos"] = 0.into();
    both(config, |t| {
        logs_in(t, connect("c"));
        assert_eq!(subscribes(t, &["a"]), [0], "{}", t.name);
        logged(t, "accepted");
    });
}

#[test]
fn a_queue_prefix_is_a_part_of_the_name() {
    let mut config = with(&[permission("/", ["^(amq|acme\\.mqtt-subscription-c)"; 3])]);
    both(config.clone(), |t| {
        logs_in(t, connect("c"));
        assert_eq!(subscribes(t, &["a"]), [REFUSED]);
    });
    config["queue_prefix"] = "acme.".into();
    both(config, |t| {
        logs_in(t, connect("c"));
        assert_eq!(subscribes(t, &["a"]), [1]);
    });
}

fn topics(entries: Value) -> Value {
    json!({ "on_unauthorized": "drop", "topic_permissions": entries })
}

fn topic_permission(write: &str, read: &str) -> Value {
    json!({ "user": "u", "vhost": "/", "exchange": "amq.topic", "write": write, "read": read })
}

#[test]
fn topic_permissions_are_over_the_dotted_key() {
    both(topics(json!([topic_permission("^a\\.b$", "^(c|\\*)\\.d")])), |t| {
        logs_in(t, connect("c"));
        assert!(may_publish(t, "a/b") && may_publish(t, "a.b"));
        assert!(!may_publish(t, "a/b/c") && !may_publish(t, "axb") && !may_publish(t, "c/d"));
        assert_eq!(t.counter("denied.by.topic_permission"), 3);
        logged(t, "dropped a PUBLISH: the user's topic permissions lack the topic");
        assert_eq!(subscribes(t, &["c/d", "c/d/#", "+/d", "a/b", "#"]), [1, 1, 1, REFUSED, REFUSED]);
        logged(t, "refused a filter: the user's topic permissions lack the topic");
    });
}

#[test]
fn an_empty_expression_matches_nothing() {
    both(topics(json!([topic_permission("", ".*")])), |t| {
        logs_in(t, connect("c"));
        assert!(!may_publish(t, "a"));
        assert_eq!(subscribes(t, &["a"]), [1]);
    });
}

/// In the client's own virtual host, on the exchange that there is. Who has no entry may use all topics, as in RabbitMQ.
#[test]
fn whose_they_are() {
    for (key, value) in [("user", "other"), ("vhost", "other"), ("exchange", "other")] {
        let mut entry = topic_permission("", "");
        entry[key] = value.into();
        both(topics(json!([entry])), |t| {
            logs_in(t, connect("c"));
            assert!(may_publish(t, "a"), "{}: {key}", t.name);
            assert_eq!(subscribes(t, &["a"]), [1], "{}: {key}", t.name);
        });
    }
}

/// What RabbitMQ cannot do over AMQP for `{client_id}`.
#[test]
fn variables_are_the_client_s_own_taken_literally() {
    let entry = |vhost: &str, write: &str| {
        let mut entry = topic_permission(write, ".*");
        entry["vhost"] = vhost.into();
        topics(json!([entry]))
    };
    both(entry("/", "^d\\.{client_id}\\."), |t| {
        logs_in(t, connect("c.1"));
        assert!(may_publish(t, "d/c.1/x"));
        assert!(!may_publish(t, "d/c2/x") && !may_publish(t, "d/cx1/x"), "a dot is a dot");
    });
    both(entry("/", "^d\\.{client_id}$"), |t| {
        logs_in(t, connect(".*"));
        assert!(!may_publish(t, "d/anything"));
    });
    both(entry("v1", "^{vhost}\\.{username}$"), |t| {
        logs_in(t, connect_as("v1:u", "p"));
        assert!(may_publish(t, "v1/u"));
        assert!(!may_publish(t, "v1/w") && !may_publish(t, "v2/u"));
    });
    // Others are no variables here.
    assert!(
        Config::from_json(topics(json!([topic_permission("^{tenant}", "")])).to_string().as_bytes()).is_err()
    );
}

#[test]
fn what_is_no_expression() {
    for expression in ["(", "a(?=b)", "(?!a)", "(a)\\1", "(?<=a)b"] {
        for key in ["configure", "write", "read"] {
            let mut entry = permission("/", [".*"; 3]);
            entry[key] = expression.into();
            assert_eq!(error_of(with(&[entry])).path(), format!("permissions[0].{key}"));
        }
        let error = error_of(topics(json!([topic_permission(".*", expression)])));
        assert_eq!(error.path(), "topic_permissions[0].read");
    }
}

/// It holds for who shares an account at the broker.
#[test]
fn behind_a_broker_user() {
    let mut config = with(&[permission("/", [".*", "", ".*"])]);
    config["users"] = json!([user("u", "p")]);
    config["broker_user"] = "edge".into();
    config["broker_pass"] = "e".into();
    both(config, |t| {
        logs_in_as(t, connect_as("u", "p"), ["edge", "e"]);
        assert!(!may_publish(t, "a"));
    });
}

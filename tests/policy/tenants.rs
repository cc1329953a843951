//! What a client has of its tenant, and what of the top level.

use crate::*;
use amq_protocol::protocol::queue;

/// A key with two values.
struct Key {
    key: &'static str,
    one: Value,
    other: Value,
    /// By which of them it goes.
    has: fn(&mut Talk) -> Has,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    One,
    Other,
}

fn one_if(one: bool) -> Has {
    if one { Has::One } else { Has::Other }
}

/// Whether a client is let in.
fn gets_in(t: &mut Talk, connect: Vec<u8>) -> bool {
    t.client(connect);
    t.agree();
    t.broker_at_once(b"");
    let heard = t.take_heard();
    heard == connack(0)
}

/// Whether twenty messages come through at once.
fn all_of_a_burst(t: &mut Talk) -> Has {
    logged_in(t);
    t.advance(5_000);
    t.agree();
    t.client(publish(0, 0, "a", b"x").repeat(20));
    one_if(publishes(&t.agree()).len() == 20)
}

fn logged_in(t: &mut Talk) -> Vec<AMQPFrame> {
    t.client(connect("c"));
    let told = t.agree();
    t.hears(connack(0));
    told
}

#[test]
fn each_key_is_the_tenant_s_or_the_top_level_s() {
    let keys = [
        Key {
            key: "exchange",
            one: json!("e-top"),
            other: json!("e-own"),
            has: |t| {
                logged_in(t);
                t.client(publish(0, 0, "a", b"x"));
                one_if(exchanges(&t.agree()) == ["e-top"])
            },
        },
        Key {
            key: "queue_prefix",
            one: json!("top."),
            other: json!("own."),
            has: |t| {
                let told = logged_in(t);
                one_if(queues(&told).iter().all(|queue| queue.starts_with("top.")))
            },
        },
        Key {
            key: "cluster",
            one: json!("c-top"),
            other: json!("c-own"),
            has: |t| {
                logged_in(t);
                one_if(t.subject.upstream(t.connection) == Some("c-top"))
            },
        },
        Key {
            key: "allow_anonymous",
            one: json!(true),
            other: json!(false),
            has: |t| one_if(gets_in(t, connect_anonymous())),
        },
        Key {
            key: "default_user",
            one: json!("top"),
            other: json!("own"),
            has: |t| one_if(logs_in(t, connect_anonymous()).username == "top"),
        },
        Key {
            key: "default_pass",
            one: json!("top"),
            other: json!("own"),
            has: |t| one_if(logs_in(t, connect_anonymous()).password == "top"),
        },
        Key {
            key: "loopback_users",
            one: json!([]),
            other: json!(["u"]),
            has: |t| {
                another(t, &Facts { port: 1, ..from("192.0.2.7") });
                one_if(gets_in(t, connect("c")))
            },
        },
        Key {
            key: "users",
            one: json!([user("u", "p")]),
            other: json!([user("u", "q")]),
            has: |t| one_if(gets_in(t, connect("c"))),
        },
        Key {
            key: "permissions",
            one: json!([]),
            other: json!([permission(".*")]),
            has: |t| one_if(!gets_in(t, connect("c"))),
        },
        Key {
            key: "topic_permissions",
            one: topic_permission("^top"),
            other: topic_permission("^own"),
            has: |t| {
                logged_in(t);
                one_if(may_publish(t, "top"))
            },
        },
        Key {
            key: "client_id_pattern",
            one: json!("c"),
            other: json!("d"),
            has: |t| one_if(gets_in(t, connect("c"))),
        },
        Key {
            key: "on_unauthorized",
            one: json!("drop"),
            other: json!("disconnect"),
            has: |t| {
                logged_in(t);
                t.client(publish_flags(1, 0, "a", b"x"));
                t.agree();
                t.advance(100);
                one_if(!t.closed())
            },
        },
        Key {
            key: "retained",
            one: json!(true),
            other: json!(false),
            has: |t| {
                logged_in(t);
                t.client(publish_flags(1, 0, "a", b"x"));
                let told = t.agree();
                one_if(told.iter().any(|it| matches!(it, AMQPFrame::Method(methods::KEEP, _))))
            },
        },
        Key {
            key: "prefetch",
            one: json!(7),
            other: json!(8),
            has: |t| {
                let told = logged_in(t);
                one_if(told.contains(&AMQPFrame::Method(methods::CONSUME, methods::qos(7))))
            },
        },
        Key {
            key: "publish",
            one: json!({ "deny": ["own"] }),
            other: json!({ "deny": ["top"] }),
            has: |t| {
                logged_in(t);
                one_if(may_publish(t, "top"))
            },
        },
        Key {
            key: "subscribe",
            one: json!({ "deny": ["own"] }),
            other: json!({ "deny": ["top"] }),
            has: |t| {
                logged_in(t);
                one_if(subscribes(t, &["top"]) == [1])
            },
        },
        Key { key: "client_message_rate", one: json!(1000), other: json!(5), has: all_of_a_burst },
        Key { key: "client_byte_rate", one: json!(100_000), other: json!(50), has: all_of_a_burst },
        Key { key: "message_rate", one: json!(1000), other: json!(5), has: all_of_a_burst },
        Key { key: "byte_rate", one: json!(100_000), other: json!(50), has: all_of_a_burst },
        Key {
            key: "retain_allowed",
            one: json!(false),
            other: json!(true),
            has: |t| {
                logged_in(t);
                t.client(publish_flags(1, 0, "a", b"x"));
                one_if(publishes(&t.agree()).is_empty())
            },
        },
        Key {
            key: "max_connections",
            one: json!(1),
            other: json!(2),
            has: |t| {
                logged_in(t);
                another(t, &Facts { port: 1, ..Facts::default() });
                one_if(!gets_in(t, connect("d")))
            },
        },
        Key {
            key: "max_inflight",
            one: json!(5),
            other: json!(1),
            has: |t| {
                logged_in(t);
                t.client((1..=3).flat_map(|id| publish(1, id, "a", b"x")).collect::<Vec<_>>());
                one_if(publishes(&t.broker.heard().iter().cloned().collect::<Vec<_>>()).len() == 3)
            },
        },
        Key {
            key: "max_payload_size",
            one: json!(10),
            other: json!(1),
            has: |t| {
                logged_in(t);
                t.client(publish(0, 0, "a", b"xx"));
                one_if(!publishes(&t.agree()).is_empty())
            },
        },
        Key {
            key: "max_qos",
            one: json!(0),
            other: json!(1),
            has: |t| {
                logged_in(t);
                one_if(subscribes(t, &["a"]) == [0])
            },
        },
        Key {
            key: "max_topic_levels",
            one: json!(1),
            other: json!(2),
            has: |t| {
                logged_in(t);
                one_if(!may_publish(t, "a/b"))
            },
        },
        Key {
            key: "max_subscriptions",
            one: json!(1),
            other: json!(2),
            has: |t| {
                logged_in(t);
                one_if(subscribes(t, &["a", "b"]) == [1, REFUSED])
            },
        },
    ];
    for Key { key, one, other, has } in keys {
        // What the top level says, what the tenant says, and which of them its clients have.
        for (top, own, expected) in [
            (&one, None, Has::One),
            (&other, None, Has::Other),
            (&one, Some(&other), Has::Other),
            (&other, Some(&one), Has::One),
        ] {
            let mut config = json!({
                "on_unauthorized": "drop",
                key: top,
                "tenants": [{ "name": "t", "match": { "port": 1 } }],
            });
            if key == "on_unauthorized" {
                config["retain_allowed"] = false.into();
            }
            if let Some(own) = own {
                config["tenants"][0][key] = own.clone();
            }
            both_of(&Facts { port: 1, ..Facts::default() }, config.clone(), |t| {
                assert_eq!(has(t), expected, "{}: {config}", t.name);
            });
        }
    }
}

#[test]
fn accounts_and_certificates_are_the_tenant_s_or_the_top_level_s() {
    let client = |port| Facts { port, ..with_certificate(["CN=s", "", ""]) };
    let config = json!({
        "ssl_cert_login": true, "broker_user": "top", "broker_pass": "t",
        "tenants": [
            { "name": "a", "match": { "port": 1 } },
            { "name": "b", "match": { "port": 2 }, "broker_user": "own", "broker_pass": "o" },
            { "name": "c", "match": { "port": 3 }, "ssl_cert_login": false },
        ],
    });
    for (port, login) in [(9, ["top", "t"]), (1, ["top", "t"]), (2, ["own", "o"]), (3, ["guest", "guest"])] {
        both_of(&client(port), config.clone(), |t| logs_in_as(t, connect_anonymous(), login));
    }
}

/// Who anonymous clients are is one matter, whether there are any another.
#[test]
fn a_tenant_may_allow_anonymous_clients_where_others_do_not() {
    let mut config = json!({
        "allow_anonymous": false, "default_user": "someone", "default_pass": "s",
        "tenants": [{ "name": "t", "match": { "port": 1 }, "allow_anonymous": true }],
    });
    both(config.clone(), |t| is_refused(t, connect_anonymous(), 4, "credentials_missing"));
    both_of(&Facts { port: 1, ..Facts::default() }, config.clone(), |t| {
        logs_in_as(t, connect_anonymous(), ["someone", "s"]);
    });
    config["default_user"] = "".into();
    assert_eq!(error_of(config).path(), "tenants[0].default_user");
}

/// Eager connects before a tenant is known.
#[test]
fn a_cluster_of_its_own_needs_lazy_mode() {
    let config = json!({ "connect_mode": "eager", "tenants": [{ "name": "t", "cluster": "c" }] });
    assert_eq!(error_of(config).path(), "tenants[0].cluster");
    assert_eq!(error_of(json!({ "tenants": [{ "name": "t", "cluster": "" }] })).path(), "tenants[0].cluster");
}

/// A client without a tenant goes where `tcp_proxy` says.
#[test]
fn without_a_cluster_it_is_the_proxy_s() {
    let config = json!({ "tenants": [{ "name": "t", "match": { "port": 1 }, "cluster": "theirs" }] });
    for (port, upstream) in [(1, "theirs"), (2, "")] {
        both_of(&Facts { port, ..Facts::default() }, config.clone(), |t| {
            logged_in(t);
            assert_eq!(t.subject.upstream(t.connection), Some(upstream), "{}", t.name);
        });
    }
}

/// Tenants may share a virtual host if each has queues and topics of its own.
#[test]
fn prefix_and_exchange_are_in_all_that_a_client_does() {
    let config = json!({
        "tenants": [{ "name": "t", "queue_prefix": "acme.", "exchange": "acme.topic" }],
    });
    both(config, |t| {
        let mut told = logged_in(t);
        t.client(
            [subscribe(1, &[("a/+", 1), ("b", 0)]), publish(1, 7, "a", b"x"), publish(0, 0, "a", b"x")]
                .concat(),
        );
        told.extend(t.agree());
        assert!(
            queues(&told).len() > 5
                && queues(&told).iter().all(|it| it.starts_with("acme.mqtt-subscription-c"))
        );
        let exchanges = exchanges(&told);
        assert!(exchanges.len() >= 4 && exchanges.iter().all(|it| it == "acme.topic"), "{exchanges:?}");
    });
}

fn permission(expression: &str) -> Value {
    json!({ "user": "u", "vhost": "/", "configure": expression, "write": expression, "read": expression })
}

fn topic_permission(expression: &str) -> Value {
    json!([{ "user": "u", "vhost": "/", "exchange": "amq.topic", "write": expression, "read": ".*" }])
}

/// Exchanges that were published or bound to.
fn exchanges(told: &[AMQPFrame]) -> Vec<String> {
    let exchange = |frame: &AMQPFrame| match frame {
        AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Publish(it))) => {
            Some(it.exchange.to_string())
        }
        AMQPFrame::Method(_, AMQPClass::Queue(queue::AMQPMethod::Bind(it))) => Some(it.exchange.to_string()),
        _ => None,
    };
    told.iter().filter_map(exchange).collect()
}

/// Queues that were declared or deleted.
fn queues(told: &[AMQPFrame]) -> Vec<String> {
    let queue = |frame: &AMQPFrame| match frame {
        AMQPFrame::Method(_, AMQPClass::Queue(queue::AMQPMethod::Declare(it))) => Some(it.queue.to_string()),
        AMQPFrame::Method(_, AMQPClass::Queue(queue::AMQPMethod::Delete(it))) => Some(it.queue.to_string()),
        _ => None,
    };
    told.iter().filter_map(queue).collect()
}

/// Whoever is refused is refused by a tenant's rules, and counts there.
#[test]
fn a_refusal_is_counted_for_its_tenant() {
    let tenant = json!({ "name": "acme", "match": { "client_id": "a*" }, "allow_anonymous": false });
    both(json!({ "tenants": [tenant] }), |t| {
        t.client(connect_with(0x02, 0, &["a1"]));
        t.broker_at_once(b"AMQP");
        let counters = t.subject.counters();
        assert_eq!(counters.get("leveret.acme.refused.by.credentials_missing"), Some(&1), "{counters:?}");
    });
}

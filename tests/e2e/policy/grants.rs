//! What a client may publish and subscribe.

use anyhow::Result;
use serde_json::json;
use support::envoy::Envoy;

use super::{DEFAULT_VHOST, PASSWORD, make_account, users, with};
use crate::amqp::{Amqp, persistent};
use crate::mqtt::{Client, Connect, PUBACK, publish, subscribe};
use crate::world::{PATIENCE, own_envoy};

/// What is not granted never gets to an AMQP subscriber, and the client hears what `on_unauthorized` says.
#[test]
fn grants_hold_for_publishes_and_subscriptions() -> Result<()> {
    let envoy = own_envoy(
        "grants",
        json!({
            "publish": { "allow": ["granted/{client_id}/#"], "deny": ["granted/+/secret"] },
            "subscribe": { "allow": ["granted/{client_id}/#", "granted/news/+"], "deny": ["granted/news/secret"] },
            "tenants": [{ "name": "quiet", "match": { "client_id": "quiet-*" }, "on_unauthorized": "drop" }],
        }),
    )?;
    let address = envoy.address("mqtt")?;
    let amqp = Amqp::connect()?;
    let seen = amqp.queue("granted.#")?;
    let denied = ["granted/another/x", "granted/loud-1/secret", "granted", "other"];
    for topic in denied {
        for first in [0x30, 0x32, 0x34] {
            let mut client = Client::login(address, "loud-1")?;
            client.publish_safely("granted/loud-1/x", &[first])?;
            client.send(&match first {
                0x30 => [publish(0x30, topic, 0x4141, b""), publish(0x30, "granted/loud-1/x", 0x4141, b"")]
                    .concat(),
                first => publish(first, topic, 2, b""),
            })?;
            assert_eq!(client.rest()?, b"", "neither PUBACK nor PUBREC: {topic}");
            assert_eq!(seen.next()?.delivery.data, [first]);
        }
    }
    denials(&envoy, "closed.denied", 3 * denied.len() as u64)?;

    let mut client = Client::login(address, "quiet-1")?;
    for (number, topic) in (1..).zip(denied) {
        let topic = topic.replace("loud", "quiet");
        client.publish(&topic, b"denied")?;
        client.send(&publish(0x32, &topic, 1, b"denied"))?;
        client.hears(PUBACK)?;
        client.send(&publish(0x34, &topic, 7, b"denied"))?;
        client.hears(&[0x50, 2, 0, 7])?;
        client.send(&[0x62, 2, 0, 7])?;
        client.hears(&[0x70, 2, 0, 7])?;
        denials(&envoy, "denied.publish", 3 * number)?;
    }
    client.publish_safely("granted/quiet-1/x", b"granted")?;
    assert_eq!(seen.next()?.delivery.data, b"granted");

    let filters = [
        ("granted/quiet-1/#", 1, 1),
        ("granted/quiet-1/x/+", 2, 1),
        ("granted/#", 1, 0x80),
        ("granted/quiet-2/x", 0, 0x80),
        ("granted/news/local", 0, 0),
        ("granted/news/secret", 0, 0x80),
        ("granted/news/+", 0, 0x80),
        ("$share/group/granted/news/world", 1, 1),
        ("$share/group/granted/#", 1, 0x80),
    ];
    client.send(&subscribe(&filters.map(|(filter, qos, _)| (filter, qos))))?;
    client.hears(&[&[0x90, 2 + filters.len() as u8, 0, 1], &filters.map(|(.., code)| code)[..]].concat())?;
    // The connection is kept, and what was granted comes.
    amqp.publish("granted.quiet-2.x", b"not granted", persistent())?;
    amqp.publish("granted.quiet-1.x", b"granted", persistent())?;
    assert_eq!(client.receive()?.text(), "granted");
    client.ping()
}

fn denials(envoy: &Envoy, counter: &str, times: u64) -> Result<u64> {
    envoy.stat_until(&format!("wasmcustom.leveret.{counter}"), PATIENCE, |count| count == times)
}

/// What a session subscribed to before its grants were changed is neither delivered nor kept for it.
#[test]
fn grants_of_today_hold_for_a_session_of_yesterday() -> Result<()> {
    let yesterday = own_envoy("grants-yesterday", json!({}))?;
    let today = own_envoy("grants-today", json!({ "subscribe": { "allow": ["session/kept/#"] } }))?;
    let (mut client, _) = Client::resume(yesterday.address("mqtt")?, "grants-changed")?;
    for (filter, qos) in [("session/kept/#", 1), ("session/lost/#", 1), ("session/+/at-0", 0)] {
        client.subscribe(filter, qos)?;
    }
    client.disconnect()?;
    let amqp = Amqp::connect()?;
    for number in 0..20 {
        amqp.publish("session.lost.x", &[number], persistent())?;
    }
    amqp.publish("session.kept.x", b"while away", persistent())?;

    let (mut client, is_present) = Client::resume(today.address("mqtt")?, "grants-changed")?;
    assert!(is_present);
    assert_eq!(client.receive()?.text(), "while away");
    amqp.publish("session.lost.at-0", b"lost", persistent())?;
    amqp.publish("session.lost.x", b"lost", persistent())?;
    amqp.publish("session.kept.x", b"now", persistent())?;
    assert_eq!(client.receive()?.text(), "now");
    client.ping()?;
    client.disconnect()?;

    // Permitted again, it has lost what came meanwhile, and nothing else.
    let (mut client, is_present) = Client::resume(yesterday.address("mqtt")?, "grants-changed")?;
    assert!(is_present);
    amqp.publish("session.lost.x", b"again", persistent())?;
    assert_eq!(client.receive()?.text(), "again");
    client.unsubscribe("session/kept/#")?;
    client.unsubscribe("session/lost/#")?;
    client.disconnect()
}

/// Tenants in one virtual host, each with its prefix: neither the retained messages of one nor its sessions are another's.
#[test]
fn queue_prefix_keeps_tenants_apart() -> Result<()> {
    let account = make_account("prefix-edge", DEFAULT_VHOST)?;
    let tenant = |name: &str, prefix: &str| json!({ "name": name, "match": { "username": format!("{name}-*") }, "queue_prefix": prefix });
    let envoy = own_envoy(
        "prefixes",
        json!({
            "users": users(["one-user", "two-user"]),
            "broker_user": account, "broker_pass": PASSWORD,
            "tenants": [tenant("one", "one-subscription-"), tenant("two", "two-subscription-")],
        }),
    )?;
    let address = envoy.address("mqtt")?;
    let one = |client_id| with(client_id, "one-user", PASSWORD);
    let two = |client_id| with(client_id, "two-user", PASSWORD);

    let mut writer = Client::login_as(address, &one("prefix-writer"))?;
    writer.send(&publish(0x33, "prefixed/topic", 1, b"kept for one"))?;
    writer.hears(PUBACK)?;
    let mut reader = Client::login_as(address, &one("prefix-reader"))?;
    reader.subscribe("prefixed/topic", 1)?;
    let replayed = reader.receive()?;
    assert_eq!((replayed.text().as_str(), replayed.retain), ("kept for one", true));
    // The same client id, at the same time, in the other tenant.
    let mut other = Client::login_as(address, &two("prefix-reader"))?;
    other.subscribe("prefixed/#", 1)?;
    reader.ping()?;

    for (connect, filter) in [(one("prefix-kept"), "prefixed/one"), (two("prefix-kept"), "prefixed/two")] {
        let mut client = Client::login_as(address, &Connect { clean: false, ..connect })?;
        client.subscribe(filter, 1)?;
        client.disconnect()?;
    }
    for (topic, text) in [("prefixed/one", "for one"), ("prefixed/two", "for two")] {
        writer.publish_safely(topic, text.as_bytes())?;
        // What is published now is for both, as they have one exchange; that is all it has heard.
        assert_eq!(other.receive()?.text(), text);
    }
    for (connect, text) in [(one("prefix-kept"), "for one"), (two("prefix-kept"), "for two")] {
        let mut client = Client::connect(address)?;
        client.send(&Connect { clean: false, ..connect }.bytes())?;
        client.hears(&[0x20, 2, 1, 0])?;
        assert_eq!(client.receive()?.text(), text);
        client.ping()?;
    }
    writer.send(&publish(0x33, "prefixed/topic", 1, b""))?;
    writer.hears(PUBACK)
}

#[test]
fn permissions_hold_for_clients_with_one_broker_user() -> Result<()> {
    let account = make_account("permissions-edge", DEFAULT_VHOST)?;
    let envoy = own_envoy(
        "permissions-at-the-edge",
        json!({
            "users": users(["may-all", "may-read-only"]),
            "broker_user": account, "broker_pass": PASSWORD, "on_unauthorized": "drop",
            "permissions": [
                { "user": "may-all", "vhost": "/", "configure": "", "write": ".*", "read": ".*" },
                { "user": "may-read-only", "vhost": "/", "configure": "^mqtt-subscription-.*qos0$",
                  "write": "^mqtt-subscription-", "read": ".*" },
            ],
            "topic_permissions": [
                { "user": "may-all", "vhost": "/", "exchange": "amq.topic",
                  "write": "^at-edge\\.{client_id}\\.", "read": "^at-edge\\." },
            ],
        }),
    )?;
    let address = envoy.address("mqtt")?;
    let amqp = Amqp::connect()?;
    let seen = amqp.queue("at-edge.#")?;
    let mut writer = Client::login_as(address, &with("edge.1", "may-all", PASSWORD))?;
    writer.publish_safely("at-edge/edgex1/x", b"the dot is a dot")?;
    writer.publish_safely("at-edge/edge/1/x", b"written")?;
    assert_eq!(seen.next()?.delivery.data, b"written");
    writer.send(&subscribe(&[("at-edge/x", 0)]))?;
    writer.hears(&[0x90, 3, 0, 1, 0x80])?;

    let mut reader = Client::login_as(address, &with("edge-2", "may-read-only", PASSWORD))?;
    reader.send(&subscribe(&[("at-edge/#", 0), ("at-edge/#", 1)]))?;
    reader.hears(&[0x90, 4, 0, 1, 0, 0x80])?;
    reader.publish_safely("at-edge/edge-2/x", b"denied")?;
    writer.publish_safely("at-edge/edge/1/x", b"read")?;
    assert_eq!(reader.receive()?.text(), "read");
    reader.ping()?;
    assert_eq!(seen.next()?.delivery.data, b"read");
    Ok(())
}

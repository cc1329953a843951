//! What the broker does not permit: the client hears of it, or not, as the operator wants.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;
use support::envoy::{Envoy, Mode};

use crate::amqp::Amqp;
use crate::mqtt::{Client, Connect, PUBACK, connack, publish, subscribe};
use crate::world::{PATIENCE, broker, mqtt, own_envoy, restricted_user};

#[test]
fn subscribe_refused_is_0x80_for_that_filter_and_the_connection_is_kept() -> Result<()> {
    let user = restricted_user("may-read")?;
    for mode in [Mode::Lazy, Mode::Eager] {
        for qos in [0, 1] {
            let id = format!("may-read-{}-{qos}", mode.name());
            let connect =
                Connect { client_id: &id, username: Some(user), password: Some(user), ..Connect::default() };
            let mut client = Client::login_as(mqtt(mode), &connect)?;
            client.send(&subscribe(&[
                ("may-read/a", qos),
                ("secret", qos),
                ("a+", qos),
                ("may-read/b", qos),
                ("#", qos),
            ]))?;
            client.hears(&[0x90, 7, 0, 1, qos, 0x80, 0x80, qos, 0x80])?;
            for topic in ["may-read/a", "may-read/b"] {
                client.publish(topic, b"")?;
                assert_eq!(client.receive()?.topic, topic);
            }
        }
    }
    Ok(())
}

#[test]
fn subscribe_refused_for_a_shared_subscription_too() -> Result<()> {
    let user = restricted_user("may-share")?;
    let connect =
        Connect { client_id: "may-share", username: Some(user), password: Some(user), ..Connect::default() };
    let mut client = Client::login_as(mqtt(Mode::Lazy), &connect)?;
    client.send(&subscribe(&[("$share/g/secret", 1), ("$share/g/may-share", 1)]))?;
    client.hears(&[0x90, 4, 0, 1, 0x80, 1])?;
    client.publish("may-share", b"")?;
    assert_eq!(client.receive()?.topic, "may-share");
    Ok(())
}

#[test]
fn subscribe_refused_where_the_user_may_have_no_queues() -> Result<()> {
    broker().api_put("users/no-queues", &json!({ "password": "no-queues", "tags": "" }))?;
    let permissions = json!({ "configure": "^$", "write": "^amq\\.topic$", "read": "^amq\\.topic$" });
    broker().api_put("permissions/%2F/no-queues", &permissions)?;
    let user = Some("no-queues");
    let amqp = Amqp::connect()?;
    let published = amqp.queue("no-queues")?;
    let connect = Connect { client_id: "no-queues", username: user, password: user, ..Connect::default() };
    let mut client = Client::login_as(mqtt(Mode::Lazy), &connect)?;
    client.send(&subscribe(&[("a", 0), ("b", 1)]))?;
    client.hears(&[0x90, 4, 0, 1, 0x80, 0x80])?;
    // It can publish all the same.
    client.publish_safely("no-queues", b"published")?;
    assert_eq!(published.next()?.delivery.data, b"published");
    // A session needs a queue.
    let mut client = Client::connect(mqtt(Mode::Lazy))?;
    client.send(&Connect { clean: false, ..connect }.bytes())?;
    assert_eq!(client.rest()?, connack(5));
    Ok(())
}

#[test]
fn publish_refused_closes_the_connection_by_default() -> Result<()> {
    let user = restricted_user("may-write")?;
    for request in
        [publish(0x30, "secret", 1, b""), publish(0x32, "secret", 1, b""), publish(0x34, "secret", 1, b"")]
    {
        let connect = Connect {
            client_id: "may-write",
            username: Some(user),
            password: Some(user),
            ..Connect::default()
        };
        let mut client = Client::login_as(mqtt(Mode::Lazy), &connect)?;
        client.publish_safely("may-write", b"")?;
        client.send(&request)?;
        assert_eq!(client.rest()?, b"", "neither PUBACK nor PUBREC");
    }
    Ok(())
}

#[test]
fn publish_refused_is_dropped_and_counted_if_the_operator_wants() -> Result<()> {
    let user = restricted_user("may-drop")?;
    let envoy = own_envoy("unauthorized-drop", json!({ "on_unauthorized": "drop" }))?;
    let amqp = Amqp::connect()?;
    let (secret, allowed) = (amqp.queue("secret-drop")?, amqp.queue("may-drop")?);
    let connect =
        Connect { client_id: "may-drop", username: Some(user), password: Some(user), ..Connect::default() };
    let mut client = Client::login_as(envoy.address("mqtt")?, &connect)?;
    for dropped in 1..=3 {
        client.send(&publish(0x32, "secret-drop", 1, b""))?;
        client.hears(PUBACK)?;
        unauthorized(&envoy, 2 * dropped - 1)?;
        client.publish("secret-drop", b"")?;
        unauthorized(&envoy, 2 * dropped)?;
        client.publish_safely("may-drop", &[dropped as u8])?;
        assert_eq!(allowed.next()?.delivery.data, [dropped as u8]);
    }
    client.send(&publish(0x34, "secret-drop", 7, b""))?;
    client.hears(&[0x50, 2, 0, 7])?;
    client.send(&[0x62, 2, 0, 7])?;
    client.hears(&[0x70, 2, 0, 7])?;
    client.publish("may-drop", b"last")?;
    assert_eq!(allowed.next()?.delivery.data, b"last");
    assert!(secret.now()?.is_none());
    client.ping()
}

/// Which of several at once was refused, only the broker's text tells. Clients send again what is not acknowledged, all at once.
#[test]
fn publish_refused_among_others_holds_none_of_them_up() -> Result<()> {
    let user = restricted_user("may-mix")?;
    let envoy = own_envoy("unauthorized-mix", json!({ "on_unauthorized": "drop" }))?;
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("may-mix")?;
    let connect =
        Connect { client_id: "may-mix", username: Some(user), password: Some(user), ..Connect::default() };
    let mut unacknowledged =
        vec![(1, "may-mix"), (2, "secret-mix"), (3, "may-mix"), (4, "secret-mix"), (5, "may-mix")];
    for _ in 0..10 {
        let mut client = Client::login_as(envoy.address("mqtt")?, &connect)?;
        let flight = unacknowledged.iter().flat_map(|&(id, topic)| publish(0x32, topic, id, &[id as u8]));
        client.send(&flight.collect::<Vec<u8>>())?;
        while !unacknowledged.is_empty()
            && let Ok(puback) = client.packet()
        {
            unacknowledged.retain(|&(id, _)| !puback.ends_with(&id.to_be_bytes()));
        }
    }
    assert_eq!(unacknowledged, [], "not acknowledged after ten connections");
    let mut arrived = BTreeSet::new();
    while let Some(message) = queue.now()? {
        arrived.extend(message.delivery.data);
    }
    assert_eq!(arrived, BTreeSet::from([1, 3, 5]));
    Ok(())
}

fn unauthorized(envoy: &Envoy, times: u64) -> Result<u64> {
    envoy.stat_until("wasmcustom.leveret.none.unauthorized", PATIENCE, |count| count == times)
}

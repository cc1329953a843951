//! What becomes of a message: its QoS on each side, its acknowledgements, its headers at the broker.

use anyhow::{Context, Result};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use support::envoy::Mode;

use crate::amqp::{Amqp, persistent};
use crate::mqtt::{Client, PUBACK, packet, publish, subscribe, text};
use crate::world::{PATIENCE, mqtt, own_envoy};

#[test]
fn qos_2_is_lowered_to_1_for_subscribers() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "lowered")?;
    client.send(&subscribe(&[("lowered/2", 2), ("lowered/1", 1), ("lowered/0", 0)]))?;
    client.hears(&[0x90, 5, 0, 1, 1, 1, 0])?;
    let mut publisher = Client::login(mqtt(Mode::Lazy), "lowered-publisher")?;
    for granted in [2, 1, 0] {
        let topic = format!("lowered/{granted}");
        publisher.send(&publish(0x34, &topic, 7, b""))?;
        publisher.hears(PUBREC)?;
        publisher.send(PUBREL)?;
        publisher.hears(PUBCOMP)?;
        assert_eq!(client.receive()?.qos, granted.min(1), "{topic}");
    }
    Ok(())
}

#[test]
fn qos_2_publish_is_the_real_exchange_and_published_once() -> Result<()> {
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("exactly-once")?;
    for mode in [Mode::Lazy, Mode::Eager] {
        let mut client = Client::login(mqtt(mode), "exactly-once")?;
        for round in [1, 2] {
            let payload = [round];
            client.send(&publish(0x34, "exactly-once", 7, &payload))?;
            client.hears(PUBREC)?;
            // Again, as after a loss on the way.
            client.send(&publish(0x3c, "exactly-once", 7, &payload))?;
            client.hears(PUBREC)?;
            client.send(PUBREL)?;
            client.hears(PUBCOMP)?;
            client.send(PUBREL)?;
            client.hears(PUBCOMP)?;
            assert_eq!(queue.next()?.delivery.data, payload);
        }
        client.publish_safely("exactly-once", b"last")?;
        assert_eq!(queue.next()?.delivery.data, b"last", "nothing came twice");
    }
    Ok(())
}

#[test]
fn qos_of_a_delivery_is_the_lower_of_granted_and_published() -> Result<()> {
    let amqp = Amqp::connect()?;
    let mode = |mode: u8| BasicProperties::default().with_delivery_mode(mode);
    let header = |published: i8| {
        let mut headers = FieldTable::default();
        headers.insert("x-mqtt-publish-qos".into(), AMQPValue::ShortShortInt(published));
        headers
    };
    let published = [
        ("of no mode", BasicProperties::default(), 0),
        ("transient", mode(1), 0),
        ("persistent", mode(2), 1),
        // As RabbitMQ's own MQTT plugin says it, whatever the mode.
        ("published at 0", mode(2).with_headers(header(0)), 0),
        ("published at 1", mode(1).with_headers(header(1)), 1),
        ("published at 2", mode(1).with_headers(header(2)), 1),
    ];
    for granted in [0, 1] {
        let topic = format!("lower-of/{granted}");
        let mut client = Client::login(mqtt(Mode::Lazy), &format!("lower-of-{granted}"))?;
        client.subscribe(&topic, granted)?;
        for (what, properties, qos) in &published {
            amqp.publish(&topic.replace('/', "."), b"", properties.clone())?;
            assert_eq!(client.receive()?.qos, *qos.min(&granted), "{what}, granted {granted}");
        }
    }
    Ok(())
}

#[test]
fn publish_headers_tell_a_broker_before_3_13_what_the_client_said() -> Result<()> {
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("headers")?;
    let mut client = Client::login(mqtt(Mode::Lazy), "headers")?;
    for (first, id, qos, dup) in [
        (0x30, &[][..], 0, false),
        (0x32, &[0, 1], 1, false),
        (0x3a, &[0, 2], 1, true),
        (0x34, &[0, 3], 2, false),
    ] {
        client.send(&packet(first, &[&text("headers"), id].concat()))?;
        let message = queue.next()?.delivery;
        assert_eq!(*message.properties.delivery_mode(), Some(if qos == 0 { 1 } else { 2 }));
        let headers = message.properties.headers().clone().context("headers")?;
        let header = |name| headers.inner().get(name).cloned();
        assert_eq!(header("x-mqtt-publish-qos"), Some(AMQPValue::ShortShortInt(qos)));
        assert_eq!(header("x-mqtt-dup"), Some(AMQPValue::Boolean(dup)));
    }
    Ok(())
}

/// A full queue that takes no more: the broker answers basic.nack, however often the message is published.
#[test]
fn broker_refuses_a_qos_1_publish_and_it_is_left_unacknowledged() -> Result<()> {
    let envoy = own_envoy("nacked", json!({}))?;
    let amqp = Amqp::connect()?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let queue = amqp.queue_with("nacked", arguments)?;
    let mut client = Client::login(envoy.address("mqtt")?, "nacked")?;
    client.publish_safely("nacked", b"fits")?;
    client.send(&publish(0x32, "nacked", 1, b"does not"))?;
    envoy.stat_until("wasmcustom.leveret.none.unacknowledged", PATIENCE, |count| count == 1)?;
    assert_eq!(envoy.stat("wasmcustom.leveret.none.published_again")?, 3);
    // Nothing but what it asks for now.
    client.ping()?;
    assert_eq!(queue.next()?.delivery.data, b"fits");
    client.send(&publish(0x3a, "nacked", 1, b"does now"))?;
    client.hears(PUBACK)?;
    assert_eq!(queue.next()?.delivery.data, b"does now");
    Ok(())
}

#[test]
fn retain_is_0_on_what_is_published_now() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "retain-now")?;
    client.subscribe("retain-now", 1)?;
    client.send(&packet(0x31, &[&text("retain-now")[..], b"now"].concat()))?;
    let message = client.receive()?;
    assert_eq!((message.text().as_str(), message.retain), ("now", false));
    // Nor on what deletes.
    client.send(&packet(0x31, &text("retain-now")))?;
    assert!(!client.receive()?.retain);
    Ok(())
}

#[test]
fn acknowledgements_nobody_waits_for_do_no_harm() -> Result<()> {
    let mut client = Client::login(mqtt(Mode::Lazy), "nobody-waits")?;
    client.subscribe("nobody-waits", 1)?;
    for acknowledgement in [[0x40, 2, 0, 7], [0x50, 2, 0, 7], [0x70, 2, 0, 7]] {
        client.send(&acknowledgement)?;
        client.ping()?;
    }
    client.send(PUBREL)?;
    client.hears(PUBCOMP)?;
    Amqp::connect()?.publish("nobody-waits", b"", persistent())?;
    assert_eq!(client.receive()?.qos, 1);
    Ok(())
}

const PUBREC: &[u8] = &[0x50, 2, 0, 7];
const PUBREL: &[u8] = &[0x62, 2, 0, 7];
const PUBCOMP: &[u8] = &[0x70, 2, 0, 7];

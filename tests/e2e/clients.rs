//! Ordinary clients, unmodified, on both sides.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lapin::types::AMQPValue;
use rumqttc::{Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use support::envoy::Mode;
use support::process::wait_until;

use crate::amqp::{Amqp, persistent};
use crate::mqtt::{Client, packet, text};
use crate::world::{self, PATIENCE, broker};

#[test]
fn mosquitto_s_clients_at_every_qos() -> Result<()> {
    for (mode, version) in [(Mode::Lazy, "mqttv311"), (Mode::Lazy, "mqttv31"), (Mode::Eager, "mqttv311")] {
        for qos in 0..3 {
            let id = format!("mosquitto-{}-{version}-{qos}", mode.name());
            let (topic, qos) = (format!("{id}/topic"), qos.to_string());
            let mut subscriber = mosquitto("mosquitto_sub", mode, version);
            subscriber.args(["-i", &id, "-t", &topic, "-q", &qos, "-C", "1", "-W", "30", "-F", "%t %q %p"]);
            let subscriber = subscriber.stdout(Stdio::piped()).spawn().context("mosquitto_sub")?;
            wait_for_subscription(&id, if qos == "0" { 0 } else { 1 })?;
            let mut publisher = mosquitto("mosquitto_pub", mode, version);
            let sent = publisher
                .args(["-i", &format!("{id}-pub"), "-t", &topic, "-q", &qos, "-m", "hi"])
                .output()?;
            ensure!(sent.status.success(), "{id}: {sent:?}");
            let received = subscriber.wait_with_output()?;
            ensure!(received.status.success(), "{id}: {received:?}");
            let granted = if qos == "0" { 0 } else { 1 };
            assert_eq!(String::from_utf8_lossy(&received.stdout), format!("{topic} {granted} hi\n"), "{id}");
        }
    }
    Ok(())
}

#[test]
fn paho() -> Result<()> {
    let topic = "paho/topic";
    for mode in [Mode::Lazy, Mode::Eager] {
        let seen = python("paho_client.py", &[&port(mode), &format!("paho-{}", mode.name()), topic])?;
        assert_eq!(seen, python_client_sees(topic));
    }
    Ok(())
}

#[test]
fn gmqtt() -> Result<()> {
    let topic = "gmqtt/topic";
    let seen = python("gmqtt_client.py", &[&port(Mode::Lazy), "gmqtt", topic])?;
    assert_eq!(seen, python_client_sees(topic));
    Ok(())
}

#[test]
fn rumqttc() -> Result<()> {
    let topic = "rumqttc/topic";
    let options = MqttOptions::new("rumqttc", "127.0.0.1", world::mqtt(Mode::Lazy).port());
    let (client, mut connection) = rumqttc::Client::new(options, 10);
    client.subscribe(topic, QoS::ExactlyOnce)?;
    let (mut received, mut acknowledged) = (Vec::new(), 0);
    while received.len() < 3 || acknowledged < 2 {
        match connection.recv_timeout(PATIENCE).ok().context("nothing comes")?? {
            Event::Incoming(Packet::SubAck(_)) => {
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    client.publish(topic, qos, false, format!("sent at {}", qos as u8))?;
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                received.push((publish.topic, publish.qos as u8, payload));
            }
            Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => acknowledged += 1,
            _ => {}
        }
    }
    // One session's messages take two ways, a channel for each QoS; no order is promised between them.
    received.sort_by(|a, b| a.2.cmp(&b.2));
    let expected = [0, 1, 2].map(|qos| (topic.to_owned(), qos.min(1), format!("sent at {qos}")));
    assert_eq!(received, expected);
    client.disconnect()?;
    Ok(())
}

#[test]
fn pika_reads_what_a_device_sends_and_answers_it() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        let place = format!("pika-{}", mode.name());
        let mut device = Client::login(world::mqtt(mode), &place)?;
        device.subscribe(&format!("{place}/answers"), 1)?;
        let amqp_port = broker().ports.amqp.to_string();
        let keys = [format!("{place}.cities.*"), format!("{place}.answers")];
        let mut pika = python_command("pika_client.py", &[&amqp_port, &keys[0], &keys[1]])?
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(pika.stdout.take().context("its stdout")?).lines();
        assert_eq!(lines.next().context("pika has ended")??, "ready");
        let topic = text(&format!("{place}/cities/london"));
        device.send(&packet(0x32, &[&topic[..], &[0, 9], b"8.5 degrees"].concat()))?;
        let seen: Value = serde_json::from_str(&lines.next().context("pika has ended")??)?;
        let expected = json!({
            "routing_key": format!("{place}.cities.london"), "exchange": "amq.topic", "delivery_mode": 2,
            "headers": { "x-mqtt-publish-qos": 1, "x-mqtt-dup": false }, "payload": "8.5 degrees"
        });
        assert_eq!(seen, expected);
        let (mut acknowledged, mut answered) = (false, false);
        while !(acknowledged && answered) {
            let packet = device.packet()?;
            acknowledged |= packet == [0x40, 2, 0, 9];
            answered |= packet.starts_with(&[0x32]) && packet.ends_with(b"8.5 DEGREES");
        }
        ensure!(pika.wait()?.success(), "pika failed");
    }
    Ok(())
}

#[test]
fn lapin_sees_what_a_device_meant() -> Result<()> {
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("lapin.#")?;
    let mut device = Client::login(world::mqtt(Mode::Lazy), "lapin")?;
    for (first, id, qos) in [(0x30, &[][..], 0), (0x32, &[0, 1], 1), (0x34, &[0, 2], 2)] {
        device.send(&packet(first, &[&text("lapin/cities/london"), id, b"x"].concat()))?;
        let message = queue.next()?.delivery;
        assert_eq!(message.routing_key.as_str(), "lapin.cities.london");
        assert_eq!(*message.properties.delivery_mode(), Some(if qos == 0 { 1 } else { 2 }));
        let headers = message.properties.headers().clone().context("headers")?;
        let published_at = headers.inner().get("x-mqtt-publish-qos").cloned();
        assert_eq!(published_at, Some(AMQPValue::ShortShortInt(qos)));
    }
    Ok(())
}

#[test]
fn wildcards_are_the_broker_s() -> Result<()> {
    let cases = [
        ("one/+/level", ["one.a.level", "one..level"].as_slice(), ["one.a.b.level", "one.level"].as_slice()),
        ("mid/#/end", &["mid.end", "mid.a.end", "mid.a.b.end"], &["mid.a", "mid.end.a"]),
        ("tail/#", &["tail", "tail.a", "tail.a.b"], &["tails", "a.tail"]),
    ];
    let amqp = Amqp::connect()?;
    for (number, (filter, matching, others)) in cases.into_iter().enumerate() {
        let mut device = Client::login(world::mqtt(Mode::Lazy), &format!("wildcards-{number}"))?;
        device.subscribe(&format!("wildcards/{filter}"), 1)?;
        for key in others.iter().chain(matching) {
            amqp.publish(&format!("wildcards.{key}"), b"", persistent())?;
        }
        for key in matching {
            let heard = device.packet()?;
            let topic = text(&format!("wildcards.{key}").replace('.', "/"));
            assert!(heard[2..].starts_with(&topic), "{filter}: {heard:02x?} for {key}");
        }
        device.ping()?;
    }
    Ok(())
}

fn mosquitto(program: &str, mode: Mode, version: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &port(mode), "-V", version]);
    command
}

fn port(mode: Mode) -> String {
    world::mqtt(mode).port().to_string()
}

/// Returns when the queue of a client's subscriptions at this QoS is bound.
fn wait_for_subscription(client_id: &str, qos: u8) -> Result<()> {
    let path = format!("queues/%2F/mqtt-subscription-{client_id}qos{qos}/bindings");
    wait_until("a subscription", PATIENCE, || {
        let bindings = broker().api(&path).ok()?;
        bindings.as_array()?.iter().any(|binding| binding["source"] == "amq.topic").then_some(())
    })
}

fn python_client_sees(topic: &str) -> Vec<String> {
    let messages = [0, 1, 2].map(|qos| format!("{topic} {} sent at {qos}", qos.min(1)));
    let start = ["connected 0", "granted 1"].map(str::to_owned);
    [&start[..], &messages, &["disconnected 0".to_owned()]].concat()
}

/// Runs a script to its end; what it prints, line by line.
fn python(script: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let output = python_command(script, arguments)?.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text.lines().map(str::to_owned).collect())
}

fn python_command(script: &str, arguments: &[&str]) -> Result<Command> {
    let python = std::env::var_os("LEVERET_PYTHON").context(
        "LEVERET_PYTHON names no Python with paho-mqtt, gmqtt and pika; ./build.sh test sets it up",
    )?;
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(script)).args(arguments);
    Ok(command)
}

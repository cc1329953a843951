//! Ordinary MQTT clients, unmodified.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rumqttc::{Event, MqttOptions, Packet, QoS};
use support::envoy::Mode;
use support::process::wait_until;

use crate::python;
use crate::world::{self, PATIENCE, binding_keys};

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
        let seen = python::run("paho_client.py", &[&port(mode), &format!("paho-{}", mode.name()), topic])?;
        assert_eq!(seen, python_client_sees(topic));
    }
    Ok(())
}

#[test]
fn gmqtt() -> Result<()> {
    let topic = "gmqtt/topic";
    let seen = python::run("gmqtt_client.py", &[&port(Mode::Lazy), "gmqtt", topic])?;
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
    wait_until("a subscription", PATIENCE, || {
        let bound = !binding_keys(client_id, qos).ok()?.is_empty();
        bound.then_some(())
    })
}

fn python_client_sees(topic: &str) -> Vec<String> {
    let messages = [0, 1, 2].map(|qos| format!("{topic} {} sent at {qos}", qos.min(1)));
    let start = ["connected 0", "granted 1"].map(str::to_owned);
    [&start[..], &messages, &["disconnected 0".to_owned()]].concat()
}

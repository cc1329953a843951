//! Applications that speak other protocols to the same broker: AMQP 0-9-1 (pika, lapin), AMQP 1.0 (fe2o3-amqp) and
//! STOMP (stomp.py) exchange messages with devices through the topic exchange, both ways.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use fe2o3_amqp::types::messaging::{Data, Header, Message};
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use lapin::types::AMQPValue;
use serde_json::{Value, json};
use support::envoy::{Mode, Options, Shipped};
use tokio::runtime;
use tokio::time::timeout;

use crate::amqp::Amqp;
use crate::mqtt::{Client, PUBACK, packet, publish, text};
use crate::python;
use crate::world::{self, PATIENCE, broker};

#[test]
fn topic_exchange_is_shared_with_amqp_0_9_1_by_pika() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        let place = format!("pika-{}", mode.name());
        let seen = answered_by("pika_client.py", broker().ports.amqp, mode, &place)?;
        let expected = json!({
            "routing_key": format!("{place}.cities.london"), "exchange": "amq.topic", "delivery_mode": 2,
            "headers": { "x-mqtt-publish-qos": 1, "x-mqtt-dup": false }, "payload": "8.5 degrees"
        });
        assert_eq!(seen, expected);
    }
    Ok(())
}

#[test]
fn topic_exchange_is_shared_with_stomp_by_stomp_py() -> Result<()> {
    let seen = answered_by("stomp_client.py", broker().ports.stomp, Mode::Lazy, "stomp")?;
    let expected = json!({ "destination": "/topic/stomp.cities.london", "payload": "8.5 degrees" });
    assert_eq!(seen, expected);
    Ok(())
}

/// A device says something, a script sees it and answers, the device hears the answer. Returns what the script saw.
fn answered_by(script: &str, port: u16, mode: Mode, place: &str) -> Result<Value> {
    let mut device = Client::login(world::mqtt(mode), place)?;
    device.subscribe(&format!("{place}/answers"), 1)?;
    let keys = [format!("{place}.cities.*"), format!("{place}.answers")];
    let mut script = Script::start(script, &[&port.to_string(), &keys[0], &keys[1]])?;
    ensure!(script.line()? == "ready");
    device.send(&publish(0x32, &format!("{place}/cities/london"), 1, b"8.5 degrees"))?;
    let seen = serde_json::from_str(&script.line()?)?;
    let mut packets = [device.packet()?, device.packet()?];
    packets.sort();
    ensure!(packets[0][0] == 0x32 && packets[0].ends_with(b"8.5 DEGREES"), "{:02x?}", packets[0]);
    ensure!(packets[1] == PUBACK, "{:02x?}", packets[1]);
    ensure!(script.0.wait()?.success(), "the script failed");
    Ok(seen)
}

struct Script(Child, BufReader<std::process::ChildStdout>);

impl Script {
    fn start(script: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = python::command(script, arguments)?.stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("its stdout")?);
        Ok(Self(child, output))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.1.read_line(&mut line)? > 0, "the script has ended");
        Ok(line.trim_end().to_owned())
    }
}

#[test]
fn topic_exchange_is_shared_with_amqp_0_9_1_by_lapin() -> Result<()> {
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
fn topic_exchange_is_shared_with_amqp_1_0_by_fe2o3_amqp() -> Result<()> {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let url = format!("amqp://guest:guest@{}", broker().amqp_address());
    let mut device = Client::login(world::mqtt(Mode::Lazy), "amqp-1-0")?;
    device.subscribe("amqp-1-0/answers", 1)?;
    let talk = async {
        let mut connection = Connection::open("application", url.as_str()).await?;
        let mut session = Session::begin(&mut connection).await?;
        let mut receiver = Receiver::attach(&mut session, "cities", "/topic/amqp-1-0.cities.*").await?;
        device.publish_safely("amqp-1-0/cities/london", b"8.5 degrees")?;
        let delivery = receiver.recv::<Data>().await?;
        receiver.accept(&delivery).await?;
        assert_eq!(delivery.body().0, b"8.5 degrees".as_slice());

        let mut sender = Sender::attach(&mut session, "answers", "/topic/amqp-1-0.answers").await?;
        for (durable, qos) in [(true, 1), (false, 0)] {
            let header = Header { durable, ..Header::default() };
            let answer = Message::builder().header(header).data(b"8.5 DEGREES".to_vec()).build();
            ensure!(sender.send(answer).await?.is_accepted());
            let heard = device.receive()?;
            assert_eq!((heard.topic.as_str(), heard.qos), ("amqp-1-0/answers", qos));
            assert_eq!(heard.text(), "8.5 DEGREES");
        }
        connection.close().await?;
        anyhow::Ok(())
    };
    runtime.block_on(async { timeout(PATIENCE, talk).await? })
}

#[test]
fn topic_exchange_of_another_name() -> Result<()> {
    broker().api_put("exchanges/%2F/devices", &json!({ "type": "topic", "durable": true }))?;
    let envoy = world::own_envoy("exchange", json!({ "exchange": "devices" }))?;
    let mut device = Client::login(envoy.address("mqtt")?, "exchange-devices")?;
    let mut elsewhere = Client::login(world::mqtt(Mode::Lazy), "exchange-elsewhere")?;
    for client in [&mut device, &mut elsewhere] {
        client.subscribe("exchange/topic", 1)?;
    }
    for (client, payload) in [(&mut device, "there"), (&mut elsewhere, "here")] {
        client.publish("exchange/topic", payload.as_bytes())?;
        assert_eq!(client.receive()?.text(), payload);
    }
    Ok(())
}

/// Queue names with a prefix keep the two apart, and the topic exchange brings them together.
#[test]
fn native_plugin_on_the_same_broker_serves_the_same_client_id_besides() -> Result<()> {
    let broker = world::broker_with_plugins("native", &["rabbitmq_mqtt"])?;
    let shipped = Shipped {
        plugin: json!({ "queue_prefix": "edge-" }),
        ..world::to(Mode::Lazy, broker.amqp_address())
    };
    let envoy = world::own_envoy_with("beside-native", &shipped, &Options::default())?;
    let native = SocketAddr::from((Ipv4Addr::LOCALHOST, broker.ports.mqtt));
    let ways = [envoy.address("mqtt")?, native];
    for _ in ["new", "resumed"] {
        let mut clients = Vec::new();
        for address in ways {
            clients.push(Client::resume(address, "same-id")?.0);
        }
        for client in &mut clients {
            client.subscribe("native/#", 1)?;
        }
        for publisher in [0, 1] {
            clients[publisher].publish("native/topic", &[publisher as u8])?;
            for client in &mut clients {
                let heard = client.receive()?;
                assert_eq!(
                    (heard.topic.as_str(), &heard.payload[..]),
                    ("native/topic", &[publisher as u8][..])
                );
            }
        }
        for client in clients {
            client.disconnect()?;
        }
    }
    Ok(())
}

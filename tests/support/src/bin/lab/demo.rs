//! `lab demo`: the main job on real input. Ordinary MQTT clients and an ordinary AMQP client exchange messages.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures_lite::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS, SubscribeReasonCode};
use support::envoy::{self, Envoy, Shipped};
use support::rabbitmq::{self, Rabbitmq};
use tokio::time::timeout;

pub(crate) fn run() -> Result<()> {
    let folder = crate::folder("demo")?;
    println!("starting a private RabbitMQ, without its MQTT plugin, and Envoy with the filter ...");
    let broker = Rabbitmq::start(&folder.path().join("broker"), &rabbitmq::Options::default())?;
    let config = Shipped::with_broker(envoy::Mode::Lazy, broker.amqp_address()).render()?;
    let envoy = Envoy::start(&folder.path().join("envoy"), &config, &envoy::Options::default())?;
    let (mqtt, amqp) = (envoy.address("mqtt")?, broker.amqp_address());
    println!("MQTT clients (rumqttc) on {mqtt}, AMQP 0-9-1 client (lapin) on {amqp}\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(exchange(mqtt.port(), amqp.port()));
    outcome.with_context(|| format!("failed; Envoy logged:\n{}", envoy.log()))
}

async fn exchange(mqtt_port: u16, amqp_port: u16) -> Result<()> {
    let amqp = Amqp::connect(amqp_port).await?;
    row(["sent over", "as", "arrived over", "as", "payload"]);
    for qos in ALL_QOS {
        mqtt_to_amqp(mqtt_port, &amqp, qos).await?;
    }
    for qos in ALL_QOS {
        amqp_to_mqtt(mqtt_port, &amqp, qos).await?;
    }
    println!("\nall {} messages arrived", 2 * ALL_QOS.len());
    Ok(())
}

/// A device publishes, an application at the broker reads.
async fn mqtt_to_amqp(mqtt_port: u16, amqp: &Amqp, qos: QoS) -> Result<()> {
    let payload = format!("8.{} degrees", qos as u8);
    let mut consumer = amqp.consume("cities.*").await?;
    let mut device = Device::connect(mqtt_port, &format!("london-{}", qos as u8)).await?;
    device.publish("cities/london", qos, &payload).await?;
    let delivery =
        within("the message over AMQP", consumer.next()).await?.context("the consumer has ended")??;
    let (key, arrived) = (delivery.routing_key.as_str(), String::from_utf8_lossy(&delivery.data));
    row([&format!("MQTT PUBLISH, QoS {}", qos as u8), "cities/london", "AMQP basic.deliver", key, &arrived]);
    ensure!(key == "cities.london" && arrived == payload, "sent {payload:?} to cities/london");
    device.disconnect().await
}

/// An application at the broker publishes, a device that has subscribed reads.
async fn amqp_to_mqtt(mqtt_port: u16, amqp: &Amqp, asked: QoS) -> Result<()> {
    let payload = format!("1{}.5 degrees", asked as u8);
    let mut device = Device::connect(mqtt_port, &format!("display-{}", asked as u8)).await?;
    let granted = device.subscribe("cities/+", asked).await?;
    amqp.publish("cities.paris", &payload).await?;
    let publish = device.until("the message over MQTT", |event| match event {
        Event::Incoming(Packet::Publish(publish)) => Some(publish),
        _ => None,
    });
    let publish = publish.await?;
    let arrived = String::from_utf8_lossy(&publish.payload);
    let over = format!("MQTT PUBLISH, QoS {} (asked {})", publish.qos as u8, asked as u8);
    row(["AMQP basic.publish", "cities.paris", &over, &publish.topic, &arrived]);
    ensure!(publish.topic == "cities/paris" && arrived == payload, "sent {payload:?} to cities.paris");
    let expected = if asked == QoS::ExactlyOnce { QoS::AtLeastOnce } else { asked };
    ensure!(granted == expected, "asked for {asked:?}, granted {granted:?}");
    ensure!(publish.qos == granted, "granted {granted:?}, delivered at {:?}", publish.qos);
    device.disconnect().await
}

/// An MQTT client and its connection.
struct Device {
    client: AsyncClient,
    events: EventLoop,
}

impl Device {
    async fn connect(port: u16, client_id: &str) -> Result<Self> {
        let (client, events) = AsyncClient::new(MqttOptions::new(client_id, "127.0.0.1", port), 10);
        let mut device = Self { client, events };
        device
            .until("CONNACK", |event| matches!(event, Event::Incoming(Packet::ConnAck(_))).then_some(()))
            .await?;
        Ok(device)
    }

    /// Returns when the server has confirmed the message, as far as its QoS has it confirmed.
    async fn publish(&mut self, topic: &str, qos: QoS, payload: &str) -> Result<()> {
        self.client.publish(topic, qos, false, payload).await?;
        let done = |event| match (qos, event) {
            (QoS::AtMostOnce, Event::Outgoing(Outgoing::Publish(_)))
            | (QoS::AtLeastOnce, Event::Incoming(Packet::PubAck(_)))
            | (QoS::ExactlyOnce, Event::Incoming(Packet::PubComp(_))) => Some(()),
            _ => None,
        };
        self.until("the acknowledgement of a PUBLISH", done).await
    }

    /// Returns the QoS granted.
    async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<QoS> {
        self.client.subscribe(filter, qos).await?;
        let granted = self.until("SUBACK", |event| match event {
            Event::Incoming(Packet::SubAck(suback)) => suback.return_codes.first().copied(),
            _ => None,
        });
        match granted.await? {
            SubscribeReasonCode::Success(granted) => Ok(granted),
            SubscribeReasonCode::Failure => Err(anyhow!("{filter}: subscription refused")),
        }
    }

    async fn disconnect(mut self) -> Result<()> {
        self.client.disconnect().await?;
        self.until("DISCONNECT", |event| matches!(event, Event::Outgoing(Outgoing::Disconnect)).then_some(()))
            .await
    }

    async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> Result<T> {
        let events = &mut self.events;
        let found = async {
            loop {
                if let Some(found) = wanted(events.poll().await?) {
                    return Ok(found);
                }
            }
        };
        within(what, found).await?
    }
}

/// The application's connection to the broker, and its channel.
struct Amqp {
    _connection: Connection,
    channel: Channel,
}

impl Amqp {
    async fn connect(port: u16) -> Result<Self> {
        let uri = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        let connection = Connection::connect(&uri, ConnectionProperties::default());
        let connection = within("connecting with AMQP", connection).await??;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel })
    }

    async fn publish(&self, routing_key: &str, payload: &str) -> Result<()> {
        let (options, properties) =
            (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let publish = self.channel.basic_publish(
            EXCHANGE.into(),
            routing_key.into(),
            options,
            payload.as_bytes(),
            properties,
        );
        within("the broker's confirm", publish.await?).await??;
        Ok(())
    }

    async fn consume(&self, binding_key: &str) -> Result<Consumer> {
        let (options, none) =
            (QueueDeclareOptions { exclusive: true, ..Default::default() }, FieldTable::default());
        let queue = self.channel.queue_declare("".into(), options, none.clone()).await?;
        let (name, bind) = (queue.name().clone(), QueueBindOptions::default());
        self.channel
            .queue_bind(name.clone(), EXCHANGE.into(), binding_key.into(), bind, none.clone())
            .await?;
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        Ok(self.channel.basic_consume(name, "".into(), options, none).await?)
    }
}

fn row([sent, sent_as, arrived, arrived_as, payload]: [&str; 5]) {
    println!("{sent:<20} {sent_as:<14} {arrived:<30} {arrived_as:<14} {payload}");
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(PATIENCE, future).await.with_context(|| format!("not within {PATIENCE:?}: {what}"))
}

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
/// Where MQTT's topics live in the broker.
const EXCHANGE: &str = "amq.topic";
const PATIENCE: Duration = Duration::from_secs(30);

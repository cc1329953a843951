//! The will, held by the broker while the client is there, so that nothing needs to be alive on our side to send it.
//!
//! It lies in a queue of its own, delivered to us and never acknowledged. Whatever ends the connection makes the broker take it
//! back, and since its time to live is 0 it is dead at once and published where dead messages of this queue go: to the topic
//! exchange, with the will's routing key. DISCONNECT deletes the queue, which publishes nothing.

use super::broker::BrokerSide;
use super::channel::{Awaited, Role};
use crate::amqp::{ClientMethod, DeadLetter, MqttHeaders, Properties, QueueArguments, QueueFlags, ShortStr};
use crate::config::ShortText;
use crate::mqtt::QoS;

/// How long the queue outlives its connection: the will is gone from it at once.
const EXPIRES_MS: i64 = 10_000;

const CONSUMER_TAG: ShortStr<'static> = ShortStr::literal("will");

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Select,
    Declare,
    Consume,
    Commit,
    Delete,
}

/// The will of a client. No `Debug`: it is the client's payload.
pub(super) struct Will {
    queue: ShortText,
    routing_key: Box<[u8]>,
    qos: QoS,
    payload: Box<[u8]>,
    /// The delivery that is not acknowledged.
    delivery: Option<u64>,
    /// tx.commit is not answered.
    committing: bool,
}

impl Will {
    pub(super) fn new(queue: ShortText, routing_key: &[u8], qos: QoS, payload: &[u8]) -> Self {
        Self {
            queue,
            routing_key: routing_key.into(),
            qos,
            payload: payload.into(),
            delivery: None,
            committing: false,
        }
    }

    /// Gives it to the broker, in one flight.
    pub(super) fn deposit(&mut self, broker: &mut BrokerSide, exchange: ShortStr<'_>) {
        let routing_key = ShortStr::new(&self.routing_key).unwrap_or(ShortStr::EMPTY);
        let arguments = QueueArguments {
            expires: Some(EXPIRES_MS),
            message_ttl: Some(0),
            dead_letter: Some(DeadLetter { exchange, routing_key }),
            ..QueueArguments::default()
        };
        let queue = self.queue.as_short();
        let flags = QueueFlags { durable: true, ..QueueFlags::default() };
        let declare = ClientMethod::QueueDeclare { queue, flags, arguments };
        // Before the message: with nobody to take it, it would be dead on arrival.
        let consume =
            ClientMethod::BasicConsume { queue, consumer_tag: CONSUMER_TAG, no_ack: false, exclusive: true };
        broker.request(Role::Will, ClientMethod::TxSelect, Awaited::Will(Step::Select));
        broker.request(Role::Will, declare, Awaited::Will(Step::Declare));
        broker.request(Role::Will, consume, Awaited::Will(Step::Consume));
        self.publish(broker);
    }

    /// Puts a new one in place of the one that is held, in one transaction: the broker closes the channel of a consumer that
    /// acknowledges nothing for half an hour, and the will would be sent.
    pub(super) fn renew(&mut self, broker: &mut BrokerSide) {
        if self.committing {
            return;
        }
        if let Some(delivery_tag) = self.delivery.take() {
            broker.acknowledge(Role::Will, delivery_tag);
            self.publish(broker);
        }
    }

    fn publish(&mut self, broker: &mut BrokerSide) {
        let mqtt_headers = MqttHeaders { publish_qos: self.qos as i8, dup: false };
        let properties = Properties {
            persistent: self.qos > QoS::AtMostOnce,
            mqtt_headers: broker.wants_mqtt_headers().then_some(mqtt_headers),
        };
        broker.publish_whole(Role::Will, ShortStr::EMPTY, self.queue.as_short(), properties, &self.payload);
        broker.request(Role::Will, ClientMethod::TxCommit, Awaited::Will(Step::Commit));
        self.committing = true;
    }

    /// The broker delivered it back to us.
    pub(super) const fn delivered(&mut self, delivery_tag: u64) {
        self.delivery = Some(delivery_tag);
    }

    /// The broker committed what was published last.
    pub(super) const fn committed(&mut self) {
        self.committing = false;
    }

    /// Whether the broker has it.
    pub(super) const fn is_held(&self) -> bool {
        self.delivery.is_some() && !self.committing
    }

    /// Takes it back. [MQTT-3.14.4-3]
    pub(super) fn withdraw(&self, broker: &mut BrokerSide) {
        let delete = ClientMethod::QueueDelete { queue: self.queue.as_short(), if_unused: false };
        broker.request(Role::Will, delete, Awaited::Will(Step::Delete));
    }
}

//! A broker's notices: what the client hears of them.

use super::broker::Notice;
use super::channel::Role;
use super::from_client::CONSUMER_TAGS;
use super::inflight::Receipt;
use super::subscribe::{Answer, Level};
use super::{Bridge, State};
use crate::amqp::{ContentHeader, PUBLISH_QOS};
use crate::error::{BrokerMisbehaved, Error};
use crate::event::Event;
use crate::mqtt::encode::{self, Delivery, PublishHead};
use crate::mqtt::{ConnectReturnCode, QoS};
use crate::time::Instant;

/// The message that is arriving; its topic is in `Bridge::topic`.
#[derive(Clone, Copy, Default)]
pub(super) enum Arriving {
    /// Its body, if it has one left, is the client's.
    Wanted,
    /// Nobody's: the rest is passed over.
    #[default]
    Unwanted,
    /// Its header is awaited.
    Announced { level: Level, delivery_tag: u64, redelivered: bool, is_topic: bool },
}

impl Bridge {
    pub(super) fn broker_notices(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), Error> {
        while let Some(notice) = self.broker.next(input)? {
            match notice {
                Notice::Open => {
                    self.client.connack(false, ConnectReturnCode::Accepted);
                    self.events.push_back(Event::Accepted);
                    self.state = State::Connected;
                    // The keep-alive starts to count when the client may know that it does.
                    self.timers.client_heard(now);
                }
                Notice::Unblocked => self.timers.client_heard(now),
                Notice::Probed => {
                    for _ in 0..core::mem::take(&mut self.pings.probed) {
                        encode::pingresp(self.client.packet());
                    }
                }
                Notice::Done(step) => {
                    self.subscriptions.done(step);
                    self.ask_steps();
                    self.answer_subscriptions();
                }
                Notice::ChannelClosed { role, code, method, steps } => {
                    let error = Error::BrokerClosed { code, method };
                    let mut steps = steps.into_iter();
                    match (role, steps.next()) {
                        (Role::Topology, None) => {}
                        (Role::Topology, Some(blamed)) => self.subscriptions.refused(blamed),
                        (Role::Consume, Some(blamed)) if !self.subscriptions.is_consuming() => {
                            self.subscriptions.refused(blamed);
                        }
                        // A publish was refused, or the consumers are gone.
                        (Role::Publish | Role::Confirm | Role::Consume, _) => return Err(error),
                    }
                    self.subscriptions.ask_again(steps);
                    self.ask_steps();
                    self.answer_subscriptions();
                }
                Notice::Confirmed { number, multiple } => {
                    let client = &mut self.client;
                    let owed = |receipt| match receipt {
                        Receipt::Puback(id) => encode::puback(client.packet(), id),
                        Receipt::Pubrec(id) => encode::pubrec(client.packet(), id),
                        Receipt::Pubcomp(id) => encode::pubcomp(client.packet(), id),
                    };
                    self.publications
                        .confirm(number, multiple, owed)
                        .ok_or(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected))?;
                }
                Notice::Deliver { consumer_tag, delivery_tag, redelivered, routing_key } => {
                    let level = Level::ALL
                        .into_iter()
                        .find(|level| level.of(&CONSUMER_TAGS).as_bytes() == consumer_tag)
                        .ok_or(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected))?;
                    let is_topic = self.config.topic_mapping.topic_name(routing_key, &mut self.topic).is_ok();
                    self.arriving = Arriving::Announced { level, delivery_tag, redelivered, is_topic };
                }
                Notice::Content(header) => self.deliver(&header)?,
                Notice::Body(bytes) => {
                    if matches!(self.arriving, Arriving::Wanted) {
                        self.client.payload(bytes);
                    }
                }
                Notice::Closed => self.over(),
            }
        }
        Ok(())
    }

    /// Starts the PUBLISH of an announced message, or decides that there is none.
    fn deliver(&mut self, header: &ContentHeader<'_>) -> Result<(), Error> {
        let Arriving::Announced { level, delivery_tag, redelivered, is_topic } = self.arriving else {
            return Ok(());
        };
        let qos = level.qos().min(published_qos(header));
        let has_packet_id = qos > QoS::AtMostOnce;
        if !is_topic || !encode::publish_fits(&self.topic, has_packet_id, header.body_size) {
            self.events.push_back(Event::Undeliverable);
            self.pass_over(level, delivery_tag);
            return Ok(());
        }
        if redelivered && !has_packet_id {
            // It may have reached the client already, and at most once was promised.
            self.pass_over(level, delivery_tag);
            return Ok(());
        }
        let delivery = match has_packet_id {
            true => {
                let misbehaved = Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected);
                let packet_id = self.deliveries.send(delivery_tag).ok_or(misbehaved)?;
                Delivery::AtLeastOnce { packet_id, dup: redelivered }
            }
            false => Delivery::AtMostOnce,
        };
        let payload_len = header.body_size as u32;
        self.client.publish(PublishHead { delivery, retain: false, topic: &self.topic, payload_len });
        self.arriving = Arriving::Wanted;
        if level == Level::One && !has_packet_id {
            self.broker.acknowledge(delivery_tag);
        }
        Ok(())
    }

    fn pass_over(&mut self, level: Level, delivery_tag: u64) {
        self.arriving = Arriving::Unwanted;
        if level == Level::One {
            self.broker.acknowledge(delivery_tag);
        }
    }

    pub(super) fn answer_subscriptions(&mut self) {
        while let Some(answer) = self.subscriptions.take_answer() {
            match answer {
                Answer::Suback(id, codes) => encode::suback(self.client.packet(), id, codes.into_iter()),
                Answer::Unsuback(id) => encode::unsuback(self.client.packet(), id),
            }
        }
    }
}

/// What a message was published at: its header tells where RabbitMQ's MQTT plugin or we sent it to a broker before 3.13,
/// else whether it is persistent.
fn published_qos(header: &ContentHeader<'_>) -> QoS {
    match header.integer(PUBLISH_QOS.as_bytes()) {
        Some(qos) if qos > 0 => QoS::AtLeastOnce,
        None if header.persistent => QoS::AtLeastOnce,
        Some(_) | None => QoS::AtMostOnce,
    }
}

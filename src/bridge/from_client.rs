//! A client's packets: check, authorise, translate, and ask the broker.

use super::channel::{Awaited, Role};
use super::inflight::Arrival;
use super::subscribe::{Level, Requested, Step};
use super::{Bridge, State};
use crate::amqp::{ClientMethod, MqttHeaders, Properties, QueueFlags, ShortStr};
use crate::error::{Error, Limit, Misbehaved};
use crate::event::Event;
use crate::mqtt::{self, Connect, Item, Packet, PacketId, Publish, QoS, Subscribe, Unsubscribe, encode};
use crate::policy;
use crate::time::Instant;

/// Consumer tags, which tell the level of a delivery.
pub(super) const CONSUMER_TAGS: [ShortStr<'static>; 2] =
    [ShortStr::literal("qos0"), ShortStr::literal("qos1")];

/// How long the queue of a clean session outlives its consumer, should its broker restart.
const UNCONSUMED_EXPIRES_MS: i64 = 60_000;

/// The most PINGREQs that may wait for one round trip to the broker.
const MAX_PINGS: u32 = 65_536;

impl Bridge {
    pub(super) fn client_items(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), Error> {
        while self.listens_to_client() {
            match self.decoder.next(input).map_err(Error::Malformed)? {
                Some(Item::Packet(packet)) => self.packet(now, packet)?,
                Some(Item::Payload { bytes, last }) => self.broker.publish_body(bytes, last),
                None => return Ok(()),
            }
        }
        // Behind a DISCONNECT nothing counts. [MQTT-3.14.4-2]
        *input = &[];
        Ok(())
    }

    fn packet(&mut self, now: Instant, packet: Packet<'_>) -> Result<(), Error> {
        match packet {
            Packet::Connect(connect) if self.state == State::AwaitConnect => self.connect(&connect)?,
            Packet::Connect(_) => return Err(Error::Misbehaved(Misbehaved::SecondConnect)),
            _ if self.state == State::AwaitConnect => return Err(Error::Misbehaved(Misbehaved::NotConnect)),
            Packet::Publish(publish) => self.publish(publish)?,
            Packet::Puback(id) => self.puback(id),
            // We deliver at QoS 0 and 1 only, so nobody waits for these.
            Packet::Pubrec(_) | Packet::Pubcomp(_) => {}
            Packet::Pubrel(id) => {
                if self.publications.release(id) {
                    encode::pubcomp(self.client.packet(), id);
                }
            }
            Packet::Subscribe(subscribe) => self.subscribe(subscribe)?,
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe)?,
            Packet::Pingreq if self.pings.waiting < MAX_PINGS => self.pings.waiting += 1,
            Packet::Pingreq => return Err(Error::Limit(Limit::Requests)),
            Packet::Disconnect => {
                self.events.push_back(Event::Disconnected);
                self.leave(now);
            }
        }
        Ok(())
    }

    fn connect(&mut self, connect: &Connect<'_>) -> Result<(), Error> {
        let admission = policy::admit(&self.config, &self.peer, connect).map_err(Error::Refused)?;
        self.decoder.set_version(connect.version, self.config.limits.max_packet_size_authenticated);
        self.timers.keep_alive(connect.keep_alive);
        let address = self.peer.address.map(|address| address.to_string()).unwrap_or_default();
        let start_ok = ClientMethod::StartOk {
            connection_name: admission.client_id.as_bytes(),
            properties: &[
                ("client_id", admission.client_id.as_bytes()),
                ("mqtt_version", connect.version.label().as_bytes()),
                ("mqtt_peer", address.as_bytes()),
            ],
            username: admission.username.as_bytes(),
            password: admission.password.expose(),
        };
        self.broker.log_in(&self.config, start_ok, admission.vhost.as_short());
        self.queues = Some(admission.queues);
        self.state = State::LoggingIn;
        Ok(())
    }

    fn publish(&mut self, publish: Publish<'_>) -> Result<(), Error> {
        self.config.topic_mapping.routing_key(publish.topic, &mut self.key);
        let Some(routing_key) = ShortStr::new(&self.key) else {
            return Err(Error::Malformed(mqtt::DecodeError::TopicTooLong));
        };
        let role = match publish.packet_id {
            None => Role::Publish,
            Some(id) => match self.publications.arrive(id, publish.qos) {
                Arrival::New => Role::Confirm,
                // Published once per packet id: the payload that follows has nowhere to go.
                Arrival::Pending => return Ok(()),
                Arrival::Stored => {
                    encode::pubrec(self.client.packet(), id);
                    return Ok(());
                }
            },
        };
        let mqtt_headers = MqttHeaders { publish_qos: publish.qos as i8, dup: publish.dup };
        let properties = Properties {
            persistent: publish.qos > QoS::AtMostOnce,
            mqtt_headers: self.broker.wants_mqtt_headers().then_some(mqtt_headers),
        };
        self.broker.publish(
            role,
            self.config.exchange.as_short(),
            routing_key,
            properties,
            publish.payload_len,
        );
        Ok(())
    }

    fn puback(&mut self, id: PacketId) {
        if let Some(delivery_tag) = self.deliveries.acknowledge(id) {
            self.broker.acknowledge(delivery_tag);
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe<'_>) -> Result<(), Error> {
        self.check_room_for(subscribe.entries.clone().count())?;
        let requested: Vec<Requested> = subscribe
            .entries
            .map(|(filter, qos)| Some((self.binding_key(filter)?, Level::granted(qos))))
            .collect();
        self.subscriptions.subscribe(subscribe.packet_id, requested.into_iter());
        self.ask_steps();
        self.answer_subscriptions();
        Ok(())
    }

    fn unsubscribe(&mut self, unsubscribe: Unsubscribe<'_>) -> Result<(), Error> {
        self.check_room_for(unsubscribe.filters.clone().count())?;
        let keys: Vec<_> = unsubscribe.filters.filter_map(|filter| self.binding_key(filter)).collect();
        self.subscriptions.unsubscribe(unsubscribe.packet_id, keys.into_iter());
        self.ask_steps();
        self.answer_subscriptions();
        Ok(())
    }

    fn check_room_for(&self, filters: usize) -> Result<(), Error> {
        if self.subscriptions.has_room_for(filters) { Ok(()) } else { Err(Error::Limit(Limit::Requests)) }
    }

    /// `None` for a filter that cannot be subscribed to.
    fn binding_key(&mut self, filter: &str) -> Option<Box<[u8]>> {
        self.config.topic_mapping.binding_key(filter, &mut self.key).ok()?;
        ShortStr::new(&self.key).map(|key| key.as_bytes().into())
    }

    /// Asks the broker for the steps of subscriptions that may be asked now.
    pub(super) fn ask_steps(&mut self) {
        while let Some(step) = self.subscriptions.next_step() {
            self.ask(step);
        }
    }

    fn ask(&mut self, step: Step) {
        let (Some(queues), Some(key)) = (&self.queues, self.subscriptions.key(step)) else { return };
        let queue = |level: Level| level.of(queues).as_short();
        let (exchange, routing_key) = (self.config.exchange.as_short(), key);
        let (role, method) = match step {
            Step::Delete(level) => (Role::Topology, ClientMethod::QueueDelete { queue: queue(level) }),
            Step::Declare(level) => {
                // It goes with its consumer, and a newcomer can take it from a connection that hangs, which an exclusive
                // queue does not allow. The expiry is for a client that goes between this and basic.consume.
                let flags = QueueFlags { durable: true, auto_delete: true, ..QueueFlags::default() };
                let (queue, expires) = (queue(level), Some(UNCONSUMED_EXPIRES_MS));
                (Role::Topology, ClientMethod::QueueDeclare { queue, flags, expires })
            }
            Step::Bind(_, level) => {
                (Role::Topology, ClientMethod::QueueBind { queue: queue(level), exchange, routing_key })
            }
            Step::Unbind(_, level) => {
                (Role::Topology, ClientMethod::QueueUnbind { queue: queue(level), exchange, routing_key })
            }
            Step::Consume(level) => {
                let (queue, consumer_tag) = (queue(level), *level.of(&CONSUMER_TAGS));
                (
                    Role::Consume,
                    ClientMethod::BasicConsume { queue, consumer_tag, no_ack: level == Level::Zero },
                )
            }
        };
        self.broker.request(role, method, Awaited::Subscription(step));
    }
}

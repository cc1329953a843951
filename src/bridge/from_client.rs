//! A client's packets: check, authorise, translate, and ask the broker.

use std::rc::Rc;

use super::channel::{Awaited, Role};
use super::inflight::Arrival;
use super::queues::Level;
use super::retained::Names;
use super::retained::keep::Keeper;
use super::retained::replay::Replayer;
use super::session::Session;
use super::subscribe::{Filter, Subscriptions};
use super::throttle::Throttle;
use super::will::Will;
use super::{Bridge, State, Who};
use crate::amqp::{Address, ClientMethod, MqttHeaders, Properties, ShortStr};
use crate::error::{Error, Limit, Misbehaved};
use crate::event::Event;
use crate::metrics::Metric;
use crate::mqtt::{self, Connect, Item, Packet, PacketId, Publish, QoS, Subscribe, Unsubscribe, encode};
use crate::policy::grants::Budget;
use crate::policy::{Admission, Denial, Message, OnUnauthorized, Verification};
use crate::time::{Duration, Instant};
use crate::topic;

/// Bytes of a user name that the broker is shown.
const MAX_SHOWN: usize = 64;

/// What a client may make the module hold, in bytes, while the worker is short of memory: without being read from no more.
const MEMORY_SHARE: usize = 64 * 1024;

/// The most PINGREQs that may wait for one round trip to the broker.
const MAX_PINGS: u32 = 65_536;

impl Bridge {
    pub(super) fn client_items(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), Error> {
        while self.listens_to_client() {
            if self.must_wait(now)? || (!input.is_empty() && self.throttle.ends_turn()) {
                return Ok(());
            }
            if self.adds_to_short_memory() {
                self.throttle.spare_memory(now);
                return Ok(());
            }
            let before = input.len();
            match self.decoder.next(input).map_err(Error::Malformed)? {
                Some(Item::Packet(packet)) => self.packet(now, packet)?,
                Some(Item::Payload { bytes, last }) => {
                    self.broker.publish_body(bytes, last);
                    self.copy_payload(bytes, last);
                }
                None => return Ok(()),
            }
            self.throttle.bytes(now, before - input.len());
        }
        // Behind a DISCONNECT nothing counts. [MQTT-3.14.4-2]
        *input = &[];
        Ok(())
    }

    /// Whether the client is to be read from later.
    fn must_wait(&mut self, now: Instant) -> Result<bool, Error> {
        // What a client that has ended still says goes to the broker with its end, so it does not wait for confirms.
        let inflight = if self.client_ended { 0 } else { self.publications.unconfirmed() };
        if self.client_ended {
            self.throttle.end_within(now, self.patience());
        }
        self.throttle.holds(now, Some(inflight).filter(|_| !self.decoder.is_in_payload()))
    }

    /// For how long the broker may hear nothing of a client that has ended, see [`Bridge::take_broker_output`]: neither does the login
    /// time out by then nor is a heartbeat missed.
    fn patience(&self) -> Duration {
        let login = self.config.limits.login_timeout / 2;
        match self.config.heartbeat {
            0 => login,
            seconds => login.min(Duration::from_secs(seconds.into())),
        }
    }

    /// Whether the worker is short of memory, and the client one of those that it went to.
    fn adds_to_short_memory(&self) -> bool {
        self.held > MEMORY_SHARE
            && self.state != State::AwaitConnect
            && !self.client_ended
            && self.gate.is_short_of_memory()
    }

    /// Whether the broker has confirmed enough.
    pub(super) fn may_send_more(&mut self) -> bool {
        let inflight = self.publications.unconfirmed();
        self.throttle.has_room(inflight)
    }

    fn packet(&mut self, now: Instant, packet: Packet<'_>) -> Result<(), Error> {
        match packet {
            Packet::Connect(connect) if self.state == State::AwaitConnect => self.connect(now, &connect)?,
            Packet::Connect(_) => return Err(Error::Misbehaved(Misbehaved::SecondConnect)),
            _ if self.state == State::AwaitConnect => return Err(Error::Misbehaved(Misbehaved::NotConnect)),
            Packet::Publish(publish) => self.publish(now, publish)?,
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
                self.withdraw_will();
                self.leave(now);
            }
        }
        Ok(())
    }

    fn connect(&mut self, now: Instant, connect: &Connect<'_>) -> Result<(), Error> {
        let (said_id, said_user) = (connect.client_id, connect.username.unwrap_or_default());
        self.who = Some(Who { client_id: said_id.into(), username: said_user.into(), vhost: "".into() });
        self.tenant = Rc::clone(self.gate.tenant(&self.peer, connect).map_err(Error::Refused)?);
        let admission = self.gate.admit(now, &self.peer, connect, &self.tenant, Verification::Password);
        let admission = admission.map_err(Error::Refused)?;
        self.decoder.set_version(connect.version, self.config.limits.max_packet_size_authenticated);
        self.timers.keep_alive(connect.keep_alive);
        let address = self.peer.address.map(|address| address.to_string()).unwrap_or_default();
        // The user where the broker would not see it; only to look at, and the whole has to fit the broker's first frame.
        let user = if admission.username == admission.broker_user { "" } else { &*admission.username };
        let properties: Vec<(&str, &[u8])> = [
            ("client_id", admission.client_id.as_bytes()),
            ("mqtt_version", connect.version.label().as_bytes()),
            ("mqtt_peer", address.as_bytes()),
            ("mqtt_user", user.get(..user.floor_char_boundary(MAX_SHOWN)).unwrap_or_default().as_bytes()),
            ("mqtt_tenant", admission.tenant.name.as_bytes()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
        let start_ok = ClientMethod::StartOk {
            connection_name: admission.client_id.as_bytes(),
            properties: &properties,
            username: admission.broker_user.as_bytes(),
            password: admission.broker_pass.expose(),
        };
        self.broker.set_prefetch(self.tenant.prefetch);
        // Before there is anything for the broker, which decides where that goes.
        self.route = self.tenant.cluster.clone();
        self.broker.log_in(&self.config, start_ok, admission.vhost.as_short());
        self.state = State::LoggingIn;
        let names =
            self.tenant.retained.then(|| Names::new(&self.tenant.queue_prefix)).flatten().map(Rc::new);
        if let Some(will) = &connect.will {
            self.config.topic_mapping.routing_key(will.topic, &mut self.key);
            if ShortStr::new(&self.key).is_none() {
                return Err(Error::Malformed(mqtt::DecodeError::TopicTooLong));
            }
            let mut held = Will::new(admission.queues.will.clone(), &self.key, will.qos, will.payload);
            if let Some(names) = names.as_ref().filter(|_| will.retain) {
                held.retain(admission.queues.retained_will.clone(), names);
            }
            self.will = Some(held);
        }
        if let Some(names) = names {
            self.keeper = Some(Keeper::new(Rc::clone(&names)));
            self.replayer = Some(Replayer::new(names, admission.queues.answers.clone()));
        }
        let Admission { client_id, username, vhost, queues, has_own_id, rights, seat, attempt, .. } =
            admission;
        self.who = Some(Who { client_id, username, vhost: vhost.as_str().into() });
        self.rights = Some(rights);
        self.attempt = attempt;
        self.throttle = Throttle::new(&self.tenant.quota, seat);
        self.session = Some(Session::new(queues, has_own_id, connect.clean_session, &self.config));
        self.ask_steps();
        Ok(())
    }

    /// The client needs its will no more.
    pub(super) fn withdraw_will(&mut self) {
        if let Some(will) = self.will.take() {
            // A login that comes to nothing ends without a goodbye.
            let ends_at_once = self.client_ended || self.state == State::LoggingIn;
            if self.counted.is_connected {
                self.measures.add(Metric::WillsWithdrawn, 1);
            }
            will.withdraw(&mut self.broker, ends_at_once);
        }
    }

    fn publish(&mut self, now: Instant, publish: Publish<'_>) -> Result<(), Error> {
        self.config.topic_mapping.routing_key(publish.topic, &mut self.key);
        let Some(routing_key) = ShortStr::new(&self.key) else {
            return Err(Error::Malformed(mqtt::DecodeError::TopicTooLong));
        };
        self.throttle.message(now);
        if let Some(Err(denial)) = self.rights.as_ref().map(|rights| {
            rights.publish(Message {
                topic: publish.topic,
                routing_key: routing_key.as_bytes(),
                qos: publish.qos,
                retain: publish.retain,
                payload_len: publish.payload_len,
            })
        }) {
            return self.deny(&publish, denial);
        }
        let is_retained = publish.retain && self.keeper.is_some();
        let topic = match self.tenant.on_unauthorized {
            OnUnauthorized::Disconnect => 0,
            OnUnauthorized::Drop => super::topic_hash(&self.key),
        };
        let role = match publish.packet_id {
            // It is kept once the broker has taken it, so once its topic is permitted.
            None if is_retained => {
                self.publications.arrive_unacknowledged(topic, now);
                Role::Confirm
            }
            None => {
                self.published_at = Some(now);
                Role::Publish
            }
            Some(id) => match self.publications.arrive(id, publish.qos, topic, now) {
                Arrival::New => Role::Confirm,
                // Published once per packet id: the payload that follows has nowhere to go.
                Arrival::Pending => return Ok(()),
                Arrival::Stored => {
                    encode::pubrec(self.client.packet(), id);
                    return Ok(());
                }
            },
        };
        let (messages, bytes) = match publish.qos {
            QoS::AtMostOnce => (Metric::MessagesPublishedQos0, Metric::BytesPublishedQos0),
            QoS::AtLeastOnce => (Metric::MessagesPublishedQos1, Metric::BytesPublishedQos1),
            QoS::ExactlyOnce => (Metric::MessagesPublishedQos2, Metric::BytesPublishedQos2),
        };
        self.measures.add(messages, 1);
        self.measures.add(bytes, publish.payload_len.into());
        let mqtt_headers = MqttHeaders { publish_qos: publish.qos as i8, dup: publish.dup };
        let properties = Properties {
            persistent: publish.qos > QoS::AtMostOnce,
            mqtt_headers: self.broker.wants_mqtt_headers().then_some(mqtt_headers),
            retained: is_retained.then_some(b""),
            ..Properties::default()
        };
        let to = Address { exchange: self.tenant.exchange.as_short(), routing_key, mandatory: false };
        self.broker.publish(role, to, properties, publish.payload_len);
        if is_retained { self.copy(&publish) } else { Ok(()) }
    }

    /// A PUBLISH that policy does not permit. Its payload, which follows, has nowhere to go.
    fn deny(&mut self, publish: &Publish<'_>, denial: Denial) -> Result<(), Error> {
        if self.tenant.on_unauthorized == OnUnauthorized::Disconnect {
            return Err(Error::Denied(denial));
        }
        let is_first = self.denied.note(denial);
        self.events.push_back(Event::PublishDenied { denial, is_first });
        match (publish.packet_id, publish.qos) {
            (Some(id), QoS::ExactlyOnce) => encode::pubrec(self.client.packet(), id),
            (Some(id), _) => encode::puback(self.client.packet(), id),
            (None, _) => {}
        }
        Ok(())
    }

    fn puback(&mut self, id: PacketId) {
        if let Some(delivery_tag) = self.deliveries.acknowledge(id) {
            self.broker.acknowledge(Role::Consume, delivery_tag);
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe<'_>) -> Result<(), Error> {
        // Before they are looked at, which costs more than to send them.
        self.subscriptions_for(subscribe.entries.clone().count())?;
        let max_qos = self.tenant.quota.max_qos;
        let mut budget = Budget::default();
        let filters: Vec<_> = subscribe
            .entries
            .map(|(filter, qos)| {
                let level = Level::granted(qos.min(max_qos));
                (self.permitted(filter, level, &mut budget), level)
            })
            .collect();
        self.subscriptions_for(filters.len())?.subscribe(subscribe.packet_id, filters.into_iter());
        self.ask_steps();
        self.answer_subscriptions();
        Ok(())
    }

    fn unsubscribe(&mut self, unsubscribe: Unsubscribe<'_>) -> Result<(), Error> {
        self.subscriptions_for(unsubscribe.filters.clone().count())?;
        let filters: Vec<_> = unsubscribe
            .filters
            .map(|filter| {
                if let Some(session) = &mut self.session {
                    session.subscriptions.uncount(filter);
                }
                self.filter(filter)
            })
            .collect();
        self.subscriptions_for(filters.len())?.unsubscribe(unsubscribe.packet_id, filters.into_iter());
        self.ask_steps();
        self.answer_subscriptions();
        Ok(())
    }

    /// The subscriptions, when they have room for so many filters more.
    fn subscriptions_for(&mut self, filters: usize) -> Result<&mut Subscriptions, Error> {
        match &mut self.session {
            Some(session)
                if session.subscriptions.has_room_for(filters)
                    && self.replayer.as_ref().is_none_or(Replayer::has_room) =>
            {
                Ok(&mut session.subscriptions)
            }
            Some(_) | None => Err(Error::Limit(Limit::Requests)),
        }
    }

    /// `None` for a filter that may not be subscribed to.
    fn permitted(&mut self, text: &str, level: Level, budget: &mut Budget) -> Option<Filter> {
        let Some(mut filter) = self.filter(text) else {
            return self.deny_filter(Denial::Filter);
        };
        let topics = topic::shared(text).and_then(Result::ok).map_or(text, |(_, topics)| topics);
        let rights = self.rights.as_ref()?;
        let mut permitted = rights.subscribe(topics, &filter.binding_key, level.qos(), budget).map(|_| ());
        let most = self.tenant.quota.max_subscriptions;
        if permitted.is_ok()
            && let (Some(session), Some(most)) = (&mut self.session, most)
            && !session.subscriptions.count(&mut filter, text, most as usize)
        {
            permitted = Err(Denial::Subscriptions);
        }
        match permitted {
            Ok(()) => Some(filter),
            Err(denial) => self.deny_filter(denial),
        }
    }

    fn deny_filter(&mut self, denial: Denial) -> Option<Filter> {
        let is_first = self.denied.note(denial);
        self.events.push_back(Event::SubscribeDenied { denial, is_first });
        None
    }

    /// `None` for a filter that cannot be subscribed to.
    fn filter(&mut self, filter: &str) -> Option<Filter> {
        let (group, filter) = match topic::shared(filter) {
            None => (None, filter),
            Some(shared) => {
                let (group, filter) = shared.ok()?;
                // A queue is named after it.
                (ShortStr::new(group.as_bytes()).map(|_| Some(group.into()))?, filter)
            }
        };
        self.config.topic_mapping.binding_key(filter, &mut self.key).ok()?;
        ShortStr::new(&self.key).map(|key| Filter {
            binding_key: key.as_bytes().into(),
            group,
            counted: None,
        })
    }

    /// Asks the broker for the steps that may be asked now.
    pub(super) fn ask_steps(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(step) = session.next_step() {
            let (role, method) = session.method(step, self.tenant.exchange.as_short());
            self.broker.request(role, method, Awaited::Step(step));
        }
    }
}

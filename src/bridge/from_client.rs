//! A client's packets: check, authorise, translate, and ask the broker.

use std::rc::Rc;

use super::again::Draft;
use super::channel::{Awaited, Role};
use super::inflight::Arrival;
use super::order::Unconfirmed;
use super::queues::Level;
use super::retained::keep::Keeper;
use super::retained::replay::Replayer;
use super::retained::{Keeping, Names};
use super::session::Session;
use super::subscribe::Filter;
use super::throttle::{Hold, Throttle};
use super::will::Will;
use super::{Bridge, State, Who};
use crate::amqp::{self, Address, ClientMethod, ShortStr};
use crate::error::{Error, Misbehaved};
use crate::event::Event;
use crate::metrics::Metric;
use crate::mqtt::{self, Connect, Filters, Item, Packet, PacketId, Publish, QoS, SubscribeEntries, encode};
use crate::policy::grants::Budget;
use crate::policy::{Admission, Denial, Message, OnUnauthorized, Refusal, Verification};
use crate::time::{Duration, Instant};
use crate::topic;

/// Bytes of a user name that the broker is shown.
const MAX_SHOWN: usize = 64;

/// Bytes of the first frame that any broker takes, frame and all. AMQP 0-9-1 §4.2.2
const FIRST_FRAME: usize = amqp::FRAME_MIN_SIZE as usize;

/// Bytes of it that are not for credentials. Where `max_credentials_size` is above its default, the broker is set to take as much more.
const BESIDE_CREDENTIALS: usize = 512;
/// What a client may make the module hold, in bytes, while the worker is short of memory: without being read from no more.
const MEMORY_SHARE: usize = 64 * 1024;

impl Bridge {
    pub(super) fn client_items(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), Error> {
        while self.listens_to_client() {
            if self.must_wait(now, input)? || (!input.is_empty() && self.throttle.ends_turn()) {
                return Ok(());
            }
            if self.adds_to_short_memory() {
                self.throttle.spare_memory(now);
                return Ok(());
            }
            let before = (*input, self.decoder);
            match self.decoder.next(input).map_err(Error::Malformed)? {
                Some(Item::Packet(packet)) => self.packet(now, packet, input.len())?,
                Some(Item::Payload { bytes, last }) => {
                    self.keep_payload(bytes, last);
                    self.broker.publish_body(bytes, last);
                    self.draft_payload(bytes, last);
                }
                None => return Ok(()),
            }
            if self.throttle.hold() == Some(Hold::Keep) {
                (*input, self.decoder) = before;
                return Ok(());
            }
            self.throttle.bytes(now, before.0.len() - input.len());
        }
        // Behind a DISCONNECT nothing counts. [MQTT-3.14.4-2]
        *input = &[];
        Ok(())
    }

    /// Whether the client is to be read from later.
    fn must_wait(&mut self, now: Instant, input: &[u8]) -> Result<bool, Error> {
        // What a client that has ended still says goes to the broker with its end, so it does not wait for confirms.
        let inflight = if self.client_ended { 0 } else { self.publications.under_way() };
        if self.client_ended {
            self.throttle.end_within(now, self.patience());
        }
        if self.throttle.holds(now, Some(inflight).filter(|_| !self.decoder.is_in_payload()))? {
            return Ok(true);
        }
        let waits = self.must_wait_for_order(input);
        if waits {
            self.throttle.wait_for_order();
        }
        Ok(waits)
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
        let inflight = self.publications.under_way();
        self.throttle.has_room(inflight)
    }

    /// A packet with so many bytes behind it.
    fn packet(&mut self, now: Instant, packet: Packet<'_>, behind: usize) -> Result<(), Error> {
        match packet {
            Packet::Connect(connect) if self.state == State::AwaitConnect => self.connect(now, &connect)?,
            Packet::Connect(_) => return Err(Error::Misbehaved(Misbehaved::SecondConnect)),
            _ if self.state == State::AwaitConnect => return Err(Error::Misbehaved(Misbehaved::NotConnect)),
            Packet::Publish(publish) => self.publish(now, publish, behind)?,
            Packet::Puback(id) => self.puback(id),
            // We deliver at QoS 0 and 1 only, so nobody waits for these; but to what is delivered, they are the wrong answer.
            Packet::Pubrec(id) | Packet::Pubcomp(id) if self.deliveries.is_in_flight(id) => {
                return Err(Error::Misbehaved(Misbehaved::Acknowledgement));
            }
            Packet::Pubrec(_) | Packet::Pubcomp(_) => {}
            Packet::Pubrel(id) => {
                if self.publications.release(id) {
                    encode::pubcomp(self.client.packet(), id);
                }
            }
            Packet::Subscribe(it) => self.filters(now, it.packet_id, true, it.entries.encoded()),
            Packet::Unsubscribe(it) => self.filters(now, it.packet_id, false, it.filters.encoded()),
            Packet::Pingreq => self.pings.waiting = self.pings.waiting.saturating_add(1),
            Packet::Disconnect => {
                self.has_disconnected = true;
                self.events.push_back(Event::Disconnected);
                self.withdraw_will();
                if let Some(session) = self.session.as_mut().filter(|_| !self.client_ended) {
                    session.leave_groups();
                }
                self.ask_steps();
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
        let said = |properties| ClientMethod::StartOk {
            connection_name: admission.client_id.as_bytes(),
            properties,
            username: admission.broker_user.as_bytes(),
            password: admission.broker_pass.expose(),
        };
        // Properties are only shown: rather without them than not at all.
        let most = (self.config.policy.max_credentials_size + BESIDE_CREDENTIALS).max(FIRST_FRAME);
        let start_ok = [said(&properties), said(&[])].into_iter().find(|it| it.encoded_len() <= most);
        let start_ok = start_ok.ok_or(Error::Refused(Refusal::CredentialsUnfit))?;
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
        let max_shared = self.tenant.quota.max_shared_subscriptions;
        self.session =
            Some(Session::new(queues, has_own_id, connect.clean_session, &self.config, max_shared));
        self.ask_steps();
        Ok(())
    }

    /// The client needs its will no more.
    pub(super) fn withdraw_will(&mut self) {
        if let Some(will) = &mut self.will {
            if self.counted.is_connected {
                self.measures.add(Metric::WillsWithdrawn, 1);
            }
            will.withdraw(&mut self.broker, self.client_ended);
        }
    }

    fn publish(&mut self, now: Instant, publish: Publish<'_>, behind: usize) -> Result<(), Error> {
        self.config.topic_mapping.routing_key(publish.topic, &mut self.key);
        let Some(routing_key) = ShortStr::new(&self.key) else {
            return Err(Error::Malformed(mqtt::DecodeError::TopicTooLong));
        };
        let mut budget = Budget::default();
        let message = Message {
            topic: publish.topic,
            routing_key: routing_key.as_bytes(),
            qos: publish.qos,
            retain: publish.retain,
            payload_len: publish.payload_len,
        };
        let permitted = self.rights.as_ref().map(|rights| rights.publish(message, &mut budget));
        self.throttle.judged(now, &budget);
        if let Some(Err(denial)) = permitted {
            self.throttle.message(now);
            return self.deny(&publish, denial);
        }
        let is_retained = publish.retain && self.keeper.is_some();
        let keeps = match self.admit_to_keep(&publish, behind)? {
            Some(Keeping::Wait) => {
                self.throttle.hold_to_keep();
                return Ok(());
            }
            Some(Keeping::Refused) => {
                self.events.push_back(Event::Unauthorized);
                self.acknowledge_dropped(&publish);
                return Ok(());
            }
            keeps => keeps,
        };
        self.throttle.message(now);
        let topic = match self.tenant.on_unauthorized {
            OnUnauthorized::Disconnect => 0,
            OnUnauthorized::Drop => super::topic_hash(&self.key),
        };
        match publish.packet_id {
            // Last words are kept by what comes behind them on the same channel, so once their topic is permitted. And where messages
            // are confirmed, all are.
            None if keeps == Some(Keeping::LastWords) || self.broker.confirms(Role::Publish) => {
                self.broker.confirm(Role::Publish);
                self.publications.arrive_unacknowledged(topic, now);
            }
            None => {
                self.published_at = Some(now);
                self.unconfirmed = Unconfirmed::Sent;
            }
            Some(id) => match self.publications.arrive(id, publish.qos, topic, now) {
                Arrival::New => self.broker.confirm(Role::Publish),
                // Published once per packet id: the payload that follows has nowhere to go.
                Arrival::Pending => return Ok(()),
                Arrival::Stored => {
                    encode::pubrec(self.client.packet(), id);
                    return Ok(());
                }
            },
        }
        let (messages, bytes) = match publish.qos {
            QoS::AtMostOnce => (Metric::MessagesPublishedQos0, Metric::BytesPublishedQos0),
            QoS::AtLeastOnce => (Metric::MessagesPublishedQos1, Metric::BytesPublishedQos1),
            QoS::ExactlyOnce => (Metric::MessagesPublishedQos2, Metric::BytesPublishedQos2),
        };
        self.heard_publish = Some(now);
        self.measures.add(messages, 1);
        self.measures.add(bytes, publish.payload_len.into());
        let properties =
            Draft::properties(publish.qos, publish.dup, is_retained, self.broker.wants_mqtt_headers());
        if keeps == Some(Keeping::Now) {
            self.keep(&publish);
        }
        let Some(routing_key) = ShortStr::new(&self.key) else { return Ok(()) };
        let to = Address { exchange: self.tenant.exchange.as_short(), routing_key, mandatory: false };
        self.broker.publish(Role::Publish, to, properties, publish.payload_len);
        if publish.packet_id.is_some() {
            self.draft(&publish, is_retained);
        }
        Ok(())
    }

    /// A PUBLISH that policy does not permit. Its payload, which follows, has nowhere to go.
    fn deny(&mut self, publish: &Publish<'_>, denial: Denial) -> Result<(), Error> {
        if self.tenant.on_unauthorized == OnUnauthorized::Disconnect {
            return Err(Error::Denied(denial));
        }
        let is_first = self.denied.note(denial);
        self.events.push_back(Event::PublishDenied { denial, is_first });
        self.acknowledge_dropped(publish);
        Ok(())
    }

    fn acknowledge_dropped(&mut self, publish: &Publish<'_>) {
        let Some(id) = publish.packet_id else { return };
        match self.publications.arrive_dropped(id, publish.qos) {
            Arrival::New => self.give_receipts(),
            Arrival::Pending => {}
            Arrival::Stored => encode::pubrec(self.client.packet(), id),
        }
    }

    fn puback(&mut self, id: PacketId) {
        if let Some(delivery_tag) = self.deliveries.acknowledge(id) {
            self.broker.acknowledge(Role::Consume, delivery_tag);
        }
    }

    fn filters(&mut self, now: Instant, id: PacketId, is_subscribe: bool, encoded: &[u8]) {
        if let Some(session) = &mut self.session {
            session.subscriptions.arrive(id, is_subscribe, encoded);
        }
        self.read_filters(now);
    }

    /// Looks at some of the filters that the client has sent, unless too many wait for the broker.
    pub(super) fn read_filters(&mut self, now: Instant) {
        let may_find_more = self.replayer.as_ref().is_none_or(Replayer::has_room);
        let Some(session) = self.session.as_mut().filter(|_| may_find_more) else { return };
        let Some(mut unread) = session.subscriptions.take_unread() else { return };
        let mut budget = core::mem::take(&mut unread.budget);
        let max_qos = self.tenant.quota.max_qos;
        let mut added = Vec::new();
        match unread.is_subscribe {
            true => {
                for (filter, qos) in SubscribeEntries::from_encoded(unread.slice()) {
                    let level = Level::granted(qos.min(max_qos));
                    added.push((self.permitted(filter, level, &mut budget), level));
                }
            }
            false => {
                for filter in Filters::from_encoded(unread.slice()) {
                    if let Some(session) = &mut self.session {
                        session.subscriptions.uncount(filter);
                    }
                    added.push((self.filter(filter), Level::Zero));
                }
            }
        }
        if unread.is_read() {
            self.throttle.judged(now, &budget);
        }
        unread.budget = budget;
        if let Some(session) = &mut self.session {
            for (filter, level) in added {
                session.subscriptions.add(filter, level);
            }
            session.subscriptions.put_back(unread);
        }
        self.ask_steps();
        self.answer_subscriptions();
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
        session.go_on(&mut self.broker);
    }
}

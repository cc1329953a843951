//! A broker's notices: what the client hears of them.

use std::collections::VecDeque;

use super::broker::{BrokerSide, Notice};
use super::channel::Role;
use super::lock;
use super::queues::Level;
use super::retained::replay::Replayer;
use super::session::{Refused, Session, Step};
use super::subscribe::{Answer, Granted};
use super::will::Will;
use super::{Bridge, State};
use crate::amqp::reply_code::{ACCESS_REFUSED, NOT_FOUND};
use crate::amqp::{CLAIM, ContentHeader, MOMENT, MethodId, PUBLISH_QOS, RETAINED, ShortStr};
use crate::error::{BrokerMisbehaved, Error};
use crate::event::Event;
use crate::metrics::Metric;
use crate::mqtt::encode::{self, Delivery, PublishHead};
use crate::mqtt::{ConnectReturnCode, QoS};
use crate::policy::OnUnauthorized;
use crate::time::Instant;

/// The message that is arriving; its topic is in `Bridge::topic`.
#[derive(Clone, Copy, Default)]
pub(super) enum Arriving {
    /// Its body, if it has one left, is the client's.
    Wanted,
    /// Nobody's: the rest is passed over.
    #[default]
    Unwanted,
    /// It is a claim to the client id; whether it came by the queue that counts.
    Claim { delivery_tag: u64, is_current: bool },
    /// Its header is awaited.
    Announced {
        level: Level,
        delivery_tag: u64,
        redelivered: bool,
        is_direct: bool,
        is_topic: bool,
        is_wanted: bool,
    },
}

impl Bridge {
    pub(super) fn broker_notices(&mut self, now: Instant, input: &mut &[u8]) -> Result<(), Error> {
        while let Some(notice) = self.broker.next(input)? {
            match notice {
                // What is left to do before CONNACK is the session and the will.
                Notice::Open => {}
                Notice::Unblocked => self.timers.client_heard(now),
                Notice::Probed => {
                    for _ in 0..core::mem::take(&mut self.pings.probed) {
                        encode::pingresp(self.client.packet());
                    }
                }
                Notice::Routed => self.routed(),
                Notice::Delivered => self.is_all_delivered = true,
                Notice::Done(step, consumers) => {
                    if let Some(session) = &mut self.session {
                        session.done(step, consumers)?;
                    }
                    self.ask_steps();
                    self.answer_subscriptions();
                }
                Notice::WillDone(step, messages) => {
                    if let Some(will) = &mut self.will {
                        will.done(step, messages, &mut self.broker);
                    }
                }
                Notice::WillDelivered { consumer_tag, delivery_tag, is_direct } => {
                    if let Some(will) = &mut self.will {
                        will.delivered(consumer_tag, delivery_tag, is_direct, &mut self.broker);
                    }
                }
                Notice::KeepDone(step) => {
                    let event = self.keeper.as_mut().and_then(|keeper| keeper.done(step));
                    self.events.extend(event);
                }
                Notice::ReplayDone(step) => {
                    if let Some(replayer) = &mut self.replayer {
                        let unanswered = replayer.done(now, step, &mut self.broker);
                        self.events.extend(unanswered);
                    }
                }
                Notice::Returned { role: Role::Keep, routing_key } => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.returned(routing_key);
                    }
                }
                Notice::ReturnedContent(header) => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.returned_content(published_qos(&header), header.body_size, &mut self.broker);
                    }
                }
                Notice::ReturnedBody { bytes, last } => {
                    if let Some(keeper) = &mut self.keeper {
                        keeper.returned_body(bytes, last, &mut self.broker);
                    }
                }
                Notice::Returned { .. } => {
                    if let Some(replayer) = &mut self.replayer {
                        replayer.returned();
                    }
                }
                Notice::Got { delivery_tag } => {
                    if let Some(replayer) = &mut self.replayer {
                        replayer.announced(delivery_tag);
                    }
                }
                Notice::GotContent(header) => self.got(&header),
                Notice::GotBody { bytes, last } => {
                    if let Some(replayer) = &mut self.replayer {
                        replayer.body(bytes, last, &mut self.broker);
                    }
                }
                // Among them those whose queues we delete.
                Notice::Cancelled { .. } if self.state == State::Leaving => {}
                Notice::Cancelled { role, consumer_tag } => match &mut self.session {
                    Some(session) if role == Role::Consume => session.cancelled(consumer_tag)?,
                    Some(_) | None => return Err(Error::QueueDeleted),
                },
                Notice::ChannelClosed { role, why, steps, is_keeping } => {
                    if role == Role::Topology {
                        self.topology_closed_for_keeping(why, is_keeping)?;
                    }
                    self.channel_closed(role, why, steps, is_keeping)?;
                }
                Notice::Confirmed { role: Role::Publish, number, multiple, is_taken: false } => {
                    let known = self.nacked(now, number, multiple);
                    self.is_known(known)?;
                }
                Notice::Confirmed { role: Role::Keep, number, multiple, is_taken } => {
                    if let Some(keeper) = &mut self.keeper {
                        let outcome = keeper.confirmed(number, multiple, is_taken);
                        self.kept(outcome);
                    }
                }
                Notice::Confirmed { role: Role::Replay, number, multiple, .. } => {
                    if let Some(replayer) = &mut self.replayer {
                        replayer.confirmed(number, multiple, &mut self.broker);
                    }
                }
                Notice::Confirmed { number, multiple, .. } => {
                    let measures = &mut self.measures;
                    let known = self.publications.confirm(number, multiple, |sent| {
                        measures.add(Metric::ConfirmTimeUs, micros(now, sent));
                    });
                    self.is_known(known)?;
                    self.give_receipts();
                }
                Notice::Deliver { consumer_tag, delivery_tag, .. } if lock::is_consumer(consumer_tag) => {
                    let is_current = self.session.as_ref().is_some_and(|it| it.waits_by(consumer_tag));
                    self.arriving = Arriving::Claim { delivery_tag, is_current };
                }
                // Nothing else is consumed before CONNACK, which is to come first. [MQTT-3.2.0-1]
                Notice::Deliver { .. } if self.state == State::LoggingIn => {
                    return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected));
                }
                // The client is not there for it any more; but what it published itself may come behind its DISCONNECT.
                Notice::Deliver { .. } if self.state == State::Leaving && !self.has_disconnected => {
                    self.arriving = Arriving::Unwanted;
                }
                Notice::Deliver { consumer_tag, delivery_tag, redelivered, is_direct, routing_key } => {
                    let session = self.session.as_ref();
                    let (session, queue) = session
                        .and_then(|session| Some((session, session.consumed_queue(consumer_tag)?)))
                        .ok_or(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected))?;
                    if let Some(replayer) = &mut self.replayer {
                        replayer.overtaken.arriving(routing_key);
                    }
                    let level = session.level(queue);
                    let is_wanted = self.may_receive(routing_key) && session.wants(queue, routing_key);
                    let is_topic = self.config.topic_mapping.topic_name(routing_key, &mut self.topic).is_ok();
                    self.arriving = Arriving::Announced {
                        level,
                        delivery_tag,
                        redelivered,
                        is_direct,
                        is_topic,
                        is_wanted,
                    };
                }
                Notice::Content(header) => self.deliver(&header)?,
                Notice::Body(bytes) => {
                    if matches!(self.arriving, Arriving::Wanted) {
                        self.client.payload(bytes);
                    }
                }
                Notice::Closed => self.over(),
            }
            self.accept_when_ready(now);
        }
        Ok(())
    }

    /// The client hears of its messages that the broker has taken, as far as that is the next that it is to hear of them.
    pub(super) fn give_receipts(&mut self) {
        while let Some(receipt) = self.publications.next_receipt() {
            self.client.receipt(receipt);
        }
    }

    /// A publish of which the broker speaks: who takes leave may have forgotten it.
    fn is_known(&self, publish: Option<()>) -> Result<(), Error> {
        match publish {
            None if self.state != State::Leaving => {
                Err(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected))
            }
            Some(()) | None => Ok(()),
        }
    }

    /// CONNACK, once the broker has all that it stands for.
    fn accept_when_ready(&mut self, now: Instant) {
        if self.state != State::LoggingIn || self.will.as_ref().is_some_and(|will| !will.is_held()) {
            return;
        }
        let Some(session) = self.session.as_mut().filter(|session| session.is_established()) else { return };
        self.client.connack(session.is_present(), ConnectReturnCode::Accepted);
        session.start();
        self.events.push_back(Event::Accepted);
        self.measures.add(Metric::ConnectTimeUs, micros(now, self.started));
        self.measures.add(Metric::Connections, 1);
        self.counted.is_connected = true;
        if let Some(attempt) = self.attempt.take() {
            self.gate.succeeded(now, &attempt);
        }
        self.state = State::Connected;
        // The keep-alive starts to count when the client may know that it does.
        self.timers.client_heard(now);
        if self.will.is_some() {
            self.measures.add(Metric::WillsHeld, 1);
            self.timers.will_at(now + self.config.will_refresh);
        }
        self.ask_steps();
    }

    fn channel_closed(
        &mut self,
        role: Role,
        why: Refused<'_>,
        steps: VecDeque<Step>,
        is_keeping: bool,
    ) -> Result<(), Error> {
        let fatal = Error::BrokerClosed { code: why.code, method: why.method };
        if matches!(role, Role::Keep | Role::Replay) {
            self.retaining_refused(role, why);
            return Ok(());
        }
        let Some(session) = &mut self.session else { return Err(fatal) };
        let mut steps = steps.into_iter();
        match (role, steps.next()) {
            (Role::Topology, None) => {}
            (Role::Topology, Some(first)) if is_keeping => {
                session.ask_again(core::iter::once(first).chain(steps));
            }
            // The claim to the client id, which nobody answers: what was asked behind it was not looked at.
            (Role::Consume, first) if why.method == MethodId::BASIC_PUBLISH => {
                session.ask_again(first.into_iter().chain(steps));
                session.lock_refused(why)?;
            }
            (Role::Topology | Role::Consume, Some(blamed)) => session.refused(blamed, why, steps)?,
            (Role::Publish, _) if self.may_drop(why) => {
                self.events.push_back(Event::Unauthorized);
                self.lost_with_channel();
                // If there are none, it was one that nobody confirms.
                if self.publications.unconfirmed() > 0 {
                    let topic = refused_topic(why.text).map(super::topic_hash);
                    let is_certain = self.publications.drop_refused(topic);
                    self.give_receipts();
                    if !is_certain {
                        return Err(fatal);
                    }
                }
            }
            // Somebody deleted the place of its kept copy; it is deposited again.
            (Role::Will, _)
                if (why.code, why.method) == (NOT_FOUND, MethodId::QUEUE_BIND)
                    && self.will.as_mut().is_some_and(Will::try_again) => {}
            (Role::Will, _) => {
                if let Some(will) = &mut self.will {
                    will.lost();
                }
                // Otherwise it was taken back, and the place for it is somebody else's.
                if self.state != State::Leaving {
                    return Err(fatal);
                }
            }
            // A publish was refused: nobody can tell any more what has been routed.
            (Role::Publish, _) => {
                self.forget_publishes();
                if self.state != State::Leaving {
                    return Err(fatal);
                }
            }
            // The consumers are gone.
            (Role::Consume | Role::Keep | Role::Replay, _) => return Err(fatal),
        }
        self.ask_steps();
        self.answer_subscriptions();
        Ok(())
    }

    /// Starts the PUBLISH of an announced message, or decides that there is none.
    fn deliver(&mut self, header: &ContentHeader<'_>) -> Result<(), Error> {
        if let (Arriving::Claim { delivery_tag, is_current }, Some(session)) =
            (self.arriving, &mut self.session)
        {
            self.arriving = Arriving::Unwanted;
            // A newcomer gets its claim back when we have gone.
            if self.state == State::Leaving {
                return Ok(());
            }
            // What was in a queue that is deleted by now tells nothing.
            match is_current {
                true => session.claimed(header.text(CLAIM.as_bytes()), delivery_tag)?,
                false => self.broker.acknowledge(Role::Consume, delivery_tag),
            }
            self.ask_steps();
            return Ok(());
        }
        let Arriving::Announced { level, delivery_tag, redelivered, is_direct, mut is_topic, mut is_wanted } =
            self.arriving
        else {
            return Ok(());
        };
        if !header.is_readable {
            self.events.push_back(Event::Undeliverable);
            self.pass_over(level, delivery_tag);
            return Ok(());
        }
        // A retained message comes from ourselves, for the subscription that matches it. Only the default exchange is ours alone.
        let retained = header.text(RETAINED.as_bytes()).filter(|_| is_direct);
        if let (Some(replayer), None, Some(_)) =
            (&mut self.replayer, retained, header.text(RETAINED.as_bytes()))
        {
            replayer.overtakes();
        }
        if let Some(routing_key) = retained {
            // Others can send to the queue, too, and say there what they like: no key of a message is longer.
            is_topic = ShortStr::new(routing_key).is_some()
                && self.config.topic_mapping.topic_name(routing_key, &mut self.topic).is_ok();
            is_wanted = !is_topic
                || self.may_receive(routing_key)
                    && self.replayer.as_mut().is_none_or(|replayer| {
                        let moment = header.integer(MOMENT.as_bytes()).unwrap_or_default();
                        replayer.overtaken.is_news(routing_key, moment)
                    });
        }
        if !is_wanted {
            self.pass_over(level, delivery_tag);
            return Ok(());
        }
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
        let retain = retained.is_some();
        self.client.publish(PublishHead { delivery, retain, topic: &self.topic, payload_len });
        let (messages, bytes) = match has_packet_id {
            true => (Metric::MessagesDeliveredQos1, Metric::BytesDeliveredQos1),
            false => (Metric::MessagesDeliveredQos0, Metric::BytesDeliveredQos0),
        };
        self.measures.add(messages, 1);
        self.measures.add(bytes, header.body_size as i64);
        if retain {
            self.events.push_back(Event::Replayed);
        }
        self.arriving = Arriving::Wanted;
        if level == Level::One && !has_packet_id {
            self.broker.acknowledge(Role::Consume, delivery_tag);
        }
        Ok(())
    }

    /// What a session was let subscribe to earlier may not be its client's any more.
    fn may_receive(&self, routing_key: &[u8]) -> bool {
        let is_present = self.session.as_ref().is_some_and(Session::is_present);
        !is_present || self.rights.as_ref().is_none_or(|rights| rights.receives(routing_key))
    }

    fn pass_over(&mut self, level: Level, delivery_tag: u64) {
        self.arriving = Arriving::Unwanted;
        if level == Level::One {
            self.broker.acknowledge(Role::Consume, delivery_tag);
        }
    }

    pub(super) fn may_drop(&self, why: Refused<'_>) -> bool {
        self.tenant.on_unauthorized == OnUnauthorized::Drop
            && (why.code, why.method) == (ACCESS_REFUSED, MethodId::BASIC_PUBLISH)
    }

    pub(super) fn answer_subscriptions(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(answer) = session.take_answer() {
            match answer {
                Answer::Suback { id, codes, granted } => {
                    encode::suback(self.client.packet(), id, codes.into_iter());
                    replay(&mut self.replayer, granted, &mut self.broker);
                }
                Answer::Granted(granted) => replay(&mut self.replayer, granted, &mut self.broker),
                Answer::Unsuback(id) => encode::unsuback(self.client.packet(), id),
            }
        }
    }
}

fn replay(replayer: &mut Option<Replayer>, granted: Granted, broker: &mut BrokerSide) {
    if let Some(replayer) = replayer {
        for (binding_key, level) in granted {
            replayer.replay(&binding_key, level, broker);
        }
    }
}

fn micros(now: Instant, since: Instant) -> i64 {
    (now.as_nanos().saturating_sub(since.as_nanos()) / 1000) as i64
}

/// What a message was published at: its header tells where RabbitMQ's MQTT plugin or we sent it to a broker before 3.13,
/// else whether it is persistent.
pub(super) fn published_qos(header: &ContentHeader<'_>) -> QoS {
    match header.integer(PUBLISH_QOS.as_bytes()) {
        Some(qos) if qos > 0 => QoS::AtLeastOnce,
        None if header.persistent => QoS::AtLeastOnce,
        Some(_) | None => QoS::AtMostOnce,
    }
}

/// RabbitMQ: "access to topic 'a.b' in exchange 'amq.topic' ... refused for user ...".
fn refused_topic(text: &[u8]) -> Option<&[u8]> {
    let at = |text: &[u8], words: &[u8]| text.windows(words.len()).position(|window| window == words);
    const BEFORE: &[u8] = b"access to topic '";
    let topic = text.get(at(text, BEFORE)? + BEFORE.len()..)?;
    topic.get(..at(topic, b"' in exchange")?)
}

//! The broker's side: an AMQP 0-9-1 client connection as a state machine. It knows channels, frames and whose answer is awaited,
//! and nothing of MQTT; what it hears comes out as [`Notice`]s.

mod login;
mod relay;

use std::collections::VecDeque;

use super::channel::{Awaited, Channel, Content, Incoming, Role};
use super::retained::{keep, replay};
use super::session::{self, Refused};
use super::will;
use crate::amqp::{self, Address, BrokerMethod, ClientMethod, ContentHeader, Item, Properties};
use crate::config::Config;
use crate::error::{BrokerMisbehaved, Error, Limit};
use login::{Phase, Sequential};

/// What the broker said, as far as the bridge must know.
pub(super) enum Notice<'a> {
    /// The login is done.
    Open,
    /// A step of the session is done; a queue that was declared or looked for has so many consumers.
    Done(session::Step, u32),
    /// A step of the will is done; a queue that was declared has so many messages.
    WillDone(will::Step, u32),
    /// A step of keeping a retained message is done.
    KeepDone(keep::Step),
    /// A step of the replay of retained messages is done; of a basic.get, that the queue has no message to give.
    ReplayDone(replay::Step),
    /// A retained message, or an answer to what was asked about them. A `GotContent` follows.
    Got { delivery_tag: u64 },
    /// Its header; unless `body_size` is 0, `GotBody` follows.
    GotContent(ContentHeader<'a>),
    /// A piece of its body.
    GotBody { bytes: &'a [u8], last: bool },
    /// No queue took a mandatory message. A `ReturnedContent` follows, and its confirm.
    Returned { role: Role, routing_key: &'a [u8] },
    /// Its header; unless `body_size` is 0, `ReturnedBody` follows.
    ReturnedContent(ContentHeader<'a>),
    /// A piece of its body.
    ReturnedBody { bytes: &'a [u8], last: bool },
    /// The broker answered a probe, so the client's bytes can ride on that.
    Probed,
    /// The broker has routed what was published before it was asked.
    Routed,
    /// The broker has delivered what was on its way before it was asked.
    Delivered,
    /// The broker refused something and closed its channel. The steps that were awaited on it are in order: if one is to blame
    /// it is the first, and the others were not looked at.
    ChannelClosed {
        role: Role,
        why: Refused<'a>,
        steps: VecDeque<session::Step>,
        /// The first that was awaited is a step of keeping a retained message.
        is_keeping: bool,
    },
    /// A publish, or all up to it, was confirmed; or was not taken by some queue, unless it `is_taken`.
    Confirmed { role: Role, number: u64, multiple: bool, is_taken: bool },
    /// A message's method; a `Content` follows.
    Deliver {
        consumer_tag: &'a [u8],
        delivery_tag: u64,
        redelivered: bool,
        /// Through the default exchange, to this queue and no other.
        is_direct: bool,
        routing_key: &'a [u8],
    },
    /// A will is delivered back to us, or unless it `is_direct` a notice that concerns it. Its content is passed over.
    WillDelivered { consumer_tag: &'a [u8], delivery_tag: u64, is_direct: bool },
    /// A consumer's queue is gone.
    Cancelled { role: Role, consumer_tag: &'a [u8] },
    /// Its header; unless `body_size` is 0, `Body` follows.
    Content(ContentHeader<'a>),
    /// A piece of its body.
    Body(&'a [u8]),
    /// The broker takes messages again.
    Unblocked,
    /// The connection is closed in good order, as we asked.
    Closed,
}

pub(super) struct BrokerSide {
    decoder: amqp::Decoder,
    phase: Phase,
    channels: [Channel; Role::ALL.len()],
    /// The channel on which a message of ours is between its header and the end of its body.
    publishing: Option<Role>,
    out: Vec<u8>,
    sequential: Option<Sequential>,
    frame_max: u32,
    heartbeat: u16,
    prefetch: u16,
    is_blocked: bool,
    /// Whether messages carry the headers of RabbitMQ's MQTT plugin before 3.13; also while the broker has not said what it is.
    wants_mqtt_headers: bool,
    probe: Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    /// As soon as a channel is free of content.
    Wanted,
    Sent,
}

impl BrokerSide {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            decoder: amqp::Decoder::default(),
            phase: Phase::Idle,
            channels: Default::default(),
            publishing: None,
            out: Vec::new(),
            sequential: None,
            frame_max: config.limits.frame_max,
            heartbeat: config.heartbeat,
            prefetch: config.policy.no_tenant.prefetch,
            is_blocked: false,
            wants_mqtt_headers: true,
            probe: Probe::None,
        }
    }

    /// Unacknowledged QoS 1 deliveries that the client may have.
    pub(super) const fn set_prefetch(&mut self, prefetch: u16) {
        self.prefetch = prefetch;
    }

    /// Answers the broker's connection.close, on which it ends the connection at once.
    pub(super) fn close_ok(&mut self) {
        ClientMethod::CloseOk.encode(&mut self.out, 0);
    }

    /// Stops listening and speaking. What is written stays written.
    pub(super) fn abandon(&mut self) {
        self.publishing = None;
        self.phase = Phase::Closed;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    pub(super) fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.out)
    }

    pub(super) fn check_budgets(&self) -> Result<(), Error> {
        if self.sequential.as_ref().is_some_and(|s| s.held.len() > s.held_max) {
            return Err(Error::Limit(Limit::BeforeLogin));
        }
        Ok(())
    }

    pub(super) const fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    pub(super) const fn wants_mqtt_headers(&self) -> bool {
        self.wants_mqtt_headers
    }

    /// Where bytes behind the login go.
    fn behind_login(&mut self) -> &mut Vec<u8> {
        match &mut self.sequential {
            Some(steps) => &mut steps.held,
            None => &mut self.out,
        }
    }

    fn channel(&mut self, role: Role) -> &mut Channel {
        let [topology, consume, publish, will, keep, replay] = &mut self.channels;
        match role {
            Role::Topology => topology,
            Role::Consume => consume,
            Role::Publish => publish,
            Role::Will => will,
            Role::Keep => keep,
            Role::Replay => replay,
        }
    }

    /// Asks for something that the broker answers, in order, on a channel that is opened when it is not open.
    pub(super) fn request(&mut self, role: Role, method: ClientMethod<'_>, awaited: Awaited) {
        self.open(role);
        self.send_request(role, method, awaited);
    }

    /// Says something whose answer nobody will look at, since connection.close follows.
    pub(super) fn tell(&mut self, role: Role, method: ClientMethod<'_>) {
        self.open(role);
        method.encode(self.behind_login(), role.channel());
    }

    /// Opens a channel unless it is open; whether it was not.
    pub(super) fn open(&mut self, role: Role) -> bool {
        if self.channel(role).is_open {
            return false;
        }
        self.channel(role).is_open = true;
        self.send_request(role, ClientMethod::ChannelOpen, Awaited::Open);
        match role {
            Role::Consume => {
                let method = ClientMethod::BasicQos { prefetch_count: self.prefetch };
                self.send_request(role, method, Awaited::Prefetch);
            }
            Role::Keep | Role::Replay => self.confirm(role),
            Role::Topology | Role::Publish | Role::Will => {}
        }
        true
    }

    /// Has every publish on a channel confirmed from now on. Confirm numbers count from there.
    pub(super) fn confirm(&mut self, role: Role) {
        self.open(role);
        if !core::mem::replace(&mut self.channel(role).confirms, true) {
            self.send_request(role, ClientMethod::ConfirmSelect, Awaited::Confirms);
        }
    }

    /// Whether every publish on a channel is confirmed.
    pub(super) fn confirms(&mut self, role: Role) -> bool {
        self.channel(role).confirms
    }

    /// Asks whether what was published has been routed; [`Notice::Routed`] is the answer. Not within a message.
    pub(super) fn ask_whether_routed(&mut self) {
        self.request(Role::Publish, ClientMethod::ChannelFlow, Awaited::Routed);
    }

    /// Asks whether what was on its way to consumers has been delivered; [`Notice::Delivered`] is the answer.
    pub(super) fn ask_whether_delivered(&mut self) {
        self.request(Role::Consume, ClientMethod::ChannelFlow, Awaited::Delivered);
    }

    /// Whether there are bytes to be taken.
    pub(super) const fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    fn send_request(&mut self, role: Role, method: ClientMethod<'_>, awaited: Awaited) {
        method.encode(self.behind_login(), role.channel());
        self.channel(role).awaited.push_back(awaited);
    }

    /// Starts a message of `body_size` bytes, which [`BrokerSide::publish_body`] is to send.
    pub(super) fn publish(
        &mut self,
        role: Role,
        to: Address<'_>,
        properties: Properties<'_>,
        body_size: u32,
    ) {
        self.open(role);
        amqp::publish(self.behind_login(), role.channel(), to, properties, u64::from(body_size));
        self.publishing = (body_size > 0).then_some(role);
    }

    /// Sends a piece of the body; without a message under way (its channel was closed) it is dropped.
    pub(super) fn publish_body(&mut self, bytes: &[u8], last: bool) {
        let Some(role) = self.publishing else { return };
        let frame_max = self.frame_max;
        amqp::body(self.behind_login(), role.channel(), frame_max, bytes);
        if last {
            self.publishing = None;
            self.answer_flow(role);
        }
    }

    /// Whether a message of ours is under way on a channel.
    pub(super) fn is_publishing(&self, role: Role) -> bool {
        self.publishing == Some(role)
    }

    /// Publishes a message that is there as a whole. It must not be on the channel of one that is under way.
    pub(super) fn publish_whole(
        &mut self,
        role: Role,
        to: Address<'_>,
        properties: Properties<'_>,
        body: &[u8],
    ) {
        self.open(role);
        let (channel, frame_max) = (role.channel(), self.frame_max);
        let out = self.behind_login();
        amqp::publish(out, channel, to, properties, body.len() as u64);
        amqp::body(out, channel, frame_max, body);
    }

    /// Acknowledges a delivery; behind connection.close nobody would look at it.
    pub(super) fn acknowledge(&mut self, role: Role, delivery_tag: u64) {
        if self.phase == Phase::Closing {
            return;
        }
        ClientMethod::BasicAck { delivery_tag }.encode(self.behind_login(), role.channel());
    }

    pub(super) fn heartbeat(&mut self) {
        if self.phase == Phase::Open {
            amqp::heartbeat(&mut self.out);
        }
    }

    /// Makes the broker say something soon, so that bytes for the client can ride on it. `false` when it is about to: a probe
    /// is under way, but was sent before this call.
    pub(super) fn probe(&mut self) -> bool {
        if self.probe == Probe::Sent {
            return false;
        }
        self.probe = Probe::Wanted;
        self.send_probe();
        true
    }

    /// Sends a wanted probe on a channel that is open and between messages; when none is open, on one that is opened for it.
    pub(super) fn send_probe(&mut self) {
        if self.probe != Probe::Wanted || matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        let publishing = self.publishing;
        let free = Role::ALL.into_iter().find(|&role| {
            let channel = self.channel(role);
            channel.is_open && !channel.is_relaying && publishing != Some(role)
        });
        // Nothing is relayed on the channel for topology.
        self.request(free.unwrap_or(Role::Topology), ClientMethod::ChannelFlow, Awaited::Probe);
        self.probe = Probe::Sent;
    }

    /// Takes the next notice off the front of `input`; `None` when more bytes are needed.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Notice<'a>>, Error> {
        loop {
            if self.phase == Phase::Closed {
                *input = &[];
                return Ok(None);
            }
            let Some(item) = self.decoder.next(input).map_err(Error::BrokerMalformed)? else {
                return Ok(None);
            };
            let notice = match item {
                Item::ProtocolHeader if self.phase == Phase::Starting => return Err(Error::BrokerGone),
                Item::ProtocolHeader => return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected)),
                Item::Heartbeat => None,
                Item::Method { channel: 0, method } => self.connection_method(method)?,
                // What was under way when we said close does not matter any more, not even when it is a refusal, but for messages.
                _ if self.phase == Phase::Closing && !self.is_of_delivery(&item) => None,
                // No channel can be open before the connection is, and CONNACK comes first.
                _ if !matches!(self.phase, Phase::Open | Phase::Closing) => {
                    return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected));
                }
                Item::Method { channel, method } => {
                    let role = Role::of(channel).ok_or(Error::BrokerMisbehaved(BrokerMisbehaved::Channel))?;
                    self.channel_method(role, method)?
                }
                Item::Header { channel, header } => self.header(channel, header)?,
                Item::Body { channel, bytes } => self.body(channel, bytes)?,
            };
            if notice.is_some() {
                return Ok(notice);
            }
        }
    }

    /// Whether it is a part of a message for a subscription.
    fn is_of_delivery(&self, item: &Item<'_>) -> bool {
        let [_, consume, ..] = &self.channels;
        match *item {
            Item::Method { channel, method: BrokerMethod::BasicDeliver { .. } } => {
                channel == Role::Consume.channel() && consume.incoming == Incoming::Nothing
            }
            Item::Header { channel, .. } => {
                channel == Role::Consume.channel() && matches!(consume.incoming, Incoming::Header(_))
            }
            Item::Body { channel, .. } => {
                channel == Role::Consume.channel() && matches!(consume.incoming, Incoming::Body { .. })
            }
            Item::ProtocolHeader | Item::Heartbeat | Item::Method { .. } => false,
        }
    }

    fn channel_method<'a>(
        &mut self,
        role: Role,
        method: BrokerMethod<'a>,
    ) -> Result<Option<Notice<'a>>, Error> {
        if self.channel(role).is_refused {
            return self.stray(role, method);
        }
        if !self.channel(role).is_open {
            return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Channel));
        }
        match method {
            BrokerMethod::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => {
                let (content, notice) = match role {
                    Role::Consume => (
                        Content::Delivery,
                        Notice::Deliver {
                            consumer_tag,
                            delivery_tag,
                            redelivered,
                            is_direct: exchange.is_empty(),
                            routing_key,
                        },
                    ),
                    Role::Will => {
                        let is_direct = exchange.is_empty();
                        (Content::Unwanted, Notice::WillDelivered { consumer_tag, delivery_tag, is_direct })
                    }
                    Role::Topology | Role::Publish | Role::Keep | Role::Replay => {
                        return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Content));
                    }
                };
                self.announce(role, content)?;
                Ok(Some(notice))
            }
            BrokerMethod::BasicReturn { routing_key } if matches!(role, Role::Keep | Role::Replay) => {
                let content = if role == Role::Keep { Content::Returned } else { Content::Unwanted };
                self.announce(role, content)?;
                Ok(Some(Notice::Returned { role, routing_key }))
            }
            BrokerMethod::BasicAck { delivery_tag, multiple } if self.confirms(role) => {
                Ok(Some(Notice::Confirmed { role, number: delivery_tag, multiple, is_taken: true }))
            }
            BrokerMethod::BasicNack { delivery_tag, multiple } if self.confirms(role) => {
                Ok(Some(Notice::Confirmed { role, number: delivery_tag, multiple, is_taken: false }))
            }
            BrokerMethod::BasicCancel { consumer_tag } => Ok(Some(Notice::Cancelled { role, consumer_tag })),
            // To stop when asked is beyond us, and no broker we know of asks.
            BrokerMethod::ChannelFlow { active: false } => {
                Err(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected))
            }
            BrokerMethod::ChannelFlow { active: true } => {
                self.channel(role).owes_flow_ok = true;
                self.answer_flow(role);
                Ok(None)
            }
            BrokerMethod::ChannelClose(reason) => {
                ClientMethod::ChannelCloseOk.encode(self.behind_login(), role.channel());
                let first = self
                    .channel(role)
                    .awaited
                    .iter()
                    .find(|it| matches!(it, Awaited::Step(_) | Awaited::Keep(_)));
                let is_keeping = matches!(first, Some(Awaited::Keep(_)));
                let steps = self.steps_left(role);
                if self.publishing == Some(role) {
                    self.publishing = None;
                }
                let why = Refused { code: reason.code, text: reason.text, method: reason.method };
                Ok(Some(Notice::ChannelClosed { role, why, steps, is_keeping }))
            }
            answer => self.answer(role, &answer),
        }
    }

    /// Answers channel.flow, once no message of ours is under way on the channel: no other frame may cut into one. AMQP 0-9-1 §4.2.6
    fn answer_flow(&mut self, role: Role) {
        let is_busy = self.publishing == Some(role) || self.channel(role).is_relaying;
        if !is_busy && core::mem::take(&mut self.channel(role).owes_flow_ok) {
            ClientMethod::ChannelFlowOk { active: true }.encode(self.behind_login(), role.channel());
        }
    }

    /// A method on a channel that the broker has closed: RabbitMQ's goes on to deliver and to confirm until close-ok reaches it.
    fn stray<'a>(&mut self, role: Role, method: BrokerMethod<'a>) -> Result<Option<Notice<'a>>, Error> {
        match method {
            BrokerMethod::ChannelOpenOk => {
                self.channel(role).is_refused = false;
                return self.answer(role, &method);
            }
            BrokerMethod::BasicDeliver { .. }
            | BrokerMethod::BasicReturn { .. }
            | BrokerMethod::BasicGetOk { .. } => self.announce(role, Content::Unwanted)?,
            _ => {}
        }
        Ok(None)
    }

    /// Forgets a channel, and tells which steps were awaited on it. A probe that is lost with it is wanted again.
    fn steps_left(&mut self, role: Role) -> VecDeque<session::Step> {
        let closed = Channel { is_refused: true, ..Channel::default() };
        let awaited = core::mem::replace(self.channel(role), closed).awaited;
        if awaited.contains(&Awaited::Probe) {
            self.probe = Probe::Wanted;
        }
        awaited
            .into_iter()
            .filter_map(|awaited| match awaited {
                Awaited::Step(step) => Some(step),
                Awaited::Open
                | Awaited::Confirms
                | Awaited::Prefetch
                | Awaited::Probe
                | Awaited::Routed
                | Awaited::Delivered
                | Awaited::Will(_)
                | Awaited::Keep(_)
                | Awaited::Replay(_) => None,
            })
            .collect()
    }

    fn answer<'a>(&mut self, role: Role, method: &BrokerMethod<'_>) -> Result<Option<Notice<'a>>, Error> {
        let awaited = self
            .channel(role)
            .answered(method)
            .ok_or(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected))?;
        let (messages, consumers) = match *method {
            BrokerMethod::QueueDeclareOk { message_count, consumer_count } => (message_count, consumer_count),
            _ => (0, 0),
        };
        Ok(match awaited {
            Awaited::Open | Awaited::Confirms | Awaited::Prefetch => None,
            Awaited::Probe => {
                self.probe = Probe::None;
                Some(Notice::Probed)
            }
            Awaited::Routed => Some(Notice::Routed),
            Awaited::Delivered => Some(Notice::Delivered),
            Awaited::Step(step) => Some(Notice::Done(step, consumers)),
            Awaited::Will(step) => Some(Notice::WillDone(step, messages)),
            Awaited::Keep(step) => Some(Notice::KeepDone(step)),
            Awaited::Replay(step) => match *method {
                BrokerMethod::BasicGetOk { delivery_tag } => {
                    self.announce(role, Content::Got)?;
                    Some(Notice::Got { delivery_tag })
                }
                _ => Some(Notice::ReplayDone(step)),
            },
        })
    }

    fn header<'a>(&mut self, channel: u16, header: ContentHeader<'a>) -> Result<Option<Notice<'a>>, Error> {
        let incoming = self.incoming(channel)?;
        let Incoming::Header(content) = *incoming else {
            return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Content));
        };
        *incoming = match header.body_size {
            0 => Incoming::Nothing,
            left => Incoming::Body { content, left },
        };
        Ok(match content {
            Content::Delivery => Some(Notice::Content(header)),
            Content::Got => Some(Notice::GotContent(header)),
            Content::Returned => Some(Notice::ReturnedContent(header)),
            Content::Unwanted => None,
        })
    }

    fn body<'a>(&mut self, channel: u16, bytes: &'a [u8]) -> Result<Option<Notice<'a>>, Error> {
        let misplaced = Error::BrokerMisbehaved(BrokerMisbehaved::Content);
        let incoming = self.incoming(channel)?;
        let Incoming::Body { content, left } = *incoming else { return Err(misplaced) };
        let left = left.checked_sub(bytes.len() as u64).ok_or(misplaced)?;
        *incoming = if left == 0 { Incoming::Nothing } else { Incoming::Body { content, left } };
        Ok(match content {
            Content::Delivery => Some(Notice::Body(bytes)),
            Content::Got => Some(Notice::GotBody { bytes, last: left == 0 }),
            Content::Returned => Some(Notice::ReturnedBody { bytes, last: left == 0 }),
            Content::Unwanted => None,
        })
    }

    fn incoming(&mut self, channel: u16) -> Result<&mut Incoming, Error> {
        let role = Role::of(channel).ok_or(Error::BrokerMisbehaved(BrokerMisbehaved::Channel))?;
        Ok(&mut self.channel(role).incoming)
    }

    /// Content is to follow: one at a time on a channel.
    fn announce(&mut self, role: Role, content: Content) -> Result<(), Error> {
        let incoming = &mut self.channel(role).incoming;
        if *incoming != Incoming::Nothing {
            return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Content));
        }
        *incoming = Incoming::Header(content);
        Ok(())
    }
}

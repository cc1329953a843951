//! Bridges between devices and the broker in memory, with every byte in between: it moves in pieces, and whose turn it is, is chance.

use crate::broker::{Broker, ConnectionId};
use bytes::BytesMut;
use leveret::{
    Bridge, Config, Gate, Peer, Timer,
    time::{Duration, Instant},
};
use mqttbytes::{QoS, v4::Packet};
use std::collections::BTreeMap;
use std::rc::Rc;
use support::packets;

/// Everything there is, but for the model.
pub(crate) struct World {
    config: Rc<Config>,
    gate: Rc<Gate>,
    /// Milliseconds.
    now: u64,
    pub(crate) broker: Broker,
    /// No bridge takes a client id by force as long as the one that has it does anything.
    pub(crate) is_patient: bool,
    links: Vec<Link>,
    random: fastrand::Rng,
    /// What happened, for whoever reads of a failure.
    pub(crate) trace: Vec<String>,
}

/// A device's connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(usize);

/// What a device is told, beside PINGRESP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Heard {
    Connack { session_present: bool, code: u8 },
    Suback(u16, Vec<u8>),
    Unsuback(u16),
    Puback(u16),
    Pubrec(u16),
    Pubcomp(u16),
    Publish(Delivery),
}

/// A PUBLISH to a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Delivery {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// 0 at QoS 0.
    pub(crate) id: u16,
}

/// How a connection ends otherwise than by DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The device closes its socket in good order.
    Fin,
    /// Its socket is gone, with bytes on the way in either direction.
    Reset,
    /// The device is silent from now on and hears nothing.
    Unplugged,
    /// The host of the bridge is gone; nobody says so to the broker.
    HostGone,
    /// The device breaks the protocol.
    Malformed,
}

struct Link {
    bridge: Bridge,
    amqp: Option<ConnectionId>,
    from_client: Vec<u8>,
    client_ends: bool,
    /// The device has sent its end, and can send nothing behind it.
    says_no_more: bool,
    to_client: BytesMut,
    to_broker: Vec<u8>,
    from_broker: Vec<u8>,
    state: State,
    holds_acks: bool,
    /// Packet ids of deliveries that the device has not acknowledged.
    unacked: Vec<u16>,
    /// What the device sends on PUBREC in place of PUBREL, by packet id.
    resends: BTreeMap<u16, Vec<u8>>,
    heard: Vec<Heard>,
    keep_alive: u64,
    spoke: u64,
    /// How much longer than for all others it has been for its bridge, which has waited while nothing happened.
    waited: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// The device is not there any more; the bridge does not know.
    Unplugged,
    /// The bridge is not there any more; the broker does not know.
    HostGone,
    Closed,
}

/// What can happen next on a link.
#[derive(Clone, Copy)]
enum Turn {
    ClientBytes,
    ClientEnd,
    BrokerBytes,
    BrokerEnd,
    ToBroker,
    Timeout,
}

impl World {
    pub(crate) fn new(config_json: &str, seed: u64) -> Self {
        let config = Config::from_json(config_json.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        Self {
            gate: Rc::new(Gate::alone(config.policy.clone())),
            config: Rc::new(config),
            now: 0,
            broker: Broker::new(seed),
            is_patient: seed.is_multiple_of(2),
            links: Vec::new(),
            random: fastrand::Rng::with_seed(!seed),
            trace: Vec::new(),
        }
    }

    /// A device opens a socket and sends these bytes, a CONNECT, with keep-alive in seconds.
    pub(crate) fn connect(&mut self, connect: Vec<u8>, keep_alive: u64, holds_acks: bool) -> LinkId {
        let id = LinkId(self.links.len());
        let address = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 40_000)));
        let mut bridge = Bridge::new(self.config.clone(), self.gate.clone(), self.instant(id.0));
        bridge.handle_peer(Peer { address, nonce: id.0 as u128, ..Peer::default() });
        self.links.push(Link {
            bridge,
            amqp: None,
            from_client: connect,
            client_ends: false,
            says_no_more: false,
            to_client: BytesMut::new(),
            to_broker: Vec::new(),
            from_broker: Vec::new(),
            state: State::Up,
            holds_acks,
            unacked: Vec::new(),
            resends: BTreeMap::new(),
            heard: Vec::new(),
            keep_alive: keep_alive * 1000,
            spoke: self.now,
            waited: 0,
        });
        id
    }

    /// A device sends bytes.
    pub(crate) fn send(&mut self, link: LinkId, bytes: impl AsRef<[u8]>) {
        let now = self.now;
        let link = &mut self.links[link.0];
        link.from_client.extend(bytes.as_ref());
        link.spoke = now;
    }

    /// A device will send these bytes when it hears PUBREC for a packet id, and PUBREL only when it hears that again.
    pub(crate) fn send_after_pubrec(&mut self, link: LinkId, packet: u16, bytes: Vec<u8>) {
        self.links[link.0].resends.insert(packet, bytes);
    }

    /// From now on a device acknowledges what it is sent, or only when it is told to.
    pub(crate) fn hold_acks(&mut self, link: LinkId, hold: bool) {
        self.links[link.0].holds_acks = hold;
        if !hold {
            while self.acknowledge(link, 0).is_some() {}
        }
    }

    /// A device acknowledges the n-th of the deliveries it holds, counted round; which that is.
    pub(crate) fn acknowledge(&mut self, link: LinkId, n: usize) -> Option<u16> {
        let unacked = &mut self.links[link.0].unacked;
        let n = n.checked_rem(unacked.len())?;
        let id = unacked.remove(n);
        self.send(link, packets::puback(id));
        Some(id)
    }

    /// A connection ends without DISCONNECT, or will when somebody notices.
    pub(crate) fn end(&mut self, id: LinkId, end: End) {
        let now = self.instant(id.0);
        let link = &mut self.links[id.0];
        match end {
            End::Fin => (link.client_ends, link.says_no_more) = (true, true),
            End::Malformed => link.from_client.extend([0x30, 0x00]),
            End::Unplugged => {
                link.state = State::Unplugged;
                link.from_client.clear();
            }
            End::HostGone => link.state = State::HostGone,
            End::Reset => {
                link.bridge.handle_client_closed(now);
                link.to_broker.extend(link.bridge.take_broker_output());
                self.close(id);
            }
        }
    }

    /// What a device has heard since it was asked last.
    pub(crate) fn take_heard(&mut self, link: LinkId) -> Vec<Heard> {
        std::mem::take(&mut self.links[link.0].heard)
    }

    /// Whether a device's socket is closed.
    pub(crate) fn is_closed(&self, link: LinkId) -> bool {
        self.links[link.0].state == State::Closed
    }

    /// Until nobody has anything to say.
    pub(crate) fn settle(&mut self) {
        for _ in 0..ENOUGH {
            self.collect_from_broker();
            let turns: Vec<(usize, Turn)> = (0..self.links.len())
                .flat_map(|at| self.turns(at).into_iter().map(move |turn| (at, turn)))
                .collect();
            if self.random.bool() && self.broker.step() {
                continue;
            }
            if !self.is_patient && self.random.u8(..32) == 0 && self.lose_patience(false) {
                continue;
            }
            match self.random.choice(&turns) {
                Some(&(at, turn)) => self.turn(at, turn),
                None if self.broker.step() => {}
                None if self.lose_patience(true) => {}
                None => return,
            }
        }
        panic!("they never stop talking");
    }

    /// Time passes; devices that are there send PINGREQ in time.
    pub(crate) fn elapse(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            let stride = (end - self.now).min(STRIDE);
            self.now += stride;
            self.broker.advance(stride);
            for link in self.links.iter_mut().filter(|link| link.state == State::Up && link.keep_alive > 0) {
                if self.now >= link.spoke + link.keep_alive / 2 {
                    link.from_client.extend(packets::PINGREQ);
                    link.spoke = self.now;
                }
            }
            self.settle();
        }
    }

    fn instant(&self, at: usize) -> Instant {
        Instant::ZERO + Duration::from_millis(self.now + self.links.get(at).map_or(0, |link| link.waited))
    }

    /// A bridge has waited long enough, as far as it is concerned; whether there is one. For another one to go it need not have been in
    /// vain: that one may only be slow. For a message that may come it is, when `nothing_comes`.
    fn lose_patience(&mut self, nothing_comes: bool) -> bool {
        for at in 0..self.links.len() {
            let now = self.instant(at);
            let link = &mut self.links[at];
            let Some((due, timer)) = link.bridge.poll_timeout() else { continue };
            let wait = due.as_nanos().saturating_sub(now.as_nanos()).div_ceil(NANOS_PER_MILLI);
            let is_meant =
                timer == Timer::Takeover || nothing_comes && timer == Timer::Linger && wait <= MOMENT;
            if is_meant && matches!(link.state, State::Up | State::Unplugged) {
                link.waited += wait;
                return true;
            }
        }
        false
    }

    /// What the broker has said is on its way.
    fn collect_from_broker(&mut self) {
        for link in &mut self.links {
            let Some(amqp) = link.amqp else { continue };
            let bytes = self.broker.take_output(amqp);
            if link.state != State::HostGone {
                link.from_broker.extend(bytes);
            }
        }
    }

    fn turns(&self, at: usize) -> Vec<Turn> {
        let link = &self.links[at];
        let mut turns = Vec::new();
        if matches!(link.state, State::HostGone | State::Closed) {
            return turns;
        }
        if link.bridge.is_holding() {
            // Nothing of the client's is read, not even its end.
        } else if !link.from_client.is_empty() {
            turns.push(Turn::ClientBytes);
        } else if link.client_ends {
            turns.push(Turn::ClientEnd);
        }
        if !link.to_broker.is_empty() {
            turns.push(Turn::ToBroker);
        }
        if !link.from_broker.is_empty() {
            turns.push(Turn::BrokerBytes);
        } else if link.amqp.is_some_and(|amqp| self.broker.has_closed(amqp)) {
            turns.push(Turn::BrokerEnd);
        }
        if link.bridge.poll_timeout().is_some_and(|(due, _)| due <= self.instant(at)) {
            turns.push(Turn::Timeout);
        }
        turns
    }

    fn turn(&mut self, at: usize, turn: Turn) {
        let now = self.instant(at);
        let random = &mut self.random;
        let link = &mut self.links[at];
        let mut replied = false;
        match turn {
            Turn::ClientBytes => {
                let piece = piece(random, &mut link.from_client);
                link.bridge.handle_client(now, piece, false);
            }
            Turn::ClientEnd => {
                link.client_ends = false;
                link.bridge.handle_client(now, Vec::new(), true);
            }
            Turn::BrokerBytes => {
                let piece = piece(random, &mut link.from_broker);
                link.bridge.handle_broker(now, piece, false);
                replied = self.take_client_output(at);
            }
            Turn::BrokerEnd => {
                link.bridge.handle_broker(now, Vec::new(), true);
                replied = self.take_client_output(at);
                self.links[at].bridge.handle_broker_closed(now);
                self.lose_broker(at);
            }
            Turn::ToBroker => {
                let piece = piece(random, &mut link.to_broker);
                let amqp = *link.amqp.get_or_insert_with(|| self.broker.connect());
                self.broker.receive(amqp, &piece);
                return;
            }
            Turn::Timeout => link.bridge.handle_timeout(now),
        }
        let link = &mut self.links[at];
        link.to_broker.extend(link.bridge.take_broker_output());
        while let Some(event) = link.bridge.poll_event() {
            self.trace.push(format!("        link {at}: {event}"));
        }
        if !replied && link.bridge.close_due() {
            link.bridge.handle_client_closed(now);
            self.close(LinkId(at));
        }
    }

    /// Both sockets of a bridge go. What was on its way to the broker may still arrive, up to some point.
    fn close(&mut self, id: LinkId) {
        let link = &mut self.links[id.0];
        let arrives = self.random.usize(..=link.to_broker.len());
        let bytes: Vec<u8> = link.to_broker.drain(..arrives).collect();
        if let Some(amqp) = link.amqp {
            self.broker.receive(amqp, &bytes);
        }
        self.links[id.0].state = State::Closed;
        self.lose_broker(id.0);
    }

    fn lose_broker(&mut self, at: usize) {
        if let Some(amqp) = self.links[at].amqp.take() {
            self.broker.lose(amqp);
        }
    }

    /// Gives a device what its bridge has for it; whether that is anything.
    fn take_client_output(&mut self, at: usize) -> bool {
        let now = self.now;
        let link = &mut self.links[at];
        let bytes = link.bridge.take_client_output();
        if link.state != State::Up {
            return !bytes.is_empty();
        }
        link.to_client.extend_from_slice(&bytes);
        while let Some(packet) = next_packet(&mut link.to_client) {
            link.hear(packet, now);
        }
        !bytes.is_empty()
    }
}

impl Link {
    /// The device answers.
    fn says(&mut self, bytes: Vec<u8>, now: u64) {
        if !self.says_no_more {
            self.from_client.extend(bytes);
            self.spoke = now;
        }
    }

    fn hear(&mut self, packet: Packet, now: u64) {
        let heard = match packet {
            Packet::ConnAck(it) => {
                Heard::Connack { session_present: it.session_present, code: it.code as u8 }
            }
            Packet::SubAck(it) => Heard::Suback(
                it.pkid,
                it.return_codes
                    .iter()
                    .map(|code| match code {
                        mqttbytes::v4::SubscribeReasonCode::Success(qos) => *qos as u8,
                        mqttbytes::v4::SubscribeReasonCode::Failure => 0x80,
                    })
                    .collect(),
            ),
            Packet::UnsubAck(it) => Heard::Unsuback(it.pkid),
            Packet::PubAck(it) => Heard::Puback(it.pkid),
            Packet::PubRec(it) => {
                let again = self.resends.remove(&it.pkid);
                self.says(again.unwrap_or_else(|| packets::pubrel(it.pkid)), now);
                Heard::Pubrec(it.pkid)
            }
            Packet::PubComp(it) => Heard::Pubcomp(it.pkid),
            Packet::PingResp => return,
            Packet::Publish(it) => {
                if it.qos == QoS::AtLeastOnce {
                    assert!(!self.unacked.contains(&it.pkid), "packet id {} is in use", it.pkid);
                    match self.holds_acks {
                        true => self.unacked.push(it.pkid),
                        false => self.says(packets::puback(it.pkid), now),
                    }
                }
                Heard::Publish(Delivery {
                    topic: it.topic,
                    payload: it.payload.to_vec(),
                    qos: it.qos as u8,
                    dup: it.dup,
                    retain: it.retain,
                    id: it.pkid,
                })
            }
            other => panic!("a server does not send {other:?}"),
        };
        self.heard.push(heard);
    }
}

fn next_packet(bytes: &mut BytesMut) -> Option<Packet> {
    match mqttbytes::v4::read(bytes, 1 << 20) {
        Ok(packet) => Some(packet),
        Err(mqttbytes::Error::InsufficientBytes(_)) => None,
        Err(error) => panic!("not MQTT: {error:?}"),
    }
}

/// Takes a piece off the front: a few bytes, some more, or all.
fn piece(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) -> Vec<u8> {
    let most = match random.u8(..4) {
        0 => 8,
        1 => 100,
        _ => usize::MAX,
    };
    let length = random.usize(1..=bytes.len().min(most));
    let length = if most == usize::MAX { bytes.len() } else { length };
    bytes.drain(..length).collect()
}

/// For so many milliseconds a bridge that is about to go may wait for nothing in particular. Longer waits have a reason that is to come.
const MOMENT: u64 = 200;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Milliseconds: every timer that counts is longer.
const STRIDE: u64 = 5_000;

/// Turns until quiet: a sequence needs some hundreds.
const ENOUGH: usize = 1_000_000;

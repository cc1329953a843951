//! What devices do while they are connected: packets in, packets out.

use std::collections::VecDeque;
use std::mem;
use std::rc::Rc;

use anyhow::{Result, bail};
use bytes::BytesMut;
use fastrand::Rng;
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, PubRel, Publish, Subscribe, SubscribeReasonCode};

use super::ledger::Message;
use super::world::World;
use crate::client::unencodable;

/// A device's part in the play. What it wants to send is appended to `out`.
pub(crate) trait Role {
    /// `clean_session` of its CONNECTs.
    fn clean_session(&self) -> bool;

    /// CONNACK 0 has come.
    fn connected(&mut self, session_present: bool, out: &mut BytesMut) -> Result<()>;

    /// A packet has come.
    fn packet(&mut self, packet: Packet, out: &mut BytesMut) -> Result<()>;

    /// Called a hundred times a second; `busy` while messages shall flow.
    fn beat(&mut self, _busy: bool, _rng: &mut Rng, _out: &mut BytesMut) -> Result<()> {
        Ok(())
    }

    /// Whether messages may flow, as far as this device is concerned.
    fn ready(&self) -> bool {
        true
    }
}

/// Publishes at QoS 1 or 2 in a session that is kept, and sends again what was not acknowledged.
pub(crate) struct Publisher {
    world: Rc<World>,
    index: usize,
    qos: QoS,
    next_packet_id: u16,
    /// In the order of publication.
    unacknowledged: VecDeque<Outgoing>,
}

struct Outgoing {
    packet_id: u16,
    message: Message,
    /// PUBREC has come: from then on it is PUBREL that is repeated.
    received: bool,
}

impl Publisher {
    pub(crate) fn new(world: Rc<World>, index: usize) -> Self {
        let qos = if index.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        Self { world, index, qos, next_packet_id: 1, unacknowledged: VecDeque::new() }
    }

    fn publish(&self, outgoing: &Outgoing, dup: bool, out: &mut BytesMut) -> Result<()> {
        let message = outgoing.message;
        let mut publish = Publish::from_bytes(message.topic(), self.qos, message.payload());
        publish.pkid = outgoing.packet_id;
        publish.dup = dup;
        publish.write(out).map_err(unencodable)?;
        Ok(())
    }

    fn settle(&mut self, packet_id: u16) {
        let Some(place) = self.unacknowledged.iter().position(|outgoing| outgoing.packet_id == packet_id)
        else {
            return self.world.broken(&self.name(), "an acknowledgement of nothing");
        };
        if let Some(outgoing) = self.unacknowledged.remove(place) {
            self.world.ledger.borrow_mut().acknowledge(outgoing.message);
        }
    }

    fn name(&self) -> String {
        name("publisher", self.index)
    }
}

impl Role for Publisher {
    fn clean_session(&self) -> bool {
        false
    }

    fn connected(&mut self, _session_present: bool, out: &mut BytesMut) -> Result<()> {
        // [MQTT-4.4.0-1], [MQTT-4.6.0-1]
        for outgoing in &self.unacknowledged {
            match outgoing.received {
                true => drop(PubRel::new(outgoing.packet_id).write(out).map_err(unencodable)?),
                false => self.publish(outgoing, true, out)?,
            }
        }
        Ok(())
    }

    fn packet(&mut self, packet: Packet, out: &mut BytesMut) -> Result<()> {
        match (packet, self.qos) {
            (Packet::PubAck(PubAck { pkid }), QoS::AtLeastOnce) => self.settle(pkid),
            (Packet::PubAck(PubAck { pkid }), _) => {
                self.world.broken(&self.name(), "PUBACK for QoS 2");
                self.settle(pkid);
            }
            (Packet::PubRec(pubrec), QoS::ExactlyOnce) => {
                let mut all = self.unacknowledged.iter_mut();
                if let Some(outgoing) = all.find(|outgoing| outgoing.packet_id == pubrec.pkid) {
                    outgoing.received = true;
                }
                PubRel::new(pubrec.pkid).write(out).map_err(unencodable)?;
            }
            (Packet::PubComp(pubcomp), QoS::ExactlyOnce) => self.settle(pubcomp.pkid),
            (Packet::PingResp, _) => {}
            (other, _) => bail!("a publisher was sent {other:?}"),
        }
        Ok(())
    }

    /// One message in most beats, now and then as many as may be on their way.
    fn beat(&mut self, busy: bool, rng: &mut Rng, out: &mut BytesMut) -> Result<()> {
        let most = match rng.u8(..) {
            _ if !busy => 0,
            0..64 => 0,
            64..70 => WINDOW,
            _ => 1,
        };
        for _ in 0..most.min(WINDOW - self.unacknowledged.len()) {
            let message = self.world.ledger.borrow_mut().publish(self.index);
            let outgoing = Outgoing { packet_id: self.next_packet_id, message, received: false };
            self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
            self.publish(&outgoing, false, out)?;
            self.unacknowledged.push_back(outgoing);
        }
        Ok(())
    }
}

/// Takes everything that is published, at QoS 1, in a session that is kept.
pub(crate) struct Subscriber {
    world: Rc<World>,
    index: usize,
    subscribed: bool,
    /// Packet ids received and not acknowledged yet.
    unacknowledged: Vec<u16>,
}

impl Subscriber {
    pub(crate) fn new(world: Rc<World>, index: usize) -> Self {
        Self { world, index, subscribed: false, unacknowledged: Vec::new() }
    }

    fn name(&self) -> String {
        name("subscriber", self.index)
    }
}

impl Role for Subscriber {
    fn clean_session(&self) -> bool {
        false
    }

    fn connected(&mut self, session_present: bool, out: &mut BytesMut) -> Result<()> {
        self.unacknowledged.clear();
        if !(session_present && self.subscribed) {
            let asked = if self.index.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            subscribe("chaos/data/#", asked, out)?;
        }
        Ok(())
    }

    fn packet(&mut self, packet: Packet, _out: &mut BytesMut) -> Result<()> {
        match packet {
            Packet::Publish(publish) => {
                let mut ledger = self.world.ledger.borrow_mut();
                if !ledger.receive(self.index, &publish.topic, &publish.payload) {
                    self.world.note(&self.name(), format!("got what nobody sent: {publish:?}"));
                }
                if publish.qos != QoS::AtLeastOnce {
                    self.world.broken(&self.name(), "a delivery of another QoS");
                }
                self.unacknowledged.push(publish.pkid);
            }
            Packet::SubAck(suback) => {
                self.subscribed = suback.return_codes == [SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                if !self.subscribed {
                    bail!("SUBSCRIBE was answered with {suback:?}");
                }
            }
            Packet::PingResp => {}
            other => bail!("a subscriber was sent {other:?}"),
        }
        Ok(())
    }

    /// Acknowledges in bunches, so that there is always something to be delivered again.
    fn beat(&mut self, _busy: bool, rng: &mut Rng, out: &mut BytesMut) -> Result<()> {
        if rng.bool() {
            acknowledge(&mut self.unacknowledged, out)?;
        }
        Ok(())
    }

    fn ready(&self) -> bool {
        self.subscribed
    }
}

/// A device whose session is not kept: subscribed to something, there to be missed.
pub(crate) struct Watched {
    world: Rc<World>,
    index: usize,
    /// Of the connection's time since SUBACK.
    received: bool,
    published_before: u64,
    answers: u32,
}

impl Watched {
    pub(crate) fn new(world: Rc<World>, index: usize) -> Self {
        Self { world, index, received: false, published_before: 0, answers: 0 }
    }

    /// A subscription that was granted and brings nothing is noticed: by then much was published, and this
    /// connection was alive all the time.
    fn answered(&mut self) {
        let published = self.world.ledger.borrow().acknowledged(WATCHED) - self.published_before;
        if !self.received && published > PLENTY {
            self.answers += 1;
        }
        if self.answers == 3 {
            self.world.broken(&name("watched", self.index), "subscribed, but nothing comes");
        }
    }
}

impl Role for Watched {
    fn clean_session(&self) -> bool {
        true
    }

    fn connected(&mut self, _session_present: bool, out: &mut BytesMut) -> Result<()> {
        let asked = if self.index.is_multiple_of(2) { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        (self.received, self.answers) = (true, 0);
        subscribe(&format!("chaos/data/{WATCHED}"), asked, out)
    }

    fn packet(&mut self, packet: Packet, out: &mut BytesMut) -> Result<()> {
        match packet {
            Packet::Publish(publish) => {
                self.received = true;
                if publish.qos == QoS::AtLeastOnce {
                    acknowledge(&mut vec![publish.pkid], out)?;
                }
            }
            Packet::SubAck(_) => {
                self.received = false;
                self.published_before = self.world.ledger.borrow().acknowledged(WATCHED);
            }
            Packet::PingResp => self.answered(),
            other => bail!("a watched device was sent {other:?}"),
        }
        Ok(())
    }
}

/// What devices are called: their client ids.
pub(crate) fn name(role: &str, index: usize) -> String {
    format!("{role}-{index}")
}

fn subscribe(filter: &str, qos: QoS, out: &mut BytesMut) -> Result<()> {
    let mut subscribe = Subscribe::new(filter, qos);
    subscribe.pkid = 1;
    subscribe.write(out).map_err(unencodable)?;
    Ok(())
}

fn acknowledge(packet_ids: &mut Vec<u16>, out: &mut BytesMut) -> Result<()> {
    for packet_id in mem::take(packet_ids) {
        PubAck::new(packet_id).write(out).map_err(unencodable)?;
    }
    Ok(())
}

/// The publisher whose messages devices without a session take.
const WATCHED: usize = 0;
/// So many messages acknowledged to a publisher cannot all be on their way to a subscriber still.
const PLENTY: u64 = 50;
/// Messages a publisher sends ahead of their acknowledgement.
const WINDOW: usize = 20;

//! A broker's ears and tongue: `amq-protocol` reads what the filter sends and writes what a test answers. It knows the
//! obvious answer to each request, and gives none by itself. It remembers which queues there are: looking for one that is not
//! there is refused, and what it was told to refuse.

use crate::methods as say;
use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx},
    types::ShortString,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The delivery tag of claims to a client id.
pub const CLAIM_TAG: u64 = 1_000_000;

/// One connection's broker side.
#[derive(Default)]
pub struct ScriptedBroker {
    unread: Vec<u8>,
    heard: VecDeque<AMQPFrame>,
    /// Each channel that is in confirm mode.
    confirms: BTreeMap<u16, Confirms>,
    queues: BTreeSet<String>,
    /// The queue and the channel of each consumer, by its tag.
    consumers: BTreeMap<String, (String, u16)>,
    /// Channels that are refused, until that is acknowledged.
    closing: BTreeSet<u16>,
    will: Will,
    /// What the claim to the client id says, and the consumer by which such come.
    claim: Option<basic::AMQPProperties>,
    lock_tag: String,
    refusals: Vec<Refusal>,
    marks: Marks,
}

/// What tells a connection's queues from those of any other: it is the same throughout, but another one natively than in the
/// module, so conversations leave it out.
#[derive(Default)]
struct Marks {
    /// The ending of names.
    own: Option<String>,
}

/// Whether a method on a channel is it.
type IsMeant = dyn Fn(u16, &AMQPClass) -> bool;

/// A channel's messages.
#[derive(Default)]
struct Confirms {
    /// So far.
    count: u64,
    /// Bytes still to come of the last.
    left: u64,
    /// It is to be returned when no queue takes it.
    mandatory: bool,
}

/// What is to be refused.
struct Refusal {
    is_meant: Box<IsMeant>,
    times: u32,
    code: u16,
    text: &'static str,
}

/// What was published on the will's channel last.
#[derive(Default)]
struct Will {
    queue: String,
    header: Option<AMQPContentHeader>,
    body: Vec<u8>,
    delivered: u64,
}

impl ScriptedBroker {
    /// Takes bytes of the filter.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend(bytes);
        while let Some(length) = frame_length(&self.unread) {
            let (rest, frame) = parse_frame(&self.unread[..length])
                .unwrap_or_else(|error| panic!("not AMQP: {error}: {:?}", &self.unread[..length]));
            assert!(rest.is_empty(), "amq-protocol and the frame's size disagree");
            self.unread.drain(..length);
            match &frame {
                AMQPFrame::Header(say::CONSUME, header) => self.claim = Some(header.properties.clone()),
                AMQPFrame::Method(say::CONSUME, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)))
                    if consume.queue.as_str().ends_with("lock") =>
                {
                    self.lock_tag = consume.consumer_tag.to_string();
                }
                _ => {}
            }
            let frame = self.marks.leave_out(frame);
            self.heard.push_back(frame);
        }
    }

    /// The oldest frame that was not taken yet.
    pub fn next_frame(&mut self) -> Option<AMQPFrame> {
        self.heard.pop_front()
    }

    /// Frames that were not taken yet.
    pub fn heard(&self) -> &VecDeque<AMQPFrame> {
        &self.heard
    }

    /// Bytes that are no frame yet.
    pub fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// There is this queue, from before.
    pub fn has_queue(&mut self, queue: &str) {
        self.queues.insert(queue.into());
    }

    /// There is another connection that has the lock of `c`.
    pub fn has_another_holder(&mut self) {
        self.consumers.insert("another's".into(), (say::LOCK.into(), say::CONNECTION));
    }

    /// How many consumers a queue has.
    pub fn consumers_of(&self, queue: &str) -> usize {
        self.consumers.values().filter(|(its, _)| its == queue).count()
    }

    /// The next requests of this kind, so many, are refused.
    pub fn refuse(
        &mut self,
        times: u32,
        (code, text): (u16, &'static str),
        is_meant: impl Fn(u16, &AMQPClass) -> bool + 'static,
    ) {
        self.refusals.push(Refusal { is_meant: Box::new(is_meant), times, code, text });
    }

    /// The claim goes to its consumer, who is the one that published it.
    pub fn claim(&mut self) -> Vec<u8> {
        let properties = self.claim.clone().expect("a claim was published");
        Self::claim_of(&self.lock_tag, properties)
    }

    /// Another connection's claim is delivered.
    pub fn another_claim(&mut self) -> Vec<u8> {
        Self::claim_of(&self.lock_tag, say::mode(1))
    }

    /// One that was published before the queue was deleted is delivered to the consumer of that time.
    pub fn claim_of_before(&mut self) -> Vec<u8> {
        let properties = self.claim.clone().expect("a claim was published");
        Self::claim_of("lock", properties)
    }

    fn claim_of(consumer_tag: &str, properties: basic::AMQPProperties) -> Vec<u8> {
        let announced = say::deliver_from_queue(say::LOCK, consumer_tag, CLAIM_TAG);
        [method(say::CONSUME, announced), header(say::CONSUME, 0, properties)].concat()
    }

    /// Passes over the acknowledgement of a delivery to a consumer; whether there was one.
    pub fn forget_ack(&mut self, delivery_tag: u64) -> bool {
        let ack = AMQPFrame::Method(say::CONSUME, say::ack(delivery_tag, false));
        let at = self.heard.iter().position(|frame| *frame == ack);
        at.is_some_and(|at| self.heard.remove(at).is_some())
    }

    /// A channel is refused out of the blue: what comes on it is not looked at until that is acknowledged.
    pub fn close_channel(&mut self, channel: u16, code: u16, text: &str) -> Vec<u8> {
        self.close(channel, say::channel_close(code, text, (0, 0)))
    }

    /// A channel's consumers go with it.
    fn close(&mut self, channel: u16, why: AMQPClass) -> Vec<u8> {
        self.closing.insert(channel);
        self.consumers.retain(|_, &mut (_, its)| its != channel);
        method(channel, why)
    }

    /// What a broker that agrees to everything else answers to a frame, in bytes.
    pub fn obvious_answer(&mut self, frame: &AMQPFrame) -> Vec<u8> {
        let channel = channel_of(frame);
        if self.closing.contains(&channel) {
            if let AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) = frame {
                self.closing.remove(&channel);
            }
            return Vec::new();
        }
        let request = match frame {
            AMQPFrame::ProtocolHeader(_) => {
                let greeting = [say::start("RabbitMQ", "4.1.0", "PLAIN"), say::tune(2047, 131_072, 60)];
                return greeting.map(|it| method(0, it)).concat();
            }
            AMQPFrame::Header(say::WILL, header) => {
                self.will.header = Some(header.clone());
                self.will.body.clear();
                return Vec::new();
            }
            AMQPFrame::Body(say::WILL, bytes) => {
                self.will.body.extend(bytes);
                return Vec::new();
            }
            AMQPFrame::Header(say::CONSUME, _) => return self.claim(),
            AMQPFrame::Header(_, header) => return self.confirm(channel, header.body_size, 0),
            AMQPFrame::Body(_, bytes) => return self.confirm(channel, 0, bytes.len() as u64),
            AMQPFrame::Method(_, request) => request,
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => return Vec::new(),
        };
        if let Some((code, text)) = self.refusal(channel, request) {
            let blamed = (request.get_amqp_class_id(), request.get_amqp_method_id());
            return self.close(channel, say::channel_close(code, text, blamed));
        }
        let answer = match request {
            AMQPClass::Connection(connection::AMQPMethod::Open(_)) => say::open_ok(),
            AMQPClass::Connection(connection::AMQPMethod::Close(_)) => say::close_ok(),
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => say::channel_open_ok(),
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => say::flow_ok(flow.active),
            AMQPClass::Queue(queue::AMQPMethod::Delete(delete)) => {
                self.queues.remove(delete.queue.as_str());
                self.consumers.retain(|_, (queue, _)| queue.as_str() != delete.queue.as_str());
                say::delete_ok()
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
                if declare.passive && !self.queues.contains(declare.queue.as_str()) {
                    return self.close(channel, say::channel_close(404, "NOT_FOUND - no queue", (50, 10)));
                } else {
                    self.has_queue(declare.queue.as_str());
                    let consumers = self.consumers_of(declare.queue.as_str());
                    say::declared(declare.queue.as_str(), consumers as u32)
                }
            }
            AMQPClass::Queue(queue::AMQPMethod::Bind(_)) => say::bind_ok(),
            AMQPClass::Queue(queue::AMQPMethod::Unbind(_)) => say::unbind_ok(),
            AMQPClass::Basic(basic::AMQPMethod::Qos(_)) => say::qos_ok(),
            AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
                let consumer = (consume.queue.to_string(), channel);
                let before = self.consumers.insert(consume.consumer_tag.to_string(), consumer);
                assert_eq!(before, None, "a consumer's tag is not used twice");
                say::consumed(consume.consumer_tag.as_str())
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                self.consumers.remove(cancel.consumer_tag.as_str());
                say::cancelled(cancel.consumer_tag.as_str())
            }
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) if channel == say::WILL => {
                self.will.queue = publish.routing_key.to_string();
                return Vec::new();
            }
            AMQPClass::Tx(tx::AMQPMethod::Select(_)) => say::tx_select_ok(),
            AMQPClass::Basic(basic::AMQPMethod::Publish(publish)) => {
                if let Some(confirms) = self.confirms.get_mut(&channel) {
                    confirms.mandatory = publish.mandatory;
                }
                return Vec::new();
            }
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(_)) => {
                AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
            }
            AMQPClass::Tx(tx::AMQPMethod::Rollback(_)) => {
                self.will.header = None;
                say::rollback_ok()
            }
            AMQPClass::Tx(tx::AMQPMethod::Commit(_)) => {
                return [method(channel, say::commit_ok()), self.will.deliver().unwrap_or_default()].concat();
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                self.confirms.insert(channel, Confirms::default());
                say::confirm_select_ok()
            }
            _ => return Vec::new(),
        };
        method(channel, answer)
    }

    fn refusal(&mut self, channel: u16, request: &AMQPClass) -> Option<(u16, &'static str)> {
        let found = self.refusals.iter().position(|it| (it.is_meant)(channel, request))?;
        let refusal = &mut self.refusals[found];
        let why = (refusal.code, refusal.text);
        refusal.times -= 1;
        if refusal.times == 0 {
            self.refusals.remove(found);
        }
        Some(why)
    }

    /// A part of a message. There are no retained ones, so nobody answers a question; what is to be kept is.
    fn confirm(&mut self, channel: u16, announced: u64, came: u64) -> Vec<u8> {
        let Some(confirms) = self.confirms.get_mut(&channel) else { return Vec::new() };
        confirms.left = confirms.left + announced - came;
        if confirms.left > 0 {
            return Vec::new();
        }
        confirms.count += 1;
        let confirmed = method(channel, say::ack(confirms.count, false));
        match confirms.mandatory && channel == say::REPLAY {
            true => {
                [method(channel, say::returned("")), header(channel, 0, say::mode(1)), confirmed].concat()
            }
            false => confirmed,
        }
    }
}

impl Marks {
    fn leave_out(&mut self, mut frame: AMQPFrame) -> AMQPFrame {
        use {basic::AMQPMethod as B, queue::AMQPMethod as Q};
        let AMQPFrame::Method(_, method) = &mut frame else { return frame };
        match method {
            AMQPClass::Queue(Q::Declare(it)) => self.leave_out_own(&mut it.queue),
            AMQPClass::Queue(Q::Delete(it)) => self.leave_out_own(&mut it.queue),
            AMQPClass::Queue(Q::Bind(it)) => self.leave_out_own(&mut it.queue),
            AMQPClass::Queue(Q::Unbind(it)) => self.leave_out_own(&mut it.queue),
            AMQPClass::Basic(B::Consume(it)) => self.leave_out_own(&mut it.queue),
            AMQPClass::Basic(B::Publish(it)) if it.exchange.as_str().is_empty() => {
                self.leave_out_own(&mut it.routing_key);
            }
            _ => {}
        }
        frame
    }

    fn leave_out_own(&mut self, name: &mut ShortString) {
        let Some((front, ending)) = name.as_str().rsplit_once('.') else { return };
        if !["qos0", "qos1", "will"].iter().any(|kind| front.ends_with(kind)) {
            return;
        }
        assert_eq!(ending.len(), 11, "64 bits: {name}");
        assert_eq!(self.own.get_or_insert(ending.into()), ending, "a name with another ending");
        *name = format!("{front}.own").into();
    }
}

impl Will {
    /// It goes to its consumer at once, who is the one that published it. What else is committed is for nobody here.
    fn deliver(&mut self) -> Option<Vec<u8>> {
        let AMQPContentHeader { body_size, properties, .. } = self.header.take()?;
        self.delivered += 1;
        let announced = say::deliver_from_queue(&self.queue, say::WILL_TAG, self.delivered);
        let mut bytes = [method(say::WILL, announced), header(say::WILL, body_size, properties)].concat();
        if body_size > 0 {
            bytes.extend(body(say::WILL, &self.body));
        }
        Some(bytes)
    }
}

/// A method's bytes.
pub fn method(channel: u16, method: AMQPClass) -> Vec<u8> {
    written(&AMQPFrame::Method(channel, method))
}

/// The bytes of a content header of class basic.
pub fn header(channel: u16, body_size: u64, properties: basic::AMQPProperties) -> Vec<u8> {
    written(&AMQPFrame::Header(channel, AMQPContentHeader { class_id: 60, body_size, properties }))
}

/// The bytes of a frame of a message's body.
pub fn body(channel: u16, bytes: &[u8]) -> Vec<u8> {
    written(&AMQPFrame::Body(channel, bytes.to_vec()))
}

/// The bytes of a heartbeat.
pub fn heartbeat() -> Vec<u8> {
    written(&AMQPFrame::Heartbeat)
}

fn written(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).expect("a frame").into_inner().0
}

fn channel_of(frame: &AMQPFrame) -> u16 {
    match frame {
        AMQPFrame::Method(channel, _) | AMQPFrame::Header(channel, _) | AMQPFrame::Body(channel, _) => {
            *channel
        }
        _ => 0,
    }
}

/// How long the whole first frame is, if it is whole. What starts with another byte than a frame type is an echo's.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = match bytes {
        [b'A', ..] => 8,
        [1..=8, _, _, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize + 8,
        _ => return None,
    };
    (bytes.len() >= length).then_some(length)
}

//! A broker that agrees to everything at once: enough of AMQP 0-9-1 to have a conversation in memory. Only looking for a queue
//! that was not declared is refused.

use std::collections::{BTreeMap, BTreeSet};

/// One connection's broker side.
#[derive(Default)]
pub struct Broker {
    unread: Vec<u8>,
    greeted: bool,
    /// Messages so far on each channel that is in confirm mode.
    confirmed: BTreeMap<u16, u64>,
    /// Bytes still to come of the message under way on each channel.
    body_left: BTreeMap<u16, u64>,
    queues: BTreeSet<Vec<u8>>,
    /// Channels that are refused, until that is acknowledged.
    closing: BTreeSet<u16>,
    consumers: Vec<Consumer>,
    delivered: u64,
    /// What is published on a channel in tx mode, from the content header on, and how often it was committed.
    uncommitted: BTreeMap<u16, Vec<u8>>,
    commits: u64,
    /// A message was published on this channel for a queue that it consumes.
    claims: BTreeMap<u16, Consumer>,
    seen: Vec<(u16, u16)>,
    body_bytes: u64,
}

#[derive(Clone)]
struct Consumer {
    channel: u16,
    queue: Vec<u8>,
    tag: Vec<u8>,
}

impl Broker {
    /// Takes what the filter has sent and gives the answers to it.
    pub fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.unread.extend(bytes);
        let mut answers = Vec::new();
        if !self.greeted && self.unread.len() >= PROTOCOL_HEADER.len() {
            let header: Vec<u8> = self.unread.drain(..PROTOCOL_HEADER.len()).collect();
            assert_eq!(header, PROTOCOL_HEADER);
            self.greeted = true;
            // Version 0-9, no server properties, PLAIN, en_US.
            let arguments = [&[0, 9, 0, 0, 0, 0][..], &long(b"PLAIN"), &long(b"en_US")].concat();
            answers.extend(method(0, 10, 10, &arguments));
            answers.extend(method(0, 10, 30, &[&2047_u16.to_be_bytes()[..], &[0, 2, 0, 0, 0, 0]].concat()));
        }
        while let Some((kind, channel, payload)) = self.next_frame() {
            if self.uncommitted.contains_key(&channel) && matches!(kind, HEADER | BODY) {
                self.uncommitted.entry(channel).or_default().extend(frame(kind, channel, &payload));
                continue;
            }
            if kind == HEADER
                && let Some(Consumer { queue, tag, .. }) = self.claims.remove(&channel)
            {
                let arguments = [&short(&tag)[..], &CLAIM_TAG.to_be_bytes(), &[0], &short(b""), &queue];
                answers.extend(method(channel, 60, 60, &arguments.concat()));
                answers.extend(frame(HEADER, channel, &payload));
                continue;
            }
            match kind {
                METHOD => answers.extend(self.answer_method(channel, &payload)),
                HEADER => answers.extend(self.content(channel, body_size(&payload), 0)),
                BODY => answers.extend(self.content(channel, 0, payload.len() as u64)),
                _ => {}
            }
        }
        answers
    }

    /// The first frames of a delivery: all but the body. `None` while nobody subscribed.
    pub fn deliver(&mut self, routing_key: &str, body_size: u64) -> Option<Vec<u8>> {
        let Consumer { channel, tag, .. } = self.subscriber()?.clone();
        self.delivered += 1;
        let arguments = [
            &short(&tag)[..],
            &self.delivered.to_be_bytes(),
            &[0],
            &short(b"amq.topic"),
            &short(routing_key.as_bytes()),
        ];
        let mut frames = method(channel, 60, 60, &arguments.concat());
        let header = [&[0, 60, 0, 0][..], &body_size.to_be_bytes(), &[0, 0]].concat();
        frames.extend(frame(HEADER, channel, &header));
        Some(frames)
    }

    /// A piece of a delivery's body, as one frame.
    pub fn body(&self, payload: &[u8]) -> Vec<u8> {
        frame(BODY, self.subscriber().map_or(0, |consumer| consumer.channel), payload)
    }

    /// The first consumer of subscriptions: not of the lock, nor of the will.
    fn subscriber(&self) -> Option<&Consumer> {
        self.consumers.iter().find(|consumer| consumer.tag.starts_with(b"qos"))
    }

    /// Every method that came, by class and number, in order.
    pub fn seen(&self) -> &[(u16, u16)] {
        &self.seen
    }

    /// How many bytes of message bodies came.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    fn next_frame(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        let &[kind, channel_high, channel_low, a, b, c, d, ..] = self.unread.as_slice() else { return None };
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.unread.len() < size + 8 {
            return None;
        }
        let mut frame: Vec<u8> = self.unread.drain(..size + 8).collect();
        assert_eq!(frame.pop(), Some(FRAME_END));
        Some((kind, u16::from_be_bytes([channel_high, channel_low]), frame.split_off(7)))
    }

    fn answer_method(&mut self, channel: u16, payload: &[u8]) -> Vec<u8> {
        let (id, arguments) = payload.split_at(4);
        let id = (u16::from_be_bytes([id[0], id[1]]), u16::from_be_bytes([id[2], id[3]]));
        self.seen.push(id);
        if self.closing.contains(&channel) {
            if id == (20, 41) {
                self.closing.remove(&channel);
            }
            return Vec::new();
        }
        match id {
            (10, 40) => method(channel, 10, 41, &[0]),
            (10, 50) => method(channel, 10, 51, &[]),
            (20, 10) => method(channel, 20, 11, &[0, 0, 0, 0]),
            (20, 20) => method(channel, 20, 21, &arguments[..1]),
            (50, 40) => {
                let queue = read_short(&arguments[2..]);
                self.consumers.retain(|consumer| consumer.queue != queue);
                self.queues.remove(&queue);
                method(channel, 50, 41, &[0; 4])
            }
            (50, 10) => {
                let queue = read_short(&arguments[2..]);
                let is_passive = arguments[2 + queue.len()] & 1 == 1;
                if is_passive && !self.queues.contains(&queue) {
                    self.closing.insert(channel);
                    return method(
                        channel,
                        20,
                        40,
                        &[&404_u16.to_be_bytes()[..], &[0, 0, 50, 0, 10]].concat(),
                    );
                }
                self.queues.insert(queue.clone());
                let consumers = self.consumers.iter().filter(|it| it.queue == queue).count() as u32;
                method(channel, 50, 11, &[&queue[..], &[0; 4], &consumers.to_be_bytes()].concat())
            }
            (50, 20) => method(channel, 50, 21, &[]),
            (50, 50) => method(channel, 50, 51, &[]),
            (60, 10) => method(channel, 60, 11, &[]),
            (60, 20) => {
                let queue = read_short(&arguments[2..]);
                let tag = read_short(&arguments[2 + queue.len()..]);
                self.consumers.push(Consumer { channel, queue, tag: tag[1..].to_vec() });
                method(channel, 60, 21, &tag)
            }
            (60, 30) => {
                let tag = read_short(arguments);
                self.consumers.retain(|consumer| consumer.tag != tag[1..]);
                method(channel, 60, 31, &tag)
            }
            (60, 40) => {
                let exchange = read_short(&arguments[2..]);
                let queue = read_short(&arguments[2 + exchange.len()..]);
                let is_claim =
                    |it: &&Consumer| it.channel == channel && it.queue == queue && it.tag == b"lock";
                if let Some(consumer) = self.consumers.iter().find(is_claim) {
                    self.claims.insert(channel, consumer.clone());
                }
                Vec::new()
            }
            (90, 10) => {
                self.uncommitted.insert(channel, Vec::new());
                method(channel, 90, 11, &[])
            }
            (90, 20) => [method(channel, 90, 21, &[]), self.commit(channel)].concat(),
            (85, 10) => {
                self.confirmed.insert(channel, 0);
                method(channel, 85, 11, &[])
            }
            _ => Vec::new(),
        }
    }

    /// What was published goes to the only one who consumes on that channel.
    fn commit(&mut self, channel: u16) -> Vec<u8> {
        let content = self.uncommitted.insert(channel, Vec::new()).unwrap_or_default();
        let Some(Consumer { queue, tag, .. }) = self.consumers.iter().find(|it| it.channel == channel) else {
            return Vec::new();
        };
        if content.is_empty() {
            return Vec::new();
        }
        self.commits += 1;
        let arguments = [&short(tag)[..], &self.commits.to_be_bytes(), &[0], &short(b""), queue];
        [method(channel, 60, 60, &arguments.concat()), content].concat()
    }

    /// A part of a message: the whole of it is confirmed, if the channel wants that.
    fn content(&mut self, channel: u16, announced: u64, came: u64) -> Vec<u8> {
        self.body_bytes += came;
        let left = self.body_left.entry(channel).or_default();
        *left = *left + announced - came;
        match self.confirmed.get_mut(&channel) {
            Some(count) if *left == 0 => {
                *count += 1;
                method(channel, 60, 80, &[&count.to_be_bytes()[..], &[0]].concat())
            }
            _ => Vec::new(),
        }
    }
}

fn body_size(header: &[u8]) -> u64 {
    header[4..12].iter().fold(0, |size, &byte| size << 8 | u64::from(byte))
}

fn method(channel: u16, class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat())
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// A short string with its length in front.
fn read_short(bytes: &[u8]) -> Vec<u8> {
    bytes[..=usize::from(bytes[0])].to_vec()
}

const CLAIM_TAG: u64 = 1_000_000;
const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;

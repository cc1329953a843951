//! A broker's ears and tongue: `amq-protocol` reads what the filter sends and writes what a test answers. It knows the
//! obvious answer to each request, and gives none by itself.

use crate::methods as say;
use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, basic, channel, confirm, connection, queue},
};
use std::collections::VecDeque;

/// One connection's broker side.
#[derive(Default)]
pub struct ScriptedBroker {
    unread: Vec<u8>,
    heard: VecDeque<AMQPFrame>,
    /// Messages so far on the confirm channel, and bytes still to come of the last.
    confirms: Option<(u64, u64)>,
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

    /// What a broker that agrees to everything answers to a frame.
    pub fn obvious_answer(&mut self, frame: &AMQPFrame) -> Vec<(u16, AMQPClass)> {
        let method = match frame {
            AMQPFrame::ProtocolHeader(_) => {
                return vec![
                    (0, say::start("RabbitMQ", "4.1.0", "PLAIN")),
                    (0, say::tune(2047, 131_072, 60)),
                ];
            }
            AMQPFrame::Header(say::CONFIRM, header) => return self.confirm(header.body_size, 0),
            AMQPFrame::Body(say::CONFIRM, bytes) => return self.confirm(0, bytes.len() as u64),
            AMQPFrame::Method(_, method) => method,
            _ => return Vec::new(),
        };
        let answer = match method {
            AMQPClass::Connection(connection::AMQPMethod::Open(_)) => say::open_ok(),
            AMQPClass::Connection(connection::AMQPMethod::Close(_)) => say::close_ok(),
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => say::channel_open_ok(),
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => say::flow_ok(flow.active),
            AMQPClass::Queue(queue::AMQPMethod::Delete(_)) => say::delete_ok(),
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
                say::declare_ok(level(declare.queue.as_str() == say::QUEUES[1]))
            }
            AMQPClass::Queue(queue::AMQPMethod::Bind(_)) => say::bind_ok(),
            AMQPClass::Queue(queue::AMQPMethod::Unbind(_)) => say::unbind_ok(),
            AMQPClass::Basic(basic::AMQPMethod::Qos(_)) => say::qos_ok(),
            AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => say::consume_ok(level(!consume.no_ack)),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                self.confirms = Some((0, 0));
                say::confirm_select_ok()
            }
            _ => return Vec::new(),
        };
        vec![(channel_of(frame), answer)]
    }

    fn confirm(&mut self, announced: u64, came: u64) -> Vec<(u16, AMQPClass)> {
        let (count, left) = self.confirms.as_mut().expect("confirm.select comes first");
        *left = *left + announced - came;
        if *left > 0 {
            return Vec::new();
        }
        *count += 1;
        vec![(say::CONFIRM, say::ack(*count, false))]
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
        AMQPFrame::Method(channel, _) => *channel,
        _ => 0,
    }
}

fn level(is_one: bool) -> usize {
    usize::from(is_one)
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

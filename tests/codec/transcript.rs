//! What a decoder says of a stream, in a form that can be compared and read.

use core::fmt::Debug;

use leveret::amqp::{self, BrokerMethod, ContentHeader, PUBLISH_QOS, Reason, Table, Value};
use leveret::mqtt::{self, Packet, Version};
use leveret::wire::RecvBuffer;

/// What came out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transcript<E> {
    pub(crate) lines: Vec<Line>,
    /// How many bytes wait for more, or why there will be no more.
    pub(crate) end: Result<usize, E>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Said(String),
    /// Pieces of a body that came one after another, put together; the AMQP channel, or 0.
    Bytes(u16, Vec<u8>),
}

/// `Line::Said`, for expectations.
pub(crate) fn said(text: &str) -> Line {
    Line::Said(text.into())
}

/// A decoder, and what its user does between two items.
pub(crate) trait Side {
    type Error: Clone + Debug + PartialEq;

    /// Takes one item and adds it to `lines`; `false` when there is none.
    fn step(&mut self, input: &mut &[u8], lines: &mut Vec<Line>) -> Result<bool, Self::Error>;
}

/// Feeds `pieces` as the bridge does.
pub(crate) fn listen<'a, S: Side>(
    mut side: S,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Transcript<S::Error> {
    let mut buffer = RecvBuffer::default();
    let mut lines = Vec::new();
    for piece in pieces {
        buffer.push(piece.to_vec());
        let mut input = buffer.unparsed();
        loop {
            let before = input.len();
            match side.step(&mut input, &mut lines) {
                Ok(true) => assert!(input.len() < before, "an item made of nothing: a loop without end"),
                Ok(false) => break,
                Err(error) => return Transcript { lines, end: Err(error) },
            }
        }
        let left = input.len();
        buffer.keep_last(left);
    }
    Transcript { lines, end: Ok(buffer.unparsed().len()) }
}

fn piece(lines: &mut Vec<Line>, channel: u16, bytes: &[u8]) {
    assert!(!bytes.is_empty(), "a piece is never empty");
    match lines.last_mut() {
        Some(Line::Bytes(same, all)) if *same == channel => all.extend_from_slice(bytes),
        _ => lines.push(Line::Bytes(channel, bytes.to_vec())),
    }
}

/// The client's side.
pub(crate) struct Mqtt {
    decoder: mqtt::Decoder,
    max_packet: u32,
    payload_left: u32,
}

impl Mqtt {
    pub(crate) const fn new() -> Self {
        Self::limited(u32::MAX)
    }

    pub(crate) const fn limited(max_packet: u32) -> Self {
        Self { decoder: mqtt::Decoder::new(max_packet), max_packet, payload_left: 0 }
    }

    pub(crate) const fn speaking(mut self, version: Version) -> Self {
        self.decoder.set_version(version, self.max_packet);
        self
    }
}

impl Side for Mqtt {
    type Error = mqtt::DecodeError;

    fn step(&mut self, input: &mut &[u8], lines: &mut Vec<Line>) -> Result<bool, Self::Error> {
        match self.decoder.next(input)? {
            None => return Ok(false),
            Some(mqtt::Item::Packet(packet)) => {
                assert_eq!(self.payload_left, 0, "a packet amid a payload");
                match packet {
                    Packet::Connect(ref connect) => {
                        self.decoder.set_version(connect.version, self.max_packet);
                    }
                    Packet::Publish(publish) => self.payload_left = publish.payload_len,
                    _ => {}
                }
                lines.push(Line::Said(packet_text(packet)));
            }
            Some(mqtt::Item::Payload { bytes, last }) => {
                self.payload_left -= bytes.len() as u32;
                assert_eq!(last, self.payload_left == 0, "`last` is told exactly at the end");
                piece(lines, 0, bytes);
            }
        }
        Ok(true)
    }
}

fn packet_text(packet: Packet<'_>) -> String {
    match packet {
        Packet::Connect(c) => format!(
            "CONNECT {:?} clean={} keep_alive={} id={:?} will={:?} username={:?} password={:?}",
            c.version,
            c.clean_session,
            c.keep_alive,
            c.client_id,
            c.will.map(|will| (will.qos, will.retain, will.topic, will.payload.to_vec())),
            c.username,
            c.password,
        ),
        Packet::Publish(p) => format!(
            "PUBLISH dup={} {:?} id={:?} retain={} {:?} +{}",
            p.dup, p.qos, p.packet_id, p.retain, p.topic, p.payload_len
        ),
        Packet::Puback(id) => format!("PUBACK {id}"),
        Packet::Pubrec(id) => format!("PUBREC {id}"),
        Packet::Pubrel(id) => format!("PUBREL {id}"),
        Packet::Pubcomp(id) => format!("PUBCOMP {id}"),
        Packet::Subscribe(s) => format!("SUBSCRIBE {} {:?}", s.packet_id, s.entries.collect::<Vec<_>>()),
        Packet::Unsubscribe(u) => format!("UNSUBSCRIBE {} {:?}", u.packet_id, u.filters.collect::<Vec<_>>()),
        Packet::Pingreq => "PINGREQ".into(),
        Packet::Disconnect => "DISCONNECT".into(),
    }
}

/// The broker's side.
#[derive(Default)]
pub(crate) struct Amqp(amqp::Decoder);

impl Side for Amqp {
    type Error = amqp::DecodeError;

    fn step(&mut self, input: &mut &[u8], lines: &mut Vec<Line>) -> Result<bool, Self::Error> {
        match self.0.next(input)? {
            None => return Ok(false),
            Some(amqp::Item::ProtocolHeader) => lines.push(said("protocol header")),
            Some(amqp::Item::Heartbeat) => lines.push(said("heartbeat")),
            Some(amqp::Item::Method { channel, method }) => {
                lines.push(Line::Said(format!("{channel} {}", method_text(method))));
            }
            Some(amqp::Item::Header { channel, header }) => {
                lines.push(Line::Said(format!("{channel} {}", header_text(&header))));
            }
            Some(amqp::Item::Body { channel, bytes }) => piece(lines, channel, bytes),
        }
        Ok(true)
    }
}

fn header_text(header: &ContentHeader<'_>) -> String {
    let qos = header.integer(PUBLISH_QOS.as_bytes());
    if !header.is_readable {
        return format!("content +{} unreadable", header.body_size);
    }
    format!("content +{} persistent={} qos={qos:?}", header.body_size, header.persistent)
}

fn method_text(method: BrokerMethod<'_>) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let string = |table: Table<'_>, key: &[u8]| match table.find(key) {
        Ok(Some(Value::Bytes(bytes))) => text(bytes),
        other => format!("{other:?}"),
    };
    let reason = |r: Reason<'_>| format!("{} {} {:?}", r.code, text(r.text), (r.method.0, r.method.1));
    match method {
        BrokerMethod::Start { server_properties: p, mechanisms } => format!(
            "connection.start {} {} [{}]",
            string(p, b"product"),
            string(p, b"version"),
            text(mechanisms)
        ),
        BrokerMethod::Tune { channel_max, frame_max } => format!("connection.tune {channel_max} {frame_max}"),
        BrokerMethod::OpenOk => "connection.open-ok".into(),
        BrokerMethod::Close(r) => format!("connection.close {}", reason(r)),
        BrokerMethod::CloseOk => "connection.close-ok".into(),
        BrokerMethod::Blocked => "connection.blocked".into(),
        BrokerMethod::Unblocked => "connection.unblocked".into(),
        BrokerMethod::ChannelOpenOk => "channel.open-ok".into(),
        BrokerMethod::ChannelFlow { active } => format!("channel.flow {active}"),
        BrokerMethod::ChannelFlowOk => "channel.flow-ok".into(),
        BrokerMethod::ChannelClose(r) => format!("channel.close {}", reason(r)),
        BrokerMethod::ExchangeDeclareOk => "exchange.declare-ok".into(),
        BrokerMethod::QueueDeclareOk { message_count, consumer_count } => {
            format!("queue.declare-ok messages={message_count} consumers={consumer_count}")
        }
        BrokerMethod::QueueBindOk => "queue.bind-ok".into(),
        BrokerMethod::QueueDeleteOk => "queue.delete-ok".into(),
        BrokerMethod::QueueUnbindOk => "queue.unbind-ok".into(),
        BrokerMethod::BasicQosOk => "basic.qos-ok".into(),
        BrokerMethod::BasicConsumeOk => "basic.consume-ok".into(),
        BrokerMethod::BasicCancel { consumer_tag } => format!("basic.cancel {}", text(consumer_tag)),
        BrokerMethod::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => {
            format!(
                "basic.deliver {} {delivery_tag} redelivered={redelivered} {:?} {}",
                text(consumer_tag),
                text(exchange),
                text(routing_key)
            )
        }
        BrokerMethod::BasicReturn { routing_key } => format!("basic.return {}", text(routing_key)),
        BrokerMethod::BasicGetOk { delivery_tag } => format!("basic.get-ok {delivery_tag}"),
        BrokerMethod::BasicGetEmpty => "basic.get-empty".into(),
        BrokerMethod::BasicAck { delivery_tag, multiple } => {
            format!("basic.ack {delivery_tag} multiple={multiple}")
        }
        BrokerMethod::BasicNack { delivery_tag, multiple } => {
            format!("basic.nack {delivery_tag} multiple={multiple}")
        }
        BrokerMethod::ConfirmSelectOk => "confirm.select-ok".into(),
        BrokerMethod::BasicCancelOk => "basic.cancel-ok".into(),
        BrokerMethod::TxSelectOk => "tx.select-ok".into(),
        BrokerMethod::TxCommitOk => "tx.commit-ok".into(),
        BrokerMethod::TxRollbackOk => "tx.rollback-ok".into(),
    }
}

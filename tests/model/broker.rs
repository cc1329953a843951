//! A small AMQP 0-9-1 broker in memory, for any number of connections: what RabbitMQ 3.10 does in everything that the bridge uses,
//! as far as it can be seen on the wire. `truth.rs` holds it to that, side by side with the real one.
//!
//! As in RabbitMQ, each channel works for itself: what one connection asks on two channels is done in any order, unless it waits
//! for an answer in between. [`Broker::step`] lets chance choose. Confirms come late, in any order and in bulk.

mod channel;
mod exchange;
mod publish;
mod queue;

use amq_protocol::{
    frame::{AMQPFrame, parse_frame},
    protocol::{AMQPClass, basic, connection},
    types::AMQPValue,
};
use channel::Channel;
use exchange::Exchanges;
use queue::Queue;
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};
use support::{methods as say, scripted_broker as write};

/// The broker.
pub(crate) struct Broker {
    /// Milliseconds.
    now: u64,
    exchanges: Exchanges,
    queues: BTreeMap<String, Queue>,
    /// Names of auto-delete queues that are gone, whose records are to be deleted once more.
    late_deletes: Vec<String>,
    /// How many queues there have been: a queue that is declared again is another one.
    declared: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    opened: u32,
    /// What comes late comes as soon as it can.
    is_prompt: bool,
    random: fastrand::Rng,
}

/// A connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u32);

/// A channel of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ChannelId(ConnectionId, u16);

struct Connection {
    unread: Vec<u8>,
    out: Vec<u8>,
    /// What was read and not done yet, by channel.
    inbox: BTreeMap<u16, VecDeque<AMQPFrame>>,
    channels: BTreeMap<u16, Channel>,
    phase: Phase,
    frame_max: usize,
    heartbeat: Option<Heartbeat>,
    wants_cancel_notify: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// connection.close came: what came before is done first.
    Closing,
    /// Nothing more is said or heard; the socket is closed.
    Closed,
}

/// As rabbit_heartbeat has it: looked for once in an interval, missing when there was nothing twice in a row.
struct Heartbeat {
    interval: u64,
    send: u64,
    look: u64,
    heard: bool,
    missed: u32,
}

/// A message as it was published.
struct Message {
    exchange: String,
    routing_key: String,
    properties: basic::AMQPProperties,
    body: Vec<u8>,
}

impl Broker {
    /// A broker without queues; chance is given by the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: 0,
            exchanges: Exchanges::default(),
            queues: BTreeMap::new(),
            late_deletes: Vec::new(),
            declared: 0,
            connections: BTreeMap::new(),
            opened: 0,
            is_prompt: false,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// One that is as quick as it can be: what an idle RabbitMQ nearly always is.
    pub(crate) fn prompt() -> Self {
        Self { is_prompt: true, ..Self::new(0) }
    }

    /// Somebody connects.
    pub(crate) fn connect(&mut self) -> ConnectionId {
        self.opened += 1;
        let id = ConnectionId(self.opened);
        let connection = Connection {
            unread: Vec::new(),
            out: Vec::new(),
            inbox: BTreeMap::new(),
            channels: BTreeMap::new(),
            phase: Phase::Open,
            frame_max: 131_072,
            heartbeat: None,
            wants_cancel_notify: false,
        };
        self.connections.insert(id, connection);
        id
    }

    /// Bytes arrive, in pieces of any size.
    pub(crate) fn receive(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(heartbeat) = &mut connection.heartbeat {
            heartbeat.heard = true;
        }
        connection.unread.extend(bytes);
        while let Some(frame) = self.next_frame(id) {
            match frame {
                AMQPFrame::ProtocolHeader(_) => {
                    self.say(id, 0, say::start("RabbitMQ", "3.10.8", "AMQPLAIN PLAIN"));
                }
                AMQPFrame::Method(0, AMQPClass::Connection(method)) => self.connection_method(id, method),
                AMQPFrame::Heartbeat => {}
                frame => {
                    let inbox = &mut self.connection(id).inbox;
                    inbox.entry(frame.channel_id()).or_default().push_back(frame);
                }
            }
        }
    }

    /// Does one thing that is to be done, chosen by chance; `false` when there is nothing.
    pub(crate) fn step(&mut self) -> bool {
        let mut work: Vec<ChannelId> = self.connections.iter().flat_map(|(&id, c)| c.work(id)).collect();
        if self.is_prompt
            && let Some(&late) = work
                .iter()
                .find(|at| self.connections[&at.0].channels.get(&at.1).is_some_and(Channel::has_late))
        {
            work = vec![late];
        }
        if !self.late_deletes.is_empty() && (work.is_empty() || self.random.u8(..8) == 0) {
            let name = self.late_deletes.swap_remove(0);
            self.forget_queue(&name);
            return true;
        }
        let Some(&at) = self.random.choice(&work) else { return self.finish_closing() };
        let has_late = self.connection(at.0).channels.get(&at.1).is_some_and(Channel::has_late);
        let says_late = has_late && (self.is_prompt || self.random.bool());
        let inbox = self.connection(at.0).inbox.get_mut(&at.1).filter(|_| !says_late);
        let frame = inbox.and_then(VecDeque::pop_front);
        match frame {
            Some(frame) => self.channel_frame(at, frame),
            None => self.say_late(at),
        }
        true
    }

    /// What is to be sent on a connection.
    pub(crate) fn take_output(&mut self, id: ConnectionId) -> Vec<u8> {
        self.connections
            .get_mut(&id)
            .map(|connection| std::mem::take(&mut connection.out))
            .unwrap_or_default()
    }

    /// Whether the broker has closed the socket.
    pub(crate) fn has_closed(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_none_or(|connection| connection.phase == Phase::Closed)
    }

    /// The socket is gone. Some of what was read and not done is still done.
    pub(crate) fn lose(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let mut channels: Vec<u16> = connection.inbox.keys().copied().collect();
        self.random.shuffle(&mut channels);
        for channel in channels {
            let waiting = self.connection(id).inbox[&channel].len();
            for _ in 0..self.random.usize(..=waiting) {
                if let Some(frame) = self.connection(id).inbox.get_mut(&channel).and_then(VecDeque::pop_front)
                {
                    self.channel_frame(ChannelId(id, channel), frame);
                }
            }
        }
        self.release(id);
        self.connections.remove(&id);
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, millis: u64) {
        self.now += millis;
        let now = self.now;
        let mut dead = Vec::new();
        for (&id, connection) in &mut self.connections {
            let Some(beat) = &mut connection.heartbeat else { continue };
            if now >= beat.send {
                beat.send = now + beat.interval / 2;
                connection.out.extend(write::heartbeat());
            }
            while now >= beat.look && beat.missed < 2 {
                beat.look += beat.interval;
                beat.missed = if beat.heard { 0 } else { beat.missed + 1 };
                beat.heard = false;
            }
            if beat.missed == 2 {
                dead.push(id);
            }
        }
        for id in dead {
            self.release(id);
            self.connection(id).phase = Phase::Closed;
        }
        let expired: Vec<String> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.has_expired(now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in expired {
            self.delete_queue(&name);
        }
    }

    /// Names of all queues.
    pub(crate) fn queue_names(&self) -> Vec<&str> {
        self.queues.keys().map(String::as_str).collect()
    }

    /// A publisher of another protocol.
    pub(crate) fn publish_directly(
        &mut self,
        exchange: &str,
        routing_key: &str,
        delivery_mode: u8,
        body: &[u8],
    ) {
        self.route(&Rc::new(Message {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            properties: say::mode(delivery_mode),
            body: body.to_vec(),
        }));
    }

    fn next_frame(&mut self, id: ConnectionId) -> Option<AMQPFrame> {
        let connection = self.connections.get_mut(&id)?;
        if connection.phase != Phase::Open {
            connection.unread.clear();
        }
        let length = match connection.unread.as_slice() {
            [b'A', ..] => 8,
            [_, _, _, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize + 8,
            _ => return None,
        };
        if connection.unread.len() < length {
            return None;
        }
        let bytes: Vec<u8> = connection.unread.drain(..length).collect();
        let (rest, frame) =
            parse_frame(bytes.as_slice()).unwrap_or_else(|e| panic!("not AMQP: {e}: {bytes:?}"));
        assert!(rest.is_empty(), "amq-protocol and the frame's size disagree");
        Some(frame)
    }

    fn connection_method(&mut self, id: ConnectionId, method: connection::AMQPMethod) {
        use connection::AMQPMethod as M;
        let now = self.now;
        let connection = self.connection(id);
        match method {
            M::StartOk(start_ok) => {
                let capabilities = start_ok.client_properties.inner().get("capabilities");
                connection.wants_cancel_notify = matches!(
                    capabilities,
                    Some(AMQPValue::FieldTable(it))
                        if it.inner().get("consumer_cancel_notify") == Some(&AMQPValue::Boolean(true))
                );
                self.say(id, 0, say::tune(2047, 131_072, 60));
            }
            M::TuneOk(tune_ok) => {
                connection.frame_max = match tune_ok.frame_max {
                    0 => 131_072,
                    limit => limit as usize,
                };
                let interval = u64::from(tune_ok.heartbeat) * 1000;
                connection.heartbeat = (interval > 0).then_some(Heartbeat {
                    interval,
                    send: now + interval / 2,
                    look: now + interval,
                    heard: false,
                    missed: 0,
                });
            }
            M::Open(open) if open.virtual_host.as_str() == "/" => self.say(id, 0, say::open_ok()),
            M::Open(open) => {
                let text = format!("NOT_ALLOWED - vhost {} not found", open.virtual_host);
                self.close_connection(id, 530, &text, (10, 40));
            }
            M::Close(_) => connection.phase = Phase::Closing,
            M::CloseOk(_) => connection.phase = Phase::Closed,
            other => panic!("a client does not say {other:?}"),
        }
    }

    /// Closes one connection whose work is done.
    fn finish_closing(&mut self) -> bool {
        let closing = self.connections.iter().find(|(_, connection)| connection.phase == Phase::Closing);
        let Some((&id, _)) = closing else { return false };
        self.release(id);
        self.say(id, 0, say::close_ok());
        self.connection(id).phase = Phase::Closed;
        true
    }

    /// An error that ends the connection.
    fn close_connection(
        &mut self,
        id: ConnectionId,
        code: u16,
        text: &str,
        (class_id, method_id): (u16, u16),
    ) {
        self.release(id);
        let close = connection::Close { reply_code: code, reply_text: text.into(), class_id, method_id };
        self.say(id, 0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
        self.connection(id).phase = Phase::Closed;
    }

    /// What a connection held goes back: messages to their queues, and its queues go.
    fn release(&mut self, id: ConnectionId) {
        self.connection(id).inbox.clear();
        let mut channels: Vec<u16> = self.connection(id).channels.keys().copied().collect();
        self.random.shuffle(&mut channels);
        for channel in channels {
            self.release_channel(ChannelId(id, channel));
        }
        let own = self.queues.iter().filter(|(_, queue)| queue.owner() == Some(id));
        for name in own.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.delete_queue(&name);
        }
    }

    fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        self.connections.get_mut(&id).expect("it is there while it has something to say")
    }

    fn channel(&mut self, at: ChannelId) -> Option<&mut Channel> {
        self.connections.get_mut(&at.0)?.channels.get_mut(&at.1)
    }

    fn say(&mut self, id: ConnectionId, channel: u16, method: AMQPClass) {
        self.connection(id).out.extend(write::method(channel, method));
    }

    fn say_content(&mut self, at: ChannelId, method: AMQPClass, message: &Message) {
        self.say(at.0, at.1, method);
        let connection = self.connection(at.0);
        let header = write::header(at.1, message.body.len() as u64, message.properties.clone());
        connection.out.extend(header);
        for piece in message.body.chunks(connection.frame_max - 8) {
            connection.out.extend(write::body(at.1, piece));
        }
    }
}

impl Connection {
    /// Its channels that have something to do.
    fn work(&self, id: ConnectionId) -> Vec<ChannelId> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        let read = self.inbox.iter().filter(|(_, inbox)| !inbox.is_empty()).map(|(&channel, _)| channel);
        let late = self.channels.iter().filter(|(_, it)| it.has_late()).map(|(&channel, _)| channel);
        read.chain(late).map(|channel| ChannelId(id, channel)).collect()
    }
}

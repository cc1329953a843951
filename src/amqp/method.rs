//! The methods we speak: what a client sends, what a broker sends, with their numbers and arguments in the specification's order.

use super::frame::{Kind, frame};
use super::{DecodeError, ShortStr, Table, TableWriter};
use crate::wire::{Reader, Truncated, prefix_u32};

/// A class and a method number, as the specification's XML and RabbitMQ's `amqp-rabbitmq-0.9.1.json` give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodId(pub u16, pub u16);

macro_rules! methods {
    ($($id:ident = $class:literal, $method:literal, $name:literal;)*) => {
        impl MethodId {
            $(#[doc = $name] pub const $id: Self = Self($class, $method);)*

            /// The method's name; `None` for one that we do not speak.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$id => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    START = 10, 10, "connection.start";
    START_OK = 10, 11, "connection.start-ok";
    TUNE = 10, 30, "connection.tune";
    TUNE_OK = 10, 31, "connection.tune-ok";
    OPEN = 10, 40, "connection.open";
    OPEN_OK = 10, 41, "connection.open-ok";
    CLOSE = 10, 50, "connection.close";
    CLOSE_OK = 10, 51, "connection.close-ok";
    BLOCKED = 10, 60, "connection.blocked";
    UNBLOCKED = 10, 61, "connection.unblocked";
    CHANNEL_OPEN = 20, 10, "channel.open";
    CHANNEL_OPEN_OK = 20, 11, "channel.open-ok";
    CHANNEL_FLOW = 20, 20, "channel.flow";
    CHANNEL_FLOW_OK = 20, 21, "channel.flow-ok";
    CHANNEL_CLOSE = 20, 40, "channel.close";
    CHANNEL_CLOSE_OK = 20, 41, "channel.close-ok";
    QUEUE_DECLARE = 50, 10, "queue.declare";
    QUEUE_DECLARE_OK = 50, 11, "queue.declare-ok";
    QUEUE_BIND = 50, 20, "queue.bind";
    QUEUE_BIND_OK = 50, 21, "queue.bind-ok";
    QUEUE_DELETE = 50, 40, "queue.delete";
    QUEUE_DELETE_OK = 50, 41, "queue.delete-ok";
    QUEUE_UNBIND = 50, 50, "queue.unbind";
    QUEUE_UNBIND_OK = 50, 51, "queue.unbind-ok";
    BASIC_QOS = 60, 10, "basic.qos";
    BASIC_QOS_OK = 60, 11, "basic.qos-ok";
    BASIC_CONSUME = 60, 20, "basic.consume";
    BASIC_CONSUME_OK = 60, 21, "basic.consume-ok";
    BASIC_CANCEL = 60, 30, "basic.cancel";
    BASIC_CANCEL_OK = 60, 31, "basic.cancel-ok";
    BASIC_PUBLISH = 60, 40, "basic.publish";
    BASIC_DELIVER = 60, 60, "basic.deliver";
    BASIC_ACK = 60, 80, "basic.ack";
    BASIC_NACK = 60, 120, "basic.nack";
    CONFIRM_SELECT = 85, 10, "confirm.select";
    CONFIRM_SELECT_OK = 85, 11, "confirm.select-ok";
    TX_SELECT = 90, 10, "tx.select";
    TX_SELECT_OK = 90, 11, "tx.select-ok";
    TX_COMMIT = 90, 20, "tx.commit";
    TX_COMMIT_OK = 90, 21, "tx.commit-ok";
}

/// `queue.declare`'s bits, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFlags {
    /// Only ask whether it exists.
    pub passive: bool,
    /// Survives a restart of the broker. Since RabbitMQ 4.3, what does not must be exclusive.
    pub durable: bool,
    /// Belongs to this connection, goes with it, and cannot be deleted by another.
    pub exclusive: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
}

/// `queue.declare`'s arguments, RabbitMQ's. The queue is of type classic whatever its virtual host's default is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueArguments<'a> {
    /// `x-expires`: unused for this long, in ms, the broker deletes it.
    pub expires: Option<i64>,
    /// `x-message-ttl`: a message that is not delivered for this long, in ms, is dead.
    pub message_ttl: Option<i64>,
    /// `x-max-length`: with more messages than this, the oldest goes.
    pub max_length: Option<i64>,
    /// `x-single-active-consumer`: one consumer at a time, the next when it is gone.
    pub single_active_consumer: bool,
    /// Where dead messages go.
    pub dead_letter: Option<DeadLetter<'a>>,
}

/// Where a queue's dead messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// `x-dead-letter-exchange`.
    pub exchange: ShortStr<'a>,
    /// `x-dead-letter-routing-key`.
    pub routing_key: ShortStr<'a>,
}

impl QueueArguments<'_> {
    fn encode(self, out: &mut Vec<u8>) {
        TableWriter::write(out, |t| {
            t.string("x-queue-type", b"classic");
            if let Some(ms) = self.expires {
                t.long("x-expires", ms);
            }
            if let Some(ms) = self.message_ttl {
                t.long("x-message-ttl", ms);
            }
            if let Some(messages) = self.max_length {
                t.long("x-max-length", messages);
            }
            if self.single_active_consumer {
                t.bool("x-single-active-consumer", true);
            }
            if let Some(DeadLetter { exchange, routing_key }) = self.dead_letter {
                t.string("x-dead-letter-exchange", exchange.as_bytes());
                t.string("x-dead-letter-routing-key", routing_key.as_bytes());
            }
        });
    }
}

/// A method that we send. No `Debug`: one of them carries credentials.
#[derive(Clone, Copy)]
pub enum ClientMethod<'a> {
    /// connection.start-ok with mechanism PLAIN.
    StartOk {
        /// Shown by the broker as `connection_name`.
        connection_name: &'a [u8],
        /// Further client properties: shown by the broker, used by nobody.
        properties: &'a [(&'static str, &'a [u8])],
        /// The SASL PLAIN user (RFC 4616).
        username: &'a [u8],
        /// The SASL PLAIN password.
        password: &'a [u8],
    },
    /// connection.tune-ok.
    TuneOk {
        /// Highest channel number.
        channel_max: u16,
        /// Largest frame, in bytes.
        frame_max: u32,
        /// Seconds; 0 is off.
        heartbeat: u16,
    },
    /// connection.open.
    Open {
        /// The virtual host.
        vhost: ShortStr<'a>,
    },
    /// connection.close.
    Close {
        /// See [`super::reply_code`].
        reply_code: u16,
        /// For the broker's log.
        reply_text: ShortStr<'a>,
    },
    /// connection.close-ok.
    CloseOk,
    /// channel.open.
    ChannelOpen,
    /// channel.flow, with active = 1: changes nothing, and is answered.
    ChannelFlow,
    /// channel.flow-ok.
    ChannelFlowOk {
        /// As the broker asked.
        active: bool,
    },
    /// channel.close-ok.
    ChannelCloseOk,
    /// queue.declare.
    QueueDeclare {
        /// Its name.
        queue: ShortStr<'a>,
        /// Its shape.
        flags: QueueFlags,
        /// What it does by itself.
        arguments: QueueArguments<'a>,
    },
    /// queue.delete; succeeds when there is no such queue.
    QueueDelete {
        /// The queue.
        queue: ShortStr<'a>,
        /// Refuse when it has a consumer.
        if_unused: bool,
    },
    /// queue.bind.
    QueueBind {
        /// The queue.
        queue: ShortStr<'a>,
        /// The exchange.
        exchange: ShortStr<'a>,
        /// The binding key.
        routing_key: ShortStr<'a>,
    },
    /// queue.unbind; succeeds when there is no such binding.
    QueueUnbind {
        /// The queue.
        queue: ShortStr<'a>,
        /// The exchange.
        exchange: ShortStr<'a>,
        /// The binding key.
        routing_key: ShortStr<'a>,
    },
    /// basic.qos, for each consumer that follows on the channel.
    BasicQos {
        /// Deliveries without acknowledgement, at most.
        prefetch_count: u16,
    },
    /// basic.consume.
    BasicConsume {
        /// The queue.
        queue: ShortStr<'a>,
        /// Repeated in each delivery.
        consumer_tag: ShortStr<'a>,
        /// Deliveries count as acknowledged when they are sent.
        no_ack: bool,
        /// As the queue's only consumer, or not at all.
        exclusive: bool,
    },
    /// basic.cancel.
    BasicCancel {
        /// The consumer.
        consumer_tag: ShortStr<'a>,
    },
    /// basic.publish; content follows.
    BasicPublish {
        /// The exchange.
        exchange: ShortStr<'a>,
        /// The routing key.
        routing_key: ShortStr<'a>,
    },
    /// basic.ack, of one delivery.
    BasicAck {
        /// As delivered.
        delivery_tag: u64,
    },
    /// confirm.select.
    ConfirmSelect,
    /// tx.select.
    TxSelect,
    /// tx.commit.
    TxCommit,
}

impl ClientMethod<'_> {
    /// Its number.
    pub const fn id(&self) -> MethodId {
        match self {
            Self::StartOk { .. } => MethodId::START_OK,
            Self::TuneOk { .. } => MethodId::TUNE_OK,
            Self::Open { .. } => MethodId::OPEN,
            Self::Close { .. } => MethodId::CLOSE,
            Self::CloseOk => MethodId::CLOSE_OK,
            Self::ChannelOpen => MethodId::CHANNEL_OPEN,
            Self::ChannelFlow => MethodId::CHANNEL_FLOW,
            Self::ChannelFlowOk { .. } => MethodId::CHANNEL_FLOW_OK,
            Self::ChannelCloseOk => MethodId::CHANNEL_CLOSE_OK,
            Self::QueueDeclare { .. } => MethodId::QUEUE_DECLARE,
            Self::QueueDelete { .. } => MethodId::QUEUE_DELETE,
            Self::QueueBind { .. } => MethodId::QUEUE_BIND,
            Self::QueueUnbind { .. } => MethodId::QUEUE_UNBIND,
            Self::BasicQos { .. } => MethodId::BASIC_QOS,
            Self::BasicConsume { .. } => MethodId::BASIC_CONSUME,
            Self::BasicPublish { .. } => MethodId::BASIC_PUBLISH,
            Self::BasicAck { .. } => MethodId::BASIC_ACK,
            Self::BasicCancel { .. } => MethodId::BASIC_CANCEL,
            Self::ConfirmSelect => MethodId::CONFIRM_SELECT,
            Self::TxSelect => MethodId::TX_SELECT,
            Self::TxCommit => MethodId::TX_COMMIT,
        }
    }

    /// Appends a method frame.
    pub fn encode(&self, out: &mut Vec<u8>, channel: u16) {
        let MethodId(class, method) = self.id();
        frame(out, Kind::Method, channel, |out| {
            out.extend_from_slice(&class.to_be_bytes());
            out.extend_from_slice(&method.to_be_bytes());
            self.arguments(out);
        });
    }

    fn arguments(&self, out: &mut Vec<u8>) {
        match *self {
            Self::StartOk { connection_name, properties, username, password } => {
                TableWriter::write(out, |t| client_properties(t, connection_name, properties));
                ShortStr::literal("PLAIN").encode(out);
                prefix_u32(out, |out| {
                    for part in [b"\0", username, b"\0", password] {
                        out.extend_from_slice(part);
                    }
                });
                ShortStr::literal("en_US").encode(out);
            }
            Self::TuneOk { channel_max, frame_max, heartbeat } => {
                out.extend_from_slice(&channel_max.to_be_bytes());
                out.extend_from_slice(&frame_max.to_be_bytes());
                out.extend_from_slice(&heartbeat.to_be_bytes());
            }
            Self::Open { vhost } => {
                vhost.encode(out);
                out.extend_from_slice(&[0, 0]); // reserved: capabilities, insist
            }
            Self::Close { reply_code, reply_text } => {
                out.extend_from_slice(&reply_code.to_be_bytes());
                reply_text.encode(out);
                out.extend_from_slice(&[0; 4]); // no method of the broker's is to blame
            }
            Self::ChannelOpen => out.push(0), // reserved: out-of-band
            Self::ChannelFlow => out.push(1),
            Self::ChannelFlowOk { active } => out.push(u8::from(active)),
            Self::QueueDeclare { queue, flags, arguments } => {
                reserved_ticket(out);
                queue.encode(out);
                out.push(bits([flags.passive, flags.durable, flags.exclusive, flags.auto_delete]));
                arguments.encode(out);
            }
            Self::QueueDelete { queue, if_unused } => {
                reserved_ticket(out);
                queue.encode(out);
                out.push(bits([if_unused, false, false, false])); // if-empty, no-wait
            }
            Self::QueueBind { queue, exchange, routing_key } => {
                reserved_ticket(out);
                queue.encode(out);
                exchange.encode(out);
                routing_key.encode(out);
                out.push(0); // no-wait
                TableWriter::write(out, |_| ());
            }
            Self::QueueUnbind { queue, exchange, routing_key } => {
                reserved_ticket(out);
                queue.encode(out);
                exchange.encode(out);
                routing_key.encode(out);
                TableWriter::write(out, |_| ());
            }
            Self::BasicQos { prefetch_count } => {
                out.extend_from_slice(&[0; 4]); // prefetch-size: no limit
                out.extend_from_slice(&prefetch_count.to_be_bytes());
                out.push(0); // global
            }
            Self::BasicConsume { queue, consumer_tag, no_ack, exclusive } => {
                reserved_ticket(out);
                queue.encode(out);
                consumer_tag.encode(out);
                out.push(bits([false, no_ack, exclusive, false])); // no-local first, no-wait last
                TableWriter::write(out, |_| ());
            }
            Self::BasicCancel { consumer_tag } => {
                consumer_tag.encode(out);
                out.push(0); // no-wait
            }
            Self::BasicPublish { exchange, routing_key } => {
                reserved_ticket(out);
                exchange.encode(out);
                routing_key.encode(out);
                out.push(0); // mandatory, immediate
            }
            Self::BasicAck { delivery_tag } => {
                out.extend_from_slice(&delivery_tag.to_be_bytes());
                out.push(0); // multiple
            }
            Self::ConfirmSelect => out.push(0), // no-wait
            Self::CloseOk | Self::ChannelCloseOk | Self::TxSelect | Self::TxCommit => {}
        }
    }
}

fn client_properties(t: &mut TableWriter<'_>, connection_name: &[u8], more: &[(&'static str, &[u8])]) {
    t.string("product", b"Leveret")
        .string("version", env!("CARGO_PKG_VERSION").as_bytes())
        .string("platform", b"Envoy proxy-wasm")
        .string("connection_name", connection_name)
        .table("capabilities", |t| {
            // Without the first, a bad password is a silent close after three seconds.
            t.bool("authentication_failure_close", true)
                .bool("consumer_cancel_notify", true)
                .bool("publisher_confirms", true)
                .bool("basic.nack", true)
                .bool("connection.blocked", true);
        });
    for (key, value) in more {
        t.string(key, value);
    }
}

/// Where AMQP 0-9 had an access ticket.
fn reserved_ticket(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Consecutive bits share an octet, lowest first, section 4.2.5.2.
fn bits(flags: [bool; 4]) -> u8 {
    flags.iter().rev().fold(0, |octet, &flag| octet << 1 | u8::from(flag))
}

/// A method that a broker sends to a client like us.
#[derive(Clone, Copy)]
pub enum BrokerMethod<'a> {
    /// connection.start.
    Start {
        /// What the broker says of itself.
        server_properties: Table<'a>,
        /// SASL mechanisms, separated by spaces.
        mechanisms: &'a [u8],
    },
    /// connection.tune.
    Tune {
        /// Highest channel number; 0 is no limit.
        channel_max: u16,
        /// Largest frame, in bytes; 0 is no limit.
        frame_max: u32,
    },
    /// connection.open-ok.
    OpenOk,
    /// connection.close.
    Close(Reason<'a>),
    /// connection.close-ok.
    CloseOk,
    /// connection.blocked, RabbitMQ's.
    Blocked,
    /// connection.unblocked, RabbitMQ's.
    Unblocked,
    /// channel.open-ok.
    ChannelOpenOk,
    /// channel.flow.
    ChannelFlow {
        /// Whether content may be sent.
        active: bool,
    },
    /// channel.flow-ok.
    ChannelFlowOk,
    /// channel.close.
    ChannelClose(Reason<'a>),
    /// queue.declare-ok.
    QueueDeclareOk {
        /// How many consume it.
        consumer_count: u32,
    },
    /// queue.delete-ok.
    QueueDeleteOk,
    /// queue.bind-ok.
    QueueBindOk,
    /// queue.unbind-ok.
    QueueUnbindOk,
    /// basic.qos-ok.
    BasicQosOk,
    /// basic.consume-ok.
    BasicConsumeOk,
    /// basic.cancel: the consumer's queue is gone, RabbitMQ's.
    BasicCancel {
        /// The consumer.
        consumer_tag: &'a [u8],
    },
    /// basic.deliver; content follows.
    BasicDeliver {
        /// The consumer.
        consumer_tag: &'a [u8],
        /// For the acknowledgement.
        delivery_tag: u64,
        /// Perhaps delivered before.
        redelivered: bool,
        /// As published.
        routing_key: &'a [u8],
    },
    /// basic.ack: a publisher confirm, RabbitMQ's.
    BasicAck {
        /// The publish, counted from 1 since confirm.select.
        delivery_tag: u64,
        /// All up to it.
        multiple: bool,
    },
    /// basic.nack: the broker could not take a message, RabbitMQ's.
    BasicNack,
    /// confirm.select-ok.
    ConfirmSelectOk,
    /// basic.cancel-ok.
    BasicCancelOk,
    /// tx.select-ok.
    TxSelectOk,
    /// tx.commit-ok.
    TxCommitOk,
}

/// Why the broker closes a connection or a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// See [`super::reply_code`].
    pub code: u16,
    /// For people, and where one code means several things.
    pub text: &'a [u8],
    /// The method that failed; zeros when none did.
    pub method: MethodId,
}

impl<'a> Reason<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Truncated> {
        Ok(Self { code: r.u16()?, text: r.prefixed_u8()?, method: MethodId(r.u16()?, r.u16()?) })
    }
}

impl<'a> BrokerMethod<'a> {
    /// Reads a method frame's payload. Arguments that we do not use are stepped over, and so is what may stand behind the last.
    pub(super) fn decode(mut r: Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match MethodId(r.u16()?, r.u16()?) {
            MethodId::START => {
                r.take(2)?; // version-major, version-minor
                Self::Start {
                    server_properties: Table::new(r.prefixed_u32()?),
                    mechanisms: r.prefixed_u32()?,
                }
            }
            MethodId::TUNE => Self::Tune { channel_max: r.u16()?, frame_max: r.u32()? },
            MethodId::OPEN_OK => Self::OpenOk,
            MethodId::CLOSE => Self::Close(Reason::decode(&mut r)?),
            MethodId::CLOSE_OK => Self::CloseOk,
            MethodId::BLOCKED => Self::Blocked,
            MethodId::UNBLOCKED => Self::Unblocked,
            MethodId::CHANNEL_OPEN_OK => Self::ChannelOpenOk,
            MethodId::CHANNEL_FLOW => Self::ChannelFlow { active: r.u8()? & 1 == 1 },
            MethodId::CHANNEL_FLOW_OK => Self::ChannelFlowOk,
            MethodId::CHANNEL_CLOSE => Self::ChannelClose(Reason::decode(&mut r)?),
            MethodId::QUEUE_DECLARE_OK => {
                r.prefixed_u8()?; // queue
                r.u32()?; // message-count
                Self::QueueDeclareOk { consumer_count: r.u32()? }
            }
            MethodId::QUEUE_DELETE_OK => Self::QueueDeleteOk,
            MethodId::QUEUE_BIND_OK => Self::QueueBindOk,
            MethodId::QUEUE_UNBIND_OK => Self::QueueUnbindOk,
            MethodId::BASIC_QOS_OK => Self::BasicQosOk,
            MethodId::BASIC_CONSUME_OK => Self::BasicConsumeOk,
            MethodId::BASIC_CANCEL => Self::BasicCancel { consumer_tag: r.prefixed_u8()? },
            MethodId::BASIC_DELIVER => {
                let (consumer_tag, delivery_tag, redelivered) =
                    (r.prefixed_u8()?, r.u64()?, r.u8()? & 1 == 1);
                r.prefixed_u8()?; // exchange
                Self::BasicDeliver { consumer_tag, delivery_tag, redelivered, routing_key: r.prefixed_u8()? }
            }
            MethodId::BASIC_ACK => Self::BasicAck { delivery_tag: r.u64()?, multiple: r.u8()? & 1 == 1 },
            MethodId::BASIC_NACK => Self::BasicNack,
            MethodId::CONFIRM_SELECT_OK => Self::ConfirmSelectOk,
            MethodId::BASIC_CANCEL_OK => Self::BasicCancelOk,
            MethodId::TX_SELECT_OK => Self::TxSelectOk,
            MethodId::TX_COMMIT_OK => Self::TxCommitOk,
            _ => return Err(DecodeError::UnknownMethod),
        })
    }
}

//! The methods that a client sends, with their arguments in the specification's order.

use super::frame::{Kind, frame};
use super::{MethodId, ShortStr, TableWriter};
use crate::wire::prefix_u32;

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
    /// `x-max-priority`: messages of higher priority stand in front of the others, and are the first to be dropped.
    pub max_priority: Option<i64>,
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
    /// `x-dead-letter-routing-key`; without it, messages keep their own keys.
    pub routing_key: Option<ShortStr<'a>>,
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
                // Whatever a policy says: this one wins.
                t.string("x-overflow", b"drop-head");
            }
            if let Some(priority) = self.max_priority {
                t.long("x-max-priority", priority);
            }
            if self.single_active_consumer {
                t.bool("x-single-active-consumer", true);
            }
            if let Some(DeadLetter { exchange, routing_key }) = self.dead_letter {
                t.string("x-dead-letter-exchange", exchange.as_bytes());
                if let Some(routing_key) = routing_key {
                    t.string("x-dead-letter-routing-key", routing_key.as_bytes());
                }
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
    /// exchange.declare, of a durable one of type direct.
    ExchangeDeclare {
        /// Its name.
        exchange: ShortStr<'a>,
    },
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
        /// Refuse when it has a message.
        if_empty: bool,
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
        /// To be returned when no queue takes it.
        mandatory: bool,
    },
    /// basic.get.
    BasicGet {
        /// The queue.
        queue: ShortStr<'a>,
        /// It counts as acknowledged when it is sent.
        no_ack: bool,
    },
    /// basic.ack, of one delivery.
    BasicAck {
        /// As delivered.
        delivery_tag: u64,
    },
    /// basic.nack, of one delivery: RabbitMQ's.
    BasicNack {
        /// As delivered.
        delivery_tag: u64,
        /// Back to its place in the queue; else it is dead.
        requeue: bool,
    },
    /// confirm.select.
    ConfirmSelect,
    /// tx.select.
    TxSelect,
    /// tx.commit.
    TxCommit,
    /// tx.rollback.
    TxRollback,
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
            Self::ExchangeDeclare { .. } => MethodId::EXCHANGE_DECLARE,
            Self::QueueDeclare { .. } => MethodId::QUEUE_DECLARE,
            Self::QueueDelete { .. } => MethodId::QUEUE_DELETE,
            Self::QueueBind { .. } => MethodId::QUEUE_BIND,
            Self::QueueUnbind { .. } => MethodId::QUEUE_UNBIND,
            Self::BasicQos { .. } => MethodId::BASIC_QOS,
            Self::BasicConsume { .. } => MethodId::BASIC_CONSUME,
            Self::BasicPublish { .. } => MethodId::BASIC_PUBLISH,
            Self::BasicGet { .. } => MethodId::BASIC_GET,
            Self::BasicAck { .. } => MethodId::BASIC_ACK,
            Self::BasicNack { .. } => MethodId::BASIC_NACK,
            Self::BasicCancel { .. } => MethodId::BASIC_CANCEL,
            Self::ConfirmSelect => MethodId::CONFIRM_SELECT,
            Self::TxSelect => MethodId::TX_SELECT,
            Self::TxCommit => MethodId::TX_COMMIT,
            Self::TxRollback => MethodId::TX_ROLLBACK,
        }
    }

    /// Bytes of its frame.
    pub fn encoded_len(&self) -> usize {
        let mut frame = Vec::new();
        self.encode(&mut frame, 0);
        frame.len()
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
            Self::ExchangeDeclare { exchange } => {
                reserved_ticket(out);
                exchange.encode(out);
                ShortStr::literal("direct").encode(out);
                out.push(bits([false, true, false, false])); // passive, durable, auto-delete, internal
                TableWriter::write(out, |_| ());
            }
            Self::QueueDeclare { queue, flags, arguments } => {
                reserved_ticket(out);
                queue.encode(out);
                out.push(bits([flags.passive, flags.durable, flags.exclusive, flags.auto_delete]));
                arguments.encode(out);
            }
            Self::QueueDelete { queue, if_unused, if_empty } => {
                reserved_ticket(out);
                queue.encode(out);
                out.push(bits([if_unused, if_empty, false, false])); // no-wait
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
                TableWriter::write(out, |t| {
                    // Or RabbitMQ before 4.0 tries a deleted queue again before it says basic.cancel, and may find a new one of
                    // that name.
                    t.bool("x-cancel-on-ha-failover", true);
                });
            }
            Self::BasicCancel { consumer_tag } => {
                consumer_tag.encode(out);
                out.push(0); // no-wait
            }
            Self::BasicPublish { exchange, routing_key, mandatory } => {
                reserved_ticket(out);
                exchange.encode(out);
                routing_key.encode(out);
                out.push(bits([mandatory, false, false, false])); // immediate
            }
            Self::BasicGet { queue, no_ack } => {
                reserved_ticket(out);
                queue.encode(out);
                out.push(bits([no_ack, false, false, false]));
            }
            Self::BasicAck { delivery_tag } => {
                out.extend_from_slice(&delivery_tag.to_be_bytes());
                out.push(0); // multiple
            }
            Self::BasicNack { delivery_tag, requeue } => {
                out.extend_from_slice(&delivery_tag.to_be_bytes());
                out.push(bits([false, requeue, false, false])); // multiple
            }
            Self::ConfirmSelect => out.push(0), // no-wait
            Self::CloseOk | Self::ChannelCloseOk | Self::TxSelect | Self::TxCommit | Self::TxRollback => {}
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

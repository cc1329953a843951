//! The methods that a broker sends to a client like us.

use super::{DecodeError, MethodId, Table};
use crate::wire::{Reader, Truncated};

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
    /// exchange.declare-ok.
    ExchangeDeclareOk,
    /// queue.declare-ok.
    QueueDeclareOk {
        /// How many messages wait in it.
        message_count: u32,
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
        /// As published; empty for the default one.
        exchange: &'a [u8],
        /// As published.
        routing_key: &'a [u8],
    },
    /// basic.return: a mandatory message that no queue took; content follows.
    BasicReturn {
        /// As published.
        routing_key: &'a [u8],
    },
    /// basic.get-ok; content follows.
    BasicGetOk {
        /// For the acknowledgement.
        delivery_tag: u64,
    },
    /// basic.get-empty.
    BasicGetEmpty,
    /// basic.ack: a publisher confirm, RabbitMQ's.
    BasicAck {
        /// The publish, counted from 1 since confirm.select.
        delivery_tag: u64,
        /// All up to it.
        multiple: bool,
    },
    /// basic.nack: the broker could not take a message, RabbitMQ's.
    BasicNack {
        /// The publish, counted as above.
        delivery_tag: u64,
        /// All up to it.
        multiple: bool,
    },
    /// confirm.select-ok.
    ConfirmSelectOk,
    /// basic.cancel-ok.
    BasicCancelOk,
    /// tx.select-ok.
    TxSelectOk,
    /// tx.commit-ok.
    TxCommitOk,
    /// tx.rollback-ok.
    TxRollbackOk,
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
            MethodId::EXCHANGE_DECLARE_OK => Self::ExchangeDeclareOk,
            MethodId::QUEUE_DECLARE_OK => {
                r.prefixed_u8()?; // queue
                Self::QueueDeclareOk { message_count: r.u32()?, consumer_count: r.u32()? }
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
                let (exchange, routing_key) = (r.prefixed_u8()?, r.prefixed_u8()?);
                Self::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key }
            }
            MethodId::BASIC_RETURN => {
                r.u16()?; // reply_code
                r.prefixed_u8()?; // reply_text
                r.prefixed_u8()?; // exchange
                Self::BasicReturn { routing_key: r.prefixed_u8()? }
            }
            MethodId::BASIC_GET_OK => Self::BasicGetOk { delivery_tag: r.u64()? },
            MethodId::BASIC_GET_EMPTY => Self::BasicGetEmpty,
            MethodId::BASIC_ACK => Self::BasicAck { delivery_tag: r.u64()?, multiple: r.u8()? & 1 == 1 },
            MethodId::BASIC_NACK => Self::BasicNack { delivery_tag: r.u64()?, multiple: r.u8()? & 1 == 1 },
            MethodId::CONFIRM_SELECT_OK => Self::ConfirmSelectOk,
            MethodId::BASIC_CANCEL_OK => Self::BasicCancelOk,
            MethodId::TX_SELECT_OK => Self::TxSelectOk,
            MethodId::TX_COMMIT_OK => Self::TxCommitOk,
            MethodId::TX_ROLLBACK_OK => Self::TxRollbackOk,
            _ => return Err(DecodeError::UnknownMethod),
        })
    }
}

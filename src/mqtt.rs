//! MQTT 3.1.1 (OASIS, 29 October 2014) and 3.1: the packets, decoded from a client and encoded to one.
//!
//! Borrowed in, appended out: decoding copies nothing, encoding appends to a `Vec`. A PUBLISH payload is never
//! collected: [`Decoder`] hands it on in the pieces in which it arrives.

mod decode;
pub mod encode;

pub use decode::{
    Connect, DecodeError, Decoder, Filters, Item, MAX_COLLECTED, Packet, PacketType, Publish, Subscribe,
    SubscribeEntries, Unsubscribe, Will,
};

use core::num::NonZeroU16;

/// Protocol versions a client may speak, as CONNECT's protocol name and level tell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1: name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: name `MQTT`, level 4.
    V311,
}

impl Version {
    /// As RabbitMQ's management UI shows it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::V31 => "MQTT 3.1",
            Self::V311 => "MQTT 3.1.1",
        }
    }
}

/// Quality of service, section 4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// 0: fire and forget.
    AtMostOnce = 0,
    /// 1: acknowledged, may be repeated.
    AtLeastOnce = 1,
    /// 2: acknowledged in two steps, never repeated.
    ExactlyOnce = 2,
}

impl QoS {
    /// The two bits of a header or a SUBSCRIBE; `None` for 3, which is reserved.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier, 1 to 65535. [MQTT-2.3.1-1]
pub type PacketId = NonZeroU16;

/// CONNACK return codes, table 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectReturnCode {
    /// 0: connection accepted.
    Accepted = 0,
    /// 1: the server does not speak this protocol level.
    UnacceptableProtocolVersion = 1,
    /// 2: the client identifier is correct UTF-8 but not allowed.
    IdentifierRejected = 2,
    /// 3: the MQTT service is unavailable.
    ServerUnavailable = 3,
    /// 4: the user name or password is malformed or wrong.
    BadUserNameOrPassword = 4,
    /// 5: the client is not authorized to connect.
    NotAuthorized = 5,
}

/// The largest remaining length a fixed header can carry, section 2.2.3.
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;

/// The longest topic name or filter, in bytes: what an AMQP 0-9-1 short string holds, since every topic becomes a key.
pub const MAX_TOPIC: usize = 255;

/// SUBACK's return code for a filter that is refused, section 3.9.3.
pub const SUBACK_FAILURE: u8 = 0x80;

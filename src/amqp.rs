//! AMQP 0-9-1, with RabbitMQ's extensions: the frames we send to a broker and read from it.
//!
//! Borrowed in, appended out, and cut-through like the MQTT side: [`Decoder`] hands a body on in the pieces in which it
//! arrives. Method names and numbers are those of the specification's XML and RabbitMQ's `amqp-rabbitmq-0.9.1.json`.

mod broker_method;
mod client_method;
mod content;
mod frame;
mod method;
mod table;

pub use broker_method::{BrokerMethod, Reason};
pub use client_method::{ClientMethod, DeadLetter, QueueArguments, QueueFlags};
pub use content::{
    Address, CLAIM, ContentHeader, MOMENT, MqttHeaders, PUBLISH_QOS, Properties, RETAINED, publish,
};
pub use frame::{Decoder, Item, body, body_capacity, heartbeat};
pub use method::MethodId;
pub use table::{Table, TableWriter, Value};

use core::fmt;

use crate::wire::Truncated;

/// What a client sends first, section 4.2.2.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The smallest `frame_max` a peer must accept, and the largest frame before tuning, in bytes: section 1.2, `frame-min-size`.
pub const FRAME_MIN_SIZE: u32 = 4096;

/// A frame's bytes beside its payload: type, channel, size and the end octet, section 2.3.5.
pub const FRAME_OVERHEAD: u32 = 8;

/// The largest method or content-header frame that is read, in bytes; of a larger content header only the body's size is.
///
/// It has to be whole before it can be read. A broker passes a message's header table on as its publisher sent it, whatever
/// `frame_max` we agreed on, so this is RabbitMQ's default `frame_max` and not ours.
pub const MAX_COLLECTED: u32 = 131_072;

/// Reply codes, section 1.2, and RabbitMQ's.
pub mod reply_code {
    /// The operation is done; how a connection is closed in good order.
    pub const REPLY_SUCCESS: u16 = 200;
    /// No permission; at login, bad credentials.
    pub const ACCESS_REFUSED: u16 = 403;
    /// The queue is another connection's own, or has a consumer that shares it with nobody.
    pub const RESOURCE_LOCKED: u16 = 405;
    /// There is no such queue or exchange.
    pub const NOT_FOUND: u16 = 404;
    /// Exists with other arguments, or a message is too large.
    pub const PRECONDITION_FAILED: u16 = 406;
    /// Not allowed here: at `connection.open`, the virtual host.
    pub const NOT_ALLOWED: u16 = 530;
}

/// At most 255 bytes, as AMQP's `shortstr` holds them, section 4.2.5.3. Any longer text cannot be one: nothing is ever cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortStr<'a>(&'a [u8]);

impl<'a> ShortStr<'a> {
    /// No bytes.
    pub const EMPTY: Self = Self(b"");

    /// `None` when `bytes` are more than 255.
    pub const fn new(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() <= u8::MAX as usize { Some(Self(bytes)) } else { None }
    }

    /// For names that stand in the source.
    ///
    /// # Panics
    /// When the literal is longer than 255 bytes; in a `const`, that is at compile time.
    #[expect(clippy::panic, reason = "evaluated at compile time for every caller")]
    pub(crate) const fn literal(text: &'static str) -> ShortStr<'static> {
        match ShortStr::new(text.as_bytes()) {
            Some(short) => short,
            None => panic!("longer than 255 bytes"),
        }
    }

    /// The bytes.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.push(self.0.len() as u8);
        out.extend_from_slice(self.0);
    }
}

/// Text of at most 255 bytes: a short string that is kept.
#[derive(Clone)]
pub struct ShortText(Box<str>);

impl ShortText {
    /// For names that stand in the source.
    ///
    /// # Panics
    /// When the literal is longer than 255 bytes.
    pub(crate) fn literal(text: &'static str) -> Self {
        ShortStr::literal(text);
        Self(text.into())
    }

    /// `None` when `text` is longer.
    pub fn new(text: &str) -> Option<Self> {
        ShortStr::new(text.as_bytes()).map(|_| Self(text.into()))
    }

    /// As the AMQP codec takes it.
    pub fn as_short(&self) -> ShortStr<'_> {
        ShortStr::new(self.0.as_bytes()).unwrap_or(ShortStr::EMPTY)
    }

    /// As text.
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a broker's bytes are not AMQP 0-9-1. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame type other than method, header, body and heartbeat.
    FrameType,
    /// A method frame larger than [`MAX_COLLECTED`].
    FrameTooLarge,
    /// A frame that does not end with 0xCE, section 2.3.5.2.
    FrameEnd,
    /// A method we know, with arguments that do not add up, or a malformed table.
    Arguments,
    /// A method that a broker does not send, or not to a client like us.
    UnknownMethod,
    /// A content header of another class than basic, or with a weight.
    ContentHeader,
}

impl From<Truncated> for DecodeError {
    fn from(Truncated: Truncated) -> Self {
        Self::Arguments
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FrameType => "unknown frame type",
            Self::FrameTooLarge => "method or header frame is too large",
            Self::FrameEnd => "frame end octet is missing",
            Self::Arguments => "arguments do not add up",
            Self::UnknownMethod => "unknown method",
            Self::ContentHeader => "content header is not of class basic",
        })
    }
}

//! Content headers of class basic, section 2.3.5.3 and `basic`'s properties.

use super::frame::{Kind, frame};
use super::{DecodeError, ShortStr, Table, TableWriter, Value};
use crate::wire::Reader;

const BASIC: u16 = 60;

/// A content header from the broker: the body's size and the properties we use.
#[derive(Clone, Copy)]
pub struct ContentHeader<'a> {
    /// Bytes of body that follow, over all body frames.
    pub body_size: u64,
    /// `delivery_mode` 2: the message survives a restart of the broker.
    pub persistent: bool,
    /// Its properties are small enough to be read, and are what they say.
    pub is_readable: bool,
    headers: Table<'a>,
}

/// Bytes of a content header's payload in front of its properties.
pub(super) const HEAD_LEN: usize = 14;

impl<'a> ContentHeader<'a> {
    pub(super) fn decode(mut r: Reader<'a>) -> Result<Self, DecodeError> {
        let unreadable = Self::unreadable(Reader::new(r.take(HEAD_LEN)?))?;
        Ok(Self::properties(r, unreadable.1, unreadable.0.body_size).unwrap_or(unreadable.0))
    }

    /// From its first [`HEAD_LEN`] bytes, with its flags. The properties are the publisher's, and cost the subscriber nothing.
    pub(super) fn unreadable(mut r: Reader<'_>) -> Result<(Self, u16), DecodeError> {
        let (class, weight, body_size, flags) = (r.u16()?, r.u16()?, r.u64()?, r.u16()?);
        // Bit 0 would announce a second word of flags, for properties that basic does not have. A publisher can set it all the
        // same: RabbitMQ 3.10 reads no such word and passes the header on as it came.
        if class != BASIC || weight != 0 {
            return Err(DecodeError::ContentHeader);
        }
        Ok((Self { body_size, persistent: false, is_readable: false, headers: Table::EMPTY }, flags))
    }

    fn properties(mut r: Reader<'a>, flags: u16, body_size: u64) -> Result<Self, DecodeError> {
        let has = |bit: u16| flags >> bit & 1 == 1;
        if has(15) {
            r.prefixed_u8()?; // content_type
        }
        if has(14) {
            r.prefixed_u8()?; // content_encoding
        }
        let headers = if has(13) { Table::new(r.prefixed_u32()?) } else { Table::EMPTY };
        let persistent = has(12) && r.u8()? == 2;
        // Nothing that follows delivery_mode is used.
        Ok(Self { body_size, persistent, is_readable: true, headers })
    }

    /// The header `key` as an integer; `None` when it is absent, of another type, or the table is malformed.
    ///
    /// The table is whatever the publisher made it, so a bad one must not cost the subscriber its connection.
    pub fn integer(&self, key: &[u8]) -> Option<i64> {
        match self.headers.find(key) {
            Ok(Some(Value::Int(n))) => Some(n),
            Ok(_) | Err(_) => None,
        }
    }

    /// The header `key` as text; `None` as above.
    pub fn text(&self, key: &[u8]) -> Option<&'a [u8]> {
        match self.headers.find(key) {
            Ok(Some(Value::Bytes(text))) => Some(text),
            Ok(_) | Err(_) => None,
        }
    }
}

/// Properties of a message we publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    /// `delivery_mode` 2 rather than 1.
    pub persistent: bool,
    /// Headers for MQTT plugins of the broker's own.
    pub mqtt_headers: Option<MqttHeaders>,
    /// Header [`RETAINED`].
    pub retained: Option<&'a [u8]>,
    /// Header [`MOMENT`].
    pub moment: Option<i64>,
    /// Header `CC`: a second routing key.
    pub cc: Option<&'a [u8]>,
    /// Header [`CLAIM`].
    pub claim: Option<&'a [u8]>,
    /// `priority`, among those of a queue that knows them.
    pub priority: Option<u8>,
    /// `expiration` 0: dead unless it is delivered at once.
    pub expires_at_once: bool,
}

/// What RabbitMQ's MQTT plugin before 3.13 says of an MQTT message in its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MqttHeaders {
    /// `x-mqtt-publish-qos`.
    pub publish_qos: i8,
    /// `x-mqtt-dup`.
    pub dup: bool,
}

/// The header with a message's QoS: rabbit_mqtt_processor of 3.10 writes it, and reads it on delivery.
pub const PUBLISH_QOS: &str = "x-mqtt-publish-qos";

/// The header of a retained message on its way to a new subscriber: its topic, as a routing key. Empty on a message that is sent to
/// all and also kept.
pub const RETAINED: &str = "x-leveret-retained";

/// The header by which a connection knows its own claim to a client id from another's.
pub const CLAIM: &str = "x-leveret-claim";

/// The header of a retained message on its way to a new subscriber, beside its topic: when it was read, as the connection that reads it
/// counts.
pub const MOMENT: &str = "x-leveret-moment";

impl Properties<'_> {
    /// Appends a content-header frame for a body of `body_size` bytes.
    pub fn encode(self, out: &mut Vec<u8>, channel: u16, body_size: u64) {
        let Self { persistent, mqtt_headers, retained, moment, cc, claim, priority, expires_at_once } = self;
        let has_headers = mqtt_headers.is_some() || retained.is_some() || cc.is_some() || claim.is_some();
        let flags = 1_u16 << 12
            | u16::from(has_headers) << 13
            | u16::from(priority.is_some()) << 11
            | u16::from(expires_at_once) << 8;
        frame(out, Kind::Header, channel, |out| {
            out.extend_from_slice(&BASIC.to_be_bytes());
            out.extend_from_slice(&0_u16.to_be_bytes());
            out.extend_from_slice(&body_size.to_be_bytes());
            out.extend_from_slice(&flags.to_be_bytes());
            if has_headers {
                TableWriter::write(out, |t| {
                    if let Some(MqttHeaders { publish_qos, dup }) = mqtt_headers {
                        t.byte(PUBLISH_QOS, publish_qos).bool("x-mqtt-dup", dup);
                    }
                    if let Some(routing_key) = retained {
                        t.string(RETAINED, routing_key);
                    }
                    if let Some(moment) = moment {
                        t.long(MOMENT, moment);
                    }
                    if let Some(routing_key) = cc {
                        t.array("CC", routing_key);
                    }
                    if let Some(mark) = claim {
                        t.string(CLAIM, mark);
                    }
                });
            }
            out.push(if persistent { 2 } else { 1 });
            out.extend(priority);
            if expires_at_once {
                ShortStr::literal("0").encode(out);
            }
        });
    }
}

/// Where a message that we publish goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The exchange.
    pub exchange: ShortStr<'a>,
    /// The routing key.
    pub routing_key: ShortStr<'a>,
    /// To be returned when no queue takes it.
    pub mandatory: bool,
}

impl<'a> Address<'a> {
    /// A queue, through the default exchange.
    pub const fn queue(name: ShortStr<'a>) -> Self {
        Self { exchange: ShortStr::EMPTY, routing_key: name, mandatory: false }
    }
}

/// Appends basic.publish and its content header; `body_size` bytes of body are to follow in body frames.
pub fn publish(out: &mut Vec<u8>, channel: u16, to: Address<'_>, properties: Properties<'_>, body_size: u64) {
    let Address { exchange, routing_key, mandatory } = to;
    super::ClientMethod::BasicPublish { exchange, routing_key, mandatory }.encode(out, channel);
    properties.encode(out, channel, body_size);
}

//! Packets from a client: framing, flags, fields, and every MUST that can be judged from one packet alone.

use core::fmt;

use super::{MAX_TOPIC, PacketId, QoS, Version};
use crate::wire::{Reader, Truncated};

/// The most bytes of a packet that has to be whole before it can be read (all but a PUBLISH after login).
///
/// 256 KiB is a SUBSCRIBE of a thousand filters at the longest; without it, a client could make the filter hold a packet of
/// the full `max_packet_size_authenticated`.
pub const MAX_COLLECTED: u32 = 256 * 1024;

/// Cuts a client's byte stream into packets.
///
/// How the stream is split into calls never changes what comes out: [`Decoder::next`] takes a packet off the front of its input
/// when the packet (of a PUBLISH: its head) is whole, and nothing otherwise.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// Told by CONNECT; decides what 3.1 allows and 3.1.1 does not.
    version: Version,
    /// The largest packet accepted, fixed header included, in bytes.
    max_packet: u32,
    /// Payload bytes of the current PUBLISH that have not been handed on.
    payload_left: u32,
}

/// What [`Decoder::next`] found.
pub enum Item<'a> {
    /// A packet; of a PUBLISH, its head.
    Packet(Packet<'a>),
    /// A piece, never empty, of the payload of the PUBLISH whose head came last.
    Payload {
        /// The piece.
        bytes: &'a [u8],
        /// Whether it ends the payload.
        last: bool,
    },
}

/// What a packet is, as far as its first byte tells and its order matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// Section 3.3.
    Publish {
        /// Whether it is to be retained.
        retain: bool,
    },
    /// Section 3.8.
    Subscribe,
    /// Section 3.10.
    Unsubscribe,
    /// Section 3.14.
    Disconnect,
    /// Any other, or none.
    Other,
}

/// A packet that a client may send. No `Debug`: CONNECT holds a password.
pub enum Packet<'a> {
    /// Section 3.1.
    Connect(Connect<'a>),
    /// Section 3.3.
    Publish(Publish<'a>),
    /// Section 3.4.
    Puback(PacketId),
    /// Section 3.5.
    Pubrec(PacketId),
    /// Section 3.6.
    Pubrel(PacketId),
    /// Section 3.7.
    Pubcomp(PacketId),
    /// Section 3.8.
    Subscribe(Subscribe<'a>),
    /// Section 3.10.
    Unsubscribe(Unsubscribe<'a>),
    /// Section 3.12.
    Pingreq,
    /// Section 3.14.
    Disconnect,
}

/// CONNECT, section 3.1. No `Debug`: it holds a password.
pub struct Connect<'a> {
    /// From protocol name and level.
    pub version: Version,
    /// Section 3.1.2.4.
    pub clean_session: bool,
    /// Seconds; 0 is off. Section 3.1.2.10.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: &'a str,
    /// Section 3.1.2.5.
    pub will: Option<Will<'a>>,
    /// Section 3.1.3.4.
    pub username: Option<&'a str>,
    /// Section 3.1.3.5.
    pub password: Option<&'a [u8]>,
}

/// The will of a CONNECT.
pub struct Will<'a> {
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// A valid topic name.
    pub topic: &'a str,
    /// At most 65,535 bytes.
    pub payload: &'a [u8],
}

/// The head of a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The client has sent it before.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// `Some` exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Whether it is to be retained.
    pub retain: bool,
    /// A valid topic name of at most [`MAX_TOPIC`] bytes.
    pub topic: &'a str,
    /// How many bytes of payload follow.
    pub payload_len: u32,
}

/// SUBSCRIBE, section 3.8.
pub struct Subscribe<'a> {
    /// To be repeated in the SUBACK.
    pub packet_id: PacketId,
    /// At least one.
    pub entries: SubscribeEntries<'a>,
}

/// UNSUBSCRIBE, section 3.10.
pub struct Unsubscribe<'a> {
    /// To be repeated in the UNSUBACK.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: Filters<'a>,
}

/// The entries of a SUBSCRIBE, checked when the packet was decoded.
#[derive(Clone)]
pub struct SubscribeEntries<'a>(Reader<'a>);

/// The filters of an UNSUBSCRIBE, checked when the packet was decoded.
#[derive(Clone)]
pub struct Filters<'a>(Reader<'a>);

/// Why a client's bytes are not a packet it may send. Each ends the connection. [MQTT-4.8.0-1]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// A packet type that is reserved or that only a server sends, section 2.2.1.
    PacketType,
    /// Fixed-header flags other than table 2.2 asks for. [MQTT-2.2.2-2]
    Flags,
    /// More than four bytes of remaining length, section 2.2.3.
    RemainingLength,
    /// Fields that do not add up to the remaining length.
    Length,
    /// QoS 3. [MQTT-3.3.1-4] [MQTT-3.8.3-4] [MQTT-3.1.2-14]
    QoS,
    /// DUP at QoS 0. [MQTT-3.3.1-2]
    Dup,
    /// Packet identifier 0. [MQTT-2.3.1-1]
    PacketId,
    /// Ill-formed UTF-8, U+0000 or a non-character. [MQTT-1.5.3-1] [MQTT-1.5.3-2]
    Utf8,
    /// A topic name that is empty or holds a wildcard. [MQTT-4.7.3-1] [MQTT-3.3.2-2]
    TopicName,
    /// A topic name longer than [`MAX_TOPIC`].
    TopicTooLong,
    /// A SUBSCRIBE or UNSUBSCRIBE without a filter, or with an empty one. [MQTT-3.8.3-3] [MQTT-3.10.3-2] [MQTT-4.7.3-1]
    NoFilter,
    /// CONNECT names another protocol. [MQTT-3.1.2-1]
    ProtocolName,
    /// CONNECT names a level we do not speak; to be answered with return code 1. [MQTT-3.1.2-2]
    ProtocolLevel,
    /// CONNECT's reserved flag is set. [MQTT-3.1.2-3]
    ReservedFlag,
    /// Will QoS or will retain without a will. [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT-3.1.2-15]
    WillFlags,
    /// A password without a user name. [MQTT-3.1.2-22]
    PasswordWithoutUsername,
    /// Larger than the limit in force.
    PacketTooLarge,
}

impl Decoder {
    /// Before CONNECT: packets of at most `max_packet` bytes, fixed header included.
    pub const fn new(max_packet: u32) -> Self {
        Self { version: Version::V311, max_packet, payload_left: 0 }
    }

    /// Whether a PUBLISH is under way whose payload has not all been handed on.
    pub const fn is_in_payload(&self) -> bool {
        self.payload_left > 0
    }

    /// After a CONNECT that is accepted.
    pub const fn set_version(&mut self, version: Version, max_packet: u32) {
        self.version = version;
        self.max_packet = max_packet;
    }

    /// What the packet is that `input` starts with, as soon as its first byte is there; `None` within a payload.
    pub fn next_type(&self, input: &[u8]) -> Option<PacketType> {
        let first = input.first().filter(|_| !self.is_in_payload())?;
        Some(match first >> 4 {
            PUBLISH => PacketType::Publish { retain: first & 1 != 0 },
            SUBSCRIBE => PacketType::Subscribe,
            UNSUBSCRIBE => PacketType::Unsubscribe,
            DISCONNECT => PacketType::Disconnect,
            _ => PacketType::Other,
        })
    }

    /// Takes the next item off the front of `input`; `None` when more bytes are needed.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, DecodeError> {
        if self.payload_left > 0 {
            return Ok(self.payload(input));
        }
        let mut reader = Reader::new(input);
        let Some(header) = FixedHeader::decode(&mut reader, self.version)? else { return Ok(None) };
        let header_len = input.len() - reader.rest().len();
        if u64::from(header.remaining_length) + header_len as u64 > u64::from(self.max_packet) {
            return Err(DecodeError::PacketTooLarge);
        }
        let packet = if header.packet_type == PUBLISH {
            match publish_head(&mut reader, &header)? {
                Some(publish) => {
                    self.payload_left = publish.payload_len;
                    Packet::Publish(publish)
                }
                None => return Ok(None),
            }
        } else {
            if header.remaining_length > MAX_COLLECTED {
                return Err(DecodeError::PacketTooLarge);
            }
            let Ok(body) = reader.take(header.remaining_length as usize) else { return Ok(None) };
            whole(&header, Reader::new(body))?
        };
        *input = reader.rest();
        Ok(Some(Item::Packet(packet)))
    }

    fn payload<'a>(&mut self, input: &mut &'a [u8]) -> Option<Item<'a>> {
        let n = input.len().min(self.payload_left as usize);
        let (bytes, rest) = input.split_at_checked(n).filter(|_| n > 0)?;
        *input = rest;
        self.payload_left -= n as u32;
        Some(Item::Payload { bytes, last: self.payload_left == 0 })
    }
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

struct FixedHeader {
    packet_type: u8,
    flags: u8,
    remaining_length: u32,
}

impl FixedHeader {
    fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Option<Self>, DecodeError> {
        let Ok(first) = reader.u8() else { return Ok(None) };
        let (packet_type, flags) = (first >> 4, first & 0x0f);
        check_flags(packet_type, flags, version)?;
        let mut remaining_length = 0;
        for shift in [0, 7, 14, 21] {
            let Ok(byte) = reader.u8() else { return Ok(None) };
            remaining_length |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(Self { packet_type, flags, remaining_length }));
            }
        }
        Err(DecodeError::RemainingLength)
    }
}

/// Table 2.2, judged on the first byte so that garbage is refused at once.
fn check_flags(packet_type: u8, flags: u8, version: Version) -> Result<(), DecodeError> {
    // MQTT 3.1 says of most flags that they are not used, and of no flag that it must be 0: of the last three, only the QoS counts, and
    // DUP is set when they are sent again.
    let (expected, unused) = match packet_type {
        // It is the protocol's version that decides, and that is behind them.
        PUBLISH | CONNECT => return Ok(()),
        PUBACK | PUBREC | PUBCOMP | PINGREQ | DISCONNECT => (0, 0b1111),
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => (0b0010, 0b1001),
        _ => return Err(DecodeError::PacketType),
    };
    let ignored = if version == Version::V31 { unused } else { 0 };
    if flags & !ignored == expected { Ok(()) } else { Err(DecodeError::Flags) }
}

/// Reads a PUBLISH up to its payload, or nothing when the head is not all there.
fn publish_head<'a>(
    reader: &mut Reader<'a>,
    header: &FixedHeader,
) -> Result<Option<Publish<'a>>, DecodeError> {
    let qos = QoS::from_bits(header.flags >> 1 & 0b11).ok_or(DecodeError::QoS)?;
    let dup = header.flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(DecodeError::Dup);
    }
    let mut ahead = *reader;
    let Ok(topic_len) = ahead.u16() else {
        return if header.remaining_length < 2 { Err(DecodeError::Length) } else { Ok(None) };
    };
    let head_len = 2 + u32::from(topic_len) + if qos == QoS::AtMostOnce { 0 } else { 2 };
    let payload_len = header.remaining_length.checked_sub(head_len).ok_or(DecodeError::Length)?;
    if usize::from(topic_len) > MAX_TOPIC {
        return Err(DecodeError::TopicTooLong);
    }
    let Ok(head) = reader.take(head_len as usize) else { return Ok(None) };
    let mut head = Reader::new(head);
    let topic = topic_name(&mut head)?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(packet_id(&mut head)?) };
    Ok(Some(Publish { dup, qos, packet_id, retain: header.flags & 1 != 0, topic, payload_len }))
}

/// Reads a packet of which all bytes are there.
fn whole<'a>(header: &FixedHeader, mut body: Reader<'a>) -> Result<Packet<'a>, DecodeError> {
    let packet = match header.packet_type {
        CONNECT => {
            let connect = connect(&mut body)?;
            // [MQTT-2.2.2-2]
            if header.flags != 0 && connect.version == Version::V311 {
                return Err(DecodeError::Flags);
            }
            Packet::Connect(connect)
        }
        PUBACK => Packet::Puback(packet_id(&mut body)?),
        PUBREC => Packet::Pubrec(packet_id(&mut body)?),
        PUBREL => Packet::Pubrel(packet_id(&mut body)?),
        PUBCOMP => Packet::Pubcomp(packet_id(&mut body)?),
        SUBSCRIBE => Packet::Subscribe(subscribe(&mut body)?),
        UNSUBSCRIBE => Packet::Unsubscribe(unsubscribe(&mut body)?),
        PINGREQ => Packet::Pingreq,
        DISCONNECT => Packet::Disconnect,
        _ => return Err(DecodeError::PacketType),
    };
    if body.is_empty() { Ok(packet) } else { Err(DecodeError::Length) }
}

fn connect<'a>(body: &mut Reader<'a>) -> Result<Connect<'a>, DecodeError> {
    let name = body.prefixed_u16()?;
    let level = body.u8()?;
    let version = match (name, level) {
        (b"MQTT", 4) => Version::V311,
        (b"MQIsdp", 3) => Version::V31,
        (b"MQTT" | b"MQIsdp", _) => return Err(DecodeError::ProtocolLevel),
        _ => return Err(DecodeError::ProtocolName),
    };
    let flags = body.u8()?;
    let flag = |bit: u8| flags >> bit & 1 == 1;
    // MQTT 3.1 leaves this bit unused and asks nothing of it.
    if flag(0) && version == Version::V311 {
        return Err(DecodeError::ReservedFlag);
    }
    if flag(6) && !flag(7) && version == Version::V311 {
        return Err(DecodeError::PasswordWithoutUsername);
    }
    let will_qos = QoS::from_bits(flags >> 3 & 0b11).ok_or(DecodeError::QoS)?;
    if !flag(2) && (flag(5) || will_qos != QoS::AtMostOnce) {
        return Err(DecodeError::WillFlags);
    }
    Ok(Connect {
        version,
        clean_session: flag(1),
        keep_alive: body.u16()?,
        client_id: utf8_string(body)?,
        will: match flag(2) {
            true => Some(Will {
                qos: will_qos,
                retain: flag(5),
                topic: topic_name(body)?,
                payload: body.prefixed_u16()?,
            }),
            false => None,
        },
        username: if flag(7) { Some(utf8_string(body)?) } else { None },
        password: if flag(6) { Some(body.prefixed_u16()?) } else { None },
    })
}

fn subscribe<'a>(body: &mut Reader<'a>) -> Result<Subscribe<'a>, DecodeError> {
    let packet_id = packet_id(body)?;
    let entries = SubscribeEntries(*body);
    if body.is_empty() {
        return Err(DecodeError::NoFilter);
    }
    while !body.is_empty() {
        topic_filter(body)?;
        QoS::from_bits(body.u8()?).ok_or(DecodeError::QoS)?;
    }
    Ok(Subscribe { packet_id, entries })
}

fn unsubscribe<'a>(body: &mut Reader<'a>) -> Result<Unsubscribe<'a>, DecodeError> {
    let packet_id = packet_id(body)?;
    let filters = Filters(*body);
    if body.is_empty() {
        return Err(DecodeError::NoFilter);
    }
    while !body.is_empty() {
        topic_filter(body)?;
    }
    Ok(Unsubscribe { packet_id, filters })
}

impl<'a> SubscribeEntries<'a> {
    /// Those that are left, as they are encoded.
    pub const fn encoded(&self) -> &'a [u8] {
        self.0.rest()
    }

    /// Entries by what [`SubscribeEntries::encoded`] gave.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes))
    }
}

impl<'a> Filters<'a> {
    /// Those that are left, as they are encoded.
    pub const fn encoded(&self) -> &'a [u8] {
        self.0.rest()
    }

    /// Filters by what [`Filters::encoded`] gave.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes))
    }
}

impl<'a> Iterator for SubscribeEntries<'a> {
    type Item = (&'a str, QoS);

    fn next(&mut self) -> Option<Self::Item> {
        let filter = utf8_string(&mut self.0).ok()?;
        Some((filter, QoS::from_bits(self.0.u8().ok()?)?))
    }
}

impl<'a> Iterator for Filters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        utf8_string(&mut self.0).ok()
    }
}

/// Where its wildcards stand is for SUBACK to say. [MQTT-4.7.3-1]
fn topic_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = utf8_string(reader)?;
    if filter.is_empty() { Err(DecodeError::NoFilter) } else { Ok(filter) }
}

fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, DecodeError> {
    PacketId::new(reader.u16()?).ok_or(DecodeError::PacketId)
}

/// Section 1.5.3. A string may hold U+FEFF anywhere. [MQTT-1.5.3-3]
fn utf8_string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let bytes = reader.prefixed_u16()?;
    let text = core::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)?;
    if bytes.is_ascii() {
        return if bytes.contains(&0) { Err(DecodeError::Utf8) } else { Ok(text) };
    }
    if text.chars().any(|c| c == '\0' || is_noncharacter(c)) { Err(DecodeError::Utf8) } else { Ok(text) }
}

/// Unicode's 66 non-characters, for which section 1.5.3 says that a receiver MAY close the connection.
const fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || c as u32 & 0xfffe == 0xfffe
}

fn topic_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let topic = utf8_string(reader)?;
    if topic.is_empty() || topic.bytes().any(|b| matches!(b, b'+' | b'#')) {
        return Err(DecodeError::TopicName);
    }
    if topic.len() > MAX_TOPIC {
        return Err(DecodeError::TopicTooLong);
    }
    Ok(topic)
}

impl From<Truncated> for DecodeError {
    /// The remaining length said that the fields end before they do.
    fn from(Truncated: Truncated) -> Self {
        Self::Length
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PacketType => "packet type is reserved or a server's",
            Self::Flags => "fixed-header flags",
            Self::RemainingLength => "remaining length is longer than four bytes",
            Self::Length => "fields do not add up to the remaining length",
            Self::QoS => "QoS 3",
            Self::Dup => "DUP at QoS 0",
            Self::PacketId => "packet identifier 0",
            Self::Utf8 => "string is not UTF-8, or holds U+0000 or a non-character",
            Self::TopicName => "topic name is empty or holds a wildcard",
            Self::TopicTooLong => "topic name is longer than 255 bytes",
            Self::NoFilter => "no topic filter, or an empty one",
            Self::ProtocolName => "protocol name is not MQTT's",
            Self::ProtocolLevel => "protocol level is neither 3.1 nor 3.1.1",
            Self::ReservedFlag => "CONNECT's reserved flag is set",
            Self::WillFlags => "will QoS or will retain without a will",
            Self::PasswordWithoutUsername => "password without user name",
            Self::PacketTooLarge => "packet is larger than the limit",
        })
    }
}

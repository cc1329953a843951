//! Frames, section 2.3.5: `type channel size payload end`.

use super::content;
use super::{BrokerMethod, ContentHeader, DecodeError, FRAME_OVERHEAD, MAX_COLLECTED};
use crate::wire::{Reader, prefix_u32};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;
const HEAD_LEN: usize = 7;

/// Cuts a broker's byte stream into frames.
///
/// Like its MQTT sister, it takes a whole item off the front of its input or nothing at all, so that how the stream is split
/// into calls never changes what comes out.
#[derive(Default)]
pub struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Between,
    /// `left` > 0 bytes of a body frame are still to come.
    Body { channel: u16, left: u32 },
    /// A body frame's end octet is still to come.
    BodyEnd,
    /// So many bytes are still to come of a header that is too large to be looked at.
    Skipping { left: u32 },
}

/// What [`Decoder::next`] found.
pub enum Item<'a> {
    /// The broker answers with a protocol header: it speaks another version, or the bytes are our own, sent back.
    ProtocolHeader,
    /// A method frame.
    Method {
        /// 0 for the connection class.
        channel: u16,
        /// Its method and arguments.
        method: BrokerMethod<'a>,
    },
    /// A content-header frame.
    Header {
        /// Its channel.
        channel: u16,
        /// Body size and the properties we use; of one larger than [`super::MAX_COLLECTED`], which are passed over, the body size.
        header: ContentHeader<'a>,
    },
    /// A piece, never empty, of a body frame's payload.
    Body {
        /// Its channel.
        channel: u16,
        /// The piece.
        bytes: &'a [u8],
    },
    /// A heartbeat frame.
    Heartbeat,
}

impl Decoder {
    /// Takes the next item off the front of `input`; `None` when more bytes are needed.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, DecodeError> {
        loop {
            match self.state {
                State::Between => {
                    let mut reader = Reader::new(input);
                    let Some(found) = frame_at(&mut reader)? else { return Ok(None) };
                    *input = reader.rest();
                    match found {
                        Found::Item(item) => return Ok(Some(item)),
                        Found::TooLarge { channel, header, left } => {
                            self.state = State::Skipping { left };
                            return Ok(Some(Item::Header { channel, header }));
                        }
                        Found::BodyStarts { size: 0, .. } => self.state = State::BodyEnd,
                        Found::BodyStarts { channel, size } => {
                            self.state = State::Body { channel, left: size }
                        }
                    }
                }
                State::Body { channel, left } => {
                    let n = input.len().min(left as usize);
                    let Some((bytes, rest)) = input.split_at_checked(n).filter(|_| n > 0) else {
                        return Ok(None);
                    };
                    *input = rest;
                    let left = left - n as u32;
                    self.state = if left == 0 { State::BodyEnd } else { State::Body { channel, left } };
                    return Ok(Some(Item::Body { channel, bytes }));
                }
                State::Skipping { left: 0 } => self.state = State::BodyEnd,
                State::Skipping { left } => {
                    let n = input.len().min(left as usize);
                    let Some((_, rest)) = input.split_at_checked(n).filter(|_| n > 0) else {
                        return Ok(None);
                    };
                    *input = rest;
                    self.state = State::Skipping { left: left - n as u32 };
                }
                State::BodyEnd => {
                    let Some((&end, rest)) = input.split_first() else { return Ok(None) };
                    if end != END {
                        return Err(DecodeError::FrameEnd);
                    }
                    *input = rest;
                    self.state = State::Between;
                }
            }
        }
    }
}

/// What stands at the start of a frame.
enum Found<'a> {
    Item(Item<'a>),
    BodyStarts {
        channel: u16,
        size: u32,
    },
    /// Of a header: all but its properties, of which so many bytes follow.
    TooLarge {
        channel: u16,
        header: ContentHeader<'a>,
        left: u32,
    },
}

fn frame_at<'a>(reader: &mut Reader<'a>) -> Result<Option<Found<'a>>, DecodeError> {
    let Some(&frame_type) = reader.rest().first() else { return Ok(None) };
    if frame_type == b'A' {
        return Ok(reader.take(8).ok().map(|_| Found::Item(Item::ProtocolHeader)));
    }
    if !matches!(frame_type, METHOD | HEADER | BODY | HEARTBEAT) {
        return Err(DecodeError::FrameType);
    }
    let Ok(head) = reader.take(HEAD_LEN) else { return Ok(None) };
    let mut head = Reader::new(head);
    let (_, channel, size) = (head.u8()?, head.u16()?, head.u32()?);
    if frame_type == BODY {
        return Ok(Some(Found::BodyStarts { channel, size }));
    }
    if size > MAX_COLLECTED - FRAME_OVERHEAD && frame_type == HEADER {
        let Ok(head) = reader.take(content::HEAD_LEN) else { return Ok(None) };
        let (header, _) = ContentHeader::unreadable(Reader::new(head))?;
        return Ok(Some(Found::TooLarge { channel, header, left: size - content::HEAD_LEN as u32 }));
    }
    if size > MAX_COLLECTED - FRAME_OVERHEAD {
        return Err(DecodeError::FrameTooLarge);
    }
    let Ok(payload) = reader.take(size as usize) else { return Ok(None) };
    let Ok(end) = reader.u8() else { return Ok(None) };
    if end != END {
        return Err(DecodeError::FrameEnd);
    }
    let payload = Reader::new(payload);
    Ok(Some(Found::Item(match frame_type {
        METHOD => Item::Method { channel, method: BrokerMethod::decode(payload)? },
        HEADER => Item::Header { channel, header: ContentHeader::decode(payload)? },
        _ => Item::Heartbeat,
    })))
}

/// Appends a method or header frame around what `payload` writes.
pub(super) fn frame(out: &mut Vec<u8>, kind: Kind, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind as u8);
    out.extend_from_slice(&channel.to_be_bytes());
    prefix_u32(out, payload);
    out.push(END);
}

/// The kinds of frame that [`frame`] makes.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    Method = METHOD,
    Header = HEADER,
}

/// Payload bytes that fit a body frame of a connection tuned to `frame_max`.
pub const fn body_capacity(frame_max: u32) -> usize {
    frame_max.saturating_sub(FRAME_OVERHEAD) as usize
}

/// Appends `bytes` in as many body frames of at most `frame_max` bytes as it takes: none for no bytes.
pub fn body(out: &mut Vec<u8>, channel: u16, frame_max: u32, bytes: &[u8]) {
    for piece in bytes.chunks(body_capacity(frame_max).max(1)) {
        out.reserve(piece.len() + FRAME_OVERHEAD as usize);
        out.push(BODY);
        out.extend_from_slice(&channel.to_be_bytes());
        out.extend_from_slice(&(piece.len() as u32).to_be_bytes());
        out.extend_from_slice(piece);
        out.push(END);
    }
}

/// Appends a heartbeat frame, section 4.2.7.
pub fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[HEARTBEAT, 0, 0, 0, 0, 0, 0, END]);
}

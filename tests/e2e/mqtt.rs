//! An MQTT client that writes what it is told, right or wrong, and reads packet by packet.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::SockRef;
use support::tls::{self, Authority, Identity};

use crate::world::PATIENCE;

/// The client's end of a connection.
pub(crate) struct Client<S = TcpStream>(pub(crate) S);

/// What is only TCP's.
impl Client {
    /// A TCP connection on which nothing was said.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Says CONNECT and hears that it is accepted.
    pub(crate) fn login(address: SocketAddr, client_id: &str) -> Result<Self> {
        Self::login_as(address, &Connect { client_id, ..Connect::default() })
    }

    /// The same with everything to be chosen.
    pub(crate) fn login_as(address: SocketAddr, connect: &Connect<'_>) -> Result<Self> {
        Self::connect(address)?.admitted(connect)
    }

    /// Says CONNECT for a session that is kept, and hears whether it was there before.
    pub(crate) fn resume(address: SocketAddr, client_id: &str) -> Result<(Self, bool)> {
        let mut client = Self::connect(address)?;
        client.send(&Connect { client_id, clean: false, ..Connect::default() }.bytes())?;
        match *client.packet()? {
            [0x20, 2, present @ 0..=1, 0] => Ok((client, present == 1)),
            ref other => bail!("no CONNACK 0: {other:02x?}"),
        }
    }

    /// Ends the connection in good order as TCP has it, but without DISCONNECT.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.0.shutdown(Shutdown::Write)?)
    }

    /// Breaks the connection off: the other side sees RST.
    pub(crate) fn reset(self) -> Result<()> {
        Ok(SockRef::from(&self.0).set_linger(Some(Duration::ZERO))?)
    }

    /// Takes what has come so far, and says whether the other side has ended the connection.
    pub(crate) fn has_ended(&mut self, heard: &mut Vec<u8>) -> Result<bool> {
        self.0.set_nonblocking(true)?;
        let end = self.0.read_to_end(heard);
        self.0.set_nonblocking(false)?;
        Ok(!matches!(end, Err(error) if error.kind() == ErrorKind::WouldBlock))
    }
}

/// TLS.
impl Client<tls::Stream> {
    /// A TLS connection on which nothing was said, to a server of this name.
    pub(crate) fn connect_tls(
        address: SocketAddr,
        name: &str,
        authority: &Authority,
        certificate: Option<&Identity>,
    ) -> Result<Self> {
        let stream = tls::connect(address, name, authority, certificate)?;
        stream.sock.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }
}

impl<S: Read + Write> Client<S> {
    /// Says this CONNECT and hears that it is accepted.
    pub(crate) fn admitted(mut self, connect: &Connect<'_>) -> Result<Self> {
        self.send(&connect.bytes())?;
        self.hears(ACCEPTED)?;
        Ok(self)
    }

    /// Writes bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes)?)
    }

    /// Subscribes at a QoS and is granted it.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        self.send(&subscribe(&[(filter, qos)]))?;
        self.hears(&[0x90, 3, 0, 1, qos])
    }

    /// Unsubscribes.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> Result<()> {
        self.send(&packet(0xa2, &[&[0, 2], &text(filter)[..]].concat()))?;
        self.hears(&[0xb0, 2, 0, 2])
    }

    /// Publishes at QoS 0.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.send(&packet(0x30, &[&text(topic), payload].concat()))
    }

    /// Publishes at QoS 1 and hears PUBACK and nothing else before.
    pub(crate) fn publish_safely(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.send(&publish(0x32, topic, 1, payload))?;
        self.hears(PUBACK)
    }

    /// The next packet is a message. It is not acknowledged.
    pub(crate) fn message(&mut self) -> Result<Message> {
        Message::read(&self.packet()?)
    }

    /// The next packet is a message. It is acknowledged if that is its sender's wish.
    pub(crate) fn receive(&mut self) -> Result<Message> {
        let message = self.message()?;
        self.acknowledge(&message)?;
        Ok(message)
    }

    /// Says PUBACK, if the message is one at QoS 1.
    pub(crate) fn acknowledge(&mut self, message: &Message) -> Result<()> {
        if message.qos == 0 { Ok(()) } else { self.send(&puback(message.id)) }
    }

    /// Says PINGREQ and hears PINGRESP and nothing else before.
    pub(crate) fn ping(&mut self) -> Result<()> {
        self.send(&[0xc0, 0])?;
        self.hears(&[0xd0, 0])
    }

    /// Checks that this is the next packet.
    pub(crate) fn hears(&mut self, expected: &[u8]) -> Result<()> {
        let packet = self.packet()?;
        ensure!(packet == expected, "expected {expected:02x?}, heard {packet:02x?}");
        Ok(())
    }

    /// The next packet, whole.
    pub(crate) fn packet(&mut self) -> Result<Vec<u8>> {
        let mut packet = self.head()?;
        let head = packet.len();
        packet.resize(head + remaining_length(&packet), 0);
        self.0.read_exact(&mut packet[head..])?;
        Ok(packet)
    }

    /// The next packet's fixed header.
    pub(crate) fn head(&mut self) -> Result<Vec<u8>> {
        let mut head = vec![0; 2];
        self.0.read_exact(&mut head)?;
        while head.last().is_some_and(|byte| byte & 0x80 != 0) {
            head.push(0);
            let last = head.len() - 1;
            self.0.read_exact(&mut head[last..])?;
        }
        Ok(head)
    }

    /// Says DISCONNECT; returns when the other side has closed.
    pub(crate) fn disconnect(mut self) -> Result<()> {
        self.send(DISCONNECT)?;
        let rest = self.rest()?;
        ensure!(rest.is_empty(), "heard {rest:02x?} behind DISCONNECT");
        Ok(())
    }

    /// What comes until the other side ends the connection.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(bytes),
        }
    }
}

/// What a PUBLISH to a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its topic.
    pub(crate) topic: String,
    /// Its payload.
    pub(crate) payload: Vec<u8>,
    /// Its QoS.
    pub(crate) qos: u8,
    /// Whether it may have been there before.
    pub(crate) dup: bool,
    /// Whether it was kept for this subscription.
    pub(crate) retain: bool,
    /// Its packet id; 0 at QoS 0.
    pub(crate) id: u16,
}

impl Message {
    /// From a packet's bytes.
    pub(crate) fn read(packet: &[u8]) -> Result<Self> {
        ensure!(packet[0] & 0xf0 == 0x30, "no PUBLISH: {packet:02x?}");
        let (topic, rest) = split_text(&packet[head_length(packet)..])?;
        let qos = packet[0] >> 1 & 3;
        let (id, payload) =
            if qos == 0 { (0, rest) } else { (u16::from_be_bytes([rest[0], rest[1]]), &rest[2..]) };
        let (dup, retain) = (packet[0] & 8 != 0, packet[0] & 1 != 0);
        Ok(Self { topic, payload: payload.to_vec(), qos, dup, retain, id })
    }

    /// The payload as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// The content of a CONNECT.
#[derive(Clone, Copy)]
pub(crate) struct Connect<'a> {
    /// The protocol's name and level.
    pub(crate) protocol: (&'a str, u8),
    /// The clean session flag.
    pub(crate) clean: bool,
    /// In seconds.
    pub(crate) keep_alive: u8,
    /// May be empty.
    pub(crate) client_id: &'a str,
    /// The user's name.
    pub(crate) username: Option<&'a str>,
    /// The user's password.
    pub(crate) password: Option<&'a str>,
    /// What is published for the client should it vanish.
    pub(crate) will: Option<Will<'a>>,
}

/// The will in a CONNECT.
#[derive(Clone, Copy)]
pub(crate) struct Will<'a> {
    /// Its topic.
    pub(crate) topic: &'a str,
    /// Its payload.
    pub(crate) payload: &'a [u8],
    /// Its QoS.
    pub(crate) qos: u8,
    /// Whether it is retained.
    pub(crate) retain: bool,
}

impl Default for Connect<'_> {
    /// MQTT 3.1.1 without credentials.
    fn default() -> Self {
        let protocol = ("MQTT", 4);
        Self {
            protocol,
            clean: true,
            keep_alive: 60,
            client_id: "",
            username: None,
            password: None,
            will: None,
        }
    }
}

impl Connect<'_> {
    /// The packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let flag = |set: bool, bit: u8| u8::from(set) << bit;
        let mut flags =
            flag(self.username.is_some(), 7) | flag(self.password.is_some(), 6) | flag(self.clean, 1);
        if let Some(will) = &self.will {
            flags |= flag(will.retain, 5) | will.qos << 3 | 1 << 2;
        }
        let (name, level) = self.protocol;
        let mut body = [&text(name)[..], &[level, flags, 0, self.keep_alive], &text(self.client_id)].concat();
        if let Some(will) = &self.will {
            body.extend(text(will.topic));
            body.extend(field(will.payload));
        }
        body.extend(self.username.map(text).unwrap_or_default());
        body.extend(self.password.map(text).unwrap_or_default());
        packet(0x10, &body)
    }
}

/// PUBLISH at QoS 1 or 2.
pub(crate) fn publish(first: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    packet(first, &[&text(topic), &id.to_be_bytes()[..], payload].concat())
}

/// SUBSCRIBE with packet id 1.
pub(crate) fn subscribe(filters: &[(&str, u8)]) -> Vec<u8> {
    let filters = filters.iter().flat_map(|(filter, qos)| [text(filter), vec![*qos]].concat());
    packet(0x82, &[0, 1].into_iter().chain(filters).collect::<Vec<u8>>())
}

/// PUBACK.
pub(crate) fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

/// A packet with this first byte.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&head(first, body.len())[..], body].concat()
}

/// A fixed header.
pub(crate) fn head(first: u8, mut remaining: usize) -> Vec<u8> {
    let mut head = vec![first];
    loop {
        let more = u8::from(remaining > 0x7f) << 7;
        head.push((remaining & 0x7f) as u8 | more);
        remaining >>= 7;
        if more == 0 {
            return head;
        }
    }
}

/// Text with its length before it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    field(text.as_bytes())
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn split_text(bytes: &[u8]) -> Result<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk().context("a length")?;
    let (text, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
    Ok((String::from_utf8(text.to_vec())?, rest))
}

fn head_length(packet: &[u8]) -> usize {
    2 + packet[1..].iter().take_while(|byte| *byte & 0x80 != 0).count()
}

/// As a fixed header says it.
pub(crate) fn remaining_length(head: &[u8]) -> usize {
    head[1..].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f))
}

/// PUBACK of packet id 1.
pub(crate) const PUBACK: &[u8] = &[0x40, 2, 0, 1];
/// DISCONNECT.
pub(crate) const DISCONNECT: &[u8] = &[0xe0, 0];

/// CONNACK 0.
pub(crate) const ACCEPTED: &[u8] = &connack(0);

/// CONNACK with this return code.
pub(crate) const fn connack(code: u8) -> [u8; 4] {
    [0x20, 2, 0, code]
}

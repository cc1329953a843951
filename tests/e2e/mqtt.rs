//! An MQTT client that writes what it is told, right or wrong, and reads packet by packet.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};

use crate::world::PATIENCE;

/// The client's end of a connection.
pub(crate) struct Client(pub(crate) TcpStream);

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
        let mut client = Self::connect(address)?;
        client.send(&Connect { client_id, ..Connect::default() }.bytes())?;
        client.hears(ACCEPTED)?;
        Ok(client)
    }

    /// Writes bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes)?)
    }

    /// Subscribes at a QoS and is granted it.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        self.send(&packet(0x82, &[&[0, 1], &text(filter)[..], &[qos]].concat()))?;
        self.hears(&[0x90, 3, 0, 1, qos])
    }

    /// Publishes at QoS 0.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.send(&packet(0x30, &[&text(topic), payload].concat()))
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

    /// What comes until the other side ends the connection.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
            _ => Ok(bytes),
        }
    }
}

/// The content of a CONNECT.
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
}

impl Default for Connect<'_> {
    /// MQTT 3.1.1 without credentials.
    fn default() -> Self {
        let protocol = ("MQTT", 4);
        Self { protocol, clean: true, keep_alive: 60, client_id: "", username: None, password: None }
    }
}

impl Connect<'_> {
    /// The packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let flag = |set: bool, bit: u8| u8::from(set) << bit;
        let flags = flag(self.username.is_some(), 7) | flag(self.password.is_some(), 6) | flag(self.clean, 1);
        let (name, level) = self.protocol;
        let mut body = [&text(name)[..], &[level, flags, 0, self.keep_alive], &text(self.client_id)].concat();
        body.extend(self.username.map(text).unwrap_or_default());
        body.extend(self.password.map(text).unwrap_or_default());
        packet(0x10, &body)
    }
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
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// As a fixed header says it.
pub(crate) fn remaining_length(head: &[u8]) -> usize {
    head[1..].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f))
}

/// CONNACK 0.
pub(crate) const ACCEPTED: &[u8] = &connack(0);

/// CONNACK with this return code.
pub(crate) const fn connack(code: u8) -> [u8; 4] {
    [0x20, 2, 0, code]
}

//! Frames from either side.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Bytes become frames; heartbeats do not count.
#[derive(Default)]
pub(super) struct Frames {
    unread: Vec<u8>,
    frames: Vec<AMQPFrame>,
}

/// A socket to the real broker.
pub(super) struct Real {
    socket: TcpStream,
    heard: Frames,
}

impl Frames {
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend(bytes);
        while let &[_, _, _, a, b, c, d, ..] = self.unread.as_slice() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize + 8;
            if self.unread.len() < length {
                return;
            }
            let bytes: Vec<u8> = self.unread.drain(..length).collect();
            let (_, frame) = parse_frame(bytes.as_slice()).unwrap_or_else(|e| panic!("not AMQP: {e}"));
            if !matches!(frame, AMQPFrame::Heartbeat) {
                self.frames.push(frame);
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<AMQPFrame> {
        std::mem::take(&mut self.frames)
    }
}

impl Real {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("RabbitMQ listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket.set_nodelay(true).expect("a socket");
        Self { socket, heard: Frames::default() }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("RabbitMQ listens");
    }

    /// At least so many frames, or all until the end: in vain after a while.
    pub(super) fn hear(&mut self, frames: usize, until_end: bool) -> Vec<AMQPFrame> {
        let mut buffer = [0; 65_536];
        while until_end || self.heard.frames.len() < frames {
            match self.socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.heard.hear(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => {
                    eprintln!("RabbitMQ does not say all that we expect: {error}");
                    break;
                }
            }
            if until_end && self.is_over() {
                break;
            }
        }
        self.heard.take()
    }

    /// RST.
    pub(super) fn reset(self) {
        let socket = socket2::Socket::from(self.socket);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Nothing follows connection.close or close-ok.
    fn is_over(&self) -> bool {
        use amq_protocol::protocol::{
            AMQPClass,
            connection::AMQPMethod::{Close, CloseOk},
        };
        let last = self.heard.frames.last();
        matches!(last, Some(AMQPFrame::Method(0, AMQPClass::Connection(Close(_) | CloseOk(_)))))
    }
}

/// A moment on an idle machine; the deadline is for a busy one.
const PATIENCE: Duration = Duration::from_secs(3);

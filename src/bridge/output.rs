//! The client's side: what it is owed, and in which order it may be written.

use super::inflight::Receipt;
use crate::mqtt::ConnectReturnCode;
use crate::mqtt::encode::{self, PublishHead};

/// Bytes for the client.
///
/// CONNACK comes first [MQTT-3.2.0-1], though other answers may be ready before it. A PUBLISH goes out in pieces as its payload
/// arrives, and no other packet may cut into it. What must not go out yet waits.
#[derive(Default)]
pub(super) struct ClientOutput {
    out: Vec<u8>,
    /// Packets behind the CONNACK or the PUBLISH that is under way.
    waiting: Vec<u8>,
    has_connack: bool,
    /// Payload bytes of that PUBLISH that are still to come.
    publish_left: u32,
}

impl ClientOutput {
    /// Where a whole packet is to be written.
    pub(super) const fn packet(&mut self) -> &mut Vec<u8> {
        if self.has_connack && self.publish_left == 0 { &mut self.out } else { &mut self.waiting }
    }

    /// Writes CONNACK, and what has waited for it if it is good news. [MQTT-3.2.2-5]
    pub(super) fn connack(&mut self, session_present: bool, code: ConnectReturnCode) {
        encode::connack(&mut self.out, session_present, code);
        self.has_connack = true;
        if code == ConnectReturnCode::Accepted {
            self.out.append(&mut core::mem::take(&mut self.waiting));
        } else {
            self.waiting.clear();
        }
    }

    /// Writes what the client is owed for a PUBLISH of its own.
    pub(super) fn receipt(&mut self, receipt: Receipt) {
        match receipt {
            Receipt::Puback(id) => encode::puback(self.packet(), id),
            Receipt::Pubrec(id) => encode::pubrec(self.packet(), id),
            Receipt::Pubcomp(id) => encode::pubcomp(self.packet(), id),
        }
    }

    /// Starts a PUBLISH. The one before is done: the broker sends one message at a time.
    pub(super) fn publish(&mut self, head: PublishHead<'_>) {
        encode::publish(&mut self.out, head);
        self.publish_left = head.payload_len;
    }

    /// Writes a piece of its payload.
    pub(super) fn payload(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.publish_left = self.publish_left.saturating_sub(bytes.len() as u32);
        if self.publish_left == 0 {
            self.out.append(&mut core::mem::take(&mut self.waiting));
        }
    }

    /// Bytes that are not taken yet, and those that may not be yet.
    pub(super) const fn len(&self) -> usize {
        self.out.len() + self.waiting.len()
    }

    /// Whether there is nothing to take.
    pub(super) const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.out)
    }

    pub(super) fn clear(&mut self) {
        self.out.clear();
        self.waiting.clear();
    }
}

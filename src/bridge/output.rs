//! The client's side: what it is owed, and in which order it may be written.

use crate::mqtt::encode::{self, PublishHead};

/// Bytes for the client.
///
/// A PUBLISH goes out in pieces as its payload arrives, and no other packet may cut into it; those wait until it is done.
#[derive(Default)]
pub(super) struct ClientOutput {
    out: Vec<u8>,
    /// Packets behind the PUBLISH that is under way.
    waiting: Vec<u8>,
    /// Payload bytes of that PUBLISH that are still to come.
    publish_left: u32,
}

impl ClientOutput {
    /// Where a whole packet is to be written.
    pub(super) const fn packet(&mut self) -> &mut Vec<u8> {
        if self.publish_left > 0 { &mut self.waiting } else { &mut self.out }
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
            self.out.append(&mut self.waiting);
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
        *self = Self::default();
    }
}

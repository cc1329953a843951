//! Copies of retained messages that are out of date when they reach the client.
//!
//! A copy may wait in the client's queue behind other messages, or be slow on its way there, so that a newer message of its topic
//! reaches the client first. Then the copy is not to have the last word. Each is marked by the moment of its subscription, that is
//! by how many retained messages had reached the client until then: what came since may be newer, and if the copy is, it comes to the
//! client as a message, too.

use std::collections::BTreeMap;

/// The most topics that are remembered.
const MAX_TOPICS: usize = 1024;

#[derive(Default)]
pub(in crate::bridge) struct Overtaken {
    moment: i64,
    /// Copies that have not reached the client's queue and come back.
    in_flight: u64,
    /// The routing key of the message that is arriving for the client.
    arriving: Vec<u8>,
    /// Routing keys of messages that were kept, too, and reached the client while copies may be on their way; and the last moment when
    /// one did.
    topics: BTreeMap<Box<[u8]>, i64>,
}

impl Overtaken {
    /// How many have reached the client.
    pub(super) const fn moment(&self) -> i64 {
        self.moment
    }

    /// A copy goes on its way.
    pub(super) const fn copied(&mut self) {
        self.in_flight += 1;
    }

    /// A message arrives for the client.
    pub(in crate::bridge) fn arriving(&mut self, routing_key: &[u8]) {
        self.arriving.clear();
        self.arriving.extend_from_slice(routing_key);
    }

    /// It was to be kept; `is_idle` when no more copies will be made.
    pub(super) fn overtakes(&mut self, is_idle: bool) {
        self.moment += 1;
        if is_idle && self.in_flight == 0 {
            self.topics.clear();
        } else if let Some(moment) = self.topics.get_mut(self.arriving.as_slice()) {
            *moment = self.moment;
        } else if self.topics.len() < MAX_TOPICS {
            self.topics.insert(self.arriving.as_slice().into(), self.moment);
        }
    }

    /// A copy of this moment arrives for the client: whether it is up to date.
    pub(in crate::bridge) fn is_news(&mut self, routing_key: &[u8], moment: i64) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.topics.get(routing_key).is_none_or(|&overtaken| overtaken <= moment)
    }
}

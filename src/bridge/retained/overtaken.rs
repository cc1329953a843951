//! Copies of retained messages that are out of date when they reach the client.
//!
//! A message is routed before it is kept. So a subscriber may get it first and then a copy of what was kept before, which is not to
//! have the last word.

use std::collections::BTreeSet;

use crate::topic;

/// The most topics that are remembered.
const MAX_TOPICS: usize = 1024;

#[derive(Default)]
pub(in crate::bridge) struct Overtaken {
    /// Copies that have not reached the client's queue and come back.
    in_flight: u64,
    /// The routing key of the message that is arriving for the client.
    arriving: Vec<u8>,
    /// Routing keys of messages that were kept, too, and reached the client while copies may be on their way.
    topics: BTreeSet<Box<[u8]>>,
}

impl Overtaken {
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
        if is_idle && self.in_flight == 0 {
            self.topics.clear();
        } else if self.topics.len() < MAX_TOPICS {
            self.topics.insert(self.arriving.as_slice().into());
        }
    }

    /// A copy arrives for the client: whether it is up to date.
    pub(in crate::bridge) fn is_news(&mut self, routing_key: &[u8]) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        !self.topics.contains(routing_key)
    }

    /// The client subscribes anew, and is to have everything that matches.
    pub(super) fn forget(&mut self, binding_key: &[u8]) {
        self.topics.retain(|key| !topic::matches(binding_key, key));
    }
}

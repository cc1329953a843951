//! Filters that start with `$`: no wildcard at the start of another matches such a topic, and the broker does not know that.
//! [MQTT-4.7.2-1]

use super::queues::Level;
use crate::topic::RoutingKey;

/// The most filters of a connection that are remembered. With more, it gets all such topics that its queues hold.
const MAX_FILTERS: usize = 255;

/// The most words that they may have together, since each message of such a topic is compared with all of them.
const MAX_WORDS: usize = 512;

/// Those that a connection subscribed to.
#[derive(Default)]
pub(super) struct DollarFilters {
    /// By binding key.
    known: Vec<(Box<[u8]>, Level)>,
    /// Words in `known`.
    words: usize,
    /// There were more than are remembered.
    has_more: bool,
}

impl DollarFilters {
    /// The client subscribes to a filter at this level, or to none any more.
    pub(super) fn note(&mut self, binding_key: &[u8], level: Option<Level>) {
        if self.has_more || binding_key.first() != Some(&b'$') {
            return;
        }
        // Another QoS replaces the one before.
        let words = words(binding_key);
        if let Some(at) = self.known.iter().position(|(key, _)| **key == *binding_key) {
            self.known.swap_remove(at);
            self.words -= words;
        }
        let Some(level) = level else { return };
        if self.known.len() == MAX_FILTERS || self.words + words > MAX_WORDS {
            *self = Self { has_more: true, ..Self::default() };
            return;
        }
        self.known.push((binding_key.into(), level));
        self.words += words;
    }

    /// Whether one of them, at this level, matches.
    pub(super) fn names(&self, level: Level, routing_key: &[u8]) -> bool {
        let key = RoutingKey::new(routing_key);
        self.has_more || self.known.iter().any(|(known, at)| *at == level && key.is_matched_by(known))
    }
}

fn words(key: &[u8]) -> usize {
    key.split(|&byte| byte == b'.').count()
}

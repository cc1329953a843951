//! Exchanges, bindings, and which queues a message goes to.

use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Exchanges {
    kinds: BTreeMap<String, Kind>,
    bindings: BTreeSet<Binding>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Topic,
    Fanout,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binding {
    pub(super) exchange: String,
    pub(super) queue: String,
    pub(super) key: String,
}

impl Default for Exchanges {
    fn default() -> Self {
        let kinds = [("amq.topic", Kind::Topic), ("amq.direct", Kind::Direct), ("amq.fanout", Kind::Fanout)];
        Self {
            kinds: kinds.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect(),
            bindings: BTreeSet::new(),
        }
    }
}

impl Exchanges {
    /// Whether there is one of this name; the nameless one always is.
    pub(super) fn exists(&self, name: &str) -> bool {
        name.is_empty() || self.kinds.contains_key(name)
    }

    pub(super) fn declare(&mut self, name: &str, kind: Kind) {
        self.kinds.insert(name.to_owned(), kind);
    }

    pub(super) fn bind(&mut self, binding: Binding) {
        self.bindings.insert(binding);
    }

    pub(super) fn unbind(&mut self, binding: &Binding) {
        self.bindings.remove(binding);
    }

    pub(super) fn forget_queue(&mut self, queue: &str) {
        self.bindings.retain(|binding| binding.queue != queue);
    }

    /// The queues a message goes to, each once. The nameless exchange knows queues by their names.
    pub(super) fn route(&self, exchange: &str, routing_key: &str) -> BTreeSet<String> {
        let Some(kind) = self.kinds.get(exchange) else {
            return if exchange.is_empty() { [routing_key.to_owned()].into() } else { BTreeSet::new() };
        };
        let matches = |key: &str| match kind {
            Kind::Direct => key == routing_key,
            Kind::Fanout => true,
            Kind::Topic => topic_matches(key, routing_key),
        };
        let bound = self.bindings.iter().filter(|it| it.exchange == exchange && matches(&it.key));
        bound.map(|binding| binding.queue.clone()).collect()
    }
}

fn topic_matches(key: &str, routing_key: &str) -> bool {
    words_match(&words(key), &words(routing_key))
}

/// An empty key has none.
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

fn words_match(key: &[&str], routing_key: &[&str]) -> bool {
    match key {
        [] => routing_key.is_empty(),
        ["#", rest @ ..] => (0..=routing_key.len()).any(|n| words_match(rest, &routing_key[n..])),
        [first, rest @ ..] => {
            routing_key.first().is_some_and(|word| *first == "*" || first == word)
                && words_match(rest, &routing_key[1..])
        }
    }
}

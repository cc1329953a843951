//! Retained messages, kept by the broker, so that they are the same on every node and outlive every proxy.
//!
//! Each topic that has one has a queue with that message in it, which a newer one pushes out. To keep one is a publish to the
//! queue; to clear it is to delete the queue; to read it is basic.get, a copy into the subscriber's own queue, and basic.nack.
//!
//! Nobody keeps a list of them, because the queues answer for themselves:
//!
//! ```text
//!  a question: empty, of higher priority          exchange                queues of one message
//!  than the message, `CC` its asker's queue ───> mqtt-retained ─── ">" ───> mqtt-retained-a.b.c
//!                                                (direct)      ─── ">a" ──> mqtt-retained-a.x
//!                                                                               │ too long by one: drops what is
//!  the asker's queue <── default exchange, by the question's own keys <─────────┘ in front, the question
//! ```
//!
//! What comes back tells the name of the queue that dropped it, so its topic. Each queue is bound by the first words of its
//! topic's key (up to [`DEPTH`]) and asked by the literal words in front of a filter's first wildcard; which of the topics match
//! the filter is for the asker to see. Nothing grows but with the topics that have a message now.

pub(super) mod keep;
mod overtaken;
pub(super) mod replay;

use super::broker::BrokerSide;
use super::channel::{Awaited, Role};
use super::session::Refused;
use super::{Bridge, from_broker};
use crate::amqp::ShortText;
use crate::amqp::{
    Address, ClientMethod, ContentHeader, DeadLetter, MqttHeaders, Properties, QueueArguments, QueueFlags,
    ShortStr,
};
use crate::error::{Error, Limit};
use crate::event::Event;
use crate::mqtt::{Publish, QoS};
use crate::names::is_nameable;
use keep::Outcome;

/// By how many of its first words a topic can be found at most. More make questions narrower and first messages dearer.
const DEPTH: usize = 3;

/// The names that all topics share.
pub(super) struct Names {
    exchange: ShortText,
    /// What the names of the queues start with.
    stem: Box<str>,
}

/// Where the retained message of a topic is kept.
pub(super) struct Place {
    queue: ShortText,
    /// The binding key of this queue and no other.
    own_key: ShortText,
    /// The topic's routing key.
    key: Box<str>,
}

/// A message to be kept; without a payload, that there is to be none. No `Debug`: it is the client's payload.
pub(super) struct Retained {
    pub(super) place: Place,
    pub(super) qos: QoS,
    pub(super) payload: Vec<u8>,
    /// The length of its payload once all of it is there.
    pub(super) payload_len: usize,
}

impl Names {
    /// `None` when the prefix is too long for any name.
    pub(super) fn new(prefix: &str) -> Option<Self> {
        let exchange = ShortText::new(&format!("{prefix}mqtt-retained"))?;
        let stem = format!("{}-", exchange.as_str()).into();
        Some(Self { exchange, stem })
    }

    /// Where a topic's message is kept; `None` when its routing key makes a name of more than 255 bytes, or has a line break.
    pub(super) fn place(&self, routing_key: &[u8]) -> Option<Place> {
        let key: Box<str> = core::str::from_utf8(routing_key).ok().filter(|key| is_nameable(key))?.into();
        let queue = ShortText::new(&format!("{}{key}", self.stem))?;
        Some(Place { queue, own_key: own_key(&key)?, key })
    }

    /// The routing key of the topic whose message a queue keeps.
    fn topic_of<'q>(&self, queue: &'q [u8]) -> Option<&'q [u8]> {
        queue.strip_prefix(self.stem.as_bytes())
    }

    /// exchange.declare, before anything else.
    pub(super) fn declare(&self) -> ClientMethod<'_> {
        ClientMethod::ExchangeDeclare { exchange: self.exchange.as_short() }
    }

    /// What goes to the queues that are bound by `key`, and is returned when there are none.
    fn address<'a>(&'a self, key: &'a ShortText) -> Address<'a> {
        Address { exchange: self.exchange.as_short(), routing_key: key.as_short(), mandatory: true }
    }

    /// The bindings that let a place be found.
    pub(super) fn bindings(&self, place: &Place) -> impl Iterator<Item = ShortText> + use<> {
        let depth = place.key.split('.').count().min(DEPTH);
        let own = ShortText::new(place.own_key.as_str());
        let by_first_words: Vec<_> =
            (0..=depth).filter_map(|words| first_words_key(&place.key, words)).collect();
        own.into_iter().chain(by_first_words)
    }

    /// queue.bind by one of them.
    pub(super) fn bind<'a>(&'a self, place: &'a Place, binding: &'a ShortText) -> ClientMethod<'a> {
        ClientMethod::QueueBind {
            queue: place.queue.as_short(),
            exchange: self.exchange.as_short(),
            routing_key: binding.as_short(),
        }
    }

    /// Keeps a message whose queue may not be there yet, or clears.
    fn keep(&self, message: &Retained, role: Role, broker: &mut BrokerSide) {
        let Retained { place, qos, payload, .. } = message;
        if payload.is_empty() {
            return broker.request(role, place.clear(), Awaited::Keep(keep::Step::Delete));
        }
        broker.request(role, place.declare(), Awaited::Keep(keep::Step::Declare));
        for binding in self.bindings(place) {
            broker.request(role, self.bind(place, &binding), Awaited::Keep(keep::Step::Bind));
        }
        broker.publish_whole(role, self.address(&place.own_key), kept_at(*qos), payload);
    }

    /// Where the dead messages go that are to be kept at a place.
    pub(super) fn dead_letter<'a>(&'a self, place: &'a Place) -> DeadLetter<'a> {
        DeadLetter { exchange: self.exchange.as_short(), routing_key: Some(place.own_key.as_short()) }
    }
}

impl Place {
    pub(super) fn queue(&self) -> ShortStr<'_> {
        self.queue.as_short()
    }

    /// queue.declare.
    pub(super) fn declare(&self) -> ClientMethod<'_> {
        let arguments = QueueArguments {
            max_length: Some(1),
            max_priority: Some(i64::from(QUESTION_PRIORITY)),
            // Questions find their asker by their own keys. A message that is pushed out has only this queue's, which is no
            // queue's name.
            dead_letter: Some(DeadLetter { exchange: ShortStr::EMPTY, routing_key: None }),
            ..QueueArguments::default()
        };
        let flags = QueueFlags { durable: true, ..QueueFlags::default() };
        ClientMethod::QueueDeclare { queue: self.queue(), flags, arguments }
    }

    /// queue.delete.
    fn clear(&self) -> ClientMethod<'_> {
        ClientMethod::QueueDelete { queue: self.queue(), if_unused: false, if_empty: false }
    }
}

impl Bridge {
    /// Copies a PUBLISH that is to be kept as it passes.
    pub(super) fn copy(&mut self, publish: &Publish<'_>) -> Result<(), Error> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let place = keeper.names.place(&self.key);
        let is_too_large = publish.payload_len > self.config.limits.retained_max_size;
        if place.is_none() || is_too_large {
            self.events.push_back(Event::Unkept);
        }
        let Some(place) = place else { return Ok(()) };
        // What was kept before is out of date either way.
        let payload_len = if is_too_large { 0 } else { publish.payload_len as usize };
        if !keeper.admit(payload_len) {
            self.events.push_back(Event::Unkept);
            return if publish.packet_id.is_some() { Err(Error::Limit(Limit::Requests)) } else { Ok(()) };
        }
        let message =
            Retained { place, qos: publish.qos, payload: Vec::with_capacity(payload_len), payload_len };
        match payload_len {
            0 => self.publications.retain(message),
            _ => self.copying = Some(message),
        }
        Ok(())
    }

    /// A piece of a PUBLISH's payload.
    pub(super) fn copy_payload(&mut self, bytes: &[u8], last: bool) {
        if let Some(message) = &mut self.copying {
            message.payload.extend_from_slice(bytes);
        }
        if last && let Some(message) = self.copying.take() {
            self.publications.retain(message);
        }
    }

    /// The client goes, and perhaps its bytes have ended: what is not kept yet is sent behind the messages themselves, without
    /// waiting for anything. If one of them is refused, the broker closes its channel and looks at nothing behind it. Whether there
    /// was anything.
    pub(super) fn keep_last_words(&mut self) -> bool {
        let Some(keeper) = self.keeper.take() else { return false };
        let (names, messages) = keeper.into_parts();
        let mut messages = messages.chain(self.publications.take_retained()).peekable();
        // Behind a message that was broken off nothing can be said.
        if messages.peek().is_none() || self.broker.is_publishing(Role::Publish) {
            return false;
        }
        self.broker.request(Role::Publish, names.declare(), Awaited::Keep(keep::Step::Exchange));
        for message in messages {
            names.keep(&message, Role::Publish, &mut self.broker);
        }
        true
    }

    /// Messages are not to be kept after all, nor is one that is still arriving behind them.
    pub(super) fn forget_copies(&mut self, messages: impl IntoIterator<Item = Retained>) {
        let Some(keeper) = &mut self.keeper else { return };
        for message in messages.into_iter().chain(self.copying.take()) {
            keeper.forget(message.payload_len);
        }
    }

    /// What has become of a kept message; then the next one.
    pub(super) fn keep_on(&mut self, mut outcome: Option<Outcome>) {
        let Some(keeper) = &mut self.keeper else { return };
        loop {
            if let Some(Outcome { event, owed }) = outcome {
                self.events.push_back(event);
                for receipt in owed.into_iter().filter_map(|id| self.publications.kept(id)) {
                    self.client.receipt(receipt);
                }
            }
            outcome = keeper.go_on(&mut self.broker);
            if outcome.is_none() {
                return;
            }
        }
    }

    /// The header of what basic.get had.
    pub(super) fn got(&mut self, header: &ContentHeader<'_>) {
        if let (Some(replayer), Some(session)) = (&mut self.replayer, &self.session) {
            let published = from_broker::published_qos(header);
            replayer.got(header, session.level_queues(), published, &mut self.broker);
        }
    }

    /// The broker refused a step and closed its channel.
    pub(super) fn retaining_refused(&mut self, role: Role, why: Refused<'_>) {
        match role {
            Role::Keep => {
                let outcome =
                    self.keeper.as_mut().and_then(|keeper| keeper.refused(why.code, &mut self.broker));
                self.keep_on(outcome);
            }
            _ => {
                if let Some(replayer) = &mut self.replayer {
                    replayer.refused(why, &mut self.broker);
                }
            }
        }
    }
}

/// Properties of a message that is kept: it survives the broker's restart whatever its QoS, which a header tells.
pub(super) fn kept_at(qos: QoS) -> Properties<'static> {
    let mqtt_headers = MqttHeaders { publish_qos: qos as i8, dup: false };
    Properties { persistent: true, mqtt_headers: Some(mqtt_headers), ..Properties::default() }
}

/// The binding keys that the topics of a filter are found by; it may find others, too.
fn question_key(binding_key: &str) -> Option<ShortText> {
    let is_literal = |word: &&str| !matches!(*word, "*" | "#");
    let literal = binding_key.split('.').take_while(is_literal).count();
    match literal == binding_key.split('.').count() {
        true => own_key(binding_key),
        false => first_words_key(binding_key, literal.min(DEPTH)),
    }
}

/// No name of a queue by any likelihood, and no client can make it one that matters: see [`Place::declare`].
fn own_key(key: &str) -> Option<ShortText> {
    ShortText::new(&format!("mqtt-retained={key}"))
}

fn first_words_key(key: &str, words: usize) -> Option<ShortText> {
    let end = match words.checked_sub(1) {
        None => 0,
        Some(dots) => key.match_indices('.').nth(dots).map_or(key.len(), |(at, _)| at),
    };
    ShortText::new(&format!("mqtt-retained>{}", key.get(..end)?))
}

/// Messages have none, which is 0.
const QUESTION_PRIORITY: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(key: &str) -> Vec<String> {
        let names = Names::new("").unwrap();
        let place = names.place(key.as_bytes()).unwrap();
        names.bindings(&place).map(|key| key.as_str().to_owned()).collect()
    }

    #[test]
    fn a_topic_is_found_by_its_first_words() {
        assert_eq!(bindings("a"), ["mqtt-retained=a", "mqtt-retained>", "mqtt-retained>a"]);
        assert_eq!(
            bindings("a..c.d"),
            [
                "mqtt-retained=a..c.d",
                "mqtt-retained>",
                "mqtt-retained>a",
                "mqtt-retained>a.",
                "mqtt-retained>a..c"
            ]
        );
    }

    #[test]
    fn a_filter_asks_by_the_words_before_its_first_wildcard() {
        let question = |filter| question_key(filter).unwrap().as_str().to_owned();
        assert_eq!(question("a.b"), "mqtt-retained=a.b");
        assert_eq!(question("#"), "mqtt-retained>");
        assert_eq!(question("*.b"), "mqtt-retained>");
        assert_eq!(question("a.#"), "mqtt-retained>a");
        assert_eq!(question("a.b.c.d.*"), "mqtt-retained>a.b.c");
    }

    /// Whatever a filter matches, its question reaches.
    #[test]
    fn what_a_filter_matches_it_asks() {
        let words = ["a", "b", ""];
        let mut topics: Vec<String> = Vec::new();
        for a in words {
            topics.push(a.into());
            for b in words {
                topics.push(format!("{a}.{b}"));
                for c in words {
                    topics.push(format!("{a}.{b}.{c}.{a}"));
                }
            }
        }
        for filter in ["#", "a.#", "a.b.#", "*.b", "a.*.b.#", "a.b", "#.b", "a..#", ".#", "a.b.a.a.#"] {
            let question = question_key(filter).unwrap();
            for topic in
                topics.iter().filter(|topic| crate::topic::matches(filter.as_bytes(), topic.as_bytes()))
            {
                let asked = bindings(topic).iter().any(|key| key == question.as_str());
                assert!(asked, "{filter} {topic}");
            }
        }
    }

    #[test]
    fn names_that_are_too_long_are_none() {
        let names = Names::new("x").unwrap();
        assert!(names.place("y".repeat(240).as_bytes()).is_some());
        assert!(names.place("y".repeat(241).as_bytes()).is_none());
        assert_eq!(names.topic_of(b"xmqtt-retained-a.b"), Some(&b"a.b"[..]));
        assert_eq!(names.topic_of(b"mqtt-retained-a.b"), None);
    }
}

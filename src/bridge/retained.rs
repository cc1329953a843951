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
use crate::error::Error;
use crate::event::Unkept;
use crate::mqtt::{Publish, QoS};
use crate::names::is_nameable;
use keep::{Admission, Outcome};

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
    /// The binding key of those who are to hear that it is deleted.
    notice_key: ShortText,
    /// The topic's routing key.
    key: Box<str>,
}

/// Last words to be kept; without a payload, that nothing is. No `Debug`: it is the client's payload.
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
        let notice_key = ShortText::new(&format!("mqtt-retained!{key}"))?;
        Some(Place { queue, own_key: own_key(&key)?, notice_key, key })
    }

    /// The routing key of the topic whose message a queue keeps.
    fn topic_of<'q>(&self, queue: &'q [u8]) -> Option<&'q [u8]> {
        queue.strip_prefix(self.stem.as_bytes())
    }

    /// The routing key of the topic whose queue is bound by a key of its own.
    fn key_of<'k>(&self, own_key: &'k [u8]) -> Option<&'k [u8]> {
        own_key.strip_prefix(OWN_KEY.as_bytes())
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

    /// queue.bind of a queue that hears when a place is deleted.
    pub(super) fn listen<'a>(&'a self, queue: &'a ShortText, place: &'a Place) -> ClientMethod<'a> {
        ClientMethod::QueueBind {
            queue: queue.as_short(),
            exchange: self.exchange.as_short(),
            routing_key: place.notice_key.as_short(),
        }
    }

    /// Says that a place is deleted; to be followed by a tx.commit.
    pub(super) fn tell(&self, place: &Place, role: Role, broker: &mut BrokerSide) {
        let to = Address {
            exchange: self.exchange.as_short(),
            routing_key: place.notice_key.as_short(),
            mandatory: false,
        };
        broker.publish_whole(role, to, Properties::default(), &[]);
    }

    /// Keeps last words, for which there may be no queue yet, or clears.
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

/// What is to be done to keep a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// Its payload goes to its topic's queue, too, and ahead.
    Now,
    /// The client has ended: a copy is sent behind the message itself.
    LastWords,
    /// The client is to wait with it.
    Wait,
    /// It is not the client's to publish.
    Refused,
}

impl Bridge {
    /// What is to be done to keep a PUBLISH whose key is in `Bridge::key`; of its payload so many bytes are there.
    ///
    /// # Errors
    /// When it is refused and that is the connection's end.
    pub(super) fn admit_to_keep(
        &mut self,
        publish: &Publish<'_>,
        behind: usize,
    ) -> Result<Option<Keeping>, Error> {
        let is_again = publish.packet_id.is_some_and(|id| !self.publications.is_new(id, publish.qos));
        let Some(keeper) = self.keeper.as_mut().filter(|_| publish.retain && !is_again) else {
            return Ok(None);
        };
        let is_too_large = publish.payload_len > self.config.limits.retained_max_size;
        // What was kept before is out of date either way.
        let clears = publish.payload_len == 0 || is_too_large;
        if self.client_ended && !keeper.is_preparing() && !keeper.is_ready_for(&self.key, clears) {
            return Ok(self.admit_last_words(publish, clears));
        }
        let is_whole = behind >= publish.payload_len as usize;
        let exchange = self.tenant.exchange.as_short();
        let admission = keeper.admit(&self.key, (clears, is_whole), exchange, &mut self.broker);
        let unkept = match admission {
            Admission::Keep => return Ok(Some(Keeping::Now)),
            Admission::Wait => return Ok(Some(Keeping::Wait)),
            Admission::Refused => return Ok(Some(Keeping::Refused)),
            Admission::Cleared => is_too_large.then_some(Unkept::Size),
            Admission::Not(why) => Some(why),
        };
        self.events.extend(unkept.map(|why| keeper.unkept(&self.key, why)));
        Ok(None)
    }

    /// Starts to keep a PUBLISH that was admitted.
    pub(super) fn keep(&mut self, publish: &Publish<'_>) {
        let Some(keeper) = &mut self.keeper else { return };
        let place = publish.packet_id.map(|_| self.publications.last_place());
        if keeper.keep(&self.key, publish, place, &mut self.broker)
            && let Some(place) = place
        {
            self.publications.await_keeping(place);
        }
    }

    /// A piece of a PUBLISH's payload.
    pub(super) fn keep_payload(&mut self, bytes: &[u8], last: bool) {
        if let Some(keeper) = &mut self.keeper {
            keeper.payload(bytes, last, &mut self.broker);
        }
        if let Some(message) = self.last_words.last_mut()
            && message.payload.len() < message.payload_len
        {
            message.payload.extend_from_slice(bytes);
        }
    }

    /// What follows the end of a client's bytes cannot be waited for; all of it is here, and short.
    fn admit_last_words(&mut self, publish: &Publish<'_>, clears: bool) -> Option<Keeping> {
        let place = self.keeper.as_ref()?.names.place(&self.key)?;
        let payload_len = if clears { 0 } else { publish.payload_len as usize };
        self.last_words.push(Retained { place, qos: publish.qos, payload: Vec::new(), payload_len });
        Some(Keeping::LastWords)
    }

    /// The client goes, and its bytes have ended: what is not kept yet is sent behind the messages themselves, without waiting for
    /// anything. If one of them is refused, the broker closes its channel and looks at nothing behind it. Whether there was anything.
    pub(super) fn keep_last_words(&mut self) -> bool {
        let mut messages = core::mem::take(&mut self.last_words);
        messages.retain(|message| message.payload.len() == message.payload_len);
        let Some(keeper) = self.keeper.as_ref().filter(|_| !messages.is_empty()) else { return false };
        // Behind a message that was broken off nothing can be said.
        if self.broker.is_publishing(Role::Publish) {
            return false;
        }
        self.broker.request(Role::Publish, keeper.names.declare(), Awaited::Keep(keep::Step::Exchange));
        for message in messages {
            keeper.names.keep(&message, Role::Publish, &mut self.broker);
        }
        true
    }

    /// What has become of messages that were to be kept.
    pub(super) fn kept(&mut self, outcome: Outcome) {
        self.events.extend(outcome.events);
        for place in outcome.awaited {
            self.publications.kept(place);
        }
        self.give_receipts();
    }

    /// The channel for topology was closed, `is_blamed` for something that was asked to keep a message.
    ///
    /// # Errors
    /// When the client may not publish it, and that is the connection's end.
    pub(super) fn topology_closed_for_keeping(
        &mut self,
        why: Refused<'_>,
        is_blamed: bool,
    ) -> Result<(), Error> {
        let may_drop = self.may_drop(why);
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        match keeper.topology_closed(why.code, is_blamed) {
            Ok(true) => keeper.prepare(self.tenant.exchange.as_short(), &mut self.broker),
            Ok(false) => {}
            Err(()) if may_drop => {}
            Err(()) => return Err(Error::BrokerClosed { code: why.code, method: why.method }),
        }
        Ok(())
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
                if let Some(keeper) = &mut self.keeper {
                    let outcome = keeper.refused(why.code);
                    self.kept(outcome);
                }
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
    ShortText::new(&format!("{OWN_KEY}{key}"))
}

fn first_words_key(key: &str, words: usize) -> Option<ShortText> {
    let end = match words.checked_sub(1) {
        None => 0,
        Some(dots) => key.match_indices('.').nth(dots).map_or(key.len(), |(at, _)| at),
    };
    ShortText::new(&format!("mqtt-retained>{}", key.get(..end)?))
}

/// What a place's own binding key starts with.
const OWN_KEY: &str = "mqtt-retained=";

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

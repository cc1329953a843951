//! Topic names and filters to AMQP routing and binding keys, and back.
//!
//! `cities/london` is `cities.london`; in filters `+` is `*` and `#` is `#`. What a level may hold besides is where the two
//! worlds differ, and a [`TopicMapping`] says how.

use core::cell::OnceCell;
use core::fmt;
use std::collections::BTreeMap;

/// How a literal `.` or `*` in a topic is treated. Where there is neither, the mappings are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicMapping {
    /// RabbitMQ's: they stay as they are, so `a.b` arrives as `a/b`, and a filter's level `*` is a wildcard.
    #[default]
    Rabbitmq,
    /// RabbitMQ's with its `sparkplug`: the version in front of a Sparkplug topic, `spBv1.0/...`, is `spBv1___0` in keys.
    Sparkplug,
    /// `+2E` and `+2A` stand for them in keys. No topic name holds a `+`, so every legal topic comes back as it was.
    Reversible,
}

/// Why a filter cannot be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// It has no characters. [MQTT-4.7.3-1]
    Empty,
    /// `+` or `#` shares its level with other characters. [MQTT-4.7.1-2] [MQTT-4.7.1-3]
    Wildcard,
}

/// A routing key that is no topic name: empty, with a wildcard character, ill-formed UTF-8 or U+0000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATopic;

impl TopicMapping {
    /// Writes the routing key of a topic name over `key`.
    pub fn routing_key(self, topic: &str, key: &mut Vec<u8>) {
        key.clear();
        let rest = self.version(topic, key);
        self.literals(rest.as_bytes(), key);
    }

    /// Writes the binding key of a topic filter over `key`. A `#` may stand at any level, as AMQP has it.
    pub fn binding_key(self, filter: &str, key: &mut Vec<u8>) -> Result<(), FilterError> {
        key.clear();
        if filter.is_empty() {
            return Err(FilterError::Empty);
        }
        let filter = self.version(filter, key);
        for (i, level) in filter.split('/').enumerate() {
            if i > 0 {
                key.push(b'.');
            }
            match level {
                "+" => key.push(b'*'),
                "#" => key.push(b'#'),
                _ if level.contains(['+', '#']) => return Err(FilterError::Wildcard),
                _ => self.literals(level.as_bytes(), key),
            }
        }
        Ok(())
    }

    /// Writes the version in front of a Sparkplug topic as keys have it; gives what is left to be translated.
    fn version<'t>(self, topic: &'t str, key: &mut Vec<u8>) -> &'t str {
        match sparkplug_version(topic, ".", '/').filter(|_| self == Self::Sparkplug) {
            Some([major, minor, rest]) => {
                for part in [major, KEY_VERSION_DOT, minor] {
                    key.extend_from_slice(part.as_bytes());
                }
                rest
            }
            None => topic,
        }
    }

    fn literals(self, text: &[u8], key: &mut Vec<u8>) {
        match self {
            Self::Rabbitmq | Self::Sparkplug => {
                key.extend(text.iter().map(|&b| if b == b'/' { b'.' } else { b }))
            }
            Self::Reversible => {
                for &b in text {
                    match b {
                        b'/' => key.push(b'.'),
                        b'.' => key.extend_from_slice(b"+2E"),
                        b'*' => key.extend_from_slice(b"+2A"),
                        _ => key.push(b),
                    }
                }
            }
        }
    }

    /// Writes the topic name of a message's routing key over `topic`.
    pub fn topic_name(self, routing_key: &[u8], topic: &mut String) -> Result<(), NotATopic> {
        topic.clear();
        let text = core::str::from_utf8(routing_key).map_err(|_| NotATopic)?;
        let mut rest = text;
        if self == Self::Sparkplug
            && let Some([major, minor, behind]) = sparkplug_version(text, KEY_VERSION_DOT, '.')
        {
            topic.extend([major, ".", minor]);
            rest = behind;
        }
        while let Some(at) = rest.find(['.', '+', '#', '\0']) {
            let (plain, special) = rest.split_at(at);
            topic.push_str(plain);
            let (character, len) = match special.as_bytes() {
                [b'.', ..] => ('/', 1),
                [b'+', b'2', b'E', ..] if self == Self::Reversible => ('.', 3),
                [b'+', b'2', b'A', ..] if self == Self::Reversible => ('*', 3),
                // An AMQP publisher's: MQTT has no way to say it. [MQTT-3.3.2-2]
                _ => return Err(NotATopic),
            };
            topic.push(character);
            rest = special.get(len..).unwrap_or_default();
        }
        topic.push_str(rest);
        if topic.is_empty() { Err(NotATopic) } else { Ok(()) }
    }
}

/// The dot of a Sparkplug version in keys.
const KEY_VERSION_DOT: &str = "___";

/// `spAv` or `spBv` and a number, another number behind `dot`, and the rest, which starts with `end`.
fn sparkplug_version<'t>(text: &'t str, dot: &str, end: char) -> Option<[&'t str; 3]> {
    let (version, _) = text.split_once(end)?;
    let (major, minor) = version.split_once(dot)?;
    let number = major.strip_prefix("spAv").or_else(|| major.strip_prefix("spBv"))?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(minor)).then_some([major, minor, text.get(version.len()..)?])
}

/// A shared subscription's group and filter, of `$share/group/filter`: MQTT 5 section 4.8.2, which brokers offer to 3.1.1 clients too.
///
/// `None` when the filter is an ordinary one.
///
/// # Errors
/// When it starts like a shared one and is not.
pub fn shared(filter: &str) -> Option<Result<(&str, &str), FilterError>> {
    let rest = filter.strip_prefix("$share/")?;
    Some(match rest.split_once('/') {
        Some((group, filter)) if !group.is_empty() && !filter.is_empty() => {
            match group.contains(['+', '#']) {
                true => Err(FilterError::Wildcard),
                false => Ok((group, filter)),
            }
        }
        _ => Err(FilterError::Empty),
    })
}

/// Whether a topic exchange would route `routing_key` by `binding_key`: `*` is one word, `#` any number of them.
pub fn matches(binding_key: &[u8], routing_key: &[u8]) -> bool {
    RoutingKey::new(routing_key).is_matched_by(binding_key)
}

/// A routing key of at most 255 bytes that is to be compared with binding keys, with as many as there are.
///
/// A comparison takes one step for each word of the binding key, wherever its `#`s are and whatever the routing key is: no word is
/// gone over twice.
pub struct RoutingKey<'k> {
    text: &'k [u8],
    /// Made when a binding key is the first to need it.
    words: OnceCell<Words<'k>>,
}

/// At which places of a key each of its words stands.
struct Words<'k> {
    places: BTreeMap<&'k [u8], Places>,
    count: usize,
}

/// Places in a key, those behind so many words: a bit for each. 255 bytes are at most 256 words, behind the last of which is a place too.
#[derive(Clone, Copy, Default)]
struct Places([u64; 5]);

impl<'k> RoutingKey<'k> {
    /// The key.
    pub const fn new(text: &'k [u8]) -> Self {
        Self { text, words: OnceCell::new() }
    }

    /// Whether a topic exchange would route it by `binding_key`.
    pub fn is_matched_by(&self, binding_key: &[u8]) -> bool {
        let (mut pattern, mut key) = (words(binding_key), words(self.text));
        let mut passed = 0;
        loop {
            let word = pattern.next();
            if word == Some(b"#") {
                let is_last = pattern.clone().next().is_none();
                return is_last || self.words.get_or_init(|| Words::new(self.text)).end(pattern, passed);
            }
            match (word, key.next()) {
                (None, None) => return true,
                (Some(b"*"), Some(_)) => {}
                (Some(literal), Some(word)) if literal == word => {}
                _ => return false,
            }
            passed += 1;
        }
    }
}

impl<'k> Words<'k> {
    fn new(key: &'k [u8]) -> Self {
        let mut places = BTreeMap::<_, Places>::new();
        let mut count = 0;
        for word in words(key) {
            places.entry(word).or_default().add(count);
            count += 1;
        }
        Self { places, count }
    }

    /// Whether a pattern that is behind a `#`, from this place on, can end where the key does. All the places that it may have come to
    /// are moved on at once.
    fn end<'p>(&self, pattern: impl Iterator<Item = &'p [u8]>, place: usize) -> bool {
        let mut at = Places::default();
        at.add(place);
        at.spread(self.count);
        for word in pattern {
            match word {
                b"#" => at.spread(self.count),
                b"*" => at.step(None),
                literal => match self.places.get(literal) {
                    Some(places) => at.step(Some(places)),
                    None => return false,
                },
            }
        }
        at.contains(self.count)
    }
}

impl Places {
    fn add(&mut self, place: usize) {
        if let Some(bits) = self.0.get_mut(place / 64) {
            *bits |= 1 << (place % 64);
        }
    }

    fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|bits| bits >> (place % 64) & 1 == 1)
    }

    /// Behind each place, the one behind the next word; only where a word of `those` is next, if they are given.
    fn step(&mut self, those: Option<&Self>) {
        let those = those.map_or([u64::MAX; 5], |those| those.0);
        let mut carried = 0;
        for (bits, those) in self.0.iter_mut().zip(those) {
            let stepping = *bits & those;
            *bits = stepping << 1 | carried;
            carried = stepping >> 63;
        }
    }

    /// All places from the first on, up to the end of a key of so many words.
    fn spread(&mut self, count: usize) {
        let mut has_begun = false;
        for (number, bits) in self.0.iter_mut().enumerate() {
            // From the lowest bit on, all.
            *bits = if has_begun { u64::MAX } else { *bits | bits.wrapping_neg() };
            has_begun |= *bits != 0;
            let room = (count + 1).saturating_sub(number * 64).min(64);
            *bits &= if room == 64 { u64::MAX } else { (1 << room) - 1 };
        }
    }
}

/// The same for a subscription: a topic that starts with `$` is not matched by a wildcard there. [MQTT-4.7.2-1]
pub fn subscribes(binding_key: &[u8], routing_key: &[u8]) -> bool {
    (routing_key.first() != Some(&b'$') || binding_key.first() == Some(&b'$'))
        && matches(binding_key, routing_key)
}

fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    key.split(|&b| b == b'.')
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "filter is empty",
            Self::Wildcard => "filter has a wildcard that is not a level of its own",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(mapping: TopicMapping, topic: &str) -> (String, Result<String, NotATopic>) {
        let (mut key, mut back) = (Vec::new(), String::new());
        mapping.routing_key(topic, &mut key);
        let result = mapping.topic_name(&key, &mut back).map(|()| back);
        (String::from_utf8(key).unwrap(), result)
    }

    #[test]
    fn cities_london_is_cities_dot_london() {
        for mapping in [TopicMapping::Rabbitmq, TopicMapping::Reversible] {
            for (topic, key) in
                [("cities/london", "cities.london"), ("/a", ".a"), ("a//b/", "a..b."), ("é/%2E", "é.%2E")]
            {
                assert_eq!(there_and_back(mapping, topic), (key.into(), Ok(topic.into())));
            }
        }
    }

    #[test]
    fn literal_dots_and_stars() {
        assert_eq!(there_and_back(TopicMapping::Rabbitmq, "v1.2/*"), ("v1.2.*".into(), Ok("v1/2/*".into())));
        assert_eq!(
            there_and_back(TopicMapping::Reversible, "v1.2/*"),
            ("v1+2E2.+2A".into(), Ok("v1.2/*".into()))
        );
    }

    #[test]
    fn filters() {
        let key = |mapping: TopicMapping, filter| {
            let mut key = Vec::new();
            mapping.binding_key(filter, &mut key).map(|()| String::from_utf8(key).unwrap())
        };
        assert_eq!(key(TopicMapping::Rabbitmq, "a/+/b/#"), Ok("a.*.b.#".into()));
        assert_eq!(key(TopicMapping::Rabbitmq, "a/#/z"), Ok("a.#.z".into()));
        assert_eq!(key(TopicMapping::Reversible, "*/+/a.b"), Ok("+2A.*.a+2Eb".into()));
        assert_eq!(key(TopicMapping::Rabbitmq, ""), Err(FilterError::Empty));
        for filter in ["a+", "a/b#", "+a/b", "#/#b"] {
            assert_eq!(key(TopicMapping::Rabbitmq, filter), Err(FilterError::Wildcard), "{filter}");
        }
    }

    #[test]
    fn sparkplug_versions() {
        let there_and_back = |topic| there_and_back(TopicMapping::Sparkplug, topic);
        for (topic, key) in [
            ("spBv1.0/group/NDATA/node", "spBv1___0.group.NDATA.node"),
            ("spAv10.25/g", "spAv10___25.g"),
            ("cities/london", "cities.london"),
            ("a/spBv1___0/b", "a.spBv1___0.b"),
        ] {
            assert_eq!(there_and_back(topic), (key.into(), Ok(topic.into())));
        }
        for topic in ["spBv1.0", "spCv1.0/x", "spBv.0/x", "spBv1./x", "spBv1.0a/x", "x/spBv1.0/x"] {
            assert_eq!(there_and_back(topic).0, topic.replace('/', "."));
        }
        let mut key = Vec::new();
        TopicMapping::Sparkplug.binding_key("spBv1.0/+/#", &mut key).unwrap();
        assert_eq!(key, b"spBv1___0.*.#");
    }

    #[test]
    fn shared_filters() {
        assert_eq!(shared("a/b"), None);
        assert_eq!(shared("$share"), None);
        assert_eq!(shared("$share/g/a/#"), Some(Ok(("g", "a/#"))));
        assert_eq!(shared("$share/g//"), Some(Ok(("g", "/"))));
        for filter in ["$share/", "$share/g", "$share/g/", "$share//a"] {
            assert_eq!(shared(filter), Some(Err(FilterError::Empty)), "{filter}");
        }
        assert_eq!(shared("$share/g+/a"), Some(Err(FilterError::Wildcard)));
    }

    #[test]
    fn matching_is_a_topic_exchange_s() {
        for (binding, key) in [
            ("a.b", "a.b"),
            ("a.*", "a.b"),
            ("a.*", "a."),
            ("#", "a"),
            ("#", "a.b.c"),
            ("a.#", "a"),
            ("a.#", "a.b.c"),
            ("#.c", "c"),
            ("#.c", "a.c.b.c"),
            ("a.#.z", "a.z"),
            ("a.#.z", "a.b.z.c.z"),
            ("#.*", "a"),
            ("*.#.#", "a"),
            ("#.a.#.b.#", "x.a.y.a.b"),
        ] {
            assert!(matches(binding.as_bytes(), key.as_bytes()), "{binding} {key}");
        }
        for (binding, key) in [
            ("a.b", "a"),
            ("a", "a.b"),
            ("a.*", "a"),
            ("*", "a.b"),
            ("#.c", "c.d"),
            ("a.#.z", "a"),
            ("#.*.*", "a"),
            ("#.a.#.b", "b.a"),
            ("$SYS.*", "a.b"),
        ] {
            assert!(!matches(binding.as_bytes(), key.as_bytes()), "{binding} {key}");
        }
    }

    /// As the words of AMQP 0-9-1 have it, however long that takes.
    fn matches_by_the_book(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match (pattern, key) {
            ([], _) => key.is_empty(),
            ([b"#", behind @ ..], _) => {
                matches_by_the_book(behind, key)
                    || key.split_first().is_some_and(|(_, rest)| matches_by_the_book(pattern, rest))
            }
            ([b"*", behind @ ..], [_, rest @ ..]) => matches_by_the_book(behind, rest),
            ([literal, behind @ ..], [word, rest @ ..]) => {
                literal == word && matches_by_the_book(behind, rest)
            }
            (_, []) => false,
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]
        #[test]
        fn matching_is_as_the_book_has_it(binding in "([ab*#]{0,1}\\.){0,6}[ab*#]{0,1}", key in "([ab]{0,1}\\.){0,9}[ab]{0,1}") {
            let (binding, key) = (binding.as_bytes(), key.as_bytes());
            let by_the_book = matches_by_the_book(&words(binding).collect::<Vec<_>>(), &words(key).collect::<Vec<_>>());
            assert_eq!(matches(binding, key), by_the_book);
        }
    }

    /// 256 words are the most that a key can have.
    #[test]
    fn keys_of_the_most_words_there_are() {
        let dots = ".".repeat(255);
        for (binding, expected) in [
            ("#.#", true),
            ("#.", true),
            (".#.", true),
            ("#.*.#", true),
            (&*format!("#{}", ".*".repeat(127)), true),
            (&*format!("#.{}", ".".repeat(253)), true),
            ("#.a.#", false),
            (&*format!("#.{}.#", ".".repeat(251)), true),
        ] {
            assert_eq!(matches(binding.as_bytes(), dots.as_bytes()), expected, "{binding}");
        }
        let most = "a.".repeat(127);
        assert!(matches(b"#.a.#.a.", most.as_bytes()) && !matches(b"#.b.#.a.", most.as_bytes()));
    }

    #[test]
    fn routing_keys_that_are_no_topic() {
        let mut topic = String::new();
        for key in [&b""[..], b"a.+", b"a.#.b", b"\xff", b"a\0", b"+2X"] {
            for mapping in [TopicMapping::Rabbitmq, TopicMapping::Reversible] {
                assert_eq!(mapping.topic_name(key, &mut topic), Err(NotATopic));
            }
        }
        assert_eq!(TopicMapping::Rabbitmq.topic_name(b"+2E", &mut topic), Err(NotATopic));
    }
}

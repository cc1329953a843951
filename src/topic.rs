//! Topic names and filters to AMQP routing and binding keys, and back.
//!
//! `cities/london` is `cities.london`; in filters `+` is `*` and `#` is `#`. What a level may hold besides is where the two
//! worlds differ, and a [`TopicMapping`] says how.

use core::fmt;

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
    let (mut pattern, mut key) = (words(binding_key), words(routing_key));
    // Where to go on when it comes to nothing: behind the last `#`, which then takes one word more.
    let mut retry = None;
    loop {
        let key_here = key.clone();
        match (pattern.next(), key.next()) {
            (None, None) => return true,
            (Some(b"#"), _) => {
                key = key_here;
                retry = Some((pattern.clone(), key.clone()));
            }
            (Some(b"*"), Some(_)) => {}
            (Some(literal), Some(word)) if literal == word => {}
            _ => {
                let Some((behind, from)) = &mut retry else { return false };
                if from.next().is_none() {
                    return false;
                }
                (pattern, key) = (behind.clone(), from.clone());
            }
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

//! Topic names and filters as MQTT has them, with RabbitMQ's three liberties: `#` may stand at any level, `.` is `/`, and a level
//! `*` of a filter is `+`.

/// A filter that can be subscribed to. Two that say the same are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Filter(Vec<String>);

/// A topic name.
pub(super) struct Topic(Vec<String>);

impl Filter {
    /// `None` when it is refused.
    pub(super) fn new(text: &str) -> Option<Self> {
        let levels: Vec<String> =
            levels(text).map(|level| if level == "*" { "+" } else { level }.to_owned()).collect();
        let is_legal = |level: &String| level.len() == 1 || !level.contains(['+', '#']);
        (!text.is_empty() && levels.iter().all(is_legal)).then_some(Self(levels))
    }

    /// Whether it matches.
    pub(super) fn matches(&self, Topic(topic): &Topic) -> bool {
        levels_match(&self.0, topic)
    }

    /// Whether it starts with a wildcard, which does not match topics that start with `$`. [MQTT-4.7.2-1]
    pub(super) fn starts_with_wildcard(&self) -> bool {
        matches!(self.0.first().map(String::as_str), Some("+" | "#"))
    }
}

impl Topic {
    pub(super) fn new(text: &str) -> Self {
        Self(levels(text).map(str::to_owned).collect())
    }

    /// Whether it is a server's own.
    pub(super) fn is_special(&self) -> bool {
        self.0.first().is_some_and(|level| level.starts_with('$'))
    }

    /// The topic name that subscribers see.
    pub(super) fn arrives_as(&self) -> String {
        self.0.join("/")
    }
}

fn levels(text: &str) -> impl Iterator<Item = &str> {
    text.split(['/', '.'])
}

fn levels_match(filter: &[String], topic: &[String]) -> bool {
    let Some((first, rest)) = filter.split_first() else { return topic.is_empty() };
    match (first.as_str(), topic.split_first()) {
        ("#", None) => levels_match(rest, topic),
        ("#", Some((_, others))) => levels_match(rest, topic) || levels_match(filter, others),
        (_, None) => false,
        (level, Some((name, others))) => (level == "+" || level == name) && levels_match(rest, others),
    }
}

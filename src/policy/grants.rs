//! Grants: which topics a client may publish and which filters it may subscribe to.
//!
//! Topics are compared as the broker sees them, as words of a key: what a mapping makes the same topic is the same here. A list of
//! entries is a tree of words, so that the cost of a decision depends on the topic's length and not on how many entries there are; that of
//! a filter with wildcards, on how many places they reach, up to a [`Budget`]. A decision walks the tree with all places at once
//! that an entry may have come to.

use core::fmt;
use std::collections::BTreeMap;

use super::variables::{Values, Variable};
use crate::topic::{FilterError, TopicMapping};

/// `allow` and `deny` of `publish` or `subscribe`.
#[derive(Default)]
pub struct Grants {
    /// `None`: everything that is not denied.
    pub allow: Option<Entries>,
    /// What is refused whatever is allowed.
    pub deny: Entries,
}

/// Which entry decided; entries are numbered from 0 in their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is no `allow`, and no `deny` matches.
    Unrestricted,
    /// This `allow` matches.
    Allowed(usize),
    /// This `deny` matches.
    Denied(usize),
    /// No `allow` matches.
    NotAllowed,
    /// It would take too long to tell: a filter with many `#`, before many entries. Refused.
    TooComplex,
}

/// How many places decisions may still come to. One serves for all filters of a packet: some hundred with 1,000 entries each, or
/// thousands that are to the point.
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(262_144)
    }
}

/// A decision that would take more.
struct TooComplex;

impl Grants {
    /// Whether a message with this routing key may be published.
    pub fn publish(&self, routing_key: &[u8], values: &Values) -> Decision {
        if self.is_unrestricted() {
            return Decision::Unrestricted;
        }
        let words = || routing_key.split(|&byte| byte == b'.').map(Token::Word);
        let mut budget = Budget::default();
        let find = |entries: &Entries, reading| entries.find(words(), reading, values, &mut budget);
        self.decide(find)
    }

    /// Whether all that this binding key can match may be received; what it takes comes off `budget`.
    pub fn subscribe(&self, binding_key: &[u8], values: &Values, budget: &mut Budget) -> Decision {
        if self.is_unrestricted() {
            return Decision::Unrestricted;
        }
        let words = binding_key.split(|&byte| byte == b'.').map(|word| match word {
            b"*" => Token::One,
            b"#" => Token::Many,
            word => Token::Word(word),
        });
        let tokens = normal(words.collect());
        let find = |entries: &Entries, reading| entries.find(tokens.iter().copied(), reading, values, budget);
        self.decide(find)
    }

    fn is_unrestricted(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    fn decide(
        &self,
        mut find: impl FnMut(&Entries, Reading) -> Result<Option<usize>, TooComplex>,
    ) -> Decision {
        let denied = if self.deny.is_empty() { Ok(None) } else { find(&self.deny, Reading::Overlap) };
        match (denied, &self.allow) {
            (Err(TooComplex), _) => Decision::TooComplex,
            (Ok(Some(entry)), _) => Decision::Denied(entry),
            (Ok(None), None) => Decision::Unrestricted,
            (Ok(None), Some(allow)) => match find(allow, Reading::Within) {
                Ok(Some(entry)) => Decision::Allowed(entry),
                Ok(None) => Decision::NotAllowed,
                Err(TooComplex) => Decision::TooComplex,
            },
        }
    }
}

impl Decision {
    /// What comes of it.
    pub const fn is_permitted(self) -> bool {
        matches!(self, Self::Unrestricted | Self::Allowed(_))
    }
}

/// A list of topic filters with variables, as a tree.
pub struct Entries {
    /// The first is the root. A `#` is a node that is reached without a word and stays where it is with each.
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    words: BTreeMap<Box<[u8]>, usize>,
    templates: Vec<(Template, usize)>,
    one: Option<usize>,
    many: Option<usize>,
    is_many: bool,
    /// The first entry that ends here.
    entry: Option<usize>,
}

/// A word with variables in it.
#[derive(PartialEq, Eq)]
struct Template(Box<[Part]>);

#[derive(PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Variable(Variable),
}

/// A word of what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a [u8]),
    /// Any one word.
    One,
    /// Any number of words.
    Many,
}

/// So many places are looked through one by one.
const FEW: usize = 16;

/// What it takes for an entry to match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The entry matches all that is asked for.
    Within,
    /// The entry matches some of it.
    Overlap,
}

/// Why a text is no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// It is no topic filter.
    Filter(FilterError),
    /// A brace that does not belong to a variable.
    Brace,
}

impl Entries {
    /// No entry.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Adds an entry under its number.
    ///
    /// # Errors
    /// When it is no filter, or names what is no variable.
    pub fn add(&mut self, number: usize, text: &str, mapping: TopicMapping) -> Result<(), EntryError> {
        // In keys a control character stands for each variable, so that the text between is translated as it is in topics.
        let mut marked = text.to_owned();
        for variable in Variable::ALL {
            marked = marked.replace(variable.text(), marker(variable).encode_utf8(&mut [0; 4]));
        }
        if marked.contains(['{', '}']) || text.contains(|c| marked_variable(c).is_some()) {
            return Err(EntryError::Brace);
        }
        let mut key = Vec::new();
        mapping.binding_key(&marked, &mut key).map_err(EntryError::Filter)?;
        let tokens = key.split(|&byte| byte == b'.').map(|word| match word {
            b"*" => Token::One,
            b"#" => Token::Many,
            word => Token::Word(word),
        });
        let mut at = 0;
        for token in normal(tokens.collect()) {
            at = self.descend(at, token);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.entry.get_or_insert(number);
        }
        Ok(())
    }

    fn descend(&mut self, from: usize, token: Token<'_>) -> usize {
        let new = self.nodes.len();
        let Some(node) = self.nodes.get_mut(from) else { return from };
        let to = match token {
            Token::One => *node.one.get_or_insert(new),
            Token::Many => *node.many.get_or_insert(new),
            Token::Word(word) => match Template::parse(word) {
                None => *node.words.entry(word.into()).or_insert(new),
                Some(template) => match node.templates.iter().find(|(known, _)| *known == template) {
                    Some(&(_, to)) => to,
                    None => {
                        node.templates.push((template, new));
                        new
                    }
                },
            },
        };
        if to == new {
            self.nodes.push(Node { is_many: token == Token::Many, ..Node::default() });
        }
        to
    }

    /// The entry that matches.
    fn find<'a>(
        &self,
        tokens: impl Iterator<Item = Token<'a>>,
        reading: Reading,
        values: &Values,
        budget: &mut Budget,
    ) -> Result<Option<usize>, TooComplex> {
        let mut walk = Walk {
            entries: self,
            reading,
            values,
            here: Vec::new(),
            next: Vec::new(),
            seen: Vec::new(),
            step: 0,
        };
        walk.arrive(0);
        for (number, token) in tokens.enumerate() {
            core::mem::swap(&mut walk.here, &mut walk.next);
            walk.step(token, number == 0);
            if walk.next.is_empty() {
                return Ok(None);
            }
            budget.0 = budget.0.saturating_sub(walk.next.len());
            if budget.0 == 0 {
                return Err(TooComplex);
            }
        }
        Ok(walk.next.iter().filter_map(|&at| self.nodes.get(at)?.entry).min())
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

/// All places that entries have come to.
struct Walk<'w> {
    entries: &'w Entries,
    reading: Reading,
    values: &'w Values,
    here: Vec<usize>,
    next: Vec<usize>,
    /// The step in which each node was come to last; empty until there are so many that looking for one takes long.
    seen: Vec<u32>,
    step: u32,
}

impl<'w> Walk<'w> {
    fn step(&mut self, token: Token<'_>, is_first: bool) {
        self.next.clear();
        self.step += 1;
        if token == Token::Many && self.reading == Reading::Overlap {
            return self.spread();
        }
        // A topic that starts with `$` is not matched by a wildcard there [MQTT-4.7.2-1], but denied by one.
        let is_dollar = is_first
            && self.reading == Reading::Within
            && matches!(token, Token::Word(word) if word.starts_with(b"$"));
        for at in core::mem::take(&mut self.here) {
            let Some(node) = self.entries.nodes.get(at) else { continue };
            // Also not by one that needs no word.
            if is_dollar && node.is_many {
                continue;
            }
            let may_be_any = !is_dollar;
            if node.is_many && may_be_any {
                self.arrive(at);
            }
            match token {
                Token::Word(word) => {
                    if let Some(&to) = node.words.get(word) {
                        self.arrive(to);
                    }
                    for (template, to) in &node.templates {
                        if template.matches(word, self.values, self.reading) {
                            self.arrive(*to);
                        }
                    }
                    if let Some(to) = node.one.filter(|_| may_be_any) {
                        self.arrive(to);
                    }
                }
                Token::One if self.reading == Reading::Overlap => self.arrive_at_children(node),
                Token::One => {
                    if let Some(to) = node.one {
                        self.arrive(to);
                    }
                }
                Token::Many => {}
            }
        }
    }

    /// A node, and the `#` behind it, which needs no word.
    fn arrive(&mut self, at: usize) {
        let mut at = Some(at);
        while let Some(here) = at {
            let Some(node) = self.entries.nodes.get(here) else { return };
            // There are two ways to such a node, and one to any other.
            if node.is_many && self.is_there(here) {
                return;
            }
            self.next.push(here);
            at = node.many;
        }
    }

    /// Whether the walk has come to a node in this step already.
    fn is_there(&mut self, at: usize) -> bool {
        if self.seen.is_empty() {
            if self.next.len() <= FEW {
                return self.next.contains(&at);
            }
            self.seen.resize(self.entries.nodes.len(), 0);
            for &known in &self.next {
                if let Some(seen) = self.seen.get_mut(known) {
                    *seen = self.step;
                }
            }
        }
        self.seen.get_mut(at).is_some_and(|seen| core::mem::replace(seen, self.step) == self.step)
    }

    fn arrive_at_children(&mut self, node: &'w Node) {
        for child in node.children() {
            self.arrive(child);
        }
    }

    /// All that is behind where the walk is, and where it is.
    fn spread(&mut self) {
        let mut seen = vec![false; self.entries.nodes.len()];
        let mut queue = core::mem::take(&mut self.here);
        while let Some(at) = queue.pop() {
            let (Some(node), Some(seen)) = (self.entries.nodes.get(at), seen.get_mut(at)) else { continue };
            if !core::mem::replace(seen, true) {
                self.next.push(at);
                queue.extend(node.children().chain(node.many));
            }
        }
    }
}

impl Node {
    /// What one word leads to.
    fn children(&self) -> impl Iterator<Item = usize> {
        self.words.values().chain(self.templates.iter().map(|(_, to)| to)).chain(&self.one).copied()
    }
}

impl Template {
    /// `None` when there is no variable in it.
    fn parse(word: &[u8]) -> Option<Self> {
        let variable = |byte: u8| marked_variable(char::from(byte));
        let mut parts = Vec::new();
        let mut text = Vec::new();
        for &byte in word {
            match variable(byte) {
                Some(variable) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(core::mem::take(&mut text).into()));
                    }
                    parts.push(Part::Variable(variable));
                }
                None => text.push(byte),
            }
        }
        if parts.is_empty() {
            return None;
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Some(Self(parts.into()))
    }

    fn matches(&self, word: &[u8], values: &Values, reading: Reading) -> bool {
        let mut rest = word;
        for part in &self.0 {
            let text = match part {
                Part::Text(text) => text,
                Part::Variable(variable) => match values.word(*variable) {
                    Some(value) => value,
                    // What a client is called must not get it around a `deny`.
                    None => return reading == Reading::Overlap,
                },
            };
            match rest.strip_prefix(text) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

/// A run of wildcards means at least so many words, in whatever order they stand: first those that are one, then one `#`.
fn normal(tokens: Vec<Token<'_>>) -> Vec<Token<'_>> {
    let mut normal = Vec::with_capacity(tokens.len());
    let mut is_many = false;
    for token in tokens {
        match token {
            Token::Many => is_many = true,
            Token::One => normal.push(Token::One),
            Token::Word(_) => {
                if core::mem::take(&mut is_many) {
                    normal.push(Token::Many);
                }
                normal.push(token);
            }
        }
    }
    if is_many {
        normal.push(Token::Many);
    }
    normal
}

/// U+0001 and on: what no topic of a sane configuration holds, and no mapping touches.
const fn marker(variable: Variable) -> char {
    (variable as u8 + 1) as char
}

fn marked_variable(character: char) -> Option<Variable> {
    Variable::ALL.into_iter().find(|variable| marker(*variable) == character)
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(error) => error.fmt(f),
            Self::Brace => {
                let known = Variable::ALL.map(Variable::text).join(", ");
                write!(f, "braces are for variables: {known}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Entries {
        let mut entries = Entries::default();
        for (number, text) in texts.iter().enumerate() {
            entries.add(number, text, TopicMapping::Rabbitmq).unwrap();
        }
        entries
    }

    fn allow(texts: &[&str]) -> Grants {
        Grants { allow: Some(entries(texts)), ..Grants::default() }
    }

    fn deny(texts: &[&str]) -> Grants {
        Grants { allow: None, deny: entries(texts) }
    }

    fn client(client_id: &str) -> Values {
        Values::new([client_id, "u", "/", "acme", "", "", ""], TopicMapping::Rabbitmq)
    }

    fn publish(grants: &Grants, topic: &str, client_id: &str) -> bool {
        let mut key = Vec::new();
        TopicMapping::Rabbitmq.routing_key(topic, &mut key);
        grants.publish(&key, &client(client_id)).is_permitted()
    }

    fn subscribe(grants: &Grants, filter: &str) -> bool {
        let mut key = Vec::new();
        TopicMapping::Rabbitmq.binding_key(filter, &mut key).unwrap();
        grants.subscribe(&key, &client("c"), &mut Budget::default()).is_permitted()
    }

    #[test]
    fn what_is_allowed_may_be_published_and_nothing_else() {
        let grants = allow(&["a/b", "c/+/d", "e/#", "x/#/y", "dev-{client_id}/{username}/+"]);
        for topic in ["a/b", "c/1/d", "c//d", "e", "e/1", "e/1/2", "x/y", "x/1/2/y", "dev-c/u/1", "a.b"] {
            assert!(publish(&grants, topic, "c"), "{topic}");
        }
        for topic in ["a", "a/b/c", "c/d", "c/1/2/d", "f", "x/1", "dev-c/v/1", "dev-cc/u/1", "dev-c/u", ""] {
            assert!(!publish(&grants, topic, "c"), "{topic}");
        }
        assert!(!publish(&allow(&[]), "a", "c"), "an empty list allows nothing");
        assert!(publish(&Grants::default(), "a", "c"));
    }

    #[test]
    fn what_is_denied_is_so_whatever_is_allowed() {
        let grants = Grants { deny: entries(&["a/secret/#", "+/x"]), ..allow(&["a/#", "$a/#"]) };
        assert!(publish(&grants, "a/b", "c"));
        for topic in ["a/secret", "a/secret/b", "a/x", "$a/x", "a.secret.b"] {
            assert!(!publish(&grants, topic, "c"), "{topic}");
        }
    }

    #[test]
    fn the_decision_names_the_entry() {
        let grants = Grants { deny: entries(&["z", "a/b"]), ..allow(&["q", "a/+", "a/+"]) };
        let decide = |key: &[u8]| grants.publish(key, &client("c"));
        assert_eq!(decide(b"a.c"), Decision::Allowed(1));
        assert_eq!(decide(b"a.b"), Decision::Denied(1));
        assert_eq!(decide(b"r"), Decision::NotAllowed);
        assert_eq!(Grants::default().publish(b"r", &client("c")), Decision::Unrestricted);
    }

    #[test]
    fn dollar_topics_are_denied_but_not_allowed_by_wildcards() {
        assert!(!publish(&allow(&["#"]), "$SYS/x", "c"));
        assert!(!publish(&allow(&["+/x"]), "$SYS/x", "c"));
        assert!(!publish(&allow(&["#/$SYS/x"]), "$SYS/x", "c"));
        assert!(publish(&allow(&["$SYS/#"]), "$SYS/x", "c"));
        assert!(!publish(&deny(&["#"]), "$SYS/x", "c"));
        assert!(!subscribe(&allow(&["#"]), "$SYS/x"));
        assert!(!subscribe(&deny(&["+/x"]), "$SYS/x"));
    }

    #[test]
    fn a_client_gets_nothing_by_what_it_is_called() {
        let grants = allow(&["devices/{client_id}/#"]);
        for (client_id, topic) in [
            ("a/b", "devices/a/b/x"),
            ("+", "devices/+/x"),
            ("#", "devices/x"),
            ("*", "devices/x/y"),
            ("victim.cmd", "devices/victim/cmd"),
            ("", "devices//x"),
        ] {
            assert!(!publish(&grants, topic, client_id), "{client_id}");
        }
        assert!(!publish(&allow(&["{cert_cn}/x"]), "/x", "c"), "not known");
        // Nor around a denial.
        for client_id in ["a/b", "", "victim.cmd"] {
            assert!(!publish(&deny(&["devices/{client_id}/x"]), "devices/1/x", client_id), "{client_id}");
        }
        assert!(publish(&deny(&["devices/{client_id}/x"]), "devices/1/x", "2"));
    }

    #[test]
    fn a_dot_may_be_a_part_of_a_level() {
        let mapping = TopicMapping::Reversible;
        let mut entries = Entries::default();
        entries.add(0, "v1.0/{client_id}/*", mapping).unwrap();
        let grants = Grants { allow: Some(entries), ..Grants::default() };
        let decide = |topic, client_id| {
            let mut key = Vec::new();
            mapping.routing_key(topic, &mut key);
            grants.publish(&key, &Values::new([client_id, "", "", "", "", "", ""], mapping)).is_permitted()
        };
        assert!(decide("v1.0/sensor.1/*", "sensor.1"));
        assert!(!decide("v1/0/sensor.1/*", "sensor.1"));
        assert!(!decide("v1.0/sensor.1/x", "sensor.1"), "a star is a star");
        assert!(!decide("v1.0/./*", "+2E"));
    }

    #[test]
    fn a_subscription_is_allowed_when_all_of_it_is() {
        let grants = allow(&["a/+/c", "d/#", "+/e", "f/#/g/+"]);
        for filter in
            ["a/b/c", "a/+/c", "d", "d/#", "d/+/x", "d/#/x", "+/e", "z/e", "f/#/g/+", "f/1/g/2", "f/+/#/g/x"]
        {
            assert!(subscribe(&grants, filter), "{filter}");
        }
        for filter in ["#", "+", "+/+/c", "a/#", "a/+/+", "+/#", "#/e", "+/+", "f/#/g/#", "f/#"] {
            assert!(!subscribe(&grants, filter), "{filter}");
        }
        // The same in another order.
        assert!(subscribe(&allow(&["a/+/#"]), "a/#/+"));
        assert!(subscribe(&allow(&["a/#/+"]), "a/+/#"));
        assert!(!subscribe(&allow(&["a/+/#"]), "a/#"));
        assert!(subscribe(&allow(&["#"]), "#"));
    }

    #[test]
    fn a_subscription_is_denied_when_any_of_it_is() {
        let grants = deny(&["a/secret", "b/+/c", "d/#/e", "own/{client_id}"]);
        for filter in [
            "a/secret", "a/+", "#", "+/secret", "a/#", "b/x/c", "b/#", "d/e", "d/1/+", "#/e", "+/+", "own/+",
            "own/c",
        ] {
            assert!(!subscribe(&grants, filter), "{filter}");
        }
        for filter in ["a/public", "a/secret/x", "b/c", "d/1/f", "x/+/+/+/f", "own/d", "own/c/x"] {
            assert!(subscribe(&grants, filter), "{filter}");
        }
    }

    #[test]
    fn no_filter_takes_long() {
        let texts: Vec<String> = (0..1000).map(|n| format!("a/{n}/+/x/#")).collect();
        let grants = deny(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(!subscribe(&grants, "a/#"));
        assert!(!subscribe(&grants, "#/q/#"), "an entry's # takes it");
        assert!(subscribe(&grants, "b/#"));
        let many = ["#/a"; 60].join("/");
        let mut key = Vec::new();
        TopicMapping::Rabbitmq.binding_key(&many, &mut key).unwrap();
        assert_eq!(grants.subscribe(&key, &client("c"), &mut Budget(65_536)), Decision::TooComplex);
    }

    #[test]
    fn places_are_counted_once_however_many_there_are() {
        let texts: Vec<String> = (0..1000).map(|n| format!("a/{n}/#")).collect();
        let grants = deny(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        // Each level has the thousand once, and each `#` behind it.
        for (levels, left) in [(2, 1_000), (3, 2_000)] {
            let mut budget = Budget(left);
            let key =
                ["a"].into_iter().chain(["*"; 2].into_iter().take(levels - 1)).collect::<Vec<_>>().join(".");
            let decision = grants.subscribe(key.as_bytes(), &client("c"), &mut budget);
            assert_eq!(decision, Decision::TooComplex, "{key}");
            let decision = grants.subscribe(key.as_bytes(), &client("c"), &mut Budget(left + 1_100));
            assert_eq!(decision, Decision::Denied(0), "{key}");
        }
    }

    #[test]
    fn what_is_no_entry() {
        let add = |text| Entries::default().add(0, text, TopicMapping::Rabbitmq);
        assert_eq!(add(""), Err(EntryError::Filter(FilterError::Empty)));
        assert_eq!(add("a+"), Err(EntryError::Filter(FilterError::Wildcard)));
        for text in ["{clientid}/x", "a/{", "}", "{{client_id}}", "a/\u{1}"] {
            assert_eq!(add(text), Err(EntryError::Brace), "{text}");
        }
    }
}

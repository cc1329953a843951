//! Grants: which topics a client may publish and which filters it may subscribe to.
//!
//! Topics are compared as the broker sees them, as words of a key: what a mapping makes the same topic is the same here. A list of
//! entries is a tree of words, so that the cost of a decision depends on the topic's length and not on how many entries there are; that of
//! a filter with wildcards, on how many places they reach, up to a [`Budget`].

mod entries;
mod template;
mod walk;

pub use entries::{Entries, EntryError};

use super::variables::Values;
use entries::Token;
use walk::{Reading, TooComplex};

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

/// How many places decisions may still come to. One serves for all filters of a packet: some dozens that come to 1,000 entries each, or
/// thousands that are to the point. Whoever has none left is refused at once.
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(Self::MOST)
    }
}

impl Budget {
    /// That of a packet: about ten milliseconds.
    pub const MOST: usize = 65_536;

    /// What has been taken of it.
    pub const fn spent(&self) -> usize {
        Self::MOST.saturating_sub(self.0)
    }

    /// Takes as much before it is done.
    fn spend(&mut self, places: usize) -> Result<(), TooComplex> {
        let left = self.0.checked_sub(places);
        self.0 = left.unwrap_or_default();
        left.map(drop).ok_or(TooComplex)
    }
}

impl Grants {
    /// Whether a message with this routing key may be published; what it takes comes off `budget`.
    pub fn publish(&self, routing_key: &[u8], values: &Values, budget: &mut Budget) -> Decision {
        if self.is_unrestricted() {
            return Decision::Unrestricted;
        }
        let words = || routing_key.split(|&byte| byte == b'.').map(Token::Word);
        let find = |entries: &Entries, reading| entries.find(words(), reading, values, budget);
        self.decide(find)
    }

    /// The same for all that a binding key can match, which is to be received.
    pub fn subscribe(&self, binding_key: &[u8], values: &Values, budget: &mut Budget) -> Decision {
        if self.is_unrestricted() {
            return Decision::Unrestricted;
        }
        let tokens = entries::tokens(binding_key);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{FilterError, TopicMapping};

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
        grants.publish(&key, &client(client_id), &mut Budget::default()).is_permitted()
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
        let decide = |key: &[u8]| grants.publish(key, &client("c"), &mut Budget::default());
        assert_eq!(decide(b"a.c"), Decision::Allowed(1));
        assert_eq!(decide(b"a.b"), Decision::Denied(1));
        assert_eq!(decide(b"r"), Decision::NotAllowed);
        assert_eq!(
            Grants::default().publish(b"r", &client("c"), &mut Budget::default()),
            Decision::Unrestricted
        );
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
            let values = Values::new([client_id, "", "", "", "", "", ""], mapping);
            grants.publish(&key, &values, &mut Budget::default()).is_permitted()
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
        // The root and `a`; then each level has the thousand once, and each `#` behind it; and marks for all.
        for (key, places) in [(&b"a.*"[..], 2 + 2_000 + 31), (b"a.*.*", 2 + 3_000 + 31)] {
            let decide = |places| grants.subscribe(key, &client("c"), &mut Budget(places));
            assert_eq!(
                [decide(places - 1), decide(places)],
                [Decision::TooComplex, Decision::Denied(0)],
                "{key:?}"
            );
        }
    }

    #[test]
    fn what_has_used_its_budget_up_costs_nothing_more() {
        let texts: Vec<String> = (0..10_000).map(|n| format!("{n}/+/x")).collect();
        let grants = deny(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let mut budget = Budget(25_000);
        for (key, left) in
            [(&b"*.y"[..], true), (b"+.y", true), (b"*.*.y", false), (b"a", false), (b"#", false)]
        {
            let decision = grants.subscribe(key, &client("c"), &mut budget);
            assert_eq!(decision == Decision::Unrestricted, left, "{key:?}");
            assert_eq!(budget.0 > 0, left, "{key:?}");
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

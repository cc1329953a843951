//! RabbitMQ's permissions: regular expressions over the names of exchanges and queues, and over the dotted keys of topics.

use std::collections::BTreeMap;
use std::rc::Rc;

use regex_lite::Regex;

use super::variables::{Values, Variable};

/// `permissions` by user and virtual host.
pub type Permissions = BTreeMap<(Box<str>, Box<str>), Permission>;

/// `topic_permissions` by user, virtual host and exchange.
pub type TopicPermissions = BTreeMap<[Box<str>; 3], TopicPermission>;

/// What a user may do in a virtual host.
pub struct Permission {
    /// Queues that it may declare.
    pub configure: Expression,
    /// Exchanges that it may publish to, and queues that it may bind.
    pub write: Expression,
    /// Queues that it may consume, and exchanges that it may bind to.
    pub read: Expression,
}

/// Which topics of an exchange a user may use.
pub struct TopicPermission {
    /// To publish.
    pub write: Expression,
    /// To subscribe.
    pub read: Expression,
}

/// A regular expression that has to match somewhere in a text, as RabbitMQ has it.
#[derive(Clone)]
pub enum Expression {
    /// All texts: `.*`, which most permissions are.
    Anything,
    /// What is matched by this.
    Matching(Rc<Regex>),
    /// With variables, whose values are known when the client is.
    Template(Rc<str>),
    /// No text.
    Nothing,
}

impl Expression {
    /// As it is exported in a topic permission, where there may be variables; the empty expression matches nothing.
    ///
    /// # Errors
    /// With what is wrong, when it is none or has what this kind lacks: look-around and back-references.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !variables().any(|variable| text.contains(variable.text())) {
            return Self::parse_plain(text);
        }
        // Whatever the values are, it has to be one.
        Regex::new(&filled(text, |_| String::new())).map_err(|error| error.to_string())?;
        Ok(Self::Template(text.into()))
    }

    /// As it is exported in a permission, where what would be a variable is a text like any other.
    ///
    /// # Errors
    /// As [`Expression::parse`].
    pub fn parse_plain(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Nothing),
            ".*" | "^.*" | ".*$" => Ok(Self::Anything),
            _ => {
                let regex = Regex::new(&filled(text, |variable| regex_lite::escape(variable.text())));
                Ok(Self::Matching(regex.map_err(|error| error.to_string())?.into()))
            }
        }
    }

    /// With the client's values, each taken literally.
    pub fn of(&self, values: &Values) -> Self {
        let Self::Template(text) = self else { return self.clone() };
        // Too large with them: then it permits nothing.
        let regex = Regex::new(&filled(text, |variable| regex_lite::escape(values.text(variable))));
        regex.map_or(Self::Nothing, |regex| Self::Matching(regex.into()))
    }

    /// Whether it matches a name or key.
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Matching(regex) => core::str::from_utf8(text).is_ok_and(|text| regex.is_match(text)),
            // A template is made one of the others first.
            Self::Template(_) | Self::Nothing => false,
        }
    }
}

/// Those of RabbitMQ.
fn variables() -> impl Iterator<Item = Variable> {
    [Variable::Username, Variable::Vhost, Variable::ClientId].into_iter()
}

/// The text with each variable's value; what comes in by a value is not looked at again.
fn filled(text: &str, value: impl Fn(Variable) -> String) -> String {
    let mut filled = String::new();
    let mut rest = text;
    let first = |text: &str| {
        variables()
            .filter_map(|variable| Some((text.find(variable.text())?, variable)))
            .min_by_key(|&(at, _)| at)
    };
    while let Some((at, variable)) = first(rest) {
        let (before, behind) = rest.split_at(at);
        filled.push_str(before);
        filled.push_str(&value(variable));
        rest = behind.get(variable.text().len()..).unwrap_or_default();
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicMapping;

    fn matches(expression: &str, text: &str) -> bool {
        let values = Values::new(["c.1", "{client_id}", "/", "", "", "", ""], TopicMapping::Rabbitmq);
        let expression = Expression::parse(expression).unwrap();
        expression.of(&values).matches(text.as_bytes())
    }

    #[test]
    fn an_expression_matches_anywhere_unless_it_is_anchored() {
        for (expression, text) in
            [(".*", ""), (".*", "a"), ("b", "abc"), ("^a", "abc"), ("^(a|b)$", "b"), (r"^a\.b", "a.b.c")]
        {
            assert!(matches(expression, text), "{expression} {text}");
        }
        for (expression, text) in [("", ""), ("", "a"), ("^b", "abc"), ("^$", "a"), ("^(a|b)$", "ab")] {
            assert!(!matches(expression, text), "{expression} {text}");
        }
    }

    #[test]
    fn variables_are_taken_literally() {
        assert!(matches(r"^{client_id}\.", "c.1.x"));
        assert!(!matches(r"^{client_id}\.", "cx1.x"), "a dot is a dot");
        assert!(matches("^{username}$", "{client_id}"), "and a value is not filled in again");
        assert!(matches("^{vhost}{client_id}$", "/c.1"));
    }

    #[test]
    fn a_permission_has_no_variables() {
        let expression = Expression::parse_plain("^{username}|amq").unwrap();
        assert!(expression.matches(b"amq.topic") && expression.matches(b"{username}"));
        assert!(!expression.matches(b"u"));
    }

    #[test]
    fn what_is_no_expression() {
        for text in ["(", "(?!a)b", r"(a)\1", "{client_id}("] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}

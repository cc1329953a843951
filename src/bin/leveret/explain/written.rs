//! The configuration as it is written, to quote from: the core keeps no texts of what it has understood.

use std::fmt;

use serde_json::Value;

use crate::Wrong;

/// A configuration, and whose settings hold.
pub(super) struct Written {
    top: Value,
    tenant: Option<usize>,
}

/// A value in it. Only what is no secret is asked for.
pub(super) struct Quote<'a> {
    pub(super) path: String,
    pub(super) value: &'a Value,
}

impl Written {
    /// Of a text that the core has taken.
    pub(super) fn new(json: &str) -> Result<Self, Wrong> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let top = serde_json::from_str(json).map_err(|error| Wrong(format!("not JSON: {error}")))?;
        Ok(Self { top, tenant: None })
    }

    /// With the settings of the tenant of this number, or of clients without one.
    pub(super) fn of_tenant(self, tenant: Option<usize>) -> Self {
        Self { tenant, ..self }
    }

    /// A key of the top level's.
    pub(super) fn top(&self, key: &str) -> Option<Quote<'_>> {
        Some(Quote { path: key.to_owned(), value: set(&self.top, key)? })
    }

    /// A key of the tenant's own.
    pub(super) fn own(&self, key: &str) -> Option<Quote<'_>> {
        self.top("tenants")?.at(self.tenant?)?.get(key)
    }

    /// A key that holds for the client: its tenant's, or else the top level's.
    pub(super) fn term(&self, key: &str) -> Option<Quote<'_>> {
        self.own(key).or_else(|| self.top(key))
    }

    /// The same in words, where there may be nothing but a default.
    pub(super) fn term_or(&self, key: &str, default: &str) -> String {
        self.term(key).map_or_else(|| format!("{key}, by default: {default}"), |quote| quote.to_string())
    }

    /// The entry of a list of RabbitMQ's that is for these; the core takes no list with two.
    pub(super) fn entry(&self, list: &str, of: &[(&str, &str)]) -> Option<Quote<'_>> {
        let list = self.term(list)?;
        let fits = |entry: &Value| {
            of.iter().all(|(key, text)| entry.get(*key).and_then(Value::as_str) == Some(*text))
        };
        let number = list.value.as_array()?.iter().position(fits)?;
        list.at(number)
    }
}

impl<'a> Quote<'a> {
    /// An element of a list.
    pub(super) fn at(&self, number: usize) -> Option<Quote<'a>> {
        Some(Quote { path: format!("{}[{number}]", self.path), value: self.value.get(number)? })
    }

    /// A key of an object.
    pub(super) fn get(&self, key: &str) -> Option<Quote<'a>> {
        Some(Quote { path: format!("{}.{key}", self.path), value: set(self.value, key)? })
    }

    /// All elements of a list; of anything else, itself.
    pub(super) fn each(&self) -> Vec<Quote<'a>> {
        match self.value.as_array() {
            Some(list) => (0..list.len()).filter_map(|number| self.at(number)).collect(),
            None => vec![Quote { path: self.path.clone(), value: self.value }],
        }
    }

    /// Text as it is, anything else as JSON.
    pub(super) fn text(&self) -> String {
        self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned)
    }
}

/// The value of a key. `null` is none, as it is for the core.
fn set<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text())
    }
}

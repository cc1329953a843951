//! Reading keys out of JSON, so that each error says where it is and what was expected there.
//!
//! A struct derived for each object would do, too, at ten times the size: the module of every worker carries this. Values stay in
//! the text they came in until they are asked for, so that a list of ten thousand users costs no tree of values.

use core::fmt;
use std::collections::BTreeSet;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{ConfigError, Result};

/// An object whose keys are taken one after the other; what is left in the end is unknown.
#[derive(Default)]
pub(super) struct Keys<'a> {
    /// Where it is, and behind it a dot unless that is the top.
    path: String,
    left: Vec<(String, &'a RawValue)>,
}

/// A value and where it is.
pub(super) struct At<'a> {
    pub(super) path: String,
    json: &'a RawValue,
}

impl<'a> Keys<'a> {
    /// The whole of a configuration.
    pub(super) fn top(json: &'a [u8]) -> Result<Self> {
        let expected = "expected a JSON object in a StringValue (a Struct arrives as protobuf)";
        let top = match json.trim_ascii() {
            b"" => return Ok(Self { path: String::new(), left: Vec::new() }),
            object @ [b'{', ..] => serde_json::from_slice(object),
            _ => return Err(ConfigError::new(".", expected)),
        };
        let Object(left) = top.map_err(|error| ConfigError::new(".", problem(&error)))?;
        Ok(Self { path: String::new(), left })
    }

    /// The path of one of its keys.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// The value of a key. `null` is none.
    pub(super) fn take(&mut self, key: &str) -> Option<At<'a>> {
        let at = self.left.iter().position(|(name, _)| name == key)?;
        let (_, json) = self.left.swap_remove(at);
        (json.get() != "null").then(|| At { path: self.path(key), json })
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        self.take(key).map(|value| value.text()).transpose()
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>> {
        self.take(key).map(|value| value.parse("expected true or false")).transpose()
    }

    /// A whole number of these.
    pub(super) fn number(&mut self, key: &str, least: u64, most: u64) -> Result<Option<u64>> {
        self.take(key).map(|value| value.number(least, most)).transpose()
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        self.take(key).map(|value| value.word(words)).transpose()
    }

    pub(super) fn list(&mut self, key: &str) -> Result<Option<Vec<At<'a>>>> {
        self.take(key).map(|value| value.list()).transpose()
    }

    /// A list, or one value as a list of one.
    pub(super) fn one_or_more(&mut self, key: &str) -> Result<Option<Vec<At<'a>>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let is_list = value.json.get().starts_with('[');
        if is_list { value.list().map(Some) } else { Ok(Some(vec![value])) }
    }

    pub(super) fn object(&mut self, key: &str) -> Result<Option<Keys<'a>>> {
        self.take(key).map(|value| value.object()).transpose()
    }

    /// All keys, whatever they are called, and texts.
    pub(super) fn texts(self) -> Result<Vec<(String, String)>> {
        let Self { path, left } = self;
        let text = |(key, json): (String, _)| {
            let value = At { path: format!("{path}{key}"), json };
            Ok((key, value.text()?))
        };
        left.into_iter().map(text).collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When there is a key that nobody has asked for.
    pub(super) fn finish(self) -> Result<()> {
        match self.left.first() {
            Some((key, _)) => Err(ConfigError::new(self.path(key), "is no key")),
            None => Ok(()),
        }
    }
}

impl<'a> At<'a> {
    pub(super) fn error(self, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(self.path, problem)
    }

    pub(super) fn is_text(&self) -> bool {
        self.json.get().starts_with('"')
    }

    pub(super) fn text(self) -> Result<String> {
        self.parse("expected a string")
    }

    pub(super) fn number(self, least: u64, most: u64) -> Result<u64> {
        // Who writes JSON may have had it as floating point, and write 10 as 10.0 or 1e+01.
        let number = serde_json::from_str(self.json.get()).unwrap_or(f64::NAN);
        if number.fract() == 0.0 && number >= least as f64 && number <= most as f64 {
            Ok(number as u64)
        } else {
            Err(self.error(format!("expected a whole number from {least} to {most}")))
        }
    }

    pub(super) fn word<T: Copy>(self, words: &[(&str, T)]) -> Result<T> {
        let word: Option<String> = serde_json::from_str(self.json.get()).ok();
        let known = words.iter().find(|(known, _)| Some(*known) == word.as_deref());
        known.map(|&(_, value)| value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.error(format!("expected one of {}", words.join(", ")))
        })
    }

    pub(super) fn list(self) -> Result<Vec<At<'a>>> {
        let values: Vec<&RawValue> = serde_json::from_str(self.json.get())
            .map_err(|_| ConfigError::new(self.path.as_str(), "expected a list"))?;
        let at = |(number, json)| At { path: format!("{}[{number}]", self.path), json };
        Ok(values.into_iter().enumerate().map(at).collect())
    }

    pub(super) fn object(self) -> Result<Keys<'a>> {
        // serde would take a sequence, too.
        let object = match self.json.get() {
            json if json.starts_with('{') => serde_json::from_str(json).map_err(|error| problem(&error)),
            _ => Err("expected an object".to_owned()),
        };
        match object {
            Ok(Object(left)) => Ok(Keys { path: format!("{}.", self.path), left }),
            Err(problem) => Err(self.error(problem)),
        }
    }

    /// Says nothing of the value, which may be a secret.
    fn parse<T: Deserialize<'a>>(self, expected: &str) -> Result<T> {
        serde_json::from_str(self.json.get()).map_err(|_| self.error(expected))
    }
}

/// Keys and values as they stand in the text, each key once.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> core::result::Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> core::result::Result<Object<'de>, M::Error> {
                let mut pairs: Vec<(String, &RawValue)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                let mut known = BTreeSet::new();
                match pairs.iter().find(|(key, _)| !known.insert(key.as_str())) {
                    Some((key, _)) => Err(serde::de::Error::custom(format_args!("`{key}` is there twice"))),
                    None => Ok(Object(pairs)),
                }
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// serde_json says where in the text; the text is Envoy's own, so the position helps nobody.
fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

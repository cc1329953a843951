//! Words with variables in them.

use super::walk::Reading;
use crate::policy::variables::{Values, Variable};

/// A word with variables in it.
#[derive(PartialEq, Eq)]
pub(super) struct Template(Box<[Part]>);

#[derive(PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Variable(Variable),
}

/// An entry's text with a control character for each variable, so that the text between is translated as it is in topics. `None` when
/// there are braces that are no variable's, or such characters already.
pub(super) fn mark(text: &str) -> Option<String> {
    let mut marked = text.to_owned();
    for variable in Variable::ALL {
        marked = marked.replace(variable.text(), marker(variable).encode_utf8(&mut [0; 4]));
    }
    let is_odd = marked.contains(['{', '}']) || text.contains(|c| marked_variable(c).is_some());
    (!is_odd).then_some(marked)
}

impl Template {
    /// Reads a word of a key that was made of a [`mark`]ed text; `None` when there is no variable in it.
    pub(super) fn parse(word: &[u8]) -> Option<Self> {
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

    pub(super) fn matches(&self, word: &[u8], values: &Values, reading: Reading) -> bool {
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

/// U+0001 and on: what no topic of a sane configuration holds, and no mapping touches.
const fn marker(variable: Variable) -> char {
    (variable as u8 + 1) as char
}

fn marked_variable(character: char) -> Option<Variable> {
    Variable::ALL.into_iter().find(|variable| marker(*variable) == character)
}

//! Entries as a tree of words.

use core::fmt;
use std::collections::BTreeMap;

use super::template::{self, Template};
use crate::policy::variables::Variable;
use crate::topic::{FilterError, TopicMapping};

/// A list of topic filters with variables, as a tree.
pub struct Entries {
    /// The first is the root. A `#` is a node that is reached without a word and stays where it is with each.
    pub(super) nodes: Vec<Node>,
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) words: BTreeMap<Box<[u8]>, usize>,
    pub(super) templates: Vec<(Template, usize)>,
    pub(super) one: Option<usize>,
    pub(super) many: Option<usize>,
    pub(super) is_many: bool,
    /// The first entry that ends here.
    pub(super) entry: Option<usize>,
}

/// A word of what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a [u8]),
    /// Any one word.
    One,
    /// Any number of words.
    Many,
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
        let marked = template::mark(text).ok_or(EntryError::Brace)?;
        let mut key = Vec::new();
        mapping.binding_key(&marked, &mut key).map_err(EntryError::Filter)?;
        let mut at = 0;
        for token in tokens(&key) {
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
}

impl Default for Entries {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl Node {
    /// What one word leads to.
    pub(super) fn children(&self) -> impl Iterator<Item = usize> {
        self.words.values().chain(self.templates.iter().map(|(_, to)| to)).chain(&self.one).copied()
    }
}

/// A binding key as it is asked for.
///
/// A run of wildcards means at least so many words, in whatever order they stand: first those that are one, then one `#`.
pub(super) fn tokens(binding_key: &[u8]) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut is_many = false;
    for word in binding_key.split(|&byte| byte == b'.') {
        match word {
            b"#" => is_many = true,
            b"*" => tokens.push(Token::One),
            word => {
                if core::mem::take(&mut is_many) {
                    tokens.push(Token::Many);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    if is_many {
        tokens.push(Token::Many);
    }
    tokens
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

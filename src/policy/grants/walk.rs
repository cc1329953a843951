//! The search of entries: it walks the tree with all places at once that an entry may have come to.

use super::Budget;
use super::entries::{Entries, Token};
use crate::policy::variables::Values;

/// What it takes for an entry to match.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// The entry matches all that is asked for.
    Within,
    /// The entry matches some of it.
    Overlap,
}

/// A decision that would take more than its [`Budget`].
pub(super) struct TooComplex;

impl Entries {
    /// The entry that matches.
    pub(super) fn find<'a>(
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
            budget,
            here: Vec::new(),
            next: Vec::new(),
            seen: Vec::new(),
            step: 0,
        };
        walk.arrive(0)?;
        for (number, token) in tokens.enumerate() {
            core::mem::swap(&mut walk.here, &mut walk.next);
            walk.step(token, number == 0)?;
            if walk.next.is_empty() {
                return Ok(None);
            }
        }
        Ok(walk.next.iter().filter_map(|&at| self.nodes.get(at)?.entry).min())
    }
}

/// All places that entries have come to.
struct Walk<'w> {
    entries: &'w Entries,
    reading: Reading,
    values: &'w Values,
    budget: &'w mut Budget,
    here: Vec<usize>,
    next: Vec<usize>,
    /// The step in which each node was come to last; empty until there are so many that looking for one takes long.
    seen: Vec<u32>,
    step: u32,
}

impl<'w> Walk<'w> {
    fn step(&mut self, token: Token<'_>, is_first: bool) -> Result<(), TooComplex> {
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
                self.arrive(at)?;
            }
            match token {
                Token::Word(word) => {
                    if let Some(&to) = node.words.get(word) {
                        self.arrive(to)?;
                    }
                    self.budget.spend(node.templates.len())?;
                    for (template, to) in &node.templates {
                        if template.matches(word, self.values, self.reading) {
                            self.arrive(*to)?;
                        }
                    }
                    if let Some(to) = node.one.filter(|_| may_be_any) {
                        self.arrive(to)?;
                    }
                }
                Token::One if self.reading == Reading::Overlap => {
                    for child in node.children() {
                        self.arrive(child)?;
                    }
                }
                Token::One => {
                    if let Some(to) = node.one {
                        self.arrive(to)?;
                    }
                }
                Token::Many => {}
            }
        }
        Ok(())
    }

    /// A node, and the `#` behind it, which needs no word.
    fn arrive(&mut self, at: usize) -> Result<(), TooComplex> {
        let mut at = Some(at);
        while let Some(here) = at {
            let Some(node) = self.entries.nodes.get(here) else { break };
            // There are two ways to such a node, and one to any other.
            if node.is_many && self.is_there(here)? {
                break;
            }
            self.budget.spend(1)?;
            self.next.push(here);
            at = node.many;
        }
        Ok(())
    }

    /// Whether the walk has come to a node in this step already.
    fn is_there(&mut self, at: usize) -> Result<bool, TooComplex> {
        if self.seen.is_empty() {
            if self.next.len() <= FEW {
                return Ok(self.next.contains(&at));
            }
            self.seen = self.mark_each(0)?;
            for &known in &self.next {
                if let Some(seen) = self.seen.get_mut(known) {
                    *seen = self.step;
                }
            }
        }
        Ok(self.seen.get_mut(at).is_some_and(|seen| core::mem::replace(seen, self.step) == self.step))
    }

    /// All that is behind where the walk is, and where it is.
    fn spread(&mut self) -> Result<(), TooComplex> {
        let mut seen = self.mark_each(false)?;
        let mut queue = core::mem::take(&mut self.here);
        while let Some(at) = queue.pop() {
            let (Some(node), Some(seen)) = (self.entries.nodes.get(at), seen.get_mut(at)) else { continue };
            if !core::mem::replace(seen, true) {
                self.budget.spend(1)?;
                self.next.push(at);
                queue.extend(node.children().chain(node.many));
            }
        }
        Ok(())
    }

    /// A mark for each node, which takes time, too.
    fn mark_each<T: Clone>(&mut self, mark: T) -> Result<Vec<T>, TooComplex> {
        let count = self.entries.nodes.len();
        self.budget.spend(count / MARKS)?;
        Ok(vec![mark; count])
    }
}

/// So many places are looked through one by one.
const FEW: usize = 16;

/// So many marks are made in the time that coming to a place takes.
const MARKS: usize = 64;

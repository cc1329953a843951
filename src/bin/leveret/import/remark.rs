//! What the operator has to know: everything that has no counterpart, or not quite the same one.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use super::conf::Setting;

/// One of them.
#[derive(Clone, Serialize, PartialEq, Eq)]
pub(super) struct Remark {
    /// Somebody has to do something, or to know that clients meet a difference.
    attention: bool,
    /// A key of rabbitmq.conf, or a thing in the definitions.
    key: String,
    /// File and line.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
}

/// All of them, in the order in which they came up.
#[derive(Default)]
pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    /// A setting that needs attention.
    pub(super) fn attend(&mut self, setting: &Setting, why: impl Into<String>, action: impl Into<String>) {
        self.push(true, setting, Some(setting.place.to_string()), why.into(), Some(action.into()));
    }

    /// A setting that needs none.
    pub(super) fn note(&mut self, setting: &Setting, why: impl Into<String>) {
        self.push(false, setting, Some(setting.place.to_string()), why.into(), None);
    }

    /// Something that is no setting, and needs attention.
    pub(super) fn attend_to(&mut self, key: impl Display, why: impl Into<String>, action: impl Into<String>) {
        self.push(true, key, None, why.into(), Some(action.into()));
    }

    /// Something that is no setting, and needs none.
    pub(super) fn note_of(&mut self, key: impl Display, why: impl Into<String>) {
        self.push(false, key, None, why.into(), None);
    }

    fn push(
        &mut self,
        attention: bool,
        key: impl Display,
        place: Option<String>,
        why: String,
        action: Option<String>,
    ) {
        self.0.push(Remark { attention, key: key.to_string(), place, why, action });
    }

    /// For JSON.
    pub(super) fn as_slice(&self) -> &[Remark] {
        &self.0
    }

    /// For people: what needs attention first, and once what is said of several keys.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (attention, heading) in [(true, "Needs attention"), (false, "Good to know")] {
            let mut remarks: Vec<_> = self.0.iter().filter(|remark| remark.attention == attention).collect();
            if remarks.is_empty() {
                continue;
            }
            writeln!(out, "{heading}:")?;
            while let Some(first) = remarks.first().copied() {
                let (same, others) = remarks.iter().partition(|remark| remark.says_the_same(first));
                remarks = others;
                writeln!(out)?;
                for remark in same {
                    write!(out, "  {}", remark.key)?;
                    if let Some(place) = &remark.place {
                        write!(out, " ({place})")?;
                    }
                    writeln!(out)?;
                }
                writeln!(out, "      {}", first.why)?;
                if let Some(action) = &first.action {
                    writeln!(out, "      -> {action}")?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

impl Remark {
    fn says_the_same(&self, other: &Self) -> bool {
        self.why == other.why && self.action == other.action
    }
}

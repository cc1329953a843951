//! What is decided, and the steps that lead to it.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

/// The decision, as people and as programs read it.
pub(super) struct Story {
    verdict: Verdict,
    /// The rule that made it.
    rule: String,
    /// What comes of a refusal.
    aftermath: Option<Aftermath>,
    steps: Vec<Step>,
}

/// What a refused client is told, and what the operator is.
pub(super) struct Aftermath {
    pub(super) client_hears: String,
    /// `None` where there is no line.
    pub(super) log_says: Option<String>,
}

/// How it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client may do it.
    Permitted,
    /// It may not, but it is in.
    Denied,
    /// It does not come in.
    Refused,
}

struct Step {
    name: &'static str,
    is: String,
    /// By which rules.
    by: Vec<String>,
}

/// The steps so far.
#[derive(Default)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    pub(super) fn add(
        &mut self,
        name: &'static str,
        is: impl Into<String>,
        by: impl IntoIterator<Item = String>,
    ) {
        self.0.push(Step { name, is: is.into(), by: by.into_iter().collect() });
    }

    pub(super) fn permitted(self, rule: String) -> Story {
        Story { verdict: Verdict::Permitted, rule, aftermath: None, steps: self.0 }
    }

    pub(super) fn denied(self, rule: String, aftermath: Aftermath) -> Story {
        Story { verdict: Verdict::Denied, rule, aftermath: Some(aftermath), steps: self.0 }
    }

    pub(super) fn refused(self, rule: String, aftermath: Aftermath) -> Story {
        Story { verdict: Verdict::Refused, rule, aftermath: Some(aftermath), steps: self.0 }
    }
}

impl Story {
    pub(super) fn is_permitted(&self) -> bool {
        self.verdict == Verdict::Permitted
    }

    /// For people: the decision first, then how it came about.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}: {}", self.verdict.word(), self.rule)?;
        if let Some(Aftermath { client_hears, log_says }) = &self.aftermath {
            writeln!(out, "  the client hears: {client_hears}")?;
            if let Some(line) = log_says {
                writeln!(out, "  the log says: {line}")?;
            }
        }
        writeln!(out)?;
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or_default();
        for Step { name, is, by } in &self.steps {
            writeln!(out, "{name:width$}  {is}")?;
            for rule in by {
                writeln!(out, "{:width$}    {rule}", "")?;
            }
        }
        Ok(())
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let steps: Map<_, _> = self
            .steps
            .iter()
            .map(|Step { name, is, by }| (name.replace(' ', "_"), json!({ "is": is, "by": by })))
            .collect();
        let mut json = json!({ "decision": self.verdict.word(), "rule": self.rule });
        if let (Some(object), Some(Aftermath { client_hears, log_says })) =
            (json.as_object_mut(), &self.aftermath)
        {
            object.insert("client_hears".to_owned(), json!(client_hears));
            object.insert("log_says".to_owned(), json!(log_says));
        }
        if let Some(object) = json.as_object_mut() {
            object.insert("steps".to_owned(), Value::Object(steps));
        }
        json
    }
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}

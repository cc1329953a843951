//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::cpu::Usage;

/// All that one run of the program found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) cells: Vec<Cell>,
}

/// One kind of load, given to every target in turn.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    /// What distinguishes it, such as `QoS 1, 64 B`.
    pub(crate) title: String,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    pub(crate) prefetch: Option<u16>,
    pub(crate) targets: Vec<Measured>,
    pub(crate) ratios: Vec<Ratio>,
}

impl Cell {
    /// Compares every target with the last one, round by round.
    pub(crate) fn new(
        title: String,
        qos: u8,
        payload_bytes: usize,
        prefetch: Option<u16>,
        targets: Vec<Measured>,
    ) -> Self {
        let compared = targets.split_last();
        let compared =
            compared.map(|(last, others)| others.iter().map(|target| Ratio::new(target, last)).collect());
        Self { title, qos, payload_bytes, prefetch, ratios: compared.unwrap_or_default(), targets }
    }
}

/// What one round of one target gave.
pub(crate) struct Turn {
    pub(crate) delivered: u64,
    pub(crate) took: Duration,
    pub(crate) usage: Usage,
    /// From CONNECT to CONNACK, each member of the fleet one after the other.
    pub(crate) admissions: Vec<Duration>,
}

/// What one target did.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    /// Messages delivered, over all rounds.
    pub(crate) delivered: u64,
    /// Messages delivered per second, round by round.
    pub(crate) rates: Vec<f64>,
    /// Processor seconds used during this target's rounds, by process.
    pub(crate) cpu_seconds: BTreeMap<String, f64>,
    /// Milliseconds from CONNECT to CONNACK, one connection after the other, nothing else going on.
    pub(crate) connack_ms: Vec<f64>,
    #[serde(skip)]
    usage: Usage,
}

impl Measured {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            delivered: 0,
            rates: Vec::new(),
            cpu_seconds: BTreeMap::new(),
            connack_ms: Vec::new(),
            usage: Usage::default(),
        }
    }

    pub(crate) fn add(&mut self, turn: Turn) {
        self.delivered += turn.delivered;
        self.rates.push(turn.delivered as f64 / turn.took.as_secs_f64());
        self.connack_ms.extend(turn.admissions.iter().map(|wait| wait.as_secs_f64() * 1e3));
        self.usage.add(&turn.usage);
        self.cpu_seconds = self.usage.seconds().clone();
    }
}

/// One target's rates divided by another's, each round by the one measured next to it.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) baseline: String,
    pub(crate) of_rounds: Vec<f64>,
    pub(crate) median: f64,
}

impl Ratio {
    fn new(target: &Measured, baseline: &Measured) -> Self {
        let of_rounds: Vec<_> =
            target.rates.iter().zip(&baseline.rates).map(|(one, other)| one / other).collect();
        let median = Spread::of(&of_rounds).median;
        Self { name: target.name.clone(), baseline: baseline.name.clone(), of_rounds, median }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for target in &self.targets {
            let Spread { least, median, most } = Spread::of(&target.rates);
            writeln!(f, "  {:<14} {median:>7.0} msg/s  ({least:.0} .. {most:.0})", target.name)?;
            writeln!(f, "  {:14} CPU s (us per message):{}", "", cpu(target)?)?;
            let Spread { least, median, most } = Spread::of(&target.connack_ms);
            writeln!(f, "  {:14} CONNACK after {median:.2} ms  ({least:.2} .. {most:.2})", "")?;
        }
        for ratio in &self.ratios {
            let Spread { least, median, most } = Spread::of(&ratio.of_rounds);
            writeln!(f, "  {} / {} = {median:.2}  ({least:.2} .. {most:.2})", ratio.name, ratio.baseline)?;
        }
        Ok(())
    }
}

/// Seconds, and microseconds per delivered message, of each process.
fn cpu(target: &Measured) -> Result<String, fmt::Error> {
    let mut line = String::new();
    for (process, seconds) in &target.cpu_seconds {
        let each = seconds * 1e6 / target.delivered as f64;
        write!(line, "  {process} {seconds:.2} ({each:.1})")?;
    }
    Ok(line)
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    /// All zero for no values.
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        let count = sorted.len();
        let median = (at(count.saturating_sub(1) / 2) + at(count / 2)) / 2.0;
        Self { least: at(0), median, most: at(count.saturating_sub(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn targets_are_compared_with_the_last_one_round_by_round() {
        let mut targets = vec![Measured::new("new"), Measured::new("old")];
        for (target, seconds) in [(0, 1), (1, 2), (0, 4), (1, 4), (0, 1), (1, 3)] {
            let (took, usage, admissions) = (Duration::from_secs(seconds), Usage::default(), Vec::new());
            targets[target].add(Turn { delivered: 120, took, usage, admissions });
        }
        let cell = Cell::new(String::new(), 0, 64, None, targets);
        assert_eq!(cell.ratios.len(), 1);
        assert_eq!((cell.ratios[0].name.as_str(), cell.ratios[0].baseline.as_str()), ("new", "old"));
        assert_eq!(cell.ratios[0].of_rounds, [2.0, 1.0, 3.0]);
        assert_eq!(cell.ratios[0].median, 2.0);
    }
}

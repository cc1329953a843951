//! What came of it: figures, broken promises, and how each came about.

use std::fmt;
use std::time::Duration;

use super::ledger;
use super::wills::{self, Wrong};
use super::world::{Section, World};

/// All that a run has found.
pub(crate) struct Report {
    pub(crate) faults: Vec<(String, u64)>,
    pub(crate) connections: Vec<(String, u64)>,
    /// Broken promises that were seen at once.
    pub(crate) broken: Vec<(String, u64)>,
    pub(crate) messages: ledger::Sums,
    pub(crate) subscribers: u64,
    pub(crate) lost: u64,
    pub(crate) corrupted: u64,
    pub(crate) wills: wills::Sums,
    /// Sent and seen, then lost by the broker when it was killed.
    pub(crate) wills_forgotten: u64,
    /// Names of what is left at the broker.
    pub(crate) queues: Vec<String>,
    pub(crate) connections_left: Vec<String>,
    /// From the last DISCONNECT until nothing was left, or that was given up.
    pub(crate) cleared_in: Duration,
    pub(crate) took: Duration,
}

impl Report {
    pub(crate) fn new(world: &World, wills: wills::Sums, subscribers: u64) -> Self {
        let ledger = world.ledger.borrow();
        Self {
            faults: world.counted(Section::Fault),
            connections: world.counted(Section::Connection),
            broken: world.counted(Section::Broken),
            messages: ledger.sums(),
            subscribers,
            lost: ledger.losses().len() as u64,
            corrupted: ledger.corrupted,
            wills,
            wills_forgotten: 0,
            queues: Vec::new(),
            connections_left: Vec::new(),
            cleared_in: Duration::ZERO,
            took: world.start.elapsed(),
        }
    }

    /// Every promise, and how often it was broken.
    pub(crate) fn musts(&self) -> Vec<(String, u64)> {
        let fixed = [
            ("message never acknowledged", self.messages.published - self.messages.acknowledged),
            ("acknowledged message lost", self.lost),
            ("message corrupted", self.corrupted),
            ("will missing", self.wills.count(Wrong::Missing)),
            ("will doubled", self.wills.count(Wrong::Doubled)),
            ("will sent after DISCONNECT", self.wills.count(Wrong::SentAfterDisconnect)),
            ("will unknown", self.wills.unknown),
            ("queue left over", self.queues.len() as u64),
            ("connection left over", self.connections_left.len() as u64),
        ];
        let fixed = fixed.map(|(what, count)| (what.to_owned(), count));
        fixed.into_iter().chain(self.broken.iter().cloned()).collect()
    }

    /// Whether every promise was kept.
    pub(crate) fn is_sound(&self) -> bool {
        self.musts().iter().all(|(_, count)| *count == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ledger::Sums { published, acknowledged, delivered, duplicates, overtaken } = self.messages;
        let wills::Sums { due, seen, perhaps_seen, repeated, .. } = self.wills;
        writeln!(f, "faults       {}", list(&self.faults))?;
        writeln!(f, "connections  {}", list(&self.connections))?;
        writeln!(f, "messages     published {published}, acknowledged {acknowledged}")?;
        writeln!(
            f,
            "deliveries   due {}, done {delivered}, lost {}, corrupted {}, duplicated {duplicates}, overtaken {overtaken}",
            acknowledged * self.subscribers,
            self.lost,
            self.corrupted
        )?;
        writeln!(
            f,
            "wills        due {due}, seen {seen}, missing {}, doubled {}, sent after DISCONNECT {}",
            self.wills.count(Wrong::Missing),
            self.wills.count(Wrong::Doubled),
            self.wills.count(Wrong::SentAfterDisconnect)
        )?;
        writeln!(
            f,
            "             sent just before the broker was killed: sent again {repeated}, gone from a queue where it waited {}",
            self.wills_forgotten
        )?;
        writeln!(f, "             where sending and not sending are both right: seen {perhaps_seen}")?;
        writeln!(
            f,
            "left over    queues {}, connections {}, {:.1} s after the last DISCONNECT",
            self.queues.len(),
            self.connections_left.len(),
            self.cleared_in.as_secs_f64()
        )?;
        for name in self.queues.iter().chain(&self.connections_left) {
            writeln!(f, "             {name}")?;
        }
        writeln!(f, "time         {:.1} s", self.took.as_secs_f64())?;
        let broken: Vec<_> = self.musts().into_iter().filter(|(_, count)| *count > 0).collect();
        match broken.is_empty() {
            true => write!(f, "every promise kept"),
            false => write!(f, "BROKEN       {}", list(&broken)),
        }
    }
}

fn list(counts: &[(String, u64)]) -> String {
    let each: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

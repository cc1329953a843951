//! What all tasks of a run share. They run on one thread, so nothing here is locked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::wills::Wills;

/// The ways to the broker: one Envoy each.
pub(crate) const PATHS: usize = 2;

/// How far the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Everybody connects, subscribers subscribe; nothing is broken yet.
    Gather,
    /// Messages flow, things break.
    Storm,
    /// Nothing breaks any more; what is unfinished is finished.
    Calm,
    /// Everybody leaves for good, sessions end.
    Leave,
}

/// What is shared.
pub(crate) struct World {
    pub(crate) start: Instant,
    /// Where each Envoy listens; the same after a restart.
    pub(crate) addresses: [SocketAddr; PATHS],
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) wills: RefCell<Wills>,
    /// Devices that have connected (and subscribed) for the first time.
    pub(crate) ready: Cell<usize>,
    tally: RefCell<BTreeMap<(Section, String), u64>>,
    troubles: RefCell<Vec<Trouble>>,
    /// When the broker was killed.
    kills: RefCell<Vec<Instant>>,
    journal: RefCell<Vec<Entry>>,
}

/// Where the report shows a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    /// Things we have broken.
    Fault,
    /// How connections came about and ended.
    Connection,
    /// Promises broken that are seen at once.
    Broken,
}

/// What can be out of order, and so excuses what happens to a connection meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Broker,
    /// Killed: its own connections suffer.
    Envoy(usize),
    /// Held up: afterwards it works off CONNECTs of clients that have long gone elsewhere, which take over.
    Frozen(usize),
}

struct Trouble {
    part: Part,
    ended: Option<Instant>,
}

struct Entry {
    at: Instant,
    who: String,
    what: String,
}

impl World {
    pub(crate) fn new(addresses: [SocketAddr; PATHS], ledger: Ledger) -> Self {
        Self {
            start: Instant::now(),
            addresses,
            ledger: RefCell::new(ledger),
            wills: RefCell::default(),
            ready: Cell::default(),
            tally: RefCell::default(),
            troubles: RefCell::default(),
            kills: RefCell::default(),
            journal: RefCell::default(),
        }
    }

    pub(crate) fn count(&self, section: Section, what: impl Into<String>) {
        *self.tally.borrow_mut().entry((section, what.into())).or_default() += 1;
    }

    /// A promise is broken: counted, and noted for the story.
    pub(crate) fn broken(&self, who: &str, what: &str) {
        self.note(who, format!("BROKEN: {what}"));
        self.count(Section::Broken, what);
    }

    pub(crate) fn counted(&self, section: Section) -> Vec<(String, u64)> {
        let tally = self.tally.borrow();
        let of_section = tally.iter().filter(|((this, _), _)| *this == section);
        of_section.map(|((_, what), count)| (what.clone(), *count)).collect()
    }

    pub(crate) fn note(&self, who: &str, what: impl Into<String>) {
        self.journal.borrow_mut().push(Entry { at: Instant::now(), who: who.to_owned(), what: what.into() });
    }

    /// To be called before the deed; the answer goes to [`Self::mend`].
    pub(crate) fn trouble(&self, part: Part) -> usize {
        let mut troubles = self.troubles.borrow_mut();
        troubles.push(Trouble { part, ended: None });
        troubles.len() - 1
    }

    /// The trouble is over.
    pub(crate) fn mend(&self, trouble: usize) {
        self.troubles.borrow_mut()[trouble].ended = Some(Instant::now());
    }

    /// Whether anything on this path was out of order since then, `aftermath` before included.
    pub(crate) fn disturbed(&self, path: usize, since: Instant, aftermath: Duration) -> bool {
        self.troubles.borrow().iter().any(|trouble| {
            let concerns = match trouble.part {
                Part::Broker => true,
                Part::Envoy(killed) => killed == path,
                Part::Frozen(_) => true,
            };
            let lasting =
                if matches!(trouble.part, Part::Frozen(_)) { THAW.max(aftermath) } else { aftermath };
            concerns && trouble.ended.is_none_or(|ended| ended + lasting >= since)
        })
    }

    /// The broker was killed.
    pub(crate) fn killed(&self, at: Instant) {
        self.kills.borrow_mut().push(at);
    }

    /// Whether the broker was killed at most `within` after something was seen of it.
    pub(crate) fn killed_after(&self, seen: Instant, within: Duration) -> bool {
        self.kills.borrow().iter().any(|kill| (seen - ON_ITS_WAY..seen + within).contains(kill))
    }

    /// What happened to `who`, and to the programs, between two moments.
    pub(crate) fn story(&self, who: &str, from: Instant, to: Instant) -> String {
        self.tell(|entry| (from..=to).contains(&entry.at) && (entry.who == who || is_program(&entry.who)))
    }

    /// All that happened.
    pub(crate) fn journal(&self) -> String {
        self.tell(|_| true)
    }

    fn tell(&self, wanted: impl Fn(&Entry) -> bool) -> String {
        let mut text = String::new();
        for entry in self.journal.borrow().iter().filter(|entry| wanted(entry)) {
            let seconds = entry.at.duration_since(self.start).as_secs_f64();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{seconds:>9.3}  {:<14} {}", entry.who, entry.what);
        }
        text
    }
}

fn is_program(who: &str) -> bool {
    who == BROKER || who.starts_with(ENVOY)
}

/// What the journal calls them.
pub(crate) const BROKER: &str = "broker";
pub(crate) const ENVOY: &str = "envoy";
/// What a killed broker has sent may be seen a moment later; it takes seconds until it is back.
const ON_ITS_WAY: Duration = Duration::from_millis(200);
/// How long a thawed Envoy may take to work off what has waited for it.
const THAW: Duration = Duration::from_secs(3);

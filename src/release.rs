//! The builds of one filter: each virtual machine says in shared memory which build it is and how many connections it has, so that all
//! of them know which build serves, and how the ones before it empty.
//!
//! A swap replaces the module for new connections only. The earlier module's virtual machines live until their last connection ends, and
//! learn here that they have been replaced, and within which time their connections are to end, if at all.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::config::Release;
use crate::policy::Shared;
use crate::policy::shared::{Seats, create, leased, read, update};
use crate::time::{Duration, Instant};

/// How often the others are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// So many builds are remembered.
const MEMORY: usize = 64;

/// What one virtual machine knows of the builds of its filter.
pub struct Releases {
    shared: Rc<dyn Shared>,
    worker: u64,
    filter: Box<str>,
    key: Box<str>,
    own: Entry,
    seats: Seats,
    look_at: Instant,
    drain: Option<Duration>,
}

/// A build as all see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Filter, build stamp and module, as a part of a metric's name: `filter.stamp.module`.
    pub label: String,
    /// New connections are this one's.
    pub serves: bool,
    /// Those it has, in all virtual machines.
    pub connections: u64,
}

/// A line of what is shared.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    label: Box<str>,
    since: u64,
    drain: Option<Duration>,
}

impl Releases {
    /// A virtual machine with this number, for the filter of this name, from this build of the module.
    pub fn new(filter: &str, stamp: &str, release: Release, shared: Rc<dyn Shared>, worker: u64) -> Self {
        let filter: Box<str> = word(filter).into();
        let label = format!("{}.{}", word(stamp), release.module).into();
        let key: Box<str> = format!("leveret.releases.{filter}").into();
        create(&*shared, &key);
        let own = Entry { label, since: release.since, drain: release.drain };
        let seats = Seats::unlimited(&live_key(&filter, &own.label), &*shared);
        Self { shared, worker, filter, key, own, seats, look_at: Instant::ZERO, drain: None }
    }

    /// The proxy has taken this virtual machine's configuration: what is later than others serves.
    pub fn announce(&self) {
        // Where others are always first this build is not listed; its connections are served all the same.
        update(&*self.shared, &self.key, |value| {
            let mut entries = entries(value);
            if entries.iter().any(|entry| entry.label == self.own.label && entry.since >= self.own.since) {
                return;
            }
            entries.retain(|entry| entry.label != self.own.label);
            let place = entries.iter().take_while(|entry| entry.since > self.own.since).count();
            entries.insert(place, self.own.clone());
            entries.truncate(MEMORY);
            *value = entries.iter().map(Entry::line).collect::<String>().into_bytes();
        });
    }

    /// To be called several times a second with the number of connections: now and then it gives what there is to be shown.
    pub fn handle_tick(&mut self, now: Instant, connections: u32) -> Option<Vec<Standing>> {
        if now < self.look_at {
            return None;
        }
        self.look_at = now + LOOK;
        self.seats.hold(&*self.shared, self.worker, connections);
        let entries = entries(&read(&*self.shared, &self.key).0);
        let later = entries.first().filter(|entry| entry.since > self.own.since);
        self.drain = later.and_then(|entry| entry.drain);
        let standing = |(place, Entry { label, .. }): (usize, &Entry)| Standing {
            label: format!("{}.{label}", self.filter),
            serves: place == 0,
            connections: leased(&*self.shared, &live_key(&self.filter, label)),
        };
        Some(entries.iter().enumerate().map(standing).collect())
    }

    /// Over which time the connections of this virtual machine are to end: when a later release serves and says so.
    pub fn drain(&self) -> Option<Duration> {
        self.drain
    }
}

impl Entry {
    fn line(&self) -> String {
        let drain = self.drain.map_or(0, |drain| drain.as_secs());
        format!("{} {drain} {}\n", self.since, self.label)
    }
}

/// The latest first. Not inlined: it is the size of the module that counts.
#[inline(never)]
fn entries(value: &[u8]) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (since, drain) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let drain = (drain > 0).then(|| Duration::from_secs(drain));
        Some(Entry { label: words.next()?.into(), since, drain })
    };
    core::str::from_utf8(value).unwrap_or_default().lines().filter_map(entry).collect()
}

fn live_key(filter: &str, label: &str) -> String {
    format!("leveret.live.{filter}.{label}")
}

/// A text as one part of a metric's name, between two dots.
fn word(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    text.chars().map(plain).collect()
}

/// The end of a replaced build's connections, spread evenly over a time.
pub struct Drain {
    until: Instant,
    due: VecDeque<(Instant, u32)>,
}

impl Drain {
    /// For these connections, in their order.
    pub fn new(now: Instant, over: Duration, connections: impl ExactSizeIterator<Item = u32>) -> Self {
        let step = over / u32::try_from(connections.len().max(1)).unwrap_or(u32::MAX);
        let due = connections.zip(1..).map(|(id, place)| (now + step * place, id)).collect();
        Self { until: now + over, due }
    }

    /// One that came when the others were given their time.
    pub fn add(&mut self, now: Instant, connection: u32) {
        self.due.push_back((self.until.max(now), connection));
    }

    /// The next one whose time has come. It may have ended by itself.
    pub fn poll(&mut self, now: Instant) -> Option<u32> {
        self.due.pop_front_if(|(at, _)| *at <= now).map(|(_, connection)| connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::shared::Alone;

    const SECOND: Duration = Duration::from_secs(1);

    fn machine(
        shared: &Rc<Alone>,
        worker: u64,
        module: &str,
        since: u64,
        drain: Option<Duration>,
    ) -> Releases {
        let release = Release { module: module.into(), since, drain };
        let releases = Releases::new("mqtt.tls", "v0.1", release, shared.clone(), worker);
        releases.announce();
        releases
    }

    fn standings(machine: &mut Releases, seconds: u32, connections: u32) -> Vec<(String, bool, u64)> {
        let standings =
            machine.handle_tick(Instant::ZERO + SECOND * seconds, connections).unwrap_or_default();
        standings.into_iter().map(|it| (it.label, it.serves, it.connections)).collect()
    }

    fn one(label: &str, serves: bool, connections: u64) -> (String, bool, u64) {
        (label.to_owned(), serves, connections)
    }

    #[test]
    fn the_latest_serves_and_the_others_are_seen_to_empty() {
        let shared = Rc::new(Alone::default());
        let mut old = machine(&shared, 1, "aa", 10, None);
        assert_eq!(standings(&mut old, 1, 5), [one("mqtt_tls.v0_1.aa", true, 5)]);
        let mut new = machine(&shared, 2, "bb", 20, None);
        let both = [one("mqtt_tls.v0_1.bb", true, 2), one("mqtt_tls.v0_1.aa", false, 5)];
        assert_eq!(standings(&mut new, 1, 2), both);
        assert_eq!(standings(&mut old, 2, 1).last(), Some(&one("mqtt_tls.v0_1.aa", false, 1)));
        // The old one's machine has ended without a word.
        shared.set_clock(6_000_000_000);
        assert_eq!(standings(&mut new, 2, 2).last(), Some(&one("mqtt_tls.v0_1.aa", false, 0)));
        assert_eq!(old.drain(), None);
    }

    #[test]
    fn going_back_is_a_release_as_any_other() {
        let shared = Rc::new(Alone::default());
        let mut machines = [("aa", 10), ("bb", 20), ("aa", 30)]
            .map(|(module, since)| machine(&shared, since, module, since, Some(SECOND)));
        // The first machine of that module starts anew after a trap: it is still what it was.
        machines[0].announce();
        let builds = machines.each_mut().map(|machine| standings(machine, 1, 0).len());
        let drained = machines.map(|machine| machine.drain().is_some());
        assert_eq!((builds, drained), ([2, 2, 2], [true, true, false]));
    }

    #[test]
    fn a_drain_is_spread_evenly() {
        let at = |millis: u64| Instant::ZERO + Duration::from_millis(millis);
        let mut drain = Drain::new(Instant::ZERO, SECOND, [7, 8, 9, 10].into_iter());
        drain.add(at(600), 11);
        let mut ended = Vec::new();
        for millis in (0..=1000).step_by(50) {
            while let Some(id) = drain.poll(at(millis)) {
                ended.push((millis, id));
            }
        }
        assert_eq!(ended, [(250, 7), (500, 8), (750, 9), (1000, 10), (1000, 11)]);
    }
}

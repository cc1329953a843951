//! What the workers of one proxy share: how many connections a tenant has, and what is used of its rates.
//!
//! A worker can end at any time and says nothing when it does. So none adds to a common number: each keeps its own beside the
//! others', with the time, and one that has not been renewed for a while does not count.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::rate::Rate;
use crate::time::Duration;
use crate::wire::Reader;

/// A place for small values that all workers of a proxy see.
pub trait Shared {
    /// The time in nanoseconds, by a clock that all of them read. It may be set, forwards and back.
    fn now(&self) -> u64;

    /// A value and its mark, which is another after each change.
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)>;

    /// Changes a value that still has this mark; without a mark, whatever it is. `false`: another worker was first.
    fn set(&self, key: &str, value: &[u8], mark: Option<u32>) -> bool;
}

/// How often a worker renews what it has.
pub(super) const RENEWAL: Duration = Duration::from_secs(1);

/// After which a worker that did not is gone.
const LEASE_NANOS: u64 = 5_000_000_000;

/// How often a change is tried again that others got ahead of.
pub(crate) const TRIES: usize = 256;

/// Connections that are counted over all workers: a tenant's, or a release's.
pub(crate) struct Seats {
    key: Box<str>,
    /// The most over all workers.
    limit: u32,
    /// This worker's.
    own: Cell<u32>,
}

/// What a worker has, in shared memory.
#[derive(Clone, Copy)]
struct Lease {
    worker: u64,
    count: u32,
    renewed: u64,
}

impl Seats {
    pub(super) fn new(tenant: &str, limit: u32, shared: &dyn Shared) -> Self {
        let key: Box<str> = format!("leveret.connections.{tenant}").into();
        create(shared, &key);
        Self { key, limit, own: Cell::new(0) }
    }

    /// To be counted only.
    pub(crate) fn unlimited(key: &str, shared: &dyn Shared) -> Self {
        create(shared, key);
        Self { key: key.into(), limit: u32::MAX, own: Cell::new(0) }
    }

    /// Says how many this worker has.
    pub(crate) fn hold(&self, shared: &dyn Shared, worker: u64, count: u32) {
        if count > 0 || self.own.get() > 0 {
            self.own.set(count);
            self.update(shared, worker, count, &|_| true);
        }
    }

    /// Takes a seat; `false` when there is none left.
    pub(super) fn take(&self, shared: &dyn Shared, worker: u64) -> bool {
        let own = self.own.get() + 1;
        let taken = self.update(shared, worker, own, &|others| others + u64::from(own) <= self.limit.into());
        if taken {
            self.own.set(own);
        }
        taken
    }

    /// Gives one back.
    pub(super) fn leave(&self, shared: &dyn Shared, worker: u64) {
        self.own.set(self.own.get().saturating_sub(1));
        self.update(shared, worker, self.own.get(), &|_| true);
    }

    /// Tells the others that this worker is there.
    pub(super) fn renew(&self, shared: &dyn Shared, worker: u64) {
        if self.own.get() > 0 {
            self.update(shared, worker, self.own.get(), &|_| true);
        }
    }

    /// Puts this worker's number in place, if the sum of the others' permits it.
    fn update(
        &self,
        shared: &dyn Shared,
        worker: u64,
        count: u32,
        is_permitted: &dyn Fn(u64) -> bool,
    ) -> bool {
        for _ in 0..TRIES {
            let now = shared.now();
            let (value, mark) = read(shared, &self.key);
            let mut leases = leases(&value);
            leases.retain(|lease| lease.worker != worker && lease.renewed.abs_diff(now) < LEASE_NANOS);
            if !is_permitted(leases.iter().map(|lease| u64::from(lease.count)).sum()) {
                return false;
            }
            if count > 0 {
                leases.push(Lease { worker, count, renewed: now });
            }
            let value: Vec<u8> = leases.iter().flat_map(Lease::bytes).collect();
            if shared.set(&self.key, &value, mark) {
                return true;
            }
        }
        false
    }
}

impl Lease {
    fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let parts = [&self.worker.to_be_bytes()[..], &self.count.to_be_bytes(), &self.renewed.to_be_bytes()];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// The connections of all workers that are there.
pub(crate) fn leased(shared: &dyn Shared, key: &str) -> u64 {
    let now = shared.now();
    let leases = leases(&read(shared, key).0);
    let alive = leases.iter().filter(|lease| lease.renewed.abs_diff(now) < LEASE_NANOS);
    alive.map(|lease| u64::from(lease.count)).sum()
}

fn leases(value: &[u8]) -> Vec<Lease> {
    let mut reader = Reader::new(value);
    let mut lease = || {
        let (worker, count, renewed) = (reader.u64().ok()?, reader.u32().ok()?, reader.u64().ok()?);
        Some(Lease { worker, count, renewed })
    };
    core::iter::from_fn(&mut lease).collect()
}

/// A rate of all clients of a tenant together.
pub(super) struct SharedMeter {
    key: Box<str>,
    rate: Rate,
    /// What this worker has taken and not used yet; below 0, what it has used and not taken.
    left: Cell<i64>,
}

impl SharedMeter {
    pub(super) fn new(tenant: &str, what: &str, rate: Rate, shared: &dyn Shared) -> Self {
        let key: Box<str> = format!("leveret.{what}.{tenant}").into();
        create(shared, &key);
        Self { key, rate, left: Cell::new(0) }
    }

    /// Uses so many, which may be more than there are left.
    pub(super) fn spend(&self, count: u64) {
        self.left.set(self.left.get().saturating_sub_unsigned(count));
    }

    /// How long until something may be used again; `None` when it is now.
    pub(super) fn wait(&self, shared: &dyn Shared) -> Option<Duration> {
        if self.left.get() > 0 {
            return None;
        }
        let portion = self.left.get().unsigned_abs() + self.rate.portion();
        for _ in 0..TRIES {
            let now = shared.now();
            let (value, mark) = read(shared, &self.key);
            let mut reader = Reader::new(&value);
            let (until, written) = (reader.u64().unwrap_or_default(), reader.u64().unwrap_or_default());
            if let Some(back) = written.checked_sub(now).filter(|back| *back > 0) {
                // The clock was set back, and what is used up with it.
                self.write(shared, until.saturating_sub(back), now, mark);
                continue;
            }
            let until = until.min(now.saturating_add(MOST_DEBT));
            if let Some(wait) = until.checked_sub(now).filter(|wait| *wait > 0) {
                return Some(Duration::from_nanos(wait));
            }
            if self.write(shared, self.rate.spend(until, now, portion), now, mark) {
                self.left.set(self.left.get().saturating_add_unsigned(portion));
                return None;
            }
        }
        Some(Duration::from_millis(1))
    }

    /// Up to when the rate is used up, and when that was.
    fn write(&self, shared: &dyn Shared, until: u64, now: u64, mark: Option<u32>) -> bool {
        shared.set(&self.key, &[until.to_be_bytes(), now.to_be_bytes()].concat(), mark)
    }
}

/// Nobody waits for longer than an hour.
const MOST_DEBT: u64 = 3_600_000_000_000;

/// Without this the first changes of two workers would both succeed, as neither would have a mark.
pub(crate) fn create(shared: &dyn Shared, key: &str) {
    if shared.get(key).is_none() {
        shared.set(key, &[], None);
    }
}

pub(crate) fn read(shared: &dyn Shared, key: &str) -> (Vec<u8>, Option<u32>) {
    shared.get(key).map_or((Vec::new(), None), |(value, mark)| (value, Some(mark)))
}

/// A value and how often it was set.
type Marked = (Vec<u8>, u32);

/// Shared with nobody, with a clock that stands still until it is set: for one worker, and for tests of several.
#[derive(Default)]
pub struct Alone {
    values: RefCell<BTreeMap<Box<str>, Marked>>,
    clock: Cell<u64>,
}

impl Alone {
    /// Sets the clock.
    pub fn set_clock(&self, nanos: u64) {
        self.clock.set(nanos);
    }
}

impl Shared for Alone {
    fn now(&self) -> u64 {
        self.clock.get()
    }

    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.values.borrow().get(key).cloned()
    }

    fn set(&self, key: &str, value: &[u8], mark: Option<u32>) -> bool {
        let mut values = self.values.borrow_mut();
        let (known, known_mark) = values.entry(key.into()).or_default();
        if mark.is_some_and(|mark| mark != *known_mark) {
            return false;
        }
        *known = value.to_vec();
        *known_mark += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn seats_are_counted_over_all_workers() {
        let shared = Alone::default();
        let [one, two] = [0, 1].map(|_| Seats::new("t", 3, &shared));
        assert!(one.take(&shared, 1) && two.take(&shared, 2) && one.take(&shared, 1));
        assert!(!one.take(&shared, 1) && !two.take(&shared, 2));
        one.leave(&shared, 1);
        assert!(two.take(&shared, 2) && !one.take(&shared, 1));
        assert!(Seats::new("other", 1, &shared).take(&shared, 1));
    }

    #[test]
    fn the_seats_of_a_worker_that_is_gone_are_free_after_a_while() {
        let shared = Alone::default();
        shared.set_clock(100 * SECOND);
        let [one, two] = [0, 1].map(|_| Seats::new("t", 1, &shared));
        assert!(one.take(&shared, 1));
        for second in 101..120 {
            shared.set_clock(second * SECOND);
            one.renew(&shared, 1);
            assert!(!two.take(&shared, 2));
        }
        shared.set_clock(123 * SECOND);
        assert!(!two.take(&shared, 2));
        shared.set_clock(124 * SECOND);
        assert!(two.take(&shared, 2));
    }

    #[test]
    fn a_rate_is_shared_by_all_workers() {
        let shared = Alone::default();
        let meters = [0, 1, 2].map(|_| SharedMeter::new("t", "messages", Rate::new(1000).unwrap(), &shared));
        let mut used = [0; 3];
        for millisecond in 0..10_000 {
            shared.set_clock(50 * SECOND + millisecond * 1_000_000);
            for (meter, used) in meters.iter().zip(&mut used) {
                while meter.wait(&shared).is_none() {
                    meter.spend(1);
                    *used += 1;
                }
            }
        }
        let all: u64 = used.iter().sum();
        assert!((10_900..=11_100).contains(&all), "10 s and the second before: {all}");
    }

    #[test]
    fn a_debt_is_paid_first() {
        let shared = Alone::default();
        shared.set_clock(50 * SECOND);
        let meter = SharedMeter::new("t", "bytes", Rate::new(100).unwrap(), &shared);
        assert_eq!(meter.wait(&shared), None);
        meter.spend(1_000);
        assert_eq!(meter.wait(&shared), None, "what is taken to pay it");
        meter.spend(2);
        assert_eq!(meter.wait(&shared), Some(Duration::from_millis(9_020)));
        // The clock is set back by a day: nobody waits for that long.
        shared.set_clock(0);
        assert!(meter.wait(&shared).is_some_and(|wait| wait < Duration::from_secs(60)));
    }
}

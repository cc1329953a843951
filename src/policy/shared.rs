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

/// Makes sure that there is a value, if only an empty one. Without it the first changes of two workers would both succeed, as neither
/// would have a mark.
pub fn create(shared: &dyn Shared, key: &str) {
    if shared.get(key).is_none() {
        shared.set(key, &[], None);
    }
}

/// Has `change` edit a value, anew when another worker has changed it meanwhile, and gives what the last of these calls gave. What is
/// left as it was is not written.
///
/// `None`: others were first 256 times in a row, and nothing is changed.
pub fn update<T>(shared: &dyn Shared, key: &str, mut change: impl FnMut(&mut Vec<u8>) -> T) -> Option<T> {
    for _ in 0..TRIES {
        let (before, mark) = read(shared, key);
        let mut value = before.clone();
        let outcome = change(&mut value);
        if value == before || shared.set(key, &value, mark) {
            return Some(outcome);
        }
    }
    None
}

/// What there is; empty when nobody has created it.
pub(crate) fn read(shared: &dyn Shared, key: &str) -> (Vec<u8>, Option<u32>) {
    shared.get(key).map_or((Vec::new(), None), |(value, mark)| (value, Some(mark)))
}

/// How often a worker renews what it has.
pub(super) const RENEWAL: Duration = Duration::from_secs(1);

/// After which a worker that did not is gone.
const LEASE_NANOS: u64 = 5_000_000_000;

/// How often a change is tried that others get ahead of: by far more often than there are workers.
const TRIES: usize = 256;

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
        let put = |value: &mut Vec<u8>| {
            let now = shared.now();
            let mut leases = leases(value);
            leases.retain(|lease| lease.worker != worker && lease.renewed.abs_diff(now) < LEASE_NANOS);
            let others = leases.iter().map(|lease| u64::from(lease.count)).sum();
            if !is_permitted(others) {
                return false;
            }
            if count > 0 {
                leases.push(Lease { worker, count, renewed: now });
            }
            *value = leases.iter().flat_map(Lease::bytes).collect();
            true
        };
        update(shared, &self.key, put).unwrap_or(false)
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
        let take = |value: &mut Vec<u8>| {
            let now = shared.now();
            let mut reader = Reader::new(value);
            let (until, written) = (reader.u64().unwrap_or_default(), reader.u64().unwrap_or_default());
            // Where the clock was set back, what is used up is set back with it.
            let back = written.saturating_sub(now);
            let until = until.saturating_sub(back).min(now.saturating_add(MOST_DEBT));
            let wait = until.saturating_sub(now);
            let used = if wait == 0 { self.rate.spend(until, now, portion) } else { until };
            if wait == 0 || back > 0 {
                // Up to when the rate is used up, and when that was.
                *value = [used.to_be_bytes(), now.to_be_bytes()].concat();
            }
            wait
        };
        match update(shared, &self.key, take) {
            Some(0) => {
                self.left.set(self.left.get().saturating_add_unsigned(portion));
                None
            }
            Some(wait) => Some(Duration::from_nanos(wait)),
            None => Some(Duration::from_millis(1)),
        }
    }
}

/// Nobody waits for longer than an hour.
const MOST_DEBT: u64 = 3_600_000_000_000;

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

    /// One whose values others change all the time.
    struct Busy(Alone);

    impl Shared for Busy {
        fn now(&self) -> u64 {
            self.0.now()
        }

        fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
            let value = self.0.get(key);
            self.0.set(key, b"other", None);
            value
        }

        fn set(&self, key: &str, value: &[u8], mark: Option<u32>) -> bool {
            self.0.set(key, value, mark)
        }
    }

    #[test]
    fn a_change_is_made_to_what_is_there_or_not_at_all() {
        let shared = Alone::default();
        create(&shared, "k");
        let grow = |value: &mut Vec<u8>| {
            value.push(b'x');
            value.len()
        };
        assert_eq!([update(&shared, "k", grow), update(&shared, "k", grow)], [Some(1), Some(2)]);
        assert_eq!(update(&shared, "k", |value| value.len()), Some(2));
        assert_eq!(shared.get("k"), Some((b"xx".to_vec(), 3)), "created, and changed twice");
        let busy = Busy(shared);
        assert_eq!(update(&busy, "k", grow), None);
        assert_eq!(busy.0.get("k").map(|(value, _)| value), Some(b"other".to_vec()));
    }

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

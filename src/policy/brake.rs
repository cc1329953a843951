//! The brake on guessing passwords.

use core::hash::{Hash, Hasher as _};
use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};
use std::hash::DefaultHasher;

use crate::time::{Duration, Instant};

/// The most entries of each list. With more, the oldest go: the brake gets weaker and memory stays as it is, about a megabyte.
const MAX_ENTRIES: usize = 16_384;

/// How often the same wrong password is looked at within the window.
const REPEATS: u32 = 3;

/// How many failures it takes, and for how long they count.
#[derive(Clone, Copy, Debug)]
pub struct BrakeLimits {
    /// From one address; 0 is off.
    pub per_address: u32,
    /// For one user from anywhere; 0 is off.
    pub per_user: u32,
    /// From the first failure on.
    pub window: Duration,
}

/// A try to log in with a password. No `Debug`: its hashes are quick to compute, so they help to guess.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    address: u64,
    user: u64,
    /// Both together.
    pair: u64,
    /// And the password.
    whole: u64,
}

/// Failures of late, and who got in from where.
pub(super) struct Brake {
    limits: BrakeLimits,
    addresses: Tally,
    users: Tally,
    tried: Tally,
    /// By user and address.
    guesses: Tally,
    welcome: Tally,
}

impl Attempt {
    /// A user is one within its `realm`. Only hashes are kept. Of an IPv6 address the network counts, since who has one address has 2^64.
    pub fn new(address: Option<IpAddr>, realm: impl Hash, user: &str, password: &[u8]) -> Self {
        let network = match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => u128::from(address) >> 64,
            Some(IpAddr::V4(address)) => u32::from(address).into(),
            None => 0,
        };
        let is_ipv6 = address.is_some_and(|address| address.to_canonical().is_ipv6());
        let address = hash((network, is_ipv6));
        let user = hash((realm, user));
        Self { address, user, pair: hash((address, user)), whole: hash((address, user, password)) }
    }
}

impl Brake {
    /// Nobody has failed.
    pub(super) fn new(limits: BrakeLimits) -> Self {
        Self {
            limits,
            addresses: Tally::default(),
            users: Tally::default(),
            tried: Tally::default(),
            guesses: Tally::default(),
            welcome: Tally::default(),
        }
    }

    /// Whether an attempt is not even looked at.
    pub(super) fn is_on(&mut self, now: Instant, attempt: &Attempt) -> bool {
        let BrakeLimits { per_address, per_user, window } = self.limits;
        let is_over = |tally: &mut Tally, key, limit| {
            tally.forget(now, window);
            limit > 0 && tally.count(key) >= limit
        };
        self.guesses.forget(now, window);
        let is_over = is_over(&mut self.addresses, attempt.address, per_address)
            || is_over(&mut self.users, attempt.user, per_user);
        // Asking again does not make it right, and takes a place and the broker's time.
        self.tried.forget(now, window);
        let is_repeated = (per_address > 0 || per_user > 0) && self.tried.count(attempt.whole) >= REPEATS;
        is_repeated || is_over && !self.is_welcome(attempt)
    }

    /// Whether the user has logged in from there before, and nobody there has guessed at it since as an address may.
    fn is_welcome(&self, attempt: &Attempt) -> bool {
        let guesses = self.guesses.count(attempt.pair);
        self.welcome.count(attempt.pair) > 0
            && (self.limits.per_address == 0 || guesses < self.limits.per_address)
    }

    /// The password was wrong. A device that has the wrong one, and sends it again and again, does not guess.
    pub(super) fn failed(&mut self, now: Instant, attempt: &Attempt) {
        self.tried.forget(now, self.limits.window);
        self.guesses.forget(now, self.limits.window);
        let is_new = self.tried.count(attempt.whole) == 0;
        self.tried.add(now, attempt.whole);
        if is_new {
            self.addresses.add(now, attempt.address);
            self.guesses.add(now, attempt.pair);
            self.users.add(now, attempt.user);
        }
    }

    /// The password was right: this user is not locked out from there.
    pub(super) fn succeeded(&mut self, now: Instant, attempt: &Attempt) {
        if self.welcome.count(attempt.pair) == 0 {
            self.welcome.add(now, attempt.pair);
        }
    }
}

/// How often each of some keys came.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<u64, u32>,
    /// When each key came first, oldest first.
    first: VecDeque<(Instant, u64)>,
}

impl Tally {
    fn count(&self, key: u64) -> u32 {
        self.counts.get(&key).copied().unwrap_or_default()
    }

    fn add(&mut self, now: Instant, key: u64) {
        let count = self.counts.entry(key).or_default();
        if *count == 0 {
            self.first.push_back((now, key));
        }
        *count = count.saturating_add(1);
        if self.first.len() > MAX_ENTRIES {
            self.drop_first();
        }
    }

    /// Forgets what came first more than `window` ago.
    fn forget(&mut self, now: Instant, window: Duration) {
        while self.first.front().is_some_and(|&(first, _)| first + window <= now) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, key)) = self.first.pop_front() {
            self.counts.remove(&key);
        }
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BrakeLimits = BrakeLimits { per_address: 3, per_user: 5, window: Duration::from_secs(60) };

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn attempt(address: &str, user: &str, password: &str) -> Attempt {
        Attempt::new(address.parse().ok(), 0, user, password.as_bytes())
    }

    fn guess(brake: &mut Brake, second: u64, address: &str, user: &str, guesses: core::ops::Range<u32>) {
        for number in guesses {
            brake.failed(at(second), &attempt(address, user, &number.to_string()));
        }
    }

    #[test]
    fn an_address_that_guesses_is_held_for_a_while() {
        let mut brake = Brake::new(LIMITS);
        guess(&mut brake, 0, "192.0.2.1", "a", 0..2);
        assert!(!brake.is_on(at(1), &attempt("192.0.2.1", "b", "x")));
        guess(&mut brake, 30, "192.0.2.1", "b", 0..1);
        assert!(brake.is_on(at(31), &attempt("192.0.2.1", "c", "x")), "whoever it says it is");
        assert!(!brake.is_on(at(31), &attempt("192.0.2.2", "a", "x")));
        assert!(brake.is_on(at(59), &attempt("192.0.2.1", "c", "x")));
        assert!(!brake.is_on(at(60), &attempt("192.0.2.1", "c", "x")));
    }

    #[test]
    fn a_user_who_is_guessed_at_from_everywhere_is_held_but_where_it_is_at_home() {
        let mut brake = Brake::new(LIMITS);
        brake.succeeded(at(0), &attempt("198.51.100.1", "a", "right"));
        for n in 1..=5 {
            guess(&mut brake, 1, &format!("192.0.2.{n}"), "a", 0..1);
        }
        assert!(brake.is_on(at(2), &attempt("203.0.113.1", "a", "x")));
        assert!(!brake.is_on(at(2), &attempt("203.0.113.1", "b", "x")));
        assert!(!brake.is_on(at(2), &attempt("198.51.100.1", "a", "right")));
    }

    #[test]
    fn who_guesses_where_a_user_is_at_home_is_held_there_too() {
        let mut brake = Brake::new(LIMITS);
        brake.succeeded(at(0), &attempt("192.0.2.1", "a", "right"));
        guess(&mut brake, 1, "192.0.2.1", "b", 0..3);
        guess(&mut brake, 1, "192.0.2.1", "a", 0..2);
        assert!(!brake.is_on(at(2), &attempt("192.0.2.1", "a", "right")));
        guess(&mut brake, 2, "192.0.2.1", "a", 2..3);
        assert!(brake.is_on(at(3), &attempt("192.0.2.1", "a", "right")));
        assert!(!brake.is_on(at(62), &attempt("192.0.2.1", "a", "right")));
    }

    #[test]
    fn the_same_wrong_password_again_is_no_guess() {
        let mut brake = Brake::new(LIMITS);
        for second in 0..50 {
            let attempt = attempt("192.0.2.1", "a", "old");
            assert_eq!(brake.is_on(at(second), &attempt), second >= 3, "nor is it looked at for ever");
            brake.failed(at(second), &attempt);
        }
        assert!(!brake.is_on(at(50), &attempt("192.0.2.1", "b", "right")));
        assert!(!brake.is_on(at(50), &attempt("192.0.2.1", "a", "right")));
        assert!(!brake.is_on(at(60), &attempt("192.0.2.1", "a", "old")));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let mut brake = Brake::new(LIMITS);
        for n in 0..3 {
            guess(&mut brake, 0, &format!("2001:db8::{n}"), "a", n..n + 1);
        }
        assert!(brake.is_on(at(1), &attempt("2001:db8::ffff", "b", "x")));
        assert!(!brake.is_on(at(1), &attempt("2001:db8:0:1::1", "b", "x")));
        let mapped = attempt("::ffff:192.0.2.1", "a", "x");
        assert_eq!(mapped.address, attempt("192.0.2.1", "a", "x").address);
    }

    #[test]
    fn memory_is_bounded() {
        let mut brake = Brake::new(LIMITS);
        for n in 0..MAX_ENTRIES as u32 + 9 {
            let address = IpAddr::from(n.to_be_bytes());
            brake.failed(at(0), &Attempt::new(Some(address), 0, &n.to_string(), b"x"));
        }
        for tally in [&brake.addresses, &brake.users, &brake.tried] {
            assert_eq!((tally.counts.len(), tally.first.len()), (MAX_ENTRIES, MAX_ENTRIES));
        }
    }

    #[test]
    fn zero_is_off() {
        let mut brake = Brake::new(BrakeLimits { per_address: 0, per_user: 0, ..LIMITS });
        guess(&mut brake, 0, "192.0.2.1", "a", 0..99);
        assert!(!brake.is_on(at(1), &attempt("192.0.2.1", "a", "x")));
    }
}

//! Rates: so many a second, with a second's worth at once.
//!
//! The state of a rate is one number, the time up to which it is used up (the "theoretical arrival time" of the generic cell rate
//! algorithm, ITU-T I.371), so that several workers can share it.

use crate::time::{Duration, Instant};

const SECOND: u64 = 1_000_000_000;

/// So many a second, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u32);

impl Rate {
    /// `None` when it is 0.
    pub fn new(per_second: u32) -> Option<Self> {
        (per_second > 0).then_some(Self(per_second))
    }

    /// When so many more than what was used up to `until` are used up, at `now`.
    pub(super) fn spend(self, until: u64, now: u64, count: u64) -> u64 {
        // Of what is left from earlier, a second's worth counts.
        let from = until.max(now.saturating_sub(SECOND));
        from.saturating_add(count.saturating_mul(SECOND) / u64::from(self.0))
    }

    /// What a worker takes at once from a rate that it shares: 20 ms' worth.
    pub(super) fn portion(self) -> u64 {
        u64::from(self.0 / 50).max(1)
    }
}

/// What one connection has used of a rate.
pub struct Meter {
    rate: Rate,
    until: u64,
}

impl Meter {
    /// Nothing.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, until: 0 }
    }

    /// Uses so many, which may be more than there are left: then it is a debt.
    pub fn spend(&mut self, now: Instant, count: u64) {
        self.until = self.rate.spend(self.until, now.as_nanos(), count);
    }

    /// How long until something may be used again; `None` when it is now.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.until.checked_sub(now.as_nanos()).filter(|wait| *wait > 0)?;
        Some(Duration::from_nanos(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_the_rate() {
        let start = Instant::from_nanos(100 * SECOND);
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = Meter::new(Rate::new(10).unwrap());
        for _ in 0..10 {
            assert_eq!(meter.wait(at(0)), None);
            meter.spend(at(0), 1);
        }
        meter.spend(at(0), 1);
        assert_eq!(meter.wait(at(0)), Some(Duration::from_millis(100)));
        assert_eq!(meter.wait(at(99)), Some(Duration::from_millis(1)));
        assert_eq!(meter.wait(at(100)), None);
        meter.spend(at(100), 25);
        assert_eq!(meter.wait(at(100)), Some(Duration::from_millis(2500)));
        // However long it was idle.
        for _ in 0..11 {
            meter.spend(at(1_000_000), 1);
        }
        assert_eq!(meter.wait(at(1_000_000)), Some(Duration::from_millis(100)));
    }
}

//! One will for every connection that is tried, each different from all others, and whether it has to be seen.

use std::collections::BTreeMap;
use std::time::Instant;

/// A will's number, which is its payload.
pub(crate) type WillId = usize;

/// All wills, by number.
#[derive(Debug, Default)]
pub(crate) struct Wills(Vec<Will>);

/// A connection, as far as its will is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    /// Who tried to connect.
    pub(crate) device: String,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    pub(crate) due: Due,
}

/// What is promised about a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// No CONNACK 0 was received, or DISCONNECT was sent while something was being killed: either is right, but not
    /// twice.
    Perhaps,
    /// CONNACK 0 was received and DISCONNECT not sent: once.
    Once,
    /// DISCONNECT was sent, and nothing was in its way.
    Never,
}

/// What is wrong with a will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    Missing,
    Doubled,
    SentAfterDisconnect,
}

/// The wills' figures.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) due: u64,
    /// Of those that were due.
    pub(crate) seen: u64,
    /// Of those where either is right.
    pub(crate) perhaps_seen: u64,
    pub(crate) wrong: Vec<(WillId, Wrong)>,
    /// Sent again by a broker that was killed before it had written down that they were sent.
    pub(crate) repeated: u64,
    /// Payloads that are no will of ours.
    pub(crate) unknown: u64,
}

impl Wills {
    /// The will of a connection about to be tried.
    pub(crate) fn begin(&mut self, device: &str) -> WillId {
        let began = Instant::now();
        self.0.push(Will { device: device.to_owned(), began, ended: None, due: Due::Perhaps });
        self.0.len() - 1
    }

    pub(crate) fn promise(&mut self, will: WillId, due: Due) {
        self.0[will].due = due;
    }

    /// The connection is over.
    pub(crate) fn end(&mut self, will: WillId) {
        self.0[will].ended = Some(Instant::now());
    }

    pub(crate) fn get(&self, will: WillId) -> &Will {
        &self.0[will]
    }

    /// Compares what was promised with the payloads of all wills that were sent. One that was sent `just_before` the
    /// broker was killed may be repeated when it is back: at QoS 1 that is nobody's fault.
    pub(crate) fn compare(&self, sent: &[Vec<u8>], just_before: impl Fn(WillId) -> bool) -> Sums {
        let mut sums = Sums::default();
        let mut times = BTreeMap::<WillId, u64>::new();
        for payload in sent {
            let id = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
            match id.filter(|id| *id < self.0.len()) {
                Some(id) => *times.entry(id).or_default() += 1,
                None => sums.unknown += 1,
            }
        }
        for (id, will) in self.0.iter().enumerate() {
            let times = times.get(&id).copied().unwrap_or_default();
            match will.due {
                Due::Once => {
                    sums.due += 1;
                    sums.seen += times.min(1);
                }
                Due::Perhaps => sums.perhaps_seen += times.min(1),
                Due::Never => {}
            }
            match will.due.wrong(times) {
                Some(Wrong::Doubled) if times == 2 && just_before(id) => sums.repeated += 1,
                Some(wrong) => sums.wrong.push((id, wrong)),
                None => {}
            }
        }
        sums
    }
}

impl Due {
    fn wrong(self, times: u64) -> Option<Wrong> {
        match (self, times) {
            (Self::Once, 0) => Some(Wrong::Missing),
            (Self::Never, 1..) => Some(Wrong::SentAfterDisconnect),
            (_, 2..) => Some(Wrong::Doubled),
            _ => None,
        }
    }
}

impl Sums {
    /// How many wills are wrong in this way.
    pub(crate) fn count(&self, wrong: Wrong) -> u64 {
        self.wrong.iter().filter(|(_, this)| *this == wrong).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_wrong_is_seen_and_nothing_else() {
        use Due::{Never, Once, Perhaps};
        let cases = [
            (Once, 0, Some(Wrong::Missing)),
            (Once, 1, None),
            (Once, 2, Some(Wrong::Doubled)),
            (Perhaps, 0, None),
            (Perhaps, 1, None),
            (Perhaps, 2, Some(Wrong::Doubled)),
            (Never, 0, None),
            (Never, 1, Some(Wrong::SentAfterDisconnect)),
        ];
        let (mut wills, mut sent) = (Wills::default(), vec!["nonsense".to_owned(), "99".to_owned()]);
        for (due, times, _) in cases {
            let id = wills.begin("device");
            wills.promise(id, due);
            sent.extend((0..times).map(|_| id.to_string()));
        }
        let sent: Vec<_> = sent.into_iter().map(String::into_bytes).collect();
        let sums = wills.compare(&sent, |_| false);
        let expected: Vec<_> =
            cases.iter().enumerate().filter_map(|(id, case)| Some((id, case.2?))).collect();
        assert_eq!(sums.wrong, expected);
        assert_eq!((sums.due, sums.seen, sums.perhaps_seen, sums.unknown), (3, 2, 2, 2));
    }

    #[test]
    fn what_was_sent_just_before_a_kill_may_be_repeated_once() {
        let mut wills = Wills::default();
        for _ in 0..4 {
            let id = wills.begin("device");
            wills.promise(id, Due::Once);
        }
        let sent = ["0", "0", "1", "1", "2", "3"].map(|id| id.as_bytes().to_vec());
        let sums = wills.compare(&sent, |id| id == 1);
        assert_eq!((sums.repeated, sums.wrong), (1, vec![(0, Wrong::Doubled)]));
        let thrice = ["0", "1", "1", "1", "2", "3"].map(|id| id.as_bytes().to_vec());
        let sums = wills.compare(&thrice, |_| true);
        assert_eq!((sums.repeated, sums.wrong), (0, vec![(1, Wrong::Doubled)]));
    }
}

//! What a payload says about itself, and what a stream of payloads must look like.

use std::collections::BTreeSet;
use std::fmt;

/// The head of every payload; filler follows up to the payload's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Tells this program's messages, in this fleet, from anybody else's.
    pub(crate) run: u64,
    /// Who sent it: an index into the fleet's publishers.
    pub(crate) publisher: u32,
    /// Its place among that publisher's messages, from 0.
    pub(crate) sequence: u64,
    /// When it was (or should have been) sent: nanoseconds of this process's clock.
    pub(crate) sent: u64,
}

impl Stamp {
    /// Octets a stamp takes, and so the smallest payload.
    pub(crate) const LEN: usize = 28;

    /// Writes the stamp over the head of `payload`.
    pub(crate) fn write(self, payload: &mut [u8]) {
        payload[..8].copy_from_slice(&self.run.to_be_bytes());
        payload[8..12].copy_from_slice(&self.publisher.to_be_bytes());
        payload[12..20].copy_from_slice(&self.sequence.to_be_bytes());
        payload[20..Self::LEN].copy_from_slice(&self.sent.to_be_bytes());
    }

    /// Reads the stamp of a payload of exactly `size` octets; `None` for anything that this program did not write.
    pub(crate) fn read(payload: &[u8], size: usize) -> Option<Self> {
        if payload.len() != size {
            return None;
        }
        let (run, rest) = payload.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (sent, filler) = rest.split_first_chunk()?;
        let intact = filler.chunks(FILLER.len()).all(|chunk| chunk == &FILLER[..chunk.len()]);
        intact.then_some(Self {
            run: u64::from_be_bytes(*run),
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            sent: u64::from_be_bytes(*sent),
        })
    }
}

/// What fills a payload behind its stamp, over and over.
pub(crate) const FILLER: [u8; 1024] = [b'.'; 1024];

/// One publisher's messages as one subscriber sees them.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// One more than the highest sequence number seen.
    next: u64,
    /// Numbers below `next` that have not been seen.
    missing: BTreeSet<u64>,
    late: u64,
    duplicates: u64,
}

impl Sequence {
    /// Takes note of a reception.
    pub(crate) fn observe(&mut self, sequence: u64) {
        if sequence >= self.next {
            self.missing.extend(self.next..sequence);
            self.next = sequence + 1;
        } else if self.missing.remove(&sequence) {
            self.late += 1;
        } else {
            self.duplicates += 1;
        }
    }

    /// How far the stream has come: one more than the highest sequence number seen.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// What is wrong with the stream if it was to end before `end`.
    pub(crate) fn faults(&self, end: u64) -> Faults {
        Faults {
            lost: self.missing.len() as u64 + end.saturating_sub(self.next),
            first_lost: self.missing.first().copied().or((self.next < end).then_some(self.next)),
            late: self.late,
            duplicates: self.duplicates,
            beyond: self.next.saturating_sub(end),
        }
    }
}

/// Everything that can be wrong with one stream, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    lost: u64,
    first_lost: Option<u64>,
    late: u64,
    duplicates: u64,
    beyond: u64,
}

impl Faults {
    /// Whether the stream was complete, in order and without repetition.
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lost", self.lost)?;
        if let Some(first) = self.first_lost {
            write!(f, " (first: {first})")?;
        }
        write!(f, ", {} out of order, {} twice, {} never sent", self.late, self.duplicates, self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(seen: &[u64], end: u64) -> Faults {
        let mut sequence = Sequence::default();
        seen.iter().for_each(|number| sequence.observe(*number));
        sequence.faults(end)
    }

    #[test]
    fn a_complete_stream_is_clean() {
        assert!(faults(&[0, 1, 2, 3], 4).is_clean());
        assert!(faults(&[], 0).is_clean());
    }

    #[test]
    fn a_gap_and_a_missing_end_are_lost() {
        assert_eq!(faults(&[0, 3], 6), Faults { lost: 4, first_lost: Some(1), ..Faults::default() });
        assert_eq!(faults(&[0, 1], 3), Faults { lost: 1, first_lost: Some(2), ..Faults::default() });
        assert_eq!(faults(&[], 2), Faults { lost: 2, first_lost: Some(0), ..Faults::default() });
    }

    #[test]
    fn a_late_message_is_out_of_order_but_not_lost_and_not_twice() {
        assert_eq!(faults(&[0, 2, 1, 3], 4), Faults { late: 1, ..Faults::default() });
    }

    #[test]
    fn a_repetition_is_counted_wherever_it_comes() {
        assert_eq!(faults(&[0, 0, 1, 2, 1], 3), Faults { duplicates: 2, ..Faults::default() });
        assert_eq!(faults(&[0, 2, 1, 1], 3), Faults { late: 1, duplicates: 1, ..Faults::default() });
    }

    #[test]
    fn a_number_that_was_never_sent_is_seen() {
        assert_eq!(faults(&[0, 1, 2], 2), Faults { beyond: 1, ..Faults::default() });
    }

    #[test]
    fn a_stamp_survives_and_a_damaged_payload_does_not() {
        let stamp = Stamp { run: 1, publisher: 2, sequence: 3, sent: 4 };
        let mut payload = FILLER.repeat(2);
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload, 2048), Some(stamp));
        assert_eq!(Stamp::read(&payload[..2047], 2048), None);
        payload[2047] = b'!';
        assert_eq!(Stamp::read(&payload, 2048), None);
        let mut bare = [0; Stamp::LEN];
        stamp.write(&mut bare);
        assert_eq!(Stamp::read(&bare, Stamp::LEN), Some(stamp));
    }
}

//! How fast a client may go on: rates of its own and of its tenant, and publishes that the broker has not confirmed.
//!
//! A client that is ahead is not read from for a while. What it has sent stays with the host, which stops reading, so that TCP
//! holds the client up and memory stays as it is.

use crate::error::{Error, Limit};
use crate::policy::{Meter, Quota, Seat};
use crate::time::{Duration, Instant};

/// What holds one connection up. Its host is told by `Bridge::is_holding`.
#[derive(Default)]
pub(super) struct Throttle {
    messages: Option<Meter>,
    bytes: Option<Meter>,
    max_inflight: Option<usize>,
    /// The client's place in its tenant, from CONNECT on.
    seat: Option<Seat>,
    hold: Option<Hold>,
    /// A client that has ended is not held up from then on.
    last: Option<Instant>,
}

/// Until when a client is not read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Until(Instant),
    /// Until the broker confirms a publish.
    Confirm,
    /// Until a message can be kept.
    Keep,
}

impl Throttle {
    pub(super) fn new(quota: &Quota, seat: Seat) -> Self {
        Self {
            messages: quota.client_message_rate.map(Meter::new),
            bytes: quota.client_byte_rate.map(Meter::new),
            max_inflight: quota.max_inflight.map(usize::from),
            seat: Some(seat),
            hold: None,
            last: None,
        }
    }

    /// The client has ended: what it still has to say is heard as its rate permits, for so long.
    pub(super) fn end_within(&mut self, now: Instant, patience: Duration) {
        self.last.get_or_insert(now + patience);
    }

    /// A PUBLISH is read.
    pub(super) fn message(&mut self, now: Instant) {
        if let Some(meter) = &mut self.messages {
            meter.spend(now, 1);
        }
        if let Some(seat) = &self.seat {
            seat.spend_messages(1);
        }
    }

    /// So many bytes are read.
    pub(super) fn bytes(&mut self, now: Instant, count: usize) {
        if let Some(meter) = &mut self.bytes {
            meter.spend(now, count as u64);
        }
        if let Some(seat) = &self.seat {
            seat.spend_bytes(count as u64);
        }
    }

    /// Whether the client is to wait before the next packet, while so many publishes wait for a confirm; or, without them, before the
    /// next piece of a payload, whose message is counted already.
    ///
    /// # Errors
    /// When it has ended, and has waited for as long as it may.
    pub(super) fn holds(&mut self, now: Instant, inflight: Option<usize>) -> Result<bool, Error> {
        let own = |meter: &Option<Meter>| meter.as_ref().and_then(|meter| meter.wait(now));
        let seat = self.seat.as_ref();
        let mut wait = own(&self.bytes).max(seat.and_then(Seat::wait_for_bytes));
        if inflight.is_some() {
            wait = wait.max(own(&self.messages)).max(seat.and_then(Seat::wait_for_messages));
        }
        self.hold = match (wait, self.last) {
            (Some(_), Some(last)) if last <= now => return Err(Error::Limit(Limit::Rate)),
            (Some(wait), Some(last)) => Some(Hold::Until(last.min(now + wait))),
            (Some(wait), None) => Some(Hold::Until(now + wait)),
            (None, _) => inflight.is_some_and(|inflight| !self.has_room(inflight)).then_some(Hold::Confirm),
        };
        Ok(self.hold.is_some())
    }

    /// Whether another publish may be on its way beside so many.
    pub(super) fn has_room(&self, inflight: usize) -> bool {
        self.max_inflight.is_none_or(|most| inflight < most)
    }

    /// The client is to wait until its next message can be kept.
    pub(super) const fn hold_to_keep(&mut self) {
        self.hold = Some(Hold::Keep);
    }

    pub(super) const fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// The client may go on, until it is looked at again.
    pub(super) const fn release(&mut self) {
        self.hold = None;
    }
}

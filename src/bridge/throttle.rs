//! How fast a client may go on: rates of its own and of its tenant, and publishes that the broker has not confirmed.
//!
//! A client that is ahead is not read from for a while. What it has sent stays with the host, which stops reading, so that TCP
//! holds the client up and memory stays as it is.

use crate::error::{Error, Limit};
use crate::policy::grants::Budget;
use crate::policy::{Meter, Quota, Seat};
use crate::time::{Duration, Instant};

/// The most publishes of one client that wait for the broker's confirm, where the policy says nothing of it.
const MAX_INFLIGHT: usize = 1024;
/// A client may come to so many places of grants a second, see [`Budget`]: a few hundredths of a processor. Under grants that are to the
/// point a packet comes to some ten.
const JUDGEMENT_RATE: u64 = 500_000;

/// What may be used ahead of that: more than one packet can, so that only those wait who make it long again and again.
const JUDGEMENT_DEBT: Duration = Duration::from_millis(150);

/// What holds one connection up. Its host is told by `Bridge::is_holding`.
pub(super) struct Throttle {
    messages: Option<Meter>,
    bytes: Option<Meter>,
    /// When what it has taken to judge the client's topics and filters is made up for.
    judged_until: Instant,
    max_inflight: usize,
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
    /// Until what came before the next packet has taken effect, see `bridge/order.rs`.
    Turn,
    /// Until a message can be kept.
    Keep,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            messages: None,
            bytes: None,
            judged_until: Instant::ZERO,
            max_inflight: MAX_INFLIGHT,
            seat: None,
            hold: None,
            last: None,
        }
    }
}

impl Throttle {
    pub(super) fn new(quota: &Quota, seat: Seat) -> Self {
        Self {
            messages: quota.client_message_rate.map(Meter::new),
            bytes: quota.client_byte_rate.map(Meter::new),
            judged_until: Instant::ZERO,
            max_inflight: quota.max_inflight.map_or(MAX_INFLIGHT, usize::from),
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

    /// A topic, or all filters of a packet, have been judged.
    pub(super) fn judged(&mut self, now: Instant, budget: &Budget) {
        let nanos = budget.spent() as u64 * (1_000_000_000 / JUDGEMENT_RATE);
        self.judged_until = self.judged_until.max(now) + Duration::from_nanos(nanos);
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
        let judgement = self.judged_until.as_nanos().saturating_sub(now.as_nanos());
        let judgement = Some(Duration::from_nanos(judgement)).filter(|wait| *wait > JUDGEMENT_DEBT);
        let mut wait = own(&self.bytes).max(judgement).max(seat.and_then(Seat::wait_for_bytes));
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
    pub(super) const fn has_room(&self, inflight: usize) -> bool {
        inflight < self.max_inflight
    }

    /// The client is to wait until its next message can be kept.
    pub(super) const fn hold_to_keep(&mut self) {
        self.hold = Some(Hold::Keep);
    }

    pub(super) const fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// The client waits for its turn.
    pub(super) const fn wait_for_turn(&mut self) {
        self.hold = Some(Hold::Turn);
    }

    /// The client may go on, until it is looked at again.
    pub(super) const fn release(&mut self) {
        self.hold = None;
    }
}

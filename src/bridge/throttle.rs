//! How fast a client may go on: rates of its own and of its tenant, publishes that the broker has not confirmed, how much of it is
//! read in one turn, and a worker that is short of memory.
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
    turn: Turn,
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
    Order,
    /// Until a message can be kept.
    Keep,
    /// Until others have had their turns.
    Turn,
    /// It adds to a worker that is short of memory: until it is looked at again.
    Memory(Instant),
}

/// What may still be read of the client before others have their turns: its flood costs them a turn and not a flood.
#[derive(Clone, Copy)]
struct Turn {
    items: u32,
    bytes: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self { items: TURN_ITEMS, bytes: TURN_BYTES }
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            messages: None,
            bytes: None,
            judged_until: Instant::ZERO,
            max_inflight: MAX_INFLIGHT,
            turn: Turn::default(),
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
            turn: Turn::default(),
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

    /// The client has its turn.
    pub(super) fn begin_turn(&mut self) {
        self.turn = Turn::default();
    }

    /// So many bytes are read: a packet, or a piece of a payload.
    pub(super) fn bytes(&mut self, now: Instant, count: usize) {
        self.turn.items = self.turn.items.saturating_sub(1);
        self.turn.bytes = self.turn.bytes.saturating_sub(count);
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

    /// Whether the client has had its turn; then it waits for the next.
    pub(super) const fn ends_turn(&mut self) -> bool {
        let is_over = self.turn.items == 0 || self.turn.bytes == 0;
        if is_over {
            self.hold = Some(Hold::Turn);
        }
        is_over
    }

    /// The client is not read from for a while, since it adds to a worker that is short of memory.
    pub(super) fn spare_memory(&mut self, now: Instant) {
        self.hold = Some(Hold::Memory(now + MEMORY_PAUSE));
    }

    pub(super) const fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// The client waits for what it said before.
    pub(super) const fn wait_for_order(&mut self) {
        self.hold = Some(Hold::Order);
    }

    /// The client may go on, until it is looked at again.
    pub(super) const fn release(&mut self) {
        self.hold = None;
    }
}

/// The most packets, and pieces of payload, of a turn.
const TURN_ITEMS: u32 = 128;
/// With so many bytes read a turn is over; the packet that gets there is read. Bytes of a payload cost little, and what is put back is
/// copied, so this is more than a host with a buffer of a usual size has at once.
const TURN_BYTES: usize = 512 * 1024;
const MEMORY_PAUSE: Duration = Duration::from_millis(500);

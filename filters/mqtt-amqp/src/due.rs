//! What a worker has to do for its connections besides what the proxy calls it for: a little in each callback, so that the proxy
//! serves others in between.
//!
//! A close that a callback asks for runs inside the one asked for before, so that thousands of them would end the virtual machine.
//! And a callback that takes long lets everybody wait. While anything is left over, the tick comes as fast as it can: between two
//! ticks the proxy looks at all its sockets, which it does not between two calls about a queue.

use crate::{
    host::{self, Status},
    root::Worker,
};
use core::cell::{Cell, RefCell};
use leveret::time::Instant;
use std::collections::{BTreeSet, VecDeque};

/// Connections by what is to be done for them.
#[derive(Default)]
pub(crate) struct Due {
    /// Who is to be woken when: this costs what is due, not what exists.
    alarms: RefCell<BTreeSet<(Instant, u32)>>,
    turns: RefCell<VecDeque<u32>>,
    closes: RefCell<VecDeque<u32>>,
    /// The proxy has been asked to call.
    is_called: Cell<bool>,
    /// The tick is fast.
    is_fast: Cell<bool>,
}

impl Due {
    /// Has a connection woken by the first tick at or after `at`.
    pub(crate) fn set_alarm(&self, id: u32, at: Instant) {
        self.alarms.borrow_mut().insert((at, id));
    }

    pub(crate) fn cancel_alarm(&self, id: u32, at: Instant) {
        self.alarms.borrow_mut().remove(&(at, id));
    }

    /// Whether the tick comes faster than it has to.
    pub(crate) fn is_fast(&self) -> bool {
        self.is_fast.get()
    }

    fn is_left(&self, now: Instant) -> bool {
        !self.turns.borrow().is_empty()
            || !self.closes.borrow().is_empty()
            || self.alarms.borrow().first().is_some_and(|(at, _)| *at <= now)
    }

    /// Taken out first: what is woken may set its next alarm for this very moment.
    fn take_alarms(&self, now: Instant) -> Vec<u32> {
        let mut alarms = self.alarms.borrow_mut();
        let mut due = Vec::new();
        while due.len() < ALARMS
            && let Some((_, id)) = alarms.first().copied().filter(|(at, _)| *at <= now)
        {
            alarms.pop_first();
            due.push(id);
        }
        due
    }
}

impl Worker {
    /// Has a connection closed in a callback to come.
    pub(crate) fn close_soon(&self, id: u32) {
        self.due.closes.borrow_mut().push_back(id);
        self.call_soon();
    }

    /// Has [`Connection::on_turn`](crate::stream::Connection::on_turn) called when others have had their turns.
    pub(crate) fn give_turn(&self, id: u32) {
        self.due.turns.borrow_mut().push_back(id);
        self.call_soon();
    }

    fn call_soon(&self) {
        if !self.due.is_fast.get() && !self.due.is_called.replace(true) {
            self.checked(self.call_back(&[]));
        }
    }

    /// The proxy calls because it was asked to.
    pub(crate) fn handle_call(&self) {
        self.due.is_called.set(false);
        let now = self.now();
        self.work(now);
        // Not to be done inside the tick, whose timer the proxy replaces by this.
        let is_left = self.due.is_left(now);
        if self.due.is_fast.replace(is_left) != is_left {
            self.checked(host::set_tick_period(if is_left { FAST_TICK_MILLIS } else { TICK_MILLIS }));
        }
    }

    /// A part of what is due, and the rest soon.
    pub(crate) fn work_in_tick(&self, now: Instant) {
        self.work(now);
        if self.due.is_left(now) != self.due.is_fast.get() && !self.due.is_called.replace(true) {
            self.checked(self.call_back(&[]));
        }
    }

    /// For no connection twice: of what is written for it in a callback the proxy sends on only the last.
    fn work(&self, now: Instant) {
        let woken = self.due.take_alarms(now);
        for &id in &woken {
            self.with(id, |connection| connection.on_alarm(now, self));
        }
        let turns = take_first(&self.due.turns, TURNS);
        for &id in &turns {
            if woken.contains(&id) {
                self.due.turns.borrow_mut().push_back(id);
            } else {
                self.with(id, |connection| connection.on_turn(now, self));
            }
        }
        if woken.is_empty() && turns.is_empty() {
            self.hand_over(now);
        }
        for id in take_first(&self.due.closes, CLOSES) {
            self.with(id, |connection| {
                if !connection.is_gone() {
                    self.checked(host::close_downstream());
                }
            });
        }
    }

    /// Ends connections that a later build is to have.
    fn hand_over(&self, now: Instant) {
        for _ in 0..ALARMS {
            let Some(id) = self.next_replaced(now) else { return };
            self.with(id, |connection| connection.on_replaced(now, self));
        }
    }

    /// Has [`Connection::put_back`](crate::stream::Connection::put_back) called once the current callback and what it has put off are
    /// over, before the proxy reads on.
    pub(crate) fn call_again(&self, id: u32) -> Result<(), Status> {
        self.call_back(&id.to_le_bytes())
    }
}

/// Taken out first: what is done for them may add to these.
fn take_first(ids: &RefCell<VecDeque<u32>>, most: usize) -> Vec<u32> {
    let mut ids = ids.borrow_mut();
    let most = most.min(ids.len());
    ids.drain(..most).collect()
}

/// The most connections that are woken, or handed over, in a callback.
const ALARMS: usize = 64;
/// The most connections that are read on from in a callback.
const TURNS: usize = 8;
/// The most connections that are closed in a callback, each inside the one before.
const CLOSES: usize = 32;
/// Between two ticks: alarms are kept to it.
pub(crate) const TICK_MILLIS: u32 = 100;
const FAST_TICK_MILLIS: u32 = 1;

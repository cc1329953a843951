//! What decides about all clients of one worker: the policy, and what has to be remembered for it.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Policy;
use super::brake::{Attempt, Brake};
use super::quota::Quota;
use super::shared::{Alone, RENEWAL, Seats, Shared, SharedMeter};
use super::tenant::Tenant;
use crate::time::{Duration, Instant};

/// The policy at work, for one worker.
pub struct Gate {
    pub(super) policy: Rc<Policy>,
    pub(super) brake: RefCell<Brake>,
    shared: Rc<dyn Shared>,
    worker: u64,
    /// By a tenant's index.
    used: Box<[Used]>,
    renew_at: Cell<Instant>,
    /// Bytes of the host's memory that are in use.
    memory: Cell<usize>,
    pub(super) refused_for_memory: Cell<bool>,
    /// When the next word may be said of that.
    warn_at: Cell<Instant>,
}

/// What a tenant uses of its limits.
struct Used {
    seats: Option<Seats>,
    messages: Option<SharedMeter>,
    bytes: Option<SharedMeter>,
}

/// A connection of a tenant's; when dropped, another may have its place.
pub struct Seat {
    gate: Rc<Gate>,
    tenant: usize,
}

impl Gate {
    /// For a worker with a number that no other has.
    pub fn new(policy: Rc<Policy>, shared: Rc<dyn Shared>, worker: u64) -> Self {
        let used = policy.all_tenants().map(|tenant| Used::new(tenant, &*shared)).collect();
        Self {
            brake: RefCell::new(Brake::new(policy.brake)),
            policy,
            shared,
            worker,
            used,
            renew_at: Cell::new(Instant::ZERO),
            memory: Cell::new(0),
            refused_for_memory: Cell::new(false),
            warn_at: Cell::new(Instant::ZERO),
        }
    }

    /// For the only worker there is.
    pub fn alone(policy: Rc<Policy>) -> Self {
        Self::new(policy, Rc::new(Alone::default()), 0)
    }

    /// To be called several times a second, so that other workers know that this one is there.
    pub fn handle_tick(&self, now: Instant) {
        if now < self.renew_at.get() {
            return;
        }
        self.renew_at.set(now + RENEWAL);
        for seats in self.used.iter().filter_map(|used| used.seats.as_ref()) {
            seats.renew(&*self.shared, self.worker);
        }
    }

    /// So many bytes of the host's memory are in use: to be told before the bytes of a client. A host that cannot tell never does.
    pub fn handle_memory(&self, in_use: usize) {
        self.memory.set(in_use);
    }

    /// Whether more is in use than `max_memory`: then nobody new is let in, and who adds to it is not read from.
    pub fn is_short_of_memory(&self) -> bool {
        self.memory.get() > self.policy.max_memory
    }

    /// How many bytes are in use, once a while, when clients have been refused for it.
    pub fn poll_memory_warning(&self, now: Instant) -> Option<usize> {
        let is_due = self.refused_for_memory.get() && now >= self.warn_at.get();
        is_due.then(|| {
            self.refused_for_memory.set(false);
            self.warn_at.set(now + MEMORY_WARNINGS);
            self.memory.get()
        })
    }

    /// A place among a tenant's connections; `None` when all are taken.
    pub(super) fn take_seat(self: &Rc<Self>, tenant: &Tenant) -> Option<Seat> {
        let seats = self.used.get(tenant.index).and_then(|used| used.seats.as_ref());
        let is_free = seats.is_none_or(|seats| seats.take(&*self.shared, self.worker));
        is_free.then(|| Seat { gate: Rc::clone(self), tenant: tenant.index })
    }

    /// The broker has refused a password.
    pub(crate) fn failed(&self, now: Instant, attempt: &Attempt) {
        self.brake.borrow_mut().failed(now, attempt);
    }

    /// A password was right.
    pub(crate) fn succeeded(&self, now: Instant, attempt: &Attempt) {
        self.brake.borrow_mut().succeeded(now, attempt);
    }
}

impl Seat {
    /// The tenant's clients have published so many messages more.
    pub(crate) fn spend_messages(&self, count: u64) {
        if let Some(meter) = self.used().and_then(|used| used.messages.as_ref()) {
            meter.spend(count);
        }
    }

    /// The tenant's clients have sent so many bytes more.
    pub(crate) fn spend_bytes(&self, count: u64) {
        if let Some(meter) = self.used().and_then(|used| used.bytes.as_ref()) {
            meter.spend(count);
        }
    }

    /// How long until the tenant's clients may publish more messages; `None` when it is now.
    pub(crate) fn wait_for_messages(&self) -> Option<Duration> {
        self.used()?.messages.as_ref()?.wait(&*self.gate.shared)
    }

    /// The same for bytes.
    pub(crate) fn wait_for_bytes(&self) -> Option<Duration> {
        self.used()?.bytes.as_ref()?.wait(&*self.gate.shared)
    }

    fn used(&self) -> Option<&Used> {
        self.gate.used.get(self.tenant)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(seats) = self.used().and_then(|used| used.seats.as_ref()) {
            seats.leave(&*self.gate.shared, self.gate.worker);
        }
    }
}

impl Used {
    fn new(tenant: &Tenant, shared: &dyn Shared) -> Self {
        let Quota { max_connections, message_rate, byte_rate, .. } = tenant.quota;
        let meter = |what, rate| SharedMeter::new(&tenant.name, what, rate, shared);
        Self {
            seats: max_connections.map(|limit| Seats::new(&tenant.name, limit, shared)),
            messages: message_rate.map(|rate| meter("messages", rate)),
            bytes: byte_rate.map(|rate| meter("bytes", rate)),
        }
    }
}

/// The least time between two of them.
const MEMORY_WARNINGS: Duration = Duration::from_secs(10);

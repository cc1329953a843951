//! One plugin configuration on one worker: what its connections share, and the tick that wakes them.

use crate::{
    BUILD, STAMP,
    builds::Builds,
    due::{Due, TICK_MILLIS},
    estate::Estate,
    host::{self, Buffer, Level, MetricKind, Status},
    stream::{Connection, Stream, Unconfigured},
};
use core::{
    cell::{Cell, RefCell},
    time::Duration,
};
use leveret::{
    Config, Gate,
    event::{self, Event},
    log::Ceiling,
    metrics::{Kind, Metric},
    policy::shared::{self, Shared},
    time::Instant,
};
use proxy_wasm::{
    traits::{Context, RootContext, StreamContext},
    types::ContextType,
};
use std::{collections::BTreeMap, rc::Rc};

/// The root context.
#[derive(Default)]
pub(crate) struct Root {
    config: Option<(Rc<Config>, Rc<Gate>)>,
    worker: Rc<Worker>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        self.worker.start();
        match Builds::read(size, self.worker.number.get()) {
            Ok(builds) => {
                self.worker.builds.replace(Some(builds));
                true
            }
            Err(error) => {
                host::log(Level::Error, &error);
                false
            }
        }
    }

    /// On `false` Envoy keeps what it had.
    fn on_configure(&mut self, size: usize) -> bool {
        host::log(Level::Info, &[STAMP, BUILD, " module ", &self.worker.module()].concat());
        // A configuration that cannot be read must not become the default one.
        let json = match host::read(Buffer::Configuration) {
            Ok(json) => json,
            Err(_) if size == 0 => Vec::new(),
            Err(_) => {
                host::log(Level::Error, "the configuration cannot be read");
                return false;
            }
        };
        match Config::from_json(&json) {
            Ok(config) => {
                let gate = Gate::new(config.policy.clone(), Rc::new(Proxy), self.worker.number.get());
                self.config = Some((Rc::new(config), Rc::new(gate)));
                self.worker.announce();
                true
            }
            Err(error) => {
                host::log(Level::Error, &error.to_string());
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let now = self.worker.now();
        self.worker.tick(now);
        if let Some((_, gate)) = &self.config {
            gate.handle_tick(now);
            if let Some(bytes) = gate.poll_memory_warning(now) {
                let line = format!("{} MiB of memory are in use: no new clients (max_memory)", bytes >> 20);
                host::log(Level::Warn, &line);
            }
        }
    }

    /// A connection has bytes to put back, see [`crate::stream`], or there is other work, see [`crate::due`]. There is a call for each
    /// entry.
    fn on_queue_ready(&mut self, id: u32) {
        let Ok(entry) = host::dequeue(id) else { return };
        match entry.try_into() {
            Ok(connection) => self.worker.put_back(u32::from_le_bytes(connection)),
            Err(_) => self.worker.handle_call(),
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        Some(match &self.config {
            Some((config, gate)) => {
                Box::new(Stream::new(id, config.clone(), gate.clone(), self.worker.clone()))
            }
            // The SDK panics on `None`.
            None => Box::new(Unconfigured),
        })
    }
}

/// What the connections of one root context share.
///
/// The tick reaches connections through here: the SDK keeps their contexts to itself.
#[derive(Default)]
pub(crate) struct Worker {
    clock: Cell<Clock>,
    /// Among the virtual machines of this proxy.
    number: Cell<u64>,
    /// By which a connection has itself called again before the proxy reads on.
    again: Cell<Option<u32>>,
    /// Tells this worker's connections from those of other workers and other Envoys.
    seed: Cell<u32>,
    log_level: Cell<u32>,
    ceiling: RefCell<Ceiling>,
    warned: Cell<bool>,
    /// Metric numbers by tenant. Each is defined when it is first needed: most never are.
    metrics: RefCell<BTreeMap<Box<str>, BTreeMap<Metric, u32>>>,
    estate: Estate,
    connections: RefCell<BTreeMap<u32, Rc<RefCell<Connection>>>>,
    /// From the virtual machine's start on.
    builds: RefCell<Option<Builds>>,
    pub(crate) due: Due,
    /// When to look again at what need not be looked at in each tick.
    look_at: Cell<Option<Instant>>,
}

impl Worker {
    /// The time for the core.
    pub(crate) fn now(&self) -> Instant {
        let mut clock = self.clock.get();
        if let Some(wall) = self.checked(host::wall_clock()) {
            clock.advance_to(wall);
        }
        self.clock.set(clock);
        clock.now
    }

    /// A number that no other connection has, at this broker: wall clock (64 bits), worker (32), connection (32).
    ///
    /// Connection ids are unique in one Envoy. Two Envoys differ in the worker's part, a hash of Envoy's node
    /// id and of the nanosecond the worker started in; the clock keeps apart what that leaves together.
    pub(crate) fn nonce(&self, context_id: u32) -> u128 {
        let connection = match host::property("connection_id").as_deref() {
            Ok(&[a, b, c, d, ..]) => u32::from_le_bytes([a, b, c, d]),
            Ok(_) | Err(_) => context_id,
        };
        let wall = self.clock.get().wall;
        (u128::from(wall) << 64) | (u128::from(self.seed.get()) << 32) | u128::from(connection)
    }

    /// Adds a value to a metric of a tenant's.
    pub(crate) fn measure(&self, tenant: &str, metric: Metric, value: i64) {
        // No tenant has this name.
        let tenant = if tenant.is_empty() { "none" } else { tenant };
        let Some(number) = self.metric_number(tenant, metric) else { return };
        self.checked(match metric.kind() {
            Kind::Counter | Kind::Gauge => host::increment(number, value),
            Kind::Histogram => host::record(number, value.unsigned_abs()),
        });
    }

    fn metric_number(&self, tenant: &str, metric: Metric) -> Option<u32> {
        let known = self.metrics.borrow().get(tenant).and_then(|numbers| numbers.get(&metric).copied());
        if known.is_some() {
            return known;
        }
        let kind = match metric.kind() {
            Kind::Counter => MetricKind::Counter,
            Kind::Gauge => MetricKind::Gauge,
            Kind::Histogram => MetricKind::Histogram,
        };
        let name = format!("leveret.{tenant}.{}", metric.name());
        let number = self.checked(host::define_metric(kind, &name))?;
        self.estate.tell(kind, &name);
        self.metrics.borrow_mut().entry(tenant.into()).or_default().insert(metric, number);
        Some(number)
    }

    /// Logs an event, if anyone listens.
    pub(crate) fn log(&self, client: &dyn core::fmt::Display, event: &Event, loudness: event::Level) {
        let level = match loudness {
            event::Level::Debug => Level::Debug,
            event::Level::Info => Level::Info,
            event::Level::Warn => Level::Warn,
        };
        let is_heard = level as u32 >= self.log_level.get();
        if is_heard && self.ceiling.borrow_mut().admits(self.clock.get().now, loudness) {
            host::log(level, &format!("{client}: {event}"));
        }
    }

    /// The value of a host call that should have worked; the first that did not is logged.
    pub(crate) fn checked<T>(&self, result: Result<T, Status>) -> Option<T> {
        if result.is_err() && !self.warned.replace(true) {
            host::log(Level::Warn, "the proxy refused a call: is it of a supported version?");
        }
        result.ok()
    }

    pub(crate) fn admit(&self, id: u32, connection: Rc<RefCell<Connection>>) {
        if let Some(builds) = &mut *self.builds.borrow_mut() {
            builds.admit(self.clock.get().now, id);
        }
        self.connections.borrow_mut().insert(id, connection);
    }

    pub(crate) fn forget(&self, id: u32) {
        self.connections.borrow_mut().remove(&id);
    }

    /// Has [`RootContext::on_queue_ready`] called with this entry, in a callback of its own.
    pub(crate) fn call_back(&self, entry: &[u8]) -> Result<(), Status> {
        match self.again.get() {
            Some(again) => host::enqueue(again, entry),
            // Then it is done by the tick, or later, with more bytes than the proxy's limit.
            None => Ok(()),
        }
    }

    fn put_back(&self, id: u32) {
        self.with(id, |connection| connection.put_back(self));
    }

    /// Has the calls to the proxy be about this connection, if it is still there.
    pub(crate) fn with(&self, id: u32, act: impl FnOnce(&mut Connection)) {
        let connection = self.connections.borrow().get(&id).cloned();
        if let Some(connection) = connection
            && self.checked(host::set_effective_context(id)).is_some()
        {
            act(&mut connection.borrow_mut());
        }
    }

    fn start(&self) {
        self.now();
        self.number.set(machine_number());
        self.again.set(self.checked(host::register_shared_queue(&format!("leveret.{}", self.number.get()))));
        let node = host::property("node\0id").unwrap_or_default();
        self.seed.set(fnv(&[&node, self.clock.get().wall.to_le_bytes().as_slice()].concat()));
        self.refresh_log_level();
        self.checked(host::set_tick_period(TICK_MILLIS));
    }

    fn tick(&self, now: Instant) {
        if !self.due.is_fast() || self.look_at.get().is_none_or(|at| at <= now) {
            self.look_at.set(Some(now + Duration::from_millis(TICK_MILLIS.into())));
            self.refresh_log_level();
            self.look_at_builds(now);
            if let Some(lines) = self.ceiling.borrow_mut().poll_left_out(now) {
                let most = leveret::log::MAX_LINES;
                let line =
                    format!("{lines} lines were left out: at most {most} a second are written of a level");
                host::log(Level::Warn, &line);
            }
        }
        self.work_in_tick(now);
    }

    fn look_at_builds(&self, now: Instant) {
        self.estate.adopt();
        if let Some(builds) = &mut *self.builds.borrow_mut() {
            self.checked(builds.handle_tick(now, self.connections.borrow().keys().copied()));
        }
    }

    pub(crate) fn next_replaced(&self, now: Instant) -> Option<u32> {
        self.builds.borrow_mut().as_mut()?.poll_end(now)
    }

    fn announce(&self) {
        self.estate.adopt();
        if let Some(builds) = &*self.builds.borrow() {
            builds.announce();
        }
    }

    fn module(&self) -> Box<str> {
        self.builds.borrow().as_ref().map(|builds| builds.module.clone()).unwrap_or_default()
    }

    /// Asked ten times a second and not once an event: it can be changed while Envoy runs, and asking costs.
    fn refresh_log_level(&self) {
        if let Some(level) = self.checked(host::log_level()) {
            self.log_level.set(level);
        }
    }
}

/// What the workers share, in the proxy.
pub(crate) struct Proxy;

impl Shared for Proxy {
    fn now(&self) -> u64 {
        host::wall_clock().unwrap_or_default()
    }

    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        host::shared_data(key)
    }

    fn set(&self, key: &str, value: &[u8], mark: Option<u32>) -> bool {
        host::set_shared_data(key, value, mark).is_ok()
    }
}

/// A number that no other virtual machine of this proxy has.
fn machine_number() -> u64 {
    const KEY: &str = "leveret.machines";
    shared::create(&Proxy, KEY);
    let number = shared::update(&Proxy, KEY, |value| {
        let number = value.first_chunk().map_or(0, |last| u64::from_le_bytes(*last)).saturating_add(1);
        *value = number.to_le_bytes().into();
        number
    });
    number.unwrap_or_else(|| {
        // The others have small ones.
        let number = Proxy.now();
        let line = format!(
            "a worker gets no number from the proxy's shared data and takes the time for it: {number}"
        );
        host::log(Level::Warn, &line);
        number
    })
}

/// A clock that never goes back and never leaps, made from a wall clock that may do both.
///
/// With a tick every 100 ms a second between two readings is already a fault of the wall clock; following it
/// would end every connection that has a keepalive.
#[derive(Clone, Copy)]
struct Clock {
    wall: u64,
    now: Instant,
}

impl Clock {
    fn advance_to(&mut self, wall: u64) {
        let passed = Duration::from_nanos(wall.saturating_sub(self.wall));
        self.now = self.now + passed.min(LONGEST_STEP);
        self.wall = wall;
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self { wall: 0, now: Instant::ZERO }
    }
}

/// FNV-1a.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

const LONGEST_STEP: Duration = Duration::from_secs(1);

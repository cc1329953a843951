//! A proxy-wasm host for network filters that behaves like Envoy with `tcp_proxy` behind the filter.
//!
//! It keeps Envoy's rules on what may be written when, down to the statuses, and shows outcomes: the bytes
//! that reached either side, closes, log lines, counters. What Envoy would lose is lost here too, and counted.
//! A callback that traps ends the module and all its connections; that panics unless the test said it may.

mod abi;
mod connection;
mod facts;
mod proxy;
mod shared;

use crate::module::Module;
use connection::Read;
use proxy::{Action, Proxy};
use std::{collections::BTreeMap, net::SocketAddr};
use wasmtime::{Instance, Linker, Store, WasmParams, WasmResults};

pub use facts::{Certificate, Facts};
pub use proxy::{Level, LogLine};
pub use shared::SharedData;

/// One connection of a [`Host`], by its context id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub(crate) u32);

/// The module did not accept its configuration; this is what it logged.
#[derive(Debug)]
pub struct Refused(pub Vec<LogLine>);

/// A worker of a proxy with the module loaded and configured.
pub struct Host {
    store: Store<Proxy>,
    instance: Instance,
    next_context: u32,
    /// Calls into the module that have not returned to the proxy's event loop.
    depth: usize,
    deepest: usize,
    costliest: u64,
    may_trap: bool,
}

impl Host {
    /// Starts and configures the module.
    pub fn new(module: &Module, config_json: &str) -> Result<Self, Refused> {
        Self::worker_of(&SharedData::default(), module, config_json)
    }

    /// The same as one worker of several of a proxy. Each has a clock of its own, which starts at the same time.
    pub fn worker_of(shared: &SharedData, module: &Module, config_json: &str) -> Result<Self, Refused> {
        let engine = module.compiled.engine();
        let mut linker = Linker::new(engine);
        abi::define(&mut linker).expect("every call is defined once");
        // Envoy offers more than a network filter needs; using any of it would be a surprise worth a trap.
        linker.define_unknown_imports_as_traps(&module.compiled).expect("imports are functions");
        let mut store = Store::new(engine, Proxy::new(config_json, shared.clone()));
        store.set_fuel(u64::MAX).expect("fuel is on");
        let instance = linker.instantiate(&mut store, &module.compiled).expect("an instance");
        let mut host = Self {
            store,
            instance,
            next_context: ROOT + 1,
            depth: 0,
            deepest: 0,
            costliest: 0,
            may_trap: false,
        };
        host.call::<_, ()>("_initialize", 0, ());
        host.call::<_, ()>("proxy_on_context_create", ROOT, (ROOT, 0));
        host.call::<_, u32>("proxy_on_vm_start", ROOT, (ROOT, 0));
        host.store.data_mut().configuring = true;
        let accepted = host.call::<_, u32>("proxy_on_configure", ROOT, (ROOT, config_json.len() as u32));
        host.store.data_mut().configuring = false;
        if accepted == Some(1) { Ok(host) } else { Err(Refused(host.logs().to_vec())) }
    }

    /// A client connects. `tcp_proxy` connects upstream now if the filter lets it, else when reading continues.
    pub fn connect(&mut self, peer: SocketAddr) -> Connection {
        self.connect_as(&Facts { address: peer, ..Facts::default() })
    }

    /// The same with everything that the proxy tells of it.
    pub fn connect_as(&mut self, facts: &Facts) -> Connection {
        let id = self.next_context;
        self.next_context += 1;
        self.store.data_mut().add(id, facts.clone());
        self.call::<_, ()>("proxy_on_context_create", id, (id, ROOT));
        let action = self.call("proxy_on_new_connection", id, (id,));
        self.store.data_mut().new_connection_done(id, action.map(filter_status));
        self.settle();
        Connection(id)
    }

    /// The client sends bytes. The proxy reads them, at once or when it reads on.
    pub fn client_sends(&mut self, connection: Connection, bytes: &[u8]) {
        self.store.data_mut().connection(connection.0).client_sends(bytes);
        self.settle();
    }

    /// The client sends its FIN, which comes behind its bytes.
    pub fn client_ends(&mut self, connection: Connection) {
        self.store.data_mut().connection(connection.0).client_ends();
        self.settle();
    }

    /// The client's connection breaks. The proxy notices when it reads, or writes to it.
    pub fn client_vanishes(&mut self, connection: Connection) {
        self.store.data_mut().connection(connection.0).client_vanishes();
        self.settle();
    }

    /// The broker sends bytes; it must have been connected to.
    pub fn broker_sends(&mut self, connection: Connection, bytes: &[u8]) {
        self.upstream_data(connection.0, bytes, false);
    }

    /// The broker sends its FIN.
    pub fn broker_ends(&mut self, connection: Connection) {
        self.upstream_data(connection.0, &[], true);
    }

    /// The broker's connection breaks: `tcp_proxy` closes the client's.
    pub fn broker_resets(&mut self, connection: Connection) {
        if self.store.data_mut().close(connection.0) {
            self.call::<_, ()>("proxy_on_downstream_connection_close", connection.0, (connection.0, LOCAL));
        }
        self.settle();
    }

    /// What has gone to the broker since the last time.
    pub fn take_to_broker(&mut self, connection: Connection) -> Vec<u8> {
        std::mem::take(&mut self.store.data_mut().connection(connection.0).to_broker)
    }

    /// What has gone to the client since the last time.
    pub fn take_to_client(&mut self, connection: Connection) -> Vec<u8> {
        std::mem::take(&mut self.store.data_mut().connection(connection.0).to_client)
    }

    /// How much the client has sent that the proxy does not read: when the kernel's buffers are full, sends block.
    pub fn unread(&self, connection: Connection) -> usize {
        self.store.data().connections[&connection.0].unread()
    }

    /// Beyond how many bytes in a connection's buffer the proxy reads no further. At first, as in our files.
    pub fn set_buffer_limit(&mut self, bytes: usize) {
        self.store.data_mut().buffer_limit = bytes;
    }

    /// Whether the client's connection has been closed, by whomever.
    pub fn closed(&self, connection: Connection) -> bool {
        self.store.data().connections[&connection.0].closed
    }

    /// The cluster that `tcp_proxy` has connected to; empty for the one of its own configuration.
    pub fn upstream(&self, connection: Connection) -> Option<&str> {
        self.store.data().connections[&connection.0].upstream.as_deref()
    }

    /// Bytes the filter wrote that Envoy would have lost: overtaken by a close or by an end of stream.
    pub fn lost(&self, connection: Connection) -> usize {
        self.store.data().connections[&connection.0].lost
    }

    /// Lets time pass, with the ticks the module asked for.
    pub fn advance(&mut self, millis: u64) {
        let end = self.store.data().nanos + millis * NANOS_PER_MILLI;
        while self.store.data_mut().advance_to_tick(end) {
            self.call::<_, ()>("proxy_on_tick", ROOT, (ROOT,));
            self.settle();
        }
        self.store.data_mut().nanos = end;
    }

    /// Sets the wall clock forwards or back, as NTP or an operator may.
    pub fn step_wall_clock(&mut self, seconds: i64) {
        let wall = &mut self.store.data_mut().wall_offset;
        *wall = wall.checked_add_signed(seconds * 1_000_000_000).expect("a time after 1970");
    }

    /// Everything logged so far.
    pub fn logs(&self) -> &[LogLine] {
        &self.store.data().logs
    }

    /// The level from which on the proxy writes log lines. Everything at first.
    pub fn set_log_level(&mut self, level: Level) {
        self.store.data_mut().log_level = level;
    }

    /// Counters and gauges by name, and of distributions how many values they have.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.store.data().metrics.iter().map(|metric| (metric.name.clone(), metric.value)).collect()
    }

    /// By what `tcp_proxy` may choose among a cluster's hosts.
    pub fn hash_key(&self, connection: Connection) -> Option<&str> {
        self.store.data().connections[&connection.0].hash_key.as_deref()
    }

    /// What the module has said of a connection, for access logs.
    pub fn told(&self, connection: Connection) -> &BTreeMap<String, String> {
        &self.store.data().connections[&connection.0].told
    }

    /// How much memory the module has; it never shrinks.
    pub fn memory_bytes(&mut self) -> usize {
        self.instance.get_memory(&mut self.store, "memory").expect("a memory").data_size(&self.store)
    }

    /// Fuel used so far: exact, and the same on every machine.
    pub fn fuel_used(&self) -> u64 {
        u64::MAX - self.store.get_fuel().expect("fuel is on")
    }

    /// The fuel of the callback that has cost most of all.
    pub fn costliest_call(&self) -> u64 {
        self.costliest
    }

    /// Of those to come only.
    pub fn forget_costliest_call(&mut self) {
        self.costliest = 0;
    }

    /// How many calls the module has made to the host so far.
    pub fn host_calls(&self) -> u64 {
        self.store.data().calls
    }

    /// How many callbacks have run inside each other at most: each close that a callback asks for runs inside the one before.
    pub fn deepest(&self) -> usize {
        self.deepest
    }

    /// From now on `call` (as `proxy_…`) does nothing but return this status; with `None`, it works again.
    pub fn fail_call(&mut self, call: &'static str, status: Option<u32>) {
        let failing = &mut self.store.data_mut().failing;
        match status {
            Some(status) => failing.insert(call, status),
            None => failing.remove(call),
        };
    }

    /// From now on a trap ends the module's connections and not the test.
    pub fn allow_trap(&mut self) {
        self.may_trap = true;
    }

    /// What the module trapped on, if it did.
    pub fn trapped(&self) -> Option<&str> {
        self.store.data().trapped.as_deref()
    }

    /// What follows an event before the next one: contexts of closed connections go, queues call, clients are read, and a module that
    /// wants the tick at once has it, as if that took no time.
    fn settle(&mut self) {
        loop {
            self.sweep();
            if let Some(queue) = self.store.data_mut().take_queue_call() {
                self.call::<_, ()>("proxy_on_queue_ready", ROOT, (ROOT, queue));
                continue;
            }
            match self.store.data_mut().read() {
                Some((id, Read::Data(size, end))) => {
                    let action = self.call("proxy_on_downstream_data", id, (id, size, u32::from(end)));
                    self.store.data_mut().finish_downstream(id, action.map(filter_status));
                }
                Some((id, Read::Reset)) => self.client_has_gone(id),
                None if self.trapped().is_none() && self.store.data().wants_tick() => {
                    self.call::<_, ()>("proxy_on_tick", ROOT, (ROOT,));
                }
                None => return,
            }
        }
    }

    fn client_has_gone(&mut self, id: u32) {
        if self.store.data_mut().close(id) {
            self.call::<_, ()>("proxy_on_downstream_connection_close", id, (id, REMOTE));
        }
    }

    fn upstream_data(&mut self, id: u32, bytes: &[u8], end: bool) {
        let Some(size) = self.store.data_mut().begin_upstream(id, bytes) else { return };
        let action: Option<u32> = self.call("proxy_on_upstream_data", id, (id, size, u32::from(end)));
        assert_ne!(action, Some(PAUSE), "Envoy keeps a dangling pointer to a paused upstream buffer");
        let output = self.store.data_mut().finish_upstream(id);
        if end {
            // A close inside the callback has deleted the context by now; Envoy tells it of the end all the same.
            self.sweep();
            // Still before what was just produced is written.
            self.call::<_, ()>("proxy_on_upstream_connection_close", id, (id, UNKNOWN));
        }
        if !self.store.data_mut().write_downstream(id, output) {
            self.client_has_gone(id);
        }
        self.settle();
    }

    /// One callback, and what it put off until its end. `None` when the module is dead.
    fn call<P: WasmParams, R: WasmResults>(&mut self, export: &str, context: u32, params: P) -> Option<R> {
        if self.trapped().is_some() {
            return None;
        }
        let function = self
            .instance
            .get_typed_func::<P, R>(&mut self.store, export)
            .unwrap_or_else(|error| panic!("{export}: {error}"));
        self.store.data_mut().begin_call(context);
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        let before = self.fuel_used();
        let outcome = if self.depth > DEEPEST {
            Err(wasmtime::Error::msg("Maximum call stack size exceeded"))
        } else {
            function.call(&mut self.store, params)
        };
        if self.next_context > ROOT + 1 {
            self.costliest = self.costliest.max(self.fuel_used() - before);
        }
        let results = match outcome {
            Ok(results) => {
                self.run_deferred();
                Some(results)
            }
            Err(trap) => {
                let trap = format!("{export}: {trap:?}");
                assert!(self.may_trap, "{trap}\n{:#?}", self.logs());
                self.store.data_mut().die(trap);
                None
            }
        };
        self.depth -= 1;
        results
    }

    fn run_deferred(&mut self) {
        while let Some(action) = self.store.data_mut().deferred.pop_front() {
            match action {
                Action::ContinueReading(id) => self.store.data_mut().connection(id).continue_reading(),
                Action::Close(id) => {
                    if self.store.data_mut().close(id) {
                        self.call::<_, ()>("proxy_on_downstream_connection_close", id, (id, LOCAL));
                    }
                }
            }
        }
    }

    fn sweep(&mut self) {
        for id in self.store.data_mut().sweep() {
            self.call::<_, u32>("proxy_on_done", id, (id,));
            self.call::<_, ()>("proxy_on_delete", id, (id,));
        }
    }
}

fn filter_status(status: u32) -> proxy::FilterStatus {
    if status == PAUSE { proxy::FilterStatus::Pause } else { proxy::FilterStatus::Continue }
}

const ROOT: u32 = 1;
const PAUSE: u32 = 1;
const UNKNOWN: u32 = 0;
const LOCAL: u32 = 1;
const REMOTE: u32 = 2;
/// Callbacks inside each other that V8's stack has room for, to be on the safe side: with 1,250 it sometimes has not.
const DEEPEST: usize = 250;
/// `per_connection_buffer_limit_bytes` in the files we ship.
const SHIPPED_BUFFER_LIMIT: usize = 1;
const NANOS_PER_MILLI: u64 = 1_000_000;

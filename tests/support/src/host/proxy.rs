//! The proxy's side: connections with their buffers, `tcp_proxy`, and what is put off until a callback ends.

use super::{
    connection::{Read, TcpConnection},
    facts::Facts,
    shared::SharedData,
};
use std::collections::{BTreeMap, VecDeque};

/// How loud a log line is, by its number in the proxy-wasm ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

/// What the module logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How loud.
    pub level: Level,
    /// What.
    pub text: String,
}

/// What a filter answers to new connections and data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterStatus {
    Continue,
    Pause,
}

/// What Envoy does only when the callback that asked for it has returned.
pub(crate) enum Action {
    ContinueReading(u32),
    Close(u32),
}

/// Everything host calls see and change.
pub(crate) struct Proxy {
    pub(crate) configuration: Vec<u8>,
    pub(crate) configuring: bool,
    /// Time since the start; never goes back.
    pub(crate) nanos: u64,
    pub(crate) wall_offset: u64,
    pub(crate) connections: BTreeMap<u32, TcpConnection>,
    /// Beyond this, a client is read no further.
    pub(crate) buffer_limit: usize,
    pub(crate) shared: SharedData,
    /// Which of those that share it this is.
    pub(crate) worker: usize,
    pub(crate) deferred: VecDeque<Action>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) log_level: Level,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) failing: BTreeMap<&'static str, u32>,
    pub(crate) calls: u64,
    pub(crate) trapped: Option<String>,
    tick: Option<Tick>,
    current: u32,
    effective: Option<u32>,
}

/// A counter, a gauge, or a distribution, of which only the number of values is kept.
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) value: u64,
}

/// The tick a module asked for.
struct Tick {
    period_nanos: u64,
    next: u64,
}

impl Proxy {
    pub(crate) fn new(configuration: &str, shared: SharedData) -> Self {
        Self {
            configuration: configuration.as_bytes().to_vec(),
            configuring: false,
            nanos: 0,
            wall_offset: 1_700_000_000_000_000_000,
            tick: None,
            connections: BTreeMap::new(),
            buffer_limit: super::SHIPPED_BUFFER_LIMIT,
            worker: shared.add_worker(),
            shared,
            deferred: VecDeque::new(),
            logs: Vec::new(),
            log_level: Level::Trace,
            metrics: Vec::new(),
            failing: BTreeMap::new(),
            calls: 0,
            trapped: None,
            current: 0,
            effective: None,
        }
    }

    pub(crate) fn begin_call(&mut self, context: u32) {
        self.current = context;
        self.effective = None;
    }

    /// The context that a host call is about.
    pub(crate) fn context(&self) -> u32 {
        self.effective.unwrap_or(self.current)
    }

    /// Whether there is such a context.
    pub(crate) fn set_effective(&mut self, context: u32) -> bool {
        let known = context == super::ROOT || self.connections.get(&context).is_some_and(|it| it.in_vm);
        if known {
            self.effective = Some(context);
        }
        known
    }

    pub(crate) fn set_tick_period(&mut self, millis: u32) {
        let period_nanos = u64::from(millis) * super::NANOS_PER_MILLI;
        self.tick = (millis > 0).then(|| Tick { period_nanos, next: self.nanos + period_nanos });
    }

    /// Whether the module has work that it wants to go on with as soon as others have been served.
    pub(crate) fn wants_tick(&self) -> bool {
        self.tick.as_ref().is_some_and(|tick| tick.period_nanos <= super::NANOS_PER_MILLI)
    }

    /// Moves time to the next tick, if there is one up to `end`.
    pub(crate) fn advance_to_tick(&mut self, end: u64) -> bool {
        match self.tick.as_mut().filter(|tick| tick.next <= end) {
            Some(tick) => {
                self.nanos = tick.next;
                tick.next += tick.period_nanos;
                true
            }
            None => false,
        }
    }

    pub(crate) fn add(&mut self, id: u32, facts: Facts) {
        let connection = TcpConnection::new(facts, self.trapped.is_none());
        self.connections.insert(id, connection);
    }

    pub(crate) fn connection(&mut self, id: u32) -> &mut TcpConnection {
        self.connections.get_mut(&id).expect("a connection of this host")
    }

    pub(crate) fn new_connection_done(&mut self, id: u32, status: Option<FilterStatus>) {
        match status {
            Some(FilterStatus::Continue) => self.connection(id).connect_upstream(),
            Some(FilterStatus::Pause) => {}
            None => self.connection(id).closed = true,
        }
    }

    /// The next that Envoy reads, of all connections.
    pub(crate) fn read(&mut self) -> Option<(u32, Read)> {
        let limit = self.buffer_limit;
        self.connections.iter_mut().find_map(|(&id, connection)| Some((id, connection.read(limit)?)))
    }

    /// The next queue that this worker is to be called about.
    pub(crate) fn take_queue_call(&mut self) -> Option<u32> {
        self.shared.take_call(self.worker).map(|queue| queue as u32)
    }

    pub(crate) fn finish_downstream(&mut self, id: u32, status: Option<FilterStatus>) {
        if status == Some(FilterStatus::Continue) {
            self.connection(id).continue_reading();
            self.connection(id).downstream_reachable = false;
        }
    }

    /// The buffer's size, unless the connection is closed.
    pub(crate) fn begin_upstream(&mut self, id: u32, bytes: &[u8]) -> Option<u32> {
        let connection = self.connection(id);
        if connection.closed {
            return None;
        }
        assert!(connection.upstream.is_some(), "a broker says nothing before it is connected to");
        connection.upstream_data = Some(bytes.to_vec());
        Some(bytes.len() as u32)
    }

    pub(crate) fn finish_upstream(&mut self, id: u32) -> Vec<u8> {
        self.connection(id).upstream_data.take().unwrap_or_default()
    }

    /// The end of an upstream event: only now its bytes are safe from a close. `false` when the client is not there any more.
    pub(crate) fn write_downstream(&mut self, id: u32, mut bytes: Vec<u8>) -> bool {
        let connection = self.connection(id);
        let is_gone = connection.is_gone() && !bytes.is_empty();
        if connection.closed || is_gone {
            connection.lost += bytes.len();
        } else {
            connection.to_client.append(&mut bytes);
        }
        !is_gone
    }

    /// Whether this closed it.
    pub(crate) fn close(&mut self, id: u32) -> bool {
        let connection = self.connection(id);
        if connection.closed {
            return false;
        }
        connection.closed = true;
        true
    }

    /// The contexts that are to go.
    pub(crate) fn sweep(&mut self) -> Vec<u32> {
        let mut gone = Vec::new();
        for (&id, connection) in &mut self.connections {
            if connection.closed && std::mem::take(&mut connection.in_vm) {
                gone.push(id);
            }
        }
        gone
    }

    /// The module trapped: Envoy closes every connection that had it.
    pub(crate) fn die(&mut self, trap: String) {
        self.trapped = Some(trap);
        self.deferred.clear();
        for connection in self.connections.values_mut() {
            connection.closed = true;
            connection.in_vm = false;
        }
    }
}

//! The proxy's side: connections with their buffers, `tcp_proxy`, and what is put off until a callback ends.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

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
    pub(crate) deferred: VecDeque<Action>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) log_level: Level,
    pub(crate) counters: Vec<(String, u64)>,
    pub(crate) failing: BTreeMap<&'static str, u32>,
    pub(crate) calls: u64,
    pub(crate) trapped: Option<String>,
    tick: Option<Tick>,
    current: u32,
    effective: Option<u32>,
}

/// The tick a module asked for.
struct Tick {
    period_nanos: u64,
    next: u64,
}

/// A client's connection, the filter on it and `tcp_proxy` behind that.
pub(crate) struct TcpConnection {
    pub(crate) peer: SocketAddr,
    /// Read from the client, not yet passed on.
    pub(crate) downstream: Vec<u8>,
    /// Whether the filter may touch `downstream`: inside its callback, and on from there if it paused.
    pub(crate) downstream_reachable: bool,
    /// On its way to the client, inside `on_upstream_data`.
    pub(crate) upstream_data: Option<Vec<u8>>,
    /// The filter state `envoy.tcp_proxy.cluster`.
    pub(crate) chosen_cluster: Option<String>,
    /// The cluster `tcp_proxy` has connected to.
    pub(crate) upstream: Option<String>,
    pub(crate) to_broker: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    pub(crate) closed: bool,
    pub(crate) lost: usize,
    client_ended: bool,
    end_passed_on: bool,
    /// Its context still exists in the module.
    in_vm: bool,
}

impl Proxy {
    pub(crate) fn new(configuration: &str) -> Self {
        Self {
            configuration: configuration.as_bytes().to_vec(),
            configuring: false,
            nanos: 0,
            wall_offset: 1_700_000_000_000_000_000,
            tick: None,
            connections: BTreeMap::new(),
            deferred: VecDeque::new(),
            logs: Vec::new(),
            log_level: Level::Trace,
            counters: Vec::new(),
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

    pub(crate) fn add(&mut self, id: u32, peer: SocketAddr) {
        let connection = TcpConnection {
            peer,
            downstream: Vec::new(),
            downstream_reachable: false,
            upstream_data: None,
            chosen_cluster: None,
            upstream: None,
            to_broker: Vec::new(),
            to_client: Vec::new(),
            closed: false,
            lost: 0,
            client_ended: false,
            end_passed_on: false,
            in_vm: self.trapped.is_none(),
        };
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

    /// The buffer's size, unless the connection is closed.
    pub(crate) fn begin_downstream(&mut self, id: u32, bytes: &[u8], end: bool) -> Option<u32> {
        let connection = self.connection(id);
        if connection.closed {
            return None;
        }
        assert!(!connection.client_ended, "a client says nothing after its FIN");
        connection.downstream.extend_from_slice(bytes);
        connection.client_ended = end;
        connection.downstream_reachable = true;
        Some(connection.downstream.len() as u32)
    }

    pub(crate) fn finish_downstream(&mut self, id: u32, status: Option<FilterStatus>) {
        if status == Some(FilterStatus::Continue) {
            self.continue_reading(id);
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

    /// The end of an upstream event: only now its bytes are safe from a close.
    pub(crate) fn write_downstream(&mut self, id: u32, mut bytes: Vec<u8>) {
        let connection = self.connection(id);
        if connection.closed {
            connection.lost += bytes.len();
        } else {
            connection.to_client.append(&mut bytes);
        }
    }

    /// `tcp_proxy` reads what the filter left in the buffer; the first time makes it connect.
    pub(crate) fn continue_reading(&mut self, id: u32) {
        let connection = self.connection(id);
        if connection.closed {
            return;
        }
        let end = connection.client_ended;
        if connection.downstream.is_empty() && !end {
            return;
        }
        connection.connect_upstream();
        let mut bytes = std::mem::take(&mut connection.downstream);
        if connection.end_passed_on {
            connection.lost += bytes.len();
        } else {
            connection.to_broker.append(&mut bytes);
        }
        connection.end_passed_on = end;
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

impl TcpConnection {
    fn connect_upstream(&mut self) {
        self.upstream.get_or_insert_with(|| self.chosen_cluster.clone().unwrap_or_default());
    }
}

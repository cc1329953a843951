//! One conversation, two subjects: the core driven natively, and the module in a behaving host.

use crate::{
    host::{Connection, Facts, Host, LogLine, Refused, SharedData},
    module::Module,
};
use leveret::{
    Bridge, Config, Gate, Peer,
    config::ConnectMode,
    event::Level,
    metrics::Kind,
    policy::{Alone, Certificate},
    time::{Duration, Instant},
};
use std::{collections::BTreeMap, rc::Rc};

/// What a conversation can do to the filter and see of it. See [`Host`] for what each means.
#[expect(missing_docs, reason = "Host has the same methods, with their documentation")]
pub trait Subject {
    fn connect_as(&mut self, facts: &Facts) -> Connection;
    fn client_sends(&mut self, connection: Connection, bytes: &[u8]);
    fn client_ends(&mut self, connection: Connection);
    fn client_vanishes(&mut self, connection: Connection);
    fn broker_sends(&mut self, connection: Connection, bytes: &[u8]);
    fn broker_ends(&mut self, connection: Connection);
    fn take_to_broker(&mut self, connection: Connection) -> Vec<u8>;
    fn take_to_client(&mut self, connection: Connection) -> Vec<u8>;
    fn closed(&self, connection: Connection) -> bool;
    fn upstream(&self, connection: Connection) -> Option<&str>;
    fn advance(&mut self, millis: u64);
    fn counters(&self) -> BTreeMap<String, u64>;
    fn logs(&self) -> &[LogLine];

    /// The host around the module, for what only it can tell.
    fn host(&mut self) -> Option<&mut Host> {
        None
    }
}

/// Both subjects with the same configuration, by name.
pub fn both(module: &Module, config_json: &str) -> [(&'static str, Box<dyn Subject>); 2] {
    let host = Host::new(module, config_json).unwrap_or_else(|Refused(logs)| panic!("{logs:?}"));
    [("native", Box::new(Native::new(config_json))), ("module", Box::new(host))]
}

/// Two workers of one proxy of each kind of subject. Time passes for each by itself, but starts at the same moment.
pub fn two_workers(module: &Module, config_json: &str) -> [(&'static str, [Box<dyn Subject>; 2]); 2] {
    let (alone, shared) = (Rc::new(Alone::default()), SharedData::default());
    let native = |number| Box::new(Native::worker_of(alone.clone(), number, config_json)) as Box<dyn Subject>;
    let host =
        || Host::worker_of(&shared, module, config_json).unwrap_or_else(|Refused(it)| panic!("{it:?}"));
    [("native", [1, 2].map(native)), ("module", [Box::new(host()), Box::new(host())])]
}

/// The core without a module around it, driven by the same rules as the glue drives it.
pub struct Native {
    config: Rc<Config>,
    gate: Rc<Gate>,
    shared: Rc<Alone>,
    now: Instant,
    connections: Vec<NativeConnection>,
    counters: BTreeMap<String, u64>,
    logs: Vec<LogLine>,
}

struct NativeConnection {
    bridge: Bridge,
    chosen_cluster: Option<Rc<str>>,
    upstream: Option<Rc<str>>,
    to_broker: Vec<u8>,
    to_client: Vec<u8>,
    /// What the client was not let on to.
    held: Vec<u8>,
    client_ended: bool,
    end_read: bool,
    closed: bool,
}

impl Native {
    /// Panics on a configuration that the core refuses.
    pub fn new(config_json: &str) -> Self {
        Self::worker_of(Rc::default(), 1, config_json)
    }

    /// The same as the worker of this number of those that share this.
    pub fn worker_of(shared: Rc<Alone>, number: u64, config_json: &str) -> Self {
        let config = Config::from_json(config_json.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        Self {
            gate: Rc::new(Gate::new(config.policy.clone(), shared.clone(), number)),
            shared,
            config: Rc::new(config),
            now: Instant::ZERO,
            connections: Vec::new(),
            counters: BTreeMap::new(),
            logs: Vec::new(),
        }
    }

    /// One input with its full drain.
    fn input(&mut self, connection: Connection, act: impl FnOnce(&mut NativeConnection, Instant)) {
        let Some(it) = self.connections.get_mut(connection.0 as usize).filter(|it| !it.closed) else {
            return;
        };
        let before = it.to_client.len();
        self.shared.set_clock(self.now.as_nanos());
        act(it, self.now);
        it.drain_to_broker();
        while it.read_client(self.now) || it.has_turn(self.now) {
            it.drain_to_broker();
        }
        let replied = before != it.to_client.len();
        if !it.closed && !replied && it.bridge.close_due() {
            it.closed = true;
            it.bridge.handle_client_closed(self.now);
        }
        let mut measured = Vec::new();
        while let Some(event) = it.bridge.poll_event() {
            for metric in event.metrics() {
                measured.push((metric, 1));
            }
            let loudness = it.bridge.level(event);
            self.logs.push(LogLine { level: level(loudness), text: event.to_string() });
        }
        measured.extend(std::iter::from_fn(|| it.bridge.poll_measure()));
        let tenant = if it.bridge.tenant().is_empty() { "none" } else { it.bridge.tenant() };
        for (metric, value) in measured {
            // Of distributions, how many values there are.
            let value = if metric.kind() == Kind::Histogram { 1 } else { value };
            let count = self.counters.entry(format!("leveret.{tenant}.{}", metric.name())).or_default();
            *count = count.checked_add_signed(value).expect("a gauge does not go below zero");
        }
        if it.closed {
            // The proxy deletes its context, and with it what it holds in common with others.
            it.bridge = Bridge::new(self.config.clone(), self.gate.clone(), self.now);
        }
    }

    fn tick(&mut self) {
        self.shared.set_clock(self.now.as_nanos());
        self.gate.handle_tick(self.now);
        for id in 0..self.connections.len() as u32 {
            self.input(Connection(id), |it, now| {
                if it.bridge.poll_timeout().is_some_and(|(at, _)| at <= now) {
                    it.bridge.handle_timeout(now);
                }
            });
        }
    }

    fn broker_input(&mut self, connection: Connection, bytes: &[u8], end: bool) {
        self.input(connection, |it, now| {
            assert!(it.upstream.is_some(), "a broker says nothing before it is connected to");
            it.bridge.handle_broker(now, bytes.to_vec(), end);
            it.to_client.append(&mut it.bridge.take_client_output());
            if end {
                it.bridge.handle_broker_closed(now);
            }
        });
    }
}

impl NativeConnection {
    /// Gives the core what the client has sent, its end by itself, unless it is to wait. Whether there was anything.
    fn read_client(&mut self, now: Instant) -> bool {
        if self.bridge.is_holding() || self.end_read {
            return false;
        }
        let bytes = std::mem::take(&mut self.held);
        self.end_read = bytes.is_empty() && self.client_ended;
        let has_something = !bytes.is_empty() || self.end_read;
        if has_something {
            self.bridge.handle_client(now, bytes, self.end_read);
        }
        has_something
    }

    /// Gives the client its next turn, if it wants one.
    fn has_turn(&mut self, now: Instant) -> bool {
        let wants_turn = self.bridge.wants_turn();
        if wants_turn {
            self.bridge.handle_timeout(now);
        }
        wants_turn
    }

    fn drain_to_broker(&mut self) {
        self.chosen_cluster = self.bridge.poll_route().or(self.chosen_cluster.take());
        let output = self.bridge.take_broker_output();
        if !output.is_empty() {
            self.connect_upstream();
        }
        self.to_broker.extend(output);
    }

    fn connect_upstream(&mut self) {
        self.upstream.get_or_insert_with(|| self.chosen_cluster.clone().unwrap_or_default());
    }
}

impl Subject for Native {
    fn connect_as(&mut self, facts: &Facts) -> Connection {
        let id = self.connections.len() as u32;
        let mut bridge = Bridge::new(self.config.clone(), self.gate.clone(), self.now);
        bridge.handle_peer(peer(facts, id));
        let mut connection = NativeConnection {
            bridge,
            chosen_cluster: None,
            upstream: None,
            to_broker: Vec::new(),
            to_client: Vec::new(),
            held: Vec::new(),
            client_ended: false,
            end_read: false,
            closed: false,
        };
        if self.config.connect_mode == ConnectMode::Eager {
            connection.connect_upstream();
        }
        self.connections.push(connection);
        self.input(Connection(id), |_, _| {});
        Connection(id)
    }

    fn client_sends(&mut self, connection: Connection, bytes: &[u8]) {
        self.input(connection, |it, _| it.held.extend(bytes));
    }

    fn client_ends(&mut self, connection: Connection) {
        self.input(connection, |it, _| it.client_ended = true);
    }

    fn client_vanishes(&mut self, connection: Connection) {
        self.input(connection, |it, now| {
            it.closed = true;
            it.bridge.handle_client_closed(now);
            // There is no way to the broker any more.
            it.bridge.take_broker_output();
        });
    }

    fn broker_sends(&mut self, connection: Connection, bytes: &[u8]) {
        self.broker_input(connection, bytes, false);
    }

    fn broker_ends(&mut self, connection: Connection) {
        self.broker_input(connection, &[], true);
    }

    fn take_to_broker(&mut self, connection: Connection) -> Vec<u8> {
        std::mem::take(&mut self.connections[connection.0 as usize].to_broker)
    }

    fn take_to_client(&mut self, connection: Connection) -> Vec<u8> {
        std::mem::take(&mut self.connections[connection.0 as usize].to_client)
    }

    fn closed(&self, connection: Connection) -> bool {
        self.connections[connection.0 as usize].closed
    }

    fn upstream(&self, connection: Connection) -> Option<&str> {
        self.connections[connection.0 as usize].upstream.as_deref()
    }

    fn advance(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let since_tick = self.now.as_nanos() % TICK.as_nanos() as u64;
        let mut next = Instant::from_nanos(self.now.as_nanos() - since_tick) + TICK;
        while next <= end {
            self.now = next;
            self.tick();
            next = next + TICK;
        }
        self.now = end;
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.counters.clone()
    }

    fn logs(&self) -> &[LogLine] {
        &self.logs
    }
}

impl Subject for Host {
    fn connect_as(&mut self, facts: &Facts) -> Connection {
        self.connect_as(facts)
    }

    fn client_sends(&mut self, connection: Connection, bytes: &[u8]) {
        self.client_sends(connection, bytes);
    }

    fn client_ends(&mut self, connection: Connection) {
        self.client_ends(connection);
    }

    fn client_vanishes(&mut self, connection: Connection) {
        self.client_vanishes(connection);
    }

    fn broker_sends(&mut self, connection: Connection, bytes: &[u8]) {
        self.broker_sends(connection, bytes);
    }

    fn broker_ends(&mut self, connection: Connection) {
        self.broker_ends(connection);
    }

    fn take_to_broker(&mut self, connection: Connection) -> Vec<u8> {
        self.take_to_broker(connection)
    }

    fn take_to_client(&mut self, connection: Connection) -> Vec<u8> {
        self.take_to_client(connection)
    }

    fn closed(&self, connection: Connection) -> bool {
        self.closed(connection)
    }

    fn upstream(&self, connection: Connection) -> Option<&str> {
        self.upstream(connection)
    }

    fn advance(&mut self, millis: u64) {
        self.advance(millis);
    }

    /// Without those of the module itself, which are not about connections.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.counters();
        counters.retain(|name, _| name.starts_with("leveret."));
        counters
    }

    fn logs(&self) -> &[LogLine] {
        self.logs()
    }

    fn host(&mut self) -> Option<&mut Host> {
        Some(self)
    }
}

fn peer(facts: &Facts, id: u32) -> Peer {
    Peer {
        address: Some(facts.address),
        port: Some(facts.port),
        filter_chain: facts.filter_chain.as_str().into(),
        server_name: facts.server_name.as_deref().unwrap_or_default().into(),
        certificate: facts.certificate.as_ref().map(|it| Certificate {
            subject: it.subject.as_str().into(),
            dns: it.dns.as_deref().unwrap_or_default().into(),
            uri: it.uri.as_deref().unwrap_or_default().into(),
        }),
        nonce: id.into(),
    }
}

fn level(level: Level) -> crate::host::Level {
    match level {
        Level::Debug => crate::host::Level::Debug,
        Level::Info => crate::host::Level::Info,
        Level::Warn => crate::host::Level::Warn,
    }
}

/// The glue's.
const TICK: Duration = Duration::from_millis(100);

//! A proxy-wasm network filter without a will of its own: its plugin configuration says, callback by callback,
//! which hostcalls it makes (`script`), and it logs what Envoy answered. `tests/envoy_facts/` writes the
//! scripts, so that a fact and its proof stand in one place.
//!
//! A log line is `probe #CONTEXT CALLBACK: WHAT`.
#![allow(
    unsafe_code,
    reason = "raw hostcalls: the wrappers of the SDK panic on statuses the tests want to see"
)]
#![allow(missing_docs, reason = "the exports are the SDK's")]

mod host;
mod script;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::rc::Rc;

use host::Side;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, PeerType};
use script::{Op, Script};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, script: Rc::default(), connections: Rc::default() }));
}}

/// What is to be done later, for each connection alive.
type Connections = Rc<RefCell<BTreeMap<u32, Pending>>>;

#[derive(Default)]
struct Pending {
    next_tick: Vec<Op>,
    ticks: usize,
    soon: VecDeque<Vec<Op>>,
}

struct Root {
    id: u32,
    script: Rc<Script>,
    connections: Connections,
}

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }

    fn on_vm_start(&mut self, _size: usize) -> bool {
        say(self.id, "vm_start", "");
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        let bytes = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten();
        let bytes = bytes.unwrap_or_default();
        match serde_json::from_slice::<Script>(&bytes) {
            Ok(script) => {
                self.script = Rc::new(script);
                let tick = host::set_tick_period(self.script.tick_ms);
                say(self.id, "configure", format_args!("taken, tick {tick}"));
                run(self.id, "configure", &self.script.configured, &self.connections);
                true
            }
            Err(error) => {
                say(self.id, "configure", format_args!("refused: {error}"));
                false
            }
        }
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        self.connections.borrow_mut().insert(id, Pending::default());
        let (script, connections) = (Rc::clone(&self.script), Rc::clone(&self.connections));
        Some(Box::new(Connection { id, script, connections, calls: [0; 5] }))
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let entry = hostcalls::dequeue_shared_queue(queue).ok().flatten().unwrap_or_default();
        let due = entry.try_into().ok().map(u32::from_le_bytes).and_then(|id| {
            let ops = self.connections.borrow_mut().get_mut(&id)?.soon.pop_front()?;
            Some((id, ops))
        });
        match due {
            Some((id, ops)) => self.run_for(id, "queue_ready", &ops),
            None => say(self.id, "queue_ready", "nothing to do"),
        }
    }

    fn on_tick(&mut self) {
        run(self.id, "root_tick", &self.script.root_tick, &self.connections);
        // Taken out first: an op may end a connection, which comes back to us as a callback.
        let mut due = Vec::new();
        for (&id, pending) in self.connections.borrow_mut().iter_mut() {
            let mut ops = std::mem::take(&mut pending.next_tick);
            ops.extend_from_slice(nth(&self.script.tick, pending.ticks));
            pending.ticks += 1;
            due.push((id, ops));
        }
        for (id, ops) in due {
            if !ops.is_empty() {
                self.run_for(id, "tick", &ops);
            }
        }
    }
}

impl Root {
    /// Runs the ops with that connection as the effective context.
    fn run_for(&self, id: u32, callback: &str, ops: &[Op]) {
        host::set_effective_context(id);
        run(id, callback, ops, &self.connections);
        host::set_effective_context(self.id);
    }
}

struct Connection {
    id: u32,
    script: Rc<Script>,
    connections: Connections,
    /// How often each callback was called, by its place in [`Callback`].
    calls: [usize; 5],
}

#[derive(Clone, Copy)]
enum Callback {
    Connected,
    ClientData,
    BrokerData,
    ClientClose,
    BrokerClose,
}

impl Connection {
    fn handle(&mut self, callback: Callback, what: impl Display) -> Action {
        let (name, lists) = match callback {
            Callback::Connected => ("connected", &self.script.connected),
            Callback::ClientData => ("client_data", &self.script.client_data),
            Callback::BrokerData => ("broker_data", &self.script.broker_data),
            Callback::ClientClose => ("client_close", &self.script.client_close),
            Callback::BrokerClose => ("broker_close", &self.script.broker_close),
        };
        say(self.id, name, what);
        let Some(calls) = self.calls.get_mut(callback as usize) else { return Action::Continue };
        let ops = nth(lists, *calls);
        *calls += 1;
        run(self.id, name, ops, &self.connections)
    }
}

impl Context for Connection {}

impl StreamContext for Connection {
    fn on_new_connection(&mut self) -> Action {
        self.handle(Callback::Connected, "new connection")
    }

    fn on_downstream_data(&mut self, size: usize, end: bool) -> Action {
        self.handle(Callback::ClientData, format_args!("{size} bytes, end {end}"))
    }

    fn on_upstream_data(&mut self, size: usize, end: bool) -> Action {
        self.handle(Callback::BrokerData, format_args!("{size} bytes, end {end}"))
    }

    fn on_downstream_close(&mut self, peer: PeerType) {
        self.handle(Callback::ClientClose, format_args!("by {peer:?}"));
    }

    fn on_upstream_close(&mut self, peer: PeerType) {
        self.handle(Callback::BrokerClose, format_args!("by {peer:?}"));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.borrow_mut().remove(&self.id);
    }
}

/// Runs the ops in order; says what each came to.
fn run(id: u32, callback: &str, ops: &[Op], connections: &Connections) -> Action {
    let mut action = Action::Continue;
    for op in ops {
        match op {
            Op::Pause => action = Action::Pause,
            Op::SetDownstream(bytes) => {
                say(id, callback, format_args!("set_downstream {}", replace(Side::Downstream, bytes)));
            }
            Op::PrependDownstream(bytes) => {
                let status = host::prepend_buffer(Side::Downstream, bytes.as_bytes());
                say(id, callback, format_args!("prepend_downstream {status}"));
            }
            Op::SetUpstream(bytes) => {
                say(id, callback, format_args!("set_upstream {}", replace(Side::Upstream, bytes)));
            }
            Op::ResumeDownstream => {
                say(id, callback, format_args!("resume_downstream {}", host::resume(Side::Downstream)));
            }
            Op::ResumeUpstream => {
                say(id, callback, format_args!("resume_upstream {}", host::resume(Side::Upstream)));
            }
            Op::CloseDownstream => {
                say(id, callback, format_args!("close_downstream {}", host::close(Side::Downstream)));
            }
            Op::CloseUpstream => {
                say(id, callback, format_args!("close_upstream {}", host::close(Side::Upstream)));
            }
            Op::GetDownstream => match host::buffer(Side::Downstream) {
                Ok(bytes) => say(id, callback, format_args!("get_downstream = {}", bytes.escape_ascii())),
                Err(status) => say(id, callback, format_args!("get_downstream: {status}")),
            },
            Op::Property(path) => match host::property(path) {
                Ok(value) => say(id, callback, format_args!("property {path} = {}", value.escape_ascii())),
                Err(status) => say(id, callback, format_args!("property {path}: {status}")),
            },
            Op::FilterState(key, value) => {
                say(id, callback, format_args!("filter_state {}", host::set_filter_state(key, value)));
            }
            Op::Shared(key) => match host::shared(key) {
                Ok((value, cas)) => {
                    say(id, callback, format_args!("shared {key} = {}, cas {cas}", value.escape_ascii()));
                }
                Err(status) => say(id, callback, format_args!("shared {key}: {status}")),
            },
            Op::Share(key, value, cas) => {
                let status = host::share(key, value.as_bytes(), *cas);
                say(id, callback, format_args!("share {key} {status}"));
            }
            Op::Count(key, times) => match count(key, *times) {
                Ok((sum, collisions)) => {
                    say(id, callback, format_args!("count {key} = {sum}, {collisions} collisions"));
                }
                Err(status) => say(id, callback, format_args!("count {key}: {status}")),
            },
            Op::NextTick(later) => {
                if let Some(pending) = connections.borrow_mut().get_mut(&id) {
                    pending.next_tick.extend_from_slice(later);
                }
            }
            Op::Soon(later) => {
                if let Some(pending) = connections.borrow_mut().get_mut(&id) {
                    pending.soon.push_back(later.clone());
                }
                // To register a queue again is the way to its number.
                let queued = hostcalls::register_shared_queue(QUEUE)
                    .and_then(|queue| hostcalls::enqueue_shared_queue(queue, Some(&id.to_le_bytes())));
                say(id, callback, format_args!("soon {queued:?}"));
            }
            Op::Trap => {
                say(id, callback, "trap");
                std::process::abort();
            }
        }
    }
    action
}

/// Adds one to a shared number `times` times; the last sum, and how often another VM was faster.
fn count(key: &str, times: u32) -> Result<(u64, u32), host::Status> {
    let (mut sum, mut collisions, mut added) = (0, 0, 0);
    while added < times {
        let (before, cas) = match host::shared(key) {
            Ok((value, cas)) => (value.try_into().map_or(0, u64::from_le_bytes), cas),
            Err(host::Status::NOT_FOUND) => (0, 0),
            Err(status) => return Err(status),
        };
        sum = before + 1;
        match host::share(key, &sum.to_le_bytes(), cas) {
            host::Status::OK => added += 1,
            host::Status::CAS_MISMATCH => collisions += 1,
            status => return Err(status),
        }
    }
    Ok((sum, collisions))
}

fn replace(side: Side, bytes: &str) -> host::Status {
    host::replace_buffer(side, bytes.as_bytes())
}

/// The list of the n-th call; the last one repeats.
fn nth(lists: &[Vec<Op>], n: usize) -> &[Op] {
    lists.get(n).or(lists.last()).map_or(&[], Vec::as_slice)
}

fn say(id: u32, callback: &str, what: impl Display) {
    log::info!("probe #{id} {callback}: {what}");
}

/// Shared among the VMs of one `vm_id`; the last of them that registered it is called.
const QUEUE: &str = "soon";

//! One client connection: bytes in, a full drain of the core, and what Envoy lets go out at that moment.
//!
//! | in this callback | bytes may go to | because |
//! |---|---|---|
//! | downstream data | the broker | we answer `Pause` and continue reading ourselves, which keeps this way open for good |
//! | upstream data | the client, the broker | nothing else reaches the client |
//! | tick | the broker | the way is open |
//!
//! A close overtakes client bytes of the same callback, so it waits for a callback that writes none.
//!
//! A client that is not to be read from is held up by [`STOP`]: bytes that we put into the downstream buffer, which is then beyond the
//! proxy's limit, so that it does not read on. With `per_connection_buffer_limit_bytes: 1`, as in our files, not even the client's end
//! is read, behind which nothing more could be said to the broker; with a higher limit the proxy reads up to it.

use crate::{
    host::{self, Buffer, Status},
    memory,
    root::Worker,
};
use core::{cell::RefCell, fmt, net::SocketAddr};
use leveret::{Bridge, Config, Gate, Peer, config::ConnectMode, policy::Certificate, time::Instant};
use proxy_wasm::{
    traits::{Context, StreamContext},
    types::{Action, PeerType},
};
use std::rc::Rc;

/// The stream context.
pub(crate) struct Stream {
    id: u32,
    first_action: Action,
    connection: Rc<RefCell<Connection>>,
    worker: Rc<Worker>,
}

impl Stream {
    pub(crate) fn new(id: u32, config: Rc<Config>, gate: Rc<Gate>, worker: Rc<Worker>) -> Self {
        // Held back, `tcp_proxy` connects when reading continues, and by then the cluster can be chosen.
        let first_action = match config.connect_mode {
            ConnectMode::Lazy => Action::Pause,
            ConnectMode::Eager => Action::Continue,
        };
        let now = worker.now();
        let connection = Connection {
            id,
            address: source_address(),
            nonce: worker.nonce(id),
            bridge: Bridge::new(config, gate.clone(), now),
            gate,
            held: 0,
            is_known: false,
            is_introduced: false,
            has_ended: false,
            is_held: false,
            is_stopped: false,
            to_put_back: Vec::new(),
            alarm: None,
            has_turn_coming: false,
            closed: false,
            gone: false,
        };
        let connection = Rc::new(RefCell::new(connection));
        worker.admit(id, connection.clone());
        Self { id, first_action, connection, worker }
    }
}

impl Context for Stream {}

impl StreamContext for Stream {
    fn on_new_connection(&mut self) -> Action {
        self.connection.borrow_mut().on_new(self.worker.now(), &self.worker);
        self.first_action
    }

    fn on_downstream_data(&mut self, _size: usize, end: bool) -> Action {
        self.connection.borrow_mut().on_downstream_data(end, self.worker.now(), &self.worker);
        Action::Pause
    }

    fn on_upstream_data(&mut self, _size: usize, end: bool) -> Action {
        self.connection.borrow_mut().on_upstream_data(end, self.worker.now(), &self.worker);
        // Envoy would go on using a paused buffer after it is gone.
        Action::Continue
    }

    fn on_downstream_close(&mut self, by: PeerType) {
        self.connection.borrow_mut().on_downstream_close(by, self.worker.now(), &self.worker);
    }

    fn on_upstream_close(&mut self, _by: PeerType) {
        self.connection.borrow_mut().on_upstream_close(self.worker.now(), &self.worker);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.borrow_mut().sleep(&self.worker);
        self.worker.forget(self.id);
    }
}

/// What the tick and the stream's own callbacks both work on.
pub(crate) struct Connection {
    id: u32,
    /// For the log.
    address: Option<SocketAddr>,
    nonce: u128,
    bridge: Bridge,
    gate: Rc<Gate>,
    /// Bytes of the module's memory that are in use for it.
    held: isize,
    /// The core knows who the client is.
    is_known: bool,
    /// And the proxy does, too.
    is_introduced: bool,
    /// The client has sent its end.
    has_ended: bool,
    /// The downstream buffer has bytes that are not to go to the broker: [`STOP`], or what the core does not want yet.
    is_held: bool,
    /// It starts with [`STOP`].
    is_stopped: bool,
    /// The client's bytes that had to make room for others there.
    to_put_back: Vec<u8>,
    /// The alarm that is set, never later than the core's timeout. A timeout that moves out, as it does with
    /// every packet, leaves it alone: waking for nothing once is cheaper than moving it every time.
    alarm: Option<Instant>,
    has_turn_coming: bool,
    /// It is closed, or about to be.
    closed: bool,
    /// The proxy has closed it.
    gone: bool,
}

impl Connection {
    fn on_new(&mut self, now: Instant, worker: &Worker) {
        self.settle(Ok(Reply::None), now, worker);
    }

    fn on_downstream_data(&mut self, end: bool, now: Instant, worker: &Worker) {
        self.has_ended |= end;
        self.measured(|it| {
            let translated = it.translate_downstream(now, worker);
            it.settle(translated.map(|()| Reply::None), now, worker);
        });
    }

    fn on_upstream_data(&mut self, end: bool, now: Instant, worker: &Worker) {
        self.measured(|it| {
            let translated = it.translate_upstream(end, now, worker);
            it.settle(translated, now, worker);
        });
    }

    /// Called by the tick at or after the alarm.
    pub(crate) fn on_alarm(&mut self, now: Instant, worker: &Worker) {
        self.alarm = None;
        self.on_time(now, worker);
    }

    /// Called when others have had their turns.
    pub(crate) fn on_turn(&mut self, now: Instant, worker: &Worker) {
        self.has_turn_coming = false;
        if !self.closed {
            self.on_time(now, worker);
        }
    }

    fn on_time(&mut self, now: Instant, worker: &Worker) {
        self.measured(|it| {
            if it.bridge.poll_timeout().is_some_and(|(at, _)| at <= now) {
                it.bridge.handle_timeout(now);
            }
            let flushed = it.flush(now, worker);
            it.settle(flushed.map(|()| Reply::None), now, worker);
        });
    }

    /// Called by the tick when a later build is to have the client.
    pub(crate) fn on_replaced(&mut self, now: Instant, worker: &Worker) {
        self.bridge.handle_replaced(now);
        let flushed = self.flush(now, worker);
        self.settle(flushed.map(|()| Reply::None), now, worker);
    }

    /// When it was neither the client nor we, it was because of the broker's end: a connection that the broker resets is closed
    /// by the proxy, which says nothing else of it.
    fn on_downstream_close(&mut self, by: PeerType, now: Instant, worker: &Worker) {
        if by == PeerType::Local && !self.closed {
            self.bridge.handle_broker_closed(now);
        }
        self.closed = true;
        self.gone = true;
        self.bridge.handle_client_closed(now);
        self.settle(Ok(Reply::None), now, worker);
    }

    /// Follows the last upstream data at once, before its bytes are on their way.
    fn on_upstream_close(&mut self, now: Instant, worker: &Worker) {
        self.bridge.handle_broker_closed(now);
        self.settle(Ok(Reply::UnderWay), now, worker);
    }

    /// Tells the core how much memory is in use, and how much of that for this connection.
    fn measured(&mut self, work: impl FnOnce(&mut Self)) {
        let before = memory::in_use();
        self.gate.handle_memory(before);
        work(self);
        self.held = self.held.saturating_add_unsigned(memory::in_use()).saturating_sub_unsigned(before);
        self.bridge.handle_held(self.held.try_into().unwrap_or(0));
    }

    fn translate_downstream(&mut self, now: Instant, worker: &Worker) -> Result<(), Status> {
        if !self.is_known {
            self.is_known = true;
            self.bridge.handle_peer(peer(self.address, self.nonce));
        }
        // What stays in the proxy's buffer makes it stop reading, which holds the client up.
        if self.bridge.is_holding() && !self.has_ended {
            self.is_held = true;
            return Ok(());
        }
        let bytes = self.take_downstream()?;
        #[cfg(all(feature = "trap", target_arch = "wasm32"))]
        trap_if_told(&bytes);
        self.bridge.handle_client(now, bytes, self.has_ended);
        self.introduce();
        self.route()?;
        let output = self.bridge.take_broker_output();
        self.write_upstream(&output, worker)
    }

    /// All of the client's bytes that the core has not been given.
    fn take_downstream(&mut self) -> Result<Vec<u8>, Status> {
        self.is_held = false;
        let mut rest = host::read(Buffer::Downstream)?;
        if core::mem::take(&mut self.is_stopped) {
            rest.drain(..STOP.len().min(rest.len()));
        }
        let mut bytes = core::mem::take(&mut self.to_put_back);
        if bytes.is_empty() {
            return Ok(rest);
        }
        bytes.extend_from_slice(&rest);
        Ok(bytes)
    }

    /// Leaves the output of the core in the downstream buffer, and behind it what keeps the proxy from reading on if it is not to.
    ///
    /// What is in there goes upstream as a whole. So what is to stay is put back once the output has gone, and before the proxy
    /// reads on: a client that is held up is not read from, however much the broker is told meanwhile.
    fn write_upstream(&mut self, output: &[u8], worker: &Worker) -> Result<(), Status> {
        self.is_held = self.bridge.is_holding() && !self.has_ended;
        // A first resume is what makes `tcp_proxy` connect, so it needs a reason; and the client's end, which goes with it, makes
        // RabbitMQ drop what it has not looked at, so it waits for the broker's answer to the goodbye.
        if output.is_empty() {
            self.is_stopped = self.is_held;
            return host::replace(Buffer::Downstream, if self.is_held { STOP } else { &[] });
        }
        host::replace(Buffer::Downstream, output)?;
        host::resume_downstream()?;
        if self.is_held { worker.call_again(self.id) } else { Ok(()) }
    }

    /// Called once what was written has gone.
    pub(crate) fn put_back(&mut self, worker: &Worker) {
        if self.closed || !self.is_held || self.is_stopped {
            return;
        }
        self.measured(|it| {
            it.is_stopped = true;
            let bytes = [STOP, &core::mem::take(&mut it.to_put_back)].concat();
            worker.checked(host::put_back(Buffer::Downstream, &bytes));
        });
    }

    fn translate_upstream(&mut self, end: bool, now: Instant, worker: &Worker) -> Result<Reply, Status> {
        let bytes = host::read(Buffer::Upstream)?;
        self.bridge.handle_broker(now, bytes, end);
        let output = self.bridge.take_client_output();
        host::replace(Buffer::Upstream, &output)?;
        self.flush(now, worker)?;
        // The end is followed by `on_upstream_close`, and closed here this context would be gone by then: the SDK panics on that.
        Ok(if output.is_empty() && !end { Reply::None } else { Reply::UnderWay })
    }

    /// Sends what the broker shall hear, outside of downstream data, and reads on where the client was held up.
    fn flush(&mut self, now: Instant, worker: &Worker) -> Result<(), Status> {
        if self.is_held && !self.bridge.is_holding() {
            return self.translate_downstream(now, worker);
        }
        self.route()?;
        let output = self.bridge.take_broker_output();
        if output.is_empty() {
            return Ok(());
        }
        if self.is_held {
            self.to_put_back = self.take_downstream()?;
        }
        self.write_upstream(&output, worker)
    }

    fn route(&mut self) -> Result<(), Status> {
        match self.bridge.poll_route() {
            Some(cluster) => host::set_cluster(&cluster),
            None => Ok(()),
        }
    }

    /// The rest of the drain: events, close, next alarm.
    fn settle(&mut self, reply: Result<Reply, Status>, now: Instant, worker: &Worker) {
        while let Some(event) = self.bridge.poll_event() {
            for metric in event.metrics() {
                worker.measure(self.bridge.tenant(), metric, 1);
            }
            let level = self.bridge.level(event);
            worker.log(&Client { address: self.address, bridge: &self.bridge }, &event, level);
            if event.is_end() {
                tell("end", &event.to_string());
            }
        }
        while let Some((metric, value)) = self.bridge.poll_measure() {
            worker.measure(self.bridge.tenant(), metric, value);
        }
        if self.closed {
            return;
        }
        match worker.checked(reply) {
            // Bytes were lost or have gone astray: what is left of this connection makes no sense.
            None => self.close(worker),
            Some(Reply::None) if self.bridge.close_due() => self.close(worker),
            Some(Reply::UnderWay) if self.bridge.close_due() => self.wake(now, worker),
            Some(_) if self.bridge.wants_turn() => {
                if !core::mem::replace(&mut self.has_turn_coming, true) {
                    worker.give_turn(self.id);
                }
            }
            Some(_) => {
                if let Some((at, _)) = self.bridge.poll_timeout() {
                    self.wake(at, worker);
                }
            }
        }
    }

    /// Tells the proxy who the client is, once the core knows: for access logs, and for a choice of upstream hosts by client.
    fn introduce(&mut self) {
        let Some(who) = self.bridge.who().filter(|_| !self.is_introduced) else { return };
        self.is_introduced = true;
        for (name, text) in who.facts().chain([("tenant", self.bridge.tenant())]) {
            tell(name, &printable(text));
        }
        // A proxy that cannot take it chooses without.
        let _ = host::set_hash_key(&who.client_id);
    }

    fn close(&mut self, worker: &Worker) {
        self.closed = true;
        worker.close_soon(self.id);
    }

    pub(crate) const fn is_gone(&self) -> bool {
        self.gone
    }

    fn wake(&mut self, at: Instant, worker: &Worker) {
        if self.alarm.is_none_or(|alarm| at < alarm) {
            self.sleep(worker);
            self.alarm = Some(at);
            worker.due.set_alarm(self.id, at);
        }
    }

    fn sleep(&mut self, worker: &Worker) {
        if let Some(at) = self.alarm.take() {
            worker.due.cancel_alarm(self.id, at);
        }
    }
}

/// What keeps the proxy from reading: more than its least limit.
const STOP: &[u8] = &[0; 2];

/// Tells access logs something of the connection. Nothing depends on it: a proxy that cannot take it logs without.
fn tell(name: &str, value: &str) {
    let _ = host::set_property(&format!("leveret.{name}"), value);
}

/// A client as log lines have it.
struct Client<'c> {
    address: Option<SocketAddr>,
    bridge: &'c Bridge,
}

impl fmt::Display for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{address}")?,
            None => f.write_str("client")?,
        }
        if let Some(who) = self.bridge.who() {
            write!(f, " (\"{}\"", printable(&who.client_id))?;
            if !self.bridge.tenant().is_empty() {
                write!(f, ", tenant {}", self.bridge.tenant())?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// A client's own words, in one line and not at any length: it can say what it likes before it is anybody.
fn printable(text: &str) -> String {
    const MOST: usize = 256;
    let cut = text.get(..text.floor_char_boundary(MOST)).unwrap_or_default();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_debug())
}

/// Whether a callback leaves bytes for the client that a close would overtake.
#[derive(Clone, Copy)]
enum Reply {
    None,
    UnderWay,
}

/// A connection that came without a configuration being accepted: it is turned away.
pub(crate) struct Unconfigured;

impl Context for Unconfigured {}

impl StreamContext for Unconfigured {
    fn on_new_connection(&mut self) -> Action {
        let _ = host::close_downstream();
        Action::Pause
    }
}

/// Who the client is. What TLS says of it is known from its first bytes on.
fn peer(address: Option<SocketAddr>, nonce: u128) -> Peer {
    let has_certificate = host::property("connection\0mtls").is_ok_and(|flag| flag.first() == Some(&1));
    let certificate = has_certificate.then(|| Certificate {
        subject: text_property("connection\0subject_peer_certificate"),
        dns: text_property("connection\0dns_san_peer_certificate"),
        uri: text_property("connection\0uri_san_peer_certificate"),
    });
    let port = host::property("destination\0port").ok().and_then(|port| port.first_chunk().copied());
    Peer {
        address,
        port: port.map(u16::from_le_bytes),
        filter_chain: text_property("xds\0filter_chain_name"),
        server_name: text_property("connection\0requested_server_name"),
        certificate,
        nonce,
    }
}

/// Empty where there is none.
fn text_property(path: &str) -> Box<str> {
    let text = host::property(path).ok().and_then(|text| String::from_utf8(text).ok());
    text.unwrap_or_default().into()
}

/// `None` where the client does not come from an IP address.
fn source_address() -> Option<SocketAddr> {
    let text = host::property("source\0address").ok()?;
    core::str::from_utf8(&text).ok()?.parse().ok()
}

#[cfg(all(feature = "trap", target_arch = "wasm32"))]
fn trap_if_told(bytes: &[u8]) {
    // Kept from being compiled away into numbers: a test looks for the word in the module.
    let word = core::hint::black_box(b"leveret/trap".as_slice());
    if bytes.windows(word.len()).any(|window| window == word) {
        core::arch::wasm32::unreachable();
    }
}

//! One client connection, from its MQTT bytes to the broker's AMQP bytes and back.
//!
//! A [`Bridge`] is two coupled machines. The client's state is in this table; the broker's is in `bridge/broker.rs`
//! and comes out as notices.
//!
//! ```text
//!                CONNECT admitted        open, session, will: CONNACK
//! AwaitConnect ───────────────────> LoggingIn ────────────────> Connected
//!      │                               │                           │
//!      │ refused: CONNACK waits        │ refused: CONNACK          │ DISCONNECT, client gone, error:
//!      │ for something to ride on      │ rides on the refusal      │ connection.close
//!      v                               │                           v
//!   Refusing ──────────────────────────┴──────────> Over <────── Leaving
//!              anything from upstream                     close-ok, end, 10 s
//! ```
//!
//! `LoggingIn` already takes packets: what they ask is written behind the login, and a broker that refuses the login ignores it.
//! Whatever the broker does to end the connection leads to `Over` at once; in `Over` the client's connection is closed as soon
//! as it has been given its last bytes.

mod again;
mod broker;
mod channel;
mod dollar;
mod ends;
mod from_broker;
mod from_client;
mod inflight;
mod lock;
mod order;
mod output;
mod queues;
mod retained;
mod session;
mod subscribe;
mod throttle;
mod timer;
mod will;

pub use timer::Timer;

use core::hash::Hasher as _;
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::rc::Rc;

use crate::config::Config;
use crate::error::{Error, TimedOut};
use crate::event::{Event, Level};
use crate::metrics::{Measures, Metric};
use crate::mqtt::{self, ConnectReturnCode};
use crate::policy::{Attempt, Denial, Gate, Peer, Refusal, Rights, Tenant};
use crate::time::Instant;
use crate::wire::RecvBuffer;
use again::Drafts;
use broker::BrokerSide;
use ends::Farewell;
use from_broker::Arriving;
use inflight::{Deliveries, Publications};
use order::Unconfirmed;
use output::ClientOutput;
use retained::Retained;
use retained::keep::Keeper;
use retained::replay::Replayer;
use session::Session;
use throttle::{Hold, Throttle};
use timer::{Beat, Timers};
use will::Will;

/// With so many bytes that a client is owed, it is not read from. Payloads never wait; these are acknowledgements.
const MAX_CLIENT_OUTPUT: usize = 32 * 1024;

/// With so many PINGREQs that wait for the next round trip to the broker, it is not read from either.
const MAX_PINGS: u32 = 1024;

/// One client connection. Deterministic: the same inputs at the same times give the same outputs.
///
/// **Every input is followed by a full drain.** Inputs are the `handle_*` methods, outputs the `take_*` and `poll_*` ones.
/// After each input the host asks for all of them, except that [`Bridge::take_client_output`] may be called only inside an input
/// of broker bytes: on this host, bytes can reach a client at no other time. The bridge knows, and makes the broker say something
/// when a client is owed bytes.
pub struct Bridge {
    config: Rc<Config>,
    gate: Rc<Gate>,
    peer: Peer,
    /// What holds for the client: from CONNECT on its tenant's.
    tenant: Rc<Tenant>,
    /// From CONNECT on.
    rights: Option<Rights>,
    /// A password that the broker has not judged yet.
    attempt: Option<Attempt>,
    /// From CONNECT on.
    who: Option<Who>,
    measures: Measures,
    denied: Denied,
    counted: Counted,
    throttle: Throttle,
    /// What it makes the host's memory hold, in bytes, as the host has measured it.
    held: usize,
    told: Told,
    started: Instant,
    state: State,
    farewell: Farewell,
    /// What the client is to hear when its will has been taken back.
    refusal: Option<ConnectReturnCode>,
    timers: Timers,
    events: VecDeque<Event>,
    route: Option<Rc<str>>,

    decoder: mqtt::Decoder,
    from_client: RecvBuffer,
    client: ClientOutput,
    pings: Pings,

    broker: BrokerSide,
    from_broker: RecvBuffer,

    /// The client will send no more: the host passes that on to the broker with our next bytes.
    client_ended: bool,
    /// So there are none, until what the client is still owed has come.
    is_parting: bool,
    has_disconnected: bool,
    /// When the client published last, and whether what it published has come to it if it is to.
    heard_publish: Option<Instant>,
    is_all_delivered: bool,
    /// Another connection waits for its client id: it ends once what the client has said is heard.
    is_giving_way: bool,
    unconfirmed: Unconfirmed,
    /// When a message was published last that nobody confirms.
    published_at: Option<Instant>,

    /// From CONNECT on.
    session: Option<Session>,
    will: Option<Will>,
    /// From CONNECT on, where messages are retained.
    keeper: Option<Keeper>,
    replayer: Option<Replayer>,
    /// What a client that has ended has said to be kept; of the last the payload may be arriving.
    last_words: Vec<Retained>,
    publications: Publications,
    drafts: Drafts,
    deliveries: Deliveries,
    arriving: Arriving,
    /// Scratch for keys and topics, kept for its memory.
    key: Vec<u8>,
    topic: String,
}

/// Who a client is, for log lines and the like. These are the client's own words, of one that is refused nothing but that.
pub struct Who {
    /// Its client id.
    pub client_id: Box<str>,
    /// Its user.
    pub username: Box<str>,
    /// Its virtual host; empty until it is admitted.
    pub vhost: Box<str>,
}

impl Who {
    /// All of it, with names.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("client_id", &*self.client_id), ("user", &*self.username), ("vhost", &*self.vhost)].into_iter()
    }
}

/// The rules that have denied this client something, a bit for each.
#[derive(Default)]
struct Denied(u16);

impl Denied {
    /// Whether this is the first time: what a client can make happen as often as it likes is told once.
    fn note(&mut self, denial: Denial) -> bool {
        let bit = 1 << denial.number();
        let is_first = self.0 & bit == 0;
        self.0 |= bit;
        is_first
    }
}

/// What this connection has been told of in the log, and can make happen as often as it likes: a bit for each.
#[derive(Default)]
struct Told(u8);

/// What gauges say of this connection.
#[derive(Default)]
struct Counted {
    is_connected: bool,
    inflight: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitConnect,
    LoggingIn,
    Connected,
    Refusing(ConnectReturnCode),
    Leaving,
    Over,
}

/// PINGREQs to be answered.
#[derive(Default)]
struct Pings {
    /// By the probe that is under way.
    probed: u32,
    /// By the one after it.
    waiting: u32,
}

impl Pings {
    const fn is_owed(&self) -> bool {
        self.probed > 0 || self.waiting > 0
    }

    /// Whether the client is to be given answers before it says more.
    const fn are_many(&self) -> bool {
        self.waiting >= MAX_PINGS
    }
}

impl Bridge {
    /// A new client connection.
    pub fn new(config: Rc<Config>, gate: Rc<Gate>, now: Instant) -> Self {
        let limits = config.limits;
        Self {
            peer: Peer::default(),
            tenant: Rc::clone(&config.policy.no_tenant),
            rights: None,
            attempt: None,
            who: None,
            measures: Measures::default(),
            denied: Denied::default(),
            counted: Counted::default(),
            started: now,
            throttle: Throttle::default(),
            held: 0,
            told: Told::default(),
            state: State::AwaitConnect,
            farewell: Farewell::default(),
            refusal: None,
            timers: Timers::new(now, &limits, config.heartbeat),
            events: VecDeque::new(),
            route: None,
            decoder: mqtt::Decoder::new(limits.max_packet_size_unauthenticated),
            from_client: RecvBuffer::default(),
            client: ClientOutput::default(),
            pings: Pings::default(),
            broker: BrokerSide::new(&config),
            from_broker: RecvBuffer::default(),
            client_ended: false,
            has_disconnected: false,
            heard_publish: None,
            is_all_delivered: false,
            is_giving_way: false,
            is_parting: false,
            unconfirmed: Unconfirmed::default(),
            published_at: None,
            session: None,
            will: None,
            keeper: None,
            replayer: None,
            last_words: Vec::new(),
            publications: Publications::default(),
            drafts: Drafts::default(),
            deliveries: Deliveries::default(),
            arriving: Arriving::default(),
            key: Vec::new(),
            topic: String::new(),
            config,
            gate,
        }
    }

    /// Who the client is: to be told before its first bytes.
    pub fn handle_peer(&mut self, peer: Peer) {
        self.peer = peer;
    }

    /// Bytes from the client, in pieces of any size; `end` when it will send no more.
    ///
    /// Not all of them may be read: see [`Bridge::is_holding`].
    pub fn handle_client(&mut self, now: Instant, bytes: Vec<u8>, end: bool) {
        self.client_ended |= end;
        if self.listens_to_client() {
            self.timers.client_heard(now);
            self.from_client.push(bytes);
            self.read_client(now);
        }
        self.settle(now);
        if !self.client.is_empty() {
            self.probe();
        }
    }

    /// Reads what has come from the client, as far as it may go on.
    fn read_client(&mut self, now: Instant) {
        self.throttle.begin_turn();
        let mut buffer = core::mem::take(&mut self.from_client);
        let mut input = buffer.unparsed();
        let came = input.len();
        let result = self.client_items(now, &mut input);
        let left = input.len();
        buffer.keep_last(left);
        self.from_client = buffer;
        self.timers.unfinished(now, left > 0, left < came);
        if let Err(error) = result {
            self.fail(now, error);
        } else if left > 0 && self.state == State::AwaitConnect && self.gate.is_short_of_memory() {
            self.fail(now, Error::Refused(Refusal::Memory));
        } else if self.is_giving_way && self.listens_to_client() && self.throttle.hold().is_none() {
            self.fail(now, Error::TakenOver);
        } else if self.client_ended && self.listens_to_client() && self.throttle.hold().is_none() {
            self.client_has_ended(now);
        }
    }

    /// Whether the client is not to be read from: it is ahead of what it may do, or what it said last has not taken effect. Until it
    /// has, which is after a timeout or bytes from the broker, the host reads no more of the client's bytes than it has room for, and
    /// if it can not its end either: that is passed on to the broker with our next bytes, and there will be some.
    pub fn is_holding(&self) -> bool {
        match self.state {
            State::AwaitConnect | State::Connected => {
                self.throttle.hold().is_some() || self.has_requests() || self.is_giving_way
            }
            State::LoggingIn | State::Refusing(_) | State::Leaving | State::Over => true,
        }
    }

    /// Bytes from the broker, in pieces of any size; `end` when it will send no more.
    pub fn handle_broker(&mut self, now: Instant, bytes: Vec<u8>, end: bool) {
        self.timers.broker_heard(now);
        match self.state {
            State::Refusing(code) if !bytes.is_empty() => {
                self.give_refusal(code);
                self.broker.nudge();
            }
            State::LoggingIn | State::Connected | State::Leaving => {
                self.from_broker.push(bytes);
                self.read_broker(now);
            }
            State::AwaitConnect | State::Refusing(_) | State::Over => {}
        }
        if end && self.state != State::Over {
            self.fail(now, Error::BrokerGone);
        }
        self.settle(now);
    }

    fn read_broker(&mut self, now: Instant) {
        let mut buffer = core::mem::take(&mut self.from_broker);
        let mut input = buffer.unparsed();
        // Who takes leave waits for answers, which may be behind what made it leave.
        while let Err(error) = self.broker_notices(now, &mut input) {
            self.fail(now, error);
            if !matches!(self.state, State::Leaving | State::Connected) {
                break;
            }
        }
        let left = input.len();
        buffer.keep_last(left);
        self.from_broker = buffer;
        self.go_on(now);
    }

    /// The client's connection is gone; nothing can be sent either way any more.
    pub fn handle_client_closed(&mut self, _now: Instant) {
        if self.listens_to_client() {
            self.events.push_back(Event::ClientGone);
        }
        self.over();
        self.client.clear();
    }

    /// The broker's connection is gone, and with it the last chance to tell the client anything.
    pub fn handle_broker_closed(&mut self, now: Instant) {
        if self.listens_to_client() {
            self.fail(now, Error::BrokerGone);
        }
        self.over();
        self.client.clear();
    }

    /// How many bytes of the host's memory are in use for this connection. Only told while it is known that they matter, see
    /// [`Gate::handle_memory`]; without it a client is never held up for memory's sake.
    pub const fn handle_held(&mut self, bytes: usize) {
        self.held = bytes;
    }

    /// A newer build of the module serves, and this connection is to end: its client comes again and is given to that one. It ends as any
    /// that the server ends, will included.
    pub fn handle_replaced(&mut self, now: Instant) {
        if self.listens_to_client() {
            self.fail(now, Error::Replaced);
        }
        self.settle(now);
    }

    /// To be called when the instant that [`Bridge::poll_timeout`] told has come; calling it earlier does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some((at, timer)) = self.poll_timeout() else { return };
        if now < at {
            return;
        }
        match timer {
            // Should the broker only be slow.
            Timer::Login if self.will.as_ref().is_some_and(Will::is_deposited) => {
                self.events.push_back(Event::Failed(Error::BrokerSilent));
                self.refuse_without_will(now, None);
            }
            Timer::Login if self.state == State::LoggingIn => self.fail(now, Error::BrokerSilent),
            Timer::Login => self.fail(now, Error::TimedOut(TimedOut::Login)),
            Timer::Takeover => {
                if let Some(session) = &mut self.session {
                    session.take_over_by_force();
                }
                self.timers.wait_for_another(now, false);
                self.ask_steps();
            }
            Timer::KeepAlive => self.fail(now, Error::TimedOut(TimedOut::KeepAlive)),
            Timer::Hold
                if matches!(self.throttle.hold(), Some(Hold::Memory(_)))
                    && self.gate.is_short_of_memory() =>
            {
                self.throttle.spare_memory(now);
            }
            Timer::Hold => self.let_go_on(now),
            Timer::Packet => {
                self.from_client = RecvBuffer::default();
                self.fail(now, Error::TimedOut(TimedOut::Packet));
            }
            Timer::Heartbeat => match self.timers.beat(now) {
                Beat::Send => self.broker.heartbeat(),
                Beat::Missing => self.fail(now, Error::BrokerSilent),
                Beat::NotYet => {}
            },
            Timer::Will => {
                if let Some(will) = &mut self.will {
                    will.renew(&mut self.broker);
                }
                self.timers.will_at(now + self.config.will_refresh);
            }
            // Every input ends by that.
            Timer::Again => {}
            Timer::Replay => {
                if let Some(replayer) = &mut self.replayer {
                    replayer.wake(now, &mut self.broker);
                }
            }
            // What the client is owed has had its chance.
            Timer::Linger | Timer::Close => {
                if self.listens_to_client() {
                    self.events.push_back(Event::ClientGone);
                }
                self.over();
                self.client.clear();
            }
        }
        self.settle(now);
        // Who has waited for its turn may have asked something that is answered here.
        if !self.client.is_empty() {
            self.probe();
        }
    }

    /// The upstream that this connection is to be sent to in place of the default one: told at most once, and before there are
    /// bytes for the broker.
    pub fn poll_route(&mut self) -> Option<Rc<str>> {
        self.route.take()
    }

    /// Bytes that are to go to the broker now.
    pub fn take_broker_output(&mut self) -> Vec<u8> {
        // The client's end goes to the broker with the next bytes, so there can be none behind them.
        let is_behind = self.is_parting || self.throttle.hold().is_some();
        if self.client_ended && self.listens_to_client() && is_behind {
            return Vec::new();
        }
        self.broker.take_output()
    }

    /// Bytes that are to go to the client; only to be called inside an input of broker bytes, see [`Bridge`].
    pub fn take_client_output(&mut self) -> Vec<u8> {
        self.client.take()
    }

    /// Whether the client's connection is to be closed: everything it was to be given has been taken.
    ///
    /// The host closes in a later callback than the one in which it wrote bytes to the client.
    pub fn close_due(&self) -> bool {
        self.state == State::Over && self.client.is_empty()
    }

    /// The next thing that is worth a counter and a log line.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How loud this event of the connection's is: what a client can make happen as often as it likes is told once, and from then on
    /// is for those who debug.
    pub fn level(&mut self, event: Event) -> Level {
        let bit = match event {
            Event::Unauthorized => 1,
            Event::Unacknowledged => 2,
            _ => return event.level(),
        };
        let is_first = self.told.0 & bit == 0;
        self.told.0 |= bit;
        if is_first { event.level() } else { Level::Debug }
    }

    /// The next value for a metric of the client's tenant, see [`Bridge::tenant`].
    pub fn poll_measure(&mut self) -> Option<(Metric, i64)> {
        self.measures.take()
    }

    /// The name of the client's tenant; empty when it has none, or is not known yet.
    pub fn tenant(&self) -> &str {
        &self.tenant.name
    }

    /// Who the client is, from CONNECT on.
    pub const fn who(&self) -> Option<&Who> {
        self.who.as_ref()
    }

    /// When [`Bridge::handle_timeout`] is to be called, and why. Any input may change it.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let first =
            |timers: [Option<(Instant, Timer)>; 5]| timers.into_iter().flatten().min_by_key(|&(at, _)| at);
        let hold = match self.throttle.hold() {
            Some(Hold::Until(at) | Hold::Memory(at)) => Some((at, Timer::Hold)),
            Some(Hold::Turn) => Some((Instant::ZERO, Timer::Hold)),
            Some(Hold::Confirm | Hold::Order | Hold::Keep) | None => None,
        };
        let again = self.drafts.due().map(|at| (at, Timer::Again));
        match self.state {
            State::AwaitConnect | State::LoggingIn => {
                first([Some(self.timers.login()), hold, self.timers.takeover(), None, None])
            }
            State::Refusing(_) => Some(self.timers.login()),
            State::Connected => {
                let replay = self.replayer.as_ref().and_then(Replayer::wakes_at);
                // A client that is not listened to cannot make itself heard.
                let is_deaf = self.broker.is_blocked() || self.is_holding();
                let last = if self.is_parting { Some(self.timers.linger()) } else { hold };
                let timers = self.timers.connected(is_deaf);
                let replay = replay.map(|at| (at, Timer::Replay));
                first([timers, self.timers.packet(), replay, last, again])
            }
            State::Leaving => first([Some(self.timers.linger()), again, None, None, None]),
            State::Over => Some((Instant::ZERO, Timer::Close)),
        }
    }

    /// The broker has said something: what has waited for that goes on.
    fn go_on(&mut self, now: Instant) {
        if self.listens_to_client() {
            self.read_filters(now);
        }
        let may_go_on = match self.throttle.hold() {
            Some(Hold::Confirm) => self.may_send_more(),
            Some(Hold::Order) => self.may_go_on_in_order(),
            Some(Hold::Keep) => self.keeper.as_ref().is_none_or(Keeper::is_ready),
            // The host serves this connection anyway.
            Some(Hold::Turn) => true,
            Some(Hold::Until(_) | Hold::Memory(_)) | None => false,
        };
        if may_go_on {
            self.let_go_on(now);
        } else if self.is_parting && self.listens_to_client() && !self.is_owed_answers() {
            self.part();
        }
    }

    /// Whether the client has said more than is read of one in a turn: [`Bridge::handle_timeout`] is to be called once others have had
    /// theirs, which may be well before the next timeout of other connections is looked at.
    pub fn wants_turn(&self) -> bool {
        self.throttle.hold() == Some(Hold::Turn) && self.listens_to_client()
    }

    /// The client has waited long enough.
    fn let_go_on(&mut self, now: Instant) {
        self.throttle.release();
        self.timers.client_heard(now);
        if self.listens_to_client() {
            self.read_client(now);
        }
    }

    const fn listens_to_client(&self) -> bool {
        matches!(self.state, State::AwaitConnect | State::LoggingIn | State::Connected)
    }

    fn count_inflight(&mut self, inflight: usize) {
        let before = core::mem::replace(&mut self.counted.inflight, inflight);
        if before != inflight {
            self.measures.add(Metric::Inflight, inflight as i64 - before as i64);
        }
    }

    /// Whether the client is to be given what it is owed before it says more. What a broker's bytes make for it is taken in the same
    /// callback; only what its own make piles up.
    const fn is_owed_much(&self) -> bool {
        self.client.len() > MAX_CLIENT_OUTPUT
    }

    /// Ends every input.
    fn settle(&mut self, now: Instant) {
        if self.state == State::LoggingIn {
            let waits = self.session.as_ref().is_some_and(Session::waits_for_another);
            self.timers.wait_for_another(now, waits);
        }
        // Not before: a login that comes to nothing has no will, and one before of this client id is sent first.
        if self.state == State::LoggingIn
            && self.session.as_ref().is_some_and(Session::is_established)
            && let Some(will) = &mut self.will
        {
            will.deposit(&mut self.broker, self.tenant.exchange.as_short());
        }
        self.publish_again(now);
        self.go_on_leaving(now);
        if self.listens_to_client()
            && let Err(error) = self.broker.check_budgets()
        {
            self.fail(now, error);
        }
        if self.pings.waiting > 0 {
            self.probe();
        }
        // Filters that are left cost nothing but their turn, and what the client is owed is taken when the broker says something.
        let waits_for_a_word = self.session.as_ref().is_some_and(|session| session.subscriptions.is_idle())
            || self.throttle.hold() == Some(Hold::Order) && self.is_owed_much();
        if waits_for_a_word {
            self.broker.probe();
        }
        self.broker.send_probe();
        // Of a client that adds to a memory that is short no patience is asked.
        let waits_for_us = self.is_holding() && !matches!(self.throttle.hold(), Some(Hold::Memory(_)));
        self.timers.wait_for_packet(now, !waits_for_us && !self.broker.is_blocked());
        if self.state != State::Over {
            self.count_inflight(self.publications.unconfirmed());
        }
    }

    /// Makes the broker say something, and lets it answer the PINGREQs of until now.
    fn probe(&mut self) {
        if self.broker.probe() {
            self.pings.probed = self.pings.probed.saturating_add(core::mem::take(&mut self.pings.waiting));
        }
    }
}

/// By which a publish is found again when the broker refuses its topic.
fn topic_hash(routing_key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(routing_key);
    hasher.finish()
}

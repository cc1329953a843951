//! stub
use crate::{config::Config, time::{Instant}};
use std::{rc::Rc, net::SocketAddr};

/// What the host knows of the client before its first byte.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's real address; `None` where the host cannot tell (then it does not count as loopback).
    pub address: Option<SocketAddr>,
    /// A number that no other connection to the same broker has, used to make client ids; not a secret.
    pub nonce: u128,
}
/// One client connection.
pub struct Bridge { _c: Rc<Config> }
impl Bridge {
    /// A new client connection.
    pub fn new(config: Rc<Config>, _peer: Peer, _now: Instant) -> Self { Self { _c: config } }
    /// Bytes from the client; `end` when it will send no more.
    pub fn handle_client(&mut self, _now: Instant, _bytes: Vec<u8>, _end: bool) {}
    /// Bytes from the broker.
    pub fn handle_broker(&mut self, _now: Instant, _bytes: Vec<u8>, _end: bool) {}
    /// The client's connection is gone.
    pub fn handle_client_closed(&mut self, _now: Instant) {}
    /// The broker's connection is gone.
    pub fn handle_broker_closed(&mut self, _now: Instant) {}
    /// To be called at or after the instant that [`Bridge::poll_timeout`] gave.
    pub fn handle_timeout(&mut self, _now: Instant) {}
    /// The upstream this connection shall be sent to in place of the default one, told once and before the first broker output.
    pub fn poll_route(&mut self) -> Option<Rc<str>> { None }
    /// What must go to the broker now.
    pub fn take_broker_output(&mut self) -> Vec<u8> { Vec::new() }
    /// What must go to the client, and may only be taken inside an input of broker bytes.
    pub fn take_client_output(&mut self) -> Vec<u8> { Vec::new() }
    /// Whether the client's connection is to be closed now. Only true when no client output is left.
    pub fn close_due(&self) -> bool { false }
    /// The next thing worth a log line or a counter.
    pub fn poll_event(&mut self) -> Option<Event> { None }
    /// When to call [`Bridge::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> { None }
}
/// Something that happened, for logs and counters only, never for control.
#[derive(Clone, Debug)]
pub struct Event;
/// How loud an event is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level { Debug, Info, Warn, Error }
impl Event {
    /// Names of all counters, in the order of [`Event::counter`].
    pub const COUNTERS: &'static [&'static str] = &["leveret.connects"];
    /// Index into [`Event::COUNTERS`] of the counter this event adds one to.
    pub fn counter(&self) -> usize { 0 }
    /// The level of its log line.
    pub fn level(&self) -> Level { Level::Debug }
}
impl core::fmt::Display for Event { fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str("event") } }

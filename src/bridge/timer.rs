//! When the bridge must be called although nothing happens, and why.

use super::lock::PATIENCE;
use crate::config::Limits;
use crate::time::{Duration, Instant};

/// How long the broker may take to answer connection.close before the client's connection is closed all the same.
const LINGER: Duration = Duration::from_secs(10);

/// Why the bridge wants to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// `login_timeout`: no CONNACK yet.
    Login,
    /// The connection that has the client id does not go.
    Takeover,
    /// `packet_timeout`: a packet that has to be whole before it can be read is not.
    Packet,
    /// The client has been silent for one and a half keep-alive times. [MQTT-3.1.2-24]
    KeepAlive,
    /// A client that was ahead of what it may do may go on.
    Hold,
    /// A heartbeat is to be sent, or one of the broker's is missing.
    Heartbeat,
    /// The will at the broker is to be renewed.
    Will,
    /// A message that the broker could not take is to be published again.
    Again,
    /// A retained message is to be asked for again.
    Replay,
    /// The broker does not answer connection.close.
    Linger,
    /// The client's connection is to be closed.
    Close,
}

pub(super) struct Timers {
    login: Instant,
    packet_timeout: Duration,
    /// For an unfinished packet.
    packet: Option<Patience>,
    keep_alive: Option<Duration>,
    client_heard: Instant,
    heartbeat: Option<Heartbeat>,
    will: Option<Instant>,
    /// Until when another connection is waited for.
    takeover: Option<Instant>,
    linger: Instant,
}

/// What is left of a deadline: it stands still while the client is not listened to.
#[derive(Clone, Copy)]
enum Patience {
    Until(Instant),
    For(Duration),
}

/// Section 4.2.7: we send one each half interval, and give up on a broker that is silent for two.
#[derive(Clone, Copy)]
struct Heartbeat {
    interval: Duration,
    broker_heard: Instant,
    send: Instant,
}

/// What a heartbeat timer is due for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Send,
    Missing,
    NotYet,
}

impl Timers {
    pub(super) fn new(now: Instant, limits: &Limits, heartbeat_seconds: u16) -> Self {
        let interval = Duration::from_secs(u64::from(heartbeat_seconds));
        let beat = Heartbeat { interval, broker_heard: now, send: now + interval / 2 };
        Self {
            login: now + limits.login_timeout,
            packet_timeout: limits.packet_timeout,
            packet: None,
            keep_alive: None,
            client_heard: now,
            heartbeat: (heartbeat_seconds > 0).then_some(beat),
            will: None,
            takeover: None,
            linger: now,
        }
    }

    /// Sets when the will is to be renewed next.
    pub(super) const fn will_at(&mut self, at: Instant) {
        self.will = Some(at);
    }

    /// Sets the keep-alive time of a CONNECT; 0 is none. [MQTT-3.1.2-24]
    pub(super) fn keep_alive(&mut self, seconds: u16) {
        self.keep_alive = (seconds > 0).then(|| Duration::from_millis(u64::from(seconds) * 1500));
    }

    /// Whether the client has left a packet unfinished after a read, and whether it had got anywhere in it. Each packet has its own
    /// deadline; a PUBLISH's payload has none, since it is passed on as it comes.
    pub(super) fn unfinished(&mut self, now: Instant, is_unfinished: bool, has_progressed: bool) {
        if !is_unfinished {
            self.packet = None;
        } else if has_progressed || self.packet.is_none() {
            self.packet = Some(Patience::Until(now + self.packet_timeout));
        }
    }

    /// Whether it is the client that is waited for.
    pub(super) fn wait_for_packet(&mut self, now: Instant, is_client: bool) {
        self.packet = match self.packet {
            Some(Patience::Until(at)) if !is_client => Some(Patience::For(at.since(now))),
            Some(Patience::For(left)) if is_client => Some(Patience::Until(now + left)),
            same => same,
        };
    }

    pub(super) const fn packet(&self) -> Option<(Instant, Timer)> {
        match self.packet {
            Some(Patience::Until(at)) => Some((at, Timer::Packet)),
            Some(Patience::For(_)) | None => None,
        }
    }

    pub(super) const fn client_heard(&mut self, now: Instant) {
        self.client_heard = now;
    }

    pub(super) const fn broker_heard(&mut self, now: Instant) {
        if let Some(beat) = &mut self.heartbeat {
            beat.broker_heard = now;
        }
    }

    pub(super) fn linger_from(&mut self, now: Instant) {
        self.linger = now + LINGER;
    }

    pub(super) const fn login(&self) -> (Instant, Timer) {
        (self.login, Timer::Login)
    }

    /// Another connection is waited for, or is not any more.
    pub(super) fn wait_for_another(&mut self, now: Instant, is_waited_for: bool) {
        self.takeover = is_waited_for.then(|| self.takeover.unwrap_or(now + PATIENCE));
    }

    pub(super) fn takeover(&self) -> Option<(Instant, Timer)> {
        self.takeover.map(|at| (at, Timer::Takeover))
    }

    pub(super) const fn linger(&self) -> (Instant, Timer) {
        (self.linger, Timer::Linger)
    }

    /// The next timer of a connection that is up. While nobody listens to the client, because the broker is blocked or the client
    /// ahead of its rate, it cannot make itself heard and its keep-alive stands still.
    pub(super) fn connected(&self, is_deaf: bool) -> Option<(Instant, Timer)> {
        let keep_alive =
            self.keep_alive.filter(|_| !is_deaf).map(|t| (self.client_heard + t, Timer::KeepAlive));
        let beat = self.heartbeat.map(|b| (b.send.min(b.broker_heard + b.interval * 2), Timer::Heartbeat));
        let will = self.will.map(|at| (at, Timer::Will));
        [keep_alive, beat, will].into_iter().flatten().min_by_key(|&(at, _)| at)
    }

    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        match &mut self.heartbeat {
            Some(beat) if now >= beat.broker_heard + beat.interval * 2 => Beat::Missing,
            Some(beat) if now >= beat.send => {
                beat.send = now + beat.interval / 2;
                Beat::Send
            }
            Some(_) | None => Beat::NotYet,
        }
    }
}

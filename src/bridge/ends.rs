//! How a connection ends, and what each side is told of it: refused before it has begun, taken leave of, or over.

use super::channel::Role;
use super::{Bridge, State};
use crate::config::ConnectMode;
use crate::error::{Error, LoginRefusal, TimedOut};
use crate::event::Event;
use crate::metrics::Metric;
use crate::mqtt::ConnectReturnCode;
use crate::time::{Duration, Instant};

impl Bridge {
    /// Ends the connection because of `error`, telling the client what the protocol has words for.
    pub(super) fn fail(&mut self, now: Instant, error: Error) {
        if error == Error::Login(LoginRefusal::Credentials)
            && let Some(attempt) = self.attempt.take()
        {
            self.gate.failed(now, &attempt);
        }
        match (self.state, error.connack()) {
            (State::AwaitConnect, Some(code)) => {
                self.events.push_back(Event::Refused(code, error));
                self.refuse(code);
            }
            (State::LoggingIn, Some(code)) if error.is_refusal_of_login() => {
                self.events.push_back(Event::Refused(code, error));
                // It may be at the broker already, if that is still listening, but nobody has been told that there was a client.
                if !error.is_end_of_broker() && !self.broker.is_closed() {
                    self.withdraw_will();
                }
                self.give_refusal(code);
                if error == Error::BrokerGone {
                    self.broker.nudge();
                }
            }
            (State::AwaitConnect | State::LoggingIn | State::Connected, _) => {
                self.events.push_back(Event::Failed(error));
                // If it closed a channel only, the connection is still open.
                if matches!(error, Error::BrokerClosed { .. }) && self.broker.is_closed() {
                    self.broker.close_ok();
                }
                if error.is_end_of_broker() {
                    self.broker.abandon();
                }
                self.leave(now);
                // Silence has lasted long enough.
                if error == Error::TimedOut(TimedOut::KeepAlive) {
                    self.over();
                }
            }
            (State::Refusing(_) | State::Leaving | State::Over, _) => self.over(),
        }
    }

    /// Nothing has been said upstream yet. Say hello to whoever is there, preferably to an echo that costs the broker nothing,
    /// since bytes can go to the client only when bytes come back.
    fn refuse(&mut self, code: ConnectReturnCode) {
        if self.config.connect_mode == ConnectMode::Lazy {
            self.route = self.config.local_reply_cluster.clone();
        }
        self.broker.greet();
        self.state = State::Refusing(code);
    }

    /// Upstream has spoken: the CONNACK goes out now. A broker's connection.close is not answered, since on close-ok it resets the
    /// connection, and the reset could overtake the CONNACK.
    pub(super) fn give_refusal(&mut self, code: ConnectReturnCode) {
        self.client.connack(false, code);
        self.over();
    }

    /// Parts from the broker in good order, so that it handles all that was sent before.
    pub(super) fn leave(&mut self, now: Instant) {
        if self.state == State::AwaitConnect || self.broker.is_closed() {
            return self.over();
        }
        if self.state == State::LoggingIn {
            // Nobody has been told that there was a client.
            self.withdraw_will();
        }
        let has_last_words = self.keep_last_words();
        if self.client_ended {
            if self.published_at.is_some_and(|at| now < at + SETTLED) {
                self.broker.barrier(Role::Publish);
            }
            if self.keeper.as_ref().is_some_and(|keeper| !keeper.is_settled()) {
                self.broker.barrier(Role::Keep);
            }
            if has_last_words {
                self.broker.barrier(Role::Confirm);
            }
        }
        if let Some(session) = &self.session {
            session.release(&mut self.broker);
        }
        self.broker.close();
        self.timers.linger_from(now);
        self.state = State::Leaving;
    }

    pub(super) fn over(&mut self) {
        self.broker.abandon();
        self.state = State::Over;
        if core::mem::take(&mut self.counted.is_connected) {
            self.measures.add(Metric::Connections, -1);
            if self.will.is_some() {
                self.measures.add(Metric::WillsLeft, 1);
            }
        }
        self.count_inflight(0);
    }
}

/// For so long after a publish at QoS 0 the broker may not have looked at it yet.
const SETTLED: Duration = Duration::from_secs(10);

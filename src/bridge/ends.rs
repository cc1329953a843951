//! How a connection ends, and what each side is told of it: refused before it has begun, taken leave of, or over.

use super::channel::Role;
use super::order::Unconfirmed;
use super::retained::keep::Keeper;
use super::session::Session;
use super::will::Will;
use super::{Bridge, State};
use crate::config::ConnectMode;
use crate::error::{Error, LoginRefusal};
use crate::event::Event;
use crate::metrics::Metric;
use crate::mqtt::ConnectReturnCode;
use crate::time::{Duration, Instant};

/// How far a connection that is left has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Farewell {
    /// What the client has said is being routed.
    #[default]
    Routing,
    /// What it has said to itself is being delivered.
    Delivering,
    /// Its will is being sent, or taken back.
    Will,
    /// connection.close is sent.
    Closing,
}

impl Bridge {
    /// Ends the connection because of `error`, telling the client what the protocol has words for.
    pub(super) fn fail(&mut self, now: Instant, error: Error) {
        if error == Error::Login(LoginRefusal::Credentials)
            && let Some(attempt) = self.attempt.take()
        {
            self.gate.failed(now, &attempt);
        }
        if error == Error::TakenOver && self.gives_way_later() {
            return;
        }
        match (self.state, error.connack()) {
            (State::AwaitConnect, Some(code)) => {
                self.events.push_back(Event::Refused(code, error));
                self.refuse(code);
            }
            (State::LoggingIn, Some(code)) if error.is_refusal_of_login() => {
                self.events.push_back(Event::Refused(code, error));
                // Nobody has been told that there was a client: its will is not to be sent, which the broker has to know first.
                let is_deposited = self.will.as_ref().is_some_and(Will::is_deposited);
                if is_deposited && !error.is_end_of_broker() && !self.broker.is_closed() {
                    return self.refuse_without_will(now, Some(code));
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
            }
            (State::Refusing(_) | State::Leaving | State::Over, _) => self.over(),
        }
    }

    /// A newcomer waits, but what the client has said before is not all heard yet: whether it is heard first. Whoever loses the lock
    /// by force meanwhile gives way at once.
    fn gives_way_later(&mut self) -> bool {
        let has_more = self.state == State::Connected
            && self.throttle.hold().is_some()
            && self.from_client.has_unparsed();
        has_more && !core::mem::replace(&mut self.is_giving_way, true)
    }

    /// The login comes to nothing although the broker has the will: it is taken back before the client hears of it.
    pub(super) fn refuse_without_will(&mut self, now: Instant, code: Option<ConnectReturnCode>) {
        self.withdraw_will();
        self.refusal = code;
        self.timers.linger_from(now);
        (self.state, self.farewell) = (State::Leaving, Farewell::Will);
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

    /// The client says no more, and has not said DISCONNECT.
    ///
    /// Its end goes to the broker with our next bytes, and makes the broker drop what it has not looked at. So nothing is said while
    /// the client waits for answers to what was said before, nor at all when there is nothing that the broker has to know.
    pub(super) fn client_has_ended(&mut self, now: Instant) {
        let has_all = self.state == State::Connected
            && !self.broker.has_output()
            && !self.has_requests()
            && self.unconfirmed == Unconfirmed::Routed
            && self.keeper.as_ref().is_none_or(Keeper::is_settled);
        self.is_parting = has_all;
        if has_all && (self.is_owed_answers() || !self.client.is_empty()) {
            self.timers.linger_from(now);
        } else if has_all {
            self.part();
        } else {
            self.events.push_back(Event::ClientGone);
            self.leave(now);
        }
    }

    /// The client has said its last word, and has all that it is owed.
    pub(super) fn part(&mut self) {
        self.events.push_back(Event::ClientGone);
        self.over();
    }

    /// Whether the broker is to say something that the client waits for.
    pub(super) fn is_owed_answers(&self) -> bool {
        self.publications.unconfirmed() > 0 || self.pings.probed > 0
    }

    /// Parts from the broker in good order: what the client has said, and its will, are done before anybody can know that it has gone.
    pub(super) fn leave(&mut self, now: Instant) {
        if self.state == State::AwaitConnect || self.broker.is_closed() {
            return self.over();
        }
        if self.state == State::LoggingIn {
            // Nobody has been told that there was a client.
            self.withdraw_will();
        }
        self.timers.linger_from(now);
        self.state = State::Leaving;
        self.farewell = Farewell::Routing;
        if self.broker.is_publishing(Role::Publish) {
            // Within a message that comes to no end nothing can be asked, and it is not confirmed.
            self.forget_publishes();
        }
        if self.client_ended {
            self.leave_at_once(now);
        } else {
            self.go_on_leaving(now);
        }
    }

    /// The end of the client's bytes goes to the broker with what is said now, so all is said now, and in a way that the broker looks
    /// at it before it notices the end.
    fn leave_at_once(&mut self, now: Instant) {
        let has_last_words = self.keep_last_words();
        let may_be_unread = self.published_at.is_some_and(|at| now < at + SETTLED);
        if may_be_unread || has_last_words {
            self.broker.barrier(Role::Publish);
        }
        if self.keeper.as_ref().is_some_and(|keeper| !keeper.is_settled()) {
            self.broker.barrier(Role::Keep);
        }
        self.close();
    }

    /// Takes the next steps of leaving that may be taken.
    pub(super) fn go_on_leaving(&mut self, now: Instant) {
        if self.state != State::Leaving || self.client_ended {
            return;
        }
        if self.farewell == Farewell::Routing && self.is_routed_as_far_as_possible() {
            self.farewell = Farewell::Delivering;
            // RabbitMQ answers connection.close ahead of what its channels are about to send.
            let has_just_published = self.heard_publish.is_some_and(|at| now < at + JUST);
            let is_listener =
                self.has_disconnected && self.session.as_ref().is_some_and(Session::is_consuming);
            self.is_all_delivered = !(has_just_published && is_listener);
            if !self.is_all_delivered {
                self.broker.ask_whether_delivered();
            }
        }
        if self.farewell == Farewell::Delivering && self.is_all_delivered {
            self.farewell = Farewell::Will;
            if let Some(will) = &mut self.will {
                will.send(&mut self.broker);
            }
        }
        if self.farewell == Farewell::Will && self.will.as_ref().is_none_or(Will::is_over) {
            self.farewell = Farewell::Closing;
            match self.refusal.take() {
                Some(code) => self.give_refusal(code),
                None => self.close(),
            }
        }
    }

    /// Whether all has been routed and kept, or nobody can tell any more.
    fn is_routed_as_far_as_possible(&mut self) -> bool {
        self.ask_whether_routed();
        let has_left = !self.has_disconnected || self.session.as_ref().is_none_or(Session::is_quiet);
        has_left && self.is_all_routed()
    }

    fn close(&mut self) {
        if let Some(session) = &self.session {
            session.release(&mut self.broker);
        }
        self.broker.close();
    }

    pub(super) fn over(&mut self) {
        self.broker.abandon();
        self.state = State::Over;
        if core::mem::take(&mut self.counted.is_connected) {
            self.measures.add(Metric::Connections, -1);
            if self.will.as_ref().is_some_and(|will| !will.is_withdrawn()) {
                self.measures.add(Metric::WillsLeft, 1);
            }
        }
        self.count_inflight(0);
    }
}

/// For so long after a publish at QoS 0 the broker may not have looked at it yet.
const SETTLED: Duration = Duration::from_secs(10);

/// For so long after its last message a client that leaves may wait for a copy of it.
const JUST: Duration = Duration::from_secs(1);

//! The client's session at the broker, as steps: how it comes to exist at login, and what its subscriptions ask.
//!
//! ```text
//!             lock                       clean                  persistent
//!  login      delete, declare, consume   delete qos0, qos1      look for qos1: the session if there is one, else declare it;
//!                                                               look for qos0
//!  SUBSCRIBE                             declare, consume, bind declare, consume, bind
//! ```
//!
//! Up to [`WINDOW`] steps are asked at once. When the broker refuses one it closes the channel and looks at none of those
//! behind it, so these are asked again: every step is idempotent.

use std::collections::VecDeque;

use super::channel::Role;
use super::queues::{Level, Progress, QueueId, Queues, Stage};
use super::subscribe::{Answer, EntryRef, Subscriptions};
use crate::amqp::reply_code::{ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED};
use crate::amqp::{ClientMethod, MethodId, ShortStr};
use crate::config::Config;
use crate::error::Error;
use crate::names::QueueNames;

/// The most steps that are asked at once: enough to hide the round trip, and all that a refusal costs.
const WINDOW: usize = 32;

/// How often the lock is asked for. It is refused when two connections want it at the same moment.
const LOCK_ATTEMPTS: u8 = 5;

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Delete(QueueId),
    /// Whether there is such a queue: a passive declare.
    Check(QueueId),
    Declare(QueueId),
    Consume(QueueId),
    Cancel(EntryRef, QueueId),
    Bind(EntryRef, QueueId),
    Unbind(EntryRef, QueueId),
}

/// Why the broker refused a step.
#[derive(Clone, Copy)]
pub(super) struct Refused<'a> {
    pub(super) code: u16,
    pub(super) text: &'a [u8],
    pub(super) method: MethodId,
}

pub(super) struct Session {
    queues: Queues,
    pub(super) subscriptions: Subscriptions,
    is_clean: bool,
    is_present: bool,
    /// CONNACK is given: messages may come.
    is_started: bool,
    login: Login,
    lock_attempts: u8,
    /// Steps to be asked, in order.
    waiting: VecDeque<Step>,
    /// Steps that are asked and not answered.
    asked: usize,
}

/// What CONNACK waits for.
struct Login {
    lock: bool,
    levels: [bool; 2],
}

impl Session {
    /// The session of a client that has been admitted; `has_own_id` unless its id was made for it and so nobody else's.
    pub(super) fn new(names: QueueNames, has_own_id: bool, is_clean: bool, config: &Config) -> Self {
        let (lock, zero, one) = (QueueId::Lock, QueueId::Level(Level::Zero), QueueId::Level(Level::One));
        let mut waiting = VecDeque::new();
        if has_own_id {
            waiting.extend([Step::Delete(lock), Step::Declare(lock), Step::Consume(lock)]);
        }
        match is_clean {
            // What a connection before left, or still holds: it is told by basic.cancel that its queues are gone.
            true if has_own_id => waiting.extend([Step::Delete(zero), Step::Delete(one)]),
            true => {}
            false => waiting.extend([Step::Check(one), Step::Declare(one), Step::Check(zero)]),
        }
        Self {
            queues: Queues::new(names, is_clean, config),
            subscriptions: Subscriptions::default(),
            is_clean,
            is_present: false,
            is_started: false,
            login: Login { lock: has_own_id, levels: [has_own_id || !is_clean; 2] },
            lock_attempts: LOCK_ATTEMPTS,
            waiting,
            asked: 0,
        }
    }

    /// Whether CONNACK may go out, and new subscriptions be planned.
    pub(super) const fn is_established(&self) -> bool {
        !self.login.lock && self.has_its_queues()
    }

    const fn has_its_queues(&self) -> bool {
        matches!(self.login.levels, [false, false])
    }

    /// Whether the broker has kept the session for the client. [MQTT-3.2.2-2]
    pub(super) const fn is_present(&self) -> bool {
        self.is_present
    }

    /// CONNACK is given, and no message can overtake it any more.
    pub(super) fn start(&mut self) {
        self.is_started = true;
        for queue in self.queues.all() {
            self.consume(queue);
        }
    }

    /// The next step to ask; the caller does. Those that do not matter any more are passed over.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        // What a client's subscriptions need depends on which queues there are.
        if self.is_clean || self.has_its_queues() {
            self.subscriptions.plan(&mut self.queues, &mut self.waiting);
        }
        while self.asked < WINDOW {
            let step = self.waiting.pop_front()?;
            if self.matters(step) {
                self.asked += 1;
                return Some(step);
            }
        }
        None
    }

    fn matters(&self, step: Step) -> bool {
        match step {
            Step::Delete(QueueId::Lock) | Step::Declare(QueueId::Lock) | Step::Consume(QueueId::Lock) => {
                self.login.lock
            }
            Step::Delete(queue @ QueueId::Shared(_)) | Step::Check(queue @ QueueId::Shared(_)) => {
                self.queues.progress(queue).declared == Stage::No
            }
            Step::Delete(_) | Step::Check(_) | Step::Declare(_) | Step::Consume(_) => true,
            Step::Cancel(at, _) | Step::Bind(at, _) | Step::Unbind(at, _) => {
                self.subscriptions.key(at).is_some()
            }
        }
    }

    /// A step as a method, and the channel it is for.
    pub(super) fn method<'a>(&'a self, step: Step, exchange: ShortStr<'a>) -> (Role, ClientMethod<'a>) {
        let routing_key = |at| self.subscriptions.key(at).unwrap_or(ShortStr::EMPTY);
        let method = match step {
            Step::Delete(queue) => self.queues.delete(queue),
            Step::Check(queue) => self.queues.check(queue),
            Step::Declare(queue) => self.queues.declare(queue),
            Step::Consume(queue) => self.queues.consume(queue),
            Step::Cancel(_, queue) => self.queues.cancel(queue),
            Step::Bind(at, queue) => ClientMethod::QueueBind {
                queue: self.queues.name(queue),
                exchange,
                routing_key: routing_key(at),
            },
            Step::Unbind(at, queue) => ClientMethod::QueueUnbind {
                queue: self.queues.name(queue),
                exchange,
                routing_key: routing_key(at),
            },
        };
        // The lock is taken before anything else is consumed, and all on one channel, so that it takes one flight.
        let on_consumers_channel = matches!(
            step,
            Step::Consume(_) | Step::Cancel(..) | Step::Delete(QueueId::Lock) | Step::Declare(QueueId::Lock)
        );
        (if on_consumers_channel { Role::Consume } else { Role::Topology }, method)
    }

    /// The broker did a step; a queue that was declared or looked for has so many consumers.
    pub(super) fn done(&mut self, step: Step, consumers: u32) {
        self.asked = self.asked.saturating_sub(1);
        match step {
            Step::Delete(QueueId::Level(level)) => self.deleted(level),
            Step::Delete(_) | Step::Declare(QueueId::Lock) | Step::Check(QueueId::Lock) => {}
            // The declare behind it tells whether it is a session's.
            Step::Check(QueueId::Level(Level::One)) => self.is_present = true,
            Step::Check(queue @ QueueId::Level(Level::Zero)) => {
                self.declared(queue);
                self.settled(Level::Zero);
            }
            Step::Check(queue @ QueueId::Shared(_)) if consumers == 0 => {
                self.waiting.push_front(Step::Delete(queue))
            }
            Step::Check(QueueId::Shared(_)) => {}
            Step::Declare(queue @ QueueId::Level(level)) => {
                self.declared(queue);
                if level == Level::One {
                    self.settled(level);
                }
            }
            Step::Declare(queue @ QueueId::Shared(_)) => {
                // Unless the client has left the group meanwhile.
                if self.queues.progress(queue).declared == Stage::Asked {
                    self.declared(queue);
                }
            }
            Step::Consume(queue) => {
                if let Some(progress) = self.queues.progress_mut(queue)
                    && (progress.consumed == Stage::Asked || queue == QueueId::Lock)
                {
                    progress.consumed = Stage::Yes;
                }
                if queue == QueueId::Lock {
                    self.login.lock = false;
                }
            }
            Step::Cancel(at, queue) => {
                self.subscriptions.settle_step(at);
                self.waiting.push_front(Step::Check(queue));
            }
            Step::Bind(at, _) | Step::Unbind(at, _) => self.subscriptions.settle_step(at),
        }
    }

    fn declared(&mut self, queue: QueueId) {
        if let Some(progress) = self.queues.progress_mut(queue) {
            progress.declared = Stage::Yes;
        }
        if self.is_started {
            self.consume(queue);
        }
    }

    fn consume(&mut self, queue: QueueId) {
        if let Some(progress) = self.queues.progress_mut(queue)
            && (progress.declared, progress.consumed) == (Stage::Yes, Stage::No)
        {
            progress.consumed = Stage::Asked;
            self.waiting.push_front(Step::Consume(queue));
        }
    }

    const fn deleted(&mut self, level: Level) {
        // In place of a clean session's, a persistent one's is declared next.
        if self.is_clean || matches!(level, Level::Zero) {
            self.settled(level);
        }
    }

    const fn settled(&mut self, level: Level) {
        *level.of_mut(&mut self.login.levels) = false;
    }

    /// The broker refused a step and closed its channel, without looking at `behind` it: those are asked again.
    ///
    /// # Errors
    /// When the client cannot go on without.
    pub(super) fn refused(
        &mut self,
        step: Step,
        why: Refused<'_>,
        behind: impl DoubleEndedIterator<Item = Step>,
    ) -> Result<(), Error> {
        self.ask_again(behind);
        self.asked = self.asked.saturating_sub(1);
        let fatal = Err(Error::BrokerClosed { code: why.code, method: why.method });
        match step {
            Step::Delete(QueueId::Lock) | Step::Declare(QueueId::Lock) | Step::Consume(QueueId::Lock) => {
                match self.lock_attempts.checked_sub(1) {
                    // Another newcomer was faster. It is the older one now.
                    Some(left) if matches!(step, Step::Consume(_)) => {
                        self.lock_attempts = left;
                        for step in [Step::Consume, Step::Declare, Step::Delete] {
                            self.waiting.push_front(step(QueueId::Lock));
                        }
                    }
                    // A user who may have no queues can publish all the same, as with RabbitMQ's plugin.
                    _ if self.is_clean && why.code == ACCESS_REFUSED => self.login.lock = false,
                    _ => return fatal,
                }
            }
            // Nothing the user could have left, or the broker will say of the declare what stands against it.
            Step::Delete(QueueId::Level(level)) => self.deleted(level),
            Step::Check(QueueId::Level(Level::One)) if why.code == NOT_FOUND => {
                // A new session. Should the other queue have outlived this one, it is not the new one's.
                self.waiting.retain(|&step| step != Step::Check(QueueId::Level(Level::Zero)));
                self.waiting.push_back(Step::Delete(QueueId::Level(Level::Zero)));
            }
            Step::Check(QueueId::Level(Level::Zero)) if why.code == NOT_FOUND => self.settled(Level::Zero),
            Step::Check(QueueId::Level(_)) => return fatal,
            Step::Declare(queue @ QueueId::Level(Level::One)) if !self.is_clean && !self.has_its_queues() => {
                match why.code {
                    PRECONDITION_FAILED if names_auto_delete(why.text) => self.replace_clean_session(),
                    // Of another `subscription_ttl`, or RabbitMQ's plugin's.
                    PRECONDITION_FAILED => {
                        self.declared(queue);
                        self.settled(Level::One);
                    }
                    _ => return fatal,
                }
            }
            Step::Declare(queue @ (QueueId::Level(_) | QueueId::Shared(_)))
                if why.code == PRECONDITION_FAILED && !self.is_clean =>
            {
                self.declared(queue);
            }
            // Should there be a queue, nobody will have what it holds; it expires.
            Step::Declare(queue) | Step::Consume(queue) => {
                if matches!(step, Step::Consume(_)) && (!self.is_clean || self.queues.is_consuming()) {
                    // The other consumers are gone with the channel.
                    return fatal;
                }
                if let Some(progress) = self.queues.progress_mut(queue) {
                    *progress = Progress::default();
                }
                self.subscriptions.refuse_all(queue);
            }
            Step::Bind(at, _) => self.subscriptions.refuse(at),
            // It was not bound or consumed, or stays so: the client hears no more of it either way.
            Step::Unbind(at, _) | Step::Cancel(at, _) => self.subscriptions.settle_step(at),
            Step::Delete(QueueId::Shared(_)) | Step::Check(QueueId::Lock | QueueId::Shared(_)) => {}
        }
        Ok(())
    }

    /// What looked like the session is a clean one's, whose client is still there or just was.
    fn replace_clean_session(&mut self) {
        let (zero, one) = (QueueId::Level(Level::Zero), QueueId::Level(Level::One));
        self.is_present = false;
        self.waiting.retain(|&step| step != Step::Check(zero));
        for step in [Step::Delete(zero), Step::Declare(one), Step::Delete(one)] {
            self.waiting.push_front(step);
        }
    }

    /// The broker has not looked at these steps, the last that were asked.
    pub(super) fn ask_again(&mut self, steps: impl DoubleEndedIterator<Item = Step>) {
        for step in steps.rev() {
            self.asked = self.asked.saturating_sub(1);
            self.waiting.push_front(step);
        }
    }

    /// The answer to the oldest SUBSCRIBE or UNSUBSCRIBE, once all its entries are settled.
    pub(super) fn take_answer(&mut self) -> Option<Answer> {
        self.subscriptions.take_answer(&self.queues)
    }

    /// The queues of subscriptions, by level.
    pub(super) fn level_queues(&self) -> [ShortStr<'_>; 2] {
        Level::ALL.map(|level| self.queues.name(QueueId::Level(level)))
    }

    /// The queue of a consumer.
    pub(super) fn consumed_queue(&self, consumer_tag: &[u8]) -> Option<QueueId> {
        self.queues.by_consumer_tag(consumer_tag)
    }

    /// The level at which a queue's messages come.
    pub(super) fn level(&self, queue: QueueId) -> Level {
        self.queues.level(queue)
    }

    /// Whether the client subscribed to what came from `queue`: to a topic that starts with `$`, not by a wildcard.
    /// [MQTT-4.7.2-1]
    ///
    /// AMQP cannot list the bindings of a session that was kept, so such a client gets all its queue holds.
    pub(super) fn wants(&self, queue: QueueId, routing_key: &[u8]) -> bool {
        let is_ordinary = routing_key.first() != Some(&b'$');
        is_ordinary
            || match self.queues.shared_key(queue) {
                Some(binding_key) => binding_key.first() == Some(&b'$'),
                None => self.is_present || self.subscriptions.names_dollar_topic(routing_key),
            }
    }
}

/// RabbitMQ: "inequivalent arg 'auto_delete' for queue ...".
fn names_auto_delete(text: &[u8]) -> bool {
    const NAME: &[u8] = b"auto_delete";
    text.windows(NAME.len()).any(|window| window == NAME)
}

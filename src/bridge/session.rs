//! The client's session at the broker, as steps: how it comes to exist at login, and what its subscriptions ask.
//!
//! ```text
//!             clean                    persistent
//!  login      the lock                 the lock
//!             delete kept qos0, qos1   look for qos1: the session if there is one, else declare it; look for qos0
//!  SUBSCRIBE  declare, consume, bind   declare, consume, bind
//! ```
//!
//! Up to [`WINDOW`] steps are asked at once. When the broker refuses one it closes the channel and looks at none of those
//! behind it, so these are asked again: every step is idempotent.

use std::collections::VecDeque;

use super::broker::BrokerSide;
use super::channel::Role;
use super::lock::{self, Lock, Outcome};
use super::queues::{Level, Progress, QueueId, Queues, Stage};
use super::subscribe::{Answer, EntryRef, Subscriptions};
use crate::amqp::reply_code::{NOT_FOUND, PRECONDITION_FAILED};
use crate::amqp::{ClientMethod, MethodId, ShortStr};
use crate::config::Config;
use crate::error::Error;
use crate::names::QueueNames;

/// The most steps that are asked at once: enough to hide the round trip, and all that a refusal costs.
const WINDOW: usize = 32;

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Lock(lock::Step),
    Delete(QueueId),
    /// Whether there is such a queue: a passive declare.
    Check(QueueId),
    Declare(QueueId),
    Consume(QueueId),
    Cancel(EntryRef, QueueId),
    /// basic.cancel of a client that goes for good.
    Leave(QueueId),
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
    lock: Lock,
    queues: Queues,
    pub(super) subscriptions: Subscriptions,
    is_clean: bool,
    is_present: bool,
    /// CONNACK is given: messages may come.
    is_started: bool,
    /// Which of its queues are not settled yet.
    unsettled: [bool; 2],
    /// Steps to be asked, in order.
    waiting: VecDeque<Step>,
    /// Steps that are asked and not answered.
    asked: usize,
}

impl Session {
    /// The session of a client that has been admitted; `has_own_id` unless its id was made for it and so nobody else's.
    pub(super) fn new(
        names: QueueNames,
        has_own_id: bool,
        is_clean: bool,
        config: &Config,
        max_shared: u16,
    ) -> Self {
        let (zero, one) = (QueueId::Level(Level::Zero), QueueId::Level(Level::One));
        let mut waiting = VecDeque::new();
        if has_own_id {
            waiting.extend(Lock::STEPS.iter().copied().map(Step::Lock));
        }
        match is_clean {
            // What a session before has left.
            true if has_own_id => waiting.extend([Step::Delete(zero), Step::Delete(one)]),
            true => {}
            false => waiting.extend([Step::Check(one), Step::Declare(one), Step::Check(zero)]),
        }
        Self {
            lock: Lock::new(names.lock.clone(), names.lock_mark.clone(), has_own_id),
            queues: Queues::new(names, is_clean, config, max_shared),
            subscriptions: Subscriptions::default(),
            is_clean,
            is_present: false,
            is_started: false,
            unsettled: [has_own_id || !is_clean; 2],
            waiting,
            asked: 0,
        }
    }

    /// Whether CONNACK may go out, as far as the session goes.
    pub(super) const fn is_established(&self) -> bool {
        !self.lock.is_pending() && self.has_its_queues()
    }

    const fn has_its_queues(&self) -> bool {
        matches!(self.unsettled, [false, false])
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
            Step::Lock(step) => self.lock.matters(step),
            Step::Delete(queue @ QueueId::Shared(_)) | Step::Check(queue @ QueueId::Shared(_)) => {
                self.queues.is_left(queue)
            }
            Step::Delete(_) | Step::Check(_) | Step::Declare(_) | Step::Consume(_) | Step::Leave(_) => true,
            Step::Cancel(at, _) | Step::Bind(at, _) | Step::Unbind(at, _) => {
                self.subscriptions.key(at).is_some()
            }
        }
    }

    /// A step as a method, and the channel it is for.
    pub(super) fn method<'a>(&'a self, step: Step, exchange: ShortStr<'a>) -> (Role, ClientMethod<'a>) {
        let routing_key = |at| self.subscriptions.key(at).unwrap_or(ShortStr::EMPTY);
        let method = match step {
            Step::Lock(step) => self.lock.method(step),
            Step::Delete(queue) => self.queues.delete(queue),
            Step::Check(queue) => self.queues.check(queue),
            Step::Declare(queue) => self.queues.declare(queue),
            Step::Consume(queue) => self.queues.consume(queue),
            Step::Cancel(_, queue) | Step::Leave(queue) => self.queues.cancel(queue),
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
        let on_consumers_channel =
            matches!(step, Step::Lock(_) | Step::Consume(_) | Step::Cancel(..) | Step::Leave(_));
        (if on_consumers_channel { Role::Consume } else { Role::Topology }, method)
    }

    /// The broker did a step; a queue that was declared or looked for has so many consumers.
    ///
    /// # Errors
    /// When the client cannot go on.
    pub(super) fn done(&mut self, step: Step, consumers: u32) -> Result<(), Error> {
        self.asked = self.asked.saturating_sub(1);
        match step {
            Step::Lock(step) => {
                let next = self.lock.done(step, consumers)?;
                self.waiting.extend(next.iter().copied().map(Step::Lock));
            }
            Step::Delete(QueueId::Level(level)) => self.settled(level),
            Step::Delete(QueueId::Shared(_)) => {}
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
            // Others may have bound it: it is the client's when the broker has let the client bind it too.
            Step::Declare(QueueId::Shared(_)) => {}
            Step::Consume(queue) => {
                if let Some(progress) = self.queues.progress_mut(queue)
                    && progress.consumed == Stage::Asked
                {
                    progress.consumed = Stage::Yes;
                }
            }
            Step::Cancel(at, queue) => {
                self.subscriptions.settle_step(at);
                self.waiting.push_front(Step::Check(queue));
                // The client may have joined again meanwhile.
                self.consume(queue);
            }
            Step::Leave(queue) => {
                if let Some(progress) = self.queues.progress_mut(queue) {
                    *progress = Progress::default();
                }
                self.waiting.push_front(Step::Check(queue));
            }
            Step::Bind(at, queue @ QueueId::Shared(_)) => {
                self.subscriptions.settle_step(at);
                // Unless the client has left the group meanwhile.
                if self.queues.progress(queue).declared == Stage::Asked {
                    self.declared(queue);
                }
            }
            Step::Bind(at, _) | Step::Unbind(at, _) => self.subscriptions.settle_step(at),
        }
        Ok(())
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
        // A consumer that is to be cancelled has the same tag.
        let is_cancelled_first =
            self.waiting.iter().any(|step| matches!(step, Step::Cancel(_, it) if *it == queue));
        if !is_cancelled_first
            && let Some(progress) = self.queues.progress_mut(queue)
            && (progress.declared, progress.consumed) == (Stage::Yes, Stage::No)
        {
            progress.consumed = Stage::Asked;
            self.waiting.push_front(Step::Consume(queue));
        }
    }

    const fn settled(&mut self, level: Level) {
        *level.of_mut(&mut self.unsettled) = false;
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
            Step::Lock(_) => self.lock_refused(why)?,
            // Nothing the user could have left, or the broker will say of the declare what stands against it.
            Step::Delete(QueueId::Level(level)) => self.settled(level),
            Step::Check(QueueId::Level(Level::One)) if why.code == NOT_FOUND => {
                // A new session. Should the other queue have outlived this one, it is not the new one's.
                self.waiting.retain(|&step| step != Step::Check(QueueId::Level(Level::Zero)));
                self.waiting.push_back(Step::Delete(QueueId::Level(Level::Zero)));
            }
            Step::Check(QueueId::Level(Level::Zero)) if why.code == NOT_FOUND => self.settled(Level::Zero),
            Step::Check(QueueId::Level(_)) => return fatal,
            Step::Declare(queue @ QueueId::Level(Level::One)) if !self.is_clean && !self.has_its_queues() => {
                match why.code {
                    // Of another `subscription_ttl`, or RabbitMQ's plugin's.
                    PRECONDITION_FAILED => {
                        self.declared(queue);
                        self.settled(Level::One);
                    }
                    _ => return fatal,
                }
            }
            // A clean session's own was deleted first, so that one is somebody else's.
            Step::Declare(queue @ QueueId::Level(_)) if why.code == PRECONDITION_FAILED && !self.is_clean => {
                self.declared(queue);
            }
            // Of a member with another `subscription_ttl`.
            Step::Declare(QueueId::Shared(_)) if why.code == PRECONDITION_FAILED => {}
            // The other consumers are gone with the channel.
            Step::Consume(_) | Step::Cancel(..) if self.lock.is_consumed() || self.queues.is_consuming() => {
                return fatal;
            }
            // Should there be a queue, nobody will have what it holds; it expires.
            Step::Declare(queue) | Step::Consume(queue) => self.give_up(queue),
            // The queue may hold what others were allowed to bind it to.
            Step::Bind(_, queue @ QueueId::Shared(_))
                if self.queues.progress(queue).declared == Stage::Asked =>
            {
                self.give_up(queue);
                self.waiting.push_back(Step::Check(queue));
            }
            Step::Bind(at, _) => self.subscriptions.refuse(at),
            // It was not bound or consumed, or stays so: the client hears no more of it either way.
            Step::Unbind(at, _) | Step::Cancel(at, _) => self.subscriptions.settle_step(at),
            Step::Delete(QueueId::Shared(_)) | Step::Check(QueueId::Shared(_)) | Step::Leave(_) => {}
        }
        Ok(())
    }

    /// The client goes for good: it leaves its groups, of which the last member deletes the queue. A session that is kept stays a
    /// member.
    pub(super) fn leave_groups(&mut self) {
        if self.is_clean {
            self.waiting.extend(self.queues.all_joined().map(Step::Leave));
        }
    }

    /// Whether messages are delivered to the client.
    pub(super) fn is_consuming(&self) -> bool {
        self.queues.is_consuming()
    }

    /// Whether the broker has done all steps.
    pub(super) fn is_quiet(&self) -> bool {
        self.asked == 0 && self.waiting.is_empty()
    }

    /// The broker refused a step of the lock, or the claim behind it.
    ///
    /// # Errors
    /// When the client cannot go on without.
    pub(super) fn lock_refused(&mut self, why: Refused<'_>) -> Result<(), Error> {
        match self.lock.refused(why, self.is_clean)? {
            Outcome::Forgone => {}
            Outcome::Again(steps) => self.take_lock(steps),
        }
        Ok(())
    }

    fn take_lock(&mut self, steps: &[lock::Step]) {
        self.waiting.retain(|step| !matches!(step, Step::Lock(_)));
        for &step in steps.iter().rev() {
            self.waiting.push_front(Step::Lock(step));
        }
    }

    /// Whether another connection of this client id is waited for, to go.
    pub(super) const fn waits_for_another(&self) -> bool {
        self.lock.is_waiting()
    }

    /// It has not gone in time.
    pub(super) fn take_over_by_force(&mut self) {
        let steps = self.lock.force();
        self.take_lock(steps);
    }

    /// Whether it is by this consumer that claims to the client id come.
    pub(super) fn waits_by(&self, consumer_tag: &[u8]) -> bool {
        self.lock.is_by(consumer_tag)
    }

    /// A claim to the client id is delivered to us.
    ///
    /// # Errors
    /// When somebody else has taken over.
    pub(super) fn claimed(&mut self, mark: Option<&[u8]>, delivery_tag: u64) -> Result<(), Error> {
        let next = self.lock.claimed(mark, delivery_tag)?;
        self.waiting.extend(next.iter().copied().map(Step::Lock));
        Ok(())
    }

    /// Says what has no answer.
    pub(super) fn go_on(&mut self, broker: &mut BrokerSide) {
        self.lock.go_on(broker);
    }

    fn give_up(&mut self, queue: QueueId) {
        if let Some(progress) = self.queues.progress_mut(queue) {
            *progress = Progress::default();
        }
        self.subscriptions.refuse_all(queue);
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

    /// Gives up what others wait for. All else goes with the connection, or is kept.
    pub(super) fn release(&self, broker: &mut BrokerSide) {
        self.lock.release(broker);
    }

    /// A consumer of ours is cancelled.
    ///
    /// # Errors
    /// When it was needed.
    pub(super) fn cancelled(&mut self, consumer_tag: &[u8]) -> Result<(), Error> {
        match lock::is_consumer(consumer_tag) {
            true => self.lock.cancelled(consumer_tag),
            false => Err(Error::QueueDeleted),
        }
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
                None => {
                    self.is_present
                        || self.subscriptions.names_dollar_topic(self.queues.level(queue), routing_key)
                }
            }
    }
}

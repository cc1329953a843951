//! The lock: a queue that holds nothing, by which a connection tells the one before that it has taken the client id over.
//!
//! Whoever connects deletes it, declares it anew and consumes it, and the broker cancels the consumer that was there. The queue
//! is not exclusive, so it can be taken from a connection whose host is dead; and not auto-delete, since RabbitMQ deletes such a
//! queue by name a moment after its consumer is gone, and a newcomer's would go with it. It expires instead.
//!
//! Two that connect at once can meet between any two of these steps. Then the one that deleted last is to stay:
//!
//! - Who finds the other's queue (406) or consumer (403), or no queue (404), begins again.
//! - A queue can be deleted under a consumer so early that RabbitMQ does not tell it: it watches a queue only from just after
//!   basic.consume on. So the queue is declared once more behind that. It is still the one that is consumed if it has a
//!   consumer and our mark, which is its expiry: to declare a queue again with another one is refused.

use super::broker::BrokerSide;
use super::channel::Role;
use super::session::Refused;
use crate::amqp::ShortText;
use crate::amqp::reply_code::ACCESS_REFUSED;
use crate::amqp::{ClientMethod, QueueArguments, QueueFlags, ShortStr};
use crate::error::Error;

/// How often it is tried.
const ATTEMPTS: u8 = 5;

/// How long it outlives a connection that could not delete it, in ms: this, and up to 16 s for its mark.
const EXPIRES_MS: i64 = 10_000;

pub(super) const CONSUMER_TAG: ShortStr<'static> = ShortStr::literal("lock");

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Delete,
    Declare,
    Consume,
    Verify,
}

impl Step {
    pub(super) const ALL: [Self; 4] = [Self::Delete, Self::Declare, Self::Consume, Self::Verify];
}

pub(super) struct Lock {
    name: ShortText,
    mark: u16,
    state: State,
    attempts_left: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody else has this client id, or the user may have no queues.
    Unneeded,
    Wanted,
    Consumed,
    Held,
    /// Somebody else's now.
    Lost,
}

/// What becomes of a connection whose lock is refused.
pub(super) enum Outcome {
    /// It goes on without.
    Forgone,
    /// It begins again.
    Again,
}

impl Lock {
    pub(super) const fn new(name: ShortText, mark: u16, is_needed: bool) -> Self {
        let state = if is_needed { State::Wanted } else { State::Unneeded };
        Self { name, mark, state, attempts_left: ATTEMPTS }
    }

    /// Whether there are steps to be asked or awaited.
    pub(super) const fn is_pending(&self) -> bool {
        matches!(self.state, State::Wanted | State::Consumed)
    }

    pub(super) const fn is_consumed(&self) -> bool {
        matches!(self.state, State::Consumed | State::Held)
    }

    pub(super) fn method(&self, step: Step) -> ClientMethod<'_> {
        let queue = self.name.as_short();
        match step {
            Step::Delete => ClientMethod::QueueDelete { queue, if_unused: false, if_empty: false },
            Step::Declare | Step::Verify => ClientMethod::QueueDeclare {
                queue,
                flags: QueueFlags { durable: true, ..QueueFlags::default() },
                arguments: QueueArguments {
                    expires: Some(EXPIRES_MS + i64::from(self.mark)),
                    ..QueueArguments::default()
                },
            },
            Step::Consume => ClientMethod::BasicConsume {
                queue,
                consumer_tag: CONSUMER_TAG,
                no_ack: true,
                exclusive: true,
            },
        }
    }

    /// The broker did a step; the queue has so many consumers.
    ///
    /// # Errors
    /// When somebody else has taken over meanwhile.
    pub(super) const fn done(&mut self, step: Step, consumers: u32) -> Result<(), Error> {
        match step {
            Step::Consume if matches!(self.state, State::Wanted) => self.state = State::Consumed,
            Step::Delete | Step::Declare | Step::Consume => {}
            Step::Verify if consumers == 0 => return Err(self.lost()),
            Step::Verify => self.state = State::Held,
        }
        Ok(())
    }

    /// The broker refused a step and closed the channel.
    ///
    /// # Errors
    /// When somebody else has taken over meanwhile, or there is no way.
    pub(super) fn refused(
        &mut self,
        step: Step,
        why: Refused<'_>,
        may_forgo: bool,
    ) -> Result<Outcome, Error> {
        let is_permitted = why.code != ACCESS_REFUSED || step == Step::Consume;
        match (step, self.attempts_left.checked_sub(1)) {
            (Step::Verify, _) => Err(self.lost()),
            (_, Some(left)) if is_permitted => {
                (self.attempts_left, self.state) = (left, State::Wanted);
                Ok(Outcome::Again)
            }
            // A user who may have no queues can publish all the same, as with RabbitMQ's plugin.
            _ if may_forgo && why.code == ACCESS_REFUSED => {
                self.state = State::Unneeded;
                Ok(Outcome::Forgone)
            }
            _ => Err(Error::BrokerClosed { code: why.code, method: why.method }),
        }
    }

    /// Somebody else has taken over.
    pub(super) const fn lost(&mut self) -> Error {
        self.state = State::Lost;
        Error::TakenOver
    }

    /// Deletes it, unless it is a newcomer's already.
    pub(super) fn release(&self, broker: &mut BrokerSide) {
        if self.is_pending() || self.is_consumed() {
            broker.tell(Role::Consume, ClientMethod::BasicCancel { consumer_tag: CONSUMER_TAG });
            broker.tell(
                Role::Consume,
                ClientMethod::QueueDelete { queue: self.name.as_short(), if_unused: true, if_empty: false },
            );
        }
    }
}

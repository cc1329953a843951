//! The lock: a queue by which the connections of one client id follow one another.
//!
//! Each connection consumes it, and asks before and after how many do. Who is the only one has the lock. Otherwise it publishes a
//! claim into the queue, a message that names the connection. Of its consumers one is active, and gets all messages: so a newcomer's
//! claim goes to the connection that has the lock. That one does what its client has said to the end, and its will, and goes; only
//! then the broker makes the newcomer the active consumer, and gives it the claim back, by which it knows that it has the lock.
//!
//! ```text
//!  newcomer ── declare, consume, count; claim ──> lock ── claim ──> holder: routes, sends its will, closes
//!           <────────────── claim ────────────────────────────────── (the broker puts back what it had not acknowledged)
//! ```
//!
//! Nothing is published where nobody has to be told: while a broker is short of memory it reads nothing more of a connection that
//! publishes, and clients are to log in all the same.
//!
//! A claim ahead of one's own is that of a connection that came before, and went or waits in vain. One behind it is a newcomer's, if
//! there is one: it may have gone, or lost its place in line to somebody else. So whoever has the lock counts once more before it goes.
//!
//! A holder whose host is dead does not go, until the broker misses its heartbeats. Nobody waits for that long: after [`PATIENCE`] the
//! newcomer deletes the queue, which cancels the consumers that there are, and begins again. So does one whose user may not publish
//! into queues; it then has the lock as soon as it consumes.
//!
//! The queue is not exclusive, so that it can be taken from a connection whose host is dead; and not auto-delete, since RabbitMQ deletes
//! such a queue by name a moment after its consumer is gone, and a newcomer's would go with it. It expires instead.

use super::broker::BrokerSide;
use super::channel::Role;
use super::session::Refused;
use crate::amqp::ShortText;
use crate::amqp::reply_code::{ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED};
use crate::amqp::{Address, ClientMethod, MethodId, Properties, QueueArguments, QueueFlags};
use crate::error::Error;
use crate::time::Duration;

/// How often it is tried.
const ATTEMPTS: u8 = 5;

/// How long it outlives a connection that could not delete it, in ms.
const EXPIRES_MS: i64 = 10_000;

/// How long a newcomer waits for the connection that has the lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The most claims that are looked at together.
const MAX_CLAIMS: usize = 64;

const CONSUMER_TAG: &str = "lock";

/// Whether a consumer is the lock's, now or before.
pub(super) fn is_consumer(consumer_tag: &[u8]) -> bool {
    consumer_tag.starts_with(CONSUMER_TAG.as_bytes())
}

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Delete,
    Declare,
    Consume,
    /// How many consume it: a passive declare.
    Count,
}

pub(super) struct Lock {
    name: ShortText,
    /// Another one for each queue of that name, by which the consumer that goes with the old one is told from the new one.
    consumer_tag: ShortText,
    tags: u8,
    /// What this connection's claim says.
    mark: Box<str>,
    state: State,
    /// It was consumed before this connection did.
    had_others: bool,
    /// The user may publish into queues.
    may_claim: bool,
    attempts_left: u8,
    /// Deliveries of others' claims to what is held: those that are counted for, those that came since, and those that nobody is in
    /// line for.
    counting: Vec<u64>,
    uncounted: Vec<u64>,
    stale: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody else has this client id, or the user may have no queues.
    Unneeded,
    Wanted,
    /// Others consume it, too: a claim is to be published.
    Contested,
    /// The claim is awaited.
    Claimed,
    Held,
    /// Somebody else's now.
    Lost,
}

/// What becomes of a connection whose lock is refused.
pub(super) enum Outcome {
    /// It goes on without.
    Forgone,
    /// It begins again, by these steps.
    Again(&'static [Step]),
}

impl Lock {
    pub(super) fn new(name: ShortText, mark: Box<str>, is_needed: bool) -> Self {
        let state = if is_needed { State::Wanted } else { State::Unneeded };
        let consumer_tag = ShortText::literal(CONSUMER_TAG);
        Self {
            name,
            consumer_tag,
            tags: 0,
            mark,
            state,
            had_others: false,
            may_claim: true,
            attempts_left: ATTEMPTS,
            counting: Vec::new(),
            uncounted: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// How it is taken.
    pub(super) const STEPS: &'static [Step] = &[Step::Declare, Step::Consume, Step::Count];

    /// How it is taken from whoever has it.
    const FORCE: &'static [Step] = &[Step::Delete, Step::Declare, Step::Consume, Step::Count];

    /// Whether there are steps to be asked or awaited.
    pub(super) const fn is_pending(&self) -> bool {
        matches!(self.state, State::Wanted | State::Contested | State::Claimed)
    }

    /// Whether another connection is waited for, to go.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Claimed)
    }

    pub(super) const fn is_consumed(&self) -> bool {
        matches!(self.state, State::Contested | State::Claimed | State::Held)
    }

    pub(super) fn method(&self, step: Step) -> ClientMethod<'_> {
        let queue = self.name.as_short();
        match step {
            Step::Delete => ClientMethod::QueueDelete { queue, if_unused: false, if_empty: false },
            Step::Declare => ClientMethod::QueueDeclare {
                queue,
                flags: QueueFlags { durable: true, ..QueueFlags::default() },
                arguments: QueueArguments {
                    expires: Some(EXPIRES_MS),
                    single_active_consumer: true,
                    ..QueueArguments::default()
                },
            },
            Step::Consume => ClientMethod::BasicConsume {
                queue,
                consumer_tag: self.consumer_tag.as_short(),
                no_ack: false,
                exclusive: false,
            },
            Step::Count => ClientMethod::QueueDeclare {
                queue,
                flags: QueueFlags { passive: true, ..QueueFlags::default() },
                arguments: QueueArguments::default(),
            },
        }
    }

    /// Whether a step that was to be asked still is.
    pub(super) fn matters(&self, step: Step) -> bool {
        self.is_pending() || self.state == State::Held && step == Step::Count
    }

    /// Says what has no answer, if it is time to: the claim, or that others' are done with.
    pub(super) fn go_on(&mut self, broker: &mut BrokerSide) {
        if self.state == State::Contested {
            self.state = State::Claimed;
            let properties = Properties { claim: Some(self.mark.as_bytes()), ..Properties::default() };
            broker.publish_whole(Role::Consume, Address::queue(self.name.as_short()), properties, &[]);
        }
        for delivery_tag in self.stale.drain(..) {
            broker.acknowledge(Role::Consume, delivery_tag);
        }
    }

    /// The broker did a step; the queue has so many consumers. What is to be asked next.
    ///
    /// # Errors
    /// When somebody else has taken over.
    pub(super) fn done(&mut self, step: Step, consumers: u32) -> Result<&'static [Step], Error> {
        if step == Step::Declare {
            self.had_others = consumers > 0;
        }
        if step != Step::Count {
            return Ok(&[]);
        }
        match self.state {
            // The queue was deleted as soon as we consumed it, which the broker does not announce.
            State::Wanted if consumers == 0 => {
                self.attempts_left = self.attempts_left.checked_sub(1).ok_or_else(|| self.lost())?;
                self.use_another_tag();
                return Ok(Self::STEPS);
            }
            // If there were others, the one that is counted may be theirs: of a queue that was put in the place of ours.
            State::Wanted if self.may_claim && (consumers > 1 || self.had_others || self.tags > 0) => {
                self.state = State::Contested;
            }
            State::Wanted => self.state = State::Held,
            State::Held if consumers > 1 && !self.counting.is_empty() => return Err(self.lost()),
            State::Held => {
                self.stale.append(&mut self.counting);
                self.counting = core::mem::take(&mut self.uncounted);
                return Ok(if self.counting.is_empty() { &[] } else { &[Step::Count] });
            }
            State::Contested | State::Claimed | State::Unneeded | State::Lost => {}
        }
        Ok(&[])
    }

    /// A claim is delivered to us. What is to be asked next.
    ///
    /// # Errors
    /// When there are more than newcomers would make.
    pub(super) fn claimed(
        &mut self,
        mark: Option<&[u8]>,
        delivery_tag: u64,
    ) -> Result<&'static [Step], Error> {
        let is_ours = mark == Some(self.mark.as_bytes());
        match self.state {
            State::Held if is_ours => self.stale.push(delivery_tag),
            State::Held if self.uncounted.len() == MAX_CLAIMS => return Err(self.lost()),
            State::Held if self.counting.is_empty() => {
                self.counting.push(delivery_tag);
                return Ok(&[Step::Count]);
            }
            State::Held => self.uncounted.push(delivery_tag),
            State::Wanted | State::Contested | State::Claimed => {
                if is_ours {
                    self.state = State::Held;
                }
                self.stale.push(delivery_tag);
            }
            State::Unneeded | State::Lost => {}
        }
        Ok(&[])
    }

    /// Whether this is the consumer that counts.
    pub(super) fn is_by(&self, consumer_tag: &[u8]) -> bool {
        consumer_tag == self.consumer_tag.as_short().as_bytes()
    }

    /// Nobody has gone in time: the steps by which it is taken all the same.
    pub(super) fn force(&mut self) -> &'static [Step] {
        self.state = State::Wanted;
        self.use_another_tag();
        Self::FORCE
    }

    fn use_another_tag(&mut self) {
        self.tags = self.tags.wrapping_add(1);
        if let Some(tag) = ShortText::new(&format!("{CONSUMER_TAG}{}", self.tags)) {
            self.consumer_tag = tag;
        }
    }

    /// The broker refused a step and closed the channel.
    ///
    /// # Errors
    /// When there is no way.
    pub(super) fn refused(&mut self, why: Refused<'_>, may_forgo: bool) -> Result<Outcome, Error> {
        if why.method == MethodId::BASIC_PUBLISH && why.code == ACCESS_REFUSED && self.may_claim {
            self.may_claim = false;
            return Ok(Outcome::Again(self.force()));
        }
        // The consumers are gone with the channel, and what was counted may be somebody else's by now.
        if matches!(self.state, State::Held | State::Lost) {
            let is_lost = self.state == State::Lost || why.code == NOT_FOUND;
            let closed = Error::BrokerClosed { code: why.code, method: why.method };
            return Err(if is_lost { self.lost() } else { closed });
        }
        match self.attempts_left.checked_sub(1) {
            Some(left) if why.code != ACCESS_REFUSED => {
                self.attempts_left = left;
                // One that was made by an earlier version is another.
                if why.code == PRECONDITION_FAILED {
                    return Ok(Outcome::Again(self.force()));
                }
                self.state = State::Wanted;
                Ok(Outcome::Again(Self::STEPS))
            }
            // A user who may have no queues can publish all the same, as with RabbitMQ's plugin.
            _ if may_forgo && why.code == ACCESS_REFUSED => {
                self.state = State::Unneeded;
                Ok(Outcome::Forgone)
            }
            _ => Err(Error::BrokerClosed { code: why.code, method: why.method }),
        }
    }

    /// A consumer of ours is cancelled.
    ///
    /// # Errors
    /// When it is the one by which the lock is held: somebody else has taken over.
    pub(super) fn cancelled(&mut self, consumer_tag: &[u8]) -> Result<(), Error> {
        if self.is_by(consumer_tag) { Err(self.lost()) } else { Ok(()) }
    }

    /// Somebody else has taken over.
    const fn lost(&mut self) -> Error {
        self.state = State::Lost;
        Error::TakenOver
    }

    /// Deletes it, unless a newcomer waits for it.
    pub(super) fn release(&self, broker: &mut BrokerSide) {
        if self.is_pending() || self.is_consumed() {
            let consumer_tag = self.consumer_tag.as_short();
            broker.tell(Role::Consume, ClientMethod::BasicCancel { consumer_tag });
            broker.tell(
                Role::Consume,
                ClientMethod::QueueDelete { queue: self.name.as_short(), if_unused: true, if_empty: false },
            );
        }
    }
}

//! Keeping and clearing: one message after the other, each until the broker says that it is done.
//!
//! ```text
//!            publish, mandatory          declare, bind, publish
//!  message ─────────────────────> there ────────────────────────> kept
//!                       └─ acknowledged: kept   (returned: no such queue yet)
//!  nothing ── delete ───────────> cleared
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::{Names, Retained, kept_at};
use crate::amqp::reply_code::NOT_FOUND;
use crate::bridge::broker::BrokerSide;
use crate::bridge::channel::{Awaited, Role};
use crate::error::{BrokerMisbehaved, Error};
use crate::event::Event;
use crate::mqtt::PacketId;

/// The most messages of a client that are on their way to be kept.
const MAX_MESSAGES: usize = 16_384;

/// The most payload among them, in bytes. A message may also have this much alone.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// How often a message is tried: somebody else may delete its queue meanwhile.
const ATTEMPTS: u8 = 5;

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Step {
    Exchange,
    Declare,
    Bind,
    Delete,
}

/// What has become of a message, and who waits for it.
pub(in crate::bridge) struct Outcome {
    pub(in crate::bridge) event: Event,
    pub(in crate::bridge) owed: Vec<PacketId>,
}

/// The messages of one client that are on their way to be kept.
pub(in crate::bridge) struct Keeper {
    pub(in crate::bridge) names: Rc<Names>,
    /// The client's user may not.
    is_off: bool,
    /// All that were admitted and are not done, and their payload.
    messages: usize,
    bytes: usize,
    current: Option<Current>,
    /// By name of their queue: a newer message takes the place of one that waits.
    waiting: BTreeMap<Box<str>, Job>,
    order: VecDeque<Box<str>>,
    /// Publishes since the channel was opened.
    published: u64,
}

struct Job {
    message: Retained,
    owed: Vec<PacketId>,
    /// How many were admitted for it.
    messages: usize,
    bytes: usize,
}

struct Current {
    job: Job,
    stage: Stage,
    attempts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A confirm is awaited; whether the message has been returned.
    Publishing {
        returned: bool,
    },
    Deleting,
}

impl Keeper {
    pub(in crate::bridge) fn new(names: Rc<Names>) -> Self {
        Self {
            names,
            is_off: false,
            messages: 0,
            bytes: 0,
            current: None,
            waiting: BTreeMap::new(),
            order: VecDeque::new(),
            published: 0,
        }
    }

    /// Whether no message is on its way.
    pub(in crate::bridge) const fn is_settled(&self) -> bool {
        self.messages == 0
    }

    /// Whether one more message may be on its way; if so, it is to come to [`Keeper::keep`] or [`Keeper::forget`].
    pub(in crate::bridge) const fn admit(&mut self, payload_len: usize) -> bool {
        let has_room =
            self.messages < MAX_MESSAGES && (self.bytes == 0 || self.bytes + payload_len <= MAX_BYTES);
        if has_room {
            self.messages += 1;
            self.bytes += payload_len;
        }
        has_room
    }

    /// A message that was admitted does not come.
    pub(in crate::bridge) const fn forget(&mut self, payload_len: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(payload_len);
    }

    /// The names, and the messages that are not known to be kept.
    pub(in crate::bridge) fn into_parts(self) -> (Rc<Names>, impl Iterator<Item = Retained>) {
        let Self { names, is_off, current, mut waiting, order, .. } = self;
        let waiting = order.into_iter().filter_map(move |name| waiting.remove(&name));
        let jobs = current.into_iter().map(|current| current.job).chain(waiting);
        (names, jobs.filter(move |_| !is_off).map(|job| job.message))
    }

    /// Keeps a message that the broker has taken, so that the client may publish it.
    pub(in crate::bridge) fn keep(&mut self, message: Retained, id: Option<PacketId>) {
        let bytes = message.payload.len();
        let name: Box<str> = message.place.queue.as_str().into();
        match self.waiting.get_mut(&name) {
            Some(job) => {
                job.message = message;
                job.owed.extend(id);
                job.messages += 1;
                job.bytes += bytes;
            }
            None => {
                let job = Job { message, owed: id.into_iter().collect(), messages: 1, bytes };
                self.order.push_back(name.clone());
                self.waiting.insert(name, job);
            }
        }
    }

    /// Goes on with the next message when none is under way; tells of one that will not be tried.
    pub(in crate::bridge) fn go_on(&mut self, broker: &mut BrokerSide) -> Option<Outcome> {
        if self.current.is_some() {
            return None;
        }
        let job = self.waiting.remove(&self.order.pop_front()?)?;
        if self.is_off {
            return Some(self.finished(job, Event::Unkept));
        }
        let stage = match job.message.payload.is_empty() {
            true => Stage::Deleting,
            false => Stage::Publishing { returned: false },
        };
        self.current = Some(Current { job, stage, attempts: ATTEMPTS });
        self.ask(broker);
        None
    }

    /// Asks for what the current message needs first.
    fn ask(&mut self, broker: &mut BrokerSide) {
        let Some(current) = &self.current else { return };
        if broker.open(Role::Keep) {
            self.published = 0;
            broker.request(Role::Keep, self.names.declare(), Awaited::Keep(Step::Exchange));
        }
        match current.stage {
            Stage::Deleting => {
                let clear = current.job.message.place.clear();
                broker.request(Role::Keep, clear, Awaited::Keep(Step::Delete));
            }
            Stage::Publishing { .. } => self.publish(broker),
        }
    }

    fn publish(&mut self, broker: &mut BrokerSide) {
        let Some(Current { job, stage, .. }) = &mut self.current else { return };
        let Retained { place, qos, payload, .. } = &job.message;
        let to = self.names.address(&place.own_key);
        broker.publish_whole(Role::Keep, to, kept_at(*qos), payload);
        *stage = Stage::Publishing { returned: false };
        self.published += 1;
    }

    /// No queue took the message.
    pub(in crate::bridge) const fn returned(&mut self) {
        if let Some(Current { stage: Stage::Publishing { returned }, .. }) = &mut self.current {
            *returned = true;
        }
    }

    /// The broker has handled the message.
    pub(in crate::bridge) fn confirmed(
        &mut self,
        number: u64,
        broker: &mut BrokerSide,
    ) -> Result<Option<Outcome>, Error> {
        let misbehaved = Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected);
        let stage = self.current.as_ref().map(|current| current.stage);
        match stage.filter(|_| number == self.published).ok_or(misbehaved)? {
            Stage::Publishing { returned: false } => Ok(self.finish(Event::Kept)),
            Stage::Publishing { returned: true } if self.may_try_again() => {
                self.create(broker);
                Ok(None)
            }
            Stage::Publishing { returned: true } => Ok(self.finish(Event::Unkept)),
            Stage::Deleting => Err(misbehaved),
        }
    }

    /// The broker could not take the message.
    pub(in crate::bridge) fn nacked(&mut self) -> Option<Outcome> {
        self.finish(Event::Unkept)
    }

    fn create(&mut self, broker: &mut BrokerSide) {
        let Some(Current { job, stage, .. }) = &mut self.current else { return };
        self.names.keep(&job.message, Role::Keep, broker);
        *stage = Stage::Publishing { returned: false };
        self.published += 1;
    }

    /// A step is done.
    pub(in crate::bridge) fn done(&mut self, step: Step) -> Option<Outcome> {
        match step {
            Step::Delete => self.finish(Event::Cleared),
            Step::Exchange | Step::Declare | Step::Bind => None,
        }
    }

    /// The broker refused a step, and closed the channel.
    pub(in crate::bridge) fn refused(&mut self, code: u16, broker: &mut BrokerSide) -> Option<Outcome> {
        if code == NOT_FOUND && self.may_try_again() {
            self.ask(broker);
            return None;
        }
        self.is_off = true;
        self.finish(Event::Unkept)
    }

    fn may_try_again(&mut self) -> bool {
        let Some(current) = &mut self.current else { return false };
        current.attempts = current.attempts.saturating_sub(1);
        current.attempts > 0
    }

    fn finish(&mut self, event: Event) -> Option<Outcome> {
        let job = self.current.take()?.job;
        Some(self.finished(job, event))
    }

    fn finished(&mut self, job: Job, event: Event) -> Outcome {
        let Job { owed, messages, bytes, .. } = job;
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
        Outcome { event, owed }
    }
}

//! SUBSCRIBE and UNSUBSCRIBE as steps at the broker, and what has become of each.

use std::collections::{BTreeSet, VecDeque};

use super::dollar::DollarFilters;
use super::queues::{Level, QueueId, Queues, Stage};
use super::session::Step;
use crate::amqp::ShortStr;
use crate::mqtt::{PacketId, QoS, SUBACK_FAILURE};

/// The most filters that may wait for the broker's answers: a bind is at most 560 bytes, so this is about 2 MB.
const MAX_FILTERS: usize = 4096;

/// An entry of a packet that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryRef {
    packet: u64,
    entry: usize,
}

/// A packet whose answer is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Suback {
        id: PacketId,
        codes: Vec<u8>,
        /// Binding keys and levels of those whose retained messages the client is to be given: not of shared ones.
        granted: Vec<(Box<[u8]>, Level)>,
    },
    Unsuback(PacketId),
}

/// A filter that can be subscribed to.
#[derive(Default)]
pub(super) struct Filter {
    pub(super) binding_key: Box<[u8]>,
    /// Of a `$share` subscription.
    pub(super) group: Option<Box<str>>,
    /// Its text, where this is the subscription that it is counted for.
    pub(super) counted: Option<Box<str>>,
}

#[derive(Default)]
pub(super) struct Subscriptions {
    packets: VecDeque<Packet>,
    /// Number of the first of `packets`.
    first: u64,
    /// How many of `packets` have their steps.
    planned: usize,
    /// Filters in `packets`.
    filters: usize,
    dollar: DollarFilters,
    /// Filters of this connection, where they are limited.
    counted: BTreeSet<Box<str>>,
}

struct Packet {
    id: PacketId,
    is_subscribe: bool,
    entries: Vec<Entry>,
}

struct Entry {
    filter: Filter,
    level: Level,
    /// Where it comes to be bound.
    queue: Option<QueueId>,
    /// Steps of its own that are not answered.
    steps: u8,
    is_refused: bool,
}

impl Subscriptions {
    /// A SUBSCRIBE arrives; a filter that cannot be subscribed to is `None`.
    pub(super) fn subscribe(&mut self, id: PacketId, filters: impl Iterator<Item = (Option<Filter>, Level)>) {
        let entries = filters.map(|(filter, level)| Entry::new(filter, level)).collect();
        self.push(Packet { id, is_subscribe: true, entries });
    }

    /// An UNSUBSCRIBE arrives.
    pub(super) fn unsubscribe(&mut self, id: PacketId, filters: impl Iterator<Item = Option<Filter>>) {
        let entries = filters.map(|filter| Entry::new(filter, Level::Zero)).collect();
        self.push(Packet { id, is_subscribe: false, entries });
    }

    /// Whether a packet of so many filters may still wait for the broker's answers.
    pub(super) fn has_room_for(&self, filters: usize) -> bool {
        self.filters + filters <= MAX_FILTERS && self.packets.len() < MAX_FILTERS
    }

    /// Counts a filter; `false` when there are so many others already. One that comes to be refused does not count any more.
    pub(super) fn count(&mut self, filter: &mut Filter, text: &str, most: usize) -> bool {
        if self.counted.contains(text) {
            return true;
        }
        let is_counted = self.counted.len() < most;
        if is_counted {
            self.counted.insert(text.into());
            filter.counted = Some(text.into());
        }
        is_counted
    }

    /// The client gives a filter up.
    pub(super) fn uncount(&mut self, filter: &str) {
        self.counted.remove(filter);
    }

    fn push(&mut self, packet: Packet) {
        self.filters += packet.entries.len();
        self.packets.push_back(packet);
    }

    /// Gives the packets that have come since the last time their steps.
    pub(super) fn plan(&mut self, queues: &mut Queues, steps: &mut VecDeque<Step>) {
        let first = self.first;
        for (index, packet) in self.packets.iter_mut().enumerate().skip(self.planned) {
            for (number, entry) in
                packet.entries.iter_mut().enumerate().filter(|(_, entry)| !entry.is_refused)
            {
                let mut plan = Plan {
                    at: EntryRef { packet: first + index as u64, entry: number },
                    entry,
                    queues,
                    steps,
                };
                match (&plan.entry.filter.group, packet.is_subscribe) {
                    (None, true) => plan.subscribe(),
                    (None, false) => plan.unsubscribe(),
                    (Some(_), true) => plan.join(),
                    (Some(_), false) => Level::ALL.into_iter().for_each(|level| plan.leave(level)),
                }
                if entry.filter.group.is_none() {
                    let level = packet.is_subscribe.then_some(entry.level);
                    self.dollar.note(&entry.filter.binding_key, level);
                }
            }
        }
        self.planned = self.packets.len();
    }

    pub(super) fn settle_step(&mut self, at: EntryRef) {
        if let Some(entry) = self.entry(at) {
            entry.steps = entry.steps.saturating_sub(1);
        }
    }

    pub(super) fn refuse(&mut self, at: EntryRef) {
        if let Some(entry) = self.entry(at) {
            entry.refuse();
        }
    }

    /// Refuses whatever was to be bound to a queue.
    pub(super) fn refuse_all(&mut self, queue: QueueId) {
        for packet in self.packets.iter_mut().filter(|packet| packet.is_subscribe) {
            packet.entries.iter_mut().filter(|entry| entry.queue == Some(queue)).for_each(Entry::refuse);
        }
    }

    /// The binding key of an entry; `None` when it does not matter any more.
    pub(super) fn key(&self, at: EntryRef) -> Option<ShortStr<'_>> {
        let packet = self.packets.get(self.index(at)?)?;
        let entry = packet.entries.get(at.entry).filter(|entry| !entry.is_refused)?;
        ShortStr::new(&entry.filter.binding_key)
    }

    /// The answer to the oldest packet, once all its entries are settled.
    pub(super) fn take_answer(&mut self, queues: &Queues) -> Option<Answer> {
        if self.planned == 0 {
            return None;
        }
        let packet = self
            .packets
            .pop_front_if(|packet| packet.entries.iter().all(|entry| entry.is_settled(queues)))?;
        self.first += 1;
        self.planned -= 1;
        self.filters -= packet.entries.len();
        for entry in packet.entries.iter().filter(|entry| entry.is_refused) {
            if let Some(text) = &entry.filter.counted {
                self.counted.remove(text);
            }
        }
        Some(match packet.is_subscribe {
            true => Answer::Suback {
                id: packet.id,
                codes: packet.entries.iter().map(Entry::return_code).collect(),
                granted: packet.entries.into_iter().filter_map(Entry::granted).collect(),
            },
            false => Answer::Unsuback(packet.id),
        })
    }

    /// Whether a topic that starts with `$` was subscribed to at this level by a filter that does.
    pub(super) fn names_dollar_topic(&self, level: Level, routing_key: &[u8]) -> bool {
        self.dollar.names(level, routing_key)
    }

    fn entry(&mut self, at: EntryRef) -> Option<&mut Entry> {
        let packet = self.index(at)?;
        self.packets.get_mut(packet)?.entries.get_mut(at.entry)
    }

    /// `None` once the packet is answered.
    fn index(&self, at: EntryRef) -> Option<usize> {
        usize::try_from(at.packet.checked_sub(self.first)?).ok()
    }
}

/// An entry that is to get its steps.
struct Plan<'p> {
    at: EntryRef,
    entry: &'p mut Entry,
    queues: &'p mut Queues,
    steps: &'p mut VecDeque<Step>,
}

impl Plan<'_> {
    fn subscribe(&mut self) {
        let (queue, other) = (QueueId::Level(self.entry.level), QueueId::Level(self.entry.level.other()));
        self.bind_to(queue);
        // Another QoS replaces the one before. [MQTT-3.8.4-3] First bound, then unbound: nothing is missed in between.
        if self.queues.progress(other).declared != Stage::No {
            self.step(Step::Unbind(self.at, other));
        }
    }

    fn unsubscribe(&mut self) {
        for queue in Level::ALL.map(QueueId::Level) {
            if self.queues.progress(queue).declared != Stage::No {
                self.step(Step::Unbind(self.at, queue));
            }
        }
    }

    /// Becomes a member of a group; once is enough, but for another QoS.
    fn join(&mut self) {
        let (Filter { binding_key, group, .. }, level) = (&self.entry.filter, self.entry.level);
        let group = group.as_deref().unwrap_or_default();
        let Some(queue) = self.queues.join(group, binding_key, level) else { return self.entry.refuse() };
        self.leave(level.other());
        self.bind_to(queue);
    }

    fn leave(&mut self, level: Level) {
        let Filter { binding_key, group, .. } = &self.entry.filter;
        if let Some(queue) = self.queues.joined(group.as_deref().unwrap_or_default(), binding_key, level) {
            self.cancel(queue);
        }
    }

    fn bind_to(&mut self, queue: QueueId) {
        self.entry.queue = Some(queue);
        if let Some(progress) = self.queues.progress_mut(queue)
            && progress.declared == Stage::No
        {
            progress.declared = Stage::Asked;
            self.steps.push_back(Step::Declare(queue));
        }
        self.step(Step::Bind(self.at, queue));
    }

    fn cancel(&mut self, queue: QueueId) {
        if let Some(progress) = self.queues.progress_mut(queue)
            && core::mem::take(progress).declared != Stage::No
        {
            self.step(Step::Cancel(self.at, queue));
        }
    }

    fn step(&mut self, step: Step) {
        self.entry.steps += 1;
        self.steps.push_back(step);
    }
}

impl Entry {
    fn new(filter: Option<Filter>, level: Level) -> Self {
        let is_refused = filter.is_none();
        let filter = filter.unwrap_or_default();
        Self { filter, level, queue: None, steps: 0, is_refused }
    }

    const fn refuse(&mut self) {
        self.is_refused = true;
        self.steps = 0;
    }

    fn is_settled(&self, queues: &Queues) -> bool {
        // A group may have been left meanwhile.
        let is_ready = |queue| {
            let progress = queues.progress(queue);
            progress.consumed == Stage::Yes || progress.declared == Stage::No
        };
        self.is_refused || self.steps == 0 && self.queue.is_none_or(is_ready)
    }

    fn granted(self) -> Option<(Box<[u8]>, Level)> {
        let is_granted = !self.is_refused && self.filter.group.is_none();
        is_granted.then_some((self.filter.binding_key, self.level))
    }

    const fn return_code(&self) -> u8 {
        match self.level {
            _ if self.is_refused => SUBACK_FAILURE,
            Level::Zero => QoS::AtMostOnce as u8,
            Level::One => QoS::AtLeastOnce as u8,
        }
    }
}

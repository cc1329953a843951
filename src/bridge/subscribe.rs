//! SUBSCRIBE and UNSUBSCRIBE as steps at the broker, and what has become of each.

use std::collections::{BTreeSet, VecDeque};

use super::dollar::DollarFilters;
use super::queues::{Level, QueueId, Queues, Stage};
use super::session::Step;
use crate::amqp::ShortStr;
use crate::mqtt::{Filters, PacketId, QoS, SUBACK_FAILURE, SubscribeEntries};
use crate::policy::grants::Budget;

/// With so many filters that wait for the broker's answers, no further one is looked at.
const MAX_FILTERS: usize = 256;

/// How many filters are looked at in one go: what a packet asks must not keep others waiting.
const SLICE: usize = 64;

/// With so many filters granted, their retained messages are looked for ahead of SUBACK. [MQTT-3.8.4] permits that.
const MAX_GRANTED: usize = 256;

/// An entry of a packet that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryRef {
    packet: u64,
    entry: usize,
}

/// What is due for a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Some of its filters are granted.
    Granted(Granted),
    Suback {
        id: PacketId,
        codes: Vec<u8>,
        granted: Granted,
    },
    Unsuback(PacketId),
}

/// Binding keys and levels of subscriptions whose retained messages the client is to be given: not of shared ones.
pub(super) type Granted = Vec<(Box<[u8]>, Level)>;

/// The filters of the newest packet that have not been looked at.
pub(super) struct Unread {
    /// As they are encoded.
    encoded: Vec<u8>,
    at: usize,
    pub(super) is_subscribe: bool,
    /// What the packet may still take.
    pub(super) budget: Budget,
}

impl Unread {
    /// Whether none is left.
    pub(super) const fn is_read(&self) -> bool {
        self.at == self.encoded.len()
    }

    /// So many, from the front, as they are encoded.
    pub(super) fn slice(&mut self) -> &[u8] {
        let rest = self.encoded.get(self.at..).unwrap_or_default();
        let left = match self.is_subscribe {
            true => {
                let mut entries = SubscribeEntries::from_encoded(rest);
                entries.by_ref().take(SLICE).for_each(drop);
                entries.encoded().len()
            }
            false => {
                let mut filters = Filters::from_encoded(rest);
                filters.by_ref().take(SLICE).for_each(drop);
                filters.encoded().len()
            }
        };
        self.at = self.encoded.len() - left;
        rest.get(..rest.len() - left).unwrap_or_default()
    }
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
    /// Of the last of them.
    unread: Option<Unread>,
    /// Filters in `packets`.
    filters: usize,
    /// How many of them have their steps.
    planned: usize,
    dollar: DollarFilters,
    /// Filters of this connection, where they are limited.
    counted: BTreeSet<Box<str>>,
}

struct Packet {
    id: PacketId,
    is_subscribe: bool,
    /// Those that have been looked at and are not settled, or behind one that is not.
    entries: VecDeque<Entry>,
    /// How many have been settled before them.
    settled: usize,
    /// Of these.
    codes: Vec<u8>,
    granted: Granted,
}

struct Entry {
    filter: Filter,
    level: Level,
    /// Where it comes to be bound.
    queue: Option<QueueId>,
    has_steps: bool,
    /// Steps of its own that are not answered.
    steps: u8,
    is_refused: bool,
}

impl Subscriptions {
    /// A SUBSCRIBE or UNSUBSCRIBE arrives, with its filters as they are encoded.
    pub(super) fn arrive(&mut self, id: PacketId, is_subscribe: bool, encoded: &[u8]) {
        let (entries, codes, granted) = (VecDeque::new(), Vec::new(), Vec::new());
        self.packets.push_back(Packet { id, is_subscribe, entries, settled: 0, codes, granted });
        self.unread =
            Some(Unread { encoded: encoded.into(), at: 0, is_subscribe, budget: Budget::default() });
    }

    /// The filters that may be looked at now, to be given back by [`Subscriptions::put_back`].
    pub(super) fn take_unread(&mut self) -> Option<Unread> {
        self.unread.take_if(|_| self.filters < MAX_FILTERS)
    }

    /// Those of them that are left.
    pub(super) fn put_back(&mut self, unread: Unread) {
        self.unread = (!unread.is_read()).then_some(unread);
    }

    /// Whether there are filters to be looked at and no answer to wait for.
    pub(super) const fn is_idle(&self) -> bool {
        self.unread.is_some() && self.filters == 0
    }

    /// A filter of the newest packet; one that cannot be subscribed to is `None`.
    pub(super) fn add(&mut self, filter: Option<Filter>, level: Level) {
        if let Some(packet) = self.packets.back_mut() {
            packet.entries.push_back(Entry::new(filter, level));
            self.filters += 1;
        }
    }

    /// Whether no packet waits for the broker's answers.
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether another packet may wait for them, too.
    pub(super) const fn has_room(&self) -> bool {
        self.filters < MAX_FILTERS && self.unread.is_none()
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

    /// Gives the filters that have come since the last time their steps.
    pub(super) fn plan(&mut self, queues: &mut Queues, steps: &mut VecDeque<Step>) {
        if self.planned == self.filters {
            return;
        }
        let first = self.first;
        let packets = self.packets.iter_mut().enumerate();
        for (index, packet) in packets.filter(|(_, packet)| packet.entries.back().is_some_and(Entry::is_new))
        {
            let (is_subscribe, settled) = (packet.is_subscribe, packet.settled);
            for (number, entry) in packet.entries.iter_mut().enumerate().filter(|(_, entry)| entry.is_new()) {
                entry.has_steps = true;
                if entry.is_refused {
                    continue;
                }
                let mut plan = Plan {
                    at: EntryRef { packet: first + index as u64, entry: settled + number },
                    entry,
                    queues,
                    steps,
                };
                match (&plan.entry.filter.group, is_subscribe) {
                    (None, true) => plan.subscribe(),
                    (None, false) => plan.unsubscribe(),
                    (Some(_), true) => plan.join(),
                    (Some(_), false) => Level::ALL.into_iter().for_each(|level| plan.leave(level)),
                }
                if entry.filter.group.is_none() {
                    self.dollar.note(&entry.filter.binding_key, is_subscribe.then_some(entry.level));
                }
            }
        }
        self.planned = self.filters;
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
        let entry = packet.entry(at).filter(|entry| !entry.is_refused)?;
        ShortStr::new(&entry.filter.binding_key)
    }

    /// What is due for the oldest packet: its answer, once all its filters are settled.
    pub(super) fn take_answer(&mut self, queues: &Queues) -> Option<Answer> {
        let packet = self.packets.front_mut()?;
        while let Some(entry) = packet.entries.pop_front_if(|entry| entry.is_settled(queues)) {
            packet.settled += 1;
            self.filters -= 1;
            self.planned -= 1;
            if packet.is_subscribe {
                packet.codes.push(entry.return_code());
            }
            if entry.is_refused
                && let Some(text) = &entry.filter.counted
            {
                self.counted.remove(text);
            }
            packet.granted.extend(entry.granted());
        }
        let is_last = self.packets.len() == 1;
        let packet = self.packets.front_mut()?;
        if !packet.entries.is_empty() || is_last && self.unread.is_some() {
            let many = core::mem::take(&mut packet.granted);
            if many.len() >= MAX_GRANTED {
                return Some(Answer::Granted(many));
            }
            packet.granted = many;
            return None;
        }
        let packet = self.packets.pop_front()?;
        self.first += 1;
        Some(match packet.is_subscribe {
            true => Answer::Suback { id: packet.id, codes: packet.codes, granted: packet.granted },
            false => Answer::Unsuback(packet.id),
        })
    }

    /// Whether a topic that starts with `$` was subscribed to at this level by a filter that does.
    pub(super) fn names_dollar_topic(&self, level: Level, routing_key: &[u8]) -> bool {
        self.dollar.names(level, routing_key)
    }

    fn entry(&mut self, at: EntryRef) -> Option<&mut Entry> {
        let packet = self.index(at)?;
        let packet = self.packets.get_mut(packet)?;
        packet.entries.get_mut(at.entry.checked_sub(packet.settled)?)
    }

    /// `None` once the packet is answered.
    fn index(&self, at: EntryRef) -> Option<usize> {
        usize::try_from(at.packet.checked_sub(self.first)?).ok()
    }
}

impl Packet {
    fn entry(&self, at: EntryRef) -> Option<&Entry> {
        self.entries.get(at.entry.checked_sub(self.settled)?)
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
        Self { filter, level, queue: None, has_steps: false, steps: 0, is_refused }
    }

    const fn is_new(&self) -> bool {
        !self.has_steps
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
        self.has_steps && (self.is_refused || self.steps == 0 && self.queue.is_none_or(is_ready))
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

//! SUBSCRIBE and UNSUBSCRIBE as steps at the broker, and what has become of each.
//!
//! Up to [`WINDOW`] steps are asked at once, whatever packets they are of. When the broker refuses one it closes the channel and
//! looks at none of those behind it, so these are asked again: every step is idempotent.

use std::collections::VecDeque;

use crate::amqp::ShortStr;
use crate::mqtt::{PacketId, QoS, SUBACK_FAILURE};

/// The most filters that may wait for the broker's answers: a bind is at most 560 bytes, so this is about 2 MB.
const MAX_FILTERS: usize = 4096;

/// The most steps that are asked at once: enough to hide the round trip, and all that a refusal costs.
const WINDOW: usize = 32;

/// QoS of a subscription. There is a queue for each; QoS 2 is lowered to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Zero,
    One,
}

impl Level {
    pub(super) const ALL: [Self; 2] = [Self::Zero, Self::One];

    pub(super) const fn granted(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::Zero,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Self::One,
        }
    }

    pub(super) const fn qos(self) -> QoS {
        match self {
            Self::Zero => QoS::AtMostOnce,
            Self::One => QoS::AtLeastOnce,
        }
    }

    /// This level's of two things.
    pub(super) const fn of<T>(self, [zero, one]: &[T; 2]) -> &T {
        match self {
            Self::Zero => zero,
            Self::One => one,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Zero => Self::One,
            Self::One => Self::Zero,
        }
    }
}

/// One request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Delete(Level),
    Declare(Level),
    Consume(Level),
    Bind(EntryRef, Level),
    Unbind(EntryRef, Level),
}

/// An entry of a packet that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryRef {
    packet: u64,
    entry: usize,
}

/// A packet whose answer is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Suback(PacketId, Vec<u8>),
    Unsuback(PacketId),
}

#[derive(Default)]
pub(super) struct Subscriptions {
    packets: VecDeque<Packet>,
    /// Number of the first of `packets`.
    first: u64,
    /// Filters in `packets`.
    filters: usize,
    queues: [Queue; 2],
    /// Steps to be asked, in order.
    waiting: VecDeque<Step>,
    /// Steps that are asked and not answered.
    asked: usize,
}

#[derive(Default)]
struct Queue {
    declared: Progress,
    consumed: Progress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    No,
    Asked,
    Yes,
}

struct Packet {
    id: PacketId,
    is_subscribe: bool,
    entries: Vec<Entry>,
}

struct Entry {
    /// The binding key.
    key: Box<[u8]>,
    level: Level,
    /// Steps of its own that are not answered.
    steps: u8,
    is_refused: bool,
}

/// A filter of a SUBSCRIBE, judged: its binding key and QoS, or nothing when it is refused.
pub(super) type Requested = Option<(Box<[u8]>, Level)>;

impl Subscriptions {
    /// A SUBSCRIBE arrives.
    pub(super) fn subscribe(&mut self, id: PacketId, filters: impl Iterator<Item = Requested>) {
        let packet = self.next_number();
        let mut entries = Vec::new();
        for requested in filters {
            let Some((key, level)) = requested else {
                entries.push(Entry { key: Box::default(), level: Level::Zero, steps: 0, is_refused: true });
                continue;
            };
            let this = EntryRef { packet, entry: entries.len() };
            if self.queue(level).declared == Progress::No {
                self.queue(level).declared = Progress::Asked;
                // What a connection before left, or still holds: it is told by basic.cancel that its queue is gone.
                self.waiting.extend([Step::Delete(level), Step::Declare(level)]);
            }
            self.waiting.push_back(Step::Bind(this, level));
            // Another QoS replaces the one before. [MQTT-3.8.4-3] First bound, then unbound: nothing is missed in between.
            let replaces = self.queue(level.other()).declared != Progress::No;
            if replaces {
                self.waiting.push_back(Step::Unbind(this, level.other()));
            }
            entries.push(Entry { key, level, steps: 1 + u8::from(replaces), is_refused: false });
        }
        self.push(Packet { id, is_subscribe: true, entries });
    }

    /// An UNSUBSCRIBE arrives, with the binding keys of those filters that could be subscribed to.
    pub(super) fn unsubscribe(&mut self, id: PacketId, keys: impl Iterator<Item = Box<[u8]>>) {
        let packet = self.next_number();
        let declared: Vec<Level> =
            Level::ALL.into_iter().filter(|level| level.of(&self.queues).declared != Progress::No).collect();
        let mut entries = Vec::new();
        for key in keys {
            let this = EntryRef { packet, entry: entries.len() };
            self.waiting.extend(declared.iter().map(|&level| Step::Unbind(this, level)));
            entries.push(Entry { key, level: Level::Zero, steps: declared.len() as u8, is_refused: false });
        }
        self.push(Packet { id, is_subscribe: false, entries });
    }

    /// The next step to ask; the caller does. Those of entries that are refused meanwhile are passed over.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        while self.asked < WINDOW {
            let step = self.waiting.pop_front()?;
            if self.key(step).is_some() {
                self.asked += 1;
                return Some(step);
            }
        }
        None
    }

    /// The broker has not looked at these steps, the last that were asked.
    pub(super) fn ask_again(&mut self, steps: impl DoubleEndedIterator<Item = Step>) {
        for step in steps.rev() {
            self.asked = self.asked.saturating_sub(1);
            self.waiting.push_front(step);
        }
    }

    /// The broker did a step.
    pub(super) fn done(&mut self, step: Step) {
        self.asked = self.asked.saturating_sub(1);
        match step {
            Step::Delete(_) => {}
            Step::Declare(level) => {
                self.queue(level).declared = Progress::Yes;
                self.queue(level).consumed = Progress::Asked;
                self.waiting.push_front(Step::Consume(level));
            }
            Step::Consume(level) => self.queue(level).consumed = Progress::Yes,
            Step::Bind(at, _) | Step::Unbind(at, _) => self.settle_step(at),
        }
    }

    /// The broker refused a step.
    pub(super) fn refused(&mut self, step: Step) {
        self.asked = self.asked.saturating_sub(1);
        match step {
            // The broker will say of the declare what stands against it.
            Step::Delete(_) => {}
            // Should there be a queue, nobody will have what it holds; it expires, or the next SUBSCRIBE deletes it.
            Step::Declare(level) | Step::Consume(level) => {
                *self.queue(level) = Queue::default();
                self.refuse_all(level);
            }
            Step::Bind(at, _) => {
                if let Some(entry) = self.entry(at) {
                    entry.refuse();
                }
            }
            // It was not bound, or stays so: the client hears no more of it either way.
            Step::Unbind(at, _) => self.settle_step(at),
        }
    }

    fn settle_step(&mut self, at: EntryRef) {
        if let Some(entry) = self.entry(at) {
            entry.steps = entry.steps.saturating_sub(1);
        }
    }

    fn refuse_all(&mut self, level: Level) {
        for packet in self.packets.iter_mut().filter(|packet| packet.is_subscribe) {
            packet.entries.iter_mut().filter(|entry| entry.level == level).for_each(Entry::refuse);
        }
    }

    /// The binding key of a step, empty where it needs none; `None` when the step does not matter any more.
    pub(super) fn key(&self, step: Step) -> Option<ShortStr<'_>> {
        match step {
            Step::Delete(_) | Step::Declare(_) | Step::Consume(_) => Some(ShortStr::EMPTY),
            Step::Bind(at, _) | Step::Unbind(at, _) => {
                let packet = self.packets.get(self.index(at)?)?;
                let entry = packet.entries.get(at.entry).filter(|entry| !entry.is_refused)?;
                ShortStr::new(&entry.key)
            }
        }
    }

    /// Whether a queue is being consumed.
    pub(super) fn is_consuming(&self) -> bool {
        self.queues.iter().any(|queue| queue.consumed == Progress::Yes)
    }

    /// The answer to the oldest packet, once all its entries are settled.
    pub(super) fn take_answer(&mut self) -> Option<Answer> {
        let queues = &self.queues;
        let is_consumed = |level: Level| level.of(queues).consumed == Progress::Yes;
        let packet = self.packets.pop_front_if(|packet| {
            let is_subscribe = packet.is_subscribe;
            packet
                .entries
                .iter()
                .all(|e| e.is_refused || e.steps == 0 && (!is_subscribe || is_consumed(e.level)))
        })?;
        self.first += 1;
        self.filters -= packet.entries.len();
        Some(match packet.is_subscribe {
            true => Answer::Suback(packet.id, packet.entries.iter().map(Entry::return_code).collect()),
            false => Answer::Unsuback(packet.id),
        })
    }

    /// Whether a packet of so many filters may still wait for the broker's answers.
    pub(super) fn has_room_for(&self, filters: usize) -> bool {
        self.filters + filters <= MAX_FILTERS && self.packets.len() < MAX_FILTERS
    }

    fn push(&mut self, packet: Packet) {
        self.filters += packet.entries.len();
        self.packets.push_back(packet);
    }

    fn next_number(&self) -> u64 {
        self.first + self.packets.len() as u64
    }

    const fn queue(&mut self, level: Level) -> &mut Queue {
        let [zero, one] = &mut self.queues;
        match level {
            Level::Zero => zero,
            Level::One => one,
        }
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

impl Entry {
    const fn refuse(&mut self) {
        self.is_refused = true;
        self.steps = 0;
    }

    const fn return_code(&self) -> u8 {
        match self.level {
            _ if self.is_refused => SUBACK_FAILURE,
            Level::Zero => QoS::AtMostOnce as u8,
            Level::One => QoS::AtLeastOnce as u8,
        }
    }
}

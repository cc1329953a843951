//! The client's queues at the broker: what each is for, its shape, and how far it has come.

use crate::amqp::ShortText;
use crate::amqp::{ClientMethod, QueueArguments, QueueFlags, ShortStr};
use crate::config::Config;
use crate::mqtt::QoS;
use crate::names::QueueNames;

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

    /// This level's of two things, to be changed.
    pub(super) const fn of_mut<T>(self, [zero, one]: &mut [T; 2]) -> &mut T {
        match self {
            Self::Zero => zero,
            Self::One => one,
        }
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Zero => Self::One,
            Self::One => Self::Zero,
        }
    }
}

/// One of the client's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueId {
    /// Of all subscriptions of a level.
    Level(Level),
    /// Of a `$share` group and filter, whose other members consume it too.
    Shared(u16),
}

impl QueueId {
    const fn is_shared(self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    No,
    Asked,
    Yes,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) declared: Stage,
    pub(super) consumed: Stage,
}

/// The client's part in a shared subscription.
struct Shared {
    name: ShortText,
    consumer_tag: ShortText,
    binding_key: Box<[u8]>,
    level: Level,
    progress: Progress,
}

pub(super) struct Queues {
    names: QueueNames,
    is_clean: bool,
    /// Of a session that is kept, in ms.
    expires: Option<i64>,
    qos0_max_length: i64,
    shared_max_length: i64,
    /// The most shared subscriptions of the client.
    max_shared: usize,
    levels: [Progress; 2],
    shared: Vec<Shared>,
}

impl Queues {
    pub(super) fn new(names: QueueNames, is_clean: bool, config: &Config, max_shared: u16) -> Self {
        Self {
            names,
            is_clean,
            expires: config.subscription_ttl.map(|ttl| ttl.as_millis() as i64),
            qos0_max_length: i64::from(config.qos0_max_length),
            shared_max_length: i64::from(config.shared_max_length),
            max_shared: usize::from(max_shared),
            levels: Default::default(),
            shared: Vec::new(),
        }
    }

    /// The queue of a group and filter, for a subscription at `level`; `None` when its name is too long, or they are too many.
    ///
    /// Each level has a consumer of its own: what is on its way when the client changes the level is still what it was.
    pub(super) fn join(&mut self, group: &str, binding_key: &[u8], level: Level) -> Option<QueueId> {
        let name = self.names.shared(group, core::str::from_utf8(binding_key).ok()?)?;
        let number = match self.number(&name, level) {
            Some(number) => number,
            None if self.shared.len() >= self.max_shared => return None,
            None => {
                let number = self.shared.len();
                let consumer_tag = ShortText::new(&format!("share{number}"))?;
                let binding_key = binding_key.into();
                self.shared.push(Shared {
                    name,
                    consumer_tag,
                    binding_key,
                    level,
                    progress: Progress::default(),
                });
                number
            }
        };
        Some(QueueId::Shared(number as u16))
    }

    /// The queue of a group and filter that the client has joined at `level`, now or before.
    pub(super) fn joined(&self, group: &str, binding_key: &[u8], level: Level) -> Option<QueueId> {
        let name = self.names.shared(group, core::str::from_utf8(binding_key).ok()?)?;
        self.number(&name, level).map(|number| QueueId::Shared(number as u16))
    }

    fn number(&self, name: &ShortText, level: Level) -> Option<usize> {
        self.shared.iter().position(|it| it.name.as_str() == name.as_str() && it.level == level)
    }

    /// Whether the client wants nothing of a queue's name any more, at any level.
    pub(super) fn is_left(&self, queue: QueueId) -> bool {
        let name = self.name(queue);
        self.all().filter(|&it| self.name(it) == name).all(|it| self.progress(it).declared == Stage::No)
    }

    /// The level at which messages come from a queue.
    pub(super) fn level(&self, queue: QueueId) -> Level {
        match queue {
            QueueId::Level(level) => level,
            QueueId::Shared(number) => {
                self.shared.get(usize::from(number)).map_or(Level::Zero, |shared| shared.level)
            }
        }
    }

    /// The binding key of a shared subscription.
    pub(super) fn shared_key(&self, queue: QueueId) -> Option<&[u8]> {
        let QueueId::Shared(number) = queue else { return None };
        self.shared.get(usize::from(number)).map(|shared| &*shared.binding_key)
    }

    pub(super) fn progress(&self, queue: QueueId) -> Progress {
        match queue {
            QueueId::Level(level) => *level.of(&self.levels),
            QueueId::Shared(number) => {
                self.shared.get(usize::from(number)).map_or_else(Progress::default, |shared| shared.progress)
            }
        }
    }

    pub(super) fn progress_mut(&mut self, queue: QueueId) -> Option<&mut Progress> {
        match queue {
            QueueId::Level(level) => Some(level.of_mut(&mut self.levels)),
            QueueId::Shared(number) => {
                self.shared.get_mut(usize::from(number)).map(|shared| &mut shared.progress)
            }
        }
    }

    /// Whether a consumer would be lost with their channel.
    pub(super) fn is_consuming(&self) -> bool {
        let shared = self.shared.iter().map(|shared| &shared.progress);
        self.levels.iter().chain(shared).any(|progress| progress.consumed == Stage::Yes)
    }

    pub(super) fn name(&self, queue: QueueId) -> ShortStr<'_> {
        match queue {
            QueueId::Level(level) if self.is_clean => level.of(&self.names.own).as_short(),
            QueueId::Level(level) => level.of(&self.names.kept).as_short(),
            QueueId::Shared(number) => {
                self.shared.get(usize::from(number)).map_or(ShortStr::EMPTY, |shared| shared.name.as_short())
            }
        }
    }

    fn consumer_tag(&self, queue: QueueId) -> ShortStr<'_> {
        const LEVELS: [ShortStr<'static>; 2] = [ShortStr::literal("qos0"), ShortStr::literal("qos1")];
        match queue {
            QueueId::Level(level) => *level.of(&LEVELS),
            QueueId::Shared(number) => self
                .shared
                .get(usize::from(number))
                .map_or(ShortStr::EMPTY, |shared| shared.consumer_tag.as_short()),
        }
    }

    /// The queue of a consumer.
    pub(super) fn by_consumer_tag(&self, consumer_tag: &[u8]) -> Option<QueueId> {
        self.all().find(|&queue| self.consumer_tag(queue).as_bytes() == consumer_tag)
    }

    /// The shared subscriptions that the client has.
    pub(super) fn all_joined(&self) -> impl Iterator<Item = QueueId> {
        let is_joined = |&queue: &QueueId| queue.is_shared() && self.progress(queue).consumed == Stage::Yes;
        self.all().filter(is_joined)
    }

    /// All queues there may be.
    pub(super) fn all(&self) -> impl Iterator<Item = QueueId> + use<> {
        let own = Level::ALL.map(QueueId::Level);
        own.into_iter().chain((0..self.shared.len() as u16).map(QueueId::Shared))
    }

    /// queue.declare.
    pub(super) fn declare(&self, queue: QueueId) -> ClientMethod<'_> {
        let mut flags = QueueFlags { durable: true, ..QueueFlags::default() };
        let mut arguments = QueueArguments { expires: self.expires, ..QueueArguments::default() };
        match queue {
            QueueId::Level(level) if self.is_clean => {
                (flags.exclusive, flags.durable) = (true, level == Level::One);
                arguments.expires = None;
            }
            // A newcomer's consumer waits in line until the broker knows that the one before is gone and has put what it
            // had not acknowledged back in order.
            QueueId::Level(_) => arguments.single_active_consumer = true,
            QueueId::Shared(_) => arguments.max_length = Some(self.shared_max_length),
        }
        if queue == QueueId::Level(Level::Zero) {
            arguments.max_length = Some(self.qos0_max_length);
        }
        ClientMethod::QueueDeclare { queue: self.name(queue), flags, arguments }
    }

    /// queue.declare that only asks.
    pub(super) fn check(&self, queue: QueueId) -> ClientMethod<'_> {
        let flags = QueueFlags { passive: true, ..QueueFlags::default() };
        ClientMethod::QueueDeclare { queue: self.name(queue), flags, arguments: QueueArguments::default() }
    }

    /// queue.delete: of a level, what a session that was kept has left.
    pub(super) fn delete(&self, queue: QueueId) -> ClientMethod<'_> {
        let (queue, if_unused) = match queue {
            QueueId::Level(level) => (level.of(&self.names.kept).as_short(), false),
            QueueId::Shared(_) => (self.name(queue), true),
        };
        ClientMethod::QueueDelete { queue, if_unused, if_empty: false }
    }

    /// basic.consume.
    pub(super) fn consume(&self, queue: QueueId) -> ClientMethod<'_> {
        ClientMethod::BasicConsume {
            queue: self.name(queue),
            consumer_tag: self.consumer_tag(queue),
            no_ack: self.level(queue) == Level::Zero,
            exclusive: false,
        }
    }

    /// basic.cancel.
    pub(super) fn cancel(&self, queue: QueueId) -> ClientMethod<'_> {
        ClientMethod::BasicCancel { consumer_tag: self.consumer_tag(queue) }
    }
}

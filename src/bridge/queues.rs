//! The client's queues at the broker: what each is for, its shape, and how far it has come.

use crate::amqp::{ClientMethod, QueueArguments, QueueFlags, ShortStr};
use crate::config::{Config, ShortText};
use crate::mqtt::QoS;
use crate::names::QueueNames;

/// How long a queue that goes with its consumer may be without one, should the client go before basic.consume or the broker
/// restart.
const UNCONSUMED_EXPIRES_MS: i64 = 60_000;

/// The most shared subscriptions of one client.
const MAX_SHARED: usize = 256;

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
    /// Holds nothing. Whoever takes the client id over deletes it, and the broker tells its consumer.
    Lock,
    /// Of all subscriptions of a level.
    Level(Level),
    /// Of a `$share` group and filter, whose other members consume it too.
    Shared(u16),
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
    lock: Progress,
    levels: [Progress; 2],
    shared: Vec<Shared>,
}

impl Queues {
    pub(super) fn new(names: QueueNames, is_clean: bool, config: &Config) -> Self {
        Self {
            names,
            is_clean,
            expires: config.subscription_ttl.map(|ttl| ttl.as_millis() as i64),
            qos0_max_length: i64::from(config.qos0_max_length),
            lock: Progress::default(),
            levels: Default::default(),
            shared: Vec::new(),
        }
    }

    /// The queue of a group and filter, for a subscription at `level`; `None` when its name is too long, or they are too many.
    pub(super) fn join(&mut self, group: &str, binding_key: &[u8], level: Level) -> Option<QueueId> {
        let name = self.names.shared(group, core::str::from_utf8(binding_key).ok()?)?;
        let number = match self.shared.iter().position(|shared| shared.name.as_str() == name.as_str()) {
            Some(number) => number,
            None if self.shared.len() == MAX_SHARED => return None,
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

    /// The queue of a group and filter that the client has joined.
    pub(super) fn joined(&self, group: &str, binding_key: &[u8]) -> Option<QueueId> {
        let name = self.names.shared(group, core::str::from_utf8(binding_key).ok()?)?;
        let number = self.shared.iter().position(|shared| shared.name.as_str() == name.as_str())?;
        Some(QueueId::Shared(number as u16))
    }

    /// The level at which messages come from a queue.
    pub(super) fn level(&self, queue: QueueId) -> Level {
        match queue {
            QueueId::Lock => Level::Zero,
            QueueId::Level(level) => level,
            QueueId::Shared(number) => {
                self.shared.get(usize::from(number)).map_or(Level::Zero, |shared| shared.level)
            }
        }
    }

    /// Changes the level of a shared subscription.
    pub(super) fn set_level(&mut self, queue: QueueId, level: Level) {
        if let QueueId::Shared(number) = queue
            && let Some(shared) = self.shared.get_mut(usize::from(number))
        {
            shared.level = level;
        }
    }

    /// The binding key of a shared subscription.
    pub(super) fn shared_key(&self, queue: QueueId) -> Option<&[u8]> {
        let QueueId::Shared(number) = queue else { return None };
        self.shared.get(usize::from(number)).map(|shared| &*shared.binding_key)
    }

    pub(super) fn progress(&self, queue: QueueId) -> Progress {
        match queue {
            QueueId::Lock => self.lock,
            QueueId::Level(level) => *level.of(&self.levels),
            QueueId::Shared(number) => {
                self.shared.get(usize::from(number)).map_or_else(Progress::default, |shared| shared.progress)
            }
        }
    }

    pub(super) fn progress_mut(&mut self, queue: QueueId) -> Option<&mut Progress> {
        match queue {
            QueueId::Lock => Some(&mut self.lock),
            QueueId::Level(level) => Some(level.of_mut(&mut self.levels)),
            QueueId::Shared(number) => {
                self.shared.get_mut(usize::from(number)).map(|shared| &mut shared.progress)
            }
        }
    }

    /// Whether a consumer would be lost with their channel.
    pub(super) fn is_consuming(&self) -> bool {
        let shared = self.shared.iter().map(|shared| &shared.progress);
        self.levels.iter().chain([&self.lock]).chain(shared).any(|progress| progress.consumed == Stage::Yes)
    }

    pub(super) fn name(&self, queue: QueueId) -> ShortStr<'_> {
        match queue {
            QueueId::Lock => self.names.lock.as_short(),
            QueueId::Level(level) => level.of(&self.names.qos).as_short(),
            QueueId::Shared(number) => {
                self.shared.get(usize::from(number)).map_or(ShortStr::EMPTY, |shared| shared.name.as_short())
            }
        }
    }

    fn consumer_tag(&self, queue: QueueId) -> ShortStr<'_> {
        const LOCK: ShortStr<'static> = ShortStr::literal("lock");
        const LEVELS: [ShortStr<'static>; 2] = [ShortStr::literal("qos0"), ShortStr::literal("qos1")];
        match queue {
            QueueId::Lock => LOCK,
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

    /// All queues there may be.
    pub(super) fn all(&self) -> impl Iterator<Item = QueueId> + use<> {
        let own = [QueueId::Lock, QueueId::Level(Level::Zero), QueueId::Level(Level::One)];
        own.into_iter().chain((0..self.shared.len() as u16).map(QueueId::Shared))
    }

    /// queue.declare.
    pub(super) fn declare(&self, queue: QueueId) -> ClientMethod<'_> {
        let mut flags = QueueFlags { durable: true, ..QueueFlags::default() };
        let mut arguments = QueueArguments { expires: self.expires, ..QueueArguments::default() };
        match queue {
            // Gone with its consumer, and deletable by a newcomer even when the consumer's host is dead, as an exclusive queue
            // is not.
            QueueId::Lock => (flags.auto_delete, arguments.expires) = (true, Some(UNCONSUMED_EXPIRES_MS)),
            QueueId::Level(_) if self.is_clean => {
                (flags.auto_delete, arguments.expires) = (true, Some(UNCONSUMED_EXPIRES_MS));
            }
            // A newcomer's consumer waits in line until the broker knows that the one before is gone and has put what it
            // had not acknowledged back in order.
            QueueId::Level(_) => arguments.single_active_consumer = true,
            QueueId::Shared(_) => {}
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

    /// queue.delete.
    pub(super) fn delete(&self, queue: QueueId) -> ClientMethod<'_> {
        let if_unused = matches!(queue, QueueId::Shared(_));
        ClientMethod::QueueDelete { queue: self.name(queue), if_unused, if_empty: false }
    }

    /// basic.consume.
    pub(super) fn consume(&self, queue: QueueId) -> ClientMethod<'_> {
        ClientMethod::BasicConsume {
            queue: self.name(queue),
            consumer_tag: self.consumer_tag(queue),
            no_ack: self.level(queue) == Level::Zero,
            exclusive: match queue {
                QueueId::Lock => true,
                QueueId::Level(_) => self.is_clean,
                QueueId::Shared(_) => false,
            },
        }
    }

    /// basic.cancel.
    pub(super) fn cancel(&self, queue: QueueId) -> ClientMethod<'_> {
        ClientMethod::BasicCancel { consumer_tag: self.consumer_tag(queue) }
    }
}

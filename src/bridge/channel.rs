//! What each AMQP channel is for, and whose answers are awaited on it.

use std::collections::VecDeque;

use super::retained::{keep, replay};
use super::{lock, session, will};
use crate::amqp::BrokerMethod;

/// What each channel is for. A refused method closes its channel, so what can be refused is kept apart from consumers and
/// confirms. All that a client publishes goes over one, since channels have no order among each other. Each is opened when it is
/// first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Role {
    /// Declares and binds, and in a transaction that comes to nothing tries whether a message may be published.
    Topology = 1,
    /// Consumers and acknowledgements.
    Consume = 2,
    /// Publishes; with confirms from the first one on that somebody waits for.
    Publish = 3,
    /// The will: a transaction renews it.
    Will = 4,
    /// Keeps retained messages.
    Keep = 5,
    /// Asks for retained messages and gives them to the client.
    Replay = 6,
}

impl Role {
    pub(super) const ALL: [Self; 6] =
        [Self::Topology, Self::Consume, Self::Publish, Self::Will, Self::Keep, Self::Replay];

    pub(super) const fn channel(self) -> u16 {
        self as u16
    }

    pub(super) fn of(channel: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.channel() == channel)
    }
}

/// A question on a channel. Answers come in the order in which they were asked, but for [`Awaited::may_be_overtaken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// channel.open.
    Open,
    /// confirm.select.
    Confirms,
    /// basic.qos.
    Prefetch,
    /// channel.flow, asked only to be answered.
    Probe,
    /// The same, to know that what was published before has been routed.
    Routed,
    /// The same, to know that what was on its way to consumers has been delivered.
    Delivered,
    /// A step of the session or a subscription.
    Step(session::Step),
    /// A step of the will.
    Will(will::Step),
    /// A step of keeping a retained message.
    Keep(keep::Step),
    /// A step of the replay of retained messages.
    Replay(replay::Step),
}

impl Awaited {
    pub(super) const fn is_answered_by(&self, method: &BrokerMethod<'_>) -> bool {
        use BrokerMethod as B;
        match self {
            Self::Open => matches!(method, B::ChannelOpenOk),
            Self::Confirms => matches!(method, B::ConfirmSelectOk),
            Self::Prefetch => matches!(method, B::BasicQosOk),
            Self::Probe | Self::Routed | Self::Delivered => matches!(method, B::ChannelFlowOk),
            Self::Step(step) => match step {
                session::Step::Lock(lock::Step::Delete) => matches!(method, B::QueueDeleteOk),
                session::Step::Lock(lock::Step::Declare | lock::Step::Count) => {
                    matches!(method, B::QueueDeclareOk { .. })
                }
                session::Step::Lock(lock::Step::Consume) => matches!(method, B::BasicConsumeOk),
                session::Step::Delete(_) => matches!(method, B::QueueDeleteOk),
                session::Step::Check(_) | session::Step::Declare(_) => {
                    matches!(method, B::QueueDeclareOk { .. })
                }
                session::Step::Consume(_) => matches!(method, B::BasicConsumeOk),
                session::Step::Cancel(..) | session::Step::Leave(_) => matches!(method, B::BasicCancelOk),
                session::Step::Bind(..) => matches!(method, B::QueueBindOk),
                session::Step::Unbind(..) => matches!(method, B::QueueUnbindOk),
            },
            Self::Will(step) => match step {
                will::Step::Select => matches!(method, B::TxSelectOk),
                will::Step::Exchange => matches!(method, B::ExchangeDeclareOk),
                will::Step::Declare | will::Step::Place => matches!(method, B::QueueDeclareOk { .. }),
                will::Step::Bind => matches!(method, B::QueueBindOk),
                will::Step::Consume => matches!(method, B::BasicConsumeOk),
                will::Step::Rollback => matches!(method, B::TxRollbackOk),
                will::Step::Commit => matches!(method, B::TxCommitOk),
                will::Step::Delete => matches!(method, B::QueueDeleteOk),
            },
            Self::Keep(step) => match step {
                keep::Step::Select => matches!(method, B::TxSelectOk),
                keep::Step::Trial | keep::Step::KeepTrial => matches!(method, B::TxRollbackOk),
                keep::Step::Exchange => matches!(method, B::ExchangeDeclareOk),
                keep::Step::Declare | keep::Step::Redeclare => matches!(method, B::QueueDeclareOk { .. }),
                keep::Step::Bind | keep::Step::Rebind => matches!(method, B::QueueBindOk),
                keep::Step::Delete => matches!(method, B::QueueDeleteOk),
                keep::Step::Notice => matches!(method, B::TxCommitOk),
            },
            Self::Replay(step) => match step {
                replay::Step::Exchange => matches!(method, B::ExchangeDeclareOk),
                replay::Step::Declare => matches!(method, B::QueueDeclareOk { .. }),
                replay::Step::Get => matches!(method, B::BasicGetOk { .. } | B::BasicGetEmpty),
            },
        }
    }
}

impl Awaited {
    /// RabbitMQ's queue answers basic.consume and basic.cancel, not the channel, so what was asked behind them can be answered first.
    const fn may_be_overtaken(&self) -> bool {
        matches!(
            self,
            Self::Step(
                session::Step::Consume(_)
                    | session::Step::Cancel(..)
                    | session::Step::Leave(_)
                    | session::Step::Lock(lock::Step::Consume)
            ) | Self::Will(will::Step::Consume)
        )
    }
}

/// The content that is arriving: AMQP sends one at a time on a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Incoming {
    #[default]
    Nothing,
    Header(Content),
    Body {
        content: Content,
        left: u64,
    },
}

/// Whose content it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A consumer's.
    Delivery,
    /// Of basic.get.
    Got,
    /// Of a message that no queue took.
    Returned,
    /// Nobody's: it is passed over.
    Unwanted,
}

/// An AMQP channel.
#[derive(Default)]
pub(super) struct Channel {
    /// channel.open is sent; what is sent behind it waits at the broker.
    pub(super) is_open: bool,
    /// confirm.select is sent: every publish behind it is confirmed.
    pub(super) confirms: bool,
    /// Questions that are not answered, oldest first.
    pub(super) awaited: VecDeque<Awaited>,
    pub(super) incoming: Incoming,
    /// channel.flow is not answered.
    pub(super) owes_flow_ok: bool,
    /// The broker closed it, and has not opened it again: what it says until then was on its way.
    pub(super) is_refused: bool,
    /// A message that is relayed is between its header and the end of its body.
    pub(super) is_relaying: bool,
}

impl Channel {
    /// The question that `method` answers; `None` when it answers none.
    pub(super) fn answered(&mut self, method: &BrokerMethod<'_>) -> Option<Awaited> {
        let at = self.awaited.iter().position(|awaited| awaited.is_answered_by(method))?;
        self.awaited.iter().take(at).all(Awaited::may_be_overtaken).then(|| self.awaited.remove(at))?
    }
}

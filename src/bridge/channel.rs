//! What each AMQP channel is for, and whose answers are awaited on it.

use std::collections::VecDeque;

use super::subscribe::Step;
use crate::amqp::BrokerMethod;

/// What each channel is for. A refused method closes its channel, so what can be refused is kept apart from consumers and
/// confirms, and QoS 0 publishes from the channel on which every publish is confirmed. Each is opened when it is first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Role {
    /// Declares and binds.
    Topology = 1,
    /// Consumers and acknowledgements.
    Consume = 2,
    /// Publishes without confirms.
    Publish = 3,
    /// Publishes with confirms.
    Confirm = 4,
}

impl Role {
    pub(super) const ALL: [Self; 4] = [Self::Topology, Self::Consume, Self::Publish, Self::Confirm];

    pub(super) const fn channel(self) -> u16 {
        self as u16
    }

    pub(super) fn of(channel: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.channel() == channel)
    }
}

/// A question on a channel. Its answers come in the order in which they were asked.
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
    /// A step of a subscription.
    Subscription(Step),
}

impl Awaited {
    pub(super) fn is_answered_by(&self, method: &BrokerMethod<'_>) -> bool {
        matches!(
            (self, method),
            (Self::Open, BrokerMethod::ChannelOpenOk)
                | (Self::Confirms, BrokerMethod::ConfirmSelectOk)
                | (Self::Prefetch, BrokerMethod::BasicQosOk)
                | (Self::Probe, BrokerMethod::ChannelFlowOk)
                | (Self::Subscription(Step::Delete(_)), BrokerMethod::QueueDeleteOk)
                | (Self::Subscription(Step::Declare(_)), BrokerMethod::QueueDeclareOk)
                | (Self::Subscription(Step::Bind(..)), BrokerMethod::QueueBindOk)
                | (Self::Subscription(Step::Unbind(..)), BrokerMethod::QueueUnbindOk)
                | (Self::Subscription(Step::Consume(_)), BrokerMethod::BasicConsumeOk)
        )
    }
}

/// An AMQP channel.
#[derive(Default)]
pub(super) struct Channel {
    /// channel.open is sent; what is sent behind it waits at the broker.
    pub(super) is_open: bool,
    /// Questions that are not answered, oldest first.
    pub(super) awaited: VecDeque<Awaited>,
}

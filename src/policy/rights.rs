//! What one client may publish and subscribe.

use std::rc::Rc;

use super::grants::{Budget, Decision};
use super::permissions::{Expression, Permission};
use super::tenant::Tenant;
use super::variables::{Values, Variable};
use crate::mqtt::QoS;
use crate::names;

/// The rights of a client that is admitted.
pub struct Rights {
    tenant: Rc<Tenant>,
    values: Values,
    may_write: bool,
    may_read: bool,
    /// Whether it may have its queues, by QoS of the subscription.
    may_queue: [bool; 2],
    topic_write: Expression,
    topic_read: Expression,
}

/// A message that is to be published, as far as it matters.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// As the broker gets it.
    pub routing_key: &'a [u8],
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is to be retained.
    pub retain: bool,
    /// Bytes of its payload.
    pub payload_len: u32,
}

/// Why a PUBLISH, a will or a filter is refused. The client does not hear it; log and counters do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// It is no topic filter, or too long for a key.
    Filter,
    /// A grant: a `deny` matches, or no `allow` does.
    Grant(Decision),
    /// `permissions` on the exchange.
    Permission,
    /// `topic_permissions`.
    TopicPermission,
    /// `permissions` on the client's queue.
    QueuePermission,
    /// `max_payload_size`.
    PayloadSize,
    /// `max_qos`.
    QoS,
    /// `retain_allowed`.
    Retain,
    /// `max_topic_levels`.
    TopicLevels,
    /// `max_subscriptions`.
    Subscriptions,
}

impl Rights {
    /// Of a user with this permission, or one that nobody asks for any.
    pub(super) fn new(
        tenant: Rc<Tenant>,
        values: Values,
        permission: Option<&Permission>,
        [topic_write, topic_read]: [Expression; 2],
    ) -> Self {
        let exchange = tenant.exchange.as_str().as_bytes();
        let may = |expression: fn(&Permission) -> &Expression, name: &[u8]| {
            permission.is_none_or(|permission| expression(permission).matches(name))
        };
        let may_queue = |qos| {
            let name = names::of_plugin(values.text(Variable::ClientId), qos);
            let name = name.as_bytes();
            may(|it| &it.configure, name) && may(|it| &it.write, name) && may(|it| &it.read, name)
        };
        Self {
            may_write: may(|it| &it.write, exchange),
            may_read: may(|it| &it.read, exchange),
            may_queue: [QoS::AtMostOnce, QoS::AtLeastOnce].map(may_queue),
            topic_write: topic_write.of(&values),
            topic_read: topic_read.of(&values),
            tenant,
            values,
        }
    }

    /// What variables stand for.
    pub const fn values(&self) -> &Values {
        &self.values
    }

    /// Whether a message may be published, and by what; what it takes to tell comes off `budget`.
    ///
    /// # Errors
    /// With what forbids it.
    pub fn publish(&self, message: Message<'_>, budget: &mut Budget) -> Result<Decision, Denial> {
        let quota = &self.tenant.quota;
        if message.qos > quota.max_qos {
            return Err(Denial::QoS);
        }
        if message.retain && !quota.retain_allowed {
            return Err(Denial::Retain);
        }
        if quota.max_payload_size.is_some_and(|most| message.payload_len > most) {
            return Err(Denial::PayloadSize);
        }
        if quota.is_too_deep(message.topic) {
            return Err(Denial::TopicLevels);
        }
        if !self.may_write {
            return Err(Denial::Permission);
        }
        if !self.topic_write.matches(message.routing_key) {
            return Err(Denial::TopicPermission);
        }
        let decision = self.tenant.publish.publish(message.routing_key, &self.values, budget);
        if decision.is_permitted() { Ok(decision) } else { Err(Denial::Grant(decision)) }
    }

    /// Whether a filter may be subscribed to, and by what; `qos` is what will be granted.
    ///
    /// # Errors
    /// With what forbids it.
    pub fn subscribe(
        &self,
        filter: &str,
        binding_key: &[u8],
        qos: QoS,
        budget: &mut Budget,
    ) -> Result<Decision, Denial> {
        if self.tenant.quota.is_too_deep(filter) {
            return Err(Denial::TopicLevels);
        }
        if !self.may_read {
            return Err(Denial::Permission);
        }
        let [zero, one] = self.may_queue;
        if !(if qos == QoS::AtMostOnce { zero } else { one }) {
            return Err(Denial::QueuePermission);
        }
        if !self.topic_read.matches(binding_key) {
            return Err(Denial::TopicPermission);
        }
        let decision = self.tenant.subscribe.subscribe(binding_key, &self.values, budget);
        if decision.is_permitted() { Ok(decision) } else { Err(Denial::Grant(decision)) }
    }

    /// Whether a message may be received that was subscribed to at an earlier time, when other grants may have held.
    pub fn receives(&self, routing_key: &[u8]) -> bool {
        self.tenant.subscribe.publish(routing_key, &self.values, &mut Budget::default()).is_permitted()
    }
}

impl Denial {
    /// Its place among the others, below 16.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Filter => 0,
            Self::Grant(_) => 1,
            Self::Permission => 2,
            Self::TopicPermission => 3,
            Self::QueuePermission => 4,
            Self::PayloadSize => 5,
            Self::QoS => 6,
            Self::Retain => 7,
            Self::TopicLevels => 8,
            Self::Subscriptions => 9,
        }
    }

    /// As the log has it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Filter => "it is no topic filter, or too long for a key",
            Self::Grant(Decision::Denied(_)) => "a deny entry matches",
            Self::Grant(Decision::TooComplex) => "its filter has too many wildcards",
            Self::Grant(_) => "no allow entry matches",
            Self::Permission => "the user's permissions lack the exchange",
            Self::TopicPermission => "the user's topic permissions lack the topic",
            Self::QueuePermission => "the user's permissions lack the client's queue",
            Self::PayloadSize => "payload is larger than max_payload_size",
            Self::QoS => "QoS is above max_qos",
            Self::Retain => "retain_allowed is off",
            Self::TopicLevels => "topic has more than max_topic_levels",
            Self::Subscriptions => "there are max_subscriptions already",
        }
    }
}

//! What is worth a counter and a log line. Never for control: a host that drops every event serves just as well.

use core::fmt;

use crate::amqp::reply_code::{ACCESS_REFUSED, PRECONDITION_FAILED};
use crate::error::{Error, LoginRefusal, TimedOut};
use crate::metrics::Metric;
use crate::mqtt::{self, ConnectReturnCode};
use crate::policy::{Denial, Refusal};

/// Something that happened on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// CONNACK 0 was given.
    Accepted,
    /// Another CONNACK was given, or is about to be.
    Refused(ConnectReturnCode, Error),
    /// The client said DISCONNECT.
    Disconnected,
    /// The client went without DISCONNECT.
    ClientGone,
    /// The connection ends because of an error.
    Failed(Error),
    /// A message from the broker could not be told in MQTT and was dropped.
    Undeliverable,
    /// The broker did not permit a PUBLISH, which was dropped.
    Unauthorized,
    /// A message was published again, since the broker could not take it.
    PublishedAgain,
    /// The broker could not take a message however often; the client is not told that it is taken.
    Unacknowledged,
    /// Policy did not permit a PUBLISH, which was dropped.
    PublishDenied {
        /// The rule.
        denial: Denial,
        /// Whether it is the first time on this connection.
        is_first: bool,
    },
    /// Policy did not permit a filter, which was refused.
    SubscribeDenied {
        /// The rule.
        denial: Denial,
        /// Whether it is the first time on this connection.
        is_first: bool,
    },
    /// A message is kept for subscribers to come.
    Kept,
    /// There is no such message any more.
    Cleared,
    /// A kept message was given to a new subscriber.
    Replayed,
    /// A message was to be kept and is not.
    Unkept {
        /// Why.
        why: Unkept,
        /// Whether it is the first of its topic on this connection, and among the first of all.
        is_first: bool,
    },
    /// There are retained messages under a new subscription's filter, but none of their queues said so: a policy of the operator's
    /// sends the answers elsewhere.
    Unanswered,
}

/// Why a message is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unkept {
    /// Its payload is larger than `retained_max_size`.
    Size,
    /// Its topic makes no name of a queue: it is too long, or holds a line break.
    Name,
    /// The broker does not permit the client's user to keep messages, or cannot.
    Refused,
    /// Its topic was cleared by others while it was on its way.
    Cleared,
    /// The topic's queue did not take it, as a policy of the operator's may have it.
    Nack,
}

impl Unkept {
    const fn text(self) -> &'static str {
        match self {
            Self::Size => "its payload is larger than retained_max_size",
            Self::Name => "its topic makes no name of a queue",
            Self::Refused => "the broker does not permit or cannot do it",
            Self::Cleared => "its topic was cleared meanwhile",
            Self::Nack => "its topic's queue did not take it: see the broker's policies",
        }
    }
}

/// How loud an event is in the log: debug is per connection, info is for refusals, warnings and errors are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Ordinary life of a connection.
    Debug,
    /// A client was refused or broke a rule.
    Info,
    /// The broker is the cause.
    Warn,
}

impl Event {
    /// The counters to which this event adds one: what happened, and where there is a rule behind it, which.
    pub fn metrics(self) -> impl Iterator<Item = Metric> {
        use Metric as M;
        let (what, why) = match self {
            Self::Accepted => (M::ConnackAccepted, None),
            Self::Refused(code, error) => (connack(code), Some(refusal(error))),
            Self::Disconnected => (M::ClosedDisconnect, None),
            Self::ClientGone => (M::ClosedClientGone, None),
            Self::Failed(error) => match error {
                Error::Malformed(error) => (M::ClosedMalformed, Some(malformed(error))),
                Error::Misbehaved(_) | Error::Refused(_) => (M::ClosedMisbehaved, None),
                Error::TimedOut(TimedOut::Packet) => (M::ClosedUnfinished, None),
                Error::TimedOut(_) => (M::ClosedTimedOut, None),
                Error::Limit(_) => (M::ClosedLimit, None),
                Error::Login(_) | Error::BrokerClosed { .. } | Error::QueueDeleted => {
                    (M::ClosedBrokerClosed, None)
                }
                Error::BrokerMalformed(_) => (M::ClosedBrokerMalformed, None),
                Error::BrokerMisbehaved(_) => (M::ClosedBrokerMisbehaved, None),
                Error::BrokerGone | Error::BrokerSilent => (M::ClosedBrokerGone, None),
                Error::TakenOver => (M::ClosedTakenOver, None),
                Error::Replaced => (M::ClosedReplaced, None),
                Error::Denied(denial) => (M::ClosedDenied, Some(rule(denial))),
            },
            Self::Undeliverable => (M::Undeliverable, None),
            Self::Unauthorized => (M::Unauthorized, None),
            Self::PublishedAgain => (M::PublishedAgain, None),
            Self::Unacknowledged => (M::Unacknowledged, None),
            Self::PublishDenied { denial, .. } => (M::DeniedPublish, Some(rule(denial))),
            Self::SubscribeDenied { denial, .. } => (M::DeniedSubscribe, Some(rule(denial))),
            Self::Kept => (M::RetainedKept, None),
            Self::Cleared => (M::RetainedCleared, None),
            Self::Replayed => (M::RetainedReplayed, None),
            Self::Unkept { .. } => (M::RetainedUnkept, None),
            Self::Unanswered => (M::RetainedUnanswered, None),
        };
        [Some(what), why].into_iter().flatten()
    }

    /// Whether it says why a connection ends.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Refused(..) | Self::Disconnected | Self::ClientGone | Self::Failed(_))
    }

    /// The level of its log line.
    pub const fn level(self) -> Level {
        match self {
            Self::Accepted
            | Self::Disconnected
            | Self::ClientGone
            | Self::Undeliverable
            | Self::PublishedAgain
            | Self::Kept
            | Self::Cleared
            | Self::Replayed => Level::Debug,
            Self::PublishDenied { is_first: false, .. }
            | Self::SubscribeDenied { is_first: false, .. }
            | Self::Unkept { is_first: false, .. } => Level::Debug,
            Self::Unauthorized
            | Self::Unacknowledged
            | Self::Unkept { .. }
            | Self::PublishDenied { .. }
            | Self::SubscribeDenied { .. } => Level::Info,
            Self::Unanswered => Level::Warn,
            Self::Refused(_, error) | Self::Failed(error) => match error {
                Error::Replaced => Level::Debug,
                Error::Malformed(_)
                | Error::Misbehaved(_)
                | Error::Refused(_)
                | Error::Denied(_)
                | Error::TimedOut(_)
                | Error::Limit(_)
                | Error::TakenOver
                | Error::Login(
                    LoginRefusal::Credentials
                    | LoginRefusal::UnknownVhost
                    | LoginRefusal::VhostAccess
                    | LoginRefusal::ConnectionLimit,
                ) => Level::Info,
                // The client asked for what it may not have, or sent what is too large.
                Error::BrokerClosed { code: ACCESS_REFUSED | PRECONDITION_FAILED, .. } => Level::Info,
                Error::Login(
                    LoginRefusal::NoPlain
                    | LoginRefusal::ChannelMax(_)
                    | LoginRefusal::FrameMax(_)
                    | LoginRefusal::Unavailable { .. },
                )
                | Error::BrokerClosed { .. }
                | Error::QueueDeleted
                | Error::BrokerMalformed(_)
                | Error::BrokerMisbehaved(_)
                | Error::BrokerGone
                | Error::BrokerSilent => Level::Warn,
            },
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str("accepted"),
            Self::Refused(code, error) => write!(f, "CONNACK {}: {error}", *code as u8),
            Self::Disconnected => f.write_str("disconnected"),
            Self::ClientGone => f.write_str("client left without DISCONNECT"),
            Self::Failed(error) => write!(f, "closed: {error}"),
            Self::Undeliverable => f.write_str("dropped a message that MQTT cannot carry"),
            Self::Unauthorized => f.write_str("dropped a PUBLISH that the broker does not permit"),
            Self::PublishedAgain => f.write_str("published again what the broker could not take"),
            Self::Unacknowledged => {
                f.write_str("left a PUBLISH unacknowledged that the broker could not take")
            }
            Self::PublishDenied { denial, .. } => write!(f, "dropped a PUBLISH: {}", denial.text()),
            Self::SubscribeDenied { denial, .. } => write!(f, "refused a filter: {}", denial.text()),
            Self::Kept => f.write_str("retained a message"),
            Self::Cleared => f.write_str("cleared a retained message"),
            Self::Replayed => f.write_str("gave a retained message to a subscriber"),
            Self::Unkept { why, .. } => write!(f, "did not retain a message: {}", why.text()),
            Self::Unanswered => f.write_str(
                "retained messages are there, but do not answer: does a policy set dead-letter-routing-key?",
            ),
        }
    }
}

const fn connack(code: ConnectReturnCode) -> Metric {
    match code {
        ConnectReturnCode::Accepted => Metric::ConnackAccepted,
        ConnectReturnCode::UnacceptableProtocolVersion => Metric::ConnackUnacceptableProtocolVersion,
        ConnectReturnCode::IdentifierRejected => Metric::ConnackIdentifierRejected,
        ConnectReturnCode::ServerUnavailable => Metric::ConnackServerUnavailable,
        ConnectReturnCode::BadUserNameOrPassword => Metric::ConnackBadUserNameOrPassword,
        ConnectReturnCode::NotAuthorized => Metric::ConnackNotAuthorized,
    }
}

/// Why a CONNECT was refused.
const fn refusal(error: Error) -> Metric {
    let refusal = match error {
        Error::Refused(refusal) => refusal,
        Error::Malformed(_) => return Metric::RefusedByProtocol,
        _ => return Metric::RefusedByBroker,
    };
    match refusal {
        Refusal::NoTenant => Metric::RefusedByNoTenant,
        Refusal::ClientIdMissing => Metric::RefusedByClientIdMissing,
        Refusal::ClientIdForeign => Metric::RefusedByClientIdForeign,
        Refusal::ClientIdPattern => Metric::RefusedByClientIdPattern,
        Refusal::ClientIdUnfit => Metric::RefusedByClientIdUnfit,
        Refusal::CredentialsMissing => Metric::RefusedByCredentialsMissing,
        Refusal::CredentialsUnfit => Metric::RefusedByCredentialsUnfit,
        Refusal::Guessing => Metric::RefusedByGuessing,
        Refusal::UnknownUser => Metric::RefusedByUnknownUser,
        Refusal::WrongPassword => Metric::RefusedByWrongPassword,
        Refusal::Unverifiable => Metric::RefusedByUnverifiable,
        Refusal::NotLoopback => Metric::RefusedByNotLoopback,
        Refusal::VhostTooLong => Metric::RefusedByVhostTooLong,
        Refusal::VhostForeign => Metric::RefusedByVhostForeign,
        Refusal::VhostAccess => Metric::RefusedByVhostAccess,
        Refusal::Will(_) => Metric::RefusedByWill,
        Refusal::Connections => Metric::RefusedByConnections,
        Refusal::Memory => Metric::RefusedByMemory,
    }
}

/// Which rule denied.
const fn rule(denial: Denial) -> Metric {
    match denial {
        Denial::Filter => Metric::DeniedByFilter,
        Denial::Grant(_) => Metric::DeniedByGrant,
        Denial::Permission => Metric::DeniedByPermission,
        Denial::TopicPermission => Metric::DeniedByTopicPermission,
        Denial::QueuePermission => Metric::DeniedByQueuePermission,
        Denial::PayloadSize => Metric::DeniedByMaxPayloadSize,
        Denial::QoS => Metric::DeniedByMaxQos,
        Denial::Retain => Metric::DeniedByRetainAllowed,
        Denial::TopicLevels => Metric::DeniedByMaxTopicLevels,
        Denial::Subscriptions => Metric::DeniedByMaxSubscriptions,
    }
}

const fn malformed(error: mqtt::DecodeError) -> Metric {
    match error {
        mqtt::DecodeError::PacketType => Metric::MalformedPacketType,
        mqtt::DecodeError::Flags => Metric::MalformedFlags,
        mqtt::DecodeError::RemainingLength => Metric::MalformedRemainingLength,
        mqtt::DecodeError::Length => Metric::MalformedLength,
        mqtt::DecodeError::QoS => Metric::MalformedQos,
        mqtt::DecodeError::Dup => Metric::MalformedDup,
        mqtt::DecodeError::PacketId => Metric::MalformedPacketId,
        mqtt::DecodeError::Utf8 => Metric::MalformedUtf8,
        mqtt::DecodeError::TopicName => Metric::MalformedTopicName,
        mqtt::DecodeError::TopicTooLong => Metric::MalformedTopicTooLong,
        mqtt::DecodeError::NoFilter => Metric::MalformedNoFilter,
        mqtt::DecodeError::ProtocolName => Metric::MalformedProtocolName,
        mqtt::DecodeError::ProtocolLevel => Metric::MalformedProtocolLevel,
        mqtt::DecodeError::ReservedFlag => Metric::MalformedReservedFlag,
        mqtt::DecodeError::WillFlags => Metric::MalformedWillFlags,
        mqtt::DecodeError::PasswordWithoutUsername => Metric::MalformedPasswordWithoutUsername,
        mqtt::DecodeError::PacketTooLarge => Metric::MalformedPacketTooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::grants::Decision;

    #[test]
    fn each_reason_has_its_own_counter() {
        let names = |event: Event| event.metrics().map(Metric::name).collect::<Vec<_>>();
        let refused = |refusal: Refusal| {
            let error = Error::Refused(refusal);
            names(Event::Refused(refusal.return_code(), error))
        };
        assert_eq!(refused(Refusal::NoTenant), ["connack.not_authorized", "refused.by.no_tenant"]);
        assert_eq!(refused(Refusal::Connections), ["connack.not_authorized", "refused.by.connections"]);
        assert_eq!(refused(Refusal::Guessing), ["connack.bad_user_name_or_password", "refused.by.guessing"]);
        let denied = Error::Denied(Denial::Subscriptions);
        assert_eq!(names(Event::Failed(denied)), ["closed.denied", "denied.by.max_subscriptions"]);
        assert_eq!(
            names(Event::PublishDenied { denial: Denial::QoS, is_first: true }),
            ["denied.publish", "denied.by.max_qos"]
        );
        assert_eq!(
            names(Event::SubscribeDenied { denial: Denial::Grant(Decision::NotAllowed), is_first: true }),
            ["denied.subscribe", "denied.by.grant"]
        );
    }
}

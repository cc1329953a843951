//! What is worth a counter and a log line. Never for control: a host that drops every event serves just as well.

use core::fmt;

use crate::amqp::reply_code::{ACCESS_REFUSED, PRECONDITION_FAILED};
use crate::error::{Error, LoginRefusal};
use crate::mqtt::ConnectReturnCode;
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
    /// Policy did not permit a PUBLISH, which was dropped.
    PublishDenied(Denial),
    /// Policy did not permit a filter, which was refused.
    SubscribeDenied(Denial),
    /// A message is kept for subscribers to come.
    Kept,
    /// There is no such message any more.
    Cleared,
    /// A kept message was given to a new subscriber.
    Replayed,
    /// A message was to be kept and is not: it is too large, too many wait, or the broker does not permit it.
    Unkept,
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
    /// Names of all counters, in the order of [`Event::counters`].
    pub const COUNTERS: [&'static str; 57] = [
        "leveret.connack.accepted",
        "leveret.connack.unacceptable_protocol_version",
        "leveret.connack.identifier_rejected",
        "leveret.connack.server_unavailable",
        "leveret.connack.bad_user_name_or_password",
        "leveret.connack.not_authorized",
        "leveret.closed.disconnect",
        "leveret.closed.client_gone",
        "leveret.closed.malformed",
        "leveret.closed.misbehaved",
        "leveret.closed.timed_out",
        "leveret.closed.limit",
        "leveret.closed.broker_closed",
        "leveret.closed.broker_nack",
        "leveret.closed.broker_malformed",
        "leveret.closed.broker_misbehaved",
        "leveret.closed.broker_gone",
        "leveret.undeliverable",
        "leveret.closed.taken_over",
        "leveret.unauthorized",
        "leveret.retained.kept",
        "leveret.retained.cleared",
        "leveret.retained.replayed",
        "leveret.retained.unkept",
        "leveret.closed.denied",
        "leveret.refused.by.protocol",
        "leveret.refused.by.broker",
        "leveret.refused.by.no_tenant",
        "leveret.refused.by.client_id_missing",
        "leveret.refused.by.client_id_foreign",
        "leveret.refused.by.client_id_pattern",
        "leveret.refused.by.client_id_too_long",
        "leveret.refused.by.credentials_missing",
        "leveret.refused.by.credentials_unfit",
        "leveret.refused.by.guessing",
        "leveret.refused.by.unknown_user",
        "leveret.refused.by.wrong_password",
        "leveret.refused.by.unverifiable",
        "leveret.refused.by.no_account",
        "leveret.refused.by.not_loopback",
        "leveret.refused.by.vhost_too_long",
        "leveret.refused.by.vhost_foreign",
        "leveret.refused.by.vhost_access",
        "leveret.refused.by.will",
        "leveret.refused.by.connections",
        "leveret.denied.publish",
        "leveret.denied.subscribe",
        "leveret.denied.by.grant",
        "leveret.denied.by.permission",
        "leveret.denied.by.topic_permission",
        "leveret.denied.by.queue_permission",
        "leveret.denied.by.max_payload_size",
        "leveret.denied.by.max_qos",
        "leveret.denied.by.retain_allowed",
        "leveret.denied.by.max_topic_levels",
        "leveret.denied.by.max_subscriptions",
        "leveret.closed.replaced",
    ];

    /// Indices into [`Event::COUNTERS`] of the counters to which this event adds one: what happened, and where policy was the
    /// reason, which rule.
    pub fn counters(self) -> impl Iterator<Item = usize> {
        let (what, why) = match self {
            Self::Accepted => (0, None),
            Self::Refused(code, error) => (code as usize, Some(refusal(error))),
            Self::Disconnected => (6, None),
            Self::ClientGone => (7, None),
            Self::Failed(error) => match error {
                Error::Malformed(_) => (8, None),
                Error::Misbehaved(_) | Error::Refused(_) => (9, None),
                Error::TimedOut(_) => (10, None),
                Error::Limit(_) => (11, None),
                Error::Login(_) | Error::BrokerClosed { .. } | Error::QueueDeleted => (12, None),
                Error::Nack => (13, None),
                Error::BrokerMalformed(_) => (14, None),
                Error::BrokerMisbehaved(_) => (15, None),
                Error::BrokerGone | Error::BrokerSilent => (16, None),
                Error::TakenOver => (18, None),
                Error::Replaced => (56, None),
                Error::Denied(denial) => (24, Some(number(denial))),
            },
            Self::Undeliverable => (17, None),
            Self::Unauthorized => (19, None),
            Self::Kept => (20, None),
            Self::Cleared => (21, None),
            Self::Replayed => (22, None),
            Self::Unkept => (23, None),
            Self::PublishDenied(denial) => (45, Some(number(denial))),
            Self::SubscribeDenied(denial) => (46, Some(number(denial))),
        };
        [Some(what), why].into_iter().flatten()
    }

    /// The level of its log line.
    pub const fn level(self) -> Level {
        match self {
            Self::Accepted
            | Self::Disconnected
            | Self::ClientGone
            | Self::Undeliverable
            | Self::Kept
            | Self::Cleared
            | Self::Replayed => Level::Debug,
            Self::Unauthorized | Self::Unkept | Self::PublishDenied(_) | Self::SubscribeDenied(_) => {
                Level::Info
            }
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
                Error::Login(LoginRefusal::NoPlain | LoginRefusal::Unavailable { .. })
                | Error::BrokerClosed { .. }
                | Error::Nack
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
            Self::PublishDenied(denial) => write!(f, "dropped a PUBLISH: {}", denial.text()),
            Self::SubscribeDenied(denial) => write!(f, "refused a filter: {}", denial.text()),
            Self::Kept => f.write_str("retained a message"),
            Self::Cleared => f.write_str("cleared a retained message"),
            Self::Replayed => f.write_str("gave a retained message to a subscriber"),
            Self::Unkept => f.write_str("did not retain a message"),
        }
    }
}

/// Where the counters of policy's reasons start.
const REFUSED: usize = 27;
const DENIED: usize = 47;

/// Why a CONNECT was refused.
const fn refusal(error: Error) -> usize {
    let Error::Refused(refusal) = error else {
        return if matches!(error, Error::Malformed(_)) { 25 } else { 26 };
    };
    REFUSED
        + match refusal {
            Refusal::NoTenant => 0,
            Refusal::ClientIdMissing => 1,
            Refusal::ClientIdForeign => 2,
            Refusal::ClientIdPattern => 3,
            Refusal::ClientIdTooLong => 4,
            Refusal::CredentialsMissing => 5,
            Refusal::CredentialsUnfit => 6,
            Refusal::Guessing => 7,
            Refusal::UnknownUser => 8,
            Refusal::WrongPassword => 9,
            Refusal::Unverifiable => 10,
            Refusal::NoAccount => 11,
            Refusal::NotLoopback => 12,
            Refusal::VhostTooLong => 13,
            Refusal::VhostForeign => 14,
            Refusal::VhostAccess => 15,
            Refusal::Will(_) => 16,
            Refusal::Connections => 17,
        }
}

/// Which rule denied.
const fn number(denial: Denial) -> usize {
    DENIED
        + match denial {
            Denial::Grant(_) => 0,
            Denial::Permission => 1,
            Denial::TopicPermission => 2,
            Denial::QueuePermission => 3,
            Denial::PayloadSize => 4,
            Denial::QoS => 5,
            Denial::Retain => 6,
            Denial::TopicLevels => 7,
            Denial::Subscriptions => 8,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::grants::Decision;

    #[test]
    fn each_reason_has_its_own_counter() {
        let names = |event: Event| event.counters().map(|at| Event::COUNTERS[at]).collect::<Vec<_>>();
        let refused = |refusal: Refusal| {
            let error = Error::Refused(refusal);
            names(Event::Refused(refusal.return_code(), error))
        };
        assert_eq!(
            refused(Refusal::NoTenant),
            ["leveret.connack.not_authorized", "leveret.refused.by.no_tenant"]
        );
        assert_eq!(
            refused(Refusal::Connections),
            ["leveret.connack.not_authorized", "leveret.refused.by.connections"]
        );
        assert_eq!(
            refused(Refusal::Guessing),
            ["leveret.connack.bad_user_name_or_password", "leveret.refused.by.guessing"]
        );
        let denied = Error::Denied(Denial::Subscriptions);
        assert_eq!(
            names(Event::Failed(denied)),
            ["leveret.closed.denied", "leveret.denied.by.max_subscriptions"]
        );
        assert_eq!(
            names(Event::PublishDenied(Denial::QoS)),
            ["leveret.denied.publish", "leveret.denied.by.max_qos"]
        );
        assert_eq!(
            names(Event::SubscribeDenied(Denial::Grant(Decision::NotAllowed))),
            ["leveret.denied.subscribe", "leveret.denied.by.grant"]
        );
    }
}

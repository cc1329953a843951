//! What is worth a counter and a log line. Never for control: a host that drops every event serves just as well.

use core::fmt;

use crate::amqp::reply_code::{ACCESS_REFUSED, PRECONDITION_FAILED};
use crate::error::{Error, LoginRefusal};
use crate::mqtt::ConnectReturnCode;

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
    /// Names of all counters, in the order of [`Event::counter`].
    pub const COUNTERS: [&'static str; 24] = [
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
    ];

    /// Index into [`Event::COUNTERS`] of the counter to which this event adds one.
    pub const fn counter(self) -> usize {
        match self {
            Self::Accepted => 0,
            Self::Refused(code, _) => code as usize,
            Self::Disconnected => 6,
            Self::ClientGone => 7,
            Self::Failed(error) => match error {
                Error::Malformed(_) => 8,
                Error::Misbehaved(_) | Error::Refused(_) => 9,
                Error::TimedOut(_) => 10,
                Error::Limit(_) => 11,
                Error::Login(_) | Error::BrokerClosed { .. } | Error::QueueDeleted => 12,
                Error::Nack => 13,
                Error::BrokerMalformed(_) => 14,
                Error::BrokerMisbehaved(_) => 15,
                Error::BrokerGone | Error::BrokerSilent => 16,
                Error::TakenOver => 18,
            },
            Self::Undeliverable => 17,
            Self::Unauthorized => 19,
            Self::Kept => 20,
            Self::Cleared => 21,
            Self::Replayed => 22,
            Self::Unkept => 23,
        }
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
            Self::Unauthorized | Self::Unkept => Level::Info,
            Self::Refused(_, error) | Self::Failed(error) => match error {
                Error::Malformed(_)
                | Error::Misbehaved(_)
                | Error::Refused(_)
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
            Self::Kept => f.write_str("retained a message"),
            Self::Cleared => f.write_str("cleared a retained message"),
            Self::Replayed => f.write_str("gave a retained message to a subscriber"),
            Self::Unkept => f.write_str("did not retain a message"),
        }
    }
}

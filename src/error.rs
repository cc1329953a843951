//! Why a connection ends otherwise than by DISCONNECT, and who hears what of it.
//!
//! Each [`Error`] says who and what; then what is decided here and nowhere else: the CONNACK a client may still get
//! ([`Error::connack`]), and the counter and log level ([`crate::event`]). What the client hears is coarse, what the log hears exact.

use core::fmt;

use crate::mqtt::ConnectReturnCode;
use crate::policy::{Denial, Refusal};
use crate::{amqp, mqtt};

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The client's bytes are not MQTT.
    Malformed(mqtt::DecodeError),
    /// The client's packet is legal, but not now.
    Misbehaved(Misbehaved),
    /// Policy says no to its CONNECT.
    Refused(Refusal),
    /// Policy says no to a PUBLISH.
    Denied(Denial),
    /// The client did not do in time what it had to.
    TimedOut(TimedOut),
    /// A budget is used up.
    Limit(Limit),
    /// The broker refuses the login.
    Login(LoginRefusal),
    /// The broker closed the connection or a channel that cannot be spared.
    BrokerClosed {
        /// Its reply code.
        code: u16,
        /// The method that it blames, or zeros.
        method: amqp::MethodId,
    },
    /// Another connection with the same client id took over. [MQTT-3.1.4-2]
    TakenOver,
    /// The operator wants the client on a newer build of the module.
    Replaced,
    /// A queue of the client's was deleted under it.
    QueueDeleted,
    /// The broker's bytes are not AMQP 0-9-1.
    BrokerMalformed(amqp::DecodeError),
    /// The broker's method is legal, but not now.
    BrokerMisbehaved(BrokerMisbehaved),
    /// The broker is not there, or went away without a word.
    BrokerGone,
    /// The broker does not answer a login in time, or two of its heartbeats are missing.
    BrokerSilent,
}

/// Packets at the wrong moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaved {
    /// The first packet is not CONNECT. [MQTT-3.1.0-1]
    NotConnect,
    /// A second CONNECT. [MQTT-3.1.0-2]
    SecondConnect,
    /// PUBREC or PUBCOMP for a delivery at QoS 1. [MQTT-4.3.2-2]
    Acknowledgement,
}

/// Deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimedOut {
    /// `login_timeout` passed before CONNACK.
    Login,
    /// `packet_timeout` passed and a packet was not whole.
    Packet,
    /// One and a half keep-alive times passed without a packet. [MQTT-3.1.2-24]
    KeepAlive,
}

/// Budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The client has ended far ahead of its rate.
    Rate,
    /// More was sent ahead of a sequential login than may be held.
    BeforeLogin,
}

/// How a broker refuses a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// User name or password.
    Credentials,
    /// There is no such virtual host.
    UnknownVhost,
    /// The user may not use the virtual host.
    VhostAccess,
    /// A limit on connections of the virtual host or user.
    ConnectionLimit,
    /// It does not take SASL PLAIN.
    NoPlain,
    /// It allows only so many channels.
    ChannelMax(u16),
    /// It takes only frames of so many bytes.
    FrameMax(u32),
    /// Anything else: it cannot serve now.
    Unavailable {
        /// Its reply code; 0 when it gave none.
        code: u16,
    },
}

/// Methods at the wrong moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerMisbehaved {
    /// An answer to a question that was not asked.
    Unexpected,
    /// Content without a method, or a body larger than its header said.
    Content,
    /// A channel that is not open.
    Channel,
}

impl Error {
    /// The CONNACK for a client that has not had one; `None` when its connection is closed without. [MQTT-3.1.4-1]
    pub fn connack(self) -> Option<ConnectReturnCode> {
        match self {
            Self::Malformed(mqtt::DecodeError::ProtocolLevel) => {
                Some(ConnectReturnCode::UnacceptableProtocolVersion)
            }
            Self::Refused(refusal) => Some(refusal.return_code()),
            Self::Login(LoginRefusal::Credentials | LoginRefusal::UnknownVhost) => {
                Some(ConnectReturnCode::BadUserNameOrPassword)
            }
            // The session or the will needs queues that the user may not have.
            Self::Login(LoginRefusal::VhostAccess | LoginRefusal::ConnectionLimit)
            | Self::BrokerClosed { code: amqp::reply_code::ACCESS_REFUSED, .. } => {
                Some(ConnectReturnCode::NotAuthorized)
            }
            Self::Login(
                LoginRefusal::NoPlain
                | LoginRefusal::ChannelMax(_)
                | LoginRefusal::FrameMax(_)
                | LoginRefusal::Unavailable { .. },
            )
            | Self::BrokerClosed { .. }
            | Self::BrokerMalformed(_)
            | Self::BrokerMisbehaved(_)
            | Self::BrokerGone => Some(ConnectReturnCode::ServerUnavailable),
            Self::Malformed(_)
            | Self::Misbehaved(_)
            | Self::TimedOut(_)
            | Self::Limit(_)
            | Self::BrokerSilent
            | Self::Denied(_)
            | Self::TakenOver
            | Self::Replaced
            | Self::QueueDeleted => None,
        }
    }

    /// Whether a login that is under way fails because of the broker, which has then spoken or is not there.
    pub(crate) const fn is_refusal_of_login(self) -> bool {
        matches!(
            self,
            Self::Login(_)
                | Self::BrokerClosed { .. }
                | Self::BrokerMalformed(_)
                | Self::BrokerMisbehaved(_)
                | Self::BrokerGone
        )
    }

    /// Whether there is no point in saying goodbye to the broker.
    pub(crate) const fn is_end_of_broker(self) -> bool {
        matches!(
            self,
            Self::BrokerMalformed(_)
                | Self::BrokerMisbehaved(_)
                | Self::BrokerGone
                | Self::Login(_)
                | Self::BrokerSilent
        )
    }
}

impl LoginRefusal {
    /// Reads a connection.close that answers a login. One code stands for several things, which only the text tells apart;
    /// the texts are RabbitMQ's (3.10 to 4.3) and LavinMQ's.
    pub(crate) fn from_close(code: u16, text: &[u8]) -> Self {
        let says = |words: &[u8]| text.windows(words.len()).any(|w| w == words);
        match code {
            amqp::reply_code::ACCESS_REFUSED => Self::Credentials,
            amqp::reply_code::NOT_ALLOWED if says(b"limit") => Self::ConnectionLimit,
            amqp::reply_code::NOT_ALLOWED if says(b"not found") => Self::UnknownVhost,
            amqp::reply_code::NOT_ALLOWED if says(b"refused") || says(b"have access") => Self::VhostAccess,
            _ => Self::Unavailable { code },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(e) => write!(f, "client: malformed packet: {e}"),
            Self::Misbehaved(Misbehaved::NotConnect) => f.write_str("client: first packet is not CONNECT"),
            Self::Misbehaved(Misbehaved::SecondConnect) => f.write_str("client: second CONNECT"),
            Self::Misbehaved(Misbehaved::Acknowledgement) => {
                f.write_str("client: PUBREC or PUBCOMP for a delivery at QoS 1")
            }
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Denied(denial) => write!(f, "PUBLISH denied: {}", denial.text()),
            Self::TimedOut(TimedOut::Login) => f.write_str("client: no login in time"),
            Self::TimedOut(TimedOut::Packet) => f.write_str("client: packet not finished in time"),
            Self::TimedOut(TimedOut::KeepAlive) => f.write_str("client: keep-alive timed out"),
            Self::Limit(Limit::Rate) => f.write_str("client: ended far ahead of its rate"),
            Self::Limit(Limit::BeforeLogin) => f.write_str("client: sent too much before CONNACK"),
            Self::Login(refusal) => write!(f, "broker refuses the login: {refusal}"),
            Self::BrokerClosed { code, method } => match method.name() {
                Some(name) => write!(f, "broker closed with {code}, blaming {name}"),
                None => write!(f, "broker closed with {code}"),
            },
            Self::TakenOver => f.write_str("client: came again on another connection"),
            Self::Replaced => f.write_str("operator: a newer build serves"),
            Self::QueueDeleted => f.write_str("broker: a queue of the client's was deleted"),
            Self::BrokerMalformed(e) => write!(f, "broker: malformed frame: {e}"),
            Self::BrokerMisbehaved(BrokerMisbehaved::Unexpected) => f.write_str("broker: unexpected method"),
            Self::BrokerMisbehaved(BrokerMisbehaved::Content) => f.write_str("broker: content out of place"),
            Self::BrokerMisbehaved(BrokerMisbehaved::Channel) => f.write_str("broker: channel is not open"),
            Self::BrokerGone => f.write_str("broker is gone"),
            Self::BrokerSilent => f.write_str("broker is silent"),
        }
    }
}

impl fmt::Display for LoginRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials => f.write_str("user name or password"),
            Self::UnknownVhost => f.write_str("no such virtual host"),
            Self::VhostAccess => f.write_str("no access to the virtual host"),
            Self::ConnectionLimit => f.write_str("connection limit"),
            Self::NoPlain => f.write_str("it does not take SASL PLAIN"),
            Self::ChannelMax(most) => write!(f, "its channel_max is {most}, which are too few"),
            Self::FrameMax(most) => {
                write!(f, "its frame_max is {most}: set frame_max to no more, or login to sequential")
            }
            Self::Unavailable { code: 0 } => f.write_str("it hung up"),
            Self::Unavailable { code } => write!(f, "code {code}"),
        }
    }
}

//! Who may connect, and as whom: decided before the broker is touched.

use core::fmt;
use core::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{Config, ShortText};
use crate::mqtt::{Connect, ConnectReturnCode};
use crate::names::QueueNames;
use crate::secret::Secret;

/// What the host knows of a client before its first byte.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's real address; without one it does not count as local.
    pub address: Option<SocketAddr>,
    /// A number that no other connection to the same broker has, from which client ids are made. No secret.
    pub nonce: u128,
}

/// A client that may go on to the broker, and what it goes as.
pub struct Admission {
    /// The client's own id, or one made for it.
    pub client_id: Box<str>,
    /// The broker's user.
    pub username: Box<str>,
    /// That user's password.
    pub password: Secret,
    /// The virtual host.
    pub vhost: ShortText,
    /// Its queues.
    pub queues: QueueNames,
    /// Whether another connection may come with the same client id: not with one that was made.
    pub has_own_id: bool,
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No client id, and a session to be kept. [MQTT-3.1.3-8]
    ClientIdMissing,
    /// The client id makes a queue name of more than 255 bytes.
    ClientIdTooLong,
    /// No credentials, or half of them, and `allow_anonymous` does not help.
    CredentialsMissing,
    /// A NUL in the password, which SASL PLAIN cannot carry, or more than `max_credentials_size`.
    CredentialsUnfit,
    /// One of `loopback_users` from another address.
    NotLoopback,
    /// The virtual host's name has more than 255 bytes.
    VhostTooLong,
}

/// Judges a CONNECT: an ordered list of checks, of which the first that fails is the answer.
///
/// # Errors
/// The [`Refusal`], which knows its CONNACK.
pub fn admit(config: &Config, peer: &Peer, connect: &Connect<'_>) -> Result<Admission, Refusal> {
    let client_id: Box<str> = match (connect.client_id, connect.clean_session) {
        ("", false) => return Err(Refusal::ClientIdMissing),
        ("", true) => URL_SAFE_NO_PAD.encode(peer.nonce.to_be_bytes()).into(),
        (id, _) => id.into(),
    };
    let queues =
        QueueNames::new(&config.queue_prefix, &client_id, peer.nonce).ok_or(Refusal::ClientIdTooLong)?;
    if connect.will.is_some() && queues.retained_will.is_none() {
        return Err(Refusal::ClientIdTooLong);
    }

    let (username, password) = match (connect.username, connect.password, &config.anonymous) {
        (Some(username), Some(password), _) => {
            if password.contains(&0) || username.len() + password.len() > config.limits.max_credentials_size {
                return Err(Refusal::CredentialsUnfit);
            }
            (username, Secret::new(password))
        }
        (None, None, Some(anonymous)) => (&*anonymous.username, anonymous.password.clone()),
        _ => return Err(Refusal::CredentialsMissing),
    };
    let (vhost, username) = match username.rsplit_once(':') {
        Some((vhost, username)) if !config.ignore_colons_in_username => (vhost, username),
        _ => (config.vhost.as_str(), username),
    };
    let vhost = ShortText::new(vhost).ok_or(Refusal::VhostTooLong)?;

    // Envoy often stands beside the broker, which then takes every client for a local one: the rule is ours to keep.
    let is_local = peer.address.is_some_and(|address| address.ip().to_canonical().is_loopback());
    if !is_local && config.loopback_users.iter().any(|user| **user == *username) {
        return Err(Refusal::NotLoopback);
    }
    let has_own_id = !connect.client_id.is_empty();
    Ok(Admission { username: username.into(), client_id, password, vhost, queues, has_own_id })
}

impl Refusal {
    /// The code of the CONNACK. Coarse on purpose: a client need not learn which check failed.
    pub const fn return_code(self) -> ConnectReturnCode {
        match self {
            Self::ClientIdMissing | Self::ClientIdTooLong => ConnectReturnCode::IdentifierRejected,
            Self::CredentialsMissing | Self::CredentialsUnfit | Self::VhostTooLong => {
                ConnectReturnCode::BadUserNameOrPassword
            }
            Self::NotLoopback => ConnectReturnCode::NotAuthorized,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientIdMissing => "no client id, but a session to keep",
            Self::ClientIdTooLong => "client id is too long for a queue name",
            Self::CredentialsMissing => "credentials are missing",
            Self::CredentialsUnfit => "user name and password are too long or hold U+0000",
            Self::NotLoopback => "loopback user from another address",
            Self::VhostTooLong => "virtual host's name is too long",
        })
    }
}

//! The judgement of a CONNECT: an ordered list of checks, of which the first that fails is the answer.

use core::fmt;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::brake::Attempt;
use super::gate::{Gate, Seat};
use super::grants::Budget;
use super::permissions::Expression;
use super::rights::{Denial, Message, Rights};
use super::tenant::{Credentials, Said, Tenant};
use super::variables::Values;
use super::vhost::VhostSource;
use super::{Certificate, NameFrom, Peer};
use crate::amqp::ShortText;
use crate::mqtt::{Connect, ConnectReturnCode, Version};
use crate::names::QueueNames;
use crate::secret::Secret;
use crate::time::Instant;

/// A client that may go on to the broker, and what it goes as.
pub struct Admission {
    /// The client's own id, its certificate's, or one made for it.
    pub client_id: Box<str>,
    /// Whether another connection may come with the same client id: not with one that was made.
    pub has_own_id: bool,
    /// Who the client is.
    pub username: Box<str>,
    /// The broker's user.
    pub broker_user: Box<str>,
    /// That user's password.
    pub broker_pass: Secret,
    /// The virtual host.
    pub vhost: ShortText,
    /// Where that comes from.
    pub vhost_source: VhostSource,
    /// What holds for it.
    pub tenant: Rc<Tenant>,
    /// Its queues.
    pub queues: QueueNames,
    /// What it may publish and subscribe.
    pub rights: Rights,
    /// Its place among the tenant's connections.
    pub seat: Seat,
    /// Where it came with a password: whether that is right, the broker may still have to tell.
    pub attempt: Option<Attempt>,
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No tenant's, and `require_tenant`.
    NoTenant,
    /// No client id, and a session to be kept [MQTT-3.1.3-8], or MQTT 3.1, which always has one.
    ClientIdMissing,
    /// Another client id than its certificate's.
    ClientIdForeign,
    /// The client id does not match `client_id_pattern`.
    ClientIdPattern,
    /// The client id makes a queue name of more than 255 bytes, or has a line break.
    ClientIdUnfit,
    /// No credentials, or half of them, or an empty password, and neither `allow_anonymous` nor `username_without_password` helps.
    CredentialsMissing,
    /// A NUL in the password, which SASL PLAIN cannot carry, or more than `max_credentials_size`, or too much for the broker together
    /// with the client id.
    CredentialsUnfit,
    /// Too many wrong passwords from this address or for this user.
    Guessing,
    /// Not one of `users`.
    UnknownUser,
    /// One of `users` with another password.
    WrongPassword,
    /// Credentials that nobody can verify: `broker_user` stands in for them, and there are no `users`.
    Unverifiable,
    /// One of `loopback_users` from another address.
    NotLoopback,
    /// The virtual host's name has more than 255 bytes.
    VhostTooLong,
    /// A virtual host that is not the tenant's, or one that the client may not choose.
    VhostForeign,
    /// No `permissions` of the user in the virtual host.
    VhostAccess,
    /// A will that it may not publish.
    Will(Denial),
    /// `max_connections` of the tenant.
    Connections,
    /// `max_memory`: the worker has no room for another client.
    Memory,
}

/// Whether a password is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It is.
    Password,
    /// It is taken to be right: to explain what would come of it.
    Assumed,
}

/// Who a client is, and what it goes as at the broker.
struct Identity<'a> {
    username: &'a str,
    vhost: Option<&'a str>,
    vhost_source: VhostSource,
    broker_user: &'a str,
    broker_pass: Secret,
    /// By the tenant's account.
    is_stood_in_for: bool,
    attempt: Option<Attempt>,
}

impl Gate {
    /// Judges a CONNECT of one of this tenant's clients, see [`Gate::tenant`].
    ///
    /// # Errors
    /// The [`Refusal`], which knows its CONNACK.
    pub fn admit(
        self: &Rc<Self>,
        now: Instant,
        peer: &Peer,
        connect: &Connect<'_>,
        tenant: &Rc<Tenant>,
        verification: Verification,
    ) -> Result<Admission, Refusal> {
        if self.is_short_of_memory() {
            self.refused_for_memory.set(true);
            return Err(Refusal::Memory);
        }
        let policy = &*self.policy;
        let certificate_name = self.certificate_name(peer);
        let own_id = self.client_id(peer, connect)?;
        let has_own_id = own_id.is_some();
        let client_id =
            own_id.unwrap_or_else(|| URL_SAFE_NO_PAD.encode(peer.nonce.to_be_bytes()).into_boxed_str());
        let identity =
            self.identity(now, peer, connect, tenant, certificate_name.as_deref(), verification)?;
        let Identity { username, broker_user, broker_pass, attempt, .. } = identity;

        // Envoy often stands beside the broker, which then takes every client for a local one: the rule is ours to keep.
        let is_local = peer.address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        if !is_local && tenant.loopback_users.contains(username) {
            return Err(Refusal::NotLoopback);
        }
        let (vhost, vhost_source) = match (&tenant.vhost, identity.vhost) {
            (Some(own), Some(other))
                if identity.vhost_source == VhostSource::Username && other != own.as_str() =>
            {
                return Err(Refusal::VhostForeign);
            }
            (Some(own), _) => (own.clone(), VhostSource::Tenant),
            (None, Some(chosen)) => {
                // What the client says must not get it where only the account that stands in for it may go.
                if identity.vhost_source == VhostSource::Username
                    && identity.is_stood_in_for
                    && tenant.permissions.is_none()
                {
                    return Err(Refusal::VhostForeign);
                }
                (ShortText::new(chosen).ok_or(Refusal::VhostTooLong)?, identity.vhost_source)
            }
            (None, None) => (policy.vhost.clone(), VhostSource::Default),
        };
        let key = |text: &str| Box::from(text);
        let permission = match &tenant.permissions {
            Some(permissions) => {
                Some(permissions.get(&(key(username), key(vhost.as_str()))).ok_or(Refusal::VhostAccess)?)
            }
            None => None,
        };

        // First of all: an expression takes its time over a long one.
        let queues = QueueNames::new(&tenant.queue_prefix, &client_id, peer.nonce);
        let queues = queues.ok_or(Refusal::ClientIdUnfit)?;
        let values = self.values(peer, &client_id, username, vhost.as_str(), tenant);
        if let Some(pattern) = &tenant.client_id_pattern
            && !pattern.0.of(&values).matches(client_id.as_bytes())
        {
            return Err(Refusal::ClientIdPattern);
        }
        let topic_permission =
            tenant.topic_permissions.get(&[username, vhost.as_str(), tenant.exchange.as_str()].map(key));
        let topics = topic_permission
            .map_or([Expression::Anything, Expression::Anything], |it| [it.write.clone(), it.read.clone()]);
        let rights = Rights::new(Rc::clone(tenant), values, permission, topics);
        self.check_will(connect, &rights)?;
        let seat = self.take_seat(tenant).ok_or(Refusal::Connections)?;
        Ok(Admission {
            client_id,
            has_own_id,
            username: username.into(),
            broker_user: broker_user.into(),
            broker_pass,
            vhost,
            vhost_source,
            tenant: Rc::clone(tenant),
            queues,
            rights,
            seat,
            attempt,
        })
    }

    /// Whose a client is: the first tenant that fits.
    ///
    /// # Errors
    /// [`Refusal::NoTenant`] when it has to be one's and is not.
    pub fn tenant(&self, peer: &Peer, connect: &Connect<'_>) -> Result<&Rc<Tenant>, Refusal> {
        let policy = &*self.policy;
        let username = connect.username.unwrap_or_default();
        let certificate_name = self.certificate_name(peer);
        let choice = policy.vhosts.choose(peer, certificate_name.as_deref(), username);
        let said = Said {
            vhost: choice.vhost.unwrap_or(policy.vhost.as_str()),
            username,
            user: choice.username,
            client_id: connect.client_id,
        };
        let mut tenants = policy.tenants.iter();
        let tenant = tenants.find(|(matching, _)| matching.fits(peer, &said)).map(|(_, tenant)| tenant);
        let tenant = tenant.or_else(|| (!policy.require_tenant).then_some(&policy.no_tenant));
        tenant.ok_or(Refusal::NoTenant)
    }

    /// What a certificate's user is called.
    fn certificate_name(&self, peer: &Peer) -> Option<Box<str>> {
        peer.certificate.as_ref().and_then(|it| it.name(self.policy.login_from))
    }

    /// The client's own id or its certificate's; `None` when one is to be made for it.
    ///
    /// # Errors
    /// When it has none, or may not have it.
    pub fn client_id(&self, peer: &Peer, connect: &Connect<'_>) -> Result<Option<Box<str>>, Refusal> {
        let certificate = peer.certificate.as_ref();
        let name = self.policy.client_id_from.and_then(|from| certificate?.name(from));
        match (connect.client_id, name) {
            ("", Some(name)) => Ok(Some(name)),
            (id, Some(name)) if *id != *name => Err(Refusal::ClientIdForeign),
            // MQTT 3.1 has it from 1 to 23 characters long.
            ("", None) if !connect.clean_session || connect.version == Version::V31 => {
                Err(Refusal::ClientIdMissing)
            }
            ("", None) => Ok(None),
            (id, _) => Ok(Some(id.into())),
        }
    }

    fn identity<'a>(
        &'a self,
        now: Instant,
        peer: &Peer,
        connect: &Connect<'a>,
        tenant: &'a Tenant,
        certificate_name: Option<&'a str>,
        verification: Verification,
    ) -> Result<Identity<'a>, Refusal> {
        let policy = &*self.policy;
        let anonymous = tenant.allow_anonymous.then_some(&*tenant.anonymous);
        let (said, password) = match tenant.without_password.credentials(connect) {
            (Some(username), Some(password)) => (username, Some(password)),
            (None, None) => match (certificate_name.filter(|_| tenant.ssl_cert_login), anonymous) {
                (Some(name), _) => (name, None),
                (None, Some(anonymous)) => (&*anonymous.username, None),
                (None, None) => return Err(Refusal::CredentialsMissing),
            },
            (Some(_), None) | (None, Some(_)) => return Err(Refusal::CredentialsMissing),
        };
        let choice = policy.vhosts.choose(peer, certificate_name, said);
        let username = choice.username;
        let as_account = |account: &'a Credentials, attempt| Identity {
            username,
            vhost: choice.vhost,
            vhost_source: choice.source,
            broker_user: &account.username,
            broker_pass: account.password.clone(),
            is_stood_in_for: true,
            attempt,
        };
        let Some(password) = password else {
            return match (certificate_name.filter(|_| tenant.ssl_cert_login), anonymous) {
                (Some(_), _) => {
                    if tenant.users.as_ref().is_some_and(|users| !users.knows(username)) {
                        return Err(Refusal::UnknownUser);
                    }
                    // The configuration's reader refuses ssl_cert_login without one.
                    Ok(as_account(tenant.account.as_deref().ok_or(Refusal::CredentialsMissing)?, None))
                }
                (None, Some(anonymous)) => {
                    let identity = as_account(anonymous, None);
                    Ok(Identity { broker_user: username, is_stood_in_for: false, ..identity })
                }
                (None, None) => Err(Refusal::CredentialsMissing),
            };
        };
        if password.is_empty() {
            return Err(Refusal::CredentialsMissing);
        }
        if password.contains(&0) || said.len() + password.len() > policy.max_credentials_size {
            return Err(Refusal::CredentialsUnfit);
        }
        let address = peer.address.map(|address| address.ip());
        let attempt = Attempt::new(address, tenant.realm(), username, password);
        if self.brake.borrow_mut().is_on(now, &attempt) {
            return Err(Refusal::Guessing);
        }
        match (&tenant.users, tenant.account.as_deref()) {
            (Some(users), account) => {
                let is_verified = verification == Verification::Assumed && users.knows(username)
                    || users.verify(username, password);
                if !is_verified {
                    self.failed(now, &attempt);
                    let is_known = users.knows(username);
                    return Err(if is_known { Refusal::WrongPassword } else { Refusal::UnknownUser });
                }
                if let Some(account) = account {
                    // The broker is not going to say anything about it.
                    self.succeeded(now, &attempt);
                    return Ok(as_account(account, None));
                }
            }
            (None, Some(_)) => return Err(Refusal::Unverifiable),
            (None, None) => {}
        }
        Ok(Identity {
            username,
            vhost: choice.vhost,
            vhost_source: choice.source,
            broker_user: username,
            broker_pass: Secret::new(password),
            is_stood_in_for: false,
            attempt: Some(attempt),
        })
    }

    fn values(&self, peer: &Peer, client_id: &str, username: &str, vhost: &str, tenant: &Tenant) -> Values {
        let certificate = peer.certificate.as_ref();
        let name = |from| certificate.and_then(|it| it.name(from)).unwrap_or_default();
        let san = certificate.into_iter().flat_map(Certificate::alternative_names).next().unwrap_or_default();
        let (cn, dn) = (name(NameFrom::CommonName), name(NameFrom::DistinguishedName));
        Values::new([client_id, username, vhost, &tenant.name, &cn, &dn, san], self.policy.topic_mapping)
    }

    fn check_will(&self, connect: &Connect<'_>, rights: &Rights) -> Result<(), Refusal> {
        let Some(will) = &connect.will else { return Ok(()) };
        let mut routing_key = Vec::new();
        self.policy.topic_mapping.routing_key(will.topic, &mut routing_key);
        let message = Message {
            topic: will.topic,
            routing_key: &routing_key,
            qos: will.qos,
            retain: will.retain,
            payload_len: will.payload.len() as u32,
        };
        rights.publish(message, &mut Budget::default()).map(|_| ()).map_err(Refusal::Will)
    }
}

impl Refusal {
    /// The code of the CONNACK. Coarse on purpose: a client need not learn which check failed.
    pub const fn return_code(self) -> ConnectReturnCode {
        match self {
            Self::ClientIdMissing | Self::ClientIdForeign | Self::ClientIdPattern | Self::ClientIdUnfit => {
                ConnectReturnCode::IdentifierRejected
            }
            Self::CredentialsMissing
            | Self::CredentialsUnfit
            | Self::Guessing
            | Self::UnknownUser
            | Self::WrongPassword
            | Self::Unverifiable
            | Self::VhostTooLong => ConnectReturnCode::BadUserNameOrPassword,
            Self::NoTenant
            | Self::NotLoopback
            | Self::VhostForeign
            | Self::VhostAccess
            | Self::Will(_)
            | Self::Connections => ConnectReturnCode::NotAuthorized,
            Self::Memory => ConnectReturnCode::ServerUnavailable,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTenant => "belongs to no tenant",
            Self::ClientIdMissing => "no client id, but a session to keep, or MQTT 3.1",
            Self::ClientIdForeign => "client id is not the certificate's",
            Self::ClientIdPattern => "client id does not match client_id_pattern",
            Self::ClientIdUnfit => "client id makes no name of a queue: too long, or with a line break",
            Self::CredentialsMissing => "credentials are missing",
            Self::CredentialsUnfit => {
                "user name and password are too long, by themselves or with the client id, or hold U+0000"
            }
            Self::Guessing => "too many wrong passwords from this address or for this user",
            Self::UnknownUser => "no such user",
            Self::WrongPassword => "wrong password",
            Self::Unverifiable => "credentials, but no users to verify them by",
            Self::NotLoopback => "loopback user from another address",
            Self::VhostTooLong => "virtual host's name is too long",
            Self::VhostForeign => "a virtual host that the client may not choose",
            Self::VhostAccess => "user has no permissions in the virtual host",
            Self::Will(denial) => return write!(f, "will may not be published: {}", denial.text()),
            Self::Connections => "tenant has max_connections already",
            Self::Memory => "worker is short of memory (max_memory)",
        })
    }
}

//! Who may connect, as whom, and what they may publish and subscribe: decided before the broker is touched.
//!
//! ```text
//!  Peer, CONNECT ──> Gate ── tenant ── client id ── credentials, brake ── vhost ── permissions, will ── seat ──> Admission
//!                     │                                                                                           │
//!                     └──> Refusal: a CONNACK                                            PUBLISH, SUBSCRIBE ──> Rights ──> Denial
//! ```
//!
//! `docs/policy.md` says what an operator can ask for.

mod admission;
mod brake;
mod certificate;
mod gate;
pub mod grants;
pub mod pattern;
pub mod permissions;
mod quota;
mod rate;
mod rights;
pub mod shared;
mod tenant;
pub mod users;
pub mod variables;
mod vhost;

pub use admission::{Admission, Refusal, Verification};
pub use brake::{Attempt, BrakeLimits};
pub use certificate::{Certificate, NameFrom};
pub use gate::{Gate, Seat};
pub use quota::Quota;
pub use rate::{Meter, Rate};
pub use rights::{Denial, Message, Rights};
pub use shared::{Alone, Shared};
pub use tenant::{ClientIdPattern, Credentials, Match, OnUnauthorized, Tenant, WithoutPassword};
pub use vhost::{VhostChoice, VhostRules, VhostSource};

use core::net::SocketAddr;
use std::rc::Rc;

use crate::amqp::ShortText;
use crate::topic::TopicMapping;

/// What the host knows of a client before its first byte.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The client's real address; without one it does not count as local.
    pub address: Option<SocketAddr>,
    /// The port it has connected to.
    pub port: Option<u16>,
    /// The name of the proxy's filter chain; empty when it has none.
    pub filter_chain: Box<str>,
    /// The server name that it asked TLS for; empty when it did not.
    pub server_name: Box<str>,
    /// Its certificate.
    pub certificate: Option<Certificate>,
    /// A number that no other connection to the same broker has, from which client ids are made. No secret.
    pub nonce: u128,
}

/// Tenants and who is one's, in the order in which clients are held against them.
pub type Tenants = Box<[(Match, Rc<Tenant>)]>;

/// What an operator has decided. No `Debug`: it holds passwords.
pub struct Policy {
    /// Tenants and who is one's; the first that fits.
    pub tenants: Tenants,
    /// What holds for all others.
    pub no_tenant: Rc<Tenant>,
    /// Whether there may be others.
    pub require_tenant: bool,
    /// What a certificate's user is called.
    pub login_from: NameFrom,
    /// What a certificate's client id is.
    pub client_id_from: Option<NameFrom>,
    /// Virtual hosts by what is known of a client.
    pub vhosts: VhostRules,
    /// The virtual host of a client for which there is no rule.
    pub vhost: ShortText,
    /// The brake on guessing.
    pub brake: BrakeLimits,
    /// Bytes of a worker's memory in use above which no new client is let in.
    pub max_memory: usize,
    /// User name and password together, in bytes.
    pub max_credentials_size: usize,
    /// How topics are compared.
    pub topic_mapping: TopicMapping,
}

impl Policy {
    /// In the order of their index.
    fn all_tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.tenants.iter().map(|(_, tenant)| &**tenant).chain([&*self.no_tenant])
    }
}

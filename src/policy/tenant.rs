//! Tenants: who belongs to one, and what holds for it.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::grants::Grants;
use super::pattern::{AddressRange, Glob};
use super::permissions::{Permissions, TopicPermissions};
use super::quota::Quota;
use super::users::Users;
use super::{Certificate, NameFrom, Peer};
use crate::amqp::ShortText;
use crate::mqtt::Connect;
use crate::secret::Secret;

/// What holds for a client: its tenant's settings, or those of clients without one. No `Debug`: it holds passwords.
#[derive(Clone)]
pub struct Tenant {
    /// Empty for clients without a tenant.
    pub name: Box<str>,
    /// Its place among [`super::Policy::tenants`]; for clients without a tenant the one behind the last.
    pub(crate) index: usize,
    /// The only virtual host of its clients.
    pub vhost: Option<ShortText>,
    /// The topic exchange.
    pub exchange: ShortText,
    /// What all names of queues start with, so that RabbitMQ's own plugin, or another tenant, can be served beside it.
    pub queue_prefix: Box<str>,
    /// The upstream of its broker, in place of the default one.
    pub cluster: Option<Rc<str>>,
    /// Whether there may be clients without credentials.
    pub allow_anonymous: bool,
    /// Who such a client is.
    pub anonymous: Rc<Credentials>,
    /// What becomes of a client with half of them.
    pub without_password: WithoutPassword,
    /// Users who may only come from a loopback address.
    pub loopback_users: Rc<BTreeSet<Box<str>>>,
    /// Whether a client without credentials is the user that its certificate names.
    pub ssl_cert_login: bool,
    /// Who may log in; `None` when the broker knows.
    pub users: Option<Rc<Users>>,
    /// What its clients go as at the broker, in place of their own credentials.
    pub account: Option<Rc<Credentials>>,
    /// RabbitMQ's permissions; `None` when only the broker knows them.
    pub permissions: Option<Rc<Permissions>>,
    /// RabbitMQ's topic permissions.
    pub topic_permissions: Rc<TopicPermissions>,
    /// What a client id has to be.
    pub client_id_pattern: Option<ClientIdPattern>,
    /// Topics its clients may publish.
    pub publish: Rc<Grants>,
    /// Filters its clients may subscribe to.
    pub subscribe: Rc<Grants>,
    /// How much.
    pub quota: Quota,
    /// What becomes of a client whose PUBLISH is not permitted.
    pub on_unauthorized: OnUnauthorized,
    /// Whether messages are retained; else clients' RETAIN bits are passed over.
    pub retained: bool,
    /// Unacknowledged QoS 1 deliveries per client, 1 to 65535.
    pub prefetch: u16,
}

impl Tenant {
    /// Within which a user name means one user: a list of users, or a broker.
    pub(super) fn realm(&self) -> (usize, Option<&str>) {
        match &self.users {
            Some(users) => (Rc::as_ptr(users) as usize, None),
            None => (0, self.cluster.as_deref()),
        }
    }
}

/// A user name and its password.
pub struct Credentials {
    /// The user.
    pub username: Box<str>,
    /// The password.
    pub password: Secret,
}

/// A regular expression over a whole client id, in which `{username}` may stand.
#[derive(Clone)]
pub struct ClientIdPattern(pub(crate) super::permissions::Expression);

/// What becomes of a client with a user name and no password, or an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutPassword {
    /// It is refused.
    #[default]
    Refuse,
    /// Its user name is passed over, as far as credentials go: it is as one that gives none.
    PassOver,
}

impl WithoutPassword {
    /// The user name and password that count.
    pub fn credentials<'a>(self, connect: &Connect<'a>) -> (Option<&'a str>, Option<&'a [u8]>) {
        match (self, connect.username, connect.password) {
            (Self::PassOver, Some(_), None | Some([])) => (None, None),
            (_, username, password) => (username, password),
        }
    }
}

/// What becomes of a client whose PUBLISH is not permitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnauthorized {
    /// Its connection is closed.
    #[default]
    Disconnect,
    /// The message is dropped, and acknowledged as if it were not.
    Drop,
}

/// Facts that make a client a tenant's. All that are given have to fit; of each, one.
#[derive(Default)]
pub struct Match {
    /// Port of the listener.
    pub port: Option<Box<[u16]>>,
    /// Address of the client.
    pub address: Option<Box<[AddressRange]>>,
    /// Server name.
    pub sni: Option<Box<[Glob]>>,
    /// Name of the proxy's filter chain.
    pub filter_chain: Option<Box<[Glob]>>,
    /// Virtual host that the rules find.
    pub vhost: Option<Box<[Glob]>>,
    /// User name as the client says it, or without the virtual host in it.
    pub username: Option<Box<[Glob]>>,
    /// Client id as the client says it.
    pub client_id: Option<Box<[Glob]>>,
    /// Common name of the certificate.
    pub cert_cn: Option<Box<[Glob]>>,
    /// Distinguished name of the certificate.
    pub cert_dn: Option<Box<[Glob]>>,
    /// One of the alternative names of the certificate.
    pub cert_san: Option<Box<[Glob]>>,
}

/// What a [`Match`] looks at besides the peer.
pub(super) struct Said<'a> {
    pub(super) vhost: &'a str,
    pub(super) username: &'a str,
    /// The same without a virtual host.
    pub(super) user: &'a str,
    pub(super) client_id: &'a str,
}

impl Match {
    pub(super) fn fits(&self, peer: &Peer, said: &Said<'_>) -> bool {
        let any = |globs: &Option<Box<[Glob]>>, text: &str| {
            globs.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(text)))
        };
        let certificate = peer.certificate.as_ref();
        let named = |globs: &Option<Box<[Glob]>>, from| {
            let name = certificate.and_then(|certificate| certificate.name(from));
            globs.is_none() || name.is_some_and(|name| any(globs, &name))
        };
        let mut sans = certificate.into_iter().flat_map(Certificate::alternative_names);
        self.port.as_ref().is_none_or(|ports| peer.port.is_some_and(|port| ports.contains(&port)))
            && self.address.as_ref().is_none_or(|ranges| {
                peer.address.is_some_and(|it| ranges.iter().any(|range| range.contains(it.ip())))
            })
            && any(&self.sni, &peer.server_name)
            && any(&self.filter_chain, &peer.filter_chain)
            && any(&self.vhost, said.vhost)
            && (any(&self.username, said.username) || any(&self.username, said.user))
            && any(&self.client_id, said.client_id)
            && named(&self.cert_cn, NameFrom::CommonName)
            && named(&self.cert_dn, NameFrom::DistinguishedName)
            && (self.cert_san.is_none() || sans.any(|name| any(&self.cert_san, name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Option<Box<[Glob]>> {
        Some(texts.iter().map(|text| Glob::new(text)).collect())
    }

    fn fits(matching: &Match) -> bool {
        let certificate =
            Certificate { subject: "O=acme,CN=sensor".into(), dns: "s.acme.example".into(), uri: "".into() };
        let peer = Peer {
            address: "192.0.2.7:999".parse().ok(),
            port: Some(8883),
            filter_chain: "tls".into(),
            server_name: "eu.acme.example".into(),
            certificate: Some(certificate),
            nonce: 0,
        };
        matching.fits(&peer, &Said { vhost: "v", username: "v:u", user: "u", client_id: "c-1" })
    }

    #[test]
    fn each_fact_decides() {
        assert!(fits(&Match::default()));
        let port = |ports: &[u16]| Match { port: Some(ports.into()), ..Match::default() };
        assert!(fits(&port(&[1883, 8883])) && !fits(&port(&[1883])));
        let address =
            |range| Match { address: Some([AddressRange::parse(range).unwrap()].into()), ..Match::default() };
        assert!(fits(&address("192.0.2.0/24")) && !fits(&address("10.0.0.0/8")));
        type Set = fn(&mut Match, Option<Box<[Glob]>>);
        let table: [(Set, &str); 9] = [
            (|m, globs| m.sni = globs, "*.acme.example"),
            (|m, globs| m.filter_chain = globs, "tls"),
            (|m, globs| m.vhost = globs, "v"),
            (|m, globs| m.username = globs, "v:*"),
            (|m, globs| m.username = globs, "u"),
            (|m, globs| m.client_id = globs, "c-*"),
            (|m, globs| m.cert_cn = globs, "sensor"),
            (|m, globs| m.cert_dn = globs, "O=acme,*"),
            (|m, globs| m.cert_san = globs, "s.acme.*"),
        ];
        for (set, glob) in table {
            let mut matching = port(&[8883]);
            set(&mut matching, globs(&["other", glob]));
            assert!(fits(&matching), "{glob}");
            set(&mut matching, globs(&["other"]));
            assert!(!fits(&matching), "{glob}");
            set(&mut matching, globs(&[]));
            assert!(!fits(&matching), "{glob}");
        }
    }

    #[test]
    fn what_is_not_known_fits_nothing() {
        let said = Said { vhost: "", username: "", user: "", client_id: "" };
        let all = || globs(&["*"]);
        for matching in [
            Match { port: Some([1883].into()), ..Match::default() },
            Match { address: Some([AddressRange::parse("0.0.0.0/0").unwrap()].into()), ..Match::default() },
            Match { cert_cn: all(), ..Match::default() },
            Match { cert_dn: all(), ..Match::default() },
            Match { cert_san: all(), ..Match::default() },
        ] {
            assert!(!matching.fits(&Peer::default(), &said));
        }
    }
}

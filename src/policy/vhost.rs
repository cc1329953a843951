//! Which virtual host a client is in, as long as no tenant says.

use std::collections::BTreeMap;

use super::Peer;

/// What a virtual host can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VhostSource {
    /// `mqtt_default_vhosts`, by the name in the certificate.
    Certificate,
    /// `vhost:user` as the user name.
    Username,
    /// `mqtt_port_to_vhost_mapping`.
    Port,
    /// `san_to_vhost_mapping`.
    San,
    /// `sni_to_vhost_mapping`.
    Sni,
    /// `filter_chain_to_vhost_mapping`.
    FilterChain,
    /// `vhost`.
    Default,
    /// The tenant's `vhost`.
    Tenant,
}

/// RabbitMQ's order for a client with a certificate, then ours.
const WITH_CERTIFICATE: [VhostSource; 6] = [
    VhostSource::Certificate,
    VhostSource::Port,
    VhostSource::Username,
    VhostSource::San,
    VhostSource::Sni,
    VhostSource::FilterChain,
];

/// RabbitMQ's order for any other client, then ours.
const WITHOUT_CERTIFICATE: [VhostSource; 5] =
    [VhostSource::Username, VhostSource::Port, VhostSource::San, VhostSource::Sni, VhostSource::FilterChain];

/// The rules.
#[derive(Default)]
pub struct VhostRules {
    /// One order for all clients in place of RabbitMQ's two.
    pub order: Option<Box<[VhostSource]>>,
    /// Whether `vhost:user` in a user name is taken as it stands.
    pub ignore_colons_in_username: bool,
    /// By certificate name.
    pub by_certificate: BTreeMap<Box<str>, Box<str>>,
    /// By port of the listener.
    pub by_port: BTreeMap<u16, Box<str>>,
    /// By alternative name of the certificate.
    pub by_san: BTreeMap<Box<str>, Box<str>>,
    /// By server name.
    pub by_sni: BTreeMap<Box<str>, Box<str>>,
    /// By the name of the proxy's filter chain.
    pub by_filter_chain: BTreeMap<Box<str>, Box<str>>,
}

/// What they say of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VhostChoice<'a> {
    /// The virtual host; `None` for the default one.
    pub vhost: Option<&'a str>,
    /// The user name, less what the virtual host came from.
    pub username: &'a str,
    /// Where the virtual host came from.
    pub source: VhostSource,
}

impl VhostRules {
    /// The first source that has an answer.
    pub fn choose<'a>(
        &'a self,
        peer: &Peer,
        certificate_name: Option<&str>,
        username: &'a str,
    ) -> VhostChoice<'a> {
        let order = match (&self.order, certificate_name) {
            (Some(order), _) => &**order,
            (None, Some(_)) => &WITH_CERTIFICATE,
            (None, None) => &WITHOUT_CERTIFICATE,
        };
        for &source in order {
            if source == VhostSource::Username {
                // At the last colon.
                if let Some((vhost, username)) =
                    username.rsplit_once(':').filter(|_| !self.ignore_colons_in_username)
                {
                    return VhostChoice { vhost: Some(vhost), username, source };
                }
            } else if let Some(vhost) = self.mapped(source, peer, certificate_name) {
                return VhostChoice { vhost: Some(vhost), username, source };
            }
        }
        VhostChoice { vhost: None, username, source: VhostSource::Default }
    }

    fn mapped(&self, source: VhostSource, peer: &Peer, certificate_name: Option<&str>) -> Option<&str> {
        let vhost = match source {
            VhostSource::Certificate => self.by_certificate.get(certificate_name?),
            VhostSource::Port => self.by_port.get(&peer.port?),
            VhostSource::San => {
                peer.certificate.as_ref()?.alternative_names().find_map(|name| self.by_san.get(name))
            }
            VhostSource::Sni => self.by_sni.get(&peer.server_name),
            VhostSource::FilterChain => self.by_filter_chain.get(&peer.filter_chain),
            VhostSource::Username | VhostSource::Default | VhostSource::Tenant => None,
        };
        vhost.map(|vhost| &**vhost)
    }
}

impl VhostSource {
    /// What `vhost_from` can name.
    pub const CONFIGURABLE: [Self; 6] = WITH_CERTIFICATE;

    /// The word for it in `vhost_from`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Username => "username",
            Self::Port => "port",
            Self::San => "san",
            Self::Sni => "sni",
            Self::FilterChain => "filter_chain",
            Self::Default => "default",
            Self::Tenant => "tenant",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Certificate;

    fn rules() -> VhostRules {
        let map = |key: &str, vhost: &str| BTreeMap::from([(key.into(), vhost.into())]);
        VhostRules {
            by_certificate: map("cn", "by-certificate"),
            by_port: BTreeMap::from([(1884, "by-port".into())]),
            by_san: map("a.example", "by-san"),
            by_sni: map("b.example", "by-sni"),
            by_filter_chain: map("chain", "by-chain"),
            ..VhostRules::default()
        }
    }

    /// Everything that can be said, but for the certificate's name.
    fn peer() -> Peer {
        let certificate = Certificate { dns: "a.example".into(), ..Certificate::default() };
        Peer {
            port: Some(1884),
            filter_chain: "chain".into(),
            server_name: "b.example".into(),
            certificate: Some(certificate),
            ..Peer::default()
        }
    }

    #[test]
    fn rabbitmq_has_two_orders() {
        let rules = rules();
        let choose = |peer: &Peer, name, username| {
            let choice = rules.choose(peer, name, username);
            (choice.vhost.map(str::to_owned), choice.username.to_owned())
        };
        let answer = |vhost: &str, username: &str| (Some(vhost.to_owned()), username.to_owned());
        let all = peer();
        assert_eq!(choose(&all, Some("cn"), "v:u"), answer("by-certificate", "v:u"), "and is not stripped");
        assert_eq!(choose(&all, Some("other"), "v:u"), answer("by-port", "v:u"));
        let elsewhere = Peer { port: Some(1), ..all.clone() };
        assert_eq!(choose(&elsewhere, Some("other"), "v:u"), answer("v", "u"));
        assert_eq!(choose(&all, None, "v:u"), answer("v", "u"));
        assert_eq!(choose(&all, None, "a:b:u"), answer("a:b", "u"));
        assert_eq!(choose(&all, None, "u"), answer("by-port", "u"));
        assert_eq!(choose(&elsewhere, None, "u"), answer("by-san", "u"));
        let plain = Peer { certificate: None, ..elsewhere };
        assert_eq!(choose(&plain, None, "u"), answer("by-sni", "u"));
        let unnamed = Peer { server_name: Box::default(), ..plain };
        assert_eq!(choose(&unnamed, None, "u"), answer("by-chain", "u"));
        assert_eq!(choose(&Peer::default(), None, "u"), (None, "u".to_owned()));
    }

    #[test]
    fn one_order_of_the_operator_s() {
        let order = [VhostSource::FilterChain, VhostSource::Username];
        let rules = VhostRules { order: Some(order.into()), ..rules() };
        let choose = |peer: &Peer| rules.choose(peer, Some("cn"), "v:u").vhost.map(str::to_owned);
        assert_eq!(choose(&peer()).as_deref(), Some("by-chain"));
        assert_eq!(choose(&Peer { filter_chain: Box::default(), ..peer() }).as_deref(), Some("v"));
        let rules = VhostRules { order: Some([].into()), ..rules };
        assert_eq!(rules.choose(&peer(), Some("cn"), "v:u").vhost, None);
    }

    #[test]
    fn colons_can_be_a_part_of_user_names() {
        let rules = VhostRules { ignore_colons_in_username: true, ..VhostRules::default() };
        let choice = rules.choose(&Peer::default(), None, "v:u");
        assert_eq!((choice.vhost, choice.username), (None, "v:u"));
    }
}

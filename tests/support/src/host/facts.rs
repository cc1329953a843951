//! What Envoy tells a filter of a client.

use std::net::SocketAddr;

/// A client as Envoy sees it. By default, plain TCP from loopback to port 1883.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where it comes from.
    pub address: SocketAddr,
    /// The port it has connected to.
    pub port: u16,
    /// The name of the filter chain it is served by.
    pub filter_chain: String,
    /// The server name it has asked for, which may be none, `""`. `None` without TLS, unless there is a certificate.
    pub server_name: Option<String>,
    /// Its certificate.
    pub certificate: Option<Certificate>,
}

/// A client's certificate.
#[derive(Clone, Debug, Default)]
pub struct Certificate {
    /// As RFC 4514 writes it.
    pub subject: String,
    /// The first DNS name, if there is one.
    pub dns: Option<String>,
    /// The first URI, if there is one.
    pub uri: Option<String>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 40000)),
            port: 1883,
            filter_chain: String::new(),
            server_name: None,
            certificate: None,
        }
    }
}

impl Facts {
    /// A property, by the parts of its path. The certificate is not known before the handshake, which a filter hears
    /// nothing of: it is over when the first data comes.
    pub(super) fn property(&self, path: &[&str], is_handshake_over: bool) -> Option<Vec<u8>> {
        let certificate = self.certificate.as_ref().filter(|_| is_handshake_over);
        let is_tls = self.server_name.is_some() || self.certificate.is_some();
        let text = match path {
            ["source", "address"] => Some(self.address.to_string()),
            ["destination", "port"] => return Some(u64::from(self.port).to_le_bytes().to_vec()),
            ["xds", "filter_chain_name"] => Some(self.filter_chain.clone()),
            ["connection", "requested_server_name"] => Some(self.server_name.clone().unwrap_or_default()),
            ["connection", "mtls"] => return Some(vec![certificate.is_some().into()]),
            ["connection", "subject_peer_certificate"] => {
                is_tls.then(|| certificate.map(|it| it.subject.clone()).unwrap_or_default())
            }
            ["connection", "dns_san_peer_certificate"] => certificate?.dns.clone(),
            ["connection", "uri_san_peer_certificate"] => certificate?.uri.clone(),
            _ => None,
        };
        text.map(String::into_bytes)
    }
}

//! Certificates of a test's own, and the client's end of TLS.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # let envoy = std::net::SocketAddr::from(([127, 0, 0, 1], 8883));
//! use support::tls::{self, Attribute, Authority, Name};
//!
//! let authority = Authority::new()?;
//! let server = authority.server(&["broker.example"])?;
//! let device = authority.client(&[(Attribute::CommonName, "device-1")], &[Name::Dns("device-1.example")])?;
//! # let _ = server;
//! let stream = tls::connect(envoy, "broker.example", &authority, Some(&device))?;
//! # Ok(()) }
//! ```

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair,
    SanType,
};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

/// A part of a subject. A second one of a type has to be [`Attribute::CustomDnType`] with the type's OID.
pub use rcgen::DnType as Attribute;

/// A subject alternative name.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    /// A host's name.
    Dns(&'a str),
    /// Such as SPIFFE's.
    Uri(&'a str),
    /// A mail address.
    Email(&'a str),
}

/// Who vouches for servers and clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One that nobody knows yet.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = subject(&[(Attribute::CommonName, "authority")]);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// The certificate for those who are to trust it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server with these names, and with 127.0.0.1.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let names = names.iter().chain(&["127.0.0.1"]).map(|name| (*name).to_owned());
        self.sign(CertificateParams::new(names.collect::<Vec<_>>())?)
    }

    /// A client with this subject, from the most general part to the most special one, and these names.
    pub fn client(&self, parts: &[(Attribute, &str)], names: &[Name<'_>]) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(parts);
        params.subject_alt_names = names.iter().map(|name| name.to_san()).collect::<Result<_>>()?;
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        Ok(Identity { certificate: params.signed_by(&key, &self.0)?, key })
    }
}

impl Name<'_> {
    fn to_san(self) -> Result<SanType> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.try_into()?),
            Self::Uri(name) => SanType::URI(name.try_into()?),
            Self::Email(name) => SanType::Rfc822Name(name.try_into()?),
        })
    }
}

/// A certificate with its key.
pub struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

impl Identity {
    /// The certificate.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Its key.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// Envoy's transport socket for this server. Who comes with a certificate is let in only if `clients` vouches for it.
pub fn transport_socket(server: &Identity, clients: Option<&Authority>) -> Value {
    let mut context = json!({
        "tls_certificates": [{
            "certificate_chain": { "inline_string": server.pem() },
            "private_key": { "inline_string": server.key_pem() },
        }],
    });
    if let Some(clients) = clients {
        context["validation_context"] = json!({ "trusted_ca": { "inline_string": clients.pem() } });
    }
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
        },
    })
}

/// The client's end, which reads and writes as its TCP stream does.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects to a server that `authority` vouches for under this name, which is also the SNI; an IP address is none.
/// The handshake is over on return as far as the client is concerned: a server that does not like the client's
/// certificate says so later.
pub fn connect(
    address: SocketAddr,
    name: &str,
    authority: &Authority,
    client: Option<&Identity>,
) -> Result<Stream> {
    let mut trusted = RootCertStore::empty();
    trusted.add(authority.0.der().clone())?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
            config.with_client_auth_cert(vec![certificate.der().clone()], key)?
        }
    };
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name)?.to_owned())?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).with_context(|| format!("TLS with {address} as {name}"))?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn subject(parts: &[(Attribute, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (attribute, value) in parts {
        name.push(attribute.clone(), *value);
    }
    name
}

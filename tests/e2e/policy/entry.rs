//! An Envoy with an entry for each configuration: what a TLS client asks for as the server's name is the filter chain it gets.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};
use support::envoy::{Chain, Envoy, Listener, Mode, Options, Shipped};
use support::ports;
use support::tls::{self, Authority, Identity, Stream};

use crate::mqtt::Client;
use crate::world::{broker, own_envoy_with, to};

/// The Envoy.
pub(super) struct Entries {
    pub(super) envoy: Envoy,
    pub(super) authority: Authority,
    /// Where plain TCP is spoken.
    pub(super) plain: SocketAddr,
}

/// An entry: its filter chain's name, the names it is for, and keys of its configuration, for which the port of the plain entry is
/// given.
pub(super) type Entry<'a> = (&'a str, &'a [&'a str], &'a dyn Fn(u16) -> Value);

impl Entries {
    /// Entries through TLS, and one for plain TCP with the keys of the last of them.
    pub(super) fn open(name: &str, entries: &[Entry<'_>]) -> Result<Self> {
        let authority = Authority::new()?;
        let names: Vec<&str> = entries.iter().flat_map(|(_, names, _)| names.iter().copied()).collect();
        let socket = tls::transport_socket(&authority.server(&names)?, Some(&authority));
        let [port] = ports::free()?;
        let mut chains = Vec::new();
        for (name, server_names, plugin) in entries {
            chains.push(Chain {
                name: (*name).to_owned(),
                server_names: server_names.iter().map(|&name| name.to_owned()).collect(),
                transport_socket: Some(socket.clone()),
                plugin: serde_json::from_value(plugin(port))?,
            });
        }
        let last = chains.last().cloned().unwrap_or_default();
        let plain = Chain { name: "plain".to_owned(), plugin: last.plugin, ..Chain::default() };
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let shipped = Shipped {
            listeners: vec![
                Listener { name: "tls".to_owned(), address: at(0), chains },
                Listener { name: "plain".to_owned(), address: at(port), chains: vec![plain] },
            ],
            plugin: json!({ "retained": false }),
            ..to(Mode::Lazy, broker().amqp_address())
        };
        let envoy = own_envoy_with(name, &shipped, &Options::default())?;
        Ok(Self { envoy, authority, plain: at(port) })
    }

    /// A client of the entry for this name.
    pub(super) fn client(&self, name: &str, certificate: Option<&Identity>) -> Result<Client<Stream>> {
        Client::connect_tls(self.envoy.address("tls")?, name, &self.authority, certificate)
    }
}

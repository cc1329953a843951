//! Ways in: TLS with and without certificates, several listeners and filter chains.

use std::net::SocketAddr;

use anyhow::Result;
use support::envoy::{Chain, Listener, Mode, Options, Shipped};
use support::tls::{self, Attribute, Authority};

use crate::mqtt::{Client, Connect, connack};
use crate::world::{broker, own_envoy_with, to};

/// What is inside TLS, and around it, makes no difference to MQTT.
#[test]
fn clients_are_served_at_every_entrance() -> Result<()> {
    let authority = Authority::new()?;
    let server = authority.server(&["mqtt.example", "mqtt.acme.example"])?;
    let device = authority.client(&[(Attribute::CommonName, "device-1")], &[])?;
    let socket = Some(tls::transport_socket(&server, Some(&authority)));
    let chain = |name: &str, server_names: &[&str]| Chain {
        name: name.to_owned(),
        server_names: server_names.iter().map(|&name| name.to_owned()).collect(),
        transport_socket: socket.clone(),
        ..Chain::default()
    };
    let chains = vec![chain("all", &[]), chain("acme", &["*.acme.example"])];
    let shipped = Shipped {
        listeners: vec![
            listener("tls", chains),
            listener("plain", vec![Chain { name: "plain".to_owned(), ..Chain::default() }]),
        ],
        brokers: vec![("acme_broker".to_owned(), broker().amqp_address())],
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let envoy = own_envoy_with("entrances", &shipped, &Options::default())?;
    for (number, (name, certificate)) in
        [("mqtt.example", None), ("127.0.0.1", None), ("mqtt.acme.example", Some(&device))]
            .into_iter()
            .enumerate()
    {
        let client_id = format!("entrance-{number}");
        let connect = Connect { client_id: &client_id, ..Connect::default() };
        let mut client =
            Client::connect_tls(envoy.address("tls")?, name, &authority, certificate)?.admitted(&connect)?;
        client.subscribe(&client_id, 1)?;
        client.publish(&client_id, b"through TLS")?;
        assert_eq!(client.receive()?.text(), "through TLS");
        client.disconnect()?;
    }
    let mut plain = Client::login(envoy.address("plain")?, "entrance-plain")?;
    plain.ping()?;
    plain.disconnect()?;

    let mut refused = Client::connect_tls(envoy.address("tls")?, "mqtt.example", &authority, None)?;
    refused.send(&Connect { protocol: ("MQTT", 6), ..Connect::default() }.bytes())?;
    assert_eq!(refused.rest()?, connack(1));

    // Its certificate is refused after the handshake, as far as the client is concerned.
    let stranger = Authority::new()?.client(&[(Attribute::CommonName, "device-1")], &[])?;
    let mut turned_away =
        Client::connect_tls(envoy.address("tls")?, "mqtt.example", &authority, Some(&stranger))?;
    let answer = turned_away.send(&Connect::default().bytes()).and_then(|()| turned_away.packet());
    assert!(answer.is_err(), "{answer:02x?}");
    Ok(())
}

fn listener(name: &str, chains: Vec<Chain>) -> Listener {
    Listener { name: name.to_owned(), address: SocketAddr::from(([127, 0, 0, 1], 0)), chains }
}

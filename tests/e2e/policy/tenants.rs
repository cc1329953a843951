//! Which tenant a client is one's, its virtual host and its broker, and the CONNACKs of those who are turned away.

use std::io::{Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::envoy::{Envoy, Mode, Options, Shipped, named};
use support::ports;
use support::process::wait_until;
use support::tls::{Attribute, Name};

use super::entry::{Entries, Entry};
use super::{
    DEFAULT_VHOST, PASSWORD, anonymous, code, count, counted, make_account, make_vhost, users, with,
};
use crate::amqp::Amqp;
use crate::mqtt::{Client, Connect, Will, subscribe};
use crate::world::{
    PATIENCE, broker, can_be_lazy, connection, folder, has_broker, own_envoy_with, rough_broker, to,
};

#[test]
fn virtual_host_of_each_entrance() -> Result<()> {
    const VHOSTS: [&str; 6] = ["by-default", "by-cert", "by-san", "by-sni", "by-chain", "by-port"];
    for vhost in VHOSTS {
        make_vhost(vhost)?;
    }
    let mappings = |port: u16| {
        json!({
            "vhost": "by-default",
            "mqtt_default_vhosts": { "CN=of-cert": "by-cert" },
            "san_to_vhost_mapping": { "of-san.example": "by-san", "urn:of-san": "by-san" },
            "sni_to_vhost_mapping": { "sni.example": "by-sni" },
            "filter_chain_to_vhost_mapping": { "of-chain": "by-chain" },
            "mqtt_port_to_vhost_mapping": { port.to_string(): "by-port" },
        })
    };
    let entries: [Entry<'_>; 2] = [
        ("of-chain", &["chain.example"], &mappings),
        ("others", &["sni.example", "other.example"], &mappings),
    ];
    let entries = Entries::open("virtual-hosts", &entries)?;
    let certificate =
        |name, names: &[Name<'_>]| entries.authority.client(&[(Attribute::CommonName, name)], names);
    let (of_cert, by_dns) =
        (certificate("of-cert", &[])?, certificate("other", &[Name::Dns("of-san.example")])?);
    let (by_uri, of_none) = (certificate("other", &[Name::Uri("urn:of-san")])?, certificate("of-none", &[])?);
    let ways = [
        ("sni.example", None, "by-sni"),
        ("sni.example", Some(&of_none), "by-sni"),
        ("chain.example", None, "by-chain"),
        ("other.example", None, "by-default"),
        ("other.example", Some(&of_none), "by-default"),
        ("sni.example", Some(&of_cert), "by-cert"),
        ("sni.example", Some(&by_dns), "by-san"),
        ("chain.example", Some(&by_uri), "by-san"),
    ];
    let client_id = |number| format!("virtual-host-{number}");
    let clients = ways.iter().enumerate().map(|(number, (server_name, certificate, _))| {
        entries.client(server_name, *certificate)?.admitted(&anonymous(&client_id(number)))
    });
    let _clients = clients.collect::<Result<Vec<_>>>()?;
    let _client = Client::login(entries.plain, "virtual-host-port")?;
    for (number, (server_name, _, vhost)) in ways.into_iter().enumerate() {
        let at_broker = wait_until("its connection", PATIENCE, || connection(&client_id(number)))?;
        assert_eq!(at_broker["vhost"], vhost, "{server_name}");
    }
    let at_broker = wait_until("its connection", PATIENCE, || connection("virtual-host-port"))?;
    assert_eq!(at_broker["vhost"], "by-port");
    Ok(())
}

/// A tenant's clients are in its virtual host, and its grants hold for them.
#[test]
fn tenant_of_each_entrance() -> Result<()> {
    make_vhost("tenants")?;
    let tenants = |port: u16| {
        let matches = [
            ("cert", json!({ "cert_cn": "of-*", "sni": "*" })),
            ("dn", json!({ "cert_dn": "CN=dn,O=Acme" })),
            ("san", json!({ "cert_san": ["no.example", "*.san.example"] })),
            ("sni", json!({ "sni": "*.acme.example" })),
            ("chain", json!({ "filter_chain": "of-chain" })),
            ("port", json!({ "port": [1, port], "address": "127.0.0.0/8", "client_id": "tenant-*" })),
        ];
        let tenant = |(name, its): &(&str, Value)| json!({ "name": name, "match": its, "vhost": "tenants" });
        json!({
            "tenants": matches.iter().map(tenant).collect::<Vec<_>>(), "require_tenant": true,
            "subscribe": { "allow": ["of/{tenant}"] },
        })
    };
    let entries: [Entry<'_>; 2] = [
        ("of-chain", &["chain.example"], &tenants),
        ("others", &["eu.acme.example", "other.example"], &tenants),
    ];
    let entries = Entries::open("tenants", &entries)?;
    let certificate = |parts: &[_], names: &[Name<'_>]| entries.authority.client(parts, names);
    let of_cert = certificate(&[(Attribute::CommonName, "of-cert")], &[])?;
    let dn = certificate(&[(Attribute::OrganizationName, "Acme"), (Attribute::CommonName, "dn")], &[])?;
    let san = certificate(&[(Attribute::CommonName, "x")], &[Name::Dns("a.san.example")])?;
    let ways = [
        ("eu.acme.example", None, "sni"),
        ("chain.example", None, "chain"),
        ("other.example", Some(&of_cert), "cert"),
        ("other.example", Some(&dn), "dn"),
        ("other.example", Some(&san), "san"),
    ];
    for (server_name, certificate, tenant) in ways {
        let client = entries.client(server_name, certificate)?;
        is_of(client.admitted(&anonymous(&format!("tenant-{tenant}")))?, tenant)?;
    }
    let client = is_of(Client::login(entries.plain, "tenant-port")?, "port")?;
    let at_broker = wait_until("its connection", PATIENCE, || connection("tenant-port"))?;
    assert_eq!(at_broker["vhost"], "tenants");
    client.disconnect()?;
    // Nobody's.
    assert_eq!(code(entries.client("other.example", None)?, &anonymous("tenant-none"))?, 5);
    assert_eq!(code(Client::connect(entries.plain)?, &anonymous("another"))?, 5);
    Ok(())
}

fn is_of<S: Read + Write>(mut client: Client<S>, tenant: &str) -> Result<Client<S>> {
    client.send(&subscribe(&[(&format!("of/{tenant}"), 1), ("of/+", 1)]))?;
    client.hears(&[0x90, 4, 0, 1, 1, 0x80]).with_context(|| format!("of {tenant}"))?;
    Ok(client)
}

/// One that is down is CONNACK 3 if there is something behind it, and one that is not configured closes the connection.
#[test]
fn cluster_of_a_tenant_is_its_broker() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let other_broker = rough_broker();
    let [nobody] = ports::free()?;
    let tenant = |name: &str, cluster: &str| json!({ "name": name, "match": { "client_id": format!("{name}-*") }, "cluster": cluster });
    let shipped = Shipped {
        plugin: json!({
            "tenants": [tenant("theirs", "other_broker"), tenant("down", "down_or_nobody"), tenant("typo", "x")],
        }),
        brokers: vec![
            ("other_broker".to_owned(), other_broker.amqp_address()),
            ("down_broker".to_owned(), SocketAddr::from(([127, 0, 0, 1], nobody))),
        ],
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let mut config = shipped.render()?;
    let clusters = config.pointer_mut("/static_resources/clusters").context("clusters")?;
    let mut fallback = named(clusters, "broker_or_nobody").context("the fallback")?.clone();
    fallback["name"] = json!("down_or_nobody");
    fallback["cluster_type"]["typed_config"]["clusters"] = json!(["down_broker", "local_reply"]);
    clusters.as_array_mut().context("clusters")?.push(fallback);
    let envoy = Envoy::start(&folder("clusters"), &config, &Options::default())?;
    let address = envoy.address("mqtt")?;
    has_broker(&envoy)?;
    envoy.stat_until("cluster.other_broker.membership_healthy", PATIENCE, |brokers| brokers > 0)?;

    let (amqp, other_amqp) = (Amqp::connect()?, Amqp::connect_to(other_broker.amqp_address())?);
    let (ours, theirs) = (amqp.queue("cluster-of.*")?, other_amqp.queue("cluster-of.*")?);
    Client::login(address, "theirs-1")?.publish_safely("cluster-of/theirs", b"")?;
    Client::login(address, "ours-1")?.publish_safely("cluster-of/nobody", b"")?;
    assert_eq!(theirs.next()?.delivery.routing_key.as_str(), "cluster-of.theirs");
    assert_eq!(ours.next()?.delivery.routing_key.as_str(), "cluster-of.nobody");
    assert!(theirs.now()?.is_none() && ours.now()?.is_none());

    assert_eq!(code(Client::connect(address)?, &anonymous("down-1"))?, 3);
    let mut typo = Client::connect(address)?;
    typo.send(&anonymous("typo-1").bytes())?;
    assert_eq!(typo.rest()?, b"");
    Ok(())
}

/// All that is refused before the broker is touched, with what answers then: the local reply, or the broker's first word.
#[test]
fn refusal_is_the_documented_connack_in_both_modes() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let account = make_account("refusals-edge", DEFAULT_VHOST)?;
    let terms = json!({
        "require_tenant": true, "allow_anonymous": false,
        "tenants": [
            { "name": "full", "match": { "username": "full" }, "max_connections": 1 },
            { "name": "walled", "match": { "username": "*:walled" }, "vhost": "/" },
            { "name": "all", "match": { "client_id": "refusal*" }, "client_id_pattern": "refusal-{username}",
              "publish": { "deny": ["forbidden/#"] } },
        ],
        "users": users(["listed", "full", "walled", "poor"]),
        "broker_user": account, "broker_pass": PASSWORD,
        "permissions": [
            { "user": "listed", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" },
            { "user": "full", "vhost": "/", "configure": "", "write": "", "read": "" },
        ],
    });
    let will = |topic| Some(Will { topic, payload: b"", qos: 0, retain: false });
    for mode in [Mode::Lazy, Mode::Eager] {
        let shipped = Shipped { plugin: terms.clone(), ..to(mode, broker().amqp_address()) };
        let name = format!("codes-{}", mode.name());
        let envoy = own_envoy_with(&name, &shipped, &Options::default())?;
        let address = envoy.address("mqtt")?;
        let full = Client::login_as(address, &with(&name, "full", PASSWORD))?;
        let at_broker = || envoy.stat("cluster.broker.upstream_cx_total");
        let before = at_broker()?;
        let cases = [
            ("no_tenant", with("x", "listed", PASSWORD), 5),
            ("client_id_pattern", with("refusal-other", "listed", PASSWORD), 2),
            ("client_id_missing", Connect { clean: false, ..with("", "full", PASSWORD) }, 2),
            ("credentials_missing", anonymous("refusal"), 4),
            ("unknown_user", with("refusal", "unlisted", PASSWORD), 4),
            ("wrong_password", with("refusal", "listed", "wrong"), 4),
            ("vhost_foreign", with("refusal", "other:walled", PASSWORD), 5),
            ("vhost_access", with("refusal", "other:listed", PASSWORD), 5),
            ("vhost_access", with("refusal-poor", "poor", PASSWORD), 5),
            ("will", Connect { will: will("forbidden/x"), ..with("refusal-listed", "listed", PASSWORD) }, 5),
            ("connections", with("refusal", "full", PASSWORD), 5),
        ];
        for (reason, connect, expected) in &cases {
            let counter = format!("refused.by.{reason}");
            let before = count(&envoy, &counter)?;
            assert_eq!(code(Client::connect(address)?, connect)?, *expected, "{mode:?} {reason}");
            counted(&envoy, &counter, before + 1)?;
        }
        if mode == Mode::Lazy {
            ensure!(at_broker()? == before, "a refused client has reached the broker");
        }
        let allowed = Connect { will: will("allowed/x"), ..with("refusal-listed", "listed", PASSWORD) };
        Client::login_as(address, &allowed)?.disconnect()?;
        full.disconnect()?;
        wait_until("a free place", PATIENCE, || {
            Client::login_as(address, &with(&name, "full", PASSWORD)).ok()
        })?;
    }
    Ok(())
}

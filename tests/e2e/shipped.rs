//! Each file in `envoy/` that has not been through the other tests, as a user would have it, with traffic.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::envoy::{self, Envoy, Options};
use support::process::wait_until;
use support::rabbitmq::{self, Rabbitmq};
use support::tls::{Attribute, Authority, Identity};
use support::{ports, root};

use crate::mqtt::{Client, Connect, connack, publish};
use crate::world::{PATIENCE, broker, can_be_lazy, connection, folder, trapping_module};

/// A file with what a user has to change in it: ports, the module, where certificates are, and the broker's address; of several
/// broker nodes, their ports.
fn start(file: &str, name: &str, module: &Path, tls: &Path, brokers: &[u16]) -> Result<Envoy> {
    let text = fs::read_to_string(root().join("envoy").join(file))?;
    let mut config = envoy::parse_yaml(&text)?;
    change(&mut config, module, tls);
    config["admin"]["address"]["socket_address"]["port_value"] = json!(0);
    for listener in config["static_resources"]["listeners"].as_array_mut().context("listeners")? {
        if let Some(port) = listener.pointer_mut("/address/socket_address/port_value") {
            *port = json!(0);
        }
    }
    for cluster in config["static_resources"]["clusters"].as_array_mut().context("clusters")? {
        let Some(Value::Array(endpoints)) = cluster.pointer_mut("/load_assignment/endpoints/0/lb_endpoints")
        else {
            continue;
        };
        for (endpoint, port) in endpoints.iter_mut().zip(brokers.iter().cycle()) {
            if let Some(to) = endpoint.pointer_mut("/endpoint/address/socket_address/port_value") {
                *to = json!(port);
            }
        }
    }
    Envoy::start(&folder(name), &config, &Options::default())
}

fn change(value: &mut Value, module: &Path, tls: &Path) {
    match value {
        Value::String(text) if text == "target/leveret.wasm" => *value = json!(module),
        Value::String(text) => {
            if let Some(file) = text.strip_prefix("tls/") {
                *value = json!(tls.join(file));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| change(value, module, tls)),
        Value::Object(values) => values.values_mut().for_each(|value| change(value, module, tls)),
        _ => {}
    }
}

/// The files that the configurations name.
fn write_tls(name: &str, authority: &Authority, server: &Identity) -> Result<std::path::PathBuf> {
    let tls = folder(name).join("tls");
    fs::create_dir_all(&tls)?;
    fs::write(tls.join("ca.pem"), authority.pem())?;
    fs::write(tls.join("server.pem"), server.pem())?;
    fs::write(tls.join("server.key"), server.key_pem())?;
    Ok(tls)
}

#[test]
fn tls_yaml_knows_devices_by_their_certificates() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let authority = Authority::new()?;
    let server = authority.server(&["mqtt.example"])?;
    let tls = write_tls("shipped-tls", &authority, &server)?;
    let envoy = start("tls.yaml", "shipped-tls", &envoy::module(), &tls, &[broker().ports.amqp])?;
    let address = envoy.address("mqtt")?;
    let device = |name: &str| authority.client(&[(Attribute::CommonName, name)], &[]);
    let connect =
        |identity: Option<&Identity>| Client::connect_tls(address, "mqtt.example", &authority, identity);

    let hello = Connect { client_id: "sensor-1", ..Connect::default() };
    let mut sensor = connect(Some(&device("sensor-1")?))?.admitted(&hello)?;
    sensor.subscribe("devices/sensor-1/#", 1)?;
    sensor.publish("devices/sensor-1/temperature", b"21")?;
    assert_eq!(sensor.receive()?.text(), "21");
    let seen = wait_until("its connection", PATIENCE, || connection("sensor-1"))?;
    assert_eq!(seen["user"], "guest", "the account that stands in for it");
    assert_eq!(seen["client_properties"]["mqtt_user"], "sensor-1");
    sensor.send(&publish(0x32, "devices/sensor-2/temperature", 1, b"99"))?;
    assert_eq!(sensor.rest()?, b"", "another's");

    for (identity, code) in [(None, 4), (Some(device("sensor-9")?), 4)] {
        let mut client = connect(identity.as_ref())?;
        client.send(&Connect { client_id: "tls-stranger", ..Connect::default() }.bytes())?;
        assert_eq!(client.rest()?, connack(code));
    }
    Ok(())
}

/// A ClientHello of this version and no newer one.
fn client_hello(minor: u8) -> Vec<u8> {
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 and ..._CBC_SHA; secp256r1, its ECDSA with SHA-256, uncompressed points.
    let ciphers = [0, 4, 0xc0, 0x2b, 0xc0, 0x09];
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0];
    let body =
        [&[3, minor][..], &[7; 32], &[0], &ciphers, &[1, 0, 0, extensions.len() as u8], &extensions].concat();
    let length = body.len() as u8;
    [&[0x16, 3, minor.min(1), 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[test]
fn tls_yaml_speaks_no_old_versions() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let authority = Authority::new()?;
    let server = authority.server(&["mqtt.example"])?;
    let tls = write_tls("shipped-old-tls", &authority, &server)?;
    let envoy = start("tls.yaml", "shipped-old-tls", &envoy::module(), &tls, &[broker().ports.amqp])?;
    for (version, minor, is_spoken) in
        [("SSL 3.0", 0, false), ("TLS 1.0", 1, false), ("TLS 1.1", 2, false), ("TLS 1.2", 3, true)]
    {
        let mut stream = TcpStream::connect(envoy.address("mqtt")?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&client_hello(minor))?;
        let mut answer = [0];
        // A handshake record is ServerHello; else it is an alert, or the end.
        let is_answered = stream.read(&mut answer).is_ok_and(|read| read == 1) && answer == [0x16];
        assert_eq!(is_answered, is_spoken, "{version}: {answer:02x?}");
    }
    Ok(())
}

#[test]
fn tenants_yaml_keeps_tenants_apart() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    for vhost in ["acme", "globex"] {
        broker().api_put(&format!("vhosts/{vhost}"), &json!({}))?;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        broker().api_put(&format!("permissions/{vhost}/guest"), &all)?;
    }
    let authority = Authority::new()?;
    let server = authority.server(&["acme.example", "globex.example"])?;
    let tls = write_tls("shipped-tenants", &authority, &server)?;
    let envoy = start("tenants.yaml", "shipped-tenants", &trapping_module(), &tls, &[broker().ports.amqp])?;
    let login = |tenant: &str| {
        let client_id = format!("tenant-of-{tenant}");
        let connect = Connect {
            client_id: &client_id,
            username: Some("guest"),
            password: Some("guest"),
            ..Connect::default()
        };
        let name = format!("{tenant}.example");
        Client::connect_tls(envoy.address("mqtts")?, &name, &authority, None)?.admitted(&connect)
    };
    let (mut acme, mut globex) = (login("acme")?, login("globex")?);
    let mut indoors = Client::login(envoy.address("mqtt")?, "tenant-indoors")?;
    for (client_id, vhost) in
        [("tenant-of-acme", "acme"), ("tenant-of-globex", "globex"), ("tenant-indoors", "/")]
    {
        let seen = wait_until("its connection", PATIENCE, || connection(client_id))?;
        assert_eq!(seen["vhost"], vhost);
    }
    acme.subscribe("t", 1)?;
    globex.publish("t", b"not for acme")?;
    acme.publish("t", b"for acme")?;
    assert_eq!(acme.receive()?.text(), "for acme");
    // A crash stays with its tenant.
    acme.publish("leveret/trap", b"")?;
    acme.rest()?;
    globex.ping()?;
    indoors.ping()?;
    wait_until("a new virtual machine", PATIENCE, || login("acme").ok())?.ping()?;
    // A server name that is nobody's gets nobody.
    ensure!(Client::connect_tls(envoy.address("mqtts")?, "other.example", &authority, None).is_err());
    Ok(())
}

#[test]
fn brokers_yaml_keeps_clients_to_their_nodes_and_tells_where_they_are() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let authority = Authority::new()?;
    let server = authority.server(&["broker.example"])?;
    let tls = write_tls("shipped-brokers", &authority, &server)?;
    let nodes: [u16; 3] = ports::free()?;
    let file = |name: &str| tls.join(name).display().to_string();
    let mut conf: Vec<String> =
        nodes.iter().enumerate().map(|(n, port)| format!("listeners.ssl.{n} = 127.0.0.1:{port}")).collect();
    conf.extend([
        format!("ssl_options.cacertfile = {}", file("ca.pem")),
        format!("ssl_options.certfile = {}", file("server.pem")),
        format!("ssl_options.keyfile = {}", file("server.key")),
        "proxy_protocol = true".to_owned(),
    ]);
    let options = rabbitmq::Options { plugins: vec!["rabbitmq_management"], conf };
    let cluster = Rabbitmq::start(&folder("shipped-brokers-broker"), &options)?;
    let envoy = start("brokers.yaml", "shipped-brokers", &envoy::module(), &tls, &nodes)?;
    let address = envoy.address("mqtt")?;
    let mut client = wait_until("service", PATIENCE, || Client::login(address, "hashed").ok())?;
    let own: SocketAddr = client.0.local_addr()?;
    let seen = wait_until("its connection", PATIENCE, || {
        let all: Vec<Value> = serde_json::from_value(cluster.api("connections").ok()?).ok()?;
        all.into_iter().find(|connection| connection["peer_port"] == own.port())
    })?;
    assert_eq!((&seen["peer_host"], &seen["ssl"]), (&json!("127.0.0.1"), &json!(true)));
    assert_eq!(seen["user_provided_name"], "hashed");
    client.ping()?;
    client.disconnect()?;

    // With PROXY protocol the broker takes Envoy's port for its own; Envoy knows which node it was.
    let node = || {
        let clusters = envoy.admin("/clusters").ok()?;
        let mut active =
            clusters.lines().filter(|line| line.starts_with("broker::") && line.ends_with("rq_active::1"));
        active.next().map(str::to_owned)
    };
    // A node that has failed a health check, as one can on a busy machine, is passed over until it has passed others.
    let failures = || envoy.stat("cluster.broker.health_check.failure");
    let all_are_healthy =
        || (envoy.stat("cluster.broker.membership_healthy").ok()? == nodes.len() as u64).then_some(());
    let mut used = std::collections::BTreeSet::new();
    for number in 0..12 {
        let client_id = format!("hashed-{number}");
        let [one, other] = loop {
            wait_until("all nodes", PATIENCE, all_are_healthy)?;
            let before = failures()?;
            let mut nodes = [String::new(), String::new()];
            for taken in &mut nodes {
                wait_until("nobody else", PATIENCE, || node().is_none().then_some(()))?;
                let client = Client::login(address, &client_id)?;
                *taken = wait_until("its node", PATIENCE, node)?;
                client.disconnect()?;
            }
            if failures()? == before {
                break nodes;
            }
        };
        // 1.37.0 takes any node.
        if envoy::minor_version() >= 38 {
            assert_eq!(one, other, "the same node again");
        }
        used.insert(one);
    }
    ensure!(used.len() > 1, "all clients went to one node: {used:?}");
    Ok(())
}

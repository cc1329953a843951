//! What Leveret does not take: from a client, and in its own configuration.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::envoy::{Envoy, Mode, Options, Shipped};
use support::ports;
use support::process::wait_until;

use crate::link::Link;
use crate::mqtt::{ACCEPTED, Client, Connect, connack, head, packet, publish, subscribe, text};
use crate::world::{PATIENCE, broker, can_be_lazy, mqtt, own_envoy, own_envoy_with, to};

/// What a client does wrong, and what comes of it.
struct Case {
    name: &'static str,
    /// Whether it logs in properly before.
    after_login: bool,
    says: Vec<u8>,
    hears: Vec<u8>,
    counter: &'static str,
    log: &'static str,
}

#[test]
fn a_client_that_is_refused_hears_why_and_the_operator_too() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    for mode in [Mode::Lazy, Mode::Eager] {
        let name = format!("refusals-{}", mode.name());
        let plugin =
            json!({ "max_packet_size_unauthenticated": 1000, "max_packet_size_authenticated": 2000 });
        let shipped = Shipped { plugin, ..to(mode, broker().amqp_address()) };
        let envoy = own_envoy_with(&name, &shipped, &Options::default())?;
        let address = envoy.address("mqtt")?;
        // On the same worker: there is one.
        let mut neighbour = Client::login(address, &format!("{name}-neighbour"))?;
        neighbour.subscribe(&name, 0)?;
        for case in cases() {
            check(&envoy, &name, case)?;
        }
        neighbour.publish(&name, b"still here")?;
        neighbour.hears(&packet(0x30, &[&text(&name)[..], b"still here"].concat()))?;
        neighbour.ping()?;
        ensure!(!envoy.log().contains(SECRET), "a password is in the log");
        if mode == Mode::Lazy {
            let reached_broker = envoy.stat("cluster.broker.upstream_cx_total")?;
            let logged_in_or_tried = 1 + cases().iter().filter(|case| case.reaches_broker()).count();
            assert_eq!(reached_broker, logged_in_or_tried as u64);
        }
    }
    Ok(())
}

fn check(envoy: &Envoy, prefix: &str, case: Case) -> Result<()> {
    let counter = format!("wasmcustom.leveret.none.{}", case.counter);
    let before = (envoy.stat(&counter)?, envoy.log().len());
    let address = envoy.address("mqtt")?;
    let mut client = if case.after_login {
        Client::login(address, &format!("{prefix}-client"))?
    } else {
        Client::connect(address)?
    };
    client.send(&case.says).context(case.name)?;
    let heard = client.rest().with_context(|| {
        format!("{}: is not closed; Envoy logged\n{}", case.name, &envoy.log()[before.1..])
    })?;
    ensure!(heard == case.hears, "{}: heard {heard:02x?}", case.name);
    envoy.stat_until(&counter, PATIENCE, |value| value == before.0 + 1).context(case.name)?;
    wait_until(&format!("{}: {} in the log", case.name, case.log), PATIENCE, || {
        envoy.log()[before.1..].contains(case.log).then_some(())
    })
}

fn cases() -> Vec<Case> {
    let connect = Connect::default;
    let first = |name, says: Vec<u8>, hears: &[u8], counter, log| {
        let hears = hears.to_vec();
        Case { name, after_login: false, says, hears, counter, log }
    };
    let later = |name, says: Vec<u8>, counter, log| Case {
        name,
        after_login: true,
        says,
        hears: Vec::new(),
        counter,
        log,
    };
    let bad_login = "connack.bad_user_name_or_password";
    vec![
        first(
            "unknown protocol level",
            Connect { protocol: ("MQTT", 9), ..connect() }.bytes(),
            &connack(1),
            "connack.unacceptable_protocol_version",
            "CONNACK 1",
        ),
        first(
            "a session to keep without a client id",
            Connect { clean: false, ..connect() }.bytes(),
            &connack(2),
            "connack.identifier_rejected",
            "CONNACK 2: refused: no client id",
        ),
        first(
            "wrong password",
            Connect { client_id: "x", username: Some("guest"), password: Some(SECRET), ..connect() }.bytes(),
            &connack(4),
            bad_login,
            "CONNACK 4: broker refuses the login: user name or password",
        ),
        first(
            "unknown virtual host",
            Connect { client_id: "x", username: Some("nope:guest"), password: Some("guest"), ..connect() }
                .bytes(),
            &connack(4),
            bad_login,
            "CONNACK 4: broker refuses the login: no such virtual host",
        ),
        first(
            "a user name without a password",
            Connect { protocol: ("MQIsdp", 3), client_id: "x", username: Some("guest"), ..connect() }.bytes(),
            &connack(4),
            bad_login,
            "CONNACK 4: refused: credentials are missing",
        ),
        first(
            "PINGREQ before CONNECT",
            vec![0xc0, 0],
            &[],
            "closed.misbehaved",
            "closed: client: first packet is not CONNECT",
        ),
        first(
            "too large before login",
            head(0x10, 1001),
            &[],
            "closed.malformed",
            "closed: client: malformed packet",
        ),
        first(
            "HTTP",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            &[],
            "closed.malformed",
            "closed: client: malformed",
        ),
        later(
            "second CONNECT",
            Connect { client_id: "x", ..connect() }.bytes(),
            "closed.misbehaved",
            "closed: client: second CONNECT",
        ),
        later(
            "too large after login",
            head(0x30, 2001),
            "closed.malformed",
            "closed: client: malformed packet",
        ),
        later(
            "SUBSCRIBE with wrong flags",
            packet(0x80, b"\0\x01\0\x01a\0"),
            "closed.malformed",
            "closed: client: malformed packet",
        ),
    ]
}

impl Case {
    fn reaches_broker(&self) -> bool {
        self.after_login || self.log.contains("broker refuses")
    }
}

/// What MQTT 3.1.1 says MUST close, one packet each; the conformance tests have more.
#[test]
fn malformed_packets_close_the_connection() -> Result<()> {
    let connect = |change: fn(&mut Vec<u8>)| {
        let mut bytes = Connect { client_id: "malformed", ..Connect::default() }.bytes();
        change(&mut bytes);
        bytes
    };
    let first = [
        ("reserved flag of CONNECT", connect(|it| it[9] |= 1)),
        ("will QoS without a will", connect(|it| it[9] |= 0x08)),
        ("will retain without a will", connect(|it| it[9] |= 0x20)),
        ("will QoS 3", connect(|it| it[9] |= 0x1c)),
        ("password without user name", connect(|it| it[9] |= 0x40)),
        ("flags of CONNECT's head", connect(|it| it[0] |= 1)),
        ("something behind its fields", packet(0x10, &[&connect(|_| ())[2..], b"x"].concat())),
        ("SUBSCRIBE before CONNECT", subscribe(&[("malformed", 0)])),
        ("a length of five bytes", vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ];
    let later = [
        ("QoS 3", publish(0x36, "malformed", 1, b"")),
        ("DUP at QoS 0", packet(0x38, &text("malformed"))),
        ("packet id 0", publish(0x32, "malformed", 0, b"")),
        ("flags of PUBREL", vec![0x60, 2, 0, 1]),
        ("flags of PINGREQ", vec![0xc1, 0]),
        ("a long PINGREQ", vec![0xc0, 1, 0]),
        ("SUBSCRIBE to nothing", packet(0x82, &[0, 1])),
        ("SUBSCRIBE at QoS 3", subscribe(&[("malformed", 3)])),
        ("SUBSCRIBE with packet id 0", packet(0x82, b"\0\0\0\x01a\0")),
        ("UNSUBSCRIBE from nothing", packet(0xa2, &[0, 1])),
        ("a topic longer than its packet", packet(0x30, b"\0\x09short")),
        ("a packet for clients", vec![0x20, 2, 0, 0]),
        ("a packet of no kind", vec![0x00, 0]),
    ];
    for (what, bytes) in &first {
        let mut client = Client::connect(mqtt(Mode::Lazy))?;
        client.send(bytes)?;
        assert_eq!(client.rest().context(*what)?, b"", "{what}");
    }
    for (what, bytes) in &later {
        let mut client = Client::login(mqtt(Mode::Lazy), "malformed")?;
        client.send(bytes)?;
        assert_eq!(client.rest().context(*what)?, b"", "{what}");
    }
    Ok(())
}

#[test]
fn without_a_broker_a_client_is_told_so_and_with_one_it_is_served() -> Result<()> {
    for mode in [Mode::Lazy, Mode::Eager] {
        let [port] = ports::free()?;
        let name = format!("outage-{}", mode.name());
        let absent = ([127, 0, 0, 1], port).into();
        let envoy = own_envoy_with(&name, &to(mode, absent), &Options::default())?;
        let address = envoy.address("mqtt")?;
        let mut client = Client::connect(address)?;
        let connect = Connect { client_id: &name, ..Connect::default() }.bytes();
        client.send(&connect)?;
        assert_eq!(client.rest()?, connack(3), "{mode:?}");
        let _broker = Link::open(absent, broker().amqp_address(), Duration::ZERO)?;
        wait_until("service", PATIENCE, || {
            let mut client = Client::connect(address).ok()?;
            client.send(&connect).ok()?;
            (client.packet().ok()? == ACCEPTED).then_some(())
        })?;
    }
    Ok(())
}

#[test]
fn a_wrong_configuration_is_refused_by_key() -> Result<()> {
    let complaint = |plugin: Value| {
        let started = own_envoy("misconfigured", plugin.clone());
        let error = started.err().with_context(|| format!("Envoy takes {plugin}"))?;
        anyhow::Ok(error.to_string())
    };
    let unknown = complaint(json!({ "prefetc": 5 }))?;
    assert!(unknown.contains("configuration key `prefetc`: is no key"), "{unknown}");
    let wrong = complaint(json!({ "loopback_users": ["guest", 7] }))?;
    assert!(wrong.contains("configuration key `loopback_users[1]`"), "{wrong}");
    Ok(())
}

/// A wrong password, easy to find.
const SECRET: &str = "xyzzy-wrong-password";
